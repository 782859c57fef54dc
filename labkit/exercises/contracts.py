"""What an exercise asks for besides the right values: that kernels do the work, that blocks are not kept, and so on.

A contract watches one call of a learner's function. It stops nothing and raises nothing; afterwards it says in words, by
name, what was done that the exercise does not allow.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from labkit.exercises.case import Case
from labkit.exercises.kernel_guard import KernelLaunch, in_launch, watch_kernels
from labkit.measure.torch_traffic import tensors_in

_SIGNS = {
    "add": " (+)",
    "sub": " (-)",
    "mul": " (*)",
    "truediv": " (/)",
    "div": " (/)",
    "matmul": " (@)",
    "pow": " (**)",
    "neg": " (-)",
    "getitem": "x[indices]",
    "setitem": "x[...] = ...",
}
_PRINTS = ("__repr__", "__str__", "__format__")
_LEAVES_TORCH = ("numpy", "tolist", "__array__", "__dlpack__", "data_ptr", "untyped_storage", "storage")
_EMPTY = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted")
_MAKES = ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "fill_", "zero_", "lift_fresh")
_WHOLE = (torch.int32, torch.int64, torch.bool)
"""Numbers of slots, positions and lengths: torch may work on those."""
_RANDOM = ("multinomial", "rand", "rand_like", "randn", "randint", "bernoulli", "uniform_", "exponential_")
_OWN = ("labkit.ops", "labkit.native", "labkit.engine", "labkit.exercises.lab02")
SLACK_BYTES = 256
"""Bytes that a launch may move more than a tenth above the fewest."""


class Watch(Protocol):
    """One watched call."""

    def breach(self, value: Any) -> str:
        """What was done against the contract, as the end of a sentence; empty where nothing was."""


class Contract(Protocol):
    """What is asked for besides the values."""

    def watch(self, case: Case, function: Any) -> contextlib.AbstractContextManager[Watch]:
        """Watch a call of `function` on `case` in this block."""


@dataclass(frozen=True)
class Part:
    """A tensor that kernels must read or store, or some of its rows."""

    name: str
    tensor: Tensor
    rows: Sequence[int] | None = None

    @property
    def bytes(self) -> int:
        """Bytes of these rows."""
        whole = self.tensor.numel() * self.tensor.element_size()
        return whole if self.rows is None else whole // len(self.tensor) * len(set(self.rows))


@dataclass(frozen=True)
class KernelContract:
    """Kernels do the work: they read what is given, store what is asked for, and torch computes nothing in between.

    `arguments` names the function's arguments. `reads` and `stores` list what kernels must read and store of a case (and of
    the value that came back). `more_bytes` is what else must move; more than a tenth above all of it is too much. `launches`
    is the most that is allowed, `kind` what a launch is called. `torch_combines` lets torch work on what kernels have stored,
    not on the arguments. `programs` bounds the grid of the launch that reads the last of `reads`, `tile` the elements that
    one load may take of an argument. The parts that look at loads and stores need Triton's interpreter.
    """

    arguments: tuple[str, ...]
    reads: Callable[[Case], list[Part]]
    stores: Callable[[Case, Any], list[Part]]
    more_bytes: Callable[[Case], int] = lambda case: 0
    launches: int = 1
    kind: str = "one fused kernel is asked for"
    torch_combines: bool = False
    programs: Callable[[Case], tuple[int, int]] | None = None
    tile: Callable[[Case], Mapping[str, int]] | None = None

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call; memory that is allocated in it and not written is NaN."""
        given = dict(zip(self.arguments, case.args, strict=False))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        guard = TorchGuard(tensors, function, results_are_free=self.torch_combines)
        with watch_kernels() as launches, guard:
            yield _KernelWatch(self, case, guard, launches)


