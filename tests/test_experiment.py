"The harness: a results file that two processes fill at once."

import json
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from compsamp import commands, experiment, inpainting
from compsamp.core import write_sealed
from compsamp.experiment import Results, check_rows, generate, generate_and_score, read_results
from compsamp.forward import VP
from compsamp.lab import inpainting as restoring, race
from compsamp.mixtures import ring
from compsamp.networks import Denoiser, UNet

SETUP = {"n": 3, "sizes": (1, 2)}


def doubled(x):
    return {"value": 2 * x, "pair": (x, x)}


def test_cells_of_two_processes_are_all_kept(tmp_path):
    path = tmp_path / "results.json"
    one, other = Results(path, SETUP), Results(path, SETUP)
    one.fill([{"x": 1}, {"x": 2}], doubled)
    other.fill([{"x": 3}], doubled)
    one.fill([{"x": 4}], doubled)
    cells = read_results(path)["cells"]
    assert sorted(cell["x"] for cell in cells) == [1, 2, 3, 4]
    assert all(cell["value"] == 2 * cell["x"] for cell in cells)


def test_what_another_process_has_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "results.json"
    one, other = Results(path, SETUP), Results(path, SETUP)

    def slow(x):
        other.fill([{"x": x}], doubled)  # meanwhile
        return {"value": 2 * x, "pair": (x, x), "seconds": 9}

    one.fill([{"x": 1}], slow)
    other.fill([{"x": 2}], doubled)
    asked = []
    one.fill([{"x": 1}, {"x": 2}], lambda x: asked.append(x) or doubled(x))
    assert asked == []
    assert [cell["x"] for cell in read_results(path)["cells"]] == [1, 2]


