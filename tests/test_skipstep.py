"""The skip-step losses against plain numpy, the factor kappa, the objective and --init in the
shell, and the experiment's runner."""

import inspect
import json
import math

import numpy as np
import pytest
import torch

from compsamp import commands, experiment, forward, networks, skipstep as S, training as T, zoo
from compsamp.forward import VP
from compsamp.lab import skipstep as lab_skipstep, train as lab_train
from compsamp.mixtures import ring
from compsamp.psld import CLD, PSLD


def dice(seed=3):
    return T.StepRandom(seed, 5, "cpu")


def said(z, s):
    return (
        np.sin(1.7 * z + s[:, None, None, None] / 300) * 0.8
    )  # what the network under test says, in numpy


def net(z, s, labels=None):
    return torch.from_numpy(said(z.double().numpy(), s.double().numpy())).float()


def teacher(z, s, labels=None):
    return torch.from_numpy(said(1.3 * z.double().numpy(), s.double().numpy())).float()


def pictures(n=7):
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1


def abar(t):
    "The squared mean factor of VP."
    return math.exp(-(0.1 * t + 19.9 * t * t / 2))


def plain_and_second(x0, t, loss, first, second):
    "The two terms of a published or shared loss on VP, for one picture."
    clean, noisy = math.sqrt(abar(t)), math.sqrt(1 - abar(t))
    answer = said((clean * x0 + noisy * first)[None], np.array([1000 * t]))[0]
    kept = abar(t) / abar(max(t - loss.skip / loss.steps, 0))
    ahead = second - math.sqrt((1 - kept) / kept) * answer
    return ((first - answer) ** 2).mean(), (ahead**2).mean()


def plain_and_taught(x0, t, loss, first, second):
    "The two terms of a consistent loss on VP, for one picture."
    length = loss.skip / loss.steps
    earlier = abar(max(t - length, 5e-6))
    kept = abar(t) / earlier
    noise = math.sqrt(kept * (1 - earlier)) * first + math.sqrt(1 - kept) * second
    noise = noise / math.sqrt(1 - abar(t))
    z = math.sqrt(abar(t)) * x0 + math.sqrt(1 - abar(t)) * noise
    answer = said(z[None], np.array([1000 * t]))[0]
    z_r = math.sqrt(earlier) * x0 + math.sqrt(1 - earlier) * first
    told = said(1.3 * z_r[None], np.array([1000 * (t - length)]))[0]
    clean = (z_r - math.sqrt(1 - earlier) * told) / math.sqrt(earlier)
    target = (z - math.sqrt(abar(t)) * clean) / math.sqrt(1 - abar(t))
    return ((noise - answer) ** 2).mean(), ((target - answer) ** 2).mean()


def by_hand(x0, loss):
    "A skip-step loss on VP, float64, picture by picture, with the draws of `dice`."
    draws = dice()
    times = 1e-5 + (1 - 1e-5) * draws.uniform(len(x0)).numpy()
    first = draws.normal(x0.shape).double().numpy()
    second = first if loss.variant == "shared" else draws.normal(x0.shape).double().numpy()
    terms = plain_and_taught if loss.variant == "consistent" else plain_and_second
    weight = loss.eta if loss.variant == "consistent" else 1 - loss.tau
    total = []
    for i, t in enumerate(times):
        plain, other = terms(x0[i].double().numpy(), t, loss, first[i], second[i])
        within = t >= loss.skip / loss.steps
        total.append((1 - weight) * plain + weight * other if within else plain)
    return np.mean(total)


@pytest.mark.parametrize("variant", S.VARIANTS)
@pytest.mark.parametrize(
    "skip, tau, eta, steps",
    [(9, 0.99, 0.5, 1000), (49, 0.3, 0.8, 1000), (1, 0.0, 1.0, 4), (3, 1.0, 0.0, 4)],
)
def test_losses_by_hand(variant, skip, tau, eta, steps):
    x0 = pictures()
    loss = S.SkipStep(variant, skip, tau, eta, steps)
    got = loss(net, teacher, VP(), x0, None, dice())
    assert abs(got.item() / by_hand(x0, loss) - 1) < 2e-5


def dot(matrix, blocks):
    return np.einsum("ij,jhw->ihw", matrix, blocks)


