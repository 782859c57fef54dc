"""Peer `hf-compiled`: transformers' GPT-J under `torch.compile`, over its static cache."""

from __future__ import annotations

import inspect
import shutil
from typing import Any

import torch
from torch import Tensor

from labkit.bench.peers.huggingface import HuggingFaceEngine
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.host_memory import available_memory
from labkit.precision import BITS


class CompiledHuggingFaceEngine(HuggingFaceEngine):
    """`transformers`' GPT-J with a `StaticCache`; a step is compiled as one graph, for decode and on a CPU for the prefill too.

    What is easily got wrong: the cache is made once for a batch size and only reset between rounds, so that its tensors
    keep their addresses; the shapes of a batch never change, so nothing is compiled a second time; the position is a
    tensor, and so no constant of the graph; gradients are off by `no_grad`, since inductor freezes no weights that were
    made or are used in `inference_mode`. On a CPU the weights are frozen into the graphs, packed for oneDNN, where there
    is memory for these copies; on a GPU the decode step is a CUDA graph.
    The first round of a batch size compiles, which takes a minute or more; it is not timed.
    """

    name = "hf-compiled"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._on_cpu = device.type == "cpu"
        if self._on_cpu and not shutil.which("g++"):
            raise NotAvailable("peer hf-compiled needs g++, with which torch.compile builds its kernels for a CPU")
        super().__init__(checkpoint, device, precision)
        self._model.requires_grad_(False)
        self._takes_position = "cache_position" in inspect.signature(self._model.forward).parameters
        self._room: tuple[int, int] | None = None
        copies = self.weight_bytes(checkpoint.config, precision, device) // 3 * 2
        self._freeze = self._on_cpu and copies < available_memory()
        how = "CUDA graphs" if not self._on_cpu else "frozen weights" if self._freeze else "weights not frozen"
        self.detail = f"weights, activations and KV cache {precision}; torch.compile with {how}, static cache"

    @classmethod
    def weight_bytes(cls, config: GPTJConfig, precision: str, device: torch.device) -> int:
        """On a CPU three times the weights: the model's own, and those packed into the graphs of prefill and decode."""
        copies = 3 if device.type == "cpu" else 1
        return int(copies * config.parameter_count * BITS[precision] / 8)

    def _prepare(self, batch: int, length: int) -> None:
        """A static cache for `batch` sequences of `length` tokens, and steps that are compiled when they first run."""
        import transformers

        torch._dynamo.reset()  # with the graphs of the last batch size their copies of the weights go
        self._static: Any = transformers.StaticCache(config=self._model.config, max_cache_len=length)
        # Allocates the cache outside a graph, where its addresses can be declared fixed.
        self._step(torch.zeros(batch, 1, dtype=torch.long, device=self._device), self._position(0, 1))
        how: dict[str, Any] = {"options": {"freezing": self._freeze}} if self._on_cpu else {"mode": "reduce-overhead"}
        compiled: Any = torch.compile(self._step, fullgraph=True, dynamic=False, **how)
        self._prefill_step = compiled if self._on_cpu else self._step
        self._decode_step = compiled
        self._room = (batch, length)

    def _position(self, first: int, count: int) -> Tensor:
        return torch.arange(first, first + count, device=self._device)

    def _step(self, tokens: Tensor, position: Tensor) -> Tensor:
        """One forward pass over the static cache; transformers 5.0 is told the position, 5.24 counts for itself."""
        named = {self._cache_name: self._static} | ({"cache_position": position} if self._takes_position else {})
        out = self._model(tokens, use_cache=True, logits_to_keep=1, **named)
        best: Tensor = out.logits[:, -1].argmax(-1)
        return best

    @torch.no_grad()
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """One forward pass over the prompts from an empty cache."""
        batch, length = prompts.shape
        if self._room != (batch, length + new_tokens):
            self._prepare(batch, length + new_tokens)
        self._static.reset()
        self._seen = length
        first: Tensor = self._prefill_step(prompts.to(self._device), self._position(0, length))
        return first.clone()

    @torch.no_grad()
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """One compiled step a token."""
        made = []
        position = self._position(self._seen, 1)
        for _ in range(steps):
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            # A CUDA graph writes its next result where it wrote the last one.
            tokens = self._decode_step(tokens[:, None], position).clone()
            position = position + 1
            made.append(tokens)
        self._seen += steps
        return torch.stack(made, dim=1)
