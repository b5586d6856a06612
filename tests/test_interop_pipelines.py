"Our samplers inside stock pipelines of diffusers, with a few thousand random weights each."

import copy
import os

import numpy as np
import pytest
import tiny_pipelines as T
import torch

from compsamp import interop, load
from compsamp.compensation import fit_timewise_scaling
from compsamp.core import Noise
from compsamp.interop import from_diffusers, scheduler_grid, table_times, to_diffusers
from compsamp.networks import process_card
from compsamp.restart import RestartInterval, route_of
from compsamp.sampling import nfe, sample, states
from compsamp.zoo import SamplingSpec, parse_restart, parse_sampler

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SLOW = pytest.mark.skipif("COMPSAMP_SLOW" not in os.environ, reason="slow: COMPSAMP_SLOW=1 runs it")
BETAS = {k: v for k, v in T.STABLE.items() if k.startswith("beta")}
WORDS, POOLED = T.prompts(pooled=False), T.prompts()
ONE = dict(guidance_scale=5.0, height=16, width=16)
IMAGE = torch.rand(1, 3, 16, 16, generator=T.generator(3))
MASK = torch.zeros(1, 1, 16, 16).index_fill_(3, torch.arange(8), 1.0)


@pytest.fixture(scope="module")
def d(diffusers):
    pytest.importorskip("transformers", reason="pipelines of diffusers need transformers")
    return diffusers


def first(settings):
    "The first of two prompts."
    return {k: v[:1] for k, v in settings.items()}


def gap(a, b):
    return float((a.double() - b.double()).abs().max() / b.double().abs().max())


def run(pipe, n=7, seed=0, **settings):
    "What a pipeline ends with: latents, or pictures in [-1, 1] where it has none."
    out = pipe(generator=T.generator(seed), output_type="latent", num_inference_steps=n, **settings)
    return out.images


def run_dit(pipe, n=7, seed=0, labels=(1, 2), **settings):
    out = pipe(
        class_labels=list(labels),
        guidance_scale=4.0,
        num_inference_steps=n,
        generator=T.generator(seed),
        output_type="np",
    )
    return 2 * torch.as_tensor(out.images) - 1


def run_plain(pipe, n=7, seed=0, **settings):
    out = pipe(batch_size=2, num_inference_steps=n, generator=T.generator(seed), output_type="np")
    return 2 * torch.as_tensor(out.images) - 1


def on_the_grid_of(stock, ours):
    "Ours, made to walk where the stock scheduler walks."
    own = ours.main_times

    def main_times(n, timesteps, sigmas, mu):
        if sigmas is not None or timesteps is not None:
            return own(n, timesteps, sigmas, mu)
        settings = {} if mu is None else dict(mu=mu)
        flows = isinstance(ours.convention, interop.FlowConvention)
        return scheduler_grid(stock, n, ours.process if flows else None, **settings)[0]

    ours.main_times = main_times
    return ours


def against_stock(pipe, sampler, n=7, run=run, **settings):
    "The largest difference between stock scheduler and ours on its grid."
    stock, want = pipe.scheduler, run(pipe, n, **settings)
    read = interop.SamplerScheduler.from_config
    ours = copy.copy(pipe)
    ours.scheduler = on_the_grid_of(stock, read(stock.config, sampler=sampler))
    assert len(want) == 2 and bool(torch.isfinite(want).all())
    return gap(run(ours, n, **settings), want)


# ---- ours against stock at equal arithmetic

