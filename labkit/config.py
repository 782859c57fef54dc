"""The configuration of a GPT-J model, and named configurations.

This module imports only `errors` and `json_file` from labkit.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.errors import InvalidRequest
from labkit.json_file import read_json_object

_HUGGINGFACE_NAMES = {
    "hidden_size": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
    "rotary_dim": "rotary_dim",
    "context_length": "n_positions",
    "vocab_size": "vocab_size",
}
_MOST = {
    "hidden_size": 2**17,
    "num_layers": 2**12,
    "num_heads": 2**12,
    "rotary_dim": 2**17,
    "context_length": 2**20,
    "vocab_size": 2**24,
    "intermediate_size": 2**20,
}
"""The largest accepted values. A larger value must be a mistake: such a model would not fit into any machine's memory."""
LEAST_EPSILON, MOST_EPSILON = 1e-30, 1.0
_FIXED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation_function": (("gelu_new", "gelu_pytorch_tanh"), "{} is not GPT-J's GELU; 'gelu_new' (tanh form) is accepted"),
    "tie_word_embeddings": ((False, None), "is {}; GPT-J has an untied head, false is accepted"),
    "rotary": ((True, None), "is {}; GPT-J's positions are rotary, true is accepted"),
    "scale_attn_weights": ((True, None), "is {}; GPT-J scales attention by the head size, true is accepted"),
    "scale_attn_by_inverse_layer_idx": ((False, None), "is {}; GPT-J has no such scale, false is accepted"),
    "add_cross_attention": ((False, None), "is {}; GPT-J has no cross-attention, false is accepted"),
}
"""Settings of a `config.json` that are fixed in GPT-J: the accepted values, and the error message for any other value."""


def layer_matrix_parameters(hidden_size: int, intermediate_size: int) -> int:
    """The number of parameters in the matrices of one layer: four matrices for attention, two for the MLP."""
    return 4 * hidden_size**2 + 2 * hidden_size * intermediate_size


def cache_elements_per_token(num_layers: int, hidden_size: int) -> int:
    """The number of values that the KV cache holds for one token: a key and a value vector in each layer."""
    return 2 * num_layers * hidden_size


