"The planner: its Gaussian model against runs, its forecast by hand, its budget and its word."

import numpy as np
import pytest
import torch

from compsamp.core import Noise
from compsamp.flow import FlowDenoiser
from compsamp.forward import EDM, VP, Flow, NoisePredictor
from compsamp.mixtures import GaussianMixture
from compsamp.pfgmpp import PFGMpp, PFGMppStudent, PointsDenoiser
from compsamp.planner import (
    RestartPlan,
    detour_error,
    final_variances,
    forecast_error,
    plan_restart,
    spectrum,
)
from compsamp.psld import CLD, PSLD
from compsamp.restart import RestartInterval, restart
from compsamp.sampling import EDMHeun, Euler, EulerMaruyama, Heun, grid, nfe, sample
from compsamp.splitting import RVV


class Toy(NoisePredictor):
    shape = (5,)

    def predict(self, z, t):
        return torch.sin(1.3 * z / (1 + t) + t)


def toy(z, t):
    return np.sin(1.3 * z / (1 + t) + t)


class ScaledDenoiser(NoisePredictor):
    "eps wrong by a factor 1 + error."

    def __init__(self, denoiser, error):
        super().__init__(denoiser.process)
        self.inner = denoiser
        self.error = error

    def predict(self, z, t):
        return (1 + self.error) * self.inner.predict(z, t)


def test_what_a_detour_adds_by_hand():
    process = EDM()
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(1)).double()
    denoiser = Toy(process)
    noise = Noise(5, 500, (2,), dtype=torch.float64)
    times = grid(process, 3, "karras", top=0.9, bottom=0.2).tolist()
    z = x.numpy() + 0.2 * noise().numpy()
    y = z + np.sqrt(0.81 - 0.04) * noise().numpy()
    for t, s in zip(times, times[1:]):
        y = y + (s - t) * toy(y, t)

    def spread(cloud):
        ends = cloud - 0.2 * toy(cloud, 0.2)
        return np.sqrt(np.linalg.eigvalsh(np.cov(ends.T, bias=True)))

    expected = np.sqrt(np.mean((spread(y) / spread(z) - 1) ** 2))
    found = detour_error(Euler(), denoiser, RestartInterval(0.2, 0.9, 3, 7), x, seed=5)
    assert found == pytest.approx(expected, rel=1e-9) and expected > 0.01


def test_a_coarse_detour_adds_more():
    gaussian = GaussianMixture(torch.zeros(1, 2), 0.04 * torch.eye(2).double()[None])
    exact, x = gaussian.denoiser(VP()), gaussian.sample(20_000)
    fine = detour_error(Heun(), exact, RestartInterval.from_sigma(VP(), 0.1, 2.0, 60, 1), x)
    coarse = detour_error(Euler(), exact, RestartInterval.from_sigma(VP(), 0.1, 2.0, 3, 1), x)
    assert fine < 0.01 and coarse > 5 * fine, (fine, coarse)


@pytest.mark.parametrize(
    "process, sampler, error",
    [(VP(), EDMHeun(), 0.0), (EDM(), EulerMaruyama(), 0.05), (CLD(), RVV(), -0.05)],
    ids=str,
)
def test_final_variances_are_what_a_crowd_reaches(process, sampler, error):
    variances = torch.tensor([1.0, 0.02]).double()
    gaussian = GaussianMixture(torch.zeros(1, 2), torch.diag(variances)[None])
    kind = "quadratic" if process.k == 2 else "karras"
    main = grid(process, 15, kind)
    route = restart(process, main, [RestartInterval.from_sigma(process, 0.1, 1.0, 4, 2)])
    denoiser = ScaledDenoiser(gaussian.denoiser(process), error)
    settings = {"n": 8000, "batch": 8000, "shape": (2,), "dtype": torch.float64}
    x = sample(sampler, denoiser, route, **settings).x
    computed = final_variances(sampler, process, route, variances, error)
    assert (x.var(0) / computed - 1).abs().max() < 0.08


def test_a_forecast_by_hand():
    "From the three final variances: eps right, too large and too small by the error."
    variances = torch.tensor([1.0, 0.02]).double()
    settings = (Euler(), VP(), grid(VP(), 12), variances)
    ends = [final_variances(*settings, wrong) for wrong in (0.0, 0.1, -0.1)]
    deviations = np.array([np.sqrt((end / variances).numpy()) - 1 for end in ends])
    expected = np.sqrt((deviations**2).mean())
    assert forecast_error(*settings, 0.1) == pytest.approx(expected, rel=1e-12)
    assert abs(deviations[0]).max() > 1e-3 and abs(deviations[1] - deviations[2]).max() > 1e-2


def test_a_fine_grid_ends_on_the_data():
    variances = torch.tensor([1.0, 0.02]).double()
    fine = final_variances(EDMHeun(), EDM(), grid(EDM(), 300, "karras"), variances)
    assert (fine / variances - 1).abs().max() < 2e-3


DATA = GaussianMixture(
    torch.zeros(1, 3), torch.diag(torch.tensor([1.0, 0.05, 0.005]).double())[None]
)


