"Core: what does not belong into the chapter."
import json, os, subprocess, sys
import numpy as np, pytest, torch
from compsamp.core import Noise, affine, atomic, f64, mix, per_sample, pick_device, place, records, save_png, tile, write_json

@pytest.mark.skipif(sys.platform == 'win32', reason='file size limits are POSIX')
def test_a_real_partial_write_leaves_the_old_file(tmp_path):
    "The operating system refuses to let the file grow: the block has already written part of it."
    write_json(tmp_path / 'a.json', {'step': 1})
    code = ('import resource, sys; from compsamp.core import atomic\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))\n'
            'with atomic(sys.argv[1]) as p:\n'
            '    with open(p, "wb") as f: f.write(b"x" * 100000)\n')
    r = subprocess.run([sys.executable, '-c', code, str(tmp_path / 'a.json')], capture_output=True, text=True)
    assert r.returncode and 'OSError' in r.stderr and 'too large' in r.stderr
    assert json.loads((tmp_path / 'a.json').read_text()) == {'step': 1} and os.listdir(tmp_path) == ['a.json']

@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full here')
def test_full_device(tmp_path):
    write_json(tmp_path / 'a.json', 1)
    with pytest.raises(OSError, match='No space'):
        with atomic(tmp_path / 'a.json'):
            with open('/dev/full', 'wb') as f: f.write(b'x' * 100000)
    assert json.loads((tmp_path / 'a.json').read_text()) == 1 and os.listdir(tmp_path) == ['a.json']

def test_a_failed_png_leaves_the_old_one(tmp_path):
    p = tmp_path / 'a.png'; save_png(p, torch.zeros(2, 1, 4, 4)); before = p.read_bytes()
    with pytest.raises(ValueError, match='NaN'): save_png(p, torch.full((2, 1, 4, 4), torch.nan))
    assert p.read_bytes() == before and os.listdir(tmp_path) == ['a.png']

def test_streams_are_the_same_in_another_process():
    code = 'from compsamp.core import Noise; print(float(Noise(7, 3, (5,), first=40)().double().sum()))'
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert float(out) == float(Noise(7, 43, (5,))()[40:].double().sum())

@pytest.mark.parametrize('batch', [1, 7, 64])
def test_noise_is_bit_equal_at_any_batch(batch):
    want = Noise(1, 64, (2, 3)); want(); want = want()
    parts = []
    for i in range(0, 64, batch):
        d = Noise(1, min(batch, 64 - i), (2, 3), first=i); d(); parts.append(d())
    assert torch.equal(torch.cat(parts), want)

@pytest.mark.parametrize('bad', [dict(seed=-1), dict(seed=1.5), dict(seed=True), dict(n=0), dict(first=-2)])
def test_noise_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))): Noise(**{**dict(seed=0, n=1, shape=(2,)), **bad})

def test_mixed_blocks_and_dtypes():
    z = torch.randn(3, 4, 2, 2); I = torch.eye(2, dtype=torch.float64)
    assert torch.equal(mix(I, z), z) and mix(I, z.double()).dtype == torch.float64
    assert torch.allclose(affine(I, z, 2 * I, z), 3 * z)
    assert affine(1., z, np.float64(2), z).shape == z.shape
    with pytest.raises(ValueError, match='multiple of k = 3'): mix(torch.eye(3), z)
    assert place(records(a=torch.stack([I, I])), z.half())[1].a.dtype == torch.float16
    assert per_sample(f64([1, 2, 3]), z).shape == (3, 1, 1, 1)

def test_tile_colours_and_odd_counts():
    x = torch.zeros(5, 3, 4, 6); x[:, 0] = 1
    t = tile(x, cols=3, pad=2)
    assert t.shape == (10, 22, 3) and t[0, 0].tolist() == [255, 128, 128] and t[-1, -1].tolist() == [255] * 3

def test_devices():
    assert pick_device(torch.device('cpu')).type == 'cpu'
    for bad in ('tpu0', 'meta', 3.5, 'cuda:512'):
        with pytest.raises(ValueError, match='device'): pick_device(bad)
