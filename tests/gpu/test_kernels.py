"""The Triton kernels on a GPU are compared with float64, for every dtype, for GPT-J 6B's and odd shapes, and in CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from labkit import ops
from labkit.ops import kernels
from labkit.ops.kernels.decode_attention import decode_attention_triton
from labkit.ops.kernels.embedding import embedding_triton
from labkit.ops.kernels.layer_norm import layer_norm_triton
from labkit.ops.kernels.prefill_attention import prefill_attention_triton
from labkit.ops.kernels.residual_layer_norm import residual_layer_norm_triton
from labkit.ops.kernels.rotary_cache_write import rotary_cache_write_triton
from tests.ops.kernels.guard import guarded_outputs, misaligned
from tests.ops.test_ops import random, relative, scattered_cache

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="not measured here: no GPU that torch can use"),
]
DEVICE = "cuda"
BOUNDS = {torch.float32: 4e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
HEADS = [(3, 33), (4, 32), (2, 64), (3, 80), (2, 128), (16, 256)]


@pytest.fixture(autouse=True)
def _guarded() -> Iterator[None]:
    with guarded_outputs():
        yield


def given(*shape: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    """Random numbers that `dtype` can hold, on the GPU."""
    return random(*shape, seed=seed).to(DEVICE, dtype)


def cache_of(lengths: list[int], heads: int, head_dim: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Keys, values, slot table and lengths. Unused slots are filled with poison."""
    keys, values, table = scattered_cache(lengths, heads, head_dim)
    counts = torch.tensor(lengths, dtype=torch.int32, device=DEVICE)
    return keys.to(DEVICE, dtype), values.to(DEVICE, dtype), table.to(DEVICE), counts


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("tokens", "hidden"), [(1, 1), (3, 7), (1, 4096), (777, 4096), (5, 12287), (33, 12288)])
def test_norms(tokens: int, hidden: int, dtype: torch.dtype) -> None:
    parts = [
        misaligned(given(tokens, hidden, dtype=dtype, seed=seed))
        if hidden == 7
        else given(tokens, hidden, dtype=dtype, seed=seed)
        for seed in range(3)
    ]
    weight, bias = given(hidden, dtype=dtype), given(hidden, dtype=dtype, seed=1)
    wide = [part.double() for part in (*parts, weight, bias)]
    assert relative(layer_norm_triton(parts[0], weight, bias, 1e-5), ops.layer_norm(wide[0], *wide[3:], 1e-5)) < BOUNDS[dtype]
    hidden_state, normed = residual_layer_norm_triton(*parts, weight, bias, 1e-5)
    expected, expected_normed = ops.residual_layer_norm(*wide, 1e-5)
    assert hidden_state.dtype == normed.dtype == dtype
    assert relative(hidden_state, expected) < BOUNDS[dtype]
    assert relative(normed, expected_normed) < 2 * BOUNDS[dtype]
    assert torch.equal(normed, layer_norm_triton(hidden_state, weight, bias, 1e-5))


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(("vocab", "hidden"), [(13, 7), (50400, 4096)])
def test_embedding(vocab: int, hidden: int, dtype: torch.dtype) -> None:
    table = torch.randn(vocab, hidden, device=DEVICE).to(dtype)
    ids = torch.tensor([vocab - 1, 0, vocab // 2], device=DEVICE)
    assert torch.equal(embedding_triton(ids, table), table[ids])
    assert bool(embedding_triton(ids + vocab, table).isnan().all())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    ("tokens", "heads", "head_dim", "rotary_dim"), [(1, 1, 2, 2), (5, 3, 80, 20), (1, 16, 256, 64), (700, 16, 256, 64)]
)
def test_rotary_cache_write(tokens: int, heads: int, head_dim: int, rotary_dim: int, dtype: torch.dtype) -> None:
    slots = tokens + 6
    qkv = given(tokens, 3 * heads * head_dim, dtype=dtype)
    order = torch.randperm(slots, device=DEVICE)
    positions, mapping = torch.randperm(2048, device=DEVICE)[:tokens], order[:tokens]
    tables = ops.rotary_table(2048, rotary_dim, torch.device(DEVICE))
    caches = [torch.full((slots, heads, head_dim), 7.0, dtype=dtype, device=DEVICE) for _ in "kv"]
    expected = [cache.double() for cache in caches]
    expected_query = ops.rotary_cache_write(qkv.double(), positions, *tables.double(), *expected, mapping)
    assert relative(rotary_cache_write_triton(qkv, positions, *tables, *caches, mapping), expected_query) < BOUNDS[dtype]
    assert relative(caches[0], expected[0]) < BOUNDS[dtype]
    assert torch.equal(caches[1].double(), expected[1])
    assert all(bool((cache[order[tokens:]] == 7).all()) for cache in caches)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("lengths", [[1], [5, 1, 130, 128], [2048, 17, 1300, 129, 257]])
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_decode_attention(lengths: list[int], heads: int, head_dim: int, dtype: torch.dtype) -> None:
    keys, values, *where = cache_of(lengths, heads, head_dim, dtype)
    query = given(len(lengths), heads, head_dim, dtype=dtype)
    expected = ops.decode_attention(query.double(), keys.double(), values.double(), *where)
    found = decode_attention_triton(query, keys, values, *where)
    assert found.dtype == dtype
    assert relative(found, expected) < BOUNDS[dtype]
    alone = decode_attention_triton(query[-1:], keys, values, *(part[-1:] for part in where))
    assert torch.equal(alone[0], found[-1]), "the result depends on the batch"


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize(
    "spans", [[(1, 0)], [(4, 700), (4, 3)], [(7, 0), (0, 5), (65, 12), (1, 19)], [(1024, 0), (100, 1900), (513, 0)]]
)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_prefill_attention(spans: list[tuple[int, int]], heads: int, head_dim: int, dtype: torch.dtype) -> None:
    keys, values, table, lengths = cache_of([new + past for new, past in spans], heads, head_dim, dtype)
    starts = torch.tensor([0, *(new for new, _ in spans)]).cumsum(0).to(DEVICE, torch.int32)
    query = given(int(starts[-1]), heads, head_dim, dtype=dtype)
    where = table, starts, lengths
    expected = ops.prefill_attention(query.double(), keys.double(), values.double(), *where)
    found = prefill_attention_triton(query, keys, values, *where)
    assert found.dtype == dtype
    assert relative(found, expected) < BOUNDS[dtype]


def test_misaligned_attention() -> None:
    keys, values, table, lengths = cache_of([200, 31], 3, 80, torch.float16)
    query = given(2, 3, 80, dtype=torch.float16)
    expected = ops.decode_attention(query.double(), keys.double(), values.double(), table, lengths)
    odd = [misaligned(part) for part in (query, keys, values)]
    assert relative(decode_attention_triton(*odd, table, lengths), expected) < 2e-3
    starts = torch.tensor([0, 1, 2], dtype=torch.int32, device=DEVICE)
    assert relative(prefill_attention_triton(*odd, table, starts, lengths), expected) < 2e-3


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_captured_decode_step_follows_new_lengths_slots_and_tokens(dtype: torch.dtype) -> None:
    heads, head_dim, longest = 16, 256, 600
    first, then = [3, 140, 599], [4, 300, 600]
    keys, values, table, lengths = cache_of(then, heads, head_dim, dtype)
    table = torch.nn.functional.pad(table, (0, longest + 200 - table.shape[1]))
    tables = ops.rotary_table(2048, 64, torch.device(DEVICE))
    qkv = given(3, 3 * heads * head_dim, dtype=dtype)
    positions, mapping = torch.zeros(2, 3, dtype=torch.int64, device=DEVICE).unbind(0)

    def set_lengths(new: list[int]) -> None:
        lengths.copy_(torch.tensor(new, dtype=torch.int32))
        positions.copy_(lengths - 1)
        mapping.copy_(table[torch.arange(3, device=DEVICE), positions])

    def step() -> torch.Tensor:
        query = rotary_cache_write_triton(qkv, positions, *tables, keys, values, mapping)
        return decode_attention_triton(query, keys, values, table, lengths)

    set_lengths(first)
    step()  # compiles the kernels, which a capture cannot do
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = step()
    for new, seed in ((then, 5), (first, 6)):
        set_lengths(new)
        qkv.copy_(given(3, 3 * heads * head_dim, dtype=dtype, seed=seed))
        graph.replay()
        assert torch.equal(captured, step())
        wide = keys.double(), values.double()
        query = ops.rotary_cache_write(qkv.double(), positions, *tables.double(), *wide, mapping)
        assert relative(captured, ops.decode_attention(query, *wide, table, lengths)) < 2 * BOUNDS[dtype]


def test_operations_on_the_gpu_run_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    plain = kernels.triton_runtime.launch
    for name in (
        "layer_norm",
        "residual_layer_norm",
        "embedding",
        "rotary_cache_write",
        "prefill_attention",
        "decode_attention",
    ):
        module = getattr(kernels, name)
        monkeypatch.setattr(
            module, "launch", lambda kernel, *rest, **named: (launched.append(kernel.__name__), plain(kernel, *rest, **named))
        )
    x, weight = given(2, 64, dtype=torch.float16), given(64, dtype=torch.float16)
    ids = torch.tensor([0, 1], device=DEVICE)
    cache = torch.zeros(2, 9, 2, 32, dtype=torch.float16, device=DEVICE)
    table, lengths = (
        torch.arange(2, dtype=torch.int32, device=DEVICE)[None],
        torch.tensor([2], dtype=torch.int32, device=DEVICE),
    )
    ops.layer_norm(ops.embedding(ids, x), weight, weight, 1e-5)
    ops.residual_layer_norm(x, x, x, weight, weight, 1e-5)
    query = ops.rotary_cache_write(x.repeat(1, 3), ids, *ops.rotary_table(8, 8, x.device), *cache, ids)
    ops.prefill_attention(query, *cache, table, torch.tensor([0, 2], dtype=torch.int32, device=DEVICE), lengths)
    ops.decode_attention(query[1:], *cache, table, lengths)
    assert launched == [
        "embedding_kernel",
        "layer_norm_kernel",
        "residual_layer_norm_kernel",
        "rotary_cache_write_kernel",
        "prefill_attention_kernel",
        "decode_attention_kernel",
    ]
