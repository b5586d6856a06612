"""Files as they come: layouts, damage, downloads from a server of our own, and the package's
pictures."""

import gzip
import hashlib
import http.server
import pickle
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from compsamp import data, training

NAN, INF = float("nan"), float("inf")


def idx_bytes(array):
    lengths = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


def write_fashion(folder: Path, n=5, compressed=True):
    "Invented files of both splits, with the published names."
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        arrays = {
            "images-idx3": generator.integers(0, 256, (n, 28, 28), dtype=np.uint8),
            "labels-idx1": (np.arange(n) % 10).astype(np.uint8),
        }
        for kind, array in arrays.items():
            raw = idx_bytes(array)
            name = f"{stem}-{kind}-ubyte"
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(raw))
            else:
                (folder / name).write_bytes(raw)


# ---- Fashion-MNIST


@pytest.mark.parametrize("below", ["", "FashionMNIST/raw"])
@pytest.mark.parametrize("compressed", [True, False])
def test_layouts(tmp_path, below, compressed):
    write_fashion(tmp_path / below, compressed=compressed)
    for split in ("train", "test"):
        x, y = data.fashion(split, tmp_path, verify=False)
        assert x.shape == (5, 1, 28, 28)
        assert x.dtype == torch.uint8
        assert y.tolist() == [0, 1, 2, 3, 4]


def test_foreign_file_of_the_right_size_is_an_error(tmp_path):
    write_fashion(tmp_path, n=60000, compressed=False)
    with pytest.raises(ValueError, match="not the published file"):
        data.fashion("train", tmp_path)
    assert len(data.fashion("train", tmp_path, verify=False)[0]) == 60000


@pytest.mark.parametrize("keep", [0, 3, 7, 15, 100, -1])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_truncated(tmp_path, keep, ending):
    write_fashion(tmp_path, compressed=bool(ending))
    file = tmp_path / f"train-images-idx3-ubyte{ending}"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match="train-images"):
        data.fashion("train", tmp_path, verify=False)


def test_damaged_inside(tmp_path):
    write_fashion(tmp_path)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 255
    file.write_bytes(raw)
    with pytest.raises(ValueError, match="complete gzip"):
        data.fashion("train", tmp_path, verify=False)


def test_other_types_and_splits(tmp_path):
    (tmp_path / "floats").write_bytes(b"\0\0\x0d\x01\0\0\0\1....")  # type 0x0D: float32
    with pytest.raises(ValueError, match="unsigned bytes"):
        data.read_idx(tmp_path / "floats")
    with pytest.raises(FileNotFoundError):
        data.read_idx(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="split"):
        data.fashion("valid")


def test_labels_out_of_range_and_wrong_shape(tmp_path):
    write_fashion(tmp_path, compressed=False)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(np.full(5, 10, np.uint8)))
    with pytest.raises(ValueError, match=r"0\.\.9"):
        data.fashion("train", tmp_path, verify=False)
    pictures = np.zeros((5, 32, 32), np.uint8)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(pictures))
    with pytest.raises(ValueError, match="28 x 28"):
        data.fashion("train", tmp_path, verify=False)


