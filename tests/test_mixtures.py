"The oracle: exact eps, score, x0 and log density of mixtures, and its damaged copy."

import math

import pytest
import torch

from compsamp.forward import EDM, VE, VP, CosineVP, LinearSDE, SubVP
from compsamp.mixtures import (
    ExactDenoiser,
    GaussianMixture,
    PerturbedDenoiser,
    block_inverse,
    component_laws,
    remembered,
    ring,
)
from compsamp.networks import Denoiser, UNet
from compsamp.psld import PSLD
from compsamp.sampling import DDIM, sample

F64 = torch.float64
EXACT = ring().denoiser(VP())
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), PSLD(gamma=0.0, nu=4.0)]


def name_of(process):
    return f"{type(process).__name__}{process.k}"


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=F64, generator=generator)


def autograd_score(denoiser, z, t):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(denoiser.log_prob(z, t).sum(), z)[0]


def full_covariance(mu, C, cov):
    "Covariance `(k d, k d)` of one component's state."
    identity = torch.eye(len(cov), dtype=F64)
    return torch.kron(mu[:, None] * mu, cov) + torch.kron(C, identity)


def brute_log_prob(mixture, process, z, t):
    mu, C = process.marginal(t)
    logs = []
    for weight, mean, cov in zip(mixture.weights, mixture.means, mixture.covs):
        V = full_covariance(mu, C, cov)
        component = torch.distributions.MultivariateNormal(torch.kron(mu, mean), V)
        logs.append(weight.log() + component.log_prob(z))
    return torch.logsumexp(torch.stack(logs), 0)


@pytest.mark.parametrize("process", PROCESSES, ids=name_of)
@pytest.mark.parametrize("part_of_T", [1e-3, 0.05, 0.4, 0.95])
def test_density_and_score(process, part_of_T):
    mixture, t = ring(), part_of_T * process.T
    denoiser = mixture.denoiser(process)
    z = process.perturb(mixture.sample(32), t, normal(32, 2 * process.k, seed=1))
    brute = brute_log_prob(mixture, process, z, t)
    assert float((denoiser.log_prob(z, t) - brute).abs().max()) < 1e-8
    gradient = autograd_score(denoiser, z, t)
    error = (denoiser.score(z, t) - gradient).abs().max() / gradient.abs().max()
    assert float(error) < 1e-9
    assert denoiser.nfe == 1


@pytest.mark.parametrize("process", PROCESSES, ids=name_of)
def test_x0_by_conditioning(process):
    "Tweedie's route against Gaussian conditioning, component by component."
    mixture, t = ring(5), 0.3 * process.T
    z = process.perturb(mixture.sample(16), t, normal(16, 2 * process.k, seed=2))
    denoiser = mixture.denoiser(process)
    mu, C = process.marginal(t)
    responsibility = torch.softmax(denoiser.parts(z, t)[0], -1)
    expected = torch.zeros(16, 2, dtype=F64)
    for i, (mean, cov) in enumerate(zip(mixture.means, mixture.covs)):
        with_z = torch.kron(mu[None], cov)  # covariance of x0 and z
        gain = torch.linalg.solve(full_covariance(mu, C, cov), with_z.T)
        given_component = mean + (z - torch.kron(mu, mean)) @ gain
        expected += responsibility[:, i : i + 1] * given_component
    assert float((denoiser.x0(z, t) - expected).abs().max()) < 1e-9


