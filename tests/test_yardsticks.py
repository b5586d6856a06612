"Yardsticks: the picture mixture, converged runs, distances without bias, intervals, verdicts."

import json
import math
from functools import lru_cache

import pytest
import torch

from compsamp import metrics
from compsamp.core import f64
from compsamp.forward import EDM, VE, VP, CosineVP, SubVP
from compsamp.lab import yardsticks
from compsamp.lab.yardsticks import (
    Interval,
    PictureMixture,
    SmoothError,
    converged_run,
    coverage,
    frechet_between,
    in_turn,
    judge_ratio,
    load_mixture,
    measure_yardsticks,
    paired_log_ratio,
    save_mixture,
    solver_distance,
    unbiased_frechet,
)
from compsamp.psld import CLD, PSLD
from compsamp.sampling import DDIM, DDPM, DPMpp2M, grid, sample

PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), CLD()]
each_process = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{p}"[:14])
shipped = lru_cache(load_mixture)


def normal(seed, *size):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*size, generator=generator, dtype=torch.float64)


def small():
    "Twelve numbers a picture, four components, two classes."
    basis = torch.linalg.qr(normal(0, 12, 5))[0]
    return PictureMixture(
        normal(1, 12) * 0.3,
        basis,
        normal(2, 4, 5),
        normal(3, 4, 5, 2) * 0.5,
        [0.1, 0.2, 0.05, 0.3],
        0.02,
        [1.0, 2.0, 3.0, 2.0],
        [0, 0, 1, 1],
        (1, 3, 4),
    )


def dense(mixture):
    "Means and covariances written out."
    V = mixture.basis
    outside = mixture.outside * (torch.eye(len(V), dtype=torch.float64) - V @ V.mT)
    means, covs = [], []
    for mean, factor, floor in zip(mixture.means, mixture.factors, mixture.inside):
        means.append(mixture.centre + V @ mean)
        covs.append(V @ (factor @ factor.mT) @ V.mT + floor * V @ V.mT + outside)
    return torch.stack(means), torch.stack(covs)


def dense_log_prob(mixture, process, z, t, label=None):
    mu, C = process.marginal(t)
    eye, found = torch.eye(len(mixture.centre), dtype=torch.float64), []
    chosen = (mixture.labels == label) if label is not None else mixture.labels >= 0
    for i, (mean, cov) in enumerate(zip(*dense(mixture))):
        if chosen[i]:
            big = torch.kron(mu[:, None] * mu, cov) + torch.kron(C, eye)
            law = torch.distributions.MultivariateNormal(torch.kron(mu, mean), big)
            weight = mixture.weights[i] / mixture.weights[chosen].sum()
            found.append(weight.log() + law.log_prob(z.flatten(1)))
    return torch.logsumexp(torch.stack(found), 0)


def perturbed(mixture, process, t, n=8):
    noise = normal(5, n, process.k, 3, 4)
    return process.perturb(mixture.draw(n, seed=1).double(), t, noise)


@each_process
@pytest.mark.parametrize("share", [1e-2, 0.3, 0.95])
@pytest.mark.parametrize("label", [None, 1])
def test_density_and_score(process, share, label):
    mixture, t = small(), share * process.T
    z = perturbed(mixture, process, t).requires_grad_()
    denoiser = mixture.denoiser(process, None if label is None else torch.full((8,), label))
    want = dense_log_prob(mixture, process, z, t, label)
    got = denoiser.log_prob(z, t)
    assert float((got - want).detach().abs().max()) < 1e-8
    slope = torch.autograd.grad(want.sum(), z, retain_graph=True)[0]
    mine = torch.autograd.grad(got.sum(), z)[0]
    score = denoiser.score(z.detach(), t)
    for found in (score, mine):
        assert float((found - slope).abs().max() / slope.abs().max()) < 1e-8
    assert denoiser.nfe == 1


@each_process
def test_a_time_per_sample(process):
    mixture = small()
    times = f64([0.2, 0.5, 0.7, 0.9] * 2) * process.T
    z = perturbed(mixture, process, times)
    for labels in (None, in_turn(8, 2)):
        denoiser = mixture.denoiser(process, labels)
        got = denoiser.eps(z, times)
        for i, t in enumerate(times.tolist()):
            one = mixture.denoiser(process, None if labels is None else labels[i : i + 1])
            assert torch.allclose(got[i : i + 1], one.eps(z[i : i + 1], t), atol=1e-10)


