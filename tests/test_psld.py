"PSLD and CLD: drift and diffusion, the kernel without cancellation, bad input."

import math

import mpmath
import pytest
import torch

from compsamp.core import blocks
from compsamp.forward import compose, integrate_moments, moments_gap
from compsamp.mixtures import ring
from compsamp.networks import process_card
from compsamp.psld import CLD, PSLD, critical_kernel, drift_and_diffusion, phi3
from compsamp.zoo import find_process

F64 = torch.float64
SEVEN = torch.tensor([1e-5, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0], dtype=F64)
PROCESSES = [
    PSLD(),
    CLD(),
    PSLD(gamma=0.25, nu=4.25),
    PSLD(gamma=0.02, nu=3.0, beta=5.0, kappa=0.1),
]


def textbook(p, t):
    "C(t) as printed, in 60 digits."
    with mpmath.workdps(60):
        gamma, nu, kappa, beta, t = (mpmath.mpf(v) for v in (p.gamma, p.nu, p.kappa, p.beta, t))
        M = 4 / (nu - gamma) ** 2
        start, b = kappa * M, beta * t
        s = mpmath.exp(-(nu + gamma) * b / 2)
        xx = start * b**2 / (4 * M**2) - b**2 / (2 * M) + (gamma - nu) * b / 2 + 1 / s - 1
        xm = (gamma - nu) * b**2 * start / (8 * M) + b * start / (2 * M)
        xm += (nu - gamma) * b**2 / 4
        mm = b**2 * start / (4 * M) + (gamma - nu) * b * start / 2 - b**2 / 2
        mm += M * (nu - gamma) * b / 2 + M * (1 / s - 1) + start
        return [float(s * v) for v in (xx, xm, mm)]


@pytest.mark.parametrize("p", PROCESSES, ids=repr)
def test_kernel(p):
    ours = p.transition(SEVEN, torch.zeros_like(SEVEN))
    assert moments_gap(ours, integrate_moments(p, SEVEN, torch.zeros_like(SEVEN))) < 1e-10
    C = p.marginal(SEVEN)[1]
    want = torch.tensor([textbook(p, t) for t in SEVEN.tolist()], dtype=F64)
    got = torch.stack([C[:, 0, 0], C[:, 0, 1], C[:, 1, 1]], 1)
    assert float(((got - want) / want).abs().max()) < 1e-14
    two_steps = compose(*p.transition(0.8, 0.5), *p.transition(0.5, 0.1))
    assert moments_gap(two_steps, p.transition(0.8, 0.1)) < 1e-13


@pytest.mark.parametrize("p", PROCESSES, ids=repr)
def test_stationary_critical_and_cholesky(p):
    F, G, S = p.F(0.3), p.G(0.3), torch.diag(p.prior_scale() ** 2)
    assert float((F @ S + S @ F.T + G @ G.T).abs().max()) < 1e-13
    N = F + (p.gamma + p.nu) / 4 * p.beta * torch.eye(2, dtype=F64)
    assert float((N @ N).abs().max()) < 1e-12
    for t in (1e-5, 1e-3, 0.5):
        L, C = p.factor(t), p.marginal(t)[1]
        assert float(L[0, 1]) == 0
        assert float((L @ L.T - C).abs().max() / C.abs().max()) < 1e-13
    assert p.F(SEVEN).shape == p.G(SEVEN).shape == p.factor(SEVEN).shape == (7, 2, 2)


def test_phi3():
    y = torch.logspace(-8, 1.5, 30, dtype=F64)
    with mpmath.workdps(60):
        exact = [float(mpmath.exp(v) - 1 - v - mpmath.mpf(v) ** 2 / 2) for v in y.tolist()]
    want = torch.tensor(exact, dtype=F64)
    assert float(((phi3(y) - want) / want).abs().max()) < 3e-15
    assert float(phi3(torch.zeros(1, dtype=F64))) == 0
    psi, sigma = critical_kernel(torch.zeros(3, dtype=F64), 0.01, 4.01)
    assert torch.equal(psi, torch.eye(2, dtype=F64).expand(3, 2, 2))
    assert float(sigma.abs().max()) == 0


def test_cld():
    p = CLD()
    assert p == PSLD(gamma=0.0, nu=4.0, beta=8.0, kappa=0.04) and p.M == 0.25
    assert torch.allclose(p.F(0.0), torch.tensor([[0.0, 16.0], [-4.0, -16.0]], dtype=F64))
    assert float(p.G(0.0)[0].abs().max()) == 0
    assert find_process(process_card(p)) == p
    denoiser = ring().denoiser(p)
    z = torch.randn(8, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    score, eps = blocks(denoiser.score(z, 0.1), 2), blocks(denoiser.eps(z, 0.1), 2)
    by_half = -eps[:, 1] / p.factor(0.1)[1, 1]  # the m half needs eps_m alone
    assert torch.allclose(score[:, 1], by_half, rtol=1e-10)


@pytest.mark.parametrize(
    "make, settings, word",
    [
        (PSLD, dict(gamma=1.0, nu=1.0), "nu"),
        (PSLD, dict(gamma=1.0, nu=0.5), "nu"),
        (PSLD, dict(gamma=-1.0), "gamma"),
        (PSLD, dict(beta=0.0), "beta"),
        (PSLD, dict(beta=-8.0), "beta"),
        (PSLD, dict(beta=math.inf), "beta"),
        (PSLD, dict(beta_max=0.0), "beta_max"),
        (PSLD, dict(kappa=0.0), "kappa"),
        (PSLD, dict(nu=math.nan), "nu"),
        (PSLD, dict(mass=1.0), "critical damping"),
        (CLD, dict(friction=0.0), "friction"),
        (CLD, dict(beta=0.0), "beta"),
        (CLD, dict(kappa=-1.0), "kappa"),
    ],
)
def test_bad_processes(make, settings, word):
    with pytest.raises(ValueError, match=word):
        make(**settings)


@pytest.mark.parametrize("t", [0.0, -1.0, 1.5, math.nan])
def test_bad_times(t):
    with pytest.raises(ValueError, match="t = "):
        PSLD().factor(t)


def test_a_transition_goes_up():
    with pytest.raises(ValueError, match="s = "):
        PSLD().transition(0.2, 0.5)


EYE = torch.eye(2)


@pytest.mark.parametrize(
    "bad, word",
    [
        ((-EYE, 0 * EYE, EYE), "D"),
        ((EYE, EYE, EYE), "Q"),
        ((EYE, 0 * EYE, -EYE), "S"),
        ((EYE, torch.zeros(3, 3), EYE), "D, Q, S"),
    ],
)
def test_bad_matrices(bad, word):
    with pytest.raises(ValueError, match=word):
        drift_and_diffusion(*bad)


def test_drift_and_diffusion():
    F, G = drift_and_diffusion(EYE, 0 * EYE, 4 * EYE)
    assert torch.allclose(F, -0.25 * EYE.double()) and torch.allclose(G, 2**0.5 * EYE.double())
