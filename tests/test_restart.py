"Restart: against a plain one written here, its price, every process and solver, bad input."

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from compsamp.conjugate import Conjugate
from compsamp.core import Noise
from compsamp.forward import EDM, VE, VP, CosineVP, NoisePredictor, SubVP
from compsamp.mixtures import GaussianMixture, ring
from compsamp.psld import CLD, PSLD
from compsamp.restart import (
    RestartInterval,
    points_after_restarts,
    restart,
    route_of,
    timeline,
)
from compsamp.sampling import (
    DDIM,
    DEIS2,
    DPMpp2M,
    EDMHeun,
    Euler,
    EulerMaruyama,
    Heun,
    grid,
    nfe,
    sample,
    states,
)
from compsamp.splitting import ROBA, RVV
from compsamp.zoo import SamplingSpec

MIX = ring(8, 0.8, 0.3, 0.2)
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), CLD()]


def last(run):
    "The last of many states."
    for z in run:
        state = z
    return state


class Toy(NoisePredictor):
    shape = (5,)

    def predict(self, z, t):
        return torch.sin(1.3 * z / (1 + t) + t)


def toy(z, t):
    return np.sin(1.3 * z / (1 + t) + t)


def karras(high, low, n):
    share = np.arange(n) / (n - 1)
    return (high ** (1 / 7) + share * (low ** (1 / 7) - high ** (1 / 7))) ** 7


def plain(x, main, intervals, noise, s_noise=1.0):
    "The algorithm as the paper prints it, for EDM: Heun inside and outside, t_min snapped."

    def heun(x, t, s):
        slope = toy(x, t)
        euler = x + (s - t) * slope
        return x + (s - t) * (slope + toy(euler, s)) / 2

    starts = {}
    for low, high, points, repeats in intervals:
        starts[int(np.abs(main - low).argmin())] = (high, points, repeats)
    for i in range(len(main)):
        if i:
            x = heun(x, main[i - 1], main[i])
        if i not in starts:
            continue
        high, points, repeats = starts[i]
        down = karras(high, main[i], points)
        for _ in range(repeats):
            x = x + math.sqrt(high**2 - main[i] ** 2) * s_noise * next(noise)
            for t, s in zip(down, down[1:]):
                x = heun(x, t, s)
    return x - main[-1] * toy(x, main[-1])


@pytest.mark.parametrize("s_noise", [1.0, 1.003])
@pytest.mark.parametrize("solver", [Heun(), EDMHeun()], ids=str)
def test_against_the_plain_algorithm(solver, s_noise):
    process = EDM()
    generator = np.random.default_rng(0)
    x = 80 * generator.normal(size=(3, 5))
    draws = generator.normal(size=(20, 3, 5))
    rows = [(0.06, 0.3, 3, 4), (1.09, 1.92, 4, 2)]
    route = restart(process, 18, [RestartInterval(*row) for row in rows], s_noise=s_noise)
    queue = iter(draws)

    def draw():
        return torch.from_numpy(next(queue))

    ours = last(states(solver, Toy(process), route, torch.from_numpy(x), draw)).numpy()
    theirs = plain(x, karras(80.0, 0.002, 18), rows[::-1], iter(draws), s_noise)
    assert np.abs(ours - theirs).max() < 1e-10 and np.abs(theirs).max() > 0.1
    assert len(list(queue)) == 20 - 6


def test_change_of_variables():
    "VP and EDM are one process in two scales: DDIM with Restart is Euler with Restart."
    vp, edm = VP(), EDM(T=200.0, eps=1e-3)
    rho = torch.from_numpy(karras(float(vp.rho(vp.T)) * 0.999, float(vp.rho(vp.eps)), 20))
    psi = float(vp.marginal(vp.time(rho[:1]))[0])
    start = Noise(0, 30, (2,), dtype=torch.float64)() * rho[0]

    def end(process, sampler, times, z, with_restart=True):
        intervals = [
            RestartInterval.from_sigma(process, 0.1, 0.9, 4, 3),
            RestartInterval.from_sigma(process, 1.0, 3.0, 3, 2),
        ]
        route = restart(process, times, intervals) if with_restart else times
        draw = Noise(1, 30, (2,), dtype=torch.float64)
        return last(states(sampler, MIX.denoiser(process), route, z, draw))

    on_vp = end(vp, DDIM(), vp.time(rho), psi * start)
    on_edm = end(edm, Euler(), rho, start)
    assert (on_vp - on_edm).abs().max() < 1e-12 * on_edm.abs().max()
    assert (on_vp - end(vp, DDIM(), vp.time(rho), psi * start, False)).abs().max() > 0.1


