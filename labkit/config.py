"""The shape of a GPT-J, and the shapes that have names. Imports nothing else of labkit but its errors."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest

_HUGGINGFACE_NAMES = {
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "rotary_dim": "rotary_dim",
    "context_length": "n_positions",
    "vocab_size": "vocab_size",
}


@dataclass(frozen=True, kw_only=True)
class GPTJConfig:
    """A GPT-J architecture.

    `hidden_size` is split evenly over `num_heads`; the first `rotary_dim` of each head's dimensions carry rotary
    positions in interleaved pairs. Raises `InvalidRequest` when the numbers do not fit together.
    """

    hidden_size: int
    num_layers: int
    num_heads: int
    rotary_dim: int
    context_length: int
    vocab_size: int
    intermediate_size: int = 0
    layer_norm_epsilon: float = 1e-5
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name in (*_HUGGINGFACE_NAMES, "intermediate_size"):
            value = getattr(self, name)
            if name == "intermediate_size" and value == 0:
                object.__setattr__(self, name, 4 * self.hidden_size)
            elif not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InvalidRequest(f"GPT-J config: {name} is {value!r}; give a whole number of at least 1")
        if self.hidden_size % self.num_heads:
            raise InvalidRequest(
                f"GPT-J config: hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}"
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise InvalidRequest(
                f"GPT-J config: rotary_dim {self.rotary_dim} must be even and at most the head size {self.head_dim}"
            )

    @property
    def head_dim(self) -> int:
        """Dimensions of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def parameter_count(self) -> int:
        """All weights, embedding and untied head included (6,050,882,784 for GPT-J 6B)."""
        h, inner = self.hidden_size, self.intermediate_size
        layer = 4 * h * h + 2 * h * inner + inner + h + 2 * h
        return self.num_layers * layer + 2 * self.vocab_size * h + self.vocab_size + 2 * h

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """Bytes of keys and values that one token keeps in the cache over all layers."""
        return 2 * self.num_layers * self.hidden_size * element_bytes

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTJConfig:
        """From the dictionary of a Hugging Face `config.json` of `model_type` `gptj`."""
        kind = values.get("model_type", "gptj")
        if kind != "gptj":
            raise InvalidRequest(f"config.json describes a model of type {kind!r}; labkit runs GPT-J ('gptj') only")
        activation = values.get("activation_function", "gelu_new")
        if activation not in ("gelu_new", "gelu_pytorch_tanh"):
            raise InvalidRequest(f"activation_function {activation!r} is not GPT-J's; 'gelu_new' (tanh form) is accepted")
        if values.get("tie_word_embeddings"):
            raise InvalidRequest("tie_word_embeddings is true; GPT-J has an untied head, set it to false")
        missing = [name for name in _HUGGINGFACE_NAMES.values() if values.get(name) is None]
        if missing:
            raise InvalidRequest(f"config.json lacks {', '.join(missing)}; a GPT-J config needs them all")
        return cls(
            **{ours: values[theirs] for ours, theirs in _HUGGINGFACE_NAMES.items()},
            intermediate_size=values.get("n_inner") or 0,
            layer_norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
            bos_token_id=values.get("bos_token_id"),
            eos_token_id=values.get("eos_token_id"),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> GPTJConfig:
        """From a `config.json` file; raises `InvalidRequest` naming the file when it is not one."""
        try:
            values = json.loads(Path(path).read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot read {path} as a GPT-J config.json: {error}") from error
        if not isinstance(values, dict):
            raise InvalidRequest(f"{path} holds {type(values).__name__}, not the object that a config.json is")
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of a Hugging Face `config.json` that `from_dict` reads back."""
        return {
            "architectures": ["GPTJForCausalLM"],
            "model_type": "gptj",
            "activation_function": "gelu_new",
            "tie_word_embeddings": False,
            **{theirs: getattr(self, ours) for ours, theirs in _HUGGINGFACE_NAMES.items()},
            "n_inner": self.intermediate_size,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": self.eos_token_id,
        }


GPT_J_6B = GPTJConfig(
    hidden_size=4096,
    num_layers=28,
    num_heads=16,
    rotary_dim=64,
    context_length=2048,
    vocab_size=50400,
    bos_token_id=50256,
    eos_token_id=50256,
)
"""EleutherAI/gpt-j-6b; the tokenizer has 50,257 entries, the vocabulary is padded to 50,400."""

GPT_J_405M = GPTJConfig(
    hidden_size=1024,
    num_layers=24,
    num_heads=16,
    rotary_dim=32,
    context_length=2048,
    vocab_size=50400,
    bos_token_id=50256,
    eos_token_id=50256,
)
"""A 405 M-parameter GPT-J for benchmarks on CPUs; it has no trained weights."""
