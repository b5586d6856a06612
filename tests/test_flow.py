"Flow matching: the process, steps from t = 1, diffusers, other processes, orders, training."

import math

import numpy as np
import pytest
import torch
from torch import nn

from compsamp import flow, forward, networks, sampling, zoo
from compsamp.core import Noise, f64
from compsamp.flow import (
    ExactMean,
    FlowDenoiser,
    FlowHeun,
    FlowMatching,
    PredictFlow,
    ReadAs,
    as_flow,
    from_velocity,
    shift,
)
from compsamp.forward import EDM, VE, VP, CosineVP, Flow, SubVP, integrate_moments
from compsamp.mixtures import ring
from compsamp.networks import Denoiser, UNet
from compsamp.psld import PSLD
from compsamp.restart import RestartInterval, restart, timeline
from compsamp.sampling import (
    DDIM,
    DDPM,
    DEIS2,
    PNDM,
    DPMpp2M,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    Route,
    grid,
    nfe,
    sample,
    signal_and_noise,
    states,
)
from compsamp.skipstep import ScaledDenoiser
from compsamp.training import StepRandom, Trainer

WIDE = ring(8, 0.8, 0.3, 0.2)
FROM_ONE = [DDIM(), DDIM(eta=1.0), DDPM(), DDPM("large"), PNDM(), DEIS2(), DPMpp2M(), DPMpp2M(1.0)]
FROM_ONE += [EDMHeun(), EDMHeun(20.0), FlowHeun()]


def last(walk):
    "The last of many states."
    *_, end = walk
    return end


def noise(n=32, seed=0):
    "Standard normal `(n, 2)`, float64."
    return Noise(seed, n, (2,), dtype=torch.float64)()


class Velocity(nn.Module):
    "A smooth stand-in for a network that predicts v."

    channels, classes, config = 1, 3, {}

    def forward(self, x, t, labels=None):
        label = 0.0 if labels is None else (labels % 3).view(-1, 1, 1, 1)
        return torch.tanh(1.3 * x) * (1 + t.view(-1, 1, 1, 1) / 1000) + 0.2 * label


# ---------------------------------------------------------------- the process


def test_kernel_is_the_one_of_its_equation():
    t, s = f64([0.05, 0.5, 0.97]), f64([1e-3, 0.49, 0.3])
    for closed, numerical in zip(Flow().transition(t, s), integrate_moments(Flow(), t, s)):
        assert torch.allclose(closed, numerical, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "low, middle, high", [(0.0, 0.4, 1.0), (0.3, 1 - 1e-12, 1.0), (1e-9, 2e-9, 1.0)]
)
def test_two_transitions_are_one(low, middle, high):
    (p1, s1), (p2, s2) = Flow().transition(middle, low), Flow().transition(high, middle)
    p, s = Flow().transition(high, low)
    assert abs(float(p2 * p1 - p)) < 1e-14
    assert float((p2 * s1 * p2 + s2 - s).abs() / s) < 1e-9


def test_variance_does_not_cancel():
    t = f64(0.5)
    for h in (1e-6, 1e-10, 1e-13):
        s = t - h
        want = float((t - s) * (t * (1 - s) + s * (1 - t)) / (1 - s) ** 2)
        assert abs(float(Flow().transition(t, s)[1]) / want - 1) < 1e-12
        assert abs(want / (float(t - s) * float(Flow().G(0.5)) ** 2) - 1) < 5 * h + 1e-9


def test_the_end_and_the_clock():
    p = Flow()
    mu, C = p.marginal(1.0)
    assert float(mu) == 0 and float(C) == 1 and float(p.prior_scale()) == 1
    assert [float(v) for v in p.transition(1.0, 1.0)] == [1, 0]
    assert float(p.rho(1.0)) == math.inf and float(p.time(math.inf)) == 1
    t = f64([1e-3, 0.2, 0.5, 0.999, 1.0])
    assert torch.allclose(p.time(p.rho(t)), t, rtol=1e-14)
    x0, w = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)
    assert torch.equal(p.perturb(x0, 1.0, w), w)
    assert torch.allclose(p.perturb(x0, f64([0.1, 0.5, 0.9, 1.0]), w)[1], x0[1] / 2 + w[1] / 2)


