"Files as they come: layouts, damage, downloads from a server of our own, and the pictures of the package."
import gzip, http.server, threading
from functools import partial
from pathlib import Path
import numpy as np, pytest, torch
from compsamp import data

STEMS = ('train', 't10k')

def idx(a): return bytes([0, 0, 8, a.ndim]) + b''.join(n.to_bytes(4, 'big') for n in a.shape) + a.tobytes()

def write(folder: Path, n=5, gz=True):
    folder.mkdir(parents=True, exist_ok=True); g = np.random.default_rng(0)
    for stem in STEMS:
        for kind, a in (('images-idx3', g.integers(0, 256, (n, 28, 28), dtype=np.uint8)), ('labels-idx1', (np.arange(n) % 10).astype(np.uint8))):
            raw = idx(a); (folder / f'{stem}-{kind}-ubyte{".gz" * gz}').write_bytes(gzip.compress(raw) if gz else raw)

@pytest.mark.parametrize('sub, gz', [('', True), ('', False), ('FashionMNIST/raw', False), ('FashionMNIST/raw', True)])
def test_layouts(tmp_path, sub, gz):
    write(tmp_path / sub, gz=gz)
    for split in ('train', 'test'):
        x, y = data.fashion(split, tmp_path, verify=False)
        assert x.shape == (5, 1, 28, 28) and x.dtype == torch.uint8 and y.tolist() == [0, 1, 2, 3, 4]

def test_foreign_file_of_the_right_size_is_an_error(tmp_path):
    write(tmp_path, n=60000, gz=False)
    with pytest.raises(ValueError, match='not the published file'): data.fashion('train', tmp_path)
    assert len(data.fashion('train', tmp_path, verify=False)[0]) == 60000

@pytest.mark.parametrize('keep', [0, 3, 7, 15, 100, -1])
@pytest.mark.parametrize('gz', [True, False])
def test_truncated(tmp_path, keep, gz):
    write(tmp_path, gz=gz)
    f = tmp_path / f'train-images-idx3-ubyte{".gz" * gz}'; f.write_bytes(f.read_bytes()[:keep])
    with pytest.raises(ValueError, match='train-images'): data.fashion('train', tmp_path, verify=False)

def test_damaged_inside(tmp_path):
    write(tmp_path); f = tmp_path / 'train-images-idx3-ubyte.gz'; b = bytearray(f.read_bytes()); b[len(b) // 2] ^= 255; f.write_bytes(b)
    with pytest.raises(ValueError, match='complete gzip'): data.fashion('train', tmp_path, verify=False)

def test_labels_out_of_range_and_wrong_shape(tmp_path):
    write(tmp_path, gz=False)
    (tmp_path / 'train-labels-idx1-ubyte').write_bytes(idx(np.full(5, 10, np.uint8)))
    with pytest.raises(ValueError, match='0..9'): data.fashion('train', tmp_path, verify=False)
    (tmp_path / 'train-images-idx3-ubyte').write_bytes(idx(np.zeros((5, 32, 32), np.uint8)))
    with pytest.raises(ValueError, match='28 x 28'): data.fashion('train', tmp_path, verify=False)

def test_nowhere(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match='embedded'): data.fashion('train', tmp_path / 'no')
    monkeypatch.setattr(data, 'FASHION_FOLDERS', [tmp_path / 'a', tmp_path / 'b'])
    with pytest.raises(FileNotFoundError, match='b'): data.fashion('test')

def test_download_when_asked(tmp_path, monkeypatch):
    "torchvision's download, from a server on this machine; without download=True nothing is fetched."
    import hashlib
    from torchvision.datasets import FashionMNIST
    write(tmp_path / 'server'); asked = []
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *a): asked.append(self.path)
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=str(tmp_path / 'server')))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(FashionMNIST, 'mirrors', [f'http://127.0.0.1:{server.server_port}/'])
    monkeypatch.setattr(FashionMNIST, 'resources', [(f.name, hashlib.md5(f.read_bytes()).hexdigest()) for f in sorted((tmp_path / 'server').iterdir())])
    try:
        with pytest.raises(FileNotFoundError): data.fashion('train', tmp_path / 'here', verify=False)
        assert not asked
        x, _ = data.fashion('train', tmp_path / 'here', download=True, verify=False)
        assert len(x) == 5 and asked
        assert torch.equal(data.fashion('train', tmp_path / 'here', verify=False)[0], x)
    finally: server.shutdown(); server.server_close()

def test_embedded():
    x, y = data.embedded()
    assert x.shape == (5000, 1, 28, 28) and x.dtype == torch.uint8 and y.bincount().tolist() == [500] * 10
    assert torch.equal(y[:10], torch.arange(10)) and 'Zalando' in (Path(data.__file__).parent / 'data/LICENSE-fashion-mnist.txt').read_text(encoding='utf-8')
    for bad in (0, 5001):
        with pytest.raises(ValueError, match='n = '): data.embedded(bad)

def test_make_embedded_is_seeded_and_balanced(tmp_path):
    write(tmp_path, n=200)
    for name, seed in (('a', 0), ('b', 0), ('c', 1)): data.make_embedded(tmp_path, tmp_path / f'{name}.npz', seed, per_class=6, verify=False)
    a, b, c = (dict(np.load(tmp_path / f'{n}.npz')) for n in 'abc')
    assert all(np.array_equal(a[k], b[k]) for k in a) and not np.array_equal(a['index'], c['index'])
    assert a['labels'].tolist() == list(range(10)) * 6 and len(set(a['index'].tolist())) == 60
    with pytest.raises(ValueError, match='per_class = 21'): data.make_embedded(tmp_path, tmp_path / 'd.npz', per_class=21, verify=False)
    assert not (tmp_path / 'd.npz').exists()

@pytest.mark.parametrize('x, error', [(torch.full((2, 1, 4, 4), float('nan')), ValueError), (torch.full((2, 1, 4, 4), float('inf')), ValueError),
                                      (torch.full((2, 1, 4, 4), 1.1), ValueError), (torch.zeros(2, 4, 4), ValueError), (torch.zeros(2, 1, 4, 4, dtype=torch.int64), TypeError)])
def test_bad_pictures(x, error):
    with pytest.raises(error, match='pictures'): data.check_pictures(x)

@pytest.mark.parametrize('name', ['cifar10', 'celeba'])
def test_missing_colour_sets(tmp_path, name):
    for folder in (None, tmp_path):
        with pytest.raises(FileNotFoundError, match='folder'): data.load_data(name, folder=folder)
    with pytest.raises(ValueError, match='split'): data.load_data(name, 'all', tmp_path)
