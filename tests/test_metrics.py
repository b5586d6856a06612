"Distances on cases whose answer is known, and what comes with the package."

import json
from pathlib import Path

import pytest
import torch

from compsamp import data, metrics
from compsamp.core import write_sealed
from compsamp.networks import file_hash

NAN, INF = float("nan"), float("inf")
UNIT_LAW = dict(mean=torch.zeros(4), cov=torch.eye(4), n=10**9)


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


# ---- what is shipped


def test_shipped_classifier_card():
    folder = Path(metrics.__file__).parent / "weights/fashion-classifier"
    card = json.loads((folder / "card.json").read_text())
    assert card["kind"] == "classifier"
    assert card["test_accuracy"] >= 0.91
    assert "process" not in card
    classifier = metrics.load_classifier()
    assert not classifier.training
    assert classifier.num_features == 64
    assert sum(p.numel() for p in classifier.parameters()) == card["parameters"]


def test_shipped_moments_belong_to_the_shipped_classifier():
    images, _ = data.embedded(1000)
    train = metrics.reference("train")
    feats = metrics.features(images)
    assert train["n"] == 60000
    assert metrics.reference("test")["n"] == 10000
    assert metrics.frechet(feats, train) < 0.15
    assert metrics.frechet(feats + 0.5, train) > 10
    assert (torch.linalg.eigvalsh(train["cov"]) > 0).all()


@pytest.mark.parametrize(("split", "most"), [("train", 10000), ("test", 2000)])
def test_reference_with_labels(split, most):
    plain = metrics.reference(split, most)
    assert plain["some"].shape == (most, 64)
    assert plain["labels"].shape == (most,)
    assert metrics.reference(split)["some"].shape == (2000, 64)
    even = metrics.reference(split, 500, balanced=True)
    assert even["labels"].tolist() == list(range(10)) * 50
    assert torch.equal(even["mean"], plain["mean"])
    with pytest.raises(ValueError, match="some"):
        metrics.reference(split, most + 1)
    with pytest.raises(ValueError, match="some"):
        metrics.reference(split, most, balanced=True)


def test_labels_belong_to_the_features():
    "Features of one class lie nearer to the mean of its embedded pictures than to another's."
    images, labels = data.embedded()
    feats = metrics.features(images)
    centres = torch.stack([feats[labels == c].mean(0) for c in range(10)])
    pool = metrics.reference("train", 10000)
    nearest = torch.cdist(pool["some"], centres).argmin(1)
    assert float((nearest == pool["labels"]).double().mean()) > 0.75


def test_class_in_turn():
    labels = torch.tensor([2, 0, 0, 1, 2, 0, 1])
    assert metrics.class_in_turn(labels).tolist() == [1, 3, 0, 2, 6, 4]


# ---- Fréchet distance


def test_frechet_known_answers():
    points = normal(4000, 6)
    moments = metrics.feature_moments(points)
    assert abs(metrics.frechet(points, moments)) < 1e-8
    assert abs(metrics.frechet(points + 2, moments) - 6 * 4) < 1e-8  # a shift
    tripled = 4 * moments["mean"].square().sum() + 4 * moments["cov"].trace()  # (3 - 1)^2 tr
    assert abs(metrics.frechet(3 * points, moments) - tripled) < 1e-7
    far = points + 1e4  # large means cost digits, no more
    assert abs(metrics.frechet(far, metrics.feature_moments(far))) < 1e-3


def test_frechet_does_not_depend_on_order_or_rotation():
    a, b = normal(300, 5), 1 + 2 * normal(400, 5, seed=1)
    rotation = torch.linalg.qr(normal(5, 5, seed=2))[0]
    moments = metrics.feature_moments(b)
    distance = metrics.frechet(a, moments)
    assert abs(metrics.frechet(a.flip(0), moments) - distance) < 1e-9
    rotated = metrics.frechet(a @ rotation, metrics.feature_moments(b @ rotation))
    assert abs(rotated - distance) < 1e-9


BAD_MOMENTS = [
    (dict(UNIT_LAW, mean=torch.full((4,), NAN)), "mean.*NaN or infinity"),
    (dict(UNIT_LAW, cov=torch.full((4, 4), NAN)), "cov.*NaN or infinity"),
    (dict(UNIT_LAW, cov=torch.full((4, 4), INF)), "cov.*NaN or infinity"),
    (dict(UNIT_LAW, cov=1e200 * torch.eye(4, dtype=torch.float64)), "cov.*1e120"),
    (dict(UNIT_LAW, mean=torch.zeros(3)), "mean.*shape"),
    (dict(UNIT_LAW, cov=torch.ones(4)), "cov.*shape"),
    (dict(UNIT_LAW, cov=torch.ones(4, 4).triu()), "symmetric"),
    (dict(mean=torch.zeros(4)), "lacks.*cov"),
]


