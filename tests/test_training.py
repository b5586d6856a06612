"Training must survive a kill, a full disk and a bad loss, and take up exactly where it was."

import errno
import json
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import compsamp.training as T
from compsamp import commands, data, forward, networks, zoo
from compsamp.core import write_sealed


@pytest.fixture(scope="module")
def pictures():
    x, y = data.embedded()
    return x[:256, :, ::2, ::2].contiguous(), y[:256]


def small_network(**changes):
    torch.manual_seed(0)
    return networks.UNet(**{"width": 8, "mults": (1, 2), "attention": (), **changes})


def trainer(pictures, steps=40, network=None, **changes):
    x, y = pictures
    settings = {"steps": steps, "batch": 16, "warmup": 5, "seed": 3, **changes}
    return T.Trainer(network or small_network(), forward.VP(), x, y, **settings)


def run(tr, count):
    for _ in range(count):
        tr.step()
    return tr


def everything(tr):
    "All tensors that make up the state of a run."
    means = {"mean/" + name: p for name, p in tr.ema_net.state_dict().items()}
    return {name: v.detach().clone() for name, v in (means | T.run_state(tr)).items()}


def same(a, b):
    assert a.keys() == b.keys()
    differ = [n for n in a if not torch.equal(a[n], b[n])]
    assert not differ, differ


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def read_card(folder):
    return json.loads((folder / "card.json").read_text())


def change_card(folder, **training):
    card = read_card(folder)
    card["training"] |= training
    write_sealed(folder / "card.json", card)


# ---- resuming is exact


def test_resume_is_exact(pictures, tmp_path):
    straight = run(trainer(pictures), 40)
    run(trainer(pictures), 20).save(tmp_path)
    again = run(trainer(pictures).resume(tmp_path), 20)
    same(everything(straight), everything(again))
    straight.collect_losses()
    again.collect_losses()
    assert straight.losses == again.losses and len(again.losses) == 40


OPTIONS = [{"amp": False}, {"amp": True}, {"drop_label": 1.0}, {"ema": 0.0}]


@pytest.mark.parametrize("options", [*OPTIONS, {"schedule": "stable", "decay": 4}])
def test_resume_is_exact_with(pictures, tmp_path, options):
    straight = run(trainer(pictures, **options), 6)
    run(trainer(pictures, **options), 3).save(tmp_path)
    same(everything(straight), everything(run(trainer(pictures, **options).resume(tmp_path), 3)))


def with_dropout():
    return networks.PredictV(small_network(dropout=0.2), forward.VP())


def frozen_part():
    net = small_network()
    net.time.requires_grad_(False)
    return net


class Odd(torch.nn.Module):
    "No config; two layers share a weight, one is never used, one counts what it sees."

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 4, 3, padding=1)
        self.inside = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.again = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.again.weight = self.inside.weight
        self.norm = torch.nn.BatchNorm2d(4)
        self.never = torch.nn.Linear(3, 3)
        self.last = torch.nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, z, t, labels=None):
        return self.last(self.norm(self.again(self.inside(self.first(z)).relu())))


class WithNet(torch.nn.Module):
    "A part called `net`, and weights beside it."

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, z, t, labels=None):
        return self.scale * self.net(z)


@pytest.mark.parametrize("make", [with_dropout, frozen_part, Odd, WithNet])
def test_odd_networks_are_saved_and_resumed_right(pictures, tmp_path, make):
    def begin():
        torch.manual_seed(0)
        return trainer(pictures, network=make())

    straight = run(begin(), 6)
    run(begin(), 3).save(tmp_path)
    torch.manual_seed(99)
    resumed = run(begin().resume(tmp_path), 3)
    same(everything(straight), everything(resumed))
    resumed.save(tmp_path)
    x = torch.randn(2, 1, 14, 14)
    network = None if make in (with_dropout, frozen_part) else make()
    loaded = zoo.load(tmp_path, network=network)
    assert torch.equal(loaded.eps(x, 0.5), straight.denoiser().eps(x, 0.5))


