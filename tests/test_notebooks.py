"The notebooks as a reader finds them: titles, outputs, sizes, docstrings, and assertions."

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys

import nbformat
import pytest
import storeys
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
COURSE = [path for path in NOTEBOOKS if re.match(r"start|0[1-9]|1\d", path.name)]
MACHINE = r"(?:/tmp|/work|/root|/home|/Users|/opt)/[\w./-]*|[A-Z]:\\\\Users"
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
course = pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)


def cells(path, kind=None):
    "The cells of a notebook with their sources joined."
    found = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        if kind in (None, cell["cell_type"]):
            found.append({**cell, "source": "".join(cell["source"])})
    return found


def directives(source):
    "The `#|` lines at the top of a cell."
    return re.findall(r"^#\|\s*(.+)$", source.split("\n\n")[0], flags=re.M)


def exported(cell):
    "Whether a cell goes into the package."
    return any(re.match(r"exports?\b|exporti\b", line) for line in directives(cell["source"]))


def words(outputs):
    "The text of outputs, pictures left out."
    for output in outputs:
        texts = [value for key, value in output.get("data", {}).items() if key.startswith("text/")]
        for text in [output.get("text", ""), *texts]:
            yield re.sub(r"data:[\w/+;-]+base64,[\w+/=]+", "", "".join(text))


def outputs(path):
    "Every saved output of a notebook."
    return [output for cell in cells(path, "code") for output in cell["outputs"]]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 16 and len(COURSE) >= 14


@every
def test_opening(path):
    first, *rest = [c for c in cells(path) if c["cell_type"] == "markdown"]
    assert cells(path)[0]["cell_type"] == "markdown"
    assert re.fullmatch(r"# [^\n]+", first["source"].strip()), "the H1 title, alone"
    plain = [re.sub(r"(?s)```.*?```", "", cell["source"]) for cell in rest]
    assert not any(re.search(r"(?m)^# ", text) for text in plain), "one H1"
    assert rest[0]["source"].startswith("> "), "a one-sentence blockquote follows the title"


@every
def test_saved_outputs(path):
    saved = outputs(path)
    assert saved, "no saved outputs: the site would show none"
    assert not [output for output in saved if output["output_type"] == "error"]
    assert path.stat().st_size < 900_000
    errors = [output for output in saved if output.get("name") == "stderr"]
    warned = [text[:200] for text in words(errors) if "Warning" in text]
    assert not warned, warned


@every
def test_no_path_of_one_machine(path):
    for cell in cells(path):
        for text in [cell["source"], *words(cell.get("outputs", []))]:
            found = re.search(MACHINE, text)
            assert not found, found[0]


@every
def test_cells(path):
    ids = [cell["id"] for cell in cells(path)]
    assert len(ids) == len(set(ids))
    for cell in cells(path, "code"):
        source = cell["source"]
        assert "nbdev_export()" not in source, "JupyterLab would run it"
        if exported(cell):
            assert not re.search(r"(?m)^\s*[%!]", source), f"exported magic: {source[:60]}"
            body = ast.parse(source).body
            imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
            assert len(imports) in (0, len(body)), f"an import cell only imports: {source[:80]}"


def bare_tables(source: str) -> list[str]:
    "Tables that a cell makes and gives to nobody: bare calls before its last statement."
    bare = [node.value for node in ast.parse(source).body[:-1] if isinstance(node, ast.Expr)]
    names = [ast.unparse(node.func) for node in bare if isinstance(node, ast.Call)]
    return [name for name in names if name == "Markdown" or name.endswith("table")]


@every
def test_every_table_made_is_shown(path):
    for cell in cells(path, "code"):
        if not re.search(r"(?m)^\s*[%!]", cell["source"]):
            shown = ["text/markdown" in output.get("data", {}) for output in cell["outputs"]]
            assert len(bare_tables(cell["source"])) <= sum(shown), cell["id"]


def test_a_bare_table_is_seen():
    assert bare_tables("table(head, rows)\nprint(1)") == ["table"]
    assert not bare_tables("display(table(head, rows))\nprint(1)\ntable(head, rows)")


@course
def test_chapter_has_exercises_and_pictures(path):
    code = cells(path, "code")
    assert any("image/png" in output.get("data", {}) for output in outputs(path)), "no picture"
    if path.name.startswith("start"):
        return
    solutions = [c for c in code if re.search(r'(?i)#\|\s*code-summary:\s*"?solution', c["source"])]
    assert len(solutions) >= 3, f"{len(solutions)} folded solutions"
    assert all(re.search(r"#\|\s*code-fold:\s*true", cell["source"]) for cell in solutions)


# ---- everything exported is documented and checked


def documented(kind) -> bool:
    "Whether a function or class says what it is. A dataclass writes a docstring of its own."
    if not kind.__doc__:
        return False
    return not (inspect.isclass(kind) and kind.__doc__.startswith(f"{kind.__name__}("))


