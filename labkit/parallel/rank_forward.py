"""One rank's part of a forward pass: receive hidden states, compute, then send new hidden states or gather the logits."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.engine.loader import check_memory
from labkit.launch.ledger import COMPUTE, Ledger
from labkit.model.batch import Batch
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.native_forward import NativeForward
from labkit.model.weight_store import read_model
from labkit.native.packed_weight import PackedWeight
from labkit.parallel.gpu_queue import GpuQueue, QueuedPass
from labkit.parallel.links import Links
from labkit.parallel.micro_batches import num_micro_batches, split_batch
from labkit.parallel.nccl_group import NcclGroup


class RankForward:
    """Runs the part of the model that a rank holds. All ranks are called with the same batches in the same order.

    `ledger` records what this rank computes and waits for. On a GPU, the operations of a pass are put on the GPU's queue one by
    one, without a CUDA graph, and a call returns before these operations are done (`waiter` waits for them). On a GPU, the
    ledger records how long it took to queue the operations. The ledger's entries for sums and gathers on a GPU contain the
    calls and the bytes, but no time.
    """

    def __init__(self, model: GPTJ, links: Links, threads: int) -> None:
        self.model, self.links, self.threads = model, links, threads
        self.ledger = Ledger(links.rank)
        model.add_up = links.sums.all_reduce if links.sums else None
        self._queue = GpuQueue(links, links.timeout) if links.device.type == "cuda" else None
        self._queued: QueuedPass | None = None
        packed = isinstance(model.layers[0].qkv.weight, PackedWeight)
        self._forward: Callable[..., Tensor] = model.forward
        self._hidden_dtype = model.dtype
        if packed:
            assert not isinstance(links.sums, NcclGroup), "a model that is packed for the CPU cannot use a group of GPUs"
            self._forward, self._hidden_dtype = NativeForward(model, links.sums, threads).run, torch.float32

    @classmethod
    def load(cls, checkpoint: Checkpoint, precision: str, links: Links, threads: int) -> RankForward:
        """Read only this rank's part of a checkpoint, straight to its device.

        Passes on every error that reading the checkpoint raises. Raises `InsufficientResources` before reading if the free
        memory of a GPU is too small.
        """
        if links.device.type == "cuda":
            check_memory(checkpoint, links.device, precision, links.layout.ranks)
        return cls(read_model(checkpoint, precision, links.device, links.part), links, threads)

    def __call__(self, batch: Batch, cache: KVCache, step: int = 0) -> Tensor | None:
        """Return the logits `[rows, vocab_size]` on rank 0, and None on the other ranks. Raises `RankFailed` if a rank fails.

        If there are several stages, a long batch is cut into micro-batches, so that the stages work at the same time. The batch
        must be in the host's memory, even if the rank's device is a GPU.
        """
        if self._queue is None:
            return self._pass(batch, cache, step)
        with torch.cuda.device(self.links.device), self._queue.queueing() as self._queued:
            return self._pass(batch, cache, step)

    def waiter(self) -> Callable[[], None]:
        """Return a function that waits until the latest pass on the GPU's queue is done, or raises `RankFailed`."""
        if self._queue is None or self._queued is None:
            return lambda: None
        return partial(self._queue.wait, self._queued)

    def _pass(self, batch: Batch, cache: KVCache, step: int) -> Tensor | None:
        self.ledger.step = step
        made = []
        for piece, part in enumerate(split_batch(batch, num_micro_batches(batch.num_tokens, self.model.part.stages))):
            self.ledger.piece = piece
            made.append(self._run(part.to(self.links.device), cache))
        logits = [rows for rows in made if rows is not None]
        return torch.cat(logits) if len(logits) > 1 else logits[0] if logits else None

    def _run(self, batch: Batch, cache: KVCache) -> Tensor | None:
        config, part, links, record = self.model.config, self.model.part, self.links, self.ledger.add
        began = time.monotonic()
        hidden = links.receive_hidden(batch.num_tokens, config.hidden_size, self._hidden_dtype)
        if hidden is not None:
            record("recv", began, shape=tuple(hidden.shape), byte_count=hidden.nbytes)
        began = time.monotonic()
        made = self._forward(batch, cache, hidden)
        record(COMPUTE, began, shape=tuple(made.shape))
        self._record_sums("all_reduce", began, (batch.num_tokens, config.hidden_size))
        began = time.monotonic()
        if not part.last:
            links.send_hidden(made)
            record("send", began, shape=tuple(made.shape), byte_count=made.nbytes)
            return None
        if not len(batch.logit_rows):
            return made.new_empty(0, config.vocab_size)
        logits = links.gather_logits(made, config.vocab_size)
        self._record_sums("gather", began, tuple(made.shape))
        return logits

    def _record_sums(self, what: str, began: float, shape: tuple[int, ...]) -> None:
        """Record the collectives of this stage's shards since the last call, if the stage has several shards."""
        if account := self.links.take_account("sums"):
            size = account.byte_count // account.calls
            self.ledger.add(what, began, shape=shape, byte_count=size, calls=account.calls, seconds=account.seconds)