@pytest.mark.parametrize(("moments", "message"), BAD_MOMENTS)
def test_a_bad_reference_is_named(moments, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet(normal(300, 4), moments)


def test_huge_features_are_refused():
    for use in (metrics.feature_moments, lambda f: metrics.frechet(f, UNIT_LAW)):
        with pytest.raises(ValueError, match="1e60"):
            use(normal(300, 4) * 1e200)
    assert metrics.frechet(normal(300, 4) * 1e50, UNIT_LAW) > 1e90


@pytest.mark.parametrize(
    "use",
    [
        lambda x: metrics.frechet(x, metrics.feature_moments(normal(300, 4))),
        metrics.feature_moments,
        lambda x: metrics.precision_recall(x, normal(300, 4)),
        lambda x: metrics.precision_recall(normal(300, 4), x),
        lambda x: metrics.feature_scores(x, dict(UNIT_LAW, some=normal(300, 4))),
        lambda x: metrics.wasserstein(x, normal(300, 4)),
        lambda x: metrics.sliced_wasserstein(normal(300, 4), x),
    ],
)
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_is_an_error(use, bad):
    x = normal(300, 4)
    x[7, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinity"):
        use(x)


def test_floor_and_limit():
    test = metrics.reference("test")
    few, many = (
        metrics.frechet_floor(500, test, range(3)),
        metrics.frechet_floor(4000, test, [0, 1]),
    )
    assert few.shape == (3,)
    assert many.max() < few.min()
    assert torch.equal(metrics.frechet_floor(500, test, [1]), few[1:2])
    limit, slope = metrics.frechet_limit(normal(4000, 4) + 1, UNIT_LAW)
    assert abs(limit - 4) < 0.2
    assert slope > -1000
    with pytest.raises(ValueError, match="n = 20000"):
        metrics.frechet_floor(20000, test)


def test_balanced_floor():
    test = metrics.reference("test")
    random = metrics.frechet_floor(500, test, range(4))
    even = metrics.frechet_floor(500, test, range(4), balanced=True)
    assert even.mean() < 0.8 * random.mean()
    pool = metrics.reference("train", 10000)
    own = metrics.frechet_floor(500, test, [2], pool["some"], pool["labels"], balanced=True)
    assert torch.equal(own, even[2:3])
    with pytest.raises(ValueError, match="labels"):
        metrics.frechet_floor(500, test, [2], pool["some"], balanced=True)


# ---- features of pictures


def test_features_of_bad_pictures():
    with pytest.raises(ValueError, match="NaN"):
        metrics.features(torch.full((2, 1, 28, 28), NAN))
    with pytest.raises(ValueError, match="x.shape"):
        metrics.features(torch.zeros(2, 3, 28, 28))


def test_the_range_of_pictures():
    images, _ = data.embedded(20)
    right = metrics.features(images)
    assert torch.equal(metrics.features(data.to_model(images)), right)
    for wrong in (images.float(), images.float() / 255):
        with pytest.raises(ValueError, match=r"shape \(20, 1, 28, 28\), values from 0 to"):
            metrics.features(wrong)
    overshoot = 1.2 * data.to_model(images)  # a sampler's pictures, not clipped
    assert torch.isfinite(metrics.features(overshoot)).all()


# ---- precision, recall, variance


def test_precision_recall():
    x, y = normal(600, 3), normal(600, 3, seed=1)
    assert metrics.precision_recall(x, x) == (1, 1)
    assert metrics.precision_recall(x, x + 100) == (0, 0)
    precision, recall = metrics.precision_recall(x, y)
    assert precision > 0.85
    assert recall > 0.85
    precision, recall = metrics.precision_recall(0.2 * x, y)  # too little variety
    assert precision > 0.95
    assert recall < 0.4
    precision, recall = metrics.precision_recall(5 * x, y)  # too much
    assert precision < 0.4
    assert recall > 0.9
    assert metrics.precision_recall(x.flip(0), y) == metrics.precision_recall(x, y)
    with pytest.raises(ValueError, match="k = 600"):
        metrics.precision_recall(x, y, 600)


def test_neighbour_radii_in_blocks():
    x = normal(600, 3)
    assert torch.allclose(metrics.neighbour_radii(x, 3, block=7), metrics.neighbour_radii(x, 3))
    radius = torch.ones(2, dtype=torch.float64)
    inside = metrics.inside_balls(torch.tensor([[0.5], [3.0]]).double(), x[:2, :1] * 0, radius)
    assert inside.tolist() == [True, False]


def test_balls_of_half_precision():
    x = normal(40, 3).half()
    radius = metrics.neighbour_radii(x)
    assert torch.equal(radius, metrics.neighbour_radii(x.double()))
    assert metrics.inside_balls(x, x, radius.half() + 1).all()


def test_feature_scores():
    law = dict(UNIT_LAW, some=normal(500, 4))
    same = metrics.feature_scores(normal(800, 4, seed=1), law)
    narrow = metrics.feature_scores(0.5 * normal(800, 4, seed=1), law)
    assert set(same) == {"frechet", "precision", "recall", "variance", "n"}
    assert same["n"] == 800
    assert abs(same["variance"] - 1) < 0.1
    assert abs(narrow["variance"] - 0.25) < 0.05
    assert narrow["recall"] < same["recall"]
    assert narrow["frechet"] > same["frechet"]


# ---- point clouds


@pytest.mark.parametrize("p", [1, 2, 3])
def test_wasserstein(p):
    x, y, z = normal(60, 2), normal(60, 2, seed=1) + 1, normal(60, 2, seed=2) * 2

    def distance(a, b):
        return metrics.wasserstein(a, b, p)

    assert distance(x, x) == 0
    assert abs(distance(x, y) - distance(y, x)) < 1e-12
    assert distance(x, z) <= distance(x, y) + distance(y, z)
    assert distance(x, y.flip(0)) == pytest.approx(distance(x, y), abs=1e-12)
    assert distance(3 * x, 3 * y) == pytest.approx(3 * distance(x, y), rel=1e-9)
    sliced = metrics.sliced_wasserstein(x, y, p, seed=1)
    assert 0 < sliced <= distance(x, y)  # a projection shortens
    assert sliced == metrics.sliced_wasserstein(x, y, p, seed=1)


def test_sliced_wasserstein_in_one_dimension_is_sorting():
    x, y = normal(500, 1), normal(500, 1, seed=1) * 0.5 + 1
    for p in (1, 2):
        gaps = (x.sort(0).values - y.sort(0).values).abs()
        by_sorting = float(gaps.pow(p).mean() ** (1 / p))
        assert abs(metrics.wasserstein(x, y, p) - by_sorting) < 1e-10
        assert abs(metrics.sliced_wasserstein(x, y, p, 3) - by_sorting) < 1e-10


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"p": 0.5}, "p"), ({"projections": 0}, "projections")],
)
def test_bad_clouds(settings, word):
    with pytest.raises(ValueError, match=word):
        metrics.sliced_wasserstein(normal(9, 2), normal(9, 2), **settings)
    with pytest.raises(ValueError, match="y.shape"):
        metrics.wasserstein(normal(9, 2), normal(8, 2))


