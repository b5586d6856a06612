"""Momentum and its integrators: every step against a plain one written out here, orders, cost,
seeds, bad input."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from compsamp import psld
from compsamp.conjugate import Conjugate
from compsamp.core import Noise, f64
from compsamp.forward import VP, CosineVP, NoisePredictor, SubVP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import CLD, PSLD, SSCS
from compsamp.sampling import DDIM, EulerMaruyama, final_denoise, grid, nfe, points_for_budget, registry, sample, states
from compsamp.zoo import parse_sampler
from compsamp.splitting import (
    COBA,
    CSE,
    CVV,
    NBAO,
    NOBA,
    NOBAB,
    NSE,
    NVV,
    RBAO,
    ROBA,
    ROBAB,
    RSE,
    RVV,
    Splitting,
)

PROCESSES = [PSLD(), PSLD(0.25, 4.25), PSLD(beta=0.1, beta_max=16.0), CLD()]
FLOWS = [
    NSE(),
    RSE(),
    NVV(),
    RVV(),
    CSE(),
    CVV(),
    CVV(lam=0.5, shape="ones"),
    CVV(freeze="v"),
    Conjugate(),
    Conjugate(0.5),
    Conjugate(0.5, "ones"),
    Conjugate(freeze="v"),
]
RANDOM = [
    SSCS(),
    NOBA(),
    ROBA(),
    NBAO(),
    RBAO(),
    NOBAB(),
    ROBAB(),
    COBA(),
    Splitting("BAOAB", "t--t-"),
    EulerMaruyama(),
]
T, S = 0.6, 0.45  # the step under the magnifying glass


def last(it):
    for z in it:
        pass
    return z


# ---------------------------------------------------------------- the plain reference: numpy, nothing of ours but the numbers of the process


def beta(p, u):
    return p.beta if p.beta_max is None else p.beta + (p.beta_max - p.beta) * u


def integral(p, s, t):
    return quad(lambda u: beta(p, u), s, t, epsabs=1e-13, epsrel=1e-13)[0]


def drift(p):
    "F at rate 1 and its stationary covariance, from the equation of the paper."
    M = 4 / (p.nu - p.gamma) ** 2
    return (
        0.5 * np.array([[-p.gamma, 1 / M], [-1.0, -p.nu]]),
        np.diag([1.0, M]),
        np.diag([p.gamma, M * p.nu]),
    )


def marginal(p, u):
    "mu and C at time u by the matrix exponential."
    F, S_, _ = drift(p)
    P = expm(F * integral(p, 0, u))
    return P[:, 0], S_ + P @ (np.diag([0.0, p.kappa * S_[1, 1]]) - S_) @ P.T


def gain(p, u):
    return -np.linalg.inv(np.linalg.cholesky(marginal(p, u)[1])).T  # score = gain eps


def eps(z, u):
    "Some smooth answer that no symmetry protects."
    return np.stack(
        [
            np.sin(1.3 * z[0] - 0.7 * z[1] + u) + 0.2 * z[1],
            np.cos(z[0] + 0.5 * z[1]) * (1 + u) - 0.4 * z[0],
        ]
    )


class Toy(NoisePredictor):
    shape = (5,)

    def predict(self, z, t):
        a = z.unflatten(1, (2, -1)).transpose(0, 1).numpy()
        return torch.from_numpy(eps(a, float(t))).transpose(0, 1).flatten(1)


def guess(p, u):
    "K, w: eps = K z + w v for standard normal data, from the joint covariance of (eps, z)."
    mu, C = marginal(p, u)
    L = np.linalg.cholesky(C)
    K = L.T @ np.linalg.inv(C + np.outer(mu, mu))
    R = np.eye(2) - K @ L  # covariance of eps given z, of rank 1
    val, vec = np.linalg.eigh((R + R.T) / 2)
    w = vec[:, 1] * math.sqrt(val[1])
    return K, w * np.sign(w @ np.linalg.solve(L, mu))


def carry(X, W, s, t):
    "R(t) and the integral of R W, R' = R X, by an adaptive Runge-Kutta method."
    j = np.atleast_2d(W(t)).shape[1]

    def rhs(u, y):
        R = y[:4].reshape(2, 2)
        return np.concatenate([(R @ X(u)).ravel(), (R @ W(u)).ravel()])

    y = solve_ivp(
        rhs,
        (s, t),
        np.concatenate([np.eye(2).ravel(), np.zeros(2 * j)]),
        "DOP853",
        rtol=3e-14,
        atol=1e-15,
    ).y[:, -1]
    return y[:4].reshape(2, 2), y[4:].reshape(2, j)


class Plain:
    "The moves, each in its textbook form: for one step of process p from t to s."

    def __init__(self, p, t=T, s=S):
        self.p = p
        self.t = t
        self.s = s
        self.M = 4 / (p.nu - p.gamma) ** 2

    def score(self, z, u):
        return gain(self.p, u) @ eps(z, u)

    def A(self, z, sc, b, c):
        p = self.p
        return np.stack(
            [z[0] + b / 2 * (c * p.gamma * z[0] - z[1] / self.M + c * p.gamma * sc[0]), z[1]]
        )

    def B(self, z, sc, b, c):
        p = self.p
        return np.stack([z[0], z[1] + b / 2 * (z[0] + c * p.nu * z[1] + c * self.M * p.nu * sc[1])])

    def O(self, z, w, b, lam=1.0):
        p = self.p
        return np.stack(
            [
                math.exp(-p.gamma * b / 2) * z[0]
                + math.sqrt(1 - math.exp(-lam * p.gamma * b)) * w[0],
                math.exp(-p.nu * b / 2) * z[1]
                + math.sqrt(self.M * (1 - math.exp(-p.nu * b))) * w[1],
            ]
        )

    def b(self, i=0, of=1):
        d = (self.t - self.s) / of
        return integral(self.p, self.t - (i + 1) * d, self.t - i * d)


def nse(q, z, w):
    z = q.B(z, q.score(z, q.t), q.b(), 1)
    return q.A(z, q.score(z, q.t), q.b(), 1)


def rse(q, z, w):
    s = q.score(z, q.t)
    return q.A(q.B(z, s, q.b(), 1), s, q.b(), 1)


def nvv(q, z, w):
    z = q.B(z, q.score(z, q.t), q.b(0, 2), 1)
    z = q.A(z, q.score(z, q.t), q.b(), 1)
    return q.B(z, q.score(z, q.t), q.b(1, 2), 1)


def rvv(q, z, w):
    s = q.score(z, q.t)
    z = q.A(q.B(z, s, q.b(0, 2), 1), s, q.b(), 1)
    return q.B(z, q.score(z, q.s), q.b(1, 2), 1)


def noba(q, z, w):
    z = q.O(z, w[0], q.b())
    z = q.B(z, q.score(z, q.t), q.b(), 2)
    return q.A(z, q.score(z, q.t), q.b(), 2)


def roba(q, z, w, lam=1.0):
    z = q.O(z, w[0], q.b(), lam)
    s = q.score(z, q.s)
    return q.A(q.B(z, s, q.b(), 2), s, q.b(), 2)


def nbao(q, z, w):
    z = q.B(z, q.score(z, q.t), q.b(), 2)
    z = q.A(z, q.score(z, q.t), q.b(), 2)
    return q.O(z, w[0], q.b())


def rbao(q, z, w):
    s = q.score(z, q.t)
    return q.O(q.A(q.B(z, s, q.b(), 2), s, q.b(), 2), w[0], q.b())


def nobab(q, z, w):
    z = q.O(z, w[0], q.b())
    z = q.B(z, q.score(z, q.t), q.b(0, 2), 2)
    z = q.A(z, q.score(z, q.t), q.b(), 2)
    return q.B(z, q.score(z, q.t), q.b(1, 2), 2)


def robab(q, z, w):
    z = q.O(z, w[0], q.b())
    s = q.score(z, q.t)
    z = q.A(q.B(z, s, q.b(0, 2), 2), s, q.b(), 2)
    return q.B(z, q.score(z, q.s), q.b(1, 2), 2)


def baoab(q, z, w):
    s = q.score(z, q.t)
    z = q.A(q.B(z, s, q.b(0, 2), 2), s, q.b(0, 2), 2)
    z = q.O(z, w[0], q.b())
    s = q.score(z, q.t)
    return q.B(q.A(z, s, q.b(1, 2), 2), s, q.b(1, 2), 2)


def em(q, z, w):
    p, h, r = q.p, q.t - q.s, beta(q.p, q.t)
    s = q.score(z, q.t)
    return np.stack(
        [
            z[0]
            + h * r / 2 * (p.gamma * z[0] - z[1] / q.M + 2 * p.gamma * s[0])
            + math.sqrt(p.gamma * r * h) * w[0][0],
            z[1]
            + h * r / 2 * (z[0] + p.nu * z[1] + 2 * q.M * p.nu * s[1])
            + math.sqrt(q.M * p.nu * r * h) * w[0][1],
        ]
    )


def sscs(q, z, w):
    p = q.p
    mid = (q.t + q.s) / 2
    S_ = np.diag([1.0, q.M])

    def ou(z, b, w):  # backwards at the stationary law: z' = (-F - GG' S^-1) z + G w
        E = expm(0.5 * b * np.array([[-p.gamma, -1 / q.M], [1.0, -p.nu]]))
        return E @ z + np.linalg.cholesky(S_ - E @ S_ @ E.T) @ w

    z = ou(z, integral(p, mid, q.t), w[0])
    s = q.score(z, q.t)
    b = q.b()
    z = z + b * np.stack([p.gamma * (z[0] + s[0]), p.nu * z[1] + q.M * p.nu * s[1]])
    return ou(z, integral(p, q.s, mid), w[1])


def conj(lam, shape, freeze):
    def step(q, z, w):
        F, _, D = drift(q.p)
        B = lam * (np.eye(2) if shape == "I" else np.ones((2, 2)))

        def r(u):
            return beta(q.p, u)

        e = eps(z, q.t)

        def X(u):
            return B - r(u) * F

        def W(u):
            return 0.5 * r(u) * D @ gain(q.p, u)

        net = e
        if freeze == "v":

            def X(u):
                return B - r(u) * F + 0.5 * r(u) * D @ gain(q.p, u) @ guess(q.p, u)[0]

            def W(u):
                return 0.5 * r(u) * D @ gain(q.p, u) @ guess(q.p, u)[1][:, None]

            K, v = guess(q.p, q.t)
            net = (v @ (e - K @ z) / (v @ v))[None]
        Q, Th = carry(X, W, q.s, q.t)
        return Q @ (z - (q.t - q.s) * B @ z) + Th @ net

    return step


def letter(q, z, e, name, u, v, c, lam=0.0, shape="I", freeze="eps", net=None):
    """One letter of a conjugate splitting, from time u down to v: its row of the flow, everything
    but eps (or v) exactly."""
    p = q.p
    row = np.diag([1.0, 0.0] if name == "A" else [0.0, 1.0])
    B = row @ (lam * (np.eye(2) if shape == "I" else np.ones((2, 2))))
    D = row @ (0.5 * np.array([[c * p.gamma, -1 / q.M], [1.0, c * p.nu]]))
    W = row @ np.diag([p.gamma, q.M * p.nu]) * c / 2

    def r(t):
        return beta(p, t)

    def X(t):
        return B + r(t) * D

    def G(t):
        return r(t) * W @ gain(p, t)

    if freeze == "v":

        def X(t):
            return B + r(t) * (D + W @ gain(p, t) @ guess(p, t)[0])

        def G(t):
            return r(t) * W @ gain(p, t) @ guess(p, t)[1][:, None]

    Q, Th = carry(X, G, v, u)
    return Q @ (z - (u - v) * B @ z) + Th @ (e if freeze == "eps" else net)


def cvv(**kw):
    def step(q, z, w):
        mid = (q.t + q.s) / 2

        def ask(z, u):
            e = eps(z, u)
            K, v = guess(q.p, u)
            return e, (v @ (e - K @ z) / (v @ v))[None]

        e, n = ask(z, q.t)
        z = letter(q, z, e, "B", q.t, mid, 1, net=n, **kw)
        z = letter(q, z, e, "A", q.t, q.s, 1, net=n, **kw)
        e, n = ask(z, q.s)
        return letter(q, z, e, "B", mid, q.s, 1, net=n, **kw)

    return step


def cse(q, z, w):
    e = eps(z, q.t)
    return letter(q, letter(q, z, e, "B", q.t, q.s, 1), e, "A", q.t, q.s, 1)


def coba(q, z, w):
    z = q.O(z, w[0], q.b())
    e = eps(z, q.s)
    return letter(q, letter(q, z, e, "B", q.t, q.s, 2), e, "A", q.t, q.s, 2)


PLAIN = [
    (NSE(), nse),
    (RSE(), rse),
    (NVV(), nvv),
    (RVV(), rvv),
    (NOBA(), noba),
    (ROBA(), roba),
    (ROBA(4.0), lambda q, z, w: roba(q, z, w, 4.0)),
    (NBAO(), nbao),
    (RBAO(), rbao),
    (NOBAB(), nobab),
    (ROBAB(), robab),
    (Splitting("BAOAB", "t--t-"), baoab),
    (EulerMaruyama(), em),
    (SSCS(), sscs),
    *(
        (Conjugate(l, s, f), conj(l, s, f))
        for l, s, f in (
            (0.0, "I", "eps"),
            (0.5, "I", "eps"),
            (0.5, "ones", "eps"),
            (0.0, "I", "v"),
            (0.7, "ones", "v"),
        )
    ),
    (CSE(), cse),
    (CVV(), cvv()),
    (CVV(lam=0.5, shape="ones"), cvv(lam=0.5, shape="ones")),
    (CVV(freeze="v", lam=0.3), cvv(freeze="v", lam=0.3)),
    (COBA(), coba),
]


@pytest.mark.parametrize("p", PROCESSES, ids=str)
@pytest.mark.parametrize("s, plain", PLAIN, ids=[str(s) for s, _ in PLAIN])
def test_a_step_is_the_plain_one(s, plain, p):
    g = np.random.default_rng(0)
    z = g.normal(size=(3, 2, 5))
    w = [g.normal(size=(3, 2, 5)) for _ in range(2)]
    queue = iter(w)

    def draw():
        return torch.from_numpy(next(queue)).flatten(1)

    got = (
        last(states(s, Toy(p), [T, S], torch.from_numpy(z).flatten(1), draw, denoise=False))
        .unflatten(1, (2, 5))
        .numpy()
    )
    want = np.stack([plain(Plain(p), z[i], [x[i] for x in w]) for i in range(3)])
    assert np.abs(got - want).max() < 1e-10 and np.abs(want - z).max() > 0.01


@pytest.mark.parametrize("p", [VP(), CosineVP(), SubVP()], ids=str)
@pytest.mark.parametrize("kind", ["uniform", "quadratic"])
def test_ddim_is_conjugate_without_B(p, kind):
    for n in (3, 21, 101):
        t = grid(p, n, kind)
        for a, b in zip(DDIM().prepare(p, t), Conjugate().prepare(p, t)):
            assert abs(a.a - b.a) < 1e-12 * abs(a.a) and abs(a.b - b.b) < 1e-12 * max(1, abs(a.b))


# ---------------------------------------------------------------- orders

WIDE = ring(8, 0.8, 0.3, 0.2)


def span(n):
    return torch.linspace(1.0, 0.1, n + 1, dtype=torch.float64)


@pytest.fixture(scope="module")
def truth():
    "Per process: exact denoiser, start, and where an adaptive solver ends."
    out = {}
    for p in PROCESSES[:1] + PROCESSES[2:]:
        d = WIDE.denoiser(p)
        z = p.perturb(WIDE.sample(24, seed=3), 1.0, Noise(5, 24, (4,), dtype=torch.float64)())
        out[str(p)] = d, z, psld.reference_flow(d, z, 1.0, 0.1, 1e-11, "DOP853")[0]
    return out


@pytest.mark.parametrize("p", PROCESSES[:1] + PROCESSES[2:], ids=str)
@pytest.mark.parametrize("s", FLOWS, ids=str)
def test_order_of_flows(s, p, truth):
    d, z, end = truth[str(p)]
    e = [
        float((last(states(s, d, span(n), z, denoise=False)) - end).norm(dim=1).mean())
        for n in (320, 640)
    ]
    assert abs(math.log2(e[0] / e[1]) - s.order) < 0.15 and e[1] < 0.1


def test_second_half_of_rvv_is_worth_its_time():
    """The momentum's local error: RVV at least 20 times below NVV at h = 0.005, and only because
    its last score is taken at the step's end."""
    p = PSLD()
    d = WIDE.denoiser(p)
    z = p.perturb(WIDE.sample(64, seed=3), 0.5, Noise(5, 64, (4,), dtype=torch.float64)())

    def local(s, h):
        return float(
            (
                last(states(s, d, [0.5, 0.5 - h], z, denoise=False))
                - psld.reference_flow(d, z, 0.5, 0.5 - h, 1e-13, "DOP853")[0]
            )[:, 2:]
            .norm(dim=1)
            .mean()
        )

    n = local(NVV(), 0.005)
    r = local(RVV(), 0.005)
    late = local(Splitting("BAB", "tts"), 0.005)
    assert n / r > 20 and abs(late / r - 1) < 0.1


