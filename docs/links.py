"""Repair the links nbdev makes in a built site. nbdev calls the page of `nbs/01_forward.ipynb` `forward.html` on the
published site; here it becomes the page itself, `01_forward.html`, as a relative link. Quarto runs this file after
rendering (`post-render` in _quarto.yml), `docs/build.py` calls `repair`."""
import os, re
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

def repair(site: Path,           # the built site
           root: Path = ROOT     # the repository
           ) -> int:             # links changed
    "Point every backtick link at its numbered page."
    ini = ConfigParser(delimiters=['=']); ini.read(root / 'settings.ini', encoding='utf-8'); cfg = ini['DEFAULT']
    base = re.escape(cfg['doc_host'] + cfg['doc_baseurl'].rstrip('/'))
    pages = {re.sub(r'^\d+[a-z]?_', '', p.stem): p.stem for p in (root / cfg['nbs_path']).glob('*.ipynb')}
    link, changed = re.compile(rf'{base}/(\w+)\.html(?=[#"\')])'), 0
    for page in site.rglob('*.html'):
        up = '../' * len(page.parent.relative_to(site).parts); old = page.read_text(encoding='utf-8')
        def numbered(m): return f'{up}{cfg["nbs_path"]}/{pages[m[1]]}.html' if m[1] in pages else m[0]
        new = link.sub(numbered, old)
        if new != old: page.write_text(new, encoding='utf-8'); changed += len(link.findall(old))
    return changed

if __name__ == '__main__':
    out = os.environ.get('QUARTO_PROJECT_OUTPUT_DIR')
    print(f'{repair(ROOT / (out or "_site"))} backtick links repaired')
