"""Compensation: the weights, the wrapper's contract, modules and their cards, the objectives, the
command, bad input."""

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
    correction_size,
    ddim_step,
    fits,
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
    NetworkWithCorrection,
    compensation_experiment,
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
    signal_and_noise,
    states,
)
from compsamp.training import StepRandom, Trainer

MIX, VPS = ring(8, 0.8, 0.3, 0.2), VP()
SCALAR = [VP(), CosineVP(), SubVP(), VE(), EDM()]


def bend(x, t):
    return torch.tanh(1.3 * x) + 0.1


def never(x, t):
    raise AssertionError("asked")


def last(it):
    for z in it:
        pass
    return z


@pytest.fixture(scope="module")
def net():
    return zoo.load("fashion-vp")


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
    "VP: from alpha-bar, written out in numpy; the posterior's weight at eta = 1."

    def ab(t):
        return math.exp(-(0.1 * t + 9.95 * t * t))

    for t, s in ((0.9, 0.6), (0.5, 0.45), (0.02, 0.001), (0.3, 0.0)):
        a, b = ab(t), ab(s)
        for eta in (0.0, 0.5, 1.0):
            sig = eta * math.sqrt((1 - b) / (1 - a) * (1 - a / b))
            want = math.sqrt(b) - math.sqrt(a) * math.sqrt(1 - b - sig**2) / math.sqrt(1 - a)
            assert abs(float(weights(VPS, t, s, eta)) - want) < 1e-12
            assert (
                abs(float(weights(VPS, t, s, eta, "frozen")) - (math.sqrt(b) - math.sqrt(a)))
                < 1e-14
            )
        assert abs(float(weights(VPS, t, s, 1.0)) - math.sqrt(b) * (1 - a / b) / (1 - a)) < 1e-12
    w = weights(VPS, torch.tensor([0.9, 0.5]), torch.tensor([0.6, 0.45]))
    assert w.shape == (2,) and w.dtype == torch.float64


