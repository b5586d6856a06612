"One right call of every public function; a test makes it wrong, one argument at a time."

import functools
import importlib
import importlib.util
import inspect
import pickle
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from wrong_arguments import Call

from compsamp import (
    compensation,
    core,
    data,
    experiment,
    flow,
    forward,
    inpainting,
    interop,
    metrics,
    mixtures,
    networks,
    pfgmpp,
    planner,
    psld,
    restart,
    sampling,
    skipstep,
    training,
    zoo,
)
from compsamp.lab import yardsticks

LARGE = {"vast", "infinity"}  # any size will do
ANY_SIGN = {"negative"}
ANY_FLOATS = {"sum", "axis"}  # any shape will do
FOLDER = Path(tempfile.mkdtemp())
NO_DEVICE = {"device": {"None"}}  # the best there is
TABLE = {}
FREE_SETTINGS = {
    "stochastic": {"truth"},
    "s_min": {"vast"},
    "s_max": {"vast", "infinity"},
    "lam": {"negative"},
}


def call(key, function=None, /, **given):
    """Add one call, of what the key names or of another function. Names that begin with `_` are
    facts of `Call`; of the function's own parameters what is not given has its default, and where
    that is None, None is taken."""
    if function is None:
        module, name = key.rsplit(".", 1)
        function = getattr(importlib.import_module(f"compsamp.{module}"), name)
    facts = {name[1:]: given.pop(name) for name in list(given) if name[0] == "_"}
    taken = {name: set(tags) for name, tags in facts.pop("taken", {}).items()}
    for parameter in inspect.signature(function).parameters.values():
        variadic = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.default is None:
            taken.setdefault(parameter.name, set()).add("None")
        elif parameter.default is not parameter.empty and not variadic:
            given.setdefault(parameter.name, parameter.default)
    assert key not in TABLE, key
    TABLE[key] = Call(function, given, taken=taken, **facts)


torch.manual_seed(0)
VP = forward.VP()
PSLD = psld.PSLD()
EDM = forward.EDM()
FLOW = flow.Flow()
PFGM = pfgmpp.PFGMpp()
RING = mixtures.ring()
EXACT = RING.denoiser(VP)
GRID = sampling.grid(VP, 5)
DDIM = sampling.DDIM()
PICTURES = torch.rand(4, 1, 8, 8) * 1.8 - 0.9
LABELS = torch.tensor([0, 1, 2, 1])
UNET = networks.UNet(1, 8, (1,), classes=3)
DENOISER = networks.Denoiser(UNET, VP, (1, 8, 8))
LABELLED = DENOISER.bind(labels=LABELS)
PLANE = torch.randn(4, 2)
GARMENTS = torch.rand(4, 1, 28, 28) * 1.8 - 0.9
FEATURES = torch.randn(40, 3, dtype=torch.float64)
MOMENTS = metrics.feature_moments(FEATURES) | {"some": FEATURES}
CLASSIFIER = metrics.load_classifier()
SMALL = networks.shipped_networks()
CHECKPOINT = networks.WEIGHTS / "fashion-vp-small"
INTERVAL = restart.RestartInterval(0.3, 0.5, 3, 2)

# 00 core
call(
    "core.Noise",
    seed=1,
    n=2,
    shape=(1, 4),
    _taken={"seed": {"vast"}, "first": {"vast"}, "n": {"vast"}},
    _skip=("device",),
)
call("core.stream", seed=1, index=2, _taken={"seed": {"vast"}, "index": {"vast"}})
call(
    "core.f64",
    values=1.5,
    _skip=("name",),
    _taken={"values": {"NaN", "infinity", "negative", "vast", "list"}},
)
call(
    "core.blocks",
    z=torch.randn(2, 4),
    k=2,
    _taken={"z": {"whole", "bytes", "axis", "infinity", "NaN", "truths"}},
)
call("core.pick_device", device="cpu")
call("core.write_json", path=FOLDER / "a.json", value={"a": 1}, _skip=("value",))
call("core.write_sealed", path=FOLDER / "b.json", content={"a": 1})
call("core.check_output", path=FOLDER / "c.json")
call(
    "core.to_uint8",
    x=PICTURES,
    _named={"x": ("x", "pictures")},
    _taken={"x": {"infinity"}},
)
for name in ("tile", "save_png", "show"):
    more = {"path": FOLDER / "d.png"} if name == "save_png" else {}
    call(
        f"core.{name}",
        getattr(core, name),
        x=PICTURES,
        _named={"x": ("x", "pictures")},
        _taken={"x": {"infinity"}, "title": {"word"}},
        **more,
    )

# 01 forward
for name, kind in zoo.PROCESSES.items():
    free = {"mass": {"None"}, "beta_max": {"None"}, "D": {"infinity"}, "gamma": ()}
    call(f"process {name}", kind)
