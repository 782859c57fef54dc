"""Cuts a text into windows of tokens, so that a model with a limited context can predict every token of the text once."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.errors import InvalidRequest
from labkit.plurals import counted


@dataclass(frozen=True)
class TextWindow:
    """The token ids of one forward pass (`seen`), and the tokens (`targets`) that its logits from index `first` on predict."""

    seen: list[int]
    first: int
    targets: list[int]


def text_windows(ids: list[int], size: int) -> list[TextWindow]:
    """Cut a text into windows of at most `size` tokens that together predict every token except the first exactly once.

    Windows overlap by half, so at least half a window comes before each predicted token, except at the beginning of the text.
    Raises `InvalidRequest` for fewer than two tokens, or a size below two.
    """
    if len(ids) < 2 or size < 2:
        raise InvalidRequest(
            f"the text has {counted(len(ids), 'token')} and the window {size}; at least 2 tokens are needed for both"
        )
    made, stride = [], size // 2
    for start in range(0, len(ids) - 1, stride):
        begin = max(0, start - (size - stride))
        seen = ids[begin : min(start + stride, len(ids) - 1)]
        made.append(TextWindow(seen, start - begin, ids[start + 1 : start + stride + 1]))
    return made
