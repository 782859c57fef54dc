"""Exercises 3.6 and 3.9: what a step sends, counted before it runs, and the layout that follows from it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from labkit.checkpoints.split import span
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.contracts import OwnWork
from labkit.exercises.exercise import Exercise, Mistake

NUMBER = 4
"""Bytes of a number of the hidden state."""


# 3.6 ------------------------------------------------------------------------------------------------------------------
def step_traffic(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    """The reference of exercise 3.6."""
    return _traffic(layers, hidden, tokens, shards, stages, stage)


def share(count: int, part: int, parts: int) -> int:
    """How many of `count` things part number `part` of `parts` has, where the first parts have one more each."""
    return len(span(count, part, parts))


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


def _numbers(case: Case, value: Any) -> Any:
    """The answer with True and False as the whole numbers that they are: `stage < stages - 1` is a count of sends, too."""
    if not isinstance(value, dict):
        return value
    return {
        name: [int(item) if isinstance(item, bool) else item for item in items] if isinstance(items, list | tuple) else items
        for name, items in value.items()
    }


def _miscounted(case: Case, found: Any, right: Any) -> str:
    """Which of the four numbers is wrong first, and what it comes from."""
    layers, hidden, tokens, shards, stages, stage = case.args
    for what, (calls, size) in right.items():
        said, said_size = found[what]
        if said != calls and what == "all_reduce":
            if shards == 1:
                return f"You count {said} x all_reduce where there is a single shard, which adds up with nobody."
            held = share(layers, stage, stages)
            return (
                f"You count {said} x all_reduce in stage {stage} of {stages}, which holds {held} of {layers} blocks (the first "
                f"stages have one more each) and {'adds up behind the embedding as well' if stage == 0 else 'no embedding'}."
            )
        if said != calls:
            next_one = "sends the hidden state once to the next" if stage < stages - 1 else "is the last, and sends nothing"
            return f"You count {said} x send; stage {stage} of {stages} {next_one}."
        if said_size != size:
            return (
                f"You count {said} x {what}, which is right, but {said_size:,} bytes for all of it: each call carries {tokens} x "
                f"{hidden} numbers of {NUMBER} bytes."
            )
    return ""


def _mistake(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _traffic(*given, **change))


def _traffic_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    shapes = [(28, 4096, 1, 4, 1, 0), (24, 1024, 8, 2, 2, 0), (24, 1024, 8, 2, 2, 1), (7, 96, 3, 1, 3, 0), (7, 96, 3, 2, 3, 2)]
    shapes.append((draw.randrange(5, 40), 64 * draw.randrange(1, 50), draw.randrange(2, 30), 2, 4, draw.randrange(1, 3)))
    shapes += [(10, 64, 2, 2, 4, 1), (6, 128, 2, 1, 1, 0)]
    return [
        Case(f"{layers} layers of {hidden}, {tokens} tokens, {shards} shards, stage {stage} of {stages}", given)
        for given in shapes
        for layers, hidden, tokens, shards, stages, stage in [given]
    ]


STEP_TRAFFIC = Exercise(
    name="lab03.step_traffic",
    lab="03",
    number="3.6",
    title="Count what a step sends",
    function="step_traffic",
    statement=(
        "`tokens` new tokens go through `layers` blocks, with `hidden` numbers of 4 bytes a token, on `shards` shards times `stages` "
        "stages. Return what one rank of stage `stage` calls, as `{'all_reduce': [calls, bytes], 'send': [calls, bytes]}`, bytes of "
        "all calls together. The engine adds up once a block, and once more in stage 0, behind the embedding, whose rows are "
        "shared out; a single shard adds up with nobody. A stage holds `share(layers, stage, stages)` blocks (the rule of 3.1), "
        "and sends the hidden state to the next."
    ),
    points=10,
    minutes=10,
    difficulty=2,
    cases=_traffic_cases,
    reference=step_traffic,
    contract=OwnWork(allowed=("share",)),
    observe=_numbers,
    comparison=Comparison(),
    explain=_miscounted,
    mistakes=(
        _mistake("That is the count of engines that add up twice a block; one sum serves attention and MLP here.", a_layer=2),
        _mistake("The sum behind the embedding is missing in stage 0.", embedding=False),
        _mistake("You count all blocks of the model; a stage holds a share of them.", all_layers=True),
        _mistake("Blocks are lost where the stages do not divide them: the first stages hold one more each.", floor=True),
        _mistake("The embedding is in stage 0 alone; you count its sum in every stage.", every_stage=True),
        _mistake("You give the bytes of one all_reduce; those of all calls together are asked for.", one_call=True),
        _mistake("You count two bytes a number; the hidden state goes over in float32, four.", number=2),
        _mistake("Those are the bytes of one token; a step has several.", per_token=False),
        _mistake("Your last stage sends as well; its logits stay where they are.", last_sends=True),
        _mistake("With a single shard there is nobody to add up with: no all_reduce.", alone=True),
    ),
    hints=(
        "How many blocks does the stage hold, and how often does a block add up?",
        "`share(layers, stage, stages)` blocks add up once each. One call carries the hidden state of all tokens: tokens * hidden * 4 bytes.",
        "Three questions decide the counts: is there more than one shard, is this stage 0, is this the last stage?",
    ),
)


# 3.9 ------------------------------------------------------------------------------------------------------------------
def choose_layout(model: dict[str, int], machine: dict[str, Any]) -> tuple[int, int]:
    """The reference of exercise 3.9."""
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
    """Seconds of a token that go into reading, into all-reduces and into sends."""
    size = NUMBER * model["hidden"]

    def link(ranks: int) -> tuple[float, float]:
        wait, rate = machine["between" if between and ranks > machine["gpus"] else "inside"]
        return (wait if latency else 0.0), rate

    wait, rate = link(shards)
    sums = model["layers"] * (wait + 2 * (shards - 1) / shards * size / rate) if shards > 1 else 0.0
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
    """What a layout breaks; or where its time goes, and how long the fastest takes."""
    model, machine = case.args
    shards, stages = found
    gpus = machine["gpus"] * machine["nodes"]
    if shards * stages > gpus:
        return f"Shards times stages, {shards} x {stages}, are {shards * stages} ranks; the machine has {gpus} GPUs."
    if model["heads"] % shards:
        return f"Your {shards} shards do not divide the {model['heads']} heads."
    if stages > model["layers"]:
        return f"You have {stages} stages for {model['layers']} layers: one each is the most."
    part = model["weight_bytes"] / (shards * stages)
    if part > machine["memory"]:
        return (
            f"On {shards} x {stages} ranks each GPU holds {part / 1e9:.3g} GB of weights; its memory is "
            f"{machine['memory'] / 1e9:.3g} GB."
        )
    parts = [1e3 * seconds for seconds in _seconds(model, machine, shards, stages)]
    best = 1e3 * sum(_seconds(model, machine, *right))
    idle = " and leaves GPUs idle" if right[0] * right[1] < gpus == shards * stages else ""
    return (
        f"({shards}, {stages}) can be had, but takes {sum(parts):.4g} ms a token: {parts[0]:.3g} ms of reading, {parts[1]:.3g} ms "
        f"of all-reduces, {parts[2]:.3g} ms of sends. The fastest layout takes {best:.4g} ms{idle}."
    )


def _choice(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _choose(*given, **change))


GPTJ_6B = {"layers": 28, "hidden": 4096, "heads": 16, "weight_bytes": 12_100_000_000}
NVLINK, NETWORK, PCIE = (9e-6, 450e9), (30e-6, 12.5e9), (120e-6, 12e9)
Kind = Callable[[tuple[int, int], dict[str, int], dict[str, Any]], bool]


def _matters(**change: bool) -> Kind:
    """Whether something changes the answer."""
    return lambda best, model, machine: _choose(model, machine, **change) != best


KINDS: tuple[Kind, ...] = (
    lambda best, model, machine: min(best) > 1,
    lambda best, model, machine: best[0] > 1 == best[1],
    lambda best, model, machine: best[1] > 1 == best[0],
    lambda best, model, machine: best == (1, 1) and machine["gpus"] > 1,
    *(_matters(**{name: False}) for name in ("latency", "memory", "divides", "between", "sends")),
    *(_matters(**{name: True}) for name in ("stages_speed_up", "greedy", "every_gpu")),
)
"""What cases there must be of each seed: by the answer, or by what matters for it."""


@functools.cache
def _drawn(seed: int) -> tuple[tuple[dict[str, int], dict[str, Any]], ...]:
    """A random model and machine of each kind."""
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
                continue  # too small for it, or nearly
            if kind(_choose(model, machine), model, machine):
                found.append((model, machine))
                break
    return tuple(found)


def _layout_cases(seed: int) -> list[Case]:
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


CHOOSE_LAYOUT = Exercise(
    name="lab03.choose_layout",
    lab="03",
    number="3.9",
    title="Choose the layout for a machine",
    function="choose_layout",
    statement=(
        "Return a token's fastest `(shards, stages)` on at most `nodes * gpus` GPUs (some may stay idle). Stages follow one "
        "another; a rank reads its share of `weight_bytes` at `read` bytes/s. `layers` all-reduces take `latency + 2 "
        "(shards - 1) / shards · 4 hidden / rate` each (none for one shard), `stages - 1` sends `latency + 4 hidden / rate`. "
        "`inside` and `between` are `(latency, rate)`: all-reduces go between nodes if `shards > gpus`, sends if `shards · stages "
        "> gpus`. Shards divide `heads`; shares fit `memory`."
    ),
    points=10,
    minutes=25,
    difficulty=4,
    cases=_layout_cases,
    reference=choose_layout,
    comparison=Comparison(),
    explain=_why_not,
    mistakes=(
        _choice("You leave out the latency: many small all-reduces are waiting more than sending.", latency=False),
        _choice("Your layout's weights do not fit a GPU's memory.", memory=False),
        _choice("Your shards do not divide the heads.", divides=False),
        _choice("You let everything go inside a node; beyond its GPUs the network is between.", between=False),
        _choice(
            "You let stages read at the same time: for one token they come one after another, and no stage makes it faster.",
            stages_speed_up=True,
        ),
        _choice("You leave out what handing on from stage to stage takes.", sends=False),
        _choice("You use every GPU; some may stay idle, and are better left so where a link costs more.", every_gpu=True),
        _choice("You take as many GPUs as there are; with each shard there is more to wait for.", greedy=True),
    ),
    hints=(
        "Try every pair with shards * stages <= nodes * gpus; leave out what does not divide or fit; compute the time of the rest.",
        "reading = weight_bytes / shards / read: the stages' times add up, so the number of stages drops out.",
        "min over (reading + layers * sum_time + (stages - 1) * send_time, (shards, stages)).",
    ),
)
