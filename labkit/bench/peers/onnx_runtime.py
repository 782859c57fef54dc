"""Peers `onnxruntime` and `onnxruntime-none`: ONNX Runtime runs labkit's exported graph with or without optimisations."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.conversion_space import check_conversion_fits, checkpoint_digest
from labkit.bits_per_weight import BITS
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.graphs import export as graph_export
from labkit.graphs import plain_gptj
from labkit.graphs.exported import ExportedModel, open_export
from labkit.graphs.int8 import quantize_int8
from labkit.graphs.runner import GraphModel
from labkit.graphs.session import SessionSettings, missing_provider
from labkit.home import home
from labkit.precision import DTYPES


def kept_export(checkpoint: Checkpoint, precision: str) -> ExportedModel:
    """Return the ONNX export of a checkpoint in fp32, fp16 or int8.

    The export is kept in labkit's home folder, because tracing takes seconds per layer. Raises `InsufficientResources` if the
    disk or the memory is too small, and the same errors as `export`.
    """
    folder = home() / "peers" / "onnxruntime"
    folder.mkdir(parents=True, exist_ok=True)
    sources = [hashlib.sha256(Path(module.__file__ or "").read_bytes()).hexdigest() for module in (plain_gptj, graph_export)]
    digest = checkpoint_digest(checkpoint, *sources, *map(metadata.version, ("torch", "onnx", "onnxscript", "onnxruntime")))
    path = folder / f"{Path(checkpoint.name).name}-{precision}-{digest}"
    if path.is_dir():
        return open_export(path)
    stored = "fp32" if precision == "int8" else precision
    check_conversion_fits(checkpoint, DTYPES[stored], BITS[stored], folder)
    if precision == "int8":
        return quantize_int8(kept_export(checkpoint, "fp32"), path)
    return graph_export.export(checkpoint, path, precision=stored)


class OnnxRuntimeEngine(BenchEngine):
    """ONNX Runtime runs the graph that `labkit export` writes, in one session, in which the growing cache stays.

    In int8, ONNX Runtime's own quantizer has rounded the weights of all matrix multiplications, including the head. The inputs
    of a matrix multiplication are rounded while the model runs.
    """

    name = "onnxruntime"
    packages = ("onnxruntime", "onnx", "onnxscript")
    extra = "graphs"
    level: ClassVar[str] = "all"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        provider = "cpu" if device.type == "cpu" else "cuda"
        stored = "fp32" if precision == "int8" else precision
        threads = torch.get_num_threads() if provider == "cpu" else None
        self._model = GraphModel(kept_export(checkpoint, precision), SessionSettings(self.level, threads, provider))
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
        """Twice the bytes of the weights: ONNX Runtime packs the matrices for multiplication and keeps the originals."""
        return 2 * super().weight_bytes(config, precision, device)

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run one pass over the prompts, starting with an empty cache."""
        return torch.from_numpy(self._model.prefill(prompts.cpu().numpy()).argmax(-1))

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one pass per step. Each step continues with the cache of the previous step."""
        made, row = [], tokens.cpu().numpy()
        for _ in range(steps):
            row = self._model.step(row[:, None]).argmax(-1)
            made.append(row)
        return torch.from_numpy(np.stack(made, 1))


class UnoptimisedOnnxRuntimeEngine(OnnxRuntimeEngine):
    """ONNX Runtime runs the graph that `labkit export` writes, without optimisations."""

    name = "onnxruntime-none"
    level = "none"
