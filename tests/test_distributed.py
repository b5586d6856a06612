"Two processes against one: the same pictures, the same losses; a lost one spoils nothing."

import importlib.util
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import ROOT, missing

from compsamp import (
    commands,
    compensation,
    data,
    distributed as D,
    flow,
    forward,
    inpainting,
    interop,
    networks,
    sampling,
    skipstep,
    training,
    zoo,
)
from compsamp.mixtures import ring

SAMPLE = "import sys; from compsamp.commands import run_sample; sys.exit(run_sample())"
TRAIN = "import sys; from compsamp.commands import run_train; sys.exit(run_train())"
SMALL = "--width 8 --mults 1,1 --batch 16 --steps 24 --warmup 5 --save-every 8".split()
SMALL += ["--device", "cpu", "--no-amp"]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "One thread here as there, and none of torchrun's variables."
    for name in (*D.LAUNCHER_VARIABLES, "LOCAL_RANK", "COMPSAMP_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def gloo():
    if not (dist.is_available() and dist.is_gloo_available()):
        missing("this torch has no gloo")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def environment(**more):
    return dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", **more)


def start(code, *args, world_size=2):
    "What torchrun does, without torchrun: one process per rank, told by its environment."
    shared = environment(
        COMPSAMP_TIMEOUT="100",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=free_port(),
        WORLD_SIZE=str(world_size),
    )
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started = []
    for rank in range(world_size):
        own = dict(shared, RANK=str(rank), LOCAL_RANK=str(rank))
        started.append(subprocess.Popen(command, env=own, **pipes))
    return started


def end(processes, seconds=150):
    "Exit codes and what was said; nobody is left behind."
    try:
        said = ["".join(process.communicate(timeout=seconds)) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def wait_for(process, word):
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(process.stderr.read())


def card(folder):
    return json.loads((folder / "card.json").read_text())


def losses(folder):
    return np.array(card(folder)["losses"])


# ---- the group


def test_a_group_of_one_without_torchrun():
    with D.process_group() as group:
        assert (group.rank, group.world_size, group.handle) == (0, 1, None)
        assert not dist.is_initialized()
        x = torch.arange(6.0)
        group.average([x])
        group.check_equal("all", dict(a=1))
        assert x.tolist() == [0, 1, 2, 3, 4, 5] and torch.equal(group.shard(x), x)
        assert group.any(1) and not group.any([])


def test_parts_make_the_whole():
    x = torch.arange(12)
    shards = [D.ProcessGroup(rank, 3).shard(x) for rank in range(3)]
    assert torch.equal(torch.cat(shards), x)
    requests = [
        lambda dice, n: dice.uniform(n),
        lambda dice, n: dice.normal((n, 2, 3)),
        lambda dice, n: dice.chance(n, 0.5),
    ]
    for world_size in (2, 4):
        for request in requests:
            want = request(training.StepRandom(3, 7, "cpu"), 8)
            got = []
            for rank in range(world_size):
                dice = D.ShardedRandom(3, 7, "cpu", D.ProcessGroup(rank, world_size))
                got.append(request(dice, 8 // world_size))
            assert torch.equal(torch.cat(got), want) and not torch.equal(got[0], got[1])


MEETING = dict(MASTER_ADDR="x", MASTER_PORT="1")


@pytest.mark.parametrize(
    "env, words",
    [
        (dict(WORLD_SIZE="2"), ["RANK", "torchrun"]),
        (dict(WORLD_SIZE="two", RANK="0", **MEETING), ["WORLD_SIZE = 'two'", "whole"]),
        (dict(WORLD_SIZE="2", RANK="2", **MEETING), ["rank = 2", "0 to 1"]),
        (dict(WORLD_SIZE="0", RANK="0", **MEETING), ["world_size = 0"]),
        (dict(COMPSAMP_TIMEOUT="soon"), ["timeout = 'soon'", "seconds"]),
        (dict(COMPSAMP_TIMEOUT="0"), ["timeout"]),
        (dict(COMPSAMP_TIMEOUT="inf"), ["finite"]),
    ],
)
def test_wrong_environment(env, words, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as caught, D.process_group("cpu"):
        pass
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_wrong_device(monkeypatch):
    with pytest.raises(ValueError, match="abacus"):
        D.process_device("abacus", 0)
    monkeypatch.setattr(D, "pick_device", torch.device)
    with pytest.raises(ValueError, match="cpu or cuda"):
        D.process_device("mps", 0)
    assert D.process_device("cuda", 3) == torch.device("cuda:3")
    assert D.process_device("cuda:1", 3) == torch.device("cuda:1")


def test_a_group_nobody_joins(gloo, monkeypatch):
    env = dict(WORLD_SIZE="2", RANK="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=free_port())
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ConnectionError, match="process 1 of 2"),
        D.process_group("cpu", timeout=1),
    ):
        pass


# ---- sampling


class Exact(forward.NoisePredictor):
    "The exact noise of a mixture, with the shape a sampler asks for."

    def __init__(self):
        super().__init__(forward.VP())
        self.inner, self.shape = ring().denoiser(self.process), (2,)

    def predict(self, z, t):
        return self.inner.predict(z.double(), t).to(z)

    def mark(self):
        return "ring"


def draw_exact(folder, **changes):
    settings = {**dict(n=20, seed=3, batch=8, folder=folder), **changes}
    return D.sample_distributed(sampling.DPMpp2M(True), Exact(), 6, **settings)


def test_chunks_are_the_samples(tmp_path):
    got = draw_exact(tmp_path)
    want = sampling.sample(sampling.DPMpp2M(True), Exact(), 6, n=20, seed=3, batch=8)
    assert torch.equal(got.x, want.x) and got.nfe == want.nfe == 6
    assert len(list(tmp_path.iterdir())) == 4


def test_finished_chunks_are_kept_and_only_those(tmp_path):
    want = draw_exact(tmp_path).x
    paths = sorted(tmp_path.glob("chunk-*"))
    written = paths[0].stat().st_mtime_ns
    paths[1].unlink()
    assert torch.equal(draw_exact(tmp_path).x, want)
    assert paths[0].stat().st_mtime_ns == written and paths[1].exists()


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(seed=4), "seed: 3 there, 4 asked"),
        (dict(n=21), "n: 20 there, 21 asked"),
        (dict(batch=4), "batch: "),
        (dict(guidance=2.0), "guidance = 2.0: 1 without labels"),
        (dict(shape=(4,)), "shape = (4,): (2,)"),
    ],
)
def test_chunks_of_another_card_are_refused(tmp_path, change, word):
    draw_exact(tmp_path)
    with pytest.raises(ValueError) as caught:
        draw_exact(tmp_path, **change)
    assert word in str(caught.value)


def drawn(denoiser, folder, **options):
    settings = dict(folder=folder, batch=4, shape=(2,), **options)
    return D.sample_distributed(sampling.DDIM(), denoiser, 4, 6, 1, **settings).x


def keep(z, t):
    return z


def negate(z, t):
    return -z


def test_a_function_is_known_by_its_name(tmp_path):
    "Without a name functions are refused; with two names their chunks are not mixed."
    vp = forward.VP()
    with pytest.raises(ValueError, match=r"name = None: .*wrap\(f, .*name="):
        drawn(interop.wrap(keep, vp), tmp_path / "x")
    first = drawn(interop.wrap(keep, vp, name="f"), tmp_path)
    assert torch.equal(drawn(interop.wrap(keep, vp, name="f"), tmp_path), first)
    others = [
        interop.wrap(negate, vp, name="g"),
        interop.wrap(keep, vp, "x0", name="f"),
        interop.wrap(keep, vp, name="f", time=lambda t: 2 * t),
    ]
    for other in others:
        with pytest.raises(ValueError, match="network: "):
            drawn(other, tmp_path)

    class Anonymous(forward.NoisePredictor):
        def predict(self, z, t):
            return z

    with pytest.raises(ValueError, match=r"Anonymous.*mark\(\)"):
        drawn(Anonymous(vp), tmp_path / "y")


class Prompted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self, z, t, a):
        return self.w * z + a