PAPER = {
    623: (
        36,
        [
            (10, 3, 19.35, 40.79),
            (10, 3, 1.09, 1.92),
            (7, 6, 0.59, 1.09),
            (7, 6, 0.30, 0.59),
            (7, 25, 0.06, 0.30),
        ],
    ),
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


def published(price):
    "The route of a published configuration."
    points, rows = PAPER[price]
    intervals = [RestartInterval(low, high, n, K) for n, K, low, high in rows]
    return restart(EDM(), points, intervals)


@pytest.mark.parametrize("price", PAPER)
def test_published_prices(price):
    process = EDM()
    route = published(price)
    denoiser = Toy(process)
    draw = Noise(0, 2, (5,))
    seen = list(states(Heun(), denoiser, route, process.prior((2, 5), draw()), draw))
    jumps = sum(K for _, K, _, _ in PAPER[price][1])
    assert nfe(Heun(), route) == denoiser.nfe == price
    assert draw.count == 1 + jumps and len(seen) == route.steps() + 2
    spent, t = timeline(route, Heun())
    assert spent[-1] == price - 1 and np.diff(spent).min() == 0
    assert len(t) == route.steps() + 1 and int((np.diff(t) > 0).sum()) == jumps
    assert nfe(Heun(), route, evals=2) == 2 * price


def test_published_intervals_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for price in PAPER:
            published(price)


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
    "solver, process",
    [(s, p) for s in SOLVERS for p in PROCESSES if s.k in (None, p.k)],
    ids=str,
)
def test_every_process_and_solver(solver, process):
    "Gaussian data: a fine run with Restart ends on the data; cost and seeds hold."
    if getattr(solver, "lam", 0):
        solver = replace(solver, lam=solver.lam / process.T)
    exact = GaussianMixture([[0.4]], [[[0.09]]]).denoiser(process)
    two = [
        RestartInterval.from_sigma(process, 0.05, 0.4, 40, 2),
        RestartInterval.from_sigma(process, 0.8, 2.5, 40, 1),
    ]
    kind = "quadratic" if process.k == 2 else "karras"
    coarse = isinstance(solver, Euler) and process.k == 2
    for intervals in ([], two[:1], two):
        route = restart(process, grid(process, 250, kind), intervals, kind=kind)
        run = sample(solver, exact, route, n=1500, batch=1500, seed=2)
        assert run.nfe == nfe(solver, route)
        assert abs(float(run.x.mean()) - 0.4) < 0.06
        assert abs(float(run.x.std()) / 0.3 - 1) < (0.2 if coarse else 0.15)
    part = sample(solver, exact, route, n=5, first=3, batch=2, seed=2).x
    assert (part - run.x[3:8]).abs().max() < 2e-4


def euler_kernel(process, low, high, n=2000):
    "Psi and Sigma from low to high, by n forward Euler-Maruyama steps followed exactly."
    Psi = torch.eye(process.k).double()
    Sigma = torch.zeros(process.k, process.k).double()
    h = (high - low) / n
    for t in low + h * (torch.arange(n) + 0.5).double():
        step = torch.eye(process.k) + h * process.F(t)
        Psi = step @ Psi
        Sigma = step @ Sigma @ step.T + h * process.G(t) @ process.G(t).T
    return Psi, Sigma


@pytest.mark.parametrize("p", PROCESSES, ids=str)
def test_the_way_up_is_the_process(p):
    "The jump's kernel: many small forward steps; from the law at t_min to that at t_max."
    low, high = (float(t) for t in p.time([0.1, 1.0]))
    Psi, Sigma = p.transition(high, low)
    (mu, C), (mu_high, C_high) = p.marginal(low), p.marginal(high)
    up = Psi @ (0.3 * torch.outer(mu, mu) + C) @ Psi.T + Sigma
    law = 0.3 * torch.outer(mu_high, mu_high) + C_high
    assert (up - law).abs().max() < 1e-10 * law.abs().max()
    Psi_small, Sigma_small = euler_kernel(p, low, high)
    assert (Psi - Psi_small).abs().max() < 4e-3 * Psi.abs().max()
    assert (Sigma - Sigma_small).abs().max() < 4e-3 * Sigma.abs().max()
    assert float(torch.linalg.eigvalsh(Sigma)[0]) > 0  # CLD too, whose G is singular


