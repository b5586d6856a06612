"Training must survive a kill, a full disk and a bad loss, and take up exactly where it was."

import errno, json, os, signal, subprocess, sys, time
import pytest, torch
from safetensors.torch import load_file
import compsamp.training as T
from compsamp import data, forward, networks


@pytest.fixture(scope="module")
def pictures():
    x, y = data.embedded()
    return x[:256, :, ::2, ::2].contiguous(), y[:256]


def trainer(pictures, steps=40, **kw):
    torch.manual_seed(0)
    x, y = pictures
    net = networks.UNet(width=8, mults=(1, 2), attention=())
    return T.Trainer(
        net, forward.VP(), x, y, **{**dict(steps=steps, batch=16, warmup=5, seed=3), **kw}
    )


def run(tr, n):
    for _ in range(n):
        tr.step()
    return tr


def everything(tr):
    "All tensors that make up the state of a run."
    return {**{"mean/" + n: p for n, p in tr.ema_net.state_dict().items()}, **T.run_state(tr)}


def same(a, b):
    assert a.keys() == b.keys()
    differ = [n for n in a if not torch.equal(a[n], b[n])]
    assert not differ, differ


def files(folder):
    return sorted(p.name for p in folder.iterdir())


def test_resume_is_exact(pictures, tmp_path):
    straight = run(trainer(pictures), 40)
    run(trainer(pictures), 20).save(tmp_path)
    again = run(trainer(pictures).resume(tmp_path), 20)
    same(everything(straight), everything(again))
    straight.settle()
    again.settle()
    assert straight.losses == again.losses and len(again.losses) == 40


@pytest.mark.parametrize(
    "options", [dict(amp=False), dict(amp=True), dict(drop_label=1.0), dict(ema=0.0)]
)
def test_resume_is_exact_with(pictures, tmp_path, options):
    straight = run(trainer(pictures, **options), 6)
    run(trainer(pictures, **options), 3).save(tmp_path)
    same(everything(straight), everything(run(trainer(pictures, **options).resume(tmp_path), 3)))


def test_resume_is_exact_with_dropout_and_v(pictures, tmp_path):
    def make():
        torch.manual_seed(0)
        x, y = pictures
        p = forward.VP()
        net = networks.PredictV(networks.UNet(width=8, mults=(1, 2), attention=(), dropout=0.2), p)
        return T.Trainer(net, p, x, y, steps=10, batch=16, warmup=2)

    straight = run(make(), 6)
    run(make(), 3).save(tmp_path)
    torch.manual_seed(99)
    same(everything(straight), everything(run(make().resume(tmp_path), 3)))


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
    a, b = run(trainer((x, y)), 3), run(trainer((data.to_model(x), y)), 3)
    same(everything(a), everything(b))


COMMAND = """
import signal, sys, time, torch
import compsamp.training as T
torch.set_num_threads(1)
slow = T.Trainer.step
if '--kill-at' in sys.argv:
    at = int(sys.argv.pop(sys.argv.index('--kill-at') + 1)); sys.argv.remove('--kill-at')
    def step(self):
        loss = slow(self)
        if self.done == at: print('here', flush=True); time.sleep(1)
        return loss
    T.Trainer.step = step
sys.exit(T.main(sys.argv[1:]))
"""
SMALL = [
    "--width",
    "8",
    "--mults",
    "1,1",
    "--batch",
    "16",
    "--steps",
    "40",
    "--warmup",
    "5",
    "--save-every",
    "20",
    "--device",
    "cpu",
]


def start(*args, **kw):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kw,
    )


def wait_for(p, word):
    for line in p.stdout:
        if word in line:
            return
    raise AssertionError(p.stderr.read())


def held(folder):
    card = json.loads((folder / "card.json").read_text())
    return card["training"]["done"], {n: load_file(folder / card[n]) for n in ("weights", "resume")}


def test_kill_and_resume_equals_straight(tmp_path):
    straight = start(*SMALL, "--out", tmp_path / "a")
    killed = start(*SMALL, "--out", tmp_path / "b", "--kill-at", 27)
    wait_for(killed, "here")
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert held(tmp_path / "b")[0] == 20
    again = start("--out", tmp_path / "b", "--resume", "--device", "cpu")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert "from step 20 to 40" in out
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


