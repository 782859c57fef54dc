"""Peers `plain` and `plain-compiled`: torch runs the graph that labkit exports, operation by operation or compiled."""

from __future__ import annotations

import shutil
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.checkpoints import Checkpoint
from labkit.errors import NotAvailable
from labkit.graphs.compiled import compiled_step, plain_model


class PlainGraphEngine(BenchEngine):
    """torch runs, in eager mode, the model that `labkit export` writes to ONNX.

    Both graph compilers (ONNX Runtime and `torch.compile`) start from this model.
    """

    name = "plain"
    extra = "graphs"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._model = plain_model(checkpoint, precision, device)
        self._step: Any = self._model
        self._device = device
        self._past: list[Tensor] = []
        self.detail = f"weights, activations and KV cache {precision}; eager, growing cache"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """Only the floating-point precisions."""
        return ("fp32", "bf16", "fp16")

    @torch.no_grad()
    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run one pass over the prompts, starting with an empty cache."""
        return self._next(prompts.to(self._device), self._model.empty_past(len(prompts)), self._model)

    @torch.no_grad()
    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one pass per step. Each step continues with the cache of the previous step."""
        made = []
        for _ in range(steps):
            tokens = self._next(tokens[:, None], self._past, self._step)
            made.append(tokens)
        return torch.stack(made, dim=1)

    def _next(self, tokens: Tensor, past: list[Tensor], step: Any) -> Tensor:
        logits, *present = step(tokens, past)
        self._past = list(present)
        best: Tensor = logits.argmax(-1)
        return best


class CompiledPlainGraphEngine(PlainGraphEngine):
    """The model of `PlainGraphEngine`, with its decode step compiled by `torch.compile`.

    The decode step is compiled for dynamic sizes, because the cache grows.

    The prefill runs in eager mode, because compiling it for a single pass would take too long. The decode step is compiled in
    the first round, which is not timed.
    """

    name = "plain-compiled"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        if device.type == "cpu" and not shutil.which("g++"):
            raise NotAvailable(
                "peer plain-compiled needs g++, because torch.compile builds its CPU kernels with it; install g++"
            )
        super().__init__(checkpoint, device, precision)
        self._step = compiled_step(self._model)
        self.detail = f"weights, activations and KV cache {precision}; torch.compile for decode, growing cache"
