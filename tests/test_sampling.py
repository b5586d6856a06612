"""Samplers: orders on five processes, exact moments, promised cost, seeds, memory, precision, bad
input."""

import math
import weakref
import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from compsamp.core import Noise, f64
from compsamp.forward import CosineVP, EDM, NoisePredictor, SubVP, VE, VP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import PSLD
from compsamp import sampling
from compsamp.sampling import (
    DDIM,
    DDPM,
    DEIS2,
    DPMpp2M,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    PLAIN_SAMPLERS,
    PNDM,
    descend,
    drift_terms,
    grid,
    lag,
    nfe,
    parse_sampler,
    points_for_budget,
    sample,
    signal_and_noise,
    states,
)

PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM()]
FLOWS = [Euler(), Heun(), DDIM(), PNDM(), DEIS2(), DPMpp2M(), EDMHeun()]
RANDOM = [
    EulerMaruyama(),
    DDIM(eta=1.0),
    DDIM(eta=0.5),
    DDPM(),
    DDPM("large"),
    DPMpp2M(True),
    DPMpp2M(1.0, 0.3, 2.0),
    EDMHeun(20.0),
    EDMHeun(20.0, 0.2, 2.0),
]
MIXTURE = ring(8, 0.8, 0.3, 0.2)


def last(it):
    for z in it:
        pass
    return z


def span(p, n):
    return torch.linspace(0.9 if p.T < 1 else 1.0, 0.1, n, dtype=torch.float64)


def slope(errors):
    return math.log2(errors[0] / errors[1]) / math.log2(319 / 159)


@pytest.fixture(scope="module")
def truth():
    "Per process: exact denoiser, start, and where an adaptive solver ends."
    out = {}
    for p in PROCESSES:
        d = MIXTURE.denoiser(p)
        t = span(p, 2).tolist()
        g = torch.Generator().manual_seed(0)
        z = p.perturb(
            MIXTURE.sample(16), t[0], torch.randn(16, 2, generator=g, dtype=torch.float64)
        )

        def velocity(u, y):
            F, _, E = drift_terms(p, f64([u]))
            z_ = torch.as_tensor(y).view(z.shape)
            return (F[0].item() * z_ + E[0].item() / 2 * d.predict(z_, u)).flatten().numpy()

        end = solve_ivp(
            velocity, t, z.flatten().numpy(), method="DOP853", rtol=1e-11, atol=1e-11
        ).y[:, -1]
        out[p] = d, z, torch.as_tensor(end).view(z.shape)
    return out


@pytest.mark.parametrize("p", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("s", FLOWS, ids=lambda s: type(s).__name__)
def test_order_of_flows(s, p, truth):
    d, z, end = truth[p]
    q = slope(
        [
            float((last(states(s, d, span(p, n), z, denoise=False)) - end).norm(dim=1).mean())
            for n in (160, 320)
        ]
    )
    assert abs(q - s.order) < 0.15


class Unit:
    def __init__(self, rows):
        self.rows, self.i = rows, 1

    def __call__(self):
        self.i += 1
        w = torch.zeros(self.rows, 1, dtype=torch.float64)
        w[self.i] = 1
        return w


def moment_errors(s, p, times, m=0.7, v=0.25):
    """Mean and variance of the result, minus the exact ones, for Gaussian data: every run is an
    affine map of start and draws."""
    rows = len(times) + 1
    z = torch.zeros(rows, 1, dtype=torch.float64)
    z[1] = 1
    out = last(
        states(s, GaussianMixture([[m]], [[[v]]]).denoiser(p), times, z, Unit(rows), denoise=False)
    )[:, 0]
    a, b = out[1] - out[0], out[2:] - out[0]
    (ps, g), (q, h) = signal_and_noise(p, times[0]), signal_and_noise(p, times[-1])
    return float(out[0] + a * ps * m - q * m), float(
        a**2 * (ps**2 * v + g**2) + (b**2).sum() - q**2 * v - h**2
    )


def weak(s, p):
    return slope([abs(moment_errors(s, p, span(p, n))[1]) for n in (160, 320)])


@pytest.mark.parametrize("s", RANDOM, ids=str)
def test_weak_order(s):
    assert abs(weak(s, VP()) - s.order) < 0.15
    for p in (VP(), SubVP(), EDM()):
        mean, var = moment_errors(s, p, span(p, 320))
        assert abs(mean) < 1e-3 and abs(var) < 1e-2


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.5, 2.0])
def test_any_amount_of_noise(eta):
    """Between and beyond flow and reverse SDE: the same laws, second order; and exactly the flow
    where no noise is allowed."""
    s = DPMpp2M(eta)
    for p in (VP(), EDM()):
        e = [abs(moment_errors(s, p, span(p, n))[1]) for n in (80, 320)]
        assert e[1] < e[0] / 10 and e[1] < 1e-3
    flow, none = (DPMpp2M(v, 5.0, 5.0) if v else DPMpp2M() for v in (0, eta))
    t, z = grid(VP(), 12, "karras"), torch.ones(2, 2, dtype=torch.float64)
    quiet, silent = (
        last(states(s, MIXTURE.denoiser(VP()), t, z, Noise(0, 2, (2,)))) for s in (flow, none)
    )
    assert torch.allclose(quiet, silent, rtol=0, atol=1e-12)
    on = [r.c > 0 for r in DPMpp2M(eta, 0.1, 2.0).prepare(VP(), t)]
    rho = VP().rho(t[:-1])
    assert on == ((rho >= 0.1) & (rho <= 2.0)).tolist() and any(on) and not all(on)