EULER = dict(timestep_spacing="leading", steps_offset=1, **BETAS)
CONTINUOUS = dict(
    timestep_type="continuous",
    prediction_type="v_prediction",
    sigma_min=0.002,
    sigma_max=120.0,
    use_karras_sigmas=True,
)
ZERO = dict(rescale_betas_zero_snr=True, prediction_type="v_prediction", **BETAS)
PAIRS = dict(
    sd=lambda d: (T.stable(d, scheduler=d.DPMSolverMultistepScheduler(**BETAS)), "dpmpp2m"),
    sd_zero=lambda d: (
        T.stable(d, scheduler=d.EulerDiscreteScheduler(timestep_spacing="trailing", **ZERO)),
        "ddim",
    ),
    xl=lambda d: (T.xl(d, scheduler=d.EulerDiscreteScheduler(**EULER)), "ddim"),
    xl_edm=lambda d: (T.xl(d, scheduler=d.EDMEulerScheduler()), "ddim"),
    xl_edm_v=lambda d: (
        T.xl(d, scheduler=d.EDMDPMSolverMultistepScheduler(prediction_type="v_prediction")),
        "dpmpp2m",
    ),
    cosxl=lambda d: (T.xl(d, scheduler=d.EulerDiscreteScheduler(**CONTINUOUS)), "ddim"),
    sd3=lambda d: (T.sd3_pipeline(d), "ddim"),
    flux=lambda d: (T.flux_pipeline(d), "ddim"),
    dit=lambda d: (T.dit_pipeline(d, d.DPMSolverMultistepScheduler()), "dpmpp2m"),
    ddpm=lambda d: (plain(d, d.DPMSolverMultistepScheduler(prediction_type="sample")), "dpmpp2m"),
)


def plain(d, scheduler, name="DDPMPipeline"):
    "An unconditional pipeline on pictures of 3x8x8."
    pipe = T.quiet(getattr(d, name)(T.unet(d), d.DDPMScheduler()))
    pipe.scheduler = scheduler
    return pipe


def settings_of(name):
    if name in ("dit", "ddpm"):
        return {}
    if name == "sd":
        return dict(guidance_scale=5.0, **WORDS)
    if name == "sd_zero":
        return dict(guidance_scale=5.0, guidance_rescale=0.7, **WORDS)
    if name == "flux":
        return dict(ONE, guidance_scale=3.5, **T.prompts(negative=False))
    return dict(ONE, **POOLED)


@pytest.mark.parametrize("n", [7, pytest.param(20, marks=SLOW), pytest.param(50, marks=SLOW)])
@pytest.mark.parametrize("name", PAIRS)
def test_ours_is_the_stock_scheduler(d, name, n):
    pipe, sampler = PAIRS[name](d)
    draw = dict(dit=run_dit, ddpm=run_plain).get(name, run)
    exact = 1e-4 if n < 50 else 1e-3  # fifty random networks in a row magnify the last digit
    assert against_stock(pipe, sampler, n, draw, **settings_of(name)) < exact


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_flow_on_the_pipelines_own_sigmas(d, name):
    pipe, sampler = PAIRS[name](d)
    want = run(pipe, 9, **settings_of(name))
    pipe.scheduler = interop.SamplerScheduler.from_config(pipe.scheduler.config, sampler="ddim")
    assert gap(run(pipe, 9, **settings_of(name)), want) < 1e-5


def test_ddim_and_zero_snr(d):
    "DDIM's table ends at zero itself, ours where Euler's does: 2^-12 of signal is the difference."
    s = d.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **ZERO)
    pipe = T.stable(d, scheduler=s)
    assert against_stock(pipe, "ddim", 5, guidance_scale=5.0, **WORDS) < 5e-3


# ---- every sampler in a pipeline is our own driver

SAMPLERS = ["ddim", "ddim:eta=1", "dpmpp2m", "dpmpp2m:stochastic=1", "conjugate:lam=.3", "heun"]
SAMPLERS += ["edm", "edm:s_churn=5", "pndm", "deis2", "ddpm", "em"]


def driven(denoiser, name, n, intervals=(), seed=0, dtype=torch.float64):
    "Our driver, from the start and with the noise that a pipeline would have."
    noise = interop.TorchNoise(T.generator(seed), torch.empty(2, *denoiser.shape))

    def draw():
        return noise().to(dtype)

    p = denoiser.process
    denoiser.nfe = 0
    route = route_of(
        p, n, [RestartInterval.from_sigma(p, *parse_restart(u)) for u in intervals], "karras"
    )
    return list(states(parse_sampler(name), denoiser, route, draw(), draw))[-1]


