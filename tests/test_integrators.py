"Momentum's integrators: every step against a plain one, orders, cost, seeds, bad input."

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.linalg import expm

from compsamp import psld, zoo
from compsamp.conjugate import GDDIM, Conjugate
from compsamp.core import Noise, f64
from compsamp.forward import VP, CosineVP, NoisePredictor, SubVP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import CLD, PSLD, SSCS
from compsamp.sampling import (
    DDIM,
    EulerMaruyama,
    final_denoise,
    grid,
    nfe,
    points_for_budget,
    sample,
    states,
)
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
    SPLITTING_SAMPLERS,
    Splitting,
)

F64 = torch.float64
RISING = PSLD(beta=0.1, beta_max=16.0)
PROCESSES = [PSLD(), PSLD(0.25, 4.25), RISING, CLD()]
WITH_GAMMA_SMALL = [PSLD(), RISING, CLD()]
BAOAB = Splitting("BAOAB", "t--t-")
FLOWS = [
    NSE(),
    RSE(),
    NVV(),
    RVV(),
    CSE(),
    CVV(),
    CVV(lam=0.5, shape="ones"),
    CVV(freeze="v"),
    GDDIM(),
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
    BAOAB,
    EulerMaruyama(),
]
START, END = 0.6, 0.45  # of the step under the magnifying glass
MIDDLE = (START + END) / 2


def last(iterator):
    *_, end = iterator
    return end


# ---- the plain reference: numpy, nothing of ours but the numbers of the process


def mass(process):
    return 4 / (process.nu - process.gamma) ** 2


def rate(process, u):
    if process.beta_max is None:
        return process.beta
    return process.beta + (process.beta_max - process.beta) * u


def integral(process, low, high):
    return quad(lambda u: rate(process, u), low, high, epsabs=1e-13, epsrel=1e-13)[0]


def unit_drift(process):
    "F at rate 1, from the equation of the paper."
    return 0.5 * np.array([[-process.gamma, 1 / mass(process)], [-1.0, -process.nu]])


def unit_diffusion(process):
    "GG' at rate 1."
    return np.diag([process.gamma, mass(process) * process.nu])


def marginal(process, u):
    "mu and C at time u by the matrix exponential."
    stationary = np.diag([1.0, mass(process)])
    first = np.diag([0.0, process.kappa * mass(process)])
    psi = expm(unit_drift(process) * integral(process, 0, u))
    return psi[:, 0], stationary + psi @ (first - stationary) @ psi.T


def gain(process, u):
    "The score is this times eps."
    return -np.linalg.inv(np.linalg.cholesky(marginal(process, u)[1])).T


def toy_eps(z, u):
    "Some smooth answer that no symmetry protects."
    x, m = z
    first = np.sin(1.3 * x - 0.7 * m + u) + 0.2 * m
    return np.stack([first, np.cos(x + 0.5 * m) * (1 + u) - 0.4 * x])


class Toy(NoisePredictor):
    shape = (5,)

    def predict(self, z, t):
        rows = z.unflatten(1, (2, -1)).transpose(0, 1).numpy()
        return torch.from_numpy(toy_eps(rows, float(t))).transpose(0, 1).flatten(1)


def plain_v(process, u):
    "K, w: eps = K z + w v for standard normal data, from the joint covariance of (eps, z)."
    mu, C = marginal(process, u)
    L = np.linalg.cholesky(C)
    K = L.T @ np.linalg.inv(C + np.outer(mu, mu))
    left = np.eye(2) - K @ L  # covariance of eps given z, of rank 1
    values, vectors = np.linalg.eigh((left + left.T) / 2)
    w = vectors[:, 1] * math.sqrt(values[1])
    return K, w * np.sign(w @ np.linalg.solve(L, mu))


def read_v(process, eps, z, u):
    "v, `(1, d)`."
    K, w = plain_v(process, u)
    return (w @ (eps - K @ z) / (w @ w))[None]


