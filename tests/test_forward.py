"Forward processes: what does not belong into the chapter."

import math

import numpy as np
import pytest
import torch

from compsamp.core import f64
from compsamp.forward import (
    EDM,
    VE,
    VP,
    BetaSDE,
    CosineVP,
    LinearSDE,
    NoisePredictor,
    ScalarSDE,
    SubVP,
    cholesky,
    compose,
    discrete_betas,
    discrete_times,
    integrate_moments,
    mean_state,
    moments_gap,
    ordered_times,
    runge_kutta_moments,
)

PROCESSES = [
    VP(),
    CosineVP(),
    SubVP(),
    VE(),
    EDM(),
    VP(1.0, 1.0),
    CosineVP(offset=0.0, T=0.9),
    EDM(T=10.0, eps=0.01),
]
SEVEN = f64([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0])
every_process = pytest.mark.parametrize("process", PROCESSES, ids=str)


@every_process
def test_closed_forms_obey_the_moment_equations(process):
    t = SEVEN * process.T
    for s in (0.0, t * 0.5, t * 0.99):
        closed, integrated = process.transition(t, s), integrate_moments(process, t, s)
        assert moments_gap(closed, integrated) <= 1e-10


@every_process
def test_variance_keeps_its_digits_at_tiny_steps(process):
    "The leading term g^2 h is right to O(h) also where 1 - exp(-b) would have no digit left."
    s = f64(0.3 * process.T)
    t = s + 1e-11 * process.T
    leading = float(process.diffusion2(s) * (t - s))
    assert abs(float(process.var(t, s)) / leading - 1) < 1e-8


@every_process
def test_clock(process):
    highest = float(process.rho(process.T))
    ratios = torch.logspace(-8, math.log10(highest), 50, dtype=torch.float64)
    assert (process.rho(process.time(ratios)) / ratios - 1).abs().max() < 1e-11
    assert float(process.time(process.rho(process.T))) <= process.T
    for bad in (0.0, -1.0, math.nan, 1.01 * highest, [1e-3, math.inf]):
        with pytest.raises(ValueError, match="rho = "):
            process.time(bad)


def test_the_clock_starts_where_nothing_is_seen():
    "Textbook forms keep three digits at rho = 1e-7."
    rise, integral = 19.9, math.log(1 + 1e-14)
    textbook = (math.sqrt(0.1**2 + 2 * rise * integral) - 0.1) / rise
    assert abs(textbook / float(VP().time(1e-7)) - 1) > 1e-4
    t = VP().time_of_integral(VP().integral(0.3, 0.0))
    assert torch.allclose(t, f64(0.3), rtol=1e-14)


@every_process
def test_bad_times(process):
    x, noise, T = torch.zeros(2, 1), torch.zeros(2, 1), process.T
    for bad in (math.nan, -1e-3, 1.1 * T, [0.1 * T, math.nan]):
        for call, *arguments in (
            (process.marginal, bad),
            (process.factor, bad),
            (process.perturb, x, bad, noise),
            (process.transition, bad, 0.0),
            (process.transition, T, bad),
        ):
            with pytest.raises(ValueError, match=r"[ts] = "):
                call(*arguments)
    with pytest.raises(ValueError, match="score is infinite"):
        process.factor(0.0)
    with pytest.raises(ValueError, match="not before"):
        process.transition(0.1 * T, 0.2 * T)
    mu, C = process.marginal(0.0)
    assert float(mu) == 1 and float(C) == 0
    through_float32 = torch.tensor(1000 * T).double() / 1000
    assert torch.isfinite(process.marginal(through_float32)[1]).all()


@pytest.mark.parametrize(
    "make, arguments",
    [
        (VP, {"beta_min": 0.1, "beta_max": 0.05}),
        (VP, {"beta_min": 0.0}),
        (VP, {"beta_max": math.nan}),
        (VP, {"beta_max": math.inf}),
        (CosineVP, {"offset": -0.1}),
        (CosineVP, {"T": 1.0}),
        (VE, {"sigma_min": 1.0, "sigma_max": 1.0}),
        (VE, {"sigma_min": -1.0}),
        (EDM, {"T": 0.001}),
        (EDM, {"eps": 0.0}),
        (SubVP, {"beta_min": 20.0, "beta_max": 0.1}),
    ],
)
def test_bad_parameters(make, arguments):
    with pytest.raises(ValueError, match=" = "):
        make(**arguments)