def test_x0_by_conditioning():
    "Tweedie's route against Gaussian conditioning, component by component."
    mixture, process, t = small(), PSLD(), 0.3
    z = perturbed(mixture, process, t)
    mu, C = process.marginal(t)
    eye, want, logs = torch.eye(12, dtype=torch.float64), [], []
    for weight, mean, cov in zip(mixture.weights, *dense(mixture)):
        big = torch.kron(mu[:, None] * mu, cov) + torch.kron(C, eye)
        across = torch.kron(mu[None], cov)
        centre = torch.kron(mu, mean)
        want.append(mean + (z.flatten(1) - centre) @ torch.linalg.solve(big, across.mT))
        law = torch.distributions.MultivariateNormal(centre, big)
        logs.append(weight.log() + law.log_prob(z.flatten(1)))
    share = torch.softmax(torch.stack(logs), 0)[..., None]
    got = mixture.denoiser(process).x0(z, t).flatten(1)
    assert torch.allclose(got, (share * torch.stack(want)).sum(0), atol=1e-9)


def test_draws_have_the_moments():
    mixture = small()
    means, covs = dense(mixture)
    x = mixture.draw(60_000, seed=2).flatten(1).double()
    mean = mixture.weights @ means
    total = torch.einsum("n,nij->ij", mixture.weights, covs)
    total += torch.einsum("n,ni,nj->ij", mixture.weights, means - mean, means - mean)
    assert float((x.mean(0) - mean).abs().max()) < 0.02
    assert float((torch.cov(x.T) - total).abs().max()) < 0.05
    values = torch.linalg.eigvalsh(total)
    assert torch.allclose(mixture.variances().sort().values, values, atol=1e-10)
    ones = mixture.draw(20_000, torch.ones(20_000), seed=3).flatten(1).double()
    weights = mixture.weights * (mixture.labels == 1)
    want = weights / weights.sum() @ means
    assert float((ones.mean(0) - want).abs().max()) < 0.03
    assert torch.equal(mixture.draw(3, seed=4), mixture.draw(3, seed=4))


def test_guidance_and_bind():
    mixture, process, t = small(), VP(), 0.4
    z, labels = perturbed(mixture, process, t), in_turn(8, 2)
    free, bound = mixture.denoiser(process), mixture.denoiser(process, labels)
    guided = free.bind(labels=labels, guidance=3.0)
    want = free.eps(z, t) + 3 * (bound.eps(z, t) - free.eps(z, t))
    assert torch.allclose(guided.eps(z, t), want)
    assert guided.nfe == 2 and guided.evals == 2 and free.evals == bound.evals == 1
    assert torch.allclose(free.bind(labels=labels, guidance=0.0).eps(z, t), free.eps(z, t))
    got = sample(DDIM(), free, 4, n=4, labels=in_turn(4, 2), guidance=2.0)
    assert got.nfe == 8 and got.x.shape == (4, 1, 3, 4)
    heavy = free.bind(guidance=2.0)
    kept = sample(DDIM(), heavy, 4, n=4, labels=in_turn(4, 2))
    assert torch.equal(kept.x, got.x) and kept.nfe == 8
    assert torch.equal(bound.bind(guidance=3.0).eps(z, t), guided.eps(z, t))
    with pytest.raises(ValueError, match="guidance = 2.0: 1 without labels"):
        heavy.eps(z, t)
    with pytest.raises(ValueError, match="changes = .'amp'.: labels and guidance"):
        free.bind(amp=True)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(weights=[1.0, 2.0, -3.0, 2.0]), "weights"),
        (dict(inside=[0.1, 0.2, 0.0, 0.3]), "inside"),
        (dict(outside=0.0), "outside"),
        (dict(means=torch.zeros(3, 5)), "means|factors"),
        (dict(shape=(1, 3, 3)), "shape"),
    ],
)
def test_what_is_no_density(change, says):
    mixture = small()
    names = ("centre", "basis", "means", "factors", "inside", "outside", "weights", "labels")
    parts = {name: getattr(mixture, name) for name in (*names, "shape")}
    with pytest.raises(ValueError, match=says):
        PictureMixture(**(parts | change))


