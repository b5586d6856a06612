"""Inpainting: masks, replacement against its law and against a loop written out here, the
conditional network, guidance, the shell, bad input."""

import numpy as np
import pytest
import torch
from PIL import Image

from compsamp import commands, compensation, data, inpainting, networks, training, zoo
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
from compsamp.training import StepRandom

X = data.to_model(inpainting.heldout(8)[0])
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), CLD()]


class Toy(NoisePredictor):
    shape = (1, 28, 28)

    def predict(self, z, t):
        return torch.sin(1.3 * z / (1 + t) + t)


def last(it):
    for z in it:
        state = z
    return state


# ---- masks and occluders


@pytest.mark.parametrize("kind", DAMAGE_KINDS)
@pytest.mark.parametrize("side", [8, 28, 33, 64])
def test_masks_hide_something_and_not_all(kind, side):
    m = masks(kind, 20, side, 3)
    assert m.shape == (20, 1, side, side) and m.dtype == torch.bool
    share = (~m).flatten(1).double().mean(1)
    assert 0.02 < share.min() and share.max() < 0.97, share
    assert torch.equal(m[7:9], masks(kind, 2, side, 3, first=7))
    if kind not in ("centre", "expand"):
        assert not torch.equal(m, masks(kind, 20, side, 4)), "another seed, another mask"


def test_half_is_half_and_expand_the_reverse_of_centre():
    assert (masks("half", 9).flatten(1).sum(1) == 392).all()
    assert torch.equal(masks("expand"), ~masks("centre"))
    assert len({tuple(mask.flatten().tolist()) for mask in masks("half", 40)}) == 4


def test_damage_keeps_what_is_known_and_fills_the_rest():
    mask, seen = damage(X, "mixed")
    keep = mask.expand_as(X)
    assert torch.equal(seen[keep], X[keep])
    for i, kind in enumerate(DAMAGE_KINDS):
        hidden = seen[i][~mask[i]]
        assert (hidden == 0).all() if kind in inpainting.MASKS else not (hidden == 0).all(), kind
    pool = torch.full((1, 1, 28, 28), 0.25)
    mask, seen = damage(X, "glasses", others=pool)
    assert (seen[~mask] == 0.25).all()


# ---- replacement


def has_the_law(replaced, process, t):
    "Mean and covariance of `(N, k)` are those of q(z_t | x0 = 0.7), to sampling error."
    mu, C = process.marginal(t)
    count = len(replaced)
    scale = C.diagonal().sqrt()
    mean = replaced.mean(0)
    covariance = torch.cov(replaced.T).reshape(process.k, process.k)
    assert ((mean - 0.7 * mu).abs() < 5 * scale / count**0.5).all(), (float(t), mean, mu)
    relative = (covariance - C).abs() / (scale[:, None] * scale)
    assert (relative < 6 * (2 / count) ** 0.5).all(), (float(t), covariance, C)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_replaced_part_has_the_law_of_the_process(process):
    n = 4000
    x = torch.full((n, 1, 8, 8), 0.7, dtype=torch.float64)
    mask = masks("half", 1, 8).expand(n, -1, -1, -1)
    times = grid(process, 6)
    draw = Noise(0, n, (process.k, 8, 8), 0, torch.float64)
    start = process.prior((n, process.k, 8, 8), draw())
    sampler = Replaced(EulerMaruyama(), x, mask)
    walk = list(states(sampler, Toy(process), times, start, draw, denoise=False))
    for z, t in zip(walk[1:], times[1:]):
        has_the_law(z[:, :, mask[0, 0]].movedim(1, -1).reshape(-1, process.k), process, t)


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
        assert (r.k, r.evals, r.order, r.draws) == (s.k, s.evals, s.order, s.draws + 1)
        assert nfe(r, 9) == nfe(s, 9)