def test_what_cannot_be_trained_is_refused_before_the_first_step(pictures):
    frozen = small_network().requires_grad_(False)
    with pytest.raises(ValueError, match="network = 'UNet'.*frozen"):
        trainer(pictures, network=frozen)
    with pytest.raises(TypeError, match="network"):
        T.Trainer(lambda z, t, labels: z, forward.VP(), *pictures)


def test_other_weights_frozen_is_another_run(pictures, tmp_path):
    run(trainer(pictures, network=frozen_part()), 2).save(tmp_path)
    with pytest.raises(ValueError, match="frozen"):
        trainer(pictures).resume(tmp_path)


def test_a_denoiser_in_between_does_not_end_the_dropout(pictures):
    straight, other = (trainer(pictures, network=with_dropout()) for _ in range(2))
    for _ in range(3):
        straight.step()
        other.step()
        net = networks.Denoiser(other.net, other.process)
        assert torch.equal(*(net.eps(torch.ones(1, 1, 14, 14), 0.5) for _ in range(2)))
    same(everything(straight), everything(other))


def test_same_from_the_same_seed_only(pictures):
    a, b, c = (run(trainer(pictures, seed=s), 3) for s in (3, 3, 4))
    same(everything(a), everything(b))
    assert not torch.equal(a.params[0], c.params[0])


def test_batch_depends_on_step_alone(pictures):
    a, b = trainer(pictures), trainer(pictures)
    for i in range(40):
        a.feed(i)
    for i in (39, 0, 17):
        assert all(torch.equal(u, v) for u, v in zip(a.feed(i), b.feed(i)))


def test_float_and_byte_pictures_train_alike(pictures):
    x, y = pictures
    same(*(everything(run(trainer((p, y)), 3)) for p in (x, data.to_model(x))))


# ---- schedules and objectives


def test_pictures_in_bfloat16_are_trained_on(pictures):
    x, y = data.to_model(pictures[0]).bfloat16(), pictures[1]
    rounded, wide = trainer((x, y)), trainer((x.float(), y))
    assert rounded.pictures == wide.pictures
    assert torch.equal(rounded.step(), wide.step())


def test_the_stable_schedule():
    rate = [T.learning_rate(i, 2000, 1e-3, 100, "stable") for i in range(2000)]
    assert rate[0] == pytest.approx(1e-5) and rate[-1] == pytest.approx(1e-3 / 600)
    assert set(rate[100:1400]) == {1e-3} and rate[1700] == pytest.approx(5e-4)
    with pytest.raises(ValueError, match="schedule"):
        T.check_recipe({**RECIPE, "schedule": "linear"})
    assert "never reaches" in T.short_run({**RECIPE, "warmup": 50})
    assert "falls" in T.short_run({**RECIPE, "schedule": "stable"})
    assert T.short_run(RECIPE) == ""


RECIPE = {"steps": 40, "warmup": 5, "seed": 0, "decay": 600, "lr": 1e-3, "clip": 1.0}
RECIPE |= {"weight_decay": 0.0, "ema": 0.9, "drop_label": 0.1, "schedule": "cosine"}


def test_a_stable_run_may_be_made_longer_before_it_falls(pictures, tmp_path):
    stable = {"schedule": "stable", "decay": 4}
    run(trainer(pictures, steps=10, **stable), 6).save(tmp_path)
    longer = run(trainer(pictures, steps=20, **stable).resume(tmp_path), 6)
    same(everything(longer), everything(run(trainer(pictures, steps=20, **stable), 12)))
    run(trainer(pictures, steps=10, **stable), 7).save(tmp_path)  # it has begun to fall
    with pytest.raises(ValueError, match="steps"):
        trainer(pictures, steps=20, **stable).resume(tmp_path)


