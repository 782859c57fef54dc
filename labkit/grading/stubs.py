"""The stubs of a lab, which `labkit release` stores in the metadata of the learner's notebook."""

from __future__ import annotations

from typing import Any


def stub_of(content: Any, function: str) -> str | None:
    """The text of the code cell with the stub of a function. None if the notebook, which is JSON of any form, has no stub."""
    try:
        stub = content["metadata"]["labkit"]["stubs"][function]
    except (KeyError, TypeError):
        return None
    return stub if isinstance(stub, str) else None
