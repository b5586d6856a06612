"""Build the site from _quarto.yml without Quarto: `python site/build.py [--out _site]`.

Notebooks pass nbdev's documentation filters into `_proc/`, smalldocs renders them there, and two
repairs follow: backtick links point at the numbered pages, and mathematics and fonts come from the
site itself, which is whole offline. Nothing is executed: the pages show the outputs saved in the
notebooks."""

import argparse
import contextlib
import itertools
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
MAIN = "quarto-document-content"
QUARTO_ONLY = {  # keys of _quarto.yml that smalldocs does not read
    "": ["ipynb-filters", "execute"],
    "project": ["post-render"],
    "website": ["reader-mode"],
    "format.html": ["html-math-method", "grid"],
}


def config() -> dict:
    "The definition of the site."
    return yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))


def chosen(cfg: dict) -> list[Path]:
    "The sources `project.render` asks for, in order."
    found = {}
    for pattern in cfg["project"]["render"]:
        for path in sorted(ROOT.glob(pattern)):
            found[path] = True
    return list(found)


def present(contents: list, sources: set[str]) -> list:
    "The sidebar without the pages that do not exist (yet)."
    kept = []
    for item in contents:
        if "contents" in item:
            inner = present(item["contents"], sources)
            if inner:
                kept.append({**item, "contents": inner})
        elif item["href"] in sources:
            kept.append(item)
    return kept


def stage_config(
    cfg: dict,  # _quarto.yml as it stands; changed in place
    sources: set[str],  # pages that exist, as paths from the root
    out: Path,  # where the site goes
) -> dict:
    "_quarto.yml less the keys only Quarto reads, and less the pages that are not there."
    for place, keys in QUARTO_ONLY.items():
        table = cfg
        for step in filter(None, place.split(".")):
            table = table[step]
        for key in keys:
            table.pop(key, None)
    cfg["project"]["output-dir"] = str(out)
    sidebar = cfg["website"]["sidebar"]
    sidebar["contents"] = present(sidebar["contents"], sources)
    return cfg


WIDGET = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "*In JupyterLab a slider or menu stands here.*"


def say_where_widgets_are(nb):
    "A page cannot show a live widget: one line of text in place of its printed form."
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                output["data"] = {"text/markdown": [WIDGET_TEXT]}


def stream_name(output) -> str | None:
    "The stream that a piece of output was printed to; None for a picture or a table."
    return output["name"] if output["output_type"] == "stream" else None


def join_printed(nb):
    "What one cell prints comes in pieces: one piece a stream, without a gap between them."
    for cell in nb.cells:
        joined = []
        for name, pieces in itertools.groupby(cell.get("outputs", []), stream_name):
            first, *more = pieces
            if name:
                first["text"] = "".join("".join(piece["text"]) for piece in (first, *more))
                more = []
            joined += [first, *more]
        if joined:
            cell["outputs"] = joined


def leave_out_bars(nb):
    "A progress bar that has ended says nothing on a page."
    for cell in nb.cells:
        if "outputs" in cell:
            cell["outputs"] = [output for output in cell["outputs"] if not is_bar(output)]


def is_bar(output) -> bool:
    "Whether an output is fastprogress's bar, or the style sheet it brings along."
    html = "".join(output.get("data", {}).get("text/html", ""))
    return "<progress" in html or "progress:not([value])" in html


def stage_notebook(src: Path, dst: Path):
    "A notebook through the filters that `ipynb-filters: [nbdev_filter]` means to Quarto."
    from execnb.nbio import read_nb, write_nb
    from nbdev.processors import FilterDefaults

    nb = read_nb(src)
    say_where_widgets_are(nb)
    leave_out_bars(nb)
    join_printed(nb)
    with contextlib.chdir(ROOT):  # it reads settings.ini from where it stands
        FilterDefaults()(nb)
    write_nb(nb, dst)


