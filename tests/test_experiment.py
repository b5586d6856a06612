"The harness: a results file that two processes fill at once."

import json
import os

import pytest

from compsamp.core import write_sealed
from compsamp.experiment import Results, read_results

SETUP = {"n": 3, "sizes": (1, 2)}


def doubled(x):
    return {"value": 2 * x, "pair": (x, x)}


def test_cells_of_two_processes_are_all_kept(tmp_path):
    path = tmp_path / "results.json"
    one, other = Results(path, SETUP), Results(path, SETUP)
    one.fill([{"x": 1}, {"x": 2}], doubled)
    other.fill([{"x": 3}], doubled)
    one.fill([{"x": 4}], doubled)
    cells = read_results(path)["cells"]
    assert sorted(cell["x"] for cell in cells) == [1, 2, 3, 4]
    assert all(cell["value"] == 2 * cell["x"] for cell in cells)


def test_what_another_process_has_measured_is_not_measured_again(tmp_path):
    path = tmp_path / "results.json"
    one, other = Results(path, SETUP), Results(path, SETUP)

    def slow(x):
        other.fill([{"x": x}], doubled)  # meanwhile
        return {"value": 2 * x, "pair": (x, x), "seconds": 9}

    one.fill([{"x": 1}], slow)
    other.fill([{"x": 2}], doubled)
    asked = []
    one.fill([{"x": 1}, {"x": 2}], lambda x: asked.append(x) or doubled(x))
    assert asked == []
    assert [cell["x"] for cell in read_results(path)["cells"]] == [1, 2]


def test_a_file_replaced_by_one_of_another_set_up_is_not_overwritten(tmp_path):
    path = tmp_path / "results.json"
    run = Results(path, SETUP)
    run.fill([{"x": 1}], doubled)
    foreign = {"setup": {"n": 4, "sizes": [1, 2]}, "cells": [{"x": 9}]}
    write_sealed(path, foreign)
    os.utime(path, ns=(1, 1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="another process has replaced it"):
        run.fill([{"x": 2}], doubled)
    assert path.read_bytes() == before
    assert json.loads(before)["setup"]["n"] == 4
