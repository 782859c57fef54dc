"""One continuation in the making: its tokens, its text, and whether it has ended. Knows nothing of the model."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as SequenceOf

from labkit.engine.outputs import StopReason, TokenEvent, TokenLogprob
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.stop_words import StopWords
from labkit.engine.text_stream import TextStream


class Sequence:
    """A prompt and what has been made behind it so far.

    `stop_token_ids` are the tokens that end it (the end of text among them unless ignored); `bad_words` the forbidden
    token sequences (`bans`: whether any token may be forbidden); `seed` decides its random draws together with `sample`;
    `token_bytes` turns a token into its part of the text, and `stop_words` are the stops given as token ids.
    """

    def __init__(
        self,
        *,
        request: int,
        sample: int,
        prompt: list[int],
        params: SamplingParams,
        max_new_tokens: int,
        eos_token_id: int | None,
        bad_words: SequenceOf[tuple[int, ...]],
        seed: int,
        token_bytes: Callable[[int], bytes],
    ) -> None:
        self.request = request
        self.sample = sample
        self.prompt = prompt
        self.params = params
        self.max_new_tokens = max_new_tokens
        end = eos_token_id if params.end_token_id is None else params.end_token_id
        ending = () if end is None or params.ignore_eos else (end,)
        self.stop_token_ids = frozenset((*params.stop_token_ids, *ending))
        self.bad_words = tuple(bad_words)
        self.seed = seed
        self.new_tokens: list[int] = []
        self.token_bytes = token_bytes
        self._text = TextStream([word for word in params.stop if isinstance(word, str)])
        self.stop_words = StopWords([word for word in params.stop if not isinstance(word, str)])
        self._held: list[bytes] = []  # of the last tokens, which may be the beginning of a stop word
        self.bans = bool(self.bad_words) or params.min_new_tokens > 0
        self._banned: dict[int, list[tuple[int, ...]]] = {}  # bad words by their last token, without it
        for word in self.bad_words:
            self._banned.setdefault(word[-1], []).append(word[:-1])

    @property
    def may_stop(self) -> bool:
        """Whether the minimum length is reached, so that the next token may be a stop token."""
        return len(self.new_tokens) >= self.params.min_new_tokens

    def forbids(self, token: int) -> bool:
        """Whether the token completes a bad word or ends the text too early: it is made where every token is forbidden."""
        if token in self.stop_token_ids and not self.may_stop:
            return True
        if token not in self._banned:
            return False
        tokens = (*self.prompt, *self.new_tokens)
        return any(tokens[len(tokens) - len(begun) :] == begun for begun in self._banned[token])

    def append(self, token: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Take the next token; the event says what it adds and whether it was the last."""
        searching = self.may_stop
        self.new_tokens.append(token)
        ended = token in self.stop_token_ids
        full = len(self.new_tokens) >= self.max_new_tokens
        searched = self.new_tokens[self.params.min_new_tokens :] if self.stop_words.words else ()
        word = self.stop_words.found(searched) if searched else None
        self._held.append(b"" if ended else self.token_bytes(token))
        if word is not None:
            del self._held[len(self._held) - len(word) :]
        last = ended or full or word is not None
        shown = len(self._held) if last or not searched else len(self._held) - self.stop_words.begun(searched)
        text = self._text.push(b"".join(self._held[:shown]), last=last, searching=searching)
        del self._held[:shown]
        stop_reason: StopReason = self._text.stopped_by or (token if ended else word)
        reason = "stop" if stop_reason is not None else "length" if full else None
        return TokenEvent(self.request, self.sample, token, text, logprob, reason, stop_reason)
