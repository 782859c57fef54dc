"""Lab 04 in the real server: mistakes are recognised, cheats fail, honest solutions pass, and no process is left over."""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from labkit.answers.lab04 import failure as answers_failure
from labkit.answers.lab04 import streaming as answers_streaming
from labkit.answers.lab04.config import stage_config
from labkit.answers.lab04.ensemble import ensemble_maps
from labkit.answers.lab04.streaming import stream_text
from labkit.errors import InvalidRequest
from labkit.exercises.lab04 import EXERCISES, config, ensemble, failure, on_server, prompts, streaming, texts_back, together
from labkit.exercises.lab04.config import STAGE_CONFIG
from labkit.exercises.lab04.ensemble import ENSEMBLE_MAPS
from labkit.exercises.lab04.failure import KEEP_ALIVE
from labkit.exercises.lab04.function_file import as_module
from labkit.exercises.lab04.prompts import PAD_PROMPTS, WORD_LISTS
from labkit.exercises.lab04.streaming import STREAM_TEXT
from labkit.exercises.lab04.texts_back import POSTPROCESS
from labkit.exercises.lab04.together import ANSWER_TOGETHER
from labkit.exercises.stubs import own_stages
from labkit.grading import machine_needs
from labkit.grading.call import run_seeds
from labkit.grading.check import check_quietly
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import judge
from labkit.grading.notebook_check import check_submission
from labkit.grading.submission import read_submission
from labkit.grading.verdict import FAILED, INCONCLUSIVE, NOT_ATTEMPTED, NOT_MEASURED, PASSED, Verdict
from labkit.grading.workers import Workers
from labkit.serving.python_backend.word_lists import to_word_lists
from labkit.serving.server.install import find_server
from labkit.time_limits import listening
from tests.busy_core import COUNTED, PINNED, busy_core, no_other_programs
from tests.exercises.learners import as_learners, solved_cells
from tests.patience import PATIENCE, first_good, is_running
from tests.sampled import one_in
from tests.sandboxes import sandbox_or_skip

ROOT = Path(__file__).parents[2]
BY_FUNCTION = {exercise.function: exercise for exercise in EXERCISES}
ON_PAPER = (config, prompts, texts_back, ensemble, together, failure, streaming)
PLANTED = [
    (e.function, number) for e in EXERCISES if e.requires and e != STREAM_TEXT for number in range(len(answer_to(e).mistakes))
]
"""Mistakes that other tests check without a server. Mistakes in streaming clients are not included, because these clients
always use the server.
"""
with_server = pytest.mark.skipif(find_server() is None, reason="not measured here: no tritonserver")


@pytest.fixture(scope="module", autouse=True)
def one_server() -> Iterator[None]:
    yield
    on_server.stop_server()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other program count as busy, so that a time limit in an exercise never gives an inconclusive verdict."""
    no_other_programs(monkeypatch)


def verdict_on(exercise: Any, function: Callable[..., Any], seeds: tuple[int, ...] = (11,)) -> Verdict:
    return judge(answer_to(exercise), run_seeds(function, exercise, seeds))


# Planted mistakes in the server ------------------------------------------------------------------------------------------
def in_the_server(monkeypatch: pytest.MonkeyPatch, exercise: Any, function: Callable[..., Any]) -> Verdict:
    with monkeypatch.context() as patched:
        for module in ON_PAPER:
            patched.setattr(module, "is_own", lambda function: False)
        runs = run_seeds(function, exercise, (11,))
    return judge(answer_to(exercise), runs)


@with_server
@pytest.mark.parametrize("name", [e.function for e in EXERCISES if e.requires])
def test_references_pass_in_the_server(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    verdict = in_the_server(monkeypatch, BY_FUNCTION[name], answer_to(BY_FUNCTION[name]).reference)
    assert verdict.verdict == PASSED, str(verdict)


@with_server
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("name", "number"), one_in(8, PLANTED))
def test_the_server_and_the_paper_agree_on_mistakes(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    mistake = answer_to(BY_FUNCTION[name]).mistakes[number]
    verdict = first_good(
        lambda: in_the_server(monkeypatch, BY_FUNCTION[name], mistake.implementation),
        lambda found: found.message == mistake.message,
    )
    assert verdict.verdict == FAILED
    if name != "answer_together":  # the server may batch simultaneous requests differently than the test without a server
        assert verdict.message == mistake.message


# Without labkit's own stages ------------------------------------------------------------------------------------------
@with_server
@pytest.mark.long
def test_a_repaired_model_answers_in_the_sandbox_too() -> None:
    """The sandbox hides labkit's own functions, so the model that the check serves needs replacements for them."""
    submission = read_submission(ROOT / "solutions/04_triton_deployment.ipynb")
    with Workers(sandbox=sandbox_or_skip()) as workers:
        verdict = check_submission(KEEP_ALIVE, submission, workers)
    assert verdict.verdict == PASSED, str(verdict)


