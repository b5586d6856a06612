"`SamplerScheduler` held to what diffusers asks of its own schedulers, over many configurations."

import copy
import inspect
import os
import pickle
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
import tiny_pipelines as T
import torch

from compsamp import interop
from compsamp.forward import VP, discrete_betas
from compsamp.interop import GRID_KINDS, Table, limit_picture, scheduler_grid, table_times
from compsamp.mixtures import ring
from compsamp.networks import process_card
from compsamp.psld import PSLD
from compsamp.sampling import grid, nfe, states
from compsamp.zoo import SamplingSpec, parse_sampler

os.environ.setdefault("HF_HUB_OFFLINE", "1")

SNR = dict(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction")
EDM = dict(family="edm", sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
FLOW = dict(family="flow", shift=3.0)
CONFIGS = dict(
    plain={},
    ddim=dict(sampler="ddim"),
    eta=dict(sampler="ddim:eta=1"),
    heun=dict(sampler="heun"),
    karras=dict(sampler="edm", kind="karras"),
    churn=dict(sampler="edm:s_churn=10"),
    conjugate=dict(sampler="conjugate:lam=.3"),
    pndm=dict(sampler="pndm"),
    deis=dict(sampler="deis2"),
    stochastic=dict(sampler="dpmpp2m:stochastic=1"),
    ancestral=dict(sampler="ddpm"),
    restart=dict(restart=["0.1,1.0,3,2"]),
    heun_restart=dict(sampler="heun", restart=["0.1,1.0,3,2"]),
    sample=dict(prediction_type="sample", clip_sample=True, clip_sample_range=2.0),
    velocity=dict(prediction_type="v_prediction", beta_schedule="scaled_linear"),
    cosine=dict(beta_schedule="squaredcos_cap_v2"),
    threshold=dict(thresholding=True, sample_max_value=3.0),
    zero_snr=SNR,
    trailing=dict(timestep_spacing="trailing"),
    short=dict(num_train_timesteps=100, kind="uniform"),
    seed=dict(sampler="ddpm", seed=4),
    process=dict(process=process_card(VP())),
    edm=EDM,
    edm_v=dict(EDM, prediction_type="v_prediction", sampler="heun"),
    exponential=dict(EDM, sigma_schedule="exponential"),
    flow=FLOW,
    flow_heun=dict(FLOW, sampler="heun", restart=["0.1,1.0,3,2"]),
)


@pytest.fixture(params=CONFIGS)
def config(request, diffusers):
    return CONFIGS[request.param]


def make(config):
    return interop.SamplerScheduler(**config)


SAMPLE = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def one_step(s, sample=SAMPLE, seed=0, n=10, **settings):
    "The first step of a walk, with a tenth of the sample for the network's answer."
    s.set_timesteps(n)
    t = s.timesteps[0]
    answer = 0.1 * s.scale_model_input(sample, t)
    return s.step(answer, t, sample, generator=T.generator(seed), **settings)


def walk(s, n=10, seed=0, dtype=torch.float32, device="cpu"):
    "A whole walk with a network that is a simple function of state and time."
    s.set_timesteps(n, device=device)
    x = SAMPLE.to(dtype) * s.init_noise_sigma
    g = T.generator(seed)
    for t in s.timesteps:
        y = s.scale_model_input(x, t)
        x = s.step(0.3 * y.float().sin().to(dtype), t, x, generator=g).prev_sample
    return x


# ---- what every scheduler must do


def test_saved_and_loaded_it_steps_the_same(config, tmp_path):
    a = make(config)
    a.save_config(tmp_path)
    b = interop.SamplerScheduler.from_pretrained(tmp_path)
    assert torch.equal(one_step(a).prev_sample, one_step(b).prev_sample)
    kept, read = (
        {k: v for k, v in c.items() if k != "_use_default_values"} for c in (a.config, b.config)
    )
    assert kept == read


def test_a_step_keeps_shape_and_type(config):
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        out = one_step(make(config), SAMPLE.to(dtype))
        assert out.prev_sample.shape == SAMPLE.shape == out.pred_original_sample.shape
        assert out.prev_sample.dtype == dtype


def test_tuple_and_object_say_the_same(config):
    a, b = one_step(make(config)), one_step(make(config), return_dict=False)
    assert isinstance(b, tuple) and torch.equal(a.prev_sample, b[0])
    assert torch.equal(a.pred_original_sample, b[1])


def test_timesteps(config):
    s = make(config)
    s.set_timesteps(10)
    assert s.timesteps.dtype == torch.float32 and s.num_inference_steps == 10
    assert len(s.timesteps) == nfe(s.sampler, s.route) == len(s.sigmas) - 1
    assert s.order == s.sampler.evals and s.init_noise_sigma > 0 and len(s) > 0
    low, high = s.convention.told(s.process.T), s.convention.told(s.process.eps)
    assert bool(((s.timesteps <= low + 1) & (s.timesteps >= high - 1)).all())


def test_a_walk_is_the_same_twice(config):
    s = make(config)
    first = walk(s)
    assert torch.equal(walk(s), first) and bool(torch.isfinite(first).all())
    s.set_timesteps(10)
    one_step(s, n=7)  # a walk broken off, and timesteps set twice
    assert torch.equal(walk(s), first)


def test_noise_is_added_on_the_device(config):
    s = make(config)
    s.set_timesteps(20)
    noise = torch.randn_like(SAMPLE)
    t = s.timesteps[5][None]
    z = s.add_noise(SAMPLE, noise, t)
    mu, C = s.process.marginal(s.plan[5].t)
    want = float(mu[0]) * SAMPLE + float(C[0, 0].sqrt()) * noise
    assert z.device == SAMPLE.device and float((z - want).abs().max()) < 2e-3
    assert torch.equal(s.scale_noise(SAMPLE, t, noise), z)
    many = s.add_noise(SAMPLE, noise, s.timesteps[[5, 3]])
    assert torch.equal(many[:1], z[:1]) and not torch.equal(many[1:], z[1:])
    half = s.add_noise(SAMPLE.half(), noise.half(), t)
    assert half.dtype == torch.float16


def test_public_face(config):
    s = make(config)
    assert s.scale_model_input(SAMPLE, 0.0).shape == SAMPLE.shape
    s.something = 5
    assert s.something == 5
    with pytest.raises(AttributeError):
        s.nothing_of_this_name  # noqa: B018
    assert {"generator", "eta"} <= inspect.signature(s.step).parameters.keys()
    given = inspect.signature(s.set_timesteps).parameters.keys()
    assert {"timesteps", "sigmas", "device", "mu"} <= given


def test_trained_betas(diffusers, tmp_path):
    for betas in (np.array([0.1, 0.3]), [0.1, 0.3]):
        s = interop.SamplerScheduler(trained_betas=betas)
        s.save_pretrained(tmp_path)
        again = interop.SamplerScheduler.from_pretrained(tmp_path)
        assert s.betas.tolist() == again.betas.tolist() and len(s) == 2


def can_be_made(name):
    "Whether a scheduler of diffusers has all it needs."
    return name != "DPMSolverSDEScheduler" or find_spec("torchsde") is not None


def test_compatible_classes(config):
    s = make(config)
    kept = {k: v for k, v in s.config.items() if k != "_use_default_values"}
    for cls in filter(lambda cls: can_be_made(cls.__name__), s.compatibles):
        if s.config.family == "table" and not s.config.process:
            back = interop.SamplerScheduler.from_config(cls.from_config(s.config).config)
            now = {k: v for k, v in back.config.items() if k in kept}
            lost = {k for k in now if now[k] != kept[k]}
            assert not lost - {"_class_name"}, (cls, lost)


def test_without_set_timesteps(config):
    s = make(config)
    with pytest.raises(ValueError, match="set_timesteps"):
        s.step(SAMPLE, s.timesteps[0], SAMPLE)


# ---- walks broken off, copied, changed


def test_a_scheduler_copied_in_the_middle_goes_on(config):
    a = make(config)
    a.set_timesteps(8)
    x, g = SAMPLE * a.init_noise_sigma, T.generator()
    for i, t in enumerate(a.timesteps):
        if i == 5:
            state = g.get_state()
            held = [copy.deepcopy((a, x)), pickle.loads(pickle.dumps((a, x)))]
        x = a.step(0.3 * a.scale_model_input(x, t).sin(), t, x, generator=g).prev_sample
    for b, y in held:
        h = torch.Generator()
        h.set_state(state)
        for t in b.timesteps[5:]:
            y = b.step(0.3 * b.scale_model_input(y, t).sin(), t, y, generator=h).prev_sample
        assert torch.allclose(x, y, atol=1e-6)


def test_a_changed_sample_is_respected(diffusers):
    for name in ("ddim", "heun", "edm:s_churn=10"):
        ends = []
        for change in (0, 1, 2):
            s = make(dict(sampler=name, kind="uniform"))
            s.set_timesteps(8)
            x, g = SAMPLE.clone(), T.generator()
            for i, t in enumerate(s.timesteps):
                x = s.step(0.3 * s.scale_model_input(x, t).sin(), t, x, generator=g).prev_sample
                if i == 2 * s.order - 1:  # a step has just ended
                    x = x if change == 0 else x + 1 if change == 1 else x.add_(1)
            ends.append(x)
        assert not torch.allclose(ends[0], ends[1], atol=0.1)
        assert torch.allclose(ends[1], ends[2], atol=1e-6)


def test_inside_a_step_the_state_is_handed_back(diffusers):
    "So a pipeline that stops between two evaluations has the state of the grid point."
    s = make(dict(sampler="heun"))
    s.set_timesteps(5)
    y = s.scale_model_input(SAMPLE, s.timesteps[0])
    out = s.step(y.sin(), s.timesteps[0], SAMPLE).prev_sample
    assert out is SAMPLE and not torch.equal(s.scale_model_input(out, s.timesteps[1]), out)
    doubled = s.scale_model_input(torch.cat([out, out]), s.timesteps[1])
    assert torch.equal(doubled[:2], doubled[2:]) and len(doubled) == 4
    s.set_timesteps(5)  # a pipeline that never calls scale_model_input gets the question itself
    out = s.step(y.sin(), s.timesteps[0], SAMPLE).prev_sample
    assert torch.allclose(out, doubled[:2])


def test_begin_in_the_middle(config):
    "At every entry where a step begins, at the noise of that entry; elsewhere an error."
    s = make(config)
    s.set_timesteps(8)
    plan = list(s.plan)
    for i, entry in enumerate(plan):
        s.set_timesteps(8)
        s.set_begin_index(i)
        t = s.timesteps[i]
        y = s.scale_model_input(SAMPLE, t)
        if not entry.begins:
            with pytest.raises(ValueError, match="begin_index"):
                s.step(y, t, SAMPLE)
            continue
        if s.intervals and i > 0:
            continue
        s.step(0.3 * y.sin(), t, SAMPLE, generator=T.generator())
        assert s.begin_index == i and s.step_index == i + 1


def test_restart_and_the_strength_of_image_to_image(diffusers):
    s = make(dict(sampler="ddim", restart=["0.1,1.0,3,2"]))
    s.set_timesteps(10)
    levels = s.process.rho(torch.tensor([e.level for e in s.plan]))
    before = max(i for i, e in enumerate(s.plan) if e.point is not None and levels[i] > 1.05)
    noise = torch.randn_like(SAMPLE)
    for i in range(1, len(s.plan)):
        s.set_timesteps(10)
        s.set_begin_index(i)
        t = s.timesteps[i : i + 1]
        if i <= before:
            s.add_noise(SAMPLE, noise, t)
            continue
        with pytest.raises(ValueError, match="begin_index.*Restart intervals.*strength"):
            s.add_noise(SAMPLE, noise, t)


# ---- numbers


def test_threshold(diffusers):
    stock = diffusers.DDPMScheduler(thresholding=True, sample_max_value=1.5)
    x = 2 * torch.randn(3, 3, 8, 8).double()
    s = make(dict(thresholding=True, sample_max_value=1.5))
    assert torch.allclose(limit_picture(x, s.config), stock._threshold_sample(x))
    clip = make(dict(clip_sample=True, clip_sample_range=0.5))
    assert torch.equal(limit_picture(x, clip.config), x.clamp(-0.5, 0.5))
    assert limit_picture(x, make({}).config) is x


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_thresholding_as_the_stock_solver(diffusers, kind):
    settings = dict(thresholding=True, sample_max_value=1.2, prediction_type=kind)
    stock = diffusers.DPMSolverMultistepScheduler(**settings)
    ours = interop.SamplerScheduler.from_config(stock.config)
    times, _ = scheduler_grid(diffusers.DPMSolverMultistepScheduler(), 8)
    entries = ours.convention.told(times).tolist()
    ours.set_timesteps(timesteps=entries)
    stock.set_timesteps(8)
    x = y = SAMPLE
    for t, u in zip(stock.timesteps, ours.timesteps):
        assert float(t) == float(u)
        x = stock.step(2 * x.sin(), t, x).prev_sample
        y = ours.step(2 * y.sin(), u, y).prev_sample
    assert torch.allclose(x, y, atol=1e-4)


def test_pred_original_sample_and_velocity(diffusers):
    stock = diffusers.DDIMScheduler(clip_sample=False)
    stock.set_timesteps(10)
    ours = make(dict(sampler="ddim"))
    entries = stock.timesteps.tolist()
    ours.set_timesteps(timesteps=entries)
    a = stock.step(SAMPLE.sin(), entries[0], SAMPLE)
    b = ours.step(SAMPLE.sin(), ours.timesteps[0], SAMPLE)
    assert torch.allclose(a.pred_original_sample, b.pred_original_sample, rtol=1e-4, atol=1e-3)
    assert torch.allclose(a.prev_sample, b.prev_sample, atol=1e-4)
    noise, t = torch.randn_like(SAMPLE), torch.tensor([300, 900])
    want = stock.get_velocity(SAMPLE, noise, t)
    assert torch.allclose(ours.get_velocity(SAMPLE, noise, t), want, atol=1e-5)
    assert torch.allclose(ours.betas, stock.betas)
    assert torch.allclose(ours.alphas_cumprod, stock.alphas_cumprod)
    assert torch.equal(make(FLOW).get_velocity(SAMPLE, noise, t), noise - SAMPLE)


def test_custom_times(diffusers):
    from diffusers.schedulers import AysSchedules

    s = make(dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012))
    s.set_timesteps(timesteps=AysSchedules["StableDiffusionTimesteps"])
    assert s.timesteps.tolist() == AysSchedules["StableDiffusionTimesteps"]
    assert s.num_inference_steps == 10
    s.set_timesteps(sigmas=AysSchedules["StableDiffusionSigmas"])
    wanted = torch.tensor(AysSchedules["StableDiffusionSigmas"])
    assert torch.allclose(s.sigmas, wanted, rtol=1e-3)
    near = torch.tensor(AysSchedules["StableDiffusionTimesteps"], dtype=torch.float32)
    assert float((s.timesteps - near).abs().max()) < 3
    with pytest.raises(ValueError, match="num_inference_steps"):
        s.set_timesteps()
    with pytest.raises(ValueError, match="^timesteps = .3.0, 5.0.: strictly falling"):
        s.set_timesteps(timesteps=[3, 5])
    with pytest.raises(ValueError, match="^sigmas = .1.0, 10.0.: strictly falling"):
        s.set_timesteps(sigmas=[1.0, 10.0])
    for config in ({}, FLOW, EDM_FAMILY):
        for empty in (dict(sigmas=[]), dict(timesteps=[])):
            with pytest.raises(ValueError, match="at least one"):
                make(config).set_timesteps(**empty)
    f = make(FLOW)
    f.set_timesteps(sigmas=[1.0, 0.5, 0.25])
    assert torch.allclose(f.timesteps, 1000 * torch.tensor([1.0, 0.75, 0.5]))


EDM_FAMILY = dict(family="edm", sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(timestep_spacing="trailing"),
        EDM_FAMILY,
        EDM_FAMILY | dict(sigma_schedule="exponential"),
        FLOW,
        FLOW | dict(kind="karras"),
    ],
)
def test_a_number_of_steps_may_be_numpys(diffusers, config):
    plain, numpys = make(config), make(config)
    plain.set_timesteps(5)
    numpys.set_timesteps(np.int64(5))
    assert torch.equal(plain.timesteps, numpys.timesteps)
    assert type(numpys.num_inference_steps) is int


