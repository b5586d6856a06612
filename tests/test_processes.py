"Two processes against one: the same pictures, the same losses; a lost one ends the job and spoils nothing."
import importlib.util, json, os, shlex, signal, socket, subprocess, sys, textwrap, time
import numpy as np
import pytest, torch
import torch.distributed as dist
from conftest import ROOT, missing
from compsamp import compensation, data, forward, inpainting, interop, networks, processes as P, sampling, skipstep, training
from compsamp.mixtures import ring

SAMPLE, TRAIN = (f'import sys; from compsamp.{m} import main; sys.exit(main())' for m in ('sampling', 'training'))
SMALL = ['--width', '8', '--mults', '1,1', '--batch', '16', '--steps', '24', '--warmup', '5', '--save-every', '8', '--device', 'cpu', '--no-amp']

@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    "One thread here as there, and none of torchrun's variables."
    for n in (*P.VARIABLES, 'LOCAL_RANK', 'COMPSAMP_TIMEOUT'): monkeypatch.delenv(n, raising=False)
    n = torch.get_num_threads(); torch.set_num_threads(1); yield; torch.set_num_threads(n)

@pytest.fixture
def gloo():
    if not (dist.is_available() and dist.is_gloo_available()): missing('this torch has no gloo')

def start(code, *args, world=2):
    "What torchrun does, without torchrun: one process per rank, told by its environment."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    told = lambda r: dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', COMPSAMP_TIMEOUT='100', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(world), RANK=str(r), LOCAL_RANK=str(r))
    return [subprocess.Popen([sys.executable, '-c', textwrap.dedent(code), *map(str, args)], env=told(r), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for r in range(world)]

def end(ps, seconds=150):
    "Exit codes and what was said; nobody is left behind."
    try: said = [''.join(p.communicate(timeout=seconds)) for p in ps]
    finally:
        for p in ps: p.kill()
    return [p.returncode for p in ps], said

def wait_for(p, word):
    for line in p.stdout:
        if word in line: return
    raise AssertionError(p.stderr.read())

def card(folder): return json.loads((folder / 'card.json').read_text())
def losses(folder): return np.array(card(folder)['losses'])

# ---- the team

def test_a_team_of_one_without_torchrun():
    with P.team() as t:
        assert (t.rank, t.world, t.group) == (0, 1, None) and not dist.is_initialized()
        x = torch.arange(6.); t.mean([x]); t.same('all', dict(a=1)); assert x.tolist() == [0, 1, 2, 3, 4, 5] and t.any(1) and not t.any([]) and t.part(x) is not None

def test_parts_make_the_whole():
    x = torch.arange(12); assert torch.equal(torch.cat([P.Team(r, 3).part(x) for r in range(3)]), x)
    for world in (2, 4):
        for ask in (lambda d, n: d.uniform(n), lambda d, n: d.normal((n, 2, 3)), lambda d, n: d.chance(n, .5)):
            whole = training.StepRandom(3, 7, 'cpu'); whole.uniform(5)
            want = ask(training.StepRandom(3, 7, 'cpu'), 8); got = [ask(P.Share(3, 7, 'cpu', P.Team(r, world)), 8 // world) for r in range(world)]
            assert torch.equal(torch.cat(got), want) and not torch.equal(got[0], got[1])

@pytest.mark.parametrize('env, words', [
    (dict(WORLD_SIZE='2'), ['RANK', 'torchrun']), (dict(WORLD_SIZE='two', RANK='0', MASTER_ADDR='x', MASTER_PORT='1'), ["WORLD_SIZE = 'two'", 'whole']),
    (dict(WORLD_SIZE='2', RANK='2', MASTER_ADDR='x', MASTER_PORT='1'), ['rank = 2', '0 to 1']), (dict(WORLD_SIZE='0', RANK='0', MASTER_ADDR='x', MASTER_PORT='1'), ['world = 0']),
    (dict(COMPSAMP_TIMEOUT='soon'), ["timeout = 'soon'", 'seconds']), (dict(COMPSAMP_TIMEOUT='0'), ['timeout']), (dict(COMPSAMP_TIMEOUT='inf'), ['finite'])])
def test_wrong_environment(env, words, monkeypatch):
    for n, v in env.items(): monkeypatch.setenv(n, v)
    with pytest.raises(ValueError) as e:
        with P.team('cpu'): pass
    assert all(w in str(e.value) for w in words), str(e.value)

def test_wrong_device(monkeypatch):
    with pytest.raises(ValueError, match='abacus'): P.own_device('abacus', 0)
    monkeypatch.setattr(P, 'pick_device', torch.device)
    with pytest.raises(ValueError, match='cpu or cuda'): P.own_device('mps', 0)
    assert P.own_device('cuda', 3) == torch.device('cuda:3') and P.own_device('cuda:1', 3) == torch.device('cuda:1')

def test_a_team_nobody_joins(gloo, monkeypatch):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    for n, v in dict(WORLD_SIZE='2', RANK='1', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port)).items(): monkeypatch.setenv(n, v)
    with pytest.raises(ConnectionError, match='process 1 of 2'):
        with P.team('cpu', timeout=1): pass

# ---- sampling

class Wide(forward.NoisePredictor):
    "The exact noise of a mixture, with the shape a sampler asks for."
    def __init__(self): super().__init__(forward.VP()); self.inner, self.shape = ring().denoiser(self.process), (2,)
    def predict(self, z, t): return self.inner.predict(z.double(), t).to(z)
    def mark(self): return 'ring'

def many(folder, **kw):
    return P.sample_many(sampling.DPMpp2M(True), Wide(), 6, **{**dict(n=20, seed=3, batch=8, folder=folder), **kw})

def test_chunks_are_the_samples(tmp_path):
    r = many(tmp_path); want = sampling.sample(sampling.DPMpp2M(True), Wide(), 6, n=20, seed=3, batch=8)
    assert torch.equal(r.x, want.x) and r.nfe == want.nfe == 6 and len(list(tmp_path.iterdir())) == 4

def test_finished_chunks_are_kept_and_only_those(tmp_path):
    want = many(tmp_path).x; names = sorted(tmp_path.glob('chunk-*')); keep = names[0].stat().st_mtime_ns; names[1].unlink()
    assert torch.equal(many(tmp_path).x, want) and names[0].stat().st_mtime_ns == keep and names[1].exists()

@pytest.mark.parametrize('change, word', [(dict(seed=4), "'seed': (3, 4)"), (dict(n=21), "'n': (20, 21)"), (dict(batch=4), "'batch'"), (dict(guidance=2.), "'guidance'"), (dict(shape=(4,)), "'shape'")])
def test_chunks_of_another_recipe_are_refused(tmp_path, change, word):
    many(tmp_path)
    with pytest.raises(ValueError) as e: many(tmp_path, **change)
    assert word in str(e.value) and 'folder' in str(e.value)

def drawn(denoiser, folder, **kw):
    return P.sample_many(sampling.DDIM(), denoiser, 4, 6, 1, folder=folder, batch=4, shape=(2,), **kw).x

def test_a_function_is_known_by_its_name(tmp_path):
    "Two functions have no weights that differ: without a name they are refused, with two names their chunks are not mixed."
    f, g = (lambda z, t: z), (lambda z, t: -z)
    with pytest.raises(ValueError, match=r"name = None: .*wrap\(f, .*name="): drawn(interop.wrap(f, forward.VP()), tmp_path / 'x')
    a = drawn(interop.wrap(f, forward.VP(), name='f'), tmp_path); assert torch.equal(drawn(interop.wrap(f, forward.VP(), name='f'), tmp_path), a)
    for d in (interop.wrap(g, forward.VP(), name='g'), interop.wrap(f, forward.VP(), 'x0', name='f'), interop.wrap(f, forward.VP(), name='f', time=lambda t: 2 * t)):
        with pytest.raises(ValueError, match="'network'"): drawn(d, tmp_path)
    class Anonymous(forward.NoisePredictor):
        def predict(self, z, t): return z
    with pytest.raises(ValueError, match=r'Anonymous.*mark\(\)'): drawn(Anonymous(forward.VP()), tmp_path / 'y')

class Prompted(torch.nn.Module):
    def __init__(self): super().__init__(); self.w = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    def forward(self, z, t, a): return self.w * z + a

def test_other_conditions_are_another_recipe(tmp_path):
    make = lambda a, none=0.: interop.wrap(Prompted(), forward.VP(), conditions=dict(a=torch.tensor(a)), empty=dict(a=torch.full((2,), none)))
    a = drawn(make([[1., 2.]]), tmp_path, labels=0); assert torch.equal(drawn(make([[1., 2.]]), tmp_path, labels=0), a)
    for other in (make([[3., 4.]]), make([[1., 2.]], 5.)):
        with pytest.raises(ValueError, match="'network'"): drawn(other, tmp_path, labels=0)

def test_a_table_takes_up_its_own_chunks(tmp_path):
    make = lambda: interop.wrap(Prompted(), interop.Table((.99, .6, .1)), conditions=dict(a=torch.ones(1, 2)), empty=dict(a=torch.zeros(2)))
    assert torch.equal(drawn(make(), tmp_path), drawn(make(), tmp_path))

def test_what_is_bound_belongs_to_the_recipe(tmp_path):
    make = lambda w, j=0: interop.wrap(Prompted(), forward.VP(), conditions=dict(a=torch.ones(2, 2)), empty=dict(a=torch.zeros(2))).bind(labels=[j] * 2, guidance=w)
    draw = lambda d: P.sample_many(sampling.DDIM(), d, 4, 4, 1, folder=tmp_path, batch=2, shape=(2,)); draw(make(2.)); draw(make(2.))
    for d in (make(3.), make(2., 1)):
        with pytest.raises(ValueError, match="'options'"): draw(d)

class Small(torch.nn.Module):
    "Of a denoiser, or of a compensation module."
    def __init__(self, w): super().__init__(); self.w = torch.nn.Parameter(torch.full((1,), w), requires_grad=False)
    def forward(self, z, t, labels=None): return self.w * z

def test_what_a_repr_hides_belongs_to_the_recipe():
    "Known pictures and masks, modules of a sampler or around a denoiser, and the sampler inside a restart."
    d = networks.Denoiser(Small(1.), forward.VP(), (2,)); facts = lambda s=sampling.DDIM(), d=d, times=4: P.recipe(s, d, times, 4, 0, 2, None, 1., None)
    known, mask = torch.zeros(4, 1, 20, 20), torch.zeros(4, 1, 20, 20, dtype=torch.bool); other = known.clone(); other[2, 0, 9, 9] = 1; mask[..., :10] = True; other_mask = mask.clone(); other_mask[2, 0, 9, 12] = True
    replaced = lambda k, m: inpainting.Replaced(sampling.DDIM(), k, m); compensated = lambda w: compensation.CompensatedDDIM(Small(w)); inside = lambda s: sampling.Route(sampling.grid(d.process, 4), inside=s)
    pairs = [(facts(replaced(known, mask)), facts(replaced(known, mask)), [facts(replaced(other, mask)), facts(replaced(known, other_mask))], 'sampler'),
             (facts(compensated(1.)), facts(compensated(1.)), [facts(compensated(2.))], 'sampler'),
             (facts(d=compensation.Compensated(d, Small(1.))), facts(d=compensation.Compensated(d, Small(1.))), [facts(), facts(d=compensation.Compensated(d, Small(2.))), facts(d=compensation.Compensated(d, Small(1.), .5))], 'network'),
             (facts(d=skipstep.ScaledDenoiser(d)), facts(d=skipstep.ScaledDenoiser(d)), [facts(), facts(d=skipstep.ScaledDenoiser(d, skip=4))], 'network'),
             (facts(times=inside(compensated(1.))), facts(times=inside(compensated(1.))), [facts(times=inside(compensated(2.)))], 'inside')]
    for a, same, others, where in pairs:
        assert a == same and json.loads(json.dumps(a)) == a
        for b in others: assert {n for n in a if a[n] != b[n]} == {where}, where
    with pytest.raises(ValueError, match=r'part.*function.*mark'): facts(compensation.CompensatedDDIM(lambda x, t: x))

def test_damage_is_named(tmp_path):
    many(tmp_path); path = P.chunk(tmp_path, 1); path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match='chunk-000001'): many(tmp_path)
    (tmp_path / 'recipe.json').unlink()
    with pytest.raises(ValueError, match='recipe.json'): many(tmp_path)

@pytest.mark.parametrize('kw, word', [(dict(n=0), 'n = 0'), (dict(batch=0), 'batch = 0'), (dict(n=2.5), 'n = 2.5'), (dict(times=[.5, .6]), 'falling')])
def test_wrong_arguments(tmp_path, kw, word):
    with pytest.raises(ValueError, match=word): P.sample_many(sampling.DDIM(), Wide(), **{**dict(times=4, n=4, folder=tmp_path / 'x'), **kw})
    assert not (tmp_path / 'x').exists()

needs_network = pytest.mark.skipif('fashion-vp' not in networks.shipped_networks(), reason='no shipped network')
COMMON = ['--n', '256', '--batch', '32', '--nfe', '3', '--sampler', 'dpmpp2m:stochastic=1', '--label', '1', '7', '4', '--seed', '5', '--quiet', '--device', 'cpu']

@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "256 pictures by one process, in the ordinary way."
    torch.set_num_threads(1); out = tmp_path_factory.mktemp('one') / 'a.npz'
    assert sampling.main([*COMMON, '--out', str(out)]) == 0
    return out

@needs_network
def test_two_processes_draw_the_pictures_of_one(gloo, one, tmp_path):
    "Through torchrun, as a user would; the files are the same to the last byte."
    out = tmp_path / 'b.npz'
    p = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2', '--no-python', '--', sys.executable, '-c', SAMPLE, *COMMON, '--out', str(out)],
                       env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=120)
    assert p.returncode == 0, p.stderr
    with np.load(one) as a, np.load(out) as b: assert a['x'].shape == (256, 1, 28, 28) and a['x'].tobytes() == b['x'].tobytes() and a.files == b.files
    assert p.stdout.count('256 pictures') == 1 and [f.name for f in tmp_path.iterdir()] == ['b.npz']