def test_a_short_run_is_said(pictures, tmp_path, capsys):
    T.fit(trainer(pictures, steps=3), tmp_path, progress=False)
    assert "warmup = 5 is longer than the run of 3 steps" in capsys.readouterr().err


@pytest.mark.parametrize("process", [forward.VP(), forward.CosineVP(), forward.VE(), forward.EDM()])
def test_preconditioned_is_edm_for_every_process(process):
    "Levels log-normal, and the loss of x0 weighed by (rho^2 + d^2)/(rho d)^2 (EDM, Table 1)."
    objective, n = T.Preconditioned(sigma_data=0.4), 64
    dice = T.StepRandom(0, 1, "cpu")
    t = objective.training_times(process, dice.uniform(n))
    rho = process.rho(t)
    want = torch.distributions.Normal(-1.2, 1.2).icdf(T.StepRandom(0, 1, "cpu").uniform(n))
    inside = (want.exp() > process.rho(process.eps)) & (want.exp() < process.rho(process.T))
    assert torch.allclose(rho[inside].log(), want[inside], atol=1e-4) and inside.sum() > n / 2
    x0 = torch.rand(n, 1, 4, 4) * 2 - 1
    noise = dice.normal(x0.shape)

    class Says(torch.nn.Module):
        channels_out = 1

        def forward(self, z, s, labels=None):
            return noise + 0.1 * x0

    loss = objective(Says(), None, process, x0, None, T.StepRandom(0, 1, "cpu"))
    error_of_x0 = rho * 0.1  # x0hat - x0 = -rho (eps - noise), here with 0.1 x0 for eps - noise
    weight = (rho**2 + 0.4**2) / (rho * 0.4) ** 2
    by_table = (weight * error_of_x0**2)[:, None, None, None] * x0**2
    assert float(loss) == pytest.approx(float(by_table.mean()), rel=1e-4)
    for bad in ({"std": 0.0}, {"sigma_data": -1.0}, {"mean": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            T.Preconditioned(**bad)


def test_integer_pictures_are_not_noised():
    with pytest.raises(TypeError, match="x0 = torch.uint8"):
        x0 = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
        T.perturb_on_device(forward.VP(), x0, torch.tensor([0.1, 0.2]), torch.randn(2, 1, 4, 4))


# ---- from the shell, killed and stopped

COMMAND = """
import sys, time, torch
import compsamp.training as T
from compsamp import commands
torch.set_num_threads(1)
one_step = T.Trainer.step
if '--kill-at' in sys.argv:
    at = int(sys.argv.pop(sys.argv.index('--kill-at') + 1))
    sys.argv.remove('--kill-at')
    def step(self):
        loss = one_step(self)
        if self.done == at:
            print('here', flush=True)
            time.sleep(1)
        return loss
    T.Trainer.step = step
sys.exit(commands.run_train(sys.argv[1:]))
"""
SMALL = "--width 8 --mults 1,1 --batch 16 --steps 40 --warmup 5 --save-every 20 --patch 2".split()
SMALL += ["--device", "cpu"]


def start(*args):
    words = [sys.executable, "-c", COMMAND, *map(str, args)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)


def wait_for(process, word):
    for line in process.stdout:
        if word in line:
            return
    raise AssertionError(process.stderr.read())


def held(folder):
    card = read_card(folder)
    return card["training"]["done"], {n: load_file(folder / card[n]) for n in ("weights", "resume")}


def test_kill_and_resume_equals_straight(tmp_path):
    killed = start(*SMALL, "--out", tmp_path / "b", "--kill-at", 27)
    wait_for(killed, "here")
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert held(tmp_path / "b")[0] == 20
    again = start("--out", tmp_path / "b", "--resume", "--device", "cpu")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "from step 20 to 40" in out
    straight = start(*SMALL, "--out", tmp_path / "a")
    out, err = straight.communicate()
    assert straight.returncode == 0, err
    (n, a), (m, b) = held(tmp_path / "a"), held(tmp_path / "b")
    assert n == m == 40
    for part in a:
        same(a[part], b[part])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    p = start(*SMALL, "--out", tmp_path, "--kill-at", 27)
    wait_for(p, "here")
    p.send_signal(signal.SIGINT)
    out, err = p.communicate()
    assert p.returncode == 130, err
    assert f"--out {tmp_path} --resume" in out and held(tmp_path)[0] == 27


SHORT = "--width 8 --mults 1,1 --batch 16 --steps 3 --warmup 1 --device cpu".split()


def test_resume_of_a_finished_run_names_init(tmp_path, capsys):
    out = ["--out", str(tmp_path / "a")]
    assert commands.run_train([*SHORT, "--patch", "2", "--schedule", "stable", *out]) == 0
    before = held(tmp_path / "a")[1]
    capsys.readouterr()
    assert commands.run_train([*out, "--resume", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "finished" in said and f"--init {tmp_path / 'a'}" in said
    same(before["resume"], held(tmp_path / "a")[1]["resume"])
    more = ["--init", str(tmp_path / "a"), "--steps", "1", "--out", str(tmp_path / "b")]
    assert commands.run_train([*more, "--device", "cpu", "--batch", "16", "--warmup", "0"]) == 0
    assert read_card(tmp_path / "b")["network"]["config"]["patch"] == 2


WRONG = {
    "not empty": (SHORT, "without a checkpoint"),
    "other steps": (["--resume", "--steps", "9"], "steps"),
    "process": (["--process", "ddpm"], "process"),
    "steps": (["--steps", "0"], "steps"),
    "patch": (["--patch", "0"], "patch"),
    "schedule": (["--schedule", "up"], "schedule"),
    "objective": (["--objective", "mse"], "objective"),
    "device": (["--device", "cuda:99"], "device"),
    "data": (["--data", "/nowhere"], "folder"),
    "init": (["--init", "/nowhere"], "checkpoint"),
}


def test_wrong_words(tmp_path, capsys):
    out = ["--out", str(tmp_path / "a")]
    assert commands.run_train([*SHORT, *out]) == 0
    for name, (words, said) in WRONG.items():
        place = out if name in ("not empty", "other steps") else ["--out", str(tmp_path / "x")]
        assert commands.run_train([*words, *place]) == 2, name
        assert said in capsys.readouterr().err, name
    assert not (tmp_path / "x" / "card.json").exists()


# ---- accidents


def good(pictures, folder, at=3):
    "A trainer with a good checkpoint behind it."
    tr = run(trainer(pictures), at)
    tr.save(folder)
    return tr


def intact(pictures, folder, at=3):
    zoo.load(folder)
    assert trainer(pictures).resume(folder).done == at


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()])
def test_failure_between_files_keeps_the_last_checkpoint(
    pictures, tmp_path, monkeypatch, call, error
):
    tr = run(good(pictures, tmp_path), 2)
    before, calls, real = files(tmp_path), [], os.replace

    def replace(*names):
        calls.append(names)
        if len(calls) == call:
            raise error
        return real(*names)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(type(error)):
        tr.save(tmp_path)
    monkeypatch.undo()
    intact(pictures, tmp_path)
    assert not [f for f in files(tmp_path) if f.startswith(".")]
    assert set(before) <= set(files(tmp_path))
    tr.save(tmp_path)
    intact(pictures, tmp_path, 5)
    assert len(files(tmp_path)) == 3


def test_a_disk_that_is_really_full(pictures, tmp_path, capsys):
    "A limit on the size of files is the full disk one can have without being root."
    tr = trainer(pictures, steps=4)
    tr.save(tmp_path)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    save, limited = T.save_run, []

    def limit(*given, **more):
        small = 20_000 if not limited else usual[0]
        limited.append(small)
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, usual[1]))
        try:
            return save(*given, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    T.save_run = limit
    try:
        tr = trainer(pictures, steps=4).resume(tmp_path)
        run(tr, 1)
        assert T.fit(tr, tmp_path, save_every=2, progress=False)
    finally:
        T.save_run = save
        signal.signal(signal.SIGXFSZ, ignored)
    said = capsys.readouterr().err
    assert "step 2: could not save" in said and "the checkpoint of step 0 is kept" in said
    assert trainer(pictures, steps=4).resume(tmp_path).done == 4


def test_nothing_is_called_kept_that_is_not_there(pictures, tmp_path, monkeypatch, capsys):
    tr, real, calls = trainer(pictures, steps=4), T.save_run, []

    def save(*given, **more):
        calls.append(given)
        if len(calls) == 1:
            raise FULL
        return real(*given, **more)

    monkeypatch.setattr(T, "save_run", save)
    assert T.fit(tr, tmp_path, save_every=2, progress=False)
    said = capsys.readouterr().err
    assert "could not save" in said and "no checkpoint has been written yet" in said


def test_a_side_output_never_ends_a_run(pictures, tmp_path, monkeypatch, capsys):
    def broken(*given, **more):
        raise RuntimeError("no pictures today")

    monkeypatch.setattr(T, "save_png", broken)
    monkeypatch.setattr(T.ProgressBoard, "show", broken)
    assert T.fit(trainer(pictures, steps=4), tmp_path, sample_every=2, samples=2)
    assert capsys.readouterr().err.count("no pictures today") == 3
    intact_card = read_card(tmp_path)
    assert intact_card["training"]["done"] == 4


def test_a_folder_that_cannot_be_written_is_found_before_the_work(pictures, tmp_path):
    (tmp_path / "a").write_text("a file, not a folder")
    tr = trainer(pictures, steps=4)
    with pytest.raises(OSError):
        T.fit(tr, tmp_path / "a" / "run", progress=False)
    assert tr.done == 0


KILLED = """
import os, signal, sys, torch
import compsamp.training as T
from compsamp import forward, networks
torch.set_num_threads(1)
torch.manual_seed(0)
call, folder = int(sys.argv[1]), sys.argv[2]
x = (torch.arange(32 * 64) % 256).to(torch.uint8).view(32, 1, 8, 8)
net = networks.UNet(width=8, mults=(1,), attention=(), classes=0)
tr = T.Trainer(net, forward.VP(), x, steps=9, batch=8, warmup=2, amp=False)
for _ in range(3):
    tr.step()
tr.save(folder)
tr.step()
real, calls = os.replace, []
def replace(*names):
    calls.append(names)
    if len(calls) == call:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*names)
os.replace = replace
tr.save(folder)
"""


@pytest.mark.parametrize("call", [1, 3])
def test_kill_in_the_middle_of_a_save(tmp_path, call):
    words = [sys.executable, "-c", KILLED, str(call), str(tmp_path)]
    p = subprocess.run(words, capture_output=True, text=True)
    assert p.returncode == -signal.SIGKILL, p.stderr
    x = (torch.arange(32 * 64) % 256).to(torch.uint8).view(32, 1, 8, 8)

    def make():
        net = small_network(mults=(1,), classes=0)
        return T.Trainer(net, forward.VP(), x, steps=9, batch=8, warmup=2, amp=False)

    assert len(files(tmp_path)) > 3  # the interrupted save left its rubbish
    zoo.load(tmp_path)
    tr = make().resume(tmp_path)
    assert tr.done == 3
    run(tr, 2).save(tmp_path)
    assert len(files(tmp_path)) == 3, files(tmp_path)
    same(everything(run(make(), 5)), everything(tr))


def test_nan_stops_names_the_step_and_keeps_the_checkpoint(pictures, tmp_path):
    class Bad(T.Epsilon):
        "Infinite at the seventh step."

        def __call__(self, net, ema, process, x0, labels, dice):
            loss = super().__call__(net, ema, process, x0, labels, dice)
            return loss * float("inf") if dice.seed == T.StepRandom(3, 6, "cpu").seed else loss

    tr = trainer(pictures, steps=20, objective=Bad())
    with pytest.raises(FloatingPointError, match="step 7.*checkpoint of step 4 is kept"):
        T.fit(tr, tmp_path, save_every=4, every=2, progress=False)
    assert trainer(pictures, steps=20, objective=Bad()).resume(tmp_path).done == 4


# ---- what is refused

OTHER = [{"lr": 2e-3}, {"batch": 8}, {"seed": 4}, {"steps": 41}, {"drop_label": 0.5}]
OTHER += [{"schedule": "stable"}, {"decay": 9}]


@pytest.mark.parametrize("changed", OTHER)
def test_other_settings_are_refused(pictures, tmp_path, changed):
    good(pictures, tmp_path)
    with pytest.raises(ValueError, match=next(iter(changed))):
        trainer(pictures, **changed).resume(tmp_path)


def test_another_precision_is_refused(pictures, tmp_path):
    amp = good(pictures, tmp_path).hyper["amp"]
    with pytest.raises(ValueError, match="amp"):
        trainer(pictures, amp=not amp).resume(tmp_path)


def test_other_pictures_process_or_network_are_refused(pictures, tmp_path):
    good(pictures, tmp_path)
    x, y = pictures
    with pytest.raises(ValueError, match="fingerprint"):
        trainer((x.flip(0), y)).resume(tmp_path)
    with pytest.raises(ValueError, match="network.*width"):
        trainer(pictures, network=small_network(width=16)).resume(tmp_path)
    wrapped = networks.PredictV(small_network(), forward.VP())
    with pytest.raises(ValueError, match="network.*predicts"):
        trainer(pictures, network=wrapped).resume(tmp_path)
    settings = {"steps": 40, "batch": 16, "warmup": 5, "seed": 3}
    other = T.Trainer(small_network(), forward.VP(beta_max=10.0), x, y, **settings)
    with pytest.raises(ValueError, match="process"):
        other.resume(tmp_path)


def test_a_run_of_an_older_card_is_taken_up(pictures, tmp_path, capsys):
    good(pictures, tmp_path)
    card = read_card(tmp_path)
    for name in ("schedule", "decay", "frozen"):
        del card["training"][name]
    del card["network"]["config"]["patch"], card["sha256"], card["seal"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    intact(pictures, tmp_path)
    assert "gives no SHA-256" in capsys.readouterr().out


def half_zero(path):
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2))


