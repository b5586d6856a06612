"The oracle: exact eps, score, x0 and log density of mixtures, and its damaged copy."
import math
import pytest
import torch
from compsamp.forward import EDM, VE, VP, CosineVP, LinearSDE, SubVP
from compsamp.mixtures import ExactDenoiser, GaussianMixture, PerturbedDenoiser, component_laws, remembered, ring
from compsamp.psld import PSLD

F64 = torch.float64
PROCESSES = [VP(), CosineVP(), SubVP(), VE(), EDM(), PSLD(), PSLD(gamma=0., nu=4.)]
ids = lambda p: f'{type(p).__name__}{p.k}'


def autograd_score(d, z, t):
    z = z.clone().requires_grad_()
    return torch.autograd.grad(d.log_prob(z, t).sum(), z)[0]


def brute(mix, p, z, t):
    mu, C = p.marginal(t); out = []
    for w, m, S in zip(mix.weights, mix.means, mix.covs):
        V = torch.kron(mu[:, None] * mu, S) + torch.kron(C, torch.eye(mix.d, dtype=F64))
        out.append(w.log() + torch.distributions.MultivariateNormal(torch.kron(mu, m), V).log_prob(z))
    return torch.logsumexp(torch.stack(out), 0)


@pytest.mark.parametrize('p', PROCESSES, ids=ids)
@pytest.mark.parametrize('u', [1e-3, .05, .4, .95])
def test_density_and_score(p, u):
    mix, t = ring(), u * p.T
    d = mix.denoiser(p)
    z = p.perturb(mix.sample(32), t, torch.randn(32, 2 * p.k, dtype=F64, generator=torch.Generator().manual_seed(1)))
    a, b = d.log_prob(z, t), brute(mix, p, z, t)
    assert float((a - b).abs().max()) < 1e-8
    s = autograd_score(d, z, t)
    assert float((d.score(z, t) - s).abs().max() / s.abs().max()) < 1e-9
    assert d.nfe == 1


@pytest.mark.parametrize('p', PROCESSES, ids=ids)
def test_x0_by_conditioning(p):
    "Tweedie's route against Gaussian conditioning, component by component."
    mix, t = ring(5), .3 * p.T
    z = p.perturb(mix.sample(16), t, torch.randn(16, 2 * p.k, dtype=F64, generator=torch.Generator().manual_seed(2)))
    d = mix.denoiser(p); mu, C = p.marginal(t); I = torch.eye(2, dtype=F64)
    r = torch.softmax(d.parts(z, t)[0], -1); want = 0
    for i, (m, S) in enumerate(zip(mix.means, mix.covs)):
        V = torch.kron(mu[:, None] * mu, S) + torch.kron(C, I); X = torch.kron(mu[None], S)     # Cov(x0, z)
        want = want + r[:, i:i + 1] * (m + (z - torch.kron(mu, m)) @ torch.linalg.solve(V, X.T))
    assert float((d.x0(z, t) - want).abs().max()) < 1e-9


