"Samplers: orders on five processes, exact moments, promised cost, seeds, what must not be silent."

import math
import time
import weakref
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import compsamp
from compsamp import sampling, zoo
from compsamp.core import Noise, Record, f64, records
from compsamp.forward import EDM, VE, VP, CosineVP, NoisePredictor, SubVP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.networks import Denoiser, shipped_networks
from compsamp.psld import PSLD
from compsamp.sampling import (
    DDIM,
    DDPM,
    DEIS2,
    PLAIN_SAMPLERS,
    PNDM,
    DPMpp2M,
    DPMSolver3,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    Route,
    Sampler,
    coefficients,
    descend,
    drift_terms,
    grid,
    lag,
    nfe,
    points_for_budget,
    progress_bar,
    sample,
    signal_and_noise,
    states,
    transfer,
    transfer_x0,
)

PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM()]
FLOWS = [Euler(), Heun(), DDIM(), PNDM(), DEIS2(), DPMpp2M(), DPMSolver3(), EDMHeun()]
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
missing = "fashion-vp-small" not in shipped_networks()
needs_network = pytest.mark.skipif(missing, reason="no network")


def last(walked):
    "The last of many states."
    z = None
    for state in walked:
        z = state
    return z


def span(process, n):
    "n times from 1 (cosine VP ends below) down to 0.1."
    return torch.linspace(0.9 if process.T < 1 else 1.0, 0.1, n, dtype=torch.float64)


def slope(errors):
    "The order that two errors at N = 160 and 320 show."
    return math.log2(errors[0] / errors[1]) / math.log2(319 / 159)


def name(thing):
    return type(thing).__name__


class Zero(NoisePredictor):
    "A network that answers zero, and is only counted."

    shape = (1,)

    def predict(self, z, t):
        return torch.zeros_like(z)


# Orders


@pytest.fixture(scope="module")
def truth():
    "Per process: exact denoiser, start, and where an adaptive solver ends."
    known = {}
    for process in PROCESSES:
        denoiser, t = MIXTURE.denoiser(process), span(process, 2).tolist()
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(16, 2, generator=generator, dtype=torch.float64)
        z = process.perturb(MIXTURE.sample(16), t[0], noise)

        def velocity(u, flat, process=process, denoiser=denoiser, shape=z.shape):
            F, _, E = drift_terms(process, f64([u]))
            state = torch.as_tensor(flat).view(shape)
            moved = F[0].item() * state + E[0].item() / 2 * denoiser.predict(state, u)
            return moved.flatten().numpy()

        flat = z.flatten().numpy()
        run = solve_ivp(velocity, t, flat, method="DOP853", rtol=1e-11, atol=1e-11)
        known[process] = denoiser, z, torch.as_tensor(run.y[:, -1]).view(z.shape)
    return known


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("sampler", FLOWS, ids=name)
def test_order_of_flows(sampler, process, truth):
    denoiser, z, end = truth[process]
    errors = []
    for n in (160, 320):
        there = last(states(sampler, denoiser, span(process, n), z, denoise=False))
        errors.append(float((there - end).norm(dim=1).mean()))
    assert abs(slope(errors) - sampler.order) < 0.15


class UnitDraws:
    "The i-th draw is one in row i + 2, zero elsewhere."

    def __init__(self, rows):
        self.rows, self.i = rows, 1

    def __call__(self):
        self.i += 1
        return torch.eye(self.rows, dtype=torch.float64)[:, self.i : self.i + 1]


def moment_errors(sampler, process, times, mean=0.7, variance=0.25):
    "Errors of mean and variance for Gaussian data: every run is an affine map of start and draws."
    rows = len(times) + 1
    z = torch.eye(rows, dtype=torch.float64)[:, 1:2]
    denoiser = GaussianMixture([[mean]], [[[variance]]]).denoiser(process)
    out = last(states(sampler, denoiser, times, z, UnitDraws(rows), denoise=False))[:, 0]
    a, drawn = out[1] - out[0], out[2:] - out[0]
    psi_T, sigma_T = signal_and_noise(process, times[0])
    psi_0, sigma_0 = signal_and_noise(process, times[-1])
    spread = a**2 * (psi_T**2 * variance + sigma_T**2) + (drawn**2).sum()
    shift = out[0] + a * psi_T * mean - psi_0 * mean
    return float(shift), float(spread - psi_0**2 * variance - sigma_0**2)


def weak_order(sampler, process):
    return slope([abs(moment_errors(sampler, process, span(process, n))[1]) for n in (160, 320)])


@pytest.mark.parametrize("sampler", RANDOM, ids=str)
def test_weak_order(sampler):
    assert abs(weak_order(sampler, VP()) - sampler.order) < 0.15
    for process in (VP(), SubVP(), EDM()):
        mean, variance = moment_errors(sampler, process, span(process, 320))
        assert abs(mean) < 1e-3 and abs(variance) < 1e-2


