"""The README is short. Its table of measurements and that of `docs/benchmarks.md` hold the figures of the committed records.
The commands and files that the README and the pages in `docs/` name exist.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from labkit.measure import Record

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
MEASUREMENTS = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
PAGES = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
LABS = sorted((ROOT / "labs").glob("[0-9][0-9]_*.ipynb"))
SCREEN = 50
"""The number of lines on a screen."""
RECORDS = {
    "`gptj-tiny`, fp32": "cpu_gptj_tiny_fp32.json",
    "405 M synthetic, fp32": "cpu_gpt_j_405m_fp32.json",
    "405 M synthetic, bf16": "cpu_gpt_j_405m_bf16.json",
    "405 M synthetic, int8": "cpu_gpt_j_405m_int8.json",
    "405 M synthetic, int4": "cpu_gpt_j_405m_int4.json",
    "6 B synthetic, bf16": "cpu_gpt_j_6b_bf16.json",
    "6 B synthetic, int8": "cpu_gpt_j_6b_int8.json",
    "6 B synthetic, int4": "cpu_gpt_j_6b_int4.json",
}


@pytest.mark.parametrize("model", RECORDS)
@pytest.mark.parametrize("batch", [1, 8])
def test_measured_table_is_the_record(model: str, batch: int) -> None:
    record = Record.load(ROOT / "tests" / "benchmarks" / "results" / RECORDS[model])
    row = {row["engine"]: row for row in record.rows if row["batch"] == batch}
    (ratio,) = [found for found in record.extra["ratios"] if (found["batch"], found["peer"]) == (batch, "openvino")]
    engines = ("labkit", "openvino", "ctranslate2", "hf-compiled", "hf")
    figures = [f"{row[engine]['decode_ms_per_token']:.2f}" if engine in row else "–" for engine in engines]
    for phase in ("prefill", "decode", "end_to_end"):
        found = ratio[phase]
        spread = f" ({found['low']:.2f} to {found['high']:.2f})" if row["labkit"]["runs"] > 1 else ""
        figures.append(f"{found['median']:.2f}{spread}")
    line = f"| {model} | {batch} | {' | '.join(figures)} |"
    assert line in MEASUREMENTS
    assert f"| {model} | {batch} |" not in README or line in README


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("batch", [1, 8])
def test_the_table_of_all_engines_is_the_record(precision: str, batch: int) -> None:
    record = Record.load(ROOT / "tests" / "benchmarks" / "results" / f"cpu_peers_gpt_j_405m_{precision}.json")
    row = {row["engine"]: row for row in record.rows if row["batch"] == batch}
    engines = ("labkit", "openvino", "vllm", "llama.cpp", "llama.cpp-q4km", "ctranslate2")
    times = {name: f"{found['prefill_ms']:.0f} / {found['decode_ms_per_token']:.2f}" for name, found in row.items()}
    assert f"| {precision} | {batch} | {' | '.join(times.get(engine, '–') for engine in engines)} |" in MEASUREMENTS
    for time in ("prefill_ms", "decode_ms_per_token"):  # "labkit is the fastest in each cell"
        assert min(found[time] for found in row.values()) == row["labkit"][time]


def test_the_readme_begins_with_two_commands_and_fits_two_screens() -> None:
    start, end = README.splitlines()[:SCREEN], README.splitlines()
    assert [line.split("#")[0].strip() for line in start if line.startswith("make ")] == ["make lab", "make test"]
    assert len(end) <= 2 * SCREEN
    assert sum(line.startswith("| ---") for line in end) == 1  # one table


def test_the_readme_names_every_lab() -> None:
    assert sorted(re.findall(r"\]\((labs/\w+\.ipynb)\)", README)) == [f"labs/{path.name}" for path in LABS]


def test_every_command_is_in_the_table_of_commands() -> None:
    from labkit.cli import COMMANDS

    page = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `labkit")]
    assert {name for row in rows for name in re.findall(r"`labkit (\w+)", row)} == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_files_that_a_page_names_exist(page: str) -> None:
    from labkit.cli import COMMANDS

    text = PAGES[page].read_text("utf-8")
    blocks = "".join(re.findall(r"^```.*?^```", text, re.MULTILINE | re.DOTALL))
    named = re.findall(r"^(?:\.venv/bin/)?labkit (\w+)", blocks, re.MULTILINE)
    assert {*named, *re.findall(r"`(?:\.venv/bin/)?labkit (\w+)", text)} <= set(COMMANDS)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"(?:`|^)make (\w+)", text, re.MULTILINE)) <= set(targets)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert not [link for link in links if not (PAGES[page].parent / link).exists()]


def test_files_that_tools_look_for_are_where_they_look() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"## {project['version']}" in (ROOT / "docs" / "CHANGELOG.md").read_text("utf-8")
    forms = [yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")]
    asked = [form for form in forms if "body" in form]
    assert len(asked) == 3
    assert all({"name", "description", "body"} <= set(form) and form["body"] for form in asked)


TOP_LEVEL = {
    "README.md": "what a newcomer reads first",
    "Makefile": "the commands",
    "pyproject.toml": "the package",
    "setup.py": "compiles the CPU kernels; setuptools looks for it here",
    "MANIFEST.in": "what the source archive leaves out; setuptools looks for it here",
    "LICENSE": "where everybody looks for it",
    "CITATION.cff": "tools that make citations look for it here and nowhere else",
    ".gitignore": "git",
    ".dockerignore": "docker looks for it at the root of the build",
    **dict.fromkeys((".ci", ".github"), "the site that hosts the repository, and continuous integration"),
    **dict.fromkeys(("labs", "labkit", "solutions", "tests", "environment", "docker", "docs"), "the house"),
}
"""Everything at the top level of the repository, with the reason why it is there."""


def test_the_top_level_holds_only_what_has_a_reason() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not measured here: this is no checkout of git")
    assert {name.partition("/")[0] for name in tracked.stdout.splitlines()} <= set(TOP_LEVEL)