def plain_factor(X, W, end, start):
    "R(start) and the integral of R W, R' = R X from R(end) = I, by an adaptive solver."
    columns = np.atleast_2d(W(start)).shape[1]

    def slope(u, flat):
        R = flat[:4].reshape(2, 2)
        return np.concatenate([(R @ X(u)).ravel(), (R @ W(u)).ravel()])

    first = np.concatenate([np.eye(2).ravel(), np.zeros(2 * columns)])
    solved = solve_ivp(slope, (end, start), first, "DOP853", rtol=3e-14, atol=1e-15)
    flat = solved.y[:, -1]
    return flat[:4].reshape(2, 2), flat[4:].reshape(2, columns)


class Plain:
    "The moves of one step of a process from START to END, each in its textbook form."

    def __init__(self, process):
        self.process = process
        self.M = mass(process)
        self.whole = integral(process, END, START)
        self.halves = [integral(process, MIDDLE, START), integral(process, END, MIDDLE)]

    def score(self, z, u):
        return gain(self.process, u) @ toy_eps(z, u)

    def A(self, z, score, b, friction=1):
        x, m = z
        gamma = friction * self.process.gamma
        return np.stack([x + b / 2 * (gamma * x - m / self.M + gamma * score[0]), m])

    def B(self, z, score, b, friction=1):
        x, m = z
        nu = friction * self.process.nu
        return np.stack([x, m + b / 2 * (x + nu * m + self.M * nu * score[1])])

    def O(self, z, noise, b, lam_s=1.0):  # noqa: E743
        gamma_b, nu_b = self.process.gamma * b, self.process.nu * b
        x = math.exp(-gamma_b / 2) * z[0] + math.sqrt(1 - math.exp(-lam_s * gamma_b)) * noise[0]
        spread = math.sqrt(self.M * (1 - math.exp(-nu_b)))
        return np.stack([x, math.exp(-nu_b / 2) * z[1] + spread * noise[1]])


def nse(plain, z, noise):
    z = plain.B(z, plain.score(z, START), plain.whole)
    return plain.A(z, plain.score(z, START), plain.whole)


def rse(plain, z, noise):
    score = plain.score(z, START)
    return plain.A(plain.B(z, score, plain.whole), score, plain.whole)


def nvv(plain, z, noise):
    z = plain.B(z, plain.score(z, START), plain.halves[0])
    z = plain.A(z, plain.score(z, START), plain.whole)
    return plain.B(z, plain.score(z, START), plain.halves[1])


def rvv(plain, z, noise):
    score = plain.score(z, START)
    z = plain.A(plain.B(z, score, plain.halves[0]), score, plain.whole)
    return plain.B(z, plain.score(z, END), plain.halves[1])


def noba(plain, z, noise):
    z = plain.O(z, noise[0], plain.whole)
    z = plain.B(z, plain.score(z, START), plain.whole, 2)
    return plain.A(z, plain.score(z, START), plain.whole, 2)


def roba(plain, z, noise, lam_s=1.0):
    z = plain.O(z, noise[0], plain.whole, lam_s)
    score = plain.score(z, END)
    return plain.A(plain.B(z, score, plain.whole, 2), score, plain.whole, 2)


def nbao(plain, z, noise):
    z = plain.B(z, plain.score(z, START), plain.whole, 2)
    z = plain.A(z, plain.score(z, START), plain.whole, 2)
    return plain.O(z, noise[0], plain.whole)


def rbao(plain, z, noise):
    score = plain.score(z, START)
    z = plain.A(plain.B(z, score, plain.whole, 2), score, plain.whole, 2)
    return plain.O(z, noise[0], plain.whole)


def nobab(plain, z, noise):
    z = plain.O(z, noise[0], plain.whole)
    z = plain.B(z, plain.score(z, START), plain.halves[0], 2)
    z = plain.A(z, plain.score(z, START), plain.whole, 2)
    return plain.B(z, plain.score(z, START), plain.halves[1], 2)