IN_A_COURSE_COPY = """
import json, sys
sys.modules["labkit.exercises.stubs.own_stages"] = None  # importing it fails, as in a course copy
scope = {}
exec(sys.argv[1], scope)
from labkit.exercises.lab04.ensemble import ENSEMBLE_MAPS
from labkit.grading.call import run_seeds
runs = run_seeds(scope["ensemble_maps"], ENSEMBLE_MAPS, (11,))
print(json.dumps([[outcome.value, outcome.error] for outcome in runs[11]]))
"""


@with_server
@pytest.mark.long
def test_the_served_models_replace_the_stages_of_an_ensemble() -> None:
    (cell,) = [cell for cell in solved_cells("04") if "def ensemble_maps" in cell]
    command = [sys.executable, "-c", IN_A_COURSE_COPY, cell]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == [[right, ""] for right in answer_to(ENSEMBLE_MAPS).expected(11)]


# Cheats ---------------------------------------------------------------------------------------------------------------
def ids_of_the_first_case(texts: list[str], encode: Any, pad: int) -> Any:
    return np.array([[5, 6, 7]] * len(texts), np.uint32), np.array([[3]] * len(texts), np.uint32)


def config_without_a_batch(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    text = stage_config(name, inputs, outputs, max_batch_size, count)
    return text.replace(f"max_batch_size: {max_batch_size}", "max_batch_size: 0")


def ensemble_past_preprocessing() -> Any:
    maps = dict(ensemble_maps())
    del maps["preprocessing"]
    return maps


def ensemble_of_nothing() -> Any:
    return {"postprocessing": ({"TOKENS_BATCH": "INPUT_0"}, {"OUTPUT": "OUTPUT_0"})}


def client_that_collects(client: Any, model: str, inputs: Any) -> Any:
    pieces = []
    for piece in stream_text(client, model, inputs):
        pieces.append(piece)
    yield from pieces


def client_left_open_after_an_error(client: Any, model: str, inputs: Any) -> Any:
    stop = client.stop_stream
    client.stop_stream = lambda **more: None
    try:
        yield from stream_text(client, model, inputs)
    except GeneratorExit:
        stop(cancel_requests=True)
        raise
    else:
        stop(cancel_requests=True)


def client_that_reads_one_behind(client: Any, model: str, inputs: Any) -> Any:
    held = None
    for piece in stream_text(client, model, inputs):
        if held is not None:
            yield held
        held = piece
    yield held


def batch_that_is_none(requests: Any, generate: Any) -> Any:
    generate([job for request in requests for job in request])
    return [[generate([job])[0] for job in request] for request in requests]


def words_without_encode(words: Any, encode: Any) -> Any:
    return to_word_lists([[1]] * len(words))[None].repeat(len(words), 0)


def texts_of_nothing(token_ids: Any, lengths: Any, decode: Any) -> Any:
    return [[""] * token_ids.shape[1] for _ in token_ids]


def always_repaired(client: Any, model: str, inputs: Any) -> bool:
    return True


def padded_with_zeros(texts: list[str], encode: Any, pad: int) -> Any:
    return own_stages.pad_prompts(texts, encode, 0)


def padded_to_nothing(texts: list[str], encode: Any, pad: int) -> Any:
    rows = [encode(text) for text in texts]
    longest = max(map(len, rows))
    ids = np.array([row + [pad] * (longest - len(row)) for row in rows], np.uint32).reshape(len(rows), longest)
    return ids, np.array([[len(row)] for row in rows], np.uint32)


def patient_for(seconds: float) -> Callable[..., Any]:
    def keep_alive(client: Any, model: str, inputs: Any) -> bool:
        class Same:
            def infer(self, model: str, inputs: Any, client_timeout: float) -> Any:
                return client.infer(model, inputs, client_timeout=seconds)

            def __getattr__(self, name: str) -> Any:
                return getattr(client, name)

        return answers_failure.keep_alive(Same(), model, inputs)

    return keep_alive


CHEATS: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (PAD_PROMPTS, ids_of_the_first_case),
    (STAGE_CONFIG, config_without_a_batch),
    (ENSEMBLE_MAPS, ensemble_past_preprocessing),
    (ENSEMBLE_MAPS, ensemble_of_nothing),
    (STREAM_TEXT, client_left_open_after_an_error),
    (STREAM_TEXT, client_that_collects),
    (STREAM_TEXT, client_that_reads_one_behind),
    (ANSWER_TOGETHER, batch_that_is_none),
    (WORD_LISTS, words_without_encode),
    (POSTPROCESS, texts_of_nothing),
    (KEEP_ALIVE, always_repaired),
    (PAD_PROMPTS, padded_with_zeros),
    (PAD_PROMPTS, padded_to_nothing),
    (KEEP_ALIVE, patient_for(30.0)),
    (KEEP_ALIVE, patient_for(0.001)),
)


