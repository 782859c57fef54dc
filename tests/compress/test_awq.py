"""AWQ: folding the factors into the weights changes no result before rounding, and the factors that the search finds lower the
error.
"""

from __future__ import annotations

import torch

from labkit.checkpoints.integer_weight import IntegerScheme, IntegerWeight
from labkit.compress.awq import search_scales
from labkit.compress.block import FIRST, Block
from labkit.compress.folds import into_layer_norm, into_value_rows
from labkit.compress.output_error import output_error
from labkit.compress.scales import searched
from tests.compress.directories import CONFIG

CHOOSER = torch.Generator().manual_seed(7)


def block() -> Block:
    shapes = {f"attn.{part}_proj.weight": (64, 64) for part in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc_in.weight": (256, 64), "mlp.fc_out.weight": (64, 256)}
    tensors = {name: torch.randn(shape, generator=CHOOSER) * shape[1] ** -0.5 for name, shape in shapes.items()}
    for name, size in (("ln_1.weight", 64), ("ln_1.bias", 64), ("mlp.fc_in.bias", 256), ("mlp.fc_out.bias", 64)):
        tensors[name] = torch.randn(size, generator=CHOOSER)
    return Block(CONFIG, tensors)


def test_the_folds_are_exact() -> None:
    plain, folded = block(), block()
    folded.tensors = dict(plain.tensors)
    hidden = torch.randn(20, 64, generator=CHOOSER)
    factors, of_values = (torch.rand(64, generator=CHOOSER) * 3 + 0.1 for _ in range(2))
    into_layer_norm(folded.tensors, factors)
    for name in FIRST:
        folded.tensors[f"{name}.weight"] = folded.tensors[f"{name}.weight"] * factors
    folded.tensors["attn.v_proj.weight"] = folded.tensors["attn.v_proj.weight"] / of_values[:, None]
    folded.tensors["attn.out_proj.weight"] = folded.tensors["attn.out_proj.weight"] * of_values
    assert torch.allclose(folded.forward(hidden), plain.forward(hidden), atol=2e-5)


def test_a_quantized_v_is_divided_by_its_scales() -> None:
    scheme, factors = IntegerScheme(4, 32), torch.tensor([2.0, 0.5, 4.0])
    value = IntegerWeight(scheme, torch.ones(3, 64, dtype=torch.int8), torch.ones(3, 2, dtype=torch.float16))
    assert torch.equal(into_value_rows(value, factors).dequantize(), value.dequantize() / factors[:, None])


def test_large_activations_are_protected() -> None:
    weight = torch.randn(48, 64, generator=CHOOSER)
    inputs = torch.randn(400, 64, generator=CHOOSER)
    inputs[:, ::9] *= 20
    hessian, magnitude, scheme = inputs.T @ inputs / 400, inputs.abs().mean(0), IntegerScheme(3, 32)
    factors = search_scales(weight, hessian, magnitude, scheme)
    assert float(factors[::9].min()) > float(factors[1::9].max())
    scaled = weight * factors
    importance = hessian.diagonal()
    with_factors = searched(scaled, scheme, importance / factors.square()).round(scaled).dequantize() / factors
    without = searched(weight, scheme, importance).round(weight).dequantize()
    assert output_error(with_factors - weight, hessian) < 0.95 * output_error(without - weight, hessian)
