"""Exercise 4.10: the server says that a model is ready although the model's process is dead.

The learner's function sends a request to find out whether the process is dead, and repairs the model.
"""

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
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab04.on_server import LabServer, batched_config, is_own, lab_server
from labkit.exercises.lab04.together import job_inputs
from labkit.serving.channels import client_library, grpc_client
from labkit.serving.server.probes import as_input
from labkit.time_limits import limit_passed

MODEL = "mortal"
_NUMBERS = itertools.count(1)
ANSWER_SECONDS = 2.0

BUSY_SECONDS = 0.5
"""The number of seconds within which a healthy model answers."""

REAL_SEED = 11
"""The first seed of a check. A process in the real server is killed only for this seed, because once is enough."""


@dataclass(frozen=True)
class FailureCase(Case):
    """The state of the model: healthy, dead, hanging or refusing.

    With `real`, the model runs in the real server, and its process is killed.
    """

    state: str = "healthy"
    real: bool = False


class Hanging(Exception):
    """Raised when a request to a model that never answers has no time limit, or a time limit that is too long."""


class PaperClient:
    """Behaves like a `tritonclient` whose server has one model, which is in the given state."""

    def __init__(self, state: str) -> None:
        self.state, self.is_loaded = state, True

    def infer(self, model: str, inputs: Any, client_timeout: float | None = None, **more: Any) -> Any:
        """Depending on the state: answer, refuse the request, time out, or report that the process is dead."""
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
                raise Hanging(f"the model hangs, and your request {waits}; wait at most {ANSWER_SECONDS:g} seconds")
            raise self._error("Deadline Exceeded", "DEADLINE_EXCEEDED")
        if self.state == "refusing":
            raise self._error("max_new_tokens is 0; at least 1 is accepted", "INVALID_ARGUMENT")
        return object()

    def is_server_live(self, **more: Any) -> bool:
        """The server is always live."""
        return True

    def is_server_ready(self, **more: Any) -> bool:
        """The server always says that it is ready."""
        return True

    def is_model_ready(self, model: str, model_version: str = "", **more: Any) -> bool:
        """Whether the model is loaded. Like the real server, this method does not check the process."""
        return self.is_loaded

    def unload_model(self, model: str, **more: Any) -> None:
        """Unload the model."""
        self.is_loaded = False

    def load_model(self, model: str, **more: Any) -> None:
        """Start a process for the model. If the model is loaded already, nothing happens."""
        if not self.is_loaded and self.state != "refusing":
            self.state = "healthy"
        self.is_loaded = True

    def _error(self, words: str, status: str) -> Exception:
        made: Exception = client_library().InferenceServerException(msg=words, status=f"StatusCode.{status}")
        return made


class Recorder:
    """A client that records each call of load_model and unload_model."""

    def __init__(self, client: Any) -> None:
        self.done: list[str] = []
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name in ("load_model", "unload_model"):
            self.done.append(name)
        return getattr(self._client, name)


def run_failure(function: Callable[..., Any], case: Case) -> dict[str, Any]:
    """Call the learner's function. Returns its value, its calls of load_model and unload_model, and whether the model
    answers afterwards.
    """
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
    model = f"{MODEL}_{next(_NUMBERS)}"  # The server remembers a killed model, so each model gets a new name.
    server.load_stub(batched_config(model, {"work": "echo"}, largest=8), "batched")
    # Python writes a cache file beside model.py. The server mistakes this for a change of the model, but only once.
    server.server.probes.load(model)
    kill_process(server, model)
    client = grpc_client(server.server.grpc)
    inputs = [as_input(name, *given) for name, given in job_inputs([("alive?", 6)]).items()]
    recorder = Recorder(client)
    said = function(recorder, model, inputs)
    try:
        text = server.client.infer(model, inputs, client_timeout=ANSWER_SECONDS).as_numpy("TEXT")
        answers = bool(np.array_equal(text, np.array([[b"?evila"]], np.object_)))
    except client_library().InferenceServerException as error:
        answers = False
        if "DEADLINE_EXCEEDED" in str(error.status()):
            limit_passed(f"the model did not answer within {ANSWER_SECONDS:g} seconds after your function had returned")
    finally:
        client.close()
        server.client.unload_model(model)
    return {"says": said, "answers": answers, "does": recorder.done}


def kill_process(server: LabServer, model: str) -> None:
    """Kill the process of a model, as the operating system does when memory runs out."""
    for process in server.processes_of(model):
        process.kill()
        # The server does not wait for its children, so a dead child stays a zombie.
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
    server.loaded.pop(model, None)


def _cases(seed: int) -> list[Case]:
    states = ["healthy", "dead", "hanging", "refusing"]
    random.Random(seed).shuffle(states)
    words = {
        "healthy": f"a healthy model that answers within {BUSY_SECONDS:g} seconds",
        "dead": "a model whose process is dead",
        "hanging": "a model that never answers",
        "refusing": "a model that refuses the request",
    }
    cases: list[Case] = [FailureCase(words[state], state=state) for state in states]
    if seed == REAL_SEED:
        cases.append(FailureCase("a model in the real server whose process was just killed", state="dead", real=True))
    return cases


KEEP_ALIVE = Exercise(
    name="lab04.keep_alive",
    lab="04",
    number="4.10",
    title="Notice, and repair",
    function="keep_alive",
    statement=(
        "The server says that a model is ready even after its process was killed. To find out, send a request: "
        "`client.infer(model, inputs, client_timeout=...)`, with at most 2 seconds. The call raises "
        "`InferenceServerException`; `str(error.status())` gives the kind of error. A model that refuses a request "
        "(`StatusCode.INVALID_ARGUMENT`) is alive. After any other error, including a time-out, repair the model: call "
        "`client.unload_model(model)`, then `client.load_model(model)`; loading alone does nothing. Return whether you "
        "repaired the model. In one case, the check kills a process in the real server."
    ),
    points=8,
    minutes=15,
    difficulty=2,
    requires=("triton_server",),
    cases=_cases,
    run=run_failure,
    seconds=40.0,
    ends_at_error=True,
    hints=(
        "What can happen to a request with a time limit, and which of these outcomes need a repair?",
        "Look at the status() of an error. If the error is a refusal, return False. After any other error, unload and load "
        "the model, and return True.",
        'except InferenceServerException as error: if "INVALID_ARGUMENT" in str(error.status()), return False.',
    ),
)
