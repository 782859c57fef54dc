"""The folder that a server shares with the processes of its models: engine sockets, the probe mark, request counts."""

from __future__ import annotations

from pathlib import Path

from labkit.serving.user_folder import user_folder


def shared_folder(server_pid: int) -> Path:
    """Return the shared folder of a server; create it if it is missing. Only this user can open it.

    Raises `NotAvailable` if no private folder can be made.
    """
    folder = shared_folder_path(server_pid)
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def shared_folder_path(server_pid: int) -> Path:
    """Return the path of a server's shared folder, whether or not it exists. Nothing is created."""
    return user_folder() / str(server_pid)
