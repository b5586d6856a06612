"""The form of the code in figures, for notebooks, package, tests and site.

`python tests/form.py` prints them for the present state; tests/test_form.py holds the limits."""

import ast
import io
import json
import keyword
import re
import tokenize
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from storeys import ROOT, module_files

WIDTH = 100
STATEMENTS = 30
NO_NAMES = {"_"}  # what nobody reads is not called anything
DATA = {
    tokenize.NUMBER,
    tokenize.STRING,
    tokenize.OP,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.COMMENT,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


@dataclass
class Piece:
    "A stretch of code that stands on its own: a file, or a cell of a notebook."

    where: str
    source: str
    tree: ast.AST = field(init=False)
    tokens: list = field(init=False)

    def __post_init__(self):
        self.tree = ast.parse(self.source)
        self.tokens = list(tokenize.generate_tokens(io.StringIO(self.source).readline))


def without_magics(source: str) -> str:
    "A cell as plain Python."
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)


def cells(path: Path) -> list[Piece]:
    "The code cells of a notebook."
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.lstrip().startswith("%%"):
            found.append(Piece(f"{path.name}[{number}]", without_magics(source)))
    return found


def file(path: Path) -> Piece:
    "A Python file."
    return Piece(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def areas() -> dict[str, list[Piece]]:
    "All the code there is, by where it stands."
    notebooks = sorted((ROOT / "nbs").glob("*.ipynb"))
    return {
        "notebooks": [piece for path in notebooks for piece in cells(path)],
        "package": [file(ROOT / "compsamp/__init__.py"), *map(file, module_files().values())],
        "tests": [file(path) for path in sorted((ROOT / "tests").glob("*.py"))],
        "site": [file(path) for path in [ROOT / "setup.py", *sorted((ROOT / "site").glob("*.py"))]],
    }


def data_lines(piece: Piece) -> set[int]:
    "Lines of nothing but literals: a row of a table."
    named = {t.start[0] for t in piece.tokens if t.type not in DATA}
    return set(range(1, piece.source.count("\n") + 2)) - named


def listed_lines(piece: Piece) -> set[int]:
    "The lines of `__all__`, which nbdev writes."
    found = set()
    for node in ast.walk(piece.tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            found |= set(range(node.lineno, node.end_lineno + 1))
    return found


def code_lines(piece: Piece) -> list[tuple[int, str]]:
    "Lines with something on them, and their numbers."
    lines = enumerate(piece.source.splitlines(), 1)
    return [(number, line) for number, line in lines if line.strip()]


def wide(piece: Piece) -> list[str]:
    "Lines beyond the width, but for rows of data."
    spared = data_lines(piece) | listed_lines(piece)
    rows = code_lines(piece)
    return [f"{piece.where}:{n}" for n, line in rows if len(line) > WIDTH and n not in spared]


def chained(piece: Piece) -> list[str]:
    "Lines with more than one statement: a semicolon between two, or a body behind its colon."
    found = []
    for before, token in zip(piece.tokens, piece.tokens[1:]):
        ends_line = token.type in (tokenize.NEWLINE, tokenize.COMMENT, tokenize.NL)
        if before.type == tokenize.OP and before.string == ";" and not ends_line:
            found.append(f"{piece.where}:{before.start[0]}")
    for node in ast.walk(piece.tree):
        for block in ("body", "orelse", "finalbody"):
            body = getattr(node, block, None)
            if isinstance(body, list) and body and behind_colon(node, body[0]):
                found.append(f"{piece.where}:{node.lineno}")
    return found


def behind_colon(node: ast.AST, first: ast.stmt) -> bool:
    "Whether a block begins on the line of its header."
    if isinstance(node, ast.Module):
        return False
    if isinstance(node, ast.If) and isinstance(first, ast.If) and first in node.orelse:
        return False  # elif
    header = getattr(node, "test", getattr(node, "iter", getattr(node, "type", None)))
    last = getattr(header, "end_lineno", node.lineno)
    return first.lineno in (node.lineno, last)


def lambdas(piece: Piece) -> list[str]:
    "Lambdas that are given a name."
    found = []
    for node in ast.walk(piece.tree):
        value = getattr(node, "value", None)
        named = isinstance(node, (ast.Assign, ast.AnnAssign, ast.NamedExpr))
        parts = value.elts if isinstance(value, ast.Tuple) else [value]
        if named and any(isinstance(part, ast.Lambda) for part in parts):
            found.append(f"{piece.where}:{node.lineno}")
    return found


def functions(piece: Piece) -> list[ast.FunctionDef]:
    "Every function and method."
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(piece.tree) if isinstance(node, kinds)]


def length(function: ast.FunctionDef) -> int:
    "The statements in a function, those of functions inside it too, docstrings apart."
    count = -1  # itself
    for node in ast.walk(function):
        words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        count += isinstance(node, ast.stmt) and not words
    return count


def long_functions(piece: Piece) -> list[str]:
    "Functions over the limit."
    rows = [(length(f), f) for f in functions(piece)]
    return [f"{piece.where}:{f.name} {n}" for n, f in rows if n > STATEMENTS]


def namespaces(piece: Piece) -> list[str]:
    "Functions that take an `argparse.Namespace`."
    found = []
    for function in functions(piece):
        given = function.args
        for arg in [*given.posonlyargs, *given.args, *given.kwonlyargs]:
            if arg.annotation and "Namespace" in ast.unparse(arg.annotation):
                found.append(f"{piece.where}:{function.name}({arg.arg})")
    return found


def names(piece: Piece) -> Counter:
    "How often each identifier is written."
    written = [t.string for t in piece.tokens if t.type == tokenize.NAME]
    return Counter(n for n in written if not keyword.iskeyword(n) and n not in NO_NAMES)


def short_share(pieces: list[Piece]) -> float:
    "The share of one-letter names among identifiers."
    total = Counter()
    for piece in pieces:
        total += names(piece)
    return sum(n for name, n in total.items() if len(name) == 1) / max(1, sum(total.values()))


def exported() -> dict[str, list[str]]:
    "Each exported name, and the modules that export it."
    found = {}
    for room, path in module_files().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value):
                    found.setdefault(name, []).append(room)
    return found


