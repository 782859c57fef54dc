"""Lab 02's part of the speed ladder: an engine that runs one more fused operation on each rung.

All rungs are timed on the same task, in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import labkit
from labkit import native, ops
from labkit.engine import Engine, SamplingParams
from labkit.errors import LabkitError
from labkit.exercises.lab02.examples import TORCH_FORMS
from labkit.exercises.lab02.swaps import EngineSwaps, three_products, through_narrow_table
from labkit.measure import Task, Timing, compare, progress_bar
from labkit.measure.torch_traffic import torch_traffic
from labkit.ops.decode_attention import decode_attention_reference
from labkit.ops.layer_norm import layer_norm_reference
from labkit.ops.linear_gelu import linear_gelu_reference
from labkit.ops.prefill_attention import prefill_attention_reference
from labkit.ops.residual_layer_norm import residual_layer_norm_reference
from labkit.ops.rotary_cache_write import rotary_cache_write_reference

TASK = Task("gptj-tiny", sequences=8, prompt_tokens=16, new_tokens=16)
"""The task that every rung runs."""

Functions = dict[str, Callable[..., Any]]

APART: Functions = {
    "layer_norm": layer_norm_reference,
    "linear": three_products,
    "rotary_cache_write": rotary_cache_write_reference,
    "residual_layer_norm": residual_layer_norm_reference,
    "decode_attention": decode_attention_reference,
    "prefill_attention": prefill_attention_reference,
    "linear_gelu": linear_gelu_reference,
}
"""For each operation, a function that computes it in separate steps."""

STEPS = {
    "one QKV product": ("linear",),
    "rotary + cache write": ("rotary_cache_write",),
    "sum + layer norm": ("residual_layer_norm", "layer_norm"),
    "split attention": ("decode_attention", "prefill_attention"),
    "GELU in the product": ("linear_gelu",),
}
"""For each rung, the operations that are fused from this rung on. The rungs are in order."""


def climb(swaps: EngineSwaps, learned: Functions, seconds: float = 20.0) -> dict[str, Timing]:
    """Time all rungs in turn.

    On a GPU, the rungs run the learner's kernels: `learned` has a kernel for each operation. On a CPU, they run functions made
    for a CPU.
    """
    rungs: dict[str, Callable[[], Any]] = {"lab 02 all apart": _runner(swaps.engine, APART)}
    swapped = dict(APART)
    for words, names in STEPS.items():
        if names == ("linear_gelu",) and swaps.device.type == "cpu":
            continue  # On a CPU this operation needs packed weights, which only the next rung has.
        swapped = swapped | {name: _fused(name, swaps.device, learned) for name in names}
        rungs[f"lab 02 + {words}"] = _runner(swaps.engine, swapped)
    rungs |= _whole_engines(swaps)
    bar = progress_bar("every rung in turn")
    return compare(rungs, device=swaps.device, warmup=1, min_runs=5, max_runs=9, max_seconds=seconds, progress=bar)


def launches_by_operation(step: Callable[[], Any]) -> dict[str, int]:
    """Count the launches of a decode step that each operation in `APART` makes when it is computed in separate steps.

    The number of all other launches is stored as "the rest".
    """
    counted = dict.fromkeys(APART, 0)

    def counting(name: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            found: list[Any] = []
            counted[name] += torch_traffic(lambda: found.append(APART[name](*args, **kwargs))).launches
            return found[0]

        return run

    with ops.use(**{name: counting(name) for name in APART}):
        whole = torch_traffic(step).launches
    found = {name: launches for name, launches in counted.items() if launches}
    return found | {"the rest": whole - sum(found.values())}


def _fused(name: str, device: torch.device, learned: Functions) -> Callable[..., Any]:
    """Choose the fused function that a rung runs for an operation.

    On a GPU this is the learner's kernel. On a CPU it is labkit's own function or, if there is none, a function made of torch
    operations.
    """
    if device.type == "cuda" and name in learned:
        return through_narrow_table(learned[name]) if name == "decode_attention" else learned[name]
    own: Callable[..., Any] = getattr(ops, name).__wrapped__
    return TORCH_FORMS[name][0] if device.type == "cpu" and not native.available() and name in TORCH_FORMS else own


def _whole_engines(swaps: EngineSwaps) -> dict[str, Callable[[], Any]]:
    """Make the rungs of labkit's own engine, in the forms that this machine can run: operation by operation, captured, and
    captured with int8 weights.
    """
    found: dict[str, Callable[[], Any]] = {}
    bar = progress_bar("engines for the last rungs", after=1.0)
    whole = labkit.load(TASK.model, device=swaps.device, dtype="fp32")
    bar(1, 2)
    words = "GELU in packed products" if swaps.device.type == "cpu" else "products for few rows"
    found[f"lab 02 + {words}"] = _runner(whole, {"layer_norm": ops.layer_norm.__wrapped__})  # type: ignore[attr-defined]
    found["lab 02 + captured step"] = _runner(whole, {})
    try:
        small = labkit.load(TASK.model, device=swaps.device, dtype="int8")
    except LabkitError as error:
        print(f"int8 weights: not measured here: {error}")
    else:
        found["lab 02 + int8 weights"] = _runner(small, {})
    bar(2, 2)
    return found


def _runner(engine: Engine, functions: Functions) -> Callable[[], Any]:
    generator = torch.Generator().manual_seed(0)
    shape = TASK.sequences, TASK.prompt_tokens
    prompts = torch.randint(1, engine.config.vocab_size, shape, generator=generator).tolist()
    params = SamplingParams(max_new_tokens=TASK.new_tokens, ignore_eos=True)

    def run() -> None:
        engine.forget_prefixes()
        with ops.use(**functions):
            engine.generate(prompts, params)

    return run
