"""Measures how fast labkit and a peer run decode and prefill beside busy processes.

labkit runs with the number of threads that it chooses itself, and with fixed numbers of threads.

    python -m tests.benchmarks.busy [--model gptj-tiny,gpt-j-405m-synthetic] [--precision fp32,bf16,int8,int4] [--batch 1,8]
        [--beside 0,1,2] [--copies 1] [--quota 1.5] [--against openvino] [--seconds 2] [--rounds 4] [--save FILE] [--plot FILE]

Every engine has its own process, so that the threads of one engine do not disturb another engine. The engines take turns: in
each round, each engine works for `--seconds`. A state is a model, a precision, a batch size and a number of busy processes. The
goal is that in each state, labkit with its own choice of threads has at least 0.85 times the speed that it has with the better
fixed number of threads, and is faster than the peer. If there is one busy process, the 99th percentile of a decode step should
be at most 3 times the median.

With `--copies 2`, each engine runs in two processes that work at the same time, as two open notebooks do. With `--quota 1.5`,
each engine has the processor time of 1.5 cores, as a container can have (Linux, as root). `stopped` is then the part of the
time for which the kernel stopped the engine, because its quota was used up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from labkit.bench.beside import busy_processes
from labkit.bench.engines import BenchEngine, LabkitEngine
from labkit.bench.peers import PEERS
from labkit.checkpoints import open_checkpoint
from labkit.measure import Record
from labkit.serving.stress.summary import percentiles
from tests.benchmarks.busy_plot import draw
from tests.control_groups import cpu_quota, real_group, seconds_stopped

GOAL = 0.85
PROMPT_TOKENS, NEW_TOKENS = 128, 33
STATE_KEYS = ("model", "precision", "batch", "beside")
STATE = itemgetter(*STATE_KEYS)
"""Returns the state of a row or a ratio of the record: model, precision, batch size and number of busy processes."""


@dataclass
class Arm:
    """An engine, its processes, which work at the same time, and the times in seconds that these processes measured."""

    name: str
    processes: list[subprocess.Popen[str]]
    group: Path | None = None
    steps: list[float] = field(default_factory=list)
    prefills: list[float] = field(default_factory=list)
    stopped: list[float] = field(default_factory=list)
    """For each turn, the part of the time for which the kernel stopped the engine."""

    def run(self, seconds: float) -> None:
        """Let the engine work for this time."""
        began, before = time.perf_counter(), seconds_stopped(self.group) if self.group else 0.0
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write(f"{seconds}\n")
            process.stdin.flush()
        for process in self.processes:
            assert process.stdout is not None
            steps, prefills = json.loads(process.stdout.readline())
            self.steps += steps
            self.prefills += prefills
        if self.group:
            self.stopped.append((seconds_stopped(self.group) - before) / (time.perf_counter() - began))


def work(name: str, model: str, precision: str, batch: int, threads: int) -> None:
    """Run the process of an engine: for each line with a number of seconds, work for this time and write the times of decode
    steps and prefills.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a peer can print to stdout
    if threads:
        torch.set_num_threads(threads)
    kind: type[BenchEngine] = LabkitEngine if name.startswith("labkit") else PEERS[name]
    checkpoint = open_checkpoint(model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        engine = kind(checkpoint, torch.device("cpu"), precision)
        print(file=answers, flush=True)
        for line in sys.stdin:
            steps: list[float] = []
            prefills: list[float] = []
            end = time.perf_counter() + float(line)
            while time.perf_counter() < end:
                prompts = torch.randint(checkpoint.config.vocab_size, (batch, PROMPT_TOKENS), generator=generator)
                began = time.perf_counter()
                tokens = engine.prefill(prompts, NEW_TOKENS)
                last = time.perf_counter()
                prefills.append(last - began)
                if kind is not LabkitEngine:  # a peer generates all tokens in one call
                    engine.decode(tokens, NEW_TOKENS - 1)
                    steps.append((time.perf_counter() - last) / (NEW_TOKENS - 1))
                    continue
                for _ in range(NEW_TOKENS - 1):
                    tokens = engine.decode(tokens, 1)[:, -1]
                    now = time.perf_counter()
                    steps.append(now - last)
                    last = now
            print(json.dumps([steps, prefills]), file=answers, flush=True)


def start(stack: ExitStack, given: argparse.Namespace, name: str, model: str, precision: str, batch: int, threads: int) -> Arm:
    """Start an engine's processes and wait until their engines are built."""
    group = stack.enter_context(real_group("cpu", cpu_quota(given.quota), name.replace(" ", ""))) if given.quota else None
    command = [sys.executable, "-m", "tests.benchmarks.busy", "--work", name, "--model", model, "--precision", precision]
    command += ["--batch", str(batch), "--threads", str(threads)]
    processes = []
    for _ in range(given.copies):
        process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        if group:
            (group / "cgroup.procs").write_text(str(process.pid))
        assert process.stdout is not None
        if not process.stdout.readline():  # one after the other: two conversions of a model would need twice the memory
            raise RuntimeError(f"{name} {model} {precision}: its process ended before the engine was built")
        processes.append(process)
    return Arm(name, processes, group)


def measure(given: argparse.Namespace, model: str, precision: str, batch: int) -> list[dict[str, Any]]:
    """Return one row for each state and engine."""
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        names = {"labkit": 0} | {f"labkit, {count} fixed": count for count in given.fixed}
        arms = [start(stack, given, name, model, precision, batch, threads) for name, threads in names.items()]
        for peer in given.against:
            try:
                PEERS[peer].require(torch.device("cpu"), precision)
                arms.append(start(stack, given, peer, model, precision, batch, 0))
            except Exception as error:
                print(f"{peer} {model} {precision}: not measured here: {error}")
        for arm in arms:
            arm.run(0.1)
        for beside in given.beside:
            for arm in arms:
                arm.steps, arm.prefills, arm.stopped = [], [], []
            with busy_processes(beside):
                for _ in range(given.rounds):
                    for arm in arms:
                        arm.run(given.seconds)
            for arm in arms:
                row = {"model": model, "precision": precision, "batch": batch, "beside": beside, "engine": arm.name}
                steps = percentiles(arm.steps)
                row |= {"step_ms": steps["mean"], "step_median_ms": steps["p50"]}
                if arm.name not in given.against:
                    row["step_p99_ms"] = steps["p99"]
                if arm.stopped:
                    row["stopped"] = mean(arm.stopped)
                rows.append(row | {"prefill_ms": 1e3 * mean(arm.prefills), "steps": len(arm.steps)})
    return rows


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return two kinds of ratios for each state: labkit's time with the better fixed number of threads, and the peer's time.

    Both are divided by the time of labkit with its own choice of threads.
    """
    found = []
    for state in dict.fromkeys(map(STATE, rows)):
        mine = [row for row in rows if STATE(row) == state]
        own = next(row for row in mine if row["engine"] == "labkit")
        made = dict(zip(STATE_KEYS, state, strict=True))
        for phase in ("step_ms", "prefill_ms"):
            fixed = min(row[phase] for row in mine if row["engine"].endswith("fixed"))
            made[f"{phase[:-3]}_best_fixed"] = fixed / own[phase]
            for row in mine:
                if not row["engine"].startswith("labkit"):
                    made[f"{phase[:-3]}_{row['engine']}"] = row[phase] / own[phase]
        made["p99_of_median"] = own["step_p99_ms"] / own["step_median_ms"]
        found.append(made)
    return found


def show(rows: list[dict[str, Any]], ratios: list[dict[str, Any]]) -> None:
    """Print, for each state, a line for each engine, and the ratios."""
    for ratio in ratios:
        print("{} {}, batch {}, {} busy:".format(*STATE(ratio)))
        for row in rows:
            if STATE(row) == STATE(ratio):
                last = f", p99 {row['step_p99_ms']:.2f}" if "step_p99_ms" in row else ""
                last += f", stopped {row['stopped']:.0%} of the time" if "stopped" in row else ""
                print(f"  {row['engine']:>16}: step {row['step_ms']:.2f} ms{last}; prefill {row['prefill_ms']:.1f} ms")
        words = ", ".join(f"{key} {value:.2f}" for key, value in ratio.items() if isinstance(value, float))
        print(f"  {words} (goal: best_fixed {GOAL})", flush=True)


def main() -> int:
    """Measure, print, and save the record and the plot."""
    numbers = lambda text: [int(word) for word in text.split(",")]  # noqa: E731
    words = lambda text: [word for word in text.split(",") if word]  # noqa: E731
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=words, default=["gptj-tiny", "gpt-j-405m-synthetic"])
    parser.add_argument("--precision", type=words, default=["fp32", "bf16", "int8", "int4"])
    parser.add_argument("--batch", type=numbers, default=[1, 8])
    parser.add_argument("--beside", type=numbers, default=[0, 1, 2])
    parser.add_argument("--fixed", type=numbers, default=[1], help="fixed numbers of threads to compare with")
    parser.add_argument("--copies", type=int, default=1, help="processes of each engine that work at the same time")
    parser.add_argument("--quota", type=float, help="processor time of each engine, in cores; without it there is no limit")
    parser.add_argument("--against", type=words, default=["openvino"])
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.model[0], given.precision[0], given.batch[0], given.threads)
        return 0
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for cell in product(given.model, given.precision, given.batch):
        rows += (measured := measure(given, *cell))
        ratios += (found := compared(measured))
        show(measured, found)
    settings = {key: value for key, value in vars(given).items() if key not in ("save", "plot", "work", "threads")}
    record = Record("busy", settings, rows, extra={"ratios": ratios})
    if given.save:
        print(f"record written to {record.save(given.save)}")
    if given.plot:
        draw(record, given.plot)
        print(f"drawn to {given.plot}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