class MomentumByHand:
    "PSLD in numpy at one time t and the time r one skip earlier."

    def __init__(self, t, r):
        process = PSLD()
        self.t, self.r = t, r
        self.psi, sigma = (v.numpy() for v in process.transition(t, r))
        self.step = np.linalg.cholesky(sigma)
        self.mean, covariance = (v.numpy() for v in process.marginal(t))
        self.factor = np.linalg.cholesky(covariance)
        self.mean_r, self.covariance_r = (v.numpy() for v in process.marginal(r))

    def answer(self, z):
        return said(z[None], np.array([1000 * self.t]))[0]

    def plain_and_second(self, x, first, second):
        answer = self.answer(self.mean[:, None, None] * x + dot(self.factor, first))
        ahead = second - dot(np.linalg.inv(self.psi) @ self.step, answer)
        return ((first - answer) ** 2).mean(), (ahead**2).mean()

    def plain_and_taught(self, x, first, second):
        factor_r = np.linalg.cholesky(self.covariance_r)
        z_r = self.mean_r[:, None, None] * x + dot(factor_r, first)
        z = dot(self.psi, z_r) + dot(self.step, second)
        whiten = np.linalg.inv(self.factor)
        noise = dot(whiten, z - self.mean[:, None, None] * x)
        told = said(1.3 * z_r[None], np.array([1000 * self.r]))[0]
        carried = dot(self.psi, dot(factor_r, told)) + dot(self.step, second)
        answer = self.answer(z)
        return ((noise - answer) ** 2).mean(), ((dot(whiten, carried) - answer) ** 2).mean()


@pytest.mark.parametrize("variant", S.VARIANTS)
def test_losses_with_momentum(variant):
    x0 = pictures()
    loss = S.SkipStep(variant, skip=99, tau=0.7, eta=0.6)
    got = loss(net, teacher, PSLD(), x0, None, dice())
    draws = dice()
    times = (1e-5 + (1 - 1e-5) * draws.uniform(len(x0))).numpy()
    first = draws.normal((len(x0), 2, 4, 4)).double().numpy()
    second = first if variant == "shared" else draws.normal(first.shape).double().numpy()
    consistent = variant == "consistent"
    weight = loss.eta if consistent else 1 - loss.tau
    total = []
    for i, t in enumerate(times):
        hand = MomentumByHand(t, max(t - 0.099, 5e-6 if consistent else 0.0))
        terms = hand.plain_and_taught if consistent else hand.plain_and_second
        plain, other = terms(x0[i].double().numpy(), first[i], second[i])
        total.append((1 - weight) * plain + weight * other if t >= 0.099 else plain)
    assert abs(got.item() / np.mean(total) - 1) < 1e-4


def test_plain_where_nothing_can_be_skipped():
    x0 = pictures(3)
    plain = float(T.Epsilon()(net, None, VP(), x0, None, dice(4)))
    for v in ("published", "shared"):
        loss = S.SkipStep(v, 998, tau=0.0)(net, None, VP(), x0, None, dice(4))
        assert float(loss) == pytest.approx(plain, rel=1e-6)
    assert max(T.draw_times(VP(), dice(4).uniform(3))) < 0.998


def test_kappa_is_the_published_table():
    table = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for skip, i, c2, independent, shared in (
        (1, 999, 0.020, 0.9998, 1.0012),
        (9, 500, 0.094, 0.9990, 1.0022),
        (9, 999, 0.199, 0.9980, 1.0025),
        (49, 500, 0.603, 0.9940, 1.0017),
        (49, 999, 1.63, 0.9838, 0.9965),
    ):
        a = table[i] / table[i - skip]
        q = (1 - a) / a
        assert abs(q - c2) < 6e-3
        for v, want, exact in (
            ("published", independent, 0.99 / (0.99 + 0.01 * q)),
            ("shared", shared, (0.99 + 0.01 * math.sqrt(q)) / (0.99 + 0.01 * q)),
        ):
            assert (
                abs(exact - want) < 6e-5
                and abs(S.kappa(VP(), i / 1000, skip, variant=v).item() - exact) < 3e-4
            )


def test_kappa_minimises_with_momentum():
    "For k = 2 by least squares on the stacked system that the loss is."
    p, t, tau = PSLD(), 0.6, 0.4
    C = S.Skip(p, 99).ratio(t).numpy()
    K = S.kappa(p, [t, 0.02], 99, tau)
    e = np.array([0.3, -1.1])
    stacked = np.vstack([math.sqrt(tau) * np.eye(2), math.sqrt(1 - tau) * C])
    best = np.linalg.lstsq(stacked, np.concatenate([math.sqrt(tau) * e, np.zeros(2)]), rcond=None)[
        0
    ]
    assert np.allclose(K[0].numpy() @ e, best, atol=1e-12) and torch.equal(
        K[1], torch.eye(2, dtype=torch.float64)
    )
    both = np.linalg.lstsq(
        stacked, np.concatenate([math.sqrt(tau) * e, math.sqrt(1 - tau) * e]), rcond=None
    )[0]
    assert np.allclose(S.kappa(p, t, 99, tau, "shared").numpy() @ e, both, atol=1e-12)


