"""The learner's own deployment: labkit's engine, with the stages and the ensemble that the learner wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from labkit.exercises.lab04.ensemble import ensemble_of, request_inputs
from labkit.exercises.lab04.failure import kill_process
from labkit.exercises.lab04.on_server import MODEL, LabServer, batched_config, model_code, stage
from labkit.measure import progress_bar
from labkit.serving.repository.model_config import config_text
from labkit.serving.repository.served_models import served_models
from labkit.serving.repository.writer import ServeSettings

ENGINE_SECONDS = 60.0
PRECISION = "fp32"
"""The precision of the engine, even on a GPU, because the other rungs of the speed ladder use the same precision."""
_RUNNING: list[Deployment] = []


class Deployment:
    """A server with the learner's models. A new deployment stops the previous one."""

    def __init__(self) -> None:
        for old in _RUNNING:
            old.stop()
        _RUNNING[:] = [self]
        self.server = LabServer()
        self.client = self.server.client

    @property
    def grpc(self) -> str:
        """The address for gRPC clients."""
        return self.server.server.grpc

    @property
    def metrics(self) -> str:
        """The address of the server's metrics."""
        return f"http://{self.server.server.metrics}/metrics"

    def stop(self) -> None:
        """Stop the server and all its models."""
        self.server.stop()

    def load_engine(self) -> None:
        """Load labkit's engine under two names with two interfaces: `gptj` and `fastertransformer`."""
        given = ServeSettings(model=MODEL, precision=PRECISION).parameters() | {"end_token_id": "0"}
        models = served_models(given)
        for name in ("gptj", "fastertransformer"):
            self.server.load(name, config_text(models[name]), model_code(f"labkit.serving.python_backend.{name}"))

    def load_stage(self, name: str, functions: Mapping[str, Callable[..., Any] | None]) -> None:
        """Load a stage that calls the learner's functions.

        If a function is None, the stage calls labkit's own function instead.
        """
        digests = {known: self.server.put(name, function, known) for known, function in functions.items() if function}
        self.server.load_stub(replace(stage(name), parameters=digests), name, tokenizer=True)

    def load_batched(
        self,
        name: str,
        answer_together: Callable[..., Any],
        work: Mapping[str, str],
        *,
        largest: int,
        copies: int = 1,
        delay: float | None = None,
    ) -> None:
        """Load a model that calls the learner's function with each batch. If `delay` is None, the server passes each
        request to the model alone, without batching.
        """
        parameters = {"answer_together": self.server.put(name, answer_together, "answer_together"), **work}
        config = batched_config(name, parameters, largest=largest, instances=copies, delay=delay)
        self.server.load_stub(config, "batched")

    def ask(self, prompts: Sequence[str], new_tokens: int, *, bad: str = "", stop: str = "") -> list[str]:
        """Send the prompts to the ensemble and return the texts that it answers with; each text begins with its prompt."""
        count = len(prompts)
        inputs = request_inputs(list(prompts), [new_tokens] * count, [bad] * count, [stop] * count)
        answer = self.server.ask("ensemble", inputs, seconds=ENGINE_SECONDS)
        return [row[0].decode() for row in answer["OUTPUT_0"]]

    def kill(self, model: str) -> None:
        """Kill the process of a model, as the operating system does when memory runs out."""
        kill_process(self.server, model)


def deploy(
    pad_prompts: Callable[..., Any] | None,
    word_lists: Callable[..., Any] | None,
    postprocess: Callable[..., Any] | None,
    ensemble_maps: Callable[..., Any],
) -> Deployment:
    """Start a server with labkit's engine, and with the stages and the ensemble that the learner wrote.

    If a function is None, the stage runs labkit's own function instead.
    """
    bar = progress_bar("models loaded")
    bar(0, 5)
    made = Deployment()
    made.load_engine()
    bar(2, 5)
    made.load_stage("preprocessing", {"pad_prompts": pad_prompts, "word_lists": word_lists})
    made.load_stage("postprocessing", {"postprocess": postprocess})
    bar(4, 5)
    made.server.load("ensemble", config_text(ensemble_of(ensemble_maps())))
    bar(5, 5)
    return made
