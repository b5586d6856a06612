"Other people's models as ours: time, prediction, conditions, grids, files, and what is refused."

import copy
import json
import math
import os
import subprocess
import sys

import pytest
import tiny_pipelines as T
import torch
from conftest import ROOT
from torch import nn

from compsamp import data, interop, load, networks, zoo
from compsamp.core import Noise
from compsamp.flow import FlowDenoiser, ReadAs
from compsamp.forward import EDM, VP, CosineVP, discrete_betas, discrete_times, integrate_moments
from compsamp.interop import (
    Flow,
    ResumableWalk,
    Table,
    check_network,
    export_pretrained,
    from_diffusers,
    import_pretrained,
    same_time,
    scheduler_grid,
    table_entry,
    wrap,
)
from compsamp.mixtures import ring
from compsamp.networks import PARAMETRISATIONS, Denoiser, PredictEDM
from compsamp.psld import PSLD
from compsamp.restart import RestartInterval, route_of
from compsamp.sampling import grid, sample, states
from compsamp.skipstep import ScaledDenoiser
from compsamp.zoo import parse_restart, parse_sampler

os.environ.setdefault("HF_HUB_OFFLINE", "1")
TABLES = dict(
    linear=1 - torch.linspace(1e-4, 0.02, 1000).double(),
    scaled=1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).double() ** 2,
    cosine=1 - discrete_betas(CosineVP(), 200),
    short=torch.tensor([0.9, 0.5]).double(),
)


def last(steps):
    return list(steps)[-1]


# ---- without diffusers


