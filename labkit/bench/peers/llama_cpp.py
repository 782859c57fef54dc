"""Peers `llama.cpp` and `llama.cpp-q4km`: llama.cpp runs the GPT-J from a file that describes it as a Phi-2."""

from __future__ import annotations

import contextlib
from importlib import metadata

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.llama_cpp_file import Q4_K_M, bytes_read_per_step, gguf_file
from labkit.bench.peers.llama_cpp_library import LlamaModel
from labkit.bench.peers.llama_cpp_model import MATRICES
from labkit.checkpoints import Checkpoint
from labkit.config import GPTJConfig

FILE_BITS = {"fp32": 32, "bf16": 16, "fp16": 16, "int8": 8.5, "int4": 4.5}
"""The number of bits that a weight of a matrix takes in each precision, including the scales."""

DETAILS = {
    "fp32": "weights and activations fp32, KV cache fp32",
    "bf16": "weights bf16, activations bf16 in products, else fp32, KV cache fp16",
    "fp16": "weights fp16, activations fp16 in products, else fp32, KV cache fp16",
    "int8": "weights int8 (Q8_0, groups of 32), activations int8 in products, else fp32, KV cache fp16",
    "int4": "weights int4 (Q4_0, groups of 32), lm_head and embedding int8 (Q8_0), activations int8 in products, else fp32, "
    "KV cache fp16",
    Q4_K_M: "weights int4 (Q4_K_M, made by llama.cpp's quantizer, some matrices in 6 bits or more), activations int8 in "
    "products, else fp32, KV cache fp16",
}


class LlamaCppEngine(BenchEngine):
    """llama.cpp on the CPU. All sequences of a batch run in one `llama_decode`, and the largest logit chooses the token.

    The KV cache has llama.cpp's default type, except in fp32. In every precision, GELU is looked up in llama.cpp's table of
    fp16 values. The matrices of query, key and value are one matrix in the file, which saves llama.cpp two operations per
    layer.
    """

    name = "llama.cpp"
    packages = ("llama_cpp", "gguf")
    extra = "llama-cpp"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        kind = self._kind(precision)
        path = gguf_file(checkpoint, kind)
        self._model = LlamaModel(path, torch.get_num_threads(), "F32" if precision == "fp32" else "F16")
        read = bytes_read_per_step(path)
        self.detail = f"{DETAILS[kind]}, GELU from a table in fp16; {read / 1e6:.1f} MB of weights per token at batch 1"

    @staticmethod
    def _kind(precision: str) -> str:
        return precision

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """On a CPU, all precisions with a GGUF type: fp32, bf16, fp16, int8 and int4. On a GPU, none."""
        return tuple(MATRICES) if device.type == "cpu" else ()

    @classmethod
    def weight_bytes(cls, config: GPTJConfig, precision: str, device: torch.device) -> int:
        """The bytes of one copy of the weights, with the scales of the groups."""
        return int(config.parameter_count * FILE_BITS[precision] / 8)

    @classmethod
    def version(cls) -> str:
        """The version of llama-cpp-python, which contains llama.cpp."""
        return metadata.version("llama_cpp_python")

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Run all prompts, each in an empty sequence. Logits are computed only for the last token of each prompt."""
        batch, length = prompts.shape
        self._model.open(batch, length + new_tokens)
        self._seen = length
        return torch.from_numpy(self._model.feed(prompts.cpu().numpy(), 0))

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run one batch of one token per sequence for each step."""
        last, made = tokens.cpu().numpy(), []
        for _ in range(steps):
            last = self._model.feed(last[:, None], self._seen)
            self._seen += 1
            made.append(torch.from_numpy(last))
        return torch.stack(made, dim=1)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # in case the model was not loaded
            self._model.close()


class LlamaCppQ4KMEngine(LlamaCppEngine):
    """llama.cpp with its most popular format of about 4 bits, in which the more sensitive matrices have more bits."""

    name = "llama.cpp-q4km"

    @staticmethod
    def _kind(precision: str) -> str:
        return Q4_K_M

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """On a CPU, only int4. On a GPU, none."""
        return ("int4",) if device.type == "cpu" else ()