@pytest.mark.parametrize("intervals", [[], ["0.1,1.0,3,2"]], ids=len)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plain_pipeline_is_the_driver(d, name, intervals):
    s = interop.SamplerScheduler(
        sampler=name, restart=intervals, prediction_type="sample", kind="karras"
    )
    pipe = plain(d, s, "DDIMPipeline")
    x = run_plain(pipe, 8).permute(0, 3, 1, 2)
    z = pipe.scheduler.walk.z
    assert torch.allclose(x, z.clamp(-1, 1).float(), atol=1e-5)
    assert float((z.abs() >= 1).float().mean()) < 0.1  # so hardly anything was clipped
    denoiser = from_diffusers(pipe)
    assert gap(z, driven(denoiser, name, 8, intervals)) < 1e-5
    assert len(s.timesteps) == denoiser.nfe == nfe(parse_sampler(name), s.route)


@pytest.mark.parametrize("name", ["dpmpp2m", "heun", "edm:s_churn=5"])
def test_restart_from_text_to_image(d, name):
    "Guidance included: the pipeline against our driver with labels and weight."
    pipe = T.stable(d)
    up = ["0.1,1.0,3,2"]
    read = interop.SamplerScheduler.from_config
    pipe.scheduler = read(pipe.scheduler.config, sampler=name, restart=up, seed=5)
    words, none = WORDS["prompt_embeds"], WORDS["negative_prompt_embeds"][0]
    x = run(pipe, 8, guidance_scale=5.0, latents=Noise(5, 2, (4, 8, 8))(), **WORDS)
    denoiser = from_diffusers(
        pipe, conditions=dict(encoder_hidden_states=words), empty=dict(encoder_hidden_states=none)
    )
    p = denoiser.process
    route = route_of(p, 8, [RestartInterval.from_sigma(p, *parse_restart(u)) for u in up], "karras")
    want = sample(
        parse_sampler(name), denoiser, route, n=2, seed=5, labels=torch.tensor([0, 1]), guidance=5.0
    )
    assert gap(x, want.x) < 1e-4 and want.nfe == 2 * len(pipe.scheduler.timesteps)


def conditions_of(name, settings):
    "The prompts of a pipeline as conditions, and the empty one."
    pooled = "pooled_projections" if name == "sd3" else "text_embeds"
    pairs = []
    for side in ("", "negative_"):
        held = {"encoder_hidden_states": settings[f"{side}prompt_embeds"]}
        wide = {pooled: settings[f"{side}pooled_prompt_embeds"]}
        if name != "sd3":
            wide["time_ids"] = torch.tensor([16.0, 16, 0, 0, 16, 16]).expand(2, -1)
        pairs.append(held | (wide if name == "sd3" else dict(added_cond_kwargs=wide)))
    return dict(conditions=pairs[0], empty=interop.map_tensors(lambda v: v[0], pairs[1]))


@pytest.mark.parametrize(
    "name, ends", [("xl_edm", "low=.05,high=10"), ("xl", "high=1.5"), ("sd3", "low=.03,high=80")]
)
def test_a_named_grid_starts_from_its_own_noise(d, name, ends):
    "From the same noise a pipeline draws what `sample` draws."
    pipe, _ = PAIRS[name](d)
    spec = SamplingSpec.parse(f"dpmpp2m@karras,{ends}")
    read = interop.SamplerScheduler.from_config
    pipe.scheduler = read(pipe.scheduler.config, low=spec.low, high=spec.high)
    x = run(pipe, 10, latents=Noise(5, 2, (4, 8, 8))(), **settings_of(name))
    denoiser = from_diffusers(pipe, **conditions_of(name, POOLED))
    route = spec.route(denoiser.process, points=10)
    labels = torch.tensor([0, 1])
    want = sample(spec.sampler, denoiser, route, n=2, seed=5, labels=labels, guidance=5.0)
    assert gap(x, want.x) < 1e-5


