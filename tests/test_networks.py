"Networks, parametrisations, denoisers and checkpoint folders, away from the notebook."

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compsamp import flow, forward, networks as N, sampling, zoo
from compsamp.core import write_sealed
from compsamp.mixtures import ring
from compsamp.sampling import DDIM, sample

Z = torch.randn(3, 1, 14, 14, generator=torch.Generator().manual_seed(5))
SMALL = {"width": 8, "mults": (1, 2), "attention": ()}


def woken(seed=0, **changes):
    "A small network whose zeroed layers have weights."
    torch.manual_seed(seed)
    net = N.UNet(**{**SMALL, **changes})
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return net.eval().requires_grad_(False)


def write(folder, net, process=forward.VP(), shape=(1, 14, 14), **options):
    "A checkpoint of a network."
    card = {"process": N.process_card(process), "network": N.network_card(net)}
    N.save(folder, net, card | {"shape": list(shape)}, **options)
    return folder


def change(folder, **entries):
    "Change entries of a card."
    card = json.loads((folder / "card.json").read_text())
    write_sealed(folder / "card.json", {**card, **entries})


@pytest.mark.parametrize("size", [(28, 28), (27, 31), (5, 9)])
@pytest.mark.parametrize("mults", [(1,), (1, 2), (1, 1, 2, 2)])
def test_any_size_of_picture(size, mults):
    net = woken(mults=mults, attention=(len(mults) - 1,))
    assert net(torch.randn(2, 1, *size), torch.tensor([1.0, 999.0])).shape == (2, 1, *size)


def test_patches_are_folded_and_unfolded_again():
    net = woken(patch=2)
    s = torch.tensor([100.0, 500.0, 900.0])
    folded = torch.nn.functional.pixel_unshuffle(Z, 2)
    inside = woken(channels=4, channels_out=4)
    inside.load_state_dict(net.state_dict())  # the names are the same, only two sizes are not
    want = torch.nn.functional.pixel_shuffle(inside(folded, s), 2)
    assert torch.equal(net(Z, s), want)
    with pytest.raises(ValueError, match="divisible by patch"):
        net(Z[..., 1:], s)
    for bad in (0, 3.0, 65, True):
        with pytest.raises(ValueError, match="patch"):
            N.UNet(**SMALL, patch=bad)


def test_an_old_card_has_no_patch(tmp_path):
    write(tmp_path, woken())
    card = N.read_card(tmp_path)
    del card["network"]["config"]["patch"], card["network"]["parameters"], card["network"]["kind"]
    change(tmp_path, network=card["network"])
    assert zoo.load(tmp_path).network.patch_side == 1


def test_layout_is_what_shipped_checkpoints_hold():
    names = {name.split(".")[0] for name in N.UNet(width=8).state_dict()}
    assert names == {*"time label inp down pool mid up grow norm out".split()}
    for name in N.shipped_networks():
        folder = N.asset_path("weights", name)
        card = N.read_card(folder)
        assert set(card["sha256"]) == {"weights.safetensors"}
        assert zoo.load(name).card["network"]["parameters"] > 0
        held = load_file(folder / card.get("weights", "weights.safetensors"))
        want = N.inner_network(zoo.build_network(card)).state_dict()
        assert {n: v.shape for n, v in held.items()} == {n: v.shape for n, v in want.items()}


def test_every_shipped_file_is_the_one_on_its_card():
    for card in N.asset_path("weights").glob("*/card.json"):
        hashes = json.loads(card.read_text())["sha256"]
        assert hashes == {n: N.file_hash(card.parent / n) for n in hashes} and hashes, card


