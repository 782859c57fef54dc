"""A memory checker for kernels in Triton's interpreter: an access outside the given tensors raises an error.

Without this checker the interpreter reads and writes at any address, and a missing mask can crash the whole process. The
checker also shows two things that otherwise only a GPU would show. First, elements that a mask leaves out are undefined if no
`other=` is given, so the checker sets them to NaN. Second, the checker counts the bytes that must go through memory. It counts
each byte once, even if many programs access it. (`labkit.ops.kernels.interpreter_traffic` counts a byte each time a program
asks for it.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labkit.exercises.kernel_traceback import show_shortly
from labkit.measure.traffic import Traffic

_POISON = 0x3F3F3F3F
"""The value given to whole numbers that a mask leaves out. An index with this value is outside any tensor."""


class OutsideTensor(Exception):
    """A kernel has accessed memory outside its tensor arguments."""


@dataclass
class MemoryBytes(Traffic):
    """The bytes that kernels read and wrote (each byte counts once per launch), and how many launches and programs ran."""

    launches: int = 0
    programs: int = 0
    progress: Callable[[int, int], object] | None = None


@dataclass
class _Extent:
    """The memory of one tensor argument: its name, its shape, the address of its first byte, the address after its last byte,
    and a mark for each accessed element.

    The shape is None if the tensor is not contiguous.
    """

    name: str
    start: int
    end: int
    shape: tuple[int, ...] | None
    element_size: int
    touched: dict[tuple[str, int], Any] = field(default_factory=dict)  # by (verb, element size): one mark for each byte
    widest: int = 0  # the largest number of elements in one load

    def mark(self, verb: str, addresses: Any, size: int, lanes: int) -> None:
        """Mark the elements at these addresses as accessed; `lanes` is the number of elements in the whole load or store."""
        marks = self.touched.setdefault((verb, size), np.zeros(self.end - self.start, dtype=bool))
        marks[(addresses - self.start).astype(np.int64)] = True
        if verb == "reads":
            self.widest = max(self.widest, lanes)

    def overlaps(self, tensor: Any) -> bool:
        """Whether this argument shares memory with a tensor."""
        start = tensor.data_ptr()
        return bool(self.start < start + tensor.numel() * tensor.element_size() and start < self.end)

    def bytes_of(self, verb: str) -> int:
        """The number of bytes that were read (verb "reads") or written (verb "writes")."""
        return sum(size * int(marks.sum()) for (way, size), marks in self.touched.items() if way == verb)


@dataclass
class KernelLaunch:
    """One launch of a kernel: its grid, the number of stores that its programs ran, and the memory that they accessed.

    `extents` is None for a compiled kernel, whose accesses cannot be watched.
    """

    name: str
    from_labkit: bool
    grid: tuple[int, ...] = ()
    stores: int = 0
    extents: list[_Extent] | None = None

    @property
    def programs(self) -> int:
        """The number of programs in the grid."""
        return math.prod(self.grid)

    @property
    def accesses(self) -> bool:
        """Whether a program has read or written anything."""
        return any(extent.touched for extent in self.extents or ())

    @property
    def bytes_moved(self) -> int:
        """The bytes that must go through memory: a byte counts once if it was read, and once if it was written."""
        return sum(extent.bytes_of(verb) for extent in self.extents or () for verb in ("reads", "writes"))

    def touched(self, verb: str, tensor: Any) -> Any:
        """Mark each element of a contiguous tensor with True if it was read (verb "reads") or written (verb "writes")."""
        return self._touched(verb, tensor.data_ptr(), tensor.element_size(), tensor.numel())

    def _touched(self, verb: str, start: int, size: int, count: int) -> Any:
        marks = np.zeros(count, dtype=bool)
        for extent in self.extents or ():
            for (way, _), touched in extent.touched.items():
                if way == verb:
                    places = touched.nonzero()[0] + extent.start - start
                    marks[places[(places >= 0) & (places < len(marks) * size)] // size] = True
        return marks

    def stored(self, extent: _Extent) -> Any:
        """An array of booleans in the shape of the argument: True for each written element. The argument must be contiguous."""
        assert extent.shape is not None
        count = math.prod(extent.shape)
        return self._touched("writes", extent.start, extent.element_size, count).reshape(extent.shape)

    def widest(self, tensor: Any) -> int:
        """The largest number of elements that a single load read from this tensor."""
        return max((extent.widest for extent in self.extents or () if extent.overlaps(tensor)), default=0)


_extents: list[_Extent] = []
"""The arguments of the current launch."""
_counting: list[MemoryBytes] = []
_watching: list[list[KernelLaunch]] = []
_under_way = [0]
_unmasked: list[bool] = []
"""Not empty while a load or store without a mask runs."""


def in_launch() -> bool:
    """Whether a kernel is being launched. During a launch, calls of torch come from Triton and not from the learner."""
    return _under_way[0] > 0


@contextlib.contextmanager
def watch_kernels() -> Iterator[list[KernelLaunch]]:
    """Collect the launches in this block. Call `guard_interpreter` or `watch_launches` first."""
    seen: list[KernelLaunch] = []
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching[:] = [other for other in _watching if other is not seen]


@contextlib.contextmanager
def _launching(function: Any) -> Iterator[KernelLaunch]:
    """Record a launch of the kernel that this Python function defines, in every list of `watch_kernels`.

    If the kernel raises an error, a notebook then shows a short traceback.
    """
    noted = KernelLaunch(getattr(function, "__name__", "a kernel"), _from_labkit(function))
    for seen in _watching:
        seen.append(noted)
    _under_way[0] += 1
    try:
        yield noted
    except Exception as error:
        show_shortly(error)
        raise
    finally:
        _under_way[0] -= 1


def _from_labkit(function: Any) -> bool:
    """Whether a kernel belongs to labkit or calls a kernel of labkit."""
    names, scope = getattr(getattr(function, "__code__", None), "co_names", ()), getattr(function, "__globals__", {})
    called = [getattr(scope.get(name), "fn", None) for name in names]
    return any(str(getattr(one, "__module__", "")).startswith("labkit.") for one in (function, *called))


@contextlib.contextmanager
def count_memory_bytes(progress: Callable[[int, int], object] | None = None) -> Iterator[MemoryBytes]:
    """Count the bytes that interpreted kernels move in this block. Call `guard_interpreter` first.

    `progress(done, programs)` is called from time to time during a launch.
    """
    counted = MemoryBytes(progress=progress)
    _counting.append(counted)
    try:
        yield counted
    finally:
        _counting.remove(counted)


@functools.cache
def guard_interpreter() -> None:
    """From now on, check all kernels that this process runs in the interpreter. A second call does nothing."""
    interpreter = importlib.import_module("triton.runtime.interpreter")
    _guard_launches(interpreter.GridExecutor, interpreter.interpreter_builder)
    _guard_accesses(interpreter.InterpreterBuilder, interpreter._get_np_dtype)


@functools.cache
def watch_launches() -> None:
    """From now on, record the launches of compiled kernels. A second call does nothing."""
    function = importlib.import_module("triton.runtime.jit").JITFunction
    run = function.run

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        with _launching(self.fn):
            return run(self, *args, **kwargs)

    function.run = counted


def _guard_launches(executor: Any, builder: Any) -> None:
    """Record the arguments of each launch, and switch off numpy's warnings about NaN and infinity while the launch runs."""
    to_host, launch = executor._init_args_hst, executor.__call__

    def init_args(self: Any, args: Any, kwargs: Any) -> Any:
        host_args, host_kwargs = to_host(self, args, kwargs)
        named = [*zip(self.arg_names, host_args, strict=False), *host_kwargs.items()]
        _extents[:] = [_extent(name, value) for name, value in named if hasattr(value, "data_ptr")]
        return host_args, host_kwargs

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with np.errstate(all="ignore"), _launching(self.fn) as noted:
            noted.extents = []
            builder.set_grid_dim(0, 0, 0)  # If an error is raised before the first program, the grid has no programs.
            try:
                outcome = launch(self, *args, **kwargs)
            finally:
                noted.grid, noted.extents = tuple(map(int, builder.grid_dim)), list(_extents)
        for counted in _counting:
            counted.launches += 1
            counted.bytes_read += sum(extent.bytes_of("reads") for extent in _extents)
            counted.bytes_written += sum(extent.bytes_of("writes") for extent in _extents)
        return outcome

    executor._init_args_hst, executor.__call__ = init_args, call


