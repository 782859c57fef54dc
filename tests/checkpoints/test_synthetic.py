"""Synthetic weights: they depend only on the seed and the name, and their magnitude gives realistic logits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import labkit
from labkit.checkpoints import Checkpoint, expected_shapes, open_checkpoint
from labkit.config import GPT_J_6B, GPT_J_405M, GPTJConfig
from labkit.errors import InvalidRequest, NotAvailable
from tests.models import random_prompts

SMALL = GPTJConfig(hidden_size=96, num_layers=3, num_heads=3, rotary_dim=8, context_length=64, vocab_size=301)


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.json"
    path.write_text(json.dumps(SMALL.to_dict()))
    return path


def weights(checkpoint: Checkpoint, names: list[str]) -> dict[str, torch.Tensor]:
    return {name: checkpoint.read(name) for name in names}


def test_the_same_seed_gives_the_same_weights_in_any_order_and_slice(config_file: Path) -> None:
    names = open_checkpoint(config_file, seed=3).tensor_names()
    forward = weights(open_checkpoint(config_file, seed=3), names)
    backward = weights(open_checkpoint(config_file, seed=3), names[::-1])
    sliced = open_checkpoint(config_file, seed=3)
    for name, expected in forward.items():
        assert expected.dtype == torch.float16
        assert expected.shape == expected_shapes(SMALL)[name]
        assert torch.equal(expected, backward[name]), name
        assert torch.equal(sliced.read(name, rows=slice(5, 31)), expected[5:31]), name
        assert torch.equal(sliced.read(name, dtype=torch.float32), expected.float()), name
        if expected.dim() == 2:
            part = sliced.read(name, rows=slice(-9, None), columns=slice(30, 33))
            assert torch.equal(part, expected[-9:, 30:33]), name
            assert part.untyped_storage().nbytes() == part.nbytes, "a slice holds the whole tensor in memory"


def test_seeds_and_names_give_different_weights(config_file: Path) -> None:
    one, two = open_checkpoint(config_file, seed=1), open_checkpoint(config_file, seed=2)
    for name in one.tensor_names():
        assert not torch.equal(one.read(name), two.read(name)), name
    matrices = weights(one, [f"transformer.h.{layer}.attn.{part}_proj.weight" for layer in range(3) for part in "qkv"])
    assert len({tuple(tensor.flatten()[:8].tolist()) for tensor in matrices.values()}) == 9


def test_the_torch_generator_of_the_caller_is_left_alone(config_file: Path) -> None:
    torch.manual_seed(8)
    expected = torch.randn(4)
    torch.manual_seed(8)
    open_checkpoint(config_file).read("lm_head.weight")
    assert torch.equal(torch.randn(4), expected)


def test_a_config_file_loads_and_its_logits_are_realistic(config_file: Path) -> None:
    engine = labkit.load(config_file, device="cpu", seed=4)
    assert engine.config == SMALL
    assert engine.tokenizer is None
    for prompt in random_prompts(301, [64, 3], 4):
        logits = engine.logits(prompt)
        assert logits.isfinite().all()
        assert (logits.std(1) > 0.3).all()
        assert logits.abs().max() < 30
        assert (logits[0] - logits[-1]).abs().max() > 0.3, "the logits do not depend on the position"
    again = labkit.load(config_file, device="cpu", seed=4).logits([5, 6, 7])
    assert torch.equal(again, engine.logits([5, 6, 7]))
    assert not torch.allclose(again, labkit.load(config_file, device="cpu", seed=5).logits([5, 6, 7]), atol=0.1)


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [("gpt-j-6b-synthetic", GPT_J_6B, 6_050_882_784), ("gpt-j-405m-synthetic", GPT_J_405M, 405_433_568)],
)
def test_the_named_shapes(name: str, config: GPTJConfig, count: int) -> None:
    checkpoint = open_checkpoint(name)
    assert checkpoint.config == config
    assert config.parameter_count == count
    assert sum(torch.Size(shape).numel() for shape in expected_shapes(config).values()) == count
    row = checkpoint.read("transformer.h.27.ln_1.weight" if config is GPT_J_6B else "transformer.h.23.ln_1.weight")
    assert row.std() > 0.05


def test_random_weights_have_no_tokenizer(config_file: Path) -> None:
    with pytest.raises(NotAvailable, match="no tokenizer; give prompts as token ids"):
        open_checkpoint(config_file).tokenizer()


@pytest.mark.parametrize("name", ["gpt-j-6b-synthetik", "nowhere/at/all", "nowhere/config.json"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no model .*gptj-tiny, gpt-j-6b, .*or a \.nemo file"):
        open_checkpoint(name)
