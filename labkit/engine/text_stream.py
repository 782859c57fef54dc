"""Turns tokens into text as they arrive. Shows only whole characters, and holds back text that might become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence

_FIRST_MARK = 0xD800  # surrogates never occur in decoded text, so the search uses them for special tokens


class TextStream:
    """Takes one token after another and returns the text that can be shown.

    The stream holds back the bytes of an unfinished UTF-8 character, and text that might be the beginning of a stop string.
    special: the names of special tokens. Special tokens are not shown, but a stop string that contains the name of a special
    token matches the token.
    """

    def __init__(self, stop: Sequence[str] = (), special: Iterable[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        names = sorted({name for name in special if any(name in one for one in stop)}, key=len, reverse=True)
        self._marks = {name: chr(_FIRST_MARK + number) for number, name in enumerate(names)}
        self._no_marks = dict.fromkeys(map(ord, self._marks.values()))
        self._marked = {self._with_marks(one): one for one in stop if self._with_marks(one) != one}
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, *pieces: bytes | str, last: bool = False, searching: bool = True) -> str:
        """Take tokens, and return the new text that can be shown. The text is empty after a stop string.

        pieces: for each token, its bytes, or its name if it is a special token. last: whether these tokens are the last, so
        that nothing is held back. searching: whether to look for stop strings. If false, no part of this text counts as part
        of a stop string.
        """
        if self.stopped_by is not None:
            return ""
        new = [self._marks.get(one, "") if isinstance(one, str) else self._decoder.decode(one) for one in pieces]
        text = "".join((self._held, *new, self._decoder.decode(b"", final=last)))
        if not searching or not self._stop:
            self._held = ""
            return self._shown(text)
        # If several stop strings occur, the one that ends first is used. So the result does not depend on how the text is cut
        # into tokens.
        if found := self._found(text):
            _, begin, self.stopped_by = min(found)
            self._held = ""
            return self._shown(text)[:begin]
        settled = len(text) if last else self._beginning_of_a_stop(text)
        self._held = text[settled:]
        return self._shown(text[:settled])

    def _found(self, text: str) -> list[tuple[int, int, str]]:
        """For each stop string that occurs: its end and its beginning in the shown text, and the string itself."""
        shown = self._shown(text)
        found = [(shown.find(stop) + len(stop), shown.find(stop), stop) for stop in self._stop if stop in shown]
        for marked, stop in self._marked.items():
            if (begin := text.find(marked)) >= 0:
                end = len(self._shown(text[: begin + len(marked)]))
                found.append((end, len(self._shown(text[:begin])), stop))
        return found

    def _beginning_of_a_stop(self, text: str) -> int:
        """The position near the end of the text where a stop string might begin; the text's length if there is none."""
        length = _longest_beginning(self._shown(text), self._stop)
        begin = len(text)
        while length:
            begin -= 1
            length -= ord(text[begin]) not in self._no_marks
        return min(begin, len(text) - _longest_beginning(text, self._marked))

    def _with_marks(self, text: str) -> str:
        for name, mark in self._marks.items():
            text = text.replace(name, mark)
        return text

    def _shown(self, text: str) -> str:
        return text.translate(self._no_marks) if self._marks else text


def _longest_beginning(text: str, stops: Iterable[str]) -> int:
    lengths = [n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])]
    return max(lengths, default=0)