@SLOW
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("pipeline", ["sd", "xl", "xl_edm", "sd3", "flux", "dit"])
def test_every_sampler_in_every_pipeline(d, pipeline, name):
    pipe, _ = PAIRS[pipeline](d)
    if pipeline == "xl_edm" and name.startswith("conjugate"):
        name = "conjugate:lam=.003"  # per unit of time, which runs to 80 there
    read = interop.SamplerScheduler.from_config
    pipe.scheduler = read(pipe.scheduler.config, sampler=name, restart=["0.4,0.9,3,2"])
    draw = run_dit if pipeline == "dit" else run
    for n in (7, 20, 50):
        assert bool(torch.isfinite(draw(pipe, n, **settings_of(pipeline))).all())


# ---- the strength of image-to-image, inpainting and refiners


def begun(pipe, name, n=10, strength=0.5, restart=None, **settings):
    "The time at which a pipeline begins, and that of the grid point it means."
    read = interop.SamplerScheduler.from_config
    stock = pipe.scheduler
    s = pipe.scheduler = read(stock.config, sampler=name, restart=restart)
    seen, noise = [], s.add_noise

    def spy(x, w, t):
        seen.append(torch.as_tensor(t).reshape(-1)[0])
        return noise(x, w, t)

    s.add_noise = spy
    try:
        x = run(pipe, n, image=IMAGE, strength=strength, **settings)
    finally:
        pipe.scheduler = stock
    i = s._begin_index
    assert torch.isfinite(x).all() and s.walk.t is None
    assert abs(float(seen[0]) - float(s.timesteps[i])) < 2e-3
    return s.plan[i].level, float(s.route.main[n - int(n * strength)])


IMAGE_TO_IMAGE = dict(
    sd=("StableDiffusionImg2ImgPipeline", T.stable, WORDS),
    sd3=("StableDiffusion3Img2ImgPipeline", T.sd3_pipeline, POOLED),
)


@pytest.mark.parametrize("name", ["ddim", "heun", "edm:s_churn=5", "dpmpp2m"])
@pytest.mark.parametrize("pipeline", IMAGE_TO_IMAGE)
def test_strength_of_image_to_image(d, pipeline, name):
    cls, make, words = IMAGE_TO_IMAGE[pipeline]
    settings = dict(guidance_scale=5.0, **first(words))
    pipe = make(d, cls)
    for strength in (0.3, 0.8):
        got, want = begun(pipe, name, strength=strength, **settings)
        assert got == want
    low = "0.04,0.1,3,2"
    got, want = begun(pipe, name, strength=0.8, restart=[low], **settings)
    assert got == want
    with pytest.raises(ValueError, match="strength"):
        begun(pipe, name, strength=0.2, restart=["1.0,3.0,3,2"], **settings)


@pytest.mark.parametrize("settings", [dict(sampler="flowheun"), dict(restart=["0.3,1,3,2"])])
def test_flux_reckons_its_strength_in_evaluations(d, settings):
    "So it would begin too late with two of them a step, or with Restart."
    pipe = T.flux_pipeline(d, d.FlowMatchEulerDiscreteScheduler(), "FluxImg2ImgPipeline")
    shared = dict(ONE, **first(T.prompts(negative=False)))
    for strength in (0.8, 0.3):
        got, want = begun(pipe, "ddim", strength=strength, **shared)
        assert got == want
    stock = pipe.scheduler
    for strength in (0.6, 0.35):
        read = interop.SamplerScheduler.from_config
        pipe.scheduler = read(stock.config, **settings)
        with pytest.raises(ValueError, match="begin_index = .*strength.*not in the 10 grid points"):
            run(pipe, 10, image=IMAGE, strength=strength, **shared)
        pipe.scheduler = stock
    pipe.scheduler = read(stock.config, **settings)
    assert torch.isfinite(run(pipe, 10, image=IMAGE, strength=1.0, **shared)).all()