@dataclass
class _KernelWatch:
    contract: KernelContract
    case: Case
    guard: TorchGuard
    launches: list[KernelLaunch]

    def breach(self, value: Any) -> str:
        own = next((launch.name for launch in self.launches if launch.from_labkit), "")
        if own:
            return f"{own} is labkit's own kernel, or calls one: the kernel is yours to write"
        if self.guard.refused:
            return self.guard.refused
        if not self.launches:
            return "no kernel was launched: a kernel of yours has to do the work"
        if len(self.launches) > self.contract.launches:
            return f"it launches {len(self.launches)} kernels; {self.contract.kind}"
        if any(launch.extents is None for launch in self.launches):
            return ""  # compiled: what it loads and stores is not seen
        return self._loads_and_stores(value)

    def _loads_and_stores(self, value: Any) -> str:
        contract = self.contract
        reads, stores = contract.reads(self.case), contract.stores(self.case, value)
        for parts, verb, done in ((stores, "writes", "stored"), (reads, "reads", "read")):
            for part in parts:
                touched = np.zeros(part.tensor.numel(), dtype=bool)
                for launch in self.launches:
                    touched |= launch.touched(verb, part.tensor)
                if words := _missing(part, touched, done):
                    return words
        return self._grid(reads) or self._tiles() or self._bytes(reads + stores)

    def _grid(self, reads: list[Part]) -> str:
        if self.contract.programs is None:
            return ""
        last = reads[-1]
        reading = [launch for launch in self.launches if launch.touched("reads", last.tensor).any()]
        if len(reading) > 1:
            return f"{len(reading)} launches read {last.name}; one reads them, and a second may combine the parts"
        low, high = self.contract.programs(self.case)
        if not low <= reading[0].programs <= high:
            return (
                f"{reading[0].name} is launched over {reading[0].grid}, {reading[0].programs:,} programs; one program a "
                f"sequence, head and part would be {high:,}: split the cache"
            )
        return ""

    def _tiles(self) -> str:
        for name, most in (self.contract.tile(self.case) if self.contract.tile else {}).items():
            tensor = self.case.args[self.contract.arguments.index(name)]
            widest = max(launch.widest(tensor) for launch in self.launches)
            if widest > most:
                return f"one load takes {widest:,} elements of {name}; ROWS x BLOCK are {most:,}: go through it in blocks"
        return ""

    def _bytes(self, parts: list[Part]) -> str:
        least = sum(part.bytes for part in parts) + self.contract.more_bytes(self.case)
        moved = sum(launch.bytes_moved for launch in self.launches)
        if moved <= 1.1 * least + SLACK_BYTES:
            return ""
        return (
            f"your kernel moves {moved:,} bytes where {least:,} are enough: it reads back what it has stored, or puts away "
            "what could stay in registers"
        )


def _missing(part: Part, touched: Any, done: str) -> str:
    """In words, that kernels left out elements of a part."""
    shaped = touched.reshape(part.tensor.shape)
    wanted = np.ones(len(shaped), dtype=bool)
    if part.rows is not None:
        wanted[:] = False
        wanted[list(part.rows)] = True
    left = ~shaped & wanted.reshape(-1, *[1] * (shaped.ndim - 1))
    if not left.any():
        return ""
    asked = int(wanted.sum()) * (shaped.size // max(len(shaped), 1))
    count = "none" if int(left.sum()) == asked else f"{asked - int(left.sum()):,}"
    first = tuple(int(place[0]) for place in left.nonzero())
    at = first if len(first) > 1 else first[0]
    return f"kernels have {done} {count} of the {asked:,} elements of {part.name}; the first that is missing is {at}"


class TorchGuard:
    """Sees what torch is asked to do in a block; `refused` says the first thing that a kernel should have done.

    Allocation, views, shapes and printing are free, and so is work on whole numbers (slots, positions). With
    `results_are_free`, only the memory of `tensors` is guarded. Memory allocated without a value is filled with NaN.
    """

    def __init__(self, tensors: Mapping[str, Tensor], function: Any, *, results_are_free: bool = False) -> None:
        self.refused = ""
        self._names = {tensor.untyped_storage().data_ptr(): name for name, tensor in tensors.items()}
        self._results_are_free = results_are_free
        self._code = getattr(function, "__code__", None)
        self._asked_for: list[str] = []
        self._modes = Functions(self._function), Dispatches(self._dispatch)

    def __enter__(self) -> TorchGuard:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*raised)  # type: ignore[no-untyped-call]

    def _function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if not in_launch() and name in _LEAVES_TORCH and any(map(self._guarded, tensors_in(args))):
            self._refuse(name, args)
        self._asked_for.append(name)
        try:
            return func(*args, **kwargs)
        finally:
            self._asked_for.pop()

    def _dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        outcome = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if in_launch():
            return outcome
        if name in _EMPTY:
            return _fill(outcome)
        tensors = list(tensors_in((args, kwargs)))
        free = name in _MAKES or (func.is_view and str(func) != "aten.view.dtype") or set(self._asked_for) & set(_PRINTS)
        if not free and any(map(self._guarded, tensors)):
            self._refuse(self._asked_for[0] if self._asked_for else name, tensors)
        return outcome

    def _guarded(self, tensor: Tensor) -> bool:
        if tensor.dtype in _WHOLE:
            return False
        return not self._results_are_free or self._name(tensor) != ""

    def _name(self, tensor: Tensor) -> str:
        with contextlib.suppress(RuntimeError):
            return self._names.get(tensor.untyped_storage().data_ptr(), "")
        return ""

    def _refuse(self, name: str, values: Any) -> None:
        if self.refused:
            return
        own, line = self._caller()
        if own:
            self.refused = f"it calls labkit's own {own}{line}: your kernel has to do that work"
            return
        plain = name.strip("_")
        base = plain[1:] if plain[1:] in _SIGNS else plain  # radd, imul
        said = _SIGNS.get(base, "") if base.endswith("item") else f"torch.{base}" + _SIGNS.get(base, "")
        on = next(filter(None, map(self._name, filter(self._guarded, tensors_in(values)))), "a tensor")
        self.refused = f"`{said}` works on {on} in torch, outside your kernel{line}: let the kernel do that work"

    def _caller(self) -> tuple[str, str]:
        """Labkit's function that the learner's code called, if it is one's doing, and the learner's line."""
        own, frame = "", sys._getframe(1)
        while frame is not None:
            if self._code is not None and frame.f_code.co_filename == self._code.co_filename:
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()
                return own, f" (in your line `{text}`)" if text else ""
            module = frame.f_globals.get("__name__", "")
            if module.startswith("labkit.grading"):
                break
            if module.startswith(_OWN) and module != "labkit.ops.registry":
                own = frame.f_code.co_name
            frame = frame.f_back  # type: ignore[assignment]
        return own, ""


