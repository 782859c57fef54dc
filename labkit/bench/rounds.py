"""Rounds of a benchmark: fresh prompts, one untimed round of each engine for its memory and tokens, then timed ones in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.measure import Reader, Timing, compare, gpu_peak_bytes, peak_host_memory

REST_SECONDS = 0.05
"""Before another's turn: threads that wait for work spin for some 15 ms, labkit's and OpenMP's, and would take cores."""


class Prompts:
    """Fresh random prompts for every round; each engine gets the same ones in the same round."""

    def __init__(self, config: GPTJConfig, batch: int, length: int, seed: int) -> None:
        self._shape = (batch, length)
        self._vocab = config.vocab_size
        self._seed = seed

    def __getitem__(self, round_number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + round_number)
        return torch.randint(self._vocab, self._shape, generator=generator)


class Player:
    """Drives one engine through the rounds: `prefill`, then `decode` of what came of it."""

    def __init__(self, engine: BenchEngine, prompts: Prompts, new_tokens: int) -> None:
        self.engine, self.prompts, self.new_tokens = engine, prompts, new_tokens
        self.round = 0
        self.made: list[Tensor] = []

    def prefill(self) -> None:
        """Run this round's prompts."""
        self.made = [self.engine.prefill(self.prompts[self.round], self.new_tokens)]
        self.round += 1

    def decode(self) -> None:
        """Make the rest of this round's tokens."""
        self.made.append(self.engine.decode(self.made[0], self.new_tokens - 1))

    def tokens(self) -> Tensor:
        """This round's tokens `[batch, new_tokens]` on the host."""
        return torch.cat((self.made[0][:, None], self.made[1]), dim=1).cpu()


@dataclass(frozen=True)
class Measured:
    """What one engine did with one batch size: times of each round, the tokens of the first, memory beyond its weights.

    `read_rates`: bytes a second that the memory gave in each round, just before the decode.
    """

    prefill: Timing
    decode: Timing
    tokens: Tensor
    run_bytes: int
    read_rates: tuple[float, ...]

    @property
    def end_to_end(self) -> Timing:
        """Prefill and decode of each round together."""
        return Timing(tuple(a + b for a, b in zip(self.prefill.samples, self.decode.samples, strict=True)))


def first_round(player: Player) -> None:
    """The round in which an engine compiles, packs and allocates what it only then can.

    Raises `NotAvailable`, saying so, when it made another number of tokens than it was asked for.
    """
    player.prefill()
    player.decode()
    made, wanted = player.tokens().shape, (player.made[0].shape[0], player.new_tokens)
    if made != wanted:
        raise NotAvailable(f"{player.engine.name} made {list(made)} tokens, {list(wanted)} were asked for")
    player.round = 0


def watched_round(player: Player, device: torch.device) -> tuple[Tensor, int]:
    """The tokens of one more untimed round, and the bytes it took beyond what was held before."""
    before = 0
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with peak_host_memory() as host:
        player.prefill()
        player.decode()
        tokens = player.tokens()
    peak = gpu_peak_bytes(device)
    return tokens, host.bytes if peak is None else peak - before


def run_in_turn(
    players: Mapping[str, Player], warm: Mapping[str, tuple[Tensor, int]], device: torch.device, seconds: float, rounds: int
) -> dict[str, Measured]:
    """Time all players in turn, `rounds` rounds or more, with `warm` from their `watched_round`.

    A single round is taken at once; otherwise the first one in turn does not count.
    """
    reader = Reader(device)
    rates: dict[str, list[float]] = {name: [] for name in players}
    calls: dict[str, Callable[[], object]] = {}
    for name, player in players.items():
        calls |= {
            f"{name} rest": rest,
            f"{name} prefill": player.prefill,
            f"{name} read": partial(_note, reader, rates[name]),
            f"{name} rest again": rest,
            f"{name} decode": player.decode,
        }
    timings = compare(calls, device=device, warmup=min(1, rounds - 1), min_runs=rounds, max_seconds=seconds, spread_target=0.02)
    found = {}
    for name in players:
        prefill, decode = timings[f"{name} prefill"], timings[f"{name} decode"]
        found[name] = Measured(prefill, decode, *warm[name], tuple(rates[name][-decode.runs :]))
    return found


def rest() -> None:
    """Let the threads of whoever had the last turn fall asleep."""
    time.sleep(REST_SECONDS)


def _note(reader: Reader, rates: list[float]) -> None:
    rates.append(reader.best_of())
