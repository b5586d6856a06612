"Compensation: weights, wrapper, modules and their cards, objectives, the command, bad input."

import inspect
import json
import math

import numpy as np
import pytest
import torch

from compsamp import data, experiment, networks, zoo
from compsamp.commands import run_compensation as main
from compsamp.compensation import (
    COMPENSATION_OBJECTIVES,
    Compensated,
    CompensatedDDIM,
    Compensation,
    LightUNet,
    ModuleObjective,
    TimewiseScaling,
    check_module_card,
    correction_size,
    ddim_step,
    fit_timewise_scaling,
    fresh_variance,
    light_module,
    load_module,
    price,
    save_module,
    weights,
)
from compsamp.core import Noise
from compsamp.forward import EDM, VE, VP, CosineVP, SubVP
from compsamp.lab.compensation import (
    COMPENSATION_ARMS,
    ArmRun,
    CompensationArm,
    EstimateLoss,
    LightTransformer,
    NetworkWithCorrection,
    WatchedTraining,
    compensation_experiment,
    parse_module,
    pooled_features,
)
from compsamp.mixtures import PerturbedDenoiser, ring
from compsamp.networks import weights_hash
from compsamp.psld import PSLD
from compsamp.sampling import (
    DDIM,
    DDPM,
    DPMpp2M,
    EDMHeun,
    Heun,
    grid,
    sample,
    states,
)
from compsamp.training import StepRandom, Trainer

MIX, VPS = ring(8, 0.8, 0.3, 0.2), VP()
SCALAR = [VP(), CosineVP(), SubVP(), VE(), EDM()]


def bend(x, t):
    return torch.tanh(1.3 * x) + 0.1


def never(x, t):
    raise AssertionError("asked")


def last(many):
    *_, final = many
    return final


def psi_of(t):
    "psi of VP, written out."
    return np.exp(-(0.1 * t + 9.95 * t * t) / 2)


def sigma_of(t):
    "sigma of VP, written out."
    return np.sqrt(1 - psi_of(t) ** 2)


def column(values):
    "One number per picture, to multiply pictures with."
    return np.asarray(values)[:, None, None, None]


def ddim_in_numpy(z, eps, t, s):
    "One step of DDIM, each picture at its own times."
    of_noise = sigma_of(s) - psi_of(s) * sigma_of(t) / psi_of(t)
    return column(psi_of(s) / psi_of(t)) * z + column(of_noise) * eps


@pytest.fixture(scope="module")
def net():
    return zoo.load("fashion-vp-small")


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(0)
    inside = networks.UNet(1, 8, (1, 2), 1, (), 0)
    torch.nn.init.normal_(inside.out.weight, std=0.05)
    return networks.Denoiser(
        networks.PredictV(inside, VPS).requires_grad_(False), VPS, (1, 8, 8), card={}
    )


def small_module(d, seed=1):
    torch.manual_seed(seed)
    m = LightUNet(1, 8, (1,), 2)
    torch.nn.init.normal_(m.out.weight, std=0.05)
    m.card = dict(
        process=networks.process_card(d.process),
        shape=list(d.shape),
        module=dict(main=weights_hash(d), epochs=1.0),
    )
    return m.eval().requires_grad_(False)


def pictures(n=64):
    return torch.nn.functional.avg_pool2d(data.to_model(data.embedded(n)[0])[..., 2:26, 2:26], 3)


def test_weights_by_hand():
    "VP: from alpha-bar, written out; the posterior's weight at eta = 1."

    def alpha_bar(t):
        return math.exp(-(0.1 * t + 9.95 * t * t))

    for t, s in ((0.9, 0.6), (0.5, 0.45), (0.02, 0.001), (0.3, 0.0)):
        a, b = alpha_bar(t), alpha_bar(s)
        posterior = math.sqrt(b) * (1 - a / b) / (1 - a)
        assert abs(float(weights(VPS, t, s, 1.0)) - posterior) < 1e-12
        for eta in (0.0, 0.5, 1.0):
            v = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
            want = math.sqrt(b) - math.sqrt(a) * math.sqrt(1 - b - v) / math.sqrt(1 - a)
            assert abs(float(fresh_variance(VPS, t, s, eta)) - v) < 1e-12
            assert abs(float(weights(VPS, t, s, eta)) - want) < 1e-12
            frozen = float(weights(VPS, t, s, eta, "frozen"))
            assert abs(frozen - (math.sqrt(b) - math.sqrt(a))) < 1e-14
    w = weights(VPS, torch.tensor([0.9, 0.5]), torch.tensor([0.6, 0.45]))
    assert w.shape == (2,)
    assert w.dtype == torch.float64


