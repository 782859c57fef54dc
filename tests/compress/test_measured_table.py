"""The measured table of docs/compression.md holds the figures of the committed record, and the goals that it states are met."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from labkit.measure import Record

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compression.md").read_text("utf-8")
RECORD = Record.load(ROOT / "tests" / "benchmarks" / "results" / "cpu_compress_quality_gptj_tiny.json")


def change(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    low, high = found["interval"]
    return f"{found['percent']:+.2f} % ({low:+.2f} to {high:+.2f})"


def line(row: dict[str, Any]) -> str:
    """A row of the record as a line of the table."""
    found = row["weights"]
    figures = f"{change(found)} | {change(row.get('engine'))} | {found['kl']:.4f} | {found['agreement']:.1%}"
    return f"| `{row['row']}` | {row['bits_per_weight']:.2f} | {figures} |"


@pytest.mark.parametrize("row", RECORD.rows, ids=lambda row: str(row["row"]))
def test_the_table_is_the_record(row: dict[str, Any]) -> None:
    assert line(row) in PAGE


def test_the_goals() -> None:
    rows = {row["row"]: row for row in RECORD.rows}
    assert rows["int8"]["engine"]["percent"] <= 0.06
    assert rows["int4-gptq"]["engine"]["percent"] <= 0.4
    assert rows["int3-gptq"]["weights"]["percent"] <= 2.5
    assert RECORD.extra["loss_avoided_over_rtn"]["int4-gptq"] >= 0.4
