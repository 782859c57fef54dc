"""The interface of an engine under test (`BenchEngine`), and its implementation for labkit.

The engines that labkit is compared with are in `labkit.bench.peers`, one per file. All engines get the same weights and the
same prompts.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from importlib import metadata
from typing import Any, ClassVar

import torch
from torch import Tensor

from labkit import __version__
from labkit.bits_per_weight import BITS
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.engine.schedule.slot_allocator import PADDING_SLOT
from labkit.errors import NotAvailable
from labkit.model import FixedBatches, KVCache
from labkit.model.cuda_graph import GraphedGPTJ
from labkit.model.fastest_forward import fastest_forward
from labkit.model.quantized_kv_cache import check_kv_cache_dtype
from labkit.model.weight_store import read_model
from labkit.precision import compute_dtype, precision_name
from labkit.weight_formats import FORMATS

PRECISIONS = ("fp32", "bf16", "fp16", "sparse24", "sparse24_int8", "int8", "w8a8", "int4", "fp8")
"""The precisions that the benchmark accepts. Each engine declares the precisions that it supports."""


class BenchEngine(ABC):
    """An engine under test. `prefill` starts a new batch, and `decode` continues this batch. Both choose tokens greedily.

    Work that is done only once, such as converting or compiling, belongs in `__init__` or in the first round, which is not
    timed. In all rounds with the same batch size, the tensors have the same shapes. `detail` describes the precisions that the
    engine uses for weights, activations and the KV cache.
    """

    name: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    """The packages that the engine needs. The version of the first package is reported. labkit itself needs no packages."""
    extra: ClassVar[str] = "peers"
    """The pip extra of labkit that installs these packages."""
    detail: str = ""

    @abstractmethod
    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        """Load the weights of `checkpoint` onto `device` in `precision`. Call `require` first.

        Raises `NotAvailable` or `InsufficientResources` for a reason that `require` could not detect.
        """

    @abstractmethod
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run `prompts`, int64 `[batch, length]`, in a cache with room for `new_tokens` more tokens per sequence.

        Returns the first new token of each sequence, `[batch]`.
        """

    @abstractmethod
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Continue from `tokens` `[batch]`, the result of `prefill`; return the next `steps` tokens, `[batch, steps]`.

        `steps` is `new_tokens` - 1, because `prefill` has generated the first token.
        """

    @classmethod
    @abstractmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """The precisions from `PRECISIONS` in which the engine runs on this device.

        This method is called only if the engine's packages are installed.
        """

    def notes(self) -> dict[str, Any]:
        """More entries for the engine's row in the record, such as the number of bytes communicated.

        Each call resets the counters to zero.
        """
        return {}

    @classmethod
    def require(cls, device: torch.device, precision: str) -> None:
        """Raise `NotAvailable` with the reason if a package is missing or the device or precision is not supported."""
        missing = [package for package in cls.packages if importlib.util.find_spec(package) is None]
        if missing:
            words = f"the package {missing[0]}" if len(missing) == 1 else f"the packages {', '.join(missing)}"
            raise NotAvailable(f"peer {cls.name} needs {words}; install labkit with its extra {cls.extra!r}")
        runs = cls.precisions(device)
        if precision not in runs:
            offered = f"runs {', '.join(runs)} on {device.type}, not {precision}" if runs else f"does not run on {device.type}"
            raise NotAvailable(f"{cls.name} {offered}")

    @classmethod
    def weight_bytes(cls, config: GPTJConfig, precision: str, device: torch.device) -> int:
        """Estimate how many bytes the weights take while the engine runs.

        Some engines keep more than one copy of the weights.
        """
        return int(config.parameter_count * BITS[precision] / 8)

    @classmethod
    def version(cls) -> str:
        """The version of the engine's first package, or the version of labkit if it needs no package."""
        return metadata.version(cls.packages[0]) if cls.packages else __version__


class LabkitEngine(BenchEngine):
    """labkit's model, run step by step.

    On a GPU, each step is a captured CUDA graph and passes its tokens directly to the next step.
    """

    name = "labkit"
    kv_cache_dtype: ClassVar[str | None] = None
    """The format of the KV cache; None means the model's own dtype."""

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        check_kv_cache_dtype(self.kv_cache_dtype, device)
        self._model = read_model(checkpoint, precision, device)
        self._forward = fastest_forward(self._model, padding_slot=PADDING_SLOT)
        self._describe(precision, device)

    def _describe(self, precision: str, device: torch.device) -> None:
        self._cache: KVCache | None = None
        form = FORMATS.get(precision)
        head = f", lm_head {form.head_kind}" if form and form.head_kind != precision else ""
        dtype = precision_name(compute_dtype(precision, device))
        cache = self.kv_cache_dtype or precision_name(self._model.dtype)
        self.detail = f"weights {precision}{head}, activations {dtype}, KV cache {cache}"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """On a GPU, all precisions; on a CPU, all except fp8, because a CPU computes fp8 in bf16."""
        return PRECISIONS if device.type == "cuda" else PRECISIONS[:-1]

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run prompts of equal length as one flat batch."""
        batch, length = prompts.shape
        model, slots = self._model, 1 + batch * (length + new_tokens)  # one extra slot, for the padding of a CUDA graph
        if self._cache is None or self._cache.num_slots < slots:
            self._cache = model.new_cache(slots, self.kv_cache_dtype)
        self._batches = FixedBatches(batch, length + new_tokens, model.device, first_slot=PADDING_SLOT + 1)
        with self._forward.limited_threads():
            return self._forward(self._batches.prefill(list(prompts)), self._cache).argmax(-1)

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one forward pass per step over the preallocated cache."""
        assert self._cache is not None
        if isinstance(self._forward, GraphedGPTJ):
            return self._forward.decode_greedy(self._batches.decode(tokens), self._cache, steps)
        made = []
        with self._forward.limited_threads():
            for _ in range(steps):
                tokens = self._forward(self._batches.decode(tokens), self._cache).argmax(-1)
                made.append(tokens)
        return torch.stack(made, dim=1)


def of_kv_cache(name: str) -> type[LabkitEngine]:
    """Make the engine class with a KV cache in the format `name`. The class's name is, for example, `labkit-kv-int8`."""
    about = f"labkit with a KV cache in {name}."
    return type("LabkitEngine", (LabkitEngine,), {"name": f"labkit-kv-{name}", "kv_cache_dtype": name, "__doc__": about})
