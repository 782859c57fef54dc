"""Answers that compute right values by a forbidden method fail, and the message names the method. Honest solutions pass."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_seeds
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED, PASSED
from labkit.ops.backend import has_triton
from tests.exercises.test_lab02_kernels import ATTENTION, GELU, INT8, NORM, ROTARY, judged, source_of

EMPTY = """
@triton.jit
def nothing():
    pass

"""
COPY = """
@triton.jit
def copy(a, b, size, BLOCK: tl.constexpr):
    column = tl.arange(0, BLOCK)
    place = tl.program_id(0) * size + column
    tl.store(b + place, tl.load(a + place, mask=column < size), mask=column < size)

"""


def by(name: str, arguments: str, body: str, helpers: str = EMPTY) -> tuple[str, str]:
    """An exercise's name, and the source of a function for it with this body."""
    lines = "".join(f"    {line}\n" for line in body.split("; "))
    return name, f"{helpers}def {name}({arguments}):\n{lines}"


def changed(name: str, **changes: str) -> tuple[str, str]:
    """An exercise's name and its solution, in which each key of `changes` is replaced by its value."""
    return name, source_of(name, changes)


NORM_ARGUMENTS = "residual, attention, mlp, weight, bias, epsilon"
WRITE = "qkv, positions, sin, cos, keys, values, slot_mapping"
ATTENTION_ARGUMENTS = "query, keys, values, slot_table, lengths, block=64"
TENSORS = "tensors = residual, attention, mlp, weight, bias, hidden, normed"
COMBINE = """
@triton.jit
def combine(sums, largest, totals, out, parts, head_dim, PARTS: tl.constexpr, DIM: tl.constexpr):
    here, part, dim = tl.program_id(0), tl.arange(0, PARTS), tl.arange(0, DIM)
    inside = part < parts
    m = tl.load(largest + here * parts + part, mask=inside, other=float("-inf"))
    share = tl.exp(m - tl.max(m, axis=0))
    total = tl.sum(share * tl.load(totals + here * parts + part, mask=inside, other=0.0), axis=0)
    both = inside[:, None] & (dim < head_dim)[None, :]
    o = tl.load(sums + (here * parts + part)[:, None] * head_dim + dim[None, :], mask=both, other=0.0)
    tl.store(out + here * head_dim + dim, tl.sum(share[:, None] * o, axis=0) / total, mask=dim < head_dim)
"""
SHARE = "share = torch.exp(tops - tops.amax(-1, keepdim=True))"
LAST = "return (share[..., None] * sums).sum(2) / (share * totals).sum(-1, keepdim=True)"
BY_KERNEL = (
    "out = torch.empty_like(query)\n    sequences, heads, parts, head_dim = sums.shape\n"
    "    grid = (sequences * heads,)\n    combine[grid](sums, tops, totals, out, parts, "
    "head_dim, PARTS=triton.next_power_of_2(parts), DIM=triton.next_power_of_2(head_dim))\n    return out"
)


def looped(name: str, parameters: str, loop: str, **changes: str) -> tuple[str, str]:
    """An exercise's name and a changed solution, in which one program calls the solution's kernel in a loop over the grid."""
    source = source_of(name, changes)
    indented = textwrap.indent(textwrap.dedent(loop), "    ")
    return name, f"{source}\n\n\n@triton.jit\ndef all_of_them({parameters}):\n{indented}\n"


NORM_TENSORS = "residual, attention, mlp, weight, bias, hidden, normed"
ROTARY_TENSORS = "qkv, positions, sin, cos, keys, values, slots, query"

