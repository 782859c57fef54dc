"""The base class of all objects that run a model's forward pass. It has every method that an engine calls.

The default methods are right for a pass in one process on the CPU.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from labkit.forked import is_forked_child
from labkit.model.batch import Batch
from labkit.model.kv_cache import KVCache
from labkit.torch_state import torch_threads


class Forward(ABC):
    """The base class. A `Forward` runs batches with a cache.

    A subclass defines `forward`, and overrides every method whose default is wrong for it.
    """

    @abstractmethod
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Run the batch's new tokens through the model and write their keys and values to `cache`.

        Returns the logits of `batch.logit_rows`, `[rows, vocab_size]`.
        """

    def __call__(self, batch: Batch, cache: KVCache) -> Tensor:
        """Call `forward`."""
        return self.forward(batch, cache)

    def submit(self, batch: Batch, cache: KVCache) -> Callable[[], Tensor]:
        """Begin a pass. Returns a function that waits for the pass and returns its logits.

        By default the pass runs when the returned function is called, and until then the batch must not change. A subclass with
        several `steps_in_flight` copies the batch, so that the caller may change it as soon as `submit` returns.
        """
        return partial(self.forward, batch, cache)

    @property
    def steps_in_flight(self) -> int:
        """How many passes can be in progress at the same time."""
        return 1

    @property
    def batch_device(self) -> torch.device:
        """The device on which this object expects the tensors of a batch."""
        return torch.device("cpu")

    @property
    def num_threads(self) -> int | None:
        """How many threads torch should use during a pass; None leaves torch's setting unchanged."""
        return None

    @property
    def survives_fork(self) -> bool:
        """Whether this object still works in a forked child process.

        It does not work in a forked child if it uses other processes or a GPU.
        """
        return True

    def occupy(self, cache: KVCache) -> None:
        """Take all memory of the cache from the system now, also for the parts of the cache that other processes hold."""
        cache.occupy()

    def write_prefix_prompt(self, cache: KVCache, slots: Tensor, given: Tensor) -> None:
        """Write the given keys and values of a prefix prompt to the cache, also to the parts that other processes hold.

        The arguments have the same shapes as in `KVCache.write_prefix_prompt`.
        """
        cache.write_prefix_prompt(slots, given)

    def close(self) -> None:
        """Free everything that this object holds outside this process. No pass can run after `close`."""
        return

    def limited_threads(self) -> contextlib.AbstractContextManager[None]:
        """Let torch use `num_threads` threads inside the block, and one thread in a forked child.

        If other ranks compute on the other cores of this machine, a second torch thread in this process would take a core from
        them, because it waits in a busy loop for milliseconds after each parallel operation.
        """
        return torch_threads(1 if is_forked_child() else self.num_threads)
