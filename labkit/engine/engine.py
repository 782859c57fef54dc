"""The engine: prompts in, continuations out, many at once, each by its own parameters.

Requests join and leave at any step (continuous batching): one loop, `step`, serves whole generations, streams and
servers. Knows the tokenizer only as something that turns text into tokens and a token into bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from typing import TypedDict

import torch
from torch import Tensor

from labkit.checkpoints import Tokenizer
from labkit.config import GPTJConfig
from labkit.engine.batch import FixedBatches
from labkit.engine.capacity import num_slots_for
from labkit.engine.forward import Forward, fastest_forward, threads_of
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.engine.outputs import NO_TOKEN, Completion, RequestOutput, TokenEvent
from labkit.engine.requests import Door, Params, Prompts, Request
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.scheduler import MAX_BATCH_SIZE, MAX_STEP_TOKENS, Scheduler, check_limits
from labkit.engine.sequence import Sequence
from labkit.engine.slot_pool import SlotPool
from labkit.engine.slots import PADDING_SLOT
from labkit.engine.stats import EngineStats
from labkit.engine.step_loop import StepLoop


class EngineOptions(TypedDict, total=False):
    """The keyword arguments of `Engine`."""

    max_batch_size: int
    max_step_tokens: int
    prefix_reuse: bool
    num_slots: int | None
    cache_bytes: int | None
    max_mixed_prefill: int | None
    cuda_graphs: bool


class Engine:
    """Runs a `GPTJ`: `generate` for whole continuations, `stream` for tokens as they are made, `logits` to score.

    Servers use `add_request`, `step` and `cancel`. Any thread may call anything; steps happen one at a time.

    max_batch_size: sequences that run at a time. max_step_tokens: tokens that one forward pass computes at most; a longer
    prompt goes in chunks, between which running sequences go on. prefix_reuse: what was computed of a text is kept, while
    there is room, and used again for others that begin alike. num_slots, cache_bytes: the size of the KV cache in tokens
    or bytes; left out, what memory allows (`capacity`). The cache is made with the first request. max_mixed_prefill: tokens
    of prompts in a step in which others decode, who wait for them; left out, as many as in any. cuda_graphs: on a GPU,
    replay decode steps and short prefills from graphs. forward: runs the model, in place of the fastest way there is in this
    process; the engine's `close` calls its `close`, if it has one.
    """

    def __init__(
        self,
        model: GPTJ,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch_size: int = MAX_BATCH_SIZE,
        max_step_tokens: int = MAX_STEP_TOKENS,
        prefix_reuse: bool = True,
        num_slots: int | None = None,
        cache_bytes: int | None = None,
        max_mixed_prefill: int | None = None,
        cuda_graphs: bool = True,
        forward: Forward | None = None,
    ) -> None:
        check_limits(max_batch_size, max_step_tokens, max_mixed_prefill)
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_size = max_batch_size
        self.max_step_tokens = max_step_tokens
        self._max_mixed_prefill = max_mixed_prefill
        self._prefix_reuse = prefix_reuse
        self._size = num_slots, cache_bytes
        self._forward = forward or fastest_forward(model, padding_slot=PADDING_SLOT if cuda_graphs else None)
        self._door = Door(model.config, tokenizer, max_batch_size, self._check)
        self._loop: StepLoop | None = None
        self._lock = threading.RLock()
        self._running: dict[Sequence, Request] = {}
        self._added: dict[int, Request] = {}
        self._events: deque[TokenEvent] = deque()

    @property
    def config(self) -> GPTJConfig:
        """The model's shape."""
        return self.model.config

    @property
    def forward(self) -> Forward:
        """What runs the model: of one on several ranks a `labkit.parallel.ParallelForward`, which has their ledger."""
        return self._forward

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        return self.model.dtype

    def generate(self, prompts: Prompts, params: Params = None) -> list[RequestOutput]:
        """Continue every prompt: one text, several texts, or several lists of token ids.

        `params` is one for all or one a prompt; left out, greedy with 64 new tokens. Raises `InvalidRequest` before
        anything runs when a prompt or a parameter cannot be met.
        """
        inbox: deque[TokenEvent] = deque()
        requests = self._door.requests(prompts, params, inbox, number=True)
        outputs = [
            RequestOutput(request.prompt.text, request.prompt.token_ids, [Completion() for _ in request.sequences])
            for request in requests
        ]
        for event in self._run(requests, inbox):
            completion = outputs[event.request].completions[event.sample]
            if event.prompt_logprobs is not None:
                outputs[event.request].prompt_logprobs = list(event.prompt_logprobs)
            if event.token_id != NO_TOKEN:
                completion.token_ids.append(event.token_id)
            completion.text += event.text
            if event.logprob is not None:
                completion.logprobs = [*(completion.logprobs or []), event.logprob]
            if event.finish_reason is not None:
                completion.finish_reason, completion.stop_reason = event.finish_reason, event.stop_reason
                completion.score = event.score
        return outputs

    def stream(self, prompts: Prompts, params: Params = None) -> Iterator[TokenEvent]:
        """The same, a token at a time in the order in which they are made; refusals come at the call, not later.

        It begins with the first `next`. A stream that is closed, or that nobody holds any longer, gives its slots back.
        """
        inbox: deque[TokenEvent] = deque()
        return self._run(self._door.requests(prompts, params, inbox, number=True), inbox)

    def logits(self, token_ids: SequenceOf[int]) -> Tensor:
        """Logits behind every token of one text: `[len(token_ids), vocab_size]`, float32 (float64 in a float64 model)."""
        self._door.check_tokens(list(token_ids))
        first = PADDING_SLOT + 1
        cache = KVCache(self.config, first + len(token_ids), device=self.device, dtype=self.dtype, part=self.model.part)
        batches = FixedBatches(1, len(token_ids), self.device, first_slot=first)
        with self._lock, threads_of(self._forward):
            logits = self._forward(batches.prefill([torch.tensor(token_ids)], all_logits=True), cache)
        return logits if logits.dtype == torch.float64 else logits.float()

    def add_request(self, prompt: str | SequenceOf[int], params: SamplingParams | None = None) -> int:
        """Let a prompt (a text or token ids) join those that run; its id, which the events of `step` carry as `request`.

        Raises `InvalidRequest` when the prompt or a parameter cannot be met.
        """
        prompts: Prompts = [prompt] if isinstance(prompt, str) else [list(prompt)]
        (request,) = self._door.requests(prompts, params, self._events, number=False)
        with self._lock:
            self._submit([request])
            self._added[request.request_id] = request
        return request.request_id

    def prepare(self, params: SamplingParams) -> None:
        """Do the work that the bad words of a request take (up to a second for a thousand) before it is added.

        A server calls it in the caller's thread, so that `add_request` holds nobody up. Raises `InvalidRequest`.
        """
        self._door.banned_texts(params)

    def step(self) -> list[TokenEvent]:
        """Run one forward pass over what there is to do; the new tokens of added requests, in the order they were made."""
        with self._lock:
            self._advance()
            events = list(self._events)
            self._events.clear()
        return events

    def cancel(self, request_id: int) -> bool:
        """End an added request at once, waiting or running; no event of it comes any more. Whether it was unfinished."""
        with self._lock:
            request = self._added.get(request_id)
            if request is None:
                return False
            self._withdraw([request])
            left = [event for event in self._events if event.request != request_id]
            self._events.clear()
            self._events.extend(left)
        return True

    def close(self) -> None:
        """End what else runs for the engine: ranks of a model that lies on several. Nothing can be generated after that."""
        with self._lock:
            close = getattr(self._forward, "close", None)
            if close is not None:
                close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_unfinished(self) -> bool:
        """Whether an added request has not ended yet."""
        return bool(self._added)

    @property
    def stats(self) -> EngineStats:
        """What the engine has done and is doing."""
        with self._lock:
            return self._ready().scheduler.stats()

    def occupy_cache(self) -> None:
        """Make the KV cache now, with all its memory, before anything is asked: for servers.

        Otherwise the system gives the CPU's memory as it is first written, in large pages, and single steps wait for that,
        40 ms say. Of a model on several ranks each takes its own. Raises `InvalidRequest` once there were requests,
        `InsufficientResources` for a cache too large.
        """
        with self._lock:
            self._ready().occupy_cache(self.forward)

    def forget_prefixes(self) -> None:
        """Use nothing again that was computed up to now; for whoever changes the weights of the model in place."""
        with self._lock:
            self._ready().scheduler.pool.prefixes.clear()

    def _run(self, requests: list[Request], inbox: deque[TokenEvent]) -> Iterator[TokenEvent]:
        """Step until these requests have ended; others that run go on with every step, their events to their inboxes."""
        left = sum(len(request.sequences) for request in requests)
        try:
            with self._lock:
                self._submit(requests)
            while left:
                with self._lock:
                    if not inbox:
                        self._advance()
                while inbox:
                    event = inbox.popleft()
                    left -= event.finish_reason is not None
                    yield event
        finally:
            with self._lock:
                self._withdraw(requests)

    def _advance(self) -> None:
        with threads_of(self._forward):
            for sequence, event in self._ready().step(self._forward):
                request = self._running[sequence]
                request.inbox.append(event)
                if event.finish_reason is not None:
                    del self._running[sequence]
                    request.unfinished -= 1
                    if not request.unfinished:
                        self._added.pop(request.request_id, None)

    def _submit(self, requests: list[Request]) -> None:
        loop = self._ready()
        for request in requests:
            self._running.update(dict.fromkeys(request.sequences, request))
            loop.add(request.sequences)

    def _withdraw(self, requests: list[Request]) -> None:
        """Take back what has not ended of these requests."""
        left = {sequence for request in requests for sequence in request.sequences if sequence in self._running}
        if left:
            self._ready().cancel(left)
        for sequence in left:
            del self._running[sequence]
        for request in requests:
            self._added.pop(request.request_id, None)

    def _check(self, sequence: Sequence) -> None:
        self._ready().scheduler.pool.check(sequence)

    def _ready(self) -> StepLoop:
        """The loop; made with the first request, when it is seen how much memory is left beside the weights."""
        with self._lock:
            if self._loop is None:
                size, cache_bytes = self._size
                slots = num_slots_for(
                    self.config,
                    self.device,
                    self.dtype,
                    max_batch_size=self.max_batch_size,
                    max_step_tokens=self.max_step_tokens,
                    num_slots=size,
                    cache_bytes=cache_bytes,
                    part=self.model.part,
                )
                pool = SlotPool(slots, prefix_reuse=self._prefix_reuse)
                scheduler = Scheduler(pool, self.max_batch_size, self.max_step_tokens, self._max_mixed_prefill)
                self._loop = StepLoop(self.model, scheduler)
            return self._loop
