"""Writes a learner's function as the source of a module.

A served model imports this module in its own process, which has no notebook and no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import CodeType
from typing import Any

from labkit.errors import InvalidRequest
from labkit.launch.function_source import left_behind, pack
from labkit.plain_values import decode


def as_module(function: Callable[..., Any], name: str) -> str:
    """Write a module that defines the function as `name`, with all imports, plain values and functions that it uses.

    Raises `InvalidRequest` if the function has no source, or uses an object that cannot be written as source.
    """
    packed = pack(function, {})
    if "module" in packed:
        return f"from {packed['module']} import {packed['name']} as {name}\n"
    read = {known for about in packed["functions"].values() for known in _read_outside(about["source"])}
    if left := {known: kind for known, kind in left_behind(packed).items() if known in read}:
        words = ", ".join(f"{known} (a {kind})" for known, kind in left.items())
        raise InvalidRequest(f"{name} uses {words}, which stays in the notebook; create it inside {name}")
    lines = ["from __future__ import annotations", ""]
    for scope in packed["scopes"]:
        lines += scope["imports"].values()
        lines += [f"{known} = {_plain(known, coded)}" for known, coded in scope["values"].items() if known in read]
    written: set[int] = set()
    _write(0, packed, lines, written)
    first = packed["functions"]["0"]["name"]
    return "\n".join([*lines, *([f"{name} = {first}"] if first != name else [])]) + "\n"


def _read_outside(source: str) -> set[str]:
    """The names that a definition reads: the names of globals and of attributes."""
    names: set[str] = set()
    codes: list[CodeType] = [compile(source, "<function>", "exec")]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return names


def digest(text: str) -> str:
    """A name for a module, computed from its source."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(name: str, coded: Any) -> str:
    if "tensor" in str(coded):
        raise InvalidRequest(
            f"{name} is a tensor, which stays in the notebook; use numpy arrays, because the models of this lab have no torch"
        )
    return repr(decode(coded, {}))


def _write(number: int, packed: dict[str, Any], lines: list[str], written: set[int]) -> None:
    """Append the source of a function to `lines`, after the functions that it uses.

    If the module also uses other names for the function, bind these names, too.
    """
    if number in written:
        return
    written.add(number)
    about = packed["functions"][str(number)]
    known = packed["scopes"][about["scope"]]["functions"]
    for other in about["uses"]:
        _write(other, packed, lines, written)
    lines += ["", "", about["source"].rstrip()]
    lines += [f"{alias} = {about['name']}" for alias, place in known.items() if place == number and alias != about["name"]]