@pytest.mark.parametrize("p", SCALAR, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_reading_a_is_a_denoiser(p, eta):
    d = PerturbedDenoiser(MIX.denoiser(p), 0.3, seed=2)
    times = grid(p, 9, "karras")
    z = p.prior((20, 2), Noise(0, 20, (2,), dtype=torch.float64)())

    def draw():
        return Noise(1, 20, (2,), dtype=torch.float64)

    a, b, off = (
        torch.stack(list(states(s, e, times, z, draw(), denoise=False)))
        for s, e in (
            (CompensatedDDIM(bend, 0.6, "re-estimated", eta), d),
            (DDIM(eta), Compensated(d, bend, 0.6)),
            (DDIM(eta), d),
        )
    )
    scale = z.abs().max()
    assert (a - b).abs().max() < 1e-12 * scale and (a - off).abs().max() > 1e-3


def test_with_the_truth():
    x0 = MIX.sample(30, 1)
    bad = PerturbedDenoiser(MIX.denoiser(VPS), 0.9, seed=3)
    e = torch.randn(30, 2, generator=torch.Generator().manual_seed(0)).double()
    times = grid(VPS, 11)
    path = list(states(DDIM(), Compensated(bad, lambda x, t: x0), times, VPS.perturb(x0, 1.0, e)))
    for z, t in zip(path, times):
        psi = math.exp(-(0.1 * float(t) + 9.95 * float(t) ** 2) / 2)
        assert (z - psi * x0 - math.sqrt(1 - psi**2) * e).abs().max() < 1e-12
    for s in (
        DDIM(),
        DDIM(1.0),
        DDPM(),
        Heun(),
        EDMHeun(),
        DPMpp2M(),
        DPMpp2M(True),
    ):  # the last estimate is the module's
        assert (
            last(
                states(
                    s,
                    Compensated(bad, lambda x, t: x0),
                    times,
                    VPS.perturb(x0, 1.0, e),
                    Noise(0, 30, (2,), dtype=torch.float64),
                )
            )
            - x0
        ).abs().max() < 1e-10
    assert (
        last(states(CompensatedDDIM(lambda x, t: x0), bad, times, VPS.perturb(x0, 1.0, e))) - x0
    ).abs().max() > 0.1


@pytest.mark.parametrize("p", [VP(), EDM(), PSLD()], ids=lambda p: type(p).__name__)
def test_off_and_identity_change_no_bit(p):
    d = MIX.denoiser(p)
    for s in (Heun(), *([DDIM(0.5), DPMpp2M()] if p.k == 1 else [])):
        a, b, c = (
            sample(s, v, 6, n=5, seed=1)
            for v in (d, Compensated(d, never, 0.0), Compensated(d, lambda x, t: x, 1.0))
        )
        assert torch.equal(a.x, b.x) and torch.equal(a.x, c.x) and a.nfe == b.nfe == c.nfe
    if p.k == 1:
        for eta in (0.0, 1.0):
            a, b, c = (
                sample(s, d, 6, n=5, seed=1).x
                for s in (
                    DDIM(eta),
                    CompensatedDDIM(never, 0.0, eta=eta),
                    CompensatedDDIM(lambda x, t: x, 1.0, eta=eta),
                )
            )
            assert torch.equal(a, b) and torch.equal(a, c)


def test_wrapper_contract(net):
    m = light_module(net)
    d = Compensated(net, m, 0.5)
    assert (
        d.shape == net.shape
        and d.device == net.device
        and d.card is net.card
        and d.network is net.network
    )
    b = d.bind(labels=torch.tensor([1, 2]), guidance=2.0)
    assert (
        isinstance(b, Compensated) and b.evals == 2 and b.strength == 0.5 and d.inner.labels is None
    )
    z = torch.zeros(2, 1, 28, 28)
    b.eps(z, 0.5)
    assert b.nfe == 2 and d.nfe == 0
    assert d.to("cpu") is d and torch.equal(d.eps(z, 0.5), net.predict(z, 0.5)) and d.nfe == 1
    torch.nn.init.normal_(m.out.weight, std=0.05)
    r = sample(DDIM(), d, 3, n=2, labels=torch.tensor([1, 2]), guidance=2.0)
    assert r.nfe == 6
    seen = experiment.generate_and_score(d, "ddim@uniform", 2, 128, 0)
    assert seen["nfe"] == 2 and math.isfinite(seen["frechet"])
    t = torch.tensor([0.3, 0.7], dtype=torch.float64)
    both = d.predict(torch.ones(2, 1, 28, 28), t)
    one = d.predict(torch.ones(1, 1, 28, 28), 0.7)
    assert torch.allclose(both[1:], one, atol=1e-5)


def test_light(net):
    m = light_module(net, seed=3)
    assert networks.count_parameters(m) <= 0.15 * networks.count_parameters(
        net.network
    ) and torch.equal(light_module(net, seed=3).inp.weight, m.inp.weight)
    state = torch.get_rng_state()
    light_module(net)
    assert torch.equal(state, torch.get_rng_state())
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(m(x, torch.ones(2)), x)
    torch.nn.init.ones_(m.out.bias)
    assert torch.allclose(m(x, torch.ones(2)), x + 1)
    c = price(net, m, batch=4, repeats=2)
    assert c["parameters"] < 0.15 and c["compensated"] > 0 and c["time"] > 0.5


def test_card(tiny, tmp_path):
    m = small_module(tiny)
    save_module(tmp_path / "m", m, note="x")
    n = load_module(tmp_path / "m", tiny)
    x = torch.randn(2, 1, 8, 8)
    t = torch.tensor([100.0, 900.0])
    assert (
        torch.equal(m(x, t), n(x, t))
        and n.card["note"] == "x"
        and n.card["module"] == m.card["module"]
        and not any(p.requires_grad for p in n.parameters())
    )
    card = json.loads((tmp_path / "m/card.json").read_text())
    assert (
        card["process"]["name"] == "VP"
        and card["shape"] == [1, 8, 8]
        and card["network"]["parameters"] == networks.count_parameters(m)
    )
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "card.json",
        "weights.safetensors",
    ]
    other = networks.Denoiser(tiny.network.net, CosineVP(), (1, 8, 8))
    with pytest.raises(ValueError, match="CosineVP"):
        load_module(tmp_path / "m", other)
    with pytest.raises(ValueError, match=r"\(1, 16, 16\)"):
        load_module(tmp_path / "m", networks.Denoiser(tiny.network, VPS, (1, 16, 16)))
    with pytest.raises(ValueError, match="trained on this network"):
        load_module(
            tmp_path / "m", networks.Denoiser(networks.UNet(1, 8, classes=0), VPS, (1, 8, 8))
        )
    with pytest.raises(ValueError, match="LightUNet"):
        zoo.load(tmp_path / "m")
    with pytest.raises(ValueError, match="compensation module"):
        load_module(networks.WEIGHTS / "fashion-vp")
    with pytest.raises(ValueError, match="one trained for the process"):
        Compensated(other, n)
    with pytest.raises(ValueError, match="one trained for the process"):
        last(
            states(
                CompensatedDDIM(n),
                networks.Denoiser(tiny.network.net, CosineVP(), (1, 8, 8)),
                grid(CosineVP(), 3),
                x,
            )
        )
    whole = (tmp_path / "m/weights.safetensors").read_bytes()
    (tmp_path / "m/weights.safetensors").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="complete safetensors"):
        load_module(tmp_path / "m")
    with pytest.raises(ValueError, match="no card"):
        save_module(tmp_path / "q", LightUNet())