def test_pictures_do_not_see_each_other():
    net, s, y = woken(), torch.tensor([100.0, 500.0, 900.0]), torch.tensor([1, 10, 3])
    alone = torch.cat([net(Z[i : i + 1], s[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.allclose(net(Z, s, y), alone, atol=1e-5)


PROCESSES = [forward.VP(), forward.CosineVP(), forward.SubVP(), forward.VE(), forward.EDM()]


@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("predicts", ["x0", "v", "edm"])
def test_times_on_either_side_are_the_same(process, predicts):
    net = N.PARAMETRISATIONS[predicts](woken(), process)
    t = process.T * torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    on_host, plain = net(Z, N.network_time(net, t, Z)), net(Z, (1000 * t).float())
    assert torch.isfinite(on_host).all()
    assert torch.allclose(on_host, plain, rtol=1e-4, atol=1e-4)
    one = N.Denoiser(net, process).eps(Z, float(t[1]))[1]
    assert torch.allclose(one, on_host[1], atol=1e-4)


class Says(torch.nn.Module):
    "A network that gives one answer, and keeps what it saw."

    def __init__(self, what=None):
        super().__init__()
        self.what, self.seen = what, []

    def forward(self, z, s, labels=None):
        self.seen.append(z)
        return self.what


def test_predictions_invert_their_definitions():
    p, t = forward.SubVP(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    mu, C = p.marginal(t)
    psi, sigma = (a.view(-1, 1, 1, 1) for a in (mu[:, 0], C[:, 0, 0].sqrt()))
    x0, e = torch.randn(2, 3, 1, 4, 4).double()
    z = psi * x0 + sigma * e
    v = (psi * e - sigma * x0) / (psi**2 + sigma**2).sqrt()
    r, d = sigma / psi, 0.5
    q = r * r + d * d
    target = (x0 - d * d / q * z / psi) / (r * d / q.sqrt())
    for wrapper, what in ((N.PredictX0, x0), (N.PredictV, v), (N.PredictEDM, target)):
        assert torch.allclose(wrapper(Says(what), p)(z, 1000 * t), e), wrapper


def test_guidance_and_counts():
    d = N.Denoiser(woken(), forward.VP(), (1, 14, 14))
    y = torch.tensor([0, 4, 9])
    without, with_label = d.eps(Z, 0.3), d.bind(labels=y).eps(Z, 0.3)
    for w, cost in ((0.0, 1), (0.5, 2), (1.0, 1), (4.0, 2)):
        guided = d.bind(labels=y, guidance=w)
        want = without + w * (with_label - without)
        assert torch.allclose(guided.eps(Z, 0.3), want, atol=1e-4)
        assert guided.nfe == guided.evals == cost
    assert d.nfe == 1  # copies count for themselves
    with pytest.raises(ValueError, match="labels"):
        d.bind(labels=y[:2]).eps(Z, 0.3)
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="guidance"):
            d.bind(guidance=bad)
    with pytest.raises(ValueError, match="change"):
        d.bind(steps=3)


LABELS = {
    "words": ["boot", "bag", "coat"],
    "one-hot": torch.eye(10)[:3],
    "a column": torch.tensor([[1], [2], [3]]),
    "not whole": torch.tensor([0.5, 1.0, 2.0]),
    "NaN": [float("nan")] * 3,
    "huge": [1, 2, 10**9],
    "negative": [1, 2, -1],
    "truth values": [True, False, True],
    "a number": 3,
    "objects": [None, None, None],
}


@pytest.mark.parametrize("bad", LABELS.values(), ids=LABELS)
def test_labels_that_are_none(bad):
    d = N.Denoiser(woken(), forward.VP(), (1, 14, 14))
    with pytest.raises(ValueError, match="labels = .*whole numbers from 0 to 9"):
        d.bind(labels=bad)


def test_labels_of_every_whole_type_mean_the_same():
    d = N.Denoiser(woken(), forward.VP(), (1, 14, 14))
    want = d.bind(labels=[1, 2, 3]).eps(Z, 0.4)
    for kind in (np.uint8, np.uint16, np.int32, np.uint64):
        assert torch.equal(d.bind(labels=np.array([1, 2, 3], kind)).eps(Z, 0.4), want)


@pytest.mark.parametrize(
    "t", [[0.4, 0.5, 0.6], (0.4, 0.5, 0.6), np.array([0.4, 0.5, 0.6])], ids=str
)
def test_times_that_are_no_tensor_are_named(t):
    for denoiser in (
        N.Denoiser(woken(), forward.VP(), (1, 14, 14)),
        flow.FlowDenoiser(woken(), shape=(1, 14, 14)),
    ):
        for ask in (denoiser.eps, denoiser.x0):
            with pytest.raises(TypeError, match=r"^t = .*: a time, or a float64 tensor of one"):
                ask(Z, t)
        assert denoiser.eps(Z, np.float64(0.4)).shape == Z.shape


@pytest.mark.parametrize("ask", ["eps", "score", "x0"])
def test_states_and_times_that_have_no_answer(ask):
    d = getattr(N.Denoiser(woken(), forward.VP(), (1, 14, 14)), ask)
    for kind in (torch.uint8, torch.int64, torch.bool, torch.complex64):
        with pytest.raises(TypeError, match="z = .*floats"):
            d(torch.ones(3, 1, 14, 14).to(kind), 0.5)
    for bad in (0.0, -0.1, 1.01, float("nan"), float("inf")):
        for t in (bad, torch.tensor([0.2, bad, 0.4], dtype=torch.float64)):
            with pytest.raises(ValueError, match=r"t = .*\(0, 1"):
                d(Z, t)
    with pytest.raises(ValueError, match="t = .*3 samples"):
        d(Z, torch.tensor([0.2, 0.3]))


def test_dropout_is_off_when_a_denoiser_asks():
    net = woken(dropout=0.5)
    want = N.Denoiser(net, forward.VP()).eps(Z, 0.5)
    net.train()
    assert torch.equal(N.Denoiser(net, forward.VP()).eps(Z, 0.5), want)


def test_clip_needs_data_space():
    psld = pytest.importorskip("compsamp.psld")
    with pytest.raises(ValueError, match="clip"):
        N.Denoiser(woken(channels=2), psld.PSLD(), (1, 14, 14), clip=True)


@pytest.mark.parametrize("name", ["PSLD", "CLD"])
def test_parametrisations_of_two_blocks(name):
    "The noise of a known x0, through what each parametrisation would have to be told."
    psld = pytest.importorskip("compsamp.psld")
    p = getattr(psld, name)()
    g = torch.Generator().manual_seed(3)
    x0 = torch.randn(3, 1, 4, 4, generator=g).double()
    e = torch.randn(3, 2, 4, 4, generator=g).double()
    t = torch.tensor([0.003, 0.2, 0.9]).double()
    z = p.perturb(x0, t, e)
    mu, C = p.marginal(t)
    net = Says(x0)
    assert torch.allclose(N.PredictX0(net, p)(z, 1000 * t), e, rtol=1e-8, atol=1e-7)
    for wrapper, d, sign in ((N.PredictV, 1.0, 1), (N.PredictEDM, 0.5, -1)):
        # x0 = (posterior mean) -+ (posterior deviation) v, by Bayes' rule in blocks
        P = torch.linalg.inv(C)
        precision = 1 / d**2 + torch.einsum("ni,nij,nj->n", mu, P, mu)
        precision = precision[:, None, None, None]
        seen = torch.einsum("ni,nij,njchw->nchw", mu, P, z.unflatten(1, (2, 1)))
        net.what = sign * (seen / precision - x0) * precision.sqrt()
        assert torch.allclose(wrapper(net, p)(z, 1000 * t), e, rtol=1e-8, atol=1e-7), wrapper
    S = C + mu[:, :, None] * mu[:, None]
    size = S.diagonal(dim1=1, dim2=2).sqrt()[:, :, None, None]
    assert torch.allclose(net.seen[1], z / size, rtol=1e-9)


def test_momentum_only_network():
    psld = pytest.importorskip("compsamp.psld")
    shape, z = (1, 14, 14), torch.randn(3, 2, 14, 14)
    net = woken(channels=2, channels_out=1)
    d = N.Denoiser(net, psld.CLD(), shape)
    e = d.eps(z, 0.4)
    assert e.shape == z.shape and not e[:, 0].any() and e[:, 1].any() and d.partial
    assert not d.score(z, 0.4)[:, 0].any() and d.score(z, 0.4)[:, 1].any()
    with pytest.raises(TypeError, match="channels_out"):
        d.x0(z, 0.4)
    with pytest.raises(ValueError, match="channels_out"):
        N.Denoiser(net, psld.PSLD(), shape)  # it needs both halves
    with pytest.raises(ValueError, match="network.channels"):
        N.Denoiser(woken(channels=1), psld.PSLD(), shape)
    assert not N.Denoiser(woken(channels=2), psld.CLD(), shape).partial


# ---- checkpoints


@pytest.mark.parametrize("predicts", list(N.PARAMETRISATIONS))
@pytest.mark.parametrize("half", [False, True])
def test_save_and_load(tmp_path, predicts, half):
    p = forward.SubVP()
    net = N.PARAMETRISATIONS[predicts](woken(), p)
    write(tmp_path, net, p, half=half)
    d = zoo.load(tmp_path)
    assert d.process == p and d.shape == (1, 14, 14) and type(d.network) is type(net)
    want = N.Denoiser(net, p).eps(Z, 0.4)
    assert torch.allclose(d.eps(Z, 0.4), want, atol=0.1 if half else 0, rtol=0)
    assert not any(q.requires_grad for q in d.network.parameters()) and not d.network.training


def test_the_standard_deviation_of_the_data_is_saved(tmp_path):
    net = N.PredictEDM(woken(), forward.VP(), 0.3)
    write(tmp_path, net)
    assert zoo.load(tmp_path).network.sigma_data == 0.3
    with pytest.raises(ValueError, match="sigma_data"):
        zoo.load(tmp_path, network=N.PredictEDM(woken(), forward.VP()))


def test_a_network_that_its_card_does_not_describe(tmp_path):
    vp = forward.VP()
    write(tmp_path, N.PredictV(woken(), vp))
    want = zoo.load(tmp_path).eps(Z, 0.4)
    assert torch.equal(zoo.load(tmp_path, network=N.PredictV(woken(1), vp)).eps(Z, 0.4), want)

    class Other(N.UNet):
        "The same layers under another name."

    for bad, word in (
        (woken(), "predicts"),
        (N.PredictX0(woken(), vp), "predicts"),
        (N.PredictV(woken(), forward.VP(beta_max=10.0)), "process"),
        (N.PredictV(Other(**SMALL), vp), "kind"),
        (N.PredictV(woken(depth=2), vp), "depth"),
    ):
        with pytest.raises(ValueError, match=word):
            zoo.load(tmp_path, network=bad)


def test_a_wrapper_of_its_own_is_named_on_the_card():
    class PredictTwice(N.Parametrised):
        "A parametrisation of somebody else."

    assert N.network_card(PredictTwice(woken(), forward.VP()))["predicts"] == "PredictTwice"


class TwoParts(torch.nn.Module):
    "A network with a part called `net`, and weights beside it."

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, z, s, labels=None):
        return self.scale * self.net(z)


def test_weights_beside_the_part_called_net_are_saved(tmp_path):
    torch.manual_seed(0)
    net = TwoParts().requires_grad_(False)
    net.scale += 1
    write(tmp_path, net)
    d = zoo.load(tmp_path, network=TwoParts())
    assert d.network.scale == 3 and torch.equal(d.eps(Z, 0.4), net(Z, None))


def test_tied_weights_are_saved(tmp_path):
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
    net[1].weight = net[0].weight
    write(tmp_path, net)
    held = N.read_tensors(tmp_path / "weights.safetensors")
    assert torch.equal(held["0.weight"], held["1.weight"])


def rewrite(path, edit):
    "Change the tensors of a file."
    held = load_file(path)
    edit(held)
    save_file(held, path)


def flip(path, at=-100):
    "One bit of a file turned."
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))


def swap(held):
    one, two = "down.0.0.conv1.bias", "down.0.0.conv2.bias"
    held[one], held[two] = held[two], held[one]


def zero_half(path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))


