"The race: peers speak our language, ratios and intervals, a race that resumes, files of other races, peers that are missing, a full disk."
import json, re
import numpy as np
import pytest
import torch
from compsamp import demo, mixtures, networks, race, sampling
from compsamp.compensation import Compensated, load_module
from compsamp.core import Noise
from compsamp.forward import EDM, VP
from compsamp.race import PEERS, Store, draw, paired, parse, table
from compsamp.sampling import DDIM, states

NET = networks.load('fashion-vp')
HELP = '~fashion-vp-stretch'
HEAD = dict(format=race.FORMAT, network='fashion-vp', n=128)


def need(text):
    gone = race.missing(parse(text))
    if gone: pytest.skip(gone)


def test_the_table_is_the_process():
    t, betas = table(VP()); abar = (1 - betas).cumprod(0)
    assert torch.allclose(abar, torch.exp(-(.1 * t + 9.95 * t ** 2)), rtol=1e-10) and len(t) == 1000 and float(t[0]) == VP().eps
    with pytest.raises(ValueError, match='preserves variance'): table(EDM())


def test_one_ddim_step_of_diffusers_is_ours():
    need('diffusers.ddim'); s = race.scheduler(VP(), parse('diffusers.ddim')); s.set_timesteps(10); t = table(VP())[0]; z = Noise(0, 3, (1, 28, 28))()
    for i in s.timesteps[:-1]:
        theirs = s.step(race.answer(NET)(z, i), i, z).prev_sample
        with torch.no_grad(): ours = list(states(DDIM(), NET, [float(t[int(i)]), float(t[int(i) - 100])], z, denoise=False))[1]
        assert (theirs - ours).abs().max() < 1e-5; z = theirs


@pytest.mark.parametrize('theirs, ours, close', [('diffusers.edm', 'dpmpp2m@karras', 1e-4), ('diffusers.2m@karras', 'dpmpp2m@karras', .05), ('k.2m@karras', 'dpmpp2m@karras', 1e-4), ('k.heun@karras', 'edm@karras', 1e-4), ('k.2m_sde@karras', 'dpmpp2m:stochastic=1@karras', 1e-4), ('diffusers.2m_sde@karras', 'dpmpp2m:stochastic=1@karras', .2), ('k.2m@karras,low=.05', 'dpmpp2m@karras,low=.05', 1e-4)])
def test_whole_runs_agree(theirs, ours, close):
    need(theirs); a, b = draw(NET, theirs, 11, 3), draw(NET, ours, 11, 3); assert a.nfe == b.nfe and (a.x - b.x).square().mean().sqrt() < close


@pytest.mark.parametrize('name', PEERS)
def test_every_peer_pays_what_it_says(name):
    need(name); d = mixtures.ring().denoiser(VP()); p = PEERS[name]
    for b in (10, 21): got = draw(d, name, b, 4); assert got.nfe == p.per * p.steps(b) + p.extra <= b and got.x.shape == (4, 2)
    assert torch.equal(draw(d, name, 10, 4, seed=1).x, draw(d, name, 10, 4, seed=1).x) and not torch.equal(draw(d, name, 10, 4, seed=1).x, draw(d, name, 10, 4, seed=2).x)


def test_peers_that_draw_have_a_seed_per_picture():
    for name in ('diffusers.2m_sde@karras', 'k.2m_sde@karras', 'diffusers.ddpm'):
        if race.missing(parse(name)): continue
        d = mixtures.ring().denoiser(VP()); assert (draw(d, name, 10, 6, batch=6).x - draw(d, name, 10, 6, batch=2).x).abs().max() < 1e-4


def test_paired_on_a_known_case():
    g = torch.Generator().manual_seed(0); x = [torch.randn(300, 64, generator=g, dtype=torch.float64) for _ in range(2)]; unit = dict(mean=torch.zeros(64), cov=torch.eye(64), n=10 ** 6)
    r = paired([v + .5 for v in x], [v + .7 for v in x], unit, 40); assert r['resolved'] and r['low'] < r['ratio'] < r['high'] < .7 and abs(r['ratio'] - .51) < .05
    assert paired(x, x, unit, 20) == dict(ratio=1., low=1., high=1., resolved=False)
    with pytest.raises(ValueError, match='same seeds'): paired(x, x[:1], unit)


