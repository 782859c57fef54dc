"""The answers to exercises 3.6 and 3.9: references, comparisons and known mistakes."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab03.counting import CHOOSE_LAYOUT, STEP_TRAFFIC, share
from labkit.planning.collectives import ring_bytes
from labkit.plurals import counted

NUMBER = 4
"""The size of one number of the hidden state, in bytes."""


# 3.6 ------------------------------------------------------------------------------------------------------------------
def step_traffic(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    """The reference solution of exercise 3.6."""
    return _traffic(layers, hidden, tokens, shards, stages, stage)


def _traffic(
    layers: int,
    hidden: int,
    tokens: int,
    shards: int,
    stages: int,
    stage: int,
    *,
    a_layer: int = 1,
    embedding: bool = True,
    all_layers: bool = False,
    number: int = NUMBER,
    per_token: bool = True,
    last_sends: bool = False,
    alone: bool = False,
    floor: bool = False,
    every_stage: bool = False,
    one_call: bool = False,
) -> dict[str, list[int]]:
    held = layers if all_layers else layers // stages if floor else share(layers, stage, stages)
    first = stage == 0 or every_stage
    sums = a_layer * held + (1 if first and embedding else 0) if shards > 1 or alone else 0
    sends = 1 if stage < stages - 1 or last_sends else 0
    size = hidden * number * (tokens if per_token else 1)
    return {"all_reduce": [sums, size if one_call and sums else sums * size], "send": [sends, sends * size]}


def _miscounted(case: Case, found: Any, right: Any) -> str:
    """Return a message that says which of the four returned numbers is the first wrong one, and why."""
    layers, hidden, tokens, shards, stages, stage = case.args
    for what, (calls, size) in right.items():
        said, said_size = found[what]
        if said != calls and what == "all_reduce":
            if shards == 1:
                return f"You count {said} x all_reduce, but with a single shard there is nothing to add up."
            held = share(layers, stage, stages)
            return (
                f"You count {said} x all_reduce in stage {stage} of {stages}, which holds {held} of {layers} blocks (each of "
                "the first stages has one block more) and "
                f"{'adds up after the embedding as well' if stage == 0 else 'no embedding'}."
            )
        if said != calls:
            next_one = "sends the hidden state once to the next" if stage < stages - 1 else "is the last and sends nothing"
            return f"You count {said} x send; stage {stage} of {stages} {next_one}."
        if said_size != size:
            return (
                f"You count {said} x {what}, which is right, but {said_size:,} bytes for all these calls is wrong: each "
                f"call carries {tokens} x {hidden} numbers of {NUMBER} bytes."
            )
    return ""


def _mistake(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _traffic(*given, **change))


STEP_TRAFFIC_ANSWER = Answer(
    exercise=STEP_TRAFFIC,
    reference=step_traffic,
    comparison=Comparison(),
    explain=_miscounted,
    mistakes=(
        _mistake(
            "You count two all-reduces for each block, but here one all-reduce is enough for attention and MLP.", a_layer=2
        ),
        _mistake("The all-reduce after the embedding, in stage 0, is missing.", embedding=False),
        _mistake("You count all blocks of the model, but a stage holds only a share of them.", all_layers=True),
        _mistake(
            "You lose blocks when they cannot be divided evenly: each of the first stages holds one block more.", floor=True
        ),
        _mistake(
            "You count the all-reduce of the embedding in every stage, but only stage 0 has the embedding.", every_stage=True
        ),
        _mistake("You return the bytes of one all_reduce; return the total of all calls.", one_call=True),
        _mistake(
            "You count two bytes for each number, but the hidden state is sent in float32, which takes four bytes.", number=2
        ),
        _mistake("You count the bytes of one token, but a step has several tokens.", per_token=False),
        _mistake("Your last stage also sends, but no stage comes after it.", last_sends=True),
        _mistake(
            "You count all-reduces for a single shard. A single shard has no other parts to add: count no all_reduce.",
            alone=True,
        ),
    ),
)


# 3.9 ------------------------------------------------------------------------------------------------------------------
def choose_layout(model: dict[str, int], machine: dict[str, Any]) -> tuple[int, int]:
    """The reference solution of exercise 3.9."""
    return _choose(model, machine)


def _seconds(
    model: dict[str, int],
    machine: dict[str, Any],
    shards: int,
    stages: int,
    *,
    latency: bool = True,
    between: bool = True,
    sends: bool = True,
    stages_speed_up: bool = False,
) -> tuple[float, float, float]:
    """The seconds that one token takes, in three parts: reading the weights, all-reduces, and sends."""
    size = NUMBER * model["hidden"]

    def link(ranks: int) -> tuple[float, float]:
        wait, rate = machine["between" if between and ranks > machine["gpus"] else "inside"]
        return (wait if latency else 0.0), rate

    wait, rate = link(shards)
    sums = model["layers"] * (wait + ring_bytes(size, shards) / rate) if shards > 1 else 0.0
    wait, rate = link(shards * stages)
    hand_over = (stages - 1) * (wait + size / rate) if sends else 0.0
    reading = model["weight_bytes"] / shards / (stages if stages_speed_up else 1) / machine["read"]
    return reading, sums, hand_over


def _choose(
    model: dict[str, int],
    machine: dict[str, Any],
    *,
    memory: bool = True,
    divides: bool = True,
    greedy: bool = False,
    every_gpu: bool = False,
    **change: bool,
) -> tuple[int, int]:
    gpus = machine["gpus"] * machine["nodes"]
    found = []
    for shards in range(1, gpus + 1):
        for stages in range(1, gpus // shards + 1):
            if (divides and model["heads"] % shards) or stages > model["layers"]:
                continue
            if memory and model["weight_bytes"] / (shards * stages) > machine["memory"]:
                continue
            seconds = sum(_seconds(model, machine, shards, stages, **change))
            found.append((seconds, shards * stages, (shards, stages)))
    if every_gpu:
        found = [entry for entry in found if entry[1] == gpus] or found
    return max(found, key=lambda entry: entry[1])[2] if greedy else min(found)[2]


def _why_not(case: Case, found: Any, right: Any) -> str:
    """Return a message that says which condition the learner's layout breaks.

    If the layout breaks no condition, the message gives the parts of its time, and the time of the fastest layout.
    """
    model, machine = case.args
    shards, stages = found
    gpus = machine["gpus"] * machine["nodes"]
    if shards * stages > gpus:
        return f"{counted(shards, 'shard')} times {counted(stages, 'stage')} make {counted(shards * stages, 'rank')}, but the machine has {counted(gpus, 'GPU')}."
    if model["heads"] % shards:
        return f"{model['heads']} heads cannot be divided evenly by your {counted(shards, 'shard')}."
    if stages > model["layers"]:
        return (
            f"You have {counted(stages, 'stage')} for {counted(model['layers'], 'layer')}: each stage needs at least one layer."
        )
    part = model["weight_bytes"] / (shards * stages)
    if part > machine["memory"]:
        return (
            f"On {shards} x {stages} ranks each GPU holds {part / 1e9:.3g} GB of weights, but its memory is only "
            f"{machine['memory'] / 1e9:.3g} GB."
        )
    parts = [1e3 * seconds for seconds in _seconds(model, machine, shards, stages)]
    best = 1e3 * sum(_seconds(model, machine, *right))
    idle = " and leaves GPUs idle" if right[0] * right[1] < gpus == shards * stages else ""
    return (
        f"({shards}, {stages}) is possible, but takes {sum(parts):.4g} ms for a token: {parts[0]:.3g} ms for reading weights, "
        f"{parts[1]:.3g} ms for all-reduces, {parts[2]:.3g} ms for sends. The fastest layout takes {best:.4g} ms{idle}."
    )


def _choice(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _choose(*given, **change))


GPTJ_6B = {"layers": 28, "hidden": 4096, "heads": 16, "weight_bytes": 12_100_000_000}
NVLINK, NETWORK, PCIE = (9e-6, 450e9), (30e-6, 12.5e9), (120e-6, 12e9)
Kind = Callable[[tuple[int, int], dict[str, int], dict[str, Any]], bool]


def _matters(**change: bool) -> Kind:
    """Make a kind of case: a case is of this kind if its answer changes when `_choose` gets the options `change`.

    Each option leaves out a rule, or applies a rule wrongly.
    """
    return lambda best, model, machine: _choose(model, machine, **change) != best


KINDS: tuple[Kind, ...] = (
    lambda best, model, machine: min(best) > 1,
    lambda best, model, machine: best[0] > 1 == best[1],
    lambda best, model, machine: best[1] > 1 == best[0],
    lambda best, model, machine: best == (1, 1) and machine["gpus"] > 1,
    *(_matters(**{name: False}) for name in ("latency", "memory", "divides", "between", "sends")),
    *(_matters(**{name: True}) for name in ("stages_speed_up", "greedy", "every_gpu")),
)
"""The kinds of cases. For each seed, one case of each kind is drawn.