@needs_network
def test_a_lost_process_and_the_same_pictures_by_one(gloo, one, tmp_path, capsys):
    out = tmp_path / 'c.npz'; die = """
        import os, sys; from compsamp import processes, sampling
        draw, n = processes.sample, 0
        def sample(*a, **k):
            global n; n += 1
            if n == 3 and os.environ['RANK'] == '1': os.kill(os.getpid(), 9)
            return draw(*a, **k)
        processes.sample = sample; sys.exit(sampling.main())"""
    codes, said = end(start(die, *COMMON, '--out', out)); assert codes == [2, -9] and 'process 0 of 2' in said[0], said
    parts = sorted(f.name for f in (tmp_path / 'c.npz.parts').iterdir()); assert not out.exists() and 4 <= len(parts) - 1 < 8, parts
    assert sampling.main([*COMMON, '--out', str(out), '--parts']) == 0
    with np.load(one) as a, np.load(out) as b: assert a['x'].tobytes() == b['x'].tobytes()
    assert not (tmp_path / 'c.npz.parts').exists()

# ---- training

TOGETHER = """
    import datetime, errno, json, os, sys, time, torch
    from pathlib import Path
    from compsamp import data, forward, networks, processes as P, training
    folder = Path(sys.argv[1]); x, y = data.embedded(); x, y = x[:256, :, ::2, ::2].contiguous(), y[:256]
    def make(t, objective, **kw):
        torch.manual_seed(0); net = networks.UNet(width=8, mults=(1, 2), attention=()); s = {**dict(steps=12, batch=16, warmup=3, seed=3, amp=False), **kw}
        return P.TeamTrainer(net, forward.VP(), x, y, team=t, objective=training.parse_objective(objective), **s)
    def caught(f):
        try: f()
        except Exception as e: return f'{type(e).__name__}: {e}'
    with P.team('cpu', timeout=100) as t:
        said, held = {}, {}
        for o in sys.argv[2:]:
            tr = make(t, o); [tr.step() for _ in range(12)]; tr.settle(); said[o] = tr.losses
        said['weights'] = training.fingerprint(torch.cat([p.detach().flatten() for p in tr.params]))
        said['differ'] = caught(make(t, 'epsilon', lr=.001 + t.rank).step)
        real = training.save_run
        def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
        training.save_run = full; said['full'] = caught(lambda: tr.save(folder / 'x')); training.save_run = real
        tr.save(folder / 'x'); said['saved'] = (folder / 'x' / 'card.json').exists()
        short = P.Team(t.rank, t.world, t.device, torch.distributed.new_group(timeout=datetime.timedelta(seconds=3)))
        if t.rank == 0: said['silent'] = caught(lambda: short.any(0)); (folder / 'given up').touch()
        while not (folder / 'given up').exists(): time.sleep(.1)
    said['down'] = not torch.distributed.is_initialized()
    (folder / f'{os.environ["RANK"]}.json').write_text(json.dumps(said))
    os._exit(0)                                                # gloo may abort at the end of a process that has given another up
"""
OBJECTIVES = ['epsilon', 'velocity', 'compensation:states=persistent,points=5', 'skipstep:variant=consistent,skip=9']

