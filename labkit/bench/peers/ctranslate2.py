"""Peer `ctranslate2`: OpenNMT's inference engine. The checkpoint is converted by CTranslate2's own converter."""

from __future__ import annotations

import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.bench.engines import BenchEngine
from labkit.bench.peers.ctranslate2_model import convert
from labkit.checkpoints import Checkpoint
from labkit.environment import find_cpu

COMPUTE_TYPES = {
    "cpu": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8_float32"},
    "cuda": {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "int8": "int8_float16"},
}
"""CTranslate2's name of each precision. In the name of int8, the second part is the type of values outside matrix products."""


class CTranslate2Engine(BenchEngine):
    """CTranslate2's `Generator`. It decodes greedily, with one replica that uses all threads.

    CTranslate2 generates the whole text in one call, and a caller cannot continue from its cache. But CTranslate2 calls a
    callback for each token and waits until the callback returns. For the first token, the callback waits until `decode` is
    called. So
    `prefill` times the prompt up to the first token, and `decode` times the following steps of the same generation.
    """

    name = "ctranslate2"
    packages = ("ctranslate2", "transformers")

    def __init__(self, checkpoint: Checkpoint, device: torch.device, precision: str) -> None:
        compute = COMPUTE_TYPES[device.type][precision]
        _choose_instruction_set(precision)
        import ctranslate2

        with tempfile.TemporaryDirectory(prefix="labkit-ctranslate2-") as folder:
            converted = convert(checkpoint, Path(folder), compute)
            self._generator: Any = ctranslate2.Generator(
                str(converted),
                device=device.type,
                device_index=device.index or 0,
                compute_type=compute,
                inter_threads=1,
                intra_threads=torch.get_num_threads(),
            )
        self._no_token = checkpoint.config.vocab_size
        self._pending: list[Any] = []
        rest = {"cpu": "fp32", "cuda": "fp16"}[device.type] if precision == "int8" else precision
        head, inputs = (", lm_head and embedding too", "int8 by row in products, else ") if precision == "int8" else ("", "")
        self.detail = f"weights {precision}{head}, activations {inputs}{rest}, KV cache {rest}"

    @classmethod
    def precisions(cls, device: torch.device) -> tuple[str, ...]:
        """The precisions that CTranslate2 supports on this machine without replacing them by other precisions."""
        import ctranslate2

        supported = ctranslate2.get_supported_compute_types(device.type, device.index or 0)
        return tuple(name for name, compute in COMPUTE_TYPES[device.type].items() if compute in supported)

    def prefill(self, prompts: Tensor, new_tokens: int) -> Tensor:
        """Start the generation and wait for the first token of every prompt.

        The generation then pauses until `decode` is called.
        """
        self._abandon()
        first = [0] * len(prompts)
        arrived, go_on, abandoned = threading.Event(), threading.Event(), threading.Event()
        left = len(prompts)

        def tell(result: Any) -> bool:
            nonlocal left
            if result.step == 0:
                first[result.batch_id] = result.token_id
                left -= 1
                if left == 0:
                    arrived.set()
                    go_on.wait()
            return abandoned.is_set()

        self._go_on, self._abandoned = go_on, abandoned
        self._pending = self._generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts.tolist()],
            include_prompt_in_result=False,
            beam_size=1,
            sampling_topk=1,
            max_length=new_tokens,
            end_token=[self._no_token],  # an id outside the vocabulary, so that every generation reaches its full length
            callback=tell,
            asynchronous=True,
        )
        while not arrived.wait(0.5):
            # The generation ended without a token, so it failed; `result` raises the reason.
            if all(result.done() for result in self._pending):
                self._pending.pop().result()
        return torch.tensor(first)

    def decode(self, tokens: Tensor, steps: int) -> Tensor:
        """Let the generation continue to its end."""
        self._go_on.set()
        made = [result.result().sequences_ids[0] for result in self._pending]
        self._pending = []
        return torch.tensor(made)[:, 1 : steps + 1]

    def _abandon(self) -> None:
        """End a generation that is still waiting for `decode`."""
        if self._pending:
            self._abandoned.set()
            self._go_on.set()
            for result in self._pending:
                result.result()
            self._pending = []

    def __del__(self) -> None:
        if getattr(self, "_pending", None):
            self._abandon()


def _choose_instruction_set(precision: str) -> None:
    """Make CTranslate2 use AVX-512 for int8, which is not its default. For fp32, the default is at least as fast.

    CTranslate2 reads the environment variable once per process. If the user has set the variable, its value is kept.
    """
    if precision == "int8" and "avx512f" in find_cpu().instruction_sets:
        os.environ.setdefault("CT2_FORCE_CPU_ISA", "AVX512")