@pytest.mark.parametrize("channels", [4, 9])
@pytest.mark.parametrize("name", ["ddim", "heun", "edm:s_churn=5"])
def test_inpainting(d, name, channels):
    pipe = T.stable(d, "StableDiffusionInpaintPipeline", channels)
    settings = dict(mask_image=MASK, height=16, width=16, guidance_scale=5.0, **first(WORDS))
    for strength, up in ((1.0, None), (0.6, None), (0.6, ["0.05,0.2,3,2"])):
        read = interop.SamplerScheduler.from_config
        stock = pipe.scheduler
        pipe.scheduler = read(stock.config, sampler=name, restart=up)
        x = run(pipe, 10, image=IMAGE, strength=strength, **settings)
        pipe.scheduler = stock
        assert bool(torch.isfinite(x).all())
        if channels == 4:  # the known half is the picture's own
            known = pipe.vae.encode(2 * IMAGE - 1).latent_dist.mean * pipe.vae.config.scaling_factor
            drawn = pipe.vae.encode(2 * IMAGE - 1).latent_dist.std * pipe.vae.config.scaling_factor
            assert float(((x - known).abs() / drawn)[..., 5:].max()) < 6


@pytest.mark.parametrize("name", ["ddim", "heun", "edm:s_churn=10", "ddim:eta=1"])
@pytest.mark.parametrize("cut", [0.5, pytest.param(0.8, marks=SLOW)])
def test_base_and_refiner_are_one_walk(d, name, cut):
    "With one network in both, stopping and going on is the same as never having stopped."
    base, refiner = T.xl(d), T.xl(d, refiner=True)
    read = interop.SamplerScheduler.from_config
    for pipe in (base, refiner):
        pipe.scheduler = read(pipe.scheduler.config, sampler=name, restart=["0.1,0.4,3,2"])
    whole = run(base, 10, **ONE, **POOLED)
    g = T.generator()
    shared = dict(num_inference_steps=10, generator=g, output_type="latent", **POOLED)
    part = base(denoising_end=cut, **ONE, **shared).images
    again = refiner(image=part, denoising_start=cut, guidance_scale=5.0, **shared).images
    assert gap(again, whole) < 1e-5
    if cut > 0.5:
        return
    refiner.scheduler = read(base.scheduler.config, sampler=name, restart=["0.5,10,4,2"])
    with pytest.raises(ValueError, match="Restart interval"):
        refiner(image=part, denoising_start=cut, guidance_scale=5.0, **shared)


def test_a_pipeline_that_works_out_x0_itself_is_refused(d):
    net = T.prompted_unet(d, in_channels=8, out_channels=5, time_cond_proj_dim=136)
    stock = d.EulerDiscreteScheduler(prediction_type="sample", **BETAS)
    parts = dict(vae=T.vae(d), text_encoder=None, tokenizer=None, unet=net, scheduler=stock)
    pipe = T.quiet(d.StableDiffusionLatentUpscalePipeline(**parts))
    pipe.scheduler = interop.SamplerScheduler.from_config(stock.config, sampler="ddim")
    picture = torch.randn(2, 4, 4, 4, generator=T.generator(1))
    with pytest.raises(TypeError, match="sample = .*works out x0 itself"):
        run(pipe, 5, prompt=None, image=picture, guidance_scale=0, **POOLED)


def test_a_network_that_is_told_no_time_is_refused(d):
    pipe = T.stable(d)
    with pytest.raises(TypeError, match="source = 'AutoencoderKL': .*a timestep"):
        from_diffusers(pipe.vae, pipe.scheduler)


def test_a_pipeline_that_asks_for_the_variance_finds_it(d):
    "DeepFloyd's, whose network answers a variance too."
    words = dict(encoder_hid_dim=None, cross_attention_dim=T.PROMPT_WIDTH)
    net = T.prompted_unet(d, in_channels=3, out_channels=6, **words)
    stock = d.DDPMScheduler(variance_type="learned_range", clip_sample=True)
    parts = {n: None for n in ("tokenizer", "text_encoder", "safety_checker", "watermarker")}
    parts |= dict(feature_extractor=None, requires_safety_checker=False)
    pipe = T.quiet(d.IFPipeline(unet=net, scheduler=stock, **parts))
    pipe.scheduler = interop.SamplerScheduler.from_config(stock.config)
    shared = dict(guidance_scale=5.0, num_inference_steps=6, output_type="pt", **WORDS)
    x = pipe(generator=T.generator(), height=8, width=8, **shared).images
    assert x.shape == (2, 3, 8, 8) and bool(torch.isfinite(torch.as_tensor(x)).all())


