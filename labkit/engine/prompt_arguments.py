"""Turns prompts and parameters, in any form that a caller can pass, into lists.

Error messages say what was given and what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from collections.abc import Sequence as SequenceOf
from typing import Any, TypeAlias

from labkit.engine import argument_forms
from labkit.engine.sampling_params import SamplingParams
from labkit.errors import InvalidRequest
from labkit.plurals import counted

Prompts: TypeAlias = str | Iterable[str | SequenceOf[int]]
"""One text, several texts, or several lists of token ids."""

Params: TypeAlias = SamplingParams | Iterable[SamplingParams | None] | None
"""One `SamplingParams` for all prompts, a list with one for each prompt, or None for the defaults."""


def prompt_list(prompts: Any) -> list[str | list[Any]]:
    """Return a list with each prompt as a text or as a list of token ids, which are not checked yet.

    An array of two dimensions holds one prompt per row. Raises `InvalidRequest` for any other value.
    """
    given = argument_forms.plain(prompts)
    found = [given] if isinstance(given, str) else None if isinstance(given, Set) else argument_forms.items(given)
    if not found:
        raise InvalidRequest(
            f"prompts is {argument_forms.shown(prompts)}; a text, a list of texts or a list of token-id lists is accepted"
            f"{_advice(prompts)}"
        )
    if isinstance(argument_forms.plain(found[0]), int):
        raise InvalidRequest(
            f"prompts is {argument_forms.shown(prompts)}, a list of numbers; give a list of token-id lists, for example [[1, "
            "2, 3]] for one prompt"
        )
    return [one_prompt(prompt) for prompt in found]


def one_prompt(prompt: Any) -> str | list[Any]:
    """Return a prompt as a text or as a list of token ids (not checked yet). Raises `InvalidRequest` for any other value."""
    given = argument_forms.plain(prompt)
    if isinstance(given, str):
        return given
    found = None if isinstance(given, Set) else argument_forms.items(given)
    if found is None:
        raise InvalidRequest(
            f"a prompt is {argument_forms.shown(prompt)}; a text or a list of token ids is accepted{_advice(prompt)}"
        )
    return [token if type(token) is int else argument_forms.plain(token) for token in found]


def params_list(params: Any, count: int) -> list[SamplingParams]:
    """Return the parameters for `count` prompts, one `SamplingParams` per prompt.

    Raises `InvalidRequest` for a value of the wrong type, or for a list of the wrong length.
    """
    if params is None or isinstance(params, SamplingParams):
        return [params or SamplingParams()] * count
    found = argument_forms.items(params)
    if found is None or not all(one is None or isinstance(one, SamplingParams) for one in found):
        raise InvalidRequest(
            f"params is {argument_forms.shown(params)}; a SamplingParams or a list with one for each prompt is accepted: write "
            "SamplingParams(temperature=0.8, ...)"
        )
    if len(found) != count:
        raise InvalidRequest(
            f"{len(found)} sampling params for {counted(count, 'prompt')}; give one SamplingParams for all prompts, or a "
            "list with one for each prompt"
        )
    return [one or SamplingParams() for one in found]


def _advice(given: Any) -> str:
    if isinstance(given, bytes | bytearray | memoryview):
        return "; bytes are not text: decode() them"
    if hasattr(given, "keys"):
        return "; from the output of a tokenizer, give input_ids"
    return ""
