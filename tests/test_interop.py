"Doors to other people's models: time and prediction conventions, their samplers' steps, guidance, our samplers in their pipelines, checkpoints, and what must be refused."
import json, math, os, subprocess, sys
import pytest, torch
from conftest import ROOT, missing
from compsamp import interop, load
from compsamp.core import Noise
from compsamp.forward import CosineVP, EDM, VP, discrete_betas, discrete_times, integrate_moments
from compsamp.interop import Dialogue, Table, as_noise, export_pretrained, from_diffusers, import_pretrained, number, schedule, to_diffusers, torch_noise, wrap
from compsamp.mixtures import ring
from compsamp.networks import PARAMETRISATIONS, Denoiser, PredictEDM, process_card
from compsamp.psld import PSLD
from compsamp.sampling import grid, nfe, parse_restart, parse_sampler, restarted, sample, states

os.environ.setdefault('HF_HUB_OFFLINE', '1')
TABLES = dict(linear=1 - torch.linspace(1e-4, .02, 1000).double(), scaled=1 - torch.linspace(.00085 ** .5, .012 ** .5, 1000).double() ** 2,
              cosine=1 - discrete_betas(CosineVP(), 200), short=torch.tensor([.9, .5]).double())

def last(steps):
    for z in steps: pass
    return z

# ---- without diffusers

def fresh(code, cwd):
    "Code in an interpreter that has no diffusers."
    code = 'import sys; sys.modules["diffusers"] = None\n' + code
    return subprocess.run([sys.executable, '-c', code], cwd=cwd, env=dict(os.environ, PYTHONPATH=str(ROOT)), capture_output=True, text=True, timeout=120)

def test_works_without_diffusers(tmp_path):
    out = fresh('''
import torch, compsamp, compsamp.interop as I
d = compsamp.load('fashion-vp'); I.export_pretrained('f', d); e = I.import_pretrained('f'); z = torch.randn(1, 1, 28, 28)
assert torch.equal(e.eps(z, .5), d.eps(z, .5)); I.wrap(lambda x, s: x / (1 + s[:, None, None, None] ** 2), I.EDM(), 'D').eps(z, 1.)
for f in (I.scheduler_class, I.model_class, lambda: I.SamplerScheduler, lambda: I.from_diffusers('f')):
    try: f(); print('no error')
    except ImportError as e: print(e)
try: I.Nonsense
except AttributeError as e: print(e)''', tmp_path)
    lines = out.stdout.splitlines()
    assert len(lines) == 5 and all("'diffusers'" in l and "pip install 'compsamp[interop]'" in l for l in lines[:4]) and 'Nonsense' in lines[4], out.stdout + out.stderr

def test_have(capsys):
    assert interop.have('torch') and not capsys.readouterr().out
    assert not interop.have('no_such_package') and 'compsamp[interop]' in capsys.readouterr().out

# ---- a table as a process

@pytest.mark.parametrize('name', TABLES)
def test_table_at_its_nodes(name):
    levels = TABLES[name].cumprod(0); p = Table(tuple(levels.tolist())); t = discrete_times(len(levels)); mu, C = p.marginal(t)
    assert float((mu[:, 0] ** 2 - levels).abs().max()) < 1e-12 and float((C[:, 0, 0] - (1 - levels)).abs().max()) < 1e-12
    assert p.eps == float(t[0]) and number(len(levels), t).tolist() == list(range(len(levels)))
    assert float((p.time(p.rho(t)) - t).abs().max()) < 1e-9
    a, b = p.transition(t[1:], t[:-1]); assert float((a[:, 0, 0] ** 2 - levels[1:] / levels[:-1]).abs().max()) < 1e-11 and float((b[:, 0, 0] - 1 + levels[1:] / levels[:-1]).abs().max()) < 1e-11

def test_table_between_its_nodes():
    p = Table(tuple(TABLES['linear'].cumprod(0).tolist())); t = torch.tensor([.0004, .1234567, .7777]).double()
    f, g = 1000 * t % 1, (1000 * t).floor().long(); B = torch.cat([torch.zeros(1).double(), -TABLES['linear'].log().cumsum(0)])
    assert float((p.integral(t, 0.) - ((1 - f) * B[g] + f * B[g + 1])).abs().max()) < 1e-12
    assert float((p.rho(p.time(torch.tensor([.005, .3, 7.]).double())) - torch.tensor([.005, .3, 7.]).double()).abs().max()) < 1e-9
    few = Table((.95, .7, .2)); P, S = integrate_moments(few, .6, .4); Q, R = few.transition(.6, .4)           # one cell: from F and G alone
    assert float((P - Q).abs().max()) < 1e-9 and float((S - R).abs().max()) < 1e-9
    assert abs(float(few.beta(1 / 3)) - -3 * math.log(.95)) < 1e-12 and abs(float(few.beta(.34)) - -3 * math.log(.7 / .95)) < 1e-12      # at a node: the cell below
    assert repr(few) == 'Table(3 levels from 0.95 to 0.2)' and hash(few) == hash(Table([.95, .7, .2]))

