"Every sampler on a flow network whose answer is known, through each of the three doors."

import json
from pathlib import Path

import pytest
import torch
from tiny_pipelines import flux_pipeline, prompts, sd3_pipeline
from torch import nn

from compsamp import interop
from compsamp.core import Noise
from compsamp.experiment import generate
from compsamp.flow import Flow, FlowDenoiser
from compsamp.forward import EDM
from compsamp.interop import FLOW_START, from_diffusers, wrap
from compsamp.sampling import grid, sample, states
from compsamp.zoo import SAMPLERS, parse_sampler

MEAN, SPREAD = 0.5, 0.3  # of the data, pixel by pixel
NAMES = [name for name in SAMPLERS if parse_sampler(name).k in (None, 1)]
STEPS_FROM_X0 = ("ddim", "ddpm", "pndm", "deis2", "dpmpp2m", "dpm3", "edm", "flowheun")


class KnownFlow(nn.Module):
    "The velocity of normal data, in the convention of Stable Diffusion 3: told 1000 t."

    config = {"in_channels": 1, "sample_size": 8}

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))  # so that it has a device and a dtype

    def forward(self, z, timestep):
        t = timestep.to(z).view(-1, 1, 1, 1) / 1000
        variance = (1 - t) ** 2 * SPREAD**2 + t**2
        x0 = MEAN + (1 - t) * SPREAD**2 / variance * (z - (1 - t) * MEAN)
        return ((z - x0) / t,)


def assert_like_the_data(x, off=0.12):
    "Pictures of the right mean and of nearly the right spread; what went wrong had 1.2 and more."
    assert abs(float(x.mean()) - MEAN) < 0.02
    assert abs(float(x.std()) - SPREAD) < off


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("grid_words", ["uniform", "karras", "karras,low=.03,high=80"])
def test_in_by_from_diffusers(diffusers, name, grid_words):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    denoiser = from_diffusers(KnownFlow(), scheduler)
    assert_like_the_data(generate(denoiser, f"{name}@{grid_words}", nfe=43, n=64, seed=0).x)


def in_a_loop(scheduler, n):
    "n pictures in a loop of diffusers, as a pipeline runs it."
    network = KnownFlow()
    z = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        z = scheduler.step(network(z, t)[0], t, z).prev_sample
    return z


@pytest.mark.parametrize("restarts", [[], ["0.2,1,3,2"]])
@pytest.mark.parametrize("name", NAMES)
def test_out_in_a_loop_of_diffusers(diffusers, name, restarts):
    settings = {"family": "flow", "shift": 3.0, "restart": restarts, "seed": 0}
    scheduler = interop.SamplerScheduler(sampler=name, **settings)
    scheduler.set_timesteps(40)
    exact = name in STEPS_FROM_X0
    assert scheduler.process == (Flow() if exact else Flow(T=FLOW_START))
    assert float(scheduler.timesteps[0]) == (1000 if exact else 999)
    assert_like_the_data(in_a_loop(scheduler, 64))


@pytest.mark.parametrize("kind", ["uniform", "quadratic", "karras"])
def test_a_grid_that_is_named_is_walked(diffusers, kind):
    scheduler = interop.SamplerScheduler(sampler="dpmpp2m", family="flow", shift=3.0, kind=kind)
    scheduler.set_timesteps(12)
    process = Flow(T=FLOW_START)
    assert (scheduler.sigmas[:-1].double() - grid(process, 12, kind)).abs().max() < 1e-6


@pytest.mark.parametrize("shift, n", [(12.0, 100), (3.0, 400), (17.0, 150), (1.0, 1000)])
def test_many_points_above_the_start_keep_falling(diffusers, shift, n):
    "A grid with several points above 0.999 keeps its number of points, and falls strictly."
    settings = {"family": "flow", "shift": shift, "sampler": "conjugate:lam=0.1"}
    scheduler = interop.SamplerScheduler(**settings)
    scheduler.set_timesteps(n)
    times = scheduler.sigmas[:-1].double()
    assert len(times) == n and float(times[0]) == pytest.approx(FLOW_START)
    assert bool((times[1:] < times[:-1]).all())
    stock = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    inside, _ = interop.scheduler_grid(stock, n)
    assert torch.allclose(inside, times, atol=1e-6)


def test_a_named_grid_outweighs_the_sigmas_that_a_pipeline_sends(diffusers):
    "Flux's pipeline always sends its own; without a name they are walked."
    sent = torch.linspace(1, 1 / 12, 12).tolist()
    settings = {"sampler": "dpmpp2m", "family": "flow"}
    plain = interop.SamplerScheduler(**settings)
    plain.set_timesteps(sigmas=sent)
    assert torch.allclose(plain.sigmas[:-1], torch.tensor(sent), atol=1e-6)
    named = interop.SamplerScheduler(**settings, low=0.03, high=80.0)
    named.set_timesteps(sigmas=sent)
    wanted = interop.SamplerScheduler(**settings, low=0.03, high=80.0)
    wanted.set_timesteps(12)
    assert torch.equal(named.sigmas, wanted.sigmas)
    with pytest.raises(ValueError, match="kind = 'trailing'.*for tables"):
        interop.SamplerScheduler(family="flow", kind="trailing")