class Unit:
    "A source of noise whose i-th draw is 1 in row i + 2 (one row per number drawn), 0 elsewhere."

    def __init__(self, rows, k):
        self.at = 1 + k
        self.rows = rows
        self.k = k

    def __call__(self):
        w = torch.zeros(self.rows, self.k, dtype=torch.float64)
        w[self.at : self.at + self.k] = torch.eye(self.k, dtype=torch.float64)
        self.at += self.k
        return w


def covariance_error(s, p, n, v=0.25):
    """The result's covariance minus the exact one, for Gaussian data of variance v: every run is an
    affine map of its start and draws."""
    t = span(n)
    rows = 3 + 2 * s.draws * n
    z = torch.zeros(rows, 2, dtype=torch.float64)
    z[1:3] = torch.eye(2)
    out = last(
        states(s, GaussianMixture([[0.0]], [[[v]]]).denoiser(p), t, z, Unit(rows, 2), denoise=False)
    )
    out = out[1:] - out[:1]

    def exact(u):
        return p.marginal(u)[1] + v * p.marginal(u)[0][:, None] * p.marginal(u)[0]

    return out[:2].T @ exact(1.0) @ out[:2] + out[2:].T @ out[2:] - exact(0.1)


@pytest.mark.parametrize("p", [PSLD(), PSLD(0.25, 4.25, beta=0.1, beta_max=16.0)], ids=str)
@pytest.mark.parametrize("s", RANDOM, ids=str)
def test_weak_order(s, p):
    e = [float(covariance_error(s, p, n).norm()) for n in (320, 640)]
    assert e[1] < 0.05 and (math.log2(e[0] / e[1]) > 1 - 0.15)


