"""The progress panel of a lab. It is a widget in a notebook, or text with the same content where there are no widgets.

The notebook stores the text beside the widget, so that an exported page shows the text.
"""

from __future__ import annotations

import html
from typing import Any

from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import of_lab
from labkit.grading.check import in_notebook, show
from labkit.grading.hint_costs import hint_costs, in_words
from labkit.grading.lab_state import Row, lab_state
from labkit.grading.progress import Progress
from labkit.grading.solution_button import WHOLE, solution_buttons
from labkit.grading.verdict import NOT_MEASURED, colour
from labkit.plurals import counted


def progress_panel(lab: str) -> None:
    """Show each exercise of a lab with its state, and the points and the minutes that are left, in all and on the core path.

    One button names the cost of the next hint, and shows the hint. Another button shows the solution, and a third button reads
    the states from the disk again.
    """
    text = lab_state(lab).text
    if not in_notebook():
        print(text)
        return
    twin = f"<pre>{html.escape(text)}</pre>"
    try:
        widget = _widget(lab)
    except ImportError:
        show(text, twin)
        return
    from IPython.display import display

    widget.add_class("labkit-panel")
    display(widget._repr_mimebundle_() | {"text/plain": text, "text/html": twin}, raw=True)  # type: ignore[no-untyped-call]


def _widget(lab: str) -> Any:
    import ipywidgets

    exercises = of_lab(lab)
    table = ipywidgets.HTML(_table(lab))
    chooser = ipywidgets.Dropdown(options=[(f"{e.number} {e.title}", e.name) for e in exercises], description="Exercise")
    hint_button = ipywidgets.Button(description="Next hint", icon="lightbulb-o", layout=WHOLE)
    refresh = ipywidgets.Button(description="Look again", icon="refresh")
    said = ipywidgets.HTML()

    def chosen() -> Exercise:
        return next(e for e in exercises if e.name == chooser.value)

    def give_hint(_: Any) -> None:
        exercise = chosen()
        number = Progress().next_hint(exercise.name, hint_costs())
        said.value = "<br>".join(
            f"<i>Hint {index + 1} of 3 for {exercise.number}:</i> {html.escape(exercise.hints[index])}"
            for index in range(number + 1)
        )
        look_again()

    def look_again(_: Any = None) -> None:
        table.value = _table(lab)
        cost = Progress().standings()[chooser.value].next_hint_cost(hint_costs())
        hint_button.description = f"Next hint (costs {counted(cost, 'point')})" if cost else "Next hint"

    look_again()
    hint_button.on_click(give_hint)
    refresh.on_click(look_again)
    chooser.observe(look_again, names="value")
    solution = solution_buttons(chooser, chosen, said, look_again)
    controls = ipywidgets.HBox([chooser, hint_button, solution, refresh], layout={"flex_flow": "row wrap"})
    return ipywidgets.VBox([table, controls, said])


def _table(lab: str) -> str:
    state = lab_state(lab)
    rows = "".join(map(_row, state.rows))
    bar = (
        "<div style='background:#8883;height:.6em;width:24em;border-radius:.3em'><div style='background:#009E73;"
        f"height:100%;border-radius:.3em;width:{100 * state.points.reached / max(state.points.out_of, 1):.0f}%'></div></div>"
    )
    words = f"{state.words}<br>{state.core_words}"
    return f"<b>{state.head}</b>{bar}{words}<table>{rows}</table>{in_words(state.hint_costs)}"


def _row(row: Row) -> str:
    exercise, standing = row.exercise, row.standing
    hue = colour(NOT_MEASURED if row.is_not_measured else standing.verdict, standing.earned)
    hints = f", {counted(standing.hints, 'hint')}" if standing.hints else ""
    return (
        f"<tr><td>{exercise.number}</td><td>{exercise.track}</td><td style='text-align:left'>{html.escape(exercise.title)}</td>"
        f"<td>{row.points}{hints}</td>"
        f"<td style='text-align:left;color:{hue}'>{html.escape(row.words)}</td></tr>"
    )
