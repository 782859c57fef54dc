"""Exercise 4.5: the wires of an ensemble, which the real server then loads and runs."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labkit.checkpoints import open_checkpoint
from labkit.errors import NotAvailable
from labkit.exercises.case import Case
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import MODEL, LabServer, is_own, lab_server, model_code, stage, texts
from labkit.exercises.lab04.words import WORDS, line, sentence
from labkit.exercises.stubs import stages
from labkit.exercises.stubs.own_functions import OWN, has_own_stages
from labkit.plurals import counted
from labkit.serving.repository.checker.check_config import check_config
from labkit.serving.repository.model_config import ModelConfig, Step, config_text
from labkit.time_limits import limit_passed

Maps = dict[str, tuple[dict[str, str], dict[str, str]]]
Arrays = dict[str, NDArray[Any]]

STAGES = {"preprocessing": "preprocessing", "fastertransformer": "toy_engine", "postprocessing": "postprocessing"}
"""The models of the ensemble, in order. Each value is the module in `labkit.exercises.stubs` that replaces the model during
the check.
"""

COUNT_SECONDS = 2.0
"""How many seconds to wait for the server's counters. The wait is needed because the server counts an execution only shortly
after it has sent the answer.
"""


@dataclass(frozen=True)
class EnsembleCase(Case):
    """A request to the ensemble.

    `request` holds four lists with one entry for each prompt: texts, numbers of new tokens, lines of bad words and lines of
    stop words.
    """

    request: tuple[list[str], list[int], list[str], list[str]] = ((), (), (), ())  # type: ignore[assignment]


def ensemble_of(maps: Any, name: str = "ensemble") -> ModelConfig:
    """Make the ensemble with these maps. Raises `TypeError` if the maps are not dictionaries of the right form."""
    form = "return a dictionary {model: (input_map, output_map)}, where each map is a dictionary {tensor: wire}"
    if not isinstance(maps, dict):
        raise TypeError(f"your function returns {maps!r:.60}; {form}")
    steps = []
    for model, both in maps.items():
        fits = isinstance(both, tuple | list) and len(both) == 2 and all(isinstance(one, dict) for one in both)
        if not fits or not all(isinstance(word, str) for one in both for pair in one.items() for word in pair):
            raise TypeError(f"for {model!r} your function returns {both!r:.60}; {form}")
        steps.append(Step(str(model), *both))
    whole = stage("ensemble")
    served = {"INPUT_0", "INPUT_1", "INPUT_2", "INPUT_3"}
    inputs = tuple(spec for spec in whole.inputs if spec.name in served)
    outputs = tuple(spec for spec in whole.outputs if spec.name in ("OUTPUT_0", "sequence_length"))
    return replace(whole, name=name, inputs=inputs, outputs=outputs, steps=tuple(steps), max_batch_size=64)


def stage_configs() -> dict[str, ModelConfig]:
    """The configurations of the three stages. The engine has only the inputs that the ensemble uses, so none for sampling."""
    engine = stage("fastertransformer")
    wanted = ("input_ids", "input_lengths", "request_output_len", "bad_words_list", "stop_words_list")
    inputs = tuple(replace(spec, scalar=False) for spec in engine.inputs if spec.name in wanted)
    outputs = tuple(spec for spec in engine.outputs if spec.name in ("output_ids", "sequence_length"))
    return {name: stage(name) for name in STAGES} | {"fastertransformer": replace(engine, inputs=inputs, outputs=outputs)}


def request_inputs(
    prompts: list[str], counts: list[int], bad: list[str], stop: list[str]
) -> dict[str, tuple[str, NDArray[Any]]]:
    """Make the input tensors of a request to the ensemble."""
    lengths = "UINT32", np.array([[count] for count in counts], np.uint32)
    words = {"INPUT_2": texts([[one] for one in bad]), "INPUT_3": texts([[one] for one in stop])}
    return {"INPUT_0": texts([[prompt] for prompt in prompts]), "INPUT_1": lengths, **words}


def run_ensemble(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Run the ensemble with the maps that the learner's function returns. Returns the fault in the wires or, if there is none,
    the texts that the ensemble answers with. labkit's own maps run without a server.
    """
    assert isinstance(case, EnsembleCase)
    maps = function()
    try:
        config = ensemble_of(maps)
    except TypeError as error:
        return {"fault": str(error), "texts": []}
    if missing := [name for name in STAGES if name not in maps]:
        return {"fault": f"your ensemble has no step for {', '.join(missing)}", "texts": []}
    if words := _turned(maps):
        return {"fault": words, "texts": []}
    text = config_text(config)
    configs = {name: config_text(one) for name, one in stage_configs().items()}
    if faults := check_config(text, others=configs):
        line = f" (your maps made the line `{text.splitlines()[faults[0].line - 1].strip()}`)" if faults[0].line else ""
        return {"fault": f"{faults[0].what}; {faults[0].do}{line}", "texts": []}
    inputs = request_inputs(*case.request)
    if is_own(function):
        found = _on_paper(maps, {name: values for name, (_, values) in inputs.items()})
    else:
        found = _in_server(config, inputs)
    return {"fault": "", "texts": [[text.decode() for text in row] for row in found["OUTPUT_0"]]}


def _turned(maps: Maps) -> str:
    """A message about a map that is the wrong way round, with wires as keys and tensors as values; "" if no map is."""
    for name, stage_config in stage_configs().items():
        for what, given, specs in zip(
            ("input_map", "output_map"), maps[name], (stage_config.inputs, stage_config.outputs), strict=True
        ):
            own = {spec.name for spec in specs}
            if given and not own & set(given) and set(given.values()) <= own:
                return f"the {what} of {name} is the wrong way round: the key is the model's tensor, the value is the wire"
    return ""