def test_one_dimension_by_quadrature():
    mixture = GaussianMixture([[-1.0], [0.7]], [[[0.04]], [[0.02]]], [0.3, 0.7])
    denoiser = mixture.denoiser(VP())
    x = torch.linspace(-4, 4, 20_001, dtype=F64)
    spacing = float(x[1] - x[0])
    p0 = denoiser.log_prob(x[:, None], 0.0).exp()
    assert abs(float(p0.sum()) * spacing - 1) < 1e-12
    z = torch.linspace(-2, 2, 21, dtype=F64)
    for t in (0.05, 0.5):
        mu, C = (float(v) for v in VP().marginal(t))
        likelihood = torch.exp(-((z[:, None] - mu * x) ** 2) / 2 / C) / math.sqrt(2 * math.pi * C)
        density = (p0 * likelihood).sum(1) * spacing
        x0_mean = (x * p0 * likelihood).sum(1) * spacing / density
        assert torch.allclose(denoiser.log_prob(z[:, None], t).exp(), density, rtol=1e-10)
        ours = denoiser.x0(z[:, None], t)[:, 0]
        assert torch.allclose(ours, x0_mean, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_block_inverse(k):
    root = normal(k, k, 5, 2, seed=6)
    V = torch.einsum("ijnd,ljnd->ilnd", root, root)
    inverse, logdet = block_inverse(V)
    product = torch.einsum("ijnd,jlnd->ndil", inverse, V)
    assert torch.allclose(product, torch.eye(k, dtype=F64).expand_as(product), atol=1e-8)
    assert torch.allclose(logdet, torch.logdet(V.movedim((0, 1), (2, 3))))
    assert not torch.isfinite(block_inverse(-V)[1]).all() or k == 2  # (-1)^2 = 1


@pytest.mark.parametrize("process", [VP(), PSLD()], ids=name_of)
def test_times_batches_dtypes(process):
    denoiser = ring().denoiser(process)
    z = normal(32, 2 * process.k, seed=3)
    times = torch.rand(32, generator=torch.Generator().manual_seed(3), dtype=F64) * 0.9 + 0.01
    one_by_one = torch.cat([denoiser.eps(row[None], float(t)) for row, t in zip(z, times)])
    assert torch.allclose(denoiser.eps(z, times), one_by_one, rtol=1e-10, atol=1e-11)
    whole_batch = denoiser.eps(z, 0.3)
    assert torch.allclose(denoiser.eps(z[:7], 0.3), whole_batch[:7], rtol=1e-12, atol=1e-13)
    single = denoiser.eps(z.float(), 0.3)
    assert single.dtype == torch.float32
    double = denoiser.eps(z.float().double(), 0.3)
    assert float((single.double() - double).abs().max()) < 1e-6
    fresh = ring().denoiser(process)
    assert torch.equal(whole_batch, fresh.eps(z, 0.3))  # remembered or fresh, the same


def test_table_stays_small():
    denoiser = ring().denoiser(VP())
    z = torch.zeros(1, 2)
    for i in range(600):
        denoiser.eps(z, (i + 1) / 600)
    assert len(denoiser._laws) <= 512
    assert len(denoiser._factors) <= 512
    table = {}
    assert remembered(table, 0.5, lambda t: t + 1) == 1.5
    assert remembered(table, 0.5, lambda t: None) == 1.5


def test_samples_and_moments():
    means = [[0.0, 0.0], [2.0, 1.0]]
    covs = [[[1.0, 0.3], [0.3, 0.5]], [[0.1, 0.0], [0.0, 0.2]]]
    mixture = GaussianMixture(means, covs, [3.0, 1.0])
    assert mixture.weights.tolist() == [0.75, 0.25]
    x = mixture.sample(50_000)
    mean, cov = mixture.moments()
    assert float((x.mean(0) - mean).abs().max()) < 0.03
    assert float((x.T.cov() - cov).abs().max()) < 0.05
    assert torch.equal(x, mixture.sample(50_000))
    assert not torch.equal(x, mixture.sample(50_000, seed=1))


ORIGIN, UNIT = [[0.0, 0.0]], torch.eye(2, dtype=F64)


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ((ORIGIN, -UNIT[None]), "covs"),
        ((ORIGIN, [[[1.0, 0.5], [0.0, 1.0]]]), "symmetric"),
        ((ORIGIN, UNIT), "covs"),
        ((ORIGIN, torch.zeros(1, 2, 2)), "positive definite"),
        (([[0.0, math.nan]], UNIT[None]), "means"),
        (([0.0, 0.0], UNIT[None]), "means"),
        ((ORIGIN, UNIT[None], [0.0]), "weights"),
        ((ORIGIN, UNIT[None], [-1.0]), "weights"),
        ((ORIGIN, UNIT[None], [1.0, 1.0]), "weights"),
    ],
)
def test_bad_mixtures(arrays, word):
    with pytest.raises(ValueError, match=word):
        GaussianMixture(*arrays)


def test_bad_counts():
    with pytest.raises(ValueError, match="n = 0"):
        ring(0)
    with pytest.raises(ValueError, match="n = 0"):
        ring().sample(0)


