"""Each parameter of a request does what its description says, or is refused if this is impossible."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import labkit
from labkit.config import GPTJConfig
from labkit.engine import Engine, SamplingParams
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.text_stream import TextStream
from tests.engine.test_sampling import sampler_of
from tests.refusals import refused

CONFIG = GPTJConfig(hidden_size=24, num_layers=3, num_heads=2, rotary_dim=6, context_length=20, vocab_size=50, eos_token_id=0)


def sequence(prompt: list[int] | None = None, *, limit: int = 100, **params: Any) -> Sequence:
    chosen = SamplingParams(**params)
    return Sequence(
        request=0,
        sample=0,
        prompt=prompt or [1],
        params=chosen,
        max_new_tokens=limit,
        eos_token_id=0,
        bad_words=[],
        seed=chosen.seed or 0,
        token_bytes=lambda token: f"<{token}>".encode(),
    )


def run(one: Sequence, tokens: list[int]) -> tuple[str, str | None, Any, int]:
    """Feed tokens to a sequence. Return the text, the finish reason, the stop reason, and the number of tokens used."""
    text = ""
    for count, token in enumerate(tokens, 1):
        event = one.append(token, None)
        text += event.text
        if event.finish_reason is not None:
            return text, event.finish_reason, event.stop_reason, count
    return text, None, None, len(tokens)


# Ends -------------------------------------------------------------------------------------------------------------------
def test_a_sequence_of_tokens_ends_the_text_just_before_it() -> None:
    assert run(sequence(stop=[[7, 8]]), [5, 7, 7, 8, 9]) == ("<5><7>", "stop", (7, 8), 4)
    assert run(sequence(stop=[[7]]), [5, 7]) == ("<5>", "stop", (7,), 2)
    assert run(sequence(stop=[[8], [6, 7, 8]]), [5, 6, 7, 8]) == ("<5>", "stop", (6, 7, 8), 4)
    assert run(sequence([7], stop=[[7, 8]]), [8, 9]) == ("<8><9>", None, None, 2)  # the prompt is not part of the text


def test_the_beginning_of_a_stop_sequence_is_held_until_it_is_none() -> None:
    one = sequence(stop=[[7, 8, 9], [8, 8]], limit=7)
    shown = [one.append(token, None).text for token in (5, 7, 8, 7, 8, 6, 7)]
    assert shown == ["<5>", "", "", "<7><8>", "", "<7><8><6>", "<7>"]
    assert run(sequence(stop=[[7, 8]]), [7, 0]) == ("<7>", "stop", 0, 2)


def test_strings_and_token_sequences_stop_side_by_side() -> None:
    assert run(sequence(stop=["<6", [7, 8]]), [7, 6, 5]) == ("<7>", "stop", "<6", 2)
    assert run(sequence(stop=["<6", [7, 8]]), [5, 7, 8]) == ("<5>", "stop", (7, 8), 3)
    assert run(sequence(stop=[[6, 7], ["not", "tokens"]][:1]), [6, 7]) == ("", "stop", (6, 7), 2)


def test_nothing_stops_within_the_minimum_length() -> None:
    wishes = {"stop": ["<6><6>", [7, 8]], "min_new_tokens": 3}
    assert run(sequence(**wishes), [6, 6, 7, 8, 6, 6]) == ("<6><6><7><8>", "stop", "<6><6>", 6)
    assert run(sequence(**wishes), [7, 8, 7, 7, 8]) == ("<7><8><7>", "stop", (7, 8), 5)
    assert run(sequence(**wishes), [6, 6, 6, 6, 6]) == ("<6><6><6>", "stop", "<6><6>", 5)


def test_text_within_the_minimum_length_is_not_held() -> None:
    stream = TextStream(("abc",))
    assert [stream.push(b"ab", searching=False), stream.push(b"c"), stream.push(b"ab"), stream.push(b"c")] == [
        "ab",
        "c",
        "",
        "",
    ]
    assert stream.stopped_by == "abc"


def test_end_token_takes_the_place_of_the_models_end_of_text() -> None:
    assert run(sequence(end_token_id=9), [0, 5, 9]) == ("<0><5>", "stop", 9, 3)
    assert run(sequence(end_token_id=9, ignore_eos=True), [0, 5, 9])[1] is None
    assert run(sequence(end_token_id=9, stop_token_ids=[5]), [0, 5]) == ("<0>", "stop", 5, 2)
    short = sequence(end_token_id=9, min_new_tokens=2)
    logits = torch.zeros(1, 12)
    banned = sampler_of([short], 12).edit(logits, [0])
    assert torch.isinf(banned[0]).nonzero().flatten().tolist() == [9]


# Factual-nucleus sampling -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("resets", [[], [2], [2, 5]])
def test_top_p_decays_to_its_floor_and_is_reset(resets: list[int]) -> None:
    """At each step, only tokens kept by top_p = max(floor, p * decay^n) are drawn, where n counts from the last reset."""
    logits = torch.tensor([0.4, 0.25, 0.15, 0.1, 0.06, 0.04]).log()[None]
    params = {"temperature": 1.0, "top_p": 0.88, "top_p_decay": 0.7, "top_p_min": 0.3, "top_p_reset_ids": resets}
    visits, at_the_edge, later_resets = [0] * 7, [0] * 7, 0
    for seed in range(100):
        state = sampler_of([sequence(seed=seed, **params)], 6)
        top_p = 0.88
        for step in range(8):
            kept = [token for token in range(6) if float(logits[0, :token].exp().sum()) < top_p]
            token = int(state.sample(logits, [0]))
            assert token in kept
            visits[len(kept)] += 1
            at_the_edge[len(kept)] += token == kept[-1]
            later_resets += step > 0 and len(kept) == 4
            top_p = 0.88 if token in resets else max(0.3, top_p * 0.7)
    assert [count > 0 for count in visits] == [False, True, True, False, True, False, False]
    assert all(edge > 0 for edge, count in zip(at_the_edge, visits, strict=True) if count), "the set kept is too small"
    assert (later_resets > 0) == bool(resets)


@pytest.mark.filterwarnings("ignore:.* changes nothing")
def test_without_a_temperature_a_decaying_top_p_is_greedy() -> None:
    one = sequence(top_p=0.5, top_p_decay=0.5)
    assert int(sampler_of([one], 4).sample(torch.tensor([[0.0, 3.0, 2.0, 1.0]]), [0])) == 1


# Penalties together -----------------------------------------------------------------------------------------------------
def test_both_penalties_and_a_ban_combine_in_the_stated_order() -> None:
    one = sequence([3, 4], repetition_penalty=2.0, presence_penalty=0.5)
    one.new_tokens.append(4)
    logits = torch.tensor([[1.0, -1.0, 2.0, 3.0, -3.0]])
    assert sampler_of([one], 5).edit(logits, [0]).tolist() == [[1.0, -1.0, 2.0, 1.5, -6.5]]


# Refusals ---------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"top_p_decay": 0}, ["top_p_decay", "above 0"]),
        ({"top_p_decay": 1.5}, ["top_p_decay", "1.5"]),
        ({"top_p": 0.5, "top_p_min": 0.6}, ["top_p_min", "0.6", "0.5"]),
        ({"top_p_reset_ids": [-1]}, ["top_p_reset_ids", "-1"]),
        ({"end_token_id": -1}, ["end_token_id", "-1"]),
        ({"start_token_id": 1.5}, ["start_token_id", "1.5"]),
        ({"stop": [[]]}, ["stop", "[]"]),
        ({"stop": [[1, -2]]}, ["stop", "[1, -2]"]),
        ({"num_beams": 0}, ["num_beams", "0"]),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, ["num_beams 4", "num_beam_groups 3"]),
        ({"num_beams": 4, "num_beam_groups": 2}, ["num_beam_groups 2", "diversity_penalty"]),
        ({"num_beams": 4, "diversity_penalty": 1.0}, ["num_beam_groups 1", "diversity_penalty 1.0"]),
        ({"num_beams": 2, "num_samples": 3}, ["num_samples is 3", "2 beams"]),
        ({"num_beams": 2, "top_k": 5}, ["top_k is 5", "num_beams 2"]),
        ({"num_beams": 2, "top_p": 0.5}, ["top_p is 0.5", "num_beams 2"]),
        ({"num_beams": 2, "speculate": 3}, ["speculate is 3", "num_beams 2"]),
        ({"num_beams": 2, "prompt_logprobs": 0}, ["prompt_logprobs is 0", "num_beams 2"]),
        ({"early_stopping": "soon"}, ["early_stopping", "soon"]),
        ({"length_penalty": math.nan}, ["length_penalty", "nan"]),
        ({"diversity_rate": -1}, ["diversity_rate", "-1"]),
        ({"speculate": -1}, ["speculate", "-1"]),
        ({"speculate": 65}, ["speculate", "65", "64"]),
        ({"memory_len": 0}, ["memory_len", "0"]),
        ({"prompt_logprobs": -1}, ["prompt_logprobs", "-1"]),
        ({"soft_prompt": [[1.0]]}, ["soft_prompt", "[[1.0]]", "tokens, hidden_size"]),
        ({"soft_prompt": torch.zeros(3)}, ["soft_prompt", "[3]"]),
        ({"soft_prompt": torch.zeros(2, 3, dtype=torch.int64)}, ["soft_prompt", "int64"]),
        ({"soft_prompt": torch.full((2, 3), math.inf)}, ["soft_prompt", "not finite"]),
        ({"prefix_prompt": torch.zeros(2, 2, 2, 2)}, ["prefix_prompt", "[2, 2, 2, 2]", "prefix_len"]),
    ],
)
def test_parameter_is_refused_by_name_and_value(given: dict[str, Any], words: list[str]) -> None:
    with refused(words):
        SamplingParams(**given)


@pytest.mark.parametrize(
    ("given", "prompt", "words"),
    [
        ({"end_token_id": 50}, 1, ["end_token_id", "50", "49"]),
        ({"start_token_id": 50}, 0, ["start_token_id", "50"]),
        ({"top_p_reset_ids": [3, 77]}, 1, ["top_p_reset_ids", "77"]),
        ({"stop": [[1, 60]]}, 1, ["stop", "60"]),
        ({"soft_prompt": torch.zeros(2, 25)}, 1, ["soft_prompt", "25", "24"]),
        ({"prefix_prompt": torch.zeros(3, 2, 2, 5, 13)}, 1, ["prefix_prompt", "[3, 2, 2, 5, 13]", "head_dim 12"]),
        ({"prefix_prompt": torch.zeros(2, 2, 2, 5, 12)}, 1, ["prefix_prompt", "num_layers 3"]),
        (
            {"soft_prompt": torch.zeros(8, 24), "max_new_tokens": 5},
            9,
            ["5 new tokens", "9 and 8 positions", "room for 4"],
        ),
        ({"soft_prompt": torch.zeros(21, 24)}, 1, ["1 new tokens", "1 and 21 positions before it", "room for 0"]),
        ({"memory_len": 5}, 6, ["memory_len is 5", "prompt of length 6"]),
        (
            {"memory_len": 5, "prefix_prompt": torch.zeros(3, 2, 2, 4, 12)},
            2,
            ["memory_len is 5", "2 and 4 positions"],
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused(given: dict[str, Any], prompt: int, words: list[str]) -> None:
    with refused(words):
        SamplingParams(**given).fit(CONFIG, prompt)


def test_what_fits_is_counted_with_what_stands_in_front() -> None:
    assert SamplingParams().fit(CONFIG, 4) == 17
    front = SamplingParams(soft_prompt=torch.zeros(3, 24), prefix_prompt=torch.zeros(3, 2, 2, 5, 12))
    assert (front.soft_len, front.prefix_len) == (3, 5)
    assert front.fit(CONFIG, 4) == 9
    assert SamplingParams(memory_len=4, max_new_tokens=17).fit(CONFIG, 4) == 17


def test_only_text_needs_a_tokenizer() -> None:
    assert not SamplingParams(stop=[[1, 2]], bad_words=[[3]]).needs_tokenizer
    assert SamplingParams(stop=[[1, 2], "x"]).needs_tokenizer
    assert SamplingParams(bad_words=["x"]).needs_tokenizer


# Through the engine -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def engine() -> Engine:
    return labkit.load("gptj-tiny", device="cpu")


def test_cumulative_logprob_is_the_sum_of_the_chosen_ones(engine: Engine) -> None:
    (output,) = engine.generate("In the beginning", SamplingParams(max_new_tokens=6, logprobs=0))
    (completion,) = output.completions
    assert completion.logprobs is not None
    assert completion.cumulative_logprob == pytest.approx(sum(item.logprob for item in completion.logprobs))
    assert all(item.top == () for item in completion.logprobs)
    table = torch.log_softmax(engine.logits(output.prompt_token_ids + output.token_ids).double(), -1)
    rows = table[len(output.prompt_token_ids) - 1 : -1]
    expected = float(rows.gather(1, torch.tensor(output.token_ids)[:, None]).sum())
    assert completion.cumulative_logprob == pytest.approx(expected, abs=1e-3)


def test_stop_sequence_of_tokens_through_the_engine(engine: Engine) -> None:
    free = engine.generate("In the beginning", SamplingParams(max_new_tokens=14))[0]
    word = tuple(free.token_ids[5:8])
    (output,) = engine.generate("In the beginning", SamplingParams(max_new_tokens=14, stop=[word]))
    assert output.token_ids == free.token_ids[:8]
    assert (output.finish_reason, output.completions[0].stop_reason) == ("stop", word)
    assert engine.tokenizer is not None
    assert output.text == engine.tokenizer.decode(free.token_ids[:5])
