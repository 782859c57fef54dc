"""Predicts p50 and p99 of a served model under random load, and compares them with `labkit stress` at three rates.

    python -m tests.benchmarks.planning_served [--model gptj-tiny] [--precision fp32] [--seconds 12] [--save FILE]

The prediction model is fitted to a few batches of the model on this machine, without a server (`labkit.bench.calibration`).
Two measurements of the server, with one user and with eight users who each wait for their answer, give the time that the server
takes in addition to the model (`labkit.planning.handling`). Then `labkit.planning.simulate` predicts the latencies at three
rates: 30, 60 and 90 percent of the rate that eight users reached. All predictions are printed before the first rate is
measured. Server and load generator share a machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from labkit.bench.calibration import calibrate
from labkit.bench.plan_check import measured_device
from labkit.bench.settings import BenchSettings
from labkit.checkpoints import config_of
from labkit.environment import describe
from labkit.measure import Record, ceilings
from labkit.planning.deployment import Deployment
from labkit.planning.fit import Fit
from labkit.planning.handling import Served, measured_handling
from labkit.planning.shape import Shape
from labkit.planning.simulate import Load, simulate
from labkit.planning.this_machine import cpu_fit
from labkit.serving.repository.writer import ServeSettings
from labkit.serving.stress import Lengths, StressSettings, run_stress
from labkit.serving.stress.summary import summarise
from tests.benchmarks.serving import served

PROMPT_TOKENS, NEW_TOKENS, MAX_BATCH = 32, 24, 16
USERS = 8
SHARES = (0.3, 0.6, 0.9)
REQUESTS = 4000
"""The number of simulated requests for each rate: enough for a stable p99."""


def stress(address: str, seconds: float, seed: int, **load: Any) -> dict[str, Any]:
    """Run a stress test in which all prompts have one length and all answers one length, as the planner assumes.

    With the seed of an earlier run, the server has seen the prompts before.
    """
    lengths = {"prompt_tokens": Lengths(PROMPT_TOKENS, PROMPT_TOKENS), "new_tokens": Lengths(NEW_TOKENS, NEW_TOKENS)}
    return summarise(run_stress(address, StressSettings(seconds=seconds, warmup=2.0, seed=seed, **lengths, **load)))


def calibrated_plan(model: str, precision: str, batch: int) -> tuple[Deployment, Fit]:
    """Measure this machine, and return the deployment of the served model on it and a fit to a few batches of the model."""

    def bench(precision: str, ranks: int, batches: Sequence[int]) -> BenchSettings:
        lengths: dict[str, Any] = {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS}
        return BenchSettings(
            model=model, batches=tuple(batches), precisions=(precision,), device="cpu", against=(), seconds=5.0, **lengths
        )

    device = measured_device(ceilings(), describe())
    shape = Shape.of_config(config_of(model), model)
    plan = Deployment(shape, device, precision=precision, batch=batch, input_tokens=PROMPT_TOKENS, output_tokens=NEW_TOKENS)
    found = calibrate(bench, [plan], cpu_fit())
    return replace(plan, device=found.device), found.found


def served_of(users: int, row: dict[str, Any]) -> Served:
    """Return the median times, in seconds, of a load in which each user waits for an answer before the next request."""
    return Served(users, row["ttft_ms"]["p50"] / 1e3, row["e2e_ms"]["p50"] / 1e3)


def row_of(found: Load, measured: dict[str, Any]) -> dict[str, Any]:
    """Return the predicted and the measured p50 and p99 at one rate, in milliseconds, and the relative errors."""
    row: dict[str, Any] = {"rate": found.rate, "stable": found.stable, "disturbed": measured["disturbed"]}
    row |= {"answered": measured["answered"], "requests": measured["requests"], "fell_behind": measured["fell_behind"]}
    for place, name in enumerate(("p50", "p99")):
        for what, predicted, key in (("whole", found.latency, "e2e_ms"), ("first", found.first_token, "ttft_ms")):
            mine, theirs = 1e3 * predicted[place], float(measured[key][name])
            row |= {
                f"{what}_{name}_predicted": mine,
                f"{what}_{name}_measured": theirs,
                f"{what}_{name}_error": mine / theirs - 1,
            }
    return row


def main() -> None:
    """Calibrate, predict, measure, print, and write the record if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gptj-tiny")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    plan, found = calibrated_plan(given.model, given.precision, MAX_BATCH)
    with served(ServeSettings(model=given.model, precision=given.precision, max_batch=MAX_BATCH)) as address:
        one, several = (stress(address, 6.0, users, users=users) for users in (1, USERS))
        handling = measured_handling(plan, found, served_of(1, one), served_of(USERS, several))
        print(handling, flush=True)
        rates = [round(share * several["requests_per_second"], 2) for share in SHARES]
        predicted = [simulate(plan, found, rate=rate, requests=REQUESTS, handling=handling) for rate in rates]
        for load in predicted:
            print(load.sentence(), flush=True)
        rows = [
            row_of(load, stress(address, given.seconds, 100 + number, rate=load.rate)) for number, load in enumerate(predicted)
        ]
    for row in rows:
        words = ", ".join(
            f"{what} {name} {row[f'{what}_{name}_measured']:.0f} ms (predicted {row[f'{what}_{name}_predicted']:.0f})"
            for what in ("whole", "first")
            for name in ("p50", "p99")
        )
        print(f"{row['rate']} requests/s: {words}{'; disturbed: ' + row['disturbed'] if row['disturbed'] else ''}")
    errors = [abs(row[f"whole_{name}_error"]) for row in rows for name in ("p50", "p99")]
    print(f"whole requests: median error {100 * median(errors):.0f} %, worst {100 * max(errors):.0f} %")
    if given.save:
        settings = {name: value for name, value in vars(given).items() if name != "save"}
        settings |= {"prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS}
        settings |= {"max_batch": MAX_BATCH, "one_user_ms": one["e2e_ms"]["p50"], "eight_users_ms": several["e2e_ms"]["p50"]}
        settings |= {"handling": asdict(handling)}
        print(f"record written to {Record('planning served', settings, rows).save(given.save)}")


if __name__ == "__main__":
    main()