def test_trailing_entries(diffusers):
    for n in (1, 2, 4, 7):
        stock = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
        stock.set_timesteps(n)
        ours = interop.SamplerScheduler.from_config(stock.config, sampler="ddim")
        ours.set_timesteps(n)
        assert ours.timesteps.tolist() == stock.timesteps.tolist()


@pytest.mark.parametrize(
    "named, first",
    [({}, 80), ({"low": 0.03}, 80), ({"low": 0.03, "high": 200.0}, 200), ({"high": 40.0}, 40)],
)
def test_a_cosine_table_begins_at_80_also_where_its_lower_end_is_named(diffusers, named, first):
    "It would begin at a ratio of 20,000, where nothing can be seen, and waste half its steps."
    config = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2").config
    ours = interop.SamplerScheduler.from_config(config, sampler="dpmpp2m", **named)
    ours.set_timesteps(10)
    assert float(ours.sigmas[0]) == pytest.approx(first, rel=1e-3)


def test_grids(diffusers):
    p = Table(tuple(diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod))
    assert float(p.rho(table_times(p, 9)[0])) == pytest.approx(80, rel=1e-3)
    assert float(table_times(p, 9, "karras")[0]) == p.T
    exact = ring().denoiser(p)
    z = torch.randn(500, 2, generator=T.generator()).double()

    def end(times):
        return list(states(parse_sampler("dpmpp2m"), exact, times, z))[-1]

    best = end(grid(p, 400, "karras"))
    off = {k: float((end(table_times(p, 12, k)) - best).square().mean()) for k in (None, "karras")}
    assert off[None] < off["karras"]
    for kind in GRID_KINDS:
        assert len(table_times(p, 5, kind)) == 5
    for bad in (dict(n=0), dict(n=2.5), dict(n=5, kind="nonsense"), dict(n=2000, kind="trailing")):
        with pytest.raises(ValueError):
            table_times(p, **bad)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [5, 20])
