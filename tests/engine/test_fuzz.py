"""Random requests are sent to an engine in which other requests run. `tests.engine.fuzz` runs more of them; LABKIT_FUZZ_CASES
sets the number of cases here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.engine.fuzz import Fuzz

CASES = int(os.environ.get("LABKIT_FUZZ_CASES", "150"))


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Fuzz()
    torch.set_num_threads(threads)


def test_no_random_request_touches_those_beside_it(fuzz: Fuzz) -> None:
    counts = fuzz.run(CASES)
    assert counts["cases"] >= CASES
    assert counts["ended"] > CASES // 5
    assert counts["refused"] > CASES // 10


@pytest.mark.parametrize(
    ("prompt", "params"),
    [
        ("In", {"top_k": 2**63}),
        ("In", {"top_k": 2**63 - 1, "temperature": 1e-10, "seed": 2**64 - 1}),
        ("In", {"temperature": 1e-46}),
        ("In", {"repetition_penalty": 1e-40}),
        ("In", {"presence_penalty": 1e39}),
        ("In", {"repetition_penalty": 1e-10, "presence_penalty": 1e10, "temperature": 1e-10, "num_beams": 2}),
        ("In", {"length_penalty": -64, "num_beams": 3}),
        ("In", {"bad_words": [[token] for token in range(8192)]}),
        ("In", {"stop": "x" * 100_000}),
        ("In", {"bad_words": [[1] * 1000] * 60, "stop": [[1] * 1000] * 60}),
        ("In", {"soft_prompt": torch.full((2, 64), 3e38)}),
        ("In", {"soft_prompt": torch.zeros(2, 64).to("meta")}),
        ("In", {"seed": 1 << 20000}),
        ([2**70], {}),
        (torch.tensor([[1, 2]]), {}),
        (b"In", {}),
    ],
)  # fmt: skip
def test_what_was_found_stays_mended(fuzz: Fuzz, prompt: Any, params: dict[str, Any]) -> None:
    fuzz.batch.try_request(prompt, {"max_new_tokens": 5, "ignore_eos": True} | params)
