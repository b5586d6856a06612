"The claims on yardsticks without the network's error."

import pytest
import torch

from compsamp import metrics, zoo
from compsamp.lab import claims, solvers
from compsamp.lab.peers import draws_noise
from compsamp.zoo import SamplingSpec

CLAIM = {
    "paper": "toy",
    "claim": "toy",
    "file": "real.json",
    "solvers": "psld",
    "better": {"sampler": "a"},
    "than": {"sampler": "b"},
    "gain": 50,
}


def cells(column, values, sampler, floor=None):
    "One cell a seed."
    return [
        {"sampler": sampler, "budget": 50, "nfe": 50, "seed": i, column: v, "floor": floor}
        for i, v in enumerate(values)
    ]


def direction(better, than, column="distance", floor=None, **more):
    "What a yardstick says of two toy samplers."
    found = cells(column, better, "a", floor) + cells(column, than, "b", floor)
    return claims.direction_on(CLAIM | more, "exact", {"solvers-exact-psld.json": found})


NEAR = [1.0, 1.02, 0.98, 1.01, 0.99]
HALF = [0.5, 0.51, 0.49, 0.5, 0.5]


def test_a_direction_is_judged_whatever_size_was_published():
    assert direction(HALF, NEAR)["verdict"] == "agrees"
    assert direction(NEAR, HALF)["verdict"] == "the reverse"
    assert direction(NEAR, NEAR[::-1])["verdict"] == "not told apart"
    little = [0.97 * value for value in NEAR]
    assert direction(little, NEAR, gain=90)["verdict"] == "agrees"
    assert direction(HALF, NEAR, own=True)["verdict"] == "agrees"
    assert direction(HALF, NEAR, too_small=True)["verdict"] == "agrees"


def test_pairs_come_before_laws_and_laws_where_one_side_draws_noise():
    both = cells("distance", HALF, "a") + cells("frechet", NEAR, "a", 0.1)
    law = cells("frechet", HALF, "b", 0.1)
    found = claims.direction_on(CLAIM, "exact", {"solvers-exact-psld.json": both + law})
    assert found["column"] == "frechet" and found["verdict"] == "the reverse"
    pairs = cells("distance", NEAR, "b")
    found = claims.direction_on(CLAIM, "exact", {"solvers-exact-psld.json": both + law + pairs})
    assert found["column"] == "distance" and found["verdict"] == "agrees"


def test_the_floor_of_the_file_is_taken_off():
    found = direction([0.3, 0.31, 0.29, 0.3, 0.3], [0.5] * 5, "frechet", floor=0.1)
    assert found["ratio"] == pytest.approx(0.5, rel=0.02) and "near_floor" not in found
    near = direction([0.11, 0.12, 0.1, 0.11, 0.11], [0.12] * 5, "frechet", floor=0.1)
    assert near["near_floor"] and near["verdict"] == "agrees"
    held = {"setup": {"against": "exact", "n": 256, "labels": "in turn"}, "floor": 0.2}
    expected = [{"floor": 0.2, "n": 256, "nfe": 1}]
    assert claims.cells_with_floor(held | {"cells": [{"nfe": 1}]}) == expected


def test_a_claim_without_rows_there_has_no_direction():
    plain = {key: value for key, value in CLAIM.items() if key != "solvers"}
    assert claims.direction_on(plain, "exact", {}) is None
    assert claims.direction_on(CLAIM, "exact", {"solvers-exact-psld.json": []}) is None


def test_a_claim_outlives_a_missing_yardstick(tmp_path):
    for name in ("ablation.json", "solvers-exact-psld.json"):
        (tmp_path / name).write_bytes((claims.RESULTS_FOLDER / name).read_bytes())
    chosen = [c for c in claims.read_claims() if c["file"] == "ablation.json" and "solvers" in c]
    rows, missing = claims.claims_ledger(tmp_path, chosen)
    assert len(rows) == len(chosen)
    assert missing == ["solvers-network-psld.json: no results file yet"]
    assert all(row["network"] is None and row["exact"] for row in rows)


