"""Fixtures: exports of random GPT-Js with transformers as the reference, and of the built-in model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import random_peer

pytest.importorskip("onnxscript", reason="not measured here: labkit's extra 'graphs' is not installed")
pytest.importorskip("onnxruntime", reason="not measured here: labkit's extra 'graphs' is not installed")

from labkit.graphs.export import export
from labkit.graphs.exported import ExportedModel

SHAPE = (96, 2, 3, 6, 61, 211)
"""hidden_size, num_layers, num_heads, rotary_dim, context_length, vocab_size: as small as two parts can be."""


@pytest.fixture(scope="session")
def peer() -> Any:
    """A random GPT-J of transformers."""
    return random_peer(SHAPE, seed=3)


@pytest.fixture(scope="session")
def source(peer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the random GPT-J."""
    folder = tmp_path_factory.mktemp("random")
    peer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """The random GPT-J as one graph."""
    return export(source, tmp_path_factory.mktemp("exports") / "whole")


@pytest.fixture(scope="session")
def in_parts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    """The random GPT-J as two graphs, of one layer each."""
    return export(source, tmp_path_factory.mktemp("exports") / "parts", parts=2)