def prompted(process, a, none):
    empty, conditions = dict(a=torch.as_tensor(none)), dict(a=torch.as_tensor(a))
    return interop.wrap(Prompted(), process, conditions=conditions, empty=empty)


def test_other_conditions_are_another_sampling(tmp_path):
    def make(a, none=0.0):
        return prompted(forward.VP(), a, torch.full((2,), none))

    first = drawn(make([[1.0, 2.0]]), tmp_path, labels=0)
    assert torch.equal(drawn(make([[1.0, 2.0]]), tmp_path, labels=0), first)
    for other in (make([[3.0, 4.0]]), make([[1.0, 2.0]], 5.0)):
        with pytest.raises(ValueError, match="network: "):
            drawn(other, tmp_path, labels=0)


def test_a_table_takes_up_its_own_chunks(tmp_path):
    def make():
        return prompted(interop.Table((0.99, 0.6, 0.1)), torch.ones(1, 2), torch.zeros(2))

    assert torch.equal(drawn(make(), tmp_path), drawn(make(), tmp_path))


def test_what_is_bound_belongs_to_the_card(tmp_path):
    def draw(guidance, label=0):
        denoiser = prompted(forward.VP(), torch.ones(2, 2), torch.zeros(2))
        denoiser = denoiser.bind(labels=[label] * 2, guidance=guidance)
        settings = dict(folder=tmp_path, batch=2, shape=(2,))
        return D.sample_distributed(sampling.DDIM(), denoiser, 4, 4, 1, **settings)

    draw(2.0)
    draw(2.0)
    for bound in ((3.0,), (2.0, 1)):
        with pytest.raises(ValueError, match="options: "):
            draw(*bound)


