"""Arguments as people write them: every unambiguous form gives the same request, and errors name the refused arguments."""

from __future__ import annotations

import dataclasses
import pathlib
import warnings
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import labkit
from labkit.engine import Engine, SamplingParams
from labkit.engine.engine_options import checked_options
from labkit.errors import InsufficientResources
from tests.models import engine_of, random_peer
from tests.refusals import refused


@pytest.fixture(scope="module")
def tiny() -> Engine:
    return labkit.load("gptj-tiny", device="cpu", num_slots=600)


WORDS: list[Any] = [
    ("the", ("the",)),
    (np.str_("the"), ("the",)),
    (["the", " of"], ("the", " of")),
    (lambda: (word for word in ("the", " of")), ("the", " of")),
    (np.array(["the", " of"]), ("the", " of")),
    (lambda: iter([(1, 2)]), ((1, 2),)),
    ([np.array([1, 2]), torch.tensor([3]), range(4, 6), "x"], ((1, 2), (3,), (4, 5), "x")),
    (np.array([[1, 2], [3, 4]]), ((1, 2), (3, 4))),
    (torch.tensor([[1, 2]]), ((1, 2),)),
    (None, ()),
    ([], ()),
]
IDS: list[Any] = [
    (13, (13,)),
    (np.int64(13), (13,)),
    (torch.tensor(13), (13,)),
    ([13, 198, 13], (13, 198)),
    ({13}, (13,)),
    (range(3), (0, 1, 2)),
    (lambda: (token for token in (5, 6)), (5, 6)),
    (np.array([5, 6], dtype=np.uint16), (5, 6)),
    (torch.tensor([5, 6], dtype=torch.int32), (5, 6)),
    (None, ()),
]


def test_words_and_token_ids_in_every_form() -> None:
    for name in ("stop", "bad_words"):
        for given, kept in WORDS:
            assert getattr(SamplingParams(**{name: given() if callable(given) else given}), name) == kept
    assert SamplingParams(stop=(word for word in ("a", "b"))).stop == ("a", "b"), "a generator was used up"
    for name in ("stop_token_ids", "top_p_reset_ids"):
        for given, kept in IDS:
            found = getattr(SamplingParams(**{name: given() if callable(given) else given}), name)
            assert found == kept
            assert all(type(token) is int for token in found)


@pytest.mark.filterwarnings("ignore:.* changes nothing")
@pytest.mark.parametrize(
    ("name", "forms", "kept"),
    [
        ("max_new_tokens", [7, np.int32(7), np.uint8(7), np.array(7), torch.tensor(7)], 7),
        ("seed", [2**64 - 1, np.uint64(2**64 - 1)], 2**64 - 1),
        ("temperature", [0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5)], 0.5),
        ("temperature", [0.5, Fraction(1, 2), Decimal("0.5")], 0.5),
        ("temperature", [1, True + 0, 1.0, np.int64(1), torch.tensor(1)], 1.0),
        ("ignore_eos", [True, np.bool_(True), np.array(True), torch.tensor(True), 1], True),
        ("ignore_eos", [False, np.bool_(False), 0], False),
        ("early_stopping", [True, 1, np.bool_(True)], True),
        ("early_stopping", ["never", np.str_("never")], "never"),
    ],
)  # fmt: skip
def test_numbers_and_booleans_in_every_form(name: str, forms: list[Any], kept: Any) -> None:
    for form in forms:
        found = getattr(SamplingParams(**{name: form}), name)
        assert found == kept
        assert type(found) is type(kept) or isinstance(found, str)
        assert dataclasses.replace(SamplingParams(**{name: form})) == SamplingParams(**{name: kept})
    assert hash(SamplingParams(stop=["a"], stop_token_ids=[1])) == hash(SamplingParams(stop="a", stop_token_ids=1))


