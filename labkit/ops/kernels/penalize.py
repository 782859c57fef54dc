"""Apply penalties and bans in one pass over the logits.

One byte of marks per token says which penalties and bans apply to the token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.ops.kernels.triton_runtime import ceil_div, jit, launch, tl
from labkit.ops.token_marks import BANNED, GENERATED, IN_PROMPT, STOP


@jit
def penalize_kernel(
    logits: tl.tensor,
    marks: tl.tensor,
    rows: tl.tensor,
    repetition_penalty: tl.tensor,
    presence_penalty: tl.tensor,
    may_stop: tl.tensor,
    out: tl.tensor,
    vocab_size: tl.tensor,
    IN_PROMPT: tl.constexpr,
    GENERATED: tl.constexpr,
    STOP: tl.constexpr,
    BANNED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """One program per row and block of the vocabulary."""
    row = tl.program_id(0).to(tl.int64)  # 64 bits: rows * vocab_size can pass 2^31
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < vocab_size
    x = tl.load(logits + row * vocab_size + columns, mask=inside, other=0.0).to(tl.float32)
    mark = tl.load(marks + tl.load(rows + row) * vocab_size + columns, mask=inside, other=0).to(tl.int32)
    factor = tl.load(repetition_penalty + row).to(tl.float32)
    penalized = tl.where(x > 0, x / factor, x * factor)
    x = tl.where((mark & (IN_PROMPT | GENERATED)) != 0, penalized, x)
    x -= tl.where((mark & GENERATED) != 0, tl.load(presence_penalty + row).to(tl.float32), 0.0)
    banned = tl.where(tl.load(may_stop + row) != 0, BANNED, BANNED | STOP)
    tl.store(out + row * vocab_size + columns, tl.where((mark & banned) != 0, float("-inf"), x), mask=inside)


def penalize_triton(
    logits: Tensor,
    marks: Tensor,
    rows: Tensor,
    repetition_penalty: Tensor,
    presence_penalty: Tensor,
    may_stop: Tensor,
) -> Tensor:
    """Run `labkit.ops.penalize` as a Triton kernel."""
    logits = logits.contiguous()
    count, vocab_size = logits.shape
    out = torch.empty(count, vocab_size, dtype=torch.float32, device=logits.device)
    numbers = [n.contiguous() for n in (rows, repetition_penalty, presence_penalty, may_stop)]
    config = {"IN_PROMPT": IN_PROMPT, "GENERATED": GENERATED, "STOP": STOP, "BANNED": BANNED, "BLOCK": 1024, "num_warps": 4}
    launch(penalize_kernel, (count, ceil_div(vocab_size, 1024)), logits, marks, *numbers, out, vocab_size, **config)
    return out