def test_half_precision_near_zero_snr(diffusers, dtype, n):
    "No NaN, and no more error than the stock scheduler on the same entries makes."
    stock = diffusers.EulerDiscreteScheduler(**SNR, beta_schedule="scaled_linear")
    errors = {}
    for name in ("stock", "ours"):
        ends = []
        for kind in (torch.float64, dtype):
            s = stock
            if name == "ours":
                s = interop.SamplerScheduler.from_config(stock.config, sampler="ddim")
            s.set_timesteps(n)
            x = (SAMPLE * 2 - 1).to(kind) * s.init_noise_sigma
            for t in s.timesteps:
                y = s.scale_model_input(x, t)
                x = s.step((y.double().sin() * 0.9).to(kind), t, x).prev_sample
                x = x.to(kind)
            ends.append(x.double())
        assert bool(torch.isfinite(ends[1]).all())
        errors[name] = float((ends[1] - ends[0]).square().mean().sqrt())
    assert errors["ours"] <= errors["stock"], errors


def test_flow_against_the_stock_scheduler(diffusers):
    for settings in (
        dict(shift=3.0),
        dict(shift=1.0, use_karras_sigmas=True),
        dict(shift_terminal=0.1),
        dict(use_dynamic_shifting=True, time_shift_type="linear"),
    ):
        stock = diffusers.FlowMatchEulerDiscreteScheduler(**settings)
        ours = interop.SamplerScheduler.from_config(stock.config, sampler="ddim")
        mu = dict(mu=0.7) if stock.config.use_dynamic_shifting else {}
        stock.set_timesteps(12, **mu)
        ours.set_timesteps(12, **mu)
        assert torch.allclose(ours.timesteps, stock.timesteps, atol=1e-3)
        x = y = SAMPLE
        for t, u in zip(stock.timesteps, ours.timesteps):
            x = stock.step(x.sin(), t, x).prev_sample
            y = ours.step(y.sin(), u, y).prev_sample
        assert torch.allclose(x, y, atol=1e-5)


