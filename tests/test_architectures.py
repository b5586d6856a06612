"Networks trained for the same time: what is built, what is refused, what is kept."

import pytest
import torch

from compsamp.forward import VP
from compsamp.lab import architectures
from compsamp.lab.architectures import (
    PatchTransformer,
    build,
    compare_architectures,
    compare_averages,
    held_out_error,
    read_architectures,
)
from compsamp.networks import Denoiser

SMALL = {"names": ["U-Net on 2 x 2 patches, width 32"], "rates": (1e-3,), "n": 128, "small": True}


@pytest.mark.parametrize("name", read_architectures())
def test_every_record_makes_a_network_of_the_noise(name):
    net = build(read_architectures()[name], VP(), seed=0)
    z, t = torch.randn(2, 1, 28, 28), torch.tensor([10.0, 900.0])
    assert net(z, t, torch.tensor([3, 9])).shape == z.shape
    again = build(read_architectures()[name], VP(), seed=0)
    pairs = zip(net.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_unknown_kind_is_refused():
    record = next(iter(read_architectures().values())) | {"kind": "mixer"}
    with pytest.raises(ValueError, match="kind = 'mixer'.*unet"):
        build(record, VP(), 0)


def test_the_transformer_hears_time_and_label():
    net = PatchTransformer(width=32, blocks=1)
    torch.nn.init.normal_(net.out.weight)
    z = torch.randn(1, 1, 28, 28)
    first = net(z, torch.tensor([10.0]), torch.tensor([0]))
    assert not torch.equal(first, net(z, torch.tensor([900.0]), torch.tensor([0])))
    assert not torch.equal(first, net(z, torch.tensor([10.0]), torch.tensor([1])))
    no_label = torch.tensor([net.classes])
    assert torch.equal(net(z, torch.tensor([10.0])), net(z, torch.tensor([10.0]), no_label))


def test_the_error_of_silence_is_the_noise_itself():
    images = torch.full((8, 1, 28, 28), 128, dtype=torch.uint8)

    def silence(z, t, labels=None):
        return torch.zeros_like(z)

    silence.classes = 10
    denoiser = Denoiser(silence, VP(), (1, 28, 28))
    error = held_out_error(denoiser, images, torch.zeros(8, dtype=torch.int64), rounds=4)
    assert abs(error - 1) < 0.05


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"names": ["U-Net, width 17"]}, "names"),
        ({"seconds": 0.0}, "seconds"),
        ({"n": 5}, "n"),
        ({"rates": (-1.0,)}, "rates"),
        ({"out": "architectures.png"}, "out"),
    ],
)
def test_wrong_settings_are_named_before_the_work(wrong, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(architectures, "train_for", None)
    with pytest.raises(ValueError, match=f"^{name} = "):
        compare_architectures(**{"out": "a.json", "seconds": 0.5, **SMALL, **wrong})


def test_what_is_finished_is_kept_and_another_set_up_refused(tmp_path, monkeypatch):
    out = tmp_path / "a.json"
    first = compare_architectures(out, seconds=0.2, **SMALL).data["cells"]
    assert len(first) == 1 and first[0]["steps"] >= 4 and first[0]["error"] < 1.5
    before = out.read_bytes()
    with pytest.raises(ValueError, match="seconds"):
        compare_architectures(out, seconds=0.3, **SMALL)
    assert out.read_bytes() == before
    monkeypatch.setattr(architectures, "train_for", None)  # a finished cell is not trained again
    assert compare_architectures(out, seconds=0.2, **SMALL).data["cells"] == first


FEW = {"half_lives": (0, 2), "marks": (1, 2), "seeds": (0,), "batch": 8, "n": 128, "small": True}


@pytest.mark.parametrize(
    "wrong, name",
    [
        ({"marks": ()}, "marks"),
        ({"marks": (3, 2)}, "marks"),
        ({"half_lives": ()}, "half_lives"),
        ({"half_lives": (-1,)}, "half_lives"),
        ({"seeds": ()}, "seeds"),
        ({"out": "means.txt"}, "out"),
    ],
)
def test_wrong_means_are_named_before_the_work(wrong, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=name):
        compare_averages(**{"out": "means.json", **FEW, **wrong})


def test_means_that_were_cut_off_go_on(tmp_path, monkeypatch):
    "A seed is trained again from its start; what was measured stays, what follows is the same."
    whole = compare_averages(tmp_path / "a.json", **FEW).data["cells"]
    part = tmp_path / "b.json"
    measure, calls = architectures.generate_and_score, []

    def cut_off(*args, **kwargs):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(architectures, "generate_and_score", cut_off)
        with pytest.raises(KeyboardInterrupt):
            compare_averages(part, **FEW)
    resumed = compare_averages(part, **FEW).data
    assert resumed["command"].endswith("small=True)")
    for cell, other in zip(resumed["cells"], whole, strict=True):
        for key in ("seed", "step", "half_life", "error", "frechet"):
            assert cell[key] == pytest.approx(other[key], rel=1e-6), key