@pytest.mark.parametrize("kind", sampling.GRIDS)
@pytest.mark.parametrize("p", [Flow(), Flow(T=0.999)], ids=str)
def test_grids(kind, p):
    for n in (1, 2, 3, 18, 100):
        t = grid(p, n, kind)
        assert len(t) == n and float(t[0]) == p.T and bool((t[1:] < t[:-1]).all())
        assert n == 1 or float(t[-1]) == p.eps
    inner = grid(p, 5, kind, top=p.T, bottom=0.9985)
    assert bool((inner[1:] < inner[:-1]).all()) and bool(torch.isfinite(inner).all())


def test_a_card_tells_the_process():
    card = networks.process_card(Flow(T=0.99))
    assert card == dict(name="Flow", T=0.99)
    assert flow.Flow is forward.Flow, "one class, beside the other processes"
    assert zoo.find_process(card) == Flow(T=0.99)


# ---------------------------------------------------------------- from t = 1


@pytest.mark.parametrize("s", FROM_ONE, ids=str)
def test_every_step_from_x0_begins_at_one(s):
    "Finite, promised cost, and near the data's law."
    d = ExactMean(WIDE, Flow())
    for n in (1, 2, 30):
        r = sample(s, d, n, n=500, batch=500)
        assert r.nfe == nfe(s, n) and bool(torch.isfinite(r.x).all())
    want = WIDE.moments()[1].diagonal().sqrt()
    assert torch.allclose(r.x.double().std(0), want, rtol=0.15), (r.x.std(0), want)


@pytest.mark.parametrize("s", [Euler(), Heun(), EulerMaruyama()], ids=str)
def test_steps_that_need_the_rates_say_so_at_one(s):
    with pytest.raises(ValueError, match=r"t = 1\.0.*Flow\(T=0\.999\)"):
        sample(s, ExactMean(WIDE, Flow()), 10, n=2)
    r = sample(s, ExactMean(WIDE, Flow(T=0.999)), 40, n=300, batch=300)
    assert torch.allclose(r.x.double().std(0), WIDE.moments()[1].diagonal().sqrt(), rtol=0.2)


def test_noise_alone_does_not_tell_x0_at_one():
    with pytest.raises(ValueError, match=r"does not tell x0; a flow .* Flow\(T=0.999\)"):
        sample(DDIM(), WIDE.denoiser(Flow()), 10, n=2)


def test_exact_mean():
    d, old = ExactMean(WIDE, Flow()), WIDE.denoiser(Flow())
    z = noise()
    for t in (1e-3, 0.3, 0.9, 0.999):
        assert torch.allclose(d.x0(z, t), old.x0(z, t), atol=1e-9)
    assert torch.allclose(d.x0(z, 1.0), WIDE.moments()[0].expand(32, 2), atol=1e-12)
    assert torch.allclose(d.x0(z, 1 - 1e-6), d.x0(z, 1.0), atol=1e-4)
    many = f64(np.linspace(0.1, 1, 32))
    rows = torch.cat([d.x0(z[i : i + 1], float(t)) for i, t in enumerate(many)])
    assert torch.allclose(d.x0(z, many), rows, atol=1e-12)
    with pytest.raises(ValueError, match="k = 1"):
        ExactMean(WIDE, PSLD())


def test_euler_on_v_is_ddim():
    d = ExactMean(WIDE, Flow())
    z, t = noise(), grid(Flow(), 15)
    x = z
    for a, b in zip([*t], [*t[1:], f64(0.0)]):
        x = x + (b - a) * (x - d.x0(x, float(a))) / a
    assert float((x - last(states(DDIM(), d, t, z))).abs().max()) < 1e-12
    below = grid(Flow(), 15, top=0.9)
    pair = [last(states(s, d, below, z)) for s in (Euler(), DDIM())]
    assert float((pair[0] - pair[1]).abs().max()) < 1e-12


