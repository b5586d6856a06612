"A chapter as a student meets it: JupyterLab in a browser, Run All, a bar, a figure, a slider."

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from conftest import ROOT

from compsamp.experiment import command_parser, read_results
from compsamp.lab.claims import RESULTS_FOLDER
from compsamp.lab.compensation import compensation_experiment
from compsamp.lab.measure import measure
from compsamp.lab.race import race
from compsamp.lab.skipstep import skipstep_experiment

CHAPTER = ROOT / "nbs/07_sampling.ipynb"  # the driver's own: it has the bar and a slider
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell stays in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}
OPTIONS = [
    "--no-browser",
    "--allow-root",
    "--ServerApp.ip=127.0.0.1",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--LabApp.news_url=None",
    "--LabApp.extension_manager=readonly",
    "--LabApp.expose_app_in_browser=True",  # its state is asked for, not read off the page
]
NOTEBOOK = "jupyterapp.shell.currentWidget"
CODE = f"""{NOTEBOOK}.content.widgets.map(cell => cell.model)
    .filter(model => model.type === "code" && model.sharedModel.source.trim())"""
ERRORS = f"""{CODE}.flatMap(model => [...Array(model.outputs.length).keys()]
    .map(i => model.outputs.get(i)).filter(output => output.type === "error")
    .map(output => JSON.stringify(output.toJSON()).slice(-400)))"""
WIDGET_ERRORS = """[...document.querySelectorAll(".jp-OutputArea-output")]
    .map(e => e.textContent)
    .filter(text => /Traceback \\(most recent|Error displaying widget/.test(text))
    .map(text => text.slice(-400))"""
IDLE = f'{NOTEBOOK}.context.sessionContext.kernelDisplayStatus === "idle"'
BEGUN = f'{CODE}.some(model => model.executionState !== "idle" || model.executionCount)'
FINISHED = f"({IDLE} && {CODE}.every(model => model.executionCount)) || {ERRORS}.length > 0"
PICTURES = """[...document.querySelectorAll(".jp-OutputArea-output img")]
    .filter(i => i.naturalWidth > 50).map(i => i.src)"""
CHANGED = f"""before => {{
    const now = {PICTURES};
    return JSON.stringify(now) !== before && now.length >= JSON.parse(before).length;
}}"""
WATCH_BARS = """() => {
    window.bars = 0;
    const isBar = node => node.nodeType === 1 && (node.matches("progress, .widget-progress")
        || node.querySelector("progress, .widget-progress"));
    new MutationObserver(changes => {
        for (const change of changes) window.bars += [...change.addedNodes].filter(isBar).length;
    }).observe(document.body, {childList: true, subtree: true});
}"""


def free_port():
    "A port nobody listens on."
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def surroundings(folder):
    "The environment of a JupyterLab that touches nothing of the user's."
    rooms = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "run",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "spaces",
        "IPYTHONDIR": "ipython",
    }
    there = {**os.environ, **{name: str(folder / room) for name, room in rooms.items()}}
    there.pop("MPLBACKEND", None)  # figures belong in the page, whatever the shell says
    for name, values in SETTINGS.items():
        path = folder / f"settings/@jupyterlab/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return there


def wait_until_up(server, address, log):
    "Until the server answers, or says why it does not."
    for _ in range(720):
        assert server.poll() is None, log.read_text()[-2000:]
        try:
            urllib.request.urlopen(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.25)
    pytest.fail("JupyterLab did not start: " + log.read_text()[-2000:])


