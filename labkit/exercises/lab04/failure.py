"""Exercise 4.10: a model whose process is gone is still called ready; notice it by a request, and repair it."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil

from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.exercise import Exercise, Mistake
from labkit.exercises.lab04.on_server import LabServer, batched_config, is_own, lab_server
from labkit.exercises.lab04.together import job_inputs
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.server.probes import as_input

MODEL = "mortal"
_NUMBERS = itertools.count(1)
ANSWER_SECONDS = 2.0
BUSY_SECONDS = 0.5
"""What a model that is well may take."""
REAL_SEED = 11
"""The first seed of a check: with it a process is killed in the server; once is enough."""


@dataclass(frozen=True)
class FailureCase(Case):
    """State of the model: healthy, dead, hanging, refusing. `real`: in the server, whose process of the model is killed."""

    state: str = "healthy"
    real: bool = False


def keep_alive(client: Any, model: str, inputs: list[Any]) -> bool:
    """The reference of exercise 4.10."""
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
        return False
    except client_library().InferenceServerException as error:
        if "INVALID_ARGUMENT" in str(error.status()):
            return False
    client.unload_model(model)
    client.load_model(model)
    return True


class Hanging(Exception):
    """A request without a time limit to a model that never answers."""


class PaperClient:
    """Behaves as tritonclient does towards a server with one model, in any state."""

    def __init__(self, state: str) -> None:
        self.state, self.is_loaded = state, True

    def infer(self, model: str, inputs: Any, client_timeout: float | None = None, **more: Any) -> Any:
        """Answers, refuses, or says that the process is gone."""
        if not self.is_loaded:
            raise self._error(f"Request for unknown model: '{model}' is not found", "NOT_FOUND")
        if self.state == "dead":
            raise self._error(f"Stub process '{model}_0_0' is not healthy.", "INTERNAL")
        if self.state == "healthy" and client_timeout is not None and client_timeout < BUSY_SECONDS:
            raise self._error("Deadline Exceeded", "DEADLINE_EXCEEDED")
        if self.state == "hanging":
            if client_timeout is None or client_timeout > ANSWER_SECONDS:
                waits = (
                    "has no client_timeout: it waits for ever"
                    if client_timeout is None
                    else f"waits {client_timeout:g} seconds"
                )
                raise Hanging(f"the model hangs, and your request {waits}; {ANSWER_SECONDS:g} at most are asked for")
            raise self._error("Deadline Exceeded", "DEADLINE_EXCEEDED")
        if self.state == "refusing":
            raise self._error("max_new_tokens is 0; at least 1 is accepted", "INVALID_ARGUMENT")
        return object()

    def is_server_live(self, **more: Any) -> bool:
        """The server is."""
        return True

    def is_server_ready(self, **more: Any) -> bool:
        """The server calls itself so."""
        return True

    def is_model_ready(self, model: str, model_version: str = "", **more: Any) -> bool:
        """Whether it is loaded: its process is not looked at."""
        return self.is_loaded

    def unload_model(self, model: str, **more: Any) -> None:
        """Take it out."""
        self.is_loaded = False

    def load_model(self, model: str, **more: Any) -> None:
        """Start its process, unless the model is loaded: then nothing has changed, and nothing happens."""
        if not self.is_loaded and self.state != "refusing":
            self.state = "healthy"
        self.is_loaded = True

    def _error(self, words: str, status: str) -> Exception:
        made: Exception = client_library().InferenceServerException(msg=words, status=f"StatusCode.{status}")
        return made


class Recorder:
    """A client that notes what models it is told to load and unload."""

    def __init__(self, client: Any) -> None:
        self.done: list[str] = []
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name in ("load_model", "unload_model"):
            self.done.append(name)
        return getattr(self._client, name)


def run_failure(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """What the function says and does."""
    assert isinstance(case, FailureCase)
    if case.real and not is_own(function):
        return _in_server(function)
    client = PaperClient(case.state)
    recorder = Recorder(client)
    said = function(recorder, MODEL, [])
    answers = client.is_loaded and client.state in ("healthy", "refusing")
    return {"says": said, "answers": answers, "does": recorder.done}


def _in_server(function: Callable[..., Any]) -> dict[str, Any]:
    server = lab_server()
    model = f"{MODEL}_{next(_NUMBERS)}"  # one that was killed leaves something behind in the server
    server.load_stub(batched_config(model, {"work": "echo"}, largest=8), "batched")
    server.server.probes.load(model)  # Python has put its own files beside the model's, which counts as a change once
    kill_process(server, model)
    client = grpc_client(server.server.grpc)
    inputs = [as_input(name, *given) for name, given in job_inputs([("alive?", 6)]).items()]
    recorder = Recorder(client)
    said = function(recorder, model, inputs)
    try:
        text = server.client.infer(model, inputs, client_timeout=ANSWER_SECONDS).as_numpy("TEXT")
        answers = bool(np.array_equal(text, np.array([[b"?evila"]], np.object_)))
    except client_library().InferenceServerException:
        answers = False
    finally:
        client.close()
        server.client.unload_model(model)
    return {"says": said, "answers": answers, "does": recorder.done}


def processes_of(server: LabServer, model: str) -> list[psutil.Process]:
    """The processes in which a model runs."""
    found = []
    for process in psutil.Process(server.server.pid).children(recursive=True):
        try:
            if any(f"/{model}/1/model.py" in word for word in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_process(server: LabServer, model: str) -> None:
    """Kill a model's process, as the kernel does when memory runs out."""
    for process in processes_of(server, model):
        process.kill()
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:  # the server asks for no child's end
            time.sleep(0.01)
    server.loaded.pop(model, None)


