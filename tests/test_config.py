"""The configuration of a GPT-J: its counts, its conversion to Hugging Face's form and back, and the values that it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from labkit.config import GPT_J_6B, GPT_J_405M, GPTJConfig
from labkit.errors import InvalidRequest

ODD: dict[str, Any] = {
    "hidden_size": 90,
    "num_layers": 3,
    "num_heads": 5,
    "rotary_dim": 6,
    "context_length": 33,
    "vocab_size": 59,
    "intermediate_size": 101,
}


def test_counts() -> None:
    assert GPT_J_6B.parameter_count == 6_050_882_784
    assert (GPT_J_6B.head_dim, GPT_J_6B.intermediate_size) == (256, 16384)
    assert GPT_J_6B.kv_bytes_per_token(2) == 458_752
    assert 400e6 < GPT_J_405M.parameter_count < 410e6


def test_the_parameter_count_is_that_of_transformers() -> None:
    import transformers

    for config in (GPTJConfig(**ODD), GPTJConfig(**{**ODD, "intermediate_size": 0, "num_layers": 1})):
        peer = transformers.GPTJForCausalLM(transformers.GPTJConfig(**config.to_dict()))
        assert sum(parameter.numel() for parameter in peer.parameters()) == config.parameter_count


def test_there_and_back(tmp_path: Path) -> None:
    for config in (GPT_J_6B, GPTJConfig(**ODD, layer_norm_epsilon=1e-6, bos_token_id=1, eos_token_id=2)):
        (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
        assert GPTJConfig.from_file(tmp_path / "config.json") == config


@pytest.mark.parametrize("value", [0, -1, 1.5, "8", None, True])
@pytest.mark.parametrize("name", [name for name in ODD if name != "intermediate_size"])
def test_sizes_are_whole_numbers_of_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"{name} is {value!r}"):
        GPTJConfig(**{**ODD, name: value})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 4}, "hidden_size 90 is not a multiple of num_heads 4"),
        ({"rotary_dim": 5}, "rotary_dim 5 must be even"),
        ({"rotary_dim": 20}, "at most the head size 18"),
        ({"intermediate_size": -4}, "intermediate_size is -4"),
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        GPTJConfig(**ODD | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "of type 'llama'; labkit runs GPT-J"),
        ({"activation_function": "relu"}, "activation_function 'relu' is not GPT-J's"),
        ({"tie_word_embeddings": True}, "untied head"),
        ({"n_embd": None, "n_layer": None}, "lacks n_embd, n_layer"),
    ],
)
def test_the_config_of_another_model_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        GPTJConfig.from_dict(GPT_J_6B.to_dict() | changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "\x00"])
def test_a_file_that_is_no_config_is_refused_by_name(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    for name in ("config.json", "gone.json"):
        with pytest.raises(InvalidRequest, match=name):
            GPTJConfig.from_file(tmp_path / name)
