"""Writes a GPT-J to a GGUF file as if it were a Phi-2, one tensor at a time.

llama.cpp has no GPT-J, but its Phi-2 computes the same function. Both models have one layer norm before attention and MLP,
which run in parallel; rotary position embedding in a part of each head; GELU in its tanh form; and an output head with a bias.
There are two differences. Phi-2 rotates the dimensions `i` and `i + rotary_dim / 2` of an attention head together, but GPT-J
rotates the dimensions `2 i` and `2 i + 1` together. So the rows of the query and key matrices are reordered. Phi-2 also has a
bias after the attention; this bias is zero in the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints import Checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.config import GPTJConfig
from labkit.errors import NotAvailable

MATRICES = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "Q8_0", "int4": "Q4_0"}
"""The type in which the matrices are written for each precision of the benchmark. All vectors are written as F32."""

EDGES = MATRICES | {"int4": "Q8_0"}
"""The type of the embedding and of the output head in each precision. In int4, the head has 8 bits, as in labkit's int4."""


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor of the file. It holds the rows of the checkpoint's tensors `sources`, or zeros if `sources` is empty."""

    name: str
    sources: tuple[str, ...]
    shape: tuple[int, ...]
    kind: str
    """The name of the tensor's type in GGUF, such as "Q4_0"."""


def write_gguf(checkpoint: Checkpoint, path: Path, precision: str, *, fused: bool = True) -> None:
    """Write the GGUF file of a checkpoint in a precision of the benchmark.

    If `fused` is true, the matrices of query, key and value become one tensor, so that one matrix multiplication computes all
    three. The values are rounded from float32. Raises `NotAvailable` if the rows of a matrix cannot be divided into the blocks
    of its type.
    """
    import gguf

    writer: Any = gguf.GGUFWriter(path, "phi2")
    try:
        _describe(writer, checkpoint)
        tensors = list(tensors_of(checkpoint.config, precision, fused))
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            size = byte_size(tensor)
            # The shape is in values, not in bytes. gguf ignores the dtype (None here), because `raw_dtype` is given.
            writer.add_tensor_info(tensor.name, tensor.shape, None, size, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            values = read_values(checkpoint, tensor).numpy()
            writer.write_tensor_data(gguf.quants.quantize(values, gguf.GGMLQuantizationType[tensor.kind]))
    finally:
        writer.close()


def tensors_of(config: GPTJConfig, precision: str, fused: bool) -> Iterator[GGUFTensor]:
    """Yield all tensors of the file, in the order of the file."""
    shapes, matrix, edge = expected_shapes(config), MATRICES[precision], EDGES[precision]
    hidden = config.hidden_size

    def one(name: str, source: str, kind: str = "F32") -> GGUFTensor:
        return GGUFTensor(name, (source,), shapes[source], kind)

    yield one("token_embd.weight", "transformer.wte.weight", edge)
    for layer in range(config.num_layers):
        ours, theirs = f"transformer.h.{layer}", f"blk.{layer}"
        for part in ("weight", "bias"):
            yield one(f"{theirs}.attn_norm.{part}", f"{ours}.ln_1.{part}")
        if fused:
            sources = tuple(f"{ours}.attn.{letter}_proj.weight" for letter in "qkv")
            yield GGUFTensor(f"{theirs}.attn_qkv.weight", sources, (3 * hidden, hidden), matrix)
        else:
            for letter in "qkv":
                yield one(f"{theirs}.attn_{letter}.weight", f"{ours}.attn.{letter}_proj.weight", matrix)
        yield one(f"{theirs}.attn_output.weight", f"{ours}.attn.out_proj.weight", matrix)
        yield GGUFTensor(f"{theirs}.attn_output.bias", (), (hidden,), "F32")
        for name, source in (("ffn_up", "fc_in"), ("ffn_down", "fc_out")):
            yield one(f"{theirs}.{name}.weight", f"{ours}.mlp.{source}.weight", matrix)
            yield one(f"{theirs}.{name}.bias", f"{ours}.mlp.{source}.bias")
    for part in ("weight", "bias"):
        yield one(f"output_norm.{part}", f"transformer.ln_f.{part}")
    yield one("output.weight", "lm_head.weight", edge)
    yield one("output.bias", "lm_head.bias")


def byte_size(tensor: GGUFTensor) -> int:
    """The bytes of a tensor in the file; raises `NotAvailable` if its rows cannot be divided into the blocks of its type."""
    import gguf

    values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.kind]]
    if tensor.shape[-1] % values:
        raise NotAvailable(
            f"{tensor.name} has rows of {tensor.shape[-1]} values; llama.cpp's {tensor.kind} needs a multiple of {values}"
        )
    return int(torch.Size(tensor.shape).numel() // values * size)


def read_values(checkpoint: Checkpoint, tensor: GGUFTensor) -> Tensor:
    """The values of one tensor of the file, in float32."""
    if not tensor.sources:
        return torch.zeros(tensor.shape)
    parts = []
    for name in tensor.sources:
        part = checkpoint.read(name, dtype=torch.float32)
        turned = name.endswith(("q_proj.weight", "k_proj.weight"))
        parts.append(half_split_rows(part, checkpoint.config) if turned else part)
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def half_split_rows(matrix: Tensor, config: GPTJConfig) -> Tensor:
    """Put the even rotary rows of each head before the odd rotary rows.

    The reason is that GPT-J rotates two neighbouring rows together, but llama.cpp rotates a row of the first half of the rotary
    rows together with a row of the second half. `matrix` is `[num_heads * head_dim, hidden_size]`. Rows that are not rotary
    rows stay where they are. If query and key have the same order of rows, their product does not depend on this order.
    """
    rotary = torch.arange(config.rotary_dim)
    order = torch.cat((rotary[0::2], rotary[1::2], torch.arange(config.rotary_dim, config.head_dim)))
    return matrix.view(config.num_heads, config.head_dim, -1)[:, order].reshape(matrix.shape)


def _describe(writer: Any, checkpoint: Checkpoint) -> None:
    """Write the metadata that llama.cpp reads. There is no tokenizer: the prompts are token ids."""
    import gguf

    config = checkpoint.config
    writer.add_name(checkpoint.name)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_layers)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_heads)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("no_vocab")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