@pytest.mark.parametrize("eta", [0.25, 0.5, 1.5, 2.0])
def test_any_amount_of_noise(eta):
    "Between and beyond flow and reverse SDE: the same laws, second order."
    for process in (VP(), EDM()):
        coarse, fine = (
            abs(moment_errors(DPMpp2M(eta), process, span(process, n))[1]) for n in (80, 320)
        )
        assert fine < coarse / 10 and fine < 1e-3


@pytest.mark.parametrize("eta", [0.25, 2.0])
def test_noise_only_where_it_is_allowed(eta):
    t, z = grid(VP(), 12, "karras"), torch.ones(2, 2, dtype=torch.float64)
    flow = last(states(DPMpp2M(), MIXTURE.denoiser(VP()), t, z))
    nowhere = states(DPMpp2M(eta, 5.0, 5.0), MIXTURE.denoiser(VP()), t, z, Noise(0, 2, (2,)))
    assert torch.equal(flow, last(nowhere))
    drawn = [r.c > 0 for r in DPMpp2M(eta, 0.1, 2.0).prepare(VP(), t)]
    rho = VP().rho(t[:-1])
    assert drawn == ((rho >= 0.1) & (rho <= 2.0)).tolist()
    assert any(drawn) and not all(drawn)


class Unraised(EDMHeun):
    "Wrong: adds the noise, then asks at the time before."

    def step(self, denoiser, z, r, draw, memory):
        if r.c:
            z = torch.add(r.up * z, draw(), alpha=r.c)
        e = denoiser.eps(z, r.t)
        y = r.a * z + r.b * e
        return r.a * z + r.b / 2 * (e + denoiser.eps(y, r.s)), None


def test_churn_asked_at_the_unraised_time_is_caught():
    for process in (VP(), EDM()):
        assert abs(weak_order(EDMHeun(20.0), process) - 2) < 0.15
        assert abs(weak_order(Unraised(20.0), process) - 2) > 0.5


def test_churn_never_passes_the_end():
    for process in PROCESSES:
        for n in (2, 3, 50):
            t = grid(process, n)
            up = EDMHeun(1000.0).raised(process, t)
            assert float(up[0]) == process.T and float(up.max()) <= process.T
            assert bool((up >= t[:-1]).all())


def test_churn_stays_in_its_range():
    t = grid(VP(), 50)
    rho = VP().rho(t[:-1])
    up = EDMHeun(20.0, s_min=0.5, s_max=2.0).raised(VP(), t) > t[:-1]
    assert torch.equal(up, (rho >= 0.5) & (rho <= 2.0))


# Steps by two routes


def test_ddpm_small_is_ddim_eta_one():
    for process in PROCESSES:
        t = grid(process, 50)
        for one, other in zip(DDPM().prepare(process, t), DDIM(eta=1.0).prepare(process, t)):
            for column in ("a", "b", "c", "keep", "gain"):
                left, right = getattr(one, column), getattr(other, column)
                assert abs(left - right) < 1e-12 * max(1, abs(left))


def test_a_step_from_the_picture_is_the_step_from_the_noise():
    for process in PROCESSES:
        t = grid(process, 9)
        z, e = f64([0.3, -1.0]), f64([0.7, 0.2])
        for one, other in zip(records(**transfer(process, t)), records(**transfer_x0(process, t))):
            psi, sigma = (float(v) for v in signal_and_noise(process, one.t))
            x = (z - sigma * e) / psi
            by_noise, by_picture = (
                one.a * z + one.b * e,
                other.keep * z + other.gain * x,
            )
            assert torch.allclose(by_noise, by_picture, rtol=1e-9, atol=1e-9 * sigma / psi)
            assert torch.allclose(other.u * z + other.v * x, e, rtol=1e-9, atol=1e-9)


def test_steps_by_noise_and_by_picture_lead_to_the_same_place():
    samplers = (DDIM(), DDIM(eta=0.5), DDPM(), PNDM(), DEIS2(), EDMHeun(), EDMHeun(s_churn=20.0))
    for process in PROCESSES:
        z = process.prior((3, 2), Noise(1, 3, (2,), dtype=torch.float64)())
        for sampler in samplers:
            ends = []
            for says_x0 in (False, True):
                denoiser = MIXTURE.denoiser(process)
                denoiser.says_x0 = says_x0
                draw = Noise(2, 3, (2,), dtype=torch.float64)
                ends.append(last(states(sampler, denoiser, grid(process, 12, "karras"), z, draw)))
            assert torch.allclose(*ends, rtol=1e-9, atol=1e-9), (process, sampler)


