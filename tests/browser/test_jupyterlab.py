"""The labs as a learner sees them: JupyterLab in Chromium runs every cell, the tests use the widgets and keep a screenshot."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labkit.exercises.registry import of_lab
from labkit.grading.machine_needs import missing
from labkit.serving.channels import open_url
from tests.patience import PATIENCE, end_or_kill, wait_for

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
ALL_RUN = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .every(cell => cell.type !== 'code' || cell.executionCount !== null)"""
TOKEN = "browser-test"
LOOP = (
    "import os\nos.environ['LABKIT_HOME'] = os.path.abspath('home_of_the_loop')",
    "from labkit.lab import check, hint, progress_panel, reset, submit",
    "def kv_cache_bytes(config, lengths, size):\n    return 2 * config.num_layers * config.hidden_size * sum(lengths) * size",
    "check(kv_cache_bytes)",
    "def weight_gib(parameters, precision, group_size):\n    return 1.0",
    "check(weight_gib)",
    "hint(weight_gib)",
    "progress_panel('00')",
)
"""A notebook in which one exercise is solved and one is wrong. The notebook has a home directory of its own, because other
tests solve lab 00 too.
"""
RUN_IN_A_NEW_CELL = """async source => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = notebook.widgets.length - 1;
    await window.jupyterapp.commands.execute('notebook:insert-cell-below');
    const cell = notebook.activeCell;
    cell.model.sharedModel.setSource(source);
    await window.jupyterapp.commands.execute('notebook:run-cell');
    return cell.model.outputs.toJSON().map(output => output.text || output.evalue || '').join('');
}"""
LAST_CELL = """() => {
    const cells = window.jupyterapp.shell.currentWidget.content.model.cells;
    return cells.get(cells.length - 1).sharedModel.getSource();
}"""
MILLISECONDS = 4e3 * PATIENCE
"""The time limit for running all cells of a lab. Every other wait of these tests has the same limit."""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="not measured here: no Chromium on PATH"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab on loopback that serves a copy of the notebooks and has an empty home directory."""
    folder = tmp_path_factory.mktemp("course")
    for name in ("labs", "solutions"):
        shutil.copytree(ROOT / name, folder / name)
    about = json.loads((ROOT / "labs" / "00_class_environment.ipynb").read_text("utf-8"))
    cells = [{"cell_type": "code", "source": source, "metadata": {}, "outputs": [], "execution_count": None} for source in LOOP]
    (folder / "labs" / "loop.ipynb").write_text(json.dumps(about | {"cells": cells, "nbformat_minor": 4}), "utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}"]
    command += [f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.expose_app_in_browser=True"]
    environment = os.environ | {"LABKIT_HOME": str(folder / "home"), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for_server(address, process, folder / "server.log")
        yield address
    finally:
        process.terminate()
        end_or_kill(process)


def wait_for_server(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            open_url(f"{address}/api?token={TOKEN}", timeout=PATIENCE)
        except OSError:
            return False
        return True

    wait_for(answers, "JupyterLab's answer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def new_page(browser: Any) -> Any:
    """A browser page. All of its calls wait for as long as a busy machine may need."""
    page = browser.new_page(viewport={"width": 1280, "height": 1600})
    page.set_default_timeout(MILLISECONDS)
    return page


def open_and_run(browser: Any, server: str, notebook: str) -> Any:
    """Open a notebook, run all of its cells, and wait until the kernel is idle."""
    page = new_page(browser)
    page.goto(f"{server}/lab/tree/{notebook}?token={TOKEN}&reset")
    page.wait_for_selector(IDLE, timeout=MILLISECONDS)
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(ALL_RUN)
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
    return page


def saved_outputs(server: str, notebook: str) -> list[dict[str, Any]]:
    """The outputs of the cells, as saved on disk."""
    with open_url(f"{server}/api/contents/{notebook}?token={TOKEN}", timeout=PATIENCE) as answer:
        content = json.load(answer)["content"]
    return [output for cell in content["cells"] for output in cell.get("outputs", [])]


def verdicts(outputs: list[dict[str, Any]]) -> list[str]:
    """The messages of the checks, in order."""
    boxes = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    return [found[1] for box in boxes if (found := re.search(r"data-verdict='([^']+)'", box))]


def keep_screenshot(page: Any, name: str) -> None:
    folder = Path(os.environ.get("LABKIT_SCREENSHOTS", ROOT / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def scroll_to(page: Any, selector: str) -> Any:
    """Scroll down until the selector matches, because JupyterLab renders only the cells in view."""
    page.click(".jp-Notebook .jp-Cell >> nth=0", position={"x": 5, "y": 5})
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Home")
    for pause in (150, 1500):  # milliseconds for a cell to be rendered; a busy machine takes longer
        for _ in range(80):
            found = page.query_selector(selector)
            if found and found.is_visible():
                found.scroll_into_view_if_needed()
                return found
            page.mouse.move(700, 800)
            page.mouse.wheel(0, 700)
            page.wait_for_timeout(pause)
        page.keyboard.press("Control+Home")
    raise AssertionError(f"{selector} is nowhere in the notebook")


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "labs").glob("*.ipynb")))
def test_unsolved_lab_runs_and_its_panel_gives_hints(browser: Any, server: str, name: str) -> None:
    page = open_and_run(browser, server, f"labs/{name}.ipynb")
    outputs = saved_outputs(server, f"labs/{name}.ipynb")
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert verdicts(outputs) == ["not measured here" if missing(e) else "not attempted" for e in of_lab(name[:2])]
    panel = scroll_to(page, ".labkit-panel")
    keep_screenshot(page, f"{name}_unsolved")
    panel.query_selector("button:has-text('Next hint')").click()
    page.wait_for_selector(".labkit-panel >> text=Hint 1 of 3")
    page.close()


def test_solved_lab_00_draws_and_its_slider_redraws(browser: Any, server: str) -> None:
    notebook = "solutions/00_class_environment.ipynb"
    page = open_and_run(browser, server, notebook)
    outputs = saved_outputs(server, notebook)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert verdicts(outputs) == ["passed"] * 6
    scroll_to(page, ".widget-slider")
    image = ".jupyter-widgets-output-area img, .widget-output img, .widget-interact img"
    page.wait_for_selector(image)
    before = page.get_attribute(image, "src")
    page.focus(".widget-slider [role=slider], .widget-slider .noUi-handle")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([selector, old]) => document.querySelector(selector) && document.querySelector(selector).src !== old",
        arg=[image, before],
    )
    keep_screenshot(page, "00_slider")
    page.close()


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "solutions").glob("*.ipynb")))
def test_a_solved_lab_shows_what_it_drew(browser: Any, server: str, name: str) -> None:
    """This uses the released notebook; `tests/labs` tests without a browser that the notebook runs."""
    page = new_page(browser)
    page.goto(f"{server}/lab/tree/solutions/{name}.ipynb?token={TOKEN}&reset")
    page.wait_for_selector(IDLE, timeout=MILLISECONDS)
    figure = scroll_to(page, ".jp-RenderedImage img")
    assert figure.evaluate("image => image.complete && image.naturalWidth") > 300
    keep_screenshot(page, f"{name}_solved")
    page.close()


def use_the_solution_button(page: Any, panel: Any) -> None:
    """A solved exercise's solution is shown at once, an unsolved exercise's solution only after a second button is pressed."""
    menu = panel.query_selector("select")
    menu.select_option(label="0.3 The size of the cache")
    panel.query_selector("button:has-text('Solution')").click()
    page.wait_for_selector(".labkit-panel pre:has-text('return 2 * config.num_layers')")
    assert "Your points are kept." in panel.inner_text()
    keep_screenshot(page, "00_solution")
    last = of_lab("00")[-1]
    menu.select_option(label=f"{last.number} {last.title}")
    panel.query_selector("button:has-text('Solution')").click()
    give_up = page.wait_for_selector(".labkit-panel button:has-text('Give up and show it')")
    assert "has not passed yet" in panel.inner_text()
    for button in panel.query_selector_all("button"):
        assert button.evaluate("button => button.scrollWidth <= button.clientWidth"), button.inner_text()
    keep_screenshot(page, "00_give_up")
    give_up.click()
    page.wait_for_selector(".labkit-panel td:has-text('given up: solution shown')")
    assert "this exercise earns no new points" in panel.inner_text()


def test_a_learner_solves_fails_resets_and_submits(browser: Any, server: str) -> None:
    page = open_and_run(browser, server, "labs/loop.ipynb")
    outputs = saved_outputs(server, "labs/loop.ipynb")
    assert verdicts(outputs) == ["passed", "failed"]
    assert "Hint 1 of 3 for 0.2" in "".join(output.get("text", "") for output in outputs)
    panel = scroll_to(page, ".labkit-panel")
    for words in ("Lab 00: 10 of 65 points", "1 of 6 exercises done; 0 not measured here", "Hints cost no points."):
        assert words in panel.inner_text()
    use_the_solution_button(page, panel)
    said = page.evaluate(RUN_IN_A_NEW_CELL, "submit()")
    assert "loop.ipynb is ready to hand in: your checks reached 10 of 65 points." in said
    page.evaluate(RUN_IN_A_NEW_CELL, "def weight_gib(parameters, precision, group_size):\n    return 2.0")
    said = page.evaluate(RUN_IN_A_NEW_CELL, "submit()")
    assert "does not have the code that you ran: weight_gib." in said
    said = page.evaluate(RUN_IN_A_NEW_CELL, "reset(weight_gib)")
    page.wait_for_function(f"() => ({LAST_CELL})().includes('raise NotImplementedError')")
    assert page.evaluate(LAST_CELL) in said
    keep_screenshot(page, "00_loop")
    page.close()
