"""Inpainting: masks, replacement against its law and against a loop written out here, the
conditional network, guidance, the shell, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from compsamp import commands, compensation, data, inpainting as P, networks, training, zoo
from compsamp.core import Noise
from compsamp.forward import EDM, VE, VP, CosineVP, NoisePredictor, SubVP
from compsamp.inpainting import DAMAGE_KINDS, Replaced, damage, masks, resampled, restore
from compsamp.lab import inpainting as lab_inpainting
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import CLD, PSLD, SSCS
from compsamp.restart import RestartInterval, restart
from compsamp.sampling import (
    DDIM,
    DDPM,
    DPMpp2M,
    EDMHeun,
    EulerMaruyama,
    Heun,
    as_route,
    grid,
    nfe,
    sample,
    states,
)

X = data.to_model(P.heldout(8)[0])
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), CLD()]


class Toy(NoisePredictor):
    shape = (1, 28, 28)

    def predict(self, z, t):
        return torch.sin(1.3 * z / (1 + t) + t)


def last(it):
    for z in it:
        pass
    return z


# ---- masks and occluders


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
@pytest.mark.parametrize("side", [8, 28, 33, 64])
def test_masks_hide_something_and_not_all(kind, side):
    m = masks(kind, 20, side, 3)
    assert m.shape == (20, 1, side, side) and m.dtype == torch.bool
    share = (~m).flatten(1).double().mean(1)
    assert 0.02 < share.min() and share.max() < 0.97, share
    assert torch.equal(m[7:9], masks(kind, 2, side, 3, first=7)) and (
        kind in ("centre", "expand") or not torch.equal(m, masks(kind, 20, side, 4))
    )


def test_half_is_half_and_expand_the_reverse_of_centre():
    assert (masks("half", 9).flatten(1).sum(1) == 392).all() and torch.equal(
        masks("expand"), ~masks("centre")
    )
    assert len({tuple(m.flatten().tolist()) for m in masks("half", 40)}) == 4


def test_damage_keeps_what_is_known_and_fills_the_rest():
    m, seen = damage(X, "mixed")
    keep = m.expand_as(X)
    assert torch.equal(seen[keep], X[keep])
    for i, kind in enumerate(DAMAGE_KINDS):
        hidden = seen[i][~m[i]]
        assert (hidden == 0).all() if kind in P.MASKS else not (hidden == 0).all(), kind
    pool = torch.full((1, 1, 28, 28), 0.25)
    m, seen = damage(X, "glasses", others=pool)
    assert (seen[~m] == 0.25).all()


# ---- replacement


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_replaced_part_has_the_law_of_the_process(process):
    n = 4000
    x = torch.full((n, 1, 8, 8), 0.7, dtype=torch.float64)
    mask = masks("half", 1, 8).expand(n, -1, -1, -1)
    times = grid(process, 6)
    draw = Noise(0, n, (process.k, 8, 8), 0, torch.float64)
    z = process.prior((n, process.k, 8, 8), draw())
    net = Toy(process)
    for z, t in zip(
        list(states(Replaced(EulerMaruyama(), x, mask), net, times, z, draw, denoise=False))[1:],
        times[1:],
    ):
        mu, C = process.marginal(t)
        keep = mask[0, 0]
        got = z[:, :, keep].movedim(1, -1).reshape(-1, process.k)
        m = got.mean(0)
        S = torch.cov(got.T).reshape(process.k, process.k)
        s = C.diagonal().sqrt()
        N = len(got)
        assert ((m - 0.7 * mu).abs() < 5 * s / N**0.5).all(), (float(t), m, mu)
        assert ((S - C).abs() / (s[:, None] * s) < 6 * (2 / N) ** 0.5).all(), (float(t), S, C)


@pytest.mark.parametrize(
    "process, sampler", [(VP(), DDPM()), (PSLD(), EulerMaruyama()), (PSLD(), SSCS())]
)
def test_against_a_loop(process, sampler):
    b, shape = 3, (3, process.k, 28, 28)
    mask = masks("mixed", 3)
    net = Toy(process)
    times = grid(process, 5)
    noise = Noise(2, b, shape[1:])
    z = start = process.prior(shape, noise())
    keep = mask.expand(shape)
    for t, s in zip(
        times, times[1:]
    ):  # one step of the bare sampler, then q(z_s | x0) on what is known
        z = last(states(sampler, net, [float(t), float(s)], z, noise, denoise=False))
        z = torch.where(keep, process.perturb(X[:3], float(s), noise()), z)
    noise = Noise(2, b, shape[1:])
    noise()
    got = last(states(Replaced(sampler, X[:3], mask), net, times, start, noise, denoise=False))
    assert torch.allclose(got, z, atol=1e-5)


def test_facts_are_the_samplers():
    for s in (DDIM(), DDIM(1.0), Heun(), SSCS(), DPMpp2M()):
        r = Replaced(s, X, masks("half"))
        assert (r.k, r.evals, r.order, r.draws) == (s.k, s.evals, s.order, s.draws + 1) and nfe(
            r, 9
        ) == nfe(s, 9)


def test_plain_restoration():
    d = zoo.load("fashion-vp")
    m, seen = damage(X, "mixed")
    before = seen.clone()
    a = restore(d, seen, m, times=6, seed=5, batch=3)
    b = restore(d, X, m.float(), times=6, seed=5, batch=7)
    assert torch.allclose(a.x, b.x, atol=1e-5) and a.nfe == 6, (
        "another batch, and other hidden pixels"
    )
    assert torch.equal(a.x[m], X[m]) and torch.equal(seen, before) and a.x.abs().max() <= 1
    c = restore(d, X[5:], m[5:], times=6, seed=5, first=5)
    assert torch.allclose(c.x, a.x[5:], atol=1e-5)
    assert not torch.allclose(restore(d, X, m, times=6, seed=6).x, a.x, atol=1e-2)


def test_two_blocks():
    d = zoo.load("fashion-psld")
    m = masks("thick", 3)
    got = restore(d, X[:3], m, times=5)
    assert torch.equal(got.x[m], X[:3][m]) and got.x.shape == (3, 1, 28, 28)


@pytest.mark.parametrize("n, jump, repeats", [(17, 4, 2), (9, 2, 1), (10, 3, 3), (10, 4, 0)])
def test_resampled_price_and_shape(n, jump, repeats):
    route = resampled(VP(), n, jump, repeats)
    got = nfe(DDIM(), route)
    assert got == n + repeats * jump * ((n - 1) // jump)
    d = Toy(VP())
    x, m = X[:2], masks("centre", 1)
    r = restore(d, x, m, DDIM(1.0), route)
    assert r.nfe == d.nfe == got


def test_routes_with_a_sampler_of_their_own_inside():
    d, m = Toy(VP()), masks("centre", 1)
    ups = [RestartInterval.from_sigma(VP(), 0.1, 1.0, 3, 2)]
    route = restart(VP(), 8, ups, inside=EDMHeun())
    _, wrapped = P.with_replacement(DDIM(), route, X, m)
    assert (
        isinstance(wrapped.inside, Replaced)
        and wrapped.inside.inner == EDMHeun()
        and isinstance(route.inside, EDMHeun)
    )
    assert torch.equal(restore(d, X, m, DDIM(), route).x[m.expand_as(X)], X[m.expand_as(X)])


# ---- the conditional network


def fresh():
    d = zoo.load("fashion-vp")
    return d, networks.Denoiser(P.conditional(d), d.process, d.shape)


def test_conditional_begins_as_the_plain_network():
    d, c = fresh()
    m, seen = damage(X, "mixed")
    z = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for t in (0.01, 0.4, 1.0):
        assert torch.allclose(P.condition_on(c, seen, m).predict(z, t), d.predict(z, t), atol=1e-4)
    with pytest.raises(ValueError, match="state, picture and mask"):
        c.eps(z, 0.5)
    with pytest.raises(TypeError, match="Conditional"):
        P.condition_on(d, seen, m)
    with pytest.raises(ValueError, match="8 pictures"):
        P.condition_on(c, seen, m).eps(z[:3], 0.5)


def test_what_a_conditional_network_sees():
    d, c = fresh()
    torch.nn.init.normal_(c.network.net.inp.weight, std=0.3)
    m = masks("half", 8)
    other = torch.where(m, X, torch.full_like(X, 0.3))
    a, b, blind = (restore(c, x, k, times=3).x for x, k in ((X, m), (other, m), (other, None)))
    assert torch.equal(a, b), "hidden pixels are not looked at"
    assert not torch.equal(blind, b) and not torch.equal(blind[m], X[m])
    assert not torch.equal(restore(c, -X, m, times=3).x[~m], a[~m]), "known pixels are"
    assert torch.allclose(restore(c, X, m, times=3, batch=3).x, a, atol=1e-5)


def test_training_learns_and_resumes(tmp_path):
    def make():
        return training.Trainer(
            fresh()[1].network.requires_grad_(True),
            VP(),
            data.embedded(64)[0],
            None,
            steps=4,
            batch=16,
            lr=1e-3,
            warmup=1,
            amp=False,
            seed=1,
            objective=P.Restoration(),
        )

    a = make()
    [a.step() for _ in range(4)]
    b = make()
    b.step()
    b.step()
    b.save(tmp_path)
    c = make().resume(tmp_path)
    c.step()
    c.step()
    assert (
        all(torch.equal(x, y) for x, y in zip(a.means, c.means))
        and a.net.net.inp.weight[:, 1:].abs().max() > 0
    )
    assert zoo.load_conditional(tmp_path).network.net.inp.weight.shape[1] == 3
    with pytest.raises(ValueError, match="network.kind"):
        zoo.load(tmp_path)
    with pytest.raises(ValueError, match="network.kind"):
        zoo.load_conditional("fashion-vp")


def test_blind_share():
    x = X.repeat(16, 1, 1, 1)
    dice = training.StepRandom(0, 0, "cpu")
    assert (P.Restoration(blind=0.0).views(x, dice)[:, -1].abs() == 1).all() and (
        P.Restoration(blind=1.0).views(x, dice)[:, -1] == 0
    ).all()
    v = P.Restoration(blind=0.5).views(x, training.StepRandom(0, 0, "cpu"))
    assert 30 < int((v[:, -1].flatten(1).abs().sum(1) == 0).sum()) < 98
    told = v[:, -1].flatten(1).abs().sum(1) > 0
    hidden = v[told][:, 1] < 0
    assert (v[told][:, 0][hidden] == 0).all()


def test_compensated_restoration():
    d, c = fresh()
    module = compensation.light_module(c)
    m = masks("half", 8)
    with torch.no_grad():
        module.out.bias.fill_(0.5)
    a = restore(c, X, m, times=3).x
    b = restore(compensation.Compensated(c, module), X, m, times=3)
    assert b.nfe == 3 and not torch.equal(a, b.x) and torch.equal(b.x[m], X[m])
    assert torch.equal(restore(compensation.Compensated(c, module, 0.0), X, m, times=3).x, a)
    loss = P.RestorationModule(c)(module, None, VP(), X, None, training.StepRandom(0, 0, "cpu"))
    assert torch.isfinite(loss) and loss.requires_grad


def test_module_of_another_process_size_or_network(tmp_path, files, capsys):
    (tmp, u, m, x, mask), c = files, zoo.load_conditional()
    own = compensation.load_module(networks.WEIGHTS / "fashion-inpaint-module", c)
    assert P.compensated(c).module.card == own.card
    for d, says in [
        (networks.Denoiser(c.network, CosineVP(), c.shape), "process"),
        (networks.Denoiser(c.network, c.process, (1, 32, 32)), "32"),
        (fresh()[1], "trained on this network"),
    ]:
        with pytest.raises(ValueError, match=says):
            P.compensated(d)
    for other, says in [("fashion-inpaint", "compensation module"), ("nowhere", "module")]:
        assert (
            commands.run_inpaint(
                [
                    "--image",
                    x,
                    "--mask",
                    mask,
                    "--strength",
                    "1",
                    "--module",
                    other,
                    "--nfe",
                    "3",
                    "--n",
                    "1",
                    "--out",
                    str(tmp / "o.png"),
                ]
            )
            == 2
            and says in capsys.readouterr().err
        )
    assert not (tmp / "o.png").exists()


# ---- scores


def test_scores_by_hand():
    m = masks("half", 8)
    x = torch.where(m, X, X.neg().clamp(-0.9, 0.9))
    s = P.scores(x, X, m)
    hidden = (~m).flatten(1)
    mse = (x - X).flatten(1).square()
    assert torch.allclose(s["psnr"], 10 * torch.log10(4 / mse.mean(1)), atol=1e-4)
    assert (
        torch.allclose(s["error"], ((mse * hidden).sum(1) / hidden.sum(1)).sqrt(), atol=1e-6)
        and (s["ssim"] < 1).all()
    )
    same = P.scores(X, X, m)
    assert (same["error"] == 0).all() and torch.allclose(same["ssim"], torch.ones(8), atol=1e-4)
    draws = torch.stack([X, x])
    v = draws.var(0).flatten(1)
    assert torch.allclose(
        P.diversity(draws, m), ((v * hidden).sum(1) / hidden.sum(1)).sqrt(), atol=1e-6
    )
    with pytest.raises(ValueError, match="draws"):
        P.diversity(draws[:1], m)


# ---- guidance


@pytest.mark.parametrize(
    "process", [VP(), SubVP(), EDM(), PSLD(), CLD()], ids=lambda p: type(p).__name__
)
def test_exact_guidance_is_the_conditional_mixture(process):
    M = ring(6)
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    d = M.denoiser(process)
    z = torch.randn(
        40, process.k * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ) * (process.T if isinstance(process, EDM) else 1)
    y = torch.arange(40) % 3
    g = P.Guided(d, P.component_posterior(d, classes), y)
    for c in range(3):
        part = GaussianMixture(M.means[classes == c], M.covs[classes == c]).denoiser(process)
        for t in (0.02, 0.3, 0.9):
            assert torch.allclose(g.predict(z, t)[y == c], part.predict(z[y == c], t), atol=1e-9)
    assert torch.equal(P.Guided(d, g.log_prob, y, 0.0).predict(z, 0.3), d.predict(z, 0.3))
    two = P.Guided(d, g.log_prob, y, 2.0).predict(z, 0.3)
    assert torch.allclose(two, 2 * g.predict(z, 0.3) - d.predict(z, 0.3), atol=1e-9), (
        "linear in the scale"
    )


def test_guided_samples_take_their_labels():
    d = ring(4).denoiser(VP())
    g = P.Guided(d, P.component_posterior(d, torch.arange(4)))
    y = torch.arange(10) % 4
    a, b = (
        sample(DDIM(), g, 20, 10, batch=n, labels=y, guidance=1.0, dtype=torch.float64)
        for n in (3, 7)
    )
    assert torch.allclose(a.x, b.x) and a.nfe == 20
    assert torch.equal(torch.cdist(a.x, ring(4).means).argmin(1), y)
    with pytest.raises(ValueError, match="labels"):
        sample(DDIM(), g, 5, 3)
    with pytest.raises(ValueError, match="scale"):
        P.Guided(d, g.log_prob, scale=-1.0)
    with pytest.raises(ValueError, match="classes"):
        P.component_posterior(d, torch.tensor([0, 0, 2, 2]))


# ---- bad input and the shell


@pytest.mark.parametrize(
    "mask, says",
    [
        (torch.ones(1, 1, 28, 27), "mask.shape"),
        (torch.ones(2, 1, 28, 28), "mask.shape"),
        (torch.ones(28, 28), "mask.shape"),
        (torch.full((1, 1, 28, 28), 0.5), "mask = 0.5: binary"),
        (torch.full((1, 1, 28, 28), float("nan")), "binary"),
        (torch.zeros(1, 1, 28, 28), "784 pixels hidden"),
        (torch.ones(8, 1, 28, 28), "no pixel hidden"),
        (None, "mask = None"),
    ],
)
def test_bad_masks(mask, says):
    with pytest.raises(ValueError, match=says):
        restore(Toy(VP()), X, mask, times=3)


@pytest.mark.parametrize(
    "x, error, says",
    [
        (127.5 * (X + 1), ValueError, r"\[-1, 1\]"),
        (X.repeat(1, 3, 1, 1), ValueError, "pictures.shape"),
        (X[..., 1:], ValueError, "pictures.shape"),
        (X * float("nan"), ValueError, "NaN"),
        ((X * 100).to(torch.uint8), TypeError, "dtype"),
    ],
)
def test_bad_pictures(x, error, says):
    with pytest.raises(error, match=says):
        restore(Toy(VP()), x, masks("half"), times=3)


def test_other_bad_input():
    for call, says in [
        (lambda: masks("round"), "kind"),
        (lambda: masks("half", 0), "n = 0"),
        (lambda: masks("half", 1, 4), "side"),
        (lambda: damage(X[..., 1:], "half"), "square"),
        (lambda: restore(Toy(VP()), X, masks("half"), batch=0), "batch"),
        (lambda: P.Restoration(blind=2.0), "blind"),
        (lambda: P.Restoration(kind="round"), "kind"),
        (lambda: resampled(VP(), 5, 0), "jump"),
        (lambda: resampled(VP(), 4, 4), "more points"),
        (lambda: P.heldout(129), "n = 129"),
        (lambda: P.method("magic", VP()), "method"),
        (lambda: P.method("resampled", VP(), 9), "nfe"),
        (lambda: P.scores(X, X[:3], masks("half")), "x.shape"),
        (lambda: P.nearest_pictures(X, X[:0]), "among"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize("name", P.METHODS[1:])
@pytest.mark.parametrize("budget", [20, 50])
def test_methods_keep_to_their_budget(name, budget):
    s, times = P.method(name, VP(), budget)
    spent = nfe(s, as_route(VP(), times))
    assert spent == 1 if name == "one evaluation" else budget - 12 < spent <= budget


def png(path, a):
    Image.fromarray(a).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    u = P.heldout(1)[0][0, 0].numpy()
    m = np.where(masks("centre")[0, 0].numpy(), 255, 0).astype(np.uint8)
    return tmp_path, u, m, png(tmp_path / "x.png", u), png(tmp_path / "m.png", m)


@pytest.mark.parametrize("method", list(lab_inpainting.METHOD_WORDS))
def test_shell(files, method, capsys):
    tmp, u, m, x, mask = files
    out = tmp / "sheet.png"
    assert (
        commands.run_inpaint(
            [
                "--image",
                x,
                "--mask",
                mask,
                "--method",
                method,
                "--nfe",
                "16",
                "--n",
                "3",
                "--out",
                str(out),
            ]
        )
        == 0
        and "3 restorations" in capsys.readouterr().out
    )
    sheet = np.asarray(Image.open(out))
    tiles = [sheet[:, 29 * i : 29 * i + 28] for i in range(4)]
    assert sheet.shape == (28, 115)
    for t in tiles:
        assert np.array_equal(t[m > 0], u[m > 0])
    assert (abs(tiles[0][m == 0].astype(int) - 128) <= 1).all() and not np.array_equal(
        tiles[1], tiles[2]
    )


def test_shell_inverted_mask_is_the_same(files):
    tmp, u, m, x, mask = files
    a, b = tmp / "a.png", tmp / "b.png"

    def run(*more):
        return commands.run_inpaint(
            ["--image", x, "--method", "replacement", "--nfe", "4", "--n", "2", *more]
        )

    assert (
        run("--mask", mask, "--out", str(a))
        == run("--invert", "--mask", png(tmp / "i.png", 255 - m), "--out", str(b))
        == 0
        and a.read_bytes() == b.read_bytes()
    )


def test_shell_refuses(files, capsys):
    tmp, u, m, x, mask = files
    good = {"--image": x, "--mask": mask, "--out": str(tmp / "o.png"), "--nfe": "4", "--n": "1"}
    grey = np.where(m > 0, 255, 100).astype(np.uint8)
    for change, says in [
        ({"--image": png(tmp / "b.png", np.repeat(u, 2, 0))}, "28 x 56 pixels"),
        ({"--image": png(tmp / "c.png", np.stack([u] * 3, 2))}, "mode RGB"),
        ({"--image": png(tmp / "d.png", u.astype(np.uint16))}, "mode I;16"),
        ({"--mask": png(tmp / "e.png", m[:20])}, "mask"),
        ({"--mask": png(tmp / "f.png", grey)}, "binary"),
        ({"--mask": png(tmp / "g.png", 0 * m)}, "784 pixels hidden"),
        ({"--mask": png(tmp / "h.png", 0 * m + 255)}, "no pixel hidden"),
        ({"--strength": "1.5"}, "strength = 1.5"),
        ({"--strength": "-1"}, "strength"),
        ({"--strength": ".5", "--method": "replacement"}, "strength"),
        ({"--image": str(tmp / "none.png")}, "exists"),
        ({"--image": __file__}, "a picture file"),
        ({"--n": "0"}, "n = 0"),
        ({"--seed": "-1"}, "seed"),
        ({"--nfe": "0"}, "nfe"),
        ({"--sampler": "magic"}, "sampler"),
        ({"--out": "o.txt"}, "out"),
        ({"--checkpoint": "nowhere"}, "checkpoint"),
        ({"--measure": "5"}, ".json"),
        ({"--device": "abacus"}, "device"),
    ]:
        assert (
            commands.run_inpaint([w for pair in {**good, **change}.items() for w in pair]) == 2
            and says in capsys.readouterr().err
        ), change
    assert (
        commands.run_inpaint([]) == 2
        and "image, mask" in capsys.readouterr().err
        and not (tmp / "o.png").exists()
    )


# ---- what is shipped


def test_heldout_is_the_test_split():
    try:
        x, y = data.fashion("test")
    except FileNotFoundError:
        pytest.skip("Fashion-MNIST is not installed")
    assert torch.equal(P.heldout()[0], x[:128]) and torch.equal(P.heldout()[1], y[:128])


def test_shipped_conditional_beats_mean_fill_and_replacement():
    c = zoo.load_conditional()
    d = zoo.load("fashion-vp")
    x = data.to_model(P.heldout(32)[0])
    m, seen = damage(x, "mixed")
    got = {
        n: float(P.scores(v, x, m)["psnr"].mean())
        for n, v in dict(
            mean=P.mean_fill(x, m),
            replaced=restore(d, seen, m, times=16).x,
            conditional=restore(c, seen, m, times=16).x,
        ).items()
    }
    assert got["conditional"] > got["replaced"] + 0.5 and got["conditional"] > got["mean"] + 3, got


@pytest.mark.parametrize("name", ["vp", "psld"])
def test_shipped_guides_know_the_classes(name):
    p = zoo.load(f"fashion-{name}").process
    g = zoo.load_guide(f"fashion-guide-{name}")
    x, y = P.heldout()
    x = data.to_model(x)

    def right(t):
        return float(
            (
                g.log_prob(
                    p.perturb(
                        x,
                        t,
                        torch.randn(128, p.k, 28, 28, generator=torch.Generator().manual_seed(0)),
                    ),
                    t,
                ).argmax(1)
                == y
            )
            .double()
            .mean()
        )

    assert right(0.05) > 0.7 and right(0.3) > 0.5 and right(1.0) < 0.35


def test_faces(tmp_path):
    with pytest.raises(FileNotFoundError, match="s1 to s40"):
        P.faces(tmp_path)
    for p in range(1, 41):
        (tmp_path / f"s{p}").mkdir()
        for i in range(1, 11):
            Image.fromarray(np.full((112, 92), 5 * p + i, np.uint8)).save(
                tmp_path / f"s{p}/{i}.pgm"
            )
    x, who = P.faces(tmp_path)
    assert (
        x.shape == (400, 1, 28, 28)
        and x.dtype == torch.uint8
        and int(who[-1]) == 39
        and int(x[25, 0, 5, 5]) == 21
    )
    v, i = P.nearest_pictures(x[[7, 30]].float() + 0.25, x.float())
    assert torch.equal(x[i], x[[7, 30]]) and torch.allclose(
        v, torch.full((2,), 0.25, dtype=torch.float64)
    )