def flip(path):
    raw = bytearray(path.read_bytes())
    raw[-300] ^= 1
    path.write_bytes(bytes(raw))


def swap(path):
    held = load_file(path)
    one, two = [name for name, v in held.items() if v.shape == (8,)][:2]
    held[one], held[two] = held[two] + 1, held[one]
    save_file(held, path)


HARMS = {
    "cut": lambda f: f.write_bytes(f.read_bytes()[:-200]),
    "gone": lambda f: f.unlink(),
    "text": lambda f: f.write_bytes(b"hello"),
    "flipped": flip,
    "half zero": half_zero,
    "swapped": swap,
}


@pytest.mark.parametrize("part", ["weights", "resume"])
def test_damaged_files_are_refused_and_change_nothing(pictures, tmp_path, part):
    good(pictures, tmp_path)
    file = next(tmp_path.glob(part + "-*"))
    whole, tr = file.read_bytes(), trainer(pictures)
    for name, harm in HARMS.items():
        harm(file)
        with pytest.raises(ValueError, match=file.name):
            tr.resume(tmp_path)
        file.write_bytes(whole)
    same(everything(tr), everything(trainer(pictures)))


def test_the_card_of_another_run(pictures, tmp_path):
    good(pictures, tmp_path / "a")
    run(trainer(pictures, lr=9e-4), 3).save(tmp_path / "b")
    (tmp_path / "b/card.json").write_bytes((tmp_path / "a/card.json").read_bytes())
    with pytest.raises(ValueError, match="SHA-256"):
        trainer(pictures).resume(tmp_path / "b")