def test_a_step_goes_by_the_picture_only_where_it_must():
    asked = []

    class Notes(NoisePredictor):
        "Tells which of its two methods a step calls."

        def predict(self, z, t):
            asked.append("eps")
            return z

        def x0(self, z, t):
            asked.append("x0")
            return 0 * z

    z = torch.ones(1, 2)
    for says_x0, raised, called in (
        (False, 99.0, "eps"),
        (False, 101.0, "x0"),
        (False, math.inf, "x0"),
        (True, 2.0, "x0"),
    ):
        denoiser = Notes(VP())
        denoiser.says_x0 = says_x0
        steps = dict(a=raised, b=-1.0, keep=0.5, gain=0.5, u=0.5, v=-1.0, c=0.0, w=1.0)
        r = Record(t=0.5, s=0.4, **steps)
        for sampler in (DDIM(), PNDM(), DEIS2(), EDMHeun()):
            asked.clear()
            sampler.step(denoiser, z, r, None, None)
            assert set(asked) == {called} and len(asked) == sampler.evals, (
                sampler,
                says_x0,
                raised,
            )


def test_deis_weights_do_not_depend_on_the_nodes():
    for process in PROCESSES:
        t = grid(process, 12)
        usual, many = lag(process, t[:-1], t[1:]), lag(process, t[:-1], t[1:], 160)
        assert torch.allclose(usual, many, rtol=1e-8, atol=0)


def third_order_step(denoiser, x, t, s):
    "A step of DPM-Solver-3 as its paper writes it, with alpha, sigma and lambda (Alg. 2)."
    process = denoiser.process

    def alpha_sigma(u):
        return (float(v) for v in signal_and_noise(process, u))

    def clock(u):
        alpha, sigma = alpha_sigma(u)
        return math.log(alpha / sigma)

    h = clock(s) - clock(t)
    start = denoiser.eps(x, t)

    def first_order(u, share):
        alpha, sigma = alpha_sigma(u)
        return alpha / next(alpha_sigma(t)) * x - sigma * math.expm1(share * h) * start

    def correction(u, share, difference):
        _, sigma = alpha_sigma(u)
        return sigma * (math.expm1(share * h) / (share * h) - 1) * difference

    s1, s2 = (float(process.time(math.exp(-clock(t) - r * h))) for r in (1 / 3, 2 / 3))
    difference = denoiser.eps(first_order(s1, 1 / 3), s1) - start
    second = first_order(s2, 2 / 3) - (2 / 3) / (1 / 3) * correction(s2, 2 / 3, difference)
    return first_order(s, 1) - correction(s, 1, denoiser.eps(second, s2) - start) / (2 / 3)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_the_third_order_step_is_that_of_its_paper(process):
    denoiser, times = MIXTURE.denoiser(process), span(process, 6)
    z = float(signal_and_noise(process, times[0])[1]) * Noise(0, 4, (2,), dtype=torch.float64)()
    want = z
    for t, s in zip(times[:-1].tolist(), times[1:].tolist()):
        want = third_order_step(denoiser, want, t, s)
    got = last(states(DPMSolver3(), denoiser, times, z, denoise=False))
    assert torch.allclose(got, want, rtol=1e-9, atol=1e-9)
    two = last(states(DPMpp2M(), denoiser, times, z, denoise=False))
    assert (got - two).abs().max() > 1e-5  # the tolerance can tell solvers apart


class NoSignal(EDM):
    "psi = 0 at T: nothing of the data is left there."

    def psi(self, t, s):
        return torch.where(t >= self.T, 0.0, 1.0)

    def marginal(self, t):
        t = self.checked(t)
        return torch.where(t >= self.T, 0.0, 1.0)[..., None], (t**2)[..., None, None]


class Answers(Zero):
    "x0 is known, whatever the state."

    def x0(self, z, t):
        self.nfe += 1
        return torch.full_like(z, 0.3)


@pytest.mark.parametrize(
    "sampler",
    [DDIM(), DDIM(eta=1.0), DDPM(), PNDM(), DEIS2(), DPMpp2M(1.0), DPMSolver3(), EDMHeun()],
    ids=str,
)
def test_steps_are_finite_where_no_signal_is_left(sampler):
    process = NoSignal()
    t = f64([80.0, 10.0, 1.0, 0.002])
    draw = Noise(0, 3, (1,), dtype=torch.float64)
    end = last(states(sampler, Answers(process), t, 80 * draw(), draw))
    assert torch.allclose(end, torch.full_like(end, 0.3))


# Cost


@pytest.mark.parametrize("sampler", FLOWS + RANDOM, ids=str)
def test_promised_nfe_and_draws(sampler):
    for n in (1, 2, 3, 7, 10, 50, 300):
        counted, draw = Zero(VP()), Noise(0, 1, (1,))
        last(states(sampler, counted, grid(VP(), n), torch.ones(1, 1), draw))
        assert counted.nfe == nfe(sampler, n)
        assert points_for_budget(sampler, counted.nfe) == n
        assert points_for_budget(sampler, counted.nfe + sampler.evals - 1) == n
        most = sampler.draws * (n - 1)
        assert draw.count <= most and (hasattr(sampler, "s_max") or draw.count == most)
    assert sample(sampler, Zero(VP()), 7, n=5, batch=2).nfe == nfe(sampler, 7)


def test_ddim_draws_nothing_after_the_prior():
    draw = Noise(0, 4, (2,))
    last(states(DDIM(), MIXTURE.denoiser(VP()), grid(VP(), 20), draw(), draw))
    assert draw.count == 1


