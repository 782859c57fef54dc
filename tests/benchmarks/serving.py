"""What serving costs and brings, on gptj-tiny in a real Triton server, beside the same engine in this process.

    python -m tests.benchmarks.serving [--rounds 12] [--streams 16] [--tokens 64] [--save FILE]

Three things, in turn, round after round, on fresh prompts of 32 tokens: one prompt by the engine directly; one stream through
the server; `--streams` streams through the server at once. The goals: at least 4 times the tokens a second of one stream at
a time; a 99th percentile of the time between tokens of at most 3 times that of a stream alone; at most 0.5 ms between the
median times between tokens of a stream and of the engine directly. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.measure import Record, Timing, ratio
from labkit.serving.client import AsyncClient
from labkit.serving.install import find_server
from labkit.serving.load import Lengths, percentiles
from labkit.serving.load.prompts import Prompts
from labkit.serving.repository import ServeSettings, write_repository
from labkit.serving.server import Server

MODEL, PROMPT_TOKENS = "gptj-tiny", 32
GOALS = {"throughput": 4.0, "p99": 3.0, "overhead_ms": 0.5}


@dataclass
class Way:
    """A way to make tokens: seconds a token of each round, all tokens over all time; and all gaps, round by round."""

    seconds_a_token: list[float] = field(default_factory=list)
    gaps: list[list[float]] = field(default_factory=list)

    def note(self, began: float, streams: list[list[float]]) -> None:
        """A round: when it began, and when each token of each stream came."""
        seconds = max(moments[-1] for moments in streams) - began
        self.seconds_a_token.append(seconds / sum(map(len, streams)))
        self.gaps.append([after - before for moments in streams for before, after in pairwise(moments)])

    def to_dict(self) -> dict[str, Any]:
        """Tokens a second and the time between tokens, over all rounds."""
        timing = Timing(tuple(self.seconds_a_token))
        return {
            "tokens_per_second": 1 / timing.median,
            "tokens_per_second_quartiles": [1 / timing.high, 1 / timing.low],
            "itl_ms": percentiles([gap for gaps in self.gaps for gap in gaps]),
        }


@contextmanager
def served() -> Iterator[str]:
    """The gRPC address of a server of gptj alone. Nobody looks after it, so that nobody asks it anything meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        write_repository(Path(folder), ServeSettings(model=MODEL))
        with Server(folder, models=["gptj"], watch=False) as server:
            yield server.grpc


def direct(engine: Engine, prompt: Any, tokens: int) -> tuple[float, list[list[float]]]:
    """A prompt by the engine: when it began and when its tokens came."""
    began = time.perf_counter()
    events = engine.stream(prompt, SamplingParams(max_new_tokens=tokens, ignore_eos=True))
    return began, [[time.perf_counter() for _ in events]]


async def streamed(client: AsyncClient, prompts: list[Any], tokens: int) -> tuple[float, list[list[float]]]:
    """Prompts at once through the server."""

    async def one(prompt: Any) -> list[float]:
        pieces = client.stream(prompt, max_new_tokens=tokens, ignore_eos=True)
        return [time.perf_counter() async for _ in pieces]

    began = time.perf_counter()
    return began, list(await asyncio.gather(*map(one, prompts)))


async def measure(address: str, engine: Engine, rounds: int, streams: int, tokens: int) -> dict[str, Way]:
    """All rounds but the first, which warms up."""
    ways = {name: Way() for name in ("direct", "alone", "together")}
    prompts = Prompts(Lengths(PROMPT_TOKENS, PROMPT_TOKENS))
    async with AsyncClient(address) as client:
        for number in range(rounds + 1):
            found = {
                "direct": direct(engine, prompts.next(), tokens),
                "alone": await streamed(client, [prompts.next()], tokens),
                "together": await streamed(client, [prompts.next() for _ in range(streams)], tokens),
            }
            for name, (began, moments) in found.items():
                if number:
                    ways[name].note(began, moments)
    return ways


def compared(ways: dict[str, Way]) -> dict[str, Any]:
    """The three figures, with quartiles over rounds where there are any, and whether they keep the goals."""
    alone, together, engine = (ways[name] for name in ("alone", "together", "direct"))
    throughput = ratio(Timing(tuple(alone.seconds_a_token)), Timing(tuple(together.seconds_a_token)))
    p99 = together.to_dict()["itl_ms"]["p99"] / alone.to_dict()["itl_ms"]["p99"]
    medians = [[statistics.median(gaps) for gaps in way.gaps] for way in (alone, engine)]
    overhead = sorted(1e3 * (through - without) for through, without in zip(*medians, strict=True))
    low, middle, high = statistics.quantiles(overhead, n=4, method="inclusive")
    return {
        "throughput": throughput.median,
        "throughput_quartiles": [throughput.low, throughput.high],
        "p99": p99,
        "overhead_ms": middle,
        "overhead_ms_quartiles": [low, high],
        "within_goal": {
            "throughput": throughput.median >= GOALS["throughput"],
            "p99": p99 <= GOALS["p99"],
            "overhead_ms": middle <= GOALS["overhead_ms"],
        },
    }


def main() -> None:
    """Measure, print the three figures and JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--save")
    options = parser.parse_args()
    if find_server() is None:
        print("not measured here: no tritonserver; labkit serve --install gets one")
        return
    with served() as address, labkit.load(MODEL) as engine:
        ways = asyncio.run(measure(address, engine, options.rounds, options.streams, options.tokens))
    found = compared(ways)
    rows = [{"way": name, **way.to_dict()} for name, way in ways.items()]
    kept = {name: "kept" if kept else "MISSED" for name, kept in found["within_goal"].items()}
    print(
        f"{options.streams} streams at once, tokens a second over one at a time: {found['throughput']:.2f} x, quartiles "
        f"{found['throughput_quartiles'][0]:.2f} to {found['throughput_quartiles'][1]:.2f} (goal >= 4: {kept['throughput']})\n"
        f"{options.streams} streams at once, p99 between tokens over a stream alone: {found['p99']:.2f} x "
        f"(goal <= 3: {kept['p99']})\n"
        f"the server's part in the time between tokens: {found['overhead_ms']:.3f} ms, quartiles "
        f"{found['overhead_ms_quartiles'][0]:.3f} to {found['overhead_ms_quartiles'][1]:.3f} "
        f"(goal <= 0.5: {kept['overhead_ms']})"
    )
    for row in rows:
        itl = row["itl_ms"]
        print(
            f"  {row['way']:8}  {row['tokens_per_second']:7.0f} tokens/s, between tokens {itl['p50']:.2f} ms, "
            f"p99 {itl['p99']:.2f}"
        )
    settings = {"model": MODEL, "prompt_tokens": PROMPT_TOKENS, **vars(options)}
    del settings["save"]
    record = Record("serving", settings, rows, extra={"compared": found, "goals": GOALS})
    if options.save:
        record.save(options.save)
    print(json.dumps({"kind": record.kind, "settings": settings, "rows": rows, "compared": found}))


if __name__ == "__main__":
    main()