def robab(plain, z, noise):
    z = plain.O(z, noise[0], plain.whole)
    score = plain.score(z, START)
    z = plain.A(plain.B(z, score, plain.halves[0], 2), score, plain.whole, 2)
    return plain.B(z, plain.score(z, END), plain.halves[1], 2)


def baoab(plain, z, noise):
    first, second = plain.halves
    score = plain.score(z, START)
    z = plain.A(plain.B(z, score, first, 2), score, first, 2)
    z = plain.O(z, noise[0], plain.whole)
    score = plain.score(z, START)
    return plain.B(plain.A(z, score, second, 2), score, second, 2)


def euler_maruyama(plain, z, noise):
    process, M = plain.process, plain.M
    h, beta = START - END, rate(plain.process, START)
    score = plain.score(z, START)
    (x, m), (noise_x, noise_m) = z, noise[0]
    gamma, nu = process.gamma, process.nu
    drift_x = beta / 2 * (gamma * x - m / M + 2 * gamma * score[0])
    drift_m = beta / 2 * (x + nu * m + 2 * M * nu * score[1])
    x = x + h * drift_x + math.sqrt(gamma * beta * h) * noise_x
    return np.stack([x, m + h * drift_m + math.sqrt(M * nu * beta * h) * noise_m])


def sscs(plain, z, noise):
    process, M = plain.process, plain.M
    stationary = np.diag([1.0, M])

    def relax(z, b, noise):  # backwards at the stationary law
        circling = np.array([[-process.gamma, -1 / M], [1.0, -process.nu]])
        psi = expm(0.5 * b * circling)
        return psi @ z + np.linalg.cholesky(stationary - psi @ stationary @ psi.T) @ noise

    z = relax(z, plain.halves[0], noise[0])
    score = plain.score(z, START)
    push = np.stack(
        [process.gamma * (z[0] + score[0]), process.nu * z[1] + M * process.nu * score[1]]
    )
    return relax(z + plain.whole * push, plain.halves[1], noise[1])


def damping(lam, shape):
    return lam * (np.eye(2) if shape == "I" else np.ones((2, 2)))


def conjugate_move(process, z, held, drift, weight, B, span, freeze):
    "One conjugate step over a span: the linear part exactly, eps or v held."
    start, end = span

    def answer(u):  # what the noise does
        return rate(process, u) * weight @ gain(process, u)

    def X(u):
        linear = B + rate(process, u) * drift
        return linear if freeze == "eps" else linear + answer(u) @ plain_v(process, u)[0]

    def W(u):
        return answer(u) if freeze == "eps" else answer(u) @ plain_v(process, u)[1][:, None]

    Q, Theta = plain_factor(X, W, end, start)
    return Q @ (z - (start - end) * B @ z) + Theta @ held


def ask(process, z, u, freeze):
    eps = toy_eps(z, u)
    return eps if freeze == "eps" else read_v(process, eps, z, u)


def conjugate(lam, shape, freeze):
    def step(plain, z, noise):
        process = plain.process
        held = ask(process, z, START, freeze)
        drift, weight = -unit_drift(process), 0.5 * unit_diffusion(process)
        B = damping(lam, shape)
        return conjugate_move(process, z, held, drift, weight, B, (START, END), freeze)

    return step


def letter(plain, z, held, name, span, friction=1, lam=0.0, shape="I", freeze="eps"):
    "One letter of a conjugate splitting over a span: its row of the flow."
    process, M = plain.process, plain.M
    gamma, nu = friction * process.gamma, friction * process.nu
    row = np.diag([1.0, 0.0] if name == "A" else [0.0, 1.0])
    drift = row @ (0.5 * np.array([[gamma, -1 / M], [1.0, nu]]))
    weight = row @ np.diag([gamma, M * nu]) / 2
    return conjugate_move(process, z, held, drift, weight, row @ damping(lam, shape), span, freeze)