def test_pairs(tiny):
    "Against plain numpy: where the states lie, what is asked and what is wanted."
    x0 = pictures(6)
    times = grid(VPS, 7).numpy()

    def psi(t):
        return np.exp(-(0.1 * t + 9.95 * t * t) / 2)

    def sig(t):
        return np.sqrt(1 - psi(t) ** 2)

    def col(v):
        return np.asarray(v)[:, None, None, None]

    def eps(z, t):
        return tiny.predict(torch.from_numpy(z).float(), torch.from_numpy(t)).numpy().astype(float)

    def step(z, e, t, s):
        return col(psi(s) / psi(t)) * z + col(sig(s) - psi(s) * sig(t) / psi(t)) * e

    for pairs, n, far in (("exact", 1, 0), ("rollout", 2, 2), ("finer", 3, 1)):
        x, y, t = ModuleObjective(tiny, pairs, 7, n).draw(x0, StepRandom(4, 0, "cpu"))
        dice = StepRandom(4, 0, "cpu")
        i = (dice.uniform(6).numpy() * (7 - far)).astype(int)
        u = times[i]
        z = col(psi(u)) * x0.numpy() + col(sig(u)) * dice.normal(x0.shape).numpy()
        start = z, u
        if pairs == "rollout":
            for j in range(n):
                z = step(z, eps(z, u), u, times[i + j + 1])
                u = times[i + j + 1]
        want = (z - col(sig(u)) * eps(z, u)) / col(psi(u))
        assert np.allclose(t.numpy(), u, atol=1e-12) and np.abs(
            x.numpy() - want
        ).max() < 1e-3 * max(1, np.abs(want).max())
        if pairs != "finer":
            assert torch.equal(y, x0)
            continue
        s = times[i + 1]
        end, at = start
        for j in range(n):
            v = u + (s - u) * (j + 1) / n
            end = step(end, eps(end, at), at, v)
            at = v
        landed = col(sig(s) / sig(u)) * z + col(psi(s) - psi(u) * sig(s) / sig(u)) * y.numpy()
        assert np.abs(landed - end).max() < 1e-4


def test_training_a_module_resumes_exactly(tiny, tmp_path):
    def make():
        return Trainer(
            LightUNet(1, 8, (1,), 2),
            VPS,
            pictures(),
            None,
            steps=6,
            batch=16,
            lr=1e-2,
            warmup=1,
            ema=0.5,
            amp=False,
            seed=2,
            objective=ModuleObjective(tiny, "rollout", 8, 1),
        )

    before = weights_hash(tiny)
    torch.manual_seed(5)
    whole = make()
    for _ in whole.stream(6):
        pass
    torch.manual_seed(5)
    half = make()
    [half.step() for _ in range(3)]
    half.save(tmp_path / "m", module=dict(main=weights_hash(tiny), epochs=0.75))
    again = make().resume(tmp_path / "m")
    for _ in again.stream(6):
        pass
    assert (
        all(
            torch.equal(a, b)
            for a, b in zip(whole.ema_net.parameters(), again.ema_net.parameters())
        )
        and whole.losses == again.losses
    )
    again.save(tmp_path / "m", module=dict(main=weights_hash(tiny), epochs=1.5))
    m = load_module(tmp_path / "m", tiny)
    x = pictures(4)
    assert (
        torch.equal(m(x, torch.full((4,), 300.0)), again.ema_net(x, torch.full((4,), 300.0)))
        and m.card["module"]["epochs"] == 1.5
        and weights_hash(tiny) == before
    )
    other = Trainer(
        LightUNet(1, 8, (1,), 2),
        VPS,
        pictures(),
        None,
        steps=6,
        batch=16,
        lr=1e-2,
        warmup=1,
        ema=0.5,
        amp=False,
        seed=2,
        objective=ModuleObjective(tiny, "exact", 8, 1),
    )
    with pytest.raises(ValueError, match="objective"):
        other.resume(tmp_path / "m")


