"""An MkDocs hook: a list can follow a paragraph without an empty line, as in JupyterLab and on sites that host repositories.

Without this hook, MkDocs would make the list a part of the paragraph.
"""

from __future__ import annotations

import re
from typing import Any

_ITEM = re.compile(r"[-*] |\d+\. ")
_FENCE = re.compile(r"\s*(```|~~~)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the Markdown of a page with an empty line between each paragraph and the list after it."""
    lines: list[str] = []
    in_code = False
    for line in markdown.split("\n"):
        before = lines[-1] if lines else ""
        follows_text = bool(before.strip()) and not before.startswith(" ") and not _ITEM.match(before)
        if not in_code and _ITEM.match(line) and follows_text:
            lines.append("")
        if _FENCE.match(line):
            in_code = not in_code
        lines.append(line)
    return "\n".join(lines)