def test_nowhere(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="embedded"):
        data.fashion("train", tmp_path / "no")
    monkeypatch.setattr(data, "FASHION_FOLDERS", [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(FileNotFoundError, match="b"):
        data.fashion("test")


@pytest.fixture
def server(tmp_path):
    "A server of invented files on this machine: its address, and what was asked for."
    write_fashion(tmp_path / "server")
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = partial(Handler, directory=str(tmp_path / "server"))
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/", asked
    running.shutdown()
    running.server_close()


def test_download_when_asked(tmp_path, monkeypatch, server):
    "torchvision's download; without download=True nothing is fetched."
    from torchvision.datasets import FashionMNIST

    address, asked = server
    files = sorted((tmp_path / "server").iterdir())
    sums = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in files]
    monkeypatch.setattr(FashionMNIST, "mirrors", [address])
    monkeypatch.setattr(FashionMNIST, "resources", sums)
    with pytest.raises(FileNotFoundError):
        data.fashion("train", tmp_path / "here", verify=False)
    assert not asked
    x, _ = data.fashion("train", tmp_path / "here", download=True, verify=False)
    assert len(x) == 5
    assert asked
    assert torch.equal(data.fashion("train", tmp_path / "here", verify=False)[0], x)


# ---- the pictures of the package


def test_embedded():
    x, y = data.embedded()
    assert x.shape == (5000, 1, 28, 28)
    assert x.dtype == torch.uint8
    assert y.bincount().tolist() == [500] * 10
    assert torch.equal(y[:10], torch.arange(10))
    licence = Path(data.__file__).parent / "data/LICENSE-fashion-mnist.txt"
    assert "Zalando" in licence.read_text(encoding="utf-8")
    for bad in (0, 5001):
        with pytest.raises(ValueError, match="n = "):
            data.embedded(bad)


def test_make_embedded_is_seeded_and_balanced(tmp_path):
    write_fashion(tmp_path, n=200)
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / f"{name}.npz"
        data.make_embedded(tmp_path, out, seed, per_class=6, verify=False)
        made.append(dict(np.load(out)))
    first, again, other = made
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["index"], other["index"])
    assert first["labels"].tolist() == list(range(10)) * 6
    assert len(set(first["index"].tolist())) == 60
    with pytest.raises(ValueError, match="per_class = 21"):
        data.make_embedded(tmp_path, tmp_path / "d.npz", per_class=21, verify=False)
    assert not (tmp_path / "d.npz").exists()


BAD_PICTURES = [
    (torch.full((2, 1, 4, 4), NAN), ValueError),
    (torch.full((2, 1, 4, 4), INF), ValueError),
    (torch.full((2, 1, 4, 4), 1.1), ValueError),
    (torch.zeros(2, 4, 4), ValueError),
    (torch.zeros(2, 1, 4, 4, dtype=torch.int64), TypeError),
]


@pytest.mark.parametrize(("x", "error"), BAD_PICTURES)
def test_bad_pictures(x, error):
    with pytest.raises(error, match="pictures"):
        data.check_pictures(x)


# ---- CIFAR-10 and CelebA


@pytest.mark.parametrize("name", ["cifar10", "celeba"])
def test_missing_colour_sets(tmp_path, name):
    for folder in (None, tmp_path):
        for verify in (True, False):
            with pytest.raises(FileNotFoundError, match="folder"):
                data.load_dataset(name, folder=folder, verify=verify)
    with pytest.raises(ValueError, match="split"):
        data.load_dataset(name, "all", tmp_path)


class Bomb:
    "Writes a file when it is unpickled."

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def write_cifar(folder, protocol=2, **spoiled):
    "Invented batches of two pictures each; `spoiled` replaces parts of the first."
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    pictures = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for i, name in enumerate(names):
        two = pictures[2 * i : 2 * i + 2].reshape(2, -1)
        batch = {"data": two, "labels": [i, 9]}
        if i == 0:
            batch.update(spoiled)
        (batches / name).write_bytes(pickle.dumps(batch, protocol))
    return torch.from_numpy(pictures)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_unverified_cifar_is_read_without_running_it(tmp_path, protocol):
    pictures = write_cifar(tmp_path, protocol)
    x, y = data.cifar10("train", tmp_path, verify=False)
    assert torch.equal(x, pictures[:10])
    assert y.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert torch.equal(data.cifar10("test", tmp_path, verify=False)[0], pictures[10:])
    with pytest.raises(FileNotFoundError, match="other checksums"):
        data.cifar10("train", tmp_path)