def test_states_are_not_kept():
    alive, most = weakref.WeakSet(), 0
    for z in states(PNDM(), Zero(VP()), grid(VP(), 900), torch.ones(2, 1)):
        alive.add(z)
        most = max(most, len(alive))
    assert most <= 3


def test_budget_under_guidance():
    assert points_for_budget(EDMHeun(), 35) == points_for_budget(EDMHeun(), 70, evals=2) == 18
    with pytest.raises(ValueError, match="nfe = 1: .*at least 2"):
        points_for_budget(EDMHeun(), 1, evals=2)


# Seeds and precision


@pytest.mark.parametrize(
    "sampler", [DDIM(), DPMpp2M(True), EDMHeun(20.0), EulerMaruyama(), PNDM()], ids=str
)
def test_a_seed_is_a_picture(sampler):
    denoiser = MIXTURE.denoiser(VP())
    reference = sample(sampler, denoiser, 8, n=64, seed=3, batch=64).x
    assert torch.equal(sample(sampler, denoiser, 8, n=64, seed=3, batch=64).x, reference)
    for batch in (1, 7):
        other = sample(sampler, denoiser, 8, n=64, seed=3, batch=batch).x
        assert (other - reference).abs().max() <= 1e-5
    late = sample(sampler, denoiser, 8, n=7, seed=3, first=7, batch=7).x
    assert torch.equal(late, sample(sampler, denoiser, 8, n=14, seed=3, batch=7).x[7:])
    assert not torch.equal(sample(sampler, denoiser, 8, n=64, seed=4).x, reference)


@pytest.mark.parametrize("sampler", FLOWS + RANDOM, ids=str)
def test_float32_against_float64(sampler):
    denoiser = MIXTURE.denoiser(VP())
    single, double = (
        sample(sampler, denoiser, 50, n=16, dtype=dtype).x
        for dtype in (torch.float32, torch.float64)
    )
    assert single.dtype == torch.float32 and double.dtype == torch.float64
    assert (single - double).abs().max() < 3e-4


def test_times_of_a_list_are_float64():
    "A list of Python numbers must not pass through float32."
    assert sampling.check_grid([1.0, 0.05], VP()).tolist() == [1.0, 0.05]
    assert sampling.check_grid(np.array([0.05, 1.0])[::-1], VP()).tolist() == [
        1.0,
        0.05,
    ]


def test_trace():
    run = sample(Heun(), MIXTURE.denoiser(VP()), 10, n=5, batch=2, trace=True)
    assert len(run.trace) == 11 and run.trace[0].shape == (5, 2) and run.nfe == 19
    assert torch.equal(run.trace[-1], run.x)


def test_memory_is_cleared_on_each_descent():
    denoiser, t = MIXTURE.denoiser(VP()), span(VP(), 6)
    z = torch.ones(3, 2, dtype=torch.float64)
    for sampler in (PNDM(), DEIS2(), DPMpp2M()):
        middle = last(descend(sampler, denoiser, t[:3], z))
        twice = last(descend(sampler, denoiser, t[2:], middle))
        assert not torch.allclose(twice, last(descend(sampler, denoiser, t, z)), atol=1e-9)
        first = next(iter(descend(sampler, denoiser, t[2:], z)))
        assert torch.allclose(first, next(iter(descend(DDIM(), denoiser, t[2:], z))), atol=1e-12)


def test_momentum():
    denoiser = MIXTURE.denoiser(PSLD())
    for sampler in (Euler(), Heun(), EulerMaruyama()):
        run = sample(sampler, denoiser, grid(PSLD(), 30, "quadratic"), n=20)
        assert run.x.shape == (20, 2) and run.nfe == nfe(sampler, 30)
    for sampler in (DDIM(), DDPM(), PNDM(), DEIS2(), DPMpp2M(), DPMSolver3(), EDMHeun()):
        with pytest.raises(ValueError, match="k = 1"):
            sample(sampler, denoiser, 5, n=2)


def test_every_name_is_usable():
    assert set(PLAIN_SAMPLERS) < set(zoo.SAMPLERS)
    for text in PLAIN_SAMPLERS:
        sampler = zoo.parse_sampler(text)
        assert sample(sampler, MIXTURE.denoiser(VP()), 5, n=3).x.shape == (3, 2)
    known = zoo.parse_sampler("edm:s_churn=10,s_min=.05,s_max=50,s_noise=1.003")
    assert known == EDMHeun(10, 0.05, 50, 1.003)


# Coefficients are kept only where equal settings mean equal coefficients


class Scaled(DDIM):
    "A setting in __init__, unknown to the equality it inherits."

    def __init__(self, scale):
        super().__init__()
        object.__setattr__(self, "scale", scale)

    def prepare(self, process, times):
        return records(t=times[:-1], scale=self.scale * torch.ones(len(times) - 1))