def test_a_file_replaced_by_one_of_another_set_up_is_not_overwritten(tmp_path):
    path = tmp_path / "results.json"
    run = Results(path, SETUP)
    run.fill([{"x": 1}], doubled)
    foreign = {"setup": {"n": 4, "sizes": [1, 2]}, "cells": [{"x": 9}]}
    write_sealed(path, foreign)
    os.utime(path, ns=(1, 1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another process has replaced it"):
        run.fill([{"x": 2}], doubled)
    assert path.read_bytes() == before
    assert json.loads(before)["setup"]["n"] == 4


FILL = """
import sys
from compsamp.experiment import Results

name, path = sys.argv[1:]
results = Results(path, {"n": 3}, f"fill {name}")
print("ready", flush=True)
sys.stdin.readline()
results.fill([{"x": f"{name}{i}"} for i in range(40)], lambda x: {"value": x})
"""


def test_two_processes_lose_nothing(tmp_path):
    "Both write as fast as they can; every cell and both commands are in the file."
    path = tmp_path / "results.json"
    settings = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [
        subprocess.Popen([sys.executable, "-c", FILL, name, str(path)], **settings) for name in "ab"
    ]
    for process in both:
        assert process.stdout.readline() == "ready\n"
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    held = read_results(path)
    assert sorted(cell["x"] for cell in held["cells"]) == sorted(
        f"{name}{i}" for name in "ab" for i in range(40)
    )
    assert set(held["command"].split(" && ")) == {"fill a", "fill b"}


def test_numbers_of_numpy_and_tensors_are_written_as_numbers(tmp_path):
    path = tmp_path / "results.json"
    setup = {"n": np.int64(3)}

    def measured(seed):
        return {"frechet": np.float64(0.5), "some": torch.tensor(2)}

    Results(path, setup).fill([{"seed": np.int64(1)}], measured)
    assert read_results(path)["cells"] == [{"seed": 1, "frechet": 0.5, "some": 2}]
    Results(path, {"n": 3}).fill([{"seed": 1}], lambda seed: pytest.fail("it is there"))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cell_that_is_not_finite_is_named(tmp_path, value):
    results = Results(tmp_path / "results.json", SETUP)
    with pytest.raises(
        ValueError, match=r"psnr = (nan|inf): a finite number, in the cell .*'x': 1"
    ):
        results.fill([{"x": 1}], lambda x: {"psnr": value})
    assert results.cells == []


@pytest.mark.parametrize(
    "row, budget, word",
    [
        ("rvv", 10, "k = 2 for "),
        ("edm@karras/0.3,0.06,3,2", 20, "0.3"),
        ("edm@karras/0.06,0.3,3,10", 9, "nfe"),
        ("ddim~nosuchmodule", 10, "nosuchmodule"),
        ("ddim@karras,high=0.5", 10, "high = 0.5: at least 1"),
    ],
)
def test_a_row_that_cannot_be_walked_is_found_before_the_work(tmp_path, capsys, row, budget, word):
    out = tmp_path / "out.json"
    if "~" not in row:
        with pytest.raises(ValueError, match=word) as raised:
            check_rows(ring().denoiser(VP()), ["ddim", row], [budget])
        assert row in str(raised.value)
    argv = ["--rows", "ddim", row, "--nfe", str(budget), "--n", "128", "--seeds", "10"]
    argv += ["--checkpoint", "fashion-vp-small", "--out", str(out)]
    assert commands.run_measure(argv) == 2
    said = capsys.readouterr()
    assert word in said.err and "frechet" not in said.out and not out.exists()


def test_the_race_and_the_inpainting_look_at_every_row_first():
    denoiser = ring().denoiser(VP())
    race.check_racers(denoiser, ["ddim", "diffusers.ddim"], [10])
    with pytest.raises(ValueError, match="rvv"):
        race.check_racers(denoiser, ["ddim", "rvv"], [10])
    with pytest.raises(ValueError, match="nfe = 2"):
        race.check_racers(denoiser, ["k.heun"], [2])
    plain = inpainting.sampling  # any object: a mean fill asks no network
    assert restoring.restoring_ways(("mean fill",), 12, plain, plain, plain) == {}
    with pytest.raises(ValueError, match="at least 13"):
        restoring.restoring_ways(("restart", "resampled"), 12, denoiser, denoiser, denoiser)


NETWORK = Denoiser(UNet(width=8, mults=(1,), attention=(), classes=4), VP(), (1, 8, 8))
for weights in NETWORK.network.parameters():  # those that begin as zeros hide the labels
    torch.nn.init.normal_(weights, std=0.1, generator=torch.Generator().manual_seed(1))


def test_one_label_for_all_is_drawn_under_guidance():
    one, all_of_it = (generate(NETWORK, "ddim^2", 6, 2, 0, labels=y) for y in (3, [3, 3]))
    assert torch.equal(one.x, all_of_it.x) and one.nfe == 6


def test_guidance_spends_what_was_asked():
    "Two evaluations a call: half as many points, not twice the price."
    assert generate(NETWORK, "ddim^2", 10, 2, 0).nfe == 10
    assert generate(NETWORK, "ddim^1", 10, 2, 0).nfe == 10


BOUND = NETWORK.bind(labels=[1, 2], guidance=4.0)


@pytest.mark.parametrize("labels", ["in turn", None], ids=str)
@pytest.mark.parametrize("batch", [1, 2])
def test_what_a_denoiser_is_bound_to_is_kept_within_the_budget(labels, batch):
    drawn = generate(BOUND, "ddim", 8, 2, 0, labels, batch)
    said = generate(NETWORK, "ddim^4", 8, 2, 0, torch.tensor([1, 2]), batch)
    assert torch.equal(drawn.x, said.x) and drawn.nfe == said.nfe == 8
    half = generate(NETWORK.bind(guidance=4.0), "ddim", 8, 2, 0, labels=[1, 2], batch=batch)
    assert torch.equal(half.x, said.x) and half.nfe == 8


def test_what_a_call_says_replaces_what_is_bound():
    said = generate(NETWORK, "ddim^2", 8, 2, 0, [0, 3])
    assert torch.equal(generate(BOUND, "ddim^2", 8, 2, 0, [0, 3]).x, said.x)
    plain = generate(BOUND, "ddim^1", 8, 2, 0)
    assert torch.equal(plain.x, generate(NETWORK, "ddim", 8, 2, 0, [1, 2]).x) and plain.nfe == 8
    free = generate(BOUND.bind(labels=None, guidance=1.0), "ddim", 8, 2, 0, None)
    assert torch.equal(free.x, generate(NETWORK, "ddim", 8, 2, 0, None).x)
    turns = generate(NETWORK.bind(guidance=4.0), "ddim", 8, 2, 0)  # no labels bound: in turn
    assert torch.equal(turns.x, generate(NETWORK, "ddim^4", 8, 2, 0, [0, 1]).x) and turns.nfe == 8


def test_a_binding_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"labels = \(2,\): one class, or n = 3 of them"):
        generate(BOUND, "ddim", 8, 3, 0)
    with pytest.raises(ValueError, match="guidance = 4.0: 1 without labels"):
        generate(NETWORK.bind(guidance=4.0), "ddim", 8, 2, 0, labels=None)
    with pytest.raises(ValueError, match="guidance = 2.0: 1 without labels"):
        generate(NETWORK, "ddim^2", 8, 2, 0, labels=None)
    nothing = Denoiser(UNet(width=8, mults=(1,), attention=(), classes=0), VP(), (1, 8, 8))
    for labels, shown in ((3, "[3]"), ([3, 3], "[3, 3]"), (torch.tensor([3, 3]), "[3, 3]")):
        with pytest.raises(ValueError, match=re.escape(f"labels = {shown}: None: this network")):
            generate(nothing, "ddim", 8, 2, 0, labels)


def test_accuracy_is_judged_by_the_labels_that_were_drawn(monkeypatch):
    judged = []
    monkeypatch.setattr(
        experiment, "score", lambda x, ref, net, labels: judged.append(labels) or {}
    )
    generate_and_score(BOUND, "ddim", 8, 2, 0, reference={"some": 0})
    assert judged[0].tolist() == [1, 2]


def test_a_row_is_drawn_from_noise():
    with pytest.raises(ValueError, match="high = 0.5: at least 1"):
        generate(ring().denoiser(VP()), "ddim@karras,high=.5", nfe=4, n=2, seed=0)
