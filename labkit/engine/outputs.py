"""What the engine gives back: a token at a time, or whole continuations."""

from __future__ import annotations

from dataclasses import dataclass, field

from labkit.errors import RequestFailed

StopReason = int | str | tuple[int, ...] | None
"""What ended a text: a stop token, a stop string, a sequence of token ids; None when nothing of these did."""

NO_TOKEN = -1
"""The `token_id` of an event without a token: bad words and the minimum length left none that may come."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability (natural logarithm, of the model's own distribution), and the likeliest ones'."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One new token of a stream.

    `request` and `sample` say whose it is. `text` is what can be shown by now: it lags while a character is
    incomplete or a stop string may have begun. `finish_reason` is None until the last token, then "stop" (end of
    text, a stop token, a stop string or a sequence of token ids: `stop_reason`), "length", or "banned": every token is
    forbidden, and this event brings none (`NO_TOKEN`). `prompt_logprobs` comes with the first token of the first sample,
    where it was asked for: one entry a token of the prompt, None for the first.
    `score` comes with the last token of a beam search's hypothesis.

    A request that fails is ended, with all its samples, by one event that has an `error` (which names the request and the
    cause), the `finish_reason` "error", and no token (`NO_TOKEN`). Only `Engine.step` gives such events: `generate` and
    `stream` raise the error.
    """

    request: int
    sample: int
    token_id: int
    text: str
    logprob: TokenLogprob | None = None
    finish_reason: str | None = None
    stop_reason: StopReason = None
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    score: float | None = None
    error: RequestFailed | None = None


@dataclass
class Completion:
    """One continuation: `token_ids` holds the new tokens only (the end-of-text token too, if it was made).

    `text` ends before a stop string. `logprobs` is None unless asked for. `score` is what beam search ranks by: the sum of
    log-probabilities, less penalties, over the number of tokens to the power of `length_penalty`; None without beams.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: StopReason = None
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum of the tokens' log-probabilities; None unless `logprobs` was asked for."""
        return None if self.logprobs is None else sum(item.logprob for item in self.logprobs)


@dataclass
class RequestOutput:
    """A prompt and its continuations, one a sample; `text`, `token_ids`, `finish_reason` are the first one's.

    `prompt_logprobs` is None unless asked for: one entry a token of the prompt, None for the first, which nothing predicts.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    completions: list[Completion]
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def text(self) -> str:
        """Text of the first continuation."""
        return self.completions[0].text

    @property
    def token_ids(self) -> list[int]:
        """New tokens of the first continuation."""
        return self.completions[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Why the first continuation ended: "stop", "length" or "banned"."""
        return self.completions[0].finish_reason

    def take(self, event: TokenEvent) -> None:
        """Put a new token of this prompt where it belongs."""
        completion = self.completions[event.sample]
        if event.prompt_logprobs is not None:
            self.prompt_logprobs = list(event.prompt_logprobs)
        if event.token_id != NO_TOKEN:
            completion.token_ids.append(event.token_id)
        completion.text += event.text
        if event.logprob is not None:
            completion.logprobs = [*(completion.logprobs or []), event.logprob]
        if event.finish_reason is not None:
            completion.finish_reason, completion.stop_reason = event.finish_reason, event.stop_reason
            completion.score = event.score
