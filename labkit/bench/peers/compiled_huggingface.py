"""Peer `hf-compiled`: transformers' GPT-J under `torch.compile`, with a static cache."""

from __future__ import annotations

import inspect
import shutil
from typing import Any

import torch
from torch import Tensor

from labkit.bench.peers.huggingface import HuggingFaceEngine
from labkit.bits_per_weight import BITS
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable
from labkit.host_memory import available_memory


class CompiledHuggingFaceEngine(HuggingFaceEngine):
    """`transformers`' GPT-J with a `StaticCache`. The decode step is compiled as one graph.

    On a CPU, the prefill is also compiled as one graph. Four details matter for the speed. The cache is created once per batch
    size and only reset between rounds, so its tensors keep their addresses. The shapes of a batch never change, so nothing is
    compiled twice. The position is a tensor, so the graph does not contain it as a constant. Gradients are switched off by
    `no_grad`, because inductor does not freeze weights that were created or are used in `inference_mode`. On a CPU with enough
    memory, the weights are frozen into the graphs and packed for oneDNN. On a GPU the decode step is a CUDA graph. In the first
    round with a batch size, compiling takes a minute or more; this round is not timed.
    """

    name = "hf-compiled"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._on_cpu = device.type == "cpu"
        if self._on_cpu and not shutil.which("g++"):
            raise NotAvailable("peer hf-compiled needs g++, because torch.compile builds its CPU kernels with it; install g++")
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
        """On a CPU there are three copies of the weights: in the model, in the prefill graph and in the decode graph."""
        copies = 3 if device.type == "cpu" else 1
        return int(copies * config.parameter_count * BITS[precision] / 8)

    def _prepare(self, batch: int, length: int) -> None:
        """Make a static cache for `batch` sequences of `length` tokens, and a prefill and decode step for this cache.

        `torch.compile` compiles a step when it runs for the first time.
        """
        import transformers

        torch._dynamo.reset()  # frees the graphs of the last batch size and their copies of the weights
        self._static: Any = transformers.StaticCache(config=self._model.config, max_cache_len=length)
        # Run once outside a graph to allocate the cache: its addresses can be marked as fixed only outside a graph.
        self._step(torch.zeros(batch, 1, dtype=torch.long, device=self._device), self._position(0, 1))
        how: dict[str, Any] = {"options": {"freezing": self._freeze}} if self._on_cpu else {"mode": "reduce-overhead"}
        compiled: Any = torch.compile(self._step, fullgraph=True, dynamic=False, **how)
        self._prefill_step = compiled if self._on_cpu else self._step
        self._decode_step = compiled
        self._room = (batch, length)

    def _position(self, first: int, count: int) -> Tensor:
        return torch.arange(first, first + count, device=self._device)

    def _step(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Run one forward pass over the static cache.

        transformers 5.0 needs the position as an argument; transformers 5.24 does not.
        """
        named = {self._cache_name: self._static} | ({"cache_position": position} if self._takes_position else {})
        out = self._model(tokens, use_cache=True, logits_to_keep=1, **named)
        best: Tensor = out.logits[:, -1].argmax(-1)
        return best

    @torch.no_grad()
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run one forward pass over the prompts, starting with an empty cache."""
        batch, length = prompts.shape
        if self._room != (batch, length + new_tokens):
            self._prepare(batch, length + new_tokens)
        self._static.reset()
        self._seen = length
        first: Tensor = self._prefill_step(prompts.to(self._device), self._position(0, length))
        return first.clone()

    @torch.no_grad()
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one compiled step per token."""
        made = []
        position = self._position(self._seen, 1)
        for _ in range(steps):
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            # A CUDA graph overwrites its last result with the next result, so keep a copy.
            tokens = self._decode_step(tokens[:, None], position).clone()
            position = position + 1
            made.append(tokens)
        self._seen += steps
        return torch.stack(made, dim=1)
