"""Compares gptj-tiny in a real Triton server with the same engine in this process, to show costs and gains of serving.

    python -m tests.benchmarks.serving [--rounds 8] [--streams 16] [--tokens 64] [--seconds 1.5] [--beside 0]
        [--save FILE]

Each round runs four cases in turn on new prompts of 32 tokens: the engine and the server, each with one stream at a time and
with `--streams` streams at once. When a stream ends, the next one starts. The goals with all streams are: at least 4 times the
tokens per second of a single stream; at least 0.85 of the tokens per second of the engine alone; and a 99th percentile of the
time between tokens that is at most 3 times that of a single stream. The goal with a single stream is a median time between
tokens that is at most 0.5 ms longer through the server than with the engine alone. The figures of the engine alone show how
much of each result is not caused by the server. With `--beside 1`, another process keeps a core busy during the measurement.
The last line is JSON.

Server, engine and clients share the machine. Both engines use `--threads` threads; the default is the same as for a served
engine.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from labkit.bench.beside import busy_processes
from labkit.checkpoints import config_of
from labkit.engine import Engine, SamplingParams
from labkit.host_cores import usable_cores
from labkit.measure import Record
from labkit.serving.python_backend.engine_from_parameters import compute_threads, engine_from_parameters
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.install import find_server
from labkit.serving.stress import Lengths, RequestTimes, StressRun, StressSettings, percentiles, run_stress
from labkit.serving.stress.prompts import Prompts

MODEL, PROMPT_TOKENS, WARMUP = "gptj-tiny", 32, 0.5
GOALS = {"throughput": 4.0, "of_engine": 0.85, "p99": 3.0, "overhead_ms": 0.5}


@contextmanager
def served(settings: ServeSettings) -> Iterator[str]:
    """The gRPC address of a server with only gptj. It has no watchdog, because its requests would disturb the measurement."""
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder), settings)
        with Server(folder, models=["gptj"], watch=False) as server:
            yield server.grpc


def direct(engine: Engine, settings: StressSettings) -> StressRun:
    """Load the engine as `run_stress` loads a server: whenever a request ends, the next one starts."""
    prompts = Prompts(settings.prompt_tokens, seed=settings.seed)
    params = SamplingParams(max_new_tokens=settings.new_tokens.high, ignore_eos=True)
    run, under_way = StressRun(settings), {}
    began = time.perf_counter()
    for _ in range(settings.users or 0):
        under_way[engine.add_request(prompts.next(), params)] = RequestTimes(len(under_way), 0.0, 0.0)
    run.requests += under_way.values()
    while under_way:
        events = engine.step()
        now = time.perf_counter() - began
        for event in events:
            request = under_way[event.request]
            request.pieces.append(now)
            if event.finish_reason is None:
                continue
            request.ended = now
            del under_way[event.request]
            if now < run.end:
                following = RequestTimes(len(run.requests), now, now)
                under_way[engine.add_request(prompts.next(), params)] = following
                run.requests.append(following)
    return run


class Way:
    """One of the four cases: its times between tokens (seconds) and its tokens per second, by round."""

    def __init__(self, call: Callable[[StressSettings], StressRun], users: int) -> None:
        self._call, self._users = call, users
        self.gaps: list[list[float]] = []
        self.speeds: list[float] = []

    def run(self, number: int, seconds: float, tokens: int) -> None:
        """Run a round with prompts that no other round uses."""
        lengths = Lengths(PROMPT_TOKENS, PROMPT_TOKENS), Lengths(tokens, tokens)
        asked = StressSettings(
            users=self._users, seconds=seconds, warmup=WARMUP, prompt_tokens=lengths[0], new_tokens=lengths[1], seed=number
        )
        run = self._call(asked)
        moments = [request.pieces for request in run.requests]
        self.gaps.append([b - a for stream in moments for a, b in pairwise(stream) if run.begin <= b < run.end])
        self.speeds.append(sum(run.begin <= moment < run.end for stream in moments for moment in stream) / seconds)

    def median_gaps(self) -> list[float]:
        """The median time between tokens in each round, in milliseconds."""
        return [1e3 * statistics.median(gaps) for gaps in self.gaps]

    def p99(self) -> float:
        """The 99th percentile of the time between tokens over all rounds, in milliseconds."""
        found = percentiles([gap for gaps in self.gaps for gap in gaps])["p99"]
        assert found is not None
        return found

    def to_dict(self) -> dict[str, Any]:
        """Tokens per second (quartiles over rounds), and the time between tokens over all rounds."""
        return {
            "tokens_per_second": quartiles(self.speeds),
            "itl_ms": percentiles([gap for gaps in self.gaps for gap in gaps]),
        }


def quartiles(values: list[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4, method="inclusive")


def compared(ways: dict[str, Way]) -> dict[str, Any]:
    """The figures, as quartiles over rounds where possible, and whether they meet the goals."""
    one, many, engine_one, engine_many = (ways[name] for name in ("served 1", "served all", "engine 1", "engine all"))
    throughput = quartiles([fast / slow for fast, slow in zip(many.speeds, one.speeds, strict=True)])
    engine_throughput = quartiles([f / s for f, s in zip(engine_many.speeds, engine_one.speeds, strict=True)])
    of_engine = quartiles([fast / slow for fast, slow in zip(many.speeds, engine_many.speeds, strict=True)])
    p99, engine_p99 = many.p99() / one.p99(), engine_many.p99() / engine_one.p99()
    overhead = quartiles([a - b for a, b in zip(one.median_gaps(), engine_one.median_gaps(), strict=True)])
    return {
        "throughput": throughput,
        "of_engine": of_engine,
        "p99": p99,
        "overhead_ms": overhead,
        "engine_throughput": engine_throughput,
        "engine_p99": engine_p99,
        "within_goal": {
            "throughput": throughput[1] >= GOALS["throughput"],
            "of_engine": of_engine[1] >= GOALS["of_engine"],
            "p99": p99 <= GOALS["p99"],
            "overhead_ms": overhead[1] <= GOALS["overhead_ms"],
        },
    }


def print_figures(ways: dict[str, Way], found: dict[str, Any], streams: int) -> None:
    """Print the figures as text."""
    kept = {name: "kept" if kept else "MISSED" for name, kept in found["within_goal"].items()}
    low, middle, high = found["throughput"]
    print(
        f"{streams} streams over one at a time, tokens a second: {middle:.2f} x ({low:.2f} to {high:.2f}); goal >= 4: "
        f"{kept['throughput']}; the engine alone {found['engine_throughput'][1]:.2f} x"
    )
    low, middle, high = found["of_engine"]
    print(
        f"{streams} streams, served over the engine alone, tokens a second: {middle:.2f} x ({low:.2f} to {high:.2f}); "
        f"goal >= 0.85: {kept['of_engine']}"
    )
    print(
        f"{streams} streams over one at a time, p99 between tokens: {found['p99']:.2f} x; goal <= 3: {kept['p99']}; the engine "
        f"alone {found['engine_p99']:.2f} x"
    )
    low, middle, high = found["overhead_ms"]
    print(
        f"one stream, the server's part in the time between tokens: {middle:.3f} ms ({low:.3f} to {high:.3f}); goal <= 0.5: "
        f"{kept['overhead_ms']}"
    )
    for name, way in ways.items():
        row = way.to_dict()
        itl = row["itl_ms"]
        speed = row["tokens_per_second"][1]
        print(f"  {name:10}  {speed:6.0f} tokens/s, between tokens {itl['p50']:.2f} ms, p99 {itl['p99']:.2f} ms")


def main() -> None:
    """Measure; print the figures, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--threads", type=int, default=compute_threads(config_of(MODEL), usable_cores()))
    parser.add_argument("--beside", type=int, default=0, help="processes that keep a core busy meanwhile")
    parser.add_argument("--save")
    options = parser.parse_args()
    if find_server() is None:
        print("not measured here: no tritonserver; labkit serve --install gets one")
        return
    asked = ServeSettings(model=MODEL, threads=options.threads)
    parameters = asked.parameters()
    with served(asked) as address, engine_from_parameters(lambda name, default: parameters.get(name, default)) as engine:
        ways = {
            "engine 1": Way(lambda asked: direct(engine, asked), 1),
            "served 1": Way(lambda asked: run_stress(address, asked), 1),
            "engine all": Way(lambda asked: direct(engine, asked), options.streams),
            "served all": Way(lambda asked: run_stress(address, asked), options.streams),
        }
        with busy_processes(options.beside):
            for number in range(options.rounds):
                for place, way in enumerate(ways.values()):
                    way.run(len(ways) * number + place, options.seconds, options.tokens)
    found = compared(ways)
    print_figures(ways, found, options.streams)
    settings = {"model": MODEL, "prompt_tokens": PROMPT_TOKENS, **vars(options)}
    del settings["save"]
    rows = [{"way": name, **way.to_dict()} for name, way in ways.items()]
    record = Record("serving", settings, rows, extra={"compared": found, "goals": GOALS})
    if options.save:
        record.save(options.save)
    print(json.dumps({"kind": record.kind, "settings": settings, "rows": rows, "compared": found}))


if __name__ == "__main__":
    main()