def fresh(code, cwd):
    "Code in an interpreter that has no diffusers."
    code = 'import sys; sys.modules["diffusers"] = None\n' + code
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=cwd,
        env=dict(os.environ, PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_works_without_diffusers(tmp_path):
    out = fresh(
        """
import torch, compsamp, compsamp.interop as I
d = compsamp.load('fashion-vp')
I.export_pretrained('f', d)
e = I.import_pretrained('f')
z = torch.randn(1, 1, 28, 28)
assert torch.equal(e.eps(z, .5), d.eps(z, .5))
I.wrap(lambda x, s: x / (1 + s[:, None, None, None] ** 2), I.EDM(), 'D').eps(z, 1.)
lazy = [lambda: I.SamplerScheduler, lambda: I.from_diffusers('f')]
for f in (I.scheduler_class, I.model_class, *lazy):
    try: f(); print('no error')
    except ImportError as e: print(e)
try: I.Nonsense
except AttributeError as e: print(e)""",
        tmp_path,
    )
    lines = out.stdout.splitlines()
    assert (
        len(lines) == 5
        and all(
            "'diffusers'" in line and "pip install 'compsamp[interop]'" in line
            for line in lines[:4]
        )
        and "Nonsense" in lines[4]
    ), out.stdout + out.stderr


@pytest.mark.parametrize("wrong", ["v for eps", "eps for v", "clock", "reversed", "scale", None])
def test_what_is_declared_wrong_is_found(wrong):
    "A shipped network, declared as something else: x0 is worse than a guess at some ratio."
    right = zoo.load("fashion-vp")
    process, pictures = right.process, data.to_model(data.fashion("test")[0][:64])
    net = right.network.net if wrong == "eps for v" else None

    def asked(z, t):
        with torch.no_grad():
            return right.eps(z, t.double()) if net is None else net(z, 1000 * t, None)

    clocks = {"clock": lambda t: t**2, "reversed": lambda t: 1.001 - t}
    predicts = "v" if wrong == "v for eps" else "eps"
    declared = interop.wrap(asked, process, predicts, (1, 28, 28), clocks.get(wrong), name="it")
    if wrong is None:
        errors = interop.check_prediction(declared, pictures)
        assert max(errors) == 3.0 and max(errors.values()) < 0.4
        return
    shown = (pictures + 1) * 127.5 if wrong == "scale" else pictures
    with pytest.raises(ValueError, match="error at ratio .* as without a network"):
        interop.check_prediction(declared, shown)


def test_one_picture_tells_nothing_of_a_declaration():
    x = torch.full((1, 1, 4, 4), 0.3)
    right = interop.wrap(lambda z, t: 0.1 * z, VP(), "eps", (1, 4, 4))
    for pictures in (x, x.expand(3, -1, -1, -1)):
        with pytest.raises(ValueError, match="pictures.*differ"):
            interop.check_prediction(right, pictures)


def test_a_table_of_alphas_is_doubted():
    betas = torch.linspace(1e-4, 0.02, 1000)
    with pytest.warns(UserWarning, match="cumprod"):
        interop.Table((1 - betas).tolist())
    table = interop.Table(torch.cumprod(1 - betas, 0))  # a tensor, a list or an array will do
    assert table == interop.Table(torch.cumprod(1 - betas, 0).numpy())


def test_what_a_network_raises_says_what_it_was_asked():
    "The error is the network's own; a note says with what it was called."
    asked = nn.Conv2d(3, 3, 3)
    broken = interop.wrap(lambda z, t: asked(z), interop.EDM(), "D", (1, 8, 8), name="it")
    with pytest.raises(RuntimeError) as caught:
        broken.eps(torch.zeros(2, 1, 8, 8), 1.0)
    assert "asked with a state (2, 1, 8, 8)" in caught.value.__notes__[0]
    answers = interop.wrap(lambda z, t: {"sample": z}, interop.EDM(), "D", (1, 8, 8), name="it")
    with pytest.raises(TypeError, match="answer = 'dict': a tensor, a tuple"):
        answers.eps(torch.zeros(2, 1, 8, 8), 1.0)


def test_an_index_error_is_blamed_on_labels_only_where_there_are_some():
    class Rows(nn.Module):
        def forward(self, z, t):
            return z * torch.ones(10)[t.long()][:, None, None, None]

    with pytest.raises(ValueError, match="integer_time=True"):
        interop.check_network(Rows(), (1, 8, 8))


def test_is_installed(capsys):
    assert interop.is_installed("torch") and not capsys.readouterr().out
    assert (
        not interop.is_installed("no_such_package")
        and "compsamp[interop]" in capsys.readouterr().out
    )


# ---- a table as a process


@pytest.mark.parametrize("name", TABLES)
def test_table_at_its_nodes(name):
    levels = TABLES[name].cumprod(0)
    p = Table(tuple(levels.tolist()))
    t = discrete_times(len(levels))
    mu, C = p.marginal(t)
    assert (
        float((mu[:, 0] ** 2 - levels).abs().max()) < 1e-12
        and float((C[:, 0, 0] - (1 - levels)).abs().max()) < 1e-12
    )
    assert p.eps == float(t[0]) and table_entry(len(levels), t).tolist() == list(range(len(levels)))
    assert float((p.time(p.rho(t)) - t).abs().max()) < 1e-9
    a, b = p.transition(t[1:], t[:-1])
    assert (
        float((a[:, 0, 0] ** 2 - levels[1:] / levels[:-1]).abs().max()) < 1e-11
        and float((b[:, 0, 0] - 1 + levels[1:] / levels[:-1]).abs().max()) < 1e-11
    )


def test_table_between_its_nodes():
    p = Table(tuple(TABLES["linear"].cumprod(0).tolist()))
    t = torch.tensor([0.0004, 0.1234567, 0.7777]).double()
    f, g = 1000 * t % 1, (1000 * t).floor().long()
    B = torch.cat([torch.zeros(1).double(), -TABLES["linear"].log().cumsum(0)])
    assert float((p.integral(t, 0.0) - ((1 - f) * B[g] + f * B[g + 1])).abs().max()) < 1e-12
    assert (
        float(
            (
                p.rho(p.time(torch.tensor([0.005, 0.3, 7.0]).double()))
                - torch.tensor([0.005, 0.3, 7.0]).double()
            )
            .abs()
            .max()
        )
        < 1e-9
    )
    few = Table((0.95, 0.7, 0.2))
    P, S = integrate_moments(few, 0.6, 0.4)
    Q, R = few.transition(0.6, 0.4)  # one cell: from F and G alone
    assert float((P - Q).abs().max()) < 1e-9 and float((S - R).abs().max()) < 1e-9
    assert (
        abs(float(few.beta(1 / 3)) - -3 * math.log(0.95)) < 1e-12
        and abs(float(few.beta(0.34)) - -3 * math.log(0.7 / 0.95)) < 1e-12
    )  # at a node: the cell below
    assert repr(few) == "Table(3 levels from 0.95 to 0.2)" and hash(few) == hash(
        Table([0.95, 0.7, 0.2])
    )


@pytest.mark.parametrize(
    "levels, word",
    [
        ((0.5,), "two"),
        ((0.9, 0.0), "rescale_betas_zero_snr"),
        ((1.0, 0.5), "(0, 1)"),
        ((0.5, 0.9), "falling"),
        ((0.9, float("nan")), "(0, 1)"),
    ],
)
def test_bad_table(levels, word):
    with pytest.raises(ValueError, match="levels") as e:
        Table(levels)
    assert word in str(e.value)


# ---- any function


def said(exact, kind, process):
    "What a perfect network of each kind answers at process time t."

    def f(x, t):
        t = t.double()
        mu, C = (v.flatten() for v in process.marginal(t))
        m, s = mu[:, None], C[:, None].sqrt()
        z = m * x if kind == "D" else x
        e = exact.predict(z.double(), t)
        x0 = (z - s * e) / m
        return dict(eps=e, x0=x0, D=x0, score=-e / s, v=m * e - s * x0)[kind]

    return f


@pytest.mark.parametrize(
    "process, kind",
    [
        (p, kind)
        for p in (VP(), CosineVP(), Table(tuple(TABLES["linear"].cumprod(0).tolist())), EDM(T=20.0))
        for kind in ("eps", "x0", "v", "score", "D")
        if kind != "v" or not isinstance(p, EDM)
    ],
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)  # v is defined where psi^2 + sigma^2 = 1
def test_every_kind_of_function(process, kind):
    exact = ring().denoiser(process)
    f = said(exact, kind, process)
    if kind == "D":

        def g(x, s):
            return f(x, process.time(s.double()))
    else:
        g = f
    d = wrap(g, process, kind, shape=(2,), time=same_time)
    t = process.time([0.3, 1.0, 3.0, 0.1])
    z = process.perturb(torch.randn(4, 2).double(), t, torch.randn(4, 2).double())
    assert float((d.eps(z, t) - exact.eps(z, t)).abs().max()) < 2e-6 and d.nfe == 1
    assert float((d.x0(z, float(t[1])) - exact.x0(z, float(t[1]))).abs().max()) < 2e-5
    x = sample(parse_sampler("ddim"), d, 5, n=3, denoise=True)
    assert x.nfe == 5 and x.x.shape == (3, 2)


def test_a_table_tells_its_entries():
    "By its number, as the network was trained; the noise itself where that is what it takes."
    seen = []
    table = Table(tuple(TABLES["linear"].cumprod(0).tolist()))
    for kind in ("eps", "D"):
        d = wrap(lambda z, t: seen.append(t) or z, table, kind)
        d.eps(torch.zeros(2, 3), 0.25)
    entry, ratio = (float(times[0]) for times in seen)
    assert entry == 249 and ratio == pytest.approx(float(table.rho(0.25)), rel=1e-5)


@pytest.mark.parametrize("message, told", [("expected Long indices", True), ("out of room", False)])
def test_the_note_on_whole_numbers(message, told):
    "Only where the network's own error speaks of them."

    def network(z, t):
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match=message) as caught:
        wrap(network, VP()).eps(torch.zeros(2, 3), 0.25)
    assert any("integer_time" in note for note in caught.value.__notes__) == told


