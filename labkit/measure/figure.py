"""A matplotlib figure that a notebook displays with any backend and that uses no global state."""

from __future__ import annotations

import io
from typing import Any

from matplotlib.figure import Figure

from labkit.measure.alt_text import alt_text


class NotebookFigure(Figure):
    """A `Figure` that is made without pyplot, so it need not be closed. A notebook displays the figure as a PNG.

    The notebook also stores `alt_text` as the alternative text of the PNG, for screen readers and HTML pages. A terminal, which
    shows no pictures, shows only this text.
    """

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue(), {"alt": alt_text(self)}

    def _repr_html_(self) -> Any:
        return None

    def __repr__(self) -> str:
        return f"Figure: {alt_text(self)}"