def test_plain_restoration():
    denoiser = zoo.load("fashion-vp-small")
    mask, seen = damage(X, "mixed")
    before = seen.clone()
    whole = restore(denoiser, seen, mask, times=6, seed=5, batch=3)
    again = restore(denoiser, X, mask.float(), times=6, seed=5, batch=7)
    assert torch.allclose(whole.x, again.x, atol=1e-5), "another batch, and other hidden pixels"
    assert whole.nfe == 6
    assert torch.equal(whole.x[mask], X[mask]) and whole.x.abs().max() <= 1
    assert torch.equal(seen, before)
    tail = restore(denoiser, X[5:], mask[5:], times=6, seed=5, first=5)
    assert torch.allclose(tail.x, whole.x[5:], atol=1e-5)
    assert not torch.allclose(restore(denoiser, X, mask, times=6, seed=6).x, whole.x, atol=1e-2)


def test_two_blocks():
    denoiser = zoo.load("fashion-psld-small")
    mask = masks("thick", 3)
    got = restore(denoiser, X[:3], mask, times=5)
    assert torch.equal(got.x[mask], X[:3][mask]) and got.x.shape == (3, 1, 28, 28)


@pytest.mark.parametrize("n, jump, repeats", [(17, 4, 2), (9, 2, 1), (10, 3, 3), (10, 4, 0)])
def test_resampled_price_and_shape(n, jump, repeats):
    route = resampled(VP(), n, jump, repeats)
    got = nfe(DDIM(), route)
    assert got == n + repeats * jump * ((n - 1) // jump)
    denoiser = Toy(VP())
    x, mask = X[:2], masks("centre", 1)
    r = restore(denoiser, x, mask, DDIM(1.0), route)
    assert r.nfe == denoiser.nfe == got


def test_routes_with_a_sampler_of_their_own_inside():
    denoiser, mask = Toy(VP()), masks("centre", 1)
    ups = [RestartInterval.from_sigma(VP(), 0.1, 1.0, 3, 2)]
    route = restart(VP(), 8, ups, inside=EDMHeun())
    _, wrapped = inpainting.with_replacement(DDIM(), route, X, mask)
    assert isinstance(wrapped.inside, Replaced)
    assert wrapped.inside.inner == EDMHeun()
    assert isinstance(route.inside, EDMHeun)
    assert torch.equal(
        restore(denoiser, X, mask, DDIM(), route).x[mask.expand_as(X)], X[mask.expand_as(X)]
    )


# ---- the conditional network


def fresh():
    denoiser = zoo.load("fashion-vp-small")
    return denoiser, networks.Denoiser(
        inpainting.conditional(denoiser), denoiser.process, denoiser.shape
    )


def test_conditional_begins_as_the_plain_network():
    denoiser, conditional = fresh()
    known, seen = damage(X, "mixed")
    z = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for t in (0.01, 0.4, 1.0):
        assert torch.allclose(
            inpainting.condition_on(conditional, seen, known).predict(z, t),
            denoiser.predict(z, t),
            atol=1e-4,
        )
    with pytest.raises(ValueError, match="state, picture and mask"):
        conditional.eps(z, 0.5)
    with pytest.raises(TypeError, match="Conditional"):
        inpainting.condition_on(denoiser, seen, known)
    with pytest.raises(ValueError, match="8 pictures"):
        inpainting.condition_on(conditional, seen, known).eps(z[:3], 0.5)


def test_what_a_conditional_network_sees():
    denoiser, conditional = fresh()
    torch.nn.init.normal_(conditional.network.net.inp.weight, std=0.3)
    mask = masks("half", 8)
    other = torch.where(mask, X, torch.full_like(X, 0.3))
    a, b, blind = (
        restore(conditional, x, k, times=3).x for x, k in ((X, mask), (other, mask), (other, None))
    )
    assert torch.equal(a, b), "hidden pixels are not looked at"
    assert not torch.equal(blind, b) and not torch.equal(blind[mask], X[mask])
    assert not torch.equal(restore(conditional, -X, mask, times=3).x[~mask], a[~mask]), (
        "known pixels are"
    )
    assert torch.allclose(restore(conditional, X, mask, times=3, batch=3).x, a, atol=1e-5)


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
            objective=inpainting.Restoration(),
        )

    whole = make()
    for _ in range(4):
        whole.step()
    stopped = make()
    stopped.step()
    stopped.step()
    stopped.save(tmp_path)
    resumed = make().resume(tmp_path)
    resumed.step()
    resumed.step()
    assert all(torch.equal(x, y) for x, y in zip(whole.means, resumed.means))
    assert whole.net.net.inp.weight[:, 1:].abs().max() > 0
    assert zoo.load_conditional(tmp_path).network.net.inp.weight.shape[1] == 3
    with pytest.raises(ValueError, match="network.kind"):
        zoo.load(tmp_path)
    with pytest.raises(ValueError, match="network.kind"):
        zoo.load_conditional("fashion-vp-small")