def test_a_training_finds_cifar_by_its_folder(tmp_path, monkeypatch):
    pictures = write_cifar(tmp_path)
    unverified = partial(data.cifar10, verify=False)
    monkeypatch.setattr(data, "cifar10", unverified)
    found, labels = training.training_data(tmp_path)
    assert torch.equal(found, pictures[:10])
    assert labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    inner = tmp_path / "cifar-10-batches-py"
    assert not data.holds_cifar10(inner)
    assert torch.equal(training.training_data(inner)[0], pictures[:10])
    beside = tmp_path / "garments"  # a folder beside it is another data set
    with pytest.raises(FileNotFoundError, match="train-images"):
        training.training_data(beside)


def test_a_dangerous_pickle_is_refused(tmp_path):
    mark = tmp_path / "it ran"
    write_cifar(tmp_path, extra=Bomb(mark))
    with pytest.raises(ValueError, match="data_batch_1"):
        data.cifar10("train", tmp_path, verify=False)
    assert not mark.exists()


SPOILED = [
    {"data": np.zeros((2, 3072))},
    {"data": np.zeros((2, 99), np.uint8)},
    {"labels": [1]},
    {"labels": ["a", "b"]},
]


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_wrong_batch_is_refused(tmp_path, spoiled):
    write_cifar(tmp_path, **spoiled)
    with pytest.raises(ValueError, match="data_batch_1"):
        data.cifar10("train", tmp_path, verify=False)


def test_a_cut_batch_is_refused(tmp_path):
    write_cifar(tmp_path)
    file = tmp_path / "cifar-10-batches-py/data_batch_1"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="data_batch_1"):
        data.cifar10("train", tmp_path, verify=False)


# ---- own pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_axes_of_own_pictures(channels):
    right = np.random.default_rng(0).integers(0, 256, (4, channels, 8, 9), dtype=np.uint8)
    first = data.as_pictures(right)
    last = data.as_pictures(right.transpose(0, 2, 3, 1))
    assert torch.equal(first, torch.from_numpy(right))
    assert torch.equal(last, first)
    assert last.is_contiguous()
    if channels == 1:
        assert torch.equal(data.as_pictures(right[:, 0]), first)


BAD_ARRAYS = [
    (np.zeros((4, 3, 8, 8), np.float32), r"float32 \(4, 3, 8, 8\), values 0 to 0"),
    (np.zeros((4, 5, 8, 8), np.uint8), r"\(4, 5, 8, 8\)"),
    (np.zeros((4, 3, 8, 3), np.uint8), "which axis is C"),
    (np.zeros((4, 8), np.uint8), r"\(4, 8\)"),
    (np.zeros((0, 3, 8, 8), np.int16), "int16"),
]


@pytest.mark.parametrize(("images", "message"), BAD_ARRAYS)
def test_other_arrays_are_refused_with_shape_and_range(images, message):
    with pytest.raises(ValueError, match=message):
        data.as_pictures(images)


def test_npz(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=pictures)
    np.savez(tmp_path / "b.npz", images=pictures, labels=np.arange(4, dtype=np.uint8))
    x, y = data.read_npz(tmp_path / "a.npz")
    assert x.shape == (4, 3, 8, 8)
    assert y is None
    assert data.read_npz(tmp_path / "b.npz")[1].dtype == torch.int64


def test_bad_npz(tmp_path):
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    file = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        data.read_npz(file)
    np.savez(file, images=pictures, labels=np.arange(3))
    with pytest.raises(ValueError, match="labels"):
        data.read_npz(file)
    np.savez(file, images=pictures, labels=np.full(4, 0.5))
    with pytest.raises(ValueError, match="labels"):
        data.read_npz(file)
    np.savez(file, images=np.array([Bomb(tmp_path / "it ran")], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npz"):
        data.read_npz(file)
    np.savez(file, pictures=pictures)
    with pytest.raises(ValueError, match="images"):
        data.read_npz(file)
    file.write_bytes(b"PK not a zip file")
    with pytest.raises(ValueError, match=r"complete \.npz"):
        data.read_npz(file)
    assert not (tmp_path / "it ran").exists()
