"""The wrong values that each argument of a call is given in turn, and how they are to be met."""

import linecache
import math
import time
import traceback
import typing
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

SECONDS = 2
NAN, INFINITY = math.nan, math.inf
REFUSALS = (ValueError, TypeError, OSError, ArithmeticError, ImportError)


@dataclass
class Call:
    "One right call of a function, by name."

    function: typing.Callable
    arguments: dict  # all by name
    taken: dict = field(default_factory=dict)  # argument: tags of values that look wrong only
    named: dict = field(default_factory=dict)  # argument: what the message calls it
    times: tuple = ()  # arguments that are times
    short: tuple = ()  # tensors with one row per sample, like another argument's
    skip: tuple = ()  # arguments that may be anything
    most: float = 1.0  # the last time
    runs: bool = True  # whether the right call can be made here


def numbers(value) -> dict:
    "What no number is."
    return {
        "text": "x",
        "truth": True,
        "complex": 1j,
        "NaN": NAN,
        "infinity": INFINITY,
        "None": None,
        "list": [value],
    }


def wrong_counts(value: int) -> dict:
    return numbers(value) | {"negative": -1, "fraction": 1.5, "vast": 10**12}


def wrong_reals(value: float) -> dict:
    return numbers(value) | {"negative": -1.0, "vast": 1e300}


def wrong_times(value, most: float) -> dict:
    "`most` is T."
    tensor = torch.as_tensor(value, dtype=torch.float64)
    wrong = {
        "text": "x",
        "truth": True,
        "complex": 1j,
        "NaN": NAN,
        "infinity": INFINITY,
        "negative": -1.0,
        "late": 2 * most,
        "None": None,
        "NaN tensor": torch.full((4,), NAN),
        "late tensor": torch.full((4,), 2 * most),
        "true tensor": torch.ones(4, dtype=torch.bool),
        "complex tensor": torch.ones(4, dtype=torch.complex64),
    }
    if tensor.dim() == 0:
        wrong["too many"] = torch.full((7,), float(tensor), dtype=torch.float64)
    return wrong


def wrong_tensors(value: Tensor) -> dict:
    wrong = {
        "None": None,
        "text": "x",
        "number": 3.0,
        "list": value.tolist(),
        "complex": value.to(torch.complex64),
        "axis": value[None],
        "sum": value.double().sum().to(value.dtype),
    }
    if value.is_floating_point():
        holed = value.clone()
        holed.view(-1)[0] = NAN
        endless = value.clone()
        endless.view(-1)[-1] = INFINITY
        wrong |= {"NaN": holed, "infinity": endless, "truths": value > 0}
        wrong |= {"whole": value.round().long(), "bytes": value.round().to(torch.uint8)}
    return wrong


def wrong_labels(value: Tensor) -> dict:
    return {
        "text": "x",
        "floats": value.float(),
        "one-hot": nn.functional.one_hot(value, int(value.max()) + 2),
        "negative": -1 - value,
        "vast": torch.full_like(value, 2**62),
        "truths": value > 0,
        "complex": value.to(torch.complex64),
        "short": value[:-1],
        "number": 0.5,
    }


def wrong_values(call: Call, name: str) -> dict:
    "Tag and value of what one argument may not be."
    value = call.arguments[name]
    if name in call.times:
        return wrong_times(value, call.most)
    if isinstance(value, bool):
        return {"text": "no", "fraction": 0.5, "list": [value], "NaN": NAN}
    if isinstance(value, int):
        return wrong_counts(value)
    if isinstance(value, float):
        return wrong_reals(value)
    if isinstance(value, str):
        return {"number": 3, "None": None, "word": "nonsense", "list": [value], "truth": True}
    if isinstance(value, Path):
        return {"number": 3, "None": None, "truth": True, "list": [value], "fraction": 0.5}
    if isinstance(value, Tensor):
        whole = not value.is_floating_point() and value.dtype not in (torch.bool, torch.uint8)
        wrong = wrong_labels(value) if whole else wrong_tensors(value)
        return wrong | ({"short": value[:-1]} if name in call.short else {})
    wrong = {"text": "dpmpp2m", "number": 3, "None": None, "truth": True}
    if isinstance(value, dict | list | tuple):
        return wrong | {"fraction": 0.5, "tensor": torch.ones(2, 3, 4)}
    return wrong | {"class": type(value), "tensor": torch.ones(2)}


def is_said(error: BaseException) -> bool:
    "Whether an error was raised on purpose, by code of this package."
    last = traceback.extract_tb(error.__traceback__)[-1]
    here = "compsamp" in Path(last.filename).parts
    line = linecache.getline(last.filename, last.lineno).strip()
    return here and (last.name == "require" or line.startswith("raise "))


def fault(call: Call, name: str, value) -> str:
    "What is wrong with how a wrong value is met; '' if nothing is."
    arguments = call.arguments | {name: value}
    began = time.process_time()  # not the clock: other work on the machine does not count
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call.function(**arguments)
    except REFUSALS as error:
        told = str(error)
        names = call.named.get(name, name)
        if not is_said(error):
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(last.filename).name}:{last.lineno} {last.name}"
            return f"riddle: {type(error).__name__}: {told[:110]!r} at {where}"
        known = [names] if isinstance(names, str) else names
        if not any(word in told for word in known):
            return f"no name: {told[:110]!r}"
    except Exception as error:
        return f"crash: {type(error).__name__}: {str(error)[:110]!r}"
    else:
        return "accepted"
    took = time.process_time() - began
    return f"slow: {took:.1f} s" if took > SECONDS else ""


def faults(call: Call) -> tuple[int, list]:
    "How many calls were made, and (argument, tag, fault) of those met badly."
    count, found = 0, []
    for name in call.arguments:
        if name in call.skip:
            continue
        for tag, value in wrong_values(call, name).items():
            if tag in call.taken.get(name, ()):
                continue
            count += 1
            met = fault(call, name, value)
            if met:
                found.append((name, tag, met))
    return count, found
