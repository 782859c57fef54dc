"""Says which answers this copy of labkit has, in words and as data for `labkit doctor`."""

from __future__ import annotations

from typing import Any

from labkit.grading.answer_sheet import read_sheet
from labkit.grading.find_answer import has_answers
from labkit.plurals import counted

REFERENCES, SHEET, NONE = "references", "sheet", "none"


def answers_here() -> dict[str, Any]:
    """The `kind` of answers: "references", "sheet" (a course copy) or "none" (a course copy without a sheet), and `words`.

    If there is a sheet, `exercises` is the number of its exercises, and `checks` is the version of the checks from which the
    sheet was made.
    """
    if has_answers():
        return {"kind": REFERENCES, "words": "all: a check compares with the references and knows common mistakes"}
    sheet = read_sheet()
    if sheet is None:
        return {"kind": NONE, "words": "none: this is a course copy; the instructor's grader decides about values"}
    words = f"a course copy without references: a check compares with the values of {counted(len(sheet.rows), 'exercise')}"
    return {"kind": SHEET, "words": words, "exercises": len(sheet.rows), "checks": sheet.checks}
