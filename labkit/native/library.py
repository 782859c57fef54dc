"""Loads the native library, describes its C interface (src/native.h) to ctypes, and passes tensors to it."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import threading
import warnings
from collections.abc import Iterator
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_double, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch
from torch import Tensor

from labkit.errors import InvalidRequest, NotAvailable
from labkit.forked import is_forked_child
from labkit.host_cores import cores_at_start
from labkit.torch_state import torch_threads

FILE_NAME = "_native.so"
OFF = "LABKIT_NATIVE"
"""If the environment variable with this name is 0, the library is not loaded, and torch's own kernels run."""

F32, BF16, INT8, INT4, W8A8, E4M3, E5M2, SPARSE24, SPARSE24_INT8 = range(9)
TYPES = {torch.float32: F32, torch.bfloat16: BF16}


class WeightStruct(Structure):
    """The C struct `lk_weight`."""

    _fields_ = (
        ("type", c_int32),
        ("out", c_int32),
        ("in_", c_int32),
        ("data", c_void_p),
        ("scales", c_void_p),
        ("bias", c_void_p),
        ("input_scale", c_float),
    )


class LayerStruct(Structure):
    """The C struct `lk_layer`."""

    _fields_ = (
        ("ln_weight", c_void_p),
        ("ln_bias", c_void_p),
        ("qkv", WeightStruct),
        ("out_proj", WeightStruct),
        ("fc_in", WeightStruct),
        ("fc_out", WeightStruct),
    )


class GroupStruct(Structure):
    """The C struct `lk_group`."""

    _fields_ = (
        ("region", c_void_p),
        ("rank", c_int32),
        ("ranks", c_int32),
        ("slot_bytes", c_int64),
        ("epoch", c_int64),
        ("timeout", c_double),
        ("late", c_int32),
        ("calls", c_int32),
        ("bytes", c_int64),
        ("seconds", c_double),
    )


class ModelStruct(Structure):
    """The C struct `lk_model`."""

    _fields_ = (
        *((name, c_int32) for name in ("hidden", "layers", "heads", "head_dim", "rotary_dim", "inner", "vocab")),
        ("epsilon", c_float),
        ("cache_type", c_int32),
        ("layer", POINTER(LayerStruct)),
        ("ln_weight", c_void_p),
        ("ln_bias", c_void_p),
        ("head", WeightStruct),
        ("embedding", c_void_p),
        ("embedding_first", c_int64),
        ("embedding_rows", c_int64),
        ("sin", c_void_p),
        ("cos", c_void_p),
        ("add_up", c_void_p),
        ("add_up_argument", c_void_p),
        ("adds_residual", c_int32),
        ("quantized_cache", c_int32),
    )


class BatchStruct(Structure):
    """The C struct `lk_batch`."""

    _fields_ = (
        *((name, c_int32) for name in ("tokens", "sequences", "logits", "soft")),
        *((name, c_void_p) for name in ("token_ids", "positions", "slot_mapping", "starts", "slot_table")),
        ("table_stride", c_int64),
        *((name, c_void_p) for name in ("lengths", "logit_rows", "soft_rows", "soft_embeddings", "hidden_in", "hidden_out")),
    )


ADD_UP = CFUNCTYPE(c_int32, c_void_p, POINTER(c_float), c_int64)
"""The C type of a Python function that serves as a model's `add_up`."""