def test_tensors_of_numpy_are_taken() -> None:
    soft = np.ones((2, 3), np.float32)
    assert SamplingParams(soft_prompt=soft).soft_len == 2  # type: ignore[arg-type]
    leaf = torch.ones(2, 3, requires_grad=True)
    kept = SamplingParams(soft_prompt=leaf).soft_prompt
    assert kept is not None
    assert not kept.requires_grad


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({"stop": [None]}, ["stop holds None", "a string"]),
    ({"stop": 5}, ["stop is 5", "a text or a list"]),
    ({"stop": b"x"}, ["stop is b'x'", "decode()"]),
    ({"stop": [b"x"]}, ["stop holds b'x'", "decode()"]),
    ({"stop": [13, 198]}, ["stop is [13, 198]", "[[13, 198]]"]),
    ({"bad_words": np.array([13, 198])}, ["bad_words is array([ 13, 198])", "[[13, 198]]"]),
    ({"bad_words": {"the": 1}}, ["bad_words is {'the': 1}"]),
    ({"bad_words": [{1, 2}]}, ["bad_words holds {1, 2}"]),
    ({"bad_words": ["\ud83d"]}, ["bad_words holds '\\ud83d'"]),
    ({"bad_words": [[1.5]]}, ["bad_words holds [1.5]"]),
    ({"stop": ["x" * 1025]}, ["stop holds 1 word; the longest has 1025", "1024"]),
    ({"stop": ["xxxxxxxxxx"] * 7000}, ["stop holds 7000 words", "all together have 70000", "65536"]),
    ({"stop_token_ids": "13"}, ["stop_token_ids is '13'", "token ids"]),
    ({"stop_token_ids": [1.0]}, ["stop_token_ids holds 1.0"]),
    ({"stop_token_ids": [None]}, ["stop_token_ids holds None"]),
    ({"stop_token_ids": {1: 2}}, ["stop_token_ids is {1: 2}"]),
    ({"ignore_eos": "false"}, ["ignore_eos is 'false'", "True or False"]),
    ({"ignore_eos": None}, ["ignore_eos is None"]),
    ({"ignore_eos": 2}, ["ignore_eos is 2"]),
    ({"temperature": "0.8"}, ["temperature is '0.8'", "0 (greedy)"]),
    ({"temperature": True}, ["temperature is True"]),
    ({"temperature": [0.8]}, ["temperature is [0.8]"]),
    ({"temperature": 10**400}, ["temperature is 1000"]),
    ({"temperature": 1e-46}, ["temperature is 1e-46", "1e-10 to 1e+10"]),
    ({"temperature": 1e39}, ["temperature is 1e+39"]),
    ({"repetition_penalty": 1e-40}, ["repetition_penalty is 1e-40", "1e-10 to 1e+10"]),
    ({"presence_penalty": 1e39}, ["presence_penalty is 1e+39", "-1e+10 to 1e+10"]),
    ({"diversity_rate": 1e39, "num_beams": 2}, ["diversity_rate is 1e+39"]),
    ({"top_p": 1e-46}, ["top_p is 1e-46"]),
    ({"top_k": 2**63}, ["top_k is 9223372036854775808", "from 0 to 9223372036854775807"]),
    ({"seed": 2**64}, ["seed is 18446744073709551616", "18446744073709551615"]),
    ({"seed": 1 << 20000}, ["seed is a int", "a whole number"]),
    ({"max_new_tokens": 3.0}, ["max_new_tokens is 3.0"]),
    ({"max_new_tokens": np.array([3, 4])}, ["max_new_tokens is array([3, 4])"]),
    ({"soft_prompt": torch.zeros(2, 3, device="meta")}, ["soft_prompt is a torch.float32 array of shape [2, 3]"]),
    ({"soft_prompt": torch.full((2, 3), 1e300, dtype=torch.float64)}, ["soft_prompt", "not finite in float32"]),
    ({"stop": object}, ["stop is <class 'object'>"]),
    ({"stop_token_ids": list("x" * 5000)}, ["stop_token_ids holds 'x'"]),
    ({"stop_token_ids": "x" * 5000}, ["...;"]),
]  # fmt: skip