class Unraised(EDMHeun):
    def step(self, denoiser, z, r, draw, memory):
        if r.c:
            z = torch.add(r.up * z, draw(), alpha=r.c)
        e = denoiser.eps(z, r.t)
        y = r.a * z + r.b * e
        return r.a * z + r.b / 2 * (e + denoiser.eps(y, r.s)), None


def test_churn_asked_at_the_unraised_time_is_caught():
    for p in (VP(), EDM()):
        assert abs(weak(EDMHeun(20.0), p) - 2) < 0.15 and abs(weak(Unraised(20.0), p) - 2) > 0.5


def test_churn_never_passes_the_end():
    for p in PROCESSES:
        for n in (2, 3, 50):
            t = grid(p, n)
            u = EDMHeun(1000.0).raised(p, t)
            assert float(u[0]) == p.T and float(u.max()) <= p.T and bool((u >= t[:-1]).all())
    s = EDMHeun(20.0, s_min=0.5, s_max=2.0)
    t = grid(VP(), 50)
    rho = VP().rho(t[:-1])
    up = s.raised(VP(), t) > t[:-1]
    assert torch.equal(up, (rho >= 0.5) & (rho <= 2.0))


class Zero(NoisePredictor):
    shape = (1,)

    def predict(self, z, t):
        return torch.zeros_like(z)


@pytest.mark.parametrize("s", FLOWS + RANDOM, ids=str)
def test_promised_nfe_and_draws(s):
    for n in (1, 2, 3, 7, 10, 50, 999, 1000):
        d, draw = Zero(VP()), Noise(0, 1, (1,))
        last(states(s, d, grid(VP(), n), torch.ones(1, 1), draw))
        assert (
            d.nfe == nfe(s, n)
            and points_for_budget(s, d.nfe) == n
            and points_for_budget(s, d.nfe + s.evals - 1) == n
        )
        assert draw.count <= s.draws * (n - 1) and (
            hasattr(s, "s_max") or draw.count == s.draws * (n - 1)
        )
    assert sample(s, Zero(VP()), 7, n=5, batch=2).nfe == nfe(s, 7)


def test_ddim_draws_nothing_after_the_prior():
    draw = Noise(0, 4, (2,))
    z = draw()
    last(states(DDIM(), MIXTURE.denoiser(VP()), grid(VP(), 20), z, draw))
    assert draw.count == 1


@pytest.mark.parametrize(
    "s", [DDIM(), DPMpp2M(True), EDMHeun(20.0), EulerMaruyama(), PNDM()], ids=str
)
def test_a_seed_is_a_picture(s):
    d = MIXTURE.denoiser(VP())
    ref = sample(s, d, 8, n=64, seed=3, batch=64).x
    for b in (1, 7):
        assert (sample(s, d, 8, n=64, seed=3, batch=b).x - ref).abs().max() <= 1e-5
    assert torch.equal(sample(s, d, 8, n=64, seed=3, batch=64).x, ref)
    assert torch.equal(
        sample(s, d, 8, n=7, seed=3, first=7, batch=7).x,
        sample(s, d, 8, n=14, seed=3, batch=7).x[7:],
    )
    assert not torch.equal(sample(s, d, 8, n=64, seed=4).x, ref)


@pytest.mark.parametrize("s", FLOWS + RANDOM, ids=str)
def test_float32_against_float64(s):
    d = MIXTURE.denoiser(VP())
    a, b = (sample(s, d, 50, n=16, dtype=t).x for t in (torch.float32, torch.float64))
    assert a.dtype == torch.float32 and b.dtype == torch.float64 and (a - b).abs().max() < 3e-4


def test_states_are_not_kept():
    alive, most = weakref.WeakSet(), 0
    for z in states(PNDM(), Zero(VP()), grid(VP(), 900), torch.ones(2, 1)):
        alive.add(z)
        most = max(most, len(alive))
    assert most <= 3