class Faster(VP):
    "A process of one's own, with a rate that its base class does not know."

    def __init__(self, rate):
        super().__init__()
        object.__setattr__(self, "rate", rate)

    def beta(self, t):
        return self.rate * super().beta(t)

    def integral(self, t, s):
        return self.rate * super().integral(t, s)


@dataclass(frozen=True)
class Around(Sampler):
    "A sampler in a sampler."

    inner: Sampler

    def prepare(self, process, times):
        return self.inner.prepare(process, times)


def test_settings_outside_the_declared_fields_count():
    t, z = grid(VP(), 4), torch.zeros(1)
    assert Scaled(1.0) == Scaled(2.0) and Faster(0.5) == Faster(1.0), "so says Python"
    assert [coefficients(Scaled(v), VP(), t, z)[0].scale for v in (1.0, 2.0)] == [
        1.0,
        2.0,
    ]
    assert [coefficients(Around(Scaled(v)), VP(), t, z)[0].scale for v in (1.0, 2.0)] == [1.0, 2.0]
    for rate in (0.5, 1.0):
        fresh = DDIM().prepare(Faster(rate), t)
        assert coefficients(DDIM(), Faster(rate), t, z) == fresh
    assert coefficients(DDIM(), Faster(0.5), t, z) != coefficients(DDIM(), Faster(1.0), t, z)


def test_equal_settings_are_prepared_once():
    t, z = grid(VP(), 4), torch.zeros(1)
    first = coefficients(DDIM(), VP(), t, z)
    assert coefficients(DDIM(), VP(), t.clone(), z) is first
    assert coefficients(DDIM(), VP(5.0), t, z) is not first
    assert coefficients(DDIM(), VP(), t[:3], z) is not first
    assert coefficients(DDIM(), VP(), t, z.double()) is not first
    assert coefficients(DDIM(), VP(), t[:1], z) == []
    for n in range(2, 200):
        coefficients(DDIM(), VP(), grid(VP(), n), z)
    assert len(sampling.CACHE) <= sampling.MOST_CACHED


def test_one_run_prepares_once_whatever_the_sampler():
    calls = []

    class Plain(DDIM):
        def __init__(self):
            object.__setattr__(self, "eta", 0.0)

        def prepare(self, process, times):
            calls.append(len(times))
            return super().prepare(process, times)

    sample(Plain(), MIXTURE.denoiser(VP()), 6, n=10, batch=2)
    assert calls == [6]


# Where sampling starts


@pytest.mark.parametrize(
    "process, top", [(EDM(), 10.0), (VE(), 0.7), (VP(), 0.8), (SubVP(), 0.8)], ids=str
)
def test_a_grid_that_begins_below_T_starts_from_its_own_noise(process, top):
    "Data of standard deviation 0.5 come out with 0.5, not with 3.95 (EDM) or 28 (VE)."
    denoiser = GaussianMixture([[0.0]], [[[0.25]]]).denoiser(process)
    times = grid(process, 30, "karras", top=top)
    deviation = float(sample(EDMHeun(), denoiser, times, n=2000, batch=2000).x.std())
    assert abs(deviation - 0.5) < 0.03


def test_at_T_the_start_is_the_prior_bit_by_bit():
    for process in [*PROCESSES, PSLD()]:
        noise = torch.randn(3, process.k)
        start = sampling.start_state(process, process.T, noise)
        assert torch.equal(start, process.prior(noise.shape, noise))


def test_below_T_the_start_of_two_blocks_has_their_covariance():
    process = PSLD()
    noise = torch.eye(2, dtype=torch.float64)
    L = sampling.start_state(process, 0.9 * process.T, noise).T
    wanted = process.marginal(0.9 * process.T)[1]
    assert (L @ L.T - wanted).abs().max() < 0.01 * wanted.abs().max()


def test_sampling_does_not_start_where_the_picture_outweighs_the_noise():
    with pytest.raises(ValueError, match=r"times\[0\] = 0.05.*sigma/psi = 0.1"):
        sample(DDIM(), MIXTURE.denoiser(VP()), [0.05, 0.01])


class OwnNoise(EDM):
    "A process that owns what goes up in a jump."

    def noise_up(self, s, t, draw):
        assert (s, t) == (1.0, 4.0)
        return 2 * draw()


def test_a_process_may_own_the_noise_of_a_jump():
    route = Route([10.0, 1.0, 0.1], ((1, [4.0, 1.0], 1),))
    z = torch.zeros(1, 1, dtype=torch.float64)

    def ups(process):
        walked = list(states(Halt(), Zero(process), route, z, lambda: torch.ones_like(z)))
        return float(walked[2])

    assert ups(EDM()) == pytest.approx(15**0.5) and ups(OwnNoise()) == pytest.approx(2 * 15**0.5)


class Halt(Sampler):
    "Moves nothing."

    def prepare(self, process, times):
        return records(t=times[:-1])

    def step(self, denoiser, z, r, draw, memory):
        return z, None


# What is wrong is said, before the first evaluation


