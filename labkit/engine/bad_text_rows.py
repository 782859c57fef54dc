"""Bad words that are given as text: the automata of a request, and the automaton states of each running sequence."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence as SequenceOf

from torch import Tensor

from labkit.engine.bad_text_automaton import BadTextAutomaton, TokenTexts
from labkit.engine.schedule.sequence import Sequence
from labkit.tokenizer import Tokenizer

_MOST_SETS = 8
"""The number of sets of bad words whose automata are kept. A later request with the same bad words uses the same automata."""


class AutomatonCache:
    """Makes and keeps the automata for the bad words of requests, over the first `vocab_size` tokens of a tokenizer.

    A word is searched for in the text as a user sees it, without special tokens. A word that contains the name of a special
    token (`<|endoftext|>`) is searched for in the text with the names of special tokens written out.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._texts: dict[bool, TokenTexts] = {}
        self._made: OrderedDict[tuple[str, ...], tuple[BadTextAutomaton, ...]] = OrderedDict()

    def of(self, words: SequenceOf[str]) -> tuple[BadTextAutomaton, ...]:
        """Return the automata that ban these words; an empty tuple if there are no words."""
        key = tuple(sorted(set(words)))
        made = self._made.pop(key, None)
        if made is None:
            shown: list[bytes] = []
            named: list[bytes] = []
            for word in key:
                special = any(name in word for name in self._tokenizer.special_tokens.values())
                (named if special else shown).append(word.encode())
            made = tuple(BadTextAutomaton(part, self._tokens(part is named)) for part in (shown, named) if part)
        self._made[key] = made
        while len(self._made) > _MOST_SETS:
            self._made.popitem(last=False)
        return made

    def _tokens(self, named: bool) -> TokenTexts:
        if named not in self._texts:
            names = self._tokenizer.special_tokens if named else {}
            texts = [
                names[token].encode() if token in names else self._tokenizer.token_bytes(token)
                for token in range(self._vocab_size)
            ]
            self._texts[named] = TokenTexts(texts)
        return self._texts[named]


class BadTextRows:
    """The automaton state of each running sequence. A sequence without bad texts needs no computation."""

    def __init__(self, rows: int) -> None:
        self._rows: list[tuple[tuple[BadTextAutomaton, int], ...]] = [()] * rows

    def join(self, row: int, sequence: Sequence) -> None:
        """Put a sequence, with its prompt and its new tokens, into a row. A sequence without bad texts clears the row."""
        if sequence.banned_texts:
            tokens = [*sequence.prompt, *sequence.new_tokens]
            self._rows[row] = tuple((banned, banned.after(tokens)) for banned in sequence.banned_texts)
        else:
            self._rows[row] = ()

    def select(self, rows: SequenceOf[int], parents: SequenceOf[int]) -> None:
        """Make `rows[i]` a copy of row `parents[i]`, for all i at once."""
        for row, state in zip(rows, [self._rows[parent] for parent in parents], strict=True):
            self._rows[row] = state

    def ban(self, logits: Tensor, rows: SequenceOf[int]) -> Tensor:
        """Set the logits `[n, vocab_size]` of these rows, in place, to minus infinity for tokens that would complete a word."""
        for line, row in zip(logits, rows, strict=True) if any(self._rows[row] for row in rows) else ():
            for banned, state in self._rows[row]:
                for tokens in banned.banned(state, logits.device):
                    line.index_fill_(0, tokens, -math.inf)
        return logits

    def advance(self, tokens: Tensor, rows: SequenceOf[int], going: Tensor) -> None:
        """For each row whose `going` (`[n]` bool) is true, update its state with the row's next token (`tokens` `[n]`)."""
        for row, token, goes in zip(rows, tokens.tolist(), going.tolist(), strict=True):
            if goes and self._rows[row]:
                self._rows[row] = tuple((banned, banned.after_token(state, token)) for banned, state in self._rows[row])