@pytest.mark.parametrize("p", SCALAR, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_reading_a_is_a_denoiser(p, eta):
    "The step with w_A, and DDIM on the wrapped denoiser."
    d = PerturbedDenoiser(MIX.denoiser(p), 0.3, seed=2)
    times = grid(p, 9, "karras")
    z = p.prior((20, 2), Noise(0, 20, (2,), dtype=torch.float64)())

    def path(sampler, denoiser):
        draw = Noise(1, 20, (2,), dtype=torch.float64)
        return torch.stack(list(states(sampler, denoiser, times, z, draw, denoise=False)))

    by_step = path(CompensatedDDIM(bend, 0.6, "re-estimated", eta), d)
    by_wrapper = path(DDIM(eta), Compensated(d, bend, 0.6))
    assert (by_step - by_wrapper).abs().max() < 1e-11 * z.abs().max()
    assert (by_step - path(DDIM(eta), d)).abs().max() > 1e-3


def test_with_the_truth():
    "A module that knows x0: the path of theory, and x0 at the end of every sampler."
    x0 = MIX.sample(30, 1)
    bad = PerturbedDenoiser(MIX.denoiser(VPS), 0.9, seed=3)
    knowing = Compensated(bad, lambda x, t: x0)
    eps = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    times = grid(VPS, 11)
    start = VPS.perturb(x0, 1.0, eps)
    path = list(states(DDIM(), knowing, times, start))
    for z, t in list(zip(path, times.tolist()))[:-1]:
        assert (z - psi_of(t) * x0 - sigma_of(t) * eps).abs().max() < 1e-12
    for sampler in (DDIM(), DDIM(1.0), DDPM(), Heun(), EDMHeun(), DPMpp2M(), DPMpp2M(True)):
        noise = Noise(0, 30, (2,), dtype=torch.float64)
        assert (last(states(sampler, knowing, times, start, noise)) - x0).abs().max() < 1e-10
    frozen = CompensatedDDIM(lambda x, t: x0)
    assert (last(states(frozen, bad, times, start)) - x0).abs().max() > 0.1


@pytest.mark.parametrize("p", [VP(), EDM(), PSLD()], ids=lambda p: type(p).__name__)
def test_off_and_identity_change_no_bit(p):
    d = MIX.denoiser(p)
    samplers = [Heun(), DDIM(0.5), DPMpp2M()] if p.k == 1 else [Heun()]
    for sampler in samplers:
        plain = sample(sampler, d, 6, n=5, seed=1)
        for same in (Compensated(d, never, 0.0), Compensated(d, lambda x, t: x, 1.0)):
            got = sample(sampler, same, 6, n=5, seed=1)
            assert torch.equal(plain.x, got.x)
            assert plain.nfe == got.nfe


@pytest.mark.parametrize("p", [VP(), EDM()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_compensated_ddim_off_is_ddim(p, eta):
    "Two orders of the same arithmetic."
    d = MIX.denoiser(p)
    plain = sample(DDIM(eta), d, 6, n=5, seed=1, dtype=torch.float64).x
    off = CompensatedDDIM(never, 0.0, eta=eta)
    looks = CompensatedDDIM(lambda x, t: x, 1.0, eta=eta)
    for sampler in (off, looks):
        got = sample(sampler, d, 6, n=5, seed=1, dtype=torch.float64)
        assert (got.x - plain).abs().max() < 1e-10
        assert got.nfe == 6


def test_wrapper_contract(net):
    module = light_module(net)
    d = Compensated(net, module, 0.5)
    assert d.shape == net.shape
    assert d.device == net.device
    assert d.card is net.card
    assert d.network is net.network
    bound = d.bind(labels=torch.tensor([1, 2]), guidance=2.0)
    assert isinstance(bound, Compensated)
    assert (bound.evals, bound.strength) == (2, 0.5)
    assert d.inner.labels is None
    z = torch.zeros(2, 1, 28, 28)
    bound.eps(z, 0.5)
    assert (bound.nfe, d.nfe) == (2, 0)
    assert d.to("cpu") is d
    assert torch.equal(d.eps(z, 0.5), net.predict(z, 0.5))
    assert d.nfe == 1


def test_wrapper_samples(net):
    module = light_module(net)
    torch.nn.init.normal_(module.out.weight, std=0.05)
    d = Compensated(net, module, 0.5)
    assert sample(DDIM(), d, 3, n=2, labels=torch.tensor([1, 2]), guidance=2.0).nfe == 6
    seen = experiment.generate_and_score(d, "ddim@uniform", 2, 128, 0)
    assert seen["nfe"] == 2
    assert math.isfinite(seen["frechet"])
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    both = d.predict(torch.ones(2, 1, 28, 28), t)
    one = d.predict(torch.ones(1, 1, 28, 28), 0.7)
    assert torch.allclose(both[1:], one, atol=1e-5)


def test_light(net):
    module = light_module(net, seed=3)
    most = 0.15 * networks.count_parameters(net.network)
    assert networks.count_parameters(module) <= most
    assert torch.equal(light_module(net, seed=3).inp.weight, module.inp.weight)
    state = torch.get_rng_state()
    light_module(net)
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(module(x, torch.ones(2)), x)
    torch.nn.init.ones_(module.out.bias)
    assert torch.allclose(module(x, torch.ones(2)), x + 1)
    cost = price(net, module, batch=4, repeats=2)
    assert cost["parameters"] < 0.15
    assert cost["compensated"] > 0
    assert cost["time"] > 0.5


def test_a_module_is_read_back(tiny, tmp_path):
    module = small_module(tiny)
    save_module(tmp_path / "m", module, note="x")
    read = load_module(tmp_path / "m", tiny)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([100.0, 900.0])
    assert torch.equal(module(x, t), read(x, t))
    assert read.card["note"] == "x"
    assert read.card["module"] == module.card["module"]
    assert not any(p.requires_grad for p in read.parameters())
    card = json.loads((tmp_path / "m/card.json").read_text())
    assert card["process"]["name"] == "VP"
    assert card["shape"] == [1, 8, 8]
    assert card["network"]["parameters"] == networks.count_parameters(module)
    files = sorted(p.name for p in (tmp_path / "m").iterdir())
    assert files == ["card.json", "weights.safetensors"]


def test_a_module_for_something_else_is_refused(tiny, tmp_path):
    save_module(tmp_path / "m", small_module(tiny))
    module = load_module(tmp_path / "m", tiny)
    cosine = networks.Denoiser(tiny.network.net, CosineVP(), (1, 8, 8))
    larger = networks.Denoiser(tiny.network, VPS, (1, 16, 16))
    untrained = networks.Denoiser(networks.UNet(1, 8, classes=0), VPS, (1, 8, 8))
    with pytest.raises(ValueError, match="CosineVP"):
        load_module(tmp_path / "m", cosine)
    with pytest.raises(ValueError, match=r"\(1, 16, 16\)"):
        load_module(tmp_path / "m", larger)
    with pytest.raises(ValueError, match="trained on this network"):
        load_module(tmp_path / "m", untrained)
    with pytest.raises(ValueError, match="one trained for the process"):
        Compensated(cosine, module)
    with pytest.raises(ValueError, match="one trained for the process"):
        last(states(CompensatedDDIM(module), cosine, grid(CosineVP(), 3), torch.ones(2, 1, 8, 8)))


def test_folders_that_hold_no_module(tiny, tmp_path):
    save_module(tmp_path / "m", small_module(tiny))
    with pytest.raises(ValueError, match="LightUNet"):
        zoo.load(tmp_path / "m")
    with pytest.raises(ValueError, match="compensation module"):
        load_module(networks.asset_path("weights", "fashion-vp-small"))
    with pytest.raises(ValueError, match="no card"):
        save_module(tmp_path / "q", LightUNet())
    weights_file = tmp_path / "m/weights.safetensors"
    weights_file.write_bytes(weights_file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="complete safetensors"):
        load_module(tmp_path / "m")


@pytest.mark.parametrize(
    "pairs, steps, ahead", [("exact", 1, 0), ("rollout", 2, 2), ("finer", 3, 1)]
)
def test_pairs(tiny, pairs, steps, ahead):
    "Against plain numpy: where the states lie, what is asked and what is wanted."
    x0, times = pictures(6), grid(VPS, 7).numpy()

    def eps(z, t):
        return tiny.predict(torch.from_numpy(z).float(), torch.from_numpy(t)).numpy().astype(float)

    x, y, t = ModuleObjective(tiny, pairs, 7, steps).draw(x0, StepRandom(4, 0, "cpu"))
    dice = StepRandom(4, 0, "cpu")
    index = (dice.uniform(6).numpy() * (7 - ahead)).astype(int)
    at = times[index]
    z = column(psi_of(at)) * x0.numpy() + column(sigma_of(at)) * dice.normal(x0.shape).numpy()
    if pairs == "rollout":
        for j in range(steps):
            z = ddim_in_numpy(z, eps(z, at), at, times[index + j + 1])
            at = times[index + j + 1]
    want = (z - column(sigma_of(at)) * eps(z, at)) / column(psi_of(at))
    assert np.allclose(t.numpy(), at, atol=1e-12)
    assert np.abs(x.numpy() - want).max() < 1e-3 * max(1, np.abs(want).max())
    if pairs != "finer":
        assert torch.equal(y, x0)
        return
    s = times[index + 1]
    end = fine_steps(eps, z, at, s, steps)
    gain = psi_of(s) - psi_of(at) * sigma_of(s) / sigma_of(at)
    landed = column(sigma_of(s) / sigma_of(at)) * z + column(gain) * y.numpy()
    assert np.abs(landed - end).max() < 1e-4


def fine_steps(eps, z, t, s, steps):
    "From t to s in several steps of DDIM."
    now = t
    for j in range(steps):
        then = t + (s - t) * (j + 1) / steps
        z = ddim_in_numpy(z, eps(z, now), now, then)
        now = then
    return z


def test_timewise_scaling(tiny, tmp_path):
    "x + f (x - mean), linear in time between the fitted ones; saved and read back."
    scaling = TimewiseScaling((1, 8, 8), 2)
    scaling.times.copy_(torch.tensor([0.2, 0.4]))
    scaling.factors.copy_(torch.tensor([0.1, 0.3]))
    scaling.mean.fill_(0.5)
    x = pictures(4)
    want = x + column([0.1, 0.2, 0.3, 0.3]) * (x.numpy() - 0.5)
    t = torch.tensor([100.0, 300.0, 400.0, 900.0])
    assert (scaling(x, t) - want).abs().max() < 1e-6
    objective = ModuleObjective(tiny, "finer", 4, 2)
    fitted = fit_timewise_scaling(objective, pictures(40), n=40, batch=20)
    save_module(tmp_path / "m", fitted)
    assert torch.equal(load_module(tmp_path / "m", tiny)(x, t), fitted(x, t))
    assert fitted.card["module"]["pairs"] == "finer"
    with pytest.raises(ValueError, match="two for each time"):
        fit_timewise_scaling(objective, pictures(5))
    with pytest.raises(ValueError, match=r"values in \[-1, 1\]"):
        fit_timewise_scaling(objective, 255 * torch.rand(16, 1, 8, 8))


def module_trainer(d, pairs="rollout"):
    "A trainer for a small module, with first weights of its own."
    torch.manual_seed(5)
    recipe = {"steps": 6, "batch": 16, "lr": 1e-2, "warmup": 1, "ema": 0.5, "amp": False, "seed": 2}
    objective = ModuleObjective(d, pairs, 8, 1)
    return Trainer(LightUNet(1, 8, (1,), 2), VPS, pictures(), None, objective=objective, **recipe)


def test_training_a_module_resumes_exactly(tiny, tmp_path):
    before = weights_hash(tiny)
    whole = module_trainer(tiny)
    for _ in whole.stream(6):
        pass
    half = module_trainer(tiny)
    for _ in range(3):
        half.step()
    half.save(tmp_path / "m", module={"main": weights_hash(tiny), "epochs": 0.75})
    again = module_trainer(tiny).resume(tmp_path / "m")
    for _ in again.stream(6):
        pass
    assert whole.losses == again.losses
    for a, b in zip(whole.ema_net.parameters(), again.ema_net.parameters()):
        assert torch.equal(a, b)
    again.save(tmp_path / "m", module={"main": weights_hash(tiny), "epochs": 1.5})
    read = load_module(tmp_path / "m", tiny)
    x, t = pictures(4), torch.full((4,), 300.0)
    assert torch.equal(read(x, t), again.ema_net(x, t))
    assert read.card["module"]["epochs"] == 1.5
    assert weights_hash(tiny) == before
    with pytest.raises(ValueError, match="objective"):
        module_trainer(tiny, "exact").resume(tmp_path / "m")


class Toy(torch.nn.Module):
    "A network with one weight, whose answers are easily written down again."

    channels = channels_out = 1
    classes = 0

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, z, t, labels=None):
        return torch.sin(self.a * z + t.view(-1, 1, 1, 1) / 1000)


@pytest.mark.parametrize(
    "how, with_module, reading",
    [
        ("plain", False, "re-estimated"),
        ("one-step", False, "re-estimated"),
        ("one-step", True, "re-estimated"),
        ("one-step", True, "frozen"),
    ],
)
def test_objective_one_step(tiny, tmp_path, how, with_module, reading):
    "One compensated step and the error of v, in numpy."
    module, toy, x0 = small_module(tiny), Toy(), pictures(8)
    save_module(tmp_path / "m", module)
    folder = str(tmp_path / "m") if with_module else ""
    dice, times = StepRandom(1, 0, "cpu"), grid(VPS, 10).numpy()
    got = Compensation(how, 10, folder, 0.7, reading)(toy, None, VPS, x0, None, dice)

    dice = StepRandom(1, 0, "cpu")
    index = (dice.uniform(8).numpy() * 10).astype(int)
    before = index if how == "plain" else np.maximum(index - 1, 0)
    t, s = times[before], times[index]
    z = column(psi_of(t)) * x0.numpy() + column(sigma_of(t)) * dice.normal(x0.shape).numpy()
    if how == "one-step":
        used = module if with_module else None
        z = np.where(column(index > before), toy_step(z, t, s, used, reading), z)
    target = (z - column(psi_of(s)) * x0.numpy()) / column(sigma_of(s))
    want = np.mean(((np.sin(0.5 * z + column(s)) - target) / column(psi_of(s))) ** 2)
    assert abs(float(got.detach()) / want - 1) < 2e-3
    got.backward()
    assert toy.a.grad is not None


def toy_step(z, t, s, module, reading):
    "A step of the toy network's DDIM, at strength 0.7."
    eps = np.sin(0.5 * z + column(t))
    new = ddim_in_numpy(z, eps, t, s)
    if module is None:
        return new
    x = (z - column(sigma_of(t)) * eps) / column(psi_of(t))
    answer = module(torch.from_numpy(x).float(), torch.from_numpy(1000 * t).float()).numpy()
    keep = sigma_of(s) / sigma_of(t) if reading == "re-estimated" else 1.0
    return new + 0.7 * column(psi_of(s) - psi_of(t) * keep) * (answer - x)


def test_objective_persistent():
    "Every place walks down the grid with its picture, and takes a new one at the end."
    objective, toy, times = Compensation("persistent", 4), Toy(), grid(VPS, 4)
    a, b = pictures(8)[:4], pictures(8)[4:]
    objective(toy, None, VPS, a, None, StepRandom(3, 0, "cpu"))
    first = dict(objective.held[toy])
    index = (first["index"] - 1).tolist()
    assert sorted(index) == [0, 1, 2, 3]
    objective(toy, None, VPS, b, None, StepRandom(3, 1, "cpu"))
    held = objective.held[toy]
    for j, at in enumerate(index):
        new = at == 3
        assert torch.equal(held["x0"][j], b[j] if new else a[j])
        assert int(held["index"][j]) == (1 if new else at + 2)
        if at < 2:  # one of DDIM's steps between the two calls
            t, s = times[at + 1 : at + 2], times[at + 2 : at + 3]
            z = first["z"][j : j + 1]
            eps = toy(z, 1000 * t.float()).detach()
            want = ddim_in_numpy(z.numpy(), eps.numpy(), t.numpy(), s.numpy())
            assert np.abs(held["z"][j : j + 1].numpy() - want).max() < 1e-4


def test_every_network_has_persistent_states_of_its_own():
    objective, one, other = Compensation("persistent", 4), Toy(), Toy()
    x0 = pictures(4)
    objective(one, None, VPS, x0, None, StepRandom(3, 0, "cpu"))
    index = objective.held[one]["index"]
    objective(other, None, VPS, x0, None, StepRandom(3, 0, "cpu"))
    assert torch.equal(objective.held[other]["index"], index)
    assert torch.equal(objective.held[one]["index"], index)


@pytest.mark.parametrize("how", ["plain", "one-step", "persistent"])
def test_objectives_in_the_trainer(tiny, tmp_path, how):
    save_module(tmp_path / "m", small_module(tiny))
    objective = Compensation(how, 6, str(tmp_path / "m"))
    recipe = {"steps": 4, "batch": 16, "lr": 1e-3, "warmup": 1, "amp": False}

    def make():
        net = networks.PredictV(networks.UNet(1, 8, (1,), 1, (), 10), VPS)
        labels = data.embedded(64)[1]
        return Trainer(net, VPS, pictures(), labels, objective=objective, **recipe)

    torch.manual_seed(0)
    whole = make()
    whole.step()
    whole.step()
    whole.save(tmp_path / how)
    again = make().resume(tmp_path / how)
    for trainer in (whole, again):
        trainer.step()
        trainer.step()
        trainer.collect_losses()
        assert all(math.isfinite(loss) for loss in trainer.losses)
    assert whole.card()["training"]["objective"] == repr(objective)
    assert whole.losses == again.losses
    assert all(torch.equal(p, q) for p, q in zip(whole.params, again.params, strict=True))
    assert set(COMPENSATION_OBJECTIVES) == {"compensation"}


def test_term():
    d = MIX.denoiser(VPS)
    times = grid(VPS, 8)
    got = correction_size(d, lambda x, t: x + 2, MIX.sample(20).float(), times)
    assert torch.allclose(got, 2 * weights(VPS, times[:-1], times[1:]), rtol=1e-5)
    assert not correction_size(d, lambda x, t: x, MIX.sample(20), times).any()


def test_step_over_no_distance():
    z = torch.randn(3, 2).double()
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(ddim_step(VPS, z, z, t, t, bend), z, atol=1e-12)


def test_command(tmp_path, capsys):
    np.savez(tmp_path / "some.npz", images=data.embedded(64)[0].numpy())
    words = "--pairs exact --epochs 1 --strengths 1 --nfe 2 --n 128 --batch 32 --points 4".split()
    words += ["--data", str(tmp_path / "some.npz"), "--folder", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "r.json")]
    assert main([*words, "--reading", "frozen"]) == 0
    cells = json.loads((tmp_path / "r.json").read_text())["cells"]
    assert len(cells) == 2
    assert {"frechet", "precision", "recall", "variance", "seconds"} <= set(cells[0])
    assert main([*words, "--reading", "re-estimated"]) == 2
    assert "reading" in capsys.readouterr().err


def test_command_refuses(capsys):
    assert main(["--n", "5"]) == 2
    assert "n = 5" in capsys.readouterr().err
    assert main(["--strengths", "2"]) == 2
    assert main(["--checkpoint", "nothing"]) == 2


ARM_WORDS = "--first 2 --marks 4 6 --batch 8 --nfe 2 3 --n 128 --no-amp".split()


def estimates_of_a_step(denoiser, x0):
    "Times and estimates of the first step of a training at 10 times, seed 0, by hand."
    dice = StepRandom(0, 0, "cpu")
    t = grid(VPS, 10)[(dice.uniform(len(x0)) * 10).long()]
    psi = torch.from_numpy(column(psi_of(t.numpy()))).float()
    sigma = torch.from_numpy(column(sigma_of(t.numpy()))).float()
    z = psi * x0 + sigma * dice.normal(x0.shape)
    return t, (z - sigma * denoiser.network(z, 1000 * t)) / psi


def test_error_of_x0(tiny):
    "The loss 'x0' is the mean square of x0hat - x0, by hand."
    x0 = pictures(6)
    objective = Compensation("plain", 10, error="x0")
    got = objective(tiny.network, None, VPS, x0, None, StepRandom(0, 0, "cpu"))
    _, estimates = estimates_of_a_step(tiny, x0)
    assert torch.allclose(got, (estimates - x0).square().mean(), rtol=1e-3)


def test_larger_is_compensation_built_in(tiny):
    module = small_module(tiny)
    z = torch.randn(3, 1, 8, 8)
    t = torch.tensor([0.1, 0.5, 0.9]).double()
    both = NetworkWithCorrection(tiny.network, module)
    assert torch.allclose(both(z, 1000 * t), Compensated(tiny, module).predict(z, t), atol=1e-4)
    assert not torch.allclose(both(z, 1000 * t), tiny.predict(z, t), atol=1e-3)
    parts = networks.count_parameters(tiny.network) + networks.count_parameters(module)
    assert networks.count_parameters(both) == parts


def test_arms(tmp_path):
    "Cells of every kind; finished cells are not drawn again."
    images, labels = data.embedded(64)
    np.savez(tmp_path / "some.npz", images=images.numpy(), labels=labels.numpy())
    words = [*ARM_WORDS, "--arms", "T = 100", "T = 100, larger"]
    words += ["--data", str(tmp_path / "some.npz"), "--folder", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "r.json")]
    assert main(words) == 0
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["command"].startswith("compsamp_compensation")
    found = {}
    for cell in results["cells"]:
        found[cell["arm"], cell["step"], cell["budget"], cell["strength"]] = cell["frechet"]
        assert (cell["term"] is None) == ("larger" in cell["arm"])
    want = set()
    for step, budget in ((4, 2), (6, 2), (6, 3)):
        want |= {("T = 100", step, budget, strength) for strength in (0.0, 1.0)}
        want |= {("T = 100, larger", step, budget, 0.0)}
    assert set(found) == want
    assert len(results["cells"]) == len(want)
    assert found["T = 100", 6, 3, 0.0] != found["T = 100", 6, 3, 1.0]  # the module does something
    card = tmp_path / "runs/T=100-seed0/main/card.json"
    before = card.stat().st_mtime_ns
    assert main(words) == 0
    assert card.stat().st_mtime_ns == before