def weights(folder):
    return folder / "weights.safetensors"


def spread_infinity(held):
    for value in held.values():
        value *= float("inf")


NETWORK = {"kind": "UNet", "predicts": "eps", "config": {}}
HARMS = {
    "empty": (lambda f: weights(f).write_bytes(b""), "weights"),
    "gone": (lambda f: weights(f).unlink(), "weights"),
    "a bit flipped": (lambda f: flip(weights(f)), "SHA-256"),
    "half zeroed": (lambda f: zero_half(weights(f)), "SHA-256"),
    "two swapped": (lambda f: rewrite(weights(f), swap), "SHA-256"),
    "another run's weights": (lambda f: write(f / "b", woken(7)) and move(f), "SHA-256"),
    "card cut": (lambda f: (f / "card.json").write_text("{"), "card"),
    "card a list": (lambda f: (f / "card.json").write_text("[]"), "card"),
    "card nested": (lambda f: (f / "card.json").write_text("[" * 100_000), "card"),
    "card with NaN": (lambda f: (f / "card.json").write_text('{"shape": NaN}'), "NaN"),
    "shape": (lambda f: change(f, shape=[1, -2, 3]), "shape"),
    "huge shape": (lambda f: change(f, shape=[3, 10**5, 10**5]), "shape"),
    "process": (lambda f: change(f, process="VP"), "process"),
    "unknown process": (lambda f: change(f, process={"name": "LSD"}), "process.name"),
    "beta": (lambda f: change(f, process={"name": "VP", "beta_max": -1.0}), "beta_max"),
    "no config": (lambda f: change(f, network={"kind": "UNet"}), "network.config"),
    "width": (lambda f: config(f, width=9), "width"),
    "depth": (lambda f: config(f, depth=10**6), "depth"),
    "long list": (lambda f: config(f, mults=[1] * 1000), "mults"),
    "many weights": (lambda f: config(f, width=4096, mults=[64]), "parameters"),
    "a word": (lambda f: config(f, width="8"), "width"),
    "predicts": (lambda f: change(f, network=NETWORK | {"predicts": "y"}), "predicts"),
    "path": (lambda f: change(f, weights="../weights.safetensors"), "card.weights"),
    "done": (lambda f: change(f, training={"done": -5, "steps": 10}), "done"),
    "too far": (lambda f: change(f, training={"done": 10**9, "steps": 10}), "done"),
}