def cvv(freeze="eps", **settings):
    def step(plain, z, noise):
        held = ask(plain.process, z, START, freeze)
        z = letter(plain, z, held, "B", (START, MIDDLE), freeze=freeze, **settings)
        z = letter(plain, z, held, "A", (START, END), freeze=freeze, **settings)
        held = ask(plain.process, z, END, freeze)
        return letter(plain, z, held, "B", (MIDDLE, END), freeze=freeze, **settings)

    return step


def cse(plain, z, noise):
    eps = toy_eps(z, START)
    z = letter(plain, z, eps, "B", (START, END))
    return letter(plain, z, eps, "A", (START, END))


def coba(plain, z, noise):
    z = plain.O(z, noise[0], plain.whole)
    eps = toy_eps(z, END)
    z = letter(plain, z, eps, "B", (START, END), 2)
    return letter(plain, z, eps, "A", (START, END), 2)


def roba_dialled(plain, z, noise):
    return roba(plain, z, noise, 4.0)


def roba_by_time(plain, z, noise):
    "The rate up to the middle of the step: the share of the whole step that it is, as a factor."
    middle = integral(plain.process, 0, MIDDLE)
    return roba(plain, z, noise, 0.3 * middle / plain.whole)


def roba_by_noise(plain, z, noise):
    louder = [np.stack([2 * noise[0][0], noise[0][1]])]
    return roba(plain, z, louder)


def gddim(plain, z, noise):
    "Eq. 7 of chapter 11, its two flows by an adaptive solver."
    process, u = plain.process, START

    def flow(matrix):
        def slope(u, flat):
            return (rate(process, u) * matrix(u) @ flat.reshape(2, 2)).ravel()

        options = {"rtol": 3e-14, "atol": 1e-15}
        solved = solve_ivp(slope, (START, END), np.eye(2).ravel(), "DOP853", **options)
        return solved.y[:, -1].reshape(2, 2)

    def turning(u):
        half = unit_diffusion(process) @ np.linalg.inv(marginal(process, u)[1]) / 2
        return unit_drift(process) + half

    back, turned = flow(lambda u: unit_drift(process)), flow(turning)
    noise_of_state = np.linalg.cholesky(marginal(process, u)[1]) @ toy_eps(z, u)
    return back @ (z - noise_of_state) + turned @ noise_of_state


PLAIN = [
    (NSE(), nse),
    (RSE(), rse),
    (NVV(), nvv),
    (RVV(), rvv),
    (NOBA(), noba),
    (ROBA(), roba),
    (ROBA(4.0), roba_dialled),
    (ROBA(0.3, dial="time"), roba_by_time),
    (ROBA(2.0, dial="noise"), roba_by_noise),
    (GDDIM(), gddim),
    (NBAO(), nbao),
    (RBAO(), rbao),
    (NOBAB(), nobab),
    (ROBAB(), robab),
    (BAOAB, baoab),
    (EulerMaruyama(), euler_maruyama),
    (SSCS(), sscs),
    (Conjugate(), conjugate(0.0, "I", "eps")),
    (Conjugate(0.5), conjugate(0.5, "I", "eps")),
    (Conjugate(0.5, "ones"), conjugate(0.5, "ones", "eps")),
    (Conjugate(freeze="v"), conjugate(0.0, "I", "v")),
    (Conjugate(0.7, "ones", "v"), conjugate(0.7, "ones", "v")),
    (CSE(), cse),
    (CVV(), cvv()),
    (CVV(lam=0.5, shape="ones"), cvv(lam=0.5, shape="ones")),
    (CVV(freeze="v", lam=0.3), cvv(freeze="v", lam=0.3)),
    (COBA(), coba),
]