@dataclass(frozen=True, kw_only=True)
class GPTJConfig:
    """A GPT-J architecture.

    `hidden_size` is divided evenly among the `num_heads` heads. The rotary position embedding rotates the first `rotary_dim`
    dimensions of each head, in interleaved pairs. `eos_token_id` is the token that ends a text, or several such tokens; a list
    is converted to a tuple. Some configs hold token ids outside the vocabulary, because their `vocab_size` was changed. Such
    ids are dropped with a warning, because the model never generates them. Raises `InvalidRequest` if the numbers do not fit
    together.
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
    eos_token_id: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        for name in _HUGGINGFACE_NAMES:
            self._check_whole(name)
        if type(self.intermediate_size) is int and self.intermediate_size == 0:
            object.__setattr__(self, "intermediate_size", 4 * self.hidden_size)
        self._check_whole("intermediate_size")
        if self.hidden_size % self.num_heads:
            raise InvalidRequest(
                f"GPT-J config: hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads} (n_embd and "
                "n_head in config.json)"
            )
        if self.rotary_dim % 2 or self.rotary_dim > self.head_dim:
            raise InvalidRequest(
                f"GPT-J config: rotary_dim {self.rotary_dim} must be even and at most the head size {self.head_dim}"
            )
        epsilon = self.layer_norm_epsilon
        if type(epsilon) not in (int, float) or not LEAST_EPSILON <= epsilon <= MOST_EPSILON:
            raise InvalidRequest(
                f"GPT-J config: layer_norm_epsilon is {epsilon!r:.80}; a number from {LEAST_EPSILON} to {MOST_EPSILON} is "
                "accepted, GPT-J 6B has 1e-05"
            )
        start = self._tokens("bos_token_id", self.bos_token_id, one=True)
        object.__setattr__(self, "bos_token_id", start[0] if start else None)
        ends = self._tokens("eos_token_id", self.eos_token_id)
        object.__setattr__(self, "eos_token_id", ends if len(ends) > 1 else ends[0] if ends else None)

    def _check_whole(self, name: str) -> None:
        value, most = getattr(self, name), _MOST[name]
        if type(value) is not int or not 1 <= value <= most:
            theirs = _HUGGINGFACE_NAMES.get(name, "n_inner")
            also = "" if theirs == name else f" ({theirs} in config.json)"
            raise InvalidRequest(f"GPT-J config: {name} is {value!r:.80}{also}; a whole number from 1 to {most} is accepted")

    def _tokens(self, name: str, given: Any, *, one: bool = False) -> tuple[int, ...]:
        """The token ids of a setting. Duplicates and ids outside the vocabulary are left out."""
        several = isinstance(given, list | tuple) and not one
        tokens = () if given is None else tuple(given) if several else (given,)
        if any(type(token) is not int for token in tokens):
            accepted = "a token id or null is" if one else "a token id, a list of token ids, or null is"
            raise InvalidRequest(f"GPT-J config: {name} is {given!r:.80}; {accepted} accepted")
        if outside := [token for token in tokens if not 0 <= token < self.vocab_size]:
            warnings.warn(
                f"{name} {', '.join(f'{token!r:.40}' for token in outside[:3])} is outside the vocabulary of "
                f"{self.vocab_size} tokens; the model never generates it, so it is ignored",
                stacklevel=1,
            )
        return tuple(dict.fromkeys(token for token in tokens if 0 <= token < self.vocab_size))

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Every token that ends a text; an empty tuple if the model has no such token."""
        ends = self.eos_token_id
        return () if ends is None else (ends,) if isinstance(ends, int) else ends

    @property
    def head_dim(self) -> int:
        """The number of dimensions of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def parameter_count(self) -> int:
        """The number of parameters, including the embedding and the untied head (6,050,882,784 for GPT-J 6B)."""
        h, inner = self.hidden_size, self.intermediate_size
        layer = layer_matrix_parameters(h, inner) + inner + h + 2 * h
        return self.num_layers * layer + 2 * self.vocab_size * h + self.vocab_size + 2 * h

    def kv_bytes_per_token(self, element_bytes: int) -> int:
        """The size in bytes of one token's keys and values in the cache, over all layers."""
        return cache_elements_per_token(self.num_layers, self.hidden_size) * element_bytes

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> GPTJConfig:
        """Make a config from the dictionary of a Hugging Face `config.json` with `model_type` `gptj`."""
        kind = values.get("model_type", "gptj")
        if kind != "gptj":
            raise InvalidRequest(
                f"config.json describes a model of type {kind!r:.80}; labkit runs GPT-J only, whose model_type is 'gptj'"
            )
        for name, (accepted, why) in _FIXED.items():
            value = values.get(name, accepted[0])
            if not any(value is fit or (isinstance(value, str) and value == fit) for fit in accepted):
                shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else f"{value!r:.80}"
                raise InvalidRequest(f"{name} {why.format(shown)}")
        missing = [name for name in _HUGGINGFACE_NAMES.values() if values.get(name) is None]
        if missing:
            raise InvalidRequest(f"config.json lacks {', '.join(missing)}; a GPT-J config needs all of them")
        inner = values.get("n_inner")
        if type(inner) is int and inner == 0:
            raise InvalidRequest("n_inner is 0; a whole number of at least 1, or null for 4 times n_embd, is accepted")
        return cls(
            **{ours: values[theirs] for ours, theirs in _HUGGINGFACE_NAMES.items()},
            intermediate_size=0 if inner is None else inner,
            layer_norm_epsilon=values.get("layer_norm_epsilon", 1e-5),
            bos_token_id=values.get("bos_token_id"),
            eos_token_id=values.get("eos_token_id"),
        )

    @classmethod
    def from_file(cls, path: str | Path) -> GPTJConfig:
        """Make a config from a `config.json` file. Raises an `InvalidRequest` that names the file and the error in it."""
        try:
            values = read_json_object(path)
        except (OSError, ValueError) as error:
            raise InvalidRequest(f"cannot read {path} as a GPT-J config.json: {error}") from error
        try:
            return cls.from_dict(values)
        except InvalidRequest as error:
            raise InvalidRequest(f"{path}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """The dictionary of a Hugging Face `config.json`; `from_dict` reads it back."""
        return {
            "architectures": ["GPTJForCausalLM"],
            "model_type": "gptj",
            "activation_function": "gelu_new",
            "tie_word_embeddings": False,
            **{theirs: getattr(self, ours) for ours, theirs in _HUGGINGFACE_NAMES.items()},
            "n_inner": self.intermediate_size,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": list(self.eos_token_id) if isinstance(self.eos_token_id, tuple) else self.eos_token_id,
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
"""EleutherAI/gpt-j-6b. The tokenizer of GPT-J 6B has 50,257 tokens; the vocabulary is padded to 50,400."""

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
"""A GPT-J with 405 M parameters for benchmarks on CPUs; it has no trained weights."""