def test_lam_s_is_a_bias_that_stays():
    p = PSLD(0.25, 4.25)
    plain, twice = (float(covariance_error(ROBA(l), p, 640).norm()) for l in (1.0, 2.0))
    assert twice > 3 * plain


def test_published_second_half_differs_for_a_linear_rate():
    """The published code takes the second half over the first half's interval: the same at a
    constant rate, far off in ten steps of a linear one."""

    class Slip(SSCS):
        def prepare(self, process, times):
            out = super().prepare(process, times)
            for r in out:  # the second half: out with the right one, in with the other
                mid = (r.t + r.s) / 2
                (right, _), (wrong, c) = (
                    psld.stationary_flow(process, f64([a]), f64([b]))
                    for a, b in ((mid, r.s), (r.t, mid))
                )
                turn = wrong[0] @ torch.linalg.inv(right[0])
                r.a = turn @ r.a
                r.b = turn @ r.b
                r.c2 = c[0]
            return out

    for p, same in ((PSLD(), True), (PSLD(beta=0.1, beta_max=16.0), False)):
        z = p.prior((50, 4), Noise(0, 50, (4,), dtype=torch.float64)())
        d = WIDE.denoiser(p)
        a, b = (
            last(
                states(s, d, grid(p, 11), z, Noise(1, 50, (4,), dtype=torch.float64), denoise=False)
            )
            for s in (SSCS(), Slip())
        )
        assert (a - b).abs().max() < 1e-9 if same else (a - b).abs().max() > 0.1