class Toy(torch.nn.Module):
    "A network with one weight, whose answers are easily written down again."

    channels = channels_out = 1
    classes = 0

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, z, t, labels=None):
        return torch.sin(self.a * z + t.view(-1, 1, 1, 1) / 1000)


def test_objective_one_step(tiny, tmp_path):
    "One compensated step and the error of v, in numpy."
    m = small_module(tiny)
    save_module(tmp_path / "m", m)
    x0 = pictures(8)
    toy = Toy()
    times = grid(VPS, 10).numpy()

    def psi(t):
        return np.exp(-(0.1 * t + 9.95 * t * t) / 2)

    def col(v):
        return np.asarray(v)[:, None, None, None]

    def sig(t):
        return np.sqrt(1 - psi(t) ** 2)

    for how, module, strength, reading in (
        ("plain", "", 1.0, "re-estimated"),
        ("one-step", "", 1.0, "re-estimated"),
        ("one-step", str(tmp_path / "m"), 0.7, "re-estimated"),
        ("one-step", str(tmp_path / "m"), 0.7, "frozen"),
    ):
        got = Compensation(how, 10, module, strength, reading)(
            toy, None, VPS, x0, None, StepRandom(1, 0, "cpu")
        )
        dice = StepRandom(1, 0, "cpu")
        i = (dice.uniform(8).numpy() * 10).astype(int)
        near = i if how == "plain" else np.maximum(i - 1, 0)
        t, s = times[near], times[i]
        z = col(psi(t)) * x0.numpy() + col(sig(t)) * dice.normal(x0.shape).numpy()
        if how == "one-step":
            e = np.sin(0.5 * z + col(t))
            x = (z - col(sig(t)) * e) / col(psi(t))
            new = col(psi(s)) * x + col(sig(s)) * e
            if module:
                c = m(torch.from_numpy(x).float(), torch.from_numpy(1000 * t).float()).numpy()
                w = psi(s) - psi(t) * (sig(s) / sig(t) if reading == "re-estimated" else 1.0)
                new = new + 0.7 * col(w) * (c - x)
            z = np.where(col(i > near), new, z)
        want = np.mean(
            (
                col(1 / psi(s))
                * (np.sin(0.5 * z + col(s)) - (z - col(psi(s)) * x0.numpy()) / col(sig(s)))
            )
            ** 2
        )
        assert abs(float(got.detach()) / want - 1) < 2e-3, (how, module, reading)
        got.backward()
        assert toy.a.grad is not None


def test_objective_persistent():
    """Every place walks down the grid with its picture, and takes a new one at the end; a second
    network has states of its own."""
    o = Compensation("persistent", 4)
    toy = Toy()
    other = Toy()
    a = pictures(8)[:4]
    b = pictures(8)[4:]
    times = grid(VPS, 4)
    dice = StepRandom(3, 0, "cpu")
    o(toy, None, VPS, a, None, dice)
    first = {k: v for k, v in o.held[toy].items()}
    i = first["i"] - 1
    assert sorted(i.tolist()) == [0, 1, 2, 3]
    o(toy, None, VPS, b, None, StepRandom(3, 1, "cpu"))
    h = o.held[toy]
    done = i == 3
    for j in range(4):
        if done[j]:
            assert torch.equal(h["x"][j], b[j]) and int(h["i"][j]) == 1
        else:
            assert torch.equal(h["x"][j], a[j]) and int(h["i"][j]) == int(i[j]) + 2
    for j in range(4):  # one of DDIM's steps between the two calls
        if int(i[j]) < 2:
            t, s = times[int(i[j]) + 1 : int(i[j]) + 3]
            z = first["z"][j : j + 1]
            e = toy(z, 1000 * t.float()[None]).detach()
            (p, g), (q, k) = signal_and_noise(VPS, t), signal_and_noise(VPS, s)
            assert torch.allclose(
                h["z"][j : j + 1], (float(q / p) * z + float(k - q / p * g) * e), atol=1e-4
            )
    o(other, None, VPS, a, None, StepRandom(3, 0, "cpu"))
    assert torch.equal(o.held[other]["i"], first["i"]) and torch.equal(o.held[toy]["i"], h["i"])