def _in_server(config: ModelConfig, inputs: dict[str, tuple[str, NDArray[Any]]]) -> Arrays:
    server = lab_server()
    if server.loaded.get("ensemble") is None:
        server.load_all([partial(_load_stage, server, name) for name in STAGES])
    server.load("ensemble", config_text(config))
    before = _runs(server)
    found = server.ask("ensemble", inputs)
    until = time.monotonic() + COUNT_SECONDS
    while idle := [name for name, count in _runs(server).items() if count == before[name]]:
        if time.monotonic() > until:
            limit_passed(f"{', '.join(idle)} did not run within {COUNT_SECONDS:g} seconds")
            raise NotAvailable(f"the ensemble answers, but {', '.join(idle)} did not run")
        time.sleep(0.01)
    return found


def _load_stage(server: LabServer, name: str) -> None:
    """Load the model that replaces a stage.

    If this copy has no reference functions (`own_functions`), load the stage itself.
    """
    config, has_tokenizer = stage_configs()[name], name != "fastertransformer"
    if has_tokenizer and not has_own_stages():
        code = model_code(f"labkit.serving.python_backend.{name}")
        server.load(name, config_text(config), code, tokenizer=True)
    else:
        server.load_stub(config, STAGES[name], tokenizer=has_tokenizer)


def _runs(server: Any) -> dict[str, int]:
    """The number of times that each stage has run."""
    statistics = {name: server.client.get_inference_statistics(name).model_stats for name in STAGES}
    return {name: sum(int(one.execution_count) for one in stats) for name, stats in statistics.items()}


def _on_paper(maps: Maps, wires: Arrays) -> Arrays:
    """Run the ensemble in this process, stage by stage, without a server."""
    tokenizer = open_checkpoint(MODEL).tokenizer()

    def preprocessing(given: Arrays) -> Arrays:
        out = stages.preprocessing(given, tokenizer.encode, OWN["pad_prompts"], OWN["word_lists"])
        return out | {"REQUEST_OUTPUT_LEN": given["REQUEST_OUTPUT_LEN"]}

    def postprocessing(given: Arrays) -> Arrays:
        tokens = given["TOKENS_BATCH"]
        lengths = given.get("SEQUENCE_LENGTH", np.full(tokens.shape[:2], tokens.shape[2]))
        return {"OUTPUT": stages.postprocessing(tokens, lengths, tokenizer.decode, OWN["postprocess"])}

    run = {"preprocessing": preprocessing, "fastertransformer": stages.toy_engine, "postprocessing": postprocessing}
    for name in STAGES:
        inputs, outputs = maps[name]
        made = run[name]({key: wires[wire] for key, wire in inputs.items()})
        wires = wires | {wire: made[key] for key, wire in outputs.items()}
    return wires


def _cases(seed: int) -> list[Case]:
    draw = random.Random(seed)
    encode = open_checkpoint(MODEL).tokenizer().encode
    single = [word for word in WORDS if len(encode(" " + word)) == 1]
    cases: list[Case] = []
    for count in (1, 3):
        prompts = [sentence(draw, draw.randint(3, 9)) for _ in range(count)]
        request = prompts, [draw.randint(5, 20) for _ in prompts], [""] * count, [""] * count
        cases.append(EnsembleCase(f"{counted(count, 'prompt')}, no words", request=request))
    for label, count in (("bad and stop words", 1), ("bad and stop words for each", 2)):
        rows = [draw.sample(single, 6) for _ in range(count)]
        prompts = ["Now " + " ".join(row) for row in rows]
        bad, stop = [line(row[4:5]) for row in rows], [line(row[1:2]) for row in rows]
        cases.append(EnsembleCase(f"{counted(count, 'prompt')}, {label}", request=(prompts, [20] * count, bad, stop)))
    return cases


ENSEMBLE_MAPS = Exercise(
    name="lab04.ensemble_maps",
    lab="04",
    number="4.5",
    title="Wire the ensemble",
    function="ensemble_maps",
    statement=(
        "Return `{model: (input_map, output_map)}` for the three stages. Each map is a dictionary `{tensor of the model: "
        "wire}`. A wire has a name of your choice, or the name of an ensemble tensor: the client sends `INPUT_0` (prompt), "
        "`INPUT_1` (most new tokens), `INPUT_2` (bad words) and `INPUT_3` (stop words), and reads `OUTPUT_0` (text) and "
        "`sequence_length`. The table above lists the models' tensors. The real server runs your ensemble. In the check, a "
        "small model that uses every input replaces the engine."
    ),
    points=12,
    minutes=25,
    difficulty=3,
    core=True,
    requires=("triton_server",),
    cases=_cases,
    run=run_ensemble,
    needs=("exercises/stubs/own_stages",),
    seconds=60.0,
    ends_at_error=True,
    hints=(
        "Draw the remaining wires into the picture above. The name of a wire is a value in the maps of both models that it "
        "connects.",
        "All outputs of preprocessing go to the engine. postprocessing has two inputs; the client also reads one of these "
        "wires.",
        '"postprocessing": ({"TOKENS_BATCH": "_tokens", "SEQUENCE_LENGTH": "sequence_length"}, {"OUTPUT": "OUTPUT_0"}); '
        "the other two models have the same form.",
    ),
)