def test_other_flow_configurations(diffusers):
    stock = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    s = interop.SamplerScheduler.from_config(stock.config)
    assert s.config.family == "flow" and s.config.shift == 3.0
    s.set_timesteps(5)
    assert float(s.timesteps[0]) == 1000


def test_settings_that_ours_does_not_use_are_kept(diffusers, tmp_path):
    "For pipelines that read them, and for the way back."
    d, read = diffusers, interop.SamplerScheduler.from_config
    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    for stock in (
        d.DDIMScheduler(set_alpha_to_one=False, steps_offset=1, prediction_type="v_prediction"),
        d.DDPMScheduler(variance_type="learned_range"),
        d.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", solver_order=3),
        d.EulerDiscreteScheduler(interpolation_type="log_linear"),
        d.FlowMatchEulerDiscreteScheduler(shift=3.0, stochastic_sampling=True),
        d.EDMEulerScheduler(sigma_max=50.0),
        d.UniPCMultistepScheduler(solver_order=3, **flow),
    ):
        ours = read(stock.config, sampler="heun")
        ours.save_pretrained(tmp_path)
        for s in (ours, interop.SamplerScheduler.from_pretrained(tmp_path), read(ours.config)):
            assert s.config.sampler == "heun"
            back = type(stock).from_config(s.config).config
            for name, value in stock.config.items():
                assert name[0] == "_" or back[name] == value == s.config[name], name