def test_time_of_ones_own():
    seen = []
    d = wrap(lambda z, t: seen.append(t) or z, VP(), "eps", time=lambda t: 100 * t + 1)
    d.eps(torch.zeros(2, 3), 0.25)
    d.eps(torch.zeros(2, 3), torch.tensor([0.1, 0.2]).double())
    assert (
        torch.allclose(torch.stack(seen), torch.tensor([[26.0, 26.0], [11.0, 21.0]]))
        and seen[0].dtype == torch.float32
    )


def test_edm_network():
    def net(x, c):
        return torch.tanh(x * c[:, None, None, None])

    a, b = (
        wrap(net, EDM(), "edm", sigma_data=0.7),
        Denoiser(PredictEDM(lambda z, t, labels: net(z, t / 1000), EDM(), 0.7), EDM()),
    )
    z = torch.randn(2, 1, 4, 4)
    assert torch.allclose(a.eps(z, 1.3), b.eps(z, 1.3), atol=1e-6)


class Told(nn.Module):
    "A `model(x, sigma)` with two layers that share their weights; it remembers what it was told."

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.last.weight = self.first.weight
        self.told = []

    def forward(self, x, sigma, labels=None):
        self.told.append(float(sigma[0]))
        return self.last(torch.tanh(self.first(x / (1 + sigma.view(-1, 1, 1, 1)))))


def test_a_model_of_edm_is_saved_and_loaded(tmp_path):
    "By the network of `wrap`, or bare in its parametrisation: it is told sigma both times."
    model = Told()
    there = wrap(model, EDM(), "D", shape=(1, 8, 8))
    wrapped = there.network, wrap(Told(), EDM(), "D").network
    bare = interop.PredictD(model, EDM()), interop.PredictD(Told(), EDM())
    z = torch.randn(2, 1, 8, 8)
    for i, (network, fresh_one) in enumerate((wrapped, bare)):
        card = dict(network=networks.network_card(network), shape=[1, 8, 8])
        card["process"] = networks.process_card(EDM())
        networks.save(tmp_path / str(i), network, card)
        again = zoo.load(tmp_path / str(i), network=fresh_one)
        assert torch.equal(again.eps(z, 2.0), there.eps(z, 2.0))
        inner = again.network.net
        assert getattr(inner, "net", inner).told == pytest.approx([2.0])


def test_half_precision_inside():
    net = torch.nn.Conv2d(1, 1, 1).to(torch.bfloat16)
    d = wrap(Half(net), VP())
    e = d.eps(torch.randn(2, 1, 4, 4), 0.5)
    assert e.dtype == torch.float32 and torch.isfinite(e).all()


class Half(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z, t):
        return self.net(z)


def test_karras_by_hand():
    "Algorithm 1 of Karras et al. by hand, on D(x, sigma), against our Heun in the same variable."

    def D(x, s):
        return x / (1 + s.view(-1, 1) ** 2) + 0.1 * torch.tanh(x * s.view(-1, 1))

    d = wrap(D, EDM(), "D", shape=(2,))
    times = grid(EDM(), 8, "karras")
    x = 80 * torch.randn(3, 2).double()
    y = x
    for s, r in zip(times[:-1], times[1:]):
        slope = (y - D(y, s.expand(3))) / s
        w = y + (r - s) * slope
        y = y + (r - s) / 2 * (slope + (w - D(w, r.expand(3))) / r)
    y = D(y, times[-1:].expand(3))
    assert float((last(states(parse_sampler("edm"), d, times, x)) - y).abs().max()) < 1e-5


# ---- conditions


def conditional(x, t, c, more):
    return x * c["a"][:, :1] + more[:, None] * t[:, None]


def test_conditions_follow_their_samples():
    bank, empty = (
        dict(c=dict(a=torch.arange(6.0).view(3, 2)), more=torch.tensor([1.0, 2.0, 3.0])),
        dict(c=dict(a=torch.zeros(2)), more=torch.tensor(0.0)),
    )
    d = wrap(conditional, VP(), conditions=bank, empty=empty, shape=(2,))
    z = torch.ones(3, 2)

    def f(j):
        return torch.tensor([2.0 * j + (j + 1) * 0.5] * 2)

    assert torch.allclose(
        d.bind(labels=[2, 0, 1]).eps(z, 0.5), torch.stack([f(2), f(0), f(1)])
    ) and bool((d.eps(z, 0.5) == 0).all())
    g = d.bind(labels=[2, 0, 1], guidance=3.0)
    assert torch.allclose(g.eps(z, 0.5), 3 * torch.stack([f(2), f(0), f(1)])) and g.nfe == 2
    a, b = (
        sample(parse_sampler("ddim"), d, 6, n=5, labels=[0, 1, 2, 2, 1], guidance=2.0, batch=n)
        for n in (2, 5)
    )
    assert torch.allclose(a.x, b.x, atol=1e-5) and a.nfe == 12
    with pytest.raises(ValueError, match="labels"):
        d.bind(labels=[3])


def test_bad_conditions():
    bank = dict(c=dict(a=torch.zeros(3, 2)), more=torch.zeros(3))
    d = wrap(conditional, VP(), conditions=bank)
    assert torch.isfinite(d.bind(labels=[0]).eps(torch.zeros(1, 2), 0.5)).all()
    for bad in (d, d.bind(labels=[0], guidance=2.0)):
        with pytest.raises(ValueError, match="empty"):
            bad.eps(torch.zeros(1, 2), 0.5)
    with pytest.raises(ValueError, match="conditions"):
        wrap(conditional, VP(), conditions=dict(a=torch.zeros(2), b=torch.zeros(3)))
    with pytest.raises(ValueError, match="empty"):
        wrap(conditional, VP(), conditions=bank, empty=dict(more=0.0))
    with pytest.raises(ValueError, match="conditions"):
        wrap(conditional, VP(), empty=dict(more=0.0))
    with pytest.raises(ValueError, match="labels"):
        wrap(lambda z, t: z, VP()).bind(labels=[0])