def test_edm_heun_is_a_trapezoid_in_rho_and_finite_from_infinity():
    d = ExactMean(WIDE, Flow())
    t = grid(Flow(), 9, top=0.8)
    z = noise()
    y = z / (1 - t[0])
    for a, b in zip(t[:-1].tolist(), t[1:].tolist()):
        ra, rb = a / (1 - a), b / (1 - b)
        first = d.eps(y * (1 - a), a)
        second = d.eps((y + (rb - ra) * first) * (1 - b), b)
        y = y + (rb - ra) * (first + second) / 2
    assert torch.allclose(
        y * (1 - t[-1]), last(states(EDMHeun(), d, t, z, denoise=False)), atol=1e-11
    )
    records = EDMHeun().prepare(Flow(), grid(Flow(), 9))
    assert records[0].w == 0.5 and records[1].w > 0.5


# ---------------------------------------------------------------- diffusers


@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("n", [1, 4, 28])
def test_diffusers(factor, n):
    diffusers = pytest.importorskip("diffusers")
    net = Velocity()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=factor)
    scheduler.set_timesteps(n)
    x = start = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t.expand(3)), t, x).prev_sample
    assert float(scheduler.sigmas[0]) == 1
    ours = last(states(DDIM(), FlowDenoiser(net, shape=(1, 4, 4)), scheduler.sigmas[:-1], start))
    assert float((x - ours).abs().max()) < 1e-5 and float((x - start).abs().max()) > 0.1


# ---------------------------------------------------------------- changes of variables


@pytest.mark.parametrize(
    "p", [VP(), CosineVP(), SubVP(), VE(), EDM()], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize(
    "s", [DDIM(), DDIM(eta=1.0), DDPM(), DPMpp2M(), EDMHeun(), FlowHeun()], ids=str
)
def test_a_network_reads_both_ways(p, s):
    "The same ratios, the same draws: the same result under the process itself and under the flow."
    inner = WIDE.denoiser(p)
    outer = as_flow(inner)
    t = grid(outer.process, 8)
    back = p.time(outer.process.rho(t)).clamp(max=p.T)
    psi, sigma = signal_and_noise(p, back[0])
    z = noise()
    draws = [Noise(1, 32, (2,), dtype=torch.float64) for _ in range(2)]
    one = last(states(s, outer, t, z, draws[0]))
    two = last(states(s, inner, back, z * float(psi + sigma), draws[1]))
    assert float((one - two).abs().max()) < 1e-9


def test_restart_is_the_same_on_flow_and_vp():
    main = grid(Flow(T=0.99), 14)
    inside = f64([0.7, 0.6, float(main[9])])
    ends = []
    for d in (ExactMean(WIDE, Flow(T=0.99)), WIDE.denoiser(VP())):
        times, inner = (d.process.time(Flow().rho(v)) for v in (main, inside))
        factor = float(sum(signal_and_noise(d.process, times[0])))
        draw = Noise(2, 32, (2,), dtype=torch.float64)
        ends.append(
            last(states(EDMHeun(), d, Route(times, ((9, inner, 3),)), noise() * factor, draw))
        )
    assert float((ends[0] - ends[1]).abs().max()) < 1e-10


def test_restart_runs_and_costs_what_it_says():
    d = ExactMean(WIDE, Flow())
    route = restart(
        Flow(),
        12,
        [RestartInterval.from_sigma(Flow(), 0.2, 1.0, 3, 2), RestartInterval(0.6, 1.0, 4, 1)],
    )
    for s in (DDIM(), DPMpp2M(1.0), EDMHeun(), FlowHeun()):
        r = sample(s, d, route, n=5)
        assert r.nfe == nfe(s, route) and bool(torch.isfinite(r.x).all())
        assert timeline(route, s)[0][-1] + 1 == r.nfe


def test_read_as_counts_binds_and_refuses():
    net = UNet(1, width=8, mults=(1,), classes=3)
    inner = Denoiser(net, VP(), (1, 8, 8))
    d = as_flow(inner)
    z = torch.randn(4, 1, 8, 8)
    d.x0(z, 0.5)
    d.eps(z, f64([0.1, 0.2, 0.5, 0.9]))
    assert d.nfe == 2 and d.shape == (1, 8, 8)
    guided = d.bind(labels=torch.arange(4) % 3, guidance=2.0)
    guided.x0(z, 0.5)
    assert guided.nfe == 2 and isinstance(guided.process, Flow)
    assert sample(DDIM(), d, 5, n=2, labels=1).x.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="at most"):
        ReadAs(inner, Flow())
    with pytest.raises(ValueError, match="k = 1"):
        ReadAs(WIDE.denoiser(PSLD()), Flow())