def test_a_module_beside_a_network_sees_its_last_estimates(tiny):
    "The estimates of one training step, by hand, and the absolute error of a module on them."
    x0, watched = pictures(6), WatchedTraining("plain", 10, error="x0")
    plain = Compensation("plain", 10, error="x0")
    losses = [
        way(tiny.network, None, VPS, x0, None, StepRandom(0, 0, "cpu")) for way in (watched, plain)
    ]
    assert torch.equal(*losses)
    t, estimates = estimates_of_a_step(tiny, x0)
    seen, target, times = watched.seen
    assert torch.allclose(seen, estimates, atol=1e-3) and not seen.requires_grad
    assert torch.equal(target, x0) and torch.equal(times, t)
    module = small_module(tiny)
    got = EstimateLoss(watched, "absolute")(module, None, VPS, None, None, None)
    assert torch.allclose(got, (module(seen, 1000 * t.float()) - x0).abs().mean(), rtol=1e-4)


def test_kinds_of_modules(net, tmp_path):
    "A word makes a module that is read back; what does not fit is refused by name."
    kind = parse_module("finer:error=absolute,net=transformer,reading=frozen")
    assert (kind.pairs, kind.error, kind.reading) == ("finer", "absolute", "frozen")
    assert kind.trained == parse_module("finer:error=absolute,net=transformer").trained
    module = kind.build(net, seed=3)
    torch.nn.init.normal_(module.out.weight, std=0.1)
    save_module(tmp_path, module)
    read_back = load_module(tmp_path, net)
    assert isinstance(read_back, LightTransformer)
    x, t = torch.randn(3, 1, 28, 28), torch.tensor([10.0, 400.0, 900.0])
    with torch.no_grad():
        answer = module(x, t)
        assert torch.allclose(read_back(x, t), answer, atol=1e-5)
    assert not torch.allclose(answer, x, atol=1e-2)
    wrong = {"exakt": "pairs", "exact:error=cube": "error", "exact:net=mlp": "net"}
    for word, named in (wrong | {"exact:reading=warm": "reading", "exact:lr=1": "pairs"}).items():
        with pytest.raises(ValueError, match=f"^{named}"):
            parse_module(word)
    with pytest.raises(ValueError, match="stretch"):
        parse_module("stretch:net=transformer")