@with_server
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(("exercise", "function"), one_in(6, CHEATS), ids=[function.__name__ for _, function in CHEATS])
def test_cheats_fail(exercise: Any, function: Callable[..., Any]) -> None:
    verdict = verdict_on(exercise, function)
    assert verdict.verdict == FAILED
    assert verdict.message


@with_server
@pytest.mark.long
def test_a_model_that_ends_its_process_or_hangs_is_said_and_the_next_one_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    def deadly(texts: Any, encode: Any, pad: int) -> Any:
        import os

        os._exit(3)

    def endless(texts: Any, encode: Any, pad: int) -> Any:
        while True:
            pass

    with monkeypatch.context() as patched:
        patched.setattr(on_server.LabServer.ask, "__defaults__", (None, 3.0))
        no_other_programs(patched)
        assert "process ended" in verdict_on(PAD_PROMPTS, deadly).message
        assert "did not answer within" in verdict_on(PAD_PROMPTS, endless).message
    assert verdict_on(PAD_PROMPTS, padded_by_hand).verdict == PASSED


@PINNED
@COUNTED
@with_server
@pytest.mark.long
def test_a_model_that_other_programs_keep_waiting_is_inconclusive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's process shares a core with other programs."""

    def computes(texts: Any, encode: Any, pad: int) -> Any:
        import os

        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        while True:
            pass

    assert verdict_on(PAD_PROMPTS, padded_by_hand).verdict == PASSED  # The server and its models are ready.
    with busy_core(), busy_core(), monkeypatch.context() as patched:
        patched.setattr(on_server.LabServer.ask, "__defaults__", (None, 3.0))
        verdict = verdict_on(PAD_PROMPTS, computes)
    assert verdict.verdict == INCONCLUSIVE
    assert "did not answer within 3 seconds" in verdict.message


@with_server
@pytest.mark.parametrize(
    ("mistake", "number", "limit"),
    [
        ("_collected", 0, "the reader did not read a piece in time"),
        pytest.param("_not_cancelled", 3, "the reader did not read a piece in time", marks=pytest.mark.long),
        pytest.param("_no_final", 0, "the next piece did not come within 6 seconds", marks=pytest.mark.long),
    ],
)
def test_each_limit_that_passes_in_a_stream_is_reported(
    mistake: str, number: int, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "is_own", lambda function: False)
    limits: list[str] = []
    with listening(limits.append), suppress(TimeoutError):
        streaming.run_stream(getattr(answers_streaming, mistake), STREAM_TEXT.cases(11)[number])
    assert any(said.startswith(limit) for said in limits)


# Honest ways ------------------------------------------------------------------------------------------------------------
def longest_of(rows: list[list[int]]) -> int:
    return max([1, *(len(row) for row in rows)])


def padded_by_hand(texts: list[str], encode: Any, pad: int) -> Any:
    rows = [encode(text) for text in texts]
    width = longest_of(rows)
    ids = [row + [pad] * (width - len(row)) for row in rows]
    return np.array(ids, dtype="uint32"), np.array([len(row) for row in rows], dtype=np.uint32).reshape(-1, 1)