def test_bad_functions():
    with pytest.raises(ValueError, match="predicts"):
        wrap(lambda z, t: z, VP(), "nonsense")
    with pytest.raises(ValueError, match="psi . sigma = 1"):
        wrap(lambda z, t: z, VP(), "flow")
    with pytest.raises(ValueError, match="k = 1"):
        wrap(lambda z, t: z, PSLD())
    with pytest.raises(TypeError, match="net"):
        wrap(3, VP())
    twice = wrap(lambda z, t: torch.cat([z, z], 1), VP())
    with pytest.raises(ValueError, match="learned variance"):
        twice.eps(torch.zeros(1, 3, 4, 4), 0.5)
    half = wrap(lambda z, t: torch.cat([z, 9 * z], 1), VP(), learned_variance=True)
    assert torch.equal(half.eps(torch.ones(1, 3, 4, 4), 0.5), torch.ones(1, 3, 4, 4))


# ---- a walk that asks

SAMPLERS = [
    "ddim",
    "ddim:eta=1",
    "dpmpp2m",
    "dpmpp2m:stochastic=1",
    "conjugate:lam=.3",
    "heun",
    "edm",
    "edm:s_churn=5",
    "pndm",
    "deis2",
    "ddpm",
    "em",
]


@pytest.mark.parametrize("up", [[], [".1,1.,3,2"], [".1,1.,3,2", ".4,2.,2,1"]], ids=len)
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_resumable_walk_is_the_driver(name, up):
    p = VP()
    exact, s = ring().denoiser(p), parse_sampler(name)
    route = route_of(p, 9, [RestartInterval.from_sigma(p, *parse_restart(u)) for u in up], "karras")
    draw, again = (Noise(3, 4, (2,), dtype=torch.float64) for _ in range(2))
    z = p.prior((4, 2), draw())
    again()
    walk = ResumableWalk(s, p, route, z, again)
    while walk.t is not None:
        walk.answer(exact.data_from(walk.z, exact.predict(walk.z, walk.t), walk.t))
    exact.nfe = 0
    want = last(states(s, exact, route, z, draw))
    assert float((walk.z - want).abs().max()) < 1e-9 and walk.nfe == exact.nfe
    assert draw.count == again.count
    with pytest.raises(ValueError, match="ended"):
        walk.answer(z)


# ---- with diffusers: in


def tiny(diffusers, **kw):
    torch.manual_seed(0)
    layout = dict(
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D")
    )
    return (
        diffusers.UNet2DModel(
            **{
                **dict(
                    sample_size=8,
                    in_channels=3,
                    out_channels=3,
                    block_out_channels=(8, 16),
                    layers_per_block=1,
                    norm_num_groups=4,
                ),
                **layout,
                **kw,
            }
        )
        .eval()
        .requires_grad_(False)
    )


@pytest.fixture(scope="module")
def unet(diffusers):
    return tiny(diffusers)


START = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def close(a, b):
    return float((a - b).detach().abs().max()) < 1e-5 * max(1.0, float(b.detach().abs().max()))


@pytest.mark.parametrize("means", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize(
    "end",
    [dict(set_alpha_to_one=a, steps_offset=o) for a in (True, False) for o in (0, 1)],
    ids=str,
)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim(diffusers, unet, spacing, end, means):
    s = diffusers.DDIMScheduler(
        timestep_spacing=spacing,
        prediction_type=means,
        clip_sample=False,
        beta_schedule="scaled_linear",
        **end,
    )
    d = from_diffusers(unet, s)
    times, denoise = scheduler_grid(s, 10)
    x = START
    s.set_timesteps(10)
    for i, t in enumerate(s.timesteps):
        y, x = x, s.step(unet(x, t).sample, t, x).prev_sample
        if i + 1 < len(times):
            assert close(
                last(states(parse_sampler("ddim"), d, times[i : i + 2], y, denoise=False)), x
            )  # one step
    d.nfe = 0
    assert (
        close(last(states(parse_sampler("ddim"), d, times, START, denoise=denoise)), x)
        and d.nfe in (9, 10)
        and d.shape == (3, 8, 8)
    )


def test_ddim_linspace_stride(diffusers, unet):
    "With linspace the library steps by N // n, to another entry than it names next."
    s = diffusers.DDIMScheduler(timestep_spacing="linspace", clip_sample=False)
    s.set_timesteps(10)
    t, after = int(s.timesteps[0]), int(s.timesteps[1])
    assert t - 1000 // 10 != after
    d = from_diffusers(unet, s)
    x = s.step(unet(START, t).sample, t, START).prev_sample

    def go(to):
        return last(
            states(
                parse_sampler("ddim"), d, [(t + 1) / 1000, (to + 1) / 1000], START, denoise=False
            )
        )

    assert close(go(t - 100), x) and not close(go(after), x)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_eta_and_clip(diffusers, unet, eta):
    s = diffusers.DDIMScheduler(timestep_spacing="trailing")
    s.set_timesteps(10)
    d = from_diffusers(unet, s)
    assert d.clip and not from_diffusers(unet, s, clip=False).clip
    w = torch.randn_like(START)

    def draw():
        return w

    t = 499
    x = s.step(
        unet(START, t).sample, t, START, eta=eta, variance_noise=w, use_clipped_model_output=True
    ).prev_sample
    assert close(
        last(states(parse_sampler(f"ddim:eta={eta}"), d, [0.5, 0.4], START, draw, denoise=False)), x
    )


@pytest.mark.parametrize("size", ["small", "large"])
def test_ddpm(diffusers, unet, size):
    s = diffusers.DDPMScheduler(clip_sample=True, variance_type=f"fixed_{size}")
    s.set_timesteps(10)
    d = from_diffusers(unet, s)
    t = 400

    def g():
        return torch.Generator().manual_seed(7)

    x = s.step(unet(START, t).sample, t, START, generator=g()).prev_sample
    w = torch.randn(START.shape, generator=g())
    assert close(
        last(
            states(
                parse_sampler(f"ddpm:variance={size}"),
                d,
                [0.401, 0.301],
                START,
                lambda: w,
                denoise=False,
            )
        ),
        x,
    )


def test_euler_and_dpm(diffusers, unet):
    s = diffusers.EulerDiscreteScheduler(timestep_spacing="linspace", beta_schedule="scaled_linear")
    d = from_diffusers(unet, s)
    times, denoise = scheduler_grid(s, 8)
    s.set_timesteps(8)
    z = START
    x = START / d.process.marginal(times[0])[0].float()
    for t in s.timesteps:
        x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert denoise and close(last(states(parse_sampler("ddim"), d, times, z)), x)
    for n in (8, 20):  # as it comes
        s = diffusers.DPMSolverMultistepScheduler()
        times, denoise = scheduler_grid(s, n)
        x = START
        s.set_timesteps(n)
        for t in s.timesteps:
            x = s.step(unet(x, t).sample, t, x).prev_sample
        assert (
            denoise
            and len(times) == n
            and close(
                last(states(parse_sampler("dpmpp2m"), from_diffusers(unet, s), times, START)), x
            )
        )
    for form in ("dpmsolver++", "sde-dpmsolver++"):
        s = diffusers.DPMSolverMultistepScheduler(
            algorithm_type=form,
            lower_order_final=False,
            final_sigmas_type="sigma_min",
            timestep_spacing="trailing",
        )
        d = from_diffusers(unet, s)
        times, denoise = scheduler_grid(s, 8)
        s.set_timesteps(8)
        noises = torch.randn(8, *START.shape)
        x = START
        draws = iter(noises)
        for t, w in zip(s.timesteps, noises):
            x = s.step(unet(x, t).sample, t, x, variance_noise=w).prev_sample
        y = last(
            states(
                parse_sampler("dpmpp2m:stochastic=1" if form[0] == "s" else "dpmpp2m"),
                d,
                times,
                START,
                lambda: next(draws),
                denoise,
            )
        )
        assert not denoise and float((y - x).abs().max()) < 1e-4 * float(x.abs().max()), (
            form,
            float((y - x).abs().max()),
        )


def test_edm_scheduler(diffusers, unet):
    s = diffusers.EDMEulerScheduler(sigma_max=20.0)
    d = from_diffusers(unet, s)
    times, denoise = scheduler_grid(s, 8)
    s.set_timesteps(8)
    assert d.process == EDM(T=20.0, eps=0.002) and denoise
    x = 20 * START
    for t in s.timesteps:
        x = s.step(unet(s.scale_model_input(x, t), t).sample, t, x).prev_sample
    assert close(last(states(parse_sampler("ddim"), d, times, 20 * START)), x)


def prompted(diffusers):
    torch.manual_seed(0)
    return (
        diffusers.UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            cross_attention_dim=6,
            attention_head_dim=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        )
        .eval()
        .requires_grad_(False)
    )


