"""Read a JSON object from a file of unknown origin, and check the values in it.

Every defect in the file raises a `ValueError` with one short sentence.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_BYTES = 2**20
"""The largest accepted size of a settings file in bytes. Real settings files are far smaller."""
MOST_INDEX_BYTES = 100 * 2**20
"""The largest accepted size, in bytes, of an index or a header, which have one entry per tensor."""
LARGEST = 2**63 - 1
"""The largest whole number that is accepted by default."""


def read_json_object(path: str | Path, most_bytes: int = MOST_BYTES) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises `OSError` when the file cannot be read, and `ValueError` when it is larger than `most_bytes`, is not
    JSON, is nested too deeply, is not an object, or has a duplicate key.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    if (size := path.stat().st_size) > most_bytes:
        raise ValueError(f"it has {size:,} bytes; at most {most_bytes:,} are accepted")
    return parse_json_object(path.read_bytes())


def parse_json_object(content: bytes) -> dict[str, Any]:
    """Return the object in a JSON text encoded in UTF-8. Raises `ValueError` for the same defects as `read_json_object`."""
    try:
        values = json.loads(content.decode("utf-8"), object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("its lists and objects are nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"it holds a {type(values).__name__}; an object, {{...}}, is accepted")
    return values


def need_text(value: Any, name: str, least: int = 1, most: int = 200) -> str:
    """Return `value` if it is a text of `least` to `most` characters; spaces at its ends do not count towards `least`.

    name: the name of the value in the error message. Raises `ValueError` for any other value.
    """
    if not isinstance(value, str) or not least <= len(value.strip()) or len(value) > most:
        raise ValueError(f"{name} is {value!r:.60}; a text of {least} to {most} characters is accepted")
    return value


def need_whole(value: Any, name: str, least: int = 0, most: int = LARGEST) -> int:
    """Return `value` if it is a whole number from `least` to `most`. True and False do not count as numbers.

    name: the name of the value in the error message. Raises `ValueError` for any other value.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        limits = f"from {least}" if most == LARGEST else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r:.60}; a whole number {limits} is accepted")
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it names {twice!r:.80} twice; name it once")
    return values
