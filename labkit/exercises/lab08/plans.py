"""Tables of plans for the cells of lab 08: predicted by labkit's planner, and published by NVIDIA.

A plan is a dictionary, so that a learner sees all of its values. Sizes are in GiB, times in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from labkit.planning.catalogue import Device, named_gpu, with_link
from labkit.planning.deployment import Deployment, does_not_divide
from labkit.planning.fit import Fit, fit
from labkit.planning.memory import gib, memory_of
from labkit.planning.named_shapes import named_shape
from labkit.planning.published import default_fit, fastertransformer, measurements

GPU = "a100-80gb"
INPUT_TOKENS, OUTPUT_TOKENS = 60, 20
"""The numbers of tokens in the lecture's table "Inference benchmarks"."""

Row = dict[str, Any]


def model_of(name: str) -> dict[str, int]:
    """The sizes that the exercises use, for the model `name` with weights in fp16."""
    shape = named_shape(name)
    return {
        "parameters": shape.parameter_count,
        "layers": shape.num_layers,
        "hidden": shape.hidden_size,
        "weight_bytes": 2 * shape.parameter_count,
    }


def reached_by(gpu: str = GPU, found: Fit | None = None) -> dict[str, float]:
    """The speed that software reaches on a GPU according to labkit's fit: the bytes read per second, the fp16 FLOPs per second,
    and the seconds between layers.
    """
    device, share = named_gpu(gpu), (found or default_fit()).found
    return {
        "read": device.read_bytes_per_second * share.read,
        "flops": device.rate("fp16") * share.compute,
        "gap": share.layer_seconds,
    }


def link_of(gpu: str = GPU, name: str | None = None) -> dict[str, float]:
    """The seconds of a hop and the bytes per second of a link, from the catalogue: of the link `name`, or of the GPU's own link
    if there is no name.
    """
    link = with_link(named_gpu(gpu), name).link
    assert link is not None
    return {"hop": link.hop_seconds, "rate": link.bytes_per_second}


def layouts(
    model: str, gpus: int, tensor: Sequence[int] = (1, 2, 4, 8), stages: Sequence[int] = (1, 2, 3, 4)
) -> list[tuple[int, int]]:
    """The pairs (TP, PP) that use at most `gpus` GPUs and divide the model evenly."""
    shape = named_shape(model)
    pairs = [(tp, pp) for tp in tensor for pp in stages if tp * pp <= gpus]
    return [(tp, pp) for tp, pp in pairs if not does_not_divide(shape, tp, pp)]


def rows_of(
    model: str,
    pairs: Iterable[tuple[int, int]],
    batches: Iterable[int],
    *,
    gpu: str | Device = GPU,
    precision: str = "fp16",
    input_tokens: int = INPUT_TOKENS,
    output_tokens: int = OUTPUT_TOKENS,
    found: Fit | None = None,
) -> list[Row]:
    """One row for each pair (TP, PP) and batch size, even if the plan does not fit in memory."""
    device = named_gpu(gpu) if isinstance(gpu, str) else gpu
    shape, found, batches = named_shape(model), found or default_fit(), list(batches)
    plans = [
        Deployment(shape, device, tensor, stages, precision, batch, input_tokens, output_tokens)
        for tensor, stages in pairs
        for batch in batches
    ]
    return [_row(plan, found) for plan in plans]


def _row(plan: Deployment, found: Fit) -> Row:
    predicted, memory = found.predict(plan), memory_of(plan)
    return {
        "name": f"TP {plan.tensor_parallel} x PP {plan.pipeline_parallel}, batch {plan.batch}",
        "tensor_parallel": plan.tensor_parallel,
        "pipeline_parallel": plan.pipeline_parallel,
        "batch": plan.batch,
        "ms": 1e3 * predicted.seconds,
        "low_ms": 1e3 * predicted.low,
        "high_ms": 1e3 * predicted.high,
        "gib": gib(memory.total),
        "memory": {part: gib(size) for part, size in memory.to_dict().items() if part != "total"},
        "tokens_per_second": plan.batch * plan.output_tokens / predicted.seconds,
        "mostly": predicted.dominated_by,
        "link_ms": 1e3 * predicted.parts.link,
    }


