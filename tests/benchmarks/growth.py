"""Measures how the time of a decode step grows with batch size and length, and compares it with the roofline.

    python -m tests.benchmarks.growth

No prefill is run: the cache is filled with random numbers, which does not change the times. A step whose cache does not fit
into the free memory is listed as not measured, with the size of the cache.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from labkit.checkpoints import open_checkpoint
from labkit.engine.capacity import free_bytes
from labkit.measure import Reader, Record, ceilings, compare
from labkit.measure.plots import sweep_plot
from labkit.measure.roofline import roofline
from labkit.model import FixedBatches, KVCache
from labkit.model.fastest_forward import fastest_forward
from labkit.model.gptj import GPTJ
from labkit.model.weight_store import read_model
from labkit.precision import as_device, as_precision

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (128, 256, 512, 1024, 2048)


def main() -> None:
    """Measure, print the table, and write the record and optionally the figure.

    The last line of the output is one JSON object.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="gpt-j-405m-synthetic")
    parser.add_argument("--precision")
    parser.add_argument("--device")
    parser.add_argument("--seconds", type=float, default=2.0, help="time limit for the runs of each point")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    device = as_device(asked.device)
    precision = as_precision(asked.precision, device)
    checkpoint = open_checkpoint(asked.model)
    limits = ceilings(device)
    model = read_model(checkpoint, precision, device)
    reader, rows, missing = Reader(device), [], []
    for batch, length in points():

        def limit_of(rate: float, batch: int = batch, length: int = length) -> float:
            best = replace(limits, read_bytes_per_second=rate)
            found = roofline(checkpoint.config, batch=batch, length=length, precision=precision, ceilings=best)
            return found.decode_seconds

        found = measure(model, batch, length, reader, limit_of, asked.seconds)
        if isinstance(found, str):
            missing.append(found)
            print(found, flush=True)
            continue
        found["precision"] = precision
        rows.append(found)
        print(f"batch {batch:3} length {length:4}: {found['decode_ms']:8.2f} ms, {found['fraction_of_limit']:.0%}", flush=True)
    settings = {"model": asked.model, "precision": precision, "device": str(device)}
    record = Record("growth", settings, rows, extra={"ceilings": limits.to_dict(), "not_measured": missing})
    if asked.save:
        record.save(asked.save)
    if asked.plot:
        draw(record, asked.plot)
    print(json.dumps({"points": len(rows), "not_measured": missing, "worst": min(row["fraction_of_limit"] for row in rows)}))


def points() -> list[tuple[int, int]]:
    """Return the pairs (batch size, length) to measure.

    They are every batch size with the shortest length, and every length with batch sizes 1, 8 and 64.
    """
    return sorted({(batch, LENGTHS[0]) for batch in BATCHES} | {(batch, n) for batch in (1, 8, 64) for n in LENGTHS})


def measure(
    model: GPTJ, batch: int, length: int, reader: Reader, limit_of: Callable[[float], float], seconds: float
) -> dict[str, Any] | str:
    """Time the step after which every sequence has `length` tokens, and compare the time with its limit.

    If the step cannot be run, return a text that says why. `limit_of` returns the least seconds of a step for a read bandwidth
    in bytes per second.
    """
    slots, config = batch * length, model.config
    needed = slots * config.kv_bytes_per_token(model.dtype.itemsize)
    free = free_bytes(model.device)
    if needed > 0.8 * free:
        return f"not measured here: batch {batch}, length {length}: a cache of {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    cache = KVCache(config, slots, device=model.device, dtype=model.dtype)
    for tensor in (cache.keys, cache.values):
        for layer in tensor:
            layer.normal_()
    forward, batches = fastest_forward(model), FixedBatches(batch, length, model.device)
    tokens = torch.randint(0, config.vocab_size, (batch,), device=model.device)

    def step() -> None:
        batches.lengths.fill_(length - 1)
        forward(batches.decode(tokens), cache)

    rates: list[float] = []
    calls = {"read": lambda: rates.append(reader.best_of()), "step": step}
    timing = compare(calls, device=model.device, warmup=1, min_runs=3, max_seconds=seconds)["step"]
    limits = [limit_of(rate) for rate in rates[-timing.runs :]]
    return {
        "batch": batch,
        "length": length,
        "decode_ms": 1e3 * timing.median,
        "decode_ms_per_token": 1e3 * timing.median / batch,
        "spread": timing.spread,
        "limit_ms": 1e3 * median(limits),
        "fraction_of_limit": median(limit / step for limit, step in zip(limits, timing.samples, strict=True)),
    }


def draw(record: Record, path: Path) -> None:
    """Draw times and limits in two files, which are named after `path`.

    The first figure is over the batch size, for the shortest length. The second figure is over the length.
    """
    rows = {(row["batch"], row["length"]): row for row in record.rows}
    shortest, several = LENGTHS[0], (1, 8, 64)
    _sweep(record, path, "batch", BATCHES, {f"length {shortest}": [(batch, shortest) for batch in BATCHES]}, rows)
    _sweep(record, path, "length", LENGTHS, {f"batch {batch}": [(batch, n) for n in LENGTHS] for batch in several}, rows)


def _sweep(
    record: Record,
    path: Path,
    along: str,
    x: tuple[int, ...],
    lines: dict[str, list[tuple[int, int]]],
    rows: dict[tuple[int, int], dict[str, Any]],
) -> None:
    """Draw one figure; points that were not measured are left out."""

    def values(key: str) -> dict[str, list[float]]:
        return {name: [rows.get(place, {}).get(key, math.nan) for place in places] for name, places in lines.items()}

    limits = {f"{name}: roofline": limit for name, limit in values("limit_ms").items()}
    figure = sweep_plot(
        x,
        values("decode_ms"),
        xlabel=along,
        ylabel="ms a step",
        limits=limits,
        title=f"Decode against {along}",
        caption=record.caption(),
    )
    figure.savefig(path.with_stem(f"{path.stem}_{along}"))


if __name__ == "__main__":
    main()