def test_wrong_arguments():
    mixture = small()
    with pytest.raises(ValueError, match="labels"):
        mixture.denoiser(VP(), torch.tensor([7]))
    with pytest.raises(ValueError, match="labels"):
        mixture.draw(2, [7, 7])
    with pytest.raises(ValueError, match="z = "):
        mixture.denoiser(VP()).eps(torch.zeros(2, 1, 4, 4), 0.5)
    with pytest.raises(ValueError, match="z = "):
        mixture.denoiser(VP()).eps(torch.full((2, 1, 3, 4), math.nan), 0.5)
    with pytest.raises(ValueError, match="one per sample"):
        mixture.denoiser(VP(), torch.tensor([0])).eps(torch.zeros(2, 1, 3, 4), 0.5)


def test_files(tmp_path):
    mixture, path = small(), tmp_path / "m.npz"
    save_mixture(mixture, path)
    again = load_mixture(path)
    assert float((again.factors - mixture.factors).abs().max()) < 2e-3
    assert again.shape == mixture.shape
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_mixture(tmp_path / "nowhere.npz")
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="m.npz"):
        load_mixture(path)


def test_shipped_mixture():
    mixture = shipped()
    assert yardsticks.MIXTURE.stat().st_size < 2.2e6
    assert mixture.shape == (1, 28, 28) and set(mixture.labels.tolist()) == set(range(10))
    eye = torch.eye(mixture.basis.shape[1], dtype=torch.float64)
    assert float((mixture.basis.mT @ mixture.basis - eye).abs().max()) < 1e-12
    x = mixture.draw(100, in_turn(100), seed=1)
    classifier = metrics.load_classifier()
    hits = (classifier.logits(x.clamp(-1, 1)).argmax(1) == in_turn(100)).float().mean()
    assert float(hits) > 0.7


def test_smooth_error():
    denoiser = shipped().denoiser(VP())
    wrong = SmoothError(denoiser, 0.1, seed=1)
    z = normal(1, 6, 1, 28, 28)
    field = wrong.field(z, 0.01)
    assert 0.5 < float(field.square().mean()) < 2
    assert torch.equal(field, wrong.field(z, 0.01))
    assert not torch.allclose(field, SmoothError(denoiser, 0.1, seed=2).field(z, 0.01))
    spectrum = torch.fft.fft2(field).abs().square()
    low = spectrum[..., [0, 1, 2, 3, -3, -2, -1], :][..., [0, 1, 2, 3, -3, -2, -1]]
    assert float(low.sum() / spectrum.sum()) > 0.8
    bound = wrong.bind(labels=in_turn(6))
    assert bound.eps(z, 0.5).shape == z.shape and bound.nfe == 1 and wrong.nfe == 0
    phase = SmoothError(shipped().denoiser(PSLD()), 0.1)
    assert phase.eps(normal(1, 2, 2, 28, 28), 0.5).shape == (2, 2, 28, 28)
    with pytest.raises(ValueError, match="amplitude"):
        SmoothError(denoiser, -1.0)


def test_smooth_error_takes_times():
    wrong = SmoothError(shipped().denoiser(VP()), 0.1)
    z, times = normal(1, 3, 1, 28, 28), f64([0.1, 0.5, 0.9])
    got = wrong.eps(z, times)
    for i, t in enumerate(times.tolist()):
        assert torch.allclose(got[i : i + 1], wrong.eps(z[i : i + 1], t), atol=1e-9)


@pytest.mark.parametrize("process", [VP(), PSLD()], ids=["VP", "PSLD"])
def test_converged_run(process):
    denoiser = small().denoiser(process)
    target = converged_run(denoiser, n=6, labels=in_turn(6, 2), tol=5e-3)
    kind = "karras" if process.k == 1 else "quadratic"
    sampler = yardsticks.DPMpp2M() if process.k == 1 else yardsticks.Heun()
    finer = solver_distance(sampler, denoiser, grid(process, 60, kind), target)
    coarse = solver_distance(sampler, denoiser, grid(process, 15, kind), target)
    assert finer["distance"] < coarse["distance"] / 3
    assert coarse["low"] <= coarse["distance"] <= coarse["high"]


def test_converged_run_says_no():
    denoiser = small().denoiser(VP())
    with pytest.raises(ArithmeticError, match="settle"):
        converged_run(denoiser, n=2, tol=1e-12, first=4, most=8)
    target = converged_run(denoiser, n=2)
    with pytest.raises(ValueError, match="draws nothing"):
        solver_distance(DDPM(), denoiser, 10, target)
    own = solver_distance(DPMpp2M(), denoiser, grid(VP(), target.points, "karras"), target)
    assert own["distance"] < 1e-6