def test_a_flow_network_reads_as_vp():
    flow = FlowDenoiser(Velocity(), shape=(1, 4, 4))
    vp, other = ReadAs(flow, VP()), Denoiser(PredictFlow(Velocity(), VP()), VP(), (1, 4, 4))
    z = torch.randn(5, 1, 4, 4)
    for t in (0.01, 0.4, 1.0):
        assert torch.allclose(vp.eps(z, t), other.eps(z, t), atol=1e-5)
        assert torch.allclose(vp.x0(z, t), other.x0(z, t), atol=1e-3)


# ---------------------------------------------------------------- shift


def test_shift():
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    for a in (0.3, 1.0, 3.0):
        assert torch.allclose(Flow().rho(shift(t, a))[:-1], a * Flow().rho(t)[:-1])
        assert float(shift(1, a)) == 1 and float(shift(0.0, a)) == 0
        assert torch.allclose(shift(shift(t, a), 1 / a), t, atol=1e-15)
    for bad in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="factor"):
            shift(t, bad)
    with pytest.raises(ValueError, match="times"):
        shift([1.2], 2.0)


# ---------------------------------------------------------------- orders


@pytest.mark.parametrize("top", [0.9, 1.0])
@pytest.mark.parametrize(
    "s", [DDIM(), DPMpp2M(), EDMHeun(), FlowHeun(), Heun()], ids=lambda s: type(s).__name__
)
def test_order(s, top):
    if top == 1 and isinstance(s, Heun):
        pytest.skip("Heun in t needs F, which is infinite at t = 1")
    d, z = ExactMean(WIDE, Flow()), noise(16)

    def walk(s, n):
        times = torch.linspace(top, 0.1, n + 1).double()
        return last(states(s, d, times, z, denoise=False))

    fine = walk(FlowHeun(), 1280)
    errors = [float((walk(s, n) - fine).norm(dim=1).mean()) for n in (80, 160)]
    assert abs(math.log2(errors[0] / errors[1]) - s.order) < 0.25


# ---------------------------------------------------------------- networks and training


def test_flow_denoiser():
    net = Velocity()
    d = FlowDenoiser(net, shape=(1, 4, 4))
    x0, w = torch.randn(2, 3, 1, 4, 4)
    for t in (0.2, 1.0, f64([0.1, 0.6, 1.0])):
        z = Flow().perturb(x0, t, w)
        at = t.view(-1, 1, 1, 1).float() if isinstance(t, torch.Tensor) else t
        x, e = d.x0(z, t), d.eps(z, t)
        assert torch.allclose((1 - at) * x + at * e, z, atol=1e-5)
        assert torch.allclose(e - x, d.velocity(z, t), atol=1e-5)
    assert d.nfe == 6
    guided = d.bind(labels=torch.tensor([0, 1, 2]), guidance=3.0)
    plain, cond = d.velocity(z, 0.5), d.bind(labels=torch.tensor([0, 1, 2])).velocity(z, 0.5)
    want = plain + 3 * (cond - plain)
    assert guided.evals == 2
    assert torch.allclose(guided.velocity(z, 0.5), want, atol=1e-4)
    clipped = d.bind(clip=True)
    assert float(clipped.x0(10 * z, 0.5).abs().max()) <= 1 + 1e-5
    with pytest.raises(TypeError, match="Flow"):
        FlowDenoiser(net, VP())


