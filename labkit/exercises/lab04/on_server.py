"""Runs a Triton Inference Server. All checks in a process share one server (`lab_server`).

This module writes models into the server's repository, loads them, and sends requests to them.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

import labkit
from labkit.checkpoints import open_checkpoint
from labkit.exercises.lab04.function_file import as_module, digest
from labkit.exercises.stubs.learner_folder import FOLDER
from labkit.forked import by_owner
from labkit.serving.channels import grpc_client
from labkit.serving.repository.model_config import Batching, Instances, ModelConfig, config_text
from labkit.serving.repository.served_models import served_models
from labkit.serving.repository.tensors import TensorSpec
from labkit.serving.server import Server
from labkit.serving.server.locked_folder import LockedFolder
from labkit.serving.server.probes import as_input
from labkit.time_limits import limit_passed

MODEL = "gptj-tiny"
ASK_SECONDS = 45.0
"""The time limit, in seconds, for a request to a model that runs a learner's function."""

BATCHED_INPUTS = (
    TensorSpec("PROMPT", "STRING", (1,), "the prompt of a job, UTF-8"),
    TensorSpec("NEW_TOKENS", "INT32", (1,), "the number of new tokens for the job"),
)
BATCHED_OUTPUTS = (
    TensorSpec("TEXT", "STRING", (1,), "the text of a job"),
    TensorSpec(
        "BATCH",
        "FP64",
        (5,),
        "five numbers about the job's batch: the calls so far, its number, its jobs, its beginning, its end",
    ),
)


