"Core: what does not belong into the chapter."

import errno
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from compsamp.core import (
    Noise,
    affine,
    atomic,
    cast_records,
    check_output,
    clear_dead,
    f64,
    is_count,
    mix,
    per_sample,
    pick_device,
    records,
    save_png,
    show,
    tile,
    to_uint8,
    write_json,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals and file locks are POSIX")
LIMITED = """
import resource, sys, torch
from safetensors.torch import save_file
from compsamp.core import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
with atomic(sys.argv[1]) as temporary:
    if sys.argv[2] == "plain":
        with open(temporary, "wb") as file:
            file.write(b"x" * 100000)
    else:
        save_file(dict(a=torch.zeros(100000)), temporary)
"""


def run(code, *args):
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True)


@posix
@pytest.mark.parametrize("library", ["plain", "safetensors"])
def test_a_real_partial_write_leaves_the_old_file(tmp_path, library):
    "The operating system refuses to let the file grow: the block has already written part of it."
    write_json(tmp_path / "a.json", {"step": 1})
    got = run(LIMITED, str(tmp_path / "a.json"), library)
    last = got.stderr.splitlines()[-1]
    assert got.returncode and last.startswith("OSError") and "too large" in last, got.stderr
    assert json.loads((tmp_path / "a.json").read_text()) == {"step": 1}
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_device(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(OSError, match="No space"):
        with atomic(tmp_path / "a.json"):
            with open("/dev/full", "wb") as file:
                file.write(b"x" * 100000)
    assert json.loads((tmp_path / "a.json").read_text()) == 1
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_error_of_another_kind_stays_itself(tmp_path):
    with pytest.raises(RuntimeError, match="shape"):
        with atomic(tmp_path / "a"):
            raise RuntimeError("shape")
    assert os.listdir(tmp_path) == []


KILLED = """
import os, signal, sys, torch
from safetensors.torch import save_file
from compsamp.core import atomic
with atomic(sys.argv[1]) as temporary:
    save_file(dict(a=torch.zeros(10)), temporary)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@posix
def test_what_a_killed_process_left_is_cleared(tmp_path):
    target = tmp_path / "a.safetensors"
    assert run(KILLED, str(target)).returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1 and not target.exists()
    write_json(tmp_path / "b.json", 1)
    assert os.listdir(tmp_path) == ["b.json"]


@posix
def test_what_a_living_process_writes_is_not_cleared(tmp_path):
    code = """
import sys
from compsamp.core import atomic
with atomic(sys.argv[1]) as temporary:
    temporary.write_text("whole")
    print("here", flush=True)
    sys.stdin.readline()
"""
    args = [sys.executable, "-c", code, str(tmp_path / "a")]
    writer = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "here\n"
    clear_dead(tmp_path)
    write_json(tmp_path / "b", 1)
    writer.communicate("\n")
    assert writer.returncode == 0 and (tmp_path / "a").read_text() == "whole"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@posix
def test_two_processes_write_into_one_folder(tmp_path):
    "Each clears the folder at each write, and never what the other is writing."
    code = """
import sys
from compsamp.core import atomic
for i in range(300):
    with atomic(f"{sys.argv[1]}/{i % 7}") as temporary:
        temporary.write_text("x" * 1000)
"""
    args = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen(args, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [writer.communicate()[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], said
    assert sorted(os.listdir(tmp_path)) == list("0123456")


def test_a_failed_png_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.png"
    save_png(path, torch.zeros(2, 1, 4, 4))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="NaN"):
        save_png(path, torch.full((2, 1, 4, 4), torch.nan))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.png"]


@posix
def test_what_a_link_points_to_is_written(tmp_path):
    link, target = tmp_path / "link", tmp_path / "far" / "target"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    check_output(link)
    write_json(link, 1)
    assert link.is_symlink() and target.read_text() == link.read_text() == "1\n"
    assert sorted(os.listdir(tmp_path)) == ["far", "link"]


@posix
@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_as_open_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", 1)
    finally:
        os.umask(before)
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode


def test_an_output_is_tried_before_the_work(tmp_path):
    check_output(tmp_path / "new" / "a.png")
    assert os.listdir(tmp_path) == []  # a check leaves nothing behind
    (tmp_path / "new").mkdir()
    with pytest.raises(IsADirectoryError, match="not the name of a file"):
        check_output(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(OSError) as caught:
        check_output(tmp_path / "file" / "a.png")
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError):
        check_output(tmp_path / "a.png")
    tmp_path.chmod(0o700)


def test_streams_are_the_same_in_another_process():
    code = "from compsamp.core import Noise; "
    code += "print(float(Noise(7, 3, (5,), first=40)().double().sum()))"
    assert float(run(code).stdout) == float(Noise(7, 43, (5,))()[40:].double().sum())


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_noise_is_bit_equal_at_any_batch(batch):
    whole_run = Noise(1, 64, (2, 3))
    whole_run()
    want = whole_run()
    parts = []
    for first in range(0, 64, batch):
        part = Noise(1, min(batch, 64 - first), (2, 3), first=first)
        part()
        parts.append(part())
    assert torch.equal(torch.cat(parts), want)


@pytest.mark.parametrize(
    "bad", [dict(seed=-1), dict(seed=1.5), dict(seed=True), dict(n=0), dict(first=-2)]
)
def test_noise_refuses(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Noise(**{**dict(seed=0, n=1, shape=(2,)), **bad})


NO_FLOATS = [torch.int64, torch.uint8, torch.bool, torch.complex64]


@pytest.mark.parametrize("dtype", [*NO_FLOATS, "float32"])
def test_noise_is_a_float(dtype):
    with pytest.raises(TypeError, match="dtype = "):
        Noise(0, 1, (2,), dtype=dtype)


@pytest.mark.parametrize("dtype", NO_FLOATS)
def test_pictures_are_floats(dtype, tmp_path):
    x = torch.zeros(1, 1, 2, 2, dtype=dtype)
    for call in (to_uint8, tile, lambda x: save_png(tmp_path / "a.png", x)):
        with pytest.raises(TypeError, match="(pictures|x) = '?torch"):
            call(x)
    assert os.listdir(tmp_path) == []


def test_counts():
    assert is_count(0) and is_count(np.int64(3))
    assert not any(is_count(v) for v in (-1, True, 2.0, "2", None, np.int64(-1)))


def test_mixed_blocks_and_dtypes():
    z = torch.randn(3, 4, 2, 2)
    identity = torch.eye(2, dtype=torch.float64)
    assert torch.equal(mix(identity, z), z) and mix(identity, z.double()).dtype == torch.float64
    assert torch.allclose(affine(identity, z, 2 * identity, z), 3 * z)
    assert affine(1.0, z, np.float64(2), z).shape == z.shape
    with pytest.raises(ValueError, match="multiple of k = 3"):
        mix(torch.eye(3), z)
    pair = records(a=torch.stack([identity, identity]))
    assert cast_records(pair, z.half())[1].a.dtype == torch.float16
    assert per_sample(f64([1, 2, 3]), z).shape == (3, 1, 1, 1)


def test_tile_colours_and_odd_counts():
    x = torch.zeros(5, 3, 4, 6)
    x[:, 0] = 1
    canvas = tile(x, cols=3, pad=2)
    assert canvas.shape == (10, 22, 3)
    assert canvas[0, 0].tolist() == [255, 128, 128] and canvas[-1, -1].tolist() == [255] * 3


def test_no_picture_is_no_tile(tmp_path):
    nothing = torch.zeros(0, 1, 8, 8)
    for draw in (tile, show, lambda x: save_png(tmp_path / "a.png", x)):
        with pytest.raises(ValueError, match="pictures = .*at least one"):
            draw(nothing)


def test_devices():
    assert pick_device(torch.device("cpu")).type == "cpu"
    for bad in ("tpu0", "meta", 3.5, "cuda:512"):
        with pytest.raises(ValueError, match="device"):
            pick_device(bad)
