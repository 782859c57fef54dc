"""Peer `vllm`: vLLM's build for CPUs, in its own process and its own virtual environment."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.conversion_space import check_disk
from labkit.bench.peers.vllm_process import VLLMProcess, installed, vllm_python
from labkit.checkpoints import Checkpoint
from labkit.checkpoints.huggingface_writer import write_huggingface
from labkit.errors import NotAvailable
from labkit.precision import DTYPES

BLOCK = 128
"""The number of tokens in a block of vLLM's KV cache on a CPU; a sequence occupies whole blocks."""

LEAST_SEQUENCES = 8
"""The KV cache has room for at least this many sequences, so that a larger batch seldom needs a new process."""


class VLLMEngine(BenchEngine):
    """vLLM's `LLMEngine`, with its model compiled. The benchmark calls the engine's `step`.

    The first step runs all prompts, and each later step generates one token per prompt. So prefill and decode are timed
    separately. The times include sending one line of JSON to vLLM's process and receiving one line back. The process starts and
    compiles in the first round, and again if a batch needs a larger KV cache. Prefix caching is off.
    """

    name = "vllm"
    extra = "vllm"

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        self._process: VLLMProcess | None = None
        self._room = (0, 0)
        self._config, self._dtype = checkpoint.config, DTYPES[precision]
        self._folder = tempfile.TemporaryDirectory(prefix="labkit-vllm-")
        folder = Path(self._folder.name)
        check_disk(checkpoint, checkpoint.config.parameter_count * self._dtype.itemsize, folder, "TMPDIR")
        write_huggingface(checkpoint, folder, dict.fromkeys(checkpoint.tensor_names(), self._dtype), lambda *_: None)
        self.detail = f"weights, activations and KV cache {precision}; torch.compile, paged attention, in a process of its own"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """On a CPU, fp32 and bf16; on a GPU, none. For int8 and int4, vLLM needs a model that another program has quantized."""
        return ("fp32", "bf16") if device.type == "cpu" else ()

    @classmethod
    def require(cls, device: torch.device, precision: str) -> None:
        """Raise `NotAvailable` with the reason if vLLM's build for CPUs or a compiler is missing."""
        super().require(device, precision)
        installed(vllm_python())
        if not shutil.which("g++"):
            raise NotAvailable("peer vllm needs g++, because torch.compile builds its CPU kernels with it; install g++")

    @classmethod
    def version(cls) -> str:
        """The version of vLLM in its environment."""
        return str(installed(vllm_python())["version"])

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Add a request for every prompt, and run steps until each request has its first token."""
        batch, length = prompts.shape
        if batch > self._room[0] or length + new_tokens > self._room[1]:
            self._start(max(batch, LEAST_SEQUENCES), length, length + new_tokens)
        assert self._process is not None
        return torch.tensor(self._process.ask(prompts=prompts.tolist(), new_tokens=new_tokens))

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Run steps until every request has all of its tokens."""
        assert self._process is not None
        return torch.tensor(self._process.ask(steps=steps))

    def _start(self, sequences: int, prompt: int, length: int) -> None:
        """Start a vLLM process with room for `sequences` sequences of `prompt` prompt tokens and `length` tokens in total."""
        self._close()
        config = self._config
        blocks = sequences * (-(-length // BLOCK) + 1)
        settings: dict[str, Any] = {
            "model": self._folder.name,
            "dtype": str(self._dtype).removeprefix("torch."),
            "skip_tokenizer_init": True,  # the prompts are token ids
            "max_model_len": config.context_length,
            "max_num_seqs": sequences,
            "max_num_batched_tokens": max(sequences * prompt, config.context_length),  # all prompts run in one step
            "block_size": BLOCK,
            "kv_cache_memory_bytes": blocks * BLOCK * 2 * config.num_layers * config.hidden_size * self._dtype.itemsize,
            "enable_prefix_caching": False,
            "disable_log_stats": True,
        }
        self._process = VLLMProcess(vllm_python(), settings, torch.get_num_threads())
        self._room = (sequences, length)

    def _close(self) -> None:
        if self._process is not None:
            self._process.close()
        self._process, self._room = None, (0, 0)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # in case the engine was not built
            self._close()
