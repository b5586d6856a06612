"Distances on cases whose answer is known, and what comes with the package."
import json
from pathlib import Path
import numpy as np, pytest, torch
from compsamp import data, metrics

def normal(*shape, seed=0): return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

def test_shipped_classifier_card():
    folder = Path(metrics.__file__).parent / 'weights/fashion-classifier'; card = json.loads((folder / 'card.json').read_text())
    assert card['kind'] == 'classifier' and card['test_accuracy'] >= .91 and 'process' not in card
    c = metrics.load_classifier()
    assert not c.training and c.num_features == 64 and sum(p.numel() for p in c.parameters()) == card['parameters']

def test_shipped_moments_belong_to_the_shipped_classifier():
    x, _ = data.embedded(1000); ref = metrics.reference('train'); f = metrics.features(x)
    assert ref['n'] == 60000 and metrics.reference('test')['n'] == 10000
    assert metrics.frechet(f, ref) < .15 and metrics.frechet(f + .5, ref) > 10
    assert (torch.linalg.eigvalsh(ref['cov']) > 0).all()

def test_frechet_known_answers():
    a = normal(4000, 6); m = metrics.feature_moments(a)
    assert abs(metrics.frechet(a, m)) < 1e-8
    assert abs(metrics.frechet(a + 2, m) - 6 * 4) < 1e-8                      # a shift
    assert abs(metrics.frechet(3 * a, metrics.feature_moments(a)) - (4 * m['mean'].square().sum() + 4 * m['cov'].trace())) < 1e-7   # (3 - 1)^2 tr
    far = metrics.frechet(a + 1e4, metrics.feature_moments(a + 1e4)); assert abs(far) < 1e-3   # large means cost digits, no more

def test_frechet_does_not_depend_on_order_or_rotation():
    a, b = normal(300, 5), 1 + 2 * normal(400, 5, seed=1); q = torch.linalg.qr(normal(5, 5, seed=2))[0]
    d = metrics.frechet(a, metrics.feature_moments(b))
    assert abs(metrics.frechet(a.flip(0), metrics.feature_moments(b)) - d) < 1e-9 and abs(metrics.frechet(a @ q, metrics.feature_moments(b @ q)) - d) < 1e-9

@pytest.mark.parametrize('f', [lambda x: metrics.frechet(x, metrics.feature_moments(normal(300, 4))), metrics.feature_moments,
                               lambda x: metrics.precision_recall(x, normal(300, 4)), lambda x: metrics.precision_recall(normal(300, 4), x),
                               lambda x: metrics.wasserstein(x, normal(300, 4)), lambda x: metrics.sliced_wasserstein(normal(300, 4), x)])
@pytest.mark.parametrize('bad', [float('nan'), float('inf')])
def test_nan_is_an_error(f, bad):
    x = normal(300, 4); x[7, 2] = bad
    with pytest.raises(ValueError, match='NaN or infinity'): f(x)

def test_features_of_bad_pictures():
    with pytest.raises(ValueError, match='NaN'): metrics.features(torch.full((2, 1, 28, 28), float('nan')))
    with pytest.raises(ValueError, match='x.shape'): metrics.features(torch.zeros(2, 3, 28, 28))

def test_precision_recall():
    x, y = normal(600, 3), normal(600, 3, seed=1)
    assert metrics.precision_recall(x, x) == (1, 1) and metrics.precision_recall(x, x + 100) == (0, 0)
    p, r = metrics.precision_recall(x, y); assert p > .85 and r > .85
    p, r = metrics.precision_recall(.2 * x, y); assert p > .95 and r < .4     # too little variety
    p, r = metrics.precision_recall(5 * x, y); assert p < .4 and r > .9       # too much
    assert metrics.precision_recall(x.flip(0), y) == metrics.precision_recall(x, y)
    assert torch.equal(metrics.radii(x, 3, block=7), metrics.radii(x, 3)) or torch.allclose(metrics.radii(x, 3, block=7), metrics.radii(x, 3))
    with pytest.raises(ValueError, match='k = 600'): metrics.precision_recall(x, y, 600)

@pytest.mark.parametrize('p', [1, 2, 3])
def test_wasserstein(p):
    x, y, z = normal(60, 2), normal(60, 2, seed=1) + 1, normal(60, 2, seed=2) * 2
    w = lambda a, b: metrics.wasserstein(a, b, p)
    assert w(x, x) == 0 and abs(w(x, y) - w(y, x)) < 1e-12 and w(x, z) <= w(x, y) + w(y, z)
    assert w(x, y.flip(0)) == pytest.approx(w(x, y), abs=1e-12) and w(3 * x, 3 * y) == pytest.approx(3 * w(x, y), rel=1e-9)
    assert 0 < metrics.sliced_wasserstein(x, y, p) <= w(x, y)                  # a projection shortens
    assert metrics.sliced_wasserstein(x, y, p, seed=1) == metrics.sliced_wasserstein(x, y, p, seed=1)

def test_floor_and_limit():
    ref = metrics.reference('test'); a = metrics.floor(500, ref, range(3)); b = metrics.floor(4000, ref, range(3))
    assert a.shape == (3,) and b.max() < a.min() and torch.equal(metrics.floor(500, ref, [1]), a[1:2])
    x = normal(4000, 4); limit, slope = metrics.frechet_limit(x + 1, dict(mean=torch.zeros(4), cov=torch.eye(4), n=10 ** 9))
    assert abs(limit - 4) < .2
    with pytest.raises(ValueError, match='n = 20000'): metrics.floor(20000, ref)

def test_training_is_seeded_and_roundtrips(tmp_path):
    x, y = data.embedded(300); train = lambda s: metrics.train_classifier(x, y, 1, seed=s, progress=False, batch=100)
    a, b, c = train(0), train(0), train(1); w = lambda m: m.head.weight
    assert torch.equal(w(a), w(b)) and not torch.equal(w(a), w(c))
    metrics.save_classifier(a, tmp_path, test_accuracy=.5); assert torch.equal(w(metrics.load_classifier(folder=tmp_path)), w(a))
    card = json.loads((tmp_path / 'card.json').read_text()); assert card['test_accuracy'] == .5 and card['versions']['torch']