# ---- what is refused, by name


def test_classes_that_are_refused(diffusers):
    read = interop.SamplerScheduler.from_config
    known = {*interop.TABLE_SCHEDULERS, *interop.EDM_SCHEDULERS, *interop.FLOW_SCHEDULERS}
    names = [n for n in dir(diffusers) if n.endswith("Scheduler") and n not in known]
    names = [n for n in names if hasattr(getattr(diffusers, n), "from_config")]
    refused = 0
    for name in names:
        try:
            config = getattr(diffusers, name)().config
        except Exception:
            continue
        with pytest.raises(ValueError):
            print(name, read(config))
        refused += 1
    assert refused >= 10
    for name in sorted(known):
        cls = getattr(diffusers, name, None)
        if cls is not None and can_be_made(name):
            named = dict(cls().config, _class_name=name)
            assert isinstance(read(named), interop.WalkSteps)
    with pytest.raises(ValueError, match="_class_name='FlowMatchHeunDiscreteScheduler'"):
        read(diffusers.FlowMatchHeunDiscreteScheduler().config)
    with pytest.raises(ValueError, match="MyScheduler"):
        read(dict(_class_name="MyScheduler"))
    for config, word in (
        (dict(diffusers.LCMScheduler().config), "consistency"),
        (dict(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True).config), "Mochi"),
        (dict(diffusers.CogVideoXDDIMScheduler().config), "CogVideoX"),
    ):
        with pytest.raises(ValueError, match=word):
            read(config)
    for config in (
        dict(diffusers.LCMScheduler().config),
        dict(diffusers.CogVideoXDDIMScheduler().config),
    ):
        config.pop("_class_name", None)  # betrayed by a setting
        with pytest.raises(ValueError):
            read(config)


