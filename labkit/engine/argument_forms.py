"""Turns the argument values that a caller passes into the plain form that the engine stores.

Every unambiguous value is accepted, including numbers and arrays of numpy and torch. Any other value raises
`InvalidRequest`, which names the parameter, the given value and what is accepted. This module does not depend on the model.
"""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping, Set
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from labkit.errors import InvalidRequest
from labkit.plurals import counted
from labkit.sampling_vocabulary import LARGEST

LONGEST_WORD = 1024
"""The largest number of characters or tokens in one stop word or bad word."""
LONGEST_LIST = 2**16
"""The largest total number of characters and tokens in the stop words or bad words of a request.

The total is limited because every step searches for all these words.
"""
_SHOWN = 200  # a message repeats at most this many characters of a value

Word: TypeAlias = str | tuple[int, ...]
"""A stop or bad word: a text, or token ids."""


def shown(value: Any) -> str:
    """The value as text for an error message: on one line, and shortened if it is long."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # repr can fail, for example for an int with thousands of digits
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def plain(value: Any) -> Any:
    """Turn a numpy or torch number, or an array without dimensions, into a Python number; return anything else unchanged."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        try:
            return value.item()
        except Exception:  # for example a tensor without data; the caller refuses such a tensor
            return value
    return value


def listed(value: Any) -> Any:
    """Turn an array with dimensions into (nested) lists of Python numbers; for anything else, return `plain(value)`."""
    if getattr(value, "shape", ()) != () and hasattr(value, "tolist"):
        try:
            return value.tolist()
        except Exception:
            return value
    return plain(value)


def whole(name: str, value: Any, least: int, most: int = LARGEST, verb: str = "is") -> int:
    """Return `value` as a whole number from `least` to `most`. True, False and 2.0 are refused."""
    given = plain(value)
    try:
        found = None if isinstance(given, bool) else operator.index(given)
    except TypeError:
        found = None
    if found is None or not least <= found <= most:
        limits = f"of at least {least}" if most == LARGEST and (found or 0) <= most else f"from {least} to {most}"
        raise InvalidRequest(f"{name} {verb} {shown(value)}; a whole number {limits} is accepted")
    return found


def number(name: str, value: Any, accepted: str, ok: Callable[[float], bool]) -> float:
    """Return `value` as a number that `ok` accepts. `accepted` describes such numbers in words, for the error message."""
    given = plain(value)
    if isinstance(given, numbers.Real | Decimal) and not isinstance(given, bool):
        try:
            found = float(given)
        except (OverflowError, ValueError):
            found = math.nan
        if not math.isnan(found) and ok(found):
            return found
    raise InvalidRequest(f"{name} is {shown(value)}; {accepted} is accepted")


def flag(name: str, value: Any, accepted: str = "True or False") -> bool:
    """Return `value` as a bool. True, False, 1 and 0 are accepted; a text such as "false" is refused."""
    given = plain(value)
    if isinstance(given, bool) or (type(given) is int and given in (0, 1)):
        return bool(given)
    raise InvalidRequest(f"{name} is {shown(value)}; {accepted} is accepted")


def items(value: Any) -> list[Any] | None:
    """The elements of a list, tuple, array, generator or similar value; None for any other value, such as a text or a dict."""
    value = listed(value)
    if isinstance(value, str | bytes | bytearray | memoryview | Mapping) or not isinstance(value, Iterable):
        return None
    return list(value)


def token_ids(name: str, value: Any) -> tuple[int, ...]:
    """Turn None (no ids), one number, or any collection of numbers into a tuple of token ids without repeats."""
    if value is None:
        return ()
    found = items(value)
    if found is None:
        try:
            return (whole(name, value, 0),)
        except InvalidRequest:
            raise InvalidRequest(f"{name} is {shown(value)}; a list of token ids is accepted, for example [13, 198]") from None
    return tuple(dict.fromkeys(whole(name, token, 0, verb="holds") for token in found))


def words(name: str, value: Any) -> tuple[Word, ...]:
    """Turn None (no words), one text, or any collection of words into a tuple of words. A word is a text or token ids."""
    if value is None:
        return ()
    given = plain(value)
    found = [given] if isinstance(given, str) else items(value)
    if found is None:
        raise InvalidRequest(f"{name} is {shown(value)}; a text or a list of words is accepted{_decoded(given)}")
    if found and all(isinstance(plain(word), int) for word in found):
        raise InvalidRequest(
            f"{name} is {shown(value)}, a list of numbers; write [[13, 198]] for one word of two tokens, or [[13], [198]] "
            "for two words of one token each"
        )
    kept = tuple(_word(name, word) for word in found)
    lengths = [len(word) for word in kept]
    if max(lengths, default=0) > LONGEST_WORD or sum(lengths) > LONGEST_LIST:
        raise InvalidRequest(
            f"{name} holds {counted(len(kept), 'word')}; the longest has {max(lengths)} characters or tokens, and all "
            f"together have {sum(lengths)}; at most {LONGEST_WORD} in one word and {LONGEST_LIST} in all words together are "
            "accepted"
        )
    return kept


def _word(name: str, value: Any) -> Word:
    given = plain(value)
    if isinstance(given, str):
        if not _is_text(given):
            raise InvalidRequest(
                f"{name} holds {shown(value)}, which contains half a character; UTF-8 cannot encode half a character"
            )
        if given:
            return str(given)
    elif not isinstance(given, Set) and (found := items(given)):  # a set has no order
        try:
            return tuple(whole(name, token, 0) for token in found)
        except InvalidRequest:
            pass
    raise InvalidRequest(
        f"{name} holds {shown(value)}; each word must be a string of at least one character or a sequence of token "
        f"ids{_decoded(given)}"
    )


def _is_text(value: str) -> bool:
    """Whether UTF-8 can encode the text. UTF-8 cannot encode half a character, such as "\\ud83d"."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(value: Any) -> str:
    """Advice for a caller who gave bytes instead of text; "" for any other value."""
    return "; bytes are not text: decode() them" if isinstance(value, bytes | bytearray | memoryview) else ""


def floats(name: str, value: Any, shape: tuple[str, ...]) -> Tensor:
    """Return `value`, a tensor or a numpy array of finite floats, as a tensor.

    It must have as many dimensions as `shape` has names.
    """
    given = torch.from_numpy(value) if isinstance(value, np.ndarray) and value.dtype in _FLOATS else value
    if (
        not isinstance(given, Tensor)
        or given.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        or given.layout is not torch.strided
        or given.is_meta
        or given.dim() != len(shape)
    ):
        is_array = isinstance(value, Tensor | np.ndarray)
        what = f"a {value.dtype} array of shape {list(value.shape)}" if is_array else shown(value)
        raise InvalidRequest(f"{name} is {what}; a tensor of floats of shape [{', '.join(shape)}] is accepted")
    if not bool(torch.isfinite(given.float()).all()):
        raise InvalidRequest(f"{name} holds numbers that are not finite in float32; give finite ones, or leave {name} out")
    return given.detach()


_FLOATS = (np.float16, np.float32, np.float64)