@pytest.mark.parametrize('bad, word', [('nope', 'one of euler'), ('diffusers.nope', 'diffusers.ddim'), ('k.2m/.1,.3,3,1', 'no restart'), ('ddim@round', 'karras'), ('ddim@karras,low', 'name=value'), ('ddim@karras,top=3', 'low, high, rho'), ('diffusers.2m@karras,low=.1', 'none')])
def test_bad_rows(bad, word):
    with pytest.raises(ValueError, match=word): parse(bad)


def test_rows_with_a_module():
    r = parse('dpmpp2m:stochastic=1@karras,low=.05/.3,2,4,1' + HELP); assert r.module == HELP[1:] and r.ups == ('.3,2,4,1',) and r.limits == (('low', .05),) and parse('ddim').module == ''
    assert race.ours('ddim' + HELP) and race.aided('ddim' + HELP) and not race.aided('ddim') and not race.tuned('k.2m@karras' + HELP)
    a = draw(NET, 'dpmpp2m@karras' + HELP, 6, 3, seed=2); assert torch.equal(a.x, demo.draw(NET, 'dpmpp2m@karras' + HELP, 6, 3, seed=2, batch=100, progress=False).x) and a.nfe == 6
    plain = draw(NET, 'dpmpp2m@karras', 6, 3, seed=2).x; off = Compensated(NET, load_module(HELP[1:], NET), 0.)
    assert (a.x - plain).square().mean().sqrt() > .01 and torch.equal(draw(off, 'dpmpp2m@karras', 6, 3, seed=2).x, plain)


@pytest.mark.parametrize('theirs, ours, close', [('k.2m@karras', 'dpmpp2m@karras', 1e-4), ('k.2m_sde@karras,low=.05', 'dpmpp2m:stochastic=1@karras,low=.05', 1e-4), ('diffusers.2m@karras', 'dpmpp2m@karras', .05)])
def test_peers_draw_through_the_module_too(theirs, ours, close):
    need(theirs); a, b, c = (draw(NET, row, 11, 3) for row in (theirs + HELP, ours + HELP, theirs)); assert a.nfe == b.nfe == 11
    assert (a.x - b.x).square().mean().sqrt() < close and (a.x - c.x).square().mean().sqrt() > .03


def test_a_module_in_the_file_name(tmp_path):
    s = Store(tmp_path / 'r.json', HEAD); rows = ['ddim', 'ddim' + HELP, 'ddim@karras' + HELP, 'k.2m@karras' + HELP]; names = {s.file(r, 10, 4).name for r in rows}
    assert len(names) == 4 and all('/' not in n and n.endswith('-10-4.npy') for n in names) and sum('fashion-vp-stretch' in n for n in names) == 3
    for i, r in enumerate(rows): s.add(dict(row=r, budget=10, seed=4, nfe=10, frechet=1., seconds=1.), torch.full((4, 64), float(i)))
    assert [float(s.features(r, 10, 4).mean()) for r in rows] == [0, 1, 2, 3]


def test_modules_that_do_not_fit():
    for text in ('ddim~nowhere', 'ddim~', 'k.2m@karras~nowhere'):
        with pytest.raises(ValueError, match=f"row = '{text}'.*module"): parse(text)
    with pytest.raises(ValueError, match="row = 'ddim~fashion-vp'.*compensation module"): draw(NET, 'ddim~fashion-vp', 6, 2)
    with pytest.raises(ValueError, match="row = 'em~fashion.*VP"): draw(networks.load('fashion-psld'), 'em' + HELP, 6, 2)
    with pytest.raises(ValueError, match="row = 'ddim~fashion.*fitted"): draw(mixtures.ring().denoiser(VP()), 'ddim' + HELP, 6, 2)