@pytest.mark.parametrize(("given", "words"), REFUSED)
def test_what_is_no_such_thing_is_refused_by_name(given: dict[str, Any], words: list[str]) -> None:
    with refused(words):
        SamplingParams(**given)


def test_prompts_in_every_form(tiny: Engine) -> None:
    params = SamplingParams(max_new_tokens=4, ignore_eos=True)
    (text,) = tiny.generate("In the", params)
    ids = text.prompt_token_ids
    forms: list[Any] = [
        ["In the"],
        (word for word in ["In the"]),
        np.array(["In the"]),
        [ids],
        [tuple(ids)],
        [np.array(ids)],
        [torch.tensor(ids)],
        [[torch.tensor(token) for token in ids]],
        np.array([ids], dtype=np.int32),
        torch.tensor([ids]),
        [iter(ids)],
    ]
    for form in forms:
        (output,) = tiny.generate(form, params)
        assert output.token_ids == text.token_ids, form
        assert output.prompt_token_ids == ids
        assert all(type(token) is int for token in output.prompt_token_ids)
    for one in ("In the", ids, tuple(ids), np.array(ids), torch.tensor(ids), range(1, 3)):
        number = tiny.add_request(one, params)
        while tiny.has_unfinished:
            events = tiny.step()
        assert events[-1].request == number
    expected = tiny.logits(ids)
    for one in (np.array(ids), torch.tensor(ids), tuple(ids)):
        assert torch.equal(tiny.logits(one), expected)


@pytest.mark.parametrize(
    ("prompts", "words"),
    [
        ([b"In the"], ["a prompt is b'In the'", "decode()"]),
        (b"In the", ["prompts is b'In the'", "decode()"]),
        ([None], ["a prompt is None"]),
        ([5], ["list of numbers"]),
        (np.array([1, 2]), ["list of numbers"]),
        (np.int64(5), ["prompts is", "5"]),
        ([[1, 2], 3], ["a prompt is 3"]),
        ({"a", "b"}, ["prompts is {"]),
        ({"input_ids": [[1]]}, ["prompts is {'input_ids': [[1]]}", "give input_ids"]),
        ([{"input_ids": [1]}], ["a prompt is {'input_ids': [1]}", "give input_ids"]),
        ([[1.0]], ["a prompt holds 1.0"]),
        (np.array([[1.5]]), ["a prompt holds 1.5"]),
        ([[True]], ["a prompt holds True"]),
        ([[[1]]], ["a prompt holds [1]"]),
        ([["In"]], ["a prompt holds 'In'"]),
        ([[2**70]], ["a prompt holds 1180591620717411303424"]),
        ((), ["prompts is ()"]),
    ],
)
def test_what_is_no_prompt_is_refused_by_name(tiny: Engine, prompts: Any, words: list[str]) -> None:
    for call in (tiny.generate, tiny.stream):
        with refused(words):
            call(prompts)


