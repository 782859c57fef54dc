"""Times prefill and decode of several engines in turn on new prompts; compares them with each other and with the roofline."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from labkit.bench.beside import busy_processes
from labkit.bench.engines import PRECISIONS, BenchEngine, LabkitEngine, of_kv_cache
from labkit.bench.parallel_engine import of_layout
from labkit.bench.peers import PEERS
from labkit.bench.rounds import Measured, Player, Prompts, first_round, run_in_turn, watched_round
from labkit.bench.rows import about_engine, ratios_of, rows_of
from labkit.bench.settings import BenchSettings
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.config import GPTJConfig
from labkit.engine.capacity import free_bytes, slot_bytes, step_bytes
from labkit.engine.loader import check_memory
from labkit.errors import InsufficientResources, InvalidRequest, LabkitError, NotAvailable
from labkit.measure import Ceilings, Record, Roofline, ceilings, roofline
from labkit.measure.gpu_state import gpu_state
from labkit.measure.memory import give_back_free_memory, resident_bytes
from labkit.parallel.predicted_traffic import GPU, predicted_scaling
from labkit.precision import as_device, as_precision, compute_dtype

SHARE_OF_MEMORY = 0.8
"""If all engines together need more than this share of the free memory, they run one at a time."""


def run_bench(
    settings: BenchSettings,
    progress: Callable[[str], None] = lambda message: None,
    checkpoint: Checkpoint | None = None,
) -> Record:
    """Run the benchmark and return its record: a row per engine and batch, and how much faster labkit is than each peer.

    `checkpoint` holds the weights of `settings.model`, if the caller has already opened them. `extra["not_measured"]` lists
    what could not be measured on this machine, with the reason. Raises `InvalidRequest` for settings that are not accepted,
    `InsufficientResources` when the weights, or the cache and the prefill of the largest batch, do not fit, and `NotAvailable`
    when no engine could be measured.
    """
    checkpoint = checkpoint or open_checkpoint(settings.model, seed=settings.seed)
    settings.check(checkpoint.config)
    device = as_device(settings.device)
    precisions = list(dict.fromkeys(as_precision(name, device) for name in settings.precisions or (None,)))
    for precision in precisions:
        if precision not in PRECISIONS:
            raise InvalidRequest(f"precision is {precision!r}; the bench runs in {', '.join(PRECISIONS)}")
        check_memory(checkpoint, device, precision)
        _check_batches(settings, checkpoint.config, device, precision)
    progress(f"measuring the ceilings of {device}")
    limits = ceilings(device, seconds=min(1.0, settings.seconds))
    sessions = [Session(settings, checkpoint, device, precision, progress) for precision in precisions]
    rows: list[dict[str, Any]] = []
    ratios: list[dict[str, Any]] = []
    for session in sessions:
        with busy_processes(settings.beside):
            session.run()
        rows += session.rows(limits)
        ratios += session.ratios()
    not_measured = [row for session in sessions for row in session.not_measured]
    if not rows:
        raise NotAvailable("; ".join(f"{row['engine']}: {row['why']}" for row in not_measured))
    asked = asdict(settings) | {"precisions": precisions, "device": str(device)}
    state = gpu_state(device.index or 0) if device.type == "cuda" else None
    extra = {
        "ratios": ratios,
        "not_measured": not_measured,
        "ceilings": limits.to_dict(),
        "config": checkpoint.config.to_dict(),
        "gpu_state": state.to_dict() if state else "not measured here: no GPU in this run",
    }
    if settings.layouts:
        extra["predicted_scaling"] = {
            "of": "tensor parallel decode at batch 1 in 16 bits, compared with one GPU; a prediction, not measured",
            "link": f"NVLink of an {GPU}",
            "times_faster": predicted_scaling(checkpoint.config),
        }
    return Record("bench", asked, rows, extra=extra)


def _check_batches(settings: BenchSettings, config: GPTJConfig, device: torch.device, precision: str) -> None:
    """Raise `InsufficientResources` if labkit's KV cache and prefill of the largest batch do not fit beside the weights."""
    batch, dtype = max(settings.batches), compute_dtype(precision, device)
    cache = (1 + batch * (settings.prompt_tokens + settings.new_tokens)) * slot_bytes(config, device, dtype)
    step = step_bytes(config, dtype, batch, batch * settings.prompt_tokens)
    weights, free = LabkitEngine.weight_bytes(config, precision, device), free_bytes(device)
    if weights + cache + step > free:
        raise InsufficientResources(
            f"batch {batch} with {settings.prompt_tokens} prompt and {settings.new_tokens} new tokens needs "
            f"{(cache + step) / 1e9:.1f} GB on {device} for the KV cache and the prefill, but only "
            f"{max(0, free - weights) / 1e9:.1f} GB are free beside the weights in {precision}; choose a smaller batch "
            "or fewer tokens"
        )


