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
from labkit.serving.probe_mark import PARAMETER, is_mark
from labkit.serving.validator.fault import nearest

_ELSEWHERE = {
    "max_new_tokens": ("max_tokens", "max_length", "max_output_tokens", "n_predict", "num_predict", "request_output_len"),
    "min_new_tokens": ("min_tokens", "min_length"),
    "stop": ("stop_sequences", "stop_words", "stop_strings"),
    "text_input": ("prompt", "inputs", "input", "query", "text"),
    "end_token_id": ("eos_token_id", "end_id"),
    "start_token_id": ("bos_token_id", "start_id"),
    "temperature": ("do_sample",),
    "presence_penalty": ("frequency_penalty",),
    "logprobs": ("return_log_probs", "top_logprobs", "is_return_log_probs"),
    "seed": ("random_seed",),
    "top_k": ("runtime_top_k",),
    "top_p": ("runtime_top_p", "typical_p"),
}
_MEANT = {theirs: ours for ours, many in _ELSEWHERE.items() for theirs in many}
"""Names that other systems have, by which of `gptj`'s does the same, or what comes closest to it."""

_SEVERAL = ("n", "best_of", "num_samples", "num_beams", "num_return_sequences", "beam_width")


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
    timeout = request.timeout() or _microseconds(given.pop("timeout", 0))
    probe = is_mark(given.get(PARAMETER), folder)
    if probe:
        del given[PARAMETER]
    for name in given:
        raise InvalidRequest(f"{name} is no parameter of {model}; {_instead(name, tuple(inputs))}")
    return RequestParameters(timeout / 1e6 if timeout else None, probe)


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
    if name in _SEVERAL and "text_input" in inputs:
        return "it makes one text a request: ask again with another seed, or give beam_width to the model ensemble"
    meant = _MEANT.get(name)
    if (near := meant if meant in inputs else nearest(name, (*inputs, "timeout"))) is not None:
        return f"write {near}"
    return f"the inputs are {', '.join(inputs)}, and timeout (microseconds) is the one parameter"
