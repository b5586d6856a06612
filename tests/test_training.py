"Training must survive a kill, a full disk and a bad loss, and take up exactly where it was."
import errno, json, os, signal, subprocess, sys, time
import pytest, torch
from safetensors.torch import load_file
import compsamp.training as T
from compsamp import data, forward, networks


@pytest.fixture(scope='module')
def pictures():
    x, y = data.embedded()
    return x[:256, :, ::2, ::2].contiguous(), y[:256]

def trainer(pictures, steps=40, **kw):
    torch.manual_seed(0); x, y = pictures
    net = networks.UNet(width=8, mults=(1, 2), attention=())
    return T.Trainer(net, forward.VP(), x, y, **{**dict(steps=steps, batch=16, warmup=5, seed=3), **kw})

def run(tr, n):
    for _ in range(n): tr.step()
    return tr

def everything(tr):
    "All tensors that make up the state of a run."
    return {**{'mean/' + n: p for n, p in tr.ema_net.state_dict().items()}, **T.run_state(tr)}

def same(a, b):
    assert a.keys() == b.keys()
    differ = [n for n in a if not torch.equal(a[n], b[n])]
    assert not differ, differ

def files(folder): return sorted(p.name for p in folder.iterdir())


def test_resume_is_exact(pictures, tmp_path):
    straight = run(trainer(pictures), 40)
    run(trainer(pictures), 20).save(tmp_path)
    again = run(trainer(pictures).resume(tmp_path), 20)
    same(everything(straight), everything(again))
    straight.settle(); again.settle()
    assert straight.losses == again.losses and len(again.losses) == 40

@pytest.mark.parametrize('options', [dict(amp=False), dict(amp=True), dict(drop_label=1.), dict(ema=0.)])
def test_resume_is_exact_with(pictures, tmp_path, options):
    straight = run(trainer(pictures, **options), 6)
    run(trainer(pictures, **options), 3).save(tmp_path)
    same(everything(straight), everything(run(trainer(pictures, **options).resume(tmp_path), 3)))

def test_resume_is_exact_with_dropout_and_v(pictures, tmp_path):
    def make():
        torch.manual_seed(0); x, y = pictures; p = forward.VP()
        net = networks.PredictV(networks.UNet(width=8, mults=(1, 2), attention=(), dropout=.2), p)
        return T.Trainer(net, p, x, y, steps=10, batch=16, warmup=2)
    straight = run(make(), 6); run(make(), 3).save(tmp_path); torch.manual_seed(99)
    same(everything(straight), everything(run(make().resume(tmp_path), 3)))

def test_same_from_the_same_seed_only(pictures):
    a, b, c = (run(trainer(pictures, seed=s), 3) for s in (3, 3, 4))
    same(everything(a), everything(b))
    assert not torch.equal(a.params[0], c.params[0])

def test_batch_depends_on_step_alone(pictures):
    a, b = trainer(pictures), trainer(pictures)
    for i in range(40): a.feed(i)
    for i in (39, 0, 17): assert all(torch.equal(u, v) for u, v in zip(a.feed(i), b.feed(i)))

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
SMALL = ['--width', '8', '--mults', '1,1', '--batch', '16', '--steps', '40', '--warmup', '5', '--save-every', '20', '--device', 'cpu']

