"""Holds the input tensors of a captured short prefill. They are padded to one of a few sizes.

A CUDA graph reads the same addresses each time, so these tensors are allocated once. If a prefill of only a few hundred tokens
runs without a graph, the GPU finishes an operation before the host has launched the next one. On an H200 (torch 2.11), such a
prefill of 128 tokens of GPT-J 6B takes 10.4 ms, although reading the weights takes only 2.8 ms. In longer prefills, the host
launches faster than the GPU computes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.model.batch import Batch
from labkit.model.decode_inputs import bucket_of

TOKENS = (16, 32, 64, 96, 128, 192, 256, 384, 512)
"""The numbers of new tokens for which graphs are captured."""
SEQUENCES = (1, 2, 4, 8)
"""The numbers of sequences for which graphs are captured."""


class PrefillInputs:
    """The tensors of a `Batch` of prefills on `device`, with `width` columns in the slot table.

    The tensors have room for `SEQUENCES[-1]` sequences and `TOKENS[-1]` tokens. Padding follows the real entries: padding
    tokens belong to no sequence and write to `padding_slot`, padding sequences have no new tokens, and padding entries of
    `logit_rows` are 0.
    """

    def __init__(self, width: int, padding_slot: int, device: torch.device) -> None:
        self.width = width
        self.padding_slot = padding_slot
        tokens, sequences = TOKENS[-1], SEQUENCES[-1]
        self._token_ids = torch.zeros(tokens, dtype=torch.int64, device=device)
        self._positions = torch.zeros_like(self._token_ids)
        self._slot_mapping = torch.full_like(self._token_ids, padding_slot)
        self._starts = torch.zeros(sequences + 1, dtype=torch.int32, device=device)
        self._slot_table = torch.full((sequences, width), padding_slot, dtype=torch.int32, device=device)
        self._lengths = torch.ones(sequences, dtype=torch.int32, device=device)
        self._logit_rows = torch.zeros(sequences, dtype=torch.int64, device=device)

    def bucket(self, batch: Batch) -> tuple[int, int] | None:
        """Return the numbers of sequences and tokens to which `batch` is padded, or None if no graph can run the batch."""
        if batch.num_decodes or batch.soft_rows is not None or batch.slot_table.shape[1] > self.width:
            return None
        # A graph returns one row of logits for each of its sequences. To score a text, more rows are needed, so scoring runs
        # without a graph.
        sequences = bucket_of(max(batch.num_sequences, batch.logit_rows.shape[0]), SEQUENCES)
        tokens = bucket_of(batch.num_tokens, TOKENS)
        return None if sequences is None or tokens is None else (sequences, tokens)

    def batch(self, bucket: tuple[int, int]) -> Batch:
        """Return the batch of this bucket. Its tensors are views of the tensors of this object."""
        sequences, tokens = bucket
        return Batch.of_prefills(
            token_ids=self._token_ids[:tokens],
            positions=self._positions[:tokens],
            slot_mapping=self._slot_mapping[:tokens],
            starts=self._starts[: sequences + 1],
            slot_table=self._slot_table[:sequences],
            lengths=self._lengths[:sequences],
            logit_rows=self._logit_rows[:sequences],
        )

    def load(self, batch: Batch) -> None:
        """Copy a batch that has a bucket into the tensors. All other entries become padding."""
        (sequences, columns), tokens = batch.slot_table.shape, batch.num_tokens
        _replace(self._token_ids, batch.token_ids, 0)
        _replace(self._positions, batch.positions, 0)
        _replace(self._slot_mapping, batch.slot_mapping, self.padding_slot)
        _replace(self._starts, batch.starts, tokens)
        _replace(self._lengths, batch.lengths, 1)
        _replace(self._logit_rows, batch.logit_rows, 0)
        self._slot_table[:sequences, :columns] = batch.slot_table
        self._slot_table[sequences:, :1] = self.padding_slot

    def clear(self) -> None:
        """Turn all entries into padding."""
        self._slot_mapping.fill_(self.padding_slot)
        self._starts.zero_()
        self._slot_table[:, :1] = self.padding_slot
        self._lengths.fill_(1)
        self._logit_rows.zero_()


def _replace(kept: Tensor, given: Tensor, padding: int) -> None:
    """Copy `given` to the beginning of `kept`, and fill the rest with `padding`."""
    count = given.shape[0]
    kept[:count] = given
    kept[count:] = padding
