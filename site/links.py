"""Repair the links nbdev makes in a built site.

nbdev links a name in backticks to `forward.html#vp` on the published site; the page is called
`01_forward.html` and shows the source itself. Here the link becomes a relative one to that page,
and the definition it means gets the anchor. Quarto runs this file after rendering (`post-render`
in _quarto.yml); `site/build.py` calls `repair`."""

import os
import re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEFINITION = re.compile(
    r"(?m)(?:^|(?<=>))(?:<span[^>]*>)?(?:def|class)(?:</span>)?\s+(?:<span[^>]*>)?(?P<name>\w+)"
)


def numbered(
    nbs: Path,  # the folder of notebooks
) -> dict[str, str]:  # page names as nbdev says them, and as they are: `forward` -> `01_forward`
    "The page each module is on: `lab.race` is on `lab_race`."
    pages = {}
    for path in sorted(nbs.glob("*.ipynb")):
        name = re.sub(r"^\d+[a-z]?_", "", path.stem)
        pages[name] = path.stem
        if name.startswith("lab_"):
            pages["lab." + name.removeprefix("lab_")] = path.stem
    return pages


def anchored(
    html: str,  # a page
    ids: set[str],  # names that other pages point to, in lower case
) -> str:  # the page with an anchor in front of every definition in `ids` that has none
    "Give definitions the anchors that links ask for."
    done = set()

    def mark(match: re.Match) -> str:
        name = match["name"].lower()
        if name not in ids or name in done or f'id="{name}"' in html:
            return match[0]
        done.add(name)
        return f'<a id="{name}"></a>{match[0]}'

    return DEFINITION.sub(mark, html)


class Repair:
    "Turns links to the published site's modules into links to the pages here."

    def __init__(self, site: Path, root: Path):
        ini = ConfigParser(delimiters=["="])
        ini.read(root / "settings.ini", encoding="utf-8")
        settings = ini["DEFAULT"]
        self.site = site
        self.folder = settings["nbs_path"]
        self.pages = numbered(root / self.folder)
        self.wanted = {}  # page -> definitions other pages point to
        base = re.escape(settings["doc_host"] + settings["doc_baseurl"].rstrip("/"))
        self.link = re.compile(rf'{base}/([\w.]+)\.html(?:#([\w.]+))?(?=["\'])')

    def local(self, page: Path, html: str) -> tuple[str, int]:
        "The page with its links made relative, and how many those were."
        up = "../" * len(page.parent.relative_to(self.site).parts)

        def change(match: re.Match) -> str:
            target = self.pages.get(match[1])
            if target is None:
                return match[0]
            name = (match[2] or "").split(".")[0]  # a method is found at its class
            if name:
                self.wanted.setdefault(target, set()).add(name)
            return f"{up}{self.folder}/{target}.html" + (f"#{name}" if name else "")

        return self.link.subn(change, html)


def repair(
    site: Path,  # the built site
    root: Path = ROOT,  # the repository
) -> int:  # links changed
    "Point every backtick link at its numbered page, and at the definition there."
    work = Repair(site, root)
    before = {p: p.read_text(encoding="utf-8") for p in site.rglob("*.html")}
    after = {page: work.local(page, html) for page, html in before.items()}
    for page, (html, _) in after.items():
        html = anchored(html, work.wanted.get(page.stem, set()))
        if html != before[page]:
            page.write_text(html, encoding="utf-8")
    return sum(count for _, count in after.values())


if __name__ == "__main__":
    out = os.environ.get("QUARTO_PROJECT_OUTPUT_DIR")
    print(f"{repair(ROOT / (out or '_site'))} backtick links repaired")
