"""A `config.json` that is wrong: each field has values that it cannot have, or the weights belong to another model."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import labkit
from labkit.checkpoints import config_of, open_checkpoint
from labkit.errors import CheckpointError, InsufficientResources, InvalidRequest
from tests.checkpoints.forms import CONFIG, write_source

SIZES = ("n_embd", "n_layer", "n_head", "rotary_dim", "n_positions", "vocab_size", "n_inner")
NO_NUMBERS: list[Any] = [True, False, "8", "x", "", [], [8], {}, {"a": 8}]
NO_SIZES: list[Any] = [*NO_NUMBERS, 0, -1, -(2**70), 1.0, 8.5, 1e300, float("nan"), float("inf"), 10**9, 2**63, 2**70]
BAD: dict[str, list[Any]] = {
    **dict.fromkeys(SIZES, NO_SIZES),
    "layer_norm_epsilon": [*NO_NUMBERS, None, 0, 0.0, -1e-5, 1e-40, 2, float("nan"), float("inf"), -float("inf"), 10**400],
    "bos_token_id": ["x", True, 1.5, [1], {}],
    "eos_token_id": ["x", True, 1.5, [1, "2"], [[1]], {}, [None]],
    "activation_function": ["gelu", "relu", "gelu_fast", "", None, 3, True, ["gelu_new"], {}],
    "model_type": ["gpt2", "gpt_neox", "", None, 3, True, ["gptj"], {}],
    "tie_word_embeddings": [True, "false", 0, 1, "true", []],
    "scale_attn_weights": [False, "true", 1, 0],
    "rotary": [False, "true", 1, 0],
    "scale_attn_by_inverse_layer_idx": [True, "x"],
    "add_cross_attention": [True, "x"],
}
"""For each field, values that no GPT-J can have, whatever its weights."""
NAMED = {"model_type": "model_type is 'gptj'"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    write_source(folder, 1)
    return folder


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def edit(folder: Path, **changes: Any) -> Path:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    return folder


def change(folder: Path, **tensors: Tensor) -> Path:
    save_file(load_file(folder / "model.safetensors") | tensors, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("field", BAD)
def test_no_field_takes_what_it_cannot_have(copy: Path, field: str) -> None:
    """labkit raises one of its own errors, whose single line names the file and the field and says what is accepted."""
    before = (copy / "config.json").read_text()
    for value in BAD[field]:
        edit(copy, **{field: value})
        for opened in (copy, copy / "config.json"):
            with pytest.raises((InvalidRequest, CheckpointError)) as caught:
                labkit.load(opened, device="cpu")
            said = str(caught.value)
            assert str(copy / "config.json") in said, (value, said)
            assert NAMED.get(field, field) in said, (value, said)
            assert any(word in said for word in ("accepted", "labkit runs", "must be", "not a multiple", "lacks")), (
                value,
                said,
            )
            assert "\n" not in said
            assert len(said) < 500 + 2 * len(str(copy))
        (copy / "config.json").write_text(before)


def test_random_values_end_in_a_model_or_in_an_error_of_labkits_own(copy: Path) -> None:
    """Several fields have random values at once. If a model loads, its logits are finite numbers."""
    rng = random.Random(7)
    good = [None, 1, 2, 3, 4, 6, 12, 37, 48, 88, 211, 50256, 1e-5, "gptj", "gelu_new", [0, 5], []]
    values = [*NO_SIZES, *good, *good, "\ud800", "x" * 10**4]
    before, loaded = (copy / "config.json").read_text(), 0
    fields = [*BAD, "dtype", "torch_dtype", "architectures", "pad_token_id", "use_cache", "quantization_config"]
    for _ in range(100):
        changed = {rng.choice(fields): rng.choice(values) for _ in range(rng.choice([1, 1, 2, 3]))}
        (copy / "config.json").write_text(json.dumps(json.loads(before) | changed))
        said = refusal(copy)
        assert len(said) < 1000 + 2 * len(str(copy)), changed
        loaded += not said
    assert 10 < loaded < 90


def refusal(folder: Path) -> str:
    """Return labkit's error for a folder. If the folder loads, check that the logits are finite and return an empty text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            engine = labkit.load(folder, device="cpu", num_slots=64)
        except (InvalidRequest, CheckpointError, InsufficientResources) as error:
            return str(error)
    assert engine.logits([1, 2]).isfinite().all()
    return ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[1]", "it holds a list"),
        (b"null", "it holds a NoneType"),
        (b'"n_embd"', "it holds a str"),
        (b"NaN", "it holds a float"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' * 150_000, "nested too deeply"),
        (b'{"n_layer": 2, "n_layer": 3}', "it names 'n_layer' twice"),
        (b'{"a": "' + b"x" * 10**7 + b'"}', "it has 10,000,009 bytes; at most 1,048,576 are accepted"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"a": 1}\x00', "Extra data"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
)
def test_a_file_that_is_no_object(copy: Path, content: bytes, said: str) -> None:
    (copy / "config.json").write_bytes(content)
    for opened in (copy, copy / "config.json"):
        with pytest.raises(InvalidRequest) as caught:
            labkit.load(opened, device="cpu")
        assert str(copy / "config.json") in str(caught.value)
        assert said in str(caught.value)
        assert len(str(caught.value)) < 400 + len(str(copy))


