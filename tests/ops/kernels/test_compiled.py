"""All kernels, compiled for sm_80 and sm_90 without a GPU: no spilled registers, enough shared memory, 16-byte accesses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from labkit.ops.kernels.compiled_kernel import CompiledKernel, compile_call
from labkit.ops.kernels.decode_attention import decode_attention_triton
from labkit.ops.kernels.embedding import embedding_triton
from labkit.ops.kernels.layer_norm import layer_norm_triton
from labkit.ops.kernels.prefill_attention import prefill_attention_triton
from labkit.ops.kernels.residual_layer_norm import residual_layer_norm_triton
from labkit.ops.kernels.rotary_cache_write import rotary_cache_write_triton
from labkit.ops.kernels.triton_runtime import INSTALLED

pytestmark = pytest.mark.skipif(not INSTALLED, reason="not measured here: the package triton is not installed")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ARCHS = [80, 90]
HEADS = [(2, 32), (4, 64), (3, 80), (16, 128), (16, 256)]


def meta(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor without memory. A recorded launch needs only a tensor's dtype, shape and alignment."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def compiled(call: Callable[[], object], arch: int) -> list[CompiledKernel]:
    """Compile the kernels that `call` launches. Fail the test if one of them has a problem."""
    found = compile_call(call, arch)
    assert found
    assert [problem for kernel in found for problem in kernel.problems()] == []
    return found


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", [256, 4096, 12288])
def test_norms_move_16_bytes_a_thread(hidden: int, dtype: torch.dtype, arch: int) -> None:
    x = meta(7, hidden, dtype=dtype)
    (norm,) = compiled(lambda: layer_norm_triton(x, x[0], x[0], 1e-5), arch)
    (residual,) = compiled(lambda: residual_layer_norm_triton(x, x, x, x[0], x[0], 1e-5), arch)
    for kernel in (norm, residual):
        assert set(kernel.global_accesses()) == {16}
        assert set(kernel.global_accesses("st")) == {16}


@pytest.mark.parametrize("arch", ARCHS)
def test_norms_of_rows_that_are_not_aligned(arch: int) -> None:
    x = meta(7, 12287, dtype=torch.float16)
    compiled(lambda: residual_layer_norm_triton(x, x, x, x[0], x[0], 1e-5), arch)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_and_rotary_move_16_bytes_a_thread(dtype: torch.dtype, arch: int) -> None:
    ids = meta(7, dtype=torch.int64)
    kernels = compiled(lambda: embedding_triton(ids, meta(50400, 4096, dtype=dtype)), arch)
    for heads, head_dim, rotary_dim in ((16, 256, 64), (3, 80, 20)):
        qkv, cache = meta(7, 3 * heads * head_dim, dtype=dtype), meta(99, heads, head_dim, dtype=dtype)
        angles = meta(2048, rotary_dim // 2, dtype=torch.float32)
        kernels += compiled(lambda: rotary_cache_write_triton(qkv, ids, angles, angles, cache, cache, ids), arch)  # noqa: B023
    for kernel in kernels:
        assert set(kernel.global_accesses("st")) == {16}
        assert 16 in kernel.global_accesses()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_decode_attention_copies_16_bytes_a_thread_ahead(heads: int, head_dim: int, dtype: torch.dtype, arch: int) -> None:
    cache, lengths = meta(99, heads, head_dim, dtype=dtype), meta(3, dtype=torch.int32)
    query = meta(3, heads, head_dim, dtype=dtype)
    table = meta(3, 2048, dtype=torch.int32)
    decode, join = compiled(lambda: decode_attention_triton(query, cache, cache, table, lengths), arch)
    assert (decode.name, join.name) == ("decode_attention_kernel", "join_kernel")
    assert "cp.async.cg.shared.global" in decode.ptx, "keys and values are not fetched ahead of their use"
    assert decode.global_accesses()[16] >= 2
    # At least four programs must fit on a multiprocessor to keep the memory busy: each loads three tiles of 16 KiB.
    assert 4 * decode.shared_bytes <= 163 * 1024
    assert 4 * decode.registers * 128 <= 65536


@pytest.mark.parametrize("arch", ARCHS)
def test_decode_attention_of_a_short_table_is_one_kernel(arch: int) -> None:
    cache, lengths = meta(99, 16, 256, dtype=torch.float16), meta(3, dtype=torch.int32)
    table = meta(3, 100, dtype=torch.int32)
    compiled(lambda: decode_attention_triton(meta(3, 16, 256, dtype=torch.float16), cache, cache, table, lengths), arch)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(
    ("dtype", "tokens"), [(torch.float32, 1024), *((dtype, tokens) for dtype in DTYPES[1:] for tokens in (4, 1024))]
)
@pytest.mark.parametrize(("heads", "head_dim"), HEADS)
def test_prefill_attention_uses_tensor_cores(heads: int, head_dim: int, tokens: int, dtype: torch.dtype, arch: int) -> None:
    cache, query = meta(99, heads, head_dim, dtype=dtype), meta(8 * tokens, heads, head_dim, dtype=dtype)
    where = meta(8, 2048, dtype=torch.int32), meta(9, dtype=torch.int32), meta(8, dtype=torch.int32)
    (kernel,) = compiled(lambda: prefill_attention_triton(query, cache, cache, *where), arch)
    assert kernel.global_accesses()[16] >= 2
    if dtype != torch.float32:
        assert ("wgmma.mma_async" if arch == 90 and tokens == 1024 else "mma.sync") in kernel.ptx
