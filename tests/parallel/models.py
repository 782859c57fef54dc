"""A GPT-J that can be divided among ranks in every way. It is stored in a directory, because each rank reads its part from
disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.models import random_peer

CONTEXT = 96


def save_peer(path: Path, *, layers: int = 5, seed: int = 3) -> Any:
    """Write random weights with unusual sizes: 4 heads of 24, 5 layers, 211 tokens. Return the transformers model."""
    peer = random_peer((96, layers, 4, 8, CONTEXT, 211), seed)
    peer.save_pretrained(path)
    return peer