call("forward.discrete_times", n=10, process=VP)
call("forward.discrete_betas", process=VP, n=10)
call(
    "forward.integrate_moments",
    process=VP,
    t=0.5,
    s=0.2,
    _times=("t", "s"),
    _taken={"t": {"too many"}, "s": {"too many"}},
    _skip=("tol", "most"),
)
call("forward.NoisePredictor", process=VP)
for key, process in {"VP": VP, "EDM": EDM, "PSLD": PSLD, "Flow": FLOW}.items():
    most = process.T
    state = torch.randn(4, 2 * process.k, 3)
    for name in ("F", "G", "marginal", "factor", "rho"):
        if key == "Flow" and name in "FG":
            continue
        call(
            f"{key}.{name}",
            getattr(process, name),
            t=most / 2,
            _times=("t",),
            _most=most,
            _taken={"t": {"too many"}},
        )
    call(
        f"{key}.transition",
        process.transition,
        t=most / 2,
        s=most / 4,
        _times=("t", "s"),
        _most=most,
        _taken={"t": {"too many"}, "s": {"too many"}},
    )
    call(
        f"{key}.time",
        process.time,
        rho=0.5,
        _taken={"rho": {"list", "infinity", "vast"} if key == "Flow" else {"list"}},
        _skip=("name",),
    )
    call(
        f"{key}.perturb",
        process.perturb,
        x0=state[:, :2],
        t=most / 2,
        noise=state,
        _times=("t",),
        _most=most,
        _short=("noise",),
    )
    call(
        f"{key}.prior",
        process.prior,
        shape=(4, 2 * process.k, 3),
        noise=state,
        _named={"shape": ("shape", "noise")},
    )
    call(
        f"{key}.prior_at",
        process.prior_at,
        t=most / 2,
        prior=state,
        _times=("t",),
        _most=most,
        _taken={"prior": ANY_FLOATS | {"short"}},
    )

# 02 mixtures
call(
    "mixtures.GaussianMixture",
    means=RING.means,
    covs=RING.covs,
    weights=RING.weights,
    _short=("means", "covs", "weights"),
    _taken={"means": {"whole", "bytes", "list"}, "covs": {"list"}, "weights": {"list"}},
    _named={"means": ("means", "covs"), "weights": ("weights",)},
)
call("GaussianMixture.sample", RING.sample, n=3, seed=1, _taken={"seed": {"vast"}})
call("GaussianMixture.denoiser", RING.denoiser, process=VP)
call("mixtures.ring")
call("mixtures.ExactDenoiser", mixture=RING, process=VP)
call(
    "mixtures.PerturbedDenoiser",
    denoiser=EXACT,
    amplitude=0.1,
    _taken={"seed": {"vast"}},
)
call("flow.ExactMean", mixture=RING, process=VP)
faces = {
    "ExactDenoiser": EXACT,
    "ExactMean": flow.ExactMean(RING, VP),
    "PerturbedDenoiser": mixtures.PerturbedDenoiser(EXACT, 0.1),
    "PointsDenoiser": pfgmpp.PointsDenoiser(RING.sample(5), PFGM),
    "ReadAs": flow.ReadAs(EXACT, flow.Flow(T=0.99)),
    "ScaledDenoiser": skipstep.ScaledDenoiser(EXACT),
    "GaussianDenoiser": planner.GaussianDenoiser(VP, torch.ones(2)),
}
for key, denoiser in faces.items():
    most = denoiser.process.T
    names = ["eps", "score", "x0"] + ["log_prob"] * (key in ("ExactDenoiser", "PointsDenoiser"))
    for name in names:
        call(
            f"{key}.{name}",
            getattr(denoiser, name),
            z=PLANE,
            t=0.5 * most,
            _times=("t",),
            _most=most,
        )
pictured = {
    "Denoiser": DENOISER,
    "Labelled": LABELLED,
    "Compensated": compensation.Compensated(DENOISER, compensation.LightUNet()),
    "FlowDenoiser": flow.FlowDenoiser(UNET, shape=(1, 8, 8)),
}
for key, denoiser in pictured.items():
    for name in ("eps", "score", "x0"):
        call(
            f"{key}.{name}",
            getattr(denoiser, name),
            z=PICTURES,
            t=0.5,
            _times=("t",),
        )

