"""The answer to exercise 7.7: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.choosing import CHOOSE_COMPILER

Table = dict[str, tuple[float, float, float]]


def choose_compiler(table: Table, steps: int, most_error: float) -> str | None:
    """The reference solution of exercise 7.7."""
    return _choose(table, steps, most_error)


def _choose(
    table: Table,
    steps: int,
    most_error: float,
    *,
    compiling: bool = True,
    all_steps: str = "all",
    error: str = "at most",
    best: bool = True,
    nothing: str = "None",
) -> str | None:
    """Choose one of the ways to run the model. There is an option for each rule.

    A known mistake sets options to wrong values.
    """
    totals = {}
    for name, (begin, step, off) in table.items():
        fits = {"at most": off <= most_error, "below": off < most_error}.get(error, True)
        if fits:
            totals[name] = compiling * begin + {"all": steps, "one": 1, "none": 0}[all_steps] * step
    if not totals and nothing == "None":
        return None
    chosen = min(totals, key=lambda name: totals[name] if best else -totals[name])
    return chosen if error != "tested last" or table[chosen][2] <= most_error else None


def _explain(case: Case, found: str | None, right: str | None) -> str:
    table, steps, most = case.args
    where = f"In the case '{case.label}',"
    if found is None:
        return f"{where} at least one way is exact enough; return its name."
    if found not in table:
        return f"{where} you return {found!r}, which is not a name in `table`."
    begin, step, error = table[found]
    if error > most:
        return f"{where} you choose {found}, whose error of {error:.2g} is too large."
    return (
        f"{where} you choose {found}, which compiles for {begin:.4g} s and takes {begin + steps * step:.4g} s with all steps; "
        "another way is ready sooner."
    )


CHOOSE_COMPILER_ANSWER = Answer(
    exercise=CHOOSE_COMPILER,
    reference=choose_compiler,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake("The compile time is missing from your sum; for a few steps it decides.", partial(_choose, compiling=False)),
        Mistake("You count a single step, but the server runs many.", partial(_choose, all_steps="one")),
        Mistake("You do not look at the errors: some ways are not exact enough.", partial(_choose, error="ignored")),
        Mistake(
            "You choose the fastest of all ways, and only then test its error. First leave out the ways that are not "
            "exact enough.",
            partial(_choose, error="tested last"),
        ),
        Mistake(
            "If no way is exact enough, return None; min() of an empty list raises an error.", partial(_choose, nothing="raise")
        ),
        Mistake("An error of exactly `most_error` is allowed.", partial(_choose, error="below")),
        Mistake("You return the slowest way; return the one that is ready first.", partial(_choose, best=False)),
    ),
)
ANSWERS = (CHOOSE_COMPILER_ANSWER,)