def test_a_peer_with_our_module_is_not_the_best_peer(tmp_path):
    s = Store(tmp_path / 'r.json', HEAD); unit = dict(mean=torch.zeros(64), cov=torch.eye(64), n=10 ** 6); s.data['seeds'] = [4, 5]
    far = {'ddim': 1.1, 'edm' + HELP: 1., 'k.2m@karras': 1.2, 'k.2m_sde@karras,low=.05': 1.15, 'k.heun@karras' + HELP: .5}
    for (row, d), seed in ((rd, v) for rd in far.items() for v in (4, 5)): s.add(dict(row=row, budget=50, seed=seed, nfe=50, frechet=d, seconds=1.), d + torch.randn(128, 64, generator=torch.Generator().manual_seed(seed)))
    got = {(v['our'], v['peers']): (v['ours'], v['peer']) for v in race.verdicts(s, unit, 20)}
    assert got == {('with the module', 'as they come'): ('edm' + HELP, 'k.2m@karras'), ('with the module', 'tuned too'): ('edm' + HELP, 'k.2m_sde@karras,low=.05'), ('without', 'as they come'): ('ddim', 'k.2m@karras'),
                   ('without', 'tuned too'): ('ddim', 'k.2m_sde@karras,low=.05'), ('with the module', 'with the module'): ('edm' + HELP, 'k.heun@karras' + HELP)}
    a = race.TUNED[50][0]; s.add(dict(row=a + HELP, budget=50, seed=4, nfe=50, frechet=9., seconds=1.), torch.randn(128, 64)); assert race.runner(s, 50, True, race.aided) == a + HELP and race.runner(s, 50, True, lambda r: not race.aided(r)) == 'ddim'
    assert race.best(s, 50, 4, 1) == ['ddim', 'k.2m_sde@karras,low=.05']                          # finals are for rows without a module, and those picked


def test_the_usual_rows_and_the_command_in_words():
    a = race.settle([]); assert {r + HELP for pair in race.TUNED.values() for r in pair} < set(a.samplers) and len(set(a.samplers)) == len(a.samplers) and race.spoken(a) == 'compsamp_race'
    other = race.settle(['--network', 'fashion-psld', '--json', '/home/me/r.json', '--n', '200']); assert not any(map(race.aided, other.samplers)) and race.spoken(other) == 'compsamp_race --n 200 --network fashion-psld'
    import shlex
    a = race.settle(['--quick', '--samplers', 'ddim' + HELP, 'k.2m@karras,low=.05', '--seeds', '3', '--json', 'elsewhere/r.json']); again = race.settle(shlex.split(race.spoken(a))[1:]); assert vars(again) == dict(vars(a), json='race.json')


def test_a_setting_no_scheduler_has():
    need('diffusers.2m')
    with pytest.raises(ValueError, match='nonsense'): draw(NET, 'diffusers.2m:nonsense=3', 10, 2)


def test_missing_peer_is_named_and_skipped(monkeypatch, tmp_path, capsys):
    real = race.importlib.util.find_spec; monkeypatch.setattr(race.importlib.util, 'find_spec', lambda n, *a: None if n in race.INSTALL else real(n, *a))
    with pytest.raises(ModuleNotFoundError, match='pip install'): draw(NET, 'k.2m@karras', 10, 2)
    race.main(['--json', str(tmp_path / 'r.json'), '--samplers', 'ddim', 'k.2m@karras', '--nfe', '5', '--n', '128', '--seeds', '3', '--cells']); said = capsys.readouterr().out
    assert 'k_diffusion is not installed, k.2m@karras is skipped: pip install' in said and [c['row'] for c in json.loads((tmp_path / 'r.json').read_text())['cells']] == ['ddim']