@pytest.mark.parametrize("process", PROCESSES, ids=str)
@pytest.mark.parametrize("sampler, plain_step", PLAIN, ids=[str(s) for s, _ in PLAIN])
def test_a_step_is_the_plain_one(sampler, plain_step, process):
    random = np.random.default_rng(0)
    z = random.normal(size=(3, 2, 5))
    noise = [random.normal(size=(3, 2, 5)) for _ in range(2)]
    queue = iter(noise)

    def draw():
        return torch.from_numpy(next(queue)).flatten(1)

    start = torch.from_numpy(z).flatten(1)
    end = last(states(sampler, Toy(process), [START, END], start, draw, denoise=False))
    got = end.unflatten(1, (2, 5)).numpy()
    plain = Plain(process)
    want = np.stack([plain_step(plain, z[i], [w[i] for w in noise]) for i in range(3)])
    assert np.abs(got - want).max() < 1e-10
    assert np.abs(want - z).max() > 0.01


@pytest.mark.parametrize("process", [VP(), CosineVP(), SubVP()], ids=str)
@pytest.mark.parametrize("kind", ["uniform", "quadratic"])
def test_ddim_is_conjugate_without_damping(process, kind):
    for points in (3, 21, 101):
        times = grid(process, points, kind)
        for ddim, ours in zip(DDIM().prepare(process, times), Conjugate().prepare(process, times)):
            assert abs(ddim.a - ours.a) < 1e-12 * abs(ddim.a)
            assert abs(ddim.b - ours.b) < 1e-12 * max(1, abs(ddim.b))


def test_damping_may_depend_on_time():
    "B = lam beta(t) I on a rising rate: the solver's answer, with the damping at the step's start."

    class WithTheRate(Conjugate):
        def damping(self, process, u):
            return process.rate(u)[..., None, None] * super().damping(process, u)

    lam = 0.02
    (record,) = WithTheRate(lam).prepare(RISING, f64([START, END]))
    drift, weight = -unit_drift(RISING), 0.5 * unit_diffusion(RISING)

    def X(u):
        return rate(RISING, u) * (lam * np.eye(2) + drift)

    def W(u):
        return rate(RISING, u) * weight @ gain(RISING, u)

    Q, Theta = plain_factor(X, W, END, START)
    shrunk = 1 - (START - END) * lam * rate(RISING, START)
    assert np.abs(record.a.numpy() - shrunk * Q).max() < 1e-10
    assert np.abs(record.b.numpy() - Theta).max() < 1e-10


# ---- orders

WIDE = ring(8, 0.8, 0.3, 0.2)


def span(steps):
    return torch.linspace(1.0, 0.1, steps + 1, dtype=F64)


@pytest.fixture(scope="module")
def truth():
    "Per process: exact denoiser, start, and where an adaptive solver ends."
    found = {}
    for process in WITH_GAMMA_SMALL:
        denoiser = WIDE.denoiser(process)
        draw = Noise(5, 24, (4,), dtype=F64)
        z = process.perturb(WIDE.sample(24, seed=3), 1.0, draw())
        end, _ = psld.reference_flow(denoiser, z, 1.0, 0.1, 1e-11, "DOP853")
        found[str(process)] = denoiser, z, end
    return found


@pytest.mark.parametrize("process", WITH_GAMMA_SMALL, ids=str)
@pytest.mark.parametrize("sampler", FLOWS, ids=str)
def test_order_of_flows(sampler, process, truth):
    denoiser, z, end = truth[str(process)]
    errors = []
    for steps in (320, 640):
        got = last(states(sampler, denoiser, span(steps), z, denoise=False))
        errors.append(float((got - end).norm(dim=1).mean()))
    assert abs(math.log2(errors[0] / errors[1]) - sampler.order) < 0.15
    assert errors[1] < 0.1


