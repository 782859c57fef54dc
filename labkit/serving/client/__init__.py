"""Clients of the served model `gptj`, blocking and asynchronous."""

from labkit.serving.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
