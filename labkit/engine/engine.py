"""The engine: prompts in, continuations out, many at once, each by its own parameters.

Sequences run together in one batch; those that end leave it and waiting ones take their place. Knows the tokenizer
only as something that turns text into tokens and a token into bytes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.checkpoints import Tokenizer
from labkit.config import GPTJConfig
from labkit.engine import sampler
from labkit.engine.kv_cache import KVCache
from labkit.engine.model import GPTJ
from labkit.engine.outputs import Completion, RequestOutput, TokenEvent
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.sequence import Sequence
from labkit.errors import InvalidRequest

Prompts = str | SequenceOf[str] | SequenceOf[SequenceOf[int]]
Params = SamplingParams | SequenceOf[SamplingParams] | None


@dataclass(frozen=True)
class Prompt:
    """A prompt as text (None when it came as tokens) and as tokens."""

    text: str | None
    token_ids: list[int]


class Engine:
    """Runs a `GPTJ`: `generate` for whole continuations, `stream` for tokens as they are made, `logits` to score.

    `max_batch_size` sequences run at a time; `max_prefill_tokens` bounds the prompt tokens of one step.
    """

    def __init__(
        self,
        model: GPTJ,
        tokenizer: Tokenizer | None = None,
        *,
        max_batch_size: int = 64,
        max_prefill_tokens: int = 8192,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_size = max_batch_size
        self.max_prefill_tokens = max_prefill_tokens
        self._cache: KVCache | None = None

    @property
    def config(self) -> GPTJConfig:
        """The model's shape."""
        return self.model.config

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
        asked = self._prompts(prompts)
        groups = self._sequences(asked, params)
        outputs = [
            RequestOutput(prompt.text, prompt.token_ids, [Completion() for _ in group])
            for prompt, group in zip(asked, groups, strict=True)
        ]
        for event in self._run(groups):
            completion = outputs[event.request].completions[event.sample]
            completion.token_ids.append(event.token_id)
            completion.text += event.text
            if event.logprob is not None:
                completion.logprobs = [*(completion.logprobs or []), event.logprob]
            if event.finish_reason is not None:
                completion.finish_reason, completion.stop_reason = event.finish_reason, event.stop_reason
        return outputs

    def stream(self, prompts: Prompts, params: Params = None) -> Iterator[TokenEvent]:
        """The same, a token at a time in the order in which they are made; refusals come at the call, not later."""
        return self._run(self._sequences(self._prompts(prompts), params))

    def logits(self, token_ids: SequenceOf[int]) -> Tensor:
        """Logits behind every token of one text: `[len(token_ids), vocab_size]`, float32 (float64 in a float64 model)."""
        self._check_tokens(list(token_ids))
        cache = KVCache(self.config, 1, len(token_ids), device=self.device, dtype=self.dtype)
        logits = self.model.prefill([torch.tensor(token_ids)], cache, [0], all_logits=True)
        return logits if logits.dtype == torch.float64 else logits.float()

    def _prompts(self, prompts: Prompts) -> list[Prompt]:
        if isinstance(prompts, str):
            prompts = [prompts]
        if not isinstance(prompts, SequenceOf) or not prompts:
            raise InvalidRequest(f"prompts is {prompts!r}; a text, or a list of texts or of token-id lists is accepted")
        if isinstance(prompts[0], int):
            raise InvalidRequest("prompts is a list of numbers; give a list of token-id lists, [[1, 2, 3]] for one prompt")
        asked = []
        for prompt in prompts:
            if isinstance(prompt, str):
                asked.append(Prompt(prompt, self._need_tokenizer().encode(prompt)))
            else:
                asked.append(Prompt(None, list(prompt)))
            self._check_tokens(asked[-1].token_ids)
        return asked

    def _check_tokens(self, tokens: list[int]) -> None:
        if not tokens:
            raise InvalidRequest("a prompt is empty; give at least one token (a space or '<|endoftext|>' will do)")
        if len(tokens) > self.config.context_length:
            raise InvalidRequest(
                f"a prompt has {len(tokens)} tokens, but the model's context holds {self.config.context_length}; shorten it"
            )
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self.config.vocab_size:
                raise InvalidRequest(f"a prompt holds {token!r}; token ids are 0 to {self.config.vocab_size - 1}")

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidRequest("this model has no tokenizer (its weights are synthetic); give prompts as token ids")
        return self.tokenizer

    def _sequences(self, prompts: list[Prompt], params: Params) -> list[list[Sequence]]:
        """A group of sequences a prompt, one a sample."""
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(prompts)
        if len(params) != len(prompts):
            raise InvalidRequest(f"{len(params)} sampling params for {len(prompts)} prompts; give one, or one a prompt")
        groups = []
        for request, (prompt, chosen) in enumerate(zip(prompts, params, strict=True)):
            limit = chosen.fit(self.config, len(prompt.token_ids))
            seed = int.from_bytes(os.urandom(8), "little") if chosen.seed is None else chosen.seed
            if chosen.num_samples > self.max_batch_size:
                raise InvalidRequest(
                    f"num_samples is {chosen.num_samples}; this engine runs {self.max_batch_size} sequences at a time"
                )
            if chosen.stop:
                self._need_tokenizer()
            group = [
                Sequence(
                    request=request,
                    sample=number,
                    prompt=prompt.token_ids,
                    params=chosen,
                    max_new_tokens=limit,
                    eos_token_id=self.config.eos_token_id,
                    bad_words=self._bad_words(chosen),
                    seed=seed,
                    token_bytes=self.tokenizer.token_bytes if self.tokenizer else lambda token: b"",
                )
                for number in range(chosen.num_samples)
            ]
            groups.append(group)
        return groups

    def _bad_words(self, params: SamplingParams) -> list[tuple[int, ...]]:
        """Bad words as token sequences; a text is banned both at the start of a word and inside one."""
        banned: list[tuple[int, ...]] = []
        for word in params.bad_words:
            if isinstance(word, str):
                encode = self._need_tokenizer().encode
                banned += [tuple(encode(word)), tuple(encode(" " + word.lstrip()))]
            else:
                banned.append(tuple(word))
        return list(dict.fromkeys(banned))

    def _run(self, groups: list[list[Sequence]]) -> Iterator[TokenEvent]:
        """Admit, prefill, decode until every sequence has ended; the running ones sit in slots 0, 1, ... in order."""
        waiting = deque(groups)
        longest = max(len(s.prompt) + s.max_new_tokens - 1 for group in groups for s in group)
        cache = self._take_cache(min(self.max_batch_size, sum(map(len, groups))), longest)
        running: list[Sequence] = []
        try:
            while waiting or running:
                yield from self._step(waiting, running, cache)
        finally:
            self._cache = cache

    def _step(self, waiting: deque[list[Sequence]], running: list[Sequence], cache: KVCache) -> list[TokenEvent]:
        """One forward pass and one new token for each sequence in it: of newly admitted prompts, else of all running."""
        if admitted := self._admit(waiting, len(running)):
            first = len(running)
            logits = self._prefill(admitted, running, cache)
        else:
            first = 0
            logits = self.model.decode(torch.tensor([s.last_token for s in running]), cache)
        stepping = running[first:]
        tokens = sampler.sample(logits, stepping)
        scores = sampler.logprobs(logits, stepping, tokens)
        events = [s.append(token, score) for s, token, score in zip(stepping, tokens, scores, strict=True)]
        for row in reversed(range(len(events))):
            if events[row].finish_reason is not None:
                self._leave(first + row, running, cache)
        return events

    def _admit(self, waiting: deque[list[Sequence]], running: int) -> list[list[Sequence]]:
        """Take waiting groups, in order, while slots and this step's prompt tokens last."""
        admitted: list[list[Sequence]] = []
        slots, tokens = self.max_batch_size - running, 0
        while waiting and len(waiting[0]) <= slots:
            tokens += len(waiting[0][0].prompt)
            if admitted and tokens > self.max_prefill_tokens:
                break
            slots -= len(waiting[0])
            admitted.append(waiting.popleft())
        return admitted

    def _prefill(self, admitted: list[list[Sequence]], running: list[Sequence], cache: KVCache) -> Tensor:
        """Run each admitted prompt once and join `running`; samples share the logits and get copies of the slot."""
        slots, slot = [], len(running)
        for group in admitted:
            slots.append(slot)
            slot += len(group)
        prompts = [torch.tensor(group[0].prompt) for group in admitted]
        logits = self.model.prefill(prompts, cache, slots)
        for first, group in zip(slots, admitted, strict=True):
            for extra in range(1, len(group)):
                cache.copy_slot(first, first + extra)
        repeats = torch.tensor([len(group) for group in admitted], device=logits.device)
        running += [sequence for group in admitted for sequence in group]
        return logits.repeat_interleave(repeats, dim=0)

    @staticmethod
    def _leave(slot: int, running: list[Sequence], cache: KVCache) -> None:
        """Take an ended sequence out; the last running one moves into its slot."""
        last = len(running) - 1
        if slot != last:
            cache.copy_slot(last, slot)
            running[slot] = running[last]
        running.pop()

    def _take_cache(self, slots: int, capacity: int) -> KVCache:
        """A cache of at least this size: the last one, unless it is too small or another stream has it."""
        cache, self._cache = self._cache, None
        if cache is None or cache.slots < slots or cache.capacity < capacity:
            cache = KVCache(self.config, slots, capacity, device=self.device, dtype=self.dtype)
        return cache