def test_a_class_that_needs_torchsde_is_refused_too(diffusers):
    pytest.importorskip("torchsde")
    with pytest.raises(ValueError, match="Cosine"):
        interop.SamplerScheduler.from_config(diffusers.CosineDPMSolverMultistepScheduler().config)


def test_families_are_recognised(diffusers):
    read = interop.SamplerScheduler.from_config
    flow = dict(diffusers.FlowMatchEulerDiscreteScheduler().config)
    assert (
        read(flow).config.family == "flow"
        and read(dict(sigma_data=0.5, sigma_min=0.002, sigma_max=80.0)).config.family == "edm"
    )


@pytest.mark.parametrize(
    "settings, word",
    [
        (dict(sampler="nonsense"), "sampler"),
        (dict(sampler="roba"), "k = 1"),
        (dict(restart=["1,2"]), "restart"),
        (dict(restart=["0.1,1.0,3,0"]), "restarts = .*at least 2 points and 1 repeat"),
        (dict(kind="nonsense"), "kind"),
        (dict(prediction_type="flow"), "prediction_type"),
        (dict(family="nonsense"), "family"),
        (dict(process=process_card(PSLD())), "k = 1"),
        (dict(trained_betas=[0.1, 1.0], num_train_timesteps=2), "no signal"),
        (dict(rescale_betas_zero_snr=True), "no signal"),
        (dict(family="edm", sigma_data=0.5), "sigma_min"),
        (dict(clip_sample=True, clip_sample_range=0.0), "clip_sample_range"),
        (dict(thresholding=True, sample_max_value=0.5), "sample_max_value"),
    ],
)
def test_settings_that_are_refused(diffusers, settings, word):
    with pytest.raises(ValueError, match=word):
        make(settings)


def test_things_of_another_type(diffusers):
    S = interop.SamplerScheduler
    with pytest.raises(TypeError, match="sampler.*dpmpp2m"):
        S(sampler=parse_sampler("ddim"))
    with pytest.raises(TypeError, match="restart"):
        S(restart=[(0.1, 1.0, 3, 2)])
    assert len(S(restart="0.1,1.0,3,2").intervals) == 1
    with pytest.raises(TypeError, match="from_pretrained"):
        S.from_config("a folder")
    with pytest.raises(ValueError, match="num_inference_steps = 0"):
        S().set_timesteps(0)
    with pytest.raises(ValueError, match="sigma_max"):
        s = S(restart=["0.1,1e9,3,2"])
        s.set_timesteps(10)


def test_steps_that_are_refused(diffusers):
    s = make(dict(sampler="ddim"))
    s.set_timesteps(5)

    def step(t=s.timesteps[0], **kw):
        return s.step(SAMPLE, t, SAMPLE, **kw)

    with pytest.raises(ValueError, match="ddim:eta=1"):
        step(eta=0.5)
    with pytest.raises(ValueError, match="clip_sample"):
        step(use_clipped_model_output=True)
    with pytest.raises(ValueError, match="timestep"):
        step(t=123.0)
    with pytest.raises(ValueError, match="model_output"):
        s.step(SAMPLE[:, :2], s.timesteps[0], SAMPLE)
    s.set_timesteps(5)
    step()
    with pytest.raises(ValueError, match="timestep"):
        step(t=s.timesteps[3])
    e = make(EDM)
    e.set_timesteps(5)
    with pytest.raises(ValueError, match="scale_model_input"):
        e.step(SAMPLE, e.timesteps[0], SAMPLE)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp2m:stochastic=1"])
def test_generators_that_are_refused(diffusers, sampler):
    s = make(dict(sampler=sampler))
    s.set_timesteps(5)
    one = T.generator()
    for wrong, error in (
        (5, TypeError),
        ("a", TypeError),
        ([one, 5], TypeError),
        ([one] * 3, ValueError),
    ):
        with pytest.raises(error, match="^generator = .*each of the 2 samples"):
            s.step(SAMPLE, s.timesteps[0], SAMPLE, generator=wrong)
    for right in (None, one, [one], [one, T.generator(1)]):
        s.set_timesteps(5)
        s.step(SAMPLE, s.timesteps[0], SAMPLE, generator=right)