def STABLE(diffusers):
    return diffusers.DDIMScheduler(
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
    )


def test_guidance(diffusers):
    "Two prompts and the empty one, guidance 5, against the library's own loop."
    net = prompted(diffusers)
    prompts, none = torch.randn(2, 5, 6), torch.randn(5, 6)
    s = STABLE(diffusers)
    d = from_diffusers(
        net, s, dict(encoder_hidden_states=prompts), dict(encoder_hidden_states=none)
    )
    times, denoise = scheduler_grid(s, 5)
    labels = torch.tensor([0, 1, 1])
    r = sample(
        parse_sampler("ddim"),
        d,
        times,
        n=3,
        seed=4,
        labels=labels,
        guidance=5.0,
        denoise=denoise,
        batch=2,
    )
    assert r.nfe == 10
    x = Noise(4, 3, (4, 8, 8))()
    s.set_timesteps(5)
    c = torch.cat([none.expand(3, 5, 6), prompts[labels]])
    for t in s.timesteps:
        u, v = net(torch.cat([x, x]), t, encoder_hidden_states=c).sample.chunk(2)
        x = s.step(u + 5 * (v - u), t, x).prev_sample
    assert close(r.x, x) and not close(
        sample(
            parse_sampler("ddim"),
            d,
            times,
            n=3,
            seed=4,
            labels=1 - labels,
            guidance=5.0,
            denoise=denoise,
        ).x,
        x,
    )


def test_folders(diffusers, unet, tmp_path):
    s = diffusers.DDPMScheduler(num_train_timesteps=50, prediction_type="v_prediction")
    a = from_diffusers(unet, s)
    unet.save_pretrained(tmp_path / "net")
    s.save_pretrained(tmp_path / "net")
    diffusers.DDPMPipeline(unet, s).save_pretrained(tmp_path / "pipe")
    for b in (
        from_diffusers(tmp_path / "net"),
        from_diffusers(str(tmp_path / "pipe")),
        from_diffusers(diffusers.DDPMPipeline(unet, s)),
        from_diffusers(tmp_path / "net", tmp_path / "pipe" / "scheduler"),
    ):
        assert (
            b.shape == (3, 8, 8)
            and b.clip
            and repr(b.process) == repr(a.process)
            and close(b.eps(START, 0.5), a.eps(START, 0.5))
            and not b.network.training
        )
    (tmp_path / "net" / "diffusion_pytorch_model.safetensors").write_bytes(
        (tmp_path / "net" / "diffusion_pytorch_model.safetensors").read_bytes()[:-100]
    )
    with pytest.raises(ValueError, match="complete UNet2DModel"):
        from_diffusers(tmp_path / "net")
    (tmp_path / "net" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="complete UNet2DModel"):
        from_diffusers(tmp_path / "net")
    with pytest.raises(FileNotFoundError, match="config.json"):
        from_diffusers(tmp_path)
    for text, word in (
        ("{", "JSON"),
        ("[]", "object"),
        ('{"_class_name": "DDPMScheduler"}', "model of diffusers"),
        ('{"_class_name": "logging"}', "logging"),
        ("{}", "_class_name"),
    ):
        (tmp_path / "net" / "config.json").write_text(text)
        with pytest.raises(ValueError, match=word):
            from_diffusers(tmp_path / "net")


