"""Reads, checks and writes model weights: built-in, downloaded, synthetic or local, whole or in slices."""

from labkit.checkpoints.checkpoint import Checkpoint, expected_shapes
from labkit.checkpoints.conversion import ConvertResult, convert
from labkit.checkpoints.fetch import FetchResult, fetch
from labkit.checkpoints.resolve import config_of, is_quantized, open_checkpoint
from labkit.tokenizer import Tokenizer

__all__ = [
    "Checkpoint",
    "ConvertResult",
    "FetchResult",
    "Tokenizer",
    "config_of",
    "convert",
    "expected_shapes",
    "fetch",
    "is_quantized",
    "open_checkpoint",
]