def exact():
    return MIXTURE.denoiser(VP())


WRONG = [
    (lambda: DDIM(eta=-0.1), "eta = -0.1"),
    (lambda: DDIM(eta=1.1), "eta"),
    (lambda: DDIM(eta="1"), "eta = '1'"),
    (lambda: DDIM(eta=True), "eta = True"),
    (lambda: DDIM(eta=1j), "eta = 1j"),
    (lambda: DDPM("none"), "variance"),
    (lambda: EDMHeun(-1.0), "s_churn"),
    (lambda: EDMHeun("5"), "s_churn"),
    (lambda: EDMHeun(float("nan")), "s_churn"),
    (lambda: EDMHeun(s_noise=0.0), "s_noise"),
    (lambda: EDMHeun(s_noise=math.inf), "s_noise"),
    (lambda: EDMHeun(s_min=3.0, s_max=2.0), "s_min"),
    (lambda: EDMHeun(s_max="2"), "s_max"),
    (lambda: DPMpp2M("yes"), "stochastic"),
    (lambda: DPMpp2M(-1.0), "stochastic"),
    (lambda: DPMpp2M(1.0, 2.0, 1.0), "s_min"),
    (lambda: zoo.parse_sampler("nope"), "one of euler"),
    (lambda: zoo.parse_sampler("ddim:x=1"), "eta"),
    (lambda: zoo.parse_sampler("ddim:eta=abc"), "eta"),
    (lambda: grid(VP(), 0), "n = 0"),
    (lambda: grid(VP(), 2.5), "n = 2.5"),
    (lambda: grid(VP(), True), "n = True"),
    (lambda: grid(VP(), "5"), "n = '5'"),
    (lambda: grid(VP(), 10**11), "n = 100000000000: at most 1,000,000"),
    (lambda: grid(VP(), 5, "log"), "kind"),
    (lambda: grid(VP(), 5, "karras", 0.0), "rho"),
    (lambda: grid(VP(), 5, "karras", "7"), "rho = '7'"),
    (lambda: grid(VP(), 5, top="1"), "top = '1'"),
    (lambda: grid(VP(), 5, top=0.2, bottom=0.3), "bottom < top"),
    (lambda: sample(DDIM(), Zero(VP()), [1.0, 0.5, 0.6]), "strictly falling"),
    (lambda: sample(DDIM(), Zero(VP()), [1.0, 0.5, 0.0]), "infinite"),
    (lambda: sample(DDIM(), Zero(VP()), [1.0, 1.0]), "strictly falling"),
    (lambda: sample(DDIM(), Zero(VP()), [1.5, 1.0]), r"inside \(0, T = 1.0\]"),
    (lambda: sample(DDIM(), Zero(VP()), [1.0, float("nan")]), "times"),
    (lambda: sample(DDIM(), Zero(VP()), []), "at least one"),
    (lambda: sample(DDIM(), Zero(VP()), -3), "n = -3"),
    (lambda: sample(DDIM(), Zero(VP()), 0), "n = 0"),
    (lambda: sample(DDIM(), Zero(VP()), True), "times = True"),
    (lambda: sample(DDIM(), Zero(VP()), "50"), "times = '50'"),
    (lambda: sample(DDIM(), Zero(VP()), [1.0, "a"]), "times"),
    (lambda: sample(DDIM(), Zero(VP()), torch.tensor([1j, 0.5])), "times"),
    (lambda: sample(DDIM(), Zero(VP()), 10**11), "n = 100000000000"),
    (lambda: sample(DDIM(), Zero(VP()), 5, n=0), "n = 0"),
    (lambda: sample(DDIM(), Zero(VP()), 5, n=True), "n = True"),
    (lambda: sample(DDIM(), Zero(VP()), 5, n="4"), "n = '4'"),
    (
        lambda: sample(DDIM(), Zero(VP()), 5, n=10**11),
        "n = 100000000000: fewer: they would take",
    ),
    (lambda: sample(DDIM(), Zero(VP()), 5, batch=0), "batch"),
    (lambda: sample(DDIM(), Zero(VP()), 5, batch=True), "batch = True"),
    (lambda: sample(DDIM(), Zero(VP()), 5, seed=-1), "seed"),
    (lambda: sample(DDIM(), Zero(VP()), 5, seed=1.0), "seed"),
    (lambda: sample(DDIM(), Zero(VP()), 5, first=-1), "first"),
    (lambda: sample(DDIM(), Zero(VP()), 5, dtype=torch.int64), "dtype"),
    (lambda: sample(DDIM(), Zero(VP()), 5, dtype=torch.complex64), "dtype"),
    (lambda: sample(DDIM(), Zero(VP()), 5, dtype="float32"), "dtype"),
    (lambda: sample(DDIM(), Zero(VP()), 5, shape=(2,)), r"shape = \(2,\): \(1,\)"),
    (lambda: sample(DDIM(), Zero(VP()), 5, shape=1), "shape = 1"),
    (lambda: sample(DDIM(), exact(), 5, labels=1), "labels = 1: None"),
    (
        lambda: sample(DDIM(), exact(), 5, guidance=5.0),
        "guidance = 5.0: 1 without labels",
    ),
    (lambda: sample(DDIM(), exact(), 5, guidance="2"), "guidance = '2'"),
    (lambda: sample(DDIM, exact(), 5), "sampler"),
    (lambda: sample("ddim", exact(), 5), "sampler = 'ddim'"),
    (lambda: states(EulerMaruyama(), Zero(VP()), [1.0, 0.5], torch.ones(1, 1)), "draw"),
    (lambda: points_for_budget(Heun(), 0), "nfe = 0"),
    (lambda: points_for_budget(Heun(), 10.5), "budget = 10.5"),
    (lambda: points_for_budget(Heun(), True), "budget = True"),
    (
        lambda: sample(DDIM(), exact(), Route([1.0, 0.1], ((1, [0.5, 0.2], 1),))),
        "detour",
    ),
    (
        lambda: sample(DDIM(), exact(), Route([1.0, 0.1], ((5, [0.5, 0.1], 1),))),
        "detour = 5",
    ),
    (
        lambda: sample(DDIM(), exact(), Route([1.0, 0.1], ((1, [0.5, 0.1], 0),))),
        "repeats = 0",
    ),
    (
        lambda: sample(DDIM(), exact(), Route([1.0, 0.1], s_noise=-1.0)),
        "s_noise = -1.0",
    ),
]


