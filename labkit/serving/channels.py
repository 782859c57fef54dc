"""Connects to servers, without a proxy for servers on this machine, and with the secret for this user's own servers."""

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
    """The module `tritonclient.grpc`. Raises `NotAvailable` if tritonclient is not installed."""
    try:
        import tritonclient.grpc as library
    except ImportError as error:
        raise NotAvailable("tritonclient is not installed; install labkit with its extra 'serve'") from error
    return library


def channel_options(address: str, more: Sequence[tuple[str, int]] = ()) -> Options:
    """gRPC's options for HOST:PORT: messages can have any size, and servers on this machine are reached without a proxy, even
    if the environment names a proxy.
    """
    return [*_LARGEST, *more, *([("grpc.enable_http_proxy", 0)] if is_here(address) else [])]


def grpc_client(address: str, more: Sequence[tuple[str, int]] = ()) -> Any:
    """A `tritonclient.grpc.InferenceServerClient` for HOST:PORT. The client can load models if the server belongs to this user.

    more: further options of the gRPC channel. Raises `NotAvailable` if tritonclient is not installed.
    """
    client = client_library().InferenceServerClient(address, channel_args=channel_options(address, more))
    client.register_plugin(_AddsSecret(address))
    return client


def open_url(url: str | urllib.request.Request, *, timeout: float) -> Any:
    """Open a URL like `urllib.request.urlopen`, but without a proxy for addresses on this machine."""
    address = urllib.parse.urlsplit(url if isinstance(url, str) else url.full_url).netloc
    handlers = [urllib.request.ProxyHandler({})] if is_here(address) else []
    return urllib.request.build_opener(*handlers).open(url, timeout=timeout)


def is_here(address: str) -> bool:
    """Whether HOST:PORT is on this machine: a loopback address, or the address of one of this user's servers."""
    return is_loopback(address) or secret_of(address) is not None


class _AddsSecret:
    """Adds the secret to each call. The secret is read at each call, because a restarted server has a new secret."""

    def __init__(self, address: str) -> None:
        self._address = address

    def __call__(self, request: Any) -> None:
        if (secret := secret_of(self._address)) is not None:
            request.headers = {**(request.headers or {}), GRPC_HEADER: secret}
