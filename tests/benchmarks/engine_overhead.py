"""Measures the overhead of an engine step: the time of `Engine.step` with a forward pass that computes nothing.

    python -m tests.benchmarks.engine_overhead [--batches 1,8,64] [--steps 200] [--vocab 1024] [--save FILE]

Every sequence decodes, greedily or with top-p; its prompt is computed before the clock starts. The forward pass returns the
same random logits each time, for `--vocab` tokens. So the time of a step is the time for planning, building the batch, sampling
and making events. `sampling` is the part of this time that `Sampler.sample` and copying the tokens to the host take. The goal
for greedy sequences is a time without sampling of at most 100 microseconds per step plus 5 microseconds per sequence. The last
line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

import torch

from labkit.config import GPTJConfig
from labkit.engine import Engine, SamplingParams
from labkit.measure import Record, Timing
from labkit.model import GPTJ, Batch, Forward, KVCache
from labkit.precision import as_device

GOAL_STEP, GOAL_SEQUENCE = 100e-6, 5e-6
CONTEXT = 2048


def idle_engine(vocab: int, batch: int, device: torch.device) -> Engine:
    """Make an engine whose forward pass computes nothing and returns the same logits each time."""
    config = GPTJConfig(
        hidden_size=8, num_layers=1, num_heads=1, rotary_dim=4, context_length=CONTEXT, vocab_size=vocab, eos_token_id=0
    )
    shape = {"wte": (vocab, 8), "lm_head.weight": (vocab, 8), "lm_head.bias": (vocab,)}

    def read(name: str) -> torch.Tensor:
        wide = {"fc_in.weight": (32, 8), "fc_in.bias": (32,), "fc_out.weight": (8, 32), "_proj.weight": (8, 8)} | shape
        size = next((size for part, size in wide.items() if part in name), (8,))
        return torch.zeros(size, device=device)

    logits = torch.randn(batch, vocab, device=device)

    class Nothing(Forward):
        """A forward pass that computes nothing."""

        @property
        def batch_device(self) -> torch.device:
            return device

        def forward(self, step: Batch, cache: KVCache) -> torch.Tensor:
            return logits[: len(step.logit_rows)]

    return Engine(GPTJ.from_tensors(config, read), max_batch_size=max(batch, 1), forward=Nothing())


def measure(batch: int, steps: int, vocab: int, device: torch.device, draws: bool) -> dict[str, Any]:
    """Measure the times of steps with `batch` sequences; the first steps do not count."""
    engine = idle_engine(vocab, batch, device)
    drawing: dict[str, Any] = {"temperature": 0.8, "top_p": 0.9, "seed": 1} if draws else {}
    params = SamplingParams(max_new_tokens=steps + 20, ignore_eos=True, **drawing)
    for number in range(batch):
        engine.add_request([1 + number, 2, 3, 4], params)
    while len(engine.step()) < batch:
        pass
    sampling: list[float] = []
    real = engine._ready()._sampler.sample

    def timed(*arguments: Any) -> torch.Tensor:
        started = time.perf_counter()
        tokens = real(*arguments).cpu()
        sampling.append(time.perf_counter() - started)
        return tokens

    engine._ready()._sampler.sample = timed  # type: ignore[method-assign]
    samples = []
    for _ in range(steps):
        started = time.perf_counter()
        events = engine.step()
        samples.append(time.perf_counter() - started)
        assert len(events) == batch, "a step that did not decode every sequence was timed"
    whole, sampled = Timing(tuple(samples[10:])), Timing(tuple(sampling[10:]))
    rest = Timing(tuple(a - b for a, b in zip(samples[10:], sampling[10:], strict=True)))
    goal = GOAL_STEP + batch * GOAL_SEQUENCE
    return {
        "batch": batch,
        "sampling": "temperature and top-p" if draws else "greedy",
        "step_us": round(1e6 * whole.median, 1),
        "sampling_us": round(1e6 * sampled.median, 1),
        "overhead_us": round(1e6 * rest.median, 1),
        "overhead_quartiles_us": [round(1e6 * rest.low, 1), round(1e6 * rest.high, 1)],
        "goal_us": round(1e6 * goal, 1),
        "within_goal": rest.median <= goal,
    }


def main() -> None:
    """Measure every batch size and print a table and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--device")
    parser.add_argument("--save")
    options = parser.parse_args()
    device = as_device(options.device)
    settings = {"steps": options.steps, "vocab_size": options.vocab, "context": CONTEXT, "device": str(device)}
    rows = []
    for batch in map(int, options.batches.split(",")):
        for draws in (False, True):
            rows.append(row := measure(batch, options.steps, options.vocab, device, draws))
            print(
                f"batch {batch:3d}, {row['sampling']}: {row['overhead_us']} us a step, plus {row['sampling_us']} us of "
                f"sampling (goal {row['goal_us']})"
            )
    record = Record("engine overhead", settings, rows)
    if options.save:
        record.save(options.save)
    print(json.dumps({"kind": record.kind, "settings": settings, "rows": rows, "versions": asdict(record)["versions"]}))


if __name__ == "__main__":
    main()