@pytest.mark.parametrize(
    ("z", "t", "word"),
    [
        (torch.zeros(3, 3), 0.5, "z"),
        (torch.zeros(3, 2, 1), 0.5, "z"),
        (torch.full((3, 2), math.nan), 0.5, "z"),
        (torch.full((3, 2), math.inf), 0.5, "z"),
        (torch.zeros(3, 2), 0.0, "t"),
        (torch.zeros(3, 2), 1.1, "t"),
        (torch.zeros(3, 2), math.nan, "t"),
        (torch.zeros(3, 2), torch.full((2,), 0.5), "t"),
    ],
)
def test_bad_calls(z, t, word):
    denoiser = ring().denoiser(VP())
    assert isinstance(denoiser, ExactDenoiser)
    with pytest.raises(ValueError, match=word):
        denoiser.eps(z, t)


def test_a_block_without_noise_has_no_density():
    class Still(LinearSDE):
        k = 2

        def F(self, t):
            return torch.zeros(2, 2, dtype=F64)

        def G(self, t):
            return torch.eye(2, dtype=F64)

    with pytest.raises(ValueError, match="density"):
        ring().denoiser(Still()).log_prob(torch.zeros(1, 4), 0.0)
    assert component_laws(ring(), VP(), 0.5)[2].shape == (8,)


@pytest.mark.parametrize("process", [VP(), EDM(), PSLD()], ids=name_of)
def test_perturbed(process):
    mixture = ring()
    exact = mixture.denoiser(process)
    x, w = mixture.sample(600), normal(600, 2 * process.k, seed=4)
    mean_squares = []
    for seed in range(8):
        damaged = PerturbedDenoiser(exact, 0.1, seed)
        for part_of_T in (0.01, 0.1, 0.5):
            t = part_of_T * process.T
            z = process.perturb(x, t, w)
            error = damaged.eps(z, t) - exact.eps(z, t)
            mean_squares.append(float(error.pow(2).mean()) / 0.01)
        assert damaged.nfe == 3
    assert abs(sum(mean_squares) / len(mean_squares) - 1) < 0.2


@pytest.mark.parametrize("process", [VP(), EDM(), PSLD()], ids=name_of)
def test_the_error_is_fixed_by_its_seed(process):
    mixture, t = ring(), 0.2 * process.T
    exact = mixture.denoiser(process)
    z = process.perturb(mixture.sample(600), t, normal(600, 2 * process.k, seed=4))
    first, second = (PerturbedDenoiser(exact, 0.1, 3).eps(z, t) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, PerturbedDenoiser(exact, 0.1, 4).eps(z, t))
    assert PerturbedDenoiser(exact, 0.1).eps(z.float(), t).dtype == torch.float32
    assert torch.equal(PerturbedDenoiser(exact, 0.0).eps(z, t), exact.eps(z, t))


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("amplitude", -0.1),
        ("amplitude", math.nan),
        ("seed", -1),
        ("length", 0.0),
        ("features", 0),
    ],
)
def test_bad_perturbed(argument, value):
    settings = {"amplitude": 0.1, argument: value}
    with pytest.raises(ValueError, match=argument):
        PerturbedDenoiser(ring().denoiser(VP()), **settings)


def test_a_perturbed_denoiser_costs_what_is_inside():
    inner = Denoiser(UNet(width=8, mults=(1,), attention=()), VP(), (1, 8, 8))
    guided = inner.bind(labels=torch.tensor([1, 2]), guidance=2.0)
    assert PerturbedDenoiser(inner, 0.1).evals == PerturbedDenoiser(EXACT, 0.1).evals == 1
    assert sample(DDIM(), PerturbedDenoiser(guided, 0.1), 4, n=2).nfe == 2 * 4


def test_the_error_varies_over_its_length():
    "The same step of the state leaves a long field alike and a short one not."
    z = normal(400, 2, seed=3)
    step = 0.1 * normal(400, 2, seed=4)

    def alike(length):
        field = PerturbedDenoiser(EXACT, 0.1, length=length).field
        rows = torch.stack([field(x, 0.5, x.shape).flatten() for x in (z, z + step)])
        return float(torch.corrcoef(rows)[0, 1])

    assert alike(2.0) > 0.98 and alike(0.05) < 0.7


def test_only_a_denoiser_is_perturbed():
    with pytest.raises(TypeError, match="denoiser"):
        PerturbedDenoiser(torch.nn.Identity(), 0.1)