def test_foreign_things_we_refuse(diffusers, unet):
    D = diffusers.DDPMScheduler
    refused = [
        (D(prediction_type="flow"), "prediction_type"),
        (D(thresholding=True), "SamplerScheduler only"),
        (D(rescale_betas_zero_snr=True), "v_prediction"),
        (D(clip_sample_range=2.0), "clip_sample_range"),
        (diffusers.EDMEulerScheduler(prediction_type="sample"), "prediction_type"),
        (diffusers.LCMScheduler(), "consistency"),
        (diffusers.ScoreSdeVeScheduler(), "score_sde"),
        (diffusers.UnCLIPScheduler(), "UnCLIPScheduler"),
        (diffusers.IPNDMScheduler(), "IPNDMScheduler"),
        (diffusers.CogVideoXDDIMScheduler(), "CogVideoX"),
    ]
    for s, word in refused:
        with pytest.raises(ValueError, match=word):
            from_diffusers(unet, s)
    with pytest.raises(ValueError, match="out_channels.*inpainting"):
        from_diffusers(tiny(diffusers, in_channels=9), D())
    with pytest.raises(ValueError, match="shape"):
        from_diffusers(unet, D(), shape=(1, 8, 8))
    with pytest.raises(TypeError, match="scheduler"):
        from_diffusers(unet)
    with pytest.raises(TypeError, match="wrap"):
        from_diffusers(torch.nn.Linear(1, 1), D())
    with pytest.raises(TypeError, match="unet or transformer"):
        from_diffusers(object(), D())
    with pytest.raises(TypeError, match="a diffusers scheduler"):
        from_diffusers(unet, 3)


def test_a_scheduler_that_needs_torchsde_is_refused_too(diffusers, unet):
    pytest.importorskip("torchsde")
    with pytest.raises(ValueError, match="CosineDPMSolver"):
        from_diffusers(unet, diffusers.CosineDPMSolverMultistepScheduler())


TWICE = [
    "PNDMScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
]


@pytest.mark.parametrize("n", [5, 20])
@pytest.mark.parametrize("name", TWICE)
def test_grids_of_schedulers_that_ask_twice(diffusers, name, n):
    with pytest.raises(
        ValueError, match=f"scheduler = '{name}'.*twice.*no grid.*grid\\(process, n\\)"
    ):
        scheduler_grid(getattr(diffusers, name)(), n)
    if name == "PNDMScheduler":
        with pytest.raises(ValueError, match="twice"):
            scheduler_grid(diffusers.PNDMScheduler(skip_prk_steps=True), n)


@pytest.mark.parametrize(
    "name",
    [
        "DDPMScheduler",
        "LMSDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DEISMultistepScheduler",
        "EulerAncestralDiscreteScheduler",
    ],
)
def test_grids_of_other_schedulers(diffusers, name):
    times, _ = scheduler_grid(getattr(diffusers, name)(), 6)
    assert len(times) in (6, 7) and bool((times[1:] < times[:-1]).all())


# ---- our networks, out and in


@pytest.mark.parametrize("name", ["fashion-vp-small", "fashion-psld-small"])
def test_checkpoint_round_trip(diffusers, name, tmp_path):
    d = load(name)
    export_pretrained(tmp_path, d)
    e = import_pretrained(tmp_path)
    k = d.process.k
    z = torch.randn(2, k, 28, 28)
    assert (
        sorted(p.name for p in tmp_path.iterdir())
        == ["config.json", "diffusion_pytorch_model.safetensors"]
        and e.shape == d.shape
        and e.process == d.process
    )
    a, b = d.network.state_dict(), e.network.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    m = interop.NoiseModel.from_pretrained(tmp_path)
    t = torch.tensor([499, 99])
    assert (
        close(m(z, 499).sample, d.eps(z, 0.5))
        and close(m(z, t).sample, d.eps(z, torch.tensor([0.5, 0.1]).double()))
        and close(m(z, 499, torch.tensor([3, 10]))[0][:1], d.bind(labels=[3, 3]).eps(z, 0.5)[:1])
    )
    m.save_pretrained(tmp_path / "theirs")
    f = import_pretrained(tmp_path / "theirs")
    assert all(torch.equal(a[n], v) for n, v in f.network.state_dict().items())
    assert type(f.network) is type(d.network) is PARAMETRISATIONS[d.card["network"]["predicts"]]


def test_bad_checkpoints(tmp_path):
    d = load("fashion-vp-small")
    export_pretrained(tmp_path, d)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()

    def with_config(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    for changes, word in (
        (dict(_class_name="UNet2DModel"), "from_diffusers"),
        (dict(process=dict(name="Nonsense")), "process.name"),
        (dict(network={**config["network"], "predicts": "nonsense"}), "predicts"),
        (
            dict(
                network={
                    **config["network"],
                    "config": {**config["network"]["config"], "width": 24},
                }
            ),
            "differ",
        ),
    ):
        with_config(**changes)
        with pytest.raises(ValueError, match=word):
            import_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps({n: v for n, v in config.items() if n != "sample_size"})
    )
    with pytest.raises(ValueError, match="sample_size"):
        import_pretrained(tmp_path)
    with_config()
    weights.write_bytes(whole[:1000])
    with pytest.raises(ValueError, match="safetensors"):
        import_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match="config.json"):
        import_pretrained(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="foreign"):
        export_pretrained(tmp_path, wrap(lambda z, t: z, VP(), shape=(1, 4, 4)))


# ---- with diffusers: transformers, flows, classes, zero terminal SNR

WIDE = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))


def euler(scheduler, ask, x, n, **settings):
    "The library's own loop; `ask` answers what the network does."
    scheduler.set_timesteps(n, **settings)
    for t in scheduler.timesteps:
        y = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(ask(y, t), t, x).prev_sample
    return x


