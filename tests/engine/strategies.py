"""Random requests, with values in every form that a person might write. Most can be served, some must be refused.

The fuzz tests of the engine and of the server share this module. Use `prompts` and `params` (the arguments of
`SamplingParams`). With `plain_only`, every value is one that JSON can hold.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

EDGES = [0, 1, -1, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63) - 1]
SMALL_AND_LARGE = [0.0, -0.0, 1.0, 5e-324, 1e-300, 1e-46, 1e-40, 1e-38, 1e-10, 1e10, 1e38, 1e39, 1e300, -1e39, 1e-11, 1e11]
NO_NUMBERS = [math.nan, math.inf, -math.inf, "0.5", "", None, [], [1], {}, True, b"1", 1j]
TEXTS = [
    "the",
    " the",
    "\n",
    "\t",
    ".",
    " ",
    "<|endoftext|>",
    "",
    "\ud83d",
    "e",
    "In the beginning",
    "\x00",
    "é",
    "日本",
    "x" * 2000,
]

wholes = st.one_of(st.integers(-2, 40), st.sampled_from(EDGES), st.integers())
floats = st.one_of(st.floats(), st.sampled_from(SMALL_AND_LARGE), st.floats(0, 2))
texts = st.one_of(st.sampled_from(TEXTS), st.text(max_size=12))


def formed(numbers: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """The same numbers, sometimes as numbers of NumPy or torch, or as another Python type."""

    def forms(number: Any) -> SearchStrategy[Any]:
        kinds = [number]
        if isinstance(number, bool):
            kinds += [np.bool_(number), torch.tensor(number), int(number)]
        elif isinstance(number, int) and abs(number) < 2**31:
            kinds += [np.int64(number), np.array(number), torch.tensor(number), np.int32(number)]
        elif isinstance(number, float) and math.isfinite(number):
            kinds += [np.float64(number), np.array(number), torch.tensor(number, dtype=torch.float64), Fraction(number)]
        return st.sampled_from(kinds)

    return numbers.flatmap(forms)


def ids_of(vocab_size: int) -> SearchStrategy[list[int]]:
    """Lists of valid token ids."""
    return st.lists(st.integers(0, vocab_size - 1), max_size=6)


def collections_of(lists: SearchStrategy[list[Any]]) -> SearchStrategy[Any]:
    """The same lists in other forms: tuples, iterators, arrays."""

    def forms(items: list[Any]) -> SearchStrategy[Any]:
        kinds: list[Any] = [items, tuple(items)]
        if items and all(isinstance(item, int) and abs(item) < 2**31 for item in items):
            kinds += [np.array(items), torch.tensor(items)]
        return st.one_of(st.sampled_from(kinds), st.builds(iter, st.just(items)))

    return lists.flatmap(forms)


def words_of(vocab_size: int) -> SearchStrategy[Any]:
    """Valid stop words and bad words."""
    ids = ids_of(vocab_size).filter(bool)
    return st.one_of(texts.filter(bool), st.lists(st.one_of(texts.filter(bool), ids), max_size=4), st.none())


def tensors(shape: list[int]) -> SearchStrategy[Any]:
    """Tensors of a shape, with several dtypes and magnitudes."""
    kinds = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
    sizes = st.sampled_from([0.0, 0.5, 1.0, 1e4, 1e30, 3e38, math.nan])
    return st.builds(lambda kind, size: torch.full(shape, size, dtype=torch.float64).to(kind), kinds, sizes)


def good_params(vocab_size: int, plain_only: bool) -> dict[str, SearchStrategy[Any]]:
    """Valid values for each parameter."""
    number = (lambda numbers: numbers) if plain_only else formed
    collection = (lambda lists: lists) if plain_only else collections_of
    ids = collection(ids_of(vocab_size))
    return {
        "min_new_tokens": number(st.integers(0, 6)),
        "stop": words_of(vocab_size)
        if plain_only
        else st.one_of(words_of(vocab_size), collections_of(ids_of(vocab_size).map(lambda i: [i] * bool(i)))),
        "stop_token_ids": ids,
        "end_token_id": number(st.integers(0, vocab_size - 1)),
        "ignore_eos": number(st.booleans()),
        "start_token_id": number(st.integers(0, vocab_size - 1)),
        "temperature": number(st.one_of(st.floats(0.1, 3), st.sampled_from([1e-10, 1e10]))),
        "top_k": number(st.integers(0, 50)),
        "top_p": number(st.floats(0.01, 1)),
        "top_p_decay": number(st.floats(0.1, 1)),
        "top_p_min": number(st.floats(0, 0.01)),
        "top_p_reset_ids": ids,
        "seed": number(st.integers(0, 2**64 - 1)),
        "repetition_penalty": number(st.one_of(st.floats(0.5, 2), st.sampled_from([1e-10, 1e10]))),
        "presence_penalty": number(st.one_of(st.floats(-2, 2), st.sampled_from([-1e10, 1e10]))),
        "bad_words": words_of(vocab_size),
        "length_penalty": number(st.floats(-64, 64)),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "diversity_rate": number(st.sampled_from([0.0, 0.5, 1e10])),
        "logprobs": number(st.integers(0, 3)),
        "prompt_logprobs": number(st.integers(0, 3)),
        "memory_len": number(st.integers(1, 60)),
        "speculate": number(st.integers(0, 8)),
    }


def wild_values(plain_only: bool) -> SearchStrategy[Any]:
    """Any value that a person, or a program with a bug, might give for a parameter."""
    values = [wholes, floats, texts, st.lists(st.one_of(wholes, texts, st.none()), max_size=3)]
    if plain_only:
        others = [value for value in NO_NUMBERS if not isinstance(value, bytes | complex)]
        return st.one_of(*values, st.sampled_from(others))
    values += [formed(wholes), formed(floats), st.binary(max_size=3), st.lists(st.binary(max_size=3), max_size=2)]
    values += [st.builds(torch.zeros, st.lists(st.integers(0, 3), max_size=3)), st.builds(np.zeros, st.just((2, 2)))]
    return st.one_of(*values, st.sampled_from([*NO_NUMBERS, object(), int, {1}, range(3), 1 << 20000]))


def rarely(one_in: int, rare: SearchStrategy[Any], usual: SearchStrategy[Any]) -> SearchStrategy[Any]:
    """`rare` in one of `one_in` cases, `usual` in the others."""
    return st.integers(1, one_in).flatmap(lambda number: rare if number == one_in else usual)


def several(plain_only: bool) -> SearchStrategy[dict[str, Any]]:
    """Parameters that belong together: for several samples, for beams, for groups of beams, or for none of these."""
    number = (lambda numbers: numbers) if plain_only else formed
    samples = {"num_samples": number(st.integers(2, 4)), "temperature": number(st.floats(0.1, 3))}
    beams = {"num_beams": number(st.integers(2, 4)), "num_samples": st.integers(1, 2)}
    groups = {"num_beams": st.just(4), "num_beam_groups": number(st.sampled_from([2, 4])), "diversity_penalty": st.just(0.5)}
    chosen = st.one_of(*(st.fixed_dictionaries(together) for together in (samples, beams, groups)))
    return rarely(3, chosen, st.just({}))


def params(
    vocab_size: int, *, hidden: int = 0, prefix: tuple[int, int, int] | None = None, plain_only: bool = False
) -> SearchStrategy[dict[str, Any]]:
    """Arguments of `SamplingParams`: some valid ones, and in a third of the cases also one or two with arbitrary values.

    hidden: the model's hidden size, for soft prompts. prefix: the model's numbers of layers and heads and its head_dim, for
    prefix prompts.
    """
    good = good_params(vocab_size, plain_only)
    names = sorted([*good, "max_new_tokens", "num_samples", "num_beams", "num_beam_groups", "soft_prompt", "prefix_prompt"])
    some = st.lists(st.sampled_from(sorted(good)), max_size=4, unique=True).flatmap(
        lambda chosen: st.fixed_dictionaries({name: good[name] for name in chosen})
    )
    none: SearchStrategy[dict[str, Any]] = st.just({})
    parts = [some, several(plain_only), st.fixed_dictionaries({"max_new_tokens": st.integers(1, 24)})]
    if hidden:
        soft = st.integers(0, 5).flatmap(lambda count: tensors([count, hidden]))
        parts.append(rarely(8, st.fixed_dictionaries({"soft_prompt": soft}), none))
    if prefix:
        layers, heads, dim = prefix
        given = st.integers(0, 5).flatmap(lambda count: tensors([layers, 2, heads, count, dim]))
        parts.append(rarely(8, st.fixed_dictionaries({"prefix_prompt": given}), none))
    wild = st.dictionaries(st.sampled_from(names), wild_values(plain_only), min_size=1, max_size=2)
    parts.append(rarely(3, wild, none))
    return st.tuples(*parts).map(lambda found: {name: value for part in found for name, value in part.items()})


def prompts(vocab_size: int, *, plain_only: bool = False) -> SearchStrategy[Any]:
    """A prompt: usually text or token ids, sometimes any other value."""
    ids = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=40)
    good = st.one_of(texts, ids) if plain_only else st.one_of(texts, ids, collections_of(ids))
    odd = st.lists(wholes if plain_only else formed(wholes), max_size=4)
    return rarely(6, st.one_of(odd, wild_values(plain_only)), good)
