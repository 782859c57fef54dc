"""Only programs of the user who runs a server may change it, because changes need a secret that other users cannot read.

Triton refuses requests to the interfaces in `CLOSED` unless a header holds the secret. The other interfaces stay open to every
program that can reach the port: inference, health, metadata, model configuration and statistics. Clients need these. The open
interfaces reveal models, shapes, counts and paths, but cannot change anything.

Triton does not check a request's Origin or Host header. A web page in a browser can therefore send prompts to a server on
loopback. A web page cannot read the answers, unless its own host name is made to resolve to this machine (DNS rebinding).
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

from labkit.serving.user_folder import user_folder, write_private

CLOSED = ("model-repository", "shared-memory", "trace", "logging")
"""Triton's names for the interfaces that load code, map memory or write files."""

HEADER = "labkit-access"
"""The HTTP header that holds the secret."""

GRPC_HEADER = f"triton-grpc-protocol-{HEADER}"
"""The name of this header in gRPC's metadata, where Triton requires a prefix."""

SECRET_FILE = "secret"
"""The name of the file in a server's own folder that holds the secret."""

LOOPBACK = ("127.0.0.1", "localhost", "::1", "[::1]", "0.0.0.0")
"""Host names and addresses by which a server on this machine can be reached."""


def restricting_options(secret: str) -> list[str]:
    """The tritonserver options that require the secret for the interfaces in `CLOSED`, over HTTP and gRPC."""
    closed = ",".join(CLOSED)
    return [f"--{option}={closed}:{HEADER}={secret}" for option in ("http-restricted-api", "grpc-restricted-protocol")]


def make_secret(folder: Path, addresses: Sequence[str]) -> None:
    """Make a random secret. Write the secret to the server's folder and, for each address HOST:PORT, to a file of this user."""
    secret = secrets.token_hex(32)
    write_private(folder / SECRET_FILE, secret)
    for address in addresses:  # also for the metrics port: such a file shows that the address belongs to this machine
        write_private(_folder() / address, secret)


def withdraw_secret(folder: Path) -> None:
    """Delete the files that contain this server's secret. Files of a newer server on the same ports are kept."""
    with contextlib.suppress(OSError):
        secret = (folder / SECRET_FILE).read_text()
        for file in _folder().iterdir():
            with contextlib.suppress(OSError):
                if file.read_text() == secret:
                    file.unlink()


def secret_of(address: str) -> str | None:
    """The secret of this user's server at HOST:PORT; None if no secret is known, for instance on another machine."""
    host, _, port = address.rpartition(":")
    hosts = [host, *LOOPBACK] if is_loopback(address) else [host]
    for one in hosts:
        with contextlib.suppress(OSError):
            return (_folder() / f"{one}:{port}").read_text()
    return None


def access_headers(http_address: str) -> dict[str, str]:
    """The HTTP headers that allow this user to load models in the server at HOST:PORT; empty if no secret is known."""
    secret = secret_of(http_address)
    return {} if secret is None else {HEADER: secret}


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT is a loopback address. Requests to a loopback address need no proxy."""
    host = address.rpartition(":")[0] or address
    return host in LOOPBACK or re.fullmatch(r"127(\.\d+){3}", host) is not None


def is_secret_visible(pid: int, address: str) -> bool:
    """Whether the process list shows the secret of the server at HOST:PORT; pid: the server's process id."""
    secret = secret_of(address)
    return secret is not None and secret in Path(f"/proc/{pid}/cmdline").read_text()


def exposure_warning(address: str) -> str:
    """A warning about what others can do with a server that listens on `address`; empty for loopback."""
    if is_loopback(f"{address}:0") and address != "0.0.0.0":
        return ""
    machines = "every machine that reaches this one" if address == "0.0.0.0" else f"every machine that reaches {address}"
    return (
        f"{machines} can now use the models and read their settings and counts, without a password and unencrypted; "
        "only programs of this user can load and unload models"
    )


def _folder() -> Path:
    folder = user_folder() / "access"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
