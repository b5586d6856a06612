"""Draw the rooms of the package, storey by storey, with an arrow from each to those it opens:
`python site/rooms.py` writes site/images/rooms.svg from the code as it is.

An arrow is left out where a longer way over other rooms leads to the same place, so the picture
shows the way and not every import."""

import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "site/images/rooms.svg"
sys.path.insert(0, str(ROOT / "tests"))

import storeys  # noqa: E402

PER_ROW = 8
WIDTH, HEIGHT = 1.24, 0.42  # of a room
STEP_X, STEP_Y, GAP = 1.42, 1.0, 0.45  # between rooms, rows and storeys
COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7"]  # Okabe and Ito's, a storey each


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    "All the rooms one can get to."
    seen, waiting = set(), [start]
    while waiting:
        for target in graph.get(waiting.pop(), ()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    "The graph without arrows that a longer way makes superfluous."
    kept = {}
    for room, targets in graph.items():
        by_others = set()
        for target in targets:
            by_others |= reachable(graph, target)
        kept[room] = targets - by_others
    return kept


def present(graph: dict[str, set[str]]) -> list[tuple[str, list[list[str]]]]:
    "Each storey's name and its rows of rooms that exist; what stands on no storey comes last."
    floors = []
    for storey in storeys.STOREYS:
        rooms = [room for room in storey.rooms if room in graph]
        floors.append((storey.name, rows_of(rooms)))
    lost = storeys.unplaced()
    return [*floors, ("(no storey)", rows_of(lost))] if lost else floors


def rows_of(rooms: list[str]) -> list[list[str]]:
    "Rooms in rows of equal length."
    count = max(1, -(-len(rooms) // PER_ROW))
    per_row = max(1, -(-len(rooms) // count))
    return [rooms[start : start + per_row] for start in range(0, len(rooms), per_row)]


def fingerprint(graph: dict[str, set[str]]) -> str:
    "What the picture was drawn from, to tell whether it is still true."
    rows = [[room, sorted(targets)] for room, targets in sorted(graph.items())]
    floors = [[storey.name, *storey.rooms] for storey in storeys.STOREYS]
    return hashlib.sha256(json.dumps([rows, floors]).encode()).hexdigest()[:16]


def is_current(graph: dict[str, set[str]]) -> bool:
    "Whether the saved picture shows the code as it is."
    return PICTURE.exists() and fingerprint(graph) in PICTURE.read_text(encoding="utf-8")


def places(floors: list) -> tuple[dict[str, tuple[float, float]], list[tuple[str, float, float]]]:
    "Where each room stands (its centre), and each storey's name, top and bottom."
    where, bands, top = {}, [], 0.0
    for name, rows in floors:
        bottom = top - STEP_Y * max(1, len(rows)) - GAP
        for number, row in enumerate(rows):
            height = top - GAP / 2 - STEP_Y * (number + 0.5)
            shift = (PER_ROW - len(row)) / 2
            for place, room in enumerate(row):
                where[room] = (STEP_X * (place + shift + 0.5), height)
        bands.append((name, top, bottom))
        top = bottom
    return where, bands


def draw_arrow(axes, start: tuple[float, float], end: tuple[float, float], colour: str):
    "From the room that imports to the room it imports from, around what stands between."
    from matplotlib.patches import FancyArrowPatch

    same_row = abs(start[1] - end[1]) < HEIGHT
    if same_row:
        bend = min(0.35, 0.6 / abs(start[0] - end[0]))  # the same height however far
        shape = f"arc3,rad={bend if start[0] > end[0] else -bend}"
        ends = [(start[0], start[1] + HEIGHT / 2), (end[0], end[1] + HEIGHT / 2)]
    else:
        shape = f"arc3,rad={0.06 if start[0] > end[0] else -0.06}"
        up = 1 if end[1] > start[1] else -1
        ends = [(start[0], start[1] + up * HEIGHT / 2), (end[0], end[1] - up * HEIGHT / 2)]
    arrow = FancyArrowPatch(
        *ends,
        connectionstyle=shape,
        arrowstyle="-|>",
        mutation_scale=9,
        color=colour,
        linewidth=1.0,
        alpha=0.75,
        shrinkA=0,
        shrinkB=1,
        zorder=2,
    )
    axes.add_patch(arrow)


def draw_room(axes, room: str, centre: tuple[float, float], colour: str):
    "A box with the module's name."
    from matplotlib.patches import FancyBboxPatch

    corner = (centre[0] - WIDTH / 2, centre[1] - HEIGHT / 2)
    box = FancyBboxPatch(
        corner,
        WIDTH,
        HEIGHT,
        boxstyle="round,pad=0,rounding_size=0.09",
        facecolor="white",
        edgecolor=colour,
        linewidth=1.6,
        zorder=3,
    )
    axes.add_patch(box)
    axes.text(*centre, room.replace("lab.", ""), ha="center", va="center", fontsize=9.5, zorder=4)


def draw(graph: dict[str, set[str]]):
    "The whole house as a matplotlib figure."
    from matplotlib.figure import Figure

    floors = present(graph)
    where, bands = places(floors)
    width, depth = STEP_X * PER_ROW, -bands[-1][2]
    figure = Figure(figsize=(9.6, 9.6 * depth / (width + 0.5)), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, width), ylim=(-depth, 0))
    axes.axis("off")
    colour_of = {}
    for (name, top, bottom), colour, (_, rows) in zip(bands, [*COLOURS, "#000000"], floors):
        axes.axhspan(bottom + 0.04, top - 0.04, color=colour, alpha=0.10, linewidth=0, zorder=0)
        middle = (top + bottom) / 2
        axes.text(-0.25, middle, name, rotation=90, ha="center", va="center", fontsize=11)
        colour_of |= {room: colour for row in rows for room in row}
    for room, targets in reduced(graph).items():
        for target in sorted(targets & where.keys()):
            draw_arrow(axes, where[room], where[target], colour_of[room])
    for room, centre in where.items():
        draw_room(axes, room, centre, colour_of[room])
    return figure


def main():
    "Write the picture."
    import matplotlib

    graph = storeys.arrows()
    matplotlib.rcParams.update({"svg.hashsalt": "compsamp", "svg.fonttype": "path"})
    about = {"Date": None, "Description": f"rooms and imports, {fingerprint(graph)}"}
    draw(graph).savefig(PICTURE, metadata=about)
    print(f"{PICTURE.relative_to(ROOT)}: {len(graph)} rooms")


if __name__ == "__main__":
    main()
