"""Repair the links nbdev makes in a built site. nbdev links a name in backticks to `forward.html#vp` on the published
site; the page is called `01_forward.html` and shows the source itself. Here the link becomes a relative one to that
page, and the definition it means gets the anchor. Quarto runs this file after rendering (`post-render` in
_quarto.yml); `docs/build.py` calls `repair`."""
import os, re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def numbered(nbs: Path) -> dict:
    "Page names as nbdev says them, and as they are: `forward` -> `01_forward`."
    return {re.sub(r'^\d+[a-z]?_', '', p.stem): p.stem for p in nbs.glob('*.ipynb')}

def anchored(html: str, ids: set) -> str:
    "The page with an anchor in front of every definition in `ids` (lower case, `name` or `class.method`) that has none."
    def mark(m):
        name = m['name'].lower(); wanted = name in ids and f'id="{name}"' not in html
        return f'<a id="{name}"></a>' * (wanted and name not in done and not done.add(name)) + m[0]
    done = set()
    return re.sub(r'(?m)(?:^|(?<=>))(?:<span[^>]*>)?(?:def|class)(?:</span>)?\s+(?:<span[^>]*>)?(?P<name>\w+)', mark, html)

def repair(site: Path,           # the built site
           root: Path = ROOT     # the repository
           ) -> int:             # links changed
    "Point every backtick link at its numbered page, and at the definition there."
    ini = ConfigParser(delimiters=['=']); ini.read(root / 'settings.ini', encoding='utf-8'); cfg = ini['DEFAULT']
    names, nbs = numbered(root / cfg['nbs_path']), cfg['nbs_path']
    base = re.escape(cfg['doc_host'] + cfg['doc_baseurl'].rstrip('/'))
    link = re.compile(rf'{base}/(\w+)\.html(?:#([\w.]+))?(?=["\'])'); wanted, changed = {}, 0
    pages = {p: p.read_text(encoding='utf-8') for p in site.rglob('*.html')}
    for page, html in pages.items():
        up = '../' * len(page.parent.relative_to(site).parts)
        def local(m):
            if m[1] not in names: return m[0]
            top = (m[2] or '').split('.')[0]                      # a method is found at its class
            if top: wanted.setdefault(names[m[1]], set()).add(top)
            return f'{up}{nbs}/{names[m[1]]}.html' + (f'#{top}' if top else '')
        pages[page], n = link.subn(local, html); changed += n
    for page, html in pages.items():
        html = anchored(html, wanted.get(page.stem, set()))
        if html != page.read_text(encoding='utf-8'): page.write_text(html, encoding='utf-8')
    return changed

if __name__ == '__main__':
    out = os.environ.get('QUARTO_PROJECT_OUTPUT_DIR')
    print(f'{repair(ROOT / (out or "_site"))} backtick links repaired')