def test_a_bound_guidance_is_kept_and_belongs_to_the_card(tmp_path):
    denoiser = prompted(forward.VP(), torch.ones(2, 2), torch.zeros(2))

    def draw(folder, one=denoiser, **settings):
        settings |= dict(folder=tmp_path / folder, batch=2, shape=(2,), labels=[0, 1, 1, 0])
        return D.sample_distributed(sampling.DDIM(), one, 4, 4, 1, **settings)

    said = draw("a", guidance=2.0)
    bound = denoiser.bind(guidance=2.0)
    assert torch.equal(draw("b", bound).x, said.x) and draw("b", bound).nfe == said.nfe == 8
    assert torch.equal(draw("a", bound).x, said.x)  # its chunks are the same
    with pytest.raises(ValueError, match="guidance: "):
        draw("a")


class Small(torch.nn.Module):
    "Of a denoiser, or of a compensation module."

    def __init__(self, w):
        super().__init__()
        self.w = torch.nn.Parameter(torch.full((1,), w), requires_grad=False)

    def forward(self, z, t, labels=None):
        return self.w * z


DENOISER = networks.Denoiser(Small(1.0), forward.VP(), (2,))


def facts(sampler=None, denoiser=DENOISER, times=4):
    sampler = sampler or sampling.DDIM()
    return D.sampling_card(sampler, denoiser, times, 4, 0, 2, None, 1.0, None)


def hidden_in_a_sampler():
    "Known pictures and masks, and the module of a sampler."
    known, mask = torch.zeros(4, 1, 20, 20), torch.zeros(4, 1, 20, 20, dtype=torch.bool)
    mask[..., :10] = True
    other_known, other_mask = known.clone(), mask.clone()
    other_known[2, 0, 9, 9] = 1
    other_mask[2, 0, 9, 12] = True

    def replaced(known, mask):
        return facts(inpainting.Replaced(sampling.DDIM(), known, mask))

    def compensated(w):
        return facts(compensation.CompensatedDDIM(Small(w)))

    return [
        (
            replaced(known, mask),
            replaced(known, mask),
            [replaced(other_known, mask), replaced(known, other_mask)],
        ),
        (compensated(1.0), compensated(1.0), [compensated(2.0)]),
    ]