@pytest.mark.parametrize("process", [VP(), PSLD()], ids=str)
def test_a_plan_keeps_its_budget_and_its_word(process):
    x = DATA.sample(400)
    denoiser = DATA.denoiser(process)
    plan = plan_restart(denoiser, 41, pictures=x, levels=((0.06, 0.3), (0.4, 3.0)), sizes=(3,))
    sampler = EDMHeun() if process.k == 1 else Heun()
    route = plan.route(process)
    assert isinstance(plan, RestartPlan) and plan.nfe <= 41
    assert sample(sampler, denoiser, route, n=2, shape=(3,)).nfe == plan.nfe
    assert plan.error == min(row[0] for row in plan.table)
    added = detour_error(sampler, denoiser, plan.intervals[0], x) if plan.intervals else 0.0
    model = forecast_error(sampler, process, route, spectrum(x), 0.03)
    assert plan.error == pytest.approx(np.hypot(model, added), rel=1e-12)


@pytest.mark.filterwarnings("ignore:restart asked for")
def test_every_candidate_keeps_the_budget():
    levels = {"levels": ((0.06, 0.3), (0.4, 3.0)), "sizes": (3,)}
    plan = plan_restart(DATA.denoiser(VP()), 41, pictures=DATA.sample(400), **levels)
    for _, points, interval in plan.table:
        assert nfe(EDMHeun(), restart(VP(), points, [interval] if interval else [])) <= 41


@pytest.mark.filterwarnings("ignore:restart asked for")
def test_a_plan_under_guidance_pays_twice_a_call():
    levels = {"levels": ((0.06, 0.3), (0.4, 3.0)), "sizes": (3,), "pictures": DATA.sample(400)}
    denoiser = DATA.denoiser(VP())
    plain = plan_restart(denoiser, 41, **levels)
    denoiser.evals = 2  # as a guided one
    guided = plan_restart(denoiser, 82, **levels)
    assert (guided.points, guided.intervals) == (plain.points, plain.intervals)
    assert guided.nfe == 2 * plain.nfe == nfe(EDMHeun(), guided.route(VP()), 2)


def test_a_plan_in_the_words_of_a_row():
    interval = RestartInterval.from_sigma(EDM(), 0.06, 0.3, 3, 2)
    plan = RestartPlan(20, (interval,), 47, 0.1, [], "karras")
    assert plan.texts(EDM()) == ["0.06,0.3,3,2"]
    assert "table" not in repr(plan)


def test_a_plan_draws_its_own_batch_and_says_nothing(recwarn):
    settings = {"shape": (3,), "seed": 3, "batch": 32, "levels": ((0.06, 0.3),), "sizes": (3,)}
    plan = plan_restart(DATA.denoiser(EDM()), 35, **settings)
    plan.route(EDM())
    assert plan.nfe <= 35 and not [w for w in recwarn if "restart" in str(w.message)]


@pytest.mark.parametrize("budget, error, word", [(8, 0.03, "budget"), (35, 2.0, "error")])
def test_bad_input(budget, error, word):
    with pytest.raises(ValueError, match=word):
        plan_restart(DATA.denoiser(PSLD()), budget, shape=(3,), error=error)


@pytest.mark.parametrize("variance", [-0.2, 0.0])
def test_a_variance_is_above_zero(variance):
    settings = (EDMHeun(), VP(), grid(VP(), 5), torch.tensor([0.5, variance]))
    with pytest.raises(ValueError, match="variances"):
        final_variances(*settings)
    with pytest.raises(ValueError, match="variances"):
        forecast_error(*settings, 0.03)


def test_one_picture_has_no_spectrum():
    x = torch.rand(1, 1, 4, 4)
    with pytest.raises(ValueError, match="at least two"):
        spectrum(x)
    with pytest.raises(ValueError, match="at least two"):
        plan_restart(Toy(VP()), 20, pictures=x)
    assert spectrum(torch.rand(2, 1, 4, 4)).max() > 1e-3


@pytest.mark.parametrize("process", [PFGMpp(D=8.0), PFGMppStudent(D=8.0)], ids=str)
def test_the_gaussian_model_wants_gaussian_noise(process):
    data = DATA.sample(20)
    with pytest.raises(ValueError, match="Gaussian noise"):
        final_variances(EDMHeun(), process, grid(process, 5), torch.ones(2))
    with pytest.raises(ValueError, match="Gaussian noise"):
        plan_restart(PointsDenoiser(data, process), 20, pictures=data)


def test_a_flow_from_nothing_is_told_where_to_begin():
    whole, below = (as_flow_denoiser(Flow(T=top)) for top in (1.0, 0.999))
    with pytest.raises(ValueError, match=r"^denoiser.process = Flow\(T=1.0\): .* Flow\(T=0.999\)"):
        plan_restart(whole, 40)
    assert plan_restart(below, 40, batch=8, levels=((0.06, 0.3),), sizes=(3,)).nfe <= 40


def as_flow_denoiser(process):
    return FlowDenoiser(lambda z, t, labels=None: 0.1 * z, process, (1, 4, 4))
