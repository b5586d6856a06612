"The site: it builds without a warning, its links lead somewhere, and a real browser shows what a reader should see."
import json, re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
import pytest, yaml
from conftest import ROOT

CONFIG = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8'))
SOURCES = list(dict.fromkeys(p for pattern in CONFIG['project']['render'] for p in sorted(ROOT.glob(pattern))))
PAGES = [p.relative_to(ROOT).with_suffix('.html').as_posix() for p in SOURCES]
CHAPTERS = sorted((ROOT / 'nbs').glob('*.ipynb'))

def entries(contents):
    "Every page of the sidebar, in order."
    for item in contents: yield from entries(item['contents']) if 'contents' in item else [item]

class Links(HTMLParser):
    "Where a page points to, and the anchors it has."
    def __init__(self, html):
        super().__init__(); self.hrefs, self.ids = [], set(); self.feed(html)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs); self.ids.add(attrs.get('id'))
        for name in ('href', 'src'):
            if attrs.get(name): self.hrefs.append(attrs[name])

# ---- the sources

def test_sidebar_has_every_page():
    listed = [e['href'] for e in entries(CONFIG['website']['sidebar']['contents'])]
    assert len(listed) == len(set(listed))
    assert set(listed) == {p.relative_to(ROOT).as_posix() for p in SOURCES}, 'one line in _quarto.yml per page'

