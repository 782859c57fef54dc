"""The answer to exercise 7.5: reference, comparison and known mistakes."""

from __future__ import annotations

from functools import partial
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab07.wiring import PART_MAPS, Maps, PartNames


def part_maps(parts: list[PartNames]) -> Maps:
    """The reference solution of exercise 7.5."""
    return _maps(parts)


def _maps(
    parts: list[PartNames],
    *,
    seam: str = "_seam_{}",
    read: str | None = None,
    ends: str = "client",
    caches: str = "all",
    steps: str = "all",
    turned: bool = False,
) -> Maps:
    """Return the maps. There is an option for each rule; a known mistake sets options to wrong values."""
    maps: Maps = {}
    last = len(parts) - 1
    for place, (model, inputs, outputs) in enumerate(parts):
        into, out = ({name: name for name in names} for names in (inputs, outputs))
        if place > 0 or ends == "first inner":
            into[inputs[0]] = (seam if read is None else read).format(place)
        if place < last or ends == "last inner":
            out[outputs[0]] = seam.format(place + 1)
        if caches == "none":
            into, out = ({names[0]: wires[names[0]]} for names, wires in ((inputs, into), (outputs, out)))
        elif caches == "the first part's":
            into |= dict.fromkeys(inputs[1:], parts[0][1][1])
        maps[model] = (
            ({wire: name for name, wire in into.items()}, {wire: name for name, wire in out.items()}) if turned else (into, out)
        )
    return dict(list(maps.items())[: None if steps == "all" else last])


def _own_names(parts: list[PartNames]) -> Maps:
    return {model: ({name: name for name in inputs}, {name: name for name in outputs}) for model, inputs, outputs in parts}


def _explain(case: Case, found: Any, right: Any) -> str:
    if found["fault"]:
        return f"In the case '{case.label}', {found['fault']}."
    for name, source in right["inputs"].items():
        if found["inputs"].get(name) != source:
            return f"In the case '{case.label}', {name} must get the {source}, but your wires bring the {found['inputs'].get(name)}."
    wrong = next(name for name, source in right["answers"].items() if found["answers"].get(name) != source)
    return (
        f"In the case '{case.label}', the client must read {right['answers'][wrong]} as {wrong}, but it gets "
        f"{found['answers'].get(wrong)}."
    )


PART_MAPS_ANSWER = Answer(
    exercise=PART_MAPS,
    reference=part_maps,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "Every wire has the name of its tensor, even at the seams. This is right only if a seam has the same name on both "
            "sides and no other tensor has this name.",
            _own_names,
        ),
        Mistake(
            "All seams have the same wire. A wire has one writer: put the number of the seam into its name.",
            partial(_maps, seam="_seam"),
        ),
        Mistake(
            "The wire that a part writes and the wire that the next part reads have different names.",
            partial(_maps, read="_enters_{}"),
        ),
        Mistake(
            "The first part's first input comes from the client, not from a seam: it keeps its name.",
            partial(_maps, ends="first inner"),
        ),
        Mistake(
            "The last part's first output goes to the client, not to a seam: it keeps its name.",
            partial(_maps, ends="last inner"),
        ),
        Mistake(
            "Your maps have only the hidden states. The caches are also tensors of the parts: the client sends and reads them.",
            partial(_maps, caches="none"),
        ),
        Mistake(
            "Every part gets the same cache, but each layer has a key and a value of its own.",
            partial(_maps, caches="the first part's"),
        ),
        Mistake("The last part is missing from your maps.", partial(_maps, steps="without the last")),
        Mistake(
            "Keys and values are swapped: the key is the model's tensor, the value is the wire.", partial(_maps, turned=True)
        ),
    ),
)
ANSWERS = (PART_MAPS_ANSWER,)
