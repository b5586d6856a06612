"""Write the sidebar in _quarto.yml from the pages there are: `python site/sidebar.py [--check]`.

The order is the course's: home, start, chapters by number, then the workshop, then the pages
beside them. The text is the page's number and title."""

import argparse
import json
import re
import sys
from pathlib import Path

from marked import replaced

ROOT = Path(__file__).resolve().parent.parent
COURSE = {  # section -> first and last number
    "The frame": (1, 7),
    "Methods": (8, 14),
    "Put to use": (15, 17),
    "Two more processes": (18, 19),
}
BESIDE = {
    "nbs/choose.qmd": "Which sampler for me?",
    "nbs/notation.qmd": "Notation",
    "nbs/teachers.qmd": "For teachers",
    "nbs/references.qmd": "References",
    "CONTRIBUTING.md": "Contributing",
    "CHANGELOG.md": "Changelog",
}
BEGIN, END = "    contents:  # written by site/sidebar.py\n", "\nformat:\n"


def title(path: Path) -> str:
    "The H1 of a notebook."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "".join(cells[0]["source"]).strip().removeprefix("# ")


def number(path: Path) -> int | None:
    "What a notebook's name begins with."
    match = re.match(r"(\d+)_", path.name)
    return int(match[1]) if match else None


def text(path: Path) -> str:
    "What the sidebar says of a notebook."
    return f"{path.name[:2]} {title(path)}" if number(path) is not None else title(path)


def entry(href: str, words: str) -> str:
    "One line."
    return f'{{text: "{words}", href: {href}}}'


def section(name: str, paths: list[Path]) -> list[str]:
    "The lines of one section, none where it is empty."
    if not paths:
        return []
    rows = [f"          - {entry(f'nbs/{path.name}', text(path))}" for path in paths]
    return [f"      - section: {name}", "        contents:", *rows]


def workshop_order(path: Path) -> tuple:
    "00, the zoo, the experiment, the laboratory, the commands."
    place = number(path)
    return (50 if place is None else place, path.name)


def sidebar() -> str:
    "Everything below `contents:`."
    left = {path.name: path for path in sorted((ROOT / "nbs").glob("*.ipynb"))}
    lines = [f"      - {entry('index.qmd', 'Home')}"]
    if "start.ipynb" in left:
        start = left.pop("start.ipynb")
        lines.append(f"      - {entry('nbs/start.ipynb', 'Start: ' + title(start))}")
    for name, (first, last) in COURSE.items():
        paths = [p for p in left.values() if number(p) is not None and first <= number(p) <= last]
        lines += section(name, paths)
        for path in paths:
            left.pop(path.name)
    lines += section("Workshop", sorted(left.values(), key=workshop_order))
    lines += ["      - section: Beside the chapters", "        contents:"]
    for href, words in BESIDE.items():
        if (ROOT / href).exists():
            lines.append(f"          - {entry(href, words)}")
    return "\n".join(lines) + "\n"


def rewritten(config: str) -> str:
    "_quarto.yml with the sidebar as it should be."
    return replaced(config, BEGIN, END, sidebar())


def main() -> int:
    "Write, or with --check say whether there is something to write."
    parser = argparse.ArgumentParser(description="Write the sidebar in _quarto.yml.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it is stale")
    check = parser.parse_args().check
    path = ROOT / "_quarto.yml"
    old = path.read_text(encoding="utf-8")
    new = rewritten(old)
    if new == old:
        return 0
    if check:
        print("_quarto.yml is stale: python site/sidebar.py", file=sys.stderr)
        return 1
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
