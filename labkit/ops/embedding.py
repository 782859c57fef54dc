"""Computes the token embedding: looks up the row of the table for each token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from labkit.ops.registry import operation


def embedding_reference(token_ids: Tensor, table: Tensor) -> Tensor:
    """The reference implementation of `embedding` in PyTorch."""
    return F.embedding(token_ids, table)


@operation(decided_by=1)
def embedding(token_ids: Tensor, table: Tensor) -> Tensor:
    """Look up rows `[tokens, hidden_size]` of `table` `[vocab_size, hidden_size]` by `token_ids` `[tokens]` int64."""
    return embedding_reference(token_ids, table)
