"The notebooks as a reader finds them: titles, outputs, sizes, docstrings, and assertions for everything exported."
import ast, importlib, inspect, json, re
import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / 'nbs').glob('*.ipynb'))
COURSE = [p for p in NOTEBOOKS if p.name[:2].isdigit() and int(p.name[:2]) < 90]
MODULES = sorted(p.stem for p in (ROOT / 'compsamp').glob('*.py') if not p.name.startswith('_'))
MACHINE = r'(?:/tmp|/work|/root|/home|/Users|/opt)/[\w./-]*|[A-Z]:\\\\Users'
every = pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)

def cells(path, kind=None):
    "The cells of a notebook with their sources joined."
    nb = json.loads(path.read_text(encoding='utf-8'))
    return [dict(c, source=''.join(c['source'])) for c in nb['cells'] if kind in (None, c['cell_type'])]

def directives(source):
    "The `#|` lines at the top of a cell."
    return re.findall(r'^#\|\s*(.+)$', source.split('\n\n')[0], flags=re.M)

def exported(cell): return any(re.match(r'exports?\b|exporti\b', d) for d in directives(cell['source']))

def words(outputs):
    "The text of outputs, pictures left out."
    for o in outputs:
        for v in [o.get('text', ''), *(v for k, v in o.get('data', {}).items() if k.startswith('text/'))]:
            yield re.sub(r'data:[\w/+;-]+base64,[\w+/=]+', '', ''.join(v))

def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 16 and len(COURSE) >= 14

@every
def test_opening(path):
    first, *rest = cells(path)
    assert first['cell_type'] == 'markdown' and re.fullmatch(r'# [^\n]+', first['source'].strip()), 'the first cell is the H1 title, alone'
    assert not any(re.search(r'(?m)^# ', re.sub(r'(?s)```.*?```', '', c['source'])) for c in rest if c['cell_type'] == 'markdown'), 'one H1'
    second = next(c for c in rest if c['cell_type'] == 'markdown')
    assert second['source'].startswith('> '), 'a one-sentence blockquote follows the title'

@every
def test_saved_outputs(path):
    code = cells(path, 'code')
    assert not [o for c in code for o in c['outputs'] if o['output_type'] == 'error']
    assert any(c['outputs'] for c in code), 'no saved outputs: the site would show none'
    assert path.stat().st_size < 500_000
    warned = [t[:200] for c in code for o in c['outputs'] if o.get('name') == 'stderr' for t in words([o]) if 'Warning' in t]
    assert not warned, warned

@every
def test_no_path_of_one_machine(path):
    for c in cells(path):
        for text in [c['source'], *words(c.get('outputs', []))]:
            found = re.search(MACHINE, text)
            assert not found, found[0]

@every
def test_cells(path):
    ids = [c['id'] for c in cells(path)]
    assert len(ids) == len(set(ids))
    for c in cells(path, 'code'):
        s = c['source']
        assert 'nbdev_export()' not in s, 'JupyterLab would run it'
        if not exported(c): continue
        assert not re.search(r'(?m)^\s*[%!]', s), f'exported magic: {s[:60]}'
        body = ast.parse(s).body
        imports = [n for n in body if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not imports or len(imports) == len(body), f'an import cell only imports: {s[:80]}'

@pytest.mark.parametrize('path', COURSE, ids=lambda p: p.stem)
def test_chapter_has_exercises_and_pictures(path):
    code = cells(path, 'code')
    solutions = [c for c in code if re.search(r'#\|\s*code-summary:\s*"?[Ss]olution', c['source'])]
    assert len(solutions) >= 3, f'{len(solutions)} folded solutions'
    assert all(re.search(r'#\|\s*code-fold:\s*true', c['source']) for c in solutions)
    assert any('image/png' in o.get('data', {}) for c in code for o in c['outputs']), 'no picture'

# ---- everything exported is documented and checked

@pytest.mark.parametrize('module', MODULES)
def test_docstrings(module):
    m = importlib.import_module(f'compsamp.{module}'); bare = []
    mine = [o for n, o in vars(m).items() if not n.startswith('_') and getattr(o, '__module__', '') == m.__name__ and (inspect.isfunction(o) or inspect.isclass(o))]
    for o in mine:
        if not o.__doc__ or inspect.isclass(o) and o.__doc__.startswith(f'{o.__name__}('): bare.append(o.__name__)   # a dataclass writes its own
        for name, part in vars(o).items() if inspect.isclass(o) else ():
            if name.startswith('_') or not (inspect.isfunction(part) or isinstance(part, (property, staticmethod, classmethod))): continue
            if not inspect.getdoc(getattr(o, name)): bare.append(f'{o.__name__}.{name}')
    assert not bare, bare

def mentioned(tree):
    "Every name and attribute in a piece of code."
    return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute))}

def parsed(source):
    source = re.sub(r'(?m)^\s*[%!].*$', '', source)
    return ast.parse(source)

@every
def test_everything_exported_is_asserted(path):
    "Each exported name is used in a cell that asserts, directly or through what such a cell uses."
    code = cells(path, 'code')
    if not any(exported(c) for c in code): pytest.skip('exports nothing')
    uses, public, covered = {}, set(), set()
    for c in code:
        for node in parsed(c['source']).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                uses.setdefault(node.name, set()).update(mentioned(node))
                if exported(c) and not node.name.startswith('_'): public.add(node.name)
            elif isinstance(node, ast.Assign):                                 # a table of classes leads to the classes
                for name in node.targets:
                    if isinstance(name, ast.Name): uses.setdefault(name.id, set()).update(mentioned(node.value))
        if not exported(c) and re.search(r'\bassert\b|\b(fails|check\w*|close)\(', c['source']): covered |= mentioned(parsed(c['source']))
    for test in (ROOT / 'tests').glob('*.py'): covered |= mentioned(ast.parse(test.read_text(encoding='utf-8'))) & {'main', 'measure_main'}
    if 'main' in public: covered.add('main')                               # called with --help by test_package.py
    while more := set().union(*(uses[n] for n in covered if n in uses)) - covered: covered |= more
    assert public <= covered, f'no assertion reaches {sorted(public - covered)}'
    assert sum(bool(re.search(r'\bassert\b', c['source'])) for c in code if not exported(c)) >= 3
