"What the tests share: workers, where the repository is, and a real browser, if there is one."

import functools
import http.server
import os
import shutil
import sys
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MOST_WORKERS = 8  # each holds a torch of its own

sys.path.insert(0, str(ROOT / "site"))

# One worker a core and one thread a worker: threads beyond the cores wait for one another longer
# than they work. Read when torch is loaded, which is after this line, here, in the workers and in
# the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")  # figures are drawn, and shown to nobody


def pytest_xdist_auto_num_workers() -> int:
    "As many workers as this process may use cores; on one core none, the tests run right here."
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return 0 if cores == 1 else min(cores, MOST_WORKERS)


@pytest.fixture(autouse=True)
def same_numbers_at_every_run():
    "What a test draws without a generator of its own is the same each time."
    import torch

    torch.manual_seed(0)


def missing(what: str):
    "Skip, or fail where nothing may be skipped (COMPSAMP_NO_SKIP=1, as in CI)."
    if os.environ.get("COMPSAMP_NO_SKIP") == "1":
        pytest.fail(what)
    pytest.skip(what)


def chromium() -> str | None:
    "The path of a Chromium, if there is one."
    for name in [os.environ.get("CHROMIUM"), *BROWSERS]:
        path = shutil.which(name) if name else None
        if path:
            return path
    return None


@pytest.fixture(scope="session")
def diffusers():
    "The package diffusers, quiet."
    try:
        import diffusers as package
    except ImportError:
        missing("diffusers is not installed: pip install -e '.[interop]'")
    package.utils.logging.set_verbosity_error()
    return package


@pytest.fixture(scope="session")
def browser():
    "Chromium, driven by playwright."
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing('playwright is not installed: pip install -e ".[dev]"')
    path = chromium()
    if not path:
        missing("no Chromium found: install it, or set CHROMIUM to its path")
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    "The site, built once, and what the renderer warned about. Its tests share one worker."
    pytest.importorskip("smalldocs")
    import build

    folder = tmp_path_factory.mktemp("site")
    return folder / "site", build.build(folder / "site", folder / "proc")


class Quiet(http.server.SimpleHTTPRequestHandler):
    "A server that keeps its log to itself."

    def log_message(self, *args):
        pass


@pytest.fixture(scope="session")
def address(site):
    "The built site, served on this machine."
    handler = functools.partial(Quiet, directory=str(site[0]))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
