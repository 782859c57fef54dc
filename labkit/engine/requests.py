"""The door: prompts and parameters as a caller gives them become requests that can be met, or are refused."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field

from labkit.checkpoints import Tokenizer
from labkit.config import GPTJConfig
from labkit.engine.banned_text import BannedText
from labkit.engine.outputs import TokenEvent
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.sequence import Sequence
from labkit.engine.text_bans import TextBans, utf8
from labkit.errors import InvalidRequest

Prompts = str | SequenceOf[str] | SequenceOf[SequenceOf[int]]
"""One text, several texts, or several lists of token ids."""

Params = SamplingParams | SequenceOf[SamplingParams] | None
"""One for all prompts, one a prompt, or the defaults."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text (None when it came as tokens) and as tokens."""

    text: str | None
    token_ids: list[int]


@dataclass(eq=False)
class Request:
    """A prompt and the sequences that continue it, one a sample; their events go to `inbox`."""

    request_id: int
    prompt: Prompt
    sequences: list[Sequence]
    inbox: deque[TokenEvent]
    unfinished: int = field(init=False)

    def __post_init__(self) -> None:
        self.unfinished = len(self.sequences)


class Door:
    """Makes requests for a model; `check(sequence)` refuses what the engine cannot run. Knows nothing of what runs."""

    def __init__(
        self, config: GPTJConfig, tokenizer: Tokenizer | None, max_batch_size: int, check: Callable[[Sequence], None]
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        self._text_bans = TextBans(tokenizer, config.vocab_size) if tokenizer else None
        self._max_batch_size = max_batch_size
        self._check = check
        self._ids = itertools.count()

    def requests(self, prompts: Prompts, params: Params, inbox: deque[TokenEvent], *, number: bool) -> list[Request]:
        """A request a prompt. Their events carry the prompt's number in the call, or with `number` off the request's id.

        Raises `InvalidRequest` when any of them cannot be met.
        """
        asked = self.prompts(prompts)
        if params is None or isinstance(params, SamplingParams):
            params = [params or SamplingParams()] * len(asked)
        if len(params) != len(asked):
            raise InvalidRequest(f"{len(params)} sampling params for {len(asked)} prompts; give one, or one a prompt")
        made = []
        for index, (given, chosen) in enumerate(zip(asked, params, strict=True)):
            request_id = next(self._ids)
            prompt = self._started(given, chosen)
            sequences = self._samples(index if number else request_id, prompt.token_ids, chosen)
            made.append(Request(request_id, prompt, sequences, inbox))
        return made

    def prompts(self, prompts: Prompts) -> list[Prompt]:
        """Texts as tokens. Raises `InvalidRequest` for what is no prompt."""
        if isinstance(prompts, str):
            prompts = [prompts]
        if not isinstance(prompts, SequenceOf) or not prompts:
            raise InvalidRequest(f"prompts is {prompts!r}; a text, or a list of texts or of token-id lists is accepted")
        if isinstance(prompts[0], int):
            raise InvalidRequest("prompts is a list of numbers; give a list of token-id lists, [[1, 2, 3]] for one prompt")
        return [
            Prompt(prompt, self._need_tokenizer().encode(prompt)) if isinstance(prompt, str) else Prompt(None, list(prompt))
            for prompt in prompts
        ]

    def check_tokens(self, tokens: list[int]) -> None:
        """Raise `InvalidRequest` unless these are one to a context of tokens of the model."""
        if not tokens:
            raise InvalidRequest(
                "a prompt is empty; give at least one token (a space or '<|endoftext|>' will do) or a start_token_id"
            )
        if len(tokens) > self._config.context_length:
            raise InvalidRequest(
                f"a prompt has {len(tokens)} tokens, but the model's context holds {self._config.context_length}; shorten it"
            )
        for token in tokens:
            if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < self._config.vocab_size:
                raise InvalidRequest(f"a prompt holds {token!r}; token ids are 0 to {self._config.vocab_size - 1}")

    def _started(self, prompt: Prompt, params: SamplingParams) -> Prompt:
        """The prompt, or the start token in place of an empty one."""
        if not prompt.token_ids and params.start_token_id is not None:
            prompt = Prompt(prompt.text, [params.start_token_id])
        self.check_tokens(prompt.token_ids)
        return prompt

    def _need_tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise InvalidRequest("this model has no tokenizer (its weights are synthetic); give prompts as token ids")
        return self._tokenizer

    def _samples(self, number: int, tokens: list[int], params: SamplingParams) -> list[Sequence]:
        """One sequence a sample of a prompt."""
        limit = params.fit(self._config, len(tokens))
        name = "num_beams" if params.num_beams > 1 else "num_samples"
        if (width := getattr(params, name)) > self._max_batch_size:
            raise InvalidRequest(f"{name} is {width}; this engine runs {self._max_batch_size} sequences at a time")
        if params.needs_tokenizer:
            self._need_tokenizer()
        seed = int.from_bytes(os.urandom(8), "little") if params.seed is None else params.seed
        banned_texts = self.banned_texts(params)
        tokenizer = self._tokenizer
        samples = [
            Sequence(
                request=number,
                sample=sample,
                prompt=tokens,
                params=params,
                max_new_tokens=limit,
                eos_token_id=self._config.eos_token_id,
                bad_words=list(dict.fromkeys(tuple(word) for word in params.bad_words if not isinstance(word, str))),
                seed=seed,
                token_bytes=tokenizer.token_bytes if tokenizer else lambda token: b"",
                special_tokens=tokenizer.special_tokens if tokenizer else {},
                banned_texts=banned_texts,
            )
            for sample in range(params.num_samples)
        ]
        self._check(samples[0])
        return samples

    def banned_texts(self, params: SamplingParams) -> tuple[BannedText, ...]:
        """What bans the bad words given as text; a stop string, too, must be a text that UTF-8 can write.

        Kept for the next request with the same words. Raises `InvalidRequest`.
        """
        for word in params.stop:
            if isinstance(word, str):
                utf8(word, "stop")
        texts = [word for word in params.bad_words if isinstance(word, str)]
        return self._text_bans.of(texts) if texts and self._text_bans else ()