def good(pictures, folder, at=3):
    "A trainer with a good checkpoint behind it."
    tr = run(trainer(pictures), at)
    tr.save(folder)
    return tr


def intact(pictures, folder, at=3):
    zoo.load(folder)
    assert trainer(pictures).resume(folder).done == at


@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_failure_between_files_keeps_the_last_checkpoint(
    pictures, tmp_path, monkeypatch, call, error
):
    tr = run(good(pictures, tmp_path), 2)
    before, n, real = files(tmp_path), 0, os.replace

    def replace(*a):
        nonlocal n
        n += 1
        if n == call:
            raise error
        return real(*a)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(type(error)):
        tr.save(tmp_path)
    monkeypatch.undo()
    intact(pictures, tmp_path)
    assert not [f for f in files(tmp_path) if f.endswith(".tmp")] and set(before) <= set(
        files(tmp_path)
    )
    tr.save(tmp_path)
    intact(pictures, tmp_path, 5)
    assert len(files(tmp_path)) == 3


@pytest.mark.parametrize("where", ["weights", "resume"])
def test_disk_full_while_writing(pictures, tmp_path, monkeypatch, where):
    tr = run(good(pictures, tmp_path), 2)
    import safetensors.torch as st

    real = st.save_file

    def save_file(tensors, path, **kw):
        if where in str(path):
            with open(path, "wb") as f:
                f.write(b"half a file")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(tensors, path, **kw)

    monkeypatch.setattr(st, "save_file", save_file)
    with pytest.raises(OSError, match="No space"):
        tr.save(tmp_path)
    intact(pictures, tmp_path)


def test_fit_goes_on_when_a_save_fails(pictures, tmp_path, monkeypatch, capsys):
    tr = trainer(pictures, steps=6)
    real, n = T.save_run, []

    def save(*a, **kw):
        n.append(1)
        if len(n) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*a, **kw)

    monkeypatch.setattr(T, "save_run", save)
    assert T.fit(tr, tmp_path, save_every=2, progress=False)
    assert (
        "could not save" in capsys.readouterr().err
        and trainer(pictures, steps=6).resume(tmp_path).done == 6
    )


KILLED = """
import os, signal, sys, torch
import compsamp.training as T
from compsamp import forward, networks
torch.set_num_threads(1); torch.manual_seed(0); call, folder = int(sys.argv[1]), sys.argv[2]
x = (torch.arange(32 * 64) % 256).to(torch.uint8).view(32, 1, 8, 8)
tr = T.Trainer(networks.UNet(width=8, mults=(1,), attention=(), classes=0), forward.VP(), x, steps=9, batch=8, warmup=2, amp=False)
for _ in range(3): tr.step()
tr.save(folder); tr.step(); real, n = os.replace, []
def replace(*a):
    n.append(1)
    if len(n) == call: os.kill(os.getpid(), signal.SIGKILL)
    return real(*a)
os.replace = replace; tr.save(folder)
"""


@pytest.mark.parametrize("call", [1, 2, 3])
def test_kill_in_the_middle_of_a_save(tmp_path, call):
    p = subprocess.run(
        [sys.executable, "-c", KILLED, str(call), str(tmp_path)], capture_output=True, text=True
    )
    assert p.returncode == -signal.SIGKILL, p.stderr
    x = (torch.arange(32 * 64) % 256).to(torch.uint8).view(32, 1, 8, 8)

    def make():
        torch.manual_seed(0)
        net = networks.UNet(width=8, mults=(1,), attention=(), classes=0)
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
        def __call__(self, net, ema, process, x0, labels, dice):
            return super().__call__(net, ema, process, x0, labels, dice) * (
                float("inf") if dice.seed == T.StepRandom(3, 6, "cpu").seed else 1.0
            )

    tr = trainer(pictures, steps=20, objective=Bad())
    with pytest.raises(FloatingPointError, match="step 7"):
        T.fit(tr, tmp_path, save_every=4, every=2, progress=False)
    assert trainer(pictures, steps=20, objective=Bad()).resume(tmp_path).done == 4