CHEATS: dict[str, tuple[tuple[str, str], str]] = {
    "2.3 labkit's operation": (
        by(NORM, NORM_ARGUMENTS, f"nothing[(1,)](); from labkit import ops; return ops.residual_layer_norm({NORM_ARGUMENTS})"),
        "it calls labkit's own residual_layer_norm",
    ),
    "2.3 labkit's launcher": (
        by(
            NORM,
            NORM_ARGUMENTS,
            "from labkit.ops.kernels.residual_layer_norm import residual_layer_norm_triton as f; "
            f"nothing[(1,)](); return f({NORM_ARGUMENTS})",
        ),
        "residual_layer_norm_kernel is a kernel of labkit, or calls a kernel of labkit",
    ),
    "2.3 labkit's specification": (
        by(
            NORM,
            NORM_ARGUMENTS,
            "from labkit.ops.residual_layer_norm import residual_layer_norm_reference as f; "
            f"nothing[(1,)](); return f({NORM_ARGUMENTS})",
        ),
        "it calls labkit's own residual_layer_norm_reference",
    ),
    "2.3 labkit's kernel inside": (
        by(
            NORM,
            NORM_ARGUMENTS,
            "nothing[(1,)](); return torch.add(attention, mlp).add_(residual), residual",
            "from labkit.ops.kernels.layer_norm import normalize\n\n@triton.jit\ndef nothing():\n    if False:\n"
            "        normalize()\n\n",
        ),
        "nothing is a kernel of labkit, or calls a kernel of labkit",
    ),
    "2.3 the sum in torch": (
        changed(NORM, **{TENSORS: "residual = residual + mlp\n    mlp = torch.zeros_like(mlp)\n    " + TENSORS}),
        "`torch.add (+)` works on residual in torch, outside your kernel (in your line `residual = residual + mlp`)",
    ),
    "2.3 the sum by torch.add": (
        changed(NORM, **{TENSORS: "torch.add(residual, mlp, out=residual)\n    " + TENSORS}),
        "`torch.add (+)` works on residual in torch",
    ),
    "2.3 the norm in torch, copied by a kernel": (
        by(
            NORM,
            NORM_ARGUMENTS,
            "import torch.nn.functional as F; hidden, normed = torch.empty_like(residual), torch.empty_like(residual); "
            "h = attention + mlp + residual; n = F.layer_norm(h, (h.shape[1],), weight, bias, epsilon); "
            "rows, size = h.shape; copy[(rows,)](h, hidden, size, BLOCK=16384); copy[(rows,)](n, normed, size, BLOCK=16384); "
            "return hidden, normed",
            COPY,
        ),
        "`torch.add (+)` works on attention in torch",
    ),
    "2.3 by numpy": (
        by(
            NORM,
            NORM_ARGUMENTS,
            "nothing[(1,)](); h = torch.from_numpy(attention.numpy() + mlp.numpy() + residual.numpy()); "
            "from torch.nn.functional import layer_norm; "
            "return h, layer_norm(h, (h.shape[1],), weight, bias, epsilon)",
        ),
        "`torch.numpy` works on attention in torch",
    ),
    "2.3 two kernels": (
        changed(
            NORM,
            **{
                "    norm_kernel[(count,)](*tensors, size, epsilon, BLOCK=triton.next_power_of_2(size))": (
                    "    for _ in range(2):\n"
                    "        norm_kernel[(count,)](*tensors, size, epsilon, BLOCK=triton.next_power_of_2(size))"
                )
            },
        ),
        "it launches 2 kernels; use one fused kernel",
    ),
    "2.3 one program loops over all rows": (
        looped(
            NORM,
            f"{NORM_TENSORS}, count, size, epsilon, BLOCK: tl.constexpr",
            f"for row in range(count):\n    norm_kernel(row, {NORM_TENSORS}, size, epsilon, BLOCK)",
            **{
                "norm_kernel(\n    residual": "norm_kernel(\n    row, residual",
                "tl.program_id(0)": "row",
                "norm_kernel[(count,)](*tensors,": "all_of_them[(1,)](*tensors, count,",
            },
        ),
        "all_of_them is launched over (1, 1, 1), 1 program; with one program for each token there are 3: let each program do "
        "one token",
    ),
    "2.4 one program loops over all heads": (
        looped(
            ROTARY,
            f"{ROTARY_TENSORS}, heads, head_dim, rotary_dim, BLOCK: tl.constexpr",
            f"for head in range(heads):\n    rotary_kernel(head, heads, {ROTARY_TENSORS}, head_dim, rotary_dim, BLOCK)",
            **{
                "rotary_kernel(\n    qkv": "rotary_kernel(\n    head, heads, qkv",
                "token, head, heads = tl.program_id(0), tl.program_id(1), tl.num_programs(1)": "token = tl.program_id(0)",
                "rotary_kernel[(count, heads)](*tensors,": "all_of_them[(count,)](*tensors, heads,",
            },
        ),
        "with one program for each token and head there are 12",
    ),
    "2.7 one program loops over all tiles": (
        looped(
            GELU,
            "x, weight, bias, out, tokens, outs, SIZE: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr",
            """
            for i in range(tl.cdiv(tokens, ROWS)):
                for j in range(tl.cdiv(outs, COLUMNS)):
                    gelu_kernel(i, j, x, weight, bias, out, tokens, outs, SIZE, ROWS, COLUMNS)
            """,
            **{
                "gelu_kernel(\n    x": "gelu_kernel(\n    i, j, x",
                "tl.program_id(0)": "i",
                "tl.program_id(1)": "j",
                "gelu_kernel[grid]": "all_of_them[(1,)]",
            },
        ),
        "all_of_them has 1 program and runs 3 stores: let each program do one tile",
    ),
    "2.8 one program loops over all tokens": (
        looped(
            INT8,
            "x, values, scales, out, outs, count, SIZE: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr",
            "for token in range(count):\n    int8_kernel(token, x, values, scales, out, outs, SIZE, BLOCK, ROWS)",
            **{
                "int8_kernel(\n    x": "int8_kernel(\n    token, x",
                "row, token = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)": (
                    "row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)"
                ),
                "int8_kernel[grid](x, values, scales, out, outs,": "all_of_them[grid[:1]](x, values, scales, out, outs, count,",
            },
        ),
        "with one program for each token and ROWS outputs there are 6",
    ),
    "2.3 reads its sum back": (
        changed(NORM, **{"x, mask=inside)\n": "x, mask=inside)\n    x = tl.load(hidden + place, mask=inside, other=0.0)\n"}),
        "are enough: it reads values that it has stored itself",
    ),
    "2.3 nothing but an empty kernel": (
        by(NORM, NORM_ARGUMENTS, "nothing[(1,)](); return torch.empty_like(residual), torch.empty_like(residual)"),
        "kernels have stored none of the 300 elements of hidden",
    ),
    "2.3 no kernel": (
        by(NORM, NORM_ARGUMENTS, "return torch.empty_like(residual), torch.empty_like(residual)"),
        "no kernel was launched",
    ),
    "2.4 labkit's operation": (
        by(ROTARY, WRITE, f"nothing[(1,)](); from labkit import ops; return ops.rotary_cache_write({WRITE})"),
        "it calls labkit's own rotary_cache_write",
    ),
    "2.4 values by torch": (
        changed(
            ROTARY,
            **{
                "    return query": "    values[slot_mapping] = qkv.view(count, 3, heads, head_dim)[:, 2]\n    return query",
                "tl.store(values": "# tl.store(values",
            },
        ),
        "`x[...] = ...` works on values in torch",
    ),
    "2.6 labkit's operation": (
        by(
            ATTENTION,
            ATTENTION_ARGUMENTS,
            "nothing[(1,)](); from labkit import ops; return ops.decode_attention(query, keys, values, slot_table, lengths)",
        ),
        "it calls labkit's own decode_attention",
    ),
    "2.6 not split": (
        changed(ATTENTION, **{"parts, dim = triton.cdiv(width, block)": "parts, dim = 1", "BLOCK=block": "BLOCK=128"}),
        "with one program for each sequence, head and part there are",
    ),
    "2.6 gathered by torch": (
        changed(ATTENTION, **{"tensors = query, keys": "keys = keys * 1\n    tensors = query, keys"}),
        "`torch.mul (*)` works on keys in torch",
    ),
    "2.7 labkit's operation": (
        by(GELU, "x, weight, bias", "nothing[(1,)](); from labkit import ops; return ops.linear_gelu(x, weight, bias)"),
        "it calls labkit's own linear_gelu",
    ),
    "2.7 the GELU in torch": (
        changed(
            GELU,
            **{
                "z *= tl.sigmoid(2 * 0.7978845608 * (z + 0.044715 * z * z * z))\n": "z *= 1.0\n",
                "    return out\n": "    return torch.nn.functional.gelu(out, approximate='tanh')\n",
            },
        ),
        "`torch.gelu` works on a tensor in torch",
    ),
    "2.8 the product in torch": (
        by(INT8, "x, values, scales, rows=32, block=256", "nothing[(1,)](); return (x @ values.float().T) * scales"),
        "in torch, outside your kernel (in your line `return (x @ values.float().T) * scales`): let the kernel do this work",
    ),
    "2.8 a dense weight": (
        changed(INT8, **{"grid = triton": "values = values.float()\n    grid = triton"}),
        "`torch.float` works on values in torch",
    ),
}
HONEST = {
    "2.3 printed": changed(NORM, **{TENSORS: "print(residual, residual[0])\n    " + TENSORS}),
    "2.3 printed in the kernel": changed(NORM, **{"    tl.store(hidden": "    print(x)\n    tl.store(hidden"}),
    "2.3 zeros": changed(NORM, **{TENSORS: "hidden = torch.zeros_like(hidden)\n    " + TENSORS}),
    "2.3 contiguous and flat": changed(NORM, **{TENSORS: "residual = residual.contiguous().view(-1)\n    " + TENSORS}),
    "2.4 slots of another type": changed(ROTARY, **{"tensors = qkv": "slot_mapping = 1 * slot_mapping\n    tensors = qkv"}),
    "2.7 other tiles": changed(
        GELU,
        **{
            "triton.cdiv(count, 16), triton.cdiv(outs, 32)": "triton.cdiv(count, 8), triton.cdiv(outs, 64)",
            "ROWS=16, COLUMNS=32": "ROWS=8, COLUMNS=64",
        },
    ),
    "2.6 combined by a kernel": (
        ATTENTION,
        COMBINE.join(source_of(ATTENTION, {f"    {SHARE}\n": "", LAST: BY_KERNEL}).split("def split_decode", 1)).replace(
            COMBINE, COMBINE + "\n\ndef split_decode"
        ),
    ),
    "2.6 the maximum of an empty part is not stored": changed(
        ATTENTION,
        **{
            "tl.store(tops + here, top)": 'tl.store(tops + here, top, mask=top > float("-inf"))',
            "    tensors = query, keys, values, slot_table": (
                '    tops.fill_(float("-inf"))\n    tensors = query, keys, values, slot_table'
            ),
        },
    ),
    "2.6 as many parts as are used": changed(
        ATTENTION, **{"triton.cdiv(width, block)": "triton.cdiv(int(lengths.max()), block)"}
    ),
}