def test_a_flow_transformer(diffusers):  # noqa: PLR0914
    net, s = T.sd3(diffusers), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    words, wide = torch.randn(2, 5, 8), torch.randn(2, 8)
    given = dict(encoder_hidden_states=words, pooled_projections=wide)
    none = dict(encoder_hidden_states=torch.zeros(5, 8), pooled_projections=torch.zeros(8))
    d = from_diffusers(net, s, given, none, flow_start=1.0)
    assert d.shape == (4, 8, 8) and d.process == Flow()
    times, denoise = scheduler_grid(s, 7, d.process)

    def ask(x, t):
        return net(x, timestep=t.expand(2), return_dict=False, **given)[0]

    want = euler(copy.deepcopy(s), ask, WIDE, 7)
    d = d.bind(labels=[0, 1])
    got = last(states(parse_sampler("ddim"), d, times, WIDE.double(), denoise=denoise))
    assert denoise and close(got.float(), want) and d.nfe == 7
    t = torch.tensor([0.3, 0.8]).double()
    v = net(WIDE, timestep=1000 * t.float(), return_dict=False, **given)[0]
    noise = WIDE + (1 - t).float().view(2, 1, 1, 1) * v
    assert close(d.eps(WIDE, t), noise)
    assert close(d.x0(WIDE, 0.8)[1:], (WIDE - 0.8 * v)[1:])
    guided = d.bind(guidance=3.0)
    empty = from_diffusers(net, s, given, none)
    assert close(
        guided.x0(WIDE, 0.8), empty.x0(WIDE, 0.8) + 3 * (d.x0(WIDE, 0.8) - empty.x0(WIDE, 0.8))
    )


def test_a_packed_transformer(diffusers):
    net = T.flux(diffusers)
    s = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    words, wide = torch.randn(1, 5, 8), torch.randn(1, 8)
    given = dict(encoder_hidden_states=words, pooled_projections=wide, guidance=torch.tensor([3.5]))
    with pytest.raises(ValueError, match="sample_size"):
        from_diffusers(net, s, given)
    d = from_diffusers(net, s, given, shape=(4, 8, 8), flow_start=1.0).bind(labels=[0, 0])
    ids = torch.tensor([[0, i, j] for i in range(4) for j in range(4)]).float()
    pack = diffusers.FluxPipeline._pack_latents

    def ask(x, t):
        return net(
            hidden_states=x,
            timestep=(t / 1000).expand(2),
            guidance=torch.tensor([3.5, 3.5]),
            encoder_hidden_states=words.expand(2, 5, 8),
            pooled_projections=wide.expand(2, 8),
            img_ids=ids,
            txt_ids=torch.zeros(5, 3),
        ).sample

    stock = copy.deepcopy(s)
    stock.set_timesteps(5, mu=0.6)
    x = pack(WIDE, 2, 4, 8, 8)
    for t in stock.timesteps:
        x = stock.step(ask(x, t), t, x).prev_sample
    times, _ = scheduler_grid(s, 5, d.process, mu=0.6)
    got = last(states(parse_sampler("ddim"), d, times, WIDE.double()))
    assert close(pack(got, 2, 4, 8, 8).float(), x)


def test_transformers_with_a_learned_variance(diffusers):
    s = diffusers.DDIMScheduler(clip_sample=False)
    d = from_diffusers(T.dit(diffusers), s)
    net = d.network.net.net
    assert d.shape == (4, 8, 8) and d.network.classes == 1000
    labels = torch.tensor([3, 7])
    times = torch.tensor([499, 499])
    out = net(WIDE, timestep=times, class_labels=labels).sample[:, :4]
    assert close(d.bind(labels=labels).eps(WIDE, 0.5), out)
    none = net(WIDE, timestep=times, class_labels=torch.tensor([1000, 1000])).sample[:, :4]
    assert close(d.eps(WIDE, 0.5), none)
    p = from_diffusers(T.pixart(diffusers), s, dict(encoder_hidden_states=torch.randn(2, 5, 8)))
    assert torch.isfinite(p.bind(labels=[0, 1]).eps(WIDE, 0.5)).all()


def test_classes_of_a_unet(diffusers):
    net = tiny(diffusers, num_class_embeds=11)
    s = diffusers.DDPMScheduler(clip_sample=False)
    d = from_diffusers(net, s, empty=dict(class_labels=10))
    labels = torch.tensor([4, 9])
    want = net(START, 499, class_labels=labels).sample
    none = net(START, 499, class_labels=torch.tensor([10, 10])).sample
    assert close(d.bind(labels=labels).eps(START, 0.5), want) and close(d.eps(START, 0.5), none)
    guided = d.bind(labels=labels, guidance=3.0).eps(START, 0.5)
    assert close(guided, none + 3 * (want - none))
    with pytest.raises(ValueError, match="labels"):
        d.bind(labels=[11, 0])
    with pytest.raises(ValueError, match="empty"):
        from_diffusers(net, s).eps(START, 0.5)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_zero_terminal_snr(diffusers, unet, name):
    s = getattr(diffusers, name)(
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        **({"clip_sample": False} if name[0] == "D" else {}),
    )
    d = from_diffusers(unet, s)
    assert d.process.levels[-1] == 2.0**-24 < d.process.levels[-2]
    v = unet(START, 999).sample
    assert close(d.x0(START, 1.0), 2.0**-12 * START - math.sqrt(1 - 2.0**-24) * v)
    s.set_timesteps(10)
    x = START * (s.init_noise_sigma if name[0] == "E" else 1)
    want = euler(s, lambda x, t: unet(x, t).sample, x, 10)
    times, denoise = scheduler_grid(s, 10)
    got = last(states(parse_sampler("ddim"), d, times, START.double(), denoise=denoise))
    floor = 1e-4 if name[0] == "E" else 2e-3  # DDIM's table ends at 0 itself
    assert float((got - want).abs().max()) < floor * float(want.abs().max())