def test_the_time_of_the_last_score_is_what_helps_rvv():
    "The momentum's local error at t = 0.5: RVV is far below NVV, and a third score adds nothing."
    denoiser = WIDE.denoiser(PSLD())
    z = PSLD().perturb(WIDE.sample(64, seed=3), 0.5, Noise(5, 64, (4,), dtype=F64)())
    h = 0.005
    end, _ = psld.reference_flow(denoiser, z, 0.5, 0.5 - h, 1e-13, "DOP853")

    def local(sampler):
        got = last(states(sampler, denoiser, [0.5, 0.5 - h], z, denoise=False))
        return float((got - end)[:, 2:].norm(dim=1).mean())

    assert local(NVV()) / local(RVV()) > 20
    assert abs(local(Splitting("BAB", "tts")) / local(RVV()) - 1) < 0.1


class UnitDraws:
    "A source of noise: draw i is the unit matrix in rows 3 + 2 i and 4 + 2 i, 0 elsewhere."

    def __init__(self, rows):
        self.rows, self.next_row = rows, 3

    def __call__(self):
        noise = torch.zeros(self.rows, 2, dtype=F64)
        noise[self.next_row : self.next_row + 2] = torch.eye(2, dtype=F64)
        self.next_row += 2
        return noise


def covariance_error(sampler, process, steps, variance=0.25, times=None):
    "The result's covariance minus the exact one, for Gaussian data: a run is an affine map."
    times = span(steps) if times is None else times
    rows = 3 + 2 * sampler.draws * (len(times) - 1)
    z = torch.zeros(rows, 2, dtype=F64)
    z[1:3] = torch.eye(2, dtype=F64)
    denoiser = GaussianMixture([[0.0]], [[[variance]]]).denoiser(process)
    end = last(states(sampler, denoiser, times, z, UnitDraws(rows), denoise=False))
    end = end[1:] - end[:1]

    def exact(u):
        mu, C = process.marginal(u)
        return C + variance * mu[:, None] * mu

    first, last_time = float(times[0]), float(times[-1])
    return end[:2].T @ exact(first) @ end[:2] + end[2:].T @ end[2:] - exact(last_time)


@pytest.mark.parametrize("process", [PSLD(), PSLD(0.25, 4.25, beta=0.1, beta_max=16.0)], ids=str)
@pytest.mark.parametrize("sampler", RANDOM, ids=str)
def test_weak_order(sampler, process):
    coarse, fine = (float(covariance_error(sampler, process, n).norm()) for n in (320, 640))
    assert fine < 0.05
    assert math.log2(coarse / fine) > 1 - 0.15


@pytest.mark.parametrize("sampler", RANDOM, ids=str)
def test_local_weak_order(sampler):
    "One step from the exact law: the covariance's error falls like h^2."
    found = []
    for h in (0.004, 0.002):
        times = f64([0.3, 0.3 - h])
        found.append(float(covariance_error(sampler, PSLD(), 1, times=times).abs().max()))
    assert abs(math.log2(found[0] / found[1]) - 2) < 0.2


def test_lam_s_is_a_bias_that_stays():
    process = PSLD(0.25, 4.25)
    plain, twice = (float(covariance_error(ROBA(v), process, 640).norm()) for v in (1.0, 2.0))
    assert twice > 3 * plain


class WrongSecondHalf(SSCS):
    "SSCS as published: the second half over the first half's interval."

    def prepare(self, process, times):
        recs = super().prepare(process, times)
        for r in recs:
            middle = (r.t + r.s) / 2
            right, _ = psld.stationary_flow(process, f64([middle]), f64([r.s]))
            wrong, noise = psld.stationary_flow(process, f64([r.t]), f64([middle]))
            turn = wrong[0] @ torch.linalg.inv(right[0])
            r.a, r.b, r.c2 = turn @ r.a, turn @ r.b, noise[0]
        return recs


