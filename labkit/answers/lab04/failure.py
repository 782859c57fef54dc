"""The answer to exercise 4.10: reference, comparison and known mistakes."""

from __future__ import annotations

from typing import Any

from labkit.exercises.answer import Answer, Mistake
from labkit.exercises.case import Case
from labkit.exercises.comparison import Comparison
from labkit.exercises.lab04.failure import ANSWER_SECONDS, KEEP_ALIVE, FailureCase
from labkit.serving.channels import client_library


def keep_alive(client: Any, model: str, inputs: list[Any]) -> bool:
    """The reference solution of exercise 4.10."""
    try:
        client.infer(model, inputs, client_timeout=ANSWER_SECONDS)
        return False
    except client_library().InferenceServerException as error:
        if "INVALID_ARGUMENT" in str(error.status()):
            return False
    client.unload_model(model)
    client.load_model(model)
    return True


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


def _explain(case: Case, found: Any, right: Any) -> str:
    assert isinstance(case, FailureCase)
    if found["does"] != right["does"]:
        did, asked = (", then ".join(one) or "nothing" for one in (found["does"], right["does"]))
        return f"For {case.label} you call {did}; the right calls are: {asked}."
    if found["answers"] != right["answers"]:
        return f"For {case.label}: after your function has returned, the model does not answer."
    return f"For {case.label} you return {found['says']!r}; return whether you repaired the model: {right['says']}."


KEEP_ALIVE_ANSWER = Answer(
    exercise=KEEP_ALIVE,
    reference=keep_alive,
    comparison=Comparison(),
    explain=_explain,
    mistakes=(
        Mistake(
            "You ask the server whether the model is ready, but the server says yes even for a dead model: send the model a "
            "request.",
            _by_readiness,
        ),
        Mistake("Loading a model that is already loaded does nothing: unload it first.", _load_only),
        Mistake("You unload the model, but do not load it again.", _unload_only),
        Mistake("You reload the model whatever it answers, so the clients of a healthy model lose their requests.", _always),
        Mistake(
            "A model that refuses a request is alive, but you repair it. The status of a refusal is INVALID_ARGUMENT.",
            _refusal_is_death,
        ),
        Mistake("Your request to a hanging model waits forever: pass client_timeout.", _no_time_limit),
        Mistake("Your time limit is so short that you reload a model that is only busy: wait up to 2 seconds.", _impatient),
        Mistake(
            "You repair a hanging model, but not a model whose process is dead: for a dead process, the status is INTERNAL.",
            _only_time_outs,
        ),
        Mistake(
            "You repair a model whose process is dead, but not a hanging model: for a hanging model, the status is "
            "DEADLINE_EXCEEDED.",
            _only_internal,
        ),
        Mistake("You notice that the model is dead, but do not repair it: unload it, then load it.", _notices_only),
        Mistake("You return True for a healthy model; return True only for a model that you repaired.", _other_way),
    ),
)

ANSWERS = (KEEP_ALIVE_ANSWER,)