@pytest.mark.parametrize("p", PROCESSES, ids=str)
def test_the_driver_jumps_by_the_kernel(p):
    low, high = (float(t) for t in p.time([0.1, 1.0]))
    start = float(p.T)
    route = restart(p, [start, low], [RestartInterval(low, high, 2, 1)])
    z = torch.randn(3, 2 * p.k).double()
    draws = []

    def draw():
        draws.append(torch.randn(3, 2 * p.k).double())
        return draws[-1]

    _, arrived, up, *_ = states(Euler(), MIX.denoiser(p), route, z, draw)
    Psi, Sigma = p.transition(high, low)
    root = torch.linalg.cholesky(Sigma)
    moved = torch.einsum("ij,njd->nid", Psi, arrived.unflatten(1, (p.k, 2)))
    moved = moved + torch.einsum("ij,njd->nid", root, draws[0].unflatten(1, (p.k, 2)))
    assert (up - moved.flatten(1)).abs().max() < 1e-9 * moved.abs().max()


@pytest.mark.filterwarnings("ignore:restart asked for")
def test_inside_solver_and_churn():
    process = VP()
    exact = MIX.denoiser(process)
    main = grid(process, 9, "karras")
    interval = [RestartInterval.from_sigma(process, 0.06, 0.3, 3, 2)]
    route = restart(process, main, interval, inside=Heun())
    assert nfe(DPMpp2M(), route) == 9 + 2 * 2 * 2 == sample(DPMpp2M(), exact, route, n=3).nfe
    route = restart(process, main, interval, inside=EulerMaruyama())
    assert sample(DDIM(), exact, route, n=3).nfe == 9 + 2 * 2
    with pytest.raises(ValueError, match="k = 2"):
        sample(DDIM(), exact, restart(process, 9, interval, inside=RVV()), n=2)
    churned = EDMHeun(9.0, 0.01, 1.0)
    assert churned.raised(process, main).tolist() == [r.u for r in churned.prepare(process, main)]


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


# ---------------------------------------------------------------- the published code's traps


def ring_widths(x):
    "Standard deviations of points about their modes, radial and tangential, over the true ones."
    angle = torch.atan2(x[:, 1], x[:, 0])
    angle = angle - (angle / (math.pi / 4)).round() * math.pi / 4
    along, across = x.norm(dim=1) * angle.cos(), x.norm(dim=1) * angle.sin()
    return float(along.std()) / 0.15, float(across.std()) / 0.03


def test_without_noise_the_cloud_shrinks():
    exact = ring().denoiser(EDM())
    interval = [RestartInterval(0.06, 0.3, 5, 4)]
    right = sample(Heun(), exact, restart(EDM(), 24, interval), n=300, batch=300).x
    assert min(ring_widths(right)) > 0.8
    with pytest.warns(UserWarning, match="s_noise = 0"):
        route = restart(EDM(), 24, interval, s_noise=0.0)
    assert max(ring_widths(sample(Heun(), exact, route, n=300, batch=300).x)) < 0.3


def test_churn_inside_by_a_solver_of_its_own():
    "The published default gamma = 0.05 inside is EDMHeun with churn there: more draws, same price."
    process = EDM()
    interval = [RestartInterval(0.06, 0.3, 3, 2)]
    churned = EDMHeun(s_churn=0.05 * 3, s_min=0.01, s_max=1.0)
    for inside, draws in ((None, 2), (churned, 6)):
        denoiser = ring().denoiser(process)
        draw = Noise(0, 2, (2,), dtype=torch.float64)
        start = process.prior((2, 2), draw())
        last(states(Heun(), denoiser, restart(process, 18, interval, inside), start, draw))
        assert (draw.count - 1, denoiser.nfe) == (draws, 43)


@pytest.mark.parametrize("points", [8, 12])
def test_intervals_that_snap_together_are_an_error(points):
    "The published dictionary keeps the later one and says nothing."
    main = grid(EDM(), points, "karras")
    rows = PAPER[203][1][1:]
    kept = {int((main - low).abs().argmin()) for _, _, low, _ in rows}
    assert len(kept) < len(rows)
    with pytest.raises(ValueError, match="snap"):
        restart(EDM(), points, [RestartInterval(low, high, n, K) for n, K, low, high in rows])


def test_a_top_below_the_snapped_bottom_is_an_error():
    main = grid(EDM(), 4, "karras")
    snapped = main[(main - 0.3).abs().argmin()]
    assert torch.sqrt(0.31**2 - snapped**2).isnan()  # what the published jump would take
    with pytest.raises(ValueError, match="snaps"):
        restart(EDM(), 4, [RestartInterval(0.3, 0.31, 3, 1)])


def test_an_interval_at_the_start_is_an_error():
    with pytest.raises(ValueError, match="t_max"):
        restart(EDM(), 18, [RestartInterval(75.0, 79.0, 3, 1)])