class LabServer:
    """A server with a temporary repository, which has no models at first. The server stops when this process ends."""

    def __init__(self) -> None:
        own = LockedFolder("lab04")
        self.folder = own.path
        self.server = Server(self.folder, models=[], watch=False)
        self._end = weakref.finalize(self, by_owner(_end), self.server, own)
        self.client = grpc_client(self.server.grpc)
        self.loaded: dict[str, str] = {}
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Kill the server at once. A normal stop would wait ten seconds for a model whose process was killed."""
        self._end()

    def load(self, name: str, config: str, code: str = "", *, tokenizer: bool = False) -> None:
        """Write a model into the repository and load it, unless the same model is already loaded.

        Raises `NotAvailable` if loading fails or takes too long.
        """
        wanted = digest(config + code)
        if self.loaded.get(name) == wanted:
            return
        version = self.folder / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        (version / FOLDER).mkdir(exist_ok=True)
        (self.folder / name / "config.pbtxt").write_text(config, "utf-8")
        if code:
            (version / "model.py").write_text(code, "utf-8")
        if tokenizer:
            shutil.copyfile(open_checkpoint(MODEL).tokenizer().path, version / "tokenizer.json")
        self.loaded.pop(name, None)
        self.server.probes.load(name)
        self.loaded[name] = wanted

    def load_all(self, loads: Sequence[Callable[[], None]]) -> None:
        """Run several loads at the same time, because each load mostly waits. Raises the first error."""
        failed: list[BaseException] = []

        def run(load: Callable[[], None]) -> None:
            try:
                load()
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=run, args=(load,)) for load in loads]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]

    def load_stub(self, config: ModelConfig, stub: str, *, tokenizer: bool = False) -> None:
        """Load a model whose code is `labkit.exercises.stubs.<stub>`."""
        self.load(config.name, config_text(config), model_code(f"labkit.exercises.stubs.{stub}"), tokenizer=tokenizer)

    def unload(self, name: str) -> None:
        """Unload a model; nothing happens if it is not loaded."""
        if self.loaded.pop(name, None):
            self.client.unload_model(name)

    def put(self, model: str, function: Callable[..., Any], name: str) -> str:
        """Write a function into the folder of a model.

        Returns the name by which requests and configurations refer to the function.
        """
        text = as_module(function, name)
        place = self.folder / model / "1" / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{digest(text)}.py").write_text(text, "utf-8")
        return digest(text)

    def ask(
        self,
        model: str,
        inputs: Mapping[str, tuple[str, Any]],
        parameters: Mapping[str, str] | None = None,
        seconds: float = ASK_SECONDS,
    ) -> dict[str, NDArray[Any]]:
        """Send a request with the inputs `{name: (data type, values)}` and return the model's outputs.

        If a learner's function raises an error in the server, an error with the same name is raised here. If the model's
        process has died or hangs, the model is loaded again, and `ChildProcessError` or `TimeoutError` is raised.
        """
        return self.ask_all(model, [inputs], parameters, seconds)[0]

    def ask_all(
        self,
        model: str,
        requests: Sequence[Mapping[str, tuple[str, Any]]],
        parameters: Mapping[str, str] | None = None,
        seconds: float = ASK_SECONDS,
    ) -> list[dict[str, NDArray[Any]]]:
        """Like `ask`, but for several requests, which are sent at the same time. Returns their outputs in order."""
        found: queue.SimpleQueue[tuple[int, Any, Any]] = queue.SimpleQueue()
        for number, inputs in enumerate(requests):
            tensors = [as_input(name, *given) for name, given in inputs.items()]
            self.client.async_infer(
                model,
                tensors,
                lambda result, error, number=number: found.put((number, result, error)),
                client_timeout=seconds,
                parameters=dict(parameters or {}),
            )
        answers: list[Any] = [None] * len(requests)
        for _ in requests:
            number, result, error = found.get()
            answers[number] = result
            if error is not None:
                raise self._error(model, error, seconds) from None
        return [{output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs} for answer in answers]

    def _error(self, model: str, error: Any, seconds: float) -> BaseException:
        words = error.message() or ""
        if words.startswith("["):
            kind, said = json.loads(words)
            return like(kind, said)
        if "DEADLINE_EXCEEDED" in str(error.status()):
            limit_passed(f"the model did not answer within {seconds:g} seconds")
            self.revive(model)
            return TimeoutError(f"the model did not answer within {seconds:g} seconds")
        if "not healthy" in words:
            self.revive(model)
            return ChildProcessError("the model's process ended")
        return like("InferenceServerException", words)

    def revive(self, model: str) -> None:
        """Load a model again, in a new process.

        The old process is killed afterwards, because the server would not end an endless loop in it, and the loop would slow
        down all later checks.
        """
        old = self.processes_of(model)
        self.client.unload_model(model)
        self.server.probes.load(model)
        for process in old:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def processes_of(self, model: str) -> list[psutil.Process]:
        """The processes in which a model runs."""
        found = []
        for process in psutil.Process(self.server.pid).children(recursive=True):
            try:
                if any(f"/{model}/1/model.py" in word for word in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def _end(server: Server, own: LockedFolder) -> None:
    with contextlib.suppress(OSError, ValueError, psutil.Error):
        whole = psutil.Process(server.pid)
        for process in [*whole.children(recursive=True), whole]:
            process.kill()
    server.stop()
    own.delete()


def model_code(module: str) -> str:
    """The text of a `model.py` that imports its model from a module of this labkit."""
    root = str(Path(labkit.__file__).parents[1])
    return f"import sys\n\nsys.path.insert(0, {root!r})\nfrom {module} import TritonPythonModel  # noqa: E402, F401\n"


def like(kind: str, words: str) -> BaseException:
    """An exception with the name and the message of an exception from another process."""
    if kind == "NotImplementedError":
        return NotImplementedError(words)
    made: type[Exception] = type(kind, (Exception,), {})
    return made(words)


_KEPT: list[LabServer] = []


def lab_server() -> LabServer:
    """This process's server, which is started at the first call, and again if it has ended.

    Raises `NotAvailable` if the server does not start.
    """
    if _KEPT and not _KEPT[0].server.is_running:
        _KEPT.clear()
    if not _KEPT:
        _KEPT.append(LabServer())
    return _KEPT[0]


def stop_server() -> None:
    """Stop this process's server, if there is one."""
    for kept in _KEPT:
        kept.stop()
    _KEPT.clear()


def is_own(function: Callable[..., Any]) -> bool:
    """Whether a function is one of labkit's references or known mistakes.

    These functions run without the server, because their results would be the same in the server.
    """
    module = str(getattr(function, "__module__", ""))
    return module.startswith(("labkit.answers.lab04", "labkit.exercises.lab04")) or module.endswith(".own_stages")


def stage(name: str) -> ModelConfig:
    """labkit's configuration of one of FasterTransformer's three stages."""
    return served_models({})[name]


def batched_config(
    name: str, parameters: Mapping[str, str], *, largest: int, instances: int = 1, delay: float | None = None
) -> ModelConfig:
    """Configure a model that calls `answer_together` with a batch.

    The server combines requests only if `delay` (seconds) is set.
    """
    return ModelConfig(
        name=name,
        meaning="Jobs in batches.",
        backend="python",
        max_batch_size=largest,
        inputs=BATCHED_INPUTS,
        outputs=BATCHED_OUTPUTS,
        instances=Instances(instances),
        parameters=parameters,
        batching=None if delay is None else Batching(max_queue_delay_microseconds=round(1e6 * delay)),
    )


def texts(values: Sequence[Sequence[str]]) -> tuple[str, NDArray[Any]]:
    """The data type and the values `[rows, columns]` of an input that contains strings."""
    return "BYTES", np.array([[value.encode() for value in row] for row in values], np.object_)
