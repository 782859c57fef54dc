"""Scoring counts every token once and agrees with transformers."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
import transformers

import labkit
from labkit.engine import Engine, compare, evaluate
from labkit.errors import InvalidRequest
from tests.models import engine_of, random_peer

TINY = Path(labkit.__file__).parent / "builtin" / "gptj-tiny"


@pytest.fixture(scope="module")
def engine() -> Engine:
    return labkit.load("gptj-tiny", device="cpu")


def test_short_text_scores_as_transformers_does(engine: Engine) -> None:
    text = "And the evening and the morning were the first day. Naïve whales, however, sleep."
    peer = transformers.AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        loss = float(peer(ids, labels=ids).loss)
    found = evaluate(engine, text)
    assert found.interval is None, "one window gives no interval"
    assert found.tokens == ids.shape[1] - 1
    assert found.perplexity == pytest.approx(math.exp(loss), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(loss * found.tokens / math.log(2) / len(text.encode()), rel=1e-4)


def test_windows_change_the_context_not_the_count(engine: Engine) -> None:
    text = (TINY / "held_out_sample.txt").read_text("utf-8")[:6000]
    wide, narrow = evaluate(engine, text), evaluate(engine, text, window=8)
    assert wide.tokens == narrow.tokens == len(engine.tokenizer.encode(text)) - 1  # type: ignore[union-attr]
    assert wide.bits_per_byte < narrow.bits_per_byte
    assert narrow.interval is not None
    assert narrow.interval[0] < narrow.bits_per_byte < narrow.interval[1]


def test_the_interval_holds_the_estimate_however_few_windows_there_are(engine: Engine) -> None:
    text = (TINY / "held_out_sample.txt").read_text("utf-8")
    for start in range(0, 900, 300):
        found = evaluate(engine, text[start : start + 60], window=16)
        assert found.interval is not None
        assert found.interval[0] < found.bits_per_byte < found.interval[1]


def test_a_tokenizer_that_was_saved_with_truncation_and_padding_scores_the_same(engine: Engine, tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "saved")
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer("In", truncation=True, max_length=8, padding="max_length")
    tokenizer.save_pretrained(tmp_path / "saved")
    saved = labkit.load(str(tmp_path / "saved"), device="cpu")
    text = "In the beginning God created the heaven and the earth, and the earth was without form."
    assert evaluate(saved, text) == evaluate(engine, text)
    assert saved.generate("In")[0].token_ids == engine.generate("In")[0].token_ids


def test_a_model_beside_its_reference(engine: Engine) -> None:
    """The results are compared with formulas written out here, for a model that is the reference with changed logits.

    The model's logits have a higher temperature, and one logit after the last token is replaced.
    """
    text = (TINY / "held_out_sample.txt").read_text("utf-8")[:3000]
    assert engine.tokenizer is not None
    ids = engine.tokenizer.encode(text)
    assert len(ids) - 1 > 512

    def changed(seen: list[int]) -> torch.Tensor:
        logits = engine.logits(seen) * 0.8
        logits[-1, (int(logits[-1].argmax()) + 1) % logits.shape[1]] = 1e3
        return logits

    found = compare(engine, changed, text, seed=3)
    alone = evaluate(engine, text, seed=3)
    assert found.bits_per_byte.value == alone.bits_per_byte
    assert (found.bits_per_byte.low, found.bits_per_byte.high) == alone.interval
    assert found.perplexity.value == pytest.approx(alone.perplexity)
    windows = -(-(len(ids) - 1) // 256)
    assert found.agreement.value == pytest.approx(1 - windows / found.tokens)
    warm = torch.log_softmax(changed(ids[:256]).double(), -1)
    ours = torch.log_softmax(engine.logits(ids[:256]).double(), -1)
    one = compare(engine, changed, engine.tokenizer.decode(ids[:257]))
    assert one.kl.value == pytest.approx(float((warm.exp() * (warm - ours)).sum(-1).mean()), rel=1e-6)
    nats = [-logs.gather(1, torch.tensor(ids[1:257])[:, None]).mean() for logs in (ours, warm)]
    assert one.change.value == pytest.approx(100 * math.expm1(float(nats[0] - nats[1])), rel=1e-6)
    assert one.kl.low is None
    for measure in (found.perplexity, found.change, found.kl, found.agreement):
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low < measure.value < measure.high
    assert compare(engine, changed, text, seed=3) == found != compare(engine, changed, text, seed=4)


def test_a_model_is_at_no_distance_from_itself(engine: Engine) -> None:
    text = (TINY / "held_out_sample.txt").read_text("utf-8")[:3000]
    found = compare(engine, engine.logits, text)
    assert (found.change.value, found.kl.value, found.agreement.value) == (0, 0, 1)
    with pytest.raises(InvalidRequest, match="vocabulary of 8192 and the reference one of 8000"):
        compare(engine, lambda seen: engine.logits(seen)[:, :8000], text)


def test_refusals(engine: Engine) -> None:
    with pytest.raises(InvalidRequest, match="0 tokens"):
        evaluate(engine, "")
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        evaluate(engine_of(random_peer("one head of 80", 1)), "text")
    for window in (0, 1, -1, "8", 8.5):
        with pytest.raises(InvalidRequest, match=f"window is {window!r}; a whole number of at least 2"):
            evaluate(engine, "some text", window=window)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"window is {window!r}"):
            compare(engine, engine.logits, "some text", window=window)  # type: ignore[arg-type]
    for seed in ("a", -1):
        with pytest.raises(InvalidRequest, match=f"seed is {seed!r}"):
            evaluate(engine, "some text", seed=seed)  # type: ignore[arg-type]
        with pytest.raises(InvalidRequest, match=f"seed is {seed!r}"):
            compare(engine, engine.logits, "some text", seed=seed)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="only special tokens after its first token"):
        evaluate(engine, 3 * "<|endoftext|>")


def test_windows_without_bytes_leave_finite_numbers(engine: Engine) -> None:
    found = evaluate(engine, "In the beginning" + 12 * "<|endoftext|>", window=4)
    assert found.interval is not None
    assert all(map(math.isfinite, found.interval))