def test_objectives_in_the_trainer(tiny, tmp_path):
    save_module(tmp_path / "m", small_module(tiny))
    for how in ("plain", "one-step", "persistent"):
        o = Compensation(how, 6, str(tmp_path / "m"))

        def make():
            return Trainer(
                networks.PredictV(networks.UNet(1, 8, (1,), 1, (), 10), VPS),
                VPS,
                pictures(),
                data.embedded(64)[1],
                steps=4,
                batch=16,
                lr=1e-3,
                warmup=1,
                amp=False,
                objective=o,
            )

        torch.manual_seed(0)
        tr = make()
        [tr.step() for _ in range(2)]
        tr.save(tmp_path / how)
        again = make().resume(tmp_path / how)
        [(v.step(), v.step(), v.settle()) for v in (tr, again)]
        assert all(math.isfinite(v) for v in tr.losses + again.losses) and tr.card()["training"][
            "objective"
        ] == repr(o)
        if how != "persistent":
            assert tr.losses == again.losses
    assert set(COMPENSATION_OBJECTIVES) == {"compensation"}


def test_term():
    d = MIX.denoiser(VPS)
    times = grid(VPS, 8)
    got = correction_size(d, lambda x, t: x + 2, MIX.sample(20).float(), times)
    assert torch.allclose(got, 2 * weights(VPS, times[:-1], times[1:]), rtol=1e-5)
    assert not correction_size(d, lambda x, t: x, MIX.sample(20), times).any()


def test_hop_over_no_distance():
    z = torch.randn(3, 2).double()
    t = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    assert torch.allclose(ddim_step(VPS, z, z, t, t, bend), z, atol=1e-12)


def test_command(tmp_path, capsys):
    np.savez(tmp_path / "some.npz", images=data.embedded(64)[0].numpy())
    argv = [
        "--pairs",
        "exact",
        "--epochs",
        "1",
        "--strengths",
        "1",
        "--nfe",
        "2",
        "--n",
        "128",
        "--batch",
        "32",
        "--points",
        "4",
        "--reading",
        "frozen",
        "--data",
        str(tmp_path / "some.npz"),
        "--folder",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "r.json"),
    ]
    assert main(argv) == 0
    r = json.loads((tmp_path / "r.json").read_text())
    assert len(r["cells"]) == 2 and {
        "frechet",
        "precision",
        "recall",
        "variance",
        "seconds",
    } <= set(r["cells"][0])
    assert (
        main([*argv[:-2], "--reading", "re-estimated", "--out", str(tmp_path / "r.json")]) == 2
        and "reading" in capsys.readouterr().err
    )
    assert (
        main(["--n", "5"]) == 2
        and "n = 5" in capsys.readouterr().err
        and main(["--strengths", "2"]) == 2
        and main(["--checkpoint", "nothing"]) == 2
    )


ARM_WORDS = [
    "--first",
    "2",
    "--marks",
    "4",
    "6",
    "--batch",
    "8",
    "--nfe",
    "2",
    "3",
    "--n",
    "128",
    "--no-amp",
]


def test_error_of_x0(tiny):
    "The loss 'x0' is the mean square of x0hat - x0, by hand."
    x0 = pictures(6)
    got = Compensation("plain", 10, error="x0")(
        tiny.network, None, VPS, x0, None, StepRandom(0, 0, "cpu")
    )
    dice = StepRandom(0, 0, "cpu")
    t = grid(VPS, 10)[(dice.uniform(6) * 10).long()]
    w = dice.normal(x0.shape)
    psi, sigma = (
        torch.tensor([f(float(u)) for u in t])
        for f in (
            lambda u: math.exp(-(0.05 * u + 4.975 * u * u)),
            lambda u: math.sqrt(-math.expm1(-(0.1 * u + 9.95 * u * u))),
        )
    )

    def col(v):
        return v.float()[:, None, None, None]

    z = col(psi) * x0 + col(sigma) * w
    e = tiny.network(z, 1000 * t)
    assert torch.allclose(got, ((z - col(sigma) * e) / col(psi) - x0).square().mean(), rtol=1e-3)