@pytest.mark.parametrize('levels, word', [((.5,), 'two'), ((.9, 0.), 'rescale_betas_zero_snr'), ((1., .5), '(0, 1)'), ((.5, .9), 'falling'), ((.9, float('nan')), '(0, 1)')])
def test_bad_table(levels, word):
    with pytest.raises(ValueError, match='levels') as e: Table(levels)
    assert word in str(e.value)

# ---- any function

def said(exact, kind, process):
    "What a perfect network of each kind answers at process time t."
    def f(x, t):
        t = t.double(); mu, C = (v.flatten() for v in process.marginal(t)); m, s = mu[:, None], C[:, None].sqrt()
        z = m * x if kind == 'D' else x; e = exact.predict(z.double(), t); x0 = (z - s * e) / m
        return dict(eps=e, x0=x0, D=x0, score=-e / s, v=m * e - s * x0)[kind]
    return f

@pytest.mark.parametrize('process, kind', [(p, kind) for p in (VP(), CosineVP(), Table(tuple(TABLES['linear'].cumprod(0).tolist())), EDM(T=20.)) for kind in ('eps', 'x0', 'v', 'score', 'D')
                                           if kind != 'v' or not isinstance(p, EDM)], ids=lambda v: v if isinstance(v, str) else type(v).__name__)      # v is defined where psi^2 + sigma^2 = 1
def test_every_kind_of_function(process, kind):
    exact = ring().denoiser(process); f = said(exact, kind, process)
    if kind == 'D': g = lambda x, s: f(x, process.time(s.double()))
    else: g = f
    d = wrap(g, process, kind, shape=(2,)); t = process.time([.3, 1., 3., .1]); z = process.perturb(torch.randn(4, 2).double(), t, torch.randn(4, 2).double())
    assert float((d.eps(z, t) - exact.eps(z, t)).abs().max()) < 2e-6 and d.nfe == 1
    assert float((d.x0(z, float(t[1])) - exact.x0(z, float(t[1]))).abs().max()) < 2e-5
    x = sample(parse_sampler('ddim'), d, 5, n=3, denoise=True); assert x.nfe == 5 and x.x.shape == (3, 2)

def test_time_of_ones_own():
    seen = []; d = wrap(lambda z, t: seen.append(t) or z, VP(), 'eps', time=lambda t: 100 * t + 1); d.eps(torch.zeros(2, 3), .25); d.eps(torch.zeros(2, 3), torch.tensor([.1, .2]).double())
    assert torch.allclose(torch.stack(seen), torch.tensor([[26., 26.], [11., 21.]])) and seen[0].dtype == torch.float32

def test_edm_network():
    net = lambda x, c: torch.tanh(x * c[:, None, None, None]); a, b = wrap(net, EDM(), 'edm', sigma_data=.7), Denoiser(PredictEDM(lambda z, t, l: net(z, t / 1000), EDM(), .7), EDM())
    z = torch.randn(2, 1, 4, 4); assert torch.allclose(a.eps(z, 1.3), b.eps(z, 1.3), atol=1e-6)

def test_half_precision_inside():
    net = torch.nn.Conv2d(1, 1, 1).to(torch.bfloat16); d = wrap(Half(net), VP()); e = d.eps(torch.randn(2, 1, 4, 4), .5); assert e.dtype == torch.float32 and torch.isfinite(e).all()

class Half(torch.nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, z, t): return self.net(z)

def test_karras_by_hand():
    "Algorithm 1 of Karras et al. in a few lines, on D(x, sigma), against our Heun in the same variable."
    D = lambda x, s: x / (1 + s.view(-1, 1) ** 2) + .1 * torch.tanh(x * s.view(-1, 1)); d = wrap(D, EDM(), 'D', shape=(2,)); times = grid(EDM(), 8, 'karras')
    x = 80 * torch.randn(3, 2).double(); y = x
    for s, r in zip(times[:-1], times[1:]):
        slope = (y - D(y, s.expand(3))) / s; w = y + (r - s) * slope; y = y + (r - s) / 2 * (slope + (w - D(w, r.expand(3))) / r)
    y = D(y, times[-1:].expand(3)); assert float((last(states(parse_sampler('edm'), d, times, x)) - y).abs().max()) < 1e-5

# ---- conditions

def conditional(x, t, c, more): return x * c['a'][:, :1] + more[:, None] * t[:, None]

