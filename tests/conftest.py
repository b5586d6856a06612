"What the tests share: where the repository is, and a real browser, if there is one."
import functools, http.server, os, shutil, sys, threading
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / 'docs'))
FLAGS = ('--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking '
         '--disable-component-update --disable-sync').split()

def pytest_configure(config):
    "Schedulers of diffusers call numpy in a way that numpy 2 warns about, thousands of times."
    config.addinivalue_line('filterwarnings', 'ignore:__array:DeprecationWarning')

def missing(what: str):
    "Skip, or fail where nothing may be skipped (COMPSAMP_NO_SKIP=1, as in CI)."
    (pytest.fail if os.environ.get('COMPSAMP_NO_SKIP') == '1' else pytest.skip)(what)

@pytest.fixture(scope='session')
def browser():
    "Chromium, driven by playwright."
    try: from playwright.sync_api import sync_playwright
    except ImportError: missing('playwright is not installed: pip install -e ".[dev]"')
    names = [os.environ.get('CHROMIUM'), 'chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
    path = next((found for n in names if n and (found := shutil.which(n))), None)
    if not path: missing('no Chromium found: install it, or set CHROMIUM to its path')
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=path, args=FLAGS)
        yield b
        b.close()

@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "The site, built once, and what the renderer warned about."
    pytest.importorskip('smalldocs')
    import build
    out = tmp_path_factory.mktemp('site') / 'site'
    return out, build.build(out)

class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='session')
def address(site):
    "The built site, served on this machine."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=str(site[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown(); server.server_close()
