"""Exercises 3.6 and 3.9: what a step sends, counted before it runs, and the layout that follows from it."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

from labkit.engine.part import span
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Case, Exercise, Mistake

NUMBER = 4
"""Bytes of a number of the hidden state."""


# 3.6 ------------------------------------------------------------------------------------------------------------------
def step_traffic(layers: int, hidden: int, tokens: int, shards: int, stages: int, stage: int) -> dict[str, list[int]]:
    """The reference of exercise 3.6."""
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
) -> dict[str, list[int]]:
    held = layers if all_layers else len(span(layers, stage, stages))
    sums = a_layer * held + (1 if stage == 0 and embedding else 0) if shards > 1 or alone else 0
    sends = 1 if stage < stages - 1 or last_sends else 0
    size = hidden * number * (tokens if per_token else 1)
    return {"all_reduce": [sums, sums * size], "send": [sends, sends * size]}


def _mistake(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _traffic(*given, **change))


def _traffic_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    shapes = [(28, 4096, 1, 4, 1, 0), (24, 1024, 8, 2, 2, 0), (24, 1024, 8, 2, 2, 1), (7, 96, 3, 1, 3, 0), (7, 96, 3, 2, 3, 2)]
    shapes.append((draw.randrange(5, 40), 64 * draw.randrange(1, 50), draw.randrange(2, 30), 2, 4, draw.randrange(1, 3)))
    shapes.append((6, 128, 2, 1, 1, 0))
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
        "shared out; a single shard adds up with nobody. Stages hold neighbouring blocks, the first ones one more each, and "
        "send the hidden state to the next."
    ),
    points=10,
    minutes=10,
    difficulty=2,
    cases=_traffic_cases,
    reference=step_traffic,
    comparison=Comparison(),
    mistakes=(
        _mistake("That is the count of engines that add up twice a block; one sum serves attention and MLP here.", a_layer=2),
        _mistake("The sum behind the embedding is missing in stage 0.", embedding=False),
        _mistake("You count all blocks of the model; a stage holds a share of them.", all_layers=True),
        _mistake("You count two bytes a number; the hidden state goes over in float32, four.", number=2),
        _mistake("Those are the bytes of one token; a step has several.", per_token=False),
        _mistake("Your last stage sends as well; its logits stay where they are.", last_sends=True),
        _mistake("With a single shard there is nobody to add up with: no all_reduce.", alone=True),
    ),
    hints=(
        "How many blocks does the stage hold, and how often does a block add up?",
        "size, more = divmod(layers, stages); a stage holds size + (stage < more) blocks. One call carries tokens * hidden * 4 bytes.",
        "sums = held + (stage == 0) if shards > 1 else 0; sends = 1 if stage < stages - 1 else 0; bytes = calls * tokens * hidden * 4.",
    ),
)


# 3.9 ------------------------------------------------------------------------------------------------------------------
def choose_layout(model: dict[str, int], machine: dict[str, Any]) -> tuple[int, int]:
    """The reference of exercise 3.9."""
    return _choose(model, machine)


def _choose(
    model: dict[str, int],
    machine: dict[str, Any],
    *,
    latency: bool = True,
    memory: bool = True,
    divides: bool = True,
    between: bool = True,
    sends: bool = True,
    stages_speed_up: bool = False,
    greedy: bool = False,
) -> tuple[int, int]:
    gpus = machine["gpus"] * machine["nodes"]
    found = []
    for shards in range(1, gpus + 1):
        for stages in range(1, gpus // shards + 1):
            if (divides and model["heads"] % shards) or stages > model["layers"]:
                continue
            if memory and model["weight_bytes"] / (shards * stages) > machine["memory"]:
                continue
            size = NUMBER * model["hidden"]

            def link(ranks: int) -> tuple[float, float]:
                wait, rate = machine["between" if between and ranks > machine["gpus"] else "inside"]
                return (wait if latency else 0.0), rate

            wait, rate = link(shards)
            sums = model["layers"] * (wait + 2 * (shards - 1) / shards * size / rate) if shards > 1 else 0.0
            wait, rate = link(shards * stages)
            hand_over = (stages - 1) * (wait + size / rate) if sends else 0.0
            reading = model["weight_bytes"] / shards / (stages if stages_speed_up else 1) / machine["read"]
            found.append((reading + sums + hand_over, shards * stages, (shards, stages)))
    return max(found, key=lambda entry: entry[1])[2] if greedy else min(found)[2]


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
    *(_matters(**{name: True}) for name in ("stages_speed_up", "greedy")),
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
        "Return `(shards, stages)` with the shortest time of a token, on `nodes * gpus` GPUs. Stages follow one another; a "
        "rank reads its share of `weight_bytes` at `read` bytes/s. `layers` all-reduces take `latency + 2 (shards - 1) / shards · "
        "4 hidden / rate` each (none for one shard), `stages - 1` sends `latency + 4 hidden / rate`. `inside` and `between` are "
        "`(latency, rate)`: all-reduces go between nodes if `shards > gpus`, sends if `shards · stages > gpus`. Shards divide "
        "`heads`; shares fit `memory`. Arguments: dictionaries."
    ),
    points=10,
    minutes=25,
    difficulty=4,
    cases=_layout_cases,
    reference=choose_layout,
    comparison=Comparison(),
    words=lambda found, expected: "Another layout is faster there, or yours is none that this machine and model can have.",
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
        _choice("You take as many GPUs as there are; with each shard there is more to wait for.", greedy=True),
    ),
    hints=(
        "Try every pair with shards * stages <= nodes * gpus; leave out what does not divide or fit; compute the time of the rest.",
        "reading = weight_bytes / shards / read: the stages' times add up, so the number of stages drops out.",
        "min over (reading + layers * sum_time + (stages - 1) * send_time, (shards, stages)).",
    ),
)
