"""Gives each tensor one name for all versions of Megatron and for NeMo, and finds the rows of query, key and value.

Megatron and NeMo fuse query, key and value into one matrix.

Megatron-LM (`megatron/model/language_model.py`, `transformer.py`) nests dictionaries: `model.language_model.embedding`,
`.encoder` (`.transformer` before 2021) and `.output_layer`. NeMo has the same names in one flat dictionary. Megatron-core
(`megatron/core/models/gpt`) uses the names `decoder`, `linear_qkv`, `linear_proj`, `linear_fc1` and `linear_fc2`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_ROOT = re.compile(
    r"^(?:state_dict\.)?(?:model\.)?(?:module\.)*(?:language_model\.)?(?=(?:embedding|encoder|transformer|decoder|output_layer)\.)"
)
_RENAMED = (
    ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
    ("mlp.linear_fc1.layer_norm_", "post_attention_layernorm."),
    ("pre_mlp_layernorm.", "post_attention_layernorm."),
    ("self_attention.", "attention."),
    ("linear_qkv.", "query_key_value."),
    ("linear_proj.", "dense."),
    ("linear_fc1.", "dense_h_to_4h."),
    ("linear_fc2.", "dense_4h_to_h."),
)

LAYER_TENSORS = {
    "ln_1.weight": "input_layernorm.weight",
    "ln_1.bias": "input_layernorm.bias",
    "attn.out_proj.weight": "attention.dense.weight",
    "mlp.fc_in.weight": "mlp.dense_h_to_4h.weight",
    "mlp.fc_in.bias": "mlp.dense_h_to_4h.bias",
    "mlp.fc_out.weight": "mlp.dense_4h_to_h.weight",
    "mlp.fc_out.bias": "mlp.dense_4h_to_h.bias",
}
"""Maps Hugging Face's names of the tensors in a layer to Megatron's names. Query, key and value are not included."""

QKV_PARTS = tuple(f"attn.{which}_proj.weight" for which in "qkv")
"""Hugging Face's names of query, key and value in a layer."""

QKV = "attention.query_key_value.weight"
"""Megatron's name of query, key and value in a layer, where they are fused into one matrix."""


def layer_and_part(name: str) -> tuple[int | None, str]:
    """The layer of the tensor with this Hugging Face name, and the tensor's name within the layer.

    The layer is None if the tensor is outside the layers.
    """
    if not name.startswith("transformer.h."):
        return None, name
    layer, part = name.removeprefix("transformer.h.").split(".", 1)
    return int(layer), part


def one_name(stored: str) -> str | None:
    """Return a tensor's common name; it begins with `layers.N.`, `embedding.`, `final_layernorm.` or `output_layer.`.

    The result is None if `stored` is not the name of a weight.
    """
    found = _ROOT.match(stored)
    if not found or stored.endswith("_extra_state"):
        return None
    name = re.sub(r"^(?:encoder|transformer|decoder)\.", "", stored[found.end() :])
    for old, new in _RENAMED:
        name = name.replace(old, new)
    return name


def qkv_rows(
    which: int, rows: Iterable[int], head_dim: int, local_heads: int, version: float, half_split_dim: int
) -> list[tuple[int, int]]:
    """For each row of the query (0), key (1) or value (2) matrix, find its rank and its row in the fused matrix of that rank.

    A rank has `local_heads` heads. The fused rows are ordered [heads, 3, head_dim] since version 2, [heads, head_dim, 3] in
    version 1, and [3, heads, head_dim] in version 0 (Megatron-LM, `megatron/checkpointing.py`, `fix_query_key_value_ordering`).
    In the first `half_split_dim` dimensions of a head, the two members of a rotary pair are `half_split_dim / 2` apart; in
    Hugging Face's matrix they are neighbours.
    """
    places = []
    for row in rows:
        head, dim = divmod(row, head_dim)
        rank, local = divmod(head, local_heads)
        if which < 2 and dim < half_split_dim:
            dim = dim // 2 + dim % 2 * (half_split_dim // 2)
        if version >= 2:
            places.append((rank, (local * 3 + which) * head_dim + dim))
        elif version >= 1:
            places.append((rank, (local * head_dim + dim) * 3 + which))
        else:
            places.append((rank, (which * local_heads + local) * head_dim + dim))
    return places
