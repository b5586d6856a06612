"""The rooms of the package and their storeys, and which room imports which.

`python tests/storeys.py` prints the arrows that go up and the circles. tests/test_form.py asserts
that there are none, site/rooms.py draws the rest."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "compsamp"
NAMED = re.compile(r"compsamp\.([a-z_]\w*(?:\.\w+)*)(?::\w+)?")


@dataclass(frozen=True)
class Storey:
    "Rooms that stand beside one another. They import from storeys above, and not in a circle."

    name: str
    rooms: tuple[str, ...]  # modules of compsamp, without "compsamp."
    ordered: bool = False  # each room imports only from those named before it


STOREYS = (
    Storey(
        "Frame",
        (
            "core",
            "forward",
            "mixtures",
            "data",
            "networks",
            "training",
            "metrics",
            "sampling",
        ),
        ordered=True,
    ),
    Storey(
        "Methods",
        (
            "compensation",
            "skipstep",
            "psld",
            "conjugate",
            "splitting",
            "restart",
            "inpainting",
            "flow",
            "pfgmpp",
        ),
    ),
    Storey("Doors", ("interop", "distributed", "planner", "zoo")),
    Storey(
        "Laboratory",
        (
            "experiment",
            "lab.measure",
            "lab.draw",
            "lab.train",
            "lab.architectures",
            "lab.processes",
            "lab.solvers",
            "lab.restart",
            "lab.pfgmpp",
            "lab.emoji",
            "lab.compensation",
            "lab.skipstep",
            "lab.inpainting",
            "lab.race",
            "lab.peers",
            "lab.claims",
            "lab.bench",
            "lab.yardsticks",
            "choose",
            "commands",
        ),
    ),
)


def module_files() -> dict[str, Path]:
    "Every module a notebook exports: its name without `compsamp.`, and its file."
    files = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        if not path.name.startswith("_"):
            files[name] = path
    return files


def place(
    room: str,  # a module
) -> tuple[int, int] | None:  # storey, and place in it; None for a room on no list
    "Where a room stands."
    for level, storey in enumerate(STOREYS):
        if room in storey.rooms:
            return level, storey.rooms.index(room)
    return None


def longest(dotted: str, rooms: set[str]) -> str | None:
    "The room a dotted name begins with: `lab.race.run` is in `lab.race`."
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        name = ".".join(parts[:end])
        if name in rooms:
            return name
    return None


def absolute(
    node: ast.ImportFrom,
    room: str,  # the module the statement is in
) -> str | None:  # the module it names, without "compsamp."; "" is the package; None is elsewhere
    "Resolve `from ..x import y`."
    if node.level:
        package = room.split(".")[:-1]
        kept = package[: len(package) - (node.level - 1)]
        return ".".join([*kept, *filter(None, [node.module])])
    if node.module == "compsamp":
        return ""
    if (node.module or "").startswith("compsamp."):
        return node.module.removeprefix("compsamp.")
    return None


def from_statement(node: ast.ImportFrom, room: str, rooms: set[str]) -> set[str]:
    "The rooms one `from … import …` opens."
    base = absolute(node, room)
    if base is None:
        return set()
    found = set()
    for alias in node.names:
        target = longest(f"{base}.{alias.name}".strip("."), rooms)
        if target:
            found.add(target)
        elif alias.name != "__version__":  # the package itself, which opens the zoo
            found.add("__init__")
    return found


def relative_string(call: ast.Call) -> str | None:
    "The name in `import_module('.x', …)`."
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name != "import_module" or not call.args:
        return None
    first = call.args[0]
    if isinstance(first, ast.Constant) and str(first.value).startswith("."):
        return first.value.lstrip(".")
    return None


def opened(node: ast.AST, room: str, rooms: set[str]) -> set[str]:
    "The rooms one node of the syntax tree opens."
    if isinstance(node, ast.ImportFrom):
        return from_statement(node, room, rooms)
    names = []
    if isinstance(node, ast.Import):
        names = [alias.name.removeprefix("compsamp.") for alias in node.names]
        names = [n for n, a in zip(names, node.names) if a.name.startswith("compsamp.")]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        match = NAMED.fullmatch(node.value)
        names = [match[1]] if match else []
    elif isinstance(node, ast.Call):
        names = [name for name in [relative_string(node)] if name]
    return {target for target in (longest(name, rooms) for name in names) if target}


def imports(source: str, room: str, rooms: set[str]) -> set[str]:
    "The rooms a module opens, by a statement or by a name in a string, wherever in it that is."
    found = set()
    for node in ast.walk(ast.parse(source)):
        found |= opened(node, room, rooms)
    return found - {room}


def arrows() -> dict[str, set[str]]:
    "Every room, and the rooms it imports from."
    files = module_files()
    rooms = set(files)
    return {
        room: imports(path.read_text(encoding="utf-8"), room, rooms) for room, path in files.items()
    }


def allowed(room: str, target: str) -> bool:
    "Whether one room may import from another. Rooms on no storey are `unplaced`'s business."
    here, there = place(room), place(target)
    if here is None or there is None:
        return True
    if here[0] != there[0]:
        return here[0] > there[0]
    return not STOREYS[here[0]].ordered or here[1] > there[1]


def upward(graph: dict[str, set[str]]) -> list[str]:
    "Arrows that should not be, in words."
    wrong = []
    for room, targets in graph.items():
        wrong += [f"{room} -> {target}" for target in sorted(targets) if not allowed(room, target)]
    return wrong


def circles(
    graph: dict[str, set[str]],
) -> list[list[str]]:  # each circle once: its rooms in order, from the first by the alphabet
    "Rooms from which the arrows lead back to themselves."
    found = []
    for start in sorted(graph):
        paths = [[start]]
        seen = set()
        while paths:
            path = paths.pop()
            for target in sorted(graph.get(path[-1], ())):
                if target == start:
                    found.append(path)
                elif target > start and target not in seen:
                    seen.add(target)
                    paths.append([*path, target])
    return found


def is_computed(call: ast.Call) -> bool:
    "Whether a call imports one of our modules under a name put together at run time."
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name not in ("import_module", "__import__", "find_spec") or not call.args:
        return False
    first = call.args[0]
    if isinstance(first, ast.JoinedStr):
        first = first.values[0]
    elif isinstance(first, ast.BinOp):
        first = first.left
    else:
        return False
    return isinstance(first, ast.Constant) and str(first.value).startswith(("compsamp", "."))


def computed() -> list[str]:
    "Places where an arrow hides behind a name computed at run time."
    found = []
    for room, path in module_files().items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and is_computed(node):
                found.append(f"{room}: {ast.unparse(node)}")
    return found


def unplaced() -> list[str]:
    "Modules that stand on no storey."
    return [room for room in module_files() if place(room) is None]


def main():
    "Print what stands in the way."
    graph = arrows()
    print(f"{len(graph)} rooms, {sum(map(len, graph.values()))} arrows")
    for title, rows in {
        "on no storey": unplaced(),
        "arrows that go up": upward(graph),
        "imports under a computed name": computed(),
        "circles": [" -> ".join([*circle, circle[0]]) for circle in circles(graph)],
    }.items():
        print(f"{title}: {len(rows)}")
        for row in rows:
            print("  ", row)


if __name__ == "__main__":
    main()