@pytest.fixture
def lab(tmp_path):
    "A JupyterLab of its own, with a copy of the chapter: its address, the token and the copy."
    pytest.importorskip("jupyterlab")
    work = tmp_path / "work"
    work.mkdir()
    copy = shutil.copy(CHAPTER, work)
    port, token, log = free_port(), secrets.token_hex(16), tmp_path / "lab.log"
    mine = [f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    command = [sys.executable, "-m", "jupyterlab", *OPTIONS, *mine, f"--ServerApp.root_dir={work}"]
    address = f"http://127.0.0.1:{port}"
    with log.open("w") as said:
        server = subprocess.Popen(
            command, env=surroundings(tmp_path), stdout=said, stderr=subprocess.STDOUT, cwd=work
        )
        try:
            wait_until_up(server, f"{address}/api/status?token={token}", log)
            yield address, token, copy
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def wait(tab, condition, seconds=180, argument=None):
    "Until a condition holds, looked at once a second; playwright's own habit is every frame."
    return tab.wait_for_function(condition, arg=argument, timeout=1000 * seconds, polling=1000)


def came_true(tab, condition, seconds, argument=None) -> bool:
    "Whether a condition comes to hold in time."
    from playwright.sync_api import TimeoutError as Late

    try:
        wait(tab, condition, seconds, argument)
    except Late:
        return False
    return True


def run_all(tab):
    "Run > Run All Cells, again while nothing has begun: the first request can be dropped."
    for _ in range(10):
        dialog = tab.locator(".jp-Dialog")  # "Select Kernel": the request came before the kernel
        if dialog.count():
            dialog.locator("button.jp-mod-accept").click()
        tab.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
        tab.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
        if came_true(tab, BEGUN, 5):
            return
    pytest.fail("Run All Cells did nothing")


def move(tab, handle):
    "Arrow keys on the slider until a figure changes."
    before = json.dumps(tab.evaluate(PICTURES), separators=(",", ":"))
    for key in ["ArrowRight"] * 3 + ["ArrowLeft"] * 6:
        handle.focus()
        handle.press(key)
        if came_true(tab, CHANGED, 8, before):
            return
    pytest.fail("the slider changes no figure")


def test_chapter_in_jupyterlab(lab, browser):
    address, token, copy = lab
    tab = browser.new_page(viewport=dict(width=1400, height=1000))
    tab.set_default_timeout(180_000)
    try:
        tab.goto(f"{address}/lab/tree/{os.path.basename(copy)}?reset&token={token}")
        wait(tab, f"window.jupyterapp && {NOTEBOOK}?.context?.isReady && {IDLE}")
        tab.evaluate(WATCH_BARS)
        run_all(tab)
        wait(tab, FINISHED, 600)
        assert not tab.evaluate(ERRORS)
        assert tab.evaluate("window.bars") > 0, "no progress bar was shown"
        handle = tab.locator(".widget-slider .noUi-handle").first
        handle.scroll_into_view_if_needed()
        wait(tab, f"{PICTURES}.length > 0")
        value = handle.get_attribute("aria-valuenow")
        move(tab, handle)
        assert handle.get_attribute("aria-valuenow") != value
        wait(tab, IDLE)
        assert not tab.evaluate(ERRORS) and not tab.evaluate(WIDGET_ERRORS)
        tab.evaluate(f"{NOTEBOOK}.context.save()")
    finally:
        tab.close()
    cells = json.loads(open(copy, encoding="utf-8").read())["cells"]
    outputs = [o for c in cells if c["cell_type"] == "code" for o in c["outputs"]]
    assert outputs and not [o for o in outputs if o["output_type"] == "error"]


COMMANDS = {
    "compsamp_measure": measure,
    "compsamp_race": race,
    "compsamp_skipstep": skipstep_experiment,
    "compsamp_compensation": compensation_experiment,
}


@pytest.mark.parametrize("path", sorted(RESULTS_FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_commands_of_a_results_file_would_go_on_with_it(path):
    "Each is understood today, and asks for the set-up that the file has."
    held = read_results(path)
    setup = held["setup"]
    for line in held["command"].split(" && "):
        name, *argv = shlex.split(line)
        if name not in COMMANDS:
            continue
        asked = vars(command_parser(name, COMMANDS[name]).parse_args(argv))
        said = {key: value for key, value in asked.items() if value is not None}
        usual = {"n": {"compsamp_race": 500}.get(name, 1000)}
        compared = {"n", "against", "batch", "lr", "ema", "warmup", "steps"}
        for key in compared & setup.keys() & asked.keys():
            assert (usual | said).get(key) == setup[key], (line, key)
        if "labels" in setup:
            assert said.get("labels", True) == (setup["labels"] == "in turn"), line
        if name == "compsamp_race":
            assert said.get("full", False) != setup["amp"], line
        elif "amp" in setup:
            assert said.get("amp", False) == setup["amp"], line
        network = "network" if name == "compsamp_race" else "checkpoint"
        wanted = setup.get("network") or setup.get("checkpoint")
        assert not wanted or said.get(network, "fashion-vp") == wanted, line


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_is_whole_sentences(name):
    "All of the docstring's first paragraph, over however many lines."
    description = command_parser(name, COMMANDS[name]).description.strip()
    assert description.endswith(".") and "\n" not in description
