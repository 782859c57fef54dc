"""Writes the texts about a disturbed measurement: what disturbed the measurement, and how to measure again.

`labkit.measure.contention` finds out whether other programs disturbed a measurement. Texts, figures and records all use the
words that this module defines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

SIGN = "!"
MARK = f"{SIGN} disturbed"
"""The mark beside a disturbed number. `SIGN` alone is used where there is little room."""
NOTE = f"{SIGN} This measurement was disturbed"
"""The beginning of every note about a disturbed measurement."""
CELL_AGAIN = "close other programs and run this cell again"
COMMAND_AGAIN = "close other programs and run this command again"


def disturbed_note(reasons: Iterable[str], again: str = CELL_AGAIN) -> str:
    """Return two sentences about disturbed measurements, after an exclamation mark. Returns "" if all reasons are "".

    reasons: for each measurement, a text that says what disturbed the measurement, or "". again: an instruction that says how
    to measure again.
    """
    found = list(dict.fromkeys(filter(None, reasons)))
    return f"{NOTE}: {'; '.join(found)}. To get a better one, {again}." if found else ""


def of_most(reasons: Sequence[str]) -> str:
    """Return the first reason if more than half of the parts of a measurement were disturbed; otherwise "".

    If fewer parts are disturbed, the median over all parts changes little.
    """
    found = [reason for reason in reasons if reason]
    return found[0] if 2 * len(found) > len(reasons) else ""
