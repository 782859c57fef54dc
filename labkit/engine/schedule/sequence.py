"""One continuation of a prompt: its tokens so far, its text, and whether it has ended.

This module knows nothing about the model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Sequence as SequenceOf
from types import MappingProxyType

from labkit.engine.bad_text_automaton import BadTextAutomaton
from labkit.engine.outputs import NO_TOKEN, StopReason, TokenEvent, TokenLogprob
from labkit.engine.sampling_params import SamplingParams
from labkit.engine.stop_words import StopWords
from labkit.engine.text_stream import TextStream


class Sequence:
    """A prompt and its new tokens so far.

    eos_token_id: the model's end-of-text token, or several such tokens. bad_words: forbidden token sequences. banned_texts:
    forbidden texts. seed, sample: two numbers that determine the random draws. token_bytes: a function from a token to its
    bytes. special_tokens: the names of the tokens that have no bytes.

    `stop_token_ids`: the tokens that end the sequence. They include the end-of-text tokens, unless the request ignores these
    tokens. `stop_words`: the stop words that were given as token ids.
    """

    def __init__(
        self,
        *,
        request: int,
        sample: int,
        prompt: list[int],
        params: SamplingParams,
        max_new_tokens: int,
        eos_token_id: int | SequenceOf[int] | None,
        bad_words: SequenceOf[tuple[int, ...]],
        seed: int,
        token_bytes: Callable[[int], bytes],
        special_tokens: Mapping[int, str] = MappingProxyType({}),
        banned_texts: SequenceOf[BadTextAutomaton] = (),
    ) -> None:
        self.request = request
        self.sample = sample
        self.prompt = prompt
        self.params = params
        self.max_new_tokens = max_new_tokens
        end = eos_token_id if params.end_token_id is None else params.end_token_id
        ending = () if end is None or params.ignore_eos else (end,) if isinstance(end, int) else tuple(end)
        self.stop_token_ids = frozenset((*params.stop_token_ids, *ending))
        self.bad_words = tuple(bad_words)
        self.banned_texts = tuple(banned_texts)
        self.seed = seed
        self.new_tokens: list[int] = []
        self.token_bytes = token_bytes
        strings = [word for word in params.stop if isinstance(word, str)]
        self._special = {token: name for token, name in special_tokens.items() if any(name in string for string in strings)}
        self._text = self.text_stream()
        self.stop_words = StopWords([word for word in params.stop if not isinstance(word, str)])
        self._held: list[bytes | str] = []  # pieces of the last tokens, which might be the beginning of a stop word

    @property
    def given_positions(self) -> int:
        """The number of positions before the first new token: the prefix prompt, the soft prompt and the prompt."""
        return self.params.prefix_len + self.params.soft_len + len(self.prompt)

    @property
    def may_stop(self) -> bool:
        """Whether the minimum length is reached, so that the next token is allowed to be a stop token."""
        return len(self.new_tokens) >= self.params.min_new_tokens

    def text_stream(self) -> TextStream:
        """Make a new stream that looks for this sequence's stop strings."""
        return TextStream([word for word in self.params.stop if isinstance(word, str)], self._special.values())

    def piece(self, token: int) -> bytes | str:
        """The text of a token as bytes, or the token's name if it is a special token that a stop string contains."""
        return self._special.get(token) or self.token_bytes(token)

    def append(self, token: int, logprob: TokenLogprob | None) -> TokenEvent:
        """Append the next token. Returns the token's event, with the new text and, if the text has ended, the reason why.

        `NO_TOKEN` ends the text without a token.
        """
        if token == NO_TOKEN:
            text = self._text.push(*self._held, last=True, searching=self.may_stop)
            return TokenEvent(self.request, self.sample, token, text, None, "banned")
        searching = self.may_stop
        self.new_tokens.append(token)
        ended = token in self.stop_token_ids
        full = len(self.new_tokens) >= self.max_new_tokens
        searched = self.new_tokens[self.params.min_new_tokens :] if self.stop_words.words else ()
        word = self.stop_words.found(searched) if searched else None
        self._held.append(b"" if ended else self.piece(token))
        if word is not None:
            del self._held[len(self._held) - len(word) :]
        last = ended or full or word is not None
        shown = len(self._held) if last or not searched else len(self._held) - self.stop_words.begun(searched)
        text = self._text.push(*self._held[:shown], last=last, searching=searching)
        del self._held[:shown]
        stop_reason: StopReason = self._text.stopped_by or (token if ended else word)
        reason = "stop" if stop_reason is not None else "length" if full else None
        return TokenEvent(self.request, self.sample, token, text, logprob, reason, stop_reason)
