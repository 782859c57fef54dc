"""The measured table of the README holds the figures of the committed records, and the README's commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from labkit.measure import Record

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
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
    assert f"| {model} | {batch} | {' | '.join(figures)} |" in README


def test_commands_and_files_that_it_names_exist() -> None:
    from labkit.cli import COMMANDS

    assert set(re.findall(r"`labkit (\w+)", README)) <= set(COMMANDS)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    named = re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE)
    assert {"lab", "test", "tour"} <= set(named) <= set(targets)
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