def test_foreign_and_damaged_results(tmp_path):
    f = tmp_path / 'r.json'; f.write_text('{"cells": '); 
    with pytest.raises(ValueError, match='damaged'): Store(f, HEAD)
    for other in (dict(HEAD, format=0), dict(HEAD, n=500), []):
        f.write_text(json.dumps(other)); before = f.read_text()
        with pytest.raises(ValueError, match='move the file away'): Store(f, HEAD)
        assert f.read_text() == before
    with pytest.raises(SystemExit, match='move the file away'): race.main(['--json', str(f), '--quick', '--cells'])


def fake(monkeypatch):
    ran = []
    def measured(denoiser, row, budget, n, seed, batch):
        ran.append((row, budget, seed)); x = torch.zeros(n, 1, 28, 28); return race.sampling.Samples(x, budget, 1., [])
    quality = {'ddim': 1., 'edm': 2., 'k.2m': .7, 'k.heun': 3.}
    monkeypatch.setattr(race, 'draw', measured); last = lambda: quality[ran[-1][0]]
    monkeypatch.setattr(race.metrics, 'features', lambda x, c: torch.randn(len(x), 64, generator=torch.Generator().manual_seed(ran[-1][2]), dtype=torch.float64) * last())
    return ran


def test_heats_finals_and_resume(monkeypatch, tmp_path):
    ran = fake(monkeypatch); s = Store(tmp_path / 'r.json', HEAD); rows = ['ddim', 'edm', 'k.2m', 'k.heun']; go = lambda s: list(race.race(s, NET, rows, [10, 20, 50], [4, 5], finalists=1))
    unit = dict(mean=torch.zeros(64), cov=torch.eye(64), n=10 ** 6); monkeypatch.setattr(race.metrics, 'reference', lambda *a: unit)
    it = race.race(s, NET, rows, [10, 20, 50], [4, 5], finalists=1); [next(it) for _ in range(3)]; assert len(ran) == 3                # stopped here
    s = Store(tmp_path / 'r.json', HEAD); go(s); assert len(ran) == len(set(ran)) and {r for r in ran if r[1] < 50 and r[2] == 4} == {(r, b, 4) for r in rows for b in (10, 20)}
    assert {r for r in ran if r[2] == 5 or r[1] == 50} == {(r, b, v) for r in ('ddim', 'k.2m') for b, v in ((10, 5), (20, 5), (50, 4), (50, 5))}
    n = len(ran); go(Store(tmp_path / 'r.json', HEAD)); assert len(ran) == n
    s.data['seeds'] = [4, 5]; lines = race.pooled(s, unit); v = race.verdicts(s, unit, 20); assert [(r['budget'], r['ours'], r['peer']) for r in v if r['peers'] == 'as they come'] == [(b, 'ddim', 'k.2m') for b in (10, 20, 50)]
    assert all(r['seeds'] == [4, 5] for r in v) and next(l for l in lines if l['row'] == 'ddim')['runs'] == 2 and [race.verdict(dict(resolved=r, low=l, high=h)) for r, l, h in ((False, .5, 2), (True, .5, .9), (True, 1.1, 2), (True, 1.001, 1.003))] == ['not resolved', 'ours ahead', 'the peer ahead', 'the same']


def test_a_full_disk_keeps_what_is_finished(monkeypatch, tmp_path, capsys):
    s = Store(tmp_path / 'r.json', HEAD); s.add(dict(row='ddim', budget=5, seed=1, nfe=5, frechet=1., seconds=1.), torch.zeros(4, 64)); before = (tmp_path / 'r.json').read_text()
    def full(*a): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(race.np, 'save', full)
    with pytest.raises(OSError): s.add(dict(row='ddim', budget=5, seed=2, nfe=5, frechet=1., seconds=1.), torch.zeros(4, 64))
    assert (tmp_path / 'r.json').read_text() == before and [f.name for f in s.cache.iterdir()] == ['ddim-5-1.npy'] and Store(tmp_path / 'r.json', HEAD).find('ddim', 5, 1)
    with pytest.raises(SystemExit, match='No space left'): race.main(['--json', str(tmp_path / 'q.json'), '--samplers', 'ddim', '--nfe', '5', '--n', '128', '--cells'])


