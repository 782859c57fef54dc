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
from labkit.engine.batch import Batch, FixedBatches
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
        cache = KVCache(self.config, len(token_ids), device=self.device, dtype=self.dtype)
        batches = FixedBatches(1, len(token_ids), self.device)
        logits = self.model.forward(batches.prefill([torch.tensor(token_ids)], all_logits=True), cache)
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
        """Admit, prefill, decode until every sequence has ended; each running one has a stretch of the cache."""
        waiting = deque(groups)
        longest = max(len(s.prompt) + s.max_new_tokens - 1 for group in groups for s in group)
        stretches = min(self.max_batch_size, sum(map(len, groups)))
        cache = self._take_cache(stretches * longest)
        table = torch.arange(stretches * longest, dtype=torch.int32, device=self.device).view(stretches, longest)
        free = list(range(stretches))
        running: list[tuple[Sequence, int]] = []
        try:
            while waiting or running:
                yield from self._step(waiting, running, free, table, cache)
        finally:
            self._cache = cache

    def _step(
        self,
        waiting: deque[list[Sequence]],
        running: list[tuple[Sequence, int]],
        free: list[int],
        table: Tensor,
        cache: KVCache,
    ) -> list[TokenEvent]:
        """One forward pass and one new token for each sequence in it: of newly admitted prompts, else of all running."""
        if admitted := self._admit(waiting, len(running)):
            stepping = [(sequence, free.pop()) for group in admitted for sequence in group]
            running += stepping
            new = [sequence.prompt for sequence, _ in stepping]
        else:
            stepping = list(running)
            new = [[sequence.last_token] for sequence, _ in stepping]
        logits = self.model.forward(self._batch(stepping, new, table), cache)
        sequences = [sequence for sequence, _ in stepping]
        tokens = sampler.sample(logits, sequences)
        scores = sampler.logprobs(logits, sequences, tokens)
        events = [s.append(token, score) for s, token, score in zip(sequences, tokens, scores, strict=True)]
        for event, (sequence, stretch) in zip(events, stepping, strict=True):
            if event.finish_reason is not None:
                running.remove((sequence, stretch))
                free.append(stretch)
        return events

    def _batch(self, stepping: list[tuple[Sequence, int]], new: list[list[int]], table: Tensor) -> Batch:
        counts = torch.tensor([len(tokens) for tokens in new])
        lengths = torch.tensor([len(s.prompt) + len(s.new_tokens) for s, _ in stepping])
        ends = counts.cumsum(0)
        positions = torch.cat([torch.arange(int(n - c), int(n)) for n, c in zip(lengths, counts, strict=True)])
        mine = table[[stretch for _, stretch in stepping]]
        rows = torch.arange(len(new)).repeat_interleave(counts)
        return Batch(
            token_ids=torch.tensor([token for tokens in new for token in tokens], device=self.device),
            positions=positions.to(self.device),
            slot_mapping=mine[rows.to(self.device), positions.to(self.device)].long(),
            starts=torch.cat((ends.new_zeros(1), ends)).to(self.device, torch.int32),
            slot_table=mine,
            lengths=lengths.to(self.device, torch.int32),
            num_decodes=len(new) if all(len(tokens) == 1 for tokens in new) else 0,
            logit_rows=(ends - 1).to(self.device),
        )

    def _admit(self, waiting: deque[list[Sequence]], running: int) -> list[list[Sequence]]:
        """Take waiting groups, in order, while slots and this step's prompt tokens last."""
        admitted: list[list[Sequence]] = []
        slots, tokens = self.max_batch_size - running, 0
        while waiting and len(waiting[0]) <= slots:
            tokens += len(waiting[0][0].prompt) * len(waiting[0])
            if admitted and tokens > self.max_prefill_tokens:
                break
            slots -= len(waiting[0])
            admitted.append(waiting.popleft())
        return admitted

    def _take_cache(self, slots: int) -> KVCache:
        """A cache of at least this size: the last one, unless it is too small or another stream has it."""
        cache, self._cache = self._cache, None
        if cache is None or cache.num_slots < slots:
            cache = KVCache(self.config, slots, device=self.device, dtype=self.dtype)
        return cache