def test_teacher_gets_no_gradient():
    a = torch.nn.Conv2d(1, 1, 1)
    b = torch.nn.Conv2d(1, 1, 1)
    S.SkipStep("consistent")(
        lambda z, s, y: a(z), lambda z, s, y: b(z), VP(), pictures(), None, dice()
    ).backward()
    assert a.weight.grad.abs().sum() > 0 and b.weight.grad is None


def test_networks_for_the_momentum_alone():
    def half(z, s, y=None):
        return net(z, s)[:, 1:]

    p = CLD()
    assert S.SkipStep(tau=0.5)(half, None, p, pictures(), None, dice()).isfinite()
    with pytest.raises(TypeError, match="ema"):
        S.SkipStep("consistent")(half, half, p, pictures(), None, dice())


@pytest.mark.parametrize(
    "bad, words",
    [
        (dict(skip=0), "skip = 0"),
        (dict(skip=1000), "skip = 1000.*999"),
        (dict(skip=2.5), "skip = 2.5"),
        (dict(steps=1, skip=1), "steps = 1"),
        (dict(tau=1.01), "tau = 1.01.*0, 1"),
        (dict(tau=float("nan")), "tau"),
        (dict(eta=-0.1), "eta = -0.1"),
        (dict(eta="x"), "eta = 'x'"),
        (dict(variant="both"), "variant = 'both'.*consistent"),
    ],
)
def test_bad_numbers(bad, words):
    with pytest.raises((ValueError, TypeError), match=words):
        S.SkipStep(**bad)
    if "eta" not in bad:
        for f in (
            lambda: S.kappa(VP(), 0.5, **bad),
            lambda: S.ScaledDenoiser(ring().denoiser(VP()), **bad),
        ):
            with pytest.raises(ValueError, match=words):
                f()


def test_no_averaged_network():
    with pytest.raises(ValueError, match="ema = None"):
        S.SkipStep("consistent")(net, None, VP(), pictures(), None, dice())


def test_fixed_point_and_contraction():
    for p in (VP(), forward.CosineVP(), forward.EDM(), PSLD()):
        d = ring().denoiser(p)
        s = S.Skip(p, 49)
        x0 = ring().sample(20_000)
        t = torch.full((len(x0),), 0.4 * p.T, dtype=torch.float64)
        z, noise, z_r, r, step, A = S.coupled_pair(s, x0.float(), t, dice())
        target = S.mix(A[:1], d.predict(z_r, float(r[0]))) + step
        mean = d.predict(z, float(t[0]))
        gap = target - mean
        assert (
            gap.mean(0).abs().max() < 5 * gap.std() / 140
            and (gap * mean).mean().abs() < 5 * (gap * mean).std() / 200
            and gap.var() < (noise - mean).var()
        )
        assert torch.linalg.matrix_norm(A[0], 2) < 1


def test_shrunk_is_a_denoiser():
    for p in (VP(), PSLD()):
        d = ring().denoiser(p)
        z = torch.randn(4, 2 * p.k, dtype=torch.float64)
        k = S.ScaledDenoiser(d, 49, variant="shared")
        e = k.eps(z, 0.7)
        assert k.nfe == 1 and k.shape == d.shape
        assert torch.allclose(
            e, S.mix(S.kappa(p, 0.7, 49, variant="shared"), d.eps(z, 0.7))
        ) and torch.allclose(
            S.ScaledDenoiser(d, variant="consistent").eps(z, 0.7), d.eps(z, 0.7), rtol=0, atol=1e-6
        )
        several = k.eps(z, torch.tensor([0.01, 0.3, 0.7, 0.9], dtype=torch.float64))
        assert torch.allclose(several[2], e[2])


def test_a_latent_of_zeros_has_no_direction():
    zeros, ones = torch.zeros(3), torch.ones(3)
    for pair in ((zeros, ones), (ones, zeros), (zeros, zeros)):
        with pytest.raises(ValueError, match="a, b = .*norms are above 0"):
            S.slerp(*pair, 0.5)


