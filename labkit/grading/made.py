"""`made(student=student)`: whether earlier cells of a notebook have made what a cell needs."""

from __future__ import annotations

from typing import Any


def made(**values: Any) -> bool:
    """Whether every value is there: neither None nor an empty collection. If one is missing, a message names it.

    A notebook sets a name to None or {} where its value is made only if exercises pass and predictions are written down. A
    later cell calls this function with the name, so that no cell is silent.
    """
    missing = [
        name for name, value in values.items() if value is None or (isinstance(value, dict | list | tuple) and not value)
    ]
    if missing:
        print(
            f"This cell needs {' and '.join(missing)} from further up: solve the exercises and write the predictions that the "
            "cells there ask for, run them, and then this cell."
        )
    return not missing