@pytest.mark.parametrize("process, same", [(PSLD(), True), (RISING, False)])
def test_published_second_half_differs_for_a_rising_rate(process, same):
    z = process.prior((50, 4), Noise(0, 50, (4,), dtype=F64)())
    ends = []
    for sampler in (SSCS(), WrongSecondHalf()):
        draw = Noise(1, 50, (4,), dtype=F64)
        run = states(sampler, WIDE.denoiser(process), grid(process, 11), z, draw, denoise=False)
        ends.append(last(run))
    gap = float((ends[0] - ends[1]).abs().max())
    assert gap < 1e-9 if same else gap > 0.1


# ---- cost, seeds, errors


class Zero(NoisePredictor):
    shape = (1,)

    def predict(self, z, t):
        return torch.zeros_like(z)


@pytest.mark.parametrize("sampler", FLOWS + RANDOM, ids=str)
def test_promised_nfe_and_draws(sampler):
    for points in (1, 2, 3, 10, 300):
        denoiser = Zero(PSLD())
        draw = Noise(0, 1, (2,))
        last(states(sampler, denoiser, grid(PSLD(), points), torch.ones(1, 2), draw))
        assert denoiser.nfe == nfe(sampler, points)
        assert points_for_budget(sampler, denoiser.nfe) == points
        assert draw.count == sampler.draws * (points - 1)


@pytest.mark.parametrize("sampler", FLOWS + RANDOM, ids=str)
def test_a_seed_is_a_picture_in_either_precision(sampler):
    denoiser = WIDE.denoiser(PSLD())
    times = grid(PSLD(), 12, "quadratic")
    first = sample(sampler, denoiser, times, n=24, seed=3, batch=24).x
    for batch in (1, 7):
        other = sample(sampler, denoiser, times, n=24, seed=3, batch=batch).x
        assert (other - first).abs().max() <= 1e-5
    assert torch.equal(sample(sampler, denoiser, times, n=24, seed=3, batch=24).x, first)
    assert not torch.equal(sample(sampler, denoiser, times, n=24, seed=4).x, first)
    double = sample(sampler, denoiser, times, n=24, seed=3, dtype=F64).x
    size = max(1.0, float(first.abs().max()))  # COBA explodes on so few steps
    assert (double - first).abs().max() < 3e-4 * size


def test_momentum_noise_alone_is_enough_without_gamma():
    "CLD: eps of the picture is never used, by no sampler that holds eps."

    class MomentumOnly(NoisePredictor):
        def predict(self, z, t):
            eps = exact.predict(z, t).clone()
            eps[:, :2] = 0.0
            return eps

    exact = WIDE.denoiser(CLD())
    z = CLD().prior((8, 4), Noise(0, 8, (4,), dtype=F64)())
    for sampler in FLOWS + RANDOM:
        if getattr(sampler, "freeze", "eps") == "v" or sampler == GDDIM():
            continue  # they read the picture off eps
        ends = []
        for denoiser in (exact, MomentumOnly(CLD())):
            draw = Noise(1, 8, (4,), dtype=F64)
            ends.append(last(states(sampler, denoiser, grid(CLD(), 9), z, draw)))
        assert (ends[0] - ends[1]).abs().max() <= 1e-12 * ends[1].abs().max(), sampler


def test_denoise_step_is_one_drift():
    process, t = PSLD(), 1e-3
    z = torch.randn(3, 10, dtype=F64, generator=torch.Generator().manual_seed(0))
    rows = z.unflatten(1, (2, 5)).numpy()
    eps = np.stack([toy_eps(row, t) for row in rows])
    score = np.einsum("ij,njd->nid", gain(process, t), eps)
    drift = np.einsum("ij,njd->nid", unit_drift(process), rows)
    pull = np.einsum("ij,njd->nid", unit_diffusion(process), score)
    want = rows - t * process.beta * (drift - pull)
    assert np.abs(final_denoise(Toy(process), z, t).numpy() - want[:, 0]).max() < 1e-12