# ---- what people do with pipelines


def test_generators_and_batches(d):
    pipe = T.stable(d)
    read = interop.SamplerScheduler.from_config
    pipe.scheduler = read(pipe.scheduler.config, sampler="dpmpp2m:stochastic=1")

    def make(*seeds):
        return [T.generator(i) for i in seeds]

    shared = dict(guidance_scale=5.0, num_inference_steps=6, output_type="latent")
    both = pipe(generator=make(3, 4), **shared, **WORDS).images
    last = {k: v[1:] for k, v in WORDS.items()}
    alone = pipe(generator=make(4), **shared, **last).images
    assert gap(both[1:], alone) < 1e-4
    more = pipe(generator=T.generator(), num_images_per_prompt=2, **shared, **WORDS).images
    assert len(more) == 4


def test_callbacks(d):
    pipe = T.stable(d)
    read = interop.SamplerScheduler.from_config
    for name in ("ddim", "heun"):
        pipe.scheduler = read(pipe.scheduler.config, sampler=name)
        seen = []

        def note(pipe, i, t, held):
            seen.append((i, float(t)))
            return dict(latents=held["latents"] * (2 if i == 3 else 1))

        x = run(pipe, 6, guidance_scale=5.0, callback_on_step_end=note, **WORDS)
        assert [t for _, t in seen] == pipe.scheduler.timesteps.tolist()
        assert not torch.allclose(x, run(pipe, 6, guidance_scale=5.0, **WORDS), atol=1e-3)


def test_a_pipeline_is_saved_and_loaded(d, tmp_path):
    pipe = T.stable(d)
    read = interop.SamplerScheduler.from_config
    pipe.scheduler = read(pipe.scheduler.config, sampler="heun", restart=["0.1,1.0,3,2"])
    want = run(pipe, 5, guidance_scale=5.0, **WORDS)
    pipe.save_pretrained(tmp_path)
    again = T.quiet(
        d.StableDiffusionPipeline.from_pretrained(tmp_path, text_encoder=None, tokenizer=None)
    )
    assert isinstance(again.scheduler, interop.SamplerScheduler)
    assert gap(run(again, 5, guidance_scale=5.0, **WORDS), want) < 1e-4
    one = interop.SamplerScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert one.config.restart == ["0.1,1.0,3,2"]
    assert not [*tmp_path.rglob("*.bin")]


def test_stock_folders_become_ours(d, tmp_path):
    T.sd3_pipeline(d).save_pretrained(tmp_path)
    s = interop.SamplerScheduler.from_pretrained(tmp_path, subfolder="scheduler", sampler="heun")
    assert s.config.family == "flow" and s.config.shift == 3.0 and s.order == 2
    denoiser = from_diffusers(
        tmp_path,
        conditions=dict(
            encoder_hidden_states=torch.zeros(1, 5, 8), pooled_projections=torch.zeros(1, 8)
        ),
    )
    assert denoiser.shape == (4, 8, 8) and isinstance(denoiser.process, interop.Flow)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights(d, dtype):
    "Against the same pipeline in float32: no more error than the stock scheduler makes."
    errors = {}
    for name in ("stock", "ours"):
        ends = []
        for kind in (torch.float32, dtype):
            pipe = T.stable(
                d, scheduler=d.EulerDiscreteScheduler(timestep_spacing="trailing", **ZERO)
            )
            if name == "ours":
                read = interop.SamplerScheduler.from_config
                pipe.scheduler = read(pipe.scheduler.config, sampler="ddim")
            words = {k: v.to(kind) for k, v in WORDS.items()}
            latents = torch.randn(2, 4, 8, 8, generator=T.generator()).to(kind)
            ends.append(run(pipe.to(kind), 10, guidance_scale=2.0, latents=latents, **words))
        assert ends[1].dtype == dtype and bool(torch.isfinite(ends[1]).all())
        errors[name] = float((ends[1].float() - ends[0]).square().mean().sqrt())
    assert errors["ours"] <= 1.05 * errors["stock"], errors


