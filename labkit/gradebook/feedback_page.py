"""The feedback page of one learner: which exercises passed, which failed and why, and the places where a wrong tensor differs.

A page shows no inputs: the lines of a verdict that describe the case or repeat printed output are left out.
"""

from __future__ import annotations

import re

from labkit.exercises.core_path import CORE
from labkit.exercises.describe import LEGEND
from labkit.exercises.registry import exercise as find
from labkit.exercises.titles import LAB_TITLES
from labkit.gradebook.book import Item
from labkit.gradebook.names import shown
from labkit.gradebook.page import notes_list, page, table, text, verdict
from labkit.gradebook.reading import FROM_FILE
from labkit.gradebook.report import Report
from labkit.gradebook.scores import LabScore, counts
from labkit.grading.verdict import colour, sign
from labkit.plurals import counted

_LEFT_OUT = ("case: ", "printed: ")
_MAP_LINE = re.compile(r"[#.+]+")


def feedback_page(report: Report, learner: str) -> str:
    """The HTML page of a learner."""
    scores = report.of_learner(learner)
    header = ["Lab", "Verdict", "Score", "Out of", "All points", "Core points", "Remark"]
    rows = [
        [
            text(f"{score.lab} {LAB_TITLES[score.lab]}"),
            verdict(score.verdict),
            *(f"{number:g}" for number in (score.score, score.most)),
            f"{score.points.reached:g} of {score.points.out_of:g}",
            f"{score.points.core_reached:g} of {score.points.core_out_of:g}",
            text(score.remark),
        ]
        for score in scores
    ]
    what = "the points on the core path" if report.track == CORE else "all points"
    caption = f"Your labs. The score is what counts: {what}, after the rules on late work."
    parts = [table(caption, header, rows, (2, 3, 4, 5))]
    if notes := report.notes_on(learner):
        parts.append(f"<h2>Notes on your files</h2>\n{notes_list(notes)}")
    parts += [_lab(score) for score in scores]
    return page(f"Feedback for {shown(learner)}", parts)


def _lab(score: LabScore) -> str:
    about = ""
    if score.attempt:
        source = "its file" if score.attempt.time_from == FROM_FILE else score.attempt.time_from
        when = f"{score.attempt.submitted:%Y-%m-%d %H:%M} UTC, the time of {source}"
        about = f"<p>Notebook <code>{text(score.attempt.file)}</code>, submitted {text(when)}.</p>\n"
    items = "\n".join(_item(item, score.track) for item in score.items)
    return f"<section>\n<h2>Lab {text(score.lab)} {text(LAB_TITLES[score.lab])}</h2>\n{about}{items}\n</section>"


def _item(item: Item, track: str) -> str:
    lines = [line for line in item.details.splitlines() if not line.startswith(_LEFT_OUT)]
    end = len(lines)
    start = next((number + 1 for number, line in enumerate(lines) if LEGEND in line), end)
    while start < end and not _MAP_LINE.fullmatch(lines[start]):
        start += 1
    stop = start
    while stop < end and _MAP_LINE.fullmatch(lines[stop]):
        stop += 1
    details = _lines(lines[:start]) + _map(lines[start:stop]) + _lines(lines[stop:])
    head = f'<span aria-hidden="true">{sign(item.verdict)} </span>{text(item.title)}'
    kind = find(item.exercise).track + ("" if counts(item, track) else ": does not count")
    points = f"{text(item.verdict)}, {item.points:g} of {item.out_of:g} points, {kind}"
    return (
        f'<article style="border-color:{colour(item.verdict)}">\n<h3>{head} ({points})</h3>\n<p>{text(item.message)}</p>\n'
        f"{details}</article>"
    )


def _lines(lines: list[str]) -> str:
    words = text("\n".join(lines))
    return f"<pre>{words}</pre>\n" if lines else ""


def _map(lines: list[str]) -> str:
    """The map that shows where a tensor is wrong. A screen reader reads the map's caption instead of its signs."""
    if not lines:
        return ""
    signs = "".join(lines)
    caption = (
        f"Map of the mismatch in {counted(len(lines), 'row')}: {signs.count('#')} of {counted(len(signs), 'cell')} wrong, "
        f"{signs.count('+')} partly wrong, {signs.count('.')} right."
    )
    return (
        f'<figure>\n<pre role="img" aria-label="{text(caption)}">{text(chr(10).join(lines))}</pre>\n'
        f'<figcaption aria-hidden="true">{text(caption)}</figcaption>\n</figure>\n'
    )