@pytest.fixture(scope="module")
def verdicts() -> dict[str, list[str]]:
    """The verdicts on all of `CHEATS` and `HONEST`, judged in one process."""
    set_up = source_of(GELU).split("def fused_linear_gelu")[0]
    sources = {title: given for title, (given, _) in CHEATS.items()} | HONEST
    rows = [[name, source if source.startswith("import") else set_up + source, SEEDS[:1]] for name, source in sources.values()]
    return dict(zip(sources, judged(rows), strict=True))


needs_triton = pytest.mark.skipif(not has_triton(), reason="not measured here: the package triton is not installed")


@pytest.mark.parametrize("title", [pytest.param(title, marks=needs_triton) for title in CHEATS])
def test_right_values_by_other_means_fail(title: str, verdicts: dict[str, list[str]]) -> None:
    verdict, message, _ = verdicts[title]
    assert (verdict, CHEATS[title][1] in message) == (FAILED, True), message


@pytest.mark.parametrize("title", [pytest.param(title, marks=needs_triton) for title in HONEST])
def test_honest_ways_pass(title: str, verdicts: dict[str, list[str]]) -> None:
    assert verdicts[title][0] == PASSED, verdicts[title]


# 2.5 and 2.9 ------------------------------------------------------------------------------------------------------------
def message_on(name: str, function: Any) -> str:
    exercise = find(name)
    verdict = judge(answer_to(exercise), run_seeds(function, exercise, SEEDS[:1]))
    return "" if verdict.verdict == PASSED else verdict.message


