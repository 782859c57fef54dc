"""An MkDocs hook: formulas in TeX become MathML when the site is built, so that no script has to draw them in the browser."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(
    r'<span class="arithmatex">\\\((?P<inline>.*?)\\\)</span>|<div class="arithmatex">\s*\\\[(?P<block>.*?)\\\]\s*</div>',
    re.DOTALL,
)


def on_page_content(content: str, **_: Any) -> str:
    """Return the HTML of a page with each formula replaced by MathML."""
    return _FORMULA.sub(_mathml, content)


def _mathml(found: re.Match[str]) -> str:
    """The MathML of a formula. Its TeX source stays as alternative text for programs that cannot show MathML."""
    is_inline = found["inline"] is not None
    tex = html.unescape(found["inline"] if is_inline else found["block"]).strip()
    made = convert(tex, display="inline" if is_inline else "block")
    made = made.replace("<math ", f'<math alttext="{html.escape(tex)}" ', 1)
    return made if is_inline else f'<div class="formula">{made}</div>'
