"""One rank's share of a forward pass: take over the hidden state, compute, hand on or gather."""

from __future__ import annotations

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.engine.batch import Batch
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.engine.native_forward import NativeForward
from labkit.engine.weight_store import read_model
from labkit.native.packed_weight import PackedWeight
from labkit.parallel.links import Links
from labkit.parallel.micro_batches import pieces_of, split
from labkit.precision import as_device


class RankForward:
    """Runs the part of the model that a rank holds; all ranks call it with the same batches in the same order."""

    def __init__(self, model: GPTJ, links: Links, threads: int) -> None:
        self.model, self.links = model, links
        model.add_up = links.sums.all_reduce if links.sums else None
        packed = isinstance(model.layers[0].qkv.weight, PackedWeight)
        self._forward = NativeForward(model, links.sums, threads) if packed else model.forward

    @classmethod
    def load(cls, checkpoint: Checkpoint, precision: str, links: Links, threads: int) -> RankForward:
        """Read the rank's part of a checkpoint, and nothing else of it."""
        return cls(read_model(checkpoint, precision, as_device("cpu"), links.part), links, threads)

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor | None:
        """Logits `[rows, vocab_size]` on rank 0, None on the others. Raises `RankFailed`.

        With several stages a long batch goes through them in pieces, so that they work at the same time.
        """
        made = [self._run(piece, cache) for piece in split(batch, pieces_of(batch.num_tokens, self.model.part.stages))]
        logits = [rows for rows in made if rows is not None]
        return torch.cat(logits) if len(logits) > 1 else logits[0] if logits else None

    def _run(self, batch: Batch, cache: KVCache) -> Tensor | None:
        config = self.model.config
        hidden = self.links.receive_hidden(batch.num_tokens, config.hidden_size)
        made = self._forward(batch, cache, hidden)
        if not self.model.part.last:
            self.links.send_hidden(made)
            return None
        if not len(batch.logit_rows):
            return made.new_empty(0, config.vocab_size)
        return self.links.gather_logits(made, config.vocab_size)