class Session:
    """Builds and runs the engines in one precision, all together or one at a time.

    `measured` maps each batch size to a dictionary, which maps each engine's name to the engine's results; labkit comes first.
    An engine that raises an error while it is built or run is left out and listed in `not_measured`, because a peer that fails
    must not stop the other engines.
    """

    def __init__(
        self,
        settings: BenchSettings,
        checkpoint: Checkpoint,
        device: torch.device,
        precision: str,
        progress: Callable[[str], None],
    ) -> None:
        self._settings, self._checkpoint, self._device = settings, checkpoint, device
        self._precision, self._progress = precision, progress
        self.measured: dict[int, dict[str, Measured]] = {batch: {} for batch in settings.batches}
        self.about: dict[str, dict[str, Any]] = {}
        self.notes: dict[tuple[int, str], dict[str, Any]] = {}
        self.not_measured: list[dict[str, Any]] = []
        self.interleaved = True

    def run(self) -> None:
        """Measure every engine that can be measured."""
        parallel = map(of_layout, self._settings.layouts)
        caches = map(of_kv_cache, self._settings.kv_cache_dtypes)
        kinds: list[type[BenchEngine]] = [LabkitEngine, *caches, *parallel, *(PEERS[name] for name in self._settings.against)]
        usable = [kind for kind in kinds if self._try(kind.name, partial(kind.require, self._device, self._precision))]
        self.interleaved = not (self._settings.one_at_a_time or self._too_much(usable))
        for group in [usable] if self.interleaved else [[kind] for kind in usable]:
            engines: dict[str, BenchEngine] = {}
            for kind in group:
                self._try(kind.name, partial(self._build, kind, engines))
            for batch in self._settings.batches:
                self._run_batch(engines, batch)
            engines.clear()
            gc.collect()

    def rows(self, limits: Ceilings) -> list[dict[str, Any]]:
        """Return one row for each measured engine and batch size. A row also compares the engine with this machine's limits."""
        settings, config = self._settings, self._checkpoint.config
        middle = settings.prompt_tokens + settings.new_tokens // 2
        rows: list[dict[str, Any]] = []
        for batch, measured in self.measured.items():

            def limit_of(rate: float, batch: int = batch) -> Roofline:
                best = replace(limits, read_bytes_per_second=rate)
                return roofline(config, batch=batch, length=middle, precision=self._precision, ceilings=best)

            about = {name: self.about[name] | self.notes[batch, name] for name in measured}
            if measured:
                rows += rows_of(batch, self._precision, measured, about, limit_of, self.interleaved)
        return rows

    def ratios(self) -> list[dict[str, Any]]:
        """Return, for each batch size and each peer, how many times faster labkit is than the peer."""
        found = [row for batch, measured in self.measured.items() for row in ratios_of(batch, measured, self.interleaved)]
        return [row | {"precision": self._precision} for row in found]

    def _try(self, name: str, do: Callable[[], object], **where: int) -> bool:
        """Call `do` and return whether it succeeded; if it failed, store the reason."""
        try:
            do()
        except LabkitError as error:
            why = str(error)
        except Exception as error:
            if name == LabkitEngine.name:  # an error of labkit itself is a defect and must not be hidden
                raise
            why = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        else:
            return True
        gc.collect()
        self.not_measured.append({"engine": name, "precision": self._precision, **where, "why": f"not measured here: {why}"})
        self._progress(f"{name}: not measured here: {why}")
        return False

    def _too_much(self, kinds: list[type[BenchEngine]]) -> bool:
        """Whether the weights of all engines together would take too much of the free memory."""
        if len(kinds) < 2:
            return False
        needed = sum(kind.weight_bytes(self._checkpoint.config, self._precision, self._device) for kind in kinds)
        return needed > SHARE_OF_MEMORY * free_bytes(self._device)

    def _build(self, kind: type[BenchEngine], engines: dict[str, BenchEngine]) -> None:
        """Build one engine and record how much memory it holds afterwards.

        Memory that was needed only while the engine was built is not counted.
        """
        self._progress(f"building {kind.name}")
        give_back_free_memory()
        started, before = time.perf_counter(), self._held()
        engine = engines[kind.name] = kind(self._checkpoint, self._device, self._precision)
        give_back_free_memory()
        self.about[kind.name] = about_engine(engine, max(0, self._held() - before), time.perf_counter() - started)

    def _held(self) -> int:
        if self._device.type == "cuda":
            return int(torch.cuda.memory_allocated(self._device))
        return resident_bytes()

    def _run_batch(self, engines: dict[str, BenchEngine], batch: int) -> None:
        settings = self._settings
        prompts = Prompts(self._checkpoint.config, batch, settings.prompt_tokens, settings.seed + 1)
        players = {name: Player(engine, prompts, settings.new_tokens) for name, engine in engines.items()}
        warm: dict[str, tuple[Tensor, int]] = {}
        for name, player in players.items():
            self._progress(f"batch {batch}: first round of {name}")
            self._try(name, partial(self._warm_up, name, player, warm), batch=batch)
        if warm:
            self._progress(f"batch {batch}: {', '.join(warm)}{', in turn' if len(warm) > 1 else ''}")
            timed = {name: players[name] for name in warm}
            self.measured[batch] |= run_in_turn(timed, warm, self._device, settings.seconds, settings.rounds)
            for name, player in timed.items():
                self.notes[batch, name] = {"held_bytes": self.about[name]["held_bytes"]} | player.engine.notes()

    def _warm_up(self, name: str, player: Player, warm: dict[str, tuple[Tensor, int]]) -> None:
        give_back_free_memory()
        before = self._held()
        first_round(player)
        give_back_free_memory()
        self.about[name]["held_bytes"] += max(0, self._held() - before)  # some engines pack their weights at first use
        warm[name] = watched_round(player, self._device)
