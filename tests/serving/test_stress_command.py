"""`labkit stress` as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from labkit.serving.server import Server
from labkit.serving.stress import StressRecord
from tests.cli.test_commands import many


def test_wrong_use_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc")
    somewhere = "127.0.0.1:1"
    cases = [
        (["stress", somewhere], 2, "give either --users (closed loop) or --rate (open loop)"),
        (["load", somewhere], 2, "give either --users"),  # the command's old name
        (["stress", somewhere, "--users", "1", "--rate", "1"], 2, "give either --users"),
        (["stress", somewhere, "--users", "1.5"], 2, "--users is '1.5'; the value must be whole numbers separated by commas"),
        (["stress", somewhere, "--rate", "much"], 2, "--rate is 'much'; the value must be numbers separated by commas"),
        (["stress", somewhere, "--users", "0"], 2, "users is 0; 1 or more is accepted"),
        (["stress", somewhere, "--users", "1", "--new-tokens", "9-1"], 2, "lengths from 9 to 1"),
        (["stress", somewhere, "--users", "1", "--lengths", "odd"], 2, "the shape of lengths is 'odd'"),
        (["stress", somewhere, "--users", "1"], 1, "127.0.0.1:1 does not describe its model gptj"),
    ]
    for (command, status, words), done in zip(cases, many(tmp_path, *(command for command, _, _ in cases)), strict=True):
        assert (done.status, done.out) == (status, ""), command
        assert done.errors.startswith(f"labkit: {words}"), command


def test_a_sweep_is_printed_saved_and_drawn(gptj_server: Server, tmp_path: Path) -> None:
    saved, drawn = tmp_path / "stress.json", tmp_path / "stress.png"
    command = ["stress", gptj_server.grpc, "--users", "1,3", "--seconds", "1", "--warmup", "0.2", "--new-tokens", "4-8"]
    (done,) = many(tmp_path, [*command, "--save", str(saved), "--plot", str(drawn), "--json"])
    assert done.status == 0, done.errors
    assert "1 user " in done.out
    assert "3 users" in done.out
    values = json.loads(done.out.splitlines()[-1])
    assert [row["users"] for row in values["rows"]] == [1, 3]
    assert values["settings"]["served"] == "gptj-tiny"
    record = StressRecord.load(saved)
    assert [len(record.requests(row)) > 0 for row in (0, 1)] == [True, True]
    assert drawn.read_bytes().startswith(b"\x89PNG")