def test_sidebar_titles_are_the_chapters_own():
    texts = {e['href']: e['text'] for e in entries(CONFIG['website']['sidebar']['contents'])}
    for p in CHAPTERS:
        title = ''.join(json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source']).strip().removeprefix('# ')
        assert texts[f'nbs/{p.name}'] == f'{p.name.split("_")[0]} {title}'

def test_chapters_stand_in_readme_and_path():
    readme, path = ((ROOT / n).read_text(encoding='utf-8') for n in ('README.md', 'nbs/teachers.qmd'))
    for p in CHAPTERS:
        assert f'(nbs/{p.name})' in readme, f'{p.name} in the table of README.md'
        assert f'({p.name})' in path, f'{p.name} in the path of nbs/teachers.qmd'

def test_pages_stay_valid_for_quarto():
    for p in SOURCES:
        if p.suffix == '.ipynb': text = '\n'.join(''.join(c['source']) for c in json.loads(p.read_text(encoding='utf-8'))['cells'] if c['cell_type'] == 'markdown')
        else: text = p.read_text(encoding='utf-8')
        text = re.sub(r'(?s)```.*?```|`[^`\n]*`', '', text)
        assert not re.search(r'(?<!\w)@(fig|eq|sec|tbl|lst)-\w|\{#(fig|eq|sec|tbl|lst)-', text), f'{p.name}: cross-references are printed as they stand'
        assert not re.search(r'\[-?@\w', text), f'{p.name}: no bibliography here, link to references.qmd'
        assert text.count('\n:::') % 2 == 0, f'{p.name}: a ::: block is not closed'

def test_references_agree():
    keys = set(re.findall(r'(?m)^@\w+\{(\w+),', (ROOT / 'nbs/references.bib').read_text(encoding='utf-8')))
    anchors = set(re.findall(r'\[\]\{#(\w+)\}', (ROOT / 'nbs/references.qmd').read_text(encoding='utf-8')))
    assert keys == anchors and len(keys) >= 15

# ---- the built pages

def test_builds_without_warnings(site):
    out, warnings = site
    assert not warnings, '\n'.join(warnings)
    assert sorted(PAGES) == sorted(p.relative_to(out).as_posix() for p in out.rglob('*.html'))

def test_no_dead_links(site):
    out, _ = site; base = CONFIG['website']['site-url']
    parsed = {p: Links(p.read_text(encoding='utf-8')) for p in out.rglob('*.html')}; dead = []
    for page, links in parsed.items():
        for href in links.hrefs:
            if href.startswith(base): dead.append((page.name, href)); continue     # a backtick link nobody repaired
            if urlsplit(href).scheme or href.startswith('//'): continue
            path, anchor = urldefrag(href)
            target = (page.parent / unquote(urlsplit(path).path)).resolve() if path else page
            if target.is_dir(): target /= 'index.html'
            if not target.exists(): dead.append((page.name, href))
            elif anchor and target in parsed and unquote(anchor) not in parsed[target].ids: dead.append((page.name, href))
    assert not dead, dead

def test_nothing_comes_from_elsewhere(site):
    out, _ = site
    for page in out.rglob('*.html'):
        html = page.read_text(encoding='utf-8')
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="https?:[^"]*"|<link[^>]+rel="stylesheet"[^>]+href="https?:[^"]*"', html), page.name

def test_exported_code_is_shown(site):
    out, _ = site
    text = re.sub(r'<[^>]+>', '', (out / 'nbs/01_forward.html').read_text(encoding='utf-8'))
    assert 'class LinearSDE' in text and 'default_exp' not in text

# ---- a real browser

@pytest.mark.parametrize('page', PAGES)
def test_page_in_browser(page, browser, address):
    tab = browser.new_page(viewport=dict(width=1280, height=900)); wrong, foreign = [], []
    tab.on('console', lambda m: wrong.append(m.text) if m.type in ('error', 'warning') else None)
    tab.on('pageerror', lambda e: wrong.append(str(e)))
    tab.on('requestfailed', lambda r: wrong.append(f'{r.url}: {r.failure}'))
    tab.on('response', lambda r: wrong.append(f'{r.status} {r.url}') if r.status >= 400 else None)
    tab.on('request', lambda r: None if r.url.startswith((address, 'data:', 'blob:')) else foreign.append(r.url))
    try:
        tab.goto(address + page, wait_until='networkidle')
        tab.wait_for_function('[...document.querySelectorAll("span.math")].every(e => e.querySelector(".katex, .katex-error"))', timeout=15_000)
        broken = tab.evaluate('[...document.querySelectorAll(".katex-error")].map(e => e.getAttribute("title") + ": " + e.textContent)')
        assert not broken, f'mathematics that does not render: {broken[:3]}'
        stray = tab.evaluate(r'''[...document.querySelectorAll("main p, main li, main td")].filter(e => !e.closest("pre"))
            .map(e => { const c = e.cloneNode(true); c.querySelectorAll("code, .math").forEach(x => x.remove()); return c.textContent; })
            .filter(t => /\$\$|\\(frac|sigma|psi|Psi|mathbb|varepsilon)|:::/.test(t))''')
        assert not stray, f'markup printed as it stands: {[s[:80] for s in stray[:3]]}'
        blank = tab.evaluate('[...document.images].filter(i => !i.naturalWidth).map(i => i.src.slice(0, 80))')
        assert not blank, f'pictures that do not show: {blank}'
        assert tab.title() and tab.locator('h1').count() == 1
        tab.set_viewport_size(dict(width=390, height=800))
        assert tab.evaluate('document.documentElement.scrollWidth') <= 391, 'wider than a phone'
    finally: tab.close()
    assert not wrong and not foreign, (wrong, foreign)

def test_chapters_with_mathematics_and_pictures(browser, address):
    "Typeset mathematics and pictures are really there, where the course has them."
    tab = browser.new_page()
    try:
        tab.goto(address + 'nbs/01_forward.html', wait_until='networkidle')
        assert tab.locator('.katex-display').count() >= 3 and tab.locator('main img').count() >= 1
        family = tab.evaluate('document.fonts.ready.then(() => [...document.fonts].filter(f => f.status === "loaded").map(f => f.family).join())')
        assert 'KaTeX' in family
    finally: tab.close()

def test_search_finds_ddim(browser, address):
    tab = browser.new_page()
    try:
        tab.goto(address, wait_until='networkidle')
        box = tab.locator('input[type=search]:visible').first
        box.click(); box.type('DDIM', delay=20)
        tab.wait_for_function('[...document.querySelectorAll("a[href]")].some(a => a.offsetParent && /q=DDIM|07_sampling/.test(a.href) && /DDIM/i.test(a.textContent))', timeout=10_000)
    finally: tab.close()
