"""Builds the documentation site, which works without a network: `python -m docs.site`, or `make docs`."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder of the repository."""
