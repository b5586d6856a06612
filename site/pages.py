"""How much a reader has before them: words, visible cells, figures and exercises of every chapter.

`python site/pages.py` prints the table and fails where a chapter of the course is over a limit and
REASONS gives none; `--write` puts the table into CONTRIBUTING.md."""

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from marked import replaced

ROOT = Path(__file__).resolve().parent.parent
WORDS, CELLS, EXERCISES = 2000, 40, 3
KILOBYTES = 700
REASONS: dict[str, str] = {}  # chapter -> why it is longer than a chapter should be
BEGIN, END = "<!-- written by site/pages.py -->\n", "<!-- end -->\n"
HIDDEN = r"(?m)^#\|\s*(hide\b|include:\s*false|echo:\s*false|hide_input)"
FOLDED = r"(?m)^#\|\s*code-fold:\s*true"
SOLUTION = r'(?im)^#\|\s*code-summary:\s*"?solution'
APPENDIX = r"(?m)^#+ For the curious"


@dataclass(frozen=True)
class Page:
    "A notebook in figures."

    name: str
    words: int  # of prose, without formulas, code and the appendix
    visible: int  # code cells that stand open
    folded: int  # code cells the reader may open
    figures: int
    exercises: int  # with a folded solution
    kilobytes: int  # of the file, the saved figures with it

    @property
    def in_course(self) -> bool:
        "Whether it is a chapter, and no page of the workshop."
        return bool(re.match(r"start|0[1-9]|1\d", self.name))


def prose(cells: list[dict]) -> str:
    "What there is to read, up to the appendix."
    text = "\n\n".join(cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    text = re.split(APPENDIX, text)[0]
    text = re.sub(r"(?s)```.*?```|\$\$.*?\$\$", " ", text)
    text = re.sub(r"\$[^$\n]*\$|<[^>\n]+>|\]\([^)\s]*\)", " ", text)
    return re.sub(r"(?m)^\|?[\s:|-]+\|?$|[|#*>`]", " ", text)


def pictures(cell: dict) -> int:
    "The figures a cell has saved."
    kinds = ("image/png", "image/svg+xml", "image/jpeg")
    outputs = [output.get("data", {}) for output in cell["outputs"]]
    return sum(any(kind in data for kind in kinds) for data in outputs)


def measure(path: Path) -> Page:
    "A notebook in figures."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    for cell in cells:
        cell["source"] = "".join(cell["source"])
    code = [c for c in cells if c["cell_type"] == "code" and c["source"].strip()]
    shown = [cell for cell in code if not re.search(HIDDEN, cell["source"])]
    folded = [cell for cell in shown if re.search(FOLDED, cell["source"])]
    return Page(
        name=path.stem,
        words=len(re.findall(r"[^\W_][\w'’-]*", prose(cells))),
        visible=len(shown) - len(folded),
        folded=len(folded),
        figures=sum(map(pictures, shown)),
        exercises=sum(bool(re.search(SOLUTION, cell["source"])) for cell in folded),
        kilobytes=path.stat().st_size // 1000,
    )


def over(page: Page) -> list[str]:
    "What is too much, or too little, in words; nothing where a reason is given."
    if page.name in REASONS or not page.in_course:
        return []
    found = []
    if page.words > WORDS:
        found.append(f"{page.name}: {page.words} words, at most {WORDS}")
    if page.visible > CELLS:
        found.append(f"{page.name}: {page.visible} visible cells, at most {CELLS}")
    if page.kilobytes > KILOBYTES:
        found.append(f"{page.name}: {page.kilobytes} kB, at most {KILOBYTES}: site/pictures.py")
    if page.exercises < EXERCISES and page.name != "start":
        found.append(f"{page.name}: {page.exercises} exercises, at least {EXERCISES}")
    return found


def measured() -> list[Page]:
    "Every notebook, the course first."
    found = [measure(path) for path in sorted((ROOT / "nbs").glob("*.ipynb"))]
    return sorted(found, key=lambda page: (not page.in_course, page.name != "start", page.name))


def table() -> str:
    "The table as Markdown."
    rows = ["| page | words | visible cells | folded | figures | exercises | |"]
    rows.append("|---|---:|---:|---:|---:|---:|---|")
    for page in measured():
        numbers = (page.words, page.visible, page.folded, page.figures, page.exercises)
        link = f"[{page.name}](nbs/{page.name}.ipynb)"
        row = " | ".join(map(str, numbers))
        rows.append(f"| {link} | {row} | {REASONS.get(page.name, '')} |".replace("|  |", "| |"))
    return "\n".join(rows) + "\n"


def rewritten(text: str) -> str:
    "CONTRIBUTING.md with the present table."
    return replaced(text, BEGIN, END, f"\n{table()}\n")


def main() -> int:
    "The command: 1 where a chapter is over a limit."
    parser = argparse.ArgumentParser(description="Words, cells, figures, exercises of each page.")
    parser.add_argument("--write", action="store_true", help="put the table in CONTRIBUTING.md")
    if parser.parse_args().write:
        path = ROOT / "CONTRIBUTING.md"
        path.write_text(rewritten(path.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
    wrong = [line for page in measured() for line in over(page)]
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