@pytest.mark.parametrize("make, words", WRONG, ids=[words for _, words in WRONG])
def test_bad_input(make, words):
    with pytest.raises((ValueError, TypeError), match=words):
        make()


LABELS = [
    ["shoe"] * 4,
    "shoe",
    [True] * 4,
    torch.eye(4, 10),
    torch.eye(4, 10, dtype=torch.int64),
    torch.zeros(4, 1, dtype=torch.int64),
    np.zeros(4, np.uint8),
    torch.zeros(4, dtype=torch.uint8),
    [0.0, 1.0, 2.0, math.nan],
    [1.0] * 4,
    10**9,
    [2**62] * 4,
    [2**70] * 4,
    [-1] * 4,
    [1, 2],
    [[1], [2, 3]],
]


@needs_network
@pytest.mark.parametrize("labels", LABELS, ids=repr)
def test_labels_that_are_none(labels):
    denoiser = compsamp.load("fashion-vp-small")
    with pytest.raises((ValueError, TypeError), match="^labels = "):
        sample(DDIM(), denoiser, 3, n=4, labels=labels)


@needs_network
def test_a_bad_label_of_the_last_batch_is_found_before_the_first():
    calls = []
    denoiser = compsamp.load("fashion-vp-small")
    denoiser.network.register_forward_hook(lambda *a: calls.append(1))
    with pytest.raises(ValueError, match="labels"):
        sample(DDIM(), denoiser, 3, n=3, batch=1, labels=[0, 1, 10])
    assert not calls


@needs_network
def test_labels_and_guidance_are_used():
    denoiser = compsamp.load("fashion-vp-small")
    plain, shoes, guided = (
        sample(DDIM(), denoiser, 3, n=2, labels=label, guidance=weight)
        for label, weight in ((None, 1), (7, 1.0), (np.int64(7), 3.0))
    )
    assert (plain.nfe, shoes.nfe, guided.nfe) == (3, 3, 6)
    assert not torch.equal(plain.x, shoes.x) and not torch.equal(shoes.x, guided.x)
    bound = denoiser.bind(labels=[7, 7])
    assert torch.equal(sample(DDIM(), bound, 3, n=2).x, shoes.x)
    for one in (
        sample(DDIM(), denoiser.bind(guidance=3.0), 3, n=2, labels=7),
        sample(DDIM(), bound, 3, n=2, guidance=3.0),
        sample(DDIM(), bound.bind(guidance=3.0), 3, n=2),
        sample(DDIM(), bound.bind(guidance=5.0), 3, n=2, guidance=3.0),
    ):
        assert torch.equal(one.x, guided.x) and one.nfe == 6
    once = sample(DDIM(), bound.bind(guidance=3.0), 3, n=2, guidance=1.0)
    assert torch.equal(once.x, shoes.x) and once.nfe == 3
    for ask in (
        lambda d: sample(DDIM(), d, 3, n=2),
        lambda d: d.eps(torch.zeros(2, 1, 28, 28), 0.5),
    ):
        with pytest.raises(ValueError, match="guidance = 3.0: 1 without labels"):
            ask(denoiser.bind(guidance=3.0))


def test_the_answer_that_is_not_finite_is_named():
    "Which network, and when: not the state it was asked about."

    def late(z, t, labels=None):
        return z / (t.reshape(-1, 1, 1, 1) > 500)

    denoiser = Denoiser(late, VP(), (1, 4, 4))
    with pytest.raises(FloatingPointError, match="answer of function at t = 0.44"):
        sampling.sample(sampling.DDIM(), denoiser, 10, n=2)
    with pytest.raises(ValueError, match="z = 'NaN or infinity'"):
        denoiser.eps(torch.full((1, 1, 4, 4), math.nan), 0.9)


