"compsamp_sample, as a user types it."

import os
import subprocess
import sys
import numpy as np
import pytest
from compsamp import networks, sampling

needs_network = pytest.mark.skipif(
    "fashion-vp" not in networks.shipped_networks(), reason="no shipped network"
)


def run(args, capsys):
    try:
        code = sampling.main([str(a) for a in args])
    except SystemExit as e:
        code = e.code
    return code, capsys.readouterr()


@needs_network
def test_png_and_npz_and_the_same_pictures_at_another_batch(tmp_path, capsys):
    from PIL import Image

    common = ["--n", 3, "--seed", 2, "--nfe", 4]
    code, said = run(
        common + ["--out", tmp_path / "a.npz", "--sampler", "dpmpp2m:stochastic=1"], capsys
    )
    assert code == 0 and "4 evaluations" in said.out and "100.00%" in said.out, "bar and report"
    assert (
        run(
            common
            + [
                "--out",
                tmp_path / "b.npz",
                "--sampler",
                "dpmpp2m:stochastic=1",
                "--batch",
                1,
                "--quiet",
            ],
            capsys,
        )[0]
        == 0
    )
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert (
            a["x"].shape == (3, 1, 28, 28)
            and a["x"].dtype == np.float32
            and np.abs(a["x"] - b["x"]).max() <= 1e-5
        )
        assert int(a["nfe"]) == 4 and int(a["points"]) == 4
    code, said = run(common + ["--out", tmp_path / "c.png", "--sampler", "heun", "--quiet"], capsys)
    assert code == 0 and "N = 2" in said.out and "3 evaluations" in said.out
    assert Image.open(tmp_path / "c.png").size[1] >= 28
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz", "c.png"], (
        "nothing else is left behind"
    )


@needs_network
def test_labels_and_guidance(tmp_path, capsys):
    code, said = run(
        [
            "--n",
            3,
            "--steps",
            3,
            "--label",
            1,
            7,
            "--guidance",
            2,
            "--quiet",
            "--out",
            tmp_path / "a.npz",
        ],
        capsys,
    )
    assert code == 0 and "6 evaluations" in said.out
    code, said = run(
        [
            "--n",
            1,
            "--nfe",
            7,
            "--label",
            1,
            "--guidance",
            2,
            "--quiet",
            "--out",
            tmp_path / "a.npz",
        ],
        capsys,
    )
    assert code == 0 and "N = 3" in said.out and "6 evaluations" in said.out


@needs_network
def test_restart(tmp_path, capsys):
    "A published setting at its published price, and the same pictures as in Python."
    from compsamp.restart import RestartInterval, restart

    code, said = run(
        [
            "--n",
            2,
            "--nfe",
            43,
            "--sampler",
            "edm",
            "--grid",
            "karras",
            "--restart",
            "0.06,0.3,3,2",
            "--quiet",
            "--out",
            tmp_path / "a.npz",
        ],
        capsys,
    )
    assert (
        code == 0
        and "N = 18" in said.out
        and "43 evaluations" in said.out
        and "restart 0.06" in said.out
    )
    d = networks.load("fashion-vp")
    r = restart(d.process, 18, [RestartInterval.from_sigma(d.process, 0.06, 0.3, 3, 2)])
    assert (
        np.abs(
            np.load(tmp_path / "a.npz")["x"]
            - sampling.sample(sampling.EDMHeun(), d, r, n=2, batch=64).x.numpy()
        ).max()
        < 1e-5
    )


@needs_network
@pytest.mark.parametrize(
    "args, word",
    [
        ("--steps 0", "steps = 0"),
        ("--steps -4", "steps = -4"),
        ("--nfe 0", "nfe = 0"),
        ("--n 0", "n = 0"),
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
        ("--restart .06,.3,3,2 --nfe 4", "nfe = 0"),
        ("--steps 5 --nfe 5", "not allowed with"),
    ],
)
def test_errors_name_the_argument_and_leave_nothing(args, word, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, said = run(args.split() + ["--quiet"], capsys)
    assert (
        code == 2
        and word in said.err
        and "Traceback" not in said.err
        and not any(tmp_path.iterdir())
    )


@needs_network
def test_as_a_process(tmp_path):
    out = tmp_path / "deep" / "a.png"
    r = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from compsamp.sampling import main; sys.exit(main())",
            "--n",
            "2",
            "--steps",
            "2",
            "--out",
            str(out),
        ],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert r.returncode == 0 and out.stat().st_size > 100, r.stderr


@needs_network
def test_a_full_disk_keeps_the_old_file(tmp_path, capsys):
    old = tmp_path / "a.npz"
    assert run(["--n", 1, "--steps", 1, "--quiet", "--out", old], capsys)[0] == 0
    before = old.read_bytes()

    def fail(*a, **k):
        raise OSError(28, "No space left on device")

    keep, np.savez_compressed = np.savez_compressed, fail
    try:
        code, said = run(["--n", 1, "--steps", 2, "--quiet", "--out", old], capsys)
    finally:
        np.savez_compressed = keep
    assert (
        code == 2
        and "No space left" in said.err
        and old.read_bytes() == before
        and [p.name for p in tmp_path.iterdir()] == ["a.npz"]
    )