_I, _L, _F, _P = c_int32, c_int64, c_float, c_void_p
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "lk_isa": (c_char_p, ()),
    "lk_use_isa": (_I, (c_char_p,)),
    "lk_advise_large_pages": (None, (_P, _L)),
    "lk_packed_bytes": (_L, (_I, _I, _I)),
    "lk_scale_bytes": (_L, (_I, _I, _I)),
    "lk_pack": (None, (_I, _I, _I, _P, _I, _P, _I, _P, _P, _I)),
    "lk_workspace_create": (_P, ()),
    "lk_workspace_free": (None, (_P,)),
    "lk_forward": (_I, (POINTER(ModelStruct), POINTER(BatchStruct), _P, _P, _P, _P, _L, _P, _P, _I)),
    "lk_linear": (None, (POINTER(WeightStruct), _I, _P, _I, _I, _P, _P, _I)),
    "lk_layer_norm": (None, (_I, _P, _P, _P, _F, _I, _I, _P, _I)),
    "lk_residual_layer_norm": (None, (_I, _P, _P, _P, _P, _P, _F, _I, _I, _P, _P, _I)),
    "lk_rotary_cache_write": (None, (_I, _P, _P, _P, _P, _P, _P, _P, _I, _I, _I, _I, _P, _I)),
    "lk_pace_create": (_P, ()),
    "lk_pace_free": (None, (_P,)),
    "lk_pace_with_helpers": (_I, (_P, _L)),
    "lk_pace_took": (None, (_P, _L, _I, _L, _L)),
    "lk_group_bytes": (_L, (_I, _L)),
    "lk_group_abort": (None, (POINTER(GroupStruct),)),
    "lk_group_all_reduce": (_I, (_P, _P, _L)),
    "lk_group_broadcast": (_I, (POINTER(GroupStruct), _I, _P, _L)),
    "lk_group_gather": (_I, (POINTER(GroupStruct), _I, _P, _L, _P)),
    "lk_sample": (None, (_P, _I, _I, _P, _P, _P, _P, _P, _P, _P, _P, _I)),
    "lk_attention": (None, (_I, _P, _P, _P, _P, _L, _P, _P, _I, _I, _I, _P, _P, _I)),
}


@functools.cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    """Load the library. Returns the library and an empty string, or None and the reason why it is not loaded."""
    # imported here, so that `python -m labkit.native.build` imports the module only once
    from labkit.native.build import interface

    if os.environ.get(OFF) == "0":
        return None, f"{OFF}=0 is set"
    path = Path(__file__).with_name(FILE_NAME)
    if not path.exists():
        return None, (
            "it was not built: installing labkit builds it if there is a C++ compiler (g++ or clang++); "
            "run `python -m labkit.native.build` to build it now and to see what the compiler says"
        )
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"it cannot be loaded: {error}"
    if _interface_of(library) != interface():
        return None, "it was built from other sources; run `python -m labkit.native.build` to build it again"
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library, ""


def _interface_of(library: ctypes.CDLL) -> str:
    """Return the checksum of the C interface with which the library was built, or "" if an old library has no checksum."""
    function = getattr(library, "lk_interface", None)
    if function is None:
        return ""
    function.restype = c_char_p
    name: bytes = function()
    return name.decode()


def available() -> bool:
    """Whether the native library was built and can be loaded."""
    return _load()[0] is not None


def why_not() -> str:
    """Return the reason why the native library is not used, or an empty string if it is used."""
    return _load()[1]


def library() -> ctypes.CDLL:
    """Return the loaded library. Raises `NotAvailable` with the reason if the library is not loaded."""
    found, reason = _load()
    if found is None:
        raise NotAvailable(f"labkit's native CPU library is not used: {reason}")
    return found


@functools.cache
def warn_once() -> None:
    """Warn once per process that torch's kernels run instead of the native library, and give the reason."""
    warnings.warn(
        f"labkit's native CPU library is not used ({why_not()}); torch's own kernels run instead, which is slower", stacklevel=3
    )


def instruction_set() -> str:
    """The instruction set that the kernels use.

    On x86-64: avx512_bf16, avx512_vnni or avx2. On 64-bit ARM: neon_bf16 (with i8mm), neon_dotprod or neon. Otherwise:
    portable.
    """
    name: bytes = library().lk_isa()
    return name.decode()


def use_instruction_set(name: str) -> None:
    """Use another instruction set, for tests and comparisons.

    Raises `NotAvailable` if the CPU or the build lacks this instruction set.
    """
    if library().lk_use_isa(name.encode()):
        raise NotAvailable(f"instruction set {name!r} is not available on this CPU or in this build")


