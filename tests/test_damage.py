"200 damages to every kind of file: refused by name, or harmless and what is read is the same."

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from compsamp import compensation, data, metrics, networks, training, zoo
from compsamp.experiment import Results, read_results
from compsamp.forward import VP
from compsamp.lab.emoji import emoji_reference

DAMAGES = 200
REFUSALS = (ValueError, TypeError, FileNotFoundError)


def flip_bit(path: Path, dice: random.Random):
    raw = bytearray(path.read_bytes())
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    path.write_bytes(raw)


def cut(path: Path, dice: random.Random):
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def blank_a_part(path: Path, dice: random.Random):
    raw = bytearray(path.read_bytes())
    first = dice.randrange(len(raw))
    length = dice.randrange(1, len(raw) - first + 1)
    raw[first : first + length] = bytes(length)
    path.write_bytes(raw)


def append(path: Path, dice: random.Random):
    path.write_bytes(path.read_bytes() + dice.randbytes(dice.randrange(1, 64)))


def repeat_a_part(path: Path, dice: random.Random):
    raw = path.read_bytes()
    at = dice.randrange(len(raw))
    path.write_bytes(raw[:at] + raw[max(0, at - 40) :])


RAW = (flip_bit, cut, blank_a_part, append, repeat_a_part)
VALUES = (None, -1, 0, 1e300, 10**9, "x", [], {}, True, [1, 2, 3])


def entries(content) -> list:
    "(container, key) of every entry of a JSON document."
    found = []
    pairs = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in pairs:
        found.append((content, key))
        if isinstance(value, dict | list):
            found += entries(value)
    return found


def change_an_entry(path: Path, dice: random.Random):
    content = json.loads(path.read_text())
    holder, key = dice.choice(entries(content))
    holder[key] = dice.choice(VALUES)
    path.write_text(json.dumps(content))


def drop_an_entry(path: Path, dice: random.Random):
    content = json.loads(path.read_text())
    holder, key = dice.choice(entries(content))
    del holder[key]
    path.write_text(json.dumps(content))


JSON_TOO = (*RAW, change_an_entry, drop_an_entry, change_an_entry)


def harm(path: Path, dice: random.Random):
    "One damage of a random kind."
    ways = JSON_TOO if path.suffix == ".json" else RAW
    dice.choice(ways)(path, dice)


# What is read from each kind of file


def state(module) -> dict:
    return {name: value.clone() for name, value in module.state_dict().items()}


def read_network(folder):
    denoiser = zoo.load(folder)
    return state(denoiser.network), denoiser.process, denoiser.shape


def read_module(folder):
    module = compensation.load_module(folder)
    return state(module), module.card["process"], module.card["shape"]


def read_classifier(folder):
    return (state(metrics.load_classifier(folder=folder)),)


def read_run(folder):
    run = small_run().resume(folder)
    return state(run.net), state(run.ema_net), run.done, run.losses


def read_table(folder):
    held = read_results(folder / "results.json")
    return held["setup"], held["cells"]


def read_pictures(folder):
    images, labels = data.read_npz(folder / "pictures.npz")
    return images, labels


def read_moments(folder):
    return tuple(emoji_reference(folder / "emoji.npz").values())


def small_run() -> training.Trainer:
    torch.manual_seed(0)
    network = networks.UNet(1, 8, (1,), 1, (), 2)
    images = torch.arange(16 * 49, dtype=torch.int64).remainder(256).to(torch.uint8)
    labels = torch.arange(16) % 2
    return training.Trainer(
        network, VP(), images.reshape(16, 1, 7, 7), labels, steps=8, batch=4, warmup=1
    )


# How each is written


def write_network(folder):
    torch.manual_seed(0)
    net = networks.UNet(1, 8, (1,), 1, (), 2)
    with torch.no_grad():
        net.out.weight.normal_()
    card = {"process": networks.process_card(VP()), "network": networks.network_card(net)}
    networks.save(folder, net, card | {"shape": [1, 7, 7], "name": "small"})


def write_module(folder):
    for path in networks.asset_path("weights", "fashion-vp-small-stretch").iterdir():
        shutil.copy(path, folder)


def write_classifier(folder):
    metrics.save_classifier(metrics.Classifier(), folder, test_accuracy=0.5)


def write_run(folder):
    run = small_run()
    for _ in range(3):
        run.step()
    run.save(folder)


def write_table(folder):
    results = Results(folder / "results.json", {"n": 500, "network": "x"}, "compsamp_measure")
    for seed in range(5):
        results.add(row="ddim", seed=seed, frechet=0.5 + seed / 7)


def write_pictures(folder):
    dice = np.random.default_rng(0)
    pictures = dice.integers(0, 256, (4, 1, 7, 7), dtype=np.uint8)
    np.savez_compressed(folder / "pictures.npz", images=pictures, labels=np.arange(4))


def write_moments(folder):
    shutil.copy(networks.asset_path("data", "emoji.npz"), folder / "emoji.npz")


KINDS = {
    "network": (write_network, read_network),
    "module": (write_module, read_module),
    "classifier": (write_classifier, read_classifier),
    "run": (write_run, read_run),
    "results": (write_table, read_table),
    "pictures": (write_pictures, read_pictures),
    "moments": (write_moments, read_moments),
}


def same(a, b) -> bool:
    "Are two things that were read equal?"
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_damages_are_refused_or_harmless(kind, tmp_path, capsys):
    write, read = KINDS[kind]
    sound, hurt = tmp_path / "sound", tmp_path / "hurt"
    sound.mkdir()
    write(sound)
    want = read(sound)
    names = sorted(path.name for path in sound.iterdir())
    dice = random.Random(kind)
    refused = 0
    for turn in range(DAMAGES):
        shutil.rmtree(hurt, ignore_errors=True)
        shutil.copytree(sound, hurt)
        name = names[turn % len(names)]
        harm(hurt / name, dice)
        try:
            got = read(hurt)
        except REFUSALS as error:
            refused += 1
            assert "=" in str(error) or ":" in str(error), (kind, turn, error)
            continue
        assert same(want, got), (kind, turn, name)
    assert refused > DAMAGES / 2, refused
