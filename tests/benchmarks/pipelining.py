"""Measures how much faster a Triton ensemble of two parts is than the whole model under load, and compares this with a
prediction.

    python -m tests.benchmarks.pipelining [--model gptj-tiny] [--tokens 128] [--users 1,2,4] [--seconds 2] [--rounds 3]
        [--exports FOLDER] [--save FILE]

One real server serves the same graph in four ways: whole with one thread; in two parts with one thread each; whole with two
threads; and whole in two copies with one thread each, which takes twice the memory for weights. A request is a prefill of one
prompt. First, single requests show how long each part computes, and the prediction for several users is made from these times.
Then each of the four cases gets the same load in turn. Server and clients share the machine. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from labkit.graphs.export import export
from labkit.graphs.exported import ExportedModel, open_export
from labkit.measure import Record
from labkit.serving.repository.graph_models import GraphServing, write_graph_repository
from labkit.serving.server import Server
from labkit.serving.stress.pipelining import measure_alone, measure_in_turn

CASES = {
    "whole": (1, GraphServing("whole")),
    "parts": (2, GraphServing("parts")),
    "whole_two_threads": (1, GraphServing("whole_two_threads", threads=2)),
    "whole_twice": (1, GraphServing("whole_twice", instances=2)),
}
"""For each served model, its number of parts and how it is served."""


def write_all(folder: Path, exports: dict[int, ExportedModel]) -> None:
    """Write one model repository with all cases."""
    for count, serving in CASES.values():
        own = folder.with_name(serving.name)
        for name in write_graph_repository(own, exports[count], serving):
            shutil.move(own / name, folder / name)


def exported(model: str, folder: Path, parts: int) -> ExportedModel:
    """Return the export in `parts` parts; it is made if it is not in the folder."""
    path = folder / f"{parts}_parts"
    return open_export(path) if path.exists() else export(model, path, parts=parts)


def parts_of(name: str) -> list[str]:
    """The names of the served models that compute in a case: one for each part, or one for the whole model."""
    return [f"{name}_part_{stage}" for stage in range(CASES[name][0])] if CASES[name][0] > 1 else [name]


def main() -> None:
    """Run the benchmark. The last line is JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="gptj-tiny")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--users", default="1,2,4")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--exports", type=Path, help="a folder for the exports; those that are there are not made again")
    parser.add_argument("--save", type=Path)
    asked = parser.parse_args()
    users = [int(one) for one in asked.users.split(",")]
    with tempfile.TemporaryDirectory() as place:
        exports = {count: exported(asked.model, asked.exports or Path(place), count) for count in (1, 2)}
        (repository := Path(place) / "repository").mkdir()
        write_all(repository, exports)
        prompt = np.random.default_rng(0).integers(exports[1].config.vocab_size, size=(1, asked.tokens))
        with Server(repository, watch=False) as server:
            alone = {name: measure_alone(server.grpc, name, parts_of(name), prompt) for name in CASES}
            rows: list[dict[str, Any]] = []
            for count in users:
                found = measure_in_turn(
                    server.grpc,
                    list(CASES),
                    prompt,
                    count,
                    seconds=asked.seconds,
                    rounds=asked.rounds,
                    progress=lambda words: print(words, file=sys.stderr),
                )
                for name, loads in found.items():
                    rates = [load.rate for load in loads]
                    gains = [load.rate / whole.rate for load, whole in zip(loads, found["whole"], strict=True)]
                    copies = CASES[name][1].instances
                    predicted = alone[name].predicted_rate(count, copies)
                    rows.append(
                        {
                            "case": name,
                            "users": count,
                            "requests_per_second": statistics.median(rates),
                            "low": min(rates),
                            "high": max(rates),
                            "predicted_requests_per_second": predicted,
                            "gain": statistics.median(gains),
                            "predicted_gain": predicted / alone["whole"].predicted_rate(count),
                            "disturbed": next((load.disturbed for load in loads if load.disturbed), ""),
                        }
                    )
    settings = {"model": asked.model, "tokens": asked.tokens, "users": users, "seconds": asked.seconds, "rounds": asked.rounds}
    single = {name: asdict(one) | {"overhead": one.overhead} for name, one in alone.items()}
    record = Record("pipelining", settings, rows, extra={"alone": single})
    for name, one in alone.items():
        computing = ", ".join(f"{1e3 * seconds:.2f} ms" for seconds in one.computing.values())
        print(f"{name:18} alone: {1e3 * one.latency:.2f} ms; computing takes {computing}")
    for row in rows:
        print(
            f"{row['case']:18} {row['users']} users: {row['requests_per_second']:7.1f} requests/s "
            f"(predicted {row['predicted_requests_per_second']:7.1f}), gain {row['gain']:.2f} "
            f"(predicted {row['predicted_gain']:.2f}) {row['disturbed']}"
        )
    if asked.save:
        record.save(asked.save)
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
