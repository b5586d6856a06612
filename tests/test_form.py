"The form of the code: what a formatter cannot hold, and which room may open which."

import subprocess
import sys

import form
import pytest
import rooms
import storeys
from conftest import ROOT

AREAS = form.areas()
WIDE_SHARE = 0.005  # of the lines: a formula that would not survive being broken
SHORT_SHARE = 0.15  # of the identifiers: symbols of the formula on the same page
area = pytest.mark.parametrize("name", AREAS)


def all_of(check, name: str) -> list[str]:
    "What a check finds in an area."
    return [place for piece in AREAS[name] for place in check(piece)]


@area
def test_lines_fit(name):
    lines = sum(len(form.code_lines(piece)) for piece in AREAS[name])
    wide = all_of(form.wide, name)
    assert len(wide) < WIDE_SHARE * lines, wide[:20]


@area
def test_one_statement_a_line(name):
    assert not all_of(form.chained, name)


@area
def test_a_function_has_a_name_of_its_own(name):
    assert not all_of(form.lambdas, name)


@area
def test_functions_are_short(name):
    assert not all_of(form.long_functions, name)


@area
def test_nothing_takes_a_namespace(name):
    "A command is a function one can call from a notebook."
    assert not all_of(form.namespaces, name)


@area
def test_names_say_what_a_thing_is(name):
    share = form.short_share(AREAS[name])
    assert share <= SHORT_SHARE, f"{100 * share:.1f} % of the names have one letter"


def test_a_name_belongs_to_one_module():
    assert not form.exported_twice()


def test_every_room_has_a_place():
    listed = [room for storey in storeys.STOREYS for room in storey.rooms]
    assert len(listed) == len(set(listed))
    assert not storeys.unplaced(), "tests/storeys.py lists every module"


def test_no_arrow_goes_up():
    assert not storeys.upward(storeys.arrows())


def test_no_circle():
    assert not storeys.circles(storeys.arrows())


def test_no_import_hides_behind_a_computed_name():
    assert not storeys.computed()


def test_the_map_is_true():
    assert rooms.is_current(storeys.arrows()), "python site/rooms.py"


@pytest.mark.parametrize(
    "source, room, opens",
    [
        ("import compsamp.core", "sampling", {"core"}),
        ("from compsamp.lab import race", "choose", {"lab.race"}),
        ("from ..sampling import sample", "lab.race", {"sampling"}),
        ("from .claims import read", "lab.race", {"lab.claims"}),
        ("from . import core, forward", "sampling", {"core", "forward"}),
        ("import importlib\nimportlib.import_module('compsamp.restart')", "core", {"restart"}),
        ("def f():\n    from compsamp import load", "core", {"__init__"}),
        ("from compsamp import __version__\nimport torch", "core", set()),
        ("entry = 'compsamp.zoo:load'", "core", {"zoo"}),
    ],
)
def test_arrows_are_seen(source, room, opens):
    "The reading of imports itself, on cases that were missed before or could be."
    rooms = {"core", "forward", "sampling", "restart", "zoo", "choose", "lab.race", "lab.claims"}
    assert storeys.imports(source, room, rooms) == opens


def test_circles_are_seen():
    graph = {"core": {"zoo"}, "data": {"core"}, "zoo": {"data"}, "flow": {"core"}}
    assert storeys.circles(graph) == [["core", "zoo", "data"]]
    assert storeys.upward({"core": {"sampling"}, "psld": {"flow"}}) == ["core -> sampling"]


@pytest.mark.parametrize(
    "check, bad, good",
    [
        (form.chained, "a = 1; b = 2", "a = 1"),
        (form.chained, "if a: b = 2", "if a:\n    b = 2\nelif b:\n    pass"),
        (form.chained, "def double(x): return 2 * x", "def double(x):\n    return 2 * x"),
        (form.lambdas, "double = lambda x: 2 * x", "sorted(a, key=lambda x: -x)"),
        (
            form.namespaces,
            "def run(a: argparse.Namespace):\n    pass",
            "def run(a: int):\n    pass",
        ),
        (form.wide, "value = " + " + ".join(["name"] * 20), "rows = [\n" + "1, " * 50 + "\n]"),
        (form.long_functions, "def f():\n" + "    a = 1\n" * 31, "def f():\n" + "    a = 1\n" * 30),
    ],
)
def test_checks_see_what_they_should(check, bad, good):
    assert check(form.Piece("bad", bad))
    assert not check(form.Piece("good", good))


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check"]], ids=lambda a: a[0])
def test_ruff(arguments):
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", *arguments, "--no-cache", "--quiet", "."]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, (run.stdout + run.stderr)[-2000:]


def test_the_folder_called_site_hides_nothing():
    "Python's own module of that name is found first, with and without it having been loaded."
    for flags in ([], ["-S"]):
        command = [sys.executable, *flags, "-c", "import site; print(site.__file__)"]
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        assert str(ROOT) not in run.stdout and run.stdout.strip().endswith("site.py")
    assert not (ROOT / "site/__init__.py").exists()