def test_conditions_follow_their_samples():
    bank, empty = dict(c=dict(a=torch.arange(6.).view(3, 2)), more=torch.tensor([1., 2., 3.])), dict(c=dict(a=torch.zeros(2)), more=torch.tensor(0.))
    d = wrap(conditional, VP(), conditions=bank, empty=empty, shape=(2,)); z = torch.ones(3, 2); f = lambda j: torch.tensor([2. * j + (j + 1) * .5] * 2)
    assert torch.allclose(d.bind(labels=[2, 0, 1]).eps(z, .5), torch.stack([f(2), f(0), f(1)])) and bool((d.eps(z, .5) == 0).all())
    g = d.bind(labels=[2, 0, 1], guidance=3.); assert torch.allclose(g.eps(z, .5), 3 * torch.stack([f(2), f(0), f(1)])) and g.nfe == 2
    a, b = (sample(parse_sampler('ddim'), d, 6, n=5, labels=[0, 1, 2, 2, 1], guidance=2., batch=n) for n in (2, 5)); assert torch.allclose(a.x, b.x, atol=1e-5) and a.nfe == 12
    with pytest.raises(ValueError, match='labels'): d.bind(labels=[3])

def test_bad_conditions():
    bank = dict(c=dict(a=torch.zeros(3, 2)), more=torch.zeros(3)); d = wrap(conditional, VP(), conditions=bank)
    assert torch.isfinite(d.bind(labels=[0]).eps(torch.zeros(1, 2), .5)).all()
    for bad in (d, d.bind(labels=[0], guidance=2.)):
        with pytest.raises(ValueError, match='empty'): bad.eps(torch.zeros(1, 2), .5)
    with pytest.raises(ValueError, match='conditions'): wrap(conditional, VP(), conditions=dict(a=torch.zeros(2), b=torch.zeros(3)))
    with pytest.raises(ValueError, match='empty'): wrap(conditional, VP(), conditions=bank, empty=dict(more=0.))
    with pytest.raises(ValueError, match='conditions'): wrap(conditional, VP(), empty=dict(more=0.))
    with pytest.raises(ValueError, match='labels'): wrap(lambda z, t: z, VP()).bind(labels=[0])

def test_bad_functions():
    with pytest.raises(ValueError, match='predicts'): wrap(lambda z, t: z, VP(), 'flow')
    with pytest.raises(ValueError, match='k = 1'): wrap(lambda z, t: z, PSLD())
    with pytest.raises(TypeError, match='net'): wrap(3, VP())
    with pytest.raises(ValueError, match='learned variance'): wrap(lambda z, t: torch.cat([z, z], 1), VP()).eps(torch.zeros(1, 3, 4, 4), .5)

# ---- a walk that asks

SAMPLERS = ['ddim', 'ddim:eta=1', 'dpmpp2m', 'dpmpp2m:stochastic=1', 'conjugate:lam=.3', 'heun', 'edm', 'edm:s_churn=5', 'pndm', 'deis2', 'ddpm', 'em']

@pytest.mark.parametrize('up', [[], ['.1,1.,3,2'], ['.1,1.,3,2', '.4,2.,2,1']], ids=len)
@pytest.mark.parametrize('name', SAMPLERS)
def test_dialogue_is_the_driver(name, up):
    p = VP(); exact, s = ring().denoiser(p), parse_sampler(name); route = restarted(p, 9, [parse_restart(u, p) for u in up], 'karras'); noise = lambda: Noise(3, 4, (2,))
    draw, again = noise(), noise(); z = p.prior((4, 2), draw()); again(); d = Dialogue(s, p, route, z, again)
    while d.t is not None: d.answer(exact.predict(d.z, d.t))
    exact.nfe = 0; assert torch.equal(d.z, last(states(s, exact, route, z, draw))) and d.nfe == exact.nfe
    assert draw.count == again.count
    with pytest.raises(ValueError, match='ended'): d.answer(z)

# ---- with diffusers: in

@pytest.fixture(scope='module')
def diffusers():
    try: import diffusers as d
    except ImportError: missing("diffusers is not installed: pip install -e '.[interop]'")
    d.utils.logging.set_verbosity_error()
    return d

def tiny(diffusers, **kw):
    torch.manual_seed(0); layout = dict(down_block_types=('DownBlock2D', 'DownBlock2D'), up_block_types=('UpBlock2D', 'UpBlock2D'))
    return diffusers.UNet2DModel(**{**dict(sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4), **layout, **kw}).eval().requires_grad_(False)

@pytest.fixture(scope='module')
def unet(diffusers): return tiny(diffusers)

START = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
close = lambda a, b: float((a - b).detach().abs().max()) < 1e-5 * max(1., float(b.detach().abs().max()))

@pytest.mark.parametrize('means', ['epsilon', 'sample', 'v_prediction'])
@pytest.mark.parametrize('end', [dict(set_alpha_to_one=a, steps_offset=o) for a in (True, False) for o in (0, 1)], ids=str)
@pytest.mark.parametrize('spacing', ['leading', 'trailing'])
def test_ddim(diffusers, unet, spacing, end, means):
    s = diffusers.DDIMScheduler(timestep_spacing=spacing, prediction_type=means, clip_sample=False, beta_schedule='scaled_linear', **end); d = from_diffusers(unet, s); times, denoise = schedule(s, 10)
    x = START; s.set_timesteps(10)
    for i, t in enumerate(s.timesteps):
        y, x = x, s.step(unet(x, t).sample, t, x).prev_sample
        if i + 1 < len(times): assert close(last(states(parse_sampler('ddim'), d, times[i:i + 2], y, denoise=False)), x)     # one step
    d.nfe = 0; assert close(last(states(parse_sampler('ddim'), d, times, START, denoise=denoise)), x) and d.nfe in (9, 10) and d.shape == (3, 8, 8)