def test_a_config_that_is_no_file(copy: Path) -> None:
    import os

    (copy / "config.json").unlink()
    os.mkfifo(copy / "config.json")  # reading it would wait forever
    with pytest.raises(InvalidRequest, match="it is not a regular file"):
        labkit.load(copy, device="cpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"n_layer": 2},
            r"holds weights of 4 layers, but n_layer in config\.json is 2: transformer\.h\.2\.\S+, .* and \d+ more",
        ),
        ({"n_layer": 5}, r"lacks the weight transformer\.h\.4\.ln_1\.weight .* or n_layer 5 in config\.json is too many"),
        (
            {"vocab_size": 210},
            r"wte\.weight has shape \(211, 48\), but config\.json calls for \(210, 48\) \(vocab_size 210, n_embd",
        ),
        (
            {"vocab_size": 256},
            r"wte\.weight has shape \(211, 48\), but config\.json calls for \(256, 48\) \(vocab_size 256, n_embd",
        ),
        ({"n_embd": 96}, r"has shape \(211, 48\), but config\.json calls for \(211, 96\)"),
        ({"n_inner": 89}, r"has shape \(88, 48\), but config\.json calls for \(89, 48\) \(n_embd 48, n_inner 89\)"),
        ({"n_inner": None}, r"has shape \(88, 48\), but config\.json calls for \(192, 48\)"),
    ],
)
def test_sizes_that_are_not_those_of_the_weights(copy: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        labkit.load(edit(copy, **changes), device="cpu")


@pytest.mark.parametrize(
    "name",
    ["transformer.h.0.attn.q_proj.bias", "transformer.h.0.ln_2.weight", "transformer.wpe.weight", "lm_head.weight.lora_A"],
)
def test_weights_of_another_model_are_refused_by_name(copy: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=f"holds weights that do not belong to a GPT-J: {name}; "):
        labkit.load(change(copy, **{name: torch.ones(48)}), device="cpu")


def test_other_weights_are_named_and_masks_are_not(copy: Path) -> None:
    masks = {"attn.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), "attn.masked_bias": torch.tensor(-1e9)}
    masks |= {"attn.embed_positions": torch.ones(37, 6), "attn.rotary_emb.inv_freq": torch.ones(3)}
    change(copy, **{f"transformer.h.{layer}.{name}": mask.clone() for layer in range(4) for name, mask in masks.items()})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = labkit.load(copy, device="cpu", num_slots=64).logits([1, 2])
    change(copy, **{"v_head.summary.weight": torch.ones(1, 48)})
    with pytest.warns(UserWarning, match=r"do not belong to a GPT-J and are ignored: v_head\.summary\.weight"):
        assert torch.equal(labkit.load(copy, device="cpu", num_slots=64).logits([1, 2]), expected)


def test_a_head_that_is_tied_or_has_no_bias(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    for name in ("lm_head.bias", "lm_head.weight"):
        del weights[name]
        save_file(weights, copy / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"lacks the weight lm_head\.(bias|weight) "):
            labkit.load(copy, device="cpu")
    with pytest.raises(InvalidRequest, match="tie_word_embeddings is true; GPT-J has an untied head, false is accepted"):
        labkit.load(edit(copy, tie_word_embeddings=True), device="cpu")


def test_what_takes_more_memory_than_there_is_says_so(tmp_path: Path) -> None:
    """The largest accepted values give an error of labkit, not of the memory allocator."""
    config = CONFIG.to_dict() | {"n_embd": 2**15, "n_head": 1, "rotary_dim": 2**15, "n_layer": 1, "n_positions": 2**20}
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": 8, "n_inner": 8}))
    with pytest.raises(InsufficientResources, match=r"needs \d+\.\d GB on cpu"):
        labkit.load(tmp_path / "config.json", device="cpu")


@pytest.mark.parametrize(
    "fields",
    [
        {"activation_function": "gelu_pytorch_tanh"},
        {"scale_attn_weights": True, "rotary": True, "tie_word_embeddings": None, "torch_dtype": "float16"},
        {
            "architectures": None,
            "gradient_checkpointing": False,
            "task_specific_params": {"text-generation": {"max_length": 50}},
        },
        {"layer_norm_epsilon": 1},
        {"quantization_config": None},
    ],
)
def test_what_is_not_wrong_is_taken(copy: Path, fields: dict[str, Any]) -> None:
    assert config_of(edit(copy, **fields)).hidden_size == 48
    assert open_checkpoint(copy).read("lm_head.bias").std() > 0