_chosen = threading.local()


def threads() -> int:
    """The number of threads of a native call: the number set by `torch.set_num_threads`, but at most the usable cores.

    The number is 1 in a forked child, which has only one thread.
    """
    if is_forked_child():
        return 1
    wanted: int | None = getattr(_chosen, "threads", None)
    return min(torch.get_num_threads() if wanted is None else wanted, cores_at_start())


@contextlib.contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """Let torch compute on one thread inside the block; native calls still use as many threads as before.

    torch and the library have separate threads. Even waiting threads keep their cores busy, so the two sets of threads would
    slow each other down.
    """
    before = getattr(_chosen, "threads", None)
    _chosen.threads = threads()
    try:
        with torch_threads(1):
            yield
    finally:
        _chosen.threads = before


def native_type(tensor: Tensor) -> int:
    """The library's number for a tensor's dtype. Raises `InvalidRequest` unless the dtype is float32 or bfloat16."""
    if tensor.dtype not in TYPES:
        raise InvalidRequest(f"a native kernel was given a tensor of {tensor.dtype}; float32 and bfloat16 are accepted")
    return TYPES[tensor.dtype]


_PLAIN = (Tensor, torch.nn.Parameter)


def pointer(tensor: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> int | None:
    """Return the address of a tensor's data for a C call, or None if `tensor` is None.

    C cannot check an address. Therefore this function raises `InvalidRequest` unless `tensor` is a plain, contiguous CPU tensor
    of this dtype and shape. Every address that is passed to the library comes from this function or from `rows_pointer`.
    """
    if tensor is None:
        return None
    if tensor.shape != shape or not tensor.is_contiguous():
        raise _refused(tensor, dtype, shape)
    return _address(tensor, dtype, shape)


def rows_pointer(table: Tensor, dtype: torch.dtype, rows: int) -> tuple[int, int]:
    """Return the address of a table with this number of rows, and the number of elements from one row to the next.

    The checks are the same as in `pointer`, except that the rows can have any length and can be parts of longer rows.
    """
    if table.dim() != 2 or len(table) != rows or table.stride(1) != 1:
        raise _refused(table, dtype, (rows, -1))
    return _address(table, dtype, (rows, -1)), table.stride(0)


def _address(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    if tensor.dtype is not dtype or not tensor.is_cpu or type(tensor) not in _PLAIN:
        raise _refused(tensor, dtype, shape)
    return tensor.data_ptr()


def _refused(tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> InvalidRequest:
    form = "contiguous" if tensor.is_contiguous() else f"with strides {tensor.stride()}"
    kind = "" if type(tensor) in _PLAIN else f"{type(tensor).__name__} "
    wanted = str(list(shape)).replace("-1", "any")
    return InvalidRequest(
        f"a native kernel was given a {kind}tensor of {tensor.dtype} {list(tensor.shape)} on {tensor.device}, {form}; a "
        f"plain, contiguous CPU tensor of {dtype} {wanted} is accepted"
    )


def trim_heap() -> None:
    """Ask the allocator to return freed memory to the system. Does nothing if the allocator cannot do this."""
    with contextlib.suppress(AttributeError, OSError):  # only glibc has this function
        ctypes.CDLL(None).malloc_trim(0)


def advise_large_pages(memory: Tensor) -> None:
    """Ask the system for large pages for a tensor that has not been written yet. Does nothing if there are no large pages."""
    library().lk_advise_large_pages(pointer(memory, memory.dtype, memory.shape), memory.nbytes)


class Workspace:
    """Memory that native calls reuse. Only one call at a time can use a workspace."""

    def __init__(self) -> None:
        self._library = library()
        self.handle = c_void_p(self._library.lk_workspace_create())

    def __del__(self) -> None:
        if getattr(self, "handle", None):  # the constructor may have failed before the attribute was set
            self._library.lk_workspace_free(self.handle)