def test_ddim_linspace_stride(diffusers, unet):
    "With linspace the library steps by N // n, past or short of the next entry it will name; a step of ours to the same place agrees."
    s = diffusers.DDIMScheduler(timestep_spacing='linspace', clip_sample=False); s.set_timesteps(10); t, after = int(s.timesteps[0]), int(s.timesteps[1]); assert t - 1000 // 10 != after
    d = from_diffusers(unet, s); x = s.step(unet(START, t).sample, t, START).prev_sample; go = lambda to: last(states(parse_sampler('ddim'), d, [(t + 1) / 1000, (to + 1) / 1000], START, denoise=False))
    assert close(go(t - 100), x) and not close(go(after), x)

@pytest.mark.parametrize('eta', [0., .5, 1.])
def test_ddim_eta_and_clip(diffusers, unet, eta):
    s = diffusers.DDIMScheduler(timestep_spacing='trailing'); s.set_timesteps(10); d = from_diffusers(unet, s); assert d.clip and not from_diffusers(unet, s, clip=False).clip
    w = torch.randn_like(START); draw = lambda: w; t = 499
    x = s.step(unet(START, t).sample, t, START, eta=eta, variance_noise=w, use_clipped_model_output=True).prev_sample
    assert close(last(states(parse_sampler(f'ddim:eta={eta}'), d, [.5, .4], START, draw, denoise=False)), x)

@pytest.mark.parametrize('size', ['small', 'large'])
def test_ddpm(diffusers, unet, size):
    s = diffusers.DDPMScheduler(clip_sample=True, variance_type=f'fixed_{size}'); s.set_timesteps(10); d = from_diffusers(unet, s); t = 400; g = lambda: torch.Generator().manual_seed(7)
    x = s.step(unet(START, t).sample, t, START, generator=g()).prev_sample; w = torch.randn(START.shape, generator=g())
    assert close(last(states(parse_sampler(f'ddpm:variance={size}'), d, [.401, .301], START, lambda: w, denoise=False)), x)

def test_euler_and_dpm(diffusers, unet):
    s = diffusers.EulerDiscreteScheduler(timestep_spacing='linspace', beta_schedule='scaled_linear'); d = from_diffusers(unet, s); times, denoise = schedule(s, 8); s.set_timesteps(8)
    z = START; x = START / d.process.marginal(times[0])[0].float()
    for t in s.timesteps: x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert denoise and close(last(states(parse_sampler('ddim'), d, times, z)), x)
    for n in (8, 20):                                                                         # as it comes
        s = diffusers.DPMSolverMultistepScheduler(); times, denoise = schedule(s, n); x = START; s.set_timesteps(n)
        for t in s.timesteps: x = s.step(unet(x, t).sample, t, x).prev_sample
        assert denoise and len(times) == n and close(last(states(parse_sampler('dpmpp2m'), from_diffusers(unet, s), times, START)), x)
    for form in ('dpmsolver++', 'sde-dpmsolver++'):
        s = diffusers.DPMSolverMultistepScheduler(algorithm_type=form, lower_order_final=False, final_sigmas_type='sigma_min', timestep_spacing='trailing'); d = from_diffusers(unet, s); times, denoise = schedule(s, 8); s.set_timesteps(8)
        noises = torch.randn(8, *START.shape); x = START; draws = iter(noises)
        for t, w in zip(s.timesteps, noises): x = s.step(unet(x, t).sample, t, x, variance_noise=w).prev_sample
        y = last(states(parse_sampler('dpmpp2m:stochastic=1' if form[0] == 's' else 'dpmpp2m'), d, times, START, lambda: next(draws), denoise))
        assert not denoise and float((y - x).abs().max()) < 1e-4 * float(x.abs().max()), (form, float((y - x).abs().max()))

def test_edm_scheduler(diffusers, unet):
    s = diffusers.EDMEulerScheduler(sigma_max=20.); d = from_diffusers(unet, s); times, denoise = schedule(s, 8); s.set_timesteps(8); assert d.process == EDM(T=20., eps=.002) and denoise
    x = 20 * START
    for t in s.timesteps: x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert close(last(states(parse_sampler('ddim'), d, times, 20 * START)), x)

def prompted(diffusers):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'), up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D')).eval().requires_grad_(False)

STABLE = lambda diffusers: diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012)