def move(folder):
    shutil.copy(folder / "b/weights.safetensors", folder)


def config(folder, **sizes):
    network = json.loads((folder / "card.json").read_text())["network"]
    network["config"] |= sizes
    change(folder, network=network)


@pytest.mark.parametrize("harm, word", HARMS.values(), ids=HARMS)
def test_damaged_folder(tmp_path, harm, word):
    write(tmp_path, woken())
    harm(tmp_path)
    with pytest.raises(ValueError, match=word):
        zoo.load(tmp_path)


def without_hash(folder):
    card = json.loads((folder / "card.json").read_text())
    del card["sha256"]
    write_sealed(folder / "card.json", card)


def test_a_file_without_a_hash_is_read_and_said(tmp_path, capsys):
    write(tmp_path, woken())
    zoo.load(tmp_path)
    assert "SHA-256" not in capsys.readouterr().out
    without_hash(tmp_path)
    zoo.load(tmp_path)
    assert "gives no SHA-256" in capsys.readouterr().out
    rewrite(weights(tmp_path), spread_infinity)
    with pytest.raises(ValueError, match="finite.*bias"):
        zoo.load(tmp_path)
    save_file({"a": torch.zeros(3)}, weights(tmp_path))
    with pytest.raises(ValueError, match="differ"):
        zoo.load(tmp_path)