@pytest.mark.parametrize("done", [10**9, -5, 2.5, "3", None, True])
def test_a_step_count_that_cannot_be(pictures, tmp_path, done):
    good(pictures, tmp_path)
    change_card(tmp_path, done=done)
    with pytest.raises(ValueError, match="done"):
        trainer(pictures).resume(tmp_path)


def test_other_files_in_the_folder_are_left_alone(pictures, tmp_path):
    mine = ["model-00001.safetensors", "notes.txt", "weights-final.safetensors"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    good(pictures, tmp_path)
    good(pictures, tmp_path, 5)
    assert set(mine) < set(files(tmp_path)) and len(files(tmp_path)) == 6


BAD_DATA = {
    "-1, 1": lambda x, y: (x.float(), y),
    "NaN": lambda x, y: (data.to_model(x) * float("nan"), y),
    "images": lambda x, y: (x[:, 0], y),
    "labels = 9": lambda x, y: (x, y[:9]),
    "labels": lambda x, y: (x, y + 5),
    "labels = .*shape": lambda x, y: (x, torch.eye(10)[y]),
    "labels = ..boot": lambda x, y: (x, ["boot"] * len(x)),
    "channels": lambda x, y: (x.repeat(1, 3, 1, 1), y),
    "batch": lambda x, y: (x[:3], y[:3]),
}


@pytest.mark.parametrize("word, bad", BAD_DATA.items(), ids=BAD_DATA)
def test_bad_data(pictures, word, bad):
    with pytest.raises(ValueError, match=word):
        trainer(bad(*pictures))


BAD_SETTINGS = [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"ema": 1.0}]
BAD_SETTINGS += [{"drop_label": 2.0}, {"clip": 0.0}, {"warmup": -1}, {"seed": -1}, {"decay": 0}]
BAD_SETTINGS += [{"device": "cuda:99"}, {"device": "abacus"}, {"schedule": "up"}]


