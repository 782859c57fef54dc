"""Lab 04's rungs of the speed ladder: the engine does lab 01's task with and without a server, and generates the same tokens
both times.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import labkit
from labkit.errors import NotAvailable
from labkit.exercises.lab04 import served
from labkit.exercises.lab04.deployment import Deployment
from labkit.exercises.lab04.served import ENGINE, SERVED, STREAMED, TASK, what_serving_costs
from labkit.measure import Ladder, Task
from labkit.measure.ladder_file import read_ladder_file
from labkit.serving.server.install import find_server

LAB_01 = Path(__file__).parents[2] / "solutions" / "01_huggingface_baseline.py"


class FakeClient:
    """A client that calls an engine in place of a server. Its answers are the engine's tokens, followed by the tokens in
    `wrong`.
    """

    wrong: tuple[int, ...] = ()
    asked: list[tuple[list[int], dict[str, Any]]] = []  # noqa: RUF012 - shared on purpose, and new in each test

    def __init__(self, address: str) -> None:
        self.engine = labkit.load(TASK.model, dtype="fp32")

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()

    def generate(self, prompt: list[int], **params: Any) -> Any:
        self.asked.append((prompt, params))
        made = self.engine.generate([prompt], labkit.SamplingParams(**params))[0]
        return SimpleNamespace(token_ids=[*made.token_ids, *self.wrong])

    def stream(self, prompt: list[int], **params: Any) -> Iterator[Any]:
        for token in self.generate(prompt, **params).token_ids:
            yield SimpleNamespace(token_ids=[token])


@pytest.fixture
def deployment(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(served, "Client", FakeClient)
    monkeypatch.setattr(served, "LEAST_ROUNDS", 3)
    monkeypatch.setattr(FakeClient, "asked", [])
    return SimpleNamespace(grpc="127.0.0.1:1")


def test_the_task_is_that_of_lab_01() -> None:
    tree = ast.parse(LAB_01.read_text("utf-8"))
    (made,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "one_user"
    ]
    assert eval(ast.unparse(made), {"measure": SimpleNamespace(Task=Task)}) == TASK


def test_every_rung_does_the_whole_task_and_the_ladder_and_its_file_have_them(deployment: Any, tmp_path: Path) -> None:
    times = what_serving_costs(deployment, seconds=0.01)
    assert list(times) == [ENGINE, SERVED, STREAMED]
    assert {timing.runs for timing in times.values()} == {3}  # the engine and the server took turns
    assert {len(prompt) for prompt, _ in FakeClient.asked} == {TASK.prompt_tokens}
    first, *timed = [prompt[0] for prompt, _ in FakeClient.asked][1:]
    assert len(set(timed)) == len(timed) > 0, "the engine reuses the beginning of a prompt that it knows"
    assert first not in timed
    assert all(params == {"max_new_tokens": TASK.new_tokens, "ignore_eos": True} for _, params in FakeClient.asked)
    ladder = Ladder(tmp_path / "ladder.json")
    ladder.add(TASK, "Hugging Face", 1.0)
    ladder.add_timings(TASK, times)
    ladder.add(TASK, "lab 05: int4 weights", 10.0)  # rungs of later labs have names of their own
    names = ["Hugging Face", ENGINE, SERVED, STREAMED, "lab 05: int4 weights"]
    assert [rung.name for rung in ladder.of(TASK)] == names
    assert ladder.of(TASK)[2].tokens_per_second == pytest.approx(TASK.new_tokens / times[SERVED].median)
    assert all(name in ladder.text() for name in names)
    shared = read_ladder_file(ladder.export(tmp_path / "ada.ladder.json", "ada"))
    assert [(one.rung.name, one.rung.task) for one in shared.rungs] == [(name, TASK) for name in names]


def test_a_server_that_makes_other_tokens_is_no_rung(deployment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeClient, "wrong", (1,))
    with pytest.raises(NotAvailable, match=r"'lab 04: served' has not made the same 64 tokens as the rung 'lab 04: engine'"):
        what_serving_costs(deployment, seconds=0.01)


@pytest.mark.long
@pytest.mark.skipif(find_server() is None, reason="not measured here: no tritonserver")
def test_the_real_server_makes_the_same_tokens() -> None:
    """`what_serving_costs` itself compares the tokens."""
    deployment = Deployment()
    try:
        deployment.load_engine()
        times = what_serving_costs(deployment, seconds=0.01)
    finally:
        deployment.client.close()
        deployment.stop()
    assert {timing.runs for timing in times.values()} == {served.LEAST_ROUNDS}
    assert all(timing.median > 0 for timing in times.values())