def test_arms_on_small_pictures(tmp_path, monkeypatch):
    "Pooled pictures are drawn and judged by pooled ones, and the floor is written down."
    images, labels = data.embedded(1280)
    monkeypatch.setattr(data, "fashion", lambda split: (images, labels))
    pooled_features.cache_clear()
    settings = {"arms": ("one step, together",), "seeds": (0,), "first": 2, "marks": (3,)}
    settings |= {"batch": 8, "nfe": (2,), "n": 128, "pool": 2, "patch": 2, "amp": False}
    out = tmp_path / "r.json"
    compensation_experiment(**settings, folder=tmp_path / "runs", out=out)
    pooled_features.cache_clear()
    held = experiment.read_results(out)
    assert held["setup"]["against"] == "test, 14 x 14"
    assert 0 < held["floor"] < held["cells"][0]["frechet"]
    card = json.loads((tmp_path / "runs/onestep-together-seed0/main/card.json").read_text())
    assert card["shape"] == [1, 14, 14]
    with pytest.raises(ValueError, match="pool = 3"):
        compensation_experiment(**settings | {"pool": 3}, out=out)
    with pytest.raises(ValueError, match="patch = 2: 1 without arms"):
        compensation_experiment(patch=2, out=out)


def test_cards_made_before_the_error_could_be_chosen(tiny):
    "The objective is written as it was, so that their runs go on."
    usual = ModuleObjective(tiny, "exact", 5)
    assert repr(usual).endswith(f"steps=1, network={usual.network!r})")
    assert repr(ModuleObjective(tiny, "exact", 5, error="absolute")).endswith("error='absolute')")


