"""Networks, parametrisations, denoisers and checkpoint folders, away from the notebook."""

import errno, json, os
import pytest, torch
from safetensors.torch import load_file, save_file
from compsamp import forward, networks as N


def woken(seed=0, **kw):
    torch.manual_seed(seed)
    net = N.UNet(**{**dict(width=8, mults=(1, 2), attention=()), **kw})
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return net.eval().requires_grad_(False)


def write(folder, net, process=forward.VP(), predicts="eps", shape=(1, 14, 14), **kw):
    N.save(
        folder,
        net,
        dict(
            process=N.process_card(process),
            network=dict(kind="UNet", predicts=predicts, config=getattr(net, "net", net).config),
            shape=list(shape),
        ),
        **kw,
    )
    return folder


Z = torch.randn(3, 1, 14, 14, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("size", [(28, 28), (27, 31), (8, 8), (5, 9)])
@pytest.mark.parametrize("mults", [(1,), (1, 2), (1, 2, 2), (1, 1, 2, 2)])
def test_any_size_of_picture(size, mults):
    net = woken(mults=mults, attention=(len(mults) - 1,))
    assert net(torch.randn(2, 1, *size), torch.tensor([1.0, 999.0])).shape == (2, 1, *size)


def test_layout_is_what_shipped_checkpoints_hold():
    names = list(N.UNet(width=8).state_dict())
    assert {n.split(".")[0] for n in names} == {
        "time",
        "label",
        "inp",
        "down",
        "pool",
        "mid",
        "up",
        "grow",
        "norm",
        "out",
    }
    for name in N.shipped_networks():
        card = N.read_card(N.WEIGHTS / name)
        held = load_file(N.WEIGHTS / name / card.get("weights", "weights.safetensors"))
        net = zoo.build_network(card)
        assert {n: v.shape for n, v in held.items()} == {
            n: v.shape for n, v in getattr(net, "net", net).state_dict().items()
        }
        assert zoo.load(name).card["network"]["parameters"] == N.count_parameters(net)


def test_pictures_do_not_see_each_other():
    net, s, y = woken(), torch.tensor([100.0, 500.0, 900.0]), torch.tensor([1, 10, 3])
    alone = torch.cat([net(Z[i : i + 1], s[i : i + 1], y[i : i + 1]) for i in range(3)])
    assert torch.allclose(net(Z, s, y), alone, atol=1e-5)


@pytest.mark.parametrize(
    "process", [forward.VP(), forward.CosineVP(), forward.SubVP(), forward.VE(), forward.EDM()]
)
@pytest.mark.parametrize("predicts", ["x0", "v", "edm"])
def test_times_on_either_side_are_the_same(process, predicts):
    net = N.PARAMETRISATIONS[predicts](woken(), process)
    t = process.T * torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    a, b = net(Z, N.network_time(net, t, Z)), net(Z, (1000 * t).float())
    assert torch.isfinite(a).all() and torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    assert torch.allclose(N.Denoiser(net, process).eps(Z, float(t[1]))[1], a[1], atol=1e-4)


def test_predictions_invert_their_definitions():
    p, t = forward.SubVP(), torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    mu, C = p.marginal(t)
    psi, sigma = (a.view(-1, 1, 1, 1) for a in (mu[:, 0], C[:, 0, 0].sqrt()))
    x0, e = torch.randn(2, 3, 1, 4, 4).double()
    z = psi * x0 + sigma * e

    class Says(torch.nn.Module):
        def __init__(self, what):
            super().__init__()
            self.what = what

        def forward(self, z, s, labels=None):
            return self.what

    for cls, what in (
        (N.PredictX0, x0),
        (N.PredictV, (psi * e - sigma * x0) / (psi**2 + sigma**2).sqrt()),
    ):
        assert torch.allclose(cls(Says(what), p)(z, 1000 * t), e)
    r, d = sigma / psi, 0.5
    q = r * r + d * d
    assert torch.allclose(
        N.PredictEDM(Says((x0 - d * d / q * z / psi) / (r * d / q.sqrt())), p)(z, 1000 * t), e
    )


def test_guidance_and_counts():
    d = N.Denoiser(woken(), forward.VP(), (1, 14, 14))
    y = torch.tensor([0, 4, 9])
    u, c = d.eps(Z, 0.3), d.bind(labels=y).eps(Z, 0.3)
    for w, cost in ((0.0, 1), (0.5, 2), (1.0, 1), (4.0, 2)):
        g = d.bind(labels=y, guidance=w)
        assert (
            torch.allclose(g.eps(Z, 0.3), u + w * (c - u), atol=1e-4) and g.nfe == g.evals == cost
        )
    assert d.nfe == 1  # copies count for themselves
    with pytest.raises(ValueError, match="labels"):
        d.bind(labels=y[:2]).eps(Z, 0.3)
    with pytest.raises(ValueError, match="labels"):
        d.bind(labels=torch.tensor([0.5, 1.0, 2.0]))
    for bad in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="guidance"):
            d.bind(guidance=bad)
    with pytest.raises(ValueError, match="change"):
        d.bind(steps=3)


