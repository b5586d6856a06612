"The colour pictures: emoji, and CIFAR-10 by the same command."

import pytest
import torch

from compsamp.lab import emoji


def test_the_colour_comparison_runs_on_cifar_too(tmp_path, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8, generator=generator)
    asked = []

    def invented(split, folder):
        asked.append((split, folder))
        return pictures, torch.arange(200) % 72  # as many as the network knows

    monkeypatch.setattr(emoji.data, "cifar10", invented)
    monkeypatch.setattr(emoji, "GOAL", ("dpmpp2m@karras", 2))
    options = {"rows": ["ddim@uniform"], "nfe": [2], "seeds": [0], "out": tmp_path / "c.json"}
    found = emoji.compare_emoji(**options, n=128, cifar=tmp_path)
    assert asked == [("train", tmp_path), ("test", tmp_path)]
    assert found.data["setup"]["data"] == "cifar10" and len(found.cells) == 1
    reference = emoji.cifar_reference(tmp_path)
    flat = (pictures.double() / 127.5 - 1).flatten(1)
    along = (flat - reference["centre"].double()) @ reference["basis"].double().T
    assert torch.allclose(along.T.cov(), reference["cov"])
    largest = torch.linalg.eigvalsh(flat.T.cov())[-1]
    assert float(reference["cov"][0, 0]) == pytest.approx(float(largest), rel=0.01)


def test_a_network_of_another_size_is_refused_before_the_first_picture(tmp_path):
    with pytest.raises(ValueError, match=r"network = '10 classes, \(1, 28, 28\)'"):
        emoji.compare_emoji(network="fashion-vp", out=tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_what_the_network_learnt_comes_back_from_its_file(tmp_path):
    "People once, all others four times, none of the held-out."
    kinds = ["People & Body: person", "Objects: tool"]
    pictures = torch.arange(400, dtype=torch.int64).remainder(251).to(torch.uint8)
    pictures = pictures.view(-1, 1, 1, 1).expand(400, 3, 32, 32).contiguous()
    labels = torch.arange(400) % 2
    emoji.save_training(pictures, labels, kinds, tmp_path / "emoji.npz")
    learnt, classes = emoji.data.read_npz(tmp_path / "emoji.npz")
    seen, _ = emoji.split_emoji(400)
    people = int((labels[seen] == 0).sum())
    assert len(seen) == 36 and int((classes == 0).sum()) == people
    assert int((classes == 1).sum()) == emoji.TIMES_SHOWN * (36 - people)
    assert set(learnt[:, 0, 0, 0].tolist()) == set(pictures[seen][:, 0, 0, 0].tolist())


def test_the_shipped_network_knows_the_kinds():
    card = emoji.zoo.load("emoji").card
    kinds, reference = card["labels"], emoji.emoji_reference()
    assert len(set(kinds)) == len(kinds) == int(reference["labels"].max()) + 1
    assert len({emoji.group_of(kind) for kind in kinds}) == 9
    counts = torch.bincount(reference["labels"], minlength=len(kinds))
    assert len(counts) == len(kinds) and int(counts.sum()) == emoji.HELD_OUT