def test_few_steps_of_a_distilled_network(d):
    "Turbo and Lightning: whole entries from the last on, one to four of them."
    s = d.EulerDiscreteScheduler(timestep_spacing="trailing", **BETAS)
    for n in (1, 4):
        pipe = T.xl(d, scheduler=s)
        want = run(pipe, n, **dict(ONE, guidance_scale=0.0), **POOLED)
        ours = interop.SamplerScheduler.from_config(s.config, sampler="ddim")
        pipe.scheduler = ours
        got = run(pipe, n, **dict(ONE, guidance_scale=0.0), **POOLED)
        assert ours.timesteps.tolist() == [999.0, 749.0, 499.0, 249.0][:n]
        assert gap(got, want) < 2e-2  # the stock start has standard deviation sigma, not 1


def test_custom_times_through_a_pipeline(d):
    from diffusers.schedulers import AysSchedules

    pipe = T.stable(d, scheduler=d.EulerDiscreteScheduler(**EULER))
    pipe.scheduler = interop.SamplerScheduler.from_config(pipe.scheduler.config, sampler="ddim")
    for key in ("timesteps", "sigmas"):
        given = AysSchedules[f"StableDiffusion{key.capitalize()}"]
        x = pipe(
            generator=T.generator(),
            output_type="latent",
            guidance_scale=5.0,
            **{key: given},
            **WORDS,
        ).images
        assert bool(torch.isfinite(x).all()) and len(pipe.scheduler.timesteps) == 10


def test_our_network_in_their_pipeline(d):
    ours = load("fashion-vp-small")
    s = interop.SamplerScheduler(process=process_card(ours.process))
    pipe = T.quiet(d.DDPMPipeline(to_diffusers(ours), s))
    pipe(batch_size=2, num_inference_steps=8, generator=T.generator(), output_type="np")
    assert gap(s.walk.z, driven(ours, "dpmpp2m", 8, dtype=torch.float32)) < 1e-5
    labels = torch.tensor([3, 7])
    denoiser = from_diffusers(pipe, empty=dict(class_labels=10)).bind(labels=labels, guidance=2.0)
    z = torch.ones(2, 1, 28, 28)
    assert gap(denoiser.eps(z, 0.3), ours.bind(labels=labels, guidance=2.0).eps(z, 0.3)) < 1e-5


def test_a_module_for_a_foreign_network(d, tmp_path):
    "Fitted, wrapped, read back; refused for a network with another table."
    from compsamp.compensation import (
        Compensated,
        ModuleObjective,
        load_module,
        save_module,
    )

    net = T.unet(d)
    denoiser = from_diffusers(net, d.DDPMScheduler(clip_sample=False, **BETAS))
    x = torch.rand(40, *denoiser.shape, generator=T.generator()) * 2 - 1
    module = fit_timewise_scaling(ModuleObjective(denoiser, "finer", 4, 2), x)
    save_module(tmp_path / "m", module)
    again = load_module(tmp_path / "m", denoiser)

    def draw(v):
        return sample(parse_sampler("ddim"), v, 4, n=2, seed=1).x

    a, b = draw(Compensated(denoiser, module)), draw(Compensated(denoiser, again))
    assert torch.equal(a, b) and not torch.equal(a, draw(denoiser))
    other = from_diffusers(net, d.DDPMScheduler(clip_sample=False))
    with pytest.raises(ValueError, match="one trained for the process at hand"):
        Compensated(other, module)


def test_the_constructor_of_ddim_pipeline_converts(d):
    "Only assigning afterwards keeps ours."
    pipe = d.DDIMPipeline(T.unet(d), interop.SamplerScheduler())
    assert type(pipe.scheduler) is d.DDIMScheduler


def test_the_default_grid_of_a_pipeline(d):
    s = interop.SamplerScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    pipe = plain(d, s)
    run_plain(pipe, 8)
    assert torch.allclose(s.route.main, table_times(s.process, 8))
    assert np.isclose(float(s.sigmas[0]), 80, rtol=1e-3)
