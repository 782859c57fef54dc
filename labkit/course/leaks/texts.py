"""Takes the texts from a notebook of the release: its cells, outputs, attachments and metadata, one by one."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_FENCE = re.compile(r"^\s*(```|~~~)\w*\s*$")
_TAG = re.compile(r"<[^>]*>")


@dataclass(frozen=True)
class Text:
    """A text, and the place in a notebook `where` it is, such as "cell 12, output 1".

    `where` is "" if the text is a whole file. `is_code` says whether the whole text is Python code.
    """

    where: str
    content: str
    is_code: bool = False


def texts_of_notebook(content: str) -> Iterator[Text]:
    """Yield all texts of a notebook. Raises `ValueError` if `content` is not a notebook.

    Texts in HTML are taken without their tags, and attachments in base64 are decoded if they are texts.
    """
    notebook = json.loads(content)
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise ValueError("it is not a notebook")
    for number, cell in enumerate(notebook["cells"], 1):
        where = f"cell {number}"
        yield Text(where, _joined(cell.pop("source", "")), cell.get("cell_type") == "code")
        for count, output in enumerate(cell.pop("outputs", []), 1):
            yield from _strings(f"{where}, output {count}", output)
        for name, attachment in cell.pop("attachments", {}).items():
            yield from _strings(f"{where}, attachment {name}", attachment)
        yield from _strings(where, cell)
    yield from _strings("metadata", {name: value for name, value in notebook.items() if name != "cells"})


def pictures_of_notebook(content: str) -> Iterator[str]:
    """Yield the name of each cell with pictures in its outputs or attachments, because pictures cannot be searched."""
    for number, cell in enumerate(json.loads(content)["cells"], 1):
        held = [*cell.get("outputs", []), *({"data": one} for one in cell.get("attachments", {}).values())]
        if any(name.startswith("image/") and name != "image/svg+xml" for one in held for name in one.get("data", {})):
            yield f"cell {number}"


def code_in(text: Text) -> Iterator[tuple[str, int]]:
    """Yield the parts of a text that can be Python: the whole text, and each fenced block of code in the text.

    Each part comes with the number of the line before it.
    """
    yield text.content, 0
    begin = None
    lines = text.content.splitlines()
    for number, line in enumerate(lines, 1):
        if _FENCE.match(line):
            if begin is not None:
                yield "\n".join(lines[begin : number - 1]), begin
            begin = number if begin is None else None


def _strings(where: str, value: Any) -> Iterator[Text]:
    if isinstance(value, str):
        yield Text(where, value)
        if "&" in value or "<" in value:
            yield Text(where, html.unescape(_TAG.sub("", value)))
        if decoded := _decoded(value):
            yield Text(where, decoded)
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield from _strings(where, _joined(value))
    elif isinstance(value, list):
        for item in value:
            yield from _strings(where, item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _strings(where, name)
            yield from _strings(where, item)


def _joined(source: Any) -> str:
    """Join a text that can be stored as a list of lines with line ends, or as a list of parts (a traceback, for example)."""
    if isinstance(source, str):
        return source
    parts = list(map(str, source))
    return ("" if all(part.endswith("\n") for part in parts[:-1]) else "\n").join(parts)


def _decoded(value: str) -> str:
    """The text that `value` encodes in base64, or "" if `value` does not encode a text."""
    if len(value) < 16:
        return ""
    try:
        return base64.b64decode(value, validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        return ""
