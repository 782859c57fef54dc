"""Token embedding: one row of the table a token."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from labkit.ops.backend import on_triton
from labkit.ops.registry import operation


def embedding_reference(token_ids: Tensor, table: Tensor) -> Tensor:
    """The specification of `embedding`, in torch."""
    return F.embedding(token_ids, table)


@operation
def embedding(token_ids: Tensor, table: Tensor) -> Tensor:
    """Rows of `table` `[vocab_size, hidden_size]` for `token_ids` `[tokens]` int64: `[tokens, hidden_size]`."""
    if on_triton(table):
        from labkit.ops.kernels.embedding import embedding_triton

        return embedding_triton(token_ids, table)
    return embedding_reference(token_ids, table)
