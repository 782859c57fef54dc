"""Makes the lab's table of compilers: runs the same model in several ways, which take turns in one measurement."""

from __future__ import annotations

import gc
import logging
import time
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine, LabkitEngine
from labkit.bench.peers import PEERS
from labkit.bench.peers.onnx_runtime import kept_export
from labkit.bench.rounds import Player, Prompts
from labkit.bench.rows import agreement
from labkit.checkpoints import open_checkpoint
from labkit.errors import NotAvailable
from labkit.exercises.lab07.real_graphs import MODEL, exported, what_is_missing
from labkit.measure import Timing, compare, progress_bar

WAYS: dict[str, tuple[str, str]] = {
    "eager": ("plain", "fp32"),
    "torch.compile": ("plain-compiled", "fp32"),
    "ORT, none": ("onnxruntime-none", "fp32"),
    "ORT, all": ("onnxruntime", "fp32"),
    "ORT, int8": ("onnxruntime", "int8"),
    "labkit": (LabkitEngine.name, "fp32"),
    "labkit, int8": (LabkitEngine.name, "int8"),
}
"""The ways to run the model, each with the name of its engine in the benchmark, and its precision. The first is the reference."""
PROMPT_TOKENS, NEW_TOKENS = 64, 17
ERROR_BATCH = 8
"""How many sequences each way generates, so that their tokens can be compared with the tokens of the first way."""


def measure(seconds: float = 8.0) -> dict[str, Any]:
    """Prepare every way to run the model. Then time 16 decode steps of one sequence; the ways take turns.

    `rows` has for each way: the seconds until it is ready, the seconds of a step (median, lower and upper quartile), and its
    error. The seconds until it is ready are the time to read the weights and run a first generation, minus the time of a second
    generation; nothing that an earlier run compiled is used. For the error, each way generates 8 sequences of 17 tokens
    greedily; the error is the share of tokens that differ from the first way's tokens. `missing` says why the other ways cannot
    run on this machine, and `disturbed` says how other programs disturbed the run.
    """
    checkpoint, device = open_checkpoint(MODEL), torch.device("cpu")
    _graphs()  # graphs are written before the measurement, because writing them is not the compiler's work
    prompts = Prompts(checkpoint.config, 1, PROMPT_TOKENS, seed=7)
    many = Prompts(checkpoint.config, ERROR_BATCH, PROMPT_TOKENS, seed=8)
    players: dict[str, Player] = {}
    ready: dict[str, float] = {}
    tokens: dict[str, Tensor] = {}
    missing: dict[str, str] = {}
    bar = progress_bar("ways built")
    for number, (way, (name, precision)) in enumerate(WAYS.items()):
        bar(number, len(WAYS))
        kind: type[BenchEngine] = LabkitEngine if name == LabkitEngine.name else PEERS[name]
        try:
            kind.require(device, precision)
            ready[way], players[way] = _built(kind, checkpoint, precision, prompts)
            tokens[way] = _generated(players[way].engine, many)
        except NotAvailable as error:
            missing[way] = f"not measured here: {error}"
    bar(len(WAYS), len(WAYS))
    timings = _in_turn(players, seconds)
    first = next(iter(tokens.values()))
    rows = {
        way: {
            "ready": ready[way],
            "step": timing.median / (NEW_TOKENS - 1),
            "low": timing.low / (NEW_TOKENS - 1),
            "high": timing.high / (NEW_TOKENS - 1),
            "error": 1 - agreement(first, tokens[way]),
        }
        for way, timing in timings.items()
    }
    players.clear()
    gc.collect()
    return {
        "rows": rows,
        "missing": missing,
        "disturbed": next((one.disturbed for one in timings.values() if one.disturbed), ""),
    }


def _graphs() -> None:
    """Write the fp32 and int8 graphs, if the packages are installed and the files do not exist yet."""
    if not what_is_missing():
        logging.disable(logging.WARNING)  # ONNX Runtime's quantizer advises how to call it
        try:
            exported()
            kept_export(open_checkpoint(MODEL), "int8")
        finally:
            logging.disable(logging.NOTSET)


def _built(kind: type[BenchEngine], checkpoint: Any, precision: str, prompts: Prompts) -> tuple[float, Player]:
    """Return the seconds until an engine has read its weights and compiled the model, and the engine's player. torch's compile
    cache is empty at the start.
    """
    from torch._inductor.utils import fresh_cache

    with fresh_cache():
        begin = time.perf_counter()
        player = Player(kind(checkpoint, torch.device("cpu"), precision), prompts, NEW_TOKENS)
        player.prefill()
        player.decode()
        built = time.perf_counter()
        player.prefill()
        player.decode()
    again = time.perf_counter() - built
    player.round = 0
    return max(0.0, built - begin - again), player


def _generated(engine: BenchEngine, prompts: Prompts) -> Tensor:
    player = Player(engine, prompts, NEW_TOKENS)
    player.prefill()
    player.decode()
    return player.tokens()


def _in_turn(players: dict[str, Player], seconds: float) -> dict[str, Timing]:
    """Time the decode steps of each player. Prefills run between them and are not counted."""
    calls: dict[str, Any] = {}
    for way, player in players.items():
        calls |= {f"{way} prefill": player.prefill, way: player.decode}
    bar = progress_bar("ways in turn")
    found = compare(calls, warmup=1, min_runs=5, max_runs=30, max_seconds=seconds, spread_target=0.03, progress=bar)
    return {way: found[way] for way in players}


def table(measured: dict[str, Any]) -> dict[str, tuple[float, float, float]]:
    """The measured rows in the form that exercise 7.7 uses: (compile_seconds, step_seconds, error) by name."""
    return {way: (row["ready"], row["step"], row["error"]) for way, row in measured["rows"].items()}


def tell(measured: dict[str, Any]) -> None:
    """Print the table of compilers, and why other ways were not measured."""
    print(f"{'way':15}{'ready after':>13}{'a step':>12}{'other tokens':>15}")
    for way, row in measured["rows"].items():
        print(f"{way:15}{row['ready']:>11.2f} s{1e3 * row['step']:>9.2f} ms{row['error']:>15.1%}")
    for way, why in measured["missing"].items():
        print(f"{way}: {why}")
