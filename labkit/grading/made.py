"""`made(student=student)`: says whether earlier cells of a notebook have made the values that a cell needs."""

from __future__ import annotations

from typing import Any


def made(**values: Any) -> bool:
    """Whether every value exists, that is, is neither None nor an empty collection. If one is missing, a message names it.

    Some values are made only if exercises pass and predictions are written down. Until then, the notebook sets these values to
    None or {}. A later cell passes such a value to this function, which prints a message if the value is missing.
    """
    missing = [
        name for name, value in values.items() if value is None or (isinstance(value, dict | list | tuple) and not value)
    ]
    if missing:
        print(
            f"This cell needs {' and '.join(missing)} from further up: solve the exercises and write the predictions that the "
            "cells there ask for, run them, and then run this cell."
        )
    return not missing
