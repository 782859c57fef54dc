"""Clients for the served model `gptj`: a blocking client and an asynchronous client."""

from labkit.serving.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
