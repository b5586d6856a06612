"""Build the site from _quarto.yml without Quarto: `python docs/build.py [--out _site]`.

Notebooks pass nbdev's documentation filters into `_proc/`, smalldocs renders them there, and two repairs follow:
backtick links point at the numbered pages, and mathematics and fonts come from the site itself, which is whole
offline. Nothing is executed: the pages show the outputs saved in the notebooks."""
import argparse, contextlib, re, shutil, sys
from pathlib import Path
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / 'docs')]
from links import repair

def chosen(cfg: dict) -> list:
    "The sources `project.render` asks for, in order."
    return list(dict.fromkeys(p for pattern in cfg['project']['render'] for p in sorted(ROOT.glob(pattern))))

def present(contents: list, sources: set) -> list:
    "The sidebar without the pages that do not exist (yet)."
    kept = []
    for item in contents:
        if 'contents' in item:
            item = {**item, 'contents': present(item['contents'], sources)}
            if item['contents']: kept.append(item)
        elif item['href'] in sources: kept.append(item)
    return kept

def stage_config(cfg: dict, sources: set, out: Path) -> dict:
    "_quarto.yml less the keys only Quarto reads."
    cfg.pop('ipynb-filters', None); cfg.pop('execute', None); cfg['project'].pop('post-render', None); cfg['project']['output-dir'] = str(out)
    cfg['website'].pop('reader-mode', None)
    for key in ('html-math-method', 'grid'): cfg['format']['html'].pop(key, None)
    cfg['website']['sidebar']['contents'] = present(cfg['website']['sidebar']['contents'], sources)
    return cfg

def stage_notebook(src: Path, dst: Path):
    "A notebook through the filters that `ipynb-filters: [nbdev_filter]` means to Quarto."
    from execnb.nbio import read_nb, write_nb
    from nbdev.processors import FilterDefaults
    nb = read_nb(src)
    with contextlib.chdir(ROOT): FilterDefaults()(nb)       # it reads settings.ini from where it stands
    write_nb(nb, dst)

def stage(proc: Path, out: Path):
    "Everything smalldocs reads, laid out as in the repository."
    cfg = yaml.safe_load((ROOT / '_quarto.yml').read_text(encoding='utf-8')); sources = chosen(cfg)
    shutil.rmtree(proc, ignore_errors=True); (proc / 'nbs').mkdir(parents=True)
    names = {p.relative_to(ROOT).as_posix() for p in sources}
    (proc / '_quarto.yml').write_text(yaml.safe_dump(stage_config(cfg, names, out), sort_keys=False, allow_unicode=True), encoding='utf-8')
    extra = [ROOT / 'README.md', ROOT / 'docs/style.css', ROOT / 'docs/favicon.svg', *(ROOT / p for p in cfg['project'].get('resources', []))]
    for src in [*sources, *extra, *(ROOT / 'docs/images').glob('*')]:
        dst = proc / src.relative_to(ROOT); dst.parent.mkdir(parents=True, exist_ok=True)
        if src.suffix == '.ipynb': stage_notebook(src, dst)
        else: shutil.copy2(src, dst)

def make_offline(site: Path):
    "KaTeX from a copy beside the pages instead of a CDN, and no fonts from elsewhere."
    from smalldocs.layout import KATEX
    shutil.copytree(ROOT / 'docs/katex', site / 'site_libs/katex')
    for sheet in site.rglob('*.css'): rewrite(sheet, lambda s: re.sub(r'@import url\(["\']?https?:[^)]*\);?', '', s))
    for page in site.rglob('*.html'):
        up = '../' * len(page.parent.relative_to(site).parts)
        rewrite(page, lambda s: s.replace(KATEX, f'{up}site_libs/katex'))

def rewrite(path: Path, change):
    "Write `change(text)` back where it differs."
    old = path.read_text(encoding='utf-8'); new = change(old)
    if new != old: path.write_text(new, encoding='utf-8')

def build(out: Path = ROOT / '_site') -> list:
    "The whole site into `out`; what smalldocs warned about."
    from smalldocs.site import build as render
    proc, out = ROOT / '_proc', Path(out).resolve()
    stage(proc, out); shutil.rmtree(out, ignore_errors=True)
    warnings = render(proc, quiet=True).warnings
    repair(out); make_offline(out)
    return warnings

if __name__ == '__main__':
    p = argparse.ArgumentParser(description='Build the site from _quarto.yml without Quarto.')
    p.add_argument('--out', type=Path, default=ROOT / '_site', help='where to (default: _site)')
    out = p.parse_args().out; warnings = build(out)
    for w in warnings: print('warning:', w, file=sys.stderr)
    print(f'{sum(1 for _ in out.rglob("*.html"))} pages in {out}')
    sys.exit(bool(warnings))