def trainer(objective, team=P.Team(), dropout=0., **kw):
    x, y = data.embedded(); x, y = x[:256, :, ::2, ::2].contiguous(), y[:256]; torch.manual_seed(0)
    net = networks.UNet(width=8, mults=(1, 2), attention=(), dropout=dropout); s = {**dict(steps=12, batch=16, warmup=3, seed=3, amp=False), **kw}
    return (training.Trainer if team is None else partial_team(team))(net, forward.VP(), x, y, objective=training.parse_objective(objective), **s)

def partial_team(team): return lambda *a, **k: P.TeamTrainer(*a, team=team, **k)

def test_two_processes_train_as_one(gloo, tmp_path):
    codes, said = end(start(TOGETHER, tmp_path, *OBJECTIVES)); assert codes == [0, 0], said
    a, b = (json.loads((tmp_path / f'{r}.json').read_text()) for r in (0, 1))
    for o in OBJECTIVES:
        tr = trainer(o, None); [tr.step() for _ in range(12)]; tr.settle()
        assert a[o] == b[o] and len(a[o]) == 12 and np.allclose(a[o], tr.losses, rtol=1e-5, atol=1e-5), o
    assert a['weights'] == b['weights'] and a['down'] and b['down']
    for r, s in enumerate((a, b)): assert s['differ'].startswith("ValueError: training = {'lr'") and f'number {r}' in s['differ'] and "'batch'" not in s['differ'], s
    assert a['silent'].startswith('ConnectionError: process 0 of 2'), 'nobody is waited for for ever'
    assert 'No space left' in a['full'] and 'process 0 could not save' in b['full'] and a['saved'] and b['saved']

