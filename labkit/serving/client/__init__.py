"""Clients for the served model `gptj`: a blocking one and an asynchronous one."""

from labkit.serving.client.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client"]