def exported_twice() -> dict[str, list[str]]:
    "Names that two modules export."
    return {name: rooms for name, rooms in exported().items() if len(rooms) > 1}


CHECKS = {
    "lines over 100": wide,
    "chained": chained,
    "named lambdas": lambdas,
    "long functions": long_functions,
    "Namespace": namespaces,
}


def by_file(pieces: list[Piece]) -> dict[str, list[Piece]]:
    "Cells of one notebook together."
    groups = {}
    for piece in pieces:
        groups.setdefault(piece.where.split("[")[0], []).append(piece)
    return groups


def report(title: str, pieces: list[Piece]):
    "One row of figures."
    lines = sum(len(code_lines(piece)) for piece in pieces)
    counts = [sum(len(check(piece)) for piece in pieces) for check in CHECKS.values()]
    share = f"{100 * short_share(pieces):.1f} %"
    print(f"{title:34}{lines:>8}{share:>12}", *(f"{count:>15}" for count in counts))


def main():
    "Print the figures of every area and every file."
    titles = ("code lines", "1 letter", *CHECKS)
    print(f"{'':34}{titles[0]:>8}{titles[1]:>10}", *(f"{title:>15}" for title in titles[2:]))
    everything = areas()
    for area, pieces in everything.items():
        report(area, pieces)
    print()
    for pieces in everything.values():
        for title, group in by_file(pieces).items():
            report(title, group)
    print("\nexported by two modules:", exported_twice() or "none")


if __name__ == "__main__":
    main()
