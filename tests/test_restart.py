"""Restart: against a plain one written out here, the price, the change of variables, every process
and solver, bad input."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from compsamp.conjugate import Conjugate
from compsamp.core import Noise
from compsamp.forward import EDM, VE, VP, CosineVP, NoisePredictor, SubVP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import CLD, PSLD
from compsamp.restart import RestartInterval, restart, timeline
from compsamp.sampling import (
    DDIM,
    DEIS2,
    DPMpp2M,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    Route,
    grid,
    nfe,
    sample,
    states,
)
from compsamp.splitting import ROBA, RVV

MIX = ring(8, 0.8, 0.3, 0.2)
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), CLD()]


def last(it):
    for z in it:
        pass
    return z


class Toy(NoisePredictor):
    shape = (5,)

    def predict(self, z, t):
        return torch.sin(1.3 * z / (1 + t) + t)


def toy(z, t):
    return np.sin(1.3 * z / (1 + t) + t)


def karras(hi, lo, n):
    i = np.arange(n) / (n - 1)
    return (hi ** (1 / 7) + i * (lo ** (1 / 7) - hi ** (1 / 7))) ** 7


def plain(x, main, intervals, noise, s_noise=1.0):
    """The algorithm as the paper prints it, for EDM: x at sigma, Heun inside and outside, t_min
    snapped to the main grid."""

    def heun(x, t, s):
        d = toy(x, t)
        y = x + (s - t) * d
        return x + (s - t) * (d + toy(y, s)) / 2

    at = {int(np.abs(main - a).argmin()): (b, n, K) for a, b, n, K in intervals}
    for i in range(len(main)):
        if i:
            x = heun(x, main[i - 1], main[i])
        if i in at:
            b, n, K = at[i]
            inner = karras(b, main[i], n)
            for _ in range(K):
                x = x + math.sqrt(b**2 - main[i] ** 2) * s_noise * next(noise)
                for t, s in zip(inner, inner[1:]):
                    x = heun(x, t, s)
    return x - main[-1] * toy(x, main[-1])


@pytest.mark.parametrize("s_noise", [1.0, 1.003])
def test_against_the_plain_algorithm(s_noise):
    p = EDM()
    g = np.random.default_rng(0)
    x = 80 * g.normal(size=(3, 5))
    w = g.normal(size=(20, 3, 5))
    four = [(0.06, 0.3, 3, 4), (1.09, 1.92, 4, 2)]
    route = restart(p, 18, [RestartInterval(a, b, n, K) for a, b, n, K in four], s_noise=s_noise)
    queue, again = iter(w), iter(w)
    for s in (Heun(), EDMHeun()):
        queue = iter(w)
        got = last(
            states(s, Toy(p), route, torch.from_numpy(x), lambda: torch.from_numpy(next(queue)))
        ).numpy()
        want = plain(x, karras(80.0, 0.002, 18), four[::-1], iter(w), s_noise)
        assert np.abs(got - want).max() < 1e-10 and np.abs(want).max() > 0.1
        assert len(list(queue)) == 20 - 6


def test_change_of_variables():
    """VP and EDM are one process in another scale: DDIM with Restart there is Euler with Restart
    here, draw by draw."""
    p, q = VP(), EDM()
    d = MIX.denoiser(p)
    e = MIX.denoiser(q)
    lo = float(p.rho(p.eps))
    hi = float(p.rho(p.T))
    rho = karras(hi * 0.999, lo, 20)
    q = EDM(T=200.0, eps=1e-3)
    e = MIX.denoiser(q)
    z = Noise(0, 30, (2,), dtype=torch.float64)()
    u = torch.from_numpy(rho)

    def make(p):
        return restart(
            p,
            p.time(u) if p.k == 1 else u,
            [
                RestartInterval.from_sigma(p, 0.1, 0.9, 4, 3),
                RestartInterval.from_sigma(p, 1.0, 3.0, 3, 2),
            ],
        )

    psi = float(p.marginal(p.time(u[:1]))[0])
    ends = []
    for proc, den, s, start in ((p, d, DDIM(), z * psi * rho[0]), (q, e, Euler(), z * rho[0])):
        ends.append(
            last(states(s, den, make(proc), start, Noise(1, 30, (2,), dtype=torch.float64)))
        )
    assert (ends[0] - ends[1]).abs().max() < 1e-10 and (
        ends[0] - last(states(DDIM(), d, p.time(u), z * psi * rho[0]))
    ).abs().max() > 0.1


PAPER = {
    203: (
        36,
        [
            (4, 1, 19.35, 40.79),
            (4, 1, 1.09, 1.92),
            (4, 5, 0.59, 1.09),
            (4, 5, 0.30, 0.59),
            (6, 6, 0.06, 0.30),
        ],
    ),
    519: (20, [(9, 30, 0.06, 0.20)]),
    115: (18, [(3, 20, 0.06, 0.30)]),
    43: (18, [(3, 2, 0.06, 0.30)]),
}


@pytest.mark.parametrize("price", PAPER)
def test_published_prices(price):
    N, rows = PAPER[price]
    p = EDM()
    route = restart(p, N, [RestartInterval(a, b, n, K) for n, K, a, b in rows])
    d = Toy(p)
    draw = Noise(0, 2, (5,))
    seen = list(states(Heun(), d, route, p.prior((2, 5), draw()), draw))
    jumps = sum(K for _, K, _, _ in rows)
    assert (
        nfe(Heun(), route) == d.nfe == price
        and draw.count == 1 + jumps
        and len(seen) == route.steps() + 2
    )
    spent, t = timeline(route, Heun())
    assert (
        spent[-1] == price - 1
        and len(t) == route.steps() + 1
        and int((np.diff(t) > 0).sum()) == jumps
        and np.diff(spent).min() == 0
    )
    assert nfe(Heun(), route, evals=2) == 2 * price


SOLVERS = [
    Euler(),
    Heun(),
    Conjugate(),
    Conjugate(0.3),
    Conjugate(0.15, "ones"),
    DDIM(),
    DPMpp2M(),
    DEIS2(),
    EDMHeun(),
    EDMHeun(10.0),
    EulerMaruyama(),
    RVV(),
    ROBA(),
]


@pytest.mark.parametrize(
    "s, p", [(s, p) for s in SOLVERS for p in PROCESSES if s.k in (None, p.k)], ids=str
)
def test_every_process_and_solver(s, p):
    """Gaussian data: a fine run with Restart ends on the data's mean and spread; cost and seeds
    hold."""
    if getattr(s, "lam", 0):
        s = replace(s, lam=s.lam / p.T)
    d = GaussianMixture([[0.4]], [[[0.09]]]).denoiser(p)
    v = [
        RestartInterval.from_sigma(p, 0.05, 0.4, 40, 2),
        RestartInterval.from_sigma(p, 0.8, 2.5, 40, 1),
    ]
    for intervals in ([], v[:1], v):
        r = restart(
            p,
            grid(p, 250, "quadratic" if p.k == 2 else "karras"),
            intervals,
            kind="quadratic" if p.k == 2 else "karras",
        )
        x = sample(s, d, r, n=1500, batch=1500, seed=2)
        assert (
            x.nfe == nfe(s, r)
            and abs(float(x.x.mean()) - 0.4) < 0.06
            and abs(float(x.x.std()) / 0.3 - 1)
            < (0.2 if isinstance(s, Euler) and p.k == 2 else 0.15)
        )
    part = sample(s, d, r, n=5, first=3, batch=2, seed=2).x
    assert (part - x.x[3:8]).abs().max() < 2e-4


def test_the_way_up_is_the_process():
    "From the law at t_min the jump lands on the law at t_max, momentum included."
    for p in PROCESSES:
        a, b = (float(p.time(v)) for v in (0.1, 1.0))
        r = restart(p, [p.T, a], [RestartInterval(a, b, 2, 1)])
        d = MIX.denoiser(p)
        z = p.perturb(
            MIX.sample(40000, seed=3), a, Noise(4, 40000, (2 * p.k,), dtype=torch.float64)()
        )
        it = states(
            Euler(),
            d,
            Route(torch.tensor([b, a]).double(), ((1, torch.tensor([b, a]).double(), 1),)),
            z,
            Noise(5, 40000, (2 * p.k,), dtype=torch.float64),
        )
        # the start, then one step down; what we want is the jump from z itself
        it = iter(it)
        next(it)
        next(it)
        P, S = p.transition(b, a)
        up = torch.einsum("ij,njd->nid", P, z.unflatten(1, (p.k, 2))).flatten(1)
        C = torch.cov(up.T) + torch.kron(S, torch.eye(2, dtype=torch.float64))
        want = p.marginal(b)
        data = torch.cov(MIX.sample(40000, seed=9).T)
        exact = torch.kron(want[1], torch.eye(2, dtype=torch.float64)) + torch.kron(
            want[0][:, None] * want[0], data
        )
        assert (C - exact).abs().max() < 0.03 * exact.abs().max()
        assert len(r.detours) == 1 and float(r.detours[0][1][0]) == pytest.approx(b)


def test_inside_solver_and_churn():
    p = VP()
    d = MIX.denoiser(p)
    v = [RestartInterval.from_sigma(p, 0.06, 0.3, 3, 2)]
    r = restart(p, grid(p, 9, "karras"), v, inside=Heun())
    assert nfe(DPMpp2M(), r) == 9 + 2 * 2 * 2 == sample(DPMpp2M(), d, r, n=3).nfe
    many = restart(p, grid(p, 9, "karras"), v, inside=EulerMaruyama())
    assert sample(DDIM(), d, many, n=3).nfe == 9 + 2 * 2
    with pytest.raises(ValueError, match="k = 2"):
        sample(DDIM(), d, restart(p, 9, v, inside=RVV()), n=2)
    churned = EDMHeun(9.0, 0.01, 1.0)
    assert churned.raised(p, grid(p, 9, "karras")).tolist() == [
        q.u for q in churned.prepare(p, grid(p, 9, "karras"))
    ]


def test_zero_repeats_are_no_restart():
    p = EDM()
    d = MIX.denoiser(p)
    a = sample(EDMHeun(), d, grid(p, 12, "karras"), n=4)
    b = sample(EDMHeun(), d, restart(p, 12, [RestartInterval(0.06, 0.3, 3, 0)]), n=4)
    assert torch.allclose(a.x, b.x, rtol=0, atol=1e-5) and a.nfe == b.nfe


def test_zero_noise_warns_and_draws_nothing():
    p = EDM()
    v = [RestartInterval(0.06, 0.3, 3, 2)]
    with pytest.warns(UserWarning, match="s_noise = 0"):
        r = restart(p, 12, v, s_noise=0)
    draw = Noise(0, 2, (2,), dtype=torch.float64)
    last(states(Heun(), MIX.denoiser(p), r, p.prior((2, 2), draw()), draw))
    assert draw.count == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restart(p, 12, v)


V = RestartInterval


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: V(0.3, 0.06, 3, 1), "t_max"),
        (lambda: V(0.3, 0.3, 3, 1), "t_max"),
        (lambda: V(0.0, 0.3, 3, 1), "t_min"),
        (lambda: V(0.1, float("inf"), 3, 1), "t_max"),
        (lambda: V(0.1, float("nan"), 3, 1), "t_max"),
        (lambda: V(0.1, 0.3, 1, 1), "points"),
        (lambda: V(0.1, 0.3, 2.5, 1), "points"),
        (lambda: V(0.1, 0.3, 3, -1), "repeats"),
        (lambda: V(0.1, 0.3, 3, 0.5), "repeats"),
        (lambda: V.from_sigma(EDM(), 0.3, 0.1, 3, 1), "sigma_min"),
        (lambda: V.from_sigma(VP(), 0.1, 1e6, 3, 1), "rho"),
        (lambda: restart(EDM(), 12, [V(0.06, 81.0, 3, 1)]), "t_max"),
        (lambda: restart(EDM(), 12, [V(0.001, 1.0, 3, 1)]), "inside the main grid"),
        (lambda: restart(EDM(), 12, [V(0.06, 0.3, 3, 1), V(0.061, 0.4, 3, 1)]), "snap"),
        (lambda: restart(EDM(), 12, [V(0.06, 0.3, 3, 1)], s_noise=-1.0), "s_noise"),
        (lambda: restart(EDM(), 4, [V(0.3, 0.31, 3, 1)]), "snaps"),
        (lambda: restart(EDM(), 12, [V(0.06, 0.3, 3, 1)], kind="log"), "kind"),
        (
            lambda: last(
                states(
                    DDIM(),
                    MIX.denoiser(VP()),
                    restart(VP(), 9, [V(0.1, 0.3, 3, 1)]),
                    torch.ones(1, 2),
                )
            ),
            "draw",
        ),
    ],
)
def test_bad_input(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# ---------------------------------------------------------------- the plan


class scaled(NoisePredictor):
    "eps wrong by a factor."

    def __init__(self, denoiser, error):
        super().__init__(denoiser.process)
        self.inner = denoiser
        self.error = error

    def predict(self, z, t):
        return (1 + self.error) * self.inner.predict(z, t)


def test_what_a_detour_adds_by_hand():
    from compsamp.restart import adds

    p = EDM()
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1)).double()
    d = Toy(p)
    noise = Noise(5, 500, (2,), dtype=torch.float64)
    a, mid, b = karras(0.9, 0.2, 3)[::-1]
    z = x.numpy() + 0.2 * noise().numpy()
    y = z + np.sqrt(0.81 - 0.04) * noise().numpy()
    for t, s in ((b, mid), (mid, a)):
        y = y + (s - t) * toy(y, t)

    def spread(v):
        return np.sqrt(np.linalg.eigvalsh(np.cov(v.T, bias=True)))

    def end(v):
        return v - 0.2 * toy(v, 0.2)

    want = np.sqrt(np.mean((spread(end(y)) / spread(end(z)) - 1) ** 2))
    got = adds(Euler(), d, RestartInterval(0.2, 0.9, 3, 7), x, seed=5)
    assert got == pytest.approx(want, rel=1e-9) and want > 0.01
    exact = GaussianMixture(torch.zeros(1, 2), 0.04 * torch.eye(2).double()[None])
    q = VP()

    def up(m):
        return RestartInterval.from_sigma(q, 0.1, 2.0, m, 1)

    fine = adds(Heun(), exact.denoiser(q), up(60), exact.sample(20_000))
    coarse = adds(Euler(), exact.denoiser(q), up(3), exact.sample(20_000))
    assert fine < 0.01 and coarse > 5 * fine, (fine, coarse)


def test_reached_is_what_a_crowd_reaches():
    from compsamp.restart import reached

    v = torch.tensor([1.0, 0.02]).double()
    d = GaussianMixture(torch.zeros(1, 2), torch.diag(v)[None])
    for p, s, e in ((VP(), EDMHeun(), 0.0), (EDM(), EulerMaruyama(), 0.05), (CLD(), RVV(), -0.05)):
        r = restart(
            p,
            grid(p, 15, "quadratic" if p.k == 2 else "karras"),
            [RestartInterval.from_sigma(p, 0.1, 1.0, 4, 2)],
        )
        x = sample(
            s, scaled(d.denoiser(p), e), r, n=8000, batch=8000, shape=(2,), dtype=torch.float64
        ).x
        assert (x.var(0) / reached(s, p, r, v, e) - 1).abs().max() < 0.08
    # a fine grid ends on the data
    fine = reached(EDMHeun(), EDM(), grid(EDM(), 300, "karras"), v)
    assert (fine / v - 1).abs().max() < 2e-3


def test_plan_keeps_its_budget_and_its_word():
    from compsamp.restart import Plan, adds, foresee, plan_restart, spectrum

    data = GaussianMixture(
        torch.zeros(1, 3), torch.diag(torch.tensor([1.0, 0.05, 0.005]).double())[None]
    )
    x = data.sample(400)
    for p in (VP(), PSLD()):
        d = data.denoiser(p)
        plan = plan_restart(d, 41, pictures=x, levels=((0.06, 0.3), (0.4, 3.0)), sizes=(3,))
        assert isinstance(plan, Plan) and plan.nfe <= 41
        s = EDMHeun() if p.k == 1 else Heun()
        assert sample(s, d, plan.route(p), n=2, shape=(3,)).nfe == plan.nfe
        assert plan.error == min(row[0] for row in plan.table)
        assert plan.error == pytest.approx(
            np.hypot(
                foresee(s, p, plan.route(p), spectrum(x), 0.03),
                adds(s, d, plan.intervals[0], x) if plan.intervals else 0.0,
            ),
            rel=1e-12,
        )
        for _, n, up in plan.table:
            assert nfe(s, restart(p, n, [up] if up else [])) <= 41
    assert (
        plan_restart(
            data.denoiser(EDM()),
            35,
            shape=(3,),
            seed=3,
            batch=32,
            levels=((0.06, 0.3),),
            sizes=(3,),
        ).nfe
        <= 35
    )  # draws its own batch
    for bad, word in (((8,), "budget"), ((35,), "error")):
        with pytest.raises(ValueError, match=word):
            plan_restart(d, *bad, shape=(3,), error=0.03 if word == "budget" else 2.0)
