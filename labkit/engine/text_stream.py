"""From tokens to text as they come: whole characters only, and nothing that may turn out to be a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Takes the bytes of one token after another and gives the text that is settled.

    Holds back bytes of an unfinished UTF-8 character, and text that is the beginning of a stop string.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = tuple(stop)
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, token_bytes: bytes, *, last: bool = False, searching: bool = True) -> str:
        """Text settled by this token; with `last` everything is. After a stop string nothing more comes.

        Without `searching`, stop strings are not looked for in this token's text, nor may one begin in it.
        """
        if self.stopped_by is not None:
            return ""
        text = self._held + self._decoder.decode(token_bytes, final=last)
        if not searching or not self._stop:
            self._held = ""
            return text
        # The stop that is complete first wins, so that the result does not depend on how the text is cut into tokens.
        found = [(text.find(stop) + len(stop), text.find(stop), stop) for stop in self._stop if stop in text]
        if found:
            _, begin, self.stopped_by = min(found)
            self._held = ""
            return text[:begin]
        settled = len(text) if last else len(text) - self._longest_beginning_of_a_stop(text)
        self._held = text[settled:]
        return text[:settled]

    def _longest_beginning_of_a_stop(self, text: str) -> int:
        lengths = [n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])]
        return max(lengths, default=0)
