"Forward processes: what does not belong into the chapter."
import math
import pytest, torch
from compsamp.core import f64
from compsamp.forward import (EDM, VE, VP, BetaSDE, CosineVP, LinearSDE, NoisePredictor, ScalarSDE, SubVP, cholesky, compose,
                              disagreement, discrete_betas, discrete_times, interval, moments)

PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), VP(1., 1.), CosineVP(offset=0., T=.9), EDM(T=10., eps=.01)]
SEVEN = f64([1e-5, 1e-4, 1e-3, .01, .1, .5, 1.])

@pytest.mark.parametrize('p', PROCESSES, ids=str)
def test_closed_forms_obey_the_moment_equations(p):
    for s in (0., SEVEN * p.T * .5, SEVEN * p.T * .99):
        (P, S), (Q, R) = p.transition(SEVEN * p.T, s), moments(p, SEVEN * p.T, s)
        assert ((P - Q) / Q).abs().max() <= 1e-10 and ((S - R) / R).abs().max() <= 1e-10

@pytest.mark.parametrize('p', PROCESSES, ids=str)
def test_variance_keeps_its_digits_at_tiny_steps(p):
    "The leading term g^2 h is right to O(h) also where 1 - exp(-b) would have no digit left."
    t = f64(.3 * p.T); h = 1e-11 * p.T
    assert abs(float(p.var(t + h, t)) / float(p.diffusion2(t) * ((t + h) - t)) - 1) < 1e-8

@pytest.mark.parametrize('p', PROCESSES, ids=str)
def test_clock(p):
    r = torch.logspace(-8, math.log10(float(p.rho(p.T))), 50, dtype=torch.float64)
    assert (p.rho(p.time(r)) / r - 1).abs().max() < 1e-11 and float(p.time(p.rho(p.T))) <= p.T
    for bad in (0., -1., math.nan, 1.01 * float(p.rho(p.T)), [1e-3, math.inf]):
        with pytest.raises(ValueError, match='rho = '): p.time(bad)

@pytest.mark.parametrize('p', PROCESSES, ids=str)
def test_bad_times(p):
    x, e = torch.zeros(2, 1), torch.zeros(2, 1)
    for bad in (math.nan, -1e-3, 1.1 * p.T, [.1 * p.T, math.nan]):
        for f in (p.marginal, p.factor, lambda t: p.perturb(x, t, e), lambda t: p.transition(t, 0.), lambda t: p.transition(p.T, t)):
            with pytest.raises(ValueError, match='t = '): f(bad)
    with pytest.raises(ValueError, match='score is infinite'): p.factor(0.)
    with pytest.raises(ValueError, match='not before'): p.transition(.1 * p.T, .2 * p.T)
    assert float(p.marginal(0.)[0]) == 1 and float(p.marginal(0.)[1]) == 0
    single = torch.tensor(1000 * p.T).double() / 1000                     # a time that went through float32
    assert torch.isfinite(p.marginal(single)[1]).all()

@pytest.mark.parametrize('make', [lambda: VP(.1, .05), lambda: VP(0.), lambda: VP(.1, math.nan), lambda: VP(.1, math.inf), lambda: CosineVP(-.1), lambda: CosineVP(T=1.),
                                  lambda: VE(1., 1.), lambda: VE(-1.), lambda: EDM(T=.001), lambda: EDM(eps=0.), lambda: SubVP(20., .1)])
def test_bad_parameters(make):
    with pytest.raises(ValueError, match=' = '): make()

def test_shapes_that_do_not_fit():
    p, x = VP(), torch.zeros(4, 1, 2, 2)
    for noise in (torch.zeros(1, 1, 2, 2), torch.zeros(4, 2, 2, 2), torch.zeros(4, 1, 2)):
        with pytest.raises(ValueError, match='noise = '): p.perturb(x, .5, noise)
    for t in (torch.full((3,), .5), torch.full((4, 1), .5), torch.full((1,), .5)):
        with pytest.raises(ValueError, match='t = '): p.perturb(x, t, x)
    with pytest.raises(ValueError, match='noise = '): p.prior((4, 1, 2, 2), torch.zeros(4, 1, 2, 3))
    with pytest.raises(TypeError, match='not determined'): NoisePredictor(p).data_from(x, torch.zeros(4, 0, 2, 2), .5)