def _extent(name: str, tensor: Any) -> _Extent:
    elements = 0 if tensor.numel() == 0 else 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    start = tensor.data_ptr()
    shape = tuple(tensor.shape) if tensor.is_contiguous() else None
    return _Extent(name, start, start + elements * tensor.element_size(), shape, tensor.element_size())


def _guard_accesses(builder: Any, dtype_of: Any) -> None:
    load, store, begin = builder.create_masked_load, builder.create_masked_store, builder.set_grid_idx

    def masked_load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any, **options: Any) -> Any:
        _check(self, "reads", ptrs, mask, dtype_of(ptrs.get_element_ty()).itemsize)
        loaded = load(self, ptrs, mask, other, *rest, **options)
        if other is None:
            left_out = ~_lanes(mask, loaded.data.shape)
            if left_out.any():
                poison = np.nan if np.issubdtype(loaded.data.dtype, np.floating) else _POISON
                loaded.data = np.where(left_out, np.array(poison).astype(loaded.data.dtype), loaded.data)
        return loaded

    def masked_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any, **options: Any) -> Any:
        _check(self, "writes", ptrs, mask, dtype_of(ptrs.get_element_ty()).itemsize)
        if _watching:
            _watching[-1][-1].stores += 1  # The last launch is the same in all lists.
        return store(self, ptrs, value, mask, *rest, **options)

    def set_grid_idx(self: Any, *index: Any) -> None:
        programs = math.prod(self.grid_dim)
        done = math.prod(self.grid_dim[1:]) * index[0] + self.grid_dim[2] * index[1] + index[2]
        for counted in _counting:
            counted.programs += 1
            if counted.progress and (done % max(1, programs // 50) == 0):
                counted.progress(done, programs)
        begin(self, *index)

    def unmasked(plain: Any) -> Any:
        """Wrap a load or store without a mask. The interpreter itself adds a mask that lets every element through."""

        def run(self: Any, *args: Any, **options: Any) -> Any:
            _unmasked.append(True)
            try:
                return plain(self, *args, **options)
            finally:
                _unmasked.pop()

        return run

    builder.create_load, builder.create_store = unmasked(builder.create_load), unmasked(builder.create_store)
    builder.create_masked_load, builder.create_masked_store = masked_load, masked_store
    builder.set_grid_idx = set_grid_idx


def _lanes(mask: Any, shape: tuple[int, ...]) -> Any:
    """The elements that a mask lets through, as booleans. A mask can contain the integers 0 and 1, which numpy would use as
    indices.
    """
    return np.broadcast_to(np.asarray(mask.data, dtype=bool), shape)


def _check(builder: Any, verb: str, ptrs: Any, mask: Any, size: int) -> None:
    """Raise `OutsideTensor` if an accessed element is outside all arguments; otherwise mark the elements as accessed."""
    addresses = ptrs.data[_lanes(mask, ptrs.data.shape)]
    if not addresses.size:
        return
    low, high = int(addresses.min()), int(addresses.max()) + size
    holding = [extent for extent in _extents if extent.start <= low and high <= extent.end]
    if not holding:
        outside = np.ones(addresses.shape, dtype=bool)
        for extent in _extents:
            outside &= (addresses < extent.start) | (addresses + size > extent.end)
        if outside.any():
            raise OutsideTensor(_words(builder.grid_idx, verb, addresses[outside], size))
    if not (_counting or _watching):
        return
    if holding:
        holding[0].mark(verb, addresses, size, ptrs.data.size)
        return
    for extent in _extents:
        within = (addresses >= extent.start) & (addresses + size <= extent.end)
        if within.any():
            extent.mark(verb, addresses[within], size, ptrs.data.size)


def _words(program: tuple[int, ...], verb: str, addresses: Any, size: int) -> str:
    count = f"{len(addresses)} elements" if len(addresses) > 1 else "an element"
    first = int(addresses.min())
    where = "no tensor was given"
    if _extents:
        nearest = min(_extents, key=lambda e: max(e.start - first, first - e.end))
        before = first < nearest.start
        distance = (nearest.start - first if before else first - nearest.end) // size
        away = f"{distance:,} element{'s' * (distance != 1)} {'before the start' if before else 'past the end'}"
        where = f"the first is {away if distance else 'directly after the last element'} of `{nearest.name}`"
    why = (
        "the address is wrong, or a mask is missing"
        if _unmasked
        else "its mask lets these elements through: the address is wrong, or the mask is too wide"
    )
    return f"program {program} {verb} {count} outside the tensors that the kernel got; {where}; {why}"