def test_one_dimension_by_quadrature():
    mix = GaussianMixture([[-1.], [.7]], [[[.04]], [[.02]]], [.3, .7])
    x = torch.linspace(-4, 4, 20_001, dtype=F64); dx = float(x[1] - x[0])
    p0 = mix.denoiser(VP()).log_prob(x[:, None], 0.).exp()
    assert abs(float(p0.sum()) * dx - 1) < 1e-12
    z = torch.linspace(-2, 2, 21, dtype=F64)
    for t in (.05, .5):
        mu, C = (float(a) for a in VP().marginal(t))
        like = torch.exp(-(z[:, None] - mu * x) ** 2 / 2 / C) / math.sqrt(2 * math.pi * C)
        p = (p0 * like).sum(1) * dx; d = mix.denoiser(VP())
        assert torch.allclose(d.log_prob(z[:, None], t).exp(), p, rtol=1e-10)
        assert torch.allclose(d.x0(z[:, None], t)[:, 0], (x * p0 * like).sum(1) * dx / p, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize('p', [VP(), PSLD()], ids=ids)
def test_times_batches_dtypes(p):
    d = ring().denoiser(p); g = torch.Generator().manual_seed(3)
    z = torch.randn(32, 2 * p.k, generator=g, dtype=F64); t = torch.rand(32, generator=g, dtype=F64) * .9 + .01
    one = torch.cat([d.eps(v[None], float(u)) for v, u in zip(z, t)])
    assert torch.allclose(d.eps(z, t), one, rtol=1e-10, atol=1e-11)
    assert torch.allclose(d.eps(z[:7], .3), d.eps(z, .3)[:7], rtol=1e-12, atol=1e-13)
    e = d.eps(z.float(), .3)
    assert e.dtype == torch.float32 and float((e.double() - d.eps(z.float().double(), .3)).abs().max()) < 1e-6
    assert torch.equal(d.eps(z, .3), ring().denoiser(p).eps(z, .3))          # remembered or fresh, the same


def test_table_stays_small():
    d = ring().denoiser(VP()); z = torch.zeros(1, 2)
    for i in range(600): d.eps(z, (i + 1) / 600)
    assert len(d._laws) <= 512 and len(d._factors) <= 512
    table = {}
    assert remembered(table, .5, lambda t: t + 1) == 1.5 == remembered(table, .5, lambda t: None)


def test_samples_and_moments():
    mix = GaussianMixture([[0., 0.], [2., 1.]], [[[1., .3], [.3, .5]], [[.1, 0.], [0., .2]]], [3., 1.])
    x = mix.sample(50_000); m, c = mix.moments()
    assert abs(float(mix.weights.sum()) - 1) < 1e-15 and mix.weights.tolist() == [.75, .25]
    assert float((x.mean(0) - m).abs().max()) < .03 and float((x.T.cov() - c).abs().max()) < .05
    assert torch.equal(x, mix.sample(50_000)) and not torch.equal(x, mix.sample(50_000, seed=1))


@pytest.mark.parametrize('args, word', [
    (([[0., 0.]], -torch.eye(2, dtype=F64)[None]), 'covs'), (([[0., 0.]], [[[1., .5], [0., 1.]]]), 'symmetric'),
    (([[0., 0.]], torch.eye(2, dtype=F64)), 'covs'), (([[0., math.nan]], torch.eye(2, dtype=F64)[None]), 'means'),
    (([0., 0.], torch.eye(2, dtype=F64)[None]), 'means'), (([[0., 0.]], torch.eye(2, dtype=F64)[None], [0.]), 'weights'),
    (([[0., 0.]], torch.eye(2, dtype=F64)[None], [1., 1.]), 'weights'), (([[0., 0.]], torch.zeros(1, 2, 2)), 'positive definite')])
def test_bad_mixtures(args, word):
    with pytest.raises(ValueError, match=word): GaussianMixture(*args)


def test_bad_calls():
    d = ring().denoiser(VP())
    for z, t, word in [(torch.zeros(3, 3), .5, 'z'), (torch.zeros(3, 2, 1), .5, 'z'), (torch.full((3, 2), math.nan), .5, 'z'),
                       (torch.full((3, 2), math.inf), .5, 'z'), (torch.zeros(3, 2), 0., 't'), (torch.zeros(3, 2), 1.1, 't'),
                       (torch.zeros(3, 2), math.nan, 't'), (torch.zeros(3, 2), torch.full((2,), .5), 't')]:
        with pytest.raises(ValueError, match=word): d.eps(z, t)

    class Still(LinearSDE):
        k = 2
        def F(self, t): return torch.zeros(2, 2, dtype=F64)
        def G(self, t): return torch.eye(2, dtype=F64)
    with pytest.raises(ValueError, match='density'): ring().denoiser(Still()).log_prob(torch.zeros(1, 4), 0.)
    assert isinstance(d, ExactDenoiser) and component_laws(ring(), VP(), .5)[2].shape == (8,)


@pytest.mark.parametrize('p', [VP(), EDM(), PSLD()], ids=ids)
def test_perturbed(p):
    mix = ring(); d = mix.denoiser(p); x = mix.sample(600)
    w = torch.randn(600, 2 * p.k, dtype=F64, generator=torch.Generator().manual_seed(4)); ms = []
    for seed in range(8):
        q = PerturbedDenoiser(d, .1, seed)
        for u in (.01, .1, .5):
            z = p.perturb(x, u * p.T, w)
            ms.append(float((q.eps(z, u * p.T) - d.eps(z, u * p.T)).pow(2).mean()) / .01)
        assert q.nfe == 3
    assert abs(sum(ms) / len(ms) - 1) < .2
    z = p.perturb(x, .2 * p.T, w)
    assert torch.equal(PerturbedDenoiser(d, .1, 3).eps(z, .2 * p.T), PerturbedDenoiser(d, .1, 3).eps(z, .2 * p.T))
    assert PerturbedDenoiser(d, .1).eps(z.float(), .2 * p.T).dtype == torch.float32
    assert torch.equal(PerturbedDenoiser(d, 0.).eps(z, .2 * p.T), d.eps(z, .2 * p.T))


def test_bad_perturbed():
    d = ring().denoiser(VP())
    for kw in (dict(amplitude=-.1), dict(amplitude=math.nan), dict(amplitude=.1, seed=-1), dict(amplitude=.1, length=0.), dict(amplitude=.1, features=0)):
        with pytest.raises(ValueError, match=list(kw)[-1]): PerturbedDenoiser(d, **kw)
    with pytest.raises(TypeError, match='denoiser'): PerturbedDenoiser(torch.nn.Identity(), .1)