# ---- the classifier


def trained(seed):
    images, labels = data.embedded(300)
    return metrics.train_classifier(images, labels, 1, seed=seed, progress=False, batch=100)


def test_training_is_seeded_and_roundtrips(tmp_path):
    first, again, other = trained(0), trained(0), trained(1)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    metrics.save_classifier(first, tmp_path, test_accuracy=0.5)
    loaded = metrics.load_classifier(folder=tmp_path)
    assert torch.equal(first.head.weight, loaded.head.weight)
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["test_accuracy"] == 0.5
    assert card["versions"]["torch"]


def spoil(folder, what):
    "Damage a saved classifier in one of several ways."
    from safetensors.torch import load_file, save_file

    weights = folder / "weights.safetensors"
    tensors = load_file(weights)
    if what == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
        return
    if what == "kind":
        (folder / "card.json").write_text('{"kind": "network"}')
        return
    if what == "card":
        (folder / "card.json").write_text('{"kind": ')
        return
    if what == "nan":
        tensors["head.bias"][3] = NAN
    elif what == "missing":
        del tensors["head.bias"]
    elif what == "extra":
        tensors["tail.bias"] = torch.zeros(3)
    elif what == "shape":
        tensors["head.bias"] = torch.zeros(3)
    save_file(tensors, weights)
    card = json.loads((folder / "card.json").read_text())
    named = {"sha256": {weights.name: file_hash(weights)}}  # a card that speaks of this file
    write_sealed(folder / "card.json", card | named)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("truncated", "weights.safetensors.*complete safetensors"),
        ("nan", "head.bias"),
        ("missing", "head.bias"),
        ("extra", "tail.bias"),
        ("shape", "head.bias"),
        ("kind", "of kind 'network'"),
        ("card", "card.json.*valid JSON"),
    ],
)
def test_a_damaged_classifier_is_refused(tmp_path, what, message):
    metrics.save_classifier(metrics.load_classifier(), tmp_path)
    spoil(tmp_path, what)
    with pytest.raises(ValueError, match=message):
        metrics.load_classifier(folder=tmp_path)


def test_a_missing_classifier(tmp_path):
    with pytest.raises(FileNotFoundError, match="card.json"):
        metrics.load_classifier(folder=tmp_path / "nowhere")
