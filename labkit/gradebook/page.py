"""The frame of the HTML pages, and the parts that the pages share.

The pages are static: they have one small embedded style sheet and no scripts, and need no network. This module escapes every
text. A verdict is always written in words and with a sign, so a reader never needs its colour.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from labkit.gradebook.collect import Note
from labkit.gradebook.names import shown, visible
from labkit.grading.verdict import colour, sign

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
caption { text-align: left; font-size: .9rem; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border: 1px solid #8886; padding: .25rem .6rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
article { border-left: 4px solid; margin: 1rem 0; padding: .1rem 1rem; }
article h3 { margin: .3rem 0; font-size: 1.05rem; }
pre { overflow-x: auto; white-space: pre-wrap; background: #8881; padding: .5rem; margin: .3rem 0; }
figure { margin: .5rem 0; }
figcaption { font-size: .9rem; }
.bar { display: flex; width: 14rem; height: .8rem; border: 1px solid #8886; }
.bar span { display: block; border-right: 1px solid #8886; }
@media (max-width: 40rem) { .bar { width: 7rem; } }
"""

_FRAME = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page. `title` is any text; `parts` are pieces of HTML."""
    return _FRAME.format(title=text(title), style=_STYLE, body="\n".join(parts))


def text(words: str) -> str:
    """Any text as HTML. Hidden characters, such as direction marks, are written as their numbers."""
    return html.escape(visible(words))


def name(learner: str) -> str:
    """A learner's name as HTML."""
    return f"<bdi>{html.escape(shown(learner))}</bdi>"


def verdict(words: str) -> str:
    """A verdict as HTML: its sign, which a screen reader leaves out, and its words."""
    return f'<span style="color:{colour(words)}"><span aria-hidden="true">{sign(words)} </span>{text(words)}</span>'


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table. The cells are pieces of HTML; the columns in `numbers` are aligned to the right.

    The first cell of each row is its header.
    """
    head = "".join(f'<th scope="col"{_kind(column, numbers)}>{text(cell)}</th>' for column, cell in enumerate(header))
    body = "\n".join(f"<tr>{_row(row, numbers)}</tr>" for row in rows)
    return f"<table>\n<caption>{text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _row(row: Sequence[str], numbers: Sequence[int]) -> str:
    first, *rest = row
    cells = "".join(f"<td{_kind(column, numbers)}>{cell}</td>" for column, cell in enumerate(rest, start=1))
    return f'<th scope="row">{first}</th>{cells}'


def _kind(column: int, numbers: Sequence[int]) -> str:
    return ' class="number"' if column in numbers else ""


def notes_list(notes: Sequence[Note], *, with_learner: bool = False) -> str:
    """A list of notes; "" if there are none."""
    if not notes:
        return ""
    items = []
    for note in notes:
        before = [name(note.learner)] if with_learner and note.learner else []
        before += [f"<code>{text(note.file)}</code>"] if note.file else []
        items.append(f"<li>{', '.join(before)}{': ' if before else ''}{text(note.text)}</li>")
    return "<ul>\n" + "\n".join(items) + "\n</ul>"