# ---------------------------------------------------------------- budgets and snapping


def test_points_after_restarts():
    interval = RestartInterval(0.06, 0.3, 3, 2)
    assert points_after_restarts(Heun(), 43, [interval]) == 18
    assert points_after_restarts(Heun(), 44, [interval]) == 18
    assert points_after_restarts(DDIM(), 43, [interval]) == 39
    assert points_after_restarts(Heun(), 86, [interval], evals=2) == 18
    assert points_after_restarts(Heun(), 35, []) == 18
    assert points_after_restarts(Heun(), 35, [replace(interval, repeats=0)]) == 18
    assert points_after_restarts(Heun(), 11, [interval]) == 2
    for budget in (1, 10):
        with pytest.raises(ValueError, match=f"nfe = {budget}: at least 11"):
            points_after_restarts(Heun(), budget, [interval])


def test_the_least_budget_works():
    "What the message names runs, for every process of one block."
    for process in (VP(), EDM(), VE()):
        interval = RestartInterval.from_sigma(process, 0.06, 0.3, 3, 2)
        points = points_after_restarts(Heun(), 11, [interval])
        with pytest.warns(UserWarning, match="begins at"):
            route = route_of(process, points, [interval])
        assert sample(Heun(), MIX.denoiser(process), route, n=2).nfe == 11


def test_route_of():
    main = grid(EDM(), 9, "karras")
    assert torch.equal(route_of(EDM(), 9, []), main) and torch.equal(
        route_of(EDM(), main, []), main
    )
    interval = RestartInterval(float(main[6]), 1.0, 3, 2)
    ours = route_of(EDM(), 9, [interval])
    theirs = restart(EDM(), main, [interval])
    assert torch.equal(ours.main, theirs.main) and nfe(Heun(), ours) == nfe(Heun(), theirs)


def test_far_snapping_warns_with_both_numbers():
    interval = RestartInterval(0.06, 0.3, 3, 2)
    with pytest.warns(UserWarning, match=r"ratio of 0.06 begins at 0.0261"):
        restart(EDM(), 9, [interval])
    near = float(grid(EDM(), 9, "karras")[7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        restart(EDM(), 9, [replace(interval, t_min=near)])
        restart(EDM(), 9, [replace(interval, repeats=0)])


V = RestartInterval


@pytest.mark.filterwarnings("ignore:restart asked for")
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
        (lambda: V.from_sigma(VP(), 0.1, 1e6, 3, 1), "sigma_max"),
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


def test_a_warning_names_the_line_that_asked():
    "Not the decorator that looks at the arguments."
    interval = RestartInterval.from_sigma(VP(), 0.2, 1.0, 3, 1)
    with pytest.warns(UserWarning, match="begins at") as caught:
        restart(VP(), 6, [interval], s_noise=0.0)
    assert [Path(warning.filename) for warning in caught] == [Path(__file__)] * 2


def test_the_grid_inside_a_detour_is_of_the_kind_asked():
    interval = RestartInterval.from_sigma(VP(), 0.2, 1.0, 5, 1)
    for kind in ("uniform", "quadratic"):
        main = grid(VP(), 9, kind)
        index, down, _ = restart(VP(), 9, [interval], kind=kind).detours[0]
        ends = {"top": interval.t_max, "bottom": float(main[index])}
        assert torch.equal(down, grid(VP(), 5, kind, **ends))
        assert not torch.allclose(down, grid(VP(), 5, "karras", **ends))


RESTARTS = [
    (0.06, 0.3),
    (0.3, 0.06, 3, 2),
    (0.0, 0.3, 3, 2),
    (0.06, math.inf, 3, 2),
    (0.06, 0.3, 1, 2),
    (0.06, 0.3, 3, 0),
    (0.06, 0.3, 2.5, 2),
    ("a", 0.3, 3, 2),
    3,
]


@pytest.mark.parametrize("up", RESTARTS, ids=str)
def test_a_restart_of_a_row_can_be(up):
    with pytest.raises(ValueError, match="restarts = .*sigma_min < sigma_max"):
        SamplingSpec(DDIM(), restarts=(up,))


@pytest.mark.parametrize("text", ["0.3,0.06,3,2", "0.06,0.3,1,2", "0.06,0.3,3,-2"])
def test_a_restart_that_cannot_be_is_not_parsed(text):
    with pytest.raises(ValueError, match="restarts"):
        SamplingSpec.parse(f"ddim/{text}")
    assert SamplingSpec.parse("ddim/0.06,0.3,3,2").restarts == ((0.06, 0.3, 3, 2),)
