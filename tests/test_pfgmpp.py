"PFGM++: the law of its noise, its exact denoiser, its ways up, trainer and driver."

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats

from compsamp.core import Noise, f64
from compsamp.forward import EDM, VP
from compsamp.lab.pfgmpp import measure_restart
from compsamp.lab.yardsticks import paired_log_ratio
from compsamp.mixtures import GaussianMixture
from compsamp.networks import PredictEDM, UNet, process_card, save, shipped_networks
from compsamp.pfgmpp import (
    RESTART_ARMS,
    PFGMpp,
    PFGMppStudent,
    PointsDenoiser,
    cosine,
    restart_arm,
    stretched,
    student_radius,
)
from compsamp.psld import PSLD
from compsamp.sampling import EDMHeun, grid, nfe, sample, states
from compsamp.training import Epsilon, StepRandom, Trainer, Velocity, preview
from compsamp.zoo import find_process, load, parse_process, process_text

CLOUD = f64([[-1.0, 0.0], [1.0, 0.5], [0.2, -0.8]])
SHARE = f64([0.5, 0.3, 0.2])


def normal(n, d, seed=0):
    "n standard normal vectors of d numbers."
    return Noise(seed, n, (d,), dtype=torch.float64)()


def gap(x, sigma, D):
    "Kolmogorov-Smirnov test of the lengths against R^2 = r^2 B / (1 - B), B ~ Beta(d/2, D/2)."
    d = x[0].numel()
    radius = x.flatten(1).norm(dim=1).double().numpy()
    share = radius**2 / (radius**2 + D * sigma**2)
    return stats.kstest(share, stats.beta(d / 2, D / 2).cdf)


@pytest.mark.parametrize("d, D", [(1, 1), (2, 2), (3, 1.5), (20, 20), (784, 128), (784, 2048)])
def test_law_of_the_noise(d, D):
    noise = normal(2000, d)
    assert gap(stretched(noise, D), 1.0, D).pvalue > 1e-3
    assert stats.kstest(stretched(noise, D)[:, 0].numpy(), stats.t(D).cdf).pvalue > 1e-3
    if D < 2000:
        assert gap(noise, 1.0, D).pvalue < 1e-3


def test_stretching_is_monotone_and_keeps_directions():
    noise = normal(200, 5)
    square = noise.square().sum(1)
    assert torch.allclose(stretched(noise, 3).norm(dim=1), student_radius(square, 5, 3))
    order = square.argsort()
    assert bool((student_radius(square, 5, 3)[order].diff() >= 0).all())
    cosines = torch.cosine_similarity(noise, stretched(noise, 3))
    assert torch.allclose(cosines, torch.ones_like(cosines))
    assert stretched(noise.float(), 3).dtype == torch.float32
    assert torch.equal(stretched(torch.zeros(2, 3), 2), torch.zeros(2, 3))
    assert bool(torch.isfinite(stretched(torch.full((1, 3), 50.0), 2)).all())


def test_many_dimensions_are_edm():
    noise = normal(50, 784).view(50, 1, 28, 28)
    x0 = torch.zeros_like(noise)
    for D in (1e4, 1e6, 1e8):
        far = (PFGMpp(D).perturb(x0, 3.0, noise) - EDM().perturb(x0, 3.0, noise)).abs().max()
        assert float(far) < 600 / D
    many = PFGMpp(1e9).prior(noise.shape, noise)
    assert torch.allclose(many, EDM().prior(noise.shape, noise), atol=1e-4)


def test_kernel_and_prior():
    noise = normal(3000, 20)
    process = PFGMpp(6)
    x0 = torch.full_like(noise, 2.0)
    assert gap(process.perturb(x0, 0.7, noise) - x0, 0.7, 6).pvalue > 1e-3
    assert gap(process.prior(noise.shape, noise), 80.0, 6).pvalue > 1e-3
    times = torch.linspace(0.1, 2, 3000, dtype=torch.float64)
    scaled = (process.perturb(x0, times, noise) - x0) / times[:, None]
    assert gap(scaled, 1.0, 6).pvalue > 1e-3


