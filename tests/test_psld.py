"PSLD and CLD: the recipe, the kernel without cancellation, bad input."
import math
import mpmath
import pytest
import torch
from compsamp.core import blocks
from compsamp.forward import compose, integrate_moments, moments_gap
from compsamp.mixtures import ring
from compsamp.networks import find_process, process_card
from compsamp.psld import CLD, PSLD, critical_kernel, phi3, recipe

F64 = torch.float64
SEVEN = torch.tensor([1e-5, 1e-4, 1e-3, .01, .1, .5, 1.], dtype=F64)
PROCESSES = [PSLD(), CLD(), PSLD(gamma=.25, nu=4.25), PSLD(gamma=.02, nu=3., beta=5., kappa=.1)]


def textbook(p, t):
    "C(t) as printed, in 60 digits."
    with mpmath.workdps(60):
        G, n, k, B, t = (mpmath.mpf(v) for v in (p.gamma, p.nu, p.kappa, p.beta, t))
        M = 4 / (n - G) ** 2; Y = k * M; b = B * t; s = mpmath.exp(-(n + G) * b / 2)
        xx = s * (Y * b ** 2 / (4 * M ** 2) - b ** 2 / (2 * M) + (G - n) * b / 2 + 1 / s - 1)
        xm = s * ((G - n) * b ** 2 * Y / (8 * M) + b * Y / (2 * M) + (n - G) * b ** 2 / 4)
        mm = s * (b ** 2 * Y / (4 * M) + (G - n) * b * Y / 2 - b ** 2 / 2 + M * (n - G) * b / 2 + M * (1 / s - 1) + Y)
        return [float(v) for v in (xx, xm, mm)]


@pytest.mark.parametrize('p', PROCESSES, ids=repr)
def test_kernel(p):
    ours = p.transition(SEVEN, torch.zeros_like(SEVEN))
    assert moments_gap(ours, integrate_moments(p, SEVEN, torch.zeros_like(SEVEN))) < 1e-10
    C, want = p.marginal(SEVEN)[1], torch.tensor([textbook(p, t) for t in SEVEN.tolist()], dtype=F64)
    got = torch.stack([C[:, 0, 0], C[:, 0, 1], C[:, 1, 1]], 1)
    assert float(((got - want) / want).abs().max()) < 1e-14
    assert moments_gap(compose(*p.transition(.8, .5), *p.transition(.5, .1)), p.transition(.8, .1)) < 1e-13


@pytest.mark.parametrize('p', PROCESSES, ids=repr)
def test_stationary_critical_and_cholesky(p):
    F, G, S = p.F(.3), p.G(.3), torch.diag(p.prior_scale() ** 2)
    assert float((F @ S + S @ F.T + G @ G.T).abs().max()) < 1e-13
    N = F + (p.gamma + p.nu) / 4 * p.beta * torch.eye(2, dtype=F64)
    assert float((N @ N).abs().max()) < 1e-12
    for t in (1e-5, 1e-3, .5):
        L = p.factor(t); C = p.marginal(t)[1]
        assert float(L[0, 1]) == 0 and float((L @ L.T - C).abs().max() / C.abs().max()) < 1e-13
    assert p.F(SEVEN).shape == p.G(SEVEN).shape == p.factor(SEVEN).shape == (7, 2, 2)


def test_phi3():
    y = torch.logspace(-8, 1.5, 30, dtype=F64)
    with mpmath.workdps(60): want = torch.tensor([float(mpmath.exp(v) - 1 - v - mpmath.mpf(v) ** 2 / 2) for v in y.tolist()], dtype=F64)
    assert float(((phi3(y) - want) / want).abs().max()) < 3e-15 and float(phi3(torch.zeros(1, dtype=F64))) == 0
    P, S = critical_kernel(torch.zeros(3, dtype=F64), .01, 4.01)
    assert torch.equal(P, torch.eye(2, dtype=F64).expand(3, 2, 2)) and float(S.abs().max()) == 0


def test_cld():
    p = CLD()
    assert p == PSLD(gamma=0., nu=4., beta=8., kappa=.04) and p.M == .25
    assert torch.allclose(p.F(0.), torch.tensor([[0., 16.], [-4., -16.]], dtype=F64)) and float(p.G(0.)[0].abs().max()) == 0
    assert find_process(process_card(p)) == p
    d = ring().denoiser(p); z = torch.randn(8, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    s, e, L = blocks(d.score(z, .1), 2), blocks(d.eps(z, .1), 2), p.factor(.1)
    assert torch.allclose(s[:, 1], -e[:, 1] / L[1, 1], rtol=1e-10)              # the m half needs eps_m alone


@pytest.mark.parametrize('make, kw, word', [
    (PSLD, dict(gamma=1., nu=1.), 'nu'), (PSLD, dict(gamma=1., nu=.5), 'nu'), (PSLD, dict(gamma=-1.), 'gamma'), (PSLD, dict(beta=0.), 'beta'),
    (PSLD, dict(beta=-8.), 'beta'), (PSLD, dict(beta=math.inf), 'beta'), (PSLD, dict(kappa=0.), 'kappa'), (PSLD, dict(nu=math.nan), 'nu'),
    (PSLD, dict(mass=1.), 'critical damping'), (CLD, dict(friction=0.), 'friction'), (CLD, dict(beta=0.), 'beta'), (CLD, dict(kappa=-1.), 'kappa')])
def test_bad_processes(make, kw, word):
    with pytest.raises(ValueError, match=word): make(**kw)


def test_bad_times_and_recipes():
    for t in (0., -1., 1.5, math.nan):
        with pytest.raises(ValueError, match='t = '): PSLD().factor(t)
    with pytest.raises(ValueError, match='s = '): PSLD().transition(.2, .5)
    I = torch.eye(2)
    for bad, word in (((-I, 0 * I, I), 'D'), ((I, I, I), 'Q'), ((I, 0 * I, -I), 'S'), ((I, torch.zeros(3, 3), I), 'D, Q, S')):
        with pytest.raises(ValueError, match=word): recipe(*bad)
    F, G = recipe(I, 0 * I, 4 * I)
    assert torch.allclose(F, -.25 * I.double()) and torch.allclose(G, 2 ** .5 * I.double())
