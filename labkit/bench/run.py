"""Run the engines in turn on fresh prompts, prefill and decode apart, and set them against each other and the roofline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import PEERS, BenchEngine, LabkitEngine
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.config import GPTJConfig
from labkit.engine.loader import check_memory
from labkit.errors import InvalidRequest
from labkit.measure import Ceilings, Record, Timing, ceilings, compare, gpu_peak_bytes, peak_host_memory, ratio, roofline
from labkit.measure.gpu_state import gpu_state
from labkit.measure.roofline import ELEMENT_BYTES
from labkit.precision import as_device, as_dtype, precision_name


@dataclass(frozen=True)
class BenchSettings:
    """What to run. `batches` are run one after the other; `against` names peers; `seconds` bounds each batch's runs."""

    model: str = "gptj-tiny"
    batches: tuple[int, ...] = (1,)
    prompt_tokens: int = 128
    new_tokens: int = 64
    precision: str | None = None
    device: str | None = None
    against: tuple[str, ...] = ("hf",)
    seed: int = 0
    seconds: float = 20.0

    def check(self, config: GPTJConfig) -> None:
        """Raise `InvalidRequest` for peers that are none, sizes that do not fit `config`, and what cannot be measured."""
        unknown = [name for name in self.against if name not in PEERS]
        if unknown:
            raise InvalidRequest(f"peer {unknown[0]!r} is not known here; {', '.join(PEERS)} is accepted")
        if min(self.batches, default=0) < 1 or self.prompt_tokens < 1 or self.new_tokens < 2:
            raise InvalidRequest(
                f"batch {list(self.batches)}, prompt_tokens {self.prompt_tokens}, new_tokens {self.new_tokens}: batches and "
                "prompts of at least 1 and at least 2 new tokens (one of the prefill, one of decode) are accepted"
            )
        if not 0 < self.seconds < math.inf:
            raise InvalidRequest(f"seconds is {self.seconds}; a number above 0 is accepted")
        if self.prompt_tokens + self.new_tokens > config.context_length:
            raise InvalidRequest(
                f"{self.prompt_tokens} prompt and {self.new_tokens} new tokens exceed the context of {config.context_length}"
            )


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


def run_bench(settings: BenchSettings, progress: Callable[[str], None] = lambda message: None) -> Record:
    """Run the benchmark and give its record: a row for every engine and batch, and the ratios to each peer.

    Raises `InvalidRequest` for settings that cannot be run and `InsufficientResources` when the weights do not fit.
    """
    checkpoint = open_checkpoint(settings.model, seed=settings.seed)
    settings.check(checkpoint.config)
    device = as_device(settings.device)
    dtype = as_dtype(settings.precision, device)
    if precision_name(dtype) not in ELEMENT_BYTES:
        raise InvalidRequest(f"precision is {precision_name(dtype)!r}; the bench runs in {', '.join(ELEMENT_BYTES)}")
    check_memory(checkpoint, device, dtype)
    progress(f"measuring the ceilings of {device}")
    limits = ceilings(device)
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    engines, weights_peak = _build(settings, checkpoint, device, dtype, progress)
    for batch in settings.batches:
        progress(f"batch {batch}: {', '.join(engines)}, in turn")
        found = _run_batch(settings, checkpoint.config, engines, batch, device, limits, precision_name(dtype), weights_peak)
        rows += found[0]
        ratios += found[1]
    asked = asdict(settings) | {"precision": precision_name(dtype), "device": str(device)}
    state = gpu_state(device.index or 0) if device.type == "cuda" else None
    extra = {
        "ratios": ratios,
        "ceilings": limits.to_dict(),
        "config": checkpoint.config.to_dict(),
        "gpu_state": state.to_dict() if state else "not measured here: no GPU in this run",
    }
    return Record("bench", asked, rows, extra=extra)


def _build(
    settings: BenchSettings,
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[str], None],
) -> tuple[dict[str, BenchEngine], dict[str, int]]:
    """Build labkit and the peers; with each, the memory its weights took."""
    engines: dict[str, BenchEngine] = {}
    taken: dict[str, int] = {}
    kinds: list[type[BenchEngine]] = [LabkitEngine, *(PEERS[name] for name in settings.against)]
    for kind in kinds:
        progress(f"building {kind.name}")
        before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
        with peak_host_memory() as host:
            engines[kind.name] = kind(checkpoint, device, dtype)
        on_gpu = torch.cuda.memory_allocated(device) - before if device.type == "cuda" else None
        taken[kind.name] = host.bytes if on_gpu is None else on_gpu
    return engines, taken


def _run_batch(
    settings: BenchSettings,
    config: GPTJConfig,
    engines: dict[str, BenchEngine],
    batch: int,
    device: torch.device,
    limits: Ceilings,
    precision: str,
    weights_peak: dict[str, int],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    prompts = Prompts(config, batch, settings.prompt_tokens, settings.seed + 1)
    players = {name: Player(engine, prompts, settings.new_tokens) for name, engine in engines.items()}
    peaks = {name: weights_peak[name] + _run_peak(player, device) for name, player in players.items()}
    agreement = _agreement([player.tokens() for player in players.values()])
    calls: dict[str, Callable[[], None]] = {}
    for name, player in players.items():
        calls |= {f"{name} prefill": player.prefill, f"{name} decode": player.decode}
    timings = compare(calls, device=device, warmup=1, min_runs=5, max_seconds=settings.seconds, spread_target=0.02)
    middle = settings.prompt_tokens + settings.new_tokens // 2
    limit = roofline(config, batch=batch, length=middle, precision=precision, ceilings=limits)
    rows = []
    for name in engines:
        prefill, decode = timings[f"{name} prefill"], timings[f"{name} decode"]
        whole = Timing(tuple(a + b for a, b in zip(prefill.samples, decode.samples, strict=True)))
        step = decode.median / (settings.new_tokens - 1)
        rows.append(
            {
                "engine": name,
                "precision": precision,
                "batch": batch,
                "prefill_ms": 1e3 * prefill.median,
                "decode_ms_per_token": 1e3 * step,
                "tokens_per_second": batch * settings.new_tokens / whole.median,
                "peak_bytes": peaks[name],
                "fraction_of_limit": limit.decode_seconds / step,
                "decode_bound": limit.decode_bound,
                "spread": {"prefill": prefill.spread, "decode": decode.spread, "end_to_end": whole.spread},
                "runs": decode.runs,
                "greedy_tokens_agree": agreement,
            }
        )
    return rows, [_ratios(timings, peer, batch) for peer in settings.against]


def _run_peak(player: Player, device: torch.device) -> int:
    """Memory that one untimed round takes beyond the weights, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with peak_host_memory() as host:
        player.prefill()
        player.decode()
        player.tokens()
    peak = gpu_peak_bytes(device)
    return host.bytes if peak is None else peak - before


def _agreement(tokens: Sequence[Tensor]) -> float:
    """The share of greedy tokens on which all engines agree; in fp32 it should be 1."""
    same = torch.ones_like(tokens[0], dtype=torch.bool)
    for other in tokens[1:]:
        same &= other == tokens[0]
    return float(same.double().mean())


def _ratios(timings: dict[str, Timing], peer: str, batch: int) -> dict[str, Any]:
    """How many times faster labkit is than a peer, run by run."""
    row: dict[str, Any] = {"peer": peer, "batch": batch}
    for phase in ("prefill", "decode"):
        found = ratio(timings[f"{peer} {phase}"], timings[f"{LabkitEngine.name} {phase}"])
        row[phase] = {"median": found.median, "low": found.low, "high": found.high}
    return row