def test_settings():
    process = PFGMpp(128, T=50.0, eps=0.01)
    assert (process.D, process.T, process.eps) == (128, 50.0, 0.01)
    assert find_process(process_card(process)) == process
    student = PFGMppStudent(8)
    assert find_process(process_card(student)) == student != PFGMpp(8)
    assert parse_process("pfgmpp:D=128") == PFGMpp(128)
    assert parse_process(process_text(process)) == process
    for bad in (0.5, math.inf, math.nan):
        with pytest.raises(ValueError, match="D = "):
            PFGMpp(bad)
    with pytest.raises(ValueError, match="eps"):
        PFGMpp(eps=90.0)
    with pytest.raises(TypeError):
        PFGMpp(128, 80.0)  # T is said by name, so that D and T are not mistaken for each other


@pytest.mark.parametrize("process", [VP(), EDM(), PSLD()])
def test_other_processes_keep_their_noise(process):
    noise = torch.randn(3, 2 * process.k)
    assert process.noise_from(noise) is noise
    assert process.noise_up(0.1, 0.2, lambda: noise) is noise


@pytest.mark.parametrize("D", [1, 3, 64])
def test_cosine_of_a_random_direction(D):
    direction = np.random.default_rng(0).standard_normal((4000, D))
    expected = direction[:, 0] / np.linalg.norm(direction, axis=1)
    found = cosine(normal(4000, 1), D)[:, 0].numpy()
    if D == 1:
        assert set(found) == {-1.0, 1.0}
    else:
        assert stats.ks_2samp(found, expected).pvalue > 1e-3


def walked(s, t, d, D, n, root):
    "The published walk with all its d + D coordinates; root -1 is the solution it never takes."
    rng = np.random.default_rng(3)
    outward, direction = rng.standard_normal((n, D)), rng.standard_normal((n, d + D))
    start = s * D**0.5 * outward / np.linalg.norm(outward, axis=1, keepdims=True)
    along = direction[:, d:]
    a, b = (along**2).sum(1), (along * start).sum(1)
    length = (-b + root * np.sqrt(b**2 - a * D * (s**2 - t**2))) / a
    after = np.linalg.norm(start + length[:, None] * along, axis=1)
    assert np.allclose(after, t * D**0.5)
    return np.linalg.norm(length[:, None] * direction[:, :d], axis=1)


@pytest.mark.parametrize("d, D", [(2, 1), (2, 3), (20, 8)])
def test_published_way_up_is_the_walk(d, D):
    s, t = 1.2, 1.5
    noise = PFGMpp(D).noise_up(s, t, Noise(1, 6000, (d,), dtype=torch.float64))
    jump = noise.norm(dim=1).numpy() * math.sqrt(t**2 - s**2)
    for root in (1, -1):
        assert stats.ks_2samp(jump, walked(s, t, d, D, 6000, root)).pvalue > 1e-3


@pytest.mark.parametrize("D, right", [(2, False), (8, False), (2048, True)])
def test_ways_up_against_the_right_law(D, right):
    s, t, d, n = 0.5, 1.5, 20, 20_000
    draw = Noise(2, n, (d,), dtype=torch.float64)
    own = f64(np.sqrt(D / np.random.default_rng(2).chisquare(D, (n, 1))))
    low, scale = s * own * draw(), math.sqrt(t**2 - s**2)
    assert gap(low + scale * own * draw(), t, D).pvalue > 1e-3
    for process in (PFGMpp(D), PFGMppStudent(D)):
        p = gap(low + scale * process.noise_up(s, t, draw), t, D).pvalue
        assert (p > 1e-3) == right
    gaussian = gap(low + scale * draw(), t, D)
    assert right or gaussian.statistic > 0.15


def test_exact_denoiser_follows_the_electric_field():
    for D in (1, 8, 2048):
        x = normal(6, 2).requires_grad_()
        r = torch.full((6, 1), 0.7 * D**0.5, dtype=torch.float64, requires_grad=True)
        square = (x[:, None] - CLOUD).square().sum(-1) + r.square()
        potential = torch.logsumexp(SHARE.log() - D / 2 * square.log(), 1).sum()
        along_x, along_r = torch.autograd.grad(potential, (x, r))
        flow = PointsDenoiser(CLOUD, PFGMpp(D), SHARE).eps(x.detach(), 0.7)
        assert torch.allclose(along_x / along_r * D**0.5, flow, atol=1e-9)


