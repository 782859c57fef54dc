"""A bad word given as text never appears, however the text is cut into tokens.

A text that would not have contained the bad word stays the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit.engine import Engine, RequestOutput, SamplingParams
from labkit.engine.bad_text_automaton import BadTextAutomaton, TokenTexts
from labkit.engine.outputs import NO_TOKEN
from tests.refusals import refused

PROMPT = "In the beginning"
WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampled": {"temperature": 1.3, "seed": 7},
    "samples": {"temperature": 1.0, "seed": 1, "num_samples": 2},
    "beams": {"num_beams": 3, "num_samples": 3},
    "speculated": {"speculate": 4, "repetition_penalty": 0.8},
    "speculated and sampled": {"speculate": 3, "temperature": 0.4, "seed": 2},
}


@pytest.fixture(scope="module")
def engine() -> Engine:
    return labkit.load("gptj-tiny", device="cpu")


def made(engine: Engine, prompt: str = PROMPT, *, count: int = 24, **params: Any) -> RequestOutput:
    return engine.generate(prompt, SamplingParams(max_new_tokens=count, ignore_eos=True, **params))[0]


def banned_tokens(banned: BadTextAutomaton, state: int) -> list[int]:
    return sorted({token for part in banned.banned(state, torch.device("cpu")) for token in part.tolist()})


# The automaton ----------------------------------------------------------------------------------------------------------
LETTERS = st.sampled_from([b"a", b"b", "é".encode()[:1], "é".encode()[1:]])
BYTES = st.lists(LETTERS, max_size=6).map(b"".join)
WORDS = st.lists(st.text("abé", min_size=1, max_size=5).map(str.encode), min_size=1, max_size=6)


@given(words=WORDS, tokens=st.lists(BYTES, min_size=1, max_size=30), text=st.lists(st.integers(0, 29), max_size=12))
@settings(max_examples=400, deadline=None)
def test_banned_are_exactly_the_tokens_that_end_a_new_occurrence(
    words: list[bytes], tokens: list[bytes], text: list[int]
) -> None:
    banned = BadTextAutomaton(words, TokenTexts(tokens))
    state, written = 0, b""
    for token in [one % len(tokens) for one in text]:
        state, written = banned.after_token(state, token), written + tokens[token]
    assert banned.advance(0, written) == state
    assert banned.after([one % len(tokens) for one in text]) == state

    def occurrences(whole: bytes) -> int:
        return sum(whole.startswith(word, place) for word in set(words) for place in range(len(whole)))

    expected = [token for token, piece in enumerate(tokens) if occurrences(written + piece) > occurrences(written)]
    assert banned_tokens(banned, state) == expected


def test_tokens_without_bytes_and_beyond_the_tokenizer_are_never_banned() -> None:
    banned = BadTextAutomaton([b"ab"], TokenTexts([b"", b"a", b"b"]))
    state = banned.after([1, 0, 17])
    assert banned_tokens(banned, state) == [2]
    assert banned.after_token(state, 17) == state


def test_tokens_that_hold_a_word_are_found_however_many_there_are_and_however_often() -> None:
    pieces = [*(b"b" * n for n in range(1, 40)), *(b"x%db b" % n for n in range(1500)), b"bbb", b"c"]
    tokens = TokenTexts(pieces)
    for word in (b"bb", b"bbb", b"b", b" b", b"x7b", b"bc", b"b" * 39, b"b" * 40):
        assert sorted(tokens.holding(word).tolist()) == [token for token, piece in enumerate(pieces) if word in piece]


def test_what_a_set_of_words_keeps_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("labkit.engine.bad_text_automaton._MOST_KEPT", 3)
    banned = BadTextAutomaton([b"ab", b"ba"], TokenTexts([b"a", b"b", b"aa", b"bb"]))
    expected = {0: [], banned.advance(0, b"a"): [1, 3], banned.advance(0, b"b"): [0, 2]}
    for state in [*expected, *expected]:
        assert banned_tokens(banned, state) == expected[state]
    assert np.sum([len(one) for one in banned._kept.values()]) <= 3


# Through the engine -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def free(engine: Engine) -> list[RequestOutput]:
    """The output of each way of generating without bans."""
    params = [SamplingParams(max_new_tokens=20, ignore_eos=True, **way) for way in WAYS.values()]
    return engine.generate([PROMPT] * len(WAYS), params)


@given(data=st.data())
@settings(max_examples=5, deadline=None, derandomize=True)
def test_the_word_is_never_written_and_other_words_change_nothing(
    engine: Engine, free: list[RequestOutput], data: st.DataObject
) -> None:
    """The bad words are arbitrary, or are pieces cut out of the model's own text. All ways of generating run in one batch."""
    params = []
    for way, output in zip(WAYS.values(), free, strict=True):
        text = data.draw(st.sampled_from([one.text for one in output.completions]))
        begin = data.draw(st.integers(0, len(text) - 1))
        cut = text[begin : begin + data.draw(st.integers(1, 9))]
        other = data.draw(st.text(st.characters(codec="utf-8"), min_size=1, max_size=4))
        params.append(SamplingParams(max_new_tokens=20, ignore_eos=True, bad_words=[cut, other], **way))
    unseen = data.draw(st.text(min_size=1, max_size=3).filter(lambda word: word not in PROMPT + free[0].text))
    params.append(
        SamplingParams(max_new_tokens=20, ignore_eos=True, bad_words=[unseen.encode("utf-8", "ignore").decode() or "~"])
    )
    outputs = engine.generate([PROMPT] * len(params), params)
    for asked, output in zip(params, outputs, strict=True):
        for completion in output.completions:
            assert not any(word in completion.text for word in asked.bad_words if word != "\ufffd")
    assert outputs[-1].token_ids == free[0].token_ids


