"""The page of the whole class, for the instructor: the learners, the verdicts on each item, and the commonest messages."""

from __future__ import annotations

from collections import Counter

from labkit.exercises.core_path import CORE
from labkit.exercises.registry import exercise as find
from labkit.exercises.titles import LAB_TITLES
from labkit.gradebook.board import NO_BOARD, Board
from labkit.gradebook.board_page import board_parts
from labkit.gradebook.names import look_alikes, page_name, spelled
from labkit.gradebook.page import name, notes_list, page, table, text, verdict
from labkit.gradebook.report import Report
from labkit.gradebook.scores import VERDICTS, LabScore
from labkit.grading.verdict import NOT_ATTEMPTED, PASSED, UNGRADED, colour
from labkit.plurals import counted

MOST_MESSAGES = 12
"""The page shows at most this many of the commonest messages."""


def class_page(report: Report, board: Board = NO_BOARD) -> str:
    """The HTML page of the class. It links to the learners' pages in the folder `feedback`, and shows `board`."""
    parts = [
        f"<p>{counted(len(report.learners), 'learner')}, {counted(len(report.labs), 'lab')}. This page is for the instructor: "
        "it names all learners.</p>",
        f"<p>{_track(report)}</p>",
        _learners(report),
        *(_items(report, lab) for lab in report.labs),
        _messages(report),
        *(["<h2>Speed ladders</h2>", *board_parts(board)] if board.tables else []),
    ]
    if notes := [*report.notes_on(""), *(note for learner in report.learners for note in report.notes_on(learner))]:
        parts.append(f"<h2>Notes on files</h2>\n{notes_list(notes, with_learner=True)}")
    return page("The class", parts)


def _track(report: Report) -> str:
    if report.track == CORE:
        return "Only the exercises on the core path count; the points of extras are shown, but do not count."
    return "All exercises count, on the core path and extras."


def _learners(report: Report) -> str:
    rows = []
    alike = {learner for group in look_alikes(report.learners) for learner in group}
    for learner in report.learners:
        link = f'<a href="feedback/{page_name(learner)}">{name(learner)}</a>'
        if learner in alike:
            link += f" <small>({text(spelled(learner))})</small>"
        scores = report.of_learner(learner)
        cells = [_cell(score) for score in scores]
        rows.append([link, f"{sum(score.score for score in scores):g}", *cells])
    header = ["Learner", "Score", *(f"Lab {lab}" for lab in report.labs)]
    caption = "The score of each learner. For each lab: the score, the verdict, and the points without the rules on late work"
    return "<h2>Learners</h2>\n" + table(caption, header, rows, (1,))


def _cell(score: LabScore) -> str:
    sums = f"{text(score.points.words)}; {text(score.points.core_words)}"
    failed = f"<br>{verdict(UNGRADED)}: {text(score.ungraded)}" if score.ungraded else ""
    return f"{score.score:g} of {score.most:g}, {verdict(score.verdict)}{failed}<br><small>{sums}</small>"


def _items(report: Report, lab: str) -> str:
    scores = report.of_lab(lab)
    rows = []
    for place, first in enumerate(scores[0].items if scores else ()):
        counts = Counter(score.items[place].verdict for score in scores)
        rows.append([text(f"{first.title} ({find(first.exercise).track})"), _bar(counts), _in_words(counts)])
    caption = f"How the items of lab {lab} went"
    heading = f"<h2>Lab {text(lab)} {text(LAB_TITLES[lab])}</h2>\n"
    return heading + table(caption, ["Exercise", "Distribution", "In words"], rows)


def _bar(counts: Counter[str]) -> str:
    """A bar with a part for each verdict. Screen readers skip it, because the cell beside the bar has the counts in words."""
    parts = "".join(
        f'<span style="width:{100 * counts[words] / counts.total():.1f}%;background:{colour(words)}"></span>'
        for words in VERDICTS
        if counts[words]
    )
    return f'<div class="bar" aria-hidden="true">{parts}</div>'


def _in_words(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[words]} {verdict(words)}" for words in VERDICTS if counts[words])


def _messages(report: Report) -> str:
    counts: Counter[tuple[str, str]] = Counter(
        (item.title, item.message)
        for score in report.scores
        for item in score.items
        if item.verdict not in (PASSED, NOT_ATTEMPTED)
    )
    if not counts:
        return "<h2>The commonest messages</h2>\n<p>No item failed.</p>"
    rows = [[str(count), text(title), text(message)] for (title, message), count in counts.most_common(MOST_MESSAGES)]
    return "<h2>The commonest messages</h2>\n" + table(
        "Messages on items that did not pass", ["Learners", "Exercise", "Message"], rows, (0,)
    )
