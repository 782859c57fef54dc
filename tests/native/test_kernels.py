"""The native kernels in every instruction set of this CPU are compared with float64, on awkward shapes and with canaries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from labkit import native, ops
from labkit.errors import InvalidRequest, NotAvailable
from labkit.native import build
from labkit.native.packed_weight import PackedWeight
from labkit.ops import Fp8Weight, Int4Weight, Int8Weight, W8A8Weight
from labkit.ops.torch_packed import TorchPackedWeight
from labkit.weight_formats import FORMATS, Fp8E5M2Weight, RoundedInputsWeight
from tests.native.instruction_sets import SETS
from tests.ops.test_ops import random, relative, scattered_cache

SHAPES = [(1, 1, 1), (1, 33, 17), (3, 32, 16), (5, 257, 130), (13, 100, 33), (25, 300, 259), (2, 4096, 31), (40, 160, 96)]

pytestmark = pytest.mark.skipif(not native.available(), reason=f"not measured here: no native library ({native.why_not()})")


@pytest.fixture(params=SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.instruction_set()
    try:
        native.use_instruction_set(request.param)
    except NotAvailable:
        pytest.skip(f"not measured here: a CPU without {request.param}")
    yield request.param
    native.use_instruction_set(before)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8", "int4", "sparse24", "sparse24_int8"])
@pytest.mark.parametrize("gelu", [False, True])
def test_products(instruction_set: str, kind: str, gelu: bool) -> None:
    for tokens, in_features, out_features in SHAPES:
        x, bias = random(tokens, in_features, seed=1), random(out_features, seed=2)
        weight = random(out_features, in_features, seed=3) / in_features**0.5
        kept = {"fp32": weight.float(), "bf16": weight.bfloat16(), "int8": Int8Weight.quantize(weight)}.get(kind)
        packed = PackedWeight(FORMATS[kind].quantize(weight) if kept is None else kept)
        rounded = x.bfloat16().double() if kind in ("bf16", "sparse24") else x
        expected = rounded @ packed.dequantize(torch.float64).T + bias
        expected = F.gelu(expected, approximate="tanh") if gelu else expected
        bound = (
            1e-5 if kind in ("fp32", "bf16", "sparse24") else 0.012 if in_features > 8 else 0.03
        )  # other kinds round inputs to int8
        found = packed.multiply(x.float(), bias.float(), gelu=gelu)
        assert relative(found, expected) < bound, (tokens, in_features, out_features)
        half = packed.multiply(x.bfloat16(), bias.float(), gelu=gelu)
        assert half.dtype == torch.bfloat16
        assert relative(half, expected) < bound + 0.006


@pytest.mark.parametrize("kind", ["fp32", "bf16", *FORMATS])
@pytest.mark.parametrize("broken", [torch.nan, torch.inf])
def test_rows_with_nan_or_infinity_give_no_numbers(instruction_set: str, kind: str, broken: float) -> None:
    weight = random(40, 300).float()
    kept = {"fp32": weight, "bf16": weight.bfloat16()}.get(kind)
    weights = [FORMATS[kind].quantize(weight) if kept is None else kept]
    if isinstance(weights[0], RoundedInputsWeight):
        weights.append(replace(weights[0], input_scale=0.03))
    for each, rows in itertools.product(weights, (1, 5, 14)):
        packed, x = PackedWeight(each), random(rows, 300).float()
        expected = packed.multiply(x)
        x[rows // 2, 200:204] = broken  # four, because 2:4 sparse weights skip two of them
        found = packed.multiply(x)
        whole = [row for row in range(rows) if row != rows // 2]
        assert torch.equal(found[whole], expected[whole])
        assert not bool(found[rows // 2].isfinite().any())


@pytest.mark.parametrize("kind", ["fp32", "bf16", *FORMATS])
def test_packing_keeps_every_value(kind: str) -> None:
    for out_features, in_features in [(1, 1), (17, 33), (130, 257), (48, 128)]:
        weight = random(out_features, in_features).float()
        if kind in FORMATS:
            kept = FORMATS[kind].quantize(weight)
            expected = kept.dequantize(torch.float32)
        else:
            kept = weight if kind == "fp32" else weight.bfloat16()
            expected = kept.float()  # type: ignore[union-attr, attr-defined]
        packed = PackedWeight(kept)
        assert packed.shape == (out_features, in_features)
        assert packed.precision == kind
        assert relative(packed.dequantize(), expected.double()) < 1e-7


def test_int4_groups_of_64_are_packed_as_pairs_of_32() -> None:
    weight = Int4Weight.quantize(random(20, 100), group_size=64)
    assert relative(PackedWeight(weight).dequantize(), weight.dequantize(torch.float64)) < 1e-7
    with pytest.raises(ValueError, match="groups of 16 cannot be packed; multiples of 32 are accepted"):
        PackedWeight(Int4Weight.quantize(random(20, 100), group_size=16))


def test_a_product_writes_its_output_and_nothing_else(instruction_set: str) -> None:
    from ctypes import byref

    from labkit.native.library import F32, library, pointer
    from labkit.native.packed_weight import workspace

    for tokens, out_features in itertools.product([1, 7, 13], [1, 15, 17, 40]):
        packed = PackedWeight(random(out_features, 50).float())
        x, canary = random(tokens, 50).float(), 12345.0
        around = torch.full((64 + tokens * out_features + 64,), canary)
        out = around[64 : 64 + tokens * out_features]
        out.fill_(torch.nan)
        arguments = (pointer(x, x.dtype, x.shape), tokens, 0, pointer(out, x.dtype, out.shape), workspace().handle, 2)
        library().lk_linear(byref(packed.struct()), F32, *arguments)
        assert relative(out.view(tokens, out_features), x.double() @ packed.dequantize(torch.float64).T) < 1e-5
        assert bool((around[:64] == canary).all())
        assert bool((around[-64:] == canary).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 33), (2, 80), (4, 64), (1, 256)])
def test_attention_over_scattered_slots(instruction_set: str, dtype: torch.dtype, heads: int, head_dim: int) -> None:
    """A batch has decodes, and chunks of few and of many queries. Slots that no sequence holds are filled with 1e30 and NaN."""
    spans = [(1, 0), (1, 44), (2, 7), (5, 12), (33, 0), (3, 0), (1, 130)]
    lengths = [new + past for new, past in spans]
    keys, values, table = scattered_cache(lengths, heads, head_dim)
    starts = torch.tensor([0, *itertools.accumulate(new for new, _ in spans)], dtype=torch.int32)
    query = random(int(starts[-1]), heads, head_dim)
    where = table, starts, torch.tensor(lengths, dtype=torch.int32)
    rounded = (query.to(dtype), keys.to(dtype), values.to(dtype))
    expected = ops.prefill_attention(*(tensor.double() for tensor in rounded), *where)
    found = ops.prefill_attention(*rounded, *where)
    assert found.dtype == dtype
    assert relative(found, expected) < (1e-5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_very_long_sequences(dtype: torch.dtype) -> None:
    lengths = [5000, 3, 1777]
    keys, values, table = scattered_cache(lengths, 2, 64)
    query = random(3, 2, 64)
    rounded = (query.to(dtype), keys.to(dtype), values.to(dtype))
    where = table, torch.tensor(lengths, dtype=torch.int32)
    expected = ops.decode_attention(*(tensor.double() for tensor in rounded), *where)
    assert relative(ops.decode_attention(*rounded, *where), expected) < (1e-5 if dtype == torch.float32 else 0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_norms_and_cache_write(instruction_set: str, dtype: torch.dtype) -> None:
    bound = 2e-6 if dtype == torch.float32 else 0.006
    for tokens, hidden in [(1, 1), (3, 7), (17, 130)]:
        parts = [(random(tokens, hidden, seed=seed) * 3 + 1).to(dtype) for seed in range(3)]
        weight, bias = random(hidden, seed=7).to(dtype), random(hidden, seed=8).to(dtype)
        wide = [part.double() for part in parts]
        expected = ops.residual_layer_norm(*wide, weight.double(), bias.double(), 1e-5)
        found = ops.residual_layer_norm(*parts, weight, bias, 1e-5)
        assert relative(found[0], expected[0]) < bound
        if hidden > 1 and dtype == torch.float32:
            assert relative(found[1], expected[1]) < bound
        alone = ops.layer_norm(wide[0], weight.double(), bias.double(), 1e-5)
        assert relative(ops.layer_norm(parts[0], weight, bias, 1e-5), alone) < bound or hidden == 1
    sin, cos = ops.rotary_table(20, 6).unbind(0)
    qkv, positions, slots = random(5, 3 * 3 * 10).to(dtype), torch.tensor([3, 0, 7, 19, 4]), torch.tensor([4, 11, 0, 7, 2])
    keys, values = torch.full((2, 12, 3, 10), 7.0, dtype=dtype).unbind(0)
    query = ops.rotary_cache_write(qkv, positions, sin, cos, keys, values, slots)
    parts = qkv.double().view(5, 3, 3, 10)
    assert relative(query, ops.rotary(parts[:, 0], sin[positions].double(), cos[positions].double())) < bound
    assert relative(keys[slots], ops.rotary(parts[:, 1], sin[positions].double(), cos[positions].double())) < bound
    assert torch.equal(values[slots].double(), parts[:, 2])
    others = [slot for slot in range(12) if slot not in slots]
    assert bool((keys[others] == 7).all())
    assert bool((values[others] == 7).all())


@pytest.mark.parametrize("kind", [Int8Weight, Int4Weight])
def test_torchs_own_kernels_stand_in(kind: type[Int8Weight] | type[Int4Weight]) -> None:
    for tokens, in_features, out_features in [(1, 64, 16), (5, 100, 33), (9, 257, 130)]:
        x, bias, weight = random(tokens, in_features), random(out_features), random(out_features, in_features)
        kept = kind.quantize(weight)
        expected = x @ kept.dequantize(torch.float64).T + bias
        assert relative(ops.linear(x.float(), TorchPackedWeight(kept), bias.float()), expected) < 0.01
        found = ops.linear_gelu(x.bfloat16(), TorchPackedWeight(kept), bias.bfloat16())
        assert relative(found, F.gelu(expected, approximate="tanh")) < 0.015


@pytest.mark.parametrize("group", [32, 96, 256, 320, 512])
def test_torchs_own_kernel_takes_every_multiple_of_32_as_a_group(group: int) -> None:
    x, weight = random(3, 700), Int4Weight.quantize(random(33, 700), group)
    packed = TorchPackedWeight(weight)
    assert relative(packed.multiply(x.float()), x @ weight.dequantize(torch.float64).T) < 0.01
    assert relative(packed.dequantize(), weight.dequantize(torch.float64)) < 0.01
    with pytest.raises(InvalidRequest, match="int4 weights with groups of 48 cannot be packed; multiples of 32 are accepted"):
        TorchPackedWeight(Int4Weight.quantize(random(33, 700), 48))


def test_a_compiler_that_fails_is_quoted_and_nothing_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "library.so"
    target.write_text("old")
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(build.BuildError, match="false"):
        build.build(target)
    assert target.read_text() == "old"
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(build.BuildError, match=r"install g\+\+ or clang"):
        build.build(target)


@pytest.mark.parametrize("kind", [W8A8Weight, Fp8Weight, Fp8E5M2Weight])
@pytest.mark.parametrize("input_scale", [None, 0.02])
def test_products_in_8_bits(instruction_set: str, kind: type[RoundedInputsWeight], input_scale: float | None) -> None:
    """Inputs are rounded exactly as the torch form rounds them; int8 sums are exact, FP8 sums are rounded in float32."""
    for tokens, in_features, out_features in [*SHAPES, (12, 129, 33), (24, 64, 48)]:
        x, bias = random(tokens, in_features, seed=1).float(), random(out_features, seed=2).float()
        x[0] *= 1e-3
        x[tokens // 2] = 0
        rounded = kind.quantize(random(out_features, in_features, seed=3) / in_features**0.5)
        values = rounded.values.clone()
        values.view(torch.int8)[0, 0] = -128 if kind is W8A8Weight else 0  # files of other quantizers use all 256 numbers
        weight = kind(values, rounded.scales, input_scale)
        expected = ops.linear(x.double(), weight, bias.double())
        found = PackedWeight(weight).multiply(x, bias)
        assert relative(found, expected) < 2e-6, (tokens, in_features, out_features)
        gelu = PackedWeight(weight).multiply(x, bias, gelu=True)
        assert relative(gelu, ops.linear_gelu(x.double(), weight, bias.double())) < 5e-6


def test_int8_weights_of_minus_128(instruction_set: str) -> None:
    values = torch.full((17, 64), -128, dtype=torch.int8)
    packed, x = PackedWeight(Int8Weight(values, torch.ones(17))), torch.linspace(-1, 1, 64)[None].repeat(5, 1) - 0.3
    assert relative(packed.multiply(x), x.double() @ values.double().T) < 0.012
