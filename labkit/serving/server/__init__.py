"""The process of a Triton Inference Server: how it is started, watched, repaired and ended.

`Server` is imported only on first use: the guardian's process imports this package too, and must start quickly and stay small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labkit.serving.server.server import Server as Server

__all__ = ["Server"]


def __getattr__(name: str) -> Any:
    if name == "Server":
        from labkit.serving.server.server import Server

        return Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has Server")