def test_shapes_that_do_not_fit():
    process, x = VP(), torch.zeros(4, 1, 2, 2)
    for noise in (torch.zeros(1, 1, 2, 2), torch.zeros(4, 2, 2, 2), torch.zeros(4, 1, 2)):
        with pytest.raises(ValueError, match="noise = "):
            process.perturb(x, 0.5, noise)
    for t in (torch.full((3,), 0.5), torch.full((4, 1), 0.5), torch.full((1,), 0.5)):
        with pytest.raises(ValueError, match=r"[ts] = "):
            process.perturb(x, t, x)
    with pytest.raises(ValueError, match="noise = "):
        process.prior((4, 1, 2, 2), torch.zeros(4, 1, 2, 3))
    with pytest.raises(TypeError, match="not determined"):
        NoisePredictor(process).data_from(x, torch.zeros(4, 0, 2, 2), 0.5)


def test_one_time_per_sample_equals_one_time_each():
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(5, 3, 2, 2, generator=generator) for _ in range(2))
    for process in PROCESSES:
        t = torch.linspace(0.1, 0.9, 5) * process.T
        together = process.perturb(x, t, noise)
        alone = [process.perturb(x[i : i + 1], float(t[i]), noise[i : i + 1]) for i in range(5)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-6)
        assert together.dtype == torch.float32


class Known(NoisePredictor):
    "Says 0.5 z, whatever the time."

    def predict(self, z, t):
        return 0.5 * z


def test_x0_with_one_time_per_sample_equals_one_time():
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    denoiser = Known(VP())
    each = torch.full((5,), 0.4, dtype=torch.float64)
    assert torch.allclose(denoiser.x0(z, each), denoiser.x0(z, 0.4), rtol=1e-12)
    assert torch.equal(denoiser.data_from(z, denoiser.eps(z, 0.4), 0.4), denoiser.x0(z, 0.4))
    assert denoiser.nfe == 4


@every_process
def test_float32_pictures_lose_rounding_only(process):
    "Three roundings of 2^-24 each: coefficient, product, sum."
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(256, 1, generator=generator) for _ in range(2))
    for t in (SEVEN[SEVEN * process.T > 0] * process.T).tolist():
        mu, L = process.marginal(t)[0].item(), process.factor(t).item()
        size = mu * x.double().abs() + L * noise.double().abs()
        error = process.perturb(x, t, noise).double() - (mu * x.double() + L * noise.double())
        assert (error.abs() <= 3 * 2.0**-24 * size).all()


class Turning(LinearSDE):
    "k = 2, drift matrices at different times that do not commute."

    k = 2

    def F(self, t):
        t = f64(t)
        zero = torch.zeros_like(t)
        rows = [torch.stack([-t, 2 + zero], -1), torch.stack([-3 * t, zero - 1], -1)]
        return torch.stack(rows, -2)

    def G(self, t):
        t = f64(t)
        zero = torch.zeros_like(t)
        rows = [torch.stack([zero, zero], -1), torch.stack([0.5 * t, 1 + t], -1)]
        return torch.stack(rows, -2)


def scipy_moments(process, t, s):
    "Psi and Sigma by an adaptive method of order 8."
    integrate = pytest.importorskip("scipy.integrate")

    def rates(time, moments):
        F, G = process.F(time).numpy(), process.G(time).numpy()
        Psi, Sigma = moments.reshape(2, 2, 2)
        return np.stack([F @ Psi, F @ Sigma + Sigma @ F.T + G @ G.T]).ravel()

    start = np.stack([np.eye(2), np.zeros((2, 2))]).ravel()
    solved = integrate.solve_ivp(rates, (s, t), start, "DOP853", rtol=1e-13, atol=1e-22)
    return tuple(torch.from_numpy(moment) for moment in solved.y[:, -1].reshape(2, 2, 2))


def test_fallback_against_another_integrator():
    process = Turning()
    for t, s in ((1.0, 0.0), (0.7, 0.3), (1e-3, 0.0)):
        assert moments_gap(process.transition(t, s), scipy_moments(process, t, s)) < 1e-10
    times = f64([[0.2, 0.4, 0.9]])
    joined = compose(*process.transition(times, 0.15), *process.transition(0.15, 0.1))
    assert moments_gap(joined, process.transition(times, 0.1)) < 1e-10
    assert joined[0].shape == (1, 3, 2, 2)
    L = process.factor(times)
    assert torch.allclose(L @ L.mT, process.marginal(times)[1], rtol=1e-10)


def test_runge_kutta_has_order_four():
    end, start = f64([1.0]), f64([0.0])
    exact = float(VP().var(end, start))
    errors = []
    for n in (64, 128, 256):
        errors.append(abs(float(runge_kutta_moments(VP(), end, start, n)[1]) / exact - 1))
    for coarse, fine in zip(errors, errors[1:]):
        assert 12 < coarse / fine < 20


def test_many_times_go_in_pieces():
    times = torch.linspace(0.01, 1, 130, dtype=torch.float64)
    Psi, Sigma = integrate_moments(Turning(), times, 0.0)
    assert Psi.shape == Sigma.shape == (130, 2, 2)
    assert moments_gap((Psi[-1], Sigma[-1]), integrate_moments(Turning(), 1.0, 0.0)) < 1e-10
    with pytest.raises(ArithmeticError, match="resolve the moments to 1e-30"):
        integrate_moments(Turning(), 1.0, 0.0, 1e-30, 64)


