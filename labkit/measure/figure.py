"""A matplotlib figure that shows itself in a notebook, whatever backend is set, and uses no global state."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A `Figure` made without pyplot: nothing to close, and a PNG of it is what a notebook displays."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_html_(self) -> Any:
        return None
