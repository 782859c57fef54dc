"""What a caller may ask of one prompt's continuation, and every refusal that can be made without seeing the model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest

DEFAULT_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to continue a prompt.

    max_new_tokens: tokens to make at most; left out: 64, or fewer where the context ends.
    min_new_tokens: until so many are made, the end of text and the stop tokens cannot be chosen.
    temperature: 0 is greedy; logits are divided by it otherwise.
    top_k: keep the k likeliest tokens; 0 keeps all.
    top_p: keep the smallest set of tokens whose probability reaches p, in (0, 1].
    repetition_penalty: logits of tokens in prompt or continuation are divided (if positive) or multiplied (if
        negative) by it (Keskar et al. 2019); 1 is off.
    presence_penalty: subtracted from the logits of tokens already in the continuation; 0 is off.
    stop: strings that end the text just before them; stop_token_ids: tokens that end it.
    ignore_eos: go on past the model's end-of-text token.
    bad_words: strings, or sequences of token ids, that must not be written.
    seed: equal seeds give equal text; left out, every call draws its own.
    logprobs: None for none, 0 for the chosen tokens' log-probabilities, n for the n likeliest as well; of the
        model's own distribution, before penalties and temperature.
    num_samples: continuations of this prompt, each with its own random draws.

    Order of work on the logits: repetition penalty, presence penalty, bad words and minimum length, temperature,
    top-k, top-p. Raises `InvalidRequest` naming the parameter, what was given and what is accepted.
    """

    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    stop: Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    ignore_eos: bool = False
    bad_words: Sequence[str | Sequence[int]] = ()
    seed: int | None = None
    logprobs: int | None = None
    num_samples: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if self.max_new_tokens is not None:
            _whole("max_new_tokens", self.max_new_tokens, 1)
        _whole("min_new_tokens", self.min_new_tokens, 0)
        _whole("top_k", self.top_k, 0)
        _whole("num_samples", self.num_samples, 1)
        if self.logprobs is not None:
            _whole("logprobs", self.logprobs, 0)
        if self.seed is not None:
            _whole("seed", self.seed, 0)
        _number("temperature", self.temperature, "0 (greedy) or above", lambda t: 0 <= t < math.inf)
        _number("top_p", self.top_p, "above 0 and at most 1", lambda p: 0 < p <= 1)
        _number("repetition_penalty", self.repetition_penalty, "above 0 (1 is off)", lambda r: 0 < r < math.inf)
        _number("presence_penalty", self.presence_penalty, "any finite number (0 is off)", math.isfinite)
        if self.max_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise InvalidRequest(
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}; lower it"
            )
        if self.num_samples > 1 and self.temperature == 0:
            raise InvalidRequest(
                f"num_samples {self.num_samples} with temperature 0 would give equal texts; set a temperature above 0"
            )
        self._check_stops()

    def _check_stops(self) -> None:
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise InvalidRequest(f"stop holds {text!r}; each stop is a string of at least one character")
        for token in self.stop_token_ids:
            _whole("stop_token_ids", token, 0)
        for word in self.bad_words:
            tokens = isinstance(word, Sequence) and (isinstance(word, str) or all(_is_whole(t, 0) for t in word))
            if not tokens or not word:
                raise InvalidRequest(
                    f"bad_words holds {word!r}; each is a string of at least one character or a sequence of token ids"
                )

    def fit(self, config: GPTJConfig, prompt_tokens: int) -> int:
        """The number of new tokens to make at most for a prompt of `prompt_tokens`.

        Raises `InvalidRequest` when the parameters do not fit the model: token ids out of range, or more new tokens
        than the context holds. The last new token is never fed back, so a full context still yields one.
        """
        for name, tokens in (("stop_token_ids", self.stop_token_ids), *(("bad_words", w) for w in self.bad_words)):
            for token in tokens:
                if not isinstance(token, str) and token >= config.vocab_size:
                    raise InvalidRequest(
                        f"{name} holds {token}, but the vocabulary has {config.vocab_size} tokens (0 to "
                        f"{config.vocab_size - 1})"
                    )
        room = config.context_length - prompt_tokens + 1
        wanted = max(self.max_new_tokens or min(DEFAULT_NEW_TOKENS, room), self.min_new_tokens)
        if wanted > room:
            raise InvalidRequest(
                f"{wanted} new tokens do not fit behind a prompt of {prompt_tokens}: the context of "
                f"{config.context_length} leaves room for {room}; ask for fewer or shorten the prompt"
            )
        return wanted


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _whole(name: str, value: Any, least: int) -> None:
    if not _is_whole(value, least):
        raise InvalidRequest(f"{name} is {value!r}; a whole number of at least {least} is accepted")


def _number(name: str, value: Any, accepted: str, ok: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or math.isnan(value) or not ok(value):
        raise InvalidRequest(f"{name} is {value!r}; {accepted} is accepted")
