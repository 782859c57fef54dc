"""Exercise 7.5: the input and output maps of an ensemble whose steps are the parts of a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.plurals import counted

PartNames = tuple[str, list[str], list[str]]
"""A part: the name of its model, and the names of its inputs and outputs. The hidden state comes first in both lists."""
Maps = dict[str, tuple[dict[str, str], dict[str, str]]]

FORM = "return a dictionary {model: (input_map, output_map)}, where each map is a dictionary {tensor: wire}"


def check_maps(maps: Any, parts: Sequence[PartNames]) -> str:
    """Say in a phrase what is wrong with the form of `maps`; "" if each part has two maps with exactly its tensors as keys."""
    if not isinstance(maps, dict):
        return f"your function returns {maps!r:.60}; {FORM}"
    for model, inputs, outputs in parts:
        if model not in maps:
            return f"your maps have no step for {model}"
        both = maps[model]
        fits = isinstance(both, tuple | list) and len(both) == 2 and all(isinstance(one, dict) for one in both)
        if not fits or not all(isinstance(word, str) for one in both for pair in one.items() for word in pair):
            return f"for {model} your function returns {both!r:.60}; {FORM}"
        for what, given, own in (("input_map", both[0], inputs), ("output_map", both[1], outputs)):
            if strange := [name for name in given if name not in own]:
                return f"the {what} of {model} has the key {strange[0]}, but {model} has {', '.join(own)}; keys are the model's tensors"
            if lacking := [name for name in own if name not in given]:
                return f"the {what} of {model} has no wire for {lacking[0]}"
    if more := [str(model) for model in maps if model not in {name for name, _, _ in parts}]:
        return f"your maps have a step for {more[0]}, which is no part"
    return ""


def follow(maps: Maps, parts: Sequence[PartNames]) -> dict[str, Any]:
    """Follow the wires: find where each input of each part comes from, and which tensor the client gets for each answer.

    If a wire is read but neither the client nor an earlier part writes it, or if a wire is written twice, the result says so in
    the phrase `fault`. The names of inner wires are not part of the result, because the learner can choose them freely.
    """
    asked, answered = client_tensors(parts)
    writers = {name: f"client's {name}" for name in asked}
    came: dict[str, str] = {}
    for model, inputs, outputs in parts:
        into, out = maps[model]
        for name in inputs:
            if into[name] not in writers:
                return _fault(f"{model} reads the wire {into[name]}, but neither the client nor an earlier part writes it")
            came[f"{model}.{name}"] = writers[into[name]]
        for name in outputs:
            if out[name] in writers:
                return _fault(f"{model} writes the wire {out[name]}, but this wire already carries {writers[out[name]]}")
            writers[out[name]] = f"{model}'s {name}"
    if unwritten := [name for name in answered if name not in writers]:
        return _fault(f"no part writes {unwritten[0]}, which the client reads")
    return {"fault": "", "inputs": came, "answers": {name: writers[name] for name in answered}}


def client_tensors(parts: Sequence[PartNames]) -> tuple[list[str], list[str]]:
    """The tensors that the client sends, and the tensors that it reads: all tensors of the parts except the hidden states that
    go from one part to the next.
    """
    sent = [name for place, (_, inputs, _) in enumerate(parts) for name in (inputs if place == 0 else inputs[1:])]
    end = len(parts) - 1
    read = [name for place, (_, _, outputs) in enumerate(parts) for name in (outputs if place == end else outputs[1:])]
    return sent, read


def run_maps(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Call the learner's function, and follow the wires of the maps that it returns."""
    (parts,) = case.args
    maps = function(parts)
    if words := check_maps(maps, parts):
        return _fault(words)
    return follow(maps, parts)


def _fault(words: str) -> dict[str, Any]:
    return {"fault": words, "inputs": {}, "answers": {}}


def named(maps: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]]) -> str:
    """The maps as readable lines of text."""
    lines = []
    for model, (into, out) in maps.items():
        lines += [f"{model}: {wire} -> {tensor}" for tensor, wire in into.items()]
        lines += [f"{model}: {tensor} -> {wire}" for tensor, wire in out.items()]
    return "\n".join(lines)


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    number = draw.randrange(1000, 9000)
    lecture: list[PartNames] = [
        ("gpt_part_1", ["input_ids", "past_0"], [str(number), "present_0"]),
        ("gpt_part_2", [str(number), "past_1"], ["logits", "present_1"]),
    ]
    cases = [Case("two parts, the seam has one name", (lecture,))]
    for count, own in ((2, False), (3, True), (4, True)):
        label = f"{counted(count, 'part')}, " + (
            "all with the inputs x and the outputs y" if own else "each with names of its own"
        )
        parts: list[PartNames] = []
        layer = 0
        for stage in range(count):
            layers = range(layer, layer + draw.randint(1, 2))
            layer = layers.stop
            come, go = ("x", "y") if own else (f"in_{draw.randrange(100)}_{stage}", f"out_{draw.randrange(100)}_{stage}")
            caches = [(f"past.{one}.{what}", f"present.{one}.{what}") for one in layers for what in ("key", "value")]
            parts.append((f"part_{stage + 1}", [come, *(old for old, _ in caches)], [go, *(new for _, new in caches)]))
        cases.append(Case(label, (parts,)))
    return cases


PART_MAPS = Exercise(
    name="lab07.part_maps",
    lab="07",
    number="7.5",
    title="Wire the parts",
    function="part_maps",
    statement=(
        "`parts` lists the models in order: `(model, inputs, outputs)`, with the names of the tensors. The first output of a part "
        "is the first input of the next one; their names may differ, or be the same in all parts. Give each seam a wire of its "
        "own. The wire of every other tensor has the tensor's name, because the client sends or reads it: token ids, logits, "
        "caches. Return `{model: (input_map, output_map)}`; a map is `{tensor: wire}`."
    ),
    points=12,
    minutes=8,
    difficulty=3,
    core=True,
    cases=_cases,
    run=run_maps,
    hints=(
        "Which of a part's inputs does the client not send? For which part does it send all of them?",
        "First map every tensor to its own name. Then change two entries at each seam, one in each of the two parts. Both get the "
        "same wire, whose name contains the number of the seam.",
        "In part k of all parts but the first: into[inputs[0]] = f'_seam_{k}'. The part before it writes the same wire.",
    ),
)
EXERCISES = (PART_MAPS,)