def _at_once(scores: Any, values: Any) -> Tensor:
    return torch.softmax(torch.cat(list(scores)), 0) @ torch.cat(list(values))


def copies(blocks: Any) -> Tensor:
    return _at_once(*zip(*[(s.clone(), v.clone()) for s, v in blocks], strict=True))


def sums_with_zero(blocks: Any) -> Tensor:
    return _at_once(*zip(*[(s + 0, v * 1) for s, v in blocks], strict=True))


def lists(blocks: Any) -> Tensor:
    kept = [(s.tolist(), v.tolist()) for s, v in blocks]
    return _at_once([torch.tensor(s) for s, _ in kept], [torch.tensor(v) for _, v in kept])


def in_a_buffer(blocks: Any) -> Tensor:
    scores, values, end = torch.full((999,), -torch.inf), torch.zeros(999, 8), 0
    for s, v in blocks:
        scores[end : end + len(s)], values[end : end + len(s), : v.shape[1]] = s, v
        end, dim = end + len(s), v.shape[1]
    return torch.softmax(scores, 0) @ values[:, :dim]


def by_hand(blocks: Any) -> Tensor:
    largest, total, average = torch.tensor(-torch.inf), torch.zeros(()), torch.zeros(())
    for scores, values in blocks:
        new = torch.maximum(largest, scores.max())
        if new == -torch.inf:
            continue
        weights = torch.exp((scores - new).double())
        total = total * torch.exp(largest - new) + weights.sum()
        average = average * torch.exp(largest - new) + (weights[:, None] * values.double()).sum(0)
        largest = new.clone()
    return (average / total).float()


