"""Reads the settings of a Megatron or NeMo GPT, and finds the differences between such a model and a GPT-J.

A GPT-J layer is `x + attention(norm(x)) + mlp(norm(x))` with one norm, no biases in attention, rotary position embeddings, and
a head that has a bias and shares no weights with the embedding. By default, Megatron-LM's GPT is a different model: learned
position embeddings are added to the token embeddings, the head uses the weights of the embedding, and each layer has two norms
and runs attention and MLP one after the other. Rearranging weights cannot turn one model into the other, so a checkpoint of
such a model is refused, and the message lists the differences. Differences in storage alone are converted exactly: query, key
and value are interleaved per head, tensors are split over ranks, vocabularies are padded, and the two members of a rotary pair
are half a head apart (Megatron's default), while in a GPT-J they are neighbours.

The settings `gpt_j_residual` and `gpt_j_tied` (names of EleutherAI/gpt-neox), or `parallel_attn` without `parallel_layernorm`
(names of epfLLM/Megatron-LLM), say that the model adds attention and MLP in parallel, as GPT-J does. `labkit convert --format
megatron` writes `gpt_j_residual` and `gpt_j_tied`. The files that it writes have Megatron's layout, but Megatron-LM's own GPT
class cannot compute the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from labkit.config import GPTJConfig
from labkit.errors import CheckpointError, InvalidRequest

_NUMBERS = ("num_layers", "hidden_size", "num_attention_heads", "max_position_embeddings")
ROTARY_BASE = 10000


def differences(settings: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """List in words how a model with these settings and tensors differs from a GPT-J; the list is empty for a GPT-J."""
    have = set(names)

    def any_of(part: str) -> bool:
        return any(name.endswith(part) for name in have)

    found = []
    if any_of("embedding.position_embeddings.weight"):
        found.append("learned positions (embedding.position_embeddings), where GPT-J has rotary positions")
    elif not is_rotary(settings):
        kind = settings.get("position_embedding_type")
        found.append(f"positions that are not rotary (position_embedding_type {kind!r})")
    if "output_layer.weight" not in have:
        found.append("a tied head (no output_layer.weight), where GPT-J's head has its own weights")
    if any_of("post_attention_layernorm.weight"):
        found.append("a second layer norm in each layer (post_attention_layernorm), where GPT-J has one")
    if not is_parallel(settings):
        found.append(
            "a sequential residual (attention first, then the MLP on its result), where GPT-J adds both to the same input "
            "(settings gpt_j_residual and gpt_j_tied)"
        )
    return found + _other_differences(settings, have)


def _other_differences(settings: Mapping[str, Any], have: set[str]) -> list[str]:
    found = []
    norm = str(settings.get("normalization") or "LayerNorm").lower()
    if norm != "layernorm" or settings.get("apply_layernorm_1p") or settings.get("rmsnorm"):
        found.append(f"the norm {settings.get('normalization')!r} (or its 1p form), where GPT-J has LayerNorm")
    activation = settings.get("activation") or settings.get("activation_func_name") or "gelu"
    fused = [settings.get(key) for key in ("bias_gelu_fusion", "bias_activation_fusion", "openai_gelu")]
    gated = [key for key in ("swiglu", "squared_relu", "geglu", "reglu", "quick_geglu") if settings.get(key)]
    if gated or activation not in ("gelu", "gelu_new", "openai-gelu", "openai_gelu"):
        found.append(f"the activation {(gated or [activation])[0]}, where GPT-J has GELU in its tanh form")
    elif activation == "gelu" and False in fused and True not in fused:
        found.append("GELU by the error function (no bias_gelu_fusion, no openai_gelu), where GPT-J has the tanh form of GELU")
    heads = settings.get("num_attention_heads")
    groups = settings.get("num_query_groups")
    if groups not in (None, heads) and settings.get("group_query_attention", True):
        found.append(f"grouped queries (num_query_groups {groups} for {heads} heads), where GPT-J has a key for each head")
    channels = settings.get("kv_channels")
    if channels and heads and settings.get("hidden_size") and channels * heads != settings["hidden_size"]:
        found.append(f"heads of {channels} dimensions that do not add up to the hidden size, where GPT-J's heads do")
    if settings.get("num_experts") or settings.get("num_moe_experts") or any(".experts." in name for name in have):
        found.append("experts (MoE), where GPT-J has one MLP")
    base = settings.get("rotary_base")
    if base not in (None, ROTARY_BASE) or settings.get("rotary_seq_len_interpolation_factor") not in (None, 1, 1.0):
        found.append(f"rotary positions with base {base} or interpolated, where GPT-J's base is {ROTARY_BASE}")
    return found


def is_rotary(settings: Mapping[str, Any]) -> bool:
    """Whether the model uses rotary position embeddings."""
    return settings.get("position_embedding_type") == "rope" or bool(settings.get("use_rotary_position_embeddings"))


def is_parallel(settings: Mapping[str, Any]) -> bool:
    """Whether attention and MLP read the output of the same norm and their outputs are added in one sum."""
    neox = settings.get("gpt_j_residual") and settings.get("gpt_j_tied")
    return bool(neox or (settings.get("parallel_attn") and not settings.get("parallel_layernorm")))


def is_half_split(settings: Mapping[str, Any]) -> bool:
    """Whether the dimensions of a rotary pair are half a head apart (Megatron's default) instead of neighbours."""
    return not settings.get("rotary_interleaved")


def config_from(settings: Mapping[str, Any], stored_vocab: int, label: str) -> GPTJConfig:
    """The config that the settings describe.

    If the settings have no `vocab_size`, the size of the vocabulary is `stored_vocab`, which includes the padding. Raises
    `CheckpointError` if a setting is missing or wrong.
    """
    missing = [name for name in _NUMBERS if not isinstance(settings.get(name), int)]
    if missing:
        raise CheckpointError(f"{label} lacks the settings {', '.join(missing)}; a whole number is needed for each")
    vocab = settings.get("vocab_size") or stored_vocab
    if not isinstance(vocab, int) or not 0 < vocab <= stored_vocab:
        raise CheckpointError(f"{label}: vocab_size is {vocab!r}, but its embeddings have {stored_vocab} rows")
    head_dim = settings["hidden_size"] // max(1, settings["num_attention_heads"])
    try:  # YAML reads 1e-5 as a string
        percent = float(settings.get("rotary_percent") or settings.get("rotary_percentage") or 1.0)
        rotary_dim = round(percent * head_dim)
        epsilon = float(settings.get("layernorm_epsilon") or settings.get("norm_epsilon") or 1e-5)
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{label}: rotary_percent or layernorm_epsilon is not a number: {error}") from error
    try:
        return GPTJConfig(
            hidden_size=settings["hidden_size"],
            num_layers=settings["num_layers"],
            num_heads=settings["num_attention_heads"],
            rotary_dim=rotary_dim,
            context_length=settings["max_position_embeddings"],
            vocab_size=vocab,
            intermediate_size=settings.get("ffn_hidden_size") or 0,
            layer_norm_epsilon=epsilon,
            bos_token_id=settings.get("bos_token_id"),
            eos_token_id=settings.get("eos_token_id"),
        )
    except InvalidRequest as error:
        raise InvalidRequest(f"{label}: {error}") from error


def settings_of(config: GPTJConfig, tensor_parallel: int, pipeline_parallel: int, padded_vocab: int) -> dict[str, Any]:
    """The settings of `config` under Megatron-LM's names; `config_from` turns them back into the same config."""
    return {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "kv_channels": config.head_dim,
        "max_position_embeddings": config.context_length,
        "seq_length": config.context_length,
        "layernorm_epsilon": config.layer_norm_epsilon,
        "normalization": "LayerNorm",
        "position_embedding_type": "rope",
        "use_rotary_position_embeddings": True,
        "rotary_percent": config.rotary_dim / config.head_dim,
        "rotary_base": ROTARY_BASE,
        "rotary_interleaved": True,
        "openai_gelu": True,
        "swiglu": False,
        "untie_embeddings_and_output_weights": True,
        "gpt_j_residual": True,
        "gpt_j_tied": True,
        "vocab_size": config.vocab_size,
        "padded_vocab_size": padded_vocab,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(config.end_token_ids) if len(config.end_token_ids) > 1 else config.eos_token_id,
        "tensor_model_parallel_size": tensor_parallel,
        "pipeline_model_parallel_size": pipeline_parallel,
    }
