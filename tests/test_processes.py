"One network on several processes: what is compared, what is refused, what is kept."

import pytest

from compsamp import zoo
from compsamp.lab import processes, train as lab_train
from compsamp.lab.processes import COMPARED_PROCESSES, FRICTIONS, compare_exact, compare_processes
from compsamp.psld import PSLD

SMALL = {"processes": ("vp",), "seeds": (0,), "nfe": (4,), "n": 128, "steps": 3, "small": True}


def test_the_processes_are_those_of_the_paper():
    found = [zoo.parse_process(text) for text in COMPARED_PROCESSES]
    assert [p.gamma for p in found[1:]] == list(FRICTIONS) == [0, 0.005, 0.01, 0.02, 0.25]
    assert all(abs(p.M - 0.25) < 1e-12 and p.kappa == 0.04 and p.beta == 8 for p in found[1:])
    assert found[3] == PSLD()


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"processes": ("vq",)}, "process"),
        ({"processes": ()}, "processes"),
        ({"rows": ("emm",)}, "sampler"),
        ({"rows": ()}, "rows"),
        ({"rows": ("nvv@quadratic",)}, "rows"),
        ({"nfe": ()}, "nfe"),
        ({"n": 5}, "n"),
        ({"nfe": (0,)}, "nfe"),
        ({"seeds": (-1,)}, "seeds"),
        ({"steps": 0}, "steps"),
        ({"out": "processes.png"}, "out"),
    ],
)
def test_wrong_settings_are_named_before_the_work(wrong, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "Trainer", None)
    with pytest.raises(ValueError, match=f"^{name} = "):
        compare_processes(**{"out": "p.json", **SMALL, **wrong})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [{"nfe": (True,)}, {"nfe": ("a",)}, {"seeds": (0.5,)}])
def test_counts_are_whole(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "Trainer", None)
    with pytest.raises((TypeError, ValueError), match=f"^{next(iter(wrong))} = "):
        compare_processes(**{"out": "p.json", **SMALL, **wrong})


def test_what_is_finished_is_kept(tmp_path, monkeypatch):
    out, folder = tmp_path / "p.json", tmp_path / "runs"
    first = compare_processes(out, folder=folder, **SMALL).cells
    assert len(first) == 1 and first[0]["process"] == "vp" and first[0]["frechet"] > 0
    card = (folder / "vp-seed0" / "card.json").read_bytes()
    more = SMALL | {"nfe": (4, 5)}  # the network is there: only a cell is added
    second = compare_processes(out, folder=folder, **more).cells
    assert second[:1] == first and len(second) == 2
    assert (folder / "vp-seed0" / "card.json").read_bytes() == card
    monkeypatch.setattr(processes, "train_process", None)
    assert compare_processes(out, folder=folder, **more).cells == second
    with pytest.raises(ValueError, match="steps: 3 there, 4 asked"):
        compare_processes(out, folder=folder, **SMALL | {"steps": 4})


def test_a_folder_has_a_name_that_every_system_takes(tmp_path, monkeypatch):
    seen = []

    def stopped(process, seed, images, labels, recipe, folder):
        seen.append(folder.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(processes, "train_process", stopped)
    settings = SMALL | {"processes": ("psld:gamma=0,nu=4",), "rows": ("em@quadratic",)}
    with pytest.raises(KeyboardInterrupt):
        compare_processes(tmp_path / "p.json", folder=tmp_path / "runs", **settings)
    assert seen == ["psld-gamma=0,nu=4-seed0"]


def test_a_training_that_was_stopped_goes_on(tmp_path, monkeypatch):
    real = lab_train.fit

    def stopped(trainer, folder, save_every):
        "Ctrl-C after the first step."
        trainer.step()
        trainer.save(folder)
        return False

    monkeypatch.setattr(lab_train, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        compare_processes(tmp_path / "p.json", folder=tmp_path / "cut", **SMALL)
    monkeypatch.setattr(lab_train, "fit", real)
    cut = compare_processes(tmp_path / "p.json", folder=tmp_path / "cut", **SMALL).cells
    whole = compare_processes(tmp_path / "q.json", folder=tmp_path / "whole", **SMALL).cells
    assert abs(cut[0]["frechet"] / whole[0]["frechet"] - 1) < 1e-3


def test_the_exact_score_needs_no_network(tmp_path, monkeypatch):
    settings = {"processes": ("vp", "psld"), "seeds": (0,), "nfe": (10,), "n": 128}
    found = compare_exact(tmp_path / "e.json", **settings)
    vp, psld = (cell["frechet"] for cell in found.cells)
    assert vp < psld / 2  # a tenth of the time is a long step for a momentum
    assert found.data["setup"]["network"] == "none" and 0 < found.data["floor"] < vp
    monkeypatch.setattr(
        processes, "picture_reference", None
    )  # nothing is missing: nothing is drawn
    again = compare_exact(tmp_path / "e.json", **settings)
    assert again.cells == found.cells and again.data["floor"] == found.data["floor"]
