"""Runs the rounds of a benchmark. First, each engine runs an untimed round, which records its memory and its tokens.

Then all engines are timed in turn.
"""

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
"""The pause, in seconds, before the next engine's turn.

After their work, OpenMP's threads wait in a busy loop for about 15 ms, which would take cores from the next engine.
"""


class Prompts:
    """Random prompts, which are new in every round. In the same round, all engines get the same prompts."""

    def __init__(self, config: GPTJConfig, batch: int, length: int, seed: int) -> None:
        self._shape = (batch, length)
        self._vocab = config.vocab_size
        self._seed = seed

    def __getitem__(self, round_number: int) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + round_number)
        return torch.randint(self._vocab, self._shape, generator=generator)


class Player:
    """Runs one engine through the rounds. In each round, call `prefill` first and then `decode`."""

    def __init__(self, engine: BenchEngine, prompts: Prompts, new_tokens: int) -> None:
        self.engine, self.prompts, self.new_tokens = engine, prompts, new_tokens
        self.round = 0
        self.made: list[Tensor] = []

    def prefill(self) -> None:
        """Run the prompts of this round."""
        self.made = [self.engine.prefill(self.prompts[self.round], self.new_tokens)]
        self.round += 1

    def decode(self) -> None:
        """Generate the remaining tokens of this round."""
        self.made.append(self.engine.decode(self.made[0], self.new_tokens - 1))

    def tokens(self) -> Tensor:
        """The tokens of this round, `[batch, new_tokens]`, on the host."""
        return torch.cat((self.made[0][:, None], self.made[1]), dim=1).cpu()


@dataclass(frozen=True)
class Measured:
    """The results of one engine for one batch size: the times of all rounds, and the tokens and the memory of one round.

    `read_rates` holds the memory bandwidth, in bytes read per second, that was measured just before each decode.
    """

    prefill: Timing
    decode: Timing
    tokens: Tensor
    run_bytes: int
    read_rates: tuple[float, ...]

    @property
    def end_to_end(self) -> Timing:
        """The time of prefill and decode together, for each round."""
        whole = tuple(a + b for a, b in zip(self.prefill.samples, self.decode.samples, strict=True))
        return Timing(whole, self.disturbed)

    @property
    def disturbed(self) -> str:
        """How other programs disturbed the rounds; "" if none did."""
        return self.prefill.disturbed or self.decode.disturbed


def first_round(player: Player) -> None:
    """Run the first round, in which an engine may compile, pack weights and allocate memory.

    Raises `NotAvailable` if the engine returns a wrong number of tokens.
    """
    player.prefill()
    player.decode()
    made, wanted = player.tokens().shape, (player.made[0].shape[0], player.new_tokens)
    if made != wanted:
        raise NotAvailable(f"{player.engine.name} returned {list(made)} tokens; {list(wanted)} were requested")
    player.round = 0


def watched_round(player: Player, device: torch.device) -> tuple[Tensor, int]:
    """Run one more untimed round.

    Return the tokens of this round, and how many bytes the round needed beyond those already in use.
    """
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
    """Time all players in turn for `rounds` rounds or more. `warm` holds the result of `watched_round` for each player.

    If `rounds` is above 1, a warm-up round runs first and is not counted. If `rounds` is 1, there is no warm-up round.
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
    """Wait until the threads of the previous engine are asleep."""
    time.sleep(REST_SECONDS)


def _note(reader: Reader, rates: list[float]) -> None:
    rates.append(reader.best_of())
