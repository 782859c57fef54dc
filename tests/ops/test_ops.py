"""Each operation is compared with a simple implementation of its formula in float64, on awkward shapes."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from labkit import native, ops
from labkit.errors import InvalidRequest
from labkit.native import operations
from labkit.ops.registry import OPERATIONS, triton_kernel


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (3, 7), (17, 130)])
def test_layer_norm(tokens: int, hidden: int) -> None:
    x, weight, bias = random(tokens, hidden) * 3 + 1, random(hidden), random(hidden, seed=1)
    mean = x.sum(-1, keepdim=True) / hidden
    variance = ((x - mean) ** 2).sum(-1, keepdim=True) / hidden
    expected = (x - mean) / (variance + 1e-5).sqrt() * weight + bias
    assert relative(ops.layer_norm(x.float(), weight.float(), bias.float(), 1e-5), expected) < 2e-6


def test_gelu() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    expected = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    assert relative(ops.gelu(x.float()), expected) < 1e-6


@pytest.mark.parametrize(("heads", "head_dim", "rotary_dim"), [(1, 2, 2), (3, 10, 6), (2, 256, 64)])
def test_rotary_turns_neighbouring_pairs(heads: int, head_dim: int, rotary_dim: int) -> None:
    positions = torch.tensor([0, 5, 1, 39])
    x = random(4, heads, head_dim)
    sin, cos = ops.rotary_table(40, rotary_dim).double()[:, positions]
    expected = x.clone()
    for row, position in enumerate(positions.tolist()):
        for pair in range(rotary_dim // 2):
            angle = position * 10000 ** (-2 * pair / rotary_dim)
            number = torch.complex(x[row, :, 2 * pair], x[row, :, 2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
            expected[row, :, 2 * pair], expected[row, :, 2 * pair + 1] = number.real, number.imag
    assert relative(ops.rotary(x, sin, cos), expected) < 1e-5
    assert torch.equal(ops.rotary(x, sin, cos)[..., rotary_dim:], x[..., rotary_dim:])


def test_rotary_table_is_the_one_of_transformers() -> None:
    from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions

    sin, cos = ops.rotary_table(2048, 64)
    assert torch.equal(torch.cat((sin, cos), dim=1), create_sinusoidal_positions(2048, 64))


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Attention of one query `[num_heads, head_dim]` over `key` and `value` `[length, num_heads, head_dim]`, head by head."""
    rows = []
    for head in range(query.shape[0]):
        scores = key[:, head] @ query[head] / math.sqrt(query.shape[1])
        rows.append(torch.softmax(scores, 0) @ value[:, head])
    return torch.stack(rows)


