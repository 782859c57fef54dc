"""What a request says beside its tensors: its time limit, and whether it is a probe. Every other name is refused.

Triton makes a parameter of each name in the body of `/generate` that is no input of the model, and hands on those of `/infer`
and of gRPC. Nobody would learn of a misspelt name if the models did not look at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.sampling_vocabulary import PARAMETERS
from labkit.serving.probe_mark import PARAMETER, is_mark
from labkit.serving.repository.checker.fault import nearest

_SAME = (
    ("text_input", "INPUT_0", "QUERY", "prompt", "inputs", "input", "query", "text"),
    *((each.name, *each.other_names) for each in PARAMETERS if each.other_names),
    ("len_penalty", "length_penalty"),
    ("beam_search_diversity_rate", "diversity_rate"),
    ("beam_width", "num_beams", "n", "best_of", "num_samples", "num_return_sequences"),
)
"""Names of the same thing in labkit's models and in other systems."""


@dataclass(frozen=True)
class RequestParameters:
    """seconds: that the client gives the request, None where it does not say. probe: whether it is one of the watchdog's."""

    seconds: float | None
    probe: bool


def parameters_of(request: Any, model: str, inputs: Iterable[str], folder: Path) -> RequestParameters:
    """A request's parameters; `inputs` are the model's, `folder` is its server's run folder.

    `timeout` is in microseconds, 0 for none, as Triton has it. Raises `InvalidRequest` for a name that is not known, with the
    one that was probably meant, and for a timeout that is none.
    """
    given = json.loads(request.parameters() or "{}")
    given.pop("id", None)  # the request's own, which `/generate` hands on as well
    timeout = _microseconds(_signed(request.timeout()) or given.pop("timeout", 0))
    probe = is_mark(given.get(PARAMETER), folder)
    if probe:
        del given[PARAMETER]
    for name in given:
        raise InvalidRequest(f"{name} is no parameter of {model}; {_instead(name, tuple(inputs))}")
    return RequestParameters(timeout / 1e6 if timeout else None, probe)


def _signed(timeout: int) -> int:
    """A gRPC client's timeout as it was written: Triton reads one below 0 as an enormous one."""
    return timeout - 2**64 if timeout >= 2**63 else timeout


def _microseconds(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidRequest(f"timeout is {value!r}; a whole number of microseconds is accepted, 0 for none")
    return value


def _instead(name: str, inputs: tuple[str, ...]) -> str:
    """What to do about a name that is no parameter."""
    if name in inputs:
        return "it is an input: give it as a tensor among the inputs"
    same = next((names for names in _SAME if name in names), ())
    if "beam_width" in same and "text_input" in inputs:
        return "it makes one text per request: ask again with another seed, or give beam_width to the model ensemble"
    found = [known for known in same if known in inputs] or [near for near in [nearest(name, (*inputs, "timeout"))] if near]
    if found:
        return f"write {found[0]}"
    return f"the inputs are {', '.join(inputs)}, and timeout (microseconds) is the one parameter"
