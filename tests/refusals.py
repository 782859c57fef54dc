"""Checks the message of an `InvalidRequest`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from labkit.errors import InvalidRequest


@contextlib.contextmanager
def refused(words: list[str]) -> Iterator[None]:
    """Check that the block raises `InvalidRequest` with a one-line message that contains all of `words`."""
    with pytest.raises(InvalidRequest) as caught:
        yield
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)
