"""Connections to servers: on this machine never through a proxy, and with the secret of a server that is this user's."""

from __future__ import annotations

import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

from labkit.errors import NotAvailable
from labkit.serving.access import GRPC_HEADER, is_loopback, secret_of

Options = list[tuple[str, int]]

_LARGEST: Options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def client_library() -> Any:
    """`tritonclient.grpc`. Raises `NotAvailable` where it is not installed."""
    try:
        import tritonclient.grpc as library
    except ImportError as error:
        raise NotAvailable("tritonclient is not installed; install labkit with its extra 'serve'") from error
    return library


def channel_options(address: str, more: Sequence[tuple[str, int]] = ()) -> Options:
    """gRPC's options for HOST:PORT: messages of any size, and no proxy on this machine, whatever the environment says."""
    return [*_LARGEST, *more, *([("grpc.enable_http_proxy", 0)] if _is_here(address) else [])]


def grpc_client(address: str, more: Sequence[tuple[str, int]] = ()) -> Any:
    """A `tritonclient.grpc.InferenceServerClient` for HOST:PORT, which may load models if the server is this user's.

    more: further options of its channel. Raises `NotAvailable` where tritonclient is not installed.
    """
    client = client_library().InferenceServerClient(address, channel_args=channel_options(address, more))
    client.register_plugin(_BringsSecret(address))
    return client


def open_url(url: str | urllib.request.Request, *, timeout: float) -> Any:
    """`urllib.request.urlopen` without a proxy on this machine."""
    address = urllib.parse.urlsplit(url if isinstance(url, str) else url.full_url).netloc
    handlers = [urllib.request.ProxyHandler({})] if _is_here(address) else []
    return urllib.request.build_opener(*handlers).open(url, timeout=timeout)


def _is_here(address: str) -> bool:
    """Whether HOST:PORT is on this machine: by its name, or as a server of this user listens there."""
    return is_loopback(address) or secret_of(address) is not None


class _BringsSecret:
    """Adds the secret that belongs to the address at the time of a call: a server that is started anew has a new one."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, request: Any) -> None:
        if (secret := secret_of(self._address)) is not None:
            request.headers = {**(request.headers or {}), GRPC_HEADER: secret}
