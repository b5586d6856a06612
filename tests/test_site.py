"The site: it builds without a warning, its links lead somewhere, and a browser shows it whole."

import io
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

import build
import pages
import pictures
import pytest
import sidebar
import verdicts
from conftest import ROOT
from fastcore.basics import AttrDict
from PIL import Image

pytestmark = pytest.mark.xdist_group("site")  # one worker builds it and serves it
CONFIG = build.config()
SOURCES = build.chosen(CONFIG)
PAGES = [path.relative_to(ROOT).with_suffix(".html").as_posix() for path in SOURCES]
CHAPTERS = sorted((ROOT / "nbs").glob("*.ipynb"))
COURSE = [path for path in CHAPTERS if re.match(r"start|0[1-9]|1\d", path.name)]
WIDE, PHONE = dict(width=1400, height=900), dict(width=390, height=800)
PAGE_BYTES = 1_000_000
FOREIGN = (
    r'<(?:script|img|iframe)[^>]+src="https?:[^"]*"'
    r'|<link[^>]+rel="stylesheet"[^>]+href="https?:[^"]*"'
)
UNTYPESET = (
    '![...document.querySelectorAll("span.math")]'
    '.some(e => !e.querySelector(".katex, .katex-error"))'
)
BROKEN = """[...document.querySelectorAll(".katex-error")]
    .map(e => e.getAttribute("title") + ": " + e.textContent)"""
STRAY = r"""[...document.querySelectorAll("main p, main li, main td, main th")]
    .filter(e => !e.closest("pre"))
    .map(e => {
        const copy = e.cloneNode(true);
        copy.querySelectorAll("code, .math").forEach(x => x.remove());
        return copy.textContent;
    })
    .filter(t => /\$[^$\n]*\$|\\(frac|sigma|psi|Psi|mathbb|varepsilon)|:::/.test(t))"""
BLANK = """[...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))"""
WIDE_CODE = """[...document.querySelectorAll("main .cell-code, main div.sourceCode pre")]
    .filter(e => e.clientWidth && e.scrollWidth > e.clientWidth + 1)
    .map(e => e.textContent.split("\\n").sort((a, b) => b.length - a.length)[0])
    .filter(line => line.length <= 100)"""
CONTRAST = """() => {
    const light = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255)
            .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const back = light(getComputedStyle(document.body).backgroundColor);
    return ["main p", ".sidebar-title a", "main h2", "main pre code"].map(name => {
        const element = document.querySelector(name);
        const front = light(getComputedStyle(element).color);
        return (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
    });
}"""
FOUND = """query => [...document.querySelectorAll("a.search-result")]
    .filter(a => a.offsetParent && a.textContent.toLowerCase().includes(query)).length"""


def entries(contents):
    "Every page of the sidebar, in order."
    for item in contents:
        if "contents" in item:
            yield from entries(item["contents"])
        else:
            yield item


def prose(path):
    "The Markdown of a page without its code."
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return re.sub(r"(?s)```.*?```|`[^`\n]*`", "", text)


class Links(HTMLParser):
    "Where a page points to, and the anchors it has."

    def __init__(self, html):
        super().__init__()
        self.hrefs, self.ids = [], set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.add(attrs.get("id"))
        self.hrefs += [attrs[name] for name in ("href", "src") if attrs.get(name)]


# ---- the sources


def test_sidebar_is_the_one_the_pages_ask_for():
    text = (ROOT / "_quarto.yml").read_text(encoding="utf-8")
    assert sidebar.rewritten(text) == text, "python site/sidebar.py"
    listed = [entry["href"] for entry in entries(CONFIG["website"]["sidebar"]["contents"])]
    assert len(listed) == len(set(listed))
    assert set(listed) == {path.relative_to(ROOT).as_posix() for path in SOURCES}


def test_course_comes_first_and_the_workshop_last():
    listed = [entry["href"] for entry in entries(CONFIG["website"]["sidebar"]["contents"])]
    course = [f"nbs/{path.name}" for path in COURSE]
    first = sorted(course, key=lambda name: (name != "nbs/start.ipynb", name))
    assert listed[: len(course) + 1] == ["index.qmd", *first]
    rest = [name for name in listed[len(course) + 1 :] if name.endswith(".ipynb")]
    assert rest[0] == "nbs/00_core.ipynb"


