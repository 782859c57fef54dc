"""The forward pass before a beam search: every prompt once, with what stands in front of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from labkit.engine.beams.prompt import BeamPrompt
from labkit.engine.prefix_prompt import write_prefix_prompt
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


def prompt_batch(prompts: Sequence[BeamPrompt], table: Tensor, forward: Forward, cache: KVCache) -> Batch:
    """All positions of the prompts, and logits behind the last of each.

    `table` `[prompts, any]` int32 on the device holds the slots of each; those of prefix prompts are written here.
    """
    device = table.device
    ends = torch.tensor([prompt.num_computed for prompt in prompts], dtype=torch.int64, device="cpu").cumsum(0)
    soft_rows, soft = [], []
    for prompt, end in zip(prompts, ends.tolist(), strict=True):
        params = prompt.params
        if params.prefix_prompt is not None:
            write_prefix_prompt(forward, cache, prompt.slots[: params.prefix_len], params.prefix_prompt)
        if params.soft_prompt is not None:
            soft_rows.append(_numbers(end - prompt.num_computed, end - prompt.num_computed + params.soft_len))
            soft.append(params.soft_prompt.to(device))
    token_ids = [token for prompt in prompts for token in (*[0] * prompt.params.soft_len, *prompt.sequence.prompt)]
    positions = [_numbers(prompt.params.prefix_len, len(prompt.slots)) for prompt in prompts]
    slots = [slot for prompt in prompts for slot in prompt.slots[prompt.params.prefix_len :]]
    return Batch(
        token_ids=torch.tensor(token_ids, dtype=torch.int64, device=device),
        positions=torch.cat(positions).to(device),
        slot_mapping=torch.tensor(slots, dtype=torch.int64, device=device),
        starts=torch.cat((ends.new_zeros(1), ends)).to(device, torch.int32),
        slot_table=table,
        lengths=torch.tensor([len(prompt.slots) for prompt in prompts], dtype=torch.int32, device=device),
        num_decodes=0,
        logit_rows=(ends - 1).to(device),
        soft_rows=torch.cat(soft_rows).to(device) if soft_rows else None,
        soft_embeddings=torch.cat(soft) if soft else None,
    )


def _numbers(begin: int, end: int) -> Tensor:
    return torch.arange(begin, end, dtype=torch.int64, device="cpu")