def config_in_lists(name: str, inputs: Any, outputs: Any, max_batch_size: int, count: int) -> str:
    def block(tensor: str, data_type: str, shape: Any) -> str:
        return f'{{\n  name: "{tensor}"\n  data_type: TYPE_{data_type}\n  dims: {list(shape[1:])}\n}}'

    both = {"input": inputs, "output": outputs}
    parts = [f"{kind} [\n" + ",\n".join(block(*one) for one in tensors) + "\n]" for kind, tensors in both.items()]
    group = f"instance_group [ {{ kind: KIND_CPU, count: {count} }} ]"
    return f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n' + "\n".join([*parts, group])


def maps_with_other_names() -> Any:
    def renamed(wires: dict[str, str]) -> dict[str, str]:
        return {key: f"wire of {wire[1:]}" if wire.startswith("_") else wire for key, wire in wires.items()}

    return {name: [renamed(one), renamed(other)] for name, (one, other) in reversed(ensemble_maps().items())}


def client_as_a_class(client: Any, model: str, inputs: Any) -> Any:
    class Pieces:
        def __init__(self) -> None:
            self.answers: Any = queue.Queue()
            self.final = False
            client.start_stream(self.take)
            client.async_stream_infer(model, inputs, enable_empty_final_response=True)

        def take(self, result: Any, error: Any) -> None:
            self.answers.put(error or result)

        def __iter__(self) -> Any:
            return self

        def __next__(self) -> str:
            answer = None if self.final else self.answers.get()
            if isinstance(answer, Exception):
                self.close()
                raise answer
            self.final = answer is None or answer.get_response().parameters["triton_final_response"].bool_param
            text = None if answer is None else answer.as_numpy("text_output")
            if text is None:
                self.close()
                assert self.final
                raise StopIteration
            return str(text.item().decode())

        def close(self) -> None:
            client.stop_stream(cancel_requests=True)

    return Pieces()


def together_by_counting(requests: Any, generate: Any) -> Any:
    texts = list(generate(list(itertools.chain.from_iterable(requests))))
    ends = list(itertools.accumulate(map(len, requests)))
    return [texts[end - len(request) : end] for request, end in zip(requests, ends, strict=True)]


HONEST: tuple[tuple[Any, Callable[..., Any]], ...] = (
    (PAD_PROMPTS, padded_by_hand),
    (STAGE_CONFIG, config_in_lists),
    (ENSEMBLE_MAPS, maps_with_other_names),
    (STREAM_TEXT, client_as_a_class),
    (ANSWER_TOGETHER, together_by_counting),
)


@with_server
@pytest.mark.parametrize(("exercise", "function"), one_in(4, HONEST), ids=[function.__name__ for _, function in HONEST])
def test_honest_ways_pass(exercise: Any, function: Callable[..., Any]) -> None:
    verdict = verdict_on(exercise, function, (11, 23))
    assert verdict.verdict == PASSED, str(verdict)


@with_server
def test_a_stub_in_a_models_process_is_named() -> None:
    def pad_prompts(texts: Any, encode: Any, pad: int) -> Any:
        raise NotImplementedError("pad_prompts")

    assert verdict_on(PAD_PROMPTS, pad_prompts).verdict == NOT_ATTEMPTED


# Without a server, and afterwards ---------------------------------------------------------------------------------------
def test_without_a_server_it_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(machine_needs.NEEDS, "triton_server", (machine_needs.NEEDS["triton_server"][0], lambda machine: False))
    for exercise in EXERCISES:
        verdict = check_quietly(exercise, as_learners(answer_to(exercise).reference))
        assert verdict.verdict == (NOT_MEASURED if exercise.requires else PASSED)
        assert "labkit serve --install" in verdict.message or not exercise.requires


@with_server
def test_the_server_and_its_models_end() -> None:
    server = on_server.lab_server()
    verdict_on(POSTPROCESS, texts_of_nothing)
    pids = [process.pid for process in psutil.Process(server.server.process.pid).children(recursive=True)]
    assert pids
    folder = server.folder
    on_server.stop_server()
    assert not [pid for pid in pids if is_running(pid)]
    assert not folder.exists()


def test_a_function_is_shipped_with_what_it_uses() -> None:
    text = as_module(padded_by_hand, "padded_by_hand")
    assert "import numpy as np" in text or "from tests" in text
    thing = object()

    def uses_a_thing(texts: Any) -> Any:
        return thing

    with pytest.raises(InvalidRequest, match=r"uses thing \(a object\), which stays"):
        as_module(uses_a_thing, "uses_a_thing")