def test_larger_is_compensation_built_in(tiny):
    m = small_module(tiny)
    z = torch.randn(3, 1, 8, 8)
    t = torch.tensor([0.1, 0.5, 0.9]).double()
    both = NetworkWithCorrection(tiny.network, m)
    assert torch.allclose(
        both(z, 1000 * t), Compensated(tiny, m).predict(z, t), atol=1e-4
    ) and not torch.allclose(both(z, 1000 * t), tiny.predict(z, t), atol=1e-3)
    assert networks.count_parameters(both) == networks.count_parameters(
        tiny.network
    ) + networks.count_parameters(m)


def test_arms(tmp_path):
    """Cells of every kind; an arm taken up again from its first mark goes on bit for bit; finished
    cells are not drawn again."""
    np.savez(
        tmp_path / "some.npz",
        images=data.embedded(64)[0].numpy(),
        labels=data.embedded(64)[1].numpy(),
    )
    argv = [
        *ARM_WORDS,
        "--arms",
        "T = 100",
        "T = 100, larger",
        "--data",
        str(tmp_path / "some.npz"),
        "--folder",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "r.json"),
    ]
    assert main(argv) == 0
    r = json.loads((tmp_path / "r.json").read_text())

    def key(c):
        return (c["arm"], c["step"], c["budget"], c["strength"])

    want = {("T = 100", *k, on) for k in ((4, 2), (6, 2), (6, 3)) for on in (0.0, 1.0)} | {
        ("T = 100, larger", *k, 0.0) for k in ((4, 2), (6, 2), (6, 3))
    }
    assert (
        {key(c) for c in r["cells"]} == want
        and len(r["cells"]) == len(want)
        and r["command"].startswith("compsamp_compensation")
        and all((c["term"] is None) == ("larger" in c["arm"]) for c in r["cells"])
    )
    assert any(
        a["frechet"] != b["frechet"]
        for a in r["cells"]
        for b in r["cells"]
        if key(a)[:3] == key(b)[:3]
    )  # the module does something
    before = (tmp_path / "runs/T=100-seed0/main/card.json").stat().st_mtime_ns
    assert (
        main(argv) == 0
        and (tmp_path / "runs/T=100-seed0/main/card.json").stat().st_mtime_ns == before
    )


@pytest.mark.parametrize("name", ["one step", "T = 100"])
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
    assert (
        main(["--arms", "T = 100", "--marks", "50", "20"]) == 2
        and "marks" in capsys.readouterr().err
        and main(["--arms", "T = 100", "--first", "300"]) == 2
    )
    with pytest.raises(ValueError, match="error = 'v2'"):
        Compensation(error="v2")
    assert (
        COMPENSATION_ARMS["persistent"].objective("", late=False).states == "plain"
        and CompensationArm("one-step").objective().error == "x0"
    )


def test_bad_input(tiny):
    d = MIX.denoiser(VPS)
    for bad in (-0.1, 1.1, float("nan"), "1", None):
        with pytest.raises(ValueError, match="strength"):
            Compensated(d, bend, bad)
        with pytest.raises(ValueError, match="strength"):
            CompensatedDDIM(bend, bad)
    with pytest.raises(TypeError, match="module"):
        Compensated(d, None)
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
    with pytest.raises(ValueError, match="shape"):
        Compensated(d, lambda x, t: x[:, :1]).predict(torch.ones(2, 2), 0.5)
    with pytest.raises(ValueError, match="patch"):
        LightUNet(patch=0)
    with pytest.raises(ValueError, match="patch = 4"):
        LightUNet()(torch.ones(1, 1, 30, 28), torch.ones(1))
    with pytest.raises(ValueError, match="parameters"):
        light_module(tiny)
    with pytest.raises(ValueError, match="k = 1"):
        ModuleObjective(MIX.denoiser(PSLD()))
    with pytest.raises(ValueError, match="process"):
        ModuleObjective(tiny)(None, None, CosineVP(), None, None, None)
    with pytest.raises(ValueError, match="points"):
        Compensation(points=1)
    with pytest.raises(ValueError, match="finer|steps"):
        ModuleObjective(tiny, "finer", 5, 1)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Compensation(module="nowhere")
    with pytest.raises(ValueError, match="k = 1"):
        Compensation()(None, None, PSLD(), torch.zeros(1, 1, 8, 8), None, StepRandom(0, 0, "cpu"))
    fits({}, VPS, (3, 9, 9))
