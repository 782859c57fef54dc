"""Reading and writing FasterTransformer's tensors and word lists: defaults, padding, and values that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from labkit import SamplingParams
from labkit.errors import InvalidRequest
from labkit.serving.python_backend.fastertransformer_request import outputs_of, prompts_of, sampling_of
from labkit.serving.python_backend.word_lists import from_word_lists, to_word_lists, word_forms, words_of_csv


def request(rows: int = 2, **more: Any) -> dict[str, NDArray[Any]]:
    """A request with `rows` prompts of 1, 2, ... tokens, padded with 9. `more` holds inputs with one value per row."""
    ids = np.full((rows, rows + 1), 9, np.uint32)
    for row in range(rows):
        ids[row, : row + 1] = np.arange(row + 1) + 10 * row
    given = {
        "input_ids": ids,
        "input_lengths": np.arange(1, rows + 1, dtype=np.uint32),
        "request_output_len": np.full((rows, 1), 5, np.uint32),
    }
    return given | {name: np.asarray(values) for name, values in more.items()}


def test_prompts_lose_their_padding() -> None:
    assert prompts_of(request(3)) == [[0], [10, 11], [20, 21, 22]]
    with pytest.raises(InvalidRequest, match="input_lengths holds 5, but input_ids has 3 columns"):
        prompts_of(request(2) | {"input_lengths": np.array([5, 1])})
    with pytest.raises(InvalidRequest, match=r"input_ids has shape \[2, 3\] and input_lengths 1 value"):
        prompts_of(request(2) | {"input_lengths": np.array([1])})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"temperature": 0.0}),
        ({"runtime_top_k": [1, 1], "temperature": [0.7, 0.7]}, {"temperature": 0.0}),
        ({"runtime_top_k": [0, 0], "runtime_top_p": [0.0, 0.0]}, {"temperature": 0.0}),
        ({"runtime_top_k": [4, 4]}, {"temperature": 1.0, "top_k": 4, "top_p": 1.0}),
        ({"runtime_top_p": [0.5, 0.5], "temperature": [2.0, 2.0]}, {"temperature": 2.0, "top_k": 0, "top_p": 0.5}),
        ({"runtime_top_k": [4, 4], "runtime_top_p": [0.0, 0.0]}, {"temperature": 1.0, "top_k": 4, "top_p": 1.0}),
        ({"end_id": [3, 3], "start_id": [2, 2]}, {"temperature": 0.0, "end_token_id": 3, "start_token_id": 2}),
        ({"is_return_log_probs": [True, True]}, {"temperature": 0.0, "logprobs": 0}),
        (
            {
                "beam_width": [3, 3],
                "runtime_top_k": [1, 1],
                "len_penalty": [0.5, 0.5],
                "beam_search_diversity_rate": [1.0, 1.0],
            },
            {"num_beams": 3, "num_samples": 3, "temperature": 1.0, "length_penalty": 0.5, "diversity_rate": 1.0},
        ),
        ({"prompt_learning_task_name_ids": [0, 0]}, {"temperature": 0.0}),
    ],
)
def test_defaults_and_rules_are_fastertransformers(given: dict[str, Any], expected: dict[str, Any]) -> None:
    rows = sampling_of(request(2, **given))
    assert rows == [{"max_new_tokens": 5, "seed": 0} | expected] * 2
    SamplingParams(**rows[0])


def test_each_row_has_its_own_parameters_and_words() -> None:
    lists = np.stack([to_word_lists([[4, 5], [6]], 4), to_word_lists([], 4)])
    first, second = sampling_of(request(2, random_seed=[7, 8], runtime_top_k=[2, 3], stop_words_list=lists))
    assert (first["seed"], second["seed"], first["top_k"], second["top_k"]) == (7, 8, 2, 3)
    assert (first["stop"], second["stop"]) == ([(4, 5), (6,)], [])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"request_output_len": np.ones((2, 2), np.uint32)}, r"request_output_len has shape \[2, 2\] for 2 prompts"),
        ({"runtime_top_k": np.ones(3, np.uint32)}, "runtime_top_k has 3 values for 2 prompts"),
        ({"prompt_learning_task_name_ids": np.array([1, 0])}, "names a task, and this server has none"),
        ({"bad_words_list": np.zeros((3, 2, 1), np.int32)}, "bad_words_list has 3 rows for 2 prompts"),
    ],
)
def test_what_does_not_fit_the_batch_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        sampling_of(request(2) | given)


def test_not_a_number_is_not_taken_for_greedy() -> None:
    with pytest.raises(InvalidRequest, match="temperature is nan"):
        sampling_of(request(1, temperature=[float("nan")]))


def test_outputs_are_padded_and_what_ended_a_text_is_not_counted() -> None:
    completions = [
        {"token_ids": [1, 2, 3], "logprobs": [-1.0, -2.0, -3.0], "stop_tokens": 2},
        {"token_ids": [4], "logprobs": [-0.5], "stop_tokens": 0},
    ]
    made = outputs_of([[7], [8, 9]], completions, 50)
    assert made["output_ids"].tolist() == [[[7, 1, 2, 3]], [[8, 9, 4, 50]]]
    assert made["sequence_length"].tolist() == [[2], [3]]
    assert made["output_log_probs"].tolist() == [[[-1, -2, -3]], [[-0.5, 0, 0]]]
    assert made["cum_log_probs"].tolist() == [[-6.0], [-0.5]]


def test_forms_of_a_word_begin_with_a_space_only_where_white_space_is_not_part_of_it() -> None:
    assert word_forms(["people", "no, such"]) == ["people", " people", "no, such", " no, such"]
    assert word_forms(["\n", "\tfoo", " bar", "  ", "\u3000x"]) == ["\n", "\tfoo", " bar", "  ", "\u3000x"]
    assert word_forms(["a", " a"]) == ["a", " a"]


def test_word_lists_there_and_back() -> None:
    words = [(1, 2, 3), (4,), (5, 6)]
    lists = to_word_lists(words, 8)
    assert lists.tolist() == [[1, 2, 3, 4, 5, 6, 0, 0], [3, 4, 6, -1, -1, -1, -1, -1]]
    assert from_word_lists(lists, "x") == words
    assert from_word_lists(to_word_lists([]), "x") == []


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        (np.zeros((3, 4)), r"x has shape \[3, 4\]; \[2, n\] is accepted"),
        (np.array([[1, 2], [2, 1]]), r"x has ends \[2, 1\] for 2 token ids"),
        (np.array([[1, 2], [3, -1]]), r"x has ends \[3\] for 2 token ids"),
        (np.array([[1, 2], [0, -1]]), r"x has ends \[0\] for 2 token ids"),
        (np.array([[1, 2], [-7, -1]]), r"x has ends \[-7\] for 2 token ids"),
    ],
)
def test_what_is_no_word_list_is_refused(lists: NDArray[Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        from_word_lists(lists, "x")


def test_csv() -> None:
    assert words_of_csv('a, b,"c, d",', "x") == ["a", " b", "c, d"]
    assert words_of_csv("", "x") == []
    with pytest.raises(InvalidRequest, match="x is '\"open', which is not a line of CSV"):
        words_of_csv('"open', "x")
    with pytest.raises(InvalidRequest, match="x has 100000 characters"):
        words_of_csv("a" * 100000, "x")