def test_a_team_of_one_is_the_trainer_bit_by_bit():
    a, b = trainer('epsilon', None), trainer('epsilon')
    for tr in (a, b): [tr.step() for _ in range(4)]; tr.settle()
    assert a.losses == b.losses and all(torch.equal(p, q) for p, q in zip(a.means, b.means))

@pytest.mark.parametrize('kw, word', [(dict(batch=15), 'batch = 15'), (dict(dropout=.1), 'dropout')])
def test_what_cannot_be_shared(kw, word):
    with pytest.raises(ValueError, match=word): trainer('epsilon', P.Team(0, 2), **kw)

SLOW = """
    import sys, time; from compsamp import processes, training
    step = processes.TeamTrainer.step
    def slow(self):
        loss = step(self)
        if self.done == 13: print('here', flush=True); time.sleep(1)
        return loss
    processes.TeamTrainer.step = slow; sys.exit(training.main())
"""

def test_kill_one_and_resume_on_one(gloo, tmp_path):
    ps = start(SLOW, *SMALL, '--out', tmp_path / 'b'); wait_for(ps[1], 'here'); began = time.time(); ps[1].send_signal(signal.SIGKILL)
    codes, said = end(ps); assert codes == [1, -9] and 'process 0 of 2' in said[0] and time.time() - began < 60, (codes, said)
    assert card(tmp_path / 'b')['training']['done'] == 8 and networks.load(tmp_path / 'b').shape == (1, 28, 28)
    assert not [f.name for f in (tmp_path / 'b').iterdir() if f.name.endswith('.tmp')]
    assert training.main(['--out', str(tmp_path / 'b'), '--resume', '--device', 'cpu']) == 0 and training.main([*SMALL, '--out', str(tmp_path / 'a')]) == 0
    a, b = losses(tmp_path / 'a'), losses(tmp_path / 'b'); assert len(a) == len(b) == 24 and 0 < np.abs(a - b).max() < 1e-5