@pytest.mark.parametrize("bad", BAD_SETTINGS)
def test_bad_settings(pictures, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        trainer(pictures, **bad)


def test_momentum_process_trains_and_resumes(pictures, tmp_path):
    psld = pytest.importorskip("compsamp.psld")
    x, y = pictures

    def make():
        net = small_network(channels=2)
        return T.Trainer(net, psld.PSLD(), x, y, steps=8, batch=16, warmup=2)

    tr = run(make(), 4)
    assert T.preview(tr.denoiser(), 2, 3).shape == (2, 1, 14, 14)
    run(make(), 2).save(tmp_path)
    same(everything(tr), everything(run(make().resume(tmp_path), 2)))


class Odd:
    "Something JSON cannot hold."


def test_numpy_settings_train_and_are_saved(tmp_path):
    trainer = small_trainer(steps=np.int64(3), batch=np.int64(4), lr=np.float32(1e-3))
    assert T.fit(trainer, tmp_path, progress=False, note=np.int64(7))
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["training"]["steps"] == 3 and card["note"] == 7
    assert zoo.load(tmp_path).shape == (1, 8, 8)


def test_a_card_that_cannot_be_written_is_refused_before_the_first_step(tmp_path):
    trainer = small_trainer(steps=3, batch=4, lr=1e-3)
    with pytest.raises(TypeError, match="Odd"):
        T.fit(trainer, tmp_path, progress=False, note=Odd())
    assert trainer.done == 0 and not list(tmp_path.iterdir())


def small_trainer(**recipe):
    images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8)
    net = networks.UNet(1, 8, (1,), 1, (), 0)
    settings = {"warmup": 1, "amp": False} | recipe
    return T.Trainer(net, forward.VP(beta_max=np.float32(10)), images, None, **settings)