def test_one_time_per_sample_equals_one_time_each():
    g = torch.Generator().manual_seed(0); x, e = (torch.randn(5, 3, 2, 2, generator=g) for _ in range(2)); t = torch.linspace(.1, .9, 5)
    for p in PROCESSES:
        many = p.perturb(x, t * p.T, e)
        assert torch.allclose(many, torch.cat([p.perturb(x[i:i + 1], float(t[i] * p.T), e[i:i + 1]) for i in range(5)]), atol=1e-6) and many.dtype == torch.float32

class Turning(LinearSDE):
    "k = 2, drift matrices at different times that do not commute."
    k = 2
    def F(self, t):
        t = f64(t); o = torch.zeros_like(t)
        return torch.stack([torch.stack([-t, 2 + o], -1), torch.stack([-3 * t, o - 1], -1)], -2)
    def G(self, t):
        t = f64(t); o = torch.zeros_like(t)
        return torch.stack([torch.stack([o, o], -1), torch.stack([.5 * t, 1 + t], -1)], -2)

def test_fallback_against_another_integrator():
    integrate = pytest.importorskip('scipy.integrate')
    import numpy as np
    p = Turning()
    def rhs(t, y):
        F, G = p.F(t).numpy(), p.G(t).numpy(); P, S = y.reshape(2, 2, 2)
        return np.stack([F @ P, F @ S + S @ F.T + G @ G.T]).ravel()
    for t, s in ((1., 0.), (.7, .3), (1e-3, 0.)):
        y = integrate.solve_ivp(rhs, (s, t), np.stack([np.eye(2), np.zeros((2, 2))]).ravel(), 'DOP853', rtol=1e-13, atol=1e-22).y[:, -1].reshape(2, 2, 2)
        assert disagreement(p.transition(t, s), tuple(torch.from_numpy(v) for v in y)) < 1e-10
    u = f64([[.2, .4, .9]]); a = compose(*p.transition(u, .15), *p.transition(.15, .1))
    assert disagreement(a, p.transition(u, .1)) < 1e-10 and a[0].shape == (1, 3, 2, 2)
    L = p.factor(u); assert torch.allclose(L @ L.mT, p.marginal(u)[1], rtol=1e-10)

def test_interval_forgives_rounding_only():
    p = VP(); assert float(p.transition(.5 * (1 - 1e-15), .5)[1]) == 0
    with pytest.raises(ValueError, match='not before'): interval(p, .5 * (1 - 1e-6), .5)

def test_cholesky_names_what_is_not_a_covariance():
    for C in (f64([[-1.]]), f64([[1., 2.], [2., 1.]]), torch.diag(f64([1., 1., -1.]))):
        with pytest.raises(ValueError, match='positive definite'): cholesky(C)

def test_table():
    for p in (VP(), CosineVP(), VP(1., 5.)):
        for n in (1, 7, 100, 1000):
            b = discrete_betas(p, n); assert b.shape == (n,) and (b > 0).all() and (b < 1).all()
            assert torch.allclose(torch.cumprod(1 - b, 0), p.marginal(discrete_times(n, p))[0][:, 0] ** 2, rtol=1e-9)
    for p in (SubVP(), VE(), EDM()):
        with pytest.raises(TypeError, match='process = '): discrete_betas(p)

def test_processes_are_values():
    assert VP() == VP() and VP(.2) != VP() and hash(CosineVP()) == hash(CosineVP()) and VP() != SubVP()
    assert isinstance(CosineVP(), BetaSDE) and all(isinstance(p, ScalarSDE) and p.k == 1 for p in PROCESSES)
    with pytest.raises(AttributeError): VP().beta_min = 1.