@pytest.mark.parametrize("name", ["one step", "T = 100", "one step, together"])
def test_an_arm_goes_on_where_it_was(name, tmp_path):
    images, labels = data.embedded(64)
    np.savez(tmp_path / "some.npz", images=images.numpy(), labels=labels.numpy())
    defaults = inspect.signature(compensation_experiment).parameters
    usual = {key: parameter.default for key, parameter in defaults.items()}
    usual |= {"first": 2, "marks": (4, 6), "batch": 8, "nfe": (2, 3), "n": 128, "amp": False}
    usual |= {"arms": (name,), "data": str(tmp_path / "some.npz")}

    def go(folder, **more):
        settings = usual | {"folder": tmp_path / folder, "out": tmp_path / f"{folder}.json"}
        return ArmRun(settings | more).train_arm(name, 0)

    whole = [denoiser for _, denoiser, _ in go("a")][-1]
    first = go("b")
    next(first)
    first.close()
    step, denoiser, module = last(go("b"))
    assert step == 6 and module is not None
    resumed = denoiser.network.state_dict()
    for key, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed[key]), key
    with pytest.raises(ValueError, match="batch"):
        last(go("b", batch=16, out=tmp_path / "other.json"))


def test_arms_bad_input(capsys):
    assert main(["--arms", "T = 100", "--marks", "50", "20"]) == 2
    assert "marks" in capsys.readouterr().err
    assert main(["--arms", "T = 100", "--first", "300"]) == 2
    with pytest.raises(ValueError, match="error = 'v2'"):
        Compensation(error="v2")
    assert COMPENSATION_ARMS["persistent"].objective("", late=False).states == "plain"
    assert CompensationArm("one-step").objective().error == "x0"


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan"), "1", None])
def test_bad_strength(bad):
    with pytest.raises((ValueError, TypeError), match="strength"):
        Compensated(MIX.denoiser(VPS), bend, bad)
    with pytest.raises((ValueError, TypeError), match="strength"):
        CompensatedDDIM(bend, bad)


