"""Exported parts on a real server: the ensemble answers like the engine, and a bad request gets a one-sentence error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxscript", reason="not measured here: labkit's extra 'graphs' is not installed")
pytest.importorskip("onnxruntime", reason="not measured here: labkit's extra 'graphs' is not installed")

from labkit.engine import Engine, SamplingParams, load
from labkit.errors import NotAvailable
from labkit.graphs.export import export
from labkit.serving.client.graph_client import GraphClient
from labkit.serving.repository.graph_models import GraphServing, write_graph_repository
from labkit.serving.server.install import ServerProgram
from labkit.serving.server.server import Server
from labkit.serving.stress.pipelining import measure_alone, measure_in_turn
from tests.models import random_peer, random_prompts
from tests.refusals import refused

SHAPE = (96, 2, 3, 6, 61, 211)
"""hidden_size, num_layers, num_heads, rotary_dim, context_length, vocab_size."""
PARTS = ["gptj_graph_part_0", "gptj_graph_part_1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("graphs")


@pytest.fixture(scope="module")
def server(server_program: ServerProgram, folder: Path) -> Iterator[Server]:
    random_peer(SHAPE, seed=11).save_pretrained(folder / "model")
    exported = export(folder / "model", folder / "export", parts=2)
    write_graph_repository(folder / "repository", exported, GraphServing())
    with Server(folder / "repository", program=server_program) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[GraphClient]:
    with GraphClient(server.grpc) as connected:
        yield connected


@pytest.fixture(scope="module")
def engine(server: Server, folder: Path) -> Iterator[Engine]:
    with load(str(folder / "model"), dtype="fp32", device="cpu") as loaded:
        yield loaded


def test_greedy_tokens_are_the_engines(client: GraphClient, engine: Engine) -> None:
    for prompt in random_prompts(SHAPE[-1], [1, 9, 20], seed=2):
        params = SamplingParams(max_new_tokens=12, ignore_eos=True)
        (wanted,) = engine.generate([prompt], params)
        assert client.greedy(np.asarray([prompt]), 12)[0].tolist() == list(wanted.token_ids)


def test_a_batch_and_its_cache_come_back(client: GraphClient, engine: Engine) -> None:
    rows = np.asarray([[5, 6, 7, 8], [200, 2, 77, 1]])
    logits, past = client.forward(rows)
    for row, found in zip(rows, logits, strict=True):
        wanted = engine.logits(row.tolist())[-1].numpy()
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
    assert len(past) == 4
    assert {cached.shape for cached in past.values()} == {(2, 3, 4, 32)}
    assert client.forward(rows, cache=False)[1] == {}


def test_bad_requests_get_one_sentence_and_harm_no_one(client: GraphClient) -> None:
    with refused(["ids from 1 to 211", "0 to 210"]):
        client.forward(np.asarray([[1, 211]]))
    with refused(["ids from -1"]):
        client.forward(np.asarray([[-1]]))
    with refused(["exceed the context of 61"]):
        client.forward(np.ones((1, 62), np.int64))
    assert np.isfinite(client.forward(np.asarray([[1]]))[0]).all()


def test_an_unknown_model_is_named(server: Server) -> None:
    with pytest.raises(NotAvailable, match="does not serve nothing"):
        GraphClient(server.grpc, "nothing")


def test_load_on_the_parts_is_counted(server: Server) -> None:
    prompt = np.ones((1, 8), np.int64)
    alone = measure_alone(server.grpc, "gptj_graph", PARTS, prompt, requests=5)
    assert list(alone.computing) == PARTS
    assert all(0 < seconds < alone.latency for seconds in alone.computing.values())
    assert alone.predicted_rate(1) == pytest.approx(1 / alone.latency)
    assert alone.predicted_rate(100) == pytest.approx(1 / max(alone.computing.values()))
    found = measure_in_turn(server.grpc, ["gptj_graph"], prompt, users=2, seconds=0.5, rounds=2)
    assert [one.users for one in found["gptj_graph"]] == [2, 2]
    assert all(one.requests > 0 for one in found["gptj_graph"])