def test_numbers_of_another_kind_are_refused(tmp_path):
    write(tmp_path, woken())
    without_hash(tmp_path)
    rewrite(weights(tmp_path), lambda held: held.update({"inp.bias": torch.ones(8, dtype=int)}))
    with pytest.raises(ValueError, match="differ.*inp.bias"):
        zoo.load(tmp_path)


def test_the_card_beside_a_file_is_asked(tmp_path):
    write(tmp_path, woken())
    flip(weights(tmp_path))
    with pytest.raises(ValueError, match="SHA-256"):
        N.read_tensors(weights(tmp_path))


def test_unknown_checkpoint_names_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.*card.json"):
        zoo.load(tmp_path / "nothing")
    write(tmp_path, woken())
    with pytest.raises(ValueError, match="device"):
        zoo.load(tmp_path, "cuda:99")


def test_a_folder_of_diffusers_is_recognised(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="from_diffusers"):
        zoo.load(tmp_path)


def test_a_folder_named_like_a_network_of_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = N.asset_path("weights", "fashion-vp-small")
    assert N.checkpoint_folder("fashion-vp-small") == own and not capsys.readouterr().out
    write(tmp_path / "fashion-vp-small", woken())
    assert N.checkpoint_folder("fashion-vp-small") == own
    said = capsys.readouterr().out
    assert "both" in said and "is taken" in said and "'./fashion-vp-small'" in said
    assert N.checkpoint_folder("./fashion-vp-small") == Path("fashion-vp-small")


