"""Pictures, losses and results as they were: what a change of form alone must not move.

    python tests/test_reference.py --write     writes tests/data/reference.npz anew

Write it anew only where numbers are meant to change (other weights, another grid), and say so.
"""

import functools
import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import compsamp
from compsamp.compensation import Compensated, load_module
from compsamp.data import embedded
from compsamp.networks import PARAMETRISATIONS, UNet
from compsamp.restart import RestartInterval, restart
from compsamp.sampling import grid, points_for_budget, sample
from compsamp.training import Trainer
from compsamp.zoo import parse_objective, parse_process, parse_sampler

REFERENCE = Path(__file__).parent / "data" / "reference.npz"
RESULTS = Path(compsamp.__file__).parent / "results"
EVALUATIONS = 10
PICTURES = 4
STEPS = 20

# sampler@grid, as the commands name them
ROWS = {
    "fashion-vp-small": [
        "ddim@uniform",
        "ddim:eta=1@uniform",
        "ddpm@uniform",
        "pndm@uniform",
        "deis2@quadratic",
        "dpmpp2m@karras",
        "dpmpp2m:stochastic=1@karras",
        "euler@uniform",
        "heun@uniform",
        "edm@karras",
        "edm:s_churn=20@karras",
        "em@uniform",
    ],
    "fashion-psld-small": [
        "em@quadratic",
        "sscs@quadratic",
        "rvv@quadratic",
        "roba:lam_s=4@quadratic",
        "rse@quadratic",
        "nse@quadratic",
        "robab@quadratic",
        "conjugate@quadratic",
        "conjugate:lam=0.5@quadratic",
        "conjugate:lam=0.5,shape=ones,freeze=v@quadratic",
        "noba@quadratic",
        "rbao@quadratic",
    ],
}
DRAWN = [(network, row) for network, rows in ROWS.items() for row in rows]

# objective: process and what the network predicts
OBJECTIVES = {
    "epsilon": ("vp", "eps"),
    "velocity": ("vp", "v"),
    "skipstep:variant=published,skip=9": ("vp", "eps"),
    "skipstep:variant=shared,skip=9": ("vp", "eps"),
    "skipstep:variant=consistent,skip=49,eta=0.5": ("vp", "eps"),
    "compensation:states=plain": ("vp", "v"),
    "compensation:states=one-step": ("vp", "v"),
    "compensation:states=persistent": ("vp", "v"),
    "compensation:states=one-step,error=x0": ("vp", "v"),
    "epsilon on psld": ("psld", "eps"),
    "velocity on psld": ("psld", "v"),
    "skipstep:variant=consistent,skip=9 on psld": ("psld", "eps"),
}


# What is measured


@functools.lru_cache
def network(name: str):
    "A network that comes with the package, in float64, so that processors agree."
    denoiser = compsamp.load(name)
    denoiser.network.double()
    return denoiser