# ---------------------------------------------------------------- cost, seeds, errors


class Zero(NoisePredictor):
    shape = (1,)

    def predict(self, z, t):
        return torch.zeros_like(z)


@pytest.mark.parametrize("s", FLOWS + RANDOM, ids=str)
def test_promised_nfe_and_draws(s):
    for n in (1, 2, 3, 10, 300):
        d = Zero(PSLD())
        draw = Noise(0, 1, (2,))
        last(states(s, d, grid(PSLD(), n), torch.ones(1, 2), draw))
        assert (
            d.nfe == nfe(s, n)
            and points_for_budget(s, d.nfe) == n
            and draw.count == s.draws * (n - 1)
        )


@pytest.mark.parametrize("s", FLOWS + RANDOM, ids=str)
def test_a_seed_is_a_picture_in_either_precision(s):
    d = WIDE.denoiser(PSLD())
    t = grid(PSLD(), 12, "quadratic")
    ref = sample(s, d, t, n=24, seed=3, batch=24).x
    for b in (1, 7):
        assert (sample(s, d, t, n=24, seed=3, batch=b).x - ref).abs().max() <= 1e-5
    assert torch.equal(sample(s, d, t, n=24, seed=3, batch=24).x, ref) and not torch.equal(
        sample(s, d, t, n=24, seed=4).x, ref
    )
    assert (sample(s, d, t, n=24, seed=3, dtype=torch.float64).x - ref).abs().max() < 3e-4 * max(
        1.0, float(ref.abs().max())
    )  # COBA explodes on so few steps