def test_blind_share():
    x = X.repeat(16, 1, 1, 1)

    def views(blind):
        return inpainting.Restoration(blind=blind).views(x, training.StepRandom(0, 0, "cpu"))

    assert (views(0.0)[:, -1].abs() == 1).all()
    assert (views(1.0)[:, -1] == 0).all()
    v = views(0.5)
    told = v[:, -1].flatten(1).abs().sum(1) > 0
    assert 30 < int((~told).sum()) < 98
    hidden = v[told][:, 1] < 0
    assert (v[told][:, 0][hidden] == 0).all()


def test_compensated_restoration():
    denoiser, conditional = fresh()
    module = compensation.light_module(conditional)
    mask = masks("half", 8)
    with torch.no_grad():
        module.out.bias.fill_(0.5)
    alone = restore(conditional, X, mask, times=3).x
    aided = restore(compensation.Compensated(conditional, module), X, mask, times=3)
    assert (
        aided.nfe == 3 and not torch.equal(alone, aided.x) and torch.equal(aided.x[mask], X[mask])
    )
    assert torch.equal(
        restore(compensation.Compensated(conditional, module, 0.0), X, mask, times=3).x, alone
    )
    loss = inpainting.RestorationModule(conditional)(
        module, None, VP(), X, None, training.StepRandom(0, 0, "cpu")
    )
    assert torch.isfinite(loss) and loss.requires_grad


def test_module_of_another_process_size_or_network(tmp_path, files, capsys):
    conditional = zoo.load_conditional()
    folder = networks.asset_path("weights", "fashion-inpaint-module")
    own = compensation.load_module(folder, conditional)
    assert inpainting.compensated(conditional).module.card == own.card
    network, shape = conditional.network, conditional.shape
    for denoiser, says in [
        (networks.Denoiser(network, CosineVP(), shape), "process"),
        (networks.Denoiser(network, conditional.process, (1, 32, 32)), "32"),
        (fresh()[1], "trained on this network"),
    ]:
        with pytest.raises(ValueError, match=says):
            inpainting.compensated(denoiser)
    out = tmp_path / "o.png"
    settings = {"strength": 1, "nfe": 3, "n": 1, "out": out}
    for module, says in [("fashion-inpaint", "compensation module"), ("nowhere", "module")]:
        assert commands.run_inpaint(argv(files, **settings, module=module)) == 2
        assert says in capsys.readouterr().err
    assert not out.exists()


# ---- scores


def test_scores_by_hand():
    mask = masks("half", 8)
    x = torch.where(mask, X, X.neg().clamp(-0.9, 0.9))
    s = inpainting.scores(x, X, mask)
    hidden = (~mask).flatten(1)
    mse = (x - X).flatten(1).square()
    assert torch.allclose(s["psnr"], 10 * torch.log10(4 / mse.mean(1)), atol=1e-4)
    error = ((mse * hidden).sum(1) / hidden.sum(1)).sqrt()
    assert torch.allclose(s["error"], error, atol=1e-6)
    assert (s["ssim"] < 1).all()
    same = inpainting.scores(X, X, mask)
    assert (same["error"] == 0).all() and torch.allclose(same["ssim"], torch.ones(8), atol=1e-4)
    draws = torch.stack([X, x])
    variance = draws.var(0).flatten(1)
    spread = ((variance * hidden).sum(1) / hidden.sum(1)).sqrt()
    assert torch.allclose(inpainting.diversity(draws, mask), spread, atol=1e-6)
    with pytest.raises(ValueError, match="draws"):
        inpainting.diversity(draws[:1], mask)


# ---- guidance