@pytest.mark.parametrize("sampler", ["dpmpp2m", "dpmpp2m:stochastic=.5"])
def test_the_advised_grid_is_better_than_the_flows_own(diffusers, sampler):
    named = {"kind": "karras", "low": 0.03, "high": 80.0}
    spread = []
    for words in ({}, named):
        settings = {"family": "flow", "shift": 3.0, "seed": 0, "sampler": sampler}
        scheduler = interop.SamplerScheduler(**settings, **words)
        scheduler.set_timesteps(20)
        spread.append(float(in_a_loop(scheduler, 128).std()))
    off = [abs(value - SPREAD) for value in spread]
    assert off[1] < 0.5 * off[0], spread


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("sampler", ["dpmpp2m", "dpmpp2m:stochastic=.5", "heun"])
def test_a_pipeline_that_starts_from_noise_draws_what_generate_draws(diffusers, sampler, scaled):
    "From latents of unit scale, whether the pipeline calls `scale_model_input` or not."
    network = KnownFlow()
    denoiser = from_diffusers(network, diffusers.FlowMatchEulerDiscreteScheduler())
    for high in (80, 1.5) if scaled else (80,):
        settings = {"family": "flow", "low": 0.03, "high": float(high), "seed": 5}
        scheduler = interop.SamplerScheduler(sampler=sampler, **settings)
        scheduler.set_timesteps(12)
        z = Noise(5, 8, (1, 8, 8))() * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            shown = scheduler.scale_model_input(z, t) if scaled else z
            z = scheduler.step(network(shown, t)[0], t, z).prev_sample
        row = f"{sampler}@karras,low=.03,high={high}"
        want = generate(denoiser, row, nfe=12 * scheduler.order, n=8, seed=5, labels=None).x
        assert (z - want).abs().max() < 1e-5


@pytest.mark.parametrize("first", [0, 4])
def test_a_pipeline_that_starts_from_a_picture_keeps_what_it_has_noised(diffusers, first):
    settings = {"family": "flow", "low": 0.03, "high": 3.0}
    scheduler = interop.SamplerScheduler(sampler="ddim", **settings)
    x, noise = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    for _ in range(2):
        scheduler.set_timesteps(12)
        scheduler.set_begin_index(first)
        t = scheduler.timesteps[first]
        z = scheduler.scale_noise(x, t[None], noise)
        scheduler.scale_noise(x, t[None], noise)  # as for the known part of an inpainting
        assert torch.equal(scheduler.scale_model_input(z, t), z)
        walk = scheduler.walk_at(float(t), z, None)
        assert torch.allclose(walk.z.float(), z)


def test_a_function_by_wrap():
    "x0 comes without a division by psi: finite at t = 1, and as `FlowDenoiser` has it."
    network = KnownFlow()

    def velocity(z, t):
        return network(z, 1000 * t)[0]

    def in_thousandths(z, t, labels=None):
        return network(z, t)[0]

    for process in (Flow(), Flow(T=1 - 1e-7), Flow(T=FLOW_START)):
        ours = wrap(velocity, process, "flow", shape=(1, 8, 8))
        known = FlowDenoiser(in_thousandths, process, (1, 8, 8))
        z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        assert (ours.x0(z, process.T) - known.x0(z, process.T)).abs().max() < 1e-6
        for name in ("ddim", "dpmpp2m", "pndm"):
            times = grid(process, 12)
            first, second = (
                list(states(parse_sampler(name), each, times, z))[-1] for each in (ours, known)
            )
            assert (first - second).abs().max() < 1e-5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STEPS_FROM_X0])
def test_what_cannot_begin_at_one_says_so(name):
    denoiser = wrap(lambda z, t: KnownFlow()(z, 1000 * t)[0], Flow(), "flow", shape=(1, 8, 8))
    with pytest.raises(ValueError, match=r"t = 1\.0.*Flow\(T=0\.999\)"):
        sample(parse_sampler(name), denoiser, 12, n=2)


def test_settings_that_a_flow_has_not_are_refused():
    with pytest.raises(TypeError, match="settings = .*sigma_data"):
        wrap(lambda z, t: z, Flow(), "flow", sigma_data=0.3)
    for predicts in ("eps", "v", "edm"):
        with pytest.raises(TypeError, match="settings = .*clips"):
            wrap(lambda z, t: z, EDM(), predicts, clips=True)


CHAPTER = Path(__file__).parents[1] / "nbs/16_interop.ipynb"


@pytest.mark.parametrize("place, name", [(0, "Stable Diffusion 3"), (1, "Flux")])
def test_the_examples_of_the_chapter(diffusers, monkeypatch, place, name):
    "They run as they stand there, but for fewer evaluations and, for Flux, smaller latents."
    page = json.loads(CHAPTER.read_text(encoding="utf-8"))
    (cell,) = (cell for cell in page["cells"] if cell["id"] == "ten00005")
    code = "".join(cell["source"]).split("```python\n")[1 + place].split("```")[0]
    code = code.replace("nfe=40", "nfe=4").replace("nfe=20", "nfe=2").replace("128, 128", "8, 8")
    pipe = flux_pipeline(diffusers) if place else sd3_pipeline(diffusers)
    given = prompts(3)
    answer = given["prompt_embeds"], given["pooled_prompt_embeds"], None
    if not place:
        nothing = given["negative_prompt_embeds"], given["negative_pooled_prompt_embeds"]
        answer = answer[0], nothing[0], answer[1], nothing[1]
    monkeypatch.setattr(pipe, "encode_prompt", lambda *words: answer)
    names = {"pipe": pipe, "prompts": ["a", "b", "c"], "asked": torch.tensor([0, 1, 2])}
    names |= {"torch": torch, "generate": generate, "from_diffusers": from_diffusers}
    if place:  # of 16 channels after packing, as the small transformer has
        code = code.replace("shape=(16,", "shape=(4,")
    exec(code, names)
    assert len(names["r"].x) == 3 and torch.isfinite(names["r"].x).all(), name
    assert names["r"].nfe == (2 if place else 4)