def scattered_cache(lengths: list[int], heads: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Keys, values and a slot table with slots in random order. Slots that no sequence holds are filled with poison."""
    total, longest = sum(lengths), max(lengths)
    order = torch.randperm(total + 9, generator=torch.Generator().manual_seed(total))
    keys, values = random(total + 9, heads, head_dim), random(total + 9, heads, head_dim, seed=5)
    keys[order[total:]], values[order[total:]] = 1e30, math.nan
    table = torch.full((len(lengths), longest + 3), int(order[-1]), dtype=torch.int32)
    taken = 0
    for row, length in enumerate(lengths):
        table[row, :length] = order[taken : taken + length]
        taken += length
    return keys, values, table


@pytest.mark.parametrize("spans", [[(1, 0)], [(7, 0), (5, 12), (1, 19)], [(1, 0), (33, 1), (2, 0)]])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 1), (3, 33), (2, 80), (4, 64)])
def test_prefill_attention_is_causal_and_keeps_sequences_apart(spans: list[tuple[int, int]], heads: int, head_dim: int) -> None:
    lengths = [new + past for new, past in spans]
    keys, values, table = scattered_cache(lengths, heads, head_dim)
    starts = torch.tensor([0, *(sum(new for new, _ in spans[: i + 1]) for i in range(len(spans)))], dtype=torch.int32)
    query = random(int(starts[-1]), heads, head_dim)
    expected = torch.empty_like(query)
    for row, (new, past) in enumerate(spans):
        for i in range(new):
            seen = table[row, : past + i + 1].long()
            expected[starts[row] + i] = attended(query[starts[row] + i], keys[seen], values[seen])
    where = table, starts, torch.tensor(lengths, dtype=torch.int32)
    assert relative(ops.prefill_attention(query, keys, values, *where), expected) < 1e-12
    assert relative(ops.prefill_attention(query.float(), keys.float(), values.float(), *where), expected) < 1e-5


@pytest.mark.parametrize("lengths", [[1], [5, 1, 23], [17, 64, 2, 9]])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 4), (3, 33)])
def test_decode_attention_sees_its_own_slots_only(lengths: list[int], heads: int, head_dim: int) -> None:
    keys, values, table = scattered_cache(lengths, heads, head_dim)
    query = random(len(lengths), heads, head_dim)
    seen = [table[row, :length].long() for row, length in enumerate(lengths)]
    expected = torch.stack([attended(query[row], keys[slots], values[slots]) for row, slots in enumerate(seen)])
    where = table, torch.tensor(lengths, dtype=torch.int32)
    assert relative(ops.decode_attention(query, keys, values, *where), expected) < 1e-12
    assert relative(ops.decode_attention(query.float(), keys.float(), values.float(), *where), expected) < 1e-5


def test_linear_and_embedding() -> None:
    x, weight, bias, table = random(5, 7), random(11, 7), random(11), random(13, 4)
    expected = torch.einsum("ti,oi->to", x, weight)
    assert relative(ops.linear(x, weight, bias), expected + bias) < 1e-12
    assert relative(ops.linear(x, weight), expected) < 1e-12
    assert relative(ops.linear_gelu(x, weight, bias), ops.gelu(expected + bias)) < 1e-12
    ids = torch.tensor([12, 0, 12])
    assert torch.equal(ops.embedding(ids, table), torch.stack([table[12], table[0], table[12]]))


def test_residual_layer_norm_is_sum_and_norm() -> None:
    residual, attention, mlp, weight, bias = random(5, 70), random(5, 70, seed=1), random(5, 70, seed=2), random(70), random(70)
    hidden, normed = ops.residual_layer_norm(residual, attention, mlp, weight, bias, 1e-5)
    assert relative(hidden, residual + attention + mlp) < 1e-12
    assert relative(normed, ops.layer_norm(residual + attention + mlp, weight, bias, 1e-5)) < 1e-12


@pytest.mark.parametrize("past", [0, 3])
def test_rotary_cache_write_fills_its_slots_only(past: int) -> None:
    tokens, heads, head_dim, slots = 5, 3, 10, 12
    qkv = random(tokens, 3 * heads * head_dim)
    sin, cos = ops.rotary_table(20, 6).double().unbind(0)
    keys, values = torch.full((2, slots, heads, head_dim), 7.0, dtype=torch.float64).unbind(0)
    positions, mapping = torch.arange(past, past + tokens), torch.tensor([4, 11, 0, 7, 2])
    query = ops.rotary_cache_write(qkv, positions, sin, cos, keys, values, mapping)
    parts = qkv.view(tokens, 3, heads, head_dim)
    assert relative(query, ops.rotary(parts[:, 0], sin[positions], cos[positions])) < 1e-12
    assert relative(keys[mapping], ops.rotary(parts[:, 1], sin[positions], cos[positions])) < 1e-12
    assert torch.equal(values[mapping], parts[:, 2])
    others = [slot for slot in range(slots) if slot not in mapping]
    assert bool((keys[others] == 7).all())
    assert bool((values[others] == 7).all())


@pytest.mark.parametrize("shape", [(1, 1), (5, 70), (33, 257)])
def test_int8_and_int4_stand_within_half_a_step(shape: tuple[int, int]) -> None:
    weight = random(*shape)
    int8 = ops.Int8Weight.quantize(weight)
    assert int8.shape == shape
    assert bool(((int8.dequantize(torch.float64) - weight).abs() <= int8.scales.double()[:, None] * 0.5001).all())
    int4 = ops.Int4Weight.quantize(weight)
    assert int4.shape == shape
    steps = int4.scales.double().abs().repeat_interleave(32, 1)[:, : shape[1]]
    off = (int4.dequantize(torch.float64) - weight).abs() / steps
    assert float(off.max()) <= 1.01  # numbers whose sign is opposite to that of the largest are clipped by up to one step
    assert float(off.median()) <= 0.5


def test_a_function_takes_an_operations_place_until_restored() -> None:
    x = random(3, 4)
    with ops.use(linear=lambda x, weight, bias=None: x * 0):
        assert ops.swapped() == ["linear"]
        assert float(ops.linear(x, x).abs().max()) == 0
    assert ops.swapped() == []
    assert relative(ops.linear(x, x), x @ x.T) < 1e-12
    with pytest.raises(InvalidRequest, match="no operation 'softmax'; the operations are"):
        ops.use(softmax=torch.softmax)
    with pytest.raises(InvalidRequest, match="give a function"):
        ops.use(linear=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_kernels_take_the_arguments_of_their_operation(name: str) -> None:
    asked = list(inspect.signature(getattr(ops, name)).parameters)
    taken = list(inspect.signature(triton_kernel(name)).parameters)
    assert taken[: len(asked)] == asked
    if hasattr(operations, name):
        assert list(inspect.signature(getattr(operations, name)).parameters) == asked


def test_an_operation_takes_its_arguments_by_name_too() -> None:
    x, weight = random(2, 4), torch.ones(4, dtype=torch.float64)
    named = {"weight": weight, "bias": weight, "epsilon": 1e-5}
    for dtype in (torch.float64, torch.float32):
        given = {
            "x": x.to(dtype),
            **{key: value.to(dtype) if torch.is_tensor(value) else value for key, value in named.items()},
        }
        assert torch.equal(ops.layer_norm(**given), ops.layer_norm(*given.values()))
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        ops.layer_norm(**named)  # type: ignore[call-arg]


@pytest.mark.skipif(not native.available(), reason="not measured here: the native library was not built")
def test_the_native_kernel_runs_where_it_takes_the_tensor() -> None:
    x = torch.tensor([[1.0, 2.0, 4.0]])
    ones, zeros = torch.ones(3), torch.zeros(3)
    wide = ops.layer_norm(x.double(), ones.double(), zeros.double(), 1e-5)
    assert wide.dtype == torch.float64  # torch computes this, because the native library has no float64
    assert torch.equal(ops.layer_norm(x, ones, zeros, 1e-5), operations.layer_norm(x, ones, zeros, 1e-5))
