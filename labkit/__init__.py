"""labkit: a fast, exact GPT-J engine and a course built on it.

    import labkit

    engine = labkit.load("gptj-tiny")
    print(engine.generate("In the beginning")[0].text)

Importing this module loads neither torch nor the network code; the names below are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit import errors as errors
    from labkit.config import GPTJConfig as GPTJConfig
    from labkit.engine import Engine as Engine
    from labkit.engine import SamplingParams as SamplingParams
    from labkit.engine import load as load

__version__ = "0.1.0"

_HOME = {
    "GPTJConfig": "labkit.config",
    "Engine": "labkit.engine",
    "SamplingParams": "labkit.engine",
    "load": "labkit.engine",
}

__all__ = ["Engine", "GPTJConfig", "SamplingParams", "__version__", "errors", "load"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("labkit.errors")
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}; it offers {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
