"""Text arrives in whole characters and stops where it should, and the reason why the text ended is reported."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.engine.text_stream import TextStream
from tests.models import FunctionForward


@pytest.fixture(scope="module")
def engine() -> Engine:
    return labkit.load("gptj-tiny", device="cpu")


def pieces(text: str, seed: int) -> Iterator[bytes]:
    raw, draw, at = text.encode(), random.Random(seed), 0
    while at < len(raw):
        step = draw.randint(1, 4)
        yield raw[at : at + step]
        at += step


@pytest.mark.parametrize("seed", range(5))
def test_characters_are_never_cut(seed: int) -> None:
    text = "naïve — 日本語, 🐋 whale, Ωmega" * 3
    stream = TextStream()
    parts = [stream.push(piece) for piece in pieces(text, seed)]
    parts.append(stream.push(b"", last=True))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


@pytest.mark.parametrize("seed", range(8))
def test_stop_string_across_tokens_is_never_shown(seed: int) -> None:
    stream = TextStream(("</end>", "<stop"))
    shown = "".join(stream.push(piece) for piece in pieces("a <b </en </end> behind", seed))
    assert shown == "a <b </en "
    assert stream.stopped_by == "</end>"
    assert stream.push(b"more", last=True) == ""


def test_the_stop_complete_first_wins_and_a_false_start_is_shown() -> None:
    stream = TextStream(("xyz", "y"))
    assert stream.push(b"abxyz") == "abx"
    assert stream.stopped_by == "y"
    stream = TextStream(("xyz",))
    assert [stream.push(b"ax"), stream.push(b"y"), stream.push(b"!", last=True)] == ["a", "", "xy!"]


END = "<|endoftext|>"


@pytest.mark.parametrize(
    ("stop", "pieces", "shown", "by"),
    [
        ((END,), [b"a", END, b"b"], "a", END),
        ((END,), [b"a<|end", b"oftext|>b"], "a", END),
        (("a" + END + "b",), [b"xa", END, b"b"], "x", "a" + END + "b"),
        (("a" + END + "b",), [b"xa", END, b"c"], "xac", None),
        (("ab", END + "c"), [b"a", END, b"b", END, b"c"], "", "ab"),
        (("abc", END + "b"), [b"a", END, b"bc"], "a", END + "b"),
        ((END + END,), [END, b"a", END, END], "a", END + END),
        (("b",), [b"a", END, b"b"], "a", "b"),
    ],
)
def test_special_tokens_are_no_text_but_a_stop_string_can_name_them(
    stop: tuple[str, ...], pieces: list[bytes | str], shown: str, by: str | None
) -> None:
    one, all_at_once = TextStream(stop, (END,)), TextStream(stop, (END,))
    parts = [one.push(piece) for piece in pieces]
    parts.append(one.push(b"", last=True))
    assert ("".join(parts), one.stopped_by) == (shown, by)
    assert (all_at_once.push(*pieces, last=True), all_at_once.stopped_by) == (shown, by)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_special_token_that_a_stop_string_names_ends_the_text(engine: Engine, beams: int) -> None:
    """The model can write only two tokens: the end of text and `a`."""
    assert engine.tokenizer is not None
    end, (word,) = engine.config.eos_token_id, engine.tokenizer.encode("a")
    assert end is not None
    others = [[token] for token in range(engine.config.vocab_size) if token not in (end, word)]
    once = [*others, [end, end], [word, word]]  # no token may come twice in a row

    def written(stop: tuple[str, ...], **params: object) -> tuple[str, list[int], object]:
        given = {"max_new_tokens": 6, "ignore_eos": True, "bad_words": once, "num_beams": beams, **params}
        (output,) = engine.generate("In the", SamplingParams(stop=stop, **given))  # type: ignore[arg-type]
        return output.text, output.token_ids, output.completions[0].stop_reason

    text, tokens, _ = written(())
    assert (text, len(tokens)) == ("aaa", 6)
    around = "a" + END + "a"
    assert written((around,)) == ("", [word, end, word] if tokens[0] == word else [end, word, end, word], around)
    text, tokens, reason = written((END,))
    assert (text, tokens, reason) == ("a" * (len(tokens) - 1), [*[word] * (len(tokens) - 1), end], END)
    text, tokens, reason = written((END,), min_new_tokens=2)
    assert (len(tokens) in (3, 4), tokens[-1], reason) == (True, end, END)
    assert written((END,), ignore_eos=False)[2] == end


def test_stop_string_ends_the_text_just_before_it(engine: Engine) -> None:
    free = engine.generate("In the beginning", SamplingParams(max_new_tokens=30))[0]
    stop = free.text[20:24]
    (output,) = engine.generate("In the beginning", SamplingParams(max_new_tokens=30, stop=stop))
    assert output.text == free.text[: free.text.index(stop)]
    assert (output.finish_reason, output.completions[0].stop_reason) == ("stop", stop)
    assert output.token_ids == free.token_ids[: len(output.token_ids)]


def test_stop_token_ends_the_text_and_is_the_last_token(engine: Engine) -> None:
    free = engine.generate("In the beginning", SamplingParams(max_new_tokens=12))[0]
    token = free.token_ids[4]
    (output,) = engine.generate("In the beginning", SamplingParams(max_new_tokens=12, stop_token_ids=[token]))
    assert output.token_ids == free.token_ids[: free.token_ids.index(token) + 1]
    assert output.completions[0].stop_reason == token
    later = SamplingParams(max_new_tokens=12, stop_token_ids=[token], min_new_tokens=8)
    assert len(engine.generate("In the beginning", later)[0].token_ids) >= 8


def test_bad_word_as_text_is_not_written(engine: Engine) -> None:
    free = engine.generate("In the beginning", SamplingParams(max_new_tokens=20))[0]
    word = max(free.text.split(), key=free.text.split().count).strip(",.;")
    (output,) = engine.generate("In the beginning", SamplingParams(max_new_tokens=20, bad_words=[word]))
    assert f" {word} " in f"{free.text} "
    assert word not in output.text.replace(",", " ").split()


def test_streamed_text_is_the_generated_text(engine: Engine) -> None:
    params = SamplingParams(max_new_tokens=25, temperature=1.0, seed=3, stop=("the ",))
    events = list(engine.stream(["Call me", "It is"], params))
    outputs = engine.generate(["Call me", "It is"], params)
    for request, output in enumerate(outputs):
        mine = [event for event in events if event.request == request]
        assert "".join(event.text for event in mine) == output.text
        assert [event.token_id for event in mine] == output.token_ids
        assert [event.finish_reason for event in mine[:-1]] == [None] * (len(mine) - 1)
        assert mine[-1].finish_reason == output.finish_reason


def test_tokens_are_streamed_as_they_are_made(engine: Engine) -> None:
    calls = 0
    forward = engine._forward

    def counted(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return forward(*arguments)  # type: ignore[arg-type]

    engine._forward = FunctionForward(counted)
    try:
        stream = engine.stream("In the", SamplingParams(max_new_tokens=10))
        seen = [(next(stream), calls)[1] for _ in range(4)]
    finally:
        engine._forward = forward
    assert seen == [1, 2, 3, 4]
