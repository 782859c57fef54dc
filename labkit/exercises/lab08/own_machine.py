"""Times batches of several sizes on the learner's machine, and predicts the times from the first and the last batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

import labkit
from labkit.bench.plan_check import measured_device
from labkit.engine import Engine
from labkit.environment import describe
from labkit.measure import Ceilings, Timing, ceilings, compare, progress_bar
from labkit.measure.how_far import PREDICTION
from labkit.measure.plots import prediction_plot
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import CPU, CPU_WIDTHS, GPU_WIDTHS, Efficiencies
from labkit.planning.fit import Measurement, Prediction, fit
from labkit.planning.shape import Shape

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODEL = "gptj-tiny"
PROMPT_TOKENS, NEW_TOKENS = 64, 16


def plan_of(engine: Engine, limits: Mapping[str, Any], batch: int) -> Deployment:
    """The deployment of an engine on this machine. `limits` are the results of `measure.ceilings`, as plain values."""
    device = measured_device(Ceilings(**limits), describe())
    shape = Shape.of_config(engine.config, MODEL)
    return Deployment(shape, device, 1, 1, _precision(engine), batch, PROMPT_TOKENS, NEW_TOKENS)


def _precision(engine: Engine) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[engine.dtype]


def seconds_of(engine: Engine, batches: Sequence[int], seconds: float = 15.0) -> dict[str, Timing]:
    """Time a batch of requests for each batch size; the batch sizes take turns. Keys are the batch sizes as text.

    Each call has new prompts. The engine keeps the keys and values of prompts that it has seen, so a second call with the same
    prompts would hardly need a prefill.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    params = labkit.SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)

    def once(batch: int) -> None:
        shape = batch, PROMPT_TOKENS
        prompts = torch.randint(1, engine.config.vocab_size, shape, generator=generator, dtype=torch.int64, device="cpu")
        engine.generate(prompts.tolist(), params)

    calls = {str(batch): lambda batch=batch: once(batch) for batch in batches}
    return compare(calls, warmup=2, min_runs=5, max_runs=15, max_seconds=seconds, progress=progress_bar("batches in turn"))


def limits_here() -> dict[str, Any]:
    """This machine's limits, as plain values. Takes about four seconds."""
    return ceilings(progress=progress_bar("this machine's limits")).to_dict()


def predictions(engine: Engine, limits: Mapping[str, Any], timings: Mapping[str, Timing]) -> dict[str, Prediction]:
    """The seconds of each batch, predicted by labkit's model after a fit to the first and the last batch only.

    A small batch shows how fast weights are read. A large batch shows how fast matrix products are computed.
    """
    plans = {batch: plan_of(engine, limits, int(batch)) for batch in timings}
    rows = [Measurement(plans[batch], timings[batch].median) for batch in fitted_batches(timings)]
    is_cpu = rows[0].plan.device.kind == "cpu"
    start, widths = (CPU, CPU_WIDTHS) if is_cpu else (Efficiencies(), GPU_WIDTHS)
    found = fit(rows, start=start, widths=widths, source="your own measurements")
    return {batch: found.predict(plan) for batch, plan in plans.items()}


def fitted_batches(timings: Mapping[str, Timing]) -> list[str]:
    """The first and the last batch. The model is fitted to the measurements of these two."""
    names = list(timings)
    return list(dict.fromkeys((names[0], names[-1])))


def figure(
    timings: Mapping[str, Timing], found: Mapping[str, Prediction], guesses: Mapping[str, float], caption: str
) -> Figure:
    """Plot the time of each batch relative to the first batch: guessed, predicted by labkit, and measured.

    The whiskers of a prediction show its interval, and the whiskers of a measurement show its quartiles.
    """
    first = next(iter(timings.values())).median
    planner, measured = "labkit's planner", "measured"
    series = {
        PREDICTION: [guesses.get(batch, math.nan) for batch in timings],
        planner: [found[batch].seconds / first for batch in timings],
        measured: [timing.median / first for timing in timings.values()],
    }
    ranges = {
        planner: [(found[batch].low / first, found[batch].high / first) for batch in timings],
        measured: [(timing.low / first, timing.high / first) for timing in timings.values()],
    }
    names = [f"batch {batch}" + "\n(fitted)" * (batch in fitted_batches(timings)) for batch in timings]
    whiskers = "Whiskers: the interval of the planner, the quartiles of the measurement"
    labels: dict[str, Any] = {
        "ylabel": "times as long as batch 1 (log scale)",
        "title": f"Batches of {MODEL}, {PROMPT_TOKENS} + {NEW_TOKENS} tokens",
        "caption": f"{whiskers}; {caption}",
    }
    return prediction_plot(names, series, ranges=ranges, log=True, **labels)


def tell(timings: Mapping[str, Timing], found: Mapping[str, Prediction]) -> None:
    """Print measured and predicted milliseconds, with the interval and what dominates the prediction."""
    for batch, one in found.items():
        how = "fitted" if batch in fitted_batches(timings) else "predicted"
        ends = f"{1e3 * one.low:.0f} to {1e3 * one.high:.0f}"
        took = f"measured {1e3 * timings[batch].median:.0f} ms"
        print(f"batch {batch}: {took}, {how} {1e3 * one.seconds:.0f} ms ({ends}), mostly {one.dominated_by}")


def tokens_per_second(timings: Mapping[str, Timing]) -> dict[int, float]:
    """New tokens per second of each batch."""
    return {int(batch): int(batch) * NEW_TOKENS / timing.median for batch, timing in timings.items()}
