"A way of sampling in one word: what it may say of a process, and what it says when it may not."

import re

import pytest
import torch

from compsamp.experiment import generate, generate_and_score
from compsamp.flow import Flow
from compsamp.forward import EDM, VP
from compsamp.interop import Table, wrap
from compsamp.lab.draw import drawing_spec
from compsamp.mixtures import ring
from compsamp.psld import PSLD
from compsamp.sampling import DPMpp2M
from compsamp.zoo import SamplingSpec

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
TABLE = Table((1 - BETAS).cumprod(0))


@pytest.mark.parametrize("low", ["0.01", "0.001", "1e-5"])
def test_a_table_is_not_asked_below_its_first_entry(low):
    told = []
    network = wrap(lambda z, t: told.append(float(t[0])) or 0.1 * z, TABLE, shape=(1, 2, 2))
    with pytest.raises(ValueError, match=rf"low = {float(low)}: from 0.02917 to 14.61, the noise"):
        generate(network, f"dpmpp2m@karras,low={low}", 6, 2, 0)
    assert not told
    for least in ("0.02917", "0.03"):  # the first as the message says it
        generate(network, f"dpmpp2m@karras,low={least}", 6, 2, 0)
    assert min(told) == 0.0


@pytest.mark.parametrize("process", [VP(), EDM(), Flow(), Flow(T=0.999), TABLE, PSLD()])
def test_the_ends_of_a_row_are_those_of_its_process(process):
    least, most = (float(process.rho(t)) for t in (process.eps, process.T))
    spec = SamplingSpec.parse(f"euler@karras,low={least},high={min(most, 1e6)}")
    times = spec.route(process, points=5)
    assert times[-1] == pytest.approx(process.eps) and times[0] == pytest.approx(process.T, 1e-5)
    for end, ratio in (("low", least / 1.01), ("low", most * 1.01), ("high", least / 1.01)):
        row = SamplingSpec.parse(f"euler@karras,{end}={min(ratio, 1e12):.6g}")
        if most < 1e12 or ratio < 1:
            with pytest.raises(ValueError, match=f"{end} = .*: from {least:.4g} to {most:.4g}, "):
                row.route(process, points=5)


def test_a_process_that_says_a_smaller_end_may_be_walked_to_it():
    row = "dpmpp2m@karras,low=1e-5"
    with pytest.raises(ValueError, match="low = 1e-05: from 0.002 to 80"):
        generate(ring().denoiser(EDM()), row, 8, 2, 0)
    times = SamplingSpec.parse(row).route(EDM(eps=1e-5), points=8)
    assert float(times[-1]) == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "grid, words",
    [
        ("karras,low=1e9", "low = 1000000000.0: from 0.01049 to 152.2, "),
        ("karras,high=200", "high = 200.0: from 0.01049 to 152.2, "),
        ("karras,low=5,high=1", "low, high = (5.0, 1.0): low below high"),
        ("uniform,low=2,high=2", "low, high = (2.0, 2.0): low below high"),
    ],
)
def test_an_end_that_cannot_be_is_named_as_it_was_typed(grid, words):
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        SamplingSpec.parse(f"dpmpp2m@{grid}").route(VP(), nfe=20)


def test_two_restarts_at_one_point_are_named_as_they_were_typed():
    row = SamplingSpec.parse("edm@karras/0.3,0.5,3,2/0.31,.6,3,2")
    words = "restart = '0.31,0.6,3,2': apart from '0.3,0.5,3,2': both begin at a ratio of 0."
    with pytest.raises(ValueError, match="^" + re.escape(words)):
        row.route(VP(), nfe=40)
    assert len(row.route(VP(), nfe=400).detours) == 2


@pytest.mark.parametrize("nfe", [-5, 0, 2.5])
def test_a_budget_that_cannot_be_is_named_as_in_the_call(nfe):
    for call in (generate, generate_and_score):
        with pytest.raises(ValueError, match=f"^nfe = {nfe}: a (whole )?number"):
            call(ring().denoiser(VP()), "ddim", nfe=nfe, n=2, seed=0)
    with pytest.raises(ValueError, match=f"^nfe = {nfe}: a (whole )?number"):
        SamplingSpec.parse("ddim").route(VP(), nfe=nfe)


def test_a_truth_value_is_a_number_where_the_sampler_takes_both():
    for text, eta in (("true", 1.0), ("False", 0.0), ("1", 1.0), (".5", 0.5)):
        sampler = SamplingSpec.parse(f"dpmpp2m:stochastic={text}").sampler
        assert type(sampler.stochastic) is float and sampler == DPMpp2M(eta)
    row = str(SamplingSpec(DPMpp2M(True)))
    assert SamplingSpec.parse(row).sampler == DPMpp2M(True)
    with pytest.raises(ValueError, match="stochastic='much'.*float"):
        SamplingSpec.parse("dpmpp2m:stochastic=much")
    with pytest.raises(ValueError, match="s_max=True.*float"):
        SamplingSpec.parse("dpmpp2m:s_max=true")


def test_capitals_and_blanks_are_read_alike_in_sampler_and_grid():
    wanted = SamplingSpec.parse("dpmpp2m@karras,low=.03")
    for text in ("DPMPP2M@KARRAS,low=.03", " dpmpp2m @ Karras , low = .03"):
        assert SamplingSpec.parse(text) == wanted
    assert drawing_spec("DDIM", "Karras", [], 1.0).schedule == "karras"
    with pytest.raises(ValueError, match="grid = 'karra': one of"):
        SamplingSpec.parse("dpmpp2m@Karra")
