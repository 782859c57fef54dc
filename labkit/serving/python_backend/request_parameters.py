"""Reads the parameters of a request: its time limit, and two parameters that only labkit sends. Any other is refused.

Triton turns each name in the body of `/generate` that is not an input of the model into a parameter, and passes on the
parameters of `/infer` and gRPC. If models did not check these parameters, clients would not learn of misspelt names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.sampling_vocabulary import PARAMETERS
from labkit.serving import error_kind
from labkit.serving.nearest_name import nearest
from labkit.serving.probe_mark import PARAMETER, is_mark

_SAME = (
    ("text_input", "INPUT_0", "QUERY", "prompt", "inputs", "input", "query", "text"),
    *((each.name, *each.other_names) for each in PARAMETERS if each.other_names),
    ("len_penalty", "length_penalty"),
    ("beam_search_diversity_rate", "diversity_rate"),
    ("beam_width", "num_beams", "n", "best_of", "num_samples", "num_return_sequences"),
)
"""Each row holds the names of the same input in labkit's models and in other systems."""


@dataclass(frozen=True)
class RequestParameters:
    """The parameters of a request to one of labkit's models.

    seconds: the time limit that the client gives, or None. probe: whether the request is a probe of the watchdog.
    """

    seconds: float | None
    probe: bool


def parameters_of(request: Any, model: str, inputs: Iterable[str], folder: Path) -> RequestParameters:
    """A request's parameters. inputs: names of the model's inputs. folder: the server's shared folder.

    The parameter `timeout` is in microseconds, and 0 means no time limit, as in Triton. Raises `InvalidRequest` for an unknown
    name (and suggests the name that was probably meant) and for an invalid timeout.
    """
    given = json.loads(request.parameters() or "{}")
    given.pop("id", None)  # the request's id, which `/generate` passes on too
    timeout = _microseconds(_signed(request.timeout()) or given.pop("timeout", 0))
    probe = is_mark(given.get(PARAMETER), folder)
    if probe:
        del given[PARAMETER]
    if error_kind.is_asked(given):
        del given[error_kind.PARAMETER]
    for name in given:
        raise InvalidRequest(f"{name} is not a parameter of {model}; {_instead(name, tuple(inputs))}")
    return RequestParameters(timeout / 1e6 if timeout else None, probe)


def asks_for_the_kind(request: Any) -> bool:
    """Whether a request asks for error messages that begin with the kind of the error."""
    return error_kind.is_asked(json.loads(request.parameters() or "{}"))


def _signed(timeout: int) -> int:
    """Restore a negative timeout of a gRPC client, which Triton reads as an enormous number."""
    return timeout - 2**64 if timeout >= 2**63 else timeout


def _microseconds(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"timeout is {value!r}; a whole number of microseconds is accepted, 0 for none")
    return value


def _instead(name: str, inputs: tuple[str, ...]) -> str:
    """The advice to a client that gave a name which is not a parameter."""
    if name in inputs:
        return "it is an input: give it as a tensor among the inputs"
    same = next((names for names in _SAME if name in names), ())
    if "beam_width" in same and "text_input" in inputs:
        return "each request makes one text: ask again with another seed, or give beam_width to the model ensemble"
    found = [known for known in same if known in inputs] or [near for near in [nearest(name, (*inputs, "timeout"))] if near]
    if found:
        return f"write {found[0]}"
    return f"the inputs are {', '.join(inputs)}, and the only parameter is timeout (microseconds)"