def test_bad_settings_of_the_step():
    with pytest.raises(TypeError, match="module"):
        Compensated(MIX.denoiser(VPS), None)
    with pytest.raises(ValueError, match="reading"):
        CompensatedDDIM(bend, reading="A")
    with pytest.raises(ValueError, match="eta"):
        CompensatedDDIM(bend, eta=2.0)
    with pytest.raises(ValueError, match="k = 1"):
        last(states(CompensatedDDIM(bend), MIX.denoiser(PSLD()), [0.5, 0.4], torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="k = 1"):
        weights(PSLD(), 0.5, 0.4)
    with pytest.raises(ValueError, match="t = 0"):
        weights(VPS, 0.0, 0.0)


def test_bad_modules(tiny):
    with pytest.raises(ValueError, match="shape"):
        Compensated(MIX.denoiser(VPS), lambda x, t: x[:, :1]).predict(torch.ones(2, 2), 0.5)
    with pytest.raises(ValueError, match="patch"):
        LightUNet(patch=0)
    with pytest.raises(ValueError, match="patch = 4"):
        LightUNet()(torch.ones(1, 1, 30, 28), torch.ones(1))
    with pytest.raises(ValueError, match="parameters"):
        light_module(tiny)
    check_module_card({}, VPS, (3, 9, 9))


def test_bad_objectives(tiny):
    with pytest.raises(ValueError, match="k = 1"):
        ModuleObjective(MIX.denoiser(PSLD()))
    with pytest.raises(ValueError, match="process"):
        ModuleObjective(tiny)(None, None, CosineVP(), None, None, None)
    with pytest.raises(ValueError, match="points"):
        Compensation(points=1)
    with pytest.raises(ValueError, match="steps = 1"):
        ModuleObjective(tiny, "finer", 5, 1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Compensation(module="nowhere")
    with pytest.raises(ValueError, match="k = 1"):
        Compensation()(None, None, PSLD(), torch.zeros(1, 1, 8, 8), None, StepRandom(0, 0, "cpu"))