def test_flow_carries_the_density():
    "d log p/d sigma + v . grad log p + div v = 0, all by autograd of log p and of the flow v."
    for D in (1, 8, 64):
        exact = PointsDenoiser(CLOUD, PFGMpp(D), SHARE)
        x = normal(6, 2).requires_grad_()
        sigma = torch.full((6,), 0.9, dtype=torch.float64, requires_grad=True)
        along_x, along_sigma = torch.autograd.grad(exact.log_prob(x, sigma).sum(), (x, sigma))
        flow = exact.predict(x, sigma)
        rows = [torch.autograd.grad(flow[:, i].sum(), x, retain_graph=True)[0] for i in (0, 1)]
        divergence = rows[0][:, 0] + rows[1][:, 1]
        balance = along_sigma + (flow * along_x).sum(1) + divergence
        assert float(balance.detach().abs().max()) < 1e-9


def test_exact_denoiser_is_edms_in_many_dimensions():
    exact = PointsDenoiser(CLOUD, PFGMpp(1e8), SHARE)
    gauss = GaussianMixture(CLOUD, 1e-12 * torch.eye(2).expand(3, 2, 2), SHARE).denoiser(EDM())
    x = normal(5, 2)
    assert torch.allclose(exact.eps(x, 0.6), gauss.eps(x, 0.6), atol=1e-5)
    assert exact.nfe == 1


def test_exact_denoiser_has_a_denoisers_face():
    pictures = PointsDenoiser(torch.rand(4, 1, 5, 5), PFGMpp(8))
    z = torch.randn(3, 1, 5, 5)
    assert pictures.shape == (1, 5, 5) and pictures.eps(z, f64([0.1, 1.0, 9.0])).shape == z.shape
    assert pictures.eps(z, 1.0).dtype == torch.float32
    one, x = PointsDenoiser(CLOUD[:1], PFGMpp(5)), normal(5, 2)
    law = stats.multivariate_t(CLOUD[0].numpy(), 0.36 * np.eye(2), df=5)
    assert np.allclose(one.log_prob(x, 0.6).numpy(), law.logpdf(x.numpy()))
    for words, wrong in (
        ("z", lambda: one.eps(torch.zeros(1, 3), 1.0)),
        ("t", lambda: one.eps(x, 0.0)),
        ("weights", lambda: PointsDenoiser(CLOUD, PFGMpp(2), f64([1.0, 0.0, 1.0]))),
    ):
        with pytest.raises(ValueError, match=words):
            wrong()
    with pytest.raises(TypeError, match="process"):
        PointsDenoiser(CLOUD, EDM())


@pytest.mark.parametrize("D", [1, 128])
def test_heun_has_order_two(D):
    process = PFGMpp(D)
    exact = PointsDenoiser(CLOUD, process, SHARE)
    x = process.perturb(CLOUD[:1].expand(20, 2), 8.0, normal(20, 2))
    ends = []
    for n in (32, 64, 512):
        times = grid(process, n + 1, "karras", top=8.0, bottom=0.5)
        for z in states(EDMHeun(), exact, times, x, denoise=False):
            pass
        ends.append(z)
    error = [float((end - ends[-1]).norm(dim=1).mean()) for end in ends[:-1]]
    assert 1.7 < math.log2(error[0] / error[1]) < 2.4