def test_holes_in_a_step_are_refused(diffusers):
    "NaN on the way in is named; what overflows on the way out is not handed over as a picture."
    s = make(dict(sampler="ddim"))
    s.set_timesteps(1)
    holed = SAMPLE.clone()
    holed[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="model_output.*NaN"):
        s.step(holed, s.timesteps[0], SAMPLE)
    with pytest.raises(ValueError, match="sample.*NaN"):
        s.step(SAMPLE, s.timesteps[0], holed)
    with pytest.raises(FloatingPointError, match="NaN or infinity"):
        s.step((SAMPLE * 6e4).half(), s.timesteps[0], SAMPLE.half())


def test_the_ends_of_a_grid(diffusers):
    "`low` and `high` are the ends of the grid; what cannot be kept to is refused."
    s = make(dict(sampler="dpmpp2m:stochastic=.5", low=0.03, high=100.0))
    s.set_timesteps(10)
    assert float(s.sigmas[0]) == pytest.approx(100.0) and s.sigmas[-2] == pytest.approx(0.03)
    row = SamplingSpec.parse("dpmpp2m@karras,low=.03,high=100").route(s.process, points=10)
    assert float((s.process.rho(row) - s.sigmas[:-1]).abs().max()) < 1e-4
    s.set_timesteps(timesteps=[900.0, 500.0, 100.0])  # times of one's own have their own ends
    assert s.timesteps.tolist() == [900.0, 500.0, 100.0]
    for low in (1e-5, 1e4):
        with pytest.raises(ValueError, match="low = .*noise-to-signal"):
            make(dict(low=low))
    with pytest.raises(ValueError, match="low, high.*own ends"):
        make(dict(kind="trailing", low=0.03))
    flow = make(dict(family="flow", low=0.03, high=80.0))
    flow.set_timesteps(10)
    ends = flow.process.rho(flow.sigmas[[0, -2]].double())  # a flow's sigmas are its times
    assert ends.tolist() == pytest.approx([80.0, 0.03], rel=1e-4)


@pytest.mark.parametrize(
    "config",
    [
        {},
        dict(kind="karras"),
        dict(low=0.05),
        dict(process=process_card(VP())),
        EDM,
        EDM | dict(kind="karras"),
        EDM | dict(high=20.0),
        FLOW | dict(kind="karras"),
        FLOW | dict(low=0.03, high=80.0),
    ],
)
def test_the_exponent_of_a_karras_grid_is_heard(diffusers, config):
    grids = []
    for rho in (7.0, 3.0):
        s = make(config | dict(rho=rho))
        s.set_timesteps(6)
        ends = {}
        if not {"kind", "high"} & config.keys() and isinstance(s.process, Table):
            ends = dict(top=float(s.process.time(80.0)))  # where a table begins by itself
        for name, end in (("low", "bottom"), ("high", "top")):
            if name in config:
                ends[end] = float(s.process.time(config[name]))
        assert torch.allclose(s.route.main, grid(s.process, 6, "karras", rho, **ends))
        grids.append(s.sigmas)
    assert not torch.allclose(*grids)


@pytest.mark.parametrize(
    "config",
    [
        dict(kind="uniform"),
        dict(kind="quadratic", low=0.05),
        dict(kind="trailing"),
        dict(timestep_spacing="trailing"),
        EDM | dict(kind="uniform"),
        EDM | dict(sigma_schedule="exponential"),
        FLOW,
    ],
)
def test_an_exponent_that_no_grid_hears_is_refused(diffusers, config):
    with pytest.raises(ValueError, match="rho = 3.0: 7, as usual.*kind='karras'"):
        make(config | dict(rho=3.0))


@pytest.mark.parametrize("high", [80.0, 10.0, 2.0])
def test_edm_starts_from_the_noise_of_its_first_time(diffusers, high):
    "A network that answers 0 is perfect for pictures of spread 0.5."
    stock = diffusers.EDMEulerScheduler()
    s = interop.SamplerScheduler.from_config(stock.config, low=0.01, high=high)
    s.set_timesteps(20)
    assert s.init_noise_sigma == pytest.approx(high, rel=1e-3)
    x = torch.randn(4000, 1, 1, 1, generator=T.generator()) * s.init_noise_sigma
    for t in s.timesteps:
        s.scale_model_input(x, t)
        x = s.step(0 * x, t, x).prev_sample
    assert float(x.std()) == pytest.approx(0.5, abs=0.04)
    s = interop.SamplerScheduler.from_config(stock.config)
    s.set_timesteps(20)
    assert s.init_noise_sigma == stock.init_noise_sigma