@pytest.mark.parametrize("p", [Flow(), VP(), EDM(), SubVP()], ids=lambda p: type(p).__name__)
def test_predict_flow_is_right_about_what_it_is_told(p):
    "If the network inside knows v, eps is the noise."
    t = p.time(f64([0.02, 0.5, 1.0, 30.0]))
    x0, w = torch.randn(2, 4, 1, 3, 3, dtype=torch.float64)

    class Told(nn.Module):
        channels, classes, config = 1, 0, {}

        def forward(self, x, tau, labels=None):
            self.seen = x, tau
            return w - x0

    told = Told()
    assert torch.allclose(PredictFlow(told, p)(p.perturb(x0, t, w), 1000 * t), w, atol=1e-9)
    x, tau = told.seen
    assert torch.allclose(x, Flow().perturb(x0, tau.double() / 1000, w), atol=1e-6)
    with pytest.raises(ValueError, match="k = 1"):
        PredictFlow(told, PSLD())


def test_the_objective_is_the_error_of_v():
    x0 = torch.randn(64, 1, 4, 4)
    net = Velocity()
    for law in ("uniform", "logit-normal"):
        objective, dice = FlowMatching(law), StepRandom(0, 0, "cpu")
        loss = objective(PredictFlow(net, Flow()), None, Flow(), x0, None, dice)
        dice = StepRandom(0, 0, "cpu")
        t = objective.flow_times(dice.uniform(64))
        w = dice.normal(x0.shape)
        at = t.view(-1, 1, 1, 1).float()
        want = (net((1 - at) * x0 + at * w, 1000 * t.float()) - (w - x0)).square().mean()
        assert abs(float(loss / want) - 1) < 1e-4
    for settings, word in (
        ({"law": "beta"}, "law"),
        ({"deviation": 0.0}, "deviation"),
        ({"mean": math.nan}, "mean"),
    ):
        with pytest.raises(ValueError, match=word):
            FlowMatching(**settings)


def test_training_times():
    u = (torch.arange(10000).double() + 0.5) / 10000
    t = FlowMatching("logit-normal", 0.5, 0.7).flow_times(u)
    logit = (t / (1 - t)).log()
    assert abs(float(logit.mean()) - 0.5) < 1e-2 and abs(float(logit.std()) - 0.7) < 1e-2
    assert torch.allclose(FlowMatching().flow_times(u), u, atol=1e-4)
    ends = FlowMatching().flow_times(f64([0.0, 1.0]))
    assert 0 < float(ends[0]) and float(ends[1]) < 1


def test_training_learns_and_is_repeatable():
    images = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round() * 2 - 1
    images[:, :, :, :4] = 1

    def run():
        torch.manual_seed(0)
        net = PredictFlow(UNet(1, width=8, mults=(1,), classes=0), Flow())
        trainer = Trainer(
            net,
            Flow(),
            images,
            steps=30,
            batch=32,
            lr=3e-3,
            warmup=5,
            amp=False,
            objective=FlowMatching(),
        )
        list(trainer.stream(10))
        return trainer

    one, two = run(), run()
    assert one.losses == two.losses and np.mean(one.losses[-5:]) < 0.8 * np.mean(one.losses[:3])
    card = one.card()
    assert card["network"]["predicts"] == "flow" and card["process"] == dict(name="Flow", T=1.0)
    d = from_velocity(one.denoiser())
    assert sample(DPMpp2M(), d, 6, n=2).x.shape == (2, 1, 8, 8)
    with pytest.raises(TypeError, match="PredictFlow"):
        from_velocity(Denoiser(UNet(1, width=8, mults=(1,), classes=0), Flow(), (1, 8, 8)))


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("T", [0.0, 1e-3, 1.1, math.nan, math.inf])
def test_bad_end(T):
    with pytest.raises(ValueError, match="T = "):
        Flow(T=T)


def test_bad_times():
    with pytest.raises(ValueError, match=r"\[0, 1.0\]"):
        Flow().marginal(1.5)
    with pytest.raises(ValueError, match="not before"):
        Flow().transition(0.2, 0.3)
    for rate in (Flow().F, Flow().G):
        with pytest.raises(ValueError, match="below 1"):
            rate(1.0)


def test_a_wrapper_is_not_lost_on_the_way_to_the_flow():
    net = PredictFlow(UNet(1, width=8, mults=(1,), classes=0), Flow(T=0.99))
    wrapped = ScaledDenoiser(Denoiser(net, Flow(T=0.99), (1, 8, 8)))
    with pytest.raises(TypeError, match="ScaledDenoiser"):
        from_velocity(wrapped)
