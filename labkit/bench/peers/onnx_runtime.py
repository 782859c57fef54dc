"""Peers `onnxruntime` and `onnxruntime-none`: ONNX Runtime on labkit's own export, with all its optimisations and with none."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.conversion_space import check_conversion_fits
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.graphs.export import export
from labkit.graphs.int8 import quantize_int8
from labkit.graphs.runner import GraphModel
from labkit.graphs.session import SessionSettings, missing_provider
from labkit.precision import DTYPES


class OnnxRuntimeEngine(BenchEngine):
    """The graph that `labkit export` writes, in one session of ONNX Runtime, over a growing cache that stays in the session.

    In int8, ONNX Runtime's own quantizer has rounded the weights of all matrix products, the head too; inputs of a product are
    rounded when it runs.
    """

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = "graphs"
    level: ClassVar[str] = "all"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        provider = "cpu" if device.type == "cpu" else "cuda"
        stored = "fp32" if precision == "int8" else precision
        with tempfile.TemporaryDirectory(prefix="labkit-onnxruntime-") as folder:
            place = Path(folder)
            check_conversion_fits(checkpoint, DTYPES[stored], 40 if precision == "int8" else 32, place)
            exported = export(checkpoint, place / "graph", precision=stored)
            if precision == "int8":
                exported = quantize_int8(exported, place / "int8")
            threads = torch.get_num_threads() if provider == "cpu" else None
            self._model = GraphModel(exported, SessionSettings(self.level, threads, provider))
        rest = "fp32, products with 8-bit inputs" if precision == "int8" else precision
        self.detail = f"weights {precision}, activations {rest}, KV cache {stored}; optimisation level {self.level}"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """fp32 and int8 on the CPU; fp32 and fp16 on a GPU, if ONNX Runtime has its provider for CUDA."""
        if device.type == "cpu":
            return ("fp32", "int8")
        return () if missing_provider("cuda") else ("fp32", "fp16")

    @classmethod
    def weight_bytes(cls, config: GPTJConfig, precision: str, device: torch.device) -> int:
        """ONNX Runtime packs the matrices for its products and keeps the originals."""
        return 2 * super().weight_bytes(config, precision, device)

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run one pass over the prompts from an empty cache."""
        return torch.from_numpy(self._model.prefill(prompts.cpu().numpy()).argmax(-1))

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one pass per step with the cache of the last step."""
        made, row = [], tokens.cpu().numpy()
        for _ in range(steps):
            row = self._model.step(row[:, None]).argmax(-1)
            made.append(row)
        return torch.from_numpy(np.stack(made, 1))


class UnoptimisedOnnxRuntimeEngine(OnnxRuntimeEngine):
    """The same graph, run as it was exported."""

    name = "onnxruntime-none"
    level = "none"