# 03 data
CIFAR = FOLDER / "batch"
IDX = FOLDER / "a-idx"
IDX.write_bytes(b"\0\0\x08\x01" + (3).to_bytes(4, "big") + b"abc")
NPZ = FOLDER / "p.npz"
np.savez(NPZ, images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
BYTES = (PICTURES * 100 + 128).to(torch.uint8)
call("data.read_bytes", path=IDX)
call("data.read_idx", path=IDX)
call("data.embedded", n=5)
call("data.to_model", x=BYTES, _taken={"x": ANY_FLOATS})
call(
    "data.check_pictures",
    x=PICTURES,
    shape=(1, 8, 8),
    _named={"x": ("x", "pictures"), "shape": ("shape", "pictures.shape")},
)
call("data.as_pictures", images=np.zeros((3, 8, 8), np.uint8), _skip=("name",))
call("data.read_arrays", path=NPZ)
call("data.read_npz", path=NPZ)
call(
    "data.load_dataset",
    name="fashion5k",
    _taken={"split": ()},
    _skip=("download",),
)
call("inpainting.heldout", n=4)

with open(CIFAR, "wb") as file:
    pickle.dump({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, file)
call("data.read_cifar_batch", path=CIFAR)
call("data.holds_cifar10", folder=FOLDER)
for name in ("fashion", "cifar10", "celeba"):  # refused before it is looked for
    more = {"limit": 2} if name == "celeba" else {}
    taken = {"attribute": {"word"}} if name == "celeba" else {}
    function = getattr(data, name)
    call(f"data.{name}", function, folder=FOLDER, _taken=taken, _runs=False, **more)
MAKERS = {"folder": {"None"}, "seed": {"vast"}}  # None: where the full set lies
call(
    "data.make_embedded",
    folder=FOLDER,
    out=NPZ,
    _runs=False,
    _taken=MAKERS,
)
call(
    "inpainting.make_heldout",
    folder=FOLDER,
    out=NPZ,
    _runs=False,
    _taken=MAKERS,
)
call(
    "metrics.make_features",
    folder=FOLDER,
    out=NPZ,
    classifier=CLASSIFIER,
    _runs=False,
    _taken=MAKERS,
)

# 04 networks
call(
    "networks.UNet",
    channels=1,
    width=8,
    mults=(1,),
    depth=1,
    attention=(0,),
    classes=3,
    channels_out=1,
)
call("networks.count_parameters", net=UNET)
for name in ("PredictX0", "PredictV", "PredictEDM"):
    call(f"networks.{name}", getattr(networks, name), net=UNET, process=VP)
call(
    "networks.Denoiser",
    network=UNET,
    process=VP,
    shape=(1, 8, 8),
    labels=LABELS,
    card={},
    _taken={"labels": {"short"}},
)
call(
    "Denoiser.bind",
    lambda labels, guidance, clip, amp: DENOISER.bind(
        labels=labels, guidance=guidance, clip=clip, amp=amp
    ),
    labels=LABELS,
    guidance=2.0,
    clip=False,
    amp=False,
    _taken={"labels": {"short"}},
)
call("Denoiser.to", DENOISER.bind().to, device="cpu", _taken={"device": {"None"}})
call(
    "networks.save_tensors",
    path=FOLDER / "w.safetensors",
    tensors={"a": torch.ones(2)},
)
call(
    "networks.save",
    folder=FOLDER / "n",
    network=UNET,
    card={"process": {}, "network": {}, "shape": []},
)
call("networks.file_hash", path=IDX)
call(
    "networks.checkpoint_folder",
    name="fashion-vp-small",
    _taken={"name": {"word"}},
)
call("networks.read_card", folder=CHECKPOINT)
call(
    "networks.read_tensors",
    path=CHECKPOINT / "weights.safetensors",
    names=["inp.weight"],
)
call("networks.process_card", process=VP)
call("networks.network_card", network=UNET)
call("networks.DenoiserWrapper", inner=DENOISER)

# 05 training
call(
    "training.StepRandom",
    seed=1,
    step=2,
    device="cpu",
    _taken={"seed": {"vast"}, "step": {"vast"}},
)
call(
    "training.learning_rate",
    i=3,
    steps=10,
    lr=0.1,
    warmup=2,
    _taken={n: {"vast"} for n in ("i", "steps", "warmup", "decay")},
)
call("training.ema_decay", i=3, ema=0.9, _taken={"i": {"vast"}})
call("training.fast_bf16", device=torch.device("cpu"))
TRAINER = functools.partial(training.Trainer, network=UNET, process=VP, images=PICTURES)
call(
    "training.Trainer",
    network=UNET,
    process=VP,
    images=PICTURES,
    labels=LABELS,
    steps=3,
    batch=2,
    warmup=1,
    objective=training.Epsilon(),
    amp=False,
    _taken={"images": {"bytes"}, "device": {"None"}, "seed": {"vast"}, "decay": (), "steps": ()},
)
RUN = training.Trainer(UNET, VP, PICTURES, steps=2, batch=2, warmup=1)
call("Trainer.stream", lambda every: next(RUN.stream(every)), every=50, _taken={"every": {"vast"}})
RUN.save(FOLDER / "run")
call("Trainer.save", RUN.save, folder=FOLDER / "run")
call("Trainer.resume", RUN.resume, folder=FOLDER / "run")
call(
    "training.preview",
    denoiser=DENOISER,
    n=2,
    points=2,
    _taken={"seed": {"vast"}},
)
call(
    "training.loss_figure",
    trainer=RUN,
    x=PICTURES,
    _named={"x": ("x", "pictures")},
    _taken={"x": {"infinity"}},
)
call(
    "training.fit",
    trainer=RUN,
    folder=FOLDER / "fit",
    every=10,
    progress=False,
    _taken={n: {"vast"} for n in ("save_every", "sample_every", "every", "samples")},
)
call(
    "training.training_data",
    source="embedded",
    _named={"source": ("source", "folder")},
)

# 06 metrics
call("metrics.Classifier", classes=3)
call(
    "metrics.features",
    x=GARMENTS,
    classifier=CLASSIFIER,
    _taken={"batch": {"vast"}, "x": {"bytes"}},
)
call(
    "metrics.feature_moments",
    feats=FEATURES,
    _taken={"feats": {"whole", "bytes"}},
)
call(
    "metrics.frechet",
    feats=FEATURES,
    reference=MOMENTS,
    _taken={"feats": {"whole", "bytes"}},
)
call(
    "metrics.class_in_turn",
    labels=LABELS,
    _taken={"labels": {"vast", "short", "negative"}},
)
call("metrics.reference", some=5)
call(
    "metrics.frechet_floor",
    n=10,
    against=MOMENTS,
    seeds=[0, 1],
    feats=FEATURES,
    labels=torch.arange(40) % 4,
    _taken={"feats": {"whole", "bytes"}, "labels": {"vast", "negative"}},
)
call(
    "metrics.frechet_limit",
    feats=FEATURES,
    reference=MOMENTS,
    _taken={"feats": {"whole", "bytes"}},
)
call("metrics.neighbour_radii", points=FEATURES, _taken={"block": {"vast"}})
call(
    "metrics.inside_balls",
    x=FEATURES,
    centres=FEATURES,
    radius=torch.ones(40, dtype=torch.float64),
    _short=("radius",),
    _taken={"block": {"vast"}},
)
call(
    "metrics.precision_recall",
    feats=FEATURES,
    reference_feats=FEATURES,
    _taken={"feats": {"whole", "bytes"}, "reference_feats": {"whole", "bytes"}},
)
call(
    "metrics.feature_scores",
    feats=FEATURES,
    reference=MOMENTS,
    _taken={"feats": {"whole", "bytes"}},
)
call(
    "metrics.wasserstein",
    x=FEATURES,
    y=FEATURES,
    _short=("y",),
    _taken={"p": {"fraction"}},
)
call(
    "metrics.sliced_wasserstein",
    x=FEATURES,
    y=FEATURES,
    _short=("y",),
    _taken={"seed": {"vast"}, "p": {"fraction"}},
)
call(
    "metrics.train_classifier",
    images=(GARMENTS * 100 + 128).to(torch.uint8),
    labels=LABELS,
    epochs=1,
    progress=False,
    batch=4,
    _taken={"device": {"None"}, "batch": {"vast"}, "seed": {"vast"}},
    _named={"images": ("images", "x")},
)
call(
    "metrics.accuracy",
    classifier=CLASSIFIER,
    images=(GARMENTS * 100 + 128).to(torch.uint8),
    labels=LABELS,
    _named={"images": ("images", "x")},
)
call("metrics.save_classifier", classifier=CLASSIFIER, folder=FOLDER / "c")
call(
    "metrics.load_classifier",
    folder=networks.WEIGHTS / "fashion-classifier",
    _taken={"device": {"None"}},
)

# 07 sampling
for name, kind in zoo.SAMPLERS.items():
    call(f"sampler {name}", kind, _taken=FREE_SETTINGS)
call(
    "sampling.signal_and_noise",
    process=VP,
    t=0.5,
    _times=("t",),
    _taken={"t": {"too many"}},
)
call("sampling.grid", process=VP, n=5, top=1.0, bottom=0.1, _taken={"rho": {"vast"}})
call("sampling.check_grid", times=GRID, process=VP, _taken={"times": {"list"}})
call("sampling.as_route", process=VP, times=GRID, _taken={"times": {"list"}})
call("sampling.nfe", sampler=DDIM, n=5, _taken={"n": {"vast"}})
call(
    "sampling.points_for_budget",
    sampler=DDIM,
    budget=10,
    _named={"budget": ("budget", "nfe")},
    _taken={"budget": {"vast"}},
)
call(
    "sampling.states",
    lambda **k: list(sampling.states(**k)),
    sampler=sampling.DDIM(1.0),
    denoiser=EXACT,
    times=GRID,
    z=PLANE,
    draw=core.Noise(0, 4, (2,)),
    denoise=True,
    _taken={"times": {"list"}},
)
call(
    "sampling.sample",
    sampler=DDIM,
    denoiser=DENOISER,
    times=3,
    n=4,
    labels=LABELS,
    batch=2,
    shape=(1, 8, 8),
    _taken={"seed": {"vast"}, "first": {"vast"}, "batch": {"vast"}, "times": ()},
    _named={"times": ("times", "n")},
)


# 08 compensation
MODULE = compensation.LightUNet(mults=(1,))
OBJECTIVE = compensation.ModuleObjective(EXACT, points=4)
SHIPPED = zoo.load("fashion-vp-small")
call("compensation.Compensated", denoiser=DENOISER, module=MODULE)
call("compensation.CompensatedDDIM", module=MODULE)
call(
    "compensation.weights",
    process=VP,
    t=0.5,
    s=0.3,
    _times=("t", "s"),
    _taken={"t": {"too many"}, "s": {"too many"}},
)
call("compensation.ModuleObjective", main=DENOISER, _skip=("network",))
call("compensation.LightUNet")
call(
    "compensation.light_module",
    denoiser=SHIPPED,
    _taken={"seed": {"vast"}},
)
call("compensation.made_for", denoiser=SHIPPED, module=compensation.LightUNet())
call("compensation.price", denoiser=DENOISER, module=MODULE, batch=2, repeats=1)
NAMED = compensation.LightUNet()
NAMED.card = compensation.new_card(DENOISER)
call("compensation.save_module", folder=FOLDER / "m", module=NAMED)
call(
    "compensation.load_module",
    folder="fashion-vp-small-stretch",
    denoiser=SHIPPED,
    _named={"folder": ("folder", "module"), "denoiser": ("denoiser", "module")},
    _taken={"device": {"None"}},
)
call(
    "compensation.with_module",
    denoiser=SHIPPED,
    name="fashion-vp-small-stretch",
    _named={"name": ("name", "module")},
)
call("compensation.TimewiseScaling", shape=(1, 8, 8), points=4)
call(
    "compensation.fit_timewise_scaling",
    objective=compensation.ModuleObjective(DENOISER, "exact", 3),
    images=PICTURES,
    n=4,
    batch=2,
    _named={"n": ("n", "images")},
    _taken={"n": {"vast"}, "batch": {"vast"}, "seed": {"vast"}, "images": {"bytes"}},
)
call("compensation.Compensation")
call(
    "compensation.correction_size",
    denoiser=DENOISER,
    module=MODULE,
    x0=PICTURES,
    times=GRID,
    _taken={"seed": {"vast"}},
    _named={"x0": ("x0", "z")},
)

# 09 skipstep
call("skipstep.Skip", process=VP)
call("skipstep.kappa", process=VP, t=0.5, _times=("t",), _taken={"t": {"too many"}})
call("skipstep.SkipStep")
call("skipstep.ScaledDenoiser", denoiser=EXACT)
call(
    "skipstep.encode",
    denoiser=EXACT,
    x=PLANE,
    times=GRID,
    _named={"x": ("x", "z")},
    _taken={"times": {"list"}},
)
call(
    "skipstep.slerp",
    a=PLANE,
    b=PLANE + 1,
    u=0.5,
    _short=("b",),
    _named={"a": ("a", "b")},
    _taken={"u": {"negative"}},
)
call("skipstep.unevenness", path=FEATURES)

# 10 to 13
call("psld.CLD", beta_max=5.0)
call(
    "psld.drift_and_diffusion",
    D=torch.eye(2),
    Q=torch.zeros(2, 2),
    S=torch.eye(2),
    _taken={n: {"list", "whole", "bytes"} for n in "DQS"},
)
call(
    "psld.reference_flow",
    denoiser=EXACT,
    z=PLANE,
    t=0.5,
    s=0.4,
    tol=0.1,
    _named={"t": ("t", "times"), "s": ("s", "times")},
)
call("restart.RestartInterval", t_min=0.3, t_max=0.5, points=3, repeats=2)
call(
    "restart.from_sigma",
    restart.RestartInterval.from_sigma,
    process=VP,
    sigma_min=0.3,
    sigma_max=0.5,
    points=3,
    repeats=2,
    _named={"sigma_max": ("sigma_max", "rho")},
)
call(
    "restart.snap",
    main=GRID,
    interval=INTERVAL,
    _taken={"main": {"list", "whole", "bytes"}},
)
call(
    "restart.restart",
    process=VP,
    main=18,
    intervals=[INTERVAL],
    inside=DDIM,
    _named={"main": ("main", "n", "times")},
)
call(
    "restart.points_after_restarts",
    sampler=DDIM,
    budget=30,
    intervals=[INTERVAL],
    _taken={"budget": {"vast"}},
    _named={"budget": ("budget", "nfe"), "evals": ("evals", "nfe")},
)
call(
    "restart.route_of",
    process=VP,
    main=18,
    intervals=[INTERVAL],
    _named={"main": ("main", "n", "times")},
)
ROUTE = sampling.as_route(VP, restart.restart(VP, 18, [INTERVAL]))
call("restart.timeline", route=ROUTE, sampler=DDIM)
call(
    "sampling.Route",
    lambda **k: sampling.as_route(VP, sampling.Route(**k)),
    main=GRID,
    detours=ROUTE.detours[:0],
    inside=DDIM,
    s_noise=1.0,
    _named={"main": ("main", "times")},
    _taken={"main": {"list"}, "inside": {"None"}},
)

# 14 inpainting
MASK = torch.zeros(4, 1, 8, 8, dtype=torch.bool)
MASK[..., :4] = True
call(
    "inpainting.masks",
    kind="mixed",
    n=2,
    side=8,
    _taken={"seed": {"vast"}, "first": {"vast"}},
)
call(
    "inpainting.damage",
    x=PICTURES,
    kind="mixed",
    others=PICTURES,
    _taken={"seed": {"vast"}, "first": {"vast"}},
)
call("inpainting.check_mask", mask=MASK, x=PICTURES, _taken={"mask": {"list"}})
call("inpainting.default_sampler", process=VP)
call(
    "inpainting.with_replacement",
    sampler=DDIM,
    times=GRID,
    known=PICTURES,
    mask=MASK,
    _skip=("times",),
    _named={"known": ("known", "x")},
    _taken={"mask": {"list"}},
)
call(
    "inpainting.restore",
    denoiser=DENOISER,
    picture=PICTURES,
    mask=MASK,
    sampler=DDIM,
    times=2,
    _taken={"seed": {"vast"}, "first": {"vast"}, "batch": {"vast"}, "mask": {"list"}},
    _named={"picture": ("picture",), "times": ("times", "n")},
)
call("inpainting.resampled", process=VP, n=9)
call(
    "inpainting.method",
    name="restart",
    process=VP,
    nfe=50,
    sampler=DDIM,
    _named={"name": ("name", "method")},
)
CONDITIONAL = inpainting.Conditional(
    inpainting.ConditionalUNet(3, 8, (1,), classes=0, channels_out=1), VP
)
SEEING = networks.Denoiser(CONDITIONAL, VP, (1, 8, 8))
call("inpainting.Conditional", net=CONDITIONAL.net, process=VP)
call("inpainting.condition_on", denoiser=SEEING, picture=PICTURES, mask=MASK)
call(
    "inpainting.conditional",
    denoiser=networks.Denoiser(networks.PredictV(UNET, VP), VP, (1, 8, 8)),
)
call("inpainting.Restoration")
call(
    "inpainting.mean_fill",
    x=PICTURES,
    mask=MASK,
    mean=PICTURES[0],
    _taken={"mean": {"axis"}, "mask": {"list"}},
)
call(
    "inpainting.scores",
    x=GARMENTS,
    truth=GARMENTS,
    mask=GARMENTS[:1] > 0,
    _taken={"mask": {"list"}},
    _named={"x": ("x",), "truth": ("truth", "x.shape")},
)
call(
    "inpainting.diversity",
    draws=torch.stack([PICTURES, -PICTURES]),
    mask=MASK,
    _taken={"mask": {"list"}},
)
call(
    "inpainting.assess",
    draws=GARMENTS.repeat(40, 1, 1, 1)[None, :128],
    truth=GARMENTS.repeat(40, 1, 1, 1)[:128],
    mask=GARMENTS[:1] > 0,
    names=["half"] * 128,
    _named={"draws": ("draws", "x.shape")},
    _taken={"mask": {"list"}},
)
call("inpainting.RestorationModule", main=SEEING, _skip=("network",))
call(
    "inpainting.Guided",
    denoiser=DENOISER,
    log_prob=lambda z, t: z,
    labels=LABELS,
    _taken={"labels": {"short", "negative", "vast", "one-hot"}},
)
call(
    "inpainting.component_posterior",
    exact=EXACT,
    classes=torch.arange(8) % 2,
)
call("inpainting.NoisyClassifier")
FACES = FOLDER / "faces"
for person in range(1, 41):
    (FACES / f"s{person}").mkdir(parents=True)
    for i in range(1, 11):
        Image.new("L", (92, 112)).save(FACES / f"s{person}" / f"{i}.pgm")
call("inpainting.faces", folder=FACES)
call(
    "inpainting.nearest_pictures",
    x=PICTURES,
    among=PICTURES,
    _named={"x": ("x", "among.shape")},
)

# 18 and 19
call("flow.FlowDenoiser", network=UNET, process=FLOW, shape=(1, 8, 8))
call(
    "flow.shift",
    times=torch.tensor([0.1, 0.5]),
    factor=3.0,
    _taken={"times": {"list", "axis", "sum", "whole", "bytes", "number"}},
)
call("flow.ReadAs", inner=EXACT, process=flow.Flow(T=0.9))
call("flow.as_flow", denoiser=EXACT)
call("flow.PredictFlow", net=UNET, process=VP)
call("flow.FlowMatching", _taken={"mean": {"negative"}})
call(
    "flow.from_velocity",
    denoiser=networks.Denoiser(flow.PredictFlow(UNET, FLOW), FLOW, (1, 8, 8)),
)
call(
    "pfgmpp.PointsDenoiser",
    points=PICTURES,
    process=PFGM,
    weights=torch.ones(4),
    _short=("weights",),
    _named={"points": ("points", "weights")},
)
call("pfgmpp.restart_arm", arm="heun", process=PFGM)

# 16 interop
BANK = {"c": torch.ones(3, 2)}
call(
    "interop.ForeignNetwork",
    net=UNET,
    time=interop.same_time,
    conditions=BANK,
    empty={"c": torch.zeros(2)},
    _skip=("name",),
)
call(
    "interop.wrap",
    net=lambda z, t, c: z,
    process=VP,
    shape=(1, 8, 8),
    time=interop.same_time,
    conditions=BANK,
    empty={"c": torch.zeros(2)},
    name="mine",
    _taken={"name": {"word"}},
)
call("interop.Table", levels=(0.9, 0.5, 0.1), _taken={"levels": {"list", "tensor", "array"}})
call(
    "interop.check_prediction",
    denoiser=mixtures.ring().denoiser(VP),
    pictures=mixtures.ring().sample(64).float(),
    levels=(0.3, 1.0),
    seed=0,
    _skip=("denoiser",),
    _taken={"seed": {"vast"}},
    _named={"pictures": ("pictures", "z")},
)
call(
    "interop.check_network",
    network=networks.UNet(1, 8, (1,), classes=3).eval(),
    shape=(1, 8, 8),
    classes=3,
)
call("interop.to_diffusers", denoiser=DENOISER)
call("interop.export_pretrained", folder=FOLDER / "e", denoiser=DENOISER)
interop.export_pretrained(FOLDER / "e", DENOISER)
call("interop.import_pretrained", folder=FOLDER / "e")

if importlib.util.find_spec("diffusers"):
    import diffusers

    FOREIGN = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=8,
    )
    STOCK = diffusers.DDIMScheduler()
    call(
        "interop.from_diffusers",
        _named={"source": ("source", "folder"), "scheduler": ("scheduler", "folder")},
        source=FOREIGN,
        scheduler=STOCK,
        shape=(1, 8, 8),
        clip=False,
    )
    call("interop.scheduler_grid", scheduler=STOCK, n=5)
    call("interop.flow_process")
    call("interop.scheduler_convention", scheduler=STOCK)
    call("interop.SamplerScheduler")
    OURS = interop.SamplerScheduler()
    call("SamplerScheduler.set_timesteps", OURS.set_timesteps, num_inference_steps=4, device="cpu")
    call(
        "SamplerScheduler.from_config",
        interop.SamplerScheduler.from_config,
        config=dict(STOCK.config),
        _skip=("return_unused_kwargs",),
    )

    def stepped(**given):
        OURS.set_timesteps(4)
        return OURS.step(**given)

    OURS.set_timesteps(4)
    call(
        "SamplerScheduler.step",
        stepped,
        model_output=PICTURES,
        timestep=float(OURS.timesteps[0]),
        sample=PICTURES,
    )
    call(
        "SamplerScheduler.add_noise",
        OURS.add_noise,
        original_samples=PICTURES,
        noise=PICTURES,
        timesteps=OURS.timesteps[:1],
        _named={"original_samples": ("original_samples", "noise")},
        _taken={"timesteps": {"axis", "sum", "whole", "bytes"}},
    )

# 20 zoo
for name in ("process", "sampler", "objective"):
    text = {"process": "vp", "sampler": "ddim", "objective": "epsilon"}[name]
    call(f"zoo.parse_{name}", getattr(zoo, f"parse_{name}"), text=text, _named={"text": name})
call("zoo.grid_ends", process=VP, low=0.03, high=80.0)
call("zoo.process_text", process=VP)
call("zoo.sampler_text", sampler=DDIM)
call("zoo.find_process", card=networks.process_card(VP))
call("zoo.build_network", card=networks.read_card(CHECKPOINT))
call(
    "zoo.load",
    name="fashion-vp-small",
    network=SHIPPED.network,
    _named={"name": ("name", "checkpoint")},
    _taken=NO_DEVICE,
)
call(
    "zoo.load_conditional",
    _named={"name": ("name", "checkpoint")},
    _taken=NO_DEVICE,
)
call(
    "zoo.load_guide",
    name="fashion-guide-vp",
    _named={"name": ("name", "checkpoint")},
    _taken=NO_DEVICE,
)
SPEC = zoo.SamplingSpec(DDIM)
call(
    "zoo.SamplingSpec",
    sampler=DDIM,
    low=0.1,
    high=10.0,
    restarts=((0.1, 0.3, 3, 2),),
    guidance=1.0,
    module="m",
    _named={"schedule": ("schedule", "grid")},
    _taken={"module": {"word"}},
)
call("SamplingSpec.parse", zoo.SamplingSpec.parse, text="ddim", _named={"text": "sampler"})
call("SamplingSpec.route", SPEC.route, process=VP, nfe=10, _named={"nfe": ("nfe", "budget", "n =")})
call("SamplingSpec.intervals", SPEC.intervals, process=VP)
call("SamplingSpec.denoiser", SPEC.denoiser, denoiser=DENOISER)
call("zoo.parse_restart", text="0.06,0.3,3,2", _named={"text": "restart"})

call(
    "zoo.load_kind",
    kind=inpainting.NoisyClassifier,
    name="fashion-guide-vp",
    _named={"name": ("name", "checkpoint"), "kind": ("kind", "network.kind")},
    _taken=NO_DEVICE,
)
PLAN = planner.RestartPlan(9, (), 10, 0.1, [], "karras")
call("RestartPlan.route", PLAN.route, process=VP)
for name in sorted(set(interop.PREDICTS) - {"eps", "flow", "x0", "v", "edm"}):
    call(f"interop.{name}", interop.PREDICTS[name], net=UNET, process=VP)
call("interop.PredictVelocity", net=UNET, process=FLOW)

# 21 experiment
call(
    "experiment.generate_and_score",
    denoiser=DENOISER,
    spec="ddim",
    nfe=2,
    n=128,
    seed=0,
    reference=MOMENTS,
    classifier=CLASSIFIER,
    labels=None,
    batch=64,
    progress=False,
    _runs=False,
    _named={"spec": ("spec", "sampler"), "nfe": ("nfe", "budget", "n =")},
    _taken={"seed": {"vast"}, "batch": {"vast"}},
    _skip=("labels",),
)
call(
    "experiment.Results",
    path=FOLDER / "r.json",
    setup={"n": 3},
    command="",
    _named={"path": ("path", "out")},
    _taken={"command": {"word"}},
)
RESULTS = experiment.Results(FOLDER / "s.json", {"n": 3})
RESULTS.add(a=1)
call("experiment.read_results", path=FOLDER / "s.json")
call("experiment.repeat_words", path=FOLDER / "s.json")
call(
    "experiment.generate",
    denoiser=DENOISER,
    spec="ddim",
    nfe=2,
    n=2,
    seed=0,
    batch=2,
    labels=LABELS[:2],
    _named={"spec": ("spec", "sampler"), "nfe": ("nfe", "budget", "n =")},
    _taken={"seed": {"vast"}, "batch": {"vast"}, "nfe": ()},
)
call("experiment.labels_in_turn", denoiser=DENOISER, n=4)
call(
    "experiment.resolve_labels",
    denoiser=DENOISER,
    labels="in turn",
    n=4,
    _taken={"labels": {"None", "number", "truth", "list"}},
)
MANY = GARMENTS.repeat(40, 1, 1, 1)[:128] + 0.05 * torch.randn(128, 1, 28, 28)
TEST = metrics.reference("test", 128)
call(
    "experiment.score",
    pictures=MANY,
    reference=TEST,
    classifier=CLASSIFIER,
    labels=torch.arange(128) % 10,
    _named={"pictures": ("pictures", "x"), "labels": ("labels",)},
)

# 22 planner
SPREAD = torch.tensor([1.0, 0.5])
call("planner.spectrum", x=PICTURES)
call(
    "planner.GaussianDenoiser",
    process=VP,
    variances=SPREAD,
    _taken={"error": {"negative"}},
)
call(
    "planner.final_variances",
    sampler=DDIM,
    process=VP,
    times=GRID,
    variances=SPREAD,
    _taken={"error": {"negative"}, "times": {"list"}},
)
call(
    "planner.forecast_error",
    sampler=DDIM,
    process=VP,
    times=GRID,
    variances=SPREAD,
    error=0.1,
    _taken={"error": {"negative"}, "times": {"list"}},
)
call(
    "planner.detour_error",
    sampler=DDIM,
    denoiser=DENOISER,
    interval=INTERVAL,
    pictures=PICTURES,
    _taken={"seed": {"vast"}},
)
call(
    "planner.plan_restart",
    denoiser=DENOISER,
    budget=13,
    sampler=sampling.EDMHeun(),
    pictures=PICTURES,
    shape=(1, 8, 8),
    levels=[(0.4, 1.0)],
    sizes=[2],
    batch=4,
    _taken={"batch": {"vast"}, "seed": {"vast"}, "budget": ()},
)

# the laboratory: what a reader calls, beside the commands
call("lab.yardsticks.paired_log_ratio", a=[1.0, 1.1, 0.9], b=[1.2, 1.2, 1.1], level=0.9)
call(
    "lab.yardsticks.paired_difference",
    a=[1.0, 1.1, 0.9],
    b=[1.2, 1.2, 1.1],
    level=0.9,
    _taken={"a": {"negative"}, "b": {"negative"}},
)
call("lab.yardsticks.judge_ratio", interval=yardsticks.Interval(0.9, 0.8, 0.95, 5), claimed=0.9)
call(
    "lab.yardsticks.converged_run",
    denoiser=RING.denoiser(VP),
    n=4,
    seed=0,
    _taken={"seed": {"vast"}, "tol": {"vast"}},
)
call(
    "lab.yardsticks.solver_distance",
    sampler=sampling.DDIM(),
    denoiser=RING.denoiser(VP),
    times=10,
    target=yardsticks.converged_run(RING.denoiser(VP), 4),
    _named={"times": ("times", "n")},
)
call(
    "lab.yardsticks.picture_reference",
    pictures=GARMENTS,
    some=2,
    _taken={"some": {"vast"}},
    _named={"pictures": ("pictures", "x")},
)
MOMENTS = {"mean": torch.zeros(2).double(), "cov": torch.eye(2).double()}
call(
    "lab.yardsticks.unbiased_frechet",
    feats=torch.randn(50, 2).double(),
    reference=MOMENTS,
    _taken={"feats": {"axis"}},
)
call(
    "lab.yardsticks.frechet_between",
    feats=torch.randn(50, 2).double(),
    reference=MOMENTS,
    _taken={"feats": {"axis"}},
)
call("lab.peers.parse_row", text="dpmpp2m@karras", _named={"text": ("text", "row", "sampler")})
call("lab.architectures.compare_architectures", out=FOLDER / "f.json", seconds=1.0, _runs=False)
call("lab.architectures.measure_steps", out=FOLDER / "steps.json", _runs=False)
call("lab.architectures.compare_averages", out=FOLDER / "means.json", _runs=False)
call("lab.compensation.ModuleKind", pairs="exact")
call("lab.compensation.LightTransformer")
call(
    "lab.processes.compare_processes",
    out=FOLDER / "h.json",
    folder=FOLDER / "h-runs",
    _runs=False,
)
call("lab.processes.compare_exact", out=FOLDER / "i.json", _runs=False)
call(
    "lab.solvers.compare_solvers",
    out=FOLDER / "j.json",
    process="vp",
    target="exact",
    _runs=False,
)
call(
    "lab.pfgmpp.measure_restart",
    out=FOLDER / "g.json",
    seeds=1,
    n=128,
    _runs=False,
    _named={"network": ("network", "checkpoint")},
)