def test_interpolation():
    a, b = torch.eye(2, 3, dtype=torch.float64)
    m = S.slerp(a, b, 1 / 3)
    assert torch.allclose(
        m, torch.tensor([math.cos(math.pi / 6), 0.5, 0], dtype=torch.float64)
    ) and np.allclose(
        S.unevenness(torch.stack([a, m, b])),
        (
            (2 * math.sin(math.pi / 12) + 2 * math.sin(math.pi / 6)) / 2**0.5,
            2 * math.sin(math.pi / 6) / (math.sin(math.pi / 12) + math.sin(math.pi / 6)),
        ),
    )
    with pytest.raises(ValueError, match="k = 1"):
        S.encode(ring().denoiser(PSLD()), torch.zeros(1, 2), [1.0, 0.5])


# ---- the shell


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    "A tiny network, trained for two steps, and pictures."
    room = tmp_path_factory.mktemp("skip")
    np.savez(
        room / "own.npz",
        images=np.random.default_rng(0).integers(0, 255, (64, 1, 28, 28), dtype=np.uint8),
    )
    assert (
        train(
            room,
            "base",
            "--process",
            "vp:beta_max=15",
            "--predicts",
            "v",
            "--width",
            "8",
            "--mults",
            "1,1",
        )
        == 0
    )
    return room


def train(room, out, *more):
    return commands.run_train(
        [
            "--data",
            str(room / "own.npz"),
            "--steps",
            "2",
            "--batch",
            "16",
            "--device",
            "cpu",
            "--no-amp",
            "--out",
            str(room / out),
            *more,
        ]
    )


def test_objectives_in_the_shell(room, capsys):
    assert (
        train(
            room,
            "a",
            "--init",
            str(room / "base"),
            "--objective",
            "skipstep:variant=consistent,skip=49,eta=.25",
        )
        == 0
    )
    card = networks.read_card(room / "a")
    assert (
        card["training"]["objective"] == repr(S.SkipStep("consistent", 49, eta=0.25))
        and card["process"]["beta_max"] == 15
        and card["network"]["predicts"] == "v"
        and card["network"]["config"]["width"] == 8
    )
    assert commands.run_train(["--out", str(room / "a"), "--resume", "--device", "cpu"]) == 0
    capsys.readouterr()
    for words, find in (
        (["--objective", "skipstep:skip=0"], "skip = 0"),
        (["--objective", "skipstep:skip=x"], "skip=x"),
        (["--objective", "skipstep:lambda=1"], "variant"),
        (["--objective", "skipstop"], "skipstep"),
        (["--objective", "skipstep:variant=x"], "variant"),
        (["--init", str(room / "base"), "--process", "vp"], "beta_max=15"),
        (["--init", str(room / "base"), "--width", "16"], "width"),
        (["--init", str(room / "none")], "checkpoint"),
    ):
        assert (
            train(room, "b", *words) == 2
            and find in capsys.readouterr().err
            and not (room / "b").exists()
        )


def test_init_starts_from_the_weights_and_resumes_without_them(room):
    d = lab_train.make_trainer(
        dict(
            lab_train.SETTINGS,
            init=str(room / "base"),
            data=str(room / "own.npz"),
            process="vp:beta_max=15",
            batch=16,
        ),
        "cpu",
    )
    want = zoo.load(room / "base").network.state_dict()
    assert all(torch.equal(v, want[n]) for n, v in d.net.state_dict().items()) and all(
        p.requires_grad for p in d.net.parameters()
    )
    import shutil

    shutil.copytree(room / "base", room / "lent")
    assert train(room, "c", "--init", str(room / "lent")) == 0
    shutil.rmtree(room / "lent")
    assert commands.run_train(["--out", str(room / "c"), "--resume", "--device", "cpu"]) == 0


