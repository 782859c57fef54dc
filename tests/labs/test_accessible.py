"""Notebooks describe their figures and widgets in text, also when they are exported to HTML and PDF."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from labkit.grading.notebook_kernel import run_cells
from labkit.grading.release import find_labs, remove_widgets
from labkit.home import fresh_home

ROOT = Path(__file__).parents[2]
LABS = {lab.source.stem: lab for lab in find_labs(ROOT)}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CELLS = (
    "from labkit.lab import check, progress_panel\nfrom labkit.measure import plots",
    'progress_panel("00")',
    "def weight_gib(parameters, precision, group_size):\n    return 1.0",
    "check(weight_gib)",
    'plots.parts_plot(["eager"], {"kernels": [3.0], "gaps": [2.0]}, xlabel="ms", title="Where time goes")',
)


@pytest.mark.parametrize("name", LABS)
def test_pictures_in_the_text_of_a_lab_have_an_alternative_text(name: str) -> None:
    cells = [c.source for c in nbformat.read(LABS[name].student, as_version=4).cells if c.cell_type == "markdown"]  # type: ignore[no-untyped-call]
    pictures = [alt for cell in cells for alt in re.findall(r"!\[([^\]]*)\]\(", cell)]
    assert all(pictures)
    assert not [cell for cell in cells if re.search(r"<img(?![^>]*\balt=)", cell)]


@pytest.mark.parametrize("name", LABS)
def test_each_panel_and_verdict_of_a_solved_notebook_has_its_text(name: str) -> None:
    outputs = [o for cell in json.loads(LABS[name].solved.read_text("utf-8"))["cells"] for o in cell.get("outputs", [])]
    pages = [o["data"] for o in outputs if "text/html" in o.get("data", {})]
    assert pages
    assert not [data for data in pages if "".join(data.get("text/plain", "<")).startswith("<")]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small notebook with a panel, a verdict and a figure, executed and exported to HTML."""
    from nbconvert import HTMLExporter

    folder = tmp_path_factory.mktemp("exported")
    notebook: Any = new_notebook(cells=[new_markdown_cell("# A lab"), *map(new_code_cell, CELLS)])  # type: ignore[no-untyped-call]
    with fresh_home():
        run_cells(notebook, folder, timeout=600, kernel_name="python3", coalesce_streams=True)
    remove_widgets(notebook)  # as `labkit release` does
    page, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    (folder / "lab.html").write_text(page, "utf-8")
    return folder / "lab.html"


def test_the_exported_page_has_the_panel_the_verdict_and_the_alternative_text(exported: Path) -> None:
    page = html.unescape(exported.read_text("utf-8"))
    assert "Lab 00: 0 of 65 points" in page
    assert 'data-verdict="failed"' in page
    assert 'alt="Where time goes. Horizontal axis: ms. kernels: eager 3. gaps: eager 2."' in page


@pytest.mark.long
@pytest.mark.skipif(not CHROMIUM or not shutil.which("pdftotext"), reason="not measured here: no chromium, or no pdftotext")
def test_the_printed_page_has_the_same_texts(exported: Path, tmp_path: Path) -> None:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--user-data-dir={tmp_path / 'user'}", f"--print-to-pdf={tmp_path / 'lab.pdf'}", exported.as_uri()]
    subprocess.run(command, check=True, capture_output=True)
    text = subprocess.run(["pdftotext", tmp_path / "lab.pdf", "-"], check=True, capture_output=True, text=True).stdout
    assert "Lab 00: 0 of 65 points" in text
    assert "failed" in text