@pytest.mark.parametrize(
    "process", [VP(), SubVP(), EDM(), PSLD(), CLD()], ids=lambda p: type(p).__name__
)
def test_exact_guidance_is_the_conditional_mixture(process):
    M = ring(6)
    classes = torch.tensor([0, 1, 2, 0, 1, 2])
    exact = M.denoiser(process)
    z = torch.randn(
        40, process.k * 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    ) * (process.T if isinstance(process, EDM) else 1)
    y = torch.arange(40) % 3
    guided = inpainting.Guided(exact, inpainting.component_posterior(exact, classes), y)
    for label in range(3):
        part = GaussianMixture(M.means[classes == label], M.covs[classes == label]).denoiser(
            process
        )
        for t in (0.02, 0.3, 0.9):
            assert torch.allclose(
                guided.predict(z, t)[y == label], part.predict(z[y == label], t), atol=1e-9
            )
    assert torch.equal(
        inpainting.Guided(exact, guided.log_prob, y, 0.0).predict(z, 0.3), exact.predict(z, 0.3)
    )
    two = inpainting.Guided(exact, guided.log_prob, y, 2.0).predict(z, 0.3)
    assert torch.allclose(two, 2 * guided.predict(z, 0.3) - exact.predict(z, 0.3), atol=1e-9), (
        "linear in the scale"
    )


def test_guided_samples_take_their_labels():
    exact = ring(4).denoiser(VP())
    guided = inpainting.Guided(exact, inpainting.component_posterior(exact, torch.arange(4)))
    y = torch.arange(10) % 4
    a, b = (
        sample(DDIM(), guided, 20, 10, batch=n, labels=y, guidance=1.0, dtype=torch.float64)
        for n in (3, 7)
    )
    assert torch.allclose(a.x, b.x) and a.nfe == 20
    assert torch.equal(torch.cdist(a.x, ring(4).means).argmin(1), y)
    with pytest.raises(ValueError, match="labels"):
        sample(DDIM(), guided, 5, 3)
    strong, asked = (
        sample(DDIM(), one, 20, 10, labels=y, guidance=scale)
        for one, scale in (
            (inpainting.Guided(exact, guided.log_prob, None, 3.0), None),
            (guided, 3),
        )
    )
    assert torch.equal(strong.x, asked.x) and not torch.equal(strong.x, a.x.float())
    assert guided.bind(labels=y).bind(guidance=2.0).labels is y
    with pytest.raises(ValueError, match="changes = .'amp'.: labels and guidance"):
        guided.bind(amp=True)
    with pytest.raises(ValueError, match="scale"):
        inpainting.Guided(exact, guided.log_prob, scale=-1.0)
    with pytest.raises(ValueError, match="classes"):
        inpainting.component_posterior(exact, torch.tensor([0, 0, 2, 2]))


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
        (lambda: inpainting.Restoration(blind=2.0), "blind"),
        (lambda: inpainting.Restoration(kind="round"), "kind"),
        (lambda: resampled(VP(), 5, 0), "jump"),
        (lambda: resampled(VP(), 4, 4), "more points"),
        (lambda: inpainting.heldout(129), "n = 129"),
        (lambda: inpainting.method("magic", VP()), "method"),
        (lambda: inpainting.method("resampled", VP(), 9), "nfe"),
        (lambda: inpainting.scores(X, X[:3], masks("half")), "x.shape"),
        (lambda: inpainting.nearest_pictures(X, X[:0]), "among"),
    ]:
        with pytest.raises(ValueError, match=says):
            call()


@pytest.mark.parametrize("name", inpainting.METHODS[1:])
@pytest.mark.parametrize("budget", [20, 50])
def test_methods_keep_to_their_budget(name, budget):
    s, times = inpainting.method(name, VP(), budget)
    spent = nfe(s, as_route(VP(), times))
    assert spent == 1 if name == "one evaluation" else budget - 12 < spent <= budget


def png(path, pixels):
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    "A picture and a mask, as pixels and as files."
    pixels = inpainting.heldout(1)[0][0, 0].numpy()
    known = np.where(masks("centre")[0, 0].numpy(), 255, 0).astype(np.uint8)
    image = png(tmp_path / "x.png", pixels)
    mask = png(tmp_path / "m.png", known)
    return {"pixels": pixels, "known": known, "image": image, "mask": mask}


