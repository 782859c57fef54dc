"""The engine: continues many prompts at once, each with its own parameters.

Requests join and leave the batch at any step (continuous batching). `generate`, `stream` and servers use the same loop of
steps. The engine uses the tokenizer only to turn texts into tokens and tokens into bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from collections.abc import Sequence as SequenceOf
from contextlib import closing
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Tokenizer
from labkit.config import GPTJConfig
from labkit.engine.async_steps import AsyncSteps, stream_of, weakly
from labkit.engine.capacity import asked_slots, num_slots_for, slot_bytes
from labkit.engine.draft import Draft, check_draft
from labkit.engine.engine_options import EngineOptions, checked_options
from labkit.engine.engine_stats import EngineStats
from labkit.engine.intake import Inbox, Request, RequestIntake
from labkit.engine.interrupts import held, watched
from labkit.engine.outputs import Completion, RequestOutput, TokenEvent
from labkit.engine.prompt_arguments import Params, Prompts, one_prompt
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.schedule.scheduler import MAX_BATCH_SIZE, MAX_STEP_TOKENS, Scheduler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.schedule.slot_allocator import PADDING_SLOT
from labkit.engine.schedule.slot_pool import SlotPool
from labkit.engine.step_failures import failed, may_be_of_one
from labkit.engine.step_loop import StepLoop
from labkit.errors import NotAvailable
from labkit.forked import tell
from labkit.model.fastest_forward import fastest_forward
from labkit.model.fixed_batches import FixedBatches
from labkit.model.forward import Forward
from labkit.model.gptj import GPTJ
from labkit.model.quantized_kv_cache import check_kv_cache_dtype
from labkit.torch_state import gradients_restored, undisturbed

CLOSED = "the engine was closed; load it again"
NOT_IN_A_CHILD = (
    "the engine runs on ranks or on a GPU, which a forked child cannot use; start the child with multiprocessing's method "
    "'spawn', and load the model in it"
)


class Engine:
    """Runs a `GPTJ`. `generate` returns whole continuations, `stream` yields tokens as they are made, `logits` scores a text.

    Servers use `add_request`, `step` and `cancel`; programs with an event loop use `astream` and `agenerate`. Any thread can
    call any method; steps run one at a time.

    When a request fails in a step, only this request ends: its caller gets `RequestFailed`, and the tokens of all other
    requests do not change. When a rank is lost, all callers get `RankFailed`. After Ctrl-C the requests of the interrupted call
    are ended, and all other requests continue.

    max_batch_size: the most sequences that run at the same time. max_step_tokens: the most tokens that one forward pass
    computes; a longer prompt is computed in chunks, and running sequences continue between the chunks. prefix_reuse: whether
    computed keys and values are kept while there is room, and used again for texts with the same beginning. num_slots,
    cache_bytes: the size of the KV cache in tokens or in bytes; by default the cache is as large as memory allows (`capacity`).
    The cache is made at the first request. max_mixed_prefill: the most prompt tokens in a step in which other sequences decode;
    by default the same limit as for other steps. cuda_graphs: whether decode steps and short prefills on a GPU are replayed
    from CUDA graphs. kv_cache_dtype: "int8" or "fp8" keeps the cache in 8 bits (on the CPU only); by default the cache has the
    dtype of the model. draft: a smaller model with the same vocabulary that guesses tokens, so that the model can check several
    tokens in one pass. Every request gets the same tokens as without a draft, and the engine uses guesses only as long as they
    save time. forward: the object that runs the model; by default the fastest one for this process. `close` also closes
    `forward`.
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
        kv_cache_dtype: str | None = None,
        draft: GPTJ | None = None,
        forward: Forward | None = None,
    ) -> None:
        given: EngineOptions = {
            "max_batch_size": max_batch_size,
            "max_step_tokens": max_step_tokens,
            "prefix_reuse": prefix_reuse,
            "num_slots": num_slots,
            "cache_bytes": cache_bytes,
            "max_mixed_prefill": max_mixed_prefill,
            "cuda_graphs": cuda_graphs,
            "kv_cache_dtype": kv_cache_dtype,
        }
        options = checked_options(given)
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_size = options["max_batch_size"]
        self.max_step_tokens = options["max_step_tokens"]
        self._max_mixed_prefill = options["max_mixed_prefill"]
        self._prefix_reuse = options["prefix_reuse"]
        self._kv_cache_dtype = options["kv_cache_dtype"]
        check_kv_cache_dtype(self._kv_cache_dtype, model.device)
        self._size: dict[str, Any] = {
            "num_slots": options["num_slots"],
            "cache_bytes": options["cache_bytes"],
            "quantized": self._kv_cache_dtype is not None,
        }
        asked_slots(model.config, model.device, model.dtype, **self._size, part=model.part)
        self._padding_slot = PADDING_SLOT if options["cuda_graphs"] else None
        self._forward = forward or fastest_forward(model, padding_slot=self._padding_slot)
        if draft is not None:
            check_draft(draft, model, self._forward)
        self._draft_model = draft
        self._draft: Draft | None = None
        self._intake = RequestIntake(model.config, tokenizer, self.max_batch_size, weakly(self._check))
        self._loop: StepLoop | None = None
        self._closed = False
        self._is_copy = False  # True in a forked child until its first call
        self._begin_locks()
        tell(self)
        self._running: dict[Sequence, Request] = {}
        self._added: dict[int, Request] = {}
        self._events: deque[TokenEvent] = deque()

    @property
    def config(self) -> GPTJConfig:
        """The model's configuration: its dimensions and its special tokens."""
        return self.model.config

    @property
    def forward(self) -> Forward:
        """The object that runs the model.

        For several ranks, this is a `labkit.parallel.ParallelForward`, which also counts the bytes that the ranks send to each
        other.
        """
        return self._forward

    @property
    def device(self) -> torch.device:
        """The device that the model runs on."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model computes in."""
        return self.model.dtype

    def generate(self, prompts: Prompts, params: Params = None) -> list[RequestOutput]:
        """Continue every prompt. `prompts` is one text, several texts, or several lists or arrays of token ids.

        params: one `SamplingParams` for all prompts, or a list with one for each prompt; by default decoding is greedy, with up
        to 64 new tokens. Raises `InvalidRequest` before anything runs if a prompt or a parameter is not accepted,
        `RequestFailed` if a request fails in a step (which ends this call), `RankFailed` if a rank is lost, and `NotAvailable`
        after the engine was closed.
        """
        inbox: deque[TokenEvent] = deque()
        requests = self._requests(prompts, params, inbox)
        outputs = _outputs(requests)
        with watched:
            for event in self._run(requests, inbox):
                outputs[event.request].take(event)
        return outputs

    def stream(self, prompts: Prompts, params: Params = None) -> Iterator[TokenEvent]:
        """Like `generate`, but yields one token at a time, in the order in which the tokens are made.

        If a prompt is not accepted, this call raises the error immediately. Work begins at the first `next`. A stream frees its
        slots when it is closed or garbage-collected.
        """
        inbox: deque[TokenEvent] = deque()
        return self._run(self._requests(prompts, params, inbox), inbox)

    def astream(self, prompts: Prompts, params: Params = None) -> AsyncGenerator[TokenEvent, None]:
        """Like `stream`, but for `async for`: the event loop is not blocked, and several streams share the running batch.

        If a prompt is not accepted, the error is raised when the first event is awaited. When its task is cancelled, or when it
        is closed (`aclose`), a stream frees its slots before the next step. While requests of `astream` exist, steps run in a
        thread of the engine.
        """
        return stream_of(self._async_steps, lambda inbox: self._requests(prompts, params, inbox))

    async def agenerate(self, prompts: Prompts, params: Params = None) -> list[RequestOutput]:
        """The same as `generate`, but as a coroutine."""
        outputs: list[RequestOutput] = []

        def begin(inbox: Inbox) -> list[Request]:
            requests = self._requests(prompts, params, inbox)
            outputs.extend(_outputs(requests))
            return requests

        async for event in stream_of(self._async_steps, begin):
            outputs[event.request].take(event)
        return outputs

    def logits(self, token_ids: SequenceOf[int]) -> Tensor:
        """The logits after every token of one text: `[len(token_ids), vocab_size]`, float32 (float64 for a float64 model)."""
        self._check_open()
        token_ids = self._intake.token_ids(token_ids)
        first = PADDING_SLOT + 1
        with self._lock, gradients_restored(), undisturbed(), self._forward.limited_threads():
            cache = self.model.new_cache(first + len(token_ids), self._kv_cache_dtype)
            batches = FixedBatches(1, len(token_ids), self.device, first_slot=first)
            prompt = torch.tensor(token_ids, dtype=torch.int64, device="cpu")
            logits = self._forward(batches.prefill([prompt], all_logits=True), cache)
        return logits if logits.dtype == torch.float64 else logits.float()

    def add_request(self, prompt: str | SequenceOf[int], params: SamplingParams | None = None) -> int:
        """Add a prompt (a text or token ids). Returns the id of the request, which the events of `step` carry as `request`.

        Raises `InvalidRequest` if the prompt or a parameter is not accepted.
        """
        self._check_open()
        (request,) = self._intake.requests([one_prompt(prompt)], params, self._events, number=False)
        with self._lock:
            self._submit([request])
            self._added[request.request_id] = request
        return request.request_id

    def prepare(self, params: SamplingParams) -> None:
        """Prepare the bad words of a request before the request is added. This takes up to a second for a thousand words.

        A server calls this in the client's thread, so that `add_request` does not delay other requests. Raises
        `InvalidRequest` if a bad word is not accepted.
        """
        self._intake.banned_texts(params)

    def step(self) -> list[TokenEvent]:
        """Run one forward pass. Returns the new tokens of added requests, in the order in which they were made.

        A request that failed ends with an event that has an `error`. Raises `RankFailed` when a rank is lost, and
        `NotAvailable` after the engine was closed.
        """
        with self._lock:
            self._advance()
            events = list(self._events)
            self._events.clear()
        return events

    def cancel(self, request_id: int) -> bool:
        """End an added request immediately; it gets no further events.

        Returns whether the request was unfinished: it had not ended yet, or `step` had not returned all its events.
        """
        with held, self._lock:
            request = self._added.get(request_id)
            if request is not None:
                self._withdraw([request])
            left = [event for event in self._events if event.request != request_id]
            dropped = len(left) < len(self._events)
            self._events.clear()
            self._events.extend(left)
        return request is not None or dropped

    def close(self) -> None:
        """End all requests, stop the other ranks of the model, if there are any, and free the cache's memory.

        Nothing can be generated after that: later calls, and calls that are still running, raise `NotAvailable`.
        """
        with self._lock:
            self._closed = True
            self._events.clear()
            if self._is_copy:
                return  # everything else belongs to the parent process
            self._async_steps.fail(NotAvailable(CLOSED))
            self._withdraw(list(dict.fromkeys(self._running.values())))
            if self._loop is not None:
                self._loop.drop_cache()
            if self._draft is not None:
                self._draft.close()
            self._forward.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def has_unfinished(self) -> bool:
        """Whether an added request has not ended yet, or has events that `step` has not returned yet.

        The steps of other calls, such as `generate`, also advance added requests, and can end them.
        """
        return bool(self._added or self._events)

    @property
    def stats(self) -> EngineStats:
        """Counters of finished and running work."""
        with self._lock:
            return self._ready().scheduler.stats()

    def occupy_cache(self) -> None:
        """Make the KV cache now and take all its memory, before the first request. Servers call this method.

        Without this call, the operating system provides a large page of CPU memory only when the page is first written, and
        steps that touch new pages wait about 40 ms. With several ranks, each rank takes the memory of its own cache. Raises
        `InvalidRequest` after the first request, and `InsufficientResources` if the cache is too large.
        """
        with self._lock, gradients_restored(), undisturbed():
            self._check_open()
            self._ready().occupy_cache(self.forward)

    def forget_prefixes(self) -> None:
        """Drop the keys and values that were kept from earlier texts, so that no later text reuses them.

        Call this after changing the weights of the model in place, and before timing the same prompts again: otherwise the
        engine does not compute a known prompt again.
        """
        with self._lock:
            self._ready().scheduler.pool.prefixes.clear()

    def _requests(self, prompts: Prompts, params: Params, inbox: Inbox) -> list[Request]:
        self._check_open()
        return self._intake.requests(prompts, params, inbox)

    def _begin_locks(self) -> None:
        self._lock = threading.RLock()
        self._async_steps = AsyncSteps(self._submit, self._withdraw, self._advance)

    def after_fork(self) -> None:
        """Make new locks in a forked child.

        A thread of the parent process might have held the old locks, and this thread does not exist in the child.
        """
        self._is_copy = True
        self._begin_locks()

    def _check_open(self) -> None:
        if self._closed:
            raise NotAvailable(CLOSED)
        if self._is_copy:
            if not self._forward.survives_fork:
                raise NotAvailable(NOT_IN_A_CHILD)
            self._is_copy = False
            self._fail_all(
                NotAvailable("this process was forked while the request ran; only the parent process continues the request")
            )

    def _run(self, requests: list[Request], inbox: deque[TokenEvent]) -> Iterator[TokenEvent]:
        """Run steps until these requests have ended. The steps also advance all other running requests."""
        left = sum(len(request.sequences) for request in requests)
        try:
            self._submit(requests)
            while left:
                if not inbox:
                    with self._lock:
                        if not inbox:
                            self._advance()
                while inbox:
                    event = inbox.popleft()
                    if event.error is not None:
                        raise event.error
                    left -= event.finish_reason is not None
                    yield event
        finally:
            self._withdraw(requests)

    def _advance(self) -> None:
        """Run one step and put its events into the inboxes of their requests."""
        with self._lock, gradients_restored(), undisturbed(), watched:
            self._check_open()
            ended: list[Request] = []
            try:
                # The generator is closed explicitly, because the traceback of an exception would keep it alive.
                with self._forward.limited_threads(), closing(self._ready().step(self._forward)) as events:
                    for sequence, event in events:
                        self._deliver(sequence, event, ended)
            except Exception as error:
                if not may_be_of_one(error):
                    raise
                self._fail_all(error)
            finally:
                self._withdraw(ended)

    def _deliver(self, sequence: Sequence, event: TokenEvent, ended: list[Request]) -> None:
        """Put an event into the inbox of its request.

        A failed request is added to `ended`, and its later events are dropped.
        """
        request = self._running[sequence]
        if request in ended:
            return
        request.inbox.append(event)
        if event.error is not None:
            ended.append(request)
        elif event.finish_reason is not None:
            del self._running[sequence]
            request.unfinished -= 1
            if not request.unfinished:
                self._added.pop(request.request_id, None)

    def _fail_all(self, error: Exception) -> None:
        """End all requests with an error because the engine's bookkeeping itself failed, and start with empty bookkeeping."""
        with held:
            for request in dict.fromkeys(self._running.values()):
                request.unfinished = 0
                request.inbox.append(failed(request.sequences[0], error)[1])
            self._running.clear()
            self._added.clear()
            if self._loop is not None:
                self._loop.start_anew()

    @gradients_restored()
    @undisturbed()
    def _submit(self, requests: list[Request]) -> None:
        with self._lock:
            self._check_open()
            loop = self._ready()
            try:
                with held:
                    for request in requests:
                        self._running.update(dict.fromkeys(request.sequences, request))
                        loop.add(request.sequences)
            except BaseException:
                self._withdraw(requests)
                raise

    def _withdraw(self, requests: list[Request]) -> None:
        """Cancel those sequences of these requests that have not ended."""
        if not requests:
            return
        with held, self._lock:
            left = {sequence for request in requests for sequence in request.sequences if sequence in self._running}
            if left:
                self._ready().cancel(left)
            for sequence in left:
                del self._running[sequence]
            for request in requests:
                request.unfinished = 0
                self._added.pop(request.request_id, None)

    def _check(self, sequence: Sequence) -> None:
        self._ready().scheduler.pool.check(sequence)

    def _ready(self) -> StepLoop:
        """The step loop, which is made at the first request: only then is it known how much memory the weights leave free."""
        with self._lock:
            if self._loop is None:
                slots = num_slots_for(
                    self.config,
                    self.device,
                    self.dtype,
                    max_batch_size=self.max_batch_size,
                    max_step_tokens=self.max_step_tokens,
                    **self._size,
                    part=self.model.part,
                    extra_slot_bytes=self._draft_slot_bytes(),
                )
                pool = SlotPool(slots, prefix_reuse=self._prefix_reuse)
                scheduler = Scheduler(pool, self.max_batch_size, self.max_step_tokens, self._max_mixed_prefill)
                with gradients_restored(), undisturbed():
                    if self._draft_model is not None:
                        self._draft = Draft(
                            self._draft_model,
                            self.model,
                            rows=self.max_batch_size,
                            num_slots=slots,
                            max_step_tokens=self.max_step_tokens,
                            padding_slot=self._padding_slot,
                        )
                    self._loop = StepLoop(self.model, scheduler, self._kv_cache_dtype, self._draft)
            return self._loop

    def _draft_slot_bytes(self) -> int:
        """The bytes of one token in the cache of the draft model; 0 without a draft model."""
        model = self._draft_model
        return 0 if model is None else slot_bytes(model.config, model.device, model.dtype)


def _outputs(requests: list[Request]) -> list[RequestOutput]:
    """Make one empty output per request, to be filled with the request's events."""
    return [
        RequestOutput(request.prompt.text, request.prompt.token_ids, [Completion() for _ in request.sequences])
        for request in requests
    ]