def test_momentum_noise_alone_is_enough_without_gamma():
    "CLD: eps of the picture is never used, by no sampler that holds eps."

    class Half(NoisePredictor):
        def predict(self, z, t):
            e = exact.predict(z, t).clone()
            e[:, :2] = 0.0
            return e

    p = CLD()
    exact = WIDE.denoiser(p)
    z = p.prior((8, 4), Noise(0, 8, (4,), dtype=torch.float64)())
    for s in FLOWS + RANDOM:
        if getattr(s, "freeze", "eps") == "v":
            continue
        draws = [Noise(1, 8, (4,), dtype=torch.float64) for _ in range(2)]
        a, b = (last(states(s, d, grid(p, 9), z, draw)) for d, draw in zip((exact, Half(p)), draws))
        assert (a - b).abs().max() <= 1e-12 * b.abs().max(), s


def test_denoise_step_is_one_drift():
    p = PSLD()
    d = Toy(p)
    z = torch.randn(3, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    t = 1e-3
    F, _, D = drift(p)
    a = z.unflatten(1, (2, 5)).numpy()
    s = np.einsum("ij,njd->nid", gain(p, t), np.stack([eps(x, t) for x in a]))
    want = a - t * p.beta * (np.einsum("ij,njd->nid", F, a) - np.einsum("ij,njd->nid", D, s))
    assert np.abs(final_denoise(d, z, t).numpy() - want[:, 0]).max() < 1e-12


def test_names():
    t = grid(PSLD(), 4)
    two = {n for n, s in registry().items() if (getattr(s, "func", s)) in (Splitting, SSCS)}
    for name in registry():
        s = parse_sampler(name)
        if s.k != 1:
            assert sample(s, WIDE.denoiser(PSLD()), t, n=3).x.shape == (3, 2)
        if name in two:
            with pytest.raises(ValueError, match="k = 2"):
                sample(s, WIDE.denoiser(VP()), 4, n=2)
    assert (
        len(two) == 14
        and parse_sampler("roba:lam_s=4") == ROBA(4)
        and parse_sampler("conjugate:lam=.5,shape=ones") == Conjugate(0.5, "ones")
    )


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Splitting("BAX", "t--"), "word"),
        (lambda: Splitting("", ""), "word"),
        (lambda: Splitting("ABABA", "t----"), "A and B once"),
        (lambda: Splitting("A", "t"), "A and B once"),
        (lambda: Splitting("BA", "t"), "plan"),
        (lambda: Splitting("BA", "-t"), "no score yet"),
        (lambda: Splitting("OBA", "ts-"), "under every O"),
        (lambda: Splitting("BA", "tm"), "plan"),
        (lambda: ROBA(-1.0), "lam_s"),
        (lambda: ROBA(float("nan")), "lam_s"),
        (lambda: RVV(2.0), "lam_s"),
        (lambda: RVV(lam=0.5), "lam"),
        (lambda: RVV(freeze="v"), "freeze"),
        (lambda: CVV(shape="J"), "shape"),
        (lambda: Conjugate(float("inf")), "lam"),
        (lambda: Conjugate(shape="J"), "shape"),
        (lambda: Conjugate(freeze="x0"), "freeze"),
        (lambda: sample(Conjugate(25.0), Zero(PSLD()), 21), "lambda_max"),
        (lambda: sample(Conjugate(12.0, "ones"), Zero(PSLD()), 21), "lambda_max"),
        (lambda: sample(CVV(lam=50.0), Zero(PSLD()), 21), "lambda_max"),
        (lambda: sample(RVV(), Zero(VP()), 5), "k = 2"),
        (lambda: sample(SSCS(), Zero(VP()), 5), "k = 2"),
        (lambda: PSLD(beta_max=0.0), "beta_max"),
        (lambda: PSLD(mass=0.3), "mass"),
        (lambda: PSLD(nu=0.01), "nu"),
        (lambda: PSLD(beta=-1.0), "beta"),
        (lambda: psld.reference_flow(Zero(PSLD()), torch.ones(1, 2), 0.1, 1.0), "falling"),
        (lambda: psld.reference_flow(Zero(PSLD()), torch.ones(1, 2), 1.0, 0.1, 0.0), "tol"),
        (lambda: psld.DSM().pair(VP(), None, None, None), "process"),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_stable_lam_is_accepted_up_to_the_bound():
    t = grid(PSLD(), 21)
    h = float((t[:-1] - t[1:]).max())
    Conjugate(0.99 / h).prepare(PSLD(), t)
    Conjugate(0.49 / h, "ones").prepare(PSLD(), t)
    Conjugate(-3.0).prepare(PSLD(), t)
    with pytest.raises(ValueError):
        Conjugate(0.51 / h, "ones").prepare(PSLD(), t)


def test_a_partial_network_cannot_hold_v():
    class Partial(Zero):
        partial = True

    for s in (Conjugate(freeze="v"), CVV(freeze="v")):
        with pytest.raises(TypeError, match="freeze"):
            sample(s, Partial(CLD()), 5, n=2)