def test_edm_that_predicts_v(diffusers, unet):
    s = diffusers.EDMEulerScheduler(prediction_type="v_prediction", sigma_max=120.0)
    d = from_diffusers(unet, s)
    want = euler(s, lambda x, t: unet(x, t).sample, 120 * START, 8)
    times, _ = scheduler_grid(s, 8)
    assert close(last(states(parse_sampler("ddim"), d, times, 120 * START)), want)
    continuous = dict(timestep_type="continuous", sigma_min=0.002, sigma_max=120.0)
    s = diffusers.EulerDiscreteScheduler(
        prediction_type="v_prediction", use_karras_sigmas=True, **continuous
    )
    d = from_diffusers(unet, s)
    assert isinstance(d.process, EDM)
    want = euler(s, lambda x, t: unet(x, t).sample, 120 * START, 8)
    got = last(states(parse_sampler("ddim"), d, scheduler_grid(s, 8)[0], 120 * START.double()))
    assert float((got - want).abs().max()) < 2e-4 * float(want.abs().max())
    with pytest.raises(ValueError, match="prediction_type"):
        from_diffusers(unet, diffusers.EulerDiscreteScheduler(**continuous))


def test_conditions_of_other_shapes(diffusers):
    s = diffusers.DDIMScheduler(clip_sample=False)
    net = T.prompted_unet(diffusers)
    words = torch.randn(2, 5, 8)
    with pytest.raises(ValueError, match="empty.*encoder_hidden_states.*\\(5, 8\\)"):
        from_diffusers(
            net, s, dict(encoder_hidden_states=words), dict(encoder_hidden_states=torch.zeros(7, 8))
        )
    with pytest.raises(ValueError, match="equally many"):
        from_diffusers(net, s, dict(encoder_hidden_states=words, class_labels=torch.arange(3)))
    with pytest.raises(TypeError, match="conditions"):
        from_diffusers(net, s, dict(encoder_hidden_states="a cat"))


def test_half_precision_networks(diffusers):
    s = diffusers.DDIMScheduler(clip_sample=False)
    words = dict(encoder_hidden_states=torch.randn(2, 5, 8))
    exact = from_diffusers(T.prompted_unet(diffusers), s, words).bind(labels=[0, 1])
    rough = from_diffusers(T.prompted_unet(diffusers).to(torch.bfloat16), s, words)
    rough = rough.bind(labels=[0, 1])
    e, f = exact.eps(WIDE, 0.5), rough.eps(WIDE, 0.5)
    assert f.dtype == torch.float32 and float((e - f).abs().max()) < 0.05 * float(e.abs().max())


# ---- a network of one's own


class Own(torch.nn.Module):
    "A network with its time in a table or not, with classes or not."

    def __init__(self, table=False, classes=0, dropout=0.0):
        super().__init__()
        self.table = torch.nn.Embedding(1000, 1) if table else None
        self.classes = torch.nn.Embedding(classes, 1) if classes else None
        self.drop = torch.nn.Dropout(dropout)
        self.first = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.second = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, z, t, labels=None):
        h = self.table(t) if self.table is not None else t[:, None] / 1000
        if labels is not None:
            h = h + self.classes(labels)
        return self.second(self.drop(self.first(z))) + h[..., None, None]


def test_check_network():
    shape = (1, 4, 4)
    facts = check_network(Own().eval(), shape)
    assert facts["tied"] == [["first.weight", "second.weight"]]
    assert facts["parameters"] == 11 == facts["trainable"] and not facts["whole_times"]
    frozen = Own().eval().requires_grad_(False)
    assert check_network(frozen, shape)["trainable"] == 0
    assert check_network(Own(classes=4), shape, classes=3)["dtype"] == "torch.float32"
    with pytest.raises(ValueError, match="classes = 4: .*0 to 4"):
        check_network(Own(classes=4), shape, classes=4)
    with pytest.raises(ValueError, match="network.training.*eval"):
        check_network(Own(dropout=0.5), shape)
    with pytest.raises(ValueError, match="integer_time=True"):
        check_network(Own(table=True).eval(), shape)
    with pytest.raises(ValueError, match="answer"):
        check_network(Flat(), shape)
    with pytest.raises(ValueError, match="twice"):
        check_network(Restless(), shape)


class Flat(torch.nn.Module):
    def forward(self, z, t):
        return z.flatten(1)


class Restless(torch.nn.Module):
    def forward(self, z, t):
        return torch.randn_like(z)


def test_whole_times():
    net = Own(table=True).eval()
    d = wrap(net, VP(), integer_time=True, time=lambda t: 1000 * t - 1)
    z = torch.zeros(2, 1, 4, 4)
    assert close(d.eps(z, 0.5004), net(z, torch.tensor([499, 499])))


@pytest.mark.parametrize("wrap", [ScaledDenoiser, ReadAs])
def test_what_a_wrapper_adds_is_not_exported_without_it(wrap, tmp_path):
    "Its network alone would draw something else; so would that of a flow."
    net = networks.UNet(1, 8, (1,), 1, (), 0)
    flow = FlowDenoiser(net, Flow(), (1, 8, 8))
    inner = Denoiser(net, VP(), (1, 8, 8))
    wrapped = wrap(inner) if wrap is ScaledDenoiser else wrap(inner, EDM())
    for odd in (wrapped, flow):
        with pytest.raises(TypeError, match=r"denoiser = .*: a Denoiser itself"):
            interop.to_diffusers(odd)
        with pytest.raises(TypeError, match=r"denoiser = .*: a Denoiser itself"):
            interop.export_pretrained(tmp_path / "x", odd)
    assert not (tmp_path / "x").exists()


def test_labels_without_conditions_are_explained():
    "A network with labels, wrapped without them, is not one that was trained without."
    wrapped = interop.wrap(lambda z, t, y: 0.1 * z, VP(), "eps", (1, 4, 4))
    with pytest.raises(ValueError, match="wrapped without conditions="):
        wrapped.bind(labels=torch.tensor([1, 2]))
    own = Denoiser(networks.UNet(width=8, classes=0), VP(), (1, 28, 28))
    with pytest.raises(ValueError, match="trained without labels$"):
        own.bind(labels=torch.tensor([1, 2]))
