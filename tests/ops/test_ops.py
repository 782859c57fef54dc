"""Each operation against a plain statement of its formula in float64, on ragged and awkward shapes."""

from __future__ import annotations

import math

import pytest
import torch

from labkit import ops


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


@pytest.mark.parametrize(("new", "past", "heads", "head_dim"), [(1, 0, 1, 1), (7, 0, 3, 33), (5, 12, 2, 80), (1, 19, 4, 64)])
def test_prefill_attention_is_causal(new: int, past: int, heads: int, head_dim: int) -> None:
    query, key, value = (
        random(new, heads, head_dim),
        random(heads, past + new, head_dim),
        random(heads, past + new, head_dim, seed=5),
    )
    expected = torch.empty_like(query)
    for i in range(new):
        for head in range(heads):
            seen = past + i + 1
            scores = key[head, :seen] @ query[i, head] / math.sqrt(head_dim)
            expected[i, head] = torch.softmax(scores, 0) @ value[head, :seen]
    found = ops.prefill_attention(query.float(), key.float(), value.float())
    assert relative(found, expected) < 1e-5
    assert relative(ops.prefill_attention(query, key, value), expected) < 1e-12


@pytest.mark.parametrize("lengths", [[1], [5, 1, 23], [17, 64, 2, 9]])
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 4), (3, 33)])
def test_decode_attention_sees_the_filled_positions_only(lengths: list[int], heads: int, head_dim: int) -> None:
    batch, capacity = len(lengths), 64
    query, key, value = (
        random(batch, heads, head_dim),
        random(batch, heads, capacity, head_dim),
        random(batch, heads, capacity, head_dim, seed=2),
    )
    expected = torch.empty_like(query)
    for row, length in enumerate(lengths):
        scores = torch.einsum("hd,hld->hl", query[row], key[row, :, :length]) / math.sqrt(head_dim)
        expected[row] = torch.einsum("hl,hld->hd", torch.softmax(scores, -1), value[row, :, :length])
        key[row, :, length:] = 1e4  # poison
        value[row, :, length:] = -1e4
    found = ops.decode_attention(query.float(), key.float(), value.float(), torch.tensor(lengths))
    assert relative(found, expected) < 1e-5


def test_linear_embedding_and_residual() -> None:
    x, weight, bias, table = random(5, 7), random(11, 7), random(11), random(13, 4)
    assert relative(ops.linear(x, weight, bias), torch.einsum("ti,oi->to", x, weight) + bias) < 1e-12
    assert relative(ops.linear(x, weight), torch.einsum("ti,oi->to", x, weight)) < 1e-12
    ids = torch.tensor([12, 0, 12])
    assert torch.equal(ops.embedding(ids, table), torch.stack([table[12], table[0], table[12]]))
    assert torch.allclose(ops.add_residual(x, 2 * x, 4 * x), 7 * x)