class OnlyRates(ScalarSDE):
    "A drift and a noise rate; everything else is integrated."

    def drift(self, t):
        return -2 * t

    def diffusion2(self, t):
        return 1 + t


def test_a_process_without_formulas():
    quad = pytest.importorskip("scipy.integrate").quad
    process = OnlyRates()
    Psi, Sigma = process.transition(0.9, 0.2)
    assert abs(Psi.item() / math.exp(-(0.81 - 0.04)) - 1) < 1e-11

    def shrunk_noise(u):
        return math.exp(-2 * (0.81 - u * u)) * (1 + u)

    assert abs(Sigma.item() / quad(shrunk_noise, 0.2, 0.9, epsrel=1e-13)[0] - 1) < 1e-10
    assert abs(process.rho(process.time(0.4)) / 0.4 - 1) < 1e-10
    assert process.F(0.5).shape == process.G(0.5).shape == (1, 1)


@pytest.mark.parametrize("make, method", [(ScalarSDE, "drift"), (BetaSDE, "beta")])
def test_what_a_subclass_must_write(make, method):
    with pytest.raises(NotImplementedError, match=f"{make.__name__}.{method}"):
        getattr(make(), method)(f64(0.5))
    with pytest.raises(NotImplementedError, match="BetaSDE.integral"):
        BetaSDE().var(f64(0.5), f64(0.0))
    for matrix in (LinearSDE().F, LinearSDE().G):
        with pytest.raises(NotImplementedError, match="LinearSDE"):
            matrix(0.5)


def test_times_in_order_forgives_rounding_only():
    process = VP()
    assert float(process.transition(0.5 * (1 - 1e-15), 0.5)[1]) == 0
    t, s = ordered_times(process, [1.0, 1.0], 0.5)
    assert s.tolist() == [0.5, 0.5] and t.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="not before"):
        ordered_times(process, 0.5 * (1 - 1e-6), 0.5)


def test_cholesky():
    generator = torch.Generator().manual_seed(1)
    roots = torch.randn(6, 3, 3, dtype=torch.float64, generator=generator)
    for k in (1, 2, 3):
        C = roots[:, :k, :k] @ roots[:, :k, :k].mT
        L = cholesky(C)
        assert torch.allclose(L @ L.mT, C, rtol=1e-12) and torch.equal(L, L.tril())
    for C in (f64([[-1.0]]), f64([[1.0, 2.0], [2.0, 1.0]]), torch.diag(f64([1.0, 1.0, -1.0]))):
        with pytest.raises(ValueError, match="positive definite"):
            cholesky(C)


def test_mean_state():
    x = torch.arange(6.0).view(2, 3)
    assert torch.equal(mean_state(f64([2.0, -1.0]), x), torch.cat([2 * x, -x], 1))
    each = mean_state(f64([[1.0, 0.0], [0.0, 1.0]]), x)
    assert each.tolist() == [[0, 1, 2, 0, 0, 0], [0, 0, 0, 3, 4, 5]]


def test_table():
    for process in (VP(), CosineVP(), VP(1.0, 5.0)):
        for n in (1, 7, 100, 1000):
            betas = discrete_betas(process, n)
            assert betas.shape == (n,) and (betas > 0).all() and (betas < 1).all()
            signal = process.marginal(discrete_times(n, process))[0][:, 0] ** 2
            assert torch.allclose(torch.cumprod(1 - betas, 0), signal, rtol=1e-9)
    for process in (SubVP(), VE(), EDM()):
        with pytest.raises(TypeError, match="process = "):
            discrete_betas(process)
    with pytest.raises(ValueError, match="n = 0"):
        discrete_times(0)
    assert discrete_times(4, CosineVP())[-1] == 0.9946


def test_published_levels():
    "VE starts clean here; sub-VP has a two-time form of its own."
    process, t = VE(), f64([0.01, 0.5])
    published = process.sigma_min * (process.sigma_max / process.sigma_min) ** t
    assert torch.allclose(process.var(t, 0 * t) + process.sigma_min**2, published**2, rtol=1e-12)
    share = SubVP().var(t, t - 0.01) / VP().var(t, t - 0.01)
    assert share[0] < 0.1 and share[1] > 0.9


def test_processes_are_values():
    assert VP() == VP() and VP(0.2) != VP() and VP() != SubVP()
    assert hash(CosineVP()) == hash(CosineVP())
    assert isinstance(CosineVP(), BetaSDE)
    assert all(isinstance(process, ScalarSDE) and process.k == 1 for process in PROCESSES)
    with pytest.raises(AttributeError):
        VP().beta_min = 1.0