def test_a_network_that_blows_up_is_not_silent():
    class Bad(Zero):
        def predict(self, z, t):
            return z * np.nan

    with pytest.raises(FloatingPointError, match="NaN"):
        sample(DDIM(), Bad(VP()), 4)


# Progress


@dataclass(frozen=True)
class Unkept(sampling.DDIM):
    "DDIM that breaks one promise."

    how: str = ""

    def prepare(self, process, times):
        made = super().prepare(process, times)
        return made[:-1] if self.how == "records" else made

    def step(self, denoiser, z, r, draw, memory):
        if self.how == "evals":
            denoiser.eps(z, r.t)
        moved, memory = super().step(denoiser, z, r, draw, memory)
        if self.how == "pair":
            return moved
        return (moved[:, :1] if self.how == "shape" else moved), memory


@pytest.mark.parametrize(
    "how, words",
    [
        ("records", "Unkept.prepare = 3: one record for each of the 4 intervals"),
        ("evals", "Unkept.evals = 1: 2, as often as a step asks"),
        ("pair", "Unkept.step = .*: \\(state, memory\\)"),
        ("shape", "shape after Unkept.step = \\(8, 1\\): that of the state before it, \\(8, 2\\)"),
    ],
)
def test_a_sampler_that_breaks_its_promise_is_named(how, words):
    "Before, too few records ended in noise, and two evaluations for one overspent the budget."
    exact = ring().denoiser(VP())
    with pytest.raises((ValueError, TypeError), match=words):
        sampling.sample(Unkept(how=how), exact, 5, n=8)


def test_times_with_holes_are_shown():
    with pytest.raises(ValueError, match="times = .nan.: finite numbers"):
        sampling.check_grid([1.0, math.nan, 0.1], VP())


def test_a_pipe_gets_a_line_now_and_then(capsys):
    run = sample(DDIM(), MIXTURE.denoiser(VP()), 5, n=3, progress=True)
    said = capsys.readouterr()
    assert run.nfe == 5 and said.out == said.err == "", "short runs are over before the first line"

    def slow_steps():
        for i in range(4):
            time.sleep(0.01)
            yield i

    assert list(sampling.progress_lines(slow_steps(), 4, every=0.02)) == [0, 1, 2, 3]
    said = capsys.readouterr()
    assert said.out == "" and " of 4 steps" in said.err and "\r" not in said.err
    assert 1 <= len(said.err.splitlines()) <= 2


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(sampling.sys.stdout, "isatty", lambda: True, raising=False)
    assert list(progress_bar(range(3), 3, True)) == [0, 1, 2]
    assert "100.00%" in capsys.readouterr().out
    same = range(3)
    assert progress_bar(same, 3, False) is same


@pytest.mark.parametrize("name", ["ddim", "dpmpp2m", "sscs", "conjugate", "nvv", "cvv", "roba"])
def test_coefficients_are_kept_between_runs(name, monkeypatch):
    "Also after a sampler has remembered what it works out from its settings."
    sampler = zoo.parse_sampler(name)
    process = PSLD() if sampler.k == 2 else VP()
    times = grid(process, 5)
    z = torch.zeros(1, 1)
    first = sampling.coefficients(sampler, process, times, z)
    monkeypatch.setattr(type(sampler), "prepare", None)
    assert sampling.coefficients(sampler, process, times, z) is first


def test_the_exponent_of_a_karras_grid_is_kept():
    process = VP()
    for rho in (3.0, 7.0):
        root = process.rho(grid(process, 11, "karras", rho=rho)) ** (1 / rho)
        step = root.diff()
        assert torch.allclose(step, step[:1].expand(10), rtol=1e-6)
    wide, close = (grid(process, 11, "karras", rho=rho) for rho in (3.0, 7.0))
    assert (wide - close).abs().max() > 0.01


def test_steps_keep_no_graph_and_leave_the_callers_mode_alone():
    "Each step runs without gradients, whatever the caller has set between two of them."
    asked = []
    exact = ring().denoiser(VP())

    class Asked(type(exact)):
        def predict(self, z, t):
            asked.append(torch.is_grad_enabled())
            return super().predict(z, t)

    denoiser = Asked(ring(), VP())
    z = torch.randn(4, 2, requires_grad=True)
    walked = sampling.states(DDIM(), denoiser, sampling.grid(denoiser.process, 4), z)
    next(walked)
    assert not next(walked).requires_grad and torch.is_grad_enabled()
    with torch.no_grad():
        next(walked)
        assert not torch.is_grad_enabled()
    assert all(not z.requires_grad for z in walked) and torch.is_grad_enabled()
    sample(DDIM(), denoiser, 4, 2)
    assert torch.is_grad_enabled() and len(asked) > 4 and not any(asked)
