"""Exercises 3.6 and 3.9: what a step sends, counted before it runs, and the layout that follows from it."""

from __future__ import annotations

import random
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
        "`tokens` new tokens go through a model of `layers` blocks, whose hidden state has `hidden` numbers of 4 bytes a token, on "
        "`shards` shards times `stages` stages. Return what one rank of stage `stage` calls, as `{'all_reduce': [calls, bytes], "
        "'send': [calls, bytes]}`, bytes of all calls together. The engine adds up once a block; the first stage adds up once "
        "more, behind the embedding, whose rows are shared out. Stages hold neighbouring blocks, the first ones one more each. A "
        "stage sends the hidden state to the next."
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
            hand_over = (stages - 1) * (wait + size / rate)
            reading = model["weight_bytes"] / shards / (stages if stages_speed_up else 1) / machine["read"]
            found.append((reading + sums + hand_over, shards * stages, (shards, stages)))
    return max(found, key=lambda entry: entry[1])[2] if greedy else min(found)[2]


def _choice(message: str, **change: Any) -> Mistake:
    return Mistake(message, lambda *given: _choose(*given, **change))


GPTJ_6B = {"layers": 28, "hidden": 4096, "heads": 16, "weight_bytes": 12_100_000_000}
NVLINK, NETWORK, PCIE = (9e-6, 450e9), (30e-6, 12.5e9), (120e-6, 12e9)


def _layout_cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    wide = {"layers": 96, "hidden": 12288, "heads": 96, "weight_bytes": 350_000_000_000}
    odd = {"layers": 24, "hidden": 1536, "heads": 6, "weight_bytes": 40_000_000_000}

    def machine(
        nodes: int, gpus: int, memory: float, inside: tuple[float, float], between: tuple[float, float] = NETWORK
    ) -> Any:
        return {"nodes": nodes, "gpus": gpus, "memory": memory, "read": 3e12, "inside": inside, "between": between}

    slow = (draw.uniform(300e-6, 500e-6), 3e9)
    return [
        Case("GPT-J 6B on 8 GPUs with NVLink", (GPTJ_6B, machine(1, 8, 72e9, NVLINK))),
        Case("GPT-J 6B on 2 GPUs over a slow bus", (GPTJ_6B, machine(1, 2, 72e9, slow))),
        Case("GPT-J 6B on 4 GPUs of 8 GB over PCIe", (GPTJ_6B, machine(1, 4, 7e9, PCIE))),
        Case("GPT-J 6B on 4 GPUs of 8 GB over a slow bus", (GPTJ_6B, machine(1, 4, 7e9, slow))),
        Case("175 billion parameters on 2 nodes of 8 GPUs", (wide, machine(2, 8, 72e9, NVLINK))),
        Case("6 heads on a node of 4 GPUs", (odd, machine(1, 4, 72e9, NVLINK))),
        Case("GPT-J 6B on 4 nodes of one GPU of 8 GB", (GPTJ_6B, machine(4, 1, 7e9, NVLINK, slow))),
    ]


CHOOSE_LAYOUT = Exercise(
    name="lab03.choose_layout",
    lab="03",
    number="3.9",
    title="Choose the layout for a machine",
    function="choose_layout",
    statement=(
        "Return `(shards, stages)` with the shortest time of a token, of equals fewest GPUs. Stages follow one another; a rank "
        "reads its share of `weight_bytes` at `read` bytes/s. `layers` all-reduces take `latency + 2 (shards - 1) / shards · "
        "4 hidden / rate` each (none for one shard), `stages - 1` sends `latency + 4 hidden / rate`. `inside` and `between` are "
        "`(latency, rate)`: all-reduces go between nodes if `shards > gpus` (of a node), sends if `shards · stages > gpus`. "
        "Shards divide `heads`; weights fit `memory`."
    ),
    points=10,
    minutes=25,
    difficulty=4,
    cases=_layout_cases,
    reference=choose_layout,
    comparison=Comparison(),
    mistakes=(
        _choice("You leave out the latency: many small all-reduces are waiting more than sending.", latency=False),
        _choice("Your layout's weights do not fit a GPU's memory.", memory=False),
        _choice("Your shards do not divide the heads.", divides=False),
        _choice("You let everything go inside a node; beyond its GPUs the network is between.", between=False),
        _choice(
            "You let stages read at the same time: for one token they come one after another, and no stage makes it faster.",
            stages_speed_up=True,
        ),
        _choice("You take as many GPUs as there are; with each shard there is more to wait for.", greedy=True),
    ),
    hints=(
        "Try every pair with shards * stages <= nodes * gpus; leave out what does not divide or fit; compute the time of the rest.",
        "reading = weight_bytes / shards / read: the stages' times add up, so the number of stages drops out.",
        "min over (reading + layers * sum_time + (stages - 1) * send_time, shards * stages, (shards, stages)).",
    ),
)
