"""Shows a progress bar for a measurement: a widget in a notebook, or a line on stderr in a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

SHORTEST_PAUSE = 0.25
"""The shortest time between two updates of a bar, in seconds."""


def progress_bar(title: str, after: float = 0.0) -> Callable[[int, int], None]:
    """Return a function that can be passed as the argument `progress` of a measurement.

    The function takes the number of finished steps and the largest possible number of steps. If the work ends within `after`
    seconds, no bar is shown.
    """
    from tqdm.auto import tqdm

    started = time.monotonic()
    shown = 0.0
    bar: Any = None

    def show(done: int, total: int) -> None:
        nonlocal bar, shown
        if done < total and time.monotonic() - shown < SHORTEST_PAUSE:
            return  # a notebook's bar costs processor time, which the measurement needs
        shown = time.monotonic()
        if bar is None and (time.monotonic() - started < after or (after and done >= total)):
            return
        if bar is None:
            bar = tqdm(desc=title, total=total, bar_format="{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}", leave=True)
            bar.start_t -= time.monotonic() - started
        bar.total = total
        bar.n = done
        bar.refresh()
        if done >= total:
            bar.close()

    return show