def weights_hash(name: str) -> str:
    "The weights a picture belongs to."
    digest = hashlib.sha256()
    for key, value in sorted(network(name).network.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def every_fourth(x: torch.Tensor) -> np.ndarray:
    "One pixel in four of each picture, `(n, 196)`."
    return x.flatten(1)[:, ::4].numpy()


def draw(denoiser, sampler, times) -> np.ndarray:
    drawn = sample(sampler, denoiser, times, n=PICTURES, seed=0, dtype=torch.float64)
    return every_fourth(drawn.x)


def pictures(name: str, row: str) -> np.ndarray:
    "Pictures of a row at ten evaluations."
    text, kind = row.split("@")
    denoiser, sampler = network(name), parse_sampler(text)
    return draw(
        denoiser, sampler, grid(denoiser.process, points_for_budget(sampler, EVALUATIONS), kind)
    )


def restart_walk() -> np.ndarray:
    "Heun's method with one detour, walked twice."
    denoiser = network("fashion-vp-small")
    process = denoiser.process
    interval = RestartInterval.from_sigma(process, 0.15, 1.0, 3, 2)
    return draw(denoiser, parse_sampler("edm"), restart(process, 4, [interval]))


def compensated_walk() -> np.ndarray:
    "DDIM with one step's estimates stretched by a module that comes with the package."
    module = load_module("fashion-vp-small-stretch").double()
    denoiser = Compensated(network("fashion-vp-small"), module)
    return draw(denoiser, parse_sampler("ddim"), EVALUATIONS)


WALKS = {"restart": restart_walk, "compensated": compensated_walk}


def losses(objective: str) -> np.ndarray:
    "The losses of the first steps of a tiny network on pictures of half the size, float32."
    process_name, predicts = OBJECTIVES[objective]
    process = parse_process(process_name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        answers = 1 if predicts == "v" else process.k
        inner = UNet(process.k, width=8, mults=(1, 1), attention=(), channels_out=answers)
        net = PARAMETRISATIONS[predicts](inner, process)
    images, labels = embedded(256)
    trainer = Trainer(
        net,
        process,
        images[..., ::2, ::2].contiguous(),
        labels,
        steps=STEPS,
        batch=8,
        lr=1e-3,
        warmup=5,
        ema=0.9,
        amp=False,
        objective=parse_objective(objective.split(" on ")[0]),
    )
    for _ in range(STEPS):
        trainer.step()
    trainer.collect_losses()
    return np.array(trainer.losses)


def numbers(value):
    "Every number and text of a JSON value, with the path to it."
    if isinstance(value, dict):
        for key in sorted(value):
            for path, leaf in numbers(value[key]):
                yield f"{key}/{path}", leaf
    elif isinstance(value, list):
        for i, item in enumerate(value):
            for path, leaf in numbers(item):
                yield f"{i}/{path}", leaf
    elif isinstance(value, float | int) and not isinstance(value, bool):
        yield "", float(value)


def results_hash(path: Path) -> str:
    "What the numbers of a results file are, whatever its layout and its texts."
    lines = [f"{where}={leaf!r}" for where, leaf in numbers(json.loads(path.read_text()))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


# What is kept


def write():
    "Measure everything and keep it."
    kept = {}
    for name, row in DRAWN:
        kept[f"{name}/{row}"] = pictures(name, row).astype(np.float32)
    for name, walk in WALKS.items():
        kept[f"walk/{name}"] = walk().astype(np.float32)
    for objective in OBJECTIVES:
        kept[f"loss/{objective}"] = losses(objective)
    for name in ROWS:
        kept[f"weights/{name}"] = np.array(weights_hash(name))
    keep(kept | results())


def results() -> dict:
    "A hash of the numbers of every results file."
    files = sorted(RESULTS.glob("*.json"))
    return {f"results/{path.name}": np.array(results_hash(path)) for path in files}


def write_results():
    "Measure the results files anew; pictures, losses and weights stay as they are."
    held = {name: value for name, value in kept().items() if not name.startswith("results/")}
    keep(held | results())


def keep(kept: dict):
    "Write the file."
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE, **kept)
    print(f"{REFERENCE.name}: {len(kept)} entries, {REFERENCE.stat().st_size} bytes")


@functools.lru_cache
def kept() -> dict:
    with np.load(REFERENCE) as archive:
        return {name: archive[name] for name in archive.files}


def assert_same_pictures(got: np.ndarray, name: str):
    """Within 1e-5 of what is kept, relative to 1 or to the largest pixel.

    Everything is float64 but the sines and cosines of the time, whose last digit (6e-8) differs
    from processor to processor and moves pictures by up to 4e-6.
    """
    want = kept()[name].astype(np.float64)
    assert got.shape == want.shape
    difference = np.abs(got - want).max() / max(1.0, np.abs(want).max())
    assert difference < 1e-5, f"{name}: pictures differ by {difference:.2e}"


@pytest.mark.parametrize("name", ROWS)
def test_weights(name):
    "Other weights draw other pictures: then the reference is to be written anew."
    assert weights_hash(name) == str(kept()[f"weights/{name}"])


@pytest.mark.parametrize("name, row", DRAWN)
def test_pictures(name, row):
    assert_same_pictures(pictures(name, row), f"{name}/{row}")


@pytest.mark.parametrize("name", WALKS)
def test_walks(name):
    assert_same_pictures(WALKS[name](), f"walk/{name}")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses(objective):
    got, want = losses(objective), kept()[f"loss/{objective}"]
    assert np.abs(got / want - 1).max() < 1e-5


RESULT_NAMES = sorted(path.name for path in RESULTS.glob("*.json"))


def test_no_results_file_is_lost():
    assert {f"results/{name}" for name in RESULT_NAMES} == {
        n for n in kept() if n[:8] == "results/"
    }


@pytest.mark.parametrize("name", RESULT_NAMES)
def test_results(name):
    assert results_hash(RESULTS / name) == str(kept()[f"results/{name}"])


if __name__ == "__main__":
    ways = {"--write": write, "--write-results": write_results}
    if len(sys.argv) != 2 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    ways[sys.argv[1]]()
