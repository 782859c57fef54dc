"""Peer `openvino`: Intel's runtime for CPUs with its own pipeline for language models."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.openvino_model import convert
from labkit.bench.peers.telemetry import without_telemetry
from labkit.bits_per_weight import BITS
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig
from labkit.environment import find_cpu
from labkit.errors import InsufficientResources
from labkit.host_memory import available_memory

MAX_BATCHED_TOKENS = 1 << 16
"""The largest number of tokens in one step. It is so large that one step runs all prompts, as in the other engines."""

COPIES = {"int4": 2.4}
"""The memory in use after the first steps, divided by the bytes of the weights, in each precision that is listed.

In all other precisions this quotient is 1.9. The quotients were measured with a model of 1.0 B parameters.
"""


def runtime_settings(precision: str) -> dict[str, Any]:
    """The settings of OpenVINO's CPU plugin for weights in this precision; all other settings keep their defaults."""
    bf16 = precision != "fp32" and "avx512_bf16" in find_cpu().instruction_sets
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return settings | ({"KV_CACHE_PRECISION": "f32"} if precision == "fp32" else {})


class OpenVINOEngine(BenchEngine):
    """OpenVINO GenAI's `ContinuousBatchingPipeline` with paged attention. The benchmark calls the pipeline's `step`.

    OpenVINO's runtime without GenAI is as fast in decode but slower in prefill, because it computes the logits of every
    position. Prefix caching is off. Otherwise OpenVINO's defaults are kept: activations are bfloat16 if the CPU can multiply
    bfloat16; for matrix multiplications with int8 and int4 weights, the activations are quantized during the run; the KV cache
    has 8 bits. In fp32, activations and KV cache are float32, because in this precision the engines' tokens are compared.
    """

    name = "openvino"
    packages = ("openvino", "openvino_genai", "nncf", "transformers")

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        needed, free = self.weight_bytes(checkpoint.config, precision, device), available_memory()
        if needed > free:
            raise InsufficientResources(
                f"openvino needs {needed / 1e9:.1f} GB for the weights of {checkpoint.name} and their packed copies; "
                f"{free / 1e9:.1f} GB are free"
            )
        without_telemetry()
        import openvino_genai

        self._folder = tempfile.TemporaryDirectory(prefix="labkit-openvino-")  # the weights stay memory-mapped from this folder
        weights = convert(checkpoint, Path(self._folder.name), precision)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
        scheduler.dynamic_split_fuse = False
        scheduler.enable_prefix_caching = False
        settings = runtime_settings(precision)
        activations = settings["INFERENCE_PRECISION_HINT"].replace("f32", "fp32")
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(self._folder.name, scheduler, "CPU", settings)
        self._handles: list[Any] = []
        cache = "fp32" if precision == "fp32" else "u8"
        self.detail = f"weights {weights}, activations {activations}, KV cache {cache}"
        if precision in ("int8", "int4"):
            self.detail += ", products' inputs quantized dynamically"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """On a CPU: fp32, bf16, fp16, int8 and int4. On a GPU, none."""
        return ("fp32", "bf16", "fp16", "int8", "int4") if device.type == "cpu" else ()

    @classmethod
    def weight_bytes(cls, config: GPTJConfig, precision: str, device: torch.device) -> int:
        """About twice the bytes of the weights: OpenVINO keeps both the weights that it read and their packed copies."""
        return int(COPIES.get(precision, 1.9) * config.parameter_count * BITS[precision] / 8)

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Add a request for every prompt, then run steps until each request has its first token."""
        import openvino
        import openvino_genai

        for handle in self._handles:
            handle.cancel()
        config = openvino_genai.GenerationConfig()
        config.set_eos_token_id(0)  # OpenVINO needs some id; `ignore_eos` makes every generation reach its full length
        config.ignore_eos = True
        config.do_sample = False
        config.max_new_tokens = new_tokens
        rows = prompts.cpu().numpy()
        add = self._pipeline.add_request
        self._handles = [add(index, openvino.Tensor(rows[index : index + 1]), config) for index in range(len(rows))]
        while not all(handle.can_read() for handle in self._handles):
            self._pipeline.step()
        return torch.tensor([self._read(handle)[0] for handle in self._handles])

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run steps until every request has all of its tokens."""
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        made = [self._read(handle) for handle in self._handles]
        self._handles = []
        return torch.tensor(made)[:, :steps]

    @staticmethod
    def _read(handle: Any) -> list[int]:
        made: list[int] = []
        while handle.can_read():
            (output,) = handle.read().values()
            made += output.generated_ids
        return made