def test_one_begins_and_two_go_on(gloo, tmp_path, monkeypatch):
    "And Ctrl-C that reaches one process only stops both after the same step."
    short = lambda *more: ['--out', str(tmp_path / 'a'), '--resume', '--device', 'cpu', '--save-every', '8', *more]
    step = training.Trainer.step
    def pressed(self):
        if self.done == 12: signal.raise_signal(signal.SIGINT)
        return step(self)
    with monkeypatch.context() as m:
        m.setattr(training.Trainer, 'step', pressed); assert training.main([*SMALL, '--out', str(tmp_path / 'a')]) == 130 and card(tmp_path / 'a')['training']['done'] == 13
    ps = start(SLOW.replace('== 13', '== 17'), *short()); wait_for(ps[1], 'here'); ps[1].send_signal(signal.SIGINT)
    codes, said = end(ps); assert codes == [130, 130] and card(tmp_path / 'a')['training']['done'] == 17, (codes, said)
    assert training.main(short()) == 0 and training.main([*SMALL, '--out', str(tmp_path / 'b')]) == 0
    assert np.abs(losses(tmp_path / 'a') - losses(tmp_path / 'b')).max() < 1e-5

def command(start):
    "The line of the chapter that starts so, as words."
    cells = json.loads((ROOT / 'nbs/17_processes.ipynb').read_text(encoding='utf-8'))['cells']; lines = [l.strip() for c in cells for l in ''.join(c['source']).splitlines()]
    return shlex.split(next(l for l in lines if l.startswith(start)))