@pytest.mark.parametrize('args, word', [(['--n', '20'], 'at least 128'), (['--nfe', '2'], 'at least 5'), (['--samplers', 'nope'], 'one of euler'), (['--finalists', '0'], 'at least 1'), (['--network', 'nowhere'], 'checkpoint')])
def test_bad_options(args, word, tmp_path):
    with pytest.raises(SystemExit, match=word): race.main(['--json', str(tmp_path / 'r.json'), *args])


def test_quick(tmp_path, capsys):
    f = tmp_path / 'quick.json'; race.main(['--quick', '--n', '128', '--json', str(f)]); said = capsys.readouterr().out; r = json.loads(f.read_text())
    assert {c['budget'] for c in r['cells']} == {10, 20} and 'over the best peer' in said or any('skipped' in v for v in r['skipped'])
    assert all(np.isfinite(c['frechet']) for c in r['cells']) and r['own_error'] and r['mixture'] and r['driver'] and r['core_minutes'] < 3
    race.main(['--quick', '--n', '128', '--json', str(f)]); assert len(json.loads(f.read_text())['cells']) == len(r['cells'])


# ---- the ledger

ROOT = race.RESULTS.parents[2]


def slug(title): return '-'.join(re.sub(r'[^\w\s-]', '', title.lower()).split())


def test_every_row_of_the_ledger_leads_somewhere():
    rows, gone = race.ledger(); assert not gone and len(rows) >= 40 and {r['paper'] for r in rows} == {'Compensation', 'Skip-step', 'Integrators', 'PSLD', 'Restart'}
    assert {r['verdict'] for r in rows} <= {'reproduced', 'partly', 'not reproduced', 'not resolved', 'holds', 'does not hold'} and all(r['verdict'] not in ('reproduced', 'partly', 'not reproduced') for r in rows if r['published'] == race.OWN) and len({(r['paper'], r['claim']) for r in rows if not r['claim'].startswith('...')}) >= 35
    for r in rows:
        page, anchor = r['link'].split('#'); cells = json.loads((ROOT / 'nbs' / page).read_text(encoding='utf-8'))['cells']
        assert anchor in {slug(l.lstrip('# ')) for c in cells if c['cell_type'] == 'markdown' for l in ''.join(c['source']).split('\n') if l.startswith('##')}, r['link']


@pytest.mark.parametrize('name, rows_of', [('compensation-modules.json', race.about_modules), ('compensation-arms.json', race.about_arms)])
def test_ledger_copes_with_files_that_grow(name, rows_of):
    whole_ = json.loads((race.RESULTS.parent / name).read_text()); seeds = sorted({c['seed'] for c in whole_['cells']})
    for kept in (whole_['cells'][:4], [c for c in whole_['cells'] if c['seed'] == seeds[0]], whole_['cells'][:-5], [*whole_['cells'], *(dict(c, seed=99) for c in whole_['cells'][:7])]):
        for r in rows_of(dict(whole_, cells=kept)): assert r is None or r['ours'] and 'nan' not in r['ours']


def test_ledger_without_files_and_with_foreign_ones(tmp_path):
    rows, gone = race.ledger(tmp_path); assert not rows and len(gone) == len(race.SOURCES) and all('no results file yet' in g for g in gone)
    (tmp_path / 'skipstep.json').write_text('{"cells": [{"arm": 3}]}')
    with pytest.raises(ValueError, match='skipstep.json'): race.ledger(tmp_path)


def test_sooner_is_a_ratio_of_steps():
    cells = [dict(arm=a, step=m, seed=0, nfe=20, strength=0., frechet=f) for a, fs in (('a', (8., 6., 4.)), ('b', (4., 3., 2.)), ('c', (9., 9., 9.)), ('d', (8., 2.))) for m, f in zip((100, 200, 400), fs)]
    assert race.sooner(cells, 'b', 'a') == [4.] and race.sooner(cells, 'c', 'a') == [0.] and race.sooner(cells, 'd', 'a') == [], 'an arm that is not finished is left out'
