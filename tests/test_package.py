"The package: what it says of itself, what it costs to import, what it carries, and the README taken at its word."
import ast, configparser, importlib, os, re, subprocess, sys
from pathlib import Path
import pytest
from conftest import ROOT

INI = configparser.ConfigParser(delimiters=['=']); INI.read(ROOT / 'settings.ini', encoding='utf-8'); CFG = INI['DEFAULT']
README = (ROOT / 'README.md').read_text(encoding='utf-8')
MODULES = sorted(p for p in (ROOT / 'compsamp').glob('*.py') if not p.name.startswith('_'))
LAZY = ['torchvision', 'torchmetrics', 'matplotlib', 'fastprogress', 'scipy', 'PIL', 'IPython', 'nbdev', 'fastcore', 'ipywidgets', 'diffusers', 'accelerate']

def run(code, cwd, *argv):
    "Python code in a fresh interpreter, away from the repository."
    env = dict(os.environ, MPLBACKEND='Agg', PYTHONPATH=str(ROOT))
    return subprocess.run([sys.executable, '-c', code, *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=300)

def test_one_version():
    import compsamp
    assert compsamp.__version__ == CFG['version']
    assert f"version: {CFG['version']}\n" in (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    assert f"## {CFG['version']}" in (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8')

def test_import_is_cheap(tmp_path):
    out = run('import sys, compsamp; print("torch" in sys.modules)', tmp_path)
    assert out.stdout.strip() == 'False', out.stderr
    names = ', '.join(f'compsamp.{p.stem}' for p in MODULES)
    out = run(f'import sys, {names}; print([m for m in {LAZY} if m in sys.modules])', tmp_path)
    assert out.stdout.strip() == '[]', f'imported where it is not used yet: {out.stdout}{out.stderr}'

@pytest.mark.parametrize('module', MODULES, ids=lambda p: p.stem)
def test_module_imports_only_what_it_may(module):
    "Requirements, the standard library, modules of chapters that come before; IPython where a notebook is running."
    allowed = {re.match(r'[\w-]+', r)[0] for r in CFG['requirements'].split()} | {'PIL', 'IPython'} | set(sys.stdlib_module_names)
    number = {p.stem.split('_', 1)[1]: p.stem.split('_')[0] for p in (ROOT / 'nbs').glob('*.ipynb')}
    assert module.stem in number, f'{module.name} belongs to no notebook'
    for node in ast.walk(ast.parse(module.read_text(encoding='utf-8'))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ''] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if getattr(node, 'level', 0) or name.split('.')[0] == 'compsamp':
                inner = [name.split('.')[-1]] if name and name != 'compsamp' else [a.name for a in node.names if a.name in number]
                late = [n for n in inner if n in number and number[n] >= number[module.stem]]
                assert not late, f'{module.name} imports {late}, of a later chapter'
            else: assert name.split('.')[0] in allowed, f'{module.name} imports {name}, which a user does not have'

def test_exported_code_reads_no_notebook_globals():
    pytest.importorskip('ruff')
    out = subprocess.run([sys.executable, '-m', 'ruff', 'check', '--no-cache', '--select', 'F821,F401', '--exclude', '_modidx.py', 'compsamp'], cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout[-2000:]

def test_wheel_carries_every_file():
    carried = {p for pattern in CFG['package_data'].split() for p in (ROOT / 'compsamp').glob(pattern)}
    there = {p for folder in ('data', 'weights', 'results') for p in (ROOT / 'compsamp' / folder).rglob('*') if p.is_file()}
    assert there and there <= carried, there - carried
    assert sum(p.stat().st_size for p in there) < 15e6
    for needed in ('data/fashion5k.npz', 'weights/fashion-vp/card.json', 'weights/fashion-classifier/weights.safetensors'):
        assert ROOT / 'compsamp' / needed in there
    assert any('MIT' in p.read_text(encoding='utf-8', errors='ignore') for p in there if p.suffix == '.txt'), 'the notice of Fashion-MNIST'

@pytest.mark.parametrize('script', CFG['console_scripts'].split())
def test_command_explains_itself(script, tmp_path):
    name, where = script.split('='); module, function = where.split(':')
    assert f'`{name}`' in README
    assert callable(getattr(importlib.import_module(module), function))
    out = run(f'import sys; sys.argv[0] = {name!r}; from {module} import {function}; {function}()', tmp_path, '--help')
    assert out.returncode == 0 and 'usage: ' + name in out.stdout, out.stdout + out.stderr
    assert not list(tmp_path.iterdir())

def test_command_refuses_nonsense(tmp_path):
    out = run('import sys; sys.argv[0] = "compsamp_demo"; from compsamp.demo import main; main()', tmp_path, '--nfe', '0')
    assert out.returncode != 0 and 'nfe' in out.stderr and 'Traceback' not in out.stderr, out.stderr[-1000:]

def test_readme_commands():
    lines = README.splitlines()
    assert lines.count('pip install -e . && compsamp_demo') == 1
    assert lines.count("pip install -e '.[dev]' && nbdev_test && pytest tests") == 1

def test_readme_example_runs(tmp_path):
    code = '\n'.join(re.findall(r'(?s)```python\n(.*?)```', README))
    out = run(code, tmp_path)
    assert out.returncode == 0, out.stderr[-2000:]
    assert re.search(r'\b50 evaluations per picture', out.stdout)

def test_load():
    import compsamp
    from compsamp.networks import Denoiser
    d = compsamp.load('fashion-vp')
    assert isinstance(d, Denoiser) and tuple(d.shape) == (1, 28, 28) and not d.network.training
    with pytest.raises((ValueError, FileNotFoundError), match='fashion-vp'): compsamp.load('no-such-network')