def _by_readiness(client: Any, model: str, inputs: list[Any]) -> Any:
    if client.is_model_ready(model):
        return False
    client.unload_model(model)
    client.load_model(model)
    return True


def _repair(client: Any, model: str) -> bool:
    client.unload_model(model)
    client.load_model(model)
    return True


def _load_only(client: Any, model: str, inputs: list[Any]) -> Any:
    if is_dead := _notices_only(client, model, inputs):
        client.load_model(model)
    return is_dead


def _unload_only(client: Any, model: str, inputs: list[Any]) -> Any:
    if is_dead := _notices_only(client, model, inputs):
        client.unload_model(model)
    return is_dead


def _always(client: Any, model: str, inputs: list[Any]) -> Any:
    return _repair(client, model)


def _refusal_is_death(client: Any, model: str, inputs: list[Any]) -> Any:
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
        return False
    except client_library().InferenceServerException:
        return _repair(client, model)


def _with_limit(client: Any, model: str, inputs: list[Any], **limit: float) -> Any:
    try:
        client.infer(model, inputs, **limit)
        return False
    except client_library().InferenceServerException as error:
        return "INVALID_ARGUMENT" not in str(error.status()) and _repair(client, model)


def _no_time_limit(client: Any, model: str, inputs: list[Any]) -> Any:
    return _with_limit(client, model, inputs)


def _impatient(client: Any, model: str, inputs: list[Any]) -> Any:
    return _with_limit(client, model, inputs, client_timeout=0.01)


def _only_time_outs(client: Any, model: str, inputs: list[Any]) -> Any:
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
    except client_library().InferenceServerException as error:
        return "DEADLINE_EXCEEDED" in str(error.status()) and _repair(client, model)
    return False


def _only_internal(client: Any, model: str, inputs: list[Any]) -> Any:
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
    except client_library().InferenceServerException as error:
        return "INTERNAL" in str(error.status()) and _repair(client, model)
    return False


def _notices_only(client: Any, model: str, inputs: list[Any]) -> Any:
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
        return False
    except client_library().InferenceServerException as error:
        return "INVALID_ARGUMENT" not in str(error.status())


def _other_way(client: Any, model: str, inputs: list[Any]) -> Any:
    return not keep_alive(client, model, inputs)


def _cases(seed: int) -> list[Case]:
    states = ["healthy", "dead", "hanging", "refusing"]
    random.Random(seed).shuffle(states)
    words = {
        "healthy": f"a model that is well, and answers within {BUSY_SECONDS:g} seconds",
        "dead": "a model whose process is gone",
        "hanging": "a model that never answers",
        "refusing": "a model that refuses the request",
    }
    cases: list[Case] = [FailureCase(words[state], state=state) for state in states]
    if seed == REAL_SEED:
        cases.append(FailureCase("a model in the real server, whose process was just killed", state="dead", real=True))
    return cases


def _explain(case: Case, found: Any, right: Any) -> str:
    assert isinstance(case, FailureCase)
    if found["does"] != right["does"]:
        did, asked = (", then ".join(one) or "nothing" for one in (found["does"], right["does"]))
        return f"Here is {case.label}; you do {did}, and {asked} is right."
    if found["answers"] != right["answers"]:
        return f"Here is {case.label}; it does not answer when you are done."
    return f"Here is {case.label}; you return {found['says']!r}, {right['says']} is right: whether it had to be repaired."


KEEP_ALIVE = Exercise(
    name="lab04.keep_alive",
    lab="04",
    number="4.10",
    title="Notice, and repair",
    function="keep_alive",
    statement=(
        "The server calls a model ready whose process was killed. Ask it for real: `client.infer(model, inputs, client_timeout=...)`, at "
        "most 2 seconds. An error is an `InferenceServerException`; `str(error.status())` names its kind. A model that refuses "
        "(`StatusCode.INVALID_ARGUMENT`) is alive. Any other error, a time-out included, asks for a repair: `client.unload_model(model)`, "
        "then `client.load_model(model)`, for loading what is loaded does nothing. Return whether you repaired it. A process is killed in "
        "the real server, too."
    ),
    points=8,
    minutes=12,
    difficulty=2,
    requires=("triton_server",),
    cases=_cases,
    reference=keep_alive,
    run=run_failure,
    seconds=40.0,
    ends_at_error=True,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake("You ask whether the model is ready, and the server says so of a dead one: send it a request.", _by_readiness),
        Mistake("Loading a model that is loaded does nothing: unload it first.", _load_only),
        Mistake("You unload it, and then nobody serves it: load it again.", _unload_only),
        Mistake("You load it anew whatever it answers: a model that works loses its clients' requests by that.", _always),
        Mistake(
            "A model that refuses a request is alive: leave it alone when str(error.status()) is 'StatusCode.INVALID_ARGUMENT'.",
            _refusal_is_death,
        ),
        Mistake("A model that hangs makes your request wait for ever: give client_timeout.", _no_time_limit),
        Mistake("You give up so soon that a model which is only busy is loaded anew: wait up to 2 seconds.", _impatient),
        Mistake(
            "You repair a model that hangs, but not one whose process is gone: that is another error, INTERNAL.",
            _only_time_outs,
        ),
        Mistake("You repair a model whose process is gone, but not one that hangs: that is DEADLINE_EXCEEDED.", _only_internal),
        Mistake("You notice it, but do not repair it: unload, then load.", _notices_only),
        Mistake("You return True for a model that was well; True is for one that you repaired.", _other_way),
    ),
    hints=(
        "try: client.infer(...) with a time limit. What it means that this raises depends on the error's status.",
        'except InferenceServerException as error: if "INVALID_ARGUMENT" in str(error.status()), return False.',
        "Behind the except: client.unload_model(model); client.load_model(model); return True.",
    ),
)