def start(*args, **kw):
    return subprocess.Popen([sys.executable, '-c', COMMAND, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw)

def wait_for(p, word):
    for line in p.stdout:
        if word in line: return
    raise AssertionError(p.stderr.read())

def held(folder):
    card = json.loads((folder / 'card.json').read_text())
    return card['training']['done'], {n: load_file(folder / card[n]) for n in ('weights', 'resume')}

def test_kill_and_resume_equals_straight(tmp_path):
    straight = start(*SMALL, '--out', tmp_path / 'a')
    killed = start(*SMALL, '--out', tmp_path / 'b', '--kill-at', 27)
    wait_for(killed, 'here'); os.kill(killed.pid, signal.SIGKILL); assert killed.wait() == -signal.SIGKILL
    assert held(tmp_path / 'b')[0] == 20
    again = start('--out', tmp_path / 'b', '--resume', '--device', 'cpu')
    out, err = again.communicate(); assert again.returncode == 0, err
    assert 'from step 20 to 40' in out
    out, err = straight.communicate(); assert straight.returncode == 0, err
    (n, a), (m, b) = held(tmp_path / 'a'), held(tmp_path / 'b')
    assert n == m == 40
    for part in a: same(a[part], b[part])
    assert files(tmp_path / 'a') == files(tmp_path / 'b')

def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    p = start(*SMALL, '--out', tmp_path, '--kill-at', 27)
    wait_for(p, 'here'); p.send_signal(signal.SIGINT)
    out, err = p.communicate(); assert p.returncode == 130, err
    assert f'--out {tmp_path} --resume' in out and held(tmp_path)[0] == 27


def good(pictures, folder, at=3):
    "A trainer with a good checkpoint behind it."
    tr = run(trainer(pictures), at); tr.save(folder)
    return tr

def intact(pictures, folder, at=3):
    networks.load(folder); assert trainer(pictures).resume(folder).done == at

@pytest.mark.parametrize('call', [1, 2, 3])
@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'), KeyboardInterrupt()])
def test_failure_between_files_keeps_the_last_checkpoint(pictures, tmp_path, monkeypatch, call, error):
    tr = run(good(pictures, tmp_path), 2); before, n, real = files(tmp_path), 0, os.replace
    def replace(*a):
        nonlocal n; n += 1
        if n == call: raise error
        return real(*a)
    monkeypatch.setattr(os, 'replace', replace)
    with pytest.raises(type(error)): tr.save(tmp_path)
    monkeypatch.undo(); intact(pictures, tmp_path)
    assert not [f for f in files(tmp_path) if f.endswith('.tmp')] and set(before) <= set(files(tmp_path))
    tr.save(tmp_path); intact(pictures, tmp_path, 5)
    assert len(files(tmp_path)) == 3

@pytest.mark.parametrize('where', ['weights', 'resume'])
def test_disk_full_while_writing(pictures, tmp_path, monkeypatch, where):
    tr = run(good(pictures, tmp_path), 2); import safetensors.torch as st; real = st.save_file
    def save_file(tensors, path, **kw):
        if where in str(path):
            with open(path, 'wb') as f: f.write(b'half a file')
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(tensors, path, **kw)
    monkeypatch.setattr(st, 'save_file', save_file)
    with pytest.raises(OSError, match='No space'): tr.save(tmp_path)
    intact(pictures, tmp_path)

def test_fit_goes_on_when_a_save_fails(pictures, tmp_path, monkeypatch, capsys):
    tr = trainer(pictures, steps=6); real, n = T.save_run, []
    def save(*a, **kw):
        n.append(1)
        if len(n) == 2: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(*a, **kw)
    monkeypatch.setattr(T, 'save_run', save)
    assert T.fit(tr, tmp_path, save_every=2, progress=False)
    assert 'could not save' in capsys.readouterr().err and trainer(pictures, steps=6).resume(tmp_path).done == 6

@pytest.mark.parametrize('call', [1, 2, 3])
def test_kill_in_the_middle_of_a_save(tmp_path, call):
    code = COMMAND.replace("slow = T.Trainer.step", f"""slow = T.Trainer.step
import os; real, n = os.replace, [0]
def replace(*a):
    if '20.safe' in str(a[1]) or 'card' in str(a[1]) and n[0] >= 2: n[0] += 1
    if n[0] == {call}: os.kill(os.getpid(), signal.SIGKILL)
    return real(*a)
os.replace = replace""")
    args = [*SMALL[:-4], '--save-every', '10', '--device', 'cpu', '--out', str(tmp_path)]
    p = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert p.returncode == -signal.SIGKILL, p.stderr
    done, _ = held(tmp_path); assert done == 10
    networks.load(tmp_path)
    p = subprocess.run([sys.executable, '-c', COMMAND, '--out', str(tmp_path), '--resume', '--device', 'cpu'], capture_output=True, text=True)
    assert p.returncode == 0 and 'from step 10 to 40' in p.stdout, p.stderr
    assert len(files(tmp_path)) == 3, files(tmp_path)
