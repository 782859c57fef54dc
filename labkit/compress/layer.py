"""Quantizes the matrices of one block, and the head, with a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.awq import round_with_fitted_scales, search_scales
from labkit.compress.binary import to_signs
from labkit.compress.block import FIRST, MATRICES, Block
from labkit.compress.folds import into_layer_norm, into_value_rows
from labkit.compress.gptq import GptqOptions, refined_gptq
from labkit.compress.input_statistics import InputStatistics, statistics_of
from labkit.compress.method import HEAD, Method
from labkit.compress.round_to_nearest import round_to_nearest
from labkit.compress.scales import searched

BLOCK_BIASES = ("ln_1.weight", "ln_1.bias", "mlp.fc_in.bias", "mlp.fc_out.bias")
"""The tensors of a block that are not quantized."""


def _least_error(weight: Tensor, scheme: IntegerScheme) -> IntegerWeight:
    return searched(weight.float(), scheme).round(weight.float())


WITHOUT_DATA = {"rtn": round_to_nearest, "mse": _least_error, "signs": to_signs}
"""The algorithms that need no calibration: each quantizes a dense `[out, in]` matrix to a scheme."""


@dataclass(frozen=True)
class QuantizedTensors:
    """The tensors to store for a block or the head: quantized matrices by module, and dense tensors by name."""

    matrices: dict[str, IntegerWeight]
    dense: dict[str, Tensor]

    def dequantized(self) -> dict[str, Tensor]:
        """All tensors as dense float32 tensors, by name."""
        matrices = {f"{name}.weight": matrix.dequantize() for name, matrix in self.matrices.items()}
        return matrices | {name: tensor.float() for name, tensor in self.dense.items()}


def quantize_block(
    block: Block,
    method: Method,
    hidden: Sequence[Tensor],
    where: str,
    dtype: torch.dtype,
    schemes: Mapping[str, IntegerScheme] | None = None,
) -> QuantizedTensors:
    """Quantize the matrices of a block; `hidden` are the states that enter the block, one per calibration window.

    The four matrices that read the layer norm are quantized first. Then out_proj and fc_out are quantized; their
    inputs are computed with the four quantized matrices. `where` names the block in messages. Dense tensors are stored in
    `dtype`; later layers are calibrated with the rounded tensors. `schemes` has the scheme of each matrix, if the schemes
    differ from `method.scheme`. `block` is changed in place.
    """
    if not method.calibrated:
        rounding = method.rounding or WITHOUT_DATA[method.algorithm]
        return with_dense_tensors(
            block, {name: rounding(block.tensors[f"{name}.weight"], method.scheme) for name in MATRICES}, dtype
        )
    schemes = schemes or dict.fromkeys(MATRICES, method.scheme)
    found: dict[str, IntegerWeight] = {}
    first = statistics_of(f"{where} layer norm", map(block.normed, hidden))
    if method.algorithm == "awq":
        weights = torch.cat([block.tensors[f"{name}.weight"] for name in FIRST])
        factors = search_scales(weights, first.hessian, first.magnitude, method.scheme)
        into_layer_norm(block.tensors, factors)
        _scale_columns(block, FIRST, factors)
        first = statistics_of(f"{where} layer norm", map(block.normed, hidden))
    _quantize(block, FIRST, first, method, schemes, found)
    attended = statistics_of(f"{where} out_proj", (block.attended(block.normed(each)) for each in hidden))
    if method.algorithm == "awq":
        factors = search_scales(block.tensors["attn.out_proj.weight"], attended.hessian, attended.magnitude, method.scheme)
        found["attn.v_proj"] = into_value_rows(found["attn.v_proj"], factors)
        block.tensors["attn.v_proj.weight"] = found["attn.v_proj"].dequantize()
        _scale_columns(block, ("attn.out_proj",), factors)
        attended = statistics_of(f"{where} out_proj", (block.attended(block.normed(each)) for each in hidden))
    _quantize(block, ("attn.out_proj",), attended, method, schemes, found)
    inner = statistics_of(f"{where} fc_out", (block.inner(block.normed(each)) for each in hidden))
    _quantize(block, ("mlp.fc_out",), inner, method, schemes, found)
    return with_dense_tensors(block, found, dtype)


def quantize_head(
    tensors: dict[str, Tensor], method: Method, epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
) -> QuantizedTensors:
    """Quantize lm_head to int8 with a scale for each row. `tensors` are lm_head and ln_f, by their Hugging Face names."""
    weight, norm = tensors["lm_head.weight"], tensors["transformer.ln_f.weight"]

    def normed(state: Tensor) -> Tensor:
        return F.layer_norm(state, norm.shape, norm, tensors["transformer.ln_f.bias"], epsilon)

    found = round_to_nearest(weight, HEAD)
    if method.algorithm in ("awq", "gptq"):
        found = _rounder(method, HEAD, statistics_of("lm_head", map(normed, hidden)))(weight)
    dense = {name: tensor.to(dtype) for name, tensor in tensors.items() if name != "lm_head.weight"}
    return QuantizedTensors({"lm_head": found}, dense)


def _quantize(
    block: Block,
    names: Sequence[str],
    statistics: InputStatistics,
    method: Method,
    schemes: Mapping[str, IntegerScheme],
    found: dict[str, IntegerWeight],
) -> None:
    """Quantize matrices that read the same inputs, and put the quantized values into the block."""
    for name in names:
        found[name] = _rounder(method, schemes[name], statistics)(block.tensors[f"{name}.weight"])
        block.tensors[f"{name}.weight"] = found[name].dequantize()


def _rounder(method: Method, scheme: IntegerScheme, statistics: InputStatistics) -> Callable[[Tensor], IntegerWeight]:
    hessian = statistics.hessian
    if method.algorithm == "gptq":
        options = GptqOptions(method.damping, method.activation_order)
        return lambda weight: refined_gptq(weight, hessian, scheme, options)
    return lambda weight: round_with_fitted_scales(weight, hessian, scheme)


def _scale_columns(block: Block, names: Iterable[str], factors: Tensor) -> None:
    for name in names:
        block.tensors[f"{name}.weight"] = block.tensors[f"{name}.weight"] * factors


def with_dense_tensors(block: Block, matrices: dict[str, IntegerWeight], dtype: torch.dtype) -> QuantizedTensors:
    """Combine the quantized matrices of a block with its other tensors, which are stored in `dtype`."""
    return QuantizedTensors(matrices, {name: block.tensors[name].to(dtype) for name in BLOCK_BIASES})
