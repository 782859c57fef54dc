"""A progress bar for measurements: a widget in a notebook, a line on stderr in a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def progress_bar(title: str) -> Callable[[int, int], None]:
    """A function to hand over as `progress`: called with what is done and what there is to do at most."""
    from tqdm.auto import tqdm

    bar: Any = tqdm(desc=title, bar_format="{desc}: {n_fmt}/{total_fmt} {bar} {elapsed}", leave=True)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.n = done
        bar.refresh()
        if done >= total:
            bar.close()

    return show