@pytest.mark.parametrize(
    "changed",
    [
        dict(lr=2e-3),
        dict(batch=8),
        dict(seed=4),
        dict(steps=41),
        dict(drop_label=0.5),
        dict(amp=None),
    ],
)
def test_other_settings_are_refused(pictures, tmp_path, changed):
    name = next(iter(changed))
    good(pictures, tmp_path)
    if name == "amp":
        changed = dict(amp=not trainer(pictures).hyper["amp"])
    with pytest.raises(ValueError, match=name):
        trainer(pictures, **changed).resume(tmp_path)


def test_other_pictures_process_or_network_are_refused(pictures, tmp_path):
    good(pictures, tmp_path)
    x, y = pictures
    with pytest.raises(ValueError, match="fingerprint"):
        trainer((x.flip(0), y)).resume(tmp_path)
    for net, process, word in (
        (networks.UNet(width=8, mults=(1, 2), attention=()), forward.VP(beta_max=10.0), "process"),
        (networks.UNet(width=16, mults=(1, 2), attention=()), forward.VP(), "network"),
    ):
        with pytest.raises(ValueError, match=word):
            T.Trainer(net, process, x, y, steps=40, batch=16, warmup=5, seed=3).resume(tmp_path)


@pytest.mark.parametrize("part", ["weights", "resume"])
@pytest.mark.parametrize("harm", ["cut", "gone", "text"])
def test_damaged_files_are_refused_and_change_nothing(pictures, tmp_path, part, harm):
    good(pictures, tmp_path)
    f = next(tmp_path.glob(part + "-*"))
    tr = trainer(pictures)
    if harm == "gone":
        f.unlink()
    else:
        f.write_bytes(f.read_bytes()[:-200] if harm == "cut" else b"hello")
    with pytest.raises(ValueError, match=f.name):
        tr.resume(tmp_path)
    same(everything(tr), everything(trainer(pictures)))


def test_other_files_in_the_folder_are_left_alone(pictures, tmp_path):
    mine = ["model-00001.safetensors", "notes.txt", "weights-final.safetensors"]
    for n in mine:
        (tmp_path / n).write_text("mine")
    good(pictures, tmp_path)
    good(pictures, tmp_path, 5)
    assert set(mine) < set(files(tmp_path)) and len(files(tmp_path)) == 6


@pytest.mark.parametrize(
    "bad, word",
    [
        (lambda x, y: (x.float(), y), "-1, 1"),
        (lambda x, y: (data.to_model(x) * float("nan"), y), "NaN"),
        (lambda x, y: (x[:, 0], y), "images"),
        (lambda x, y: (x, y[:9]), "labels"),
        (lambda x, y: (x, y + 5), "labels"),
        (lambda x, y: (x.repeat(1, 3, 1, 1), y), "channels"),
        (lambda x, y: (x[:3], y[:3]), "batch"),
    ],
)
def test_bad_data(pictures, bad, word):
    with pytest.raises(ValueError, match=word):
        trainer(bad(*pictures))


@pytest.mark.parametrize(
    "bad",
    [
        dict(steps=0),
        dict(batch=0),
        dict(lr=0.0),
        dict(lr=float("nan")),
        dict(ema=1.0),
        dict(drop_label=2.0),
        dict(clip=0.0),
        dict(warmup=-1),
        dict(seed=-1),
        dict(device="cuda:99"),
        dict(device="abacus"),
    ],
)
def test_bad_settings(pictures, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        trainer(pictures, **bad)


def test_momentum_process_trains_and_resumes(pictures, tmp_path):
    psld = pytest.importorskip("compsamp.psld")
    x, y = pictures

    def make():
        torch.manual_seed(0)
        return T.Trainer(
            networks.UNet(2, width=8, mults=(1, 2), attention=()),
            psld.PSLD(),
            x,
            y,
            steps=8,
            batch=16,
            warmup=2,
        )

    tr = run(make(), 4)
    assert T.preview(tr.denoiser(), 2, 3).shape == (2, 1, 14, 14)
    run(make(), 2).save(tmp_path)
    same(everything(tr), everything(run(make().resume(tmp_path), 2)))
