"""Replays decode steps and short prefills from CUDA graphs, so that the host launches a few hundred kernels with one call.

Like `GPTJ.forward`, a `GraphedGPTJ` takes a `Batch` and returns logits. It can also decode greedily without copying any token
to the host between steps. This module does not depend on how the logits are used.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from labkit import ops
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest, NotAvailable
from labkit.model.batch import Batch
from labkit.model.decode_inputs import BUCKETS, DecodeInputs, bucket_of
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.kv_cache import KVCache
from labkit.model.prefill_inputs import PrefillInputs
from labkit.model.side_stream import SideStream
from labkit.ops.backend import on_triton
from labkit.plurals import counted
from labkit.torch_state import inference

Bucket = int | tuple[int, int]
"""The size for which a graph is captured: the number of decoding sequences, or a prefill's numbers of sequences and tokens."""


class GraphedGPTJ(Forward):
    """Runs a `GPTJ`.

    A batch that has only decodes, or that is a short prefill, runs as a replay of the graph of its bucket. Any other batch runs
    without a graph.

    Padding rows write to `padding_slot`, which must exist in every cache and which no sequence may hold. A graph is captured
    when its bucket is first needed; `capture` captures the graphs of decodes in advance. If decodes use another cache than
    before, the graphs are captured again. While an operation is swapped (`ops.use`), no graph is used. A graph keeps the kernel
    configurations that were in use when it was captured, so run `labkit tune` first. All graphs share one pool of memory, so
    only one step runs at a time.
    """

    def __init__(self, model: GPTJ, padding_slot: int, *, buckets: Sequence[int] = BUCKETS) -> None:
        if padding_slot < 0 or not buckets or min(buckets) < 1:
            raise InvalidRequest(
                f"padding_slot is {padding_slot} and buckets are {list(buckets)}; padding_slot must be at least 0, and at "
                "least one bucket is needed, each of at least one sequence"
            )
        self.model = model
        self.padding_slot = padding_slot
        self.buckets = tuple(sorted(buckets))
        self._beside = SideStream(model.device) if model.device.type == "cuda" else None
        self._inputs = self._make_inputs(self.buckets[-1])
        self._prefill_inputs = PrefillInputs(self.config.context_length, padding_slot, self.device)
        self._cache: weakref.ref[KVCache] | None = None
        self._steps: dict[Bucket, _Captured] = {}
        self._greedy_steps: dict[int, _Captured] = {}
        self._pool: Any = None

    @property
    def config(self) -> GPTJConfig:
        """The configuration of the model, which contains its shape."""
        return self.model.config

    @property
    def device(self) -> torch.device:
        """The device on which the model runs."""
        return self.model.device

    @property
    def batch_device(self) -> torch.device:
        """The device on which a batch must be. It is the device on which the model runs."""
        return self.device

    @property
    def survives_fork(self) -> bool:
        """Whether the model is on the CPU, so that a forked child process can run it."""
        return self.model.survives_fork

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self.model.dtype

    @inference
    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Return the same logits as `GPTJ.forward`. Raises `InvalidRequest` if the cache has no padding slot."""
        bucket = self._bucket(batch)
        if bucket is None or (not batch.is_decode and self._has_another(cache)):
            return self.model.forward(batch, cache)
        self._bind(cache)
        if bucket not in self._steps:
            self._steps[bucket] = self._captured(bucket, cache, self._plain)
        (self._inputs if batch.is_decode else self._prefill_inputs).load(batch)
        logits = self._steps[bucket].replay()
        return logits[batch.logit_rows] if batch.is_decode else logits[: batch.logit_rows.shape[0]].clone()

    @inference
    def decode_greedy(self, batch: Batch, cache: KVCache, steps: int) -> Tensor:
        """Append the likeliest token to each sequence, `steps` times.

        Returns the new tokens, `[sequences, steps]` int64 on the device.

        `batch` is the batch of the first step. The `slot_table` of `batch` must already hold the slots of all later tokens: the
        next token of sequence s uses `slot_table[s, lengths[s]]`, and later tokens use the entries after it. The host waits for
        the device only once, at the start. `batch` itself does not change, although every sequence is `steps - 1` tokens longer
        after the call. Works on any device. Raises `InvalidRequest` if there are too few slots or the context is too short.
        """
        self._check_room(batch, steps)
        bucket = self._bucket(batch)
        if not isinstance(bucket, int):
            inputs = self._make_inputs(batch.num_sequences)
            inputs.load(batch)
            for _ in range(steps):
                inputs.advance(self.model.forward(inputs.batch(batch.num_sequences), cache).argmax(-1))
            return inputs.made(batch.num_sequences, steps)
        self._bind(cache)
        if bucket not in self._greedy_steps:
            self._greedy_steps[bucket] = self._captured(bucket, cache, self._greedy)
        self._inputs.load(batch)
        for _ in range(steps):
            self._greedy_steps[bucket].replay()
        return self._inputs.made(batch.num_sequences, steps)

    def capture(self, cache: KVCache, buckets: Sequence[int] | None = None, *, greedy: bool = False) -> None:
        """Capture the decode graphs of `buckets` (by default all buckets) now.

        If `greedy` is set, the graphs of greedy steps are also captured. Raises `NotAvailable` if a GPU or Triton is missing,
        and `InvalidRequest` for a bucket that this object does not have.
        """
        wanted = self.buckets if buckets is None else tuple(buckets)
        if unknown := [bucket for bucket in wanted if bucket not in self.buckets]:
            raise InvalidRequest(
                f"there is no bucket of {counted(unknown[0], 'sequence')}; the buckets are {list(self.buckets)}"
            )
        if not on_triton(self.model.layers[0].ln_1_weight):
            raise NotAvailable(f"CUDA graphs need a GPU and the package triton; the model is on {self.device}")
        self._bind(cache)
        # The largest bucket comes first, because the graphs of smaller buckets fit into its memory.
        for bucket in sorted(wanted, reverse=True):
            if bucket not in self._steps:
                self._steps[bucket] = self._captured(bucket, cache, self._plain)
            if greedy and bucket not in self._greedy_steps:
                self._greedy_steps[bucket] = self._captured(bucket, cache, self._greedy)

    def _bucket(self, batch: Batch) -> Bucket | None:
        """Return the bucket whose graph runs this batch, or None if the batch runs without a graph."""
        if ops.swapped() or not on_triton(self.model.layers[0].ln_1_weight):
            return None
        if not batch.is_decode:
            return self._prefill_inputs.bucket(batch)
        plain = batch.soft_rows is None and batch.slot_table.shape[1] <= self._inputs.width
        return bucket_of(batch.num_sequences, self.buckets) if plain else None

    def _has_another(self, cache: KVCache) -> bool:
        """Whether there are graphs for another cache that is still in use.

        If there are such graphs, a prefill runs without a graph, because a new graph for its cache would replace them.
        """
        bound = self._cache() if self._cache is not None else None
        return bound is not None and bound is not cache

    def _bind(self, cache: KVCache) -> None:
        """Drop all graphs if they were captured with another cache, because they contain the addresses of that cache."""
        if cache.num_slots <= self.padding_slot:
            raise InvalidRequest(
                f"padding is written to slot {self.padding_slot}, but the KV cache has {counted(cache.num_slots, 'slot')}; "
                f"make it with at least {self.padding_slot + 1} slots, and give slot {self.padding_slot} to no sequence"
            )
        if self._cache is None or self._cache() is not cache:
            self._steps.clear()
            self._greedy_steps.clear()
            self._pool = None
            self._cache = weakref.ref(cache)

    def _captured(self, bucket: Bucket, cache: KVCache, run: Callable[[Batch, KVCache], Tensor]) -> _Captured:
        if isinstance(bucket, int):
            self._inputs.clear()  # all rows are padding, so the capture changes no sequence
            batch = self._inputs.batch(bucket)
        else:
            self._prefill_inputs.clear()
            batch = self._prefill_inputs.batch(bucket)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with torch.cuda.device(self.device):
            return _Captured(lambda: run(batch, cache), self._pool)

    def _plain(self, batch: Batch, cache: KVCache) -> Tensor:
        return self.model.forward(batch, cache, beside=self._beside)

    def _greedy(self, batch: Batch, cache: KVCache) -> Tensor:
        tokens = self._plain(batch, cache).argmax(-1)
        self._inputs.advance(tokens)
        return tokens

    def _make_inputs(self, rows: int) -> DecodeInputs:
        return DecodeInputs(rows, self.config.context_length, self.padding_slot, self.device)

    def _check_room(self, batch: Batch, steps: int) -> None:
        if not batch.is_decode or batch.soft_rows is not None or steps < 1:
            raise InvalidRequest(
                f"decode_greedy got {counted(steps, 'step')} and a batch with {counted(batch.num_tokens, 'new token')} of "
                f"{counted(batch.num_sequences, 'sequence')}; it accepts at least one step, and a batch with one new token "
                "of each sequence and no soft prompt"
            )
        longest, furthest = torch.stack((batch.lengths.long().max(), batch.positions.max())).tolist()
        columns, context = min(batch.slot_table.shape[1], self.config.context_length), self.config.context_length
        if longest + steps - 1 > columns or furthest + steps > context:
            raise InvalidRequest(
                f"{steps} greedy steps from position {furthest} on need {longest + steps - 1} columns of the slot table, which "
                f"has {columns}, and must end below the context length of {context}; ask for fewer steps"
            )


class _Captured:
    """A captured call without arguments. The call's result is a tensor that every replay overwrites."""

    def __init__(self, run: Callable[[], Tensor], pool: Any) -> None:
        # The first call compiles kernels and lets libraries allocate their workspaces, which is forbidden during a capture.
        # This call runs on the current stream, because a library keeps a workspace of tens of megabytes for each stream on
        # which it is called.
        run()
        self._graph = torch.cuda.CUDAGraph()
        # Other threads, such as the threads of a server, may use the GPU during the capture.
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._out = run()

    def replay(self) -> Tensor:
        """Run the call again. The result is valid until any graph that shares the pool is replayed."""
        self._graph.replay()
        return self._out
