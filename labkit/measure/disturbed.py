"""The texts about a disturbed measurement: what disturbed it, and how to measure again.

`labkit.measure.contention` finds out whether other programs disturbed a measurement. The texts, the figures and the records all
use these words.
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
    """Two sentences about disturbed measurements, with an exclamation mark before them; "" if all reasons are "".

    reasons: for each measurement, what disturbed it, or "". again: an instruction that says how to measure again.
    """
    found = list(dict.fromkeys(filter(None, reasons)))
    return f"{NOTE}: {'; '.join(found)}. To get a better one, {again}." if found else ""


def of_most(reasons: Sequence[str]) -> str:
    """Return the first reason if more than half of the parts of a measurement were disturbed; otherwise "".

    If fewer parts are disturbed, the median over all parts changes little.
    """
    found = [reason for reason in reasons if reason]
    return found[0] if 2 * len(found) > len(reasons) else ""