def hidden_around_a_denoiser():
    def compensated(*args):
        return facts(denoiser=compensation.Compensated(DENOISER, *args))

    def shrunk(**options):
        return facts(denoiser=skipstep.ScaledDenoiser(DENOISER, **options))

    one = Small(1.0)
    return [
        (
            compensated(one),
            compensated(Small(1.0)),
            [facts(), compensated(Small(2.0)), compensated(one, 0.5)],
        ),
        (shrunk(), shrunk(), [facts(), shrunk(skip=4)]),
    ]


def hidden_in_a_restart():
    def inside(w):
        sampler = compensation.CompensatedDDIM(Small(w))
        route = sampling.Route(sampling.grid(DENOISER.process, 4), inside=sampler)
        return facts(times=route)

    return [(inside(1.0), inside(1.0), [inside(2.0)])]


@pytest.mark.parametrize(
    "make, where",
    [
        (hidden_in_a_sampler, "sampler"),
        (hidden_around_a_denoiser, "network"),
        (hidden_in_a_restart, "inside"),
    ],
)
def test_what_a_repr_hides_belongs_to_the_card(make, where):
    for first, same, others in make():
        assert first == same and json.loads(json.dumps(first)) == first
        for other in others:
            assert {name for name in first if first[name] != other[name]} == {where}


def test_a_module_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"part.*function.*mark"):
        facts(compensation.CompensatedDDIM(lambda x, t: x))


def test_damage_is_named(tmp_path):
    draw_exact(tmp_path)
    path = D.chunk_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="chunk-000001"):
        draw_exact(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ValueError, match="folder = .*readable card.json"):
        draw_exact(tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(ValueError, match=r"card.json"):
        draw_exact(tmp_path)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(n=0), "n = 0"),
        (dict(batch=0), "batch = 0"),
        (dict(n=2.5), "n = 2.5"),
        (dict(times=[0.5, 0.6]), "falling"),
    ],
)
def test_wrong_arguments(tmp_path, change, word):
    settings = {**dict(times=4, n=4, folder=tmp_path / "x"), **change}
    with pytest.raises(ValueError, match=word):
        D.sample_distributed(sampling.DDIM(), Exact(), **settings)
    assert not (tmp_path / "x").exists()


class Stopped(BaseException):
    "A kill, as far as this process can play one."