def test_clip_needs_data_space():
    psld = pytest.importorskip("compsamp.psld")
    with pytest.raises(ValueError, match="clip"):
        N.Denoiser(woken(channels=2), psld.PSLD(), (1, 14, 14), clip=True)


@pytest.mark.parametrize("name", ["PSLD", "CLD"])
def test_parametrisations_of_two_blocks(name):
    """The noise of a known x0, through what each parametrisation would have to be told; the formulas written out anew."""
    psld = pytest.importorskip("compsamp.psld")
    p = getattr(psld, name)()
    g = torch.Generator().manual_seed(3)
    x0, e, t = (
        torch.randn(3, 1, 4, 4, generator=g).double(),
        torch.randn(3, 2, 4, 4, generator=g).double(),
        torch.tensor([0.003, 0.2, 0.9]).double(),
    )
    z = p.perturb(x0, t, e)
    mu, C = p.marginal(t)
    seen = []

    class Says(torch.nn.Module):
        def forward(self, z, s, labels=None):
            seen.append(z)
            return self.what

    for cls, d in ((N.PredictX0, None), (N.PredictV, 1.0), (N.PredictEDM, 0.5)):
        net = Says()
        net.what = x0
        if d:  # x0 = (posterior mean) -+ (posterior standard deviation) v, by Bayes' rule in blocks
            P = torch.linalg.inv(C)
            prec = 1 / d**2 + torch.einsum("ni,nij,nj->n", mu, P, mu)
            guess = (
                torch.einsum("ni,nij,njchw->nchw", mu, P, z.unflatten(1, (2, 1)))
                / prec[:, None, None, None]
            )
            net.what = (
                (guess - x0) * prec.sqrt()[:, None, None, None] * (1 if cls is N.PredictV else -1)
            )
        assert torch.allclose(cls(net, p)(z, 1000 * t), e, rtol=1e-8, atol=1e-7), cls
    S = C + mu[:, :, None] * mu[:, None]
    assert torch.allclose(
        seen[1], z / S.diagonal(dim1=1, dim2=2).sqrt()[:, :, None, None], rtol=1e-9
    )


def test_momentum_only_network():
    psld = pytest.importorskip("compsamp.psld")
    shape = (1, 14, 14)
    z = torch.randn(3, 2, 14, 14)
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


@pytest.mark.parametrize("predicts", list(N.PARAMETRISATIONS))
@pytest.mark.parametrize("half", [False, True])
def test_save_and_load(tmp_path, predicts, half):
    p = forward.SubVP()
    net = N.PARAMETRISATIONS[predicts](woken(), p)
    write(tmp_path, net, p, predicts, half=half)
    d = zoo.load(tmp_path)
    assert d.process == p and d.shape == (1, 14, 14) and type(d.network) is type(net)
    assert torch.allclose(
        d.eps(Z, 0.4), N.Denoiser(net, p).eps(Z, 0.4), atol=0.1 if half else 0, rtol=0
    )
    assert not any(q.requires_grad for q in d.network.parameters()) and not d.network.training


@pytest.mark.parametrize(
    "break_it, word",
    [
        (lambda f: (f / "weights.safetensors").write_bytes(b""), "weights"),
        (lambda f: (f / "weights.safetensors").unlink(), "weights"),
        (lambda f: (f / "card.json").write_text("{"), "card"),
        (lambda f: (f / "card.json").write_text("[]"), "card"),
        (lambda f: (f / "card.json").write_text("null"), "card"),
        (lambda f: change(f, shape=[1, -2, 3]), "shape"),
        (lambda f: change(f, process="VP"), "process"),
        (lambda f: change(f, process=dict(name="LSD")), "process.name"),
        (lambda f: change(f, process=dict(name="VP", beta_max=-1.0)), "beta_max"),
        (lambda f: change(f, network=dict(kind="UNet")), "network.config"),
        (lambda f: change(f, network=dict(kind="UNet", config=dict(width=9))), "width"),
        (lambda f: change(f, network=dict(config={}, predicts="y")), "predicts"),
        (
            lambda f: save_file(
                {n: v * float("inf") for n, v in load_file(f / "weights.safetensors").items()},
                f / "weights.safetensors",
            ),
            "finite",
        ),
        (lambda f: save_file({"a": torch.zeros(3)}, f / "weights.safetensors"), "differ"),
    ],
)
def test_damaged_folder(tmp_path, break_it, word):
    write(tmp_path, woken())
    break_it(tmp_path)
    with pytest.raises(ValueError, match=word):
        zoo.load(tmp_path)


def change(folder, **kw):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **kw}))


def test_unknown_checkpoint_names_those_there_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.*card.json"):
        zoo.load(tmp_path / "nothing")
    write(tmp_path, woken())
    with pytest.raises(ValueError, match="device"):
        zoo.load(tmp_path, "cuda:99")


def test_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    write(tmp_path, woken(0))
    before = zoo.load(tmp_path).eps(Z, 0.5)

    def full(*a):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path, woken(1))
    monkeypatch.undo()
    assert torch.equal(zoo.load(tmp_path).eps(Z, 0.5), before) and len(list(tmp_path.iterdir())) == 2
