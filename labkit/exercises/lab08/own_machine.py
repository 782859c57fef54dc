"""Batches on the learner's own machine: measured in turn, and predicted from the measurement of one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

import labkit
from labkit.bench.plan_check import measured_device
from labkit.engine import Engine
from labkit.environment import describe
from labkit.measure import Ceilings, Timing, compare, progress_bar
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import CPU, CPU_WIDTHS, GPU_WIDTHS, Efficiencies
from labkit.planning.fit import Fit, Measurement, fit
from labkit.planning.shape import Shape

MODEL = "gptj-tiny"
PROMPT_TOKENS, NEW_TOKENS = 64, 16


def plan_of(engine: Engine, limits: Mapping[str, Any], batch: int) -> Deployment:
    """The deployment of an engine on this machine, whose `limits` are those of `measure.ceilings`, as plain values."""
    device = measured_device(Ceilings(**limits), describe())
    shape = Shape.of_config(engine.config, MODEL)
    return Deployment(shape, device, 1, 1, _precision(engine), batch, PROMPT_TOKENS, NEW_TOKENS)


def _precision(engine: Engine) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[engine.dtype]


def seconds_of(engine: Engine, batches: Sequence[int], seconds: float = 15.0) -> dict[str, Timing]:
    """The seconds of a batch of requests, for each batch; the batches take turns. Keys are the batches as text."""
    generator = torch.Generator("cpu").manual_seed(0)
    shape = max(batches), PROMPT_TOKENS
    prompts = torch.randint(1, engine.config.vocab_size, shape, generator=generator, dtype=torch.int64, device="cpu").tolist()
    params = labkit.SamplingParams(max_new_tokens=NEW_TOKENS, ignore_eos=True)
    calls = {str(batch): lambda batch=batch: engine.generate(prompts[:batch], params) for batch in batches}
    return compare(calls, warmup=2, min_runs=5, max_runs=15, max_seconds=seconds, progress=progress_bar("batches in turn"))


def fitted_to(engine: Engine, limits: Mapping[str, Any], timings: Mapping[str, Timing], batch: int) -> Fit:
    """labkit's model, fitted to the measurement of one batch."""
    plan = plan_of(engine, limits, batch)
    is_cpu = plan.device.kind == "cpu"
    start, widths = (CPU, CPU_WIDTHS) if is_cpu else (Efficiencies(), GPU_WIDTHS)
    return fit([Measurement(plan, timings[str(batch)].median)], start=start, widths=widths, source="your own measurement")