def test_white_space_is_banned_as_it_stands(engine: Engine) -> None:
    """If a model can write only line ends and spaces and one of the two is banned, it writes only the other."""
    assert engine.tokenizer is not None
    (line,), (space,) = engine.tokenizer.encode("\n"), engine.tokenizer.encode(" ")
    rest = [[token] for token in range(engine.config.vocab_size) if token not in (line, space)]
    assert made(engine, bad_words=[*rest, "\n"], count=5).text == 5 * " "
    assert made(engine, bad_words=[*rest, " "], count=5).text == 5 * "\n"
    assert made(engine, bad_words=["\tfoo"]).token_ids == made(engine).token_ids


def test_a_word_that_begins_in_the_prompt(engine: Engine) -> None:
    free = made(engine).text
    word = PROMPT[-3:] + free[:2]
    banned = made(engine, bad_words=[word]).text
    assert not banned.startswith(free[:2])
    assert made(engine, bad_words=["beginning"]).text == free, "what the prompt holds is not written again"


def test_parts_of_characters(engine: Engine) -> None:
    """A token is banned if it completes a character that earlier tokens began, and only in this case."""
    assert engine.tokenizer is not None
    first, second = "é".encode()[:1], "é".encode()[1:]
    begins = [t for t in range(engine.tokenizer.vocab_size) if engine.tokenizer.token_bytes(t) == first]
    ends = {t for t in range(engine.tokenizer.vocab_size) if engine.tokenizer.token_bytes(t).startswith(second)}
    prompt = [*engine.tokenizer.encode("caf"), begins[0]]
    params = SamplingParams(max_new_tokens=1, temperature=50.0, num_samples=64, seed=3, bad_words=["é"])
    tokens = {one.token_ids[0] for one in engine.generate([prompt], params)[0].completions}
    assert ends
    assert not tokens & ends
    assert len(tokens) > 30


def test_special_tokens_join_what_stands_around_them_and_can_be_named(engine: Engine) -> None:
    end = engine.config.eos_token_id
    assert engine.tokenizer is not None
    assert end is not None
    (go,), (on,) = engine.tokenizer.encode("G"), engine.tokenizer.encode("od")
    pick = {"max_new_tokens": 1, "ignore_eos": True, "num_samples": 48, "temperature": 80.0, "seed": 5}
    banned = SamplingParams(**pick, bad_words=["God"])
    assert all(one.token_ids != [on] for one in engine.generate([[go, end]], banned)[0].completions)
    only_end = [[token] for token in range(engine.config.vocab_size) if token not in (end, on)]
    named = SamplingParams(max_new_tokens=3, ignore_eos=True, bad_words=[*only_end, "<|endoftext|>"])
    assert set(engine.generate(PROMPT, named)[0].token_ids) == {on}


def test_in_a_batch_with_others_and_after_preemption(engine: Engine) -> None:
    """Rows do not affect each other, and a sequence that is preempted and resumed continues from the same state."""
    word = made(engine, count=40).text[30:37]
    alone = made(engine, count=40, bad_words=[word])
    prompts = [PROMPT, "It is", PROMPT, "Call me"]
    params = [SamplingParams(max_new_tokens=40, ignore_eos=True, bad_words=words) for words in ([word], [], [], ["e"])]
    with labkit.load("gptj-tiny", device="cpu", num_slots=90) as small:
        found = small.generate(prompts, params)
        assert small.stats.preemptions > 0
    assert found[0].token_ids == alone.token_ids
    assert found[1].token_ids == made(engine, "It is", count=40).token_ids
    assert found[2].token_ids == made(engine, count=40).token_ids
    assert "e" not in found[3].text


@pytest.mark.parametrize("way", sorted(WAYS))
def test_with_every_token_banned_the_text_ends_with_that_reason(engine: Engine, way: str) -> None:
    every = [[token] for token in range(engine.config.vocab_size)]
    output = made(engine, bad_words=every, logprobs=1, **WAYS[way])
    for completion in output.completions:
        assert (completion.text, completion.token_ids, completion.finish_reason) == ("", [], "banned")
    bystander = engine.generate([PROMPT, "It is"], [SamplingParams(bad_words=every), SamplingParams(max_new_tokens=9)])[1]
    assert bystander.token_ids == engine.generate("It is", SamplingParams(max_new_tokens=9))[0].token_ids


def test_banned_in_the_middle_of_a_text(engine: Engine) -> None:
    """After three tokens, all tokens are banned: the text ends, and characters held back for a stop string are shown."""
    free = made(engine, count=3)
    others = [[token] for token in range(engine.config.vocab_size) if token not in free.token_ids]
    pairs = [[one, two] for one in free.token_ids[2:] for two in free.token_ids]
    stop = free.text[-4:] + "never"
    params = SamplingParams(max_new_tokens=9, ignore_eos=True, bad_words=[*others, *pairs], stop=stop)
    events = list(engine.stream(PROMPT, params))
    assert [event.token_id for event in events] == [*free.token_ids, NO_TOKEN]
    assert "".join(event.text for event in events) == free.text
    assert events[-1].finish_reason == "banned"


@pytest.mark.parametrize("name", ["stop", "bad_words"])
def test_half_a_character_is_refused(engine: Engine, name: str) -> None:
    with refused([name, "half a character"]):
        engine.generate(PROMPT, SamplingParams(**{name: ["a\ud800"]}))