def test_chapters_stand_in_readme_and_path():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    path = (ROOT / "nbs/teachers.qmd").read_text(encoding="utf-8")
    for chapter in COURSE:
        assert f"(nbs/{chapter.name})" in readme, f"{chapter.name} in README.md"
        assert f"({chapter.name})" in path, f"{chapter.name} in nbs/teachers.qmd"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_pages_stay_valid_for_quarto(path):
    text = prose(path)
    reference = r"(?<!\w)@(fig|eq|sec|tbl|lst)-\w|\{#(fig|eq|sec|tbl|lst)-"
    assert not re.search(reference, text), "cross-references are printed as they stand"
    assert not re.search(r"\[-?@\w", text), "no bibliography here, link to references.qmd"
    assert text.count("\n:::") % 2 == 0, "a ::: block is not closed"


def test_references_agree():
    bibliography = (ROOT / "nbs/references.bib").read_text(encoding="utf-8")
    page = (ROOT / "nbs/references.qmd").read_text(encoding="utf-8")
    keys = set(re.findall(r"(?m)^@\w+\{(\w+),", bibliography))
    assert keys == set(re.findall(r"\[\]\{#(\w+)\}", page))
    assert len(keys) >= 15


@pytest.mark.parametrize("path", COURSE, ids=lambda path: path.stem)
def test_a_chapter_can_be_finished(path):
    "Words, visible cells and bytes within the limits, or with a reason in site/pages.py."
    page = pages.measure(path)
    assert not pages.over(page), pages.over(page)