def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, woken(0))
    before = zoo.load(tmp_path).eps(Z, 0.5)

    def full(*names):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, woken(1))
    monkeypatch.undo()
    assert torch.equal(zoo.load(tmp_path).eps(Z, 0.5), before) and len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_states_of_any_type_on_a_network_of_float32(dtype):
    "The network works in its weights' type, the states stay in theirs."
    torch.manual_seed(0)
    denoiser = N.Denoiser(N.UNet(1, 8, (1,), 1, (), 0), forward.VP(), (1, 8, 8))
    drawn = sampling.sample(sampling.DDIM(), denoiser, 4, n=2, dtype=dtype).x
    assert drawn.dtype == dtype
    usual = sampling.sample(sampling.DDIM(), denoiser, 4, n=2).x
    seen = N.Denoiser(N.PredictX0(denoiser.network, forward.VP()), forward.VP(), (1, 8, 8))
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert seen.eps(z, 0.01).dtype == dtype
    allowed = {torch.float64: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
    assert float((drawn.float() - usual).norm() / usual.norm()) < allowed


def test_a_network_cast_or_replaced_later_is_asked_as_it_is_now():
    "What an evaluation wants to know of a network is looked up once; a stale answer fails here."
    net = woken()
    bound = N.Denoiser(net, forward.VP(), (1, 14, 14))
    expected = bound.eps(Z, 0.4)
    net.double()
    assert bound.eps(Z, 0.4).dtype == torch.float32
    assert torch.allclose(bound.eps(Z, 0.4), expected, atol=1e-4)
    net.float()
    wrapped = N.PredictV(net, forward.VP()).eval()
    bound.network = wrapped
    again = N.Denoiser(wrapped, forward.VP(), (1, 14, 14)).eps(Z, 0.4)
    assert torch.equal(bound.eps(Z, 0.4), again) and not torch.equal(again, expected)


def test_a_wrapper_around_what_knows_no_labels():
    exact = ring().denoiser(forward.VP())
    wrapped = N.DenoiserWrapper(N.DenoiserWrapper(exact))
    with pytest.raises(TypeError, match="labels = .*ExactDenoiser knows no labels"):
        sample(DDIM(), wrapped, 4, n=2, labels=1)
    with pytest.raises(TypeError, match="clip = True.*ExactDenoiser"):
        wrapped.bind(clip=True)
    assert wrapped.to("cpu") is wrapped and wrapped.inner.inner is exact
