"""A fixture for the tests of labkit.compress: a small model that is quantized in many ways."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compress.directories import short_directory


@pytest.fixture(scope="session")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first three layers of gptj-tiny."""
    return short_directory(tmp_path_factory.mktemp("short") / "model")