def test_frechet_between_is_metrics_frechet():
    reference = metrics.reference("test")
    feats = metrics.reference("train", 800)["some"]
    many = frechet_between(feats.view(2, 400, 64), reference)
    for one, half in zip(many, feats.split(400)):
        assert abs(float(one) - metrics.frechet(half, reference)) < 1e-6


def test_bias_is_gone():
    "Gaussian features at a known distance: the raw mean is off by b/n, the other is not."
    reference = dict(mean=torch.zeros(16, dtype=torch.float64), cov=torch.eye(16).double())
    feats = normal(3, 300, 128, 16) * 1.2
    true = 16 * 0.2**2
    raw, unbiased = (f(feats, reference) for f in (frechet_between, unbiased_frechet))
    error = float(unbiased.std()) / 300**0.5
    assert float(raw.mean()) > true + 10 * error
    assert abs(float(unbiased.mean()) - true) < 4 * error + 0.02
    with pytest.raises(ValueError, match="at least 64 rows"):
        unbiased_frechet(feats[0, :40], reference)


def test_interval_against_scipy():
    from scipy import stats

    a, b = normal(1, 7).exp(), normal(2, 7).exp()
    got = paired_log_ratio(a, b)
    want = stats.ttest_rel(a.log().numpy(), b.log().numpy()).confidence_interval(0.95)
    assert math.isclose(math.log(got.low), want.low, abs_tol=1e-9)
    assert math.isclose(math.log(got.high), want.high, abs_tol=1e-9)
    for bad in ((a, b[:3]), (a[:1], b[:1]), (-a, b)):
        with pytest.raises(ValueError, match="a, b"):
            paired_log_ratio(*bad)


def test_coverage():
    "Ten seeds of 500 pictures: the unbiased interval covers, the raw one does not."
    reference = metrics.reference("test")
    other = dict(mean=reference["mean"] + 0.2, cov=reference["cov"] * 0.7)
    found = coverage(0.51, 1.0, reference, other, sizes=(5, 10), rounds=40)
    assert found["unbiased, 10 seeds"]["covered"] >= 0.85
    assert found["unbiased, 5 seeds"]["covered"] >= 0.85
    assert found["raw, 10 seeds"]["covered"] <= 0.5
    assert abs(found["unbiased, 10 seeds"]["ratio"] - 0.51) < 0.03


@pytest.mark.parametrize(
    "interval, claimed, verdict",
    [
        ((0.5, 0.4, 0.6, 10), 0.5, "reproduced"),
        ((0.8, 0.65, 0.95, 10), 0.5, "partly"),
        ((0.8, 0.75, 0.85, 10), 0.5, "not reproduced"),
        ((1.2, 1.1, 1.3, 10), 1.0, "not reproduced"),
        ((0.9, 0.6, 1.3, 10), 0.5, "open"),
        ((0.5, 0.4, 0.6, 4), 0.5, "open"),
        ((0.98, 0.97, 0.99, 5), 1.0, "reproduced"),
    ],
)
def test_verdicts(interval, claimed, verdict):
    assert judge_ratio(Interval(*interval), claimed) == verdict


def test_no_verdict_on_what_is_not_published():
    assert judge_ratio(Interval(0.5, 0.4, 0.6, 10), 0.5, published=False) == "open"
    with pytest.raises(ValueError, match="claimed"):
        judge_ratio(Interval(0.5, 0.4, 0.6, 10), 1.5)


def test_measure_resumes_and_refuses(tmp_path):
    path = tmp_path / "results.json"
    options = dict(path=path, n=256, seeds=2, rounds=2, budgets=(10,))
    first = measure_yardsticks(only="intervals/0.4/1.0", **options)
    second = measure_yardsticks(only="intervals/0.4/0.78", **options)
    assert len(first) == 1 and len(second) == 4  # with 500, 200 and 400 pictures
    assert json.loads(path.read_text())["cells"] == list(second.values())
    with pytest.raises(ValueError, match="rounds"):
        measure_yardsticks(**(options | dict(rounds=3)))


def test_shipped_results_are_complete():
    saved = json.loads(yardsticks.YARDSTICK_RESULTS.read_text())
    assert saved["setup"]["seeds"] >= 5
    cells = {cell["key"]: cell for cell in saved["cells"]}
    for distance in ("1.7", "0.4"):
        for true in ("1.0", "0.78", "0.51"):
            cell = cells[f"intervals/{distance}/{true}"]
            for seeds in (5, 10):
                assert 0.9 <= cell[f"unbiased, {seeds} seeds"]["covered"] <= 0.98
