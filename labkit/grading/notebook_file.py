"""Reads the cells of a notebook's file, in any version and encoding; a file that is no notebook is refused in one sentence."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.grading.shorten import shorten

MOST_NOTEBOOK_BYTES = 100 * 2**20
"""Larger files are refused. Outputs, not code, make notebooks large."""
_SOURCE_KEYS = ("source", "input", "code")
"""The keys of a cell's text, in this order: nbformat 3 and 4, code cells of nbformat 2 and 3, nbformat 1."""
_CONFLICT = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)


@dataclass(frozen=True)
class FileCell:
    """One cell: its number in the notebook (from 1), whether it is a code cell, and its text."""

    number: int
    is_code: bool
    text: str


def read_cells(path: Path) -> list[FileCell]:
    """All cells of a notebook of nbformat 1 to 4, in UTF-8, UTF-16, UTF-32 or Latin-1, with or without a byte-order mark.

    Raises `InvalidRequest` if the file is missing, a folder, empty, too large, not JSON, in conflict after a merge, not a
    notebook, or a notebook for a language other than Python.
    """
    return _cells_of(_json_of(path), path)


def has_conflict(text: str) -> bool:
    """Whether the text holds the marks that git writes where it cannot merge."""
    return {mark[0][0] for mark in _CONFLICT.finditer(text)} >= {"<", "=", ">"}


def _json_of(path: Path) -> Any:
    raw = _bytes_of(path)
    text = _decoded(raw)
    if not text.strip():
        raise InvalidRequest(f"{path} is no notebook: the file is empty")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if has_conflict(text):
            line = text.count("\n", 0, text.index("<<<<<<<")) + 1
            message = (
                f"{path} is in conflict after a merge: line {line} starts with <<<<<<<; resolve the conflict, then save it"
            )
            raise InvalidRequest(message) from None
        place = f": line {error.lineno}, {error.msg}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidRequest(f"{path} is no notebook: it is not JSON{place}") from None


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_NOTEBOOK_BYTES:
            most = MOST_NOTEBOOK_BYTES // 2**20
            raise InvalidRequest(f"{path} has more than {most} MiB; clear the notebook's outputs and save it again")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} is no notebook: {error.strerror or type(error).__name__}") from None


def _decoded(raw: bytes) -> str:
    """The text of a JSON file. Its first bytes tell the Unicode encoding; one that is not Unicode is read as Windows-1252."""
    for encoding in (json.detect_encoding(raw), "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def _cells_of(content: Any, path: Path) -> list[FileCell]:
    if not isinstance(content, dict):
        raise InvalidRequest(f"{path} is no notebook: it holds a JSON {type(content).__name__}, not cells")
    _refuse_other_languages(content, path)
    sheets = content.get("worksheets", [content])  # nbformat 2 and 3 have sheets of cells
    cells: list[Any] = []
    for sheet in sheets if isinstance(sheets, list) else [None]:
        found = sheet.get("cells") if isinstance(sheet, dict) else None
        if not isinstance(found, list):
            raise InvalidRequest(f"{path} is no notebook: it has no list of cells")
        cells += found
    return [_cell(number, cell, path) for number, cell in enumerate(cells, start=1)]


def _cell(number: int, cell: Any, path: Path) -> FileCell:
    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    text = next((cell[key] for key in _SOURCE_KEYS if key in cell), None) if isinstance(cell, dict) else None
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        text = "".join(text)
    if not isinstance(kind, str) or not isinstance(text, str):
        raise InvalidRequest(f"{path} is no notebook: its cell {number} has no kind or no text")
    is_python = str(cell.get("language", "python")).lower().startswith(("python", "ipython"))  # a cell of nbformat 3 names it
    return FileCell(number, kind == "code" and is_python, text)


def _refuse_other_languages(content: dict[str, Any], path: Path) -> None:
    """Raise `InvalidRequest` if the notebook names a kernel for another language; if it names none, it is for Python."""
    about = content.get("metadata")
    for part, key in (("kernelspec", "language"), ("language_info", "name")):
        found = about.get(part) if isinstance(about, dict) else None
        language = found.get(key) if isinstance(found, dict) else None
        if isinstance(language, str) and language and "python" not in language.lower():
            raise InvalidRequest(f"{path} is for a kernel of {shorten(language, 40)}; the course's notebooks are for Python")