@cache
def fit_to_other_lengths(input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS) -> Fit:
    """labkit's fit to FasterTransformer's tables without the rows of these lengths, so these rows are predicted, not fitted.

    Its spread is the spread of the shipped fit, which was measured on predictions for models that were left out of a fit.
    """
    lengths = (input_tokens, output_tokens)
    rows = measurements(fastertransformer(), lambda row: (row.plan.input_tokens, row.plan.output_tokens) != lengths)
    source = f"FasterTransformer's tables without {input_tokens} + {output_tokens} tokens"
    return replace(fit(rows, source=source), spread=default_fit().spread)


def ms_of(model: str, plan: tuple[int, int, int], found: Fit) -> float:
    """The predicted milliseconds of a plan (TP, PP, batch) on `GPU`."""
    (row,) = rows_of(model, [plan[:2]], [plan[2]], found=found)
    return float(row["ms"])


def per_gpu(row: Row) -> float:
    """The tokens per second of a plan, divided by its number of GPUs."""
    return float(row["tokens_per_second"] / (row["tensor_parallel"] * row["pipeline_parallel"]))


def told(row: Row, truth: Mapping[tuple[int, int, int], float]) -> str:
    """A plan in words: the predicted time with its interval, what dominates it, and the published time if there is one."""
    took = truth.get((row["tensor_parallel"], row["pipeline_parallel"], row["batch"]))
    ends = f"{row['ms']:,.0f} ms predicted ({row['low_ms']:,.0f} to {row['high_ms']:,.0f}), mostly {row['mostly']}"
    known = "not published" if took is None else f"published: {took:,.0f} ms"
    return f"{row['name']}: {ends}; {known}; {per_gpu(row):.1f} tokens per second per GPU"


def links_told(row: Row, on_paper_ms: float, found: Fit) -> str:
    """The predicted time of the links in words, with the time of the same all-reduces by the numbers on paper, and how the fit
    changes these numbers.
    """
    return (
        f"links: {row['link_ms']:.0f} ms of these; your all_reduce_ms with the numbers on paper: {on_paper_ms:.0f} ms. The fit "
        f"counts {found.found.hops:.1f} times the hop on paper, {100 * found.found.link:.0f} % of the rate, and "
        f"{1e6 * found.found.collective_seconds:.0f} microseconds of software for each all-reduce"
    )


def best_published(truth: Mapping[tuple[int, int, int], float], bound_ms: float) -> str:
    """The published row, in words, that has the most tokens per second per GPU among the rows within a time bound."""
    rates = {plan: OUTPUT_TOKENS * plan[2] / (ms / 1e3) / (plan[0] * plan[1]) for plan, ms in truth.items() if ms <= bound_ms}
    if not rates:
        return f"no published row is within {bound_ms:,.0f} ms"
    tensor, stages, batch = best = max(rates, key=lambda plan: rates[plan])
    return (
        f"best published row: TP {tensor} x PP {stages}, batch {batch}: {truth[best]:,.0f} ms, {rates[best]:.1f} tokens per "
        "second per GPU"
    )


def published(
    model: str, input_tokens: int = INPUT_TOKENS, output_tokens: int = OUTPUT_TOKENS
) -> dict[tuple[int, int, int], float]:
    """The milliseconds of FasterTransformer's table for (TP, PP, batch), measured by NVIDIA on A100 GPUs with 80 GB."""
    return {
        (row.plan.tensor_parallel, row.plan.pipeline_parallel, row.plan.batch): 1e3 * row.seconds
        for row in fastertransformer()
        if row.seconds is not None
        and (row.plan.shape.name, row.plan.input_tokens, row.plan.output_tokens) == (model, input_tokens, output_tokens)
    }