def test_memory_is_cleared_on_each_descent():
    d = MIXTURE.denoiser(VP())
    t = span(VP(), 6)
    z = torch.ones(3, 2, dtype=torch.float64)
    for s in (PNDM(), DEIS2(), DPMpp2M()):
        two = last(descend(s, d, t[2:], last(descend(s, d, t[:3], z))))
        assert not torch.allclose(two, last(descend(s, d, t, z)), atol=1e-9)
        assert torch.allclose(
            next(iter(descend(s, d, t[2:], z))),
            next(iter(descend(DDIM(), d, t[2:], z))),
            atol=1e-12,
        )


def test_ddpm_small_is_ddim_eta_one():
    for p in PROCESSES:
        for a, b in zip(DDPM().prepare(p, grid(p, 50)), DDIM(eta=1.0).prepare(p, grid(p, 50))):
            assert (
                max(abs(getattr(a, n) - getattr(b, n)) / max(1, abs(getattr(a, n))) for n in "abc")
                < 1e-12
            )


def test_deis_weights_do_not_depend_on_the_nodes():
    for p in PROCESSES:
        t = grid(p, 12)
        assert torch.allclose(lag(p, t[:-1], t[1:]), lag(p, t[:-1], t[1:], 160), rtol=1e-8, atol=0)


def test_momentum():
    d = MIXTURE.denoiser(PSLD())
    for s in (Euler(), Heun(), EulerMaruyama()):
        r = sample(s, d, grid(PSLD(), 30, "quadratic"), n=20)
        assert r.x.shape == (20, 2) and r.nfe == nfe(s, 30)
    for s in (DDIM(), DDPM(), PNDM(), DEIS2(), DPMpp2M(), EDMHeun()):
        with pytest.raises(ValueError, match="k = 1"):
            sample(s, d, 5, n=2)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: DDIM(eta=-0.1), "eta = -0.1"),
        (lambda: DDIM(eta=1.1), "eta"),
        (lambda: DDPM("none"), "variance"),
        (lambda: EDMHeun(-1.0), "s_churn"),
        (lambda: EDMHeun(s_noise=0.0), "s_noise"),
        (lambda: EDMHeun(s_min=3.0, s_max=2.0), "s_min"),
        (lambda: EDMHeun(float("nan")), "s_churn"),
        (lambda: DPMpp2M("yes"), "stochastic"),
        (lambda: DPMpp2M(-1.0), "stochastic"),
        (lambda: DPMpp2M(1.0, 2.0, 1.0), "s_min"),
        (lambda: parse_sampler("nope"), "one of euler"),
        (lambda: parse_sampler("ddim:"[:-1] + ":x=1"), "eta"),
        (lambda: grid(VP(), 0), "n = 0"),
        (lambda: grid(VP(), 2.5), "n = 2.5"),
        (lambda: grid(VP(), 5, "log"), "kind"),
        (lambda: grid(VP(), 5, "karras", 0.0), "rho"),
        (lambda: sample(DDIM(), Zero(VP()), [1.0, 0.5, 0.6]), "strictly falling"),
        (lambda: sample(DDIM(), Zero(VP()), [1.0, 0.5, 0.0]), "infinite"),
        (lambda: sample(DDIM(), Zero(VP()), [1.0, 1.0]), "strictly falling"),
        (lambda: sample(DDIM(), Zero(VP()), [1.5, 1.0]), r"inside \(0, T = 1.0\]"),
        (lambda: sample(DDIM(), Zero(VP()), -3), "n = -3"),
        (lambda: sample(DDIM(), Zero(VP()), 5, batch=0), "batch"),
        (lambda: sample(DDIM(), Zero(VP()), 5, seed=-1), "seed"),
        (lambda: last(states(EulerMaruyama(), Zero(VP()), [1.0, 0.5], torch.ones(1, 1))), "draw"),
        (lambda: points_for_budget(Heun(), 0), "nfe = 0"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_network_that_blows_up_is_not_silent():
    class Bad(Zero):
        def predict(self, z, t):
            return z * np.nan

    with pytest.raises(FloatingPointError, match="NaN"):
        sample(DDIM(), Bad(VP()), 4)


def test_every_name_is_usable():
    for name in PLAIN_SAMPLERS:
        s = parse_sampler(name)
        assert sample(s, MIXTURE.denoiser(VP()), 5, n=3, progress=False).x.shape == (3, 2)
    assert sampling.parse_sampler("edm:s_churn=10,s_min=.05,s_max=50,s_noise=1.003") == EDMHeun(
        10, 0.05, 50, 1.003
    )
