"""Who may change a server: its own user's programs, which find the server's secret in a file that only they can read.

Triton refuses a request to one of `CLOSED` that does not bring the secret in a header. The other interfaces stay open to every
program that reaches the port: inference, and what only reads (health, metadata, model-config, statistics). These name models,
shapes, counts and paths, clients need them, and nothing can be changed through them.

Triton looks neither at a request's Origin nor at its Host. A page in a browser can therefore send a prompt to a server on
loopback and let it work; it cannot read the answer, unless its own name is made to mean this machine (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from labkit.serving.private_folder import private_folder, write_private

CLOSED = ("model-repository", "shared-memory", "trace", "logging")
"""What Triton calls the interfaces that load code, map memory, and write files."""

HEADER = "labkit-access"
"""The HTTP header of the secret; in gRPC's metadata it has Triton's own prefix in front."""

GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"

SECRET_FILE = "secret"
"""Of a server's own folder."""

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0")
"""Hosts under which a server of this machine is reached."""


def restricting_options(secret: str) -> list[str]:
    """tritonserver's options that close `CLOSED` over HTTP and gRPC."""
    closed = ",".join(CLOSED)
    return [f"--{option}={closed}:{HEADER}={secret}" for option in ("http-restricted-api", "grpc-restricted-protocol")]


def make_secret(folder: Path, addresses: Sequence[str]) -> None:
    """A new random secret for a server: in its own folder, and where this user's programs find it by HOST:PORT."""
    secret = secrets.token_hex(32)
    write_private(folder / SECRET_FILE, secret)
    for address in addresses:  # of the metrics too, by which they are known to be on this machine
        write_private(_folder() / address, secret)


def withdraw_secret(folder: Path) -> None:
    """Delete the files by which the server of this folder is found; those of a newer server on its ports stay."""
    with contextlib.suppress(OSError):
        secret = (folder / SECRET_FILE).read_text()
        for file in _folder().iterdir():
            with contextlib.suppress(OSError):
                if file.read_text() == secret:
                    file.unlink()


def secret_of(address: str) -> str | None:
    """The secret of this user's server at HOST:PORT; None where there is none, as for a server on another machine."""
    host, _, port = address.rpartition(":")
    hosts = [host, *LOOPBACK] if is_loopback(address) else [host]
    for one in hosts:
        with contextlib.suppress(OSError):
            return (_folder() / f"{one}:{port}").read_text()
    return None


def access_headers(http_address: str) -> dict[str, str]:
    """The HTTP headers with which a server at HOST:PORT lets this user load models; none where no secret is known."""
    secret = secret_of(http_address)
    return {} if secret is None else {HEADER: secret}


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is on this machine by its name: nothing that is sent there needs a proxy."""
    host = address.rpartition(":")[0] or address
    return host in LOOPBACK or re.fullmatch(r"127(\.\d+){3}", host) is not None


def is_visible(pid: int, address: str) -> bool:
    """Whether the process list shows the secret of the server with this process at HOST:PORT."""
    secret = secret_of(address)
    return secret is not None and secret in Path(f"/proc/{pid}/cmdline").read_text()


def opening_words(address: str) -> str:
    """One sentence about what a server opens that listens on `address`; empty for loopback."""
    if is_loopback(f"{address}:0") and address != "0.0.0.0":
        return ""
    machines = "every machine that reaches this one" if address == "0.0.0.0" else f"every machine that reaches {address}"
    return (
        f"{machines} can now use the models and read their settings and counts, without a password and unencrypted; "
        "only programs of this user can load and unload models"
    )


def _folder() -> Path:
    folder = private_folder() / "access"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
