"""Reads the cells of a notebook file in any version and encoding. A file that is not a notebook is refused with a message."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.grading.shorten import shorten

MOST_NOTEBOOK_BYTES = 100 * 2**20
"""The size in bytes of the largest file that is read; larger files are refused. Only outputs, not code, make a file large."""
_SOURCE_KEYS = ("source", "input", "code")
"""The keys under which a cell may store its text, in the order in which they are tried.

The first key is used by nbformat 4 and by text cells of nbformat 3, the second by code cells of nbformat 2 and 3, and the third
by nbformat 1.
"""
_CONFLICT = re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE)


@dataclass(frozen=True)
class FileCell:
    """A cell: its number in the notebook (from 1), whether it is a code cell, and its text."""

    number: int
    is_code: bool
    text: str


def read_cells(path: Path) -> list[FileCell]:
    """All cells of a notebook in nbformat 1 to 4.

    The file is UTF-8, UTF-16, UTF-32 or Latin-1, with or without a byte-order mark. Raises `InvalidRequest` if the file is
    missing, empty, too large, a folder, or not JSON. Also raises it if the file contains git's conflict marks, is not a
    notebook, or is a notebook for a language other than Python.
    """
    return cells_of(json_of(path), path)


def has_conflict(text: str) -> bool:
    """Whether the text contains the marks that git writes for a merge conflict."""
    return {mark[0][0] for mark in _CONFLICT.finditer(text)} >= {"<", "=", ">"}


def json_of(path: Path) -> Any:
    """The JSON in a file, which may have any encoding that `read_cells` reads.

    Raises `InvalidRequest` if the file is missing, empty, too large, a folder, in a merge conflict, or not JSON.
    """
    raw = _bytes_of(path)
    text = _decoded(raw)
    if not text.strip():
        raise InvalidRequest(f"{path} is not a notebook: the file is empty")
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
        raise InvalidRequest(f"{path} is not a notebook: the file is not JSON{place}") from None


def _bytes_of(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_NOTEBOOK_BYTES:
            most = MOST_NOTEBOOK_BYTES // 2**20
            raise InvalidRequest(f"{path} has more than {most} MiB; clear the notebook's outputs and save it again")
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path} is not a notebook: {error.strerror or type(error).__name__}") from None


def _decoded(raw: bytes) -> str:
    """The text of a JSON file.

    The first bytes show which Unicode encoding it has. A file that is not Unicode is read as Windows-1252.
    """
    for encoding in (json.detect_encoding(raw), "cp1252"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def cells_of(content: Any, path: Path) -> list[FileCell]:
    """All cells of a notebook, from its JSON. If the JSON is not a notebook for Python, raises `InvalidRequest` with a message
    that names `path`.
    """
    if not isinstance(content, dict):
        raise InvalidRequest(f"{path} is not a notebook: the file contains a JSON {type(content).__name__}, not cells")
    _refuse_other_languages(content, path)
    sheets = content.get("worksheets", [content])  # In nbformat 2 and 3, a notebook has sheets of cells.
    cells: list[Any] = []
    for sheet in sheets if isinstance(sheets, list) else [None]:
        found = sheet.get("cells") if isinstance(sheet, dict) else None
        if not isinstance(found, list):
            raise InvalidRequest(f"{path} is not a notebook: the file has no list of cells")
        cells += found
    return [_cell(number, cell, path) for number, cell in enumerate(cells, start=1)]


def _cell(number: int, cell: Any, path: Path) -> FileCell:
    kind = cell.get("cell_type") if isinstance(cell, dict) else None
    text = next((cell[key] for key in _SOURCE_KEYS if key in cell), None) if isinstance(cell, dict) else None
    if isinstance(text, list) and all(isinstance(line, str) for line in text):
        text = "".join(text)
    if not isinstance(kind, str) or not isinstance(text, str):
        raise InvalidRequest(f"{path} is not a notebook: its cell {number} has no type or no text")
    # In nbformat 3, each code cell names the language.
    is_python = str(cell.get("language", "python")).lower().startswith(("python", "ipython"))
    return FileCell(number, kind == "code" and is_python, text)


def _refuse_other_languages(content: dict[str, Any], path: Path) -> None:
    """Raise `InvalidRequest` if the notebook names a kernel for another language.

    If no kernel is named, the notebook counts as Python.
    """
    about = content.get("metadata")
    for part, key in (("kernelspec", "language"), ("language_info", "name")):
        found = about.get(part) if isinstance(about, dict) else None
        language = found.get(key) if isinstance(found, dict) else None
        if isinstance(language, str) and language and "python" not in language.lower():
            raise InvalidRequest(
                f"{path} is for a kernel of {shorten(language, 40)}, but the notebooks of the course are for Python"
            )