@pytest.mark.parametrize("process", [VP(), CosineVP(), SubVP()], ids=str)
def test_gddim_is_ddim_where_there_is_one_block(process):
    times = grid(process, 21)
    for ddim, ours in zip(DDIM().prepare(process, times), GDDIM().prepare(process, times)):
        assert abs(ddim.a - ours.a) < 1e-10 * abs(ddim.a)
        assert abs(ddim.b - ours.b) < 1e-10 * max(1, abs(ddim.b))


@pytest.mark.parametrize("name", [*SPLITTING_SAMPLERS, "sscs", "conjugate", "gddim"])
def test_names(name):
    sampler = zoo.parse_sampler(name)
    assert sample(sampler, WIDE.denoiser(PSLD()), grid(PSLD(), 4), n=3).x.shape == (3, 2)
    if sampler.k == 2:
        with pytest.raises(ValueError, match="k = 2"):
            sample(sampler, WIDE.denoiser(VP()), grid(VP(), 4), n=2)


def test_settings_by_name():
    assert zoo.parse_sampler("roba:lam_s=4") == ROBA(4)
    assert zoo.parse_sampler("conjugate:lam=.5,shape=ones") == Conjugate(0.5, "ones")


def draw_on(process, sampler, points):
    return lambda: sample(sampler, Zero(process), grid(process, points))


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: Splitting("BAX", "t--"), "word"),
        (lambda: Splitting("", ""), "word"),
        (lambda: Splitting("ABABA", "t----"), "A and B once"),
        (lambda: Splitting("A", "t"), "A and B once"),
        (lambda: Splitting("OOOBA", "---t-"), "O at most twice"),
        (lambda: Splitting("BA", "t"), "plan"),
        (lambda: Splitting("BA", "-t"), "no score yet"),
        (lambda: Splitting("OBA", "ts-"), "under every O"),
        (lambda: Splitting("BA", "tm"), "plan"),
        (lambda: ROBA(-1.0), "lam_s"),
        (lambda: ROBA(float("nan")), "lam_s"),
        (lambda: RVV(2.0), "lam_s"),
        (lambda: RVV(dial="time"), "dial"),
        (lambda: ROBA(dial="loud"), "dial"),
        (lambda: RVV(lam=0.5), "lam"),
        (lambda: RVV(freeze="v"), "freeze"),
        (lambda: CVV(shape="J"), "shape"),
        (lambda: Conjugate(float("inf")), "lam"),
        (lambda: Conjugate(shape="J"), "shape"),
        (lambda: Conjugate(freeze="x0"), "freeze"),
        (draw_on(PSLD(), Conjugate(25.0), 21), "lambda_max"),
        (draw_on(PSLD(), Conjugate(12.0, "ones"), 21), "lambda_max"),
        (draw_on(PSLD(), CVV(lam=50.0), 21), "lambda_max"),
        (draw_on(VP(), RVV(), 5), "k = 2"),
        (draw_on(VP(), SSCS(), 5), "k = 2"),
        (lambda: RVV().prepare(VP(), f64([1.0, 0.5])), "a PSLD"),
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
    times = grid(PSLD(), 21)
    longest = float((times[:-1] - times[1:]).max())
    Conjugate(0.99 / longest).prepare(PSLD(), times)
    Conjugate(0.49 / longest, "ones").prepare(PSLD(), times)
    Conjugate(-3.0).prepare(PSLD(), times)
    with pytest.raises(ValueError, match="lambda_max"):
        Conjugate(0.51 / longest, "ones").prepare(PSLD(), times)


def test_a_partial_network_cannot_hold_v():
    class Partial(Zero):
        partial = True

    for sampler in (Conjugate(freeze="v"), CVV(freeze="v")):
        with pytest.raises(TypeError, match="freeze"):
            sample(sampler, Partial(CLD()), grid(CLD(), 5), n=2)
    with pytest.raises(TypeError, match="denoiser"):
        sample(GDDIM(), Partial(CLD()), grid(CLD(), 5), n=2)
