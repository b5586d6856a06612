"The laboratory of Restart: refuses what cannot be, goes on where it stopped."

import pytest

from compsamp.experiment import read_results
from compsamp.lab.restart import restart_synthetic

SMALL = {"seeds": 1, "n": 50, "steps": 20}


def test_a_stopped_run_goes_on(tmp_path):
    "A run over more budgets keeps the finished cells and adds its own."
    out = tmp_path / "restart-synthetic.json"
    restart_synthetic(budgets=[4], out=out, **SMALL)
    first = read_results(out)
    restart_synthetic(budgets=[4, 6], out=out, **SMALL)
    both = read_results(out)
    assert both["cells"][: len(first["cells"])] == first["cells"]
    assert len(first["cells"]) == 6 and len(both["cells"]) == 12
    with pytest.raises(ValueError, match="steps"):
        restart_synthetic(budgets=[4], out=out, **SMALL | {"steps": 30})


@pytest.mark.parametrize(
    "bad, word",
    [
        ({"budgets": []}, "budgets"),
        ({"budgets": [1]}, "budgets"),
        ({"seeds": 0}, "seeds"),
        ({"n": 1001}, "n = 1001"),
        ({"steps": 0}, "steps"),
    ],
)
def test_bad_settings_come_before_the_work(tmp_path, bad, word):
    out = tmp_path / "out.json"
    with pytest.raises(ValueError, match=word):
        restart_synthetic(out=out, **bad)
    assert not out.exists()
