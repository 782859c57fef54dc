"""Makes and times decode steps that run operation by operation, or that are captured and run as one call. The timings show how
much faster the captured step is on this machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import labkit
from labkit.measure import compare, progress_bar
from labkit.model import GPTJ, FixedBatches, KVCache
from labkit.model.fastest_forward import fastest_forward

LENGTH = 64
"""The number of tokens in the cache for each sequence."""


def slots_of(sequences: int) -> int:
    """The number of cache slots that the sequences need. The next slot is for the padding of captured batches."""
    return sequences * (LENGTH + 1)


def decode_step(model: GPTJ, sequences: int = 1, forward: Callable[..., Tensor] | None = None) -> Callable[[], Tensor]:
    """Return a function that runs the same decode step at each call.

    The step calls `forward`. If `forward` is None, the model runs operation by operation.
    """
    cache = KVCache(model.config, slots_of(sequences) + 1, device=model.device, dtype=model.dtype)
    batches = FixedBatches(sequences, LENGTH + 1, model.device)
    prompts = list(torch.randint(1, model.config.vocab_size, (sequences, LENGTH)))
    model.forward(batches.prefill(prompts), cache)
    batch = batches.decode(torch.ones(sequences, dtype=torch.int64))
    run = forward or model.forward
    return lambda: run(batch, cache)


def captured_step(device: torch.device, sequences: int = 1, seconds: float = 2.0) -> dict[str, Any] | None:
    """Time labkit's own decode step, "operation by operation" and "captured". The two forms are timed in turn.

    Returns None if this machine cannot capture the step.
    """
    model = labkit.load("gptj-tiny", device=device, dtype="fp32").model
    fastest = fastest_forward(model, padding_slot=slots_of(sequences))
    if fastest is model:
        print("A captured step: not measured here: this machine has neither labkit's C++ library nor a GPU for a CUDA graph.")
        return None
    calls = {
        "operation by operation": decode_step(model, sequences),
        "captured": decode_step(model, sequences, fastest),
    }
    bar = progress_bar("operation by operation and captured")
    return dict(compare(calls, device=device, warmup=10, max_runs=400, max_seconds=seconds, progress=bar))