def test_blocks_are_not_kept() -> None:
    for function in (copies, sums_with_zero, in_a_buffer):
        assert "keep no copy" in message_on("online_softmax", function)
    assert "tolist() takes a block out of torch" in message_on("online_softmax", lists)
    assert message_on("online_softmax", by_hand) == ""


def test_a_wrong_token_is_told_with_the_right_one() -> None:
    assert "the right token for this input is" in message_on("sample_token", lambda z, t, k, p, share: 3)

    def drawn(z: Tensor, t: float, k: int, p: float, share: float) -> int:
        return int(torch.multinomial(torch.softmax(z / t, 0), 1))

    assert "torch.multinomial draws a random number of its own" in message_on("sample_token", drawn)


def test_a_write_to_a_clone_of_the_cache_is_named() -> None:
    def writes(cache: Tensor, new: Tensor, mapping: Tensor, table: Tensor, lengths: Tensor) -> list[Tensor]:
        cache.clone()[mapping] = new
        return [cache[table[s, :length].long()] for s, length in enumerate(lengths.tolist())]

    assert "you write to a copy of it. cache.clone() makes a copy" in message_on("write_then_read", writes)


def test_what_was_allocated_and_not_written_is_always_nan() -> None:
    """Allocated floats are NaN until a kernel writes them. Otherwise they could hold a right answer from an earlier call."""
    held: list[Any] = []

    def allocates(*args: Any) -> Any:
        made = torch.empty(2, 3), torch.empty_like(args[0]), args[0].new_empty(4), torch.empty(5, dtype=torch.int32)
        held.extend(made)
        return made[1], made[1]

    exercise = find(NORM)
    run_seeds(allocates, exercise, SEEDS[:1])
    assert all(bool(made.isnan().all()) if made.is_floating_point() else bool((made == 63).all()) for made in held)


def test_a_wrong_time_is_told_in_microseconds() -> None:
    assert "microseconds" in message_on("step_seconds", lambda kernels, launch, captured: 1e-6)