def bare_methods(kind) -> list[str]:
    "The public methods and properties of a class without a docstring."
    kinds = (property, staticmethod, classmethod)
    parts = {name: part for name, part in vars(kind).items() if not name.startswith("_")}
    methods = [n for n, p in parts.items() if inspect.isfunction(p) or isinstance(p, kinds)]
    missing = [name for name in methods if not inspect.getdoc(getattr(kind, name))]
    return [f"{kind.__name__}.{name}" for name in missing]


@pytest.mark.parametrize("module", storeys.module_files())
def test_docstrings(module):
    loaded = importlib.import_module(f"compsamp.{module}")
    bare = []
    for name, value in vars(loaded).items():
        mine = getattr(value, "__module__", "") == loaded.__name__
        if name.startswith("_") or not mine:
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            bare += [] if documented(value) else [name]
        if inspect.isclass(value):
            bare += bare_methods(value)
    assert not bare, bare


def mentioned(tree):
    "Every name and attribute in a piece of code."
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def parsed(source):
    "A cell as a syntax tree, without its magics."
    return ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", source))


class Coverage:
    "Which exported names an assertion reaches, directly or through what it uses."

    def __init__(self, code):
        self.uses, self.public, self.covered = {}, set(), set()
        for cell in code:
            tree = parsed(cell["source"])
            for node in tree.body:
                self.definition(node, exported(cell))
            checks = re.search(r"\bassert\b|\b(fails|check\w*|close)\(", cell["source"])
            if checks and not exported(cell):
                self.covered |= mentioned(tree)

    def definition(self, node, public: bool):
        "What a function, a class or a table of them uses."
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            self.uses.setdefault(node.name, set()).update(mentioned(node))
            if public and not node.name.startswith("_"):
                self.public.add(node.name)
        elif isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    self.uses.setdefault(target.id, set()).update(mentioned(node.value))

    def missed(self, also: set[str]) -> set[str]:
        "Exported names out of reach; `also` is what the tests reach."
        covered = self.covered | (also & self.public)
        waiting = list(covered)
        while waiting:
            for name in self.uses.get(waiting.pop(), set()) - covered:
                covered.add(name)
                waiting.append(name)
        return self.public - covered


@pytest.fixture(scope="module")
def tested_commands():
    "Commands: what the console scripts name is run by tests/test_package.py."
    text = (ROOT / "settings.ini").read_text(encoding="utf-8")
    return set(re.findall(r"=compsamp[\w.]*:(\w+)", text))


@every
def test_everything_exported_is_asserted(path, tested_commands):
    "Each exported name is used in a cell that asserts, directly or through what such a cell uses."
    code = cells(path, "code")
    if not any(exported(cell) for cell in code):
        pytest.skip("exports nothing")
    missed = Coverage(code).missed(tested_commands)
    assert not missed, f"no assertion reaches {sorted(missed)}"
    asserting = [c for c in code if re.search(r"\bassert\b", c["source"]) and not exported(c)]
    least = 1 if path.name.startswith(("90_", "lab_")) else 3  # a laboratory has tests of its own
    assert len(asserting) >= least


PAGES = [*NOTEBOOKS, *(ROOT / "nbs").glob("*.qmd"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FILES = ("toml", "json", "py", "ipynb")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_names_in_the_text_are_there(path):
    "`module.name` in a sentence is a name of that module, also after it was renamed."
    modules = {}
    for name in storeys.module_files():
        modules.setdefault(name.split(".")[-1], []).append(f"compsamp.{name}")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "\n".join(cell["source"] for cell in cells(path, "markdown"))
    for quoted in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.S)):
        for module, name in re.findall(r"(?<![\w/|.])([a-z_]+)\.([A-Za-z_]\w*)", quoted):
            if module in modules and name not in FILES and "#|" not in quoted:
                found = [importlib.import_module(place) for place in modules[module]]
                assert any(hasattr(place, name) for place in found), quoted


def test_handouts_lack_no_name(tmp_path):
    "A chapter without its solutions, as the teachers' script makes it, uses nothing undefined."
    page = (ROOT / "nbs/teachers.qmd").read_text(encoding="utf-8")
    script = re.search(r"```python\n(.*?)```", page, re.S)[1]
    names = {}
    exec(script.partition("notebook =")[0], names)
    for path in COURSE:
        notebook = nbformat.read(path, 4)
        kept = [cell for cell in notebook.cells if not names["gives_away"](cell)]
        notebook.cells = kept
        nbformat.write(notebook, tmp_path / path.name)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--no-cache", "--select", "F821"]
    found = subprocess.run([*ruff, str(tmp_path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    first = (tmp_path / "01_forward.ipynb").read_text(encoding="utf-8")
    assert "class Flow" not in first and "def check(" in first