def saved(picture):
    "The bytes of a PNG, as matplotlib saves it: with alpha."
    buffer = io.BytesIO()
    picture.convert("RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def test_a_palette_keeps_the_rare_colours_of_points():
    figure = Image.linear_gradient("L").convert("RGB")
    for row, colour in enumerate([(213, 94, 0), (0, 158, 115), (0, 114, 178)]):
        for column in range(8):  # white to the colour, a pixel each
            mixed = [255 + (value - 255) * (column + 1) // 8 for value in colour]
            figure.putpixel((100 + column, 100 + row), tuple(mixed))
    assert pictures.difference(figure, pictures.with_palette(figure)) <= pictures.VISIBLE


def test_a_palette_takes_fewer_bytes_and_comes_once():
    photograph = saved(Image.effect_noise((64, 64), 100))
    small = pictures.packed(photograph)
    assert Image.open(io.BytesIO(small)).mode == "P" and len(small) < len(photograph)
    assert pictures.packed(small) == small


def test_a_palette_is_refused_where_it_would_be_seen():
    noise = Image.merge("RGB", [Image.effect_noise((64, 64), 100) for _ in range(3)])
    assert pictures.packed(saved(noise)) == saved(noise), "too many colours"
    glass = Image.new("RGBA", (64, 64), (0, 0, 0, 100))
    assert pictures.packed(saved(glass)) == saved(glass), "a palette has no alpha"


def test_contributing_shows_the_present_table():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert pages.rewritten(text) == text, "python site/pages.py --write"


def test_the_readme_shows_the_present_verdicts():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert verdicts.rewritten(text) == text, "python site/verdicts.py --write"


# ---- the built pages


def test_builds_without_warnings(site):
    out, warnings = site
    assert not warnings, "\n".join(warnings)
    assert sorted(PAGES) == sorted(p.relative_to(out).as_posix() for p in out.rglob("*.html"))


def dead(page, links, parsed):
    "The links of a page that lead nowhere."
    for href in links.hrefs:
        if href.startswith(CONFIG["website"]["site-url"]):
            yield href  # a backtick link nobody repaired
        if urlsplit(href).scheme or href.startswith("//"):
            continue
        path, anchor = urldefrag(href)
        target = (page.parent / unquote(urlsplit(path).path)).resolve() if path else page
        if target.is_dir():
            target /= "index.html"
        lost = anchor and target in parsed and unquote(anchor) not in parsed[target].ids
        if not target.exists() or lost:
            yield href


def test_no_dead_links(site):
    out, _ = site
    parsed = {page: Links(page.read_text(encoding="utf-8")) for page in out.rglob("*.html")}
    found = {page.name: list(dead(page, links, parsed)) for page, links in parsed.items()}
    assert not any(found.values()), {page: hrefs for page, hrefs in found.items() if hrefs}


def test_nothing_comes_from_elsewhere(site):
    out, _ = site
    for page in out.rglob("*.html"):
        assert not re.findall(FOREIGN, page.read_text(encoding="utf-8")), page.name


def test_pages_are_light(site):
    out, _ = site
    sizes = {path.name: path.stat().st_size for path in out.rglob("*.html")}
    assert {name: size for name, size in sizes.items() if size >= PAGE_BYTES} == {}


def test_what_a_cell_prints_is_one_piece():
    "Pieces of one stream are joined; another stream, or a picture between them, is not."

    def stream(text, name="stdout"):
        return {"output_type": "stream", "name": name, "text": [text]}

    picture = {"output_type": "display_data", "data": {}}
    outputs = [stream("a\n"), stream("b\n"), stream("c\n", "stderr"), picture, stream("d\n")]
    cell = AttrDict(outputs=outputs)
    build.join_printed(AttrDict(cells=[cell]))
    assert [o.get("text") for o in cell["outputs"]] == ["a\nb\n", "c\n", None, "d\n"]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_widget_is_a_line_of_text(path, site):
    "Not its printed form, which means nothing to a reader."
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    kinds = [kind for c in cells for o in c.get("outputs", []) for kind in o.get("data", {})]
    widgets = kinds.count("application/vnd.jupyter.widget-view+json")
    out, _ = site
    text = (out / f"nbs/{path.stem}.html").read_text(encoding="utf-8")
    assert text.count("In JupyterLab a slider or menu stands here") == widgets
    assert not re.search(r"(interactive|[VH]Box|Output)\(\w*=?\(?(children|\))", text)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_summaries_of_folds_hold_no_backticks(path):
    "One would end the marker in the page, and the rest of the cell becomes text."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for line in cell["source"]:
            assert not (line.startswith("#| code-summary") and "`" in line), line


def test_exported_code_is_shown(site):
    out, _ = site
    text = re.sub(r"<[^>]+>", "", (out / "nbs/01_forward.html").read_text(encoding="utf-8"))
    assert "class LinearSDE" in text and "default_exp" not in text


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_folded_cells_are_folded(path, site):
    "Cells that ask for it are shown as one line to open, under the words they ask for."
    out, _ = site
    html = (out / f"nbs/{path.stem}.html").read_text(encoding="utf-8")
    assert html.count('class="code-fold"') == pages.measure(path).folded
    assert "code-fold: true" not in html


# ---- a real browser


class Tab:
    "A page of the browser that remembers what went wrong in it."

    def __init__(self, browser, address, **options):
        self.page = browser.new_page(**options)
        self.address = address
        self.wrong = []
        self.page.on("console", self.said)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("requestfailed", lambda request: self.wrong.append(request.url))
        self.page.on("response", self.answered)
        self.page.on("request", self.asked)

    def said(self, message):
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def answered(self, response):
        if response.status >= 400:
            self.wrong.append(f"{response.status} {response.url}")

    def asked(self, request):
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.wrong.append(f"from elsewhere: {request.url}")

    def open(self, page):
        self.page.goto(self.address + page, wait_until="load")
        self.wait(UNTYPESET)
        return self.page

    def wait(self, condition, argument=None):
        "Until a condition holds, looking five times a second and not at every frame."
        self.page.wait_for_function(condition, arg=argument, timeout=60_000, polling=200)


@pytest.fixture
def tab(browser, address, request):
    "A tab on a wide screen, or with the options a test gives; nothing may go wrong in it."
    options = dict(viewport=WIDE, **getattr(request, "param", {}))
    opened = Tab(browser, address, **options)
    yield opened
    opened.page.close()
    assert not opened.wrong, opened.wrong


@pytest.mark.parametrize("page", PAGES)
def test_page_in_browser(page, tab):
    shown = tab.open(page)
    broken = shown.evaluate(BROKEN)
    assert not broken, f"mathematics that does not render: {broken[:3]}"
    stray = shown.evaluate(STRAY)
    assert not stray, f"markup printed as it stands: {[text[:80] for text in stray[:3]]}"
    blank = shown.evaluate(BLANK)
    assert not blank, f"pictures that do not show: {blank}"
    cut = shown.evaluate(WIDE_CODE)
    assert not cut, f"code that scrolls sideways though it has 100 columns: {cut[:3]}"
    assert shown.title() and shown.locator("h1").count() == 1
    shown.set_viewport_size(PHONE)
    assert shown.evaluate("document.documentElement.scrollWidth") <= 391, "wider than a phone"


def test_chapters_with_mathematics_and_pictures(tab):
    "Typeset mathematics and pictures are really there, where the course has them."
    shown = tab.open("nbs/01_forward.html")
    assert shown.locator(".katex-display").count() >= 3
    assert shown.locator("main img").count() >= 1
    families = shown.evaluate(
        """document.fonts.ready.then(() => [...document.fonts]
            .filter(font => font.status === "loaded").map(font => font.family).join())"""
    )
    assert "KaTeX" in families


@pytest.mark.parametrize("tab", [dict(color_scheme="dark")], indirect=True)
def test_dark_mode(tab):
    "The reader's preference is taken, everything is readable in it, and one click leaves it."
    shown = tab.open("nbs/01_forward.html")
    assert shown.evaluate('document.documentElement.classList.contains("quarto-dark")')
    assert min(shown.evaluate(CONTRAST)) >= 4.5
    shown.locator(".quarto-color-scheme-toggle:visible").first.click()
    tab.wait('!document.documentElement.classList.contains("quarto-dark")')
    assert min(shown.evaluate(CONTRAST)) >= 4.5


def test_keyboard(tab):
    "Tab, Enter: past the sidebar; a slash: to the search; what scrolls sideways can be reached."
    shown = tab.open("nbs/01_forward.html")
    shown.keyboard.press("Tab")
    assert shown.evaluate("document.activeElement.className") == "skip-link"
    shown.keyboard.press("Enter")
    tab.wait(f'location.hash === "#{build.MAIN}"')
    shown.keyboard.press("/")
    assert shown.evaluate("document.activeElement.type") == "search"
    shown.set_viewport_size(PHONE)
    tab.wait(
        """[...document.querySelectorAll("main pre")]
            .every(box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)"""
    )


def test_a_fold_opens(tab):
    folded = [path for path in CHAPTERS if pages.measure(path).folded]
    shown = tab.open(f"nbs/{folded[0].stem}.html")
    summary = shown.locator("details.code-fold > summary").first
    code = shown.locator("details.code-fold pre").first
    assert not code.is_visible()
    summary.focus()
    summary.press("Enter")
    assert code.is_visible()


def search(tab):
    "Type DDIM into the search box and wait for the answer."
    box = tab.page.locator("input[type=search]:visible").first
    box.click()
    box.fill("DDIM")
    tab.wait(FOUND, "ddim")


def test_search(tab):
    tab.open("")
    search(tab)


def test_search_without_a_server(site, browser):
    "The pages opened from a folder: search works there too."
    folder = Tab(browser, site[0].as_uri() + "/", viewport=WIDE)
    try:
        folder.open("nbs/07_sampling.html")
        search(folder)
        assert not folder.wrong, folder.wrong
    finally:
        folder.page.close()


@pytest.mark.parametrize(
    "code, broken",
    [
        ("dpmpp2m:stochastic=.5@karras", "dpmpp2m:<wbr>stochastic=.5@<wbr>karras"),
        ("edm@karras,low=0.05/0.06", "edm@<wbr>karras,<wbr>low=0.05/<wbr>0.06"),
        ("process.rho", "process<wbr>.rho"),
        ("0.5", "0.5"),
    ],
)
def test_a_name_in_a_table_breaks_between_its_settings(code, broken):
    "And nowhere else: not within a number, not outside code."
    cell = f"<td><code>{code}</code> a/b, c</td>"
    expected = f"<td><code>{broken}</code> a/b, c</td>"
    assert expected in build.finished(f"<body>{cell}</body>", "")