def argv(files, **settings):
    "Words of the command line."
    settings = {"image": files["image"], "mask": files["mask"], **settings}
    words = []
    for name, value in settings.items():
        words += [f"--{name}", str(value)]
    return words


@pytest.mark.parametrize("method", list(lab_inpainting.METHOD_WORDS))
def test_shell(files, method, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    assert commands.run_inpaint(argv(files, method=method, nfe=16, n=3, out=out)) == 0
    assert "3 restorations" in capsys.readouterr().out
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (28, 115)
    tiles = [sheet[:, 29 * i : 29 * i + 28] for i in range(4)]
    known = files["known"] > 0
    for tile in tiles:
        assert np.array_equal(tile[known], files["pixels"][known])
    assert (abs(tiles[0][~known].astype(int) - 128) <= 1).all()
    assert not np.array_equal(tiles[1], tiles[2])


def test_shell_inverted_mask_is_the_same(files, tmp_path):
    plain, inverted = tmp_path / "a.png", tmp_path / "b.png"
    settings = {"method": "replacement", "nfe": 4, "n": 2}
    other = png(tmp_path / "i.png", 255 - files["known"])
    assert commands.run_inpaint(argv(files, **settings, out=plain)) == 0
    again = argv(files, **settings, mask=other, out=inverted)
    assert commands.run_inpaint([*again, "--invert"]) == 0
    assert plain.read_bytes() == inverted.read_bytes()


def wrong_files(folder, files):
    "Pictures and masks of the wrong kind, and what the message says."
    pixels, known = files["pixels"], files["known"]
    return [
        ({"image": png(folder / "b.png", np.repeat(pixels, 2, 0))}, "28 x 56 pixels"),
        ({"image": png(folder / "c.png", np.stack([pixels] * 3, 2))}, "mode RGB"),
        ({"image": png(folder / "d.png", pixels.astype(np.uint16))}, "mode I;16"),
        ({"image": folder / "none.png"}, "exists"),
        ({"image": __file__}, "a picture file"),
        ({"mask": png(folder / "e.png", known[:20])}, "mask"),
        ({"mask": png(folder / "f.png", np.maximum(known, 100))}, "binary"),
        ({"mask": png(folder / "g.png", 0 * known)}, "784 pixels hidden"),
        ({"mask": png(folder / "h.png", 0 * known + 255)}, "no pixel hidden"),
    ]


WRONG_SETTINGS = [
    ({"strength": 1.5}, "strength = 1.5"),
    ({"strength": -1}, "strength"),
    ({"strength": 0.5, "method": "replacement"}, "strength"),
    ({"n": 0}, "n = 0"),
    ({"seed": -1}, "seed"),
    ({"nfe": 0}, "nfe"),
    ({"sampler": "magic"}, "sampler"),
    ({"out": "o.txt"}, "out"),
    ({"checkpoint": "nowhere"}, "checkpoint"),
    ({"measure": 5}, "measure = 5"),
    ({"measure": 128}, ".json"),
    ({"device": "abacus"}, "device"),
]


def test_shell_refuses(files, tmp_path, capsys):
    good = {"out": tmp_path / "o.png", "nfe": 4, "n": 1}
    for change, says in wrong_files(tmp_path, files) + WRONG_SETTINGS:
        assert commands.run_inpaint(argv(files, **{**good, **change})) == 2, change
        assert says in capsys.readouterr().err, change
    assert commands.run_inpaint([]) == 2
    assert "image, mask" in capsys.readouterr().err
    assert not (tmp_path / "o.png").exists()


# ---- what is shipped


def test_heldout_is_the_test_split():
    try:
        x, y = data.fashion("test")
    except FileNotFoundError:
        pytest.skip("Fashion-MNIST is not installed")
    assert torch.equal(inpainting.heldout()[0], x[:128]) and torch.equal(
        inpainting.heldout()[1], y[:128]
    )


def test_what_a_classifier_learns_from_has_labels():
    loss, x = inpainting.Classify(), torch.rand(4, 1, 8, 8)
    settings = {"ema": None, "process": VP(), "x0": x, "dice": StepRandom(0, 0, "cpu")}
    net = inpainting.NoisyClassifier(width=8, classes=3)
    for labels in (None, torch.tensor([0, 1, 2, 3])):
        with pytest.raises(ValueError, match="labels.*drop_label = 0"):
            loss(net, labels=labels, **settings)
    assert loss(net, labels=torch.tensor([0, 1, 2, 0]), **settings) > 0


def test_a_mean_fits_the_pictures():
    for shape in ((2, 1, 32, 32), (2, 3, 28, 28)):
        with pytest.raises(ValueError, match=f"mean = .*{shape[1]}, {shape[2]}"):
            inpainting.mean_fill(
                torch.zeros(shape), torch.eye(shape[2]).bool().expand(2, 1, -1, -1)
            )


def test_no_picture_is_not_restored():
    exact = ring().denoiser(VP())
    exact.shape = (1, 8, 8)
    with pytest.raises(ValueError, match="picture = .*at least one"):
        inpainting.restore(exact, torch.zeros(0, 1, 8, 8), torch.zeros(1, 1, 8, 8).bool())


def test_shipped_conditional_beats_mean_fill_and_replacement():
    x = data.to_model(inpainting.heldout(32)[0])
    mask, seen = damage(x, "mixed")
    restored = {
        "mean": inpainting.mean_fill(x, mask),
        "replaced": restore(zoo.load("fashion-vp-small"), seen, mask, times=16).x,
        "conditional": restore(zoo.load_conditional(), seen, mask, times=16).x,
    }
    psnr = {n: float(inpainting.scores(v, x, mask)["psnr"].mean()) for n, v in restored.items()}
    assert psnr["conditional"] > psnr["replaced"] + 0.5, psnr
    assert psnr["conditional"] > psnr["mean"] + 3, psnr


@pytest.mark.parametrize("name", ["vp", "psld"])
def test_shipped_guides_know_the_classes(name):
    process = zoo.load(f"fashion-{name}").process
    guide = zoo.load_guide(f"fashion-guide-{name}")
    x, labels = inpainting.heldout()
    x = data.to_model(x)

    def right(t):
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(128, process.k, 28, 28, generator=generator)
        guessed = guide.log_prob(process.perturb(x, t, noise), t).argmax(1)
        return float((guessed == labels).double().mean())

    assert right(0.05) > 0.7 and right(0.3) > 0.5 and right(1.0) < 0.35


def test_faces(tmp_path):
    with pytest.raises(FileNotFoundError, match="s1 to s40"):
        inpainting.faces(tmp_path)
    for p in range(1, 41):
        (tmp_path / f"s{p}").mkdir()
        for i in range(1, 11):
            Image.fromarray(np.full((112, 92), 5 * p + i, np.uint8)).save(
                tmp_path / f"s{p}/{i}.pgm"
            )
    x, who = inpainting.faces(tmp_path)
    assert x.shape == (400, 1, 28, 28) and x.dtype == torch.uint8
    assert int(who[-1]) == 39 and int(x[25, 0, 5, 5]) == 21
    distance, index = inpainting.nearest_pictures(x[[7, 30]].float() + 0.25, x.float())
    assert torch.equal(x[index], x[[7, 30]])
    assert torch.allclose(distance, torch.full((2,), 0.25, dtype=torch.float64))


def test_a_shipped_module_is_taken_by_its_name(capsys):
    assert commands.run_inpaint(["--module", "fashion-inpaint-module"]) == 2
    assert "image, mask" in capsys.readouterr().err  # all that is missing
    assert commands.run_inpaint(["--module", "nowhere"]) == 2
    assert "module = 'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize("labels", [[-1, 0], [0, 99]])
def test_a_guide_takes_only_classes_it_knows(labels):
    "A label of -1 was the last class, without a word."
    mixture = ring()
    exact = mixture.denoiser(VP())
    log_prob = inpainting.component_posterior(exact, torch.arange(len(mixture.weights)))
    guided = inpainting.Guided(exact, log_prob, torch.tensor(labels))
    with pytest.raises(ValueError, match="labels = "):
        guided.predict(torch.zeros(2, 2, dtype=torch.float64), 0.3)
    small = inpainting.Guided(exact, log_prob, torch.tensor([1, 2], dtype=torch.int8))
    assert small.predict(torch.zeros(2, 2, dtype=torch.float64), 0.3).isfinite().all()
