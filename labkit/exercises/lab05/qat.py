"""Quantization-aware training of gptj-tiny: a model whose weights go through a learner's fake quantization."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labkit.checkpoints import fetch
from labkit.compress.calibration import HELD_OUT
from labkit.exercises.lab05.tensors import MODEL, checkpoint, passages
from labkit.torch_state import gradients_restored

WINDOW = 128
"""The number of tokens in a training window."""
PASSAGES = 64
"""The number of passages of the calibration text that are used for training."""
HELD_OUT_WINDOWS = 8


class FakeQuantized(nn.Module):
    """A weight that goes through `fake_quantize(weight, scales, bits)` whenever it is used; each row has one scale."""

    def __init__(self, fake_quantize: Callable[..., Tensor], bits: int) -> None:
        super().__init__()
        self.fake_quantize, self.bits = fake_quantize, bits

    def forward(self, weight: Tensor) -> Tensor:
        """The fake-quantized weight. The scales are computed from the current weight, and no gradient flows through them."""
        scales = weight.detach().abs().amax(1, keepdim=True) / (2 ** (self.bits - 1) - 1)
        return self.fake_quantize(weight, scales.clamp_min(1e-8), self.bits)


def student(fake_quantize: Callable[..., Tensor], bits: int) -> Any:
    """gptj-tiny from `transformers` in float32, with the blocks' matrices fake-quantized to `bits` bits, one scale per row."""
    model = plain()
    for module in list(model.transformer.h.modules()):
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", FakeQuantized(fake_quantize, bits))
    return model


def plain() -> Any:
    """gptj-tiny from `transformers` in float32, without fake quantization."""
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    return AutoModelForCausalLM.from_pretrained(fetch(MODEL).path, dtype=torch.float32)


def training_windows(steps: int, batch: int = 8, seed: int = 0) -> list[Tensor]:
    """Batches `[batch, 128]` of tokens from the calibration text."""
    windows = torch.tensor(passages(PASSAGES), dtype=torch.int64, device="cpu").view(-1, WINDOW)
    generator = torch.Generator("cpu").manual_seed(seed)
    shape = steps, batch
    drawn = torch.randint(len(windows), shape, generator=generator, dtype=torch.int64, device="cpu")
    return [windows[each] for each in drawn]


@gradients_restored()
@torch.no_grad()
def held_out_loss(model: Any) -> float:
    """The mean loss per token, in nats, on windows of the held-out text."""
    ids = checkpoint().tokenizer().encode(HELD_OUT.read_text("utf-8")[:8000])[: WINDOW * HELD_OUT_WINDOWS]
    windows = torch.tensor(ids, dtype=torch.int64, device="cpu").view(-1, WINDOW)
    return float(model(windows, labels=windows).loss)
