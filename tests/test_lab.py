"A chapter as a student meets it: JupyterLab in a real browser, Run All, a bar, a figure, and a slider that changes it."

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT

CHAPTERS = ["07_sampling", "90_demo"]  # the first of them with a widget is opened
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
ERRORS = """[...document.querySelectorAll(".jp-OutputArea-output")].map(e => e.innerText)
    .filter(t => /Traceback \\(most recent call last\\)|Error displaying widget/.test(t)).map(t => t.slice(-400))"""
UNRUN = """[...document.querySelectorAll(".jp-CodeCell")].filter(c => c.querySelector(".cm-content").innerText.trim())
    .filter(c => !/\\[\\d+\\]/.test(c.querySelector(".jp-InputPrompt").innerText)).length"""
PICTURES = '[...document.querySelectorAll(".jp-OutputArea-output img")].filter(i => i.naturalWidth > 50).map(i => i.src)'
WATCH = """() => { window.bars = 0; new MutationObserver(all => { for (const m of all) for (const n of m.addedNodes)
    if (n.nodeType === 1 && (n.matches("progress, .widget-progress") || n.querySelector("progress, .widget-progress"))) window.bars++; })
    .observe(document.body, {childList: true, subtree: true}); }"""


def chapter():
    "The first chapter that has a slider."
    for name in CHAPTERS:
        path = ROOT / f"nbs/{name}.ipynb"
        if path.exists() and "ipywidgets" in path.read_text(encoding="utf-8"):
            return path
    pytest.fail(f"no chapter of {CHAPTERS} has an ipywidgets slider")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def lab(tmp_path, browser):
    "A JupyterLab of its own, with a copy of the chapter: its address, the token and the copy."
    pytest.importorskip("jupyterlab")
    work = tmp_path / "work"
    work.mkdir()
    copy = shutil.copy(chapter(), work)
    env = dict(
        os.environ,
        JUPYTER_CONFIG_DIR=str(tmp_path / "config"),
        JUPYTER_DATA_DIR=str(tmp_path / "data"),
        JUPYTER_RUNTIME_DIR=str(tmp_path / "run"),
        JUPYTERLAB_SETTINGS_DIR=str(tmp_path / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(tmp_path / "spaces"),
        IPYTHONDIR=str(tmp_path / "ipython"),
    )
    env.pop("MPLBACKEND", None)  # figures belong in the page, whatever the shell says
    settings = {
        "notebook-extension/tracker": {"windowingMode": "none"},  # every cell stays in the page
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for name, values in settings.items():
        path = tmp_path / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    port = free_port()
    token = secrets.token_hex(16)
    log = open(tmp_path / "lab.log", "w")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={work}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
    ]
    server = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=work)
    try:
        for _ in range(240):
            assert server.poll() is None, (tmp_path / "lab.log").read_text()[-2000:]
            try:
                urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/api/status?token={token}", timeout=2
                )
                break
            except OSError:
                time.sleep(0.25)
        else:
            pytest.fail("JupyterLab did not start: " + (tmp_path / "lab.log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}", token, copy
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def run_all(tab):
    "Run > Run All Cells, again while nothing has begun: the first request after the kernel is idle can be dropped."
    for _ in range(10):
        dialog = tab.locator(".jp-Dialog")  # "Select Kernel": the request came before the kernel
        if dialog.count():
            dialog.locator("button.jp-mod-accept").click()
        tab.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        tab.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        try:
            return tab.wait_for_function(
                r'[...document.querySelectorAll(".jp-CodeCell .jp-InputPrompt")].some(p => /\[[\d*]+\]/.test(p.innerText))',
                timeout=5000,
            )
        except Exception as e:
            if "Timeout" not in type(e).__name__:
                raise
    pytest.fail("Run All Cells did nothing")


def move(tab, handle, before):
    "Arrow keys on the slider until a figure changes."
    for key in ["ArrowRight"] * 3 + ["ArrowLeft"] * 6:
        handle.focus()
        handle.press(key)
        try:
            return tab.wait_for_function(
                f"before => JSON.stringify({PICTURES}) !== before && {PICTURES}.length >= JSON.parse(before).length",
                arg=before,
                timeout=8000,
            )
        except Exception as e:
            if "Timeout" not in type(e).__name__:
                raise
    pytest.fail("the slider changes no figure")


def test_chapter_in_jupyterlab(lab, browser):
    address, token, copy = lab
    tab = browser.new_page(viewport=dict(width=1400, height=1000))
    tab.set_default_timeout(60_000)
    try:
        tab.goto(f"{address}/lab/tree/{os.path.basename(copy)}?reset&token={token}")
        cells = len(json.loads(open(copy, encoding="utf-8").read())["cells"])
        tab.wait_for_function(
            f'document.querySelectorAll(".jp-NotebookPanel .jp-Cell").length >= {cells}'
        )
        tab.wait_for_function(
            '/Python/.test(document.querySelector(".jp-KernelName, .jp-Toolbar-kernelName").innerText)'
        )
        tab.wait_for_selector(IDLE)
        tab.evaluate(WATCH)
        run_all(tab)
        tab.wait_for_function(f"{UNRUN} === 0 || {ERRORS}.length > 0", timeout=400_000)
        assert not tab.evaluate(ERRORS)
        tab.wait_for_selector(IDLE)
        assert tab.evaluate("window.bars") > 0, "no progress bar was shown"
        handle = tab.locator(".widget-slider .noUi-handle").first
        handle.scroll_into_view_if_needed()
        tab.wait_for_function(f"{PICTURES}.length > 0")
        time.sleep(1)
        before = json.dumps(tab.evaluate(PICTURES), separators=(",", ":"))
        value = handle.get_attribute("aria-valuenow")
        move(tab, handle, before)
        assert handle.get_attribute("aria-valuenow") != value
        tab.wait_for_selector(IDLE)
        assert not tab.evaluate(ERRORS)
        tab.keyboard.press("Control+s")
        time.sleep(2)
    finally:
        tab.close()
    cells = json.loads(open(copy, encoding="utf-8").read())["cells"]
    errors = [
        o
        for c in cells
        if c["cell_type"] == "code"
        for o in c["outputs"]
        if o["output_type"] == "error"
    ]
    assert not errors, errors[:1]
