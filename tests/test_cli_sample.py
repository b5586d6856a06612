"compsamp_sample, as a user types it."

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import compsamp
from compsamp import commands, networks, restart, sampling

needs_network = pytest.mark.skipif(
    "fashion-vp-small" not in networks.shipped_networks(), reason="no shipped network"
)


@pytest.fixture
def run(capsys):
    "Type a line; its exit code and what was said."

    def typed(line, *more):
        code = commands.run_sample([*line.split(), *map(str, more)])
        return code, capsys.readouterr()

    return typed


@needs_network
def test_the_same_pictures_at_another_batch(tmp_path, run):
    line = "--n 3 --seed 2 --nfe 4 --sampler dpmpp2m:stochastic=1"
    code, said = run(line, "--out", tmp_path / "a.npz")
    assert code == 0 and "4 evaluations" in said.out
    assert "\r" not in said.out + said.err and "%" not in said.out, "no bar in a pipe"
    assert run(f"{line} --batch 1 --quiet", "--out", tmp_path / "b.npz")[0] == 0
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a["x"].shape == (3, 1, 28, 28) and a["x"].dtype == np.float32
        assert np.abs(a["x"] - b["x"]).max() <= 1e-5
        assert int(a["nfe"]) == 4 and int(a["points"]) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]


@needs_network
def test_a_sheet_of_pictures(tmp_path, run):
    sheet = tmp_path / "c.png"
    code, said = run("--n 3 --seed 2 --nfe 4 --sampler heun --quiet", "--out", sheet)
    assert code == 0 and "N = 2" in said.out and "3 evaluations" in said.out
    assert Image.open(sheet).size[1] >= 28
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"], "nothing else is left behind"


@needs_network
def test_labels_and_guidance(tmp_path, run):
    out = tmp_path / "a.npz"
    code, said = run("--n 3 --steps 3 --label 1 7 --guidance 2 --quiet", "--out", out)
    assert code == 0 and "6 evaluations" in said.out
    code, said = run("--n 1 --nfe 7 --label 1 --guidance 2 --quiet", "--out", out)
    assert code == 0 and "N = 3" in said.out and "6 evaluations" in said.out


@needs_network
def test_restart(tmp_path, run):
    "A published setting at its published price, and the same pictures as in Python."
    line = "--n 2 --nfe 43 --sampler edm --grid karras --restart 0.06,0.3,3,2 --quiet"
    code, said = run(line, "--out", tmp_path / "a.npz")
    assert code == 0 and "N = 18" in said.out and "43 evaluations" in said.out
    assert "restart 0.06" in said.out
    denoiser = compsamp.load("fashion-vp")
    interval = restart.RestartInterval.from_sigma(denoiser.process, 0.06, 0.3, 3, 2)
    route = restart.restart(denoiser.process, 18, [interval])
    drawn = sampling.sample(sampling.EDMHeun(), denoiser, route, n=2, batch=64)
    assert np.abs(np.load(tmp_path / "a.npz")["x"] - drawn.x.numpy()).max() < 1e-5


@needs_network
@pytest.mark.parametrize(
    "line, word",
    [
        ("--steps 0", "steps = 0"),
        ("--steps -4", "steps = -4"),
        ("--steps 100000000000", "steps = 100000000000"),
        ("--nfe 0", "nfe = 0"),
        ("--n 0", "n = 0"),
        ("--n 100000000000", "n = 100000000000"),
        ("--batch 0", "batch = 0"),
        ("--seed -1", "seed = -1"),
        ("--sampler foo", "sampler = 'foo'"),
        ("--sampler ddim:eta=3", "eta = 3"),
        ("--sampler edm:s_churn=-1", "s_churn"),
        ("--sampler pndm:eta=1", "no settings"),
        ("--checkpoint nowhere", "'nowhere'"),
        ("--device abacus", "abacus"),
        ("--label 10", "labels"),
        ("--guidance 2", "guidance"),
        ("--out a.gif", "a.gif"),
        ("--grid random", "random"),
        ("--restart .3,.06,3,2", "sigma_min"),
        ("--restart .06,.3", "restart"),
        ("--restart .06,.3,3,2 --nfe 4", "nfe = 4"),
        ("--restart .06,.3,3,2 --nfe 4", "at least"),
        ("--sampler edm --restart .06,.3,3,2 --nfe 1", "nfe = 1"),
        ("--steps 5 --nfe 5", "not allowed with"),
    ],
)
def test_errors_name_the_argument_and_leave_nothing(line, word, tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run(f"{line} --quiet")
    assert code == 2 and word in said.err and "Traceback" not in said.err
    assert not any(tmp_path.iterdir())


@needs_network
def test_as_a_process(tmp_path):
    out = tmp_path / "deep" / "a.png"
    text = "import sys; from compsamp.commands import run_sample; sys.exit(run_sample())"
    line = [sys.executable, "-c", text, "--n", "2", "--steps", "2", "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0 and out.stat().st_size > 100, done.stderr


@needs_network
def test_a_full_disk_keeps_the_old_file(tmp_path, run, monkeypatch):
    old = tmp_path / "a.npz"
    assert run("--n 1 --steps 1 --quiet", "--out", old)[0] == 0
    before = old.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    code, said = run("--n 1 --steps 2 --quiet", "--out", old)
    assert code == 1 and "No space left" in said.err and old.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
