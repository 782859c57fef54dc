"""The types of the engine's results: events with single tokens, and whole continuations."""

from __future__ import annotations

from dataclasses import dataclass, field

from labkit.errors import RequestFailed

StopReason = int | str | tuple[int, ...] | None
"""The stop token, stop string or sequence of token ids that ended a text; None if the text ended for another reason."""

NO_TOKEN = -1
"""The `token_id` of an event without a token: bad words and the minimum length have ruled out every token."""


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probabilities of a token and of the likeliest tokens: natural logarithms of the model's unchanged probabilities.

    top: pairs of a token id and its log-probability, the likeliest first.
    """

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class TokenEvent:
    """One new token of a stream.

    `request` and `sample` say which continuation the token belongs to. `text` is the new text that can be shown now. Text is
    held back while a character is incomplete, or while the text might be the beginning of a stop string.

    `finish_reason` is None until the last token. At the last token, `finish_reason` is "stop", "length" or "banned". With
    "stop", the text ended at the end-of-text token, a stop token, a stop string or a sequence of token ids, and `stop_reason`
    says which. With "banned", every token was forbidden, and the event's `token_id` is `NO_TOKEN`. If the request asks for
    `prompt_logprobs`, they come with the first token of the first sample. They have one entry for each token of the prompt; the
    entry of the first token is None. `score` comes with the last token of a hypothesis of a beam search.

    If a request fails, one event with an `error` ends all its samples. The error names the request and the cause. Such an event
    has the `finish_reason` "error" and no token. Only `Engine.step` returns events with an error; `generate` and `stream` raise
    the error.
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
    """One continuation. `token_ids` holds only the new tokens, including the end-of-text token if it was generated.

    `text` ends before a stop string. `logprobs` is None unless the request asks for log-probabilities. Beam search ranks
    continuations by `score`: the sum of log-probabilities minus penalties, divided by the number of tokens to the power of
    `length_penalty`. Without beams `score` is None.
    """

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str = ""
    stop_reason: StopReason = None
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None

    @property
    def cumulative_logprob(self) -> float | None:
        """The sum of the tokens' log-probabilities; None if the request did not ask for `logprobs`."""
        return None if self.logprobs is None else sum(item.logprob for item in self.logprobs)


@dataclass
class RequestOutput:
    """A prompt and one continuation for each sample.

    `text`, `token_ids` and `finish_reason` belong to the first continuation.

    `prompt_logprobs` is None if the request does not ask for it. Otherwise it has one entry for each token of the prompt; the
    entry of the first token is None, because no token comes before it.
    """

    prompt: str | None
    prompt_token_ids: list[int]
    completions: list[Completion]
    prompt_logprobs: list[TokenLogprob | None] | None = None

    @property
    def text(self) -> str:
        """The text of the first continuation."""
        return self.completions[0].text

    @property
    def token_ids(self) -> list[int]:
        """The new tokens of the first continuation."""
        return self.completions[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Why the first continuation ended: "stop", "length" or "banned"."""
        return self.completions[0].finish_reason

    def take(self, event: TokenEvent) -> None:
        """Add the token of an event to the continuation that the event belongs to."""
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
