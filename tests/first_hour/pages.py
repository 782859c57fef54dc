"""Reads commands and scripts from the pages of the documentation."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[tuple[str, str]]:
    """The language (which can be empty) and the text of each code block of a page. `page` is its path in the repository."""
    return BLOCK.findall((ROOT / page).read_text("utf-8"))


def block(page: str, contains: str) -> str:
    """The code block of a page that contains these words; there must be exactly one."""
    found = [text for _, text in blocks(page) if contains in text]
    assert len(found) == 1, f"{page} has {len(found)} blocks with {contains!r}; this test needs one"
    return found[0]


def command(page: str, contains: str) -> str:
    """The line in the code blocks of a page that contains these words; there must be exactly one."""
    found = [line for _, text in blocks(page) for line in text.splitlines() if contains in line]
    assert len(found) == 1, f"the blocks of {page} have {len(found)} lines with {contains!r}; this test needs one"
    return found[0]


def in_table(page: str, begins: str) -> list[str]:
    """The commands in the first column of a page's tables that begin with `begins`."""
    cells = re.findall(r"^\| `([^`]+)` \|", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    return [cell for cell in cells if cell.startswith(begins)]