A kind is a function that says whether a case has a certain property. The property is a form of the answer, or a rule on which
the answer depends.
"""


@functools.cache
def _drawn(seed: int) -> tuple[tuple[dict[str, int], dict[str, Any]], ...]:
    """For each kind of case, a model and a machine that are drawn at random until they form a case of this kind."""
    draw = random.Random(seed)
    found = []
    for kind in KINDS:
        while True:
            heads = draw.choice([6, 12, 16, 20, 32, 96])
            model = {"layers": draw.randrange(8, 97), "hidden": heads * draw.choice([64, 128, 256]), "heads": heads}
            model["weight_bytes"] = 24 * model["layers"] * model["hidden"] ** 2
            machine: dict[str, Any] = {
                "nodes": draw.choice([1, 2, 4]),
                "gpus": draw.choice([1, 2, 4, 8]),
                "memory": draw.uniform(0.1, 1.5) * model["weight_bytes"],
                "read": draw.uniform(3e11, 5e12),
                "inside": (draw.uniform(5e-6, 300e-6), draw.uniform(5e9, 450e9)),
                "between": (draw.uniform(20e-6, 2e-3), draw.uniform(1e8, 25e9)),
            }
            if machine["memory"] * machine["nodes"] * machine["gpus"] < 2 * model["weight_bytes"]:
                continue  # The machine is too small for the model, or nearly too small.
            if kind(_choose(model, machine), model, machine):
                found.append((model, machine))
                break
    return tuple(found)


def make_cases(seed: int) -> list[Case]:
    """The cases of exercise 3.9: two cases with fixed machines, and one random case of each kind."""
    known: tuple[tuple[dict[str, int], dict[str, Any]], ...] = (
        (GPTJ_6B, {"nodes": 1, "gpus": 8, "memory": 72e9, "read": 3e12, "inside": NVLINK, "between": NETWORK}),
        (GPTJ_6B, {"nodes": 2, "gpus": 2, "memory": 7e9, "read": 6e11, "inside": PCIE, "between": NETWORK}),
    )
    return [
        Case(
            f"{model['layers']} layers of {model['hidden']} ({model['weight_bytes'] / 1e9:.1f} GB) on {machine['nodes']} x "
            f"{machine['gpus']} GPUs of {machine['memory'] / 1e9:.1f} GB",
            (dict(model), dict(machine)),
        )
        for model, machine in (*known, *_drawn(seed))
    ]


CHOOSE_LAYOUT_ANSWER = Answer(
    exercise=CHOOSE_LAYOUT,
    reference=choose_layout,
    comparison=Comparison(),
    explain=_why_not,
    mistakes=(
        _choice("You leave out the latency, but a small all-reduce spends most of its time on latency.", latency=False),
        _choice("The weights in your layout do not fit into the memory of a GPU.", memory=False),
        _choice("Your shards do not divide the heads.", divides=False),
        _choice(
            "You always use the links inside a node; if there are more ranks than GPUs in a node, use the links between nodes.",
            between=False,
        ),
        _choice(
            "You let the stages read at the same time. One token goes through the stages one after another, so more stages do "
            "not make it faster.",
            stages_speed_up=True,
        ),
        _choice("You leave out the sends from stage to stage.", sends=False),
        _choice("You always use every GPU, but with slow links fewer GPUs are faster.", every_gpu=True),
        _choice("You use as many GPUs as possible, but each additional rank adds waiting time.", greedy=True),
    ),
)


ANSWERS = (STEP_TRAFFIC_ANSWER, CHOOSE_LAYOUT_ANSWER)