def stage(proc: Path, out: Path):
    "Everything smalldocs reads, laid out as in the repository."
    cfg = config()
    sources = chosen(cfg)
    resources = [ROOT / name for name in cfg["project"].get("resources", [])]
    pictures = sorted((HERE / "images").glob("*"))
    face = [HERE / "style.css", HERE / "favicon.svg", ROOT / "README.md"]
    shutil.rmtree(proc, ignore_errors=True)
    proc.mkdir(parents=True)
    names = {path.relative_to(ROOT).as_posix() for path in sources}
    text = yaml.safe_dump(stage_config(cfg, names, out), sort_keys=False, allow_unicode=True)
    (proc / "_quarto.yml").write_text(text, encoding="utf-8")
    for src in [*sources, *resources, *pictures, *face]:
        dst = proc / src.relative_to(ROOT)
        dst.parent.mkdir(parents=True, exist_ok=True)
        if src.suffix == ".ipynb":
            stage_notebook(src, dst)
        else:
            shutil.copy2(src, dst)


def rewrite(path: Path, change: Callable[[str], str]):
    "Write `change(text)` back where it differs."
    old = path.read_text(encoding="utf-8")
    new = change(old)
    if new != old:
        path.write_text(new, encoding="utf-8")


def no_foreign_fonts(sheet: str) -> str:
    "A style sheet that imports nothing from elsewhere."
    return re.sub(r'@import url\(["\']?https?:[^)]*\);?', "", sheet)


def make_offline(site: Path):
    "Mathematics and search from beside the pages instead of a CDN, and no fonts from elsewhere."
    libs = site / "site_libs"
    shutil.copytree(HERE / "katex", libs / "katex")
    shutil.copy2(HERE / "offline.js", libs)
    index = (site / "search.json").read_text(encoding="utf-8")
    (libs / "search-index.js").write_text(f"window.SEARCH_INDEX = {index};\n", encoding="utf-8")
    for sheet in site.rglob("*.css"):
        rewrite(sheet, no_foreign_fonts)
    for page in site.rglob("*.html"):
        up = "../" * len(page.parent.relative_to(site).parts)
        page.write_text(finished(page.read_text(encoding="utf-8"), up), encoding="utf-8")


# Behind a sign that parts settings or words, and before the dot of an attribute (not of a number).
BREAKS = re.compile(r"(?<=[@:,/~(_])(?=[^<])|(?<=\w)(?=\.[A-Za-z_])")


def breakable(table_cell: re.Match) -> str:
    "A cell of a table whose code may break where a reader would break it."

    def marked(code: re.Match) -> str:
        return code[1] + BREAKS.sub("<wbr>", code[2]) + code[3]

    return re.sub(r"(<code[^>]*>)([^<]*)(</code>)", marked, table_cell[0])


def finished(
    html: str,  # a page as smalldocs leaves it
    up: str,  # the way from it to the site's root
) -> str:
    "The page with its own copies of what it needs, and a way past the sidebar for the keyboard."
    from smalldocs.layout import KATEX

    script = f'<script src="{up}site_libs/offline.js"></script>'
    skip = f'<a class="skip-link" href="#{MAIN}">Skip to the page</a>'
    html = html.replace(KATEX, f"{up}site_libs/katex").replace("</head>", f"{script}</head>", 1)
    html = re.sub(r"<td\b[^>]*>.*?</td>", breakable, html, flags=re.DOTALL)
    html = html.replace(f'id="{MAIN}"', f'id="{MAIN}" tabindex="-1"', 1)
    return re.sub(r"<body[^>]*>", lambda body: body[0] + skip, html, count=1)


def build(
    out: Path = ROOT / "_site",  # where the site goes
    proc: Path = ROOT / "_proc",  # where its sources are staged
) -> list[str]:  # what smalldocs warned about
    "The whole site."
    from links import repair
    from smalldocs.site import build as render

    out = Path(out).resolve()
    stage(proc, out)
    shutil.rmtree(out, ignore_errors=True)
    warnings = render(proc, quiet=True).warnings
    repair(out)
    make_offline(out)
    return warnings


def main() -> int:
    "The command: 1 where the renderer warned."
    parser = argparse.ArgumentParser(description="Build the site from _quarto.yml without Quarto.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_site", help="where to (default: _site)"
    )
    out = parser.parse_args().out
    warnings = build(out)
    for warning in warnings:
        print("warning:", warning, file=sys.stderr)
    print(f"{sum(1 for _ in out.rglob('*.html'))} pages in {out}")
    return int(bool(warnings))


if __name__ == "__main__":
    sys.exit(main())