def test_guidance(diffusers):
    "A tiny Stable Diffusion: two prompts and the empty one, guidance 5, against the library's own loop."
    net = prompted(diffusers); prompts, none = torch.randn(2, 5, 6), torch.randn(5, 6); s = STABLE(diffusers)
    d = from_diffusers(net, s, dict(encoder_hidden_states=prompts), dict(encoder_hidden_states=none)); times, denoise = schedule(s, 5); labels = torch.tensor([0, 1, 1])
    r = sample(parse_sampler('ddim'), d, times, n=3, seed=4, labels=labels, guidance=5., denoise=denoise, batch=2); assert r.nfe == 10
    x = Noise(4, 3, (4, 8, 8))(); s.set_timesteps(5); c = torch.cat([none.expand(3, 5, 6), prompts[labels]])
    for t in s.timesteps:
        u, v = net(torch.cat([x, x]), t, encoder_hidden_states=c).sample.chunk(2); x = s.step(u + 5 * (v - u), t, x).prev_sample
    assert close(r.x, x) and not close(sample(parse_sampler('ddim'), d, times, n=3, seed=4, labels=1 - labels, guidance=5., denoise=denoise).x, x)

def test_folders(diffusers, unet, tmp_path):
    s = diffusers.DDPMScheduler(num_train_timesteps=50, prediction_type='v_prediction'); a = from_diffusers(unet, s)
    unet.save_pretrained(tmp_path / 'net'); s.save_pretrained(tmp_path / 'net'); diffusers.DDPMPipeline(unet, s).save_pretrained(tmp_path / 'pipe')
    for b in (from_diffusers(tmp_path / 'net'), from_diffusers(str(tmp_path / 'pipe')), from_diffusers(diffusers.DDPMPipeline(unet, s)), from_diffusers(tmp_path / 'net', tmp_path / 'pipe' / 'scheduler')):
        assert b.shape == (3, 8, 8) and b.clip and repr(b.process) == repr(a.process) and close(b.eps(START, .5), a.eps(START, .5)) and not b.network.training
    (tmp_path / 'net' / 'diffusion_pytorch_model.safetensors').write_bytes((tmp_path / 'net' / 'diffusion_pytorch_model.safetensors').read_bytes()[:-100])
    with pytest.raises(ValueError, match='complete UNet2DModel'): from_diffusers(tmp_path / 'net')
    (tmp_path / 'net' / 'diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(ValueError, match='complete UNet2DModel'): from_diffusers(tmp_path / 'net')
    with pytest.raises(FileNotFoundError, match='config.json'): from_diffusers(tmp_path)
    for text, word in (('{', 'JSON'), ('[]', 'object'), ('{"_class_name": "DDPMScheduler"}', 'model of diffusers'), ('{"_class_name": "logging"}', 'logging'), ('{}', '_class_name')):
        (tmp_path / 'net' / 'config.json').write_text(text)
        with pytest.raises(ValueError, match=word): from_diffusers(tmp_path / 'net')

def test_foreign_things_we_refuse(diffusers, unet):
    D = diffusers.DDPMScheduler
    for s, word in ((D(prediction_type='flow'), 'prediction_type'), (D(thresholding=True), 'thresholding'), (D(rescale_betas_zero_snr=True), 'rescale_betas_zero_snr'), (D(clip_sample_range=2.), 'clip_sample_range'),
                    (diffusers.FlowMatchEulerDiscreteScheduler(), 'flow'), (diffusers.EDMEulerScheduler(prediction_type='v_prediction'), 'prediction_type')):
        with pytest.raises(ValueError, match=word): from_diffusers(unet, s)
    with pytest.raises(ValueError, match='out_channels'): from_diffusers(tiny(diffusers, out_channels=6), D())
    with pytest.raises(ValueError, match='shape'): from_diffusers(unet, D(), shape=(1, 8, 8))
    with pytest.raises(TypeError, match='scheduler'): from_diffusers(unet)
    with pytest.raises(TypeError, match='wrap'): from_diffusers(torch.nn.Linear(1, 1), D())

TWICE = ['PNDMScheduler', 'HeunDiscreteScheduler', 'KDPM2DiscreteScheduler', 'KDPM2AncestralDiscreteScheduler']

@pytest.mark.parametrize('n', [5, 20])
@pytest.mark.parametrize('name', TWICE)
def test_grids_of_schedulers_that_ask_twice(diffusers, name, n):
    with pytest.raises(ValueError, match=f"scheduler = '{name}'.*twice.*no grid.*grid\\(process, n\\)"): schedule(getattr(diffusers, name)(), n)
    if name == 'PNDMScheduler':
        with pytest.raises(ValueError, match='twice'): schedule(diffusers.PNDMScheduler(skip_prk_steps=True), n)

@pytest.mark.parametrize('name', ['DDPMScheduler', 'LMSDiscreteScheduler', 'UniPCMultistepScheduler', 'DEISMultistepScheduler', 'EulerAncestralDiscreteScheduler'])
def test_grids_of_other_schedulers(diffusers, name):
    times, _ = schedule(getattr(diffusers, name)(), 6); assert len(times) in (6, 7) and bool((times[1:] < times[:-1]).all())

# ---- with diffusers: out

def pipeline(diffusers, unet, scheduler, name='DDIMPipeline'):
    pipe = getattr(diffusers, name)(unet, scheduler); pipe.scheduler = scheduler; pipe.set_progress_bar_config(disable=True)
    return pipe

def drawn(pipe, n=8, seed=0, batch=2, **kw):
    "The end of the walk, before the pipeline clips it to [-1, 1]: where nearly all is clipped, all pictures agree."
    x = 2 * pipe(batch_size=batch, num_inference_steps=n, generator=kw.pop('generator', torch.Generator().manual_seed(seed)), output_type='pt', **kw).images - 1
    z = pipe.scheduler.talk.z; assert torch.allclose(x, z.clamp(-1, 1), atol=1e-6)
    return z

def driven(d, name, n, ups=(), kind='karras', seed=0, generator=None):
    "Our driver, from the start and with the noise that a pipeline would have."
    draw = torch_noise(generator or torch.Generator().manual_seed(seed), torch.empty(2, *d.shape)); p = d.process; d.nfe = 0
    return last(states(parse_sampler(name), d, restarted(p, n, [parse_restart(u, p) for u in ups], kind), draw(), draw))

@pytest.mark.parametrize('up', [[], ['.1,1.,3,2']], ids=len)
@pytest.mark.parametrize('name', SAMPLERS)
def test_pipeline_is_the_driver(diffusers, unet, name, up):
    s = interop.SamplerScheduler(sampler=name, restart=up, prediction_type='sample'); pipe = pipeline(diffusers, unet, s); d = from_diffusers(pipe); x = drawn(pipe, eta=0.)
    assert float((x.abs() >= 1).float().mean()) < .1                                          # so the pictures are hardly clipped either
    assert float((x - driven(d, name, 8, up)).abs().max()) < 1e-5 and len(s.timesteps) == d.nfe == nfe(parse_sampler(name), s.route)

@pytest.mark.parametrize('means', ['sample', 'v_prediction'])
def test_pipeline_conventions(diffusers, unet, means):
    base = diffusers.DDPMScheduler(num_train_timesteps=100, beta_schedule='squaredcos_cap_v2', prediction_type=means); s = interop.SamplerScheduler.from_config(base.config, kind='uniform')
    assert s.config.clip_sample and torch.allclose(s.alphas_cumprod, base.alphas_cumprod) and len(s) == 100
    pipe = pipeline(diffusers, unet, s, 'DDPMPipeline'); d = from_diffusers(pipe); assert d.clip and float((drawn(pipe) - driven(d, 'dpmpp2m', 8, kind='uniform')).abs().max()) < 1e-5
    gens = lambda: [torch.Generator().manual_seed(i) for i in (3, 4)]; a = drawn(pipe, generator=gens()); b = drawn(pipe, generator=gens()[1:], batch=1)
    assert float((a[1:] - b).abs().max()) < 1e-4                                              # a generator per picture: the same one alone
    assert not interop.SamplerScheduler.from_config(diffusers.DPMSolverMultistepScheduler().config).config.clip_sample

def test_seed_in_the_config(diffusers, unet):
    "From our first draw on, with our seed: what `sample` draws."
    s = interop.SamplerScheduler(sampler='ddpm', seed=5, restart=['.1,1.,3,1']); d = from_diffusers(unet, s); z = Noise(5, 2, (3, 8, 8))(); s.set_timesteps(6)
    for t in s.timesteps: z = s.step(unet(z, t).sample, t, z, return_dict=False)[0]
    p = d.process; r = sample(parse_sampler('ddpm'), d, restarted(p, 6, [parse_restart('.1,1.,3,1', p)], 'karras'), n=2, seed=5); assert float((r.x - z).abs().max()) < 1e-5

def test_latents_of_a_tiny_stable_diffusion(diffusers, unet):
    "Start handed over as `latents`, seed in the configuration: what `sample` draws, unpacked by the pipeline's autoencoder."
    pytest.importorskip('transformers', reason="diffusers' StableDiffusionPipeline needs transformers")
    torch.manual_seed(0); vae = diffusers.AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, latent_channels=4, down_block_types=('DownEncoderBlock2D',) * 2, up_block_types=('UpDecoderBlock2D',) * 2).eval().requires_grad_(False)
    net = prompted(diffusers); prompts, none = torch.randn(2, 5, 6), torch.randn(5, 6); labels = torch.tensor([0, 1, 1])
    pipe = diffusers.StableDiffusionPipeline(vae=vae, text_encoder=None, tokenizer=None, unet=net, scheduler=STABLE(diffusers), safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True); pipe.scheduler = interop.SamplerScheduler.from_config(pipe.scheduler.config, sampler='dpmpp2m:stochastic=1', seed=5)
    x = 2 * pipe(prompt_embeds=prompts[labels], negative_prompt_embeds=none.expand(3, 5, 6), guidance_scale=5., num_inference_steps=8, latents=Noise(5, 3, (4, 8, 8))(), output_type='pt').images - 1
    d = from_diffusers(pipe, conditions=dict(encoder_hidden_states=prompts), empty=dict(encoder_hidden_states=none)); r = sample(parse_sampler('dpmpp2m:stochastic=1'), d, grid(d.process, 8, 'karras'), n=3, seed=5, batch=3, labels=labels, guidance=5.)
    with torch.no_grad(): pictures = pipe.vae.decode(r.x / pipe.vae.config.scaling_factor).sample
    assert float((x.abs() >= 1).float().mean()) < .1 and float((x - pictures.clamp(-1, 1)).abs().max()) < 1e-5