class Functions(TorchFunctionMode):
    """Hands over each call of a torch function; what that one calls itself is not seen."""

    def __init__(self, see: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()
        self._see = see

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._see(func, args, kwargs or {})


class Dispatches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands over each operation that torch runs in the end."""

    def __init__(self, see: Callable[[Any, Any, Any], Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._see = see

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._can_decompose():  # under inference mode a reshape, say, comes whole
            with self:
                decomposed = func.decompose(*args, **(kwargs or {}))
            if decomposed is not NotImplemented:
                return decomposed
        return self._see(func, args, kwargs or {})


def _fill(tensor: Tensor) -> Tensor:
    """Make it seen that this memory was not written: what lay there before may be an earlier right answer."""
    if tensor.device.type == "meta":
        return tensor
    return tensor.fill_(float("nan") if tensor.is_floating_point() else 63)


@dataclass(frozen=True)
class HeldContract:
    """Little is held at a time: at most `most(case)` elements in tensors made during the call, and no lists of numbers."""

    most: Callable[[Case], int]

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call."""
        held = _Held(self.most(case))
        with Functions(held.function), Dispatches(held.dispatch):
            yield held


@dataclass
class _Held:
    most: int
    peak: int = 0
    left_torch: str = ""
    alive: dict[Any, int] = field(default_factory=dict)

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in ("numpy", "tolist", "__array__", "__dlpack__") and any(t.numel() > 1 for t in tensors_in(args)):
            self.left_torch = name
        return func(*args, **kwargs)

    def dispatch(self, func: Any, args: Any, kwargs: Any) -> Any:
        outcome = func(*args, **kwargs)
        known = {tensor.untyped_storage()._cdata for tensor in tensors_in((args, kwargs))}
        for tensor in tensors_in(outcome):
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self.alive = {kept: size for kept, size in self.alive.items() if not kept.expired()}
                self.alive[StorageWeakRef(storage)] = storage.nbytes() // tensor.element_size()  # type: ignore[no-untyped-call]
                self.peak = max(self.peak, sum(self.alive.values()))
        return outcome

    def breach(self, value: Any) -> str:
        if self.left_torch:
            return f"{self.left_torch}() takes a block out of torch, where what you keep is not seen; leave the blocks tensors"
        if self.peak > self.most:
            return (
                f"it holds {self.peak:,} numbers of its own at a time, where a block and three running values are at most "
                f"{self.most:,}: use each block as it comes, and keep no copy"
            )
        return ""


@dataclass(frozen=True)
class NothingDrawn:
    """The function draws no random numbers of its own; `instead` says what it is given."""

    instead: str

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call."""
        drawn = _Drawn(self.instead)
        with Functions(drawn.function):
            yield drawn


@dataclass
class _Drawn:
    instead: str
    name: str = ""

    def function(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        if name in _RANDOM:
            self.name = name
        return func(*args, **kwargs)

    def breach(self, value: Any) -> str:
        return f"torch.{self.name} draws a random number of its own: {self.instead}" if self.name else ""