def test_runner_resumes(room, capsys, monkeypatch):
    out = room / "r.json"
    words = [
        "--arms",
        "start",
        "plain",
        "consistent:9",
        "plain+kappa:49",
        "--data",
        str(room / "own.npz"),
        "--checkpoint",
        str(room / "base"),
        "--steps",
        "4",
        "--batch",
        "8",
        "--n",
        "128",
        "--nfe",
        "2",
        "--samplers",
        "ddim@uniform",
        "--folder",
        str(room / "runs"),
        "--out",
        str(out),
    ]
    assert commands.run_skipstep(words) == 0
    r = json.loads(out.read_text())
    assert [(t["arm"], t["steps"]) for t in r["trainings"]] == [
        ("plain", 4),
        ("consistent:9", 3),
    ] and [(c["arm"], c["skip"], c["nfe"], c["pictures"]) for c in r["cells"]] == [
        ("start", None, 2, 1000),
        ("plain", None, 2, 1000),
        ("consistent:9", 9, 2, 1000),
        ("plain+kappa:49", 49, 2, 1000),
    ]
    first = {c["arm"]: c["frechet"] for c in r["cells"]}
    assert len(set(first.values())) == 4
    asked = []
    real = experiment.generate_and_score

    def counted(denoiser, *settings, **more):
        asked.append(settings[:4])
        return real(denoiser, *settings, **more)

    monkeypatch.setattr(lab_skipstep, "generate_and_score", counted)
    monkeypatch.setattr(lab_train, "fit", lambda *a, **k: pytest.fail("trained again"))
    r.pop("seal")  # as a person would who edits the file
    out.write_text(json.dumps(dict(r, trainings=r["trainings"][:1], cells=r["cells"][:3])))
    assert commands.run_skipstep(words) == 0
    again = json.loads(out.read_text())
    assert (
        asked == [("ddim@uniform", 2, 128, 1000)]
        and {c["arm"]: c["frechet"] for c in again["cells"]} == first
        and again["trainings"][1] == dict(r["trainings"][1], seconds=None)
    )
    capsys.readouterr()
    assert commands.run_skipstep([*words, "--lr", "1e-3"]) == 2 and "lr" in capsys.readouterr().err


def test_from_scratch_every_seed_has_a_network_of_its_own():
    first, again, other = (lab_skipstep.first_network("scratch", seed) for seed in (0, 0, 1))
    assert networks.weights_hash(first) == networks.weights_hash(again)
    assert networks.weights_hash(first) != networks.weights_hash(other)
    assert type(first.network) is networks.UNet and type(first.process) is VP
    shipped = lab_skipstep.first_network("fashion-vp", 1)
    assert networks.weights_hash(shipped) == networks.weights_hash(zoo.load("fashion-vp"))


def test_a_measured_slope_needs_both_its_arms(tmp_path, capsys):
    words = ["--out", str(tmp_path / "a.json"), "--folder", str(tmp_path / "runs"), "--arms"]
    for arms in (["plain+slope:9"], ["plain", "plain+slope:9"], ["plain+slope:9", "published:9"]):
        assert commands.run_skipstep([*words, *arms]) == 2
        assert "arms = 'plain+slope:9': plain and published:9 before it" in capsys.readouterr().err


def test_the_measured_slope_of_an_arm_multiplies_plain(room):
    out = room / "slopes.json"
    settings = dict(arms=["plain", "published:49", "plain+slope:49"], nfe=[3], n=128, steps=3)
    settings |= dict(data=str(room / "own.npz"), checkpoint=str(room / "base"), batch=8, warmup=0)
    settings |= dict(folder=room / "slope-runs", out=out, samplers=["ddim@uniform"])
    lab_skipstep.skipstep_experiment(**settings)
    plain, published, slope = (cell["frechet"] for cell in json.loads(out.read_text())["cells"])
    assert plain != slope != published
    run = lab_skipstep.SkipRun(
        lab_skipstep_settings(settings),
        *lab_skipstep.skipstep_pictures(settings["data"]),
        experiment.Results(out, json.loads(out.read_text())["setup"]),
    )
    scaled = run.network(lab_skipstep.parse_arm("plain+slope:49"), 0)
    x = scaled.process.prior((2, 1, 28, 28), torch.ones(2, 1, 28, 28))
    for share, factor in zip(lab_skipstep.SLOPES_AT, scaled.slopes):
        t = share * scaled.process.T
        assert torch.allclose(scaled.eps(x, t), factor * scaled.inner.eps(x, t), rtol=1e-6)
    assert max(abs(factor - 1) for factor in scaled.slopes) > 1e-5


def lab_skipstep_settings(given: dict) -> dict:
    "All settings of the experiment: those given over the usual ones."
    usual = inspect.signature(lab_skipstep.skipstep_experiment).parameters
    return {name: entry.default for name, entry in usual.items()} | given


def test_scratch_has_nothing_to_show_untrained(tmp_path, capsys):
    words = ["--checkpoint", "scratch", "--out", str(tmp_path / "a.json")]
    assert commands.run_skipstep([*words, "--folder", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "arms = 'start'" in said and "arms that are trained" in said
    assert not (tmp_path / "a.json").exists()