@pytest.mark.parametrize("arm, promised", list(zip(RESTART_ARMS, (35, 43, 43, 43))))
def test_routes_cost_what_the_paper_says(arm, promised):
    kind = PFGMppStudent if arm.endswith("student") else PFGMpp
    exact = PointsDenoiser(torch.rand(5, 1, 4, 4) * 2 - 1, kind(64))
    route = restart_arm(arm, exact.process)
    assert nfe(EDMHeun(), route) == promised
    whole = sample(EDMHeun(), exact, route, n=6, seed=4)
    parts = sample(EDMHeun(), exact, route, n=6, seed=4, batch=2)
    assert whole.nfe == promised and torch.allclose(whole.x, parts.x, atol=1e-5)
    assert float(torch.cdist(whole.x.flatten(1).double(), exact.points).min(1).values.max()) < 1e-2
    with pytest.raises(ValueError, match="arm"):
        restart_arm("none", exact.process)


def tiny(D=8):
    "A small network for PFGM++, always the same."
    torch.manual_seed(0)
    return PredictEDM(UNet(1, 8, (1, 2), 1, (), 10), PFGMpp(D))


def test_training_sees_the_noise_that_is_there():
    process = PFGMpp(8)
    x0 = torch.rand(16, 1, 8, 8) * 2 - 1
    t = torch.linspace(0.1, 5, 16, dtype=torch.float64)
    z, noise = Epsilon().pair(process, x0, t, StepRandom(0, 0, "cpu"))
    plain = StepRandom(0, 0, "cpu").normal(x0.shape)
    assert torch.allclose(z, process.perturb(x0, t, plain), atol=1e-5)
    assert torch.allclose((z - x0) / t.float().view(-1, 1, 1, 1), noise, atol=1e-4)


@pytest.mark.parametrize("objective", [Epsilon(), Velocity()])
def test_training_runs_and_comes_back(objective, tmp_path):
    pictures, labels = torch.rand(64, 1, 8, 8) * 2 - 1, torch.arange(64) % 10
    recipe = dict(steps=3, batch=16, warmup=1, objective=objective)
    trainer = Trainer(tiny(), PFGMpp(8), pictures, labels, **recipe)
    assert all(math.isfinite(float(trainer.step())) for _ in range(3))
    assert bool(torch.isfinite(preview(trainer.denoiser(), n=2, points=3)).all())
    trainer.save(tmp_path)
    assert load(tmp_path).process == PFGMpp(8)


def test_the_long_run_goes_on(tmp_path, monkeypatch):
    import compsamp.lab.pfgmpp as room

    def short(arm, process):
        return grid(process, 2, "karras")

    network = dict(kind="UNet", predicts="edm", config=tiny().config)
    card = dict(process=process_card(PFGMpp(8)), network=network, shape=[1, 28, 28])
    save(tmp_path / "small", tiny(), card)
    monkeypatch.setattr(room, "restart_arm", short)
    out = tmp_path / "found.json"
    measure_restart(out, tmp_path / "small", seeds=1, n=128)
    first = json.loads(out.read_text())
    assert {c["arm"] for c in first["cells"]} == set(RESTART_ARMS) and first["command"]
    measure_restart(out, tmp_path / "small", seeds=1, n=128)
    assert json.loads(out.read_text()) == first
    with pytest.raises(ValueError, match="out"):
        measure_restart(out, tmp_path / "small", seeds=1, n=130)


def test_interval():
    found = paired_log_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.ratio, found.low, found.high) == pytest.approx((2, 2, 2))
    ours, theirs = np.array([1.0, 2.0, 1.5]), np.array([1.1, 1.9, 1.4])
    found = paired_log_ratio(ours, theirs)
    expected = stats.ttest_1samp(np.log(ours / theirs), 0).confidence_interval()
    assert np.allclose(np.log([found.low, found.high]), [expected.low, expected.high])
    with pytest.raises(ValueError, match="2 or more seeds"):
        paired_log_ratio([1.0], [1.0])


@pytest.mark.parametrize("name, D", [("fashion-pfgmpp", 2048), ("fashion-pfgmpp-128", 128)])
def test_shipped_networks(name, D):
    if name not in shipped_networks():
        pytest.skip(f"{name} is not shipped yet")
    denoiser = load(name)
    assert denoiser.process == PFGMpp(D)
    x = sample(EDMHeun(), denoiser, grid(denoiser.process, 6, "karras"), n=2, labels=3).x
    assert x.shape == (2, 1, 28, 28) and float(x.abs().mean()) < 1.5
