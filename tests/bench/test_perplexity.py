"""Tests of the perplexity benchmark.

Its scores must equal the scores of `labkit evaluate`, differences must have the right sign, and runs that are skipped must be
named.
"""

from __future__ import annotations

import json
import math
import sys

import pytest
import torch
from torch import Tensor

import labkit
from labkit import native
from labkit.checkpoints import open_checkpoint
from labkit.engine import Engine, evaluate
from labkit.engine.text_windows import text_windows
from labkit.measure import Record
from tests.benchmarks import perplexity


@pytest.fixture(scope="module")
def text() -> str:
    return perplexity.TEXT.read_text("utf-8")[:3000]  # more than one window of 512 tokens


@pytest.fixture(scope="module")
def engine() -> Engine:
    return labkit.load("gptj-tiny", device="cpu")


@pytest.mark.parametrize("size", [2, 3, 8, 43, 100])
def test_every_token_is_predicted_once_from_half_a_window_at_least(size: int) -> None:
    ids = list(range(2, 45))
    parts = text_windows(ids, size)
    assert [token for part in parts for token in part.targets] == ids[1:]
    for part in parts:
        assert [token + 1 for token in part.seen[part.first :]] == part.targets
        assert part.first == min(size - size // 2, part.targets[0] - 3)
        assert len(part.seen) <= size


@pytest.mark.parametrize("size", [7, 64, 512])
def test_the_windows_are_those_of_evaluate(size: int, engine: Engine, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    def note(ids: list[int]) -> Tensor:
        seen.append(ids)
        return torch.zeros(len(ids), engine.config.vocab_size)

    monkeypatch.setattr(engine, "logits", note)
    evaluate(engine, text, window=size)
    assert engine.tokenizer is not None
    assert [part.seen for part in text_windows(engine.tokenizer.encode(text), size)] == seen


def test_fp32_scores_as_evaluate_does_and_hugging_face_alike(engine: Engine, text: str) -> None:
    (ours, peer), facts = perplexity.measure(open_checkpoint("gptj-tiny"), text, ["hf", "labkit"], ["fp32"])
    expected = evaluate(engine, text)
    assert (ours["engine"], peer["engine"]) == ("labkit", "hf")
    assert facts["tokens"] == expected.tokens
    assert ours["bits_per_byte"] == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert ours["perplexity"] == pytest.approx(expected.perplexity, rel=1e-6)
    assert peer["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    assert ours["over_own_fp32"]["percent"] == 0
    assert ours["bits"] == peer["bits"] == ours["block_bits"] == 32
    assert abs(peer["over_labkit_fp32"]["percent"]) < 1e-3


def test_int4_says_what_it_stores_and_what_it_costs(text: str) -> None:
    (exact, int4), _ = perplexity.measure(open_checkpoint("gptj-tiny"), text, ["labkit"], ["int4", "fp32"])
    assert exact["precision"] == "fp32"
    if native.available():  # torch's own kernels keep scales in other dtypes
        assert int4["block_bits"] == 4.5
        assert 7 < int4["bits"] < 8  # the head is int8 and the embedding bfloat16
    more = int4["over_own_fp32"]
    assert more["percent"] == pytest.approx(100 * (int4["perplexity"] / exact["perplexity"] - 1), rel=1e-6)
    assert abs(more["percent"]) < 4


def test_a_difference_has_its_sign_and_an_interval_around_it() -> None:
    counts, reference = torch.full((40,), 10), torch.full((40,), 30.0, dtype=torch.float64)
    noise = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = perplexity.excess(reference + 0.2 + 0.1 * noise, reference, counts)
    assert found["percent"] == pytest.approx(100 * math.expm1(0.02 + 0.01 * float(noise.mean())))
    assert 0 < found["interval"][0] < found["percent"] < found["interval"][1] < 4
    assert perplexity.excess(reference, reference + 1, counts)["percent"] < 0


def test_what_is_not_run_is_named_with_the_reason(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    told: list[str] = []
    checkpoint = open_checkpoint("gptj-tiny")
    rows, facts = perplexity.measure(checkpoint, text[:400], ["labkit", "ctranslate2", "hf"], ["int8"], told.append)
    assert [row["engine"] for row in rows] == ["labkit"]
    assert rows[0]["over_own_fp32"] is None
    why = {row["engine"]: row["why"] for row in facts["not_measured"]}
    assert why["ctranslate2"].startswith("not measured here: peer ctranslate2 needs the package ctranslate2")
    assert why["hf"] == "not measured here: hf runs fp32, bf16, fp16 on cpu, not int8"
    assert all(any(reason in line for line in told) for reason in why.values())
    record = Record("perplexity", {}, rows, extra=facts)
    assert json.loads(json.dumps(record.to_dict()))["extra"]["not_measured"] == facts["not_measured"]