def test_text_to_image_begins_where_noise_outweighs_the_picture(diffusers):
    "As `sample` has it; pictures that were noised may begin below."
    for config in ({}, EDM, FLOW):
        s = make(config | dict(high=0.5, sampler="ddim"))
        s.set_timesteps(5)
        t = s.timesteps[0]
        for call in (s.scale_model_input, lambda x, t: s.step(x, t, x)):
            s.input_scaled = True
            with pytest.raises(ValueError, match="high = 0.5: .*ratio is 0.5.*add_noise"):
                call(SAMPLE, t)
        z = s.add_noise(SAMPLE, torch.randn_like(SAMPLE), t[None])
        s.step(s.scale_model_input(z, t), t, z)
        s.set_timesteps(timesteps=s.timesteps[1:])
        with pytest.raises(ValueError, match="timesteps = .*add_noise"):
            s.scale_model_input(SAMPLE, s.timesteps[0])


def test_a_flow_s_noise_is_shown_as_it_is_drawn_so_the_first_point_is_high(diffusers):
    "Pipelines of flows do not scale what the network sees; with `scale_model_input` any is right."
    for high, fits in ((5.0, False), (30.0, True)):
        s = make(FLOW | dict(sampler="ddim", high=high))
        s.set_timesteps(5)
        if fits:
            s.step(SAMPLE, s.timesteps[0], SAMPLE)
            continue
        with pytest.raises(ValueError, match="high = 5.0: .*of 20 or more.*too strong for 5"):
            s.step(SAMPLE, s.timesteps[0], SAMPLE)
        shown = s.scale_model_input(SAMPLE, s.timesteps[0])
        assert torch.allclose(shown, SAMPLE * 5 / 6)
        s.step(shown, s.timesteps[0], SAMPLE)


def test_restarts_that_meet_are_told_as_they_were_written(diffusers):
    s = make(dict(sampler="edm", restart=[".06,.3,3,1", ".061,.5,3,1"]))
    with pytest.raises(ValueError, match="restart = '0.061,0.5,3,1': apart from '0.06,0.3,3,1'"):
        s.set_timesteps(8)


@pytest.mark.parametrize("config", [{}, EDM, FLOW])
def test_churn_at_the_first_point_is_in_what_the_network_saw(diffusers, config):
    s = make(config | dict(sampler="edm:s_churn=10", high=5.0))
    s.set_timesteps(8)
    assert s.plan[0].t > s.plan[0].level
    shown = s.scale_model_input(SAMPLE, s.timesteps[0])
    walk = s.open_walk(0, SAMPLE, partial(torch.randn_like, SAMPLE.double()))
    assert torch.allclose(s.convention.model_input(walk.z, walk.t).float(), shown, rtol=1e-6)


@pytest.mark.parametrize(
    "sampler, words",
    [
        ("dpmpp2m:stochastic=.5@karras,low=.03", "a grid goes into kind, low and high"),
        ("edm/0.06,0.3,3,2", "Restart into restart"),
        ("roba:lam_s=4", "without momentum"),
    ],
)
def test_what_is_no_sampler_alone_is_told_where_it_goes(diffusers, sampler, words):
    with pytest.raises(ValueError, match=words):
        make(dict(sampler=sampler))


def test_the_scheduler_itself_is_no_configuration(diffusers):
    with pytest.raises(TypeError, match="config = 'DDIMScheduler': scheduler.config"):
        interop.SamplerScheduler.from_config(diffusers.DDIMScheduler())


def test_settings_that_nobody_knows_are_refused(diffusers):
    read = interop.SamplerScheduler.from_config
    stock = diffusers.DDIMScheduler().config
    for name in ("sampl", "restrat", "grid"):
        with pytest.raises(ValueError, match=f"setting = '{name}': one of .*sampler") as told:
            read(stock, **{name: "ddim"})
        assert "self" not in str(told.value).replace(",", "").split()
    scheduler, unused = read(stock, return_unused_kwargs=True, other=1)
    assert unused == {"other": 1} and scheduler.config.sampler == "dpmpp2m"
    with pytest.raises(ValueError, match="num_inference_steps and sigmas"):
        scheduler.set_timesteps(10, sigmas=[3.0, 1.0, 0.1])


def test_a_process_of_ours(diffusers):
    betas = discrete_betas(VP()).tolist()
    a, b = make(dict(process=process_card(VP()))), make(dict(trained_betas=betas))
    assert torch.allclose(a.betas, b.betas, atol=1e-6)
    assert torch.allclose(a.alphas_cumprod, b.alphas_cumprod, atol=1e-6)
