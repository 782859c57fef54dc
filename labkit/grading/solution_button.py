"""The part of the progress panel that shows a solution: a button to use after a pass, and a second button for giving up."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from labkit.errors import NotAvailable
from labkit.exercises.exercise import Exercise
from labkit.grading.solution import in_words, may_see, not_yet, show_solution

WHOLE = {"width": "auto", "flex": "0 0 auto"}
"""The layout of a button that is as wide as its words."""


def solution_buttons(chooser: Any, chosen: Callable[[], Exercise], said: Any, changed: Callable[[], object]) -> Any:
    """A box with both buttons. The second button appears only after the first was pressed for an exercise that has not passed.

    chooser: the menu of the exercises. chosen: returns the exercise selected in the menu. said: the widget that shows the
    solution or a message. changed: called after something was recorded.
    """
    import ipywidgets

    button = ipywidgets.Button(description="Solution", icon="check")
    give_up = ipywidgets.Button(description="Give up and show it", icon="flag", layout=WHOLE | {"display": "none"})

    def show(is_asked_for: bool) -> None:
        exercise = chosen()
        if not (is_asked_for or may_see(exercise)):
            give_up.layout.display = ""
            said.value = f"{html.escape(not_yet(exercise))} To give up, press <i>Give up and show it</i>."
            return
        give_up.layout.display = "none"
        try:
            said.value = f"<pre>{html.escape(in_words(exercise, show_solution(exercise)))}</pre>"
        except NotAvailable as error:
            said.value = html.escape(str(error))
        changed()

    def other_exercise(_: Any) -> None:
        give_up.layout.display = "none"

    button.on_click(lambda _: show(is_asked_for=False))
    give_up.on_click(lambda _: show(is_asked_for=True))
    chooser.observe(other_exercise, names="value")
    return ipywidgets.HBox([button, give_up])