@pytest.mark.parametrize("after", range(6))
def test_a_kill_while_chunks_are_removed(tmp_path, monkeypatch, after):
    "Whatever is left is taken up by the same command: the card goes last."
    folder, removed = tmp_path / "a.npz.parts", []
    want = draw_exact(folder).x
    unlink, rmdir = Path.unlink, Path.rmdir

    def counted(remove):
        def call(path, *args, **options):
            if len(removed) == after:
                raise Stopped
            removed.append(path)
            return remove(path, *args, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", counted(unlink))
        patch.setattr(Path, "rmdir", counted(rmdir))
        if after < 5:
            with pytest.raises(Stopped):
                D.remove_chunks(folder)
        else:
            D.remove_chunks(folder)
    assert torch.equal(draw_exact(folder).x, want)


@pytest.mark.skipif(os.name != "posix", reason="signals and file locks are POSIX")
def test_what_a_killed_run_left_is_cleared(tmp_path):
    code = f"""
        import os, signal, sys
        sys.path.insert(0, {str(ROOT / "tests")!r})
        from compsamp import distributed
        from test_distributed import draw_exact
        from pathlib import Path
        replace = os.replace
        def die(source, target):
            if "chunk-000001" in str(target): os.kill(os.getpid(), signal.SIGKILL)
            return replace(source, target)
        os.replace = die
        draw_exact(Path(sys.argv[1]))"""
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    assert subprocess.run(command, env=environment(), check=False).returncode == -signal.SIGKILL
    assert len([path for path in tmp_path.iterdir() if path.name.startswith(".")]) == 1
    draw_exact(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


class Drawn(Exception):
    "Work that must not have begun."


@pytest.mark.parametrize("place", ["a folder", "under a file", "chunks are a file"])
def test_the_output_is_tried_before_the_work(tmp_path, monkeypatch, place):
    out = tmp_path / "a.npz"
    if place == "a folder":
        out.mkdir()
    elif place == "under a file":
        out.touch()
        out = out / "b.npz"
    else:
        (tmp_path / "a.npz.parts").touch()

    def draw(*args, **options):
        raise Drawn

    monkeypatch.setattr(D, "sample", draw)
    with pytest.raises(OSError), D.chunked_sampling(out, "cpu") as (_, sample):
        sample(sampling.DDIM(), Exact(), 4, 4, 1)


needs_network = pytest.mark.skipif(
    "fashion-vp-small" not in networks.shipped_networks(), reason="no shipped network"
)
COMMON = "--n 256 --batch 32 --nfe 3 --sampler dpmpp2m:stochastic=1 --label 1 7 4".split()
COMMON += "--seed 5 --quiet --device cpu".split()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    "256 pictures by one process, in the ordinary way."
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("one") / "a.npz"
    assert commands.run_sample([*COMMON, "--out", str(out)]) == 0
    return out


def same_pictures(first, second):
    with np.load(first) as a, np.load(second) as b:
        assert a["x"].shape == (256, 1, 28, 28) and a.files == b.files
        return a["x"].tobytes() == b["x"].tobytes()


@needs_network
def test_two_processes_draw_the_pictures_of_one(gloo, one, tmp_path):
    "Through torchrun, as a user would; the files are the same to the last byte."
    out = tmp_path / "b.npz"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc-per-node", "2", "--no-python", "--"]
    command = [*torchrun, sys.executable, "-c", SAMPLE, *COMMON, "--out", str(out)]
    options = dict(capture_output=True, text=True, timeout=120, check=False)
    got = subprocess.run(command, env=environment(), **options)
    assert got.returncode == 0, got.stderr
    assert same_pictures(one, out) and got.stdout.count("256 pictures") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["b.npz"]


@needs_network
def test_a_lost_process_and_the_same_pictures_by_one(gloo, one, tmp_path):
    out = tmp_path / "c.npz"
    die = """
        import os, sys
        from compsamp import commands, distributed
        draw, calls = distributed.sample, 0
        def sample(*args, **options):
            global calls
            calls += 1
            if calls == 3 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), 9)
            return draw(*args, **options)
        distributed.sample = sample
        sys.exit(commands.run_sample())"""
    codes, said = end(start(die, *COMMON, "--out", out))
    assert codes == [1, -9] and "process 0 of 2" in said[0], said
    chunks = list((tmp_path / "c.npz.parts").glob("chunk-*"))
    assert not out.exists() and 4 <= len(chunks) < 8, chunks
    assert commands.run_sample([*COMMON, "--out", str(out), "--parts"]) == 0
    assert same_pictures(one, out) and not (tmp_path / "c.npz.parts").exists()


# ---- training

TOGETHER = """
    import datetime, errno, json, os, sys, time, torch
    from pathlib import Path
    from compsamp import data, distributed as D, forward, networks, training, zoo

    folder = Path(sys.argv[1])
    x, y = data.embedded()
    x, y = x[:256, :, ::2, ::2].contiguous(), y[:256]

    def make(group, objective, **changes):
        torch.manual_seed(0)
        net = networks.UNet(width=8, mults=(1, 2), attention=())
        settings = {**dict(steps=12, batch=16, warmup=3, seed=3, amp=False), **changes}
        objective = zoo.parse_objective(objective)
        vp = forward.VP()
        return D.DistributedTrainer(net, vp, x, y, group=group, objective=objective, **settings)

    def caught(call):
        try:
            call()
        except Exception as error:
            return f"{type(error).__name__}: {error}"

    with D.process_group("cpu", timeout=100) as group:
        said, held = {}, {}
        for objective in sys.argv[2:]:
            trainer = make(group, objective)
            for _ in range(12):
                trainer.step()
            trainer.collect_losses()
            said[objective] = trainer.losses
        weights = torch.cat([p.detach().flatten() for p in trainer.params])
        said["weights"] = training.pictures_hash(weights)
        said["differ"] = caught(make(group, "epsilon", lr=.001 + group.rank).step)
        real = training.save_run

        def full(*args, **options):
            raise Exception("No space left on device, as a library says it")

        training.save_run = full
        said["full"] = caught(lambda: trainer.save(folder / "x"))
        training.save_run = real
        trainer.save(folder / "x")
        said["saved"] = (folder / "x" / "card.json").exists()
        handle = torch.distributed.new_group(timeout=datetime.timedelta(seconds=3))
        short = D.ProcessGroup(group.rank, group.world_size, group.device, handle)
        if group.rank == 0:
            said["silent"] = caught(lambda: short.any(0))
            (folder / "given up").touch()
        while not (folder / "given up").exists():
            time.sleep(.1)
    said["down"] = not torch.distributed.is_initialized()
    said["after"] = caught(lambda: group.any(0))
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(said))
    os._exit(0)  # gloo may abort at the end of a process that has given another up
"""
OBJECTIVES = [
    "epsilon",
    "velocity",
    "compensation:states=persistent,points=5",
    "skipstep:variant=consistent,skip=9",
]


def trainer(objective, group=None, dropout=0.0, **changes):
    "A small trainer: an ordinary one, or that of a group."
    x, y = data.embedded()
    x, y = x[:256, :, ::2, ::2].contiguous(), y[:256]
    torch.manual_seed(0)
    net = networks.UNet(width=8, mults=(1, 2), attention=(), dropout=dropout)
    settings = {**dict(steps=12, batch=16, warmup=3, seed=3, amp=False), **changes}
    kind = training.Trainer if group is None else partial(D.DistributedTrainer, group=group)
    objective = zoo.parse_objective(objective)
    return kind(net, forward.VP(), x, y, objective=objective, **settings)


def take_steps(trainer, count):
    for _ in range(count):
        trainer.step()
    trainer.collect_losses()
    return trainer


def test_two_processes_train_as_one(gloo, tmp_path):
    codes, said = end(start(TOGETHER, tmp_path, *OBJECTIVES))
    assert codes == [0, 0], said
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    for objective in OBJECTIVES:
        want = take_steps(trainer(objective), 12).losses
        assert first[objective] == second[objective] and len(want) == 12, objective
        assert np.allclose(first[objective], want, rtol=1e-5, atol=1e-5), objective
    assert first["weights"] == second["weights"] and first["down"] and second["down"]
    for rank, told in enumerate((first, second)):
        assert told["differ"].startswith("ValueError: training = {'lr'"), told
        assert f"number {rank}" in told["differ"] and "'batch'" not in told["differ"], told
    assert first["after"].startswith("ConnectionError: group = 'ended'"), "it has been left"
    assert first["silent"].startswith("ConnectionError: process 0 of 2"), "nobody waits for ever"
    assert "No space left" in first["full"] and "process 0 could not save" in second["full"]
    assert first["saved"] and second["saved"]


def test_a_group_of_one_is_the_trainer_bit_by_bit():
    plain = take_steps(trainer("epsilon"), 4)
    alone = take_steps(trainer("epsilon", D.ProcessGroup()), 4)
    assert plain.losses == alone.losses
    assert all(torch.equal(p, q) for p, q in zip(plain.means, alone.means))


@pytest.mark.parametrize(
    "change, word", [(dict(batch=15), "batch = 15"), (dict(dropout=0.1), "dropout")]
)
def test_what_cannot_be_shared(change, word):
    with pytest.raises(ValueError, match=word):
        trainer("epsilon", D.ProcessGroup(0, 2), **change)


SLOW = """
    import sys, time
    from compsamp import commands, distributed
    step = distributed.DistributedTrainer.step
    def slow(self):
        loss = step(self)
        if self.done == 13:
            print("here", flush=True)
            time.sleep(1)
        return loss
    distributed.DistributedTrainer.step = slow
    sys.exit(commands.run_train())
"""


def test_kill_one_and_resume_on_one(gloo, tmp_path):
    kept, plain = tmp_path / "b", tmp_path / "a"
    processes = start(SLOW, *SMALL, "--out", kept)
    wait_for(processes[1], "here")
    began = time.time()
    processes[1].send_signal(signal.SIGKILL)
    codes, said = end(processes)
    assert codes == [1, -9] and "process 0 of 2" in said[0], (codes, said)
    assert time.time() - began < 60
    assert card(kept)["training"]["done"] == 8 and zoo.load(kept).shape == (1, 28, 28)
    assert not [path for path in kept.iterdir() if path.name.startswith(".")]
    assert commands.run_train(["--out", str(kept), "--resume", "--device", "cpu"]) == 0
    assert commands.run_train([*SMALL, "--out", str(plain)]) == 0
    assert len(losses(plain)) == len(losses(kept)) == 24
    assert 0 < np.abs(losses(plain) - losses(kept)).max() < 1e-5


def test_one_begins_and_two_go_on(gloo, tmp_path, monkeypatch):
    "And Ctrl-C that reaches one process only stops both after the same step."
    kept, plain = tmp_path / "a", tmp_path / "b"
    resume = ["--out", str(kept), "--resume", "--device", "cpu", "--save-every", "8"]
    step = training.Trainer.step

    def pressed(self):
        if self.done == 12:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "step", pressed)
        assert commands.run_train([*SMALL, "--out", str(kept)]) == 130
    assert card(kept)["training"]["done"] == 13
    processes = start(SLOW.replace("== 13", "== 17"), *resume)
    wait_for(processes[1], "here")
    processes[1].send_signal(signal.SIGINT)
    codes, said = end(processes)
    assert codes == [130, 130] and card(kept)["training"]["done"] == 17, (codes, said)
    assert commands.run_train(resume) == 0
    assert commands.run_train([*SMALL, "--out", str(plain)]) == 0
    assert np.abs(losses(kept) - losses(plain)).max() < 1e-5


def command(beginning):
    "The line of the chapter that starts so, as words; a backslash continues it."
    page = json.loads((ROOT / "nbs/17_distributed.ipynb").read_text(encoding="utf-8"))
    for cell in page["cells"]:
        for line in "".join(cell["source"]).replace("\\\n", " ").splitlines():
            if " ".join(line.split()).startswith(beginning):
                return shlex.split(line)
    raise AssertionError(f"no line begins with {beginning}")


TORCHRUN = "torchrun --standalone --nproc-per-node 2 --no-python -- compsamp_train"


@pytest.mark.parametrize(
    "beginning, module",
    [
        ("accelerate launch", "accelerate.commands.launch"),
        (TORCHRUN, "torch.distributed.run"),
    ],
)
def test_the_launchers_of_the_chapter(gloo, beginning, module, tmp_path):
    "As written there, two processes start, and they train as one."
    package = module.split(".")[0]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    words = command(beginning)
    first = words.index("launch") + 1 if "launch" in words else 1
    launcher_options = words[first : words.index("compsamp_train")]
    said = f"open(os.path.join({str(tmp_path)!r}, 'is' + os.environ['RANK']), 'w')"
    code = f"import os; {said}.write(os.environ['WORLD_SIZE']); {TRAIN}"
    settings = [*SMALL, "--steps", "6", "--out"]
    python = [sys.executable, "-c", code, *settings, str(tmp_path / "a")]
    options = dict(capture_output=True, text=True, timeout=150, check=False)
    got = subprocess.run(
        [sys.executable, "-m", module, *launcher_options, *python],
        env=environment(COMPSAMP_TIMEOUT="100"),
        **options,
    )
    assert got.returncode == 0 and got.stdout.count("saved in") == 1, got.stderr
    counts = {path.name: path.read_text() for path in tmp_path.glob("is*")}
    assert counts == {"is0": "2", "is1": "2"}  # each said which it is, and of how many
    assert commands.run_train([*settings, str(tmp_path / "b")]) == 0
    assert np.abs(losses(tmp_path / "a") - losses(tmp_path / "b")).max() < 1e-5


def test_a_refused_call_leaves_the_folder_free(tmp_path):
    "The corrected call is not told that these are chunks of another sampling."
    denoiser = networks.Denoiser(networks.UNet(1, 8, (1,), 1, (), 3), forward.VP(), (1, 8, 8))
    draw = partial(D.sample_distributed, denoiser=denoiser, times=3, n=4, batch=2, folder=tmp_path)
    for bad in (
        {"sampler": zoo.parse_sampler("rvv")},
        {"sampler": sampling.DDIM(), "labels": [0, 1, 2, 9]},
        {"sampler": sampling.DDIM(), "shape": (3, 8, 8)},
    ):
        with pytest.raises(ValueError):
            draw(**bad)
        assert not list(tmp_path.iterdir())
    drawn = draw(sampler=sampling.DDIM(), labels=[0, 1, 2, 2])
    assert len(drawn.x) == 4


def test_a_wrapped_denoiser_knows_its_own_chunks(tmp_path):
    "Caches it has filled meanwhile change nothing; another process under it does."
    net = networks.UNet(1, 8, (1,), 1, (), 0)

    def read_as(beta_max):
        process = forward.VP(beta_max=beta_max)
        return flow.ReadAs(networks.Denoiser(net, process, (1, 8, 8)), forward.VP(beta_max=20.0))

    for wrapped in (read_as(20.0), skipstep.ScaledDenoiser(read_as(20.0).inner)):
        folder = tmp_path / type(wrapped).__name__
        draw = partial(D.sample_distributed, sampling.DDIM(), wrapped, 3, n=4, batch=2)
        first = draw(folder=folder)
        D.chunk_path(folder, 1).unlink()
        assert torch.equal(draw(folder=folder).x, first.x)
    assert D.checksum(read_as(20.0)) == D.checksum(read_as(20.0)) != D.checksum(read_as(25.0))


THREADS = """
from pathlib import Path


def threads():
    "Those of gloo in this process."
    found = []
    for path in Path("/proc/self/task").glob("*/comm"):
        found.append(path.read_text().strip())
    return [name for name in found if "gloo" in name]
"""
LEAVE = f"""{THREADS}
from compsamp import distributed as D

with D.process_group("cpu", timeout=100) as group:
    group.any(0)
    inside = len(threads())
print(inside > 0, threads())
"""
TRAIN_AND_LEAVE = f"""{THREADS}
import os, signal
from compsamp import commands, training

step = training.Trainer.step
last = 20 if os.environ["RANK"] == "1" else 24


def fatal(self):
    if self.done == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self)


training.Trainer.step = fatal
print(commands.run_train(), threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed in /proc")
def test_no_thread_of_a_group_outlives_it(gloo):
    "One that still runs when the interpreter ends may abort the process."
    codes, said = end(start(LEAVE))
    assert codes == [0, 0] and [text.strip() for text in said] == ["True []"] * 2, said


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed in /proc")
@pytest.mark.parametrize("steps, last_word, code_of_other", [(16, "0 []", 0), (24, "1 []", -9)])
def test_no_thread_of_a_training_outlives_it(gloo, tmp_path, steps, last_word, code_of_other):
    "Neither where it ends well nor where the other process is killed."
    processes = start(TRAIN_AND_LEAVE, *SMALL, "--steps", steps, "--out", tmp_path / "a")
    codes, said = end(processes)
    assert codes == [0, code_of_other]
    assert last_word in said[0], said
