"Whatever is typed wrong is refused at once, by name, with what was typed and what is allowed."

import contextlib
import inspect
import io
import time
from dataclasses import fields
from pathlib import Path

import pytest

from compsamp import zoo
from compsamp.experiment import option_type, run_command
from compsamp.lab.bench import bench
from compsamp.lab.compensation import compensation_experiment
from compsamp.lab.draw import draw
from compsamp.lab.inpainting import inpaint
from compsamp.lab.measure import demo, measure
from compsamp.lab.race import race
from compsamp.lab.skipstep import skipstep_experiment
from compsamp.lab.train import train

SECONDS = 4  # a refusal takes milliseconds; the rest is for machines with other work to do

# settings of processes, samplers and objectives

REGISTRIES = {
    "process": (zoo.PROCESSES, zoo.parse_process),
    "sampler": (zoo.SAMPLERS, zoo.parse_sampler),
    "objective": (zoo.OBJECTIVES, zoo.parse_objective),
}
WRONG_WORDS = ("nan", "inf", "-inf", "-1", "1e300", "x", "", "1j", "True")
RIGHT_WORDS = {  # what looks wrong and is not: an open end, a size with a sign, "yes", no module
    ("s_min", "1e300"),
    ("s_max", "inf"),
    ("s_max", "1e300"),
    ("lam", "-1"),
    ("mean", "-1"),
    ("conjugate", "True"),
    ("stochastic", "True"),
    ("module", ""),
}


def wrong_settings() -> list:
    "(kind, name, setting, word) for every setting of every registry."
    cases = []
    for kind, (table, _) in REGISTRIES.items():
        for name, made in table.items():
            for field in fields(getattr(made, "func", made)):
                if field.init:
                    words = [w for w in WRONG_WORDS if (field.name, w) not in RIGHT_WORDS]
                    cases += [(kind, name, field.name, word) for word in words]
    return cases


SETTINGS = wrong_settings()


def test_there_are_many_settings():
    assert len(SETTINGS) >= 400


@pytest.mark.parametrize("kind", REGISTRIES)
def test_a_wrong_setting_is_named(kind):
    parse = REGISTRIES[kind][1]
    for _, name, setting, word in (case for case in SETTINGS if case[0] == kind):
        text = f"{name}:{setting}={word}"
        with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
            parse(text)
            pytest.fail(f"{text} was accepted")
        assert setting in str(caught.value), text


@pytest.mark.parametrize("kind", REGISTRIES)
def test_right_settings_are_taken(kind):
    table, parse = REGISTRIES[kind]
    for name, made in table.items():
        known = {field.name for field in fields(getattr(made, "func", made)) if field.init}
        for setting, word in RIGHT_WORDS:
            if setting in known and setting not in ("module", "lam") and word != "1e300":
                parse(f"{name}:{setting}={word}")


# options of commands

COMMANDS = {
    "demo": demo,
    "sample": draw,
    "train": train,
    "measure": measure,
    "race": race,
    "compensation": compensation_experiment,
    "skipstep": skipstep_experiment,
    "inpaint": inpaint,
    "bench": bench,
}
HUGE = "100000000000"
WRONG_VALUES = {
    int: ("x", "1.5", "-1", "nan", HUGE),
    float: ("x", "nan", "inf", "-1"),
    str: ("nonsense", "fashion-vq:"),
    Path: ("/proc/nowhere/x.json", "x.exe"),
}
TAKEN = {  # large and right: a seed is any number, a batch of more pictures than there are is all
    ("seed", HUGE),
    ("seeds", HUGE),
    ("batch", HUGE),
    ("save_every", HUGE),
    ("eval_every", HUGE),
    ("folder", "x.exe"),
    ("out", "x.exe"),
}


NAMED = {  # what the message speaks of, where it is not the option's own name
    "rows": "sampler",
    "samplers": "sampler",
    "arms": "arm",
    "strengths": "strength",
    "init": "checkpoint",
    "network": "checkpoint",
}


def wrong_options(command: str) -> list:
    "(option, value) for every option of a command."
    cases = []
    for parameter in inspect.signature(COMMANDS[command]).parameters.values():
        kind, _, choices = option_type(parameter.annotation)
        values = ("nonsense",) if choices else WRONG_VALUES.get(kind, ())
        cases += [(parameter.name, v) for v in values if (parameter.name, v) not in TAKEN]
    return cases


def test_there_are_many_options():
    assert sum(len(wrong_options(command)) for command in COMMANDS) >= 300


@pytest.mark.parametrize("command", COMMANDS)
def test_a_wrong_option_is_refused_in_one_line(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for option, value in wrong_options(command):
        words = ["--" + option.replace("_", "-") + "=" + value]
        told, said = io.StringIO(), io.StringIO()
        began = time.perf_counter()
        with contextlib.redirect_stdout(told), contextlib.redirect_stderr(said):
            code = run_command(f"compsamp_{command}", COMMANDS[command], words)
        took = time.perf_counter() - began
        last = said.getvalue().strip().splitlines()[-1]
        assert code == 2, (words, last)
        assert value in last, (words, last)
        name = option.replace("_", "-")
        said_so = any(word in last for word in (option, name, NAMED.get(option, option)))
        assert said_so, (words, last)
        assert "Traceback" not in said.getvalue(), words
        assert took < SECONDS, (words, took)
        assert not list(tmp_path.iterdir()), words
