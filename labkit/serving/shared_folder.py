"""The folder that a server shares with the processes of its models: engine sockets, the probe mark, request counts."""

from __future__ import annotations

from pathlib import Path

from labkit.serving.user_folder import user_folder


def shared_folder(server_pid: int) -> Path:
    """The shared folder of a server, which only this user can open. The folder is created if it is missing.

    Raises `NotAvailable` if no private folder can be made.
    """
    folder = shared_folder_path(server_pid)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def shared_folder_path(server_pid: int) -> Path:
    """Where the shared folder of a server is, or would be; nothing is created."""
    return user_folder() / str(server_pid)
