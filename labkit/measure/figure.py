"""A matplotlib figure that a notebook displays with any backend, and that uses no global state."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A `Figure` that is made without pyplot, so it need not be closed. A notebook displays the figure as a PNG."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()

    def _repr_html_(self) -> Any:
        return None