def test_parameters_in_every_form(tiny: Engine) -> None:
    short, shorter = SamplingParams(max_new_tokens=3, ignore_eos=True), SamplingParams(max_new_tokens=2, ignore_eos=True)
    for params in ([short, shorter], (short, shorter), iter([short, shorter])):
        assert [len(output.token_ids) for output in tiny.generate(["a", "b"], params)] == [3, 2]
    assert len(tiny.generate(["a", "b"], [shorter, None])[0].token_ids) == 2
    for wrong in ({"max_new_tokens": 3}, [{}], "greedy", 5, [short, 5]):
        with refused(["params is", "write SamplingParams("]):
            tiny.generate(["a", "b"], wrong)  # type: ignore[arg-type]
    with refused(["params is {'top_k': 1}", "write SamplingParams("]):
        tiny.add_request("a", {"top_k": 1})  # type: ignore[arg-type]
    with refused(["token_ids is 'a'", "a list of token ids"]):
        tiny.logits("a")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_slots": -1}, ["num_slots is -1"]),
        ({"num_slots": 0}, ["num_slots is 0"]),
        ({"num_slots": "500"}, ["num_slots is '500'"]),
        ({"cache_bytes": 0}, ["cache_bytes is 0"]),
        ({"num_slots": 5, "cache_bytes": 5}, ["both given"]),
        ({"max_batch_size": 0}, ["max_batch_size is 0"]),
        ({"max_batch_size": 1.5}, ["max_batch_size is 1.5"]),
        ({"max_batch_size": None}, ["max_batch_size is None"]),
        ({"max_batch_size": 10**9}, ["max_batch_size is 1000000000", "65536"]),
        ({"max_batch_size": 8, "max_step_tokens": 8}, ["max_step_tokens is 8"]),
        ({"max_mixed_prefill": 0}, ["max_mixed_prefill is 0"]),
        ({"prefix_reuse": "no"}, ["prefix_reuse is 'no'", "True or False"]),
        ({"cuda_graphs": None}, ["cuda_graphs is None"]),
        ({"kv_cache_dtype": [1]}, ["kv_cache_dtype is [1]"]),
        ({"max_batch": 8}, ["max_batch is not an option", "max_batch_size"]),
    ],
)
def test_options_are_refused_when_the_model_is_loaded_and_not_later(options: dict[str, Any], words: list[str]) -> None:
    with refused(words):
        labkit.load("no-such-model", **options)
    if "max_batch" not in options:
        with refused(words):
            engine_of(random_peer("one head of 80", 1), **options)


def test_options_in_other_forms_and_what_memory_does_not_hold() -> None:
    peer = random_peer("one head of 80", 1)
    engine = engine_of(peer, num_slots=np.int64(50), max_batch_size=torch.tensor(3), prefix_reuse=np.bool_(False))
    assert (engine.stats.num_slots, engine.max_batch_size) == (50, 3)
    assert checked_options({"num_slots": None, "cuda_graphs": 0}) == {"num_slots": None, "cuda_graphs": False}
    with pytest.raises(InsufficientResources, match="are free on cpu"):
        engine_of(peer, num_slots=10**12)
    with refused(["cache_bytes is 5", "for one token of this model"]):
        engine_of(peer, cache_bytes=5)
    for name, seed, dtype, words in (
        (5, 0, None, ["name is 5"]),
        ("", 0, None, ["name is ''"]),
        ("gptj-tiny", -1, None, ["seed is -1"]),
        ("gptj-tiny", 0, ["fp32"], ["precision is ['fp32']"]),
    ):
        with refused(words):
            labkit.load(name, seed=seed, dtype=dtype)  # type: ignore[arg-type]
    assert isinstance(labkit.load(pathlib.PurePosixPath("gptj-tiny"), seed=np.int64(3), num_slots=60), Engine)  # type: ignore[arg-type]


def test_a_choice_among_draws_without_draws_is_warned_of() -> None:
    for given, name in (
        ({"top_p": 0.9}, "top_p is 0.9"),
        ({"top_k": 40}, "top_k is 40"),
        ({"top_p": 0.5, "top_k": 4}, "top_p"),
        ({"top_p_decay": 0.9}, "top_p_decay is 0.9"),
    ):
        with pytest.warns(UserWarning, match=rf"{name}.*temperature is 0.*greedy") as caught:
            SamplingParams(**given)  # type: ignore[arg-type]
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in ({"top_p": 0.9, "temperature": 0.5}, {"top_k": 1}, {"top_p": 1.0}, {"seed": 3}, {}):
            SamplingParams(**given)  # type: ignore[arg-type]


def test_options_of_beam_search_without_beams_are_warned_of() -> None:
    options = {"length_penalty": 0.5, "early_stopping": "never", "diversity_rate": 2.0}
    for name, value in options.items():
        with pytest.warns(UserWarning, match=rf"{name} is {value}, but num_beams is 1") as caught:
            SamplingParams(**{name: value})  # type: ignore[arg-type]
        assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SamplingParams(num_beams=2, **options)  # type: ignore[arg-type]
        SamplingParams(length_penalty=1, early_stopping=False, diversity_rate=0.0)
