"""The options of an engine and their limits. The options are checked before a model is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from labkit.engine import argument_forms
from labkit.engine.schedule.scheduler import MAX_BATCH_SIZE, MAX_STEP_TOKENS, check_limits
from labkit.errors import InvalidRequest
from labkit.model.quantized_kv_cache import check_kv_cache_dtype
from labkit.sampling_vocabulary import LARGEST

MOST_TOKENS = 2**31 - 1
"""The largest number of tokens in one step. A batch counts its tokens in int32."""
MOST_SEQUENCES = 2**16
"""The most sequences that can run at a time. In the sampler's tensors, each sequence has a row as long as the vocabulary."""


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of `Engine`."""

    max_batch_size: int
    max_step_tokens: int
    prefix_reuse: bool
    num_slots: int | None
    cache_bytes: int | None
    max_mixed_prefill: int | None
    cuda_graphs: bool
    kv_cache_dtype: str | None


_RANGES = {
    "max_batch_size": (1, MOST_SEQUENCES),
    "max_step_tokens": (1, MOST_TOKENS),
    "max_mixed_prefill": (1, MOST_TOKENS),
    "num_slots": (1, LARGEST),
    "cache_bytes": (1, LARGEST),
}
_FLAGS = ("prefix_reuse", "cuda_graphs")
_CACHE = "kv_cache_dtype"
_MAY_BE_NONE = ("max_mixed_prefill", "num_slots", "cache_bytes")


def checked_options(options: Mapping[str, Any]) -> EngineOptions:
    """Return the options as plain values. Raises `InvalidRequest` for an unknown name or a value outside its range."""
    names = (*_RANGES, *_FLAGS, _CACHE)
    if unknown := [name for name in options if name not in names]:
        raise InvalidRequest(f"{unknown[0]} is not an option of an engine; the options are {', '.join(names)}")
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if name in _FLAGS:
            kept[name] = argument_forms.flag(name, value)
        elif name == _CACHE:
            check_kv_cache_dtype(value)
            kept[name] = value
        else:
            kept[name] = None if value is None and name in _MAY_BE_NONE else argument_forms.whole(name, value, *_RANGES[name])
    if kept.get("num_slots") is not None and kept.get("cache_bytes") is not None:
        raise InvalidRequest(
            f"num_slots {kept['num_slots']} and cache_bytes {kept['cache_bytes']} were both given; give one of them"
        )
    check_limits(
        kept.get("max_batch_size", MAX_BATCH_SIZE), kept.get("max_step_tokens", MAX_STEP_TOKENS), kept.get("max_mixed_prefill")
    )
    checked: EngineOptions = kept  # type: ignore[assignment]
    return checked
