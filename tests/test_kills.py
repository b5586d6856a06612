"Killed again and again at random moments, every resumable command ends where a straight run ends."

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(
    "COMPSAMP_SLOW" not in os.environ, reason="slow: COMPSAMP_SLOW=1 runs it"
)
COMMAND = """
import os, signal, sys, threading, torch
from compsamp import commands
import compsamp.lab.measure, compsamp.lab.race, compsamp.lab.skipstep, compsamp.lab.compensation
torch.set_num_threads(1)
name, delay, *words = sys.argv[1:]
if float(delay):
    killed = threading.Timer(float(delay), os.kill, (os.getpid(), signal.SIGKILL))
    killed.daemon = True
    killed.start()
sys.exit(getattr(commands, "run_" + name)(words))
"""
NETWORK = ["--checkpoint", "fashion-vp-small"]
QUICK = {  # command: (its words, kills, longest life in seconds)
    "train": (
        "--width 8 --mults 1,1 --batch 16 --steps 160 --warmup 5 --save-every 4 --patch 2".split(),
        20,
        5.0,
    ),
    "measure": (
        [*NETWORK, *"--n 128 --nfe 2 3 --seeds 1 2 --rows ddim@uniform euler@uniform".split()],
        6,
        6.0,
    ),
    "race": (
        "--network fashion-vp-small --n 256 --nfe 5 --seeds 1 2 3 --samplers ddim euler "
        "--cells --full".split(),
        6,
        8.0,
    ),
    "skipstep": (
        [*NETWORK, "--data", "embedded", *"--arms plain published:9 --n 128 --nfe 3".split()]
        + "--samplers ddim@uniform --steps 12 --batch 16 --save-every 3".split(),
        6,
        8.0,
    ),
    "compensation": (
        [*NETWORK, "--data", "embedded", *"--epochs .05 --n 128 --nfe 3 --batch 32".split()]
        + "--save-every 2 --strengths 1".split(),
        6,
        8.0,
    ),
}
OUTPUTS = {
    "train": ("--out", "run"),
    "measure": ("--out", "a.json"),
    "race": ("--json", "a.json"),
    "skipstep": ("--out", "a.json"),
    "compensation": ("--out", "a.json"),
}


def start(name: str, folder: Path, delay: float = 0.0) -> int:
    "Run a command in a folder, killed after a delay; its exit status."
    folder.mkdir(exist_ok=True)
    words = [*QUICK[name][0], *OUTPUTS[name]]
    if name == "train" and (folder / "run/card.json").exists():
        words = ["--out", "run", "--resume"]
    call = [sys.executable, "-c", COMMAND, name, str(delay), *words]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-2000:]
    return done.returncode


def outcome(name: str, folder: Path):
    "What a finished command leaves: the weights of a run, or the cells without their seconds."
    if name == "train":
        card = json.loads((folder / "run/card.json").read_text())
        return {part: load_file(folder / "run" / card[part]) for part in ("weights", "resume")}
    cells = json.loads((folder / "a.json").read_text())["cells"]
    return [{key: v for key, v in cell.items() if key != "seconds"} for cell in cells]


@pytest.mark.parametrize("name", QUICK)
def test_kills_change_nothing(name, tmp_path):
    _, kills, longest = QUICK[name]
    assert start(name, tmp_path / "straight") == 0
    dice = random.Random(name)
    killed = 0
    for _ in range(kills):
        killed += start(name, tmp_path / "killed", dice.uniform(0.2, longest)) != 0
    assert killed, "no run lived short enough to be killed"
    if name == "train":
        card = tmp_path / "killed/run/card.json"
        about = json.loads(card.read_text())["training"] if card.exists() else {"done": 0}
        done = about["done"] == about.get("steps")
    if name != "train" or not done:
        assert start(name, tmp_path / "killed") == 0
    want, got = (outcome(name, tmp_path / place) for place in ("straight", "killed"))
    if name != "train":
        assert got == want
        return
    for part, tensors in want.items():
        assert tensors.keys() == got[part].keys()
        assert all(torch.equal(value, got[part][key]) for key, value in tensors.items())