def client_whose_callback_crashes(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def take(result: Any, error: Any) -> None:
        answers.put(result.as_text("text_output"))

    client.start_stream(take)
    client.async_stream_infer(model, inputs, enable_empty_final_response=True)
    while text := answers.get():
        yield text


def client_with_other_names(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda r, e: answers.put((r, e)))
    client.async_stream_infer(model, inputs, enable_empty_final_response=True)
    yield answers.get()


@with_server
@pytest.mark.long
def test_a_callback_that_crashes_is_what_the_verdict_says_first(capfd: pytest.CaptureFixture[str]) -> None:
    said = verdict_on(STREAM_TEXT, client_whose_callback_crashes).message
    assert said.startswith('Your callback crashed in your line `answers.put(result.as_text("text_output"))`: AttributeError: ')
    said = verdict_on(STREAM_TEXT, client_with_other_names).message
    assert said.startswith("Your callback crashed: TypeError: ")
    assert "callback(result=..., error=...)" in said
    assert not said.endswith("..")
    assert "Traceback" not in capfd.readouterr().err  # the client's thread does not print a traceback either


def client_that_collects_a_list(client: Any, model: str, inputs: Any) -> Any:
    return list(stream_text(client, model, inputs))


def client_that_ignores_errors(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put(result))
    client.async_stream_infer(model, inputs, enable_empty_final_response=True)
    try:
        while True:
            result = answers.get()
            text = result.as_numpy("text_output")
            if text is not None:
                yield text[0].decode()
            if result.get_response().parameters["triton_final_response"].bool_param:
                return
    finally:
        client.stop_stream(cancel_requests=True)


@with_server
def test_an_answer_that_says_it_all_is_judged_after_one_case() -> None:
    for client, said in (
        (
            client_that_collects_a_list,
            "You return a list, so the reader gets nothing before the end: use yield for each piece.",
        ),
        (client_with_other_names, "Your callback crashed: TypeError: "),
    ):
        runs = run_seeds(client, STREAM_TEXT, (11, 23))
        assert [len(outcomes) for outcomes in runs.values()] == [1]
        verdict = judge(answer_to(STREAM_TEXT), runs)
        assert verdict.message.startswith(said)
        assert "got" not in verdict.details


@with_server
def test_an_error_that_is_ignored_is_named() -> None:
    said = verdict_on(STREAM_TEXT, client_that_ignores_errors).message
    assert "when an error arrives, `result` is None: look at `error` first" in said


@with_server
def test_what_was_false_is_named() -> None:
    verdict = verdict_on(STREAM_TEXT, answers_streaming._left_open)
    assert "the stream is stopped: got False" in verdict.details


def client_that_puts_nothing(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: error and answers.put(error))
    client.async_stream_infer(model, inputs, enable_empty_final_response=True)
    yield answers.get()


def client_that_asks_for_no_last_response(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put(result))
    client.async_stream_infer(model, inputs)
    while True:
        yield answers.get().as_numpy("text_output")[0].decode()


def client_that_asks_for_nothing(client: Any, model: str, inputs: Any) -> Any:
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    yield answers.get()


def client_that_yields_bytes_and_never_cancels(client: Any, model: str, inputs: Any) -> Any:
    stop = client.stop_stream
    client.stop_stream = lambda cancel_requests=False: stop(cancel_requests=False)
    for piece in stream_text(client, model, inputs):
        yield piece.encode()


@with_server
@pytest.mark.long
def test_a_client_that_waits_is_told_what_it_waits_for() -> None:
    option = "enable_empty_final_response"
    said = verdict_on(STREAM_TEXT, client_that_puts_nothing).message
    assert "after 0 pieces it still waits, although its callback got all 4 responses" in said
    assert said.endswith("is marked as the last?")
    assert option not in said
    said = verdict_on(STREAM_TEXT, client_that_asks_for_nothing).message
    assert "after 0 pieces it still waits, because it has sent no request" in said
    assert option not in said
    (blamed,) = (mistake for mistake in answer_to(STREAM_TEXT).mistakes if option in mistake.message)
    assert verdict_on(STREAM_TEXT, client_that_asks_for_no_last_response).message == blamed.message


@with_server
@pytest.mark.long
def test_bytes_are_named_next_to_another_mistake() -> None:
    said = verdict_on(STREAM_TEXT, client_that_yields_bytes_and_never_cancels).message
    assert said.startswith("Your pieces are bytes, such as b' ")
    assert ".decode() turns bytes into a str" in said