def test_a_module_for_a_foreign_network(diffusers, unet, tmp_path):
    "A compensation module is fitted to it, wraps it, and is read back for it; not for one with another table."
    from compsamp.compensation import Compensated, ModuleObjective, fit_timewise_scaling, load_module, save_module
    d = from_diffusers(unet, diffusers.DDPMScheduler(beta_schedule='scaled_linear', beta_start=.00085, beta_end=.012, clip_sample=False)); x = torch.rand(40, *d.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    m = fit_timewise_scaling(ModuleObjective(d, 'finer', 4, 2), x); save_module(tmp_path / 'm', m); again = load_module(tmp_path / 'm', d)
    a, b, off = (sample(parse_sampler('ddim'), v, 4, n=2, seed=1).x for v in (Compensated(d, m), Compensated(d, again), d)); assert torch.equal(a, b) and not torch.equal(a, off)
    other = from_diffusers(unet, diffusers.DDPMScheduler(clip_sample=False))
    with pytest.raises(ValueError, match='one trained for the process at hand'): Compensated(other, m)

def test_begin_in_the_middle(diffusers, unet):
    "As image-to-image pipelines do: noise a picture to an entry, and go on from there."
    s = interop.SamplerScheduler(sampler='dpmpp2m', kind='uniform'); s.set_timesteps(10); x0 = START.tanh(); w = torch.randn_like(x0); at = 4; p = s.process
    z = s.add_noise(x0, w, s.timesteps[at:at + 1]); times = grid(p, 10)[at:]; assert close(z, p.perturb(x0, float(times[0]), w)); d = from_diffusers(unet, s); want = last(states(parse_sampler('dpmpp2m'), d, times, z))
    for begin in (True, False):
        s.set_timesteps(10); x = z
        if begin: s.set_begin_index(at)
        for t in s.timesteps[at:]: x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
        assert close(x, want)
    s = interop.SamplerScheduler(sampler='heun'); s.set_timesteps(5); s.set_begin_index(1)
    with pytest.raises(ValueError, match='begin_index'): s.step(z, s.timesteps[1], z)

def test_a_changed_sample_is_respected(diffusers, unet):
    s = interop.SamplerScheduler(sampler='ddim'); s.set_timesteps(5); z, t = START, s.timesteps; y = s.step(z, t[0], z).prev_sample
    assert torch.allclose(s.step(2 * y, t[1], 2 * y).prev_sample, 2 * again(s.config, z), atol=1e-5)

def again(config, z):
    "The second state without the change."
    s = interop.SamplerScheduler.from_config(config); s.set_timesteps(5); y = s.step(z, s.timesteps[0], z).prev_sample
    return s.step(y, s.timesteps[1], y).prev_sample

def test_scheduler_saves_and_loads(diffusers, unet, tmp_path):
    s = interop.SamplerScheduler(sampler='dpmpp2m:stochastic=1', restart=['.1,1.,3,2'], trained_betas=discrete_betas(VP(), 500).tolist(), num_train_timesteps=500, seed=3, prediction_type='sample'); s.save_pretrained(tmp_path / 's')
    r = interop.SamplerScheduler.from_pretrained(tmp_path / 's'); assert dict(r.config).items() >= {n: v for n, v in s.config.items() if n[0] != '_'}.items() and not [*tmp_path.rglob('*.bin')]
    pipe = pipeline(diffusers, unet, s, 'DDPMPipeline'); pipe.save_pretrained(tmp_path / 'p'); q = diffusers.DDPMPipeline.from_pretrained(tmp_path / 'p'); q.set_progress_bar_config(disable=True)
    assert isinstance(q.scheduler, interop.SamplerScheduler) and float((drawn(q, 5) - drawn(pipe, 5)).abs().max()) < 1e-4
    d = from_diffusers(tmp_path / 'p'); assert len(d.process.levels) == 500

def test_trap_ddim_pipeline_converts(diffusers, unet):
    "The constructor of DDIMPipeline replaces whatever scheduler it is given; only assigning afterwards keeps ours."
    pipe = diffusers.DDIMPipeline(unet, interop.SamplerScheduler()); assert type(pipe.scheduler) is diffusers.DDIMScheduler

def test_scheduler_errors(diffusers, unet):
    S = interop.SamplerScheduler; PROCESS = process_card(PSLD())
    for kw, word in ((dict(sampler='nonsense'), 'sampler'), (dict(sampler='roba'), 'k = 1'), (dict(restart=['1,2']), 'restart'), (dict(prediction_type='flow'), 'prediction_type'), (dict(thresholding=True), 'thresholding'),
                     (dict(process=PROCESS), 'k = 1'), (dict(trained_betas=[.1, 1.], num_train_timesteps=2), 'levels'), (dict(clip_sample=True, clip_sample_range=3.), 'clip_sample_range')):
        with pytest.raises(ValueError, match=word): S(**kw)
    with pytest.raises(ValueError, match='rescale_betas_zero_snr'): S.from_config(diffusers.DDIMScheduler(rescale_betas_zero_snr=True).config)
    s = S(sampler='ddim')
    with pytest.raises(ValueError, match='set_timesteps'): s.step(START, 999, START)
    for n in (0, 2.5):
        with pytest.raises(ValueError, match='n = '): s.set_timesteps(n)
    with pytest.raises(ValueError, match='kind'): S(kind='nonsense').set_timesteps(3)
    s.set_timesteps(5); step = lambda t=s.timesteps[0], **kw: s.step(START, t, START, **kw)
    with pytest.raises(ValueError, match='ddim:eta=1'): step(eta=.5)
    with pytest.raises(ValueError, match='clip_sample'): step(use_clipped_model_output=True)
    with pytest.raises(ValueError, match='timestep'): step(t=123.)
    s.set_timesteps(5); step()
    with pytest.raises(ValueError, match='timestep'): step(t=s.timesteps[3])
    S(sampler='ddim', restart=['.1,1.,3,2']).set_timesteps(1000)                              # as many points as one likes

# ---- our networks, out and in

@pytest.mark.parametrize('name', ['fashion-vp', 'fashion-psld'])
def test_checkpoint_round_trip(diffusers, name, tmp_path):
    d = load(name); export_pretrained(tmp_path, d); e = import_pretrained(tmp_path); k = d.process.k; z = torch.randn(2, k, 28, 28)
    assert sorted(p.name for p in tmp_path.iterdir()) == ['config.json', 'diffusion_pytorch_model.safetensors'] and e.shape == d.shape and e.process == d.process
    a, b = d.network.state_dict(), e.network.state_dict(); assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    m = interop.NoiseModel.from_pretrained(tmp_path); t = torch.tensor([499, 99])
    assert close(m(z, 499).sample, d.eps(z, .5)) and close(m(z, t).sample, d.eps(z, torch.tensor([.5, .1]).double())) and close(m(z, 499, torch.tensor([3, 10]))[0][:1], d.bind(labels=[3, 3]).eps(z, .5)[:1])
    m.save_pretrained(tmp_path / 'theirs'); f = import_pretrained(tmp_path / 'theirs'); assert all(torch.equal(a[n], v) for n, v in f.network.state_dict().items())
    assert type(f.network) is type(d.network) is PARAMETRISATIONS[d.card['network']['predicts']]

def test_our_network_in_their_pipeline(diffusers):
    d = load('fashion-vp'); s = interop.SamplerScheduler(process=process_card(d.process)); pipe = pipeline(diffusers, to_diffusers(d), s)
    assert float((drawn(pipe) - driven(d, 'dpmpp2m', 8)).abs().max()) < 1e-5
    labels = torch.tensor([3, 7]); c = from_diffusers(pipe, conditions=dict(class_labels=torch.arange(10)), empty=dict(class_labels=10)).bind(labels=labels, guidance=2.)
    assert close(c.eps(torch.ones(2, 1, 28, 28), .3), d.bind(labels=labels, guidance=2.).eps(torch.ones(2, 1, 28, 28), .3))

def test_bad_checkpoints(tmp_path):
    d = load('fashion-vp'); export_pretrained(tmp_path, d); config = json.loads((tmp_path / 'config.json').read_text()); weights = tmp_path / 'diffusion_pytorch_model.safetensors'; whole = weights.read_bytes()
    def with_config(**changes): (tmp_path / 'config.json').write_text(json.dumps({**config, **changes}))
    for changes, word in ((dict(_class_name='UNet2DModel'), 'from_diffusers'), (dict(process=dict(name='Nonsense')), 'process.name'), (dict(network={**config['network'], 'predicts': 'flow'}), 'predicts'),
                          (dict(network={**config['network'], 'config': {**config['network']['config'], 'width': 24}}), 'differ')):
        with_config(**changes)
        with pytest.raises(ValueError, match=word): import_pretrained(tmp_path)
    (tmp_path / 'config.json').write_text(json.dumps({n: v for n, v in config.items() if n != 'sample_size'}))
    with pytest.raises(ValueError, match='sample_size'): import_pretrained(tmp_path)
    with_config(); weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match='safetensors'): import_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match='config.json'): import_pretrained(tmp_path / 'nowhere')
    with pytest.raises(TypeError, match='foreign'): export_pretrained(tmp_path, wrap(lambda z, t: z, VP(), shape=(1, 4, 4)))