@pytest.mark.parametrize('launcher, module', [('accelerate launch', 'accelerate.commands.launch'), ('torchrun --standalone', 'torch.distributed.run')])
def test_the_launchers_of_the_chapter(gloo, launcher, module, tmp_path):
    "As written there, two processes start, and they train as one."
    if importlib.util.find_spec(module.split('.')[0]) is None: pytest.skip(f'{module.split(".")[0]} is not installed')
    words = command(launcher) if launcher[0] == 'a' else command(launcher + ' --nproc-per-node 2 --no-python -- compsamp_train')
    at = words.index('compsamp_train'); options = words[words.index('launch') + 1 if 'launch' in words else 1:at]
    code = f'import os; open(os.path.join({str(tmp_path)!r}, "is" + str(os.environ.get("RANK"))), "w").write(str(os.environ.get("WORLD_SIZE"))); ' + TRAIN
    p = subprocess.run([sys.executable, '-m', module, *options, sys.executable, '-c', code, *SMALL, '--steps', '6', '--out', str(tmp_path / 'a')],
                       env=dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', COMPSAMP_TIMEOUT='100'), capture_output=True, text=True, timeout=150)
    assert p.returncode == 0 and p.stdout.count('saved in') == 1, p.stderr
    assert {f.name: f.read_text() for f in tmp_path.glob('is*')} == dict(is0='2', is1='2')      # each said which it is, and of how many
    assert training.main([*SMALL, '--steps', '6', '--out', str(tmp_path / 'b')]) == 0 and np.abs(losses(tmp_path / 'a') - losses(tmp_path / 'b')).max() < 1e-5