def test_every_claim_with_solvers_finds_its_rows():
    for row in claims.claims_ledger()[0]:
        asked = [c for c in claims.read_claims() if c["claim"] == row["claim"]]
        assert (row["exact"] is not None) == any("solvers" in c for c in asked), row["claim"]


def test_a_yardstick_is_for_ratios_of_known_processes(tmp_path):
    text = claims.CLAIMS_FILE.read_text(encoding="utf-8")
    for old, new in (
        ('solvers = "vp"', 'solvers = "vpp"'),
        ("solvers = ", 'kind = "falls"\nsolvers = '),
    ):
        spoilt = tmp_path / "claims.toml"
        spoilt.write_text(text.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(ValueError, match="solvers = 'vpp'|kind = 'falls'"):
            claims.read_claims(spoilt)


@pytest.mark.parametrize("process", ["vp", "psld"])
@pytest.mark.parametrize("target", claims.YARDSTICKS)
def test_every_row_fits_its_process_and_stands_in_its_file(process, target):
    network, listed = solvers.solver_rows(process, target)
    assert zoo.process_text(zoo.load(network).process) == process
    assert len({(budget, row) for budget, row, _ in listed}) == len(listed)
    held = claims.read_results(claims.RESULTS_FOLDER / f"solvers-{target}-{process}.json")
    for budget, row, in_number in listed:
        assert SamplingSpec.parse(row).sampler.k in (None, zoo.parse_process(process).k)
        mine = [c for c in held["cells"] if (c["row"], c["budget"]) == (row, budget)]
        assert len({c["seed"] for c in mine}) == len(mine) == 5
        for cell in mine:
            assert ("distance" in cell) == (not draws_noise(row))
            assert ("frechet" in cell) == in_number
    assert len(held["cells"]) == 5 * len(listed)


def test_the_floor_of_a_normal_law_is_that_of_fresh_draws():
    generator = torch.Generator().manual_seed(0)
    feats = torch.randn(4096, 8, generator=generator, dtype=torch.float64)
    moments = metrics.feature_moments(feats)
    fresh = torch.randn(64, 256, 8, generator=generator, dtype=torch.float64)
    expected = sum(metrics.frechet(one, moments) for one in fresh) / len(fresh)
    found = solvers.held_out_floor(feats, 256)
    assert found == pytest.approx(float(expected), rel=0.05)


def test_features_are_drawn_once(tmp_path):
    calls = []

    def draw():
        calls.append(1)
        return torch.rand(8, 1, 28, 28) * 2 - 1

    classifier = metrics.load_classifier("cpu")
    first = solvers.kept_features(tmp_path / "f.safetensors", draw, classifier)
    again = solvers.kept_features(tmp_path / "f.safetensors", draw, classifier)
    assert torch.equal(first, again) and len(calls) == 1
    with pytest.raises(ValueError, match="features"):
        solvers.kept_features(tmp_path / "f.safetensors", draw, classifier, "another network")


def test_a_page_without_claims_is_refused():
    with pytest.raises(ValueError, match=r"page = '99_nothing.ipynb'"):
        claims.page_verdicts("99_nothing.ipynb")


def test_the_tables_say_all_three_yardsticks():
    row = {"claim": "toy", "link": "x.ipynb", "near_floor": True}
    row |= {"ratio": 0.99, "low": 0.9, "high": 1.1, "verdict": "open"}
    told = {"ratio": 0.5, "low": None, "high": None, "verdict": "agrees"}
    told["column"] = "distance"
    lines = claims.yardstick_table([row | {"network": told, "exact": None}]).splitlines()
    here = "0.99 (0.90 to 1.10), near the floor: open"
    assert lines[2] == f"| [toy](x.ipynb) | {here} | 0.50, pairs: agrees |  |"
    assert len(claims.yardstick_table([row | {"network": None, "exact": None}]).splitlines()) == 2
