"The package: what it says of itself, what it costs to import, what it carries, and its README."

import ast
import configparser
import importlib
import os
import re
import subprocess
import sys

import pytest
import storeys
from conftest import ROOT

from compsamp.experiment import read_results

INI = configparser.ConfigParser(delimiters=["="])
INI.read(ROOT / "settings.ini", encoding="utf-8")
CFG = INI["DEFAULT"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MODULES = storeys.module_files()
LAZY = [
    "torchvision",
    "torchmetrics",
    "matplotlib",
    "fastprogress",
    "scipy",
    "PIL",
    "IPython",
    "nbdev",
    "fastcore",
    "ipywidgets",
    "diffusers",
    "accelerate",
]
each_module = pytest.mark.parametrize("module", MODULES)


def run(code, cwd, *argv, **env):
    "Python code in a fresh interpreter. A variable that is None is not set there."
    there = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT), **env}
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        cwd=cwd,
        env={name: value for name, value in there.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_one_version():
    import compsamp

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert compsamp.__version__ == CFG["version"]
    assert f"version: {CFG['version']}\n" in citation
    assert f"## {CFG['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_import_is_cheap(tmp_path):
    out = run('import sys, compsamp; print("torch" in sys.modules)', tmp_path)
    assert out.stdout.strip() == "False", out.stderr
    names = ", ".join(f"compsamp.{name}" for name in MODULES)
    out = run(f"import sys, {names}; print([m for m in {LAZY} if m in sys.modules])", tmp_path)
    assert out.stdout.strip() == "[]", f"imported before it is used: {out.stdout}{out.stderr}"


COUNT = "print(torch.get_num_threads())"


def test_threads_are_left_alone_but_under_nbdev_test(tmp_path):
    "Notebooks tested side by side take one thread each; a program of yours keeps its own."
    ours = "import compsamp, torch; " + COUNT
    free = dict(OMP_NUM_THREADS=None, IN_TEST=None)
    tested = dict(OMP_NUM_THREADS=None, IN_TEST="1")
    plain = run("import torch; " + COUNT, tmp_path, **free).stdout
    assert run(ours, ROOT / "nbs", **free).stdout == plain
    assert run(ours, tmp_path, **tested).stdout == plain, "the notebooks of someone else"
    assert run(ours, ROOT / "nbs", **tested).stdout == "1\n"
    assert run("import torch, compsamp; " + COUNT, ROOT / "nbs", **tested).stdout == "1\n"
    tested["OMP_NUM_THREADS"] = "2"
    assert run(ours, ROOT / "nbs", **tested).stdout == "2\n", "as asked for"


def foreign(tree: ast.AST) -> set[str]:
    "The packages a module imports, anywhere in it."
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
    return found - {"compsamp"}


@each_module
def test_module_imports_only_what_a_user_has(module):
    "Requirements and the standard library; IPython where a notebook is running."
    requirements = {re.match(r"[\w-]+", name)[0] for name in CFG["requirements"].split()}
    allowed = requirements | {"PIL", "IPython"} | set(sys.stdlib_module_names)
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert foreign(tree) <= allowed, foreign(tree) - allowed


@each_module
def test_module_belongs_to_a_notebook(module):
    first = MODULES[module].read_text(encoding="utf-8").splitlines()[:10]
    source = re.search(r"File to edit: \.\./+(?:\.\./)*(nbs/\S+\.ipynb)", "\n".join(first))
    assert source and (ROOT / source[1]).exists(), f"{module} is left over from no notebook"


def carried_data() -> set:
    "Files of the package that are not code."
    files = {path for path in (ROOT / "compsamp").rglob("*") if path.is_file()}
    return {path for path in files if path.suffix not in (".py", ".pyc")}


def test_wheel_carries_every_file():
    patterns = CFG["package_data"].split()
    carried = {path for pattern in patterns for path in (ROOT / "compsamp").glob(pattern)}
    there = carried_data()
    assert there <= carried, there - carried
    assert sum(path.stat().st_size for path in there) < 30e6
    kinds = {path.suffix for path in there}
    assert {".npz", ".json", ".safetensors"} <= kinds
    notices = [path for path in there if path.suffix == ".txt"]
    assert any("MIT" in path.read_text(encoding="utf-8") for path in notices), "Fashion-MNIST's"


@pytest.mark.parametrize("script", CFG["console_scripts"].split())
def test_command_explains_itself(script, tmp_path):
    name, where = script.split("=")
    module, function = where.split(":")
    assert f"`{name}`" in README
    assert callable(getattr(importlib.import_module(module), function))
    code = f"import sys; sys.argv[0] = {name!r}; from {module} import {function}; {function}()"
    out = run(code, tmp_path, "--help")
    assert out.returncode == 0 and "usage: " + name in out.stdout, out.stdout + out.stderr
    assert not list(tmp_path.iterdir())


def test_command_refuses_nonsense(tmp_path):
    script = next(s for s in CFG["console_scripts"].split() if s.startswith("compsamp_demo="))
    module, function = script.split("=")[1].split(":")
    code = f'import sys; sys.argv[0] = "compsamp_demo"; from {module} import {function}; '
    code += f"sys.exit({function}())"
    out = run(code, tmp_path, "--nfe", "0")
    assert out.returncode == 2, out.stderr[-1000:]
    assert "nfe" in out.stderr and "Traceback" not in out.stderr, out.stderr[-1000:]


def test_readme_commands():
    lines = README.splitlines()
    assert lines.count("pip install -e . && compsamp_demo") == 1
    assert lines.count("pip install -e '.[dev]' && nbdev_test && pytest tests") == 1


def test_readme_example_runs(tmp_path):
    code = "\n".join(re.findall(r"(?s)```python\n(.*?)```", README))
    out = run(code, tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    assert re.search(r"\b50 evaluations per picture", out.stdout)


def test_examples_of_contributing_run():
    "The smallest process, sampler and objective, as CONTRIBUTING.md writes them."
    import torch

    from compsamp.forward import VP, integrate_moments
    from compsamp.mixtures import ring
    from compsamp.sampling import DDIM, grid, states

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    there = {}
    for block in re.findall(r"(?s)```python\n(.*?)```", text):
        exec(block, there)
    slow = there["Slow"]()
    psi, sigma = integrate_moments(slow, 2.0, 1.0)
    assert abs(float(psi) - 2.718281828459045**-0.5) < 1e-9
    assert abs(float(sigma) - (1 - 2.718281828459045**-1)) < 1e-9
    process, start = VP(), torch.ones(4, 2, dtype=torch.float64)
    ends = []
    for sampler in (there["Straight"](), DDIM()):
        *_, end = states(sampler, ring().denoiser(process), grid(process, 6), start)
        ends.append(end)
    assert torch.allclose(*ends, atol=1e-12)
    late = there["Late"](power=2.0).weight(process, torch.tensor([0.5, 1.0]), start[:2])
    assert late.flatten().tolist() == [0.25, 1.0]


def test_load():
    import compsamp
    from compsamp.networks import Denoiser

    denoiser = compsamp.load("fashion-vp")
    assert isinstance(denoiser, Denoiser) and tuple(denoiser.shape) == (1, 28, 28)
    assert not denoiser.network.training
    with pytest.raises((ValueError, FileNotFoundError), match="fashion-vp"):
        compsamp.load("no-such-network")


RESULTS = sorted((ROOT / "compsamp" / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_results_file_says_how_it_was_made(path):
    found = read_results(path)
    assert found["setup"] and found["cells"] and found["command"]
    assert found["versions"]["torch"]
    cell = found["cells"][0]
    said = set(found["setup"]) | set(cell)
    assert {"seed", "seeds", "runs"} & said or "what" in cell  # a figure of the bench has no seed
    assert "n" in said or "what" in cell


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_results_file_speaks_of_the_networks_that_are_shipped(path):
    from compsamp import networks, zoo
    from compsamp.lab.yardsticks import weights_file_hash

    found = read_results(path)
    name = found["setup"].get("network") or found["setup"].get("checkpoint")
    if name in networks.shipped_networks() and "weights" in found["setup"]:
        assert found["setup"]["weights"] == networks.weights_hash(zoo.load(name))
    for cell in found["cells"]:
        if str(cell.get("key", "")).startswith("network/"):
            assert cell["key"].split("/")[1] == weights_file_hash("fashion-vp")
