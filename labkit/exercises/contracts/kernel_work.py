"""A contract on kernels: the kernels must read the arguments and store the results, and torch must compute nothing in between.

Loads and stores can be watched only in Triton's interpreter. If a kernel is compiled, only its launch can be watched.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from labkit.exercises.case import Case
from labkit.exercises.contracts.torch_guard import TorchGuard
from labkit.exercises.contracts.watch import Watch
from labkit.exercises.kernel_guard import KernelLaunch, OutsideTensor, watch_kernels
from labkit.plurals import counted

SLACK_BYTES = 256
"""Kernels may move 10 % more bytes than the smallest possible number, plus this number of bytes."""


@dataclass(frozen=True)
class Part:
    """A tensor that kernels must read or store. If `rows` are given, only these rows of the tensor count."""

    name: str
    tensor: Tensor
    rows: Sequence[int] | None = None

    @property
    def bytes(self) -> int:
        """The number of bytes of the part."""
        whole = self.tensor.numel() * self.tensor.element_size()
        return whole if self.rows is None else whole // len(self.tensor) * len(set(self.rows))


@dataclass(frozen=True)
class KernelContract:
    """The contract that a function's work is done by kernels.

    - `arguments` are the names of the function's arguments.
    - `reads(case)` and `stores(case, value)` list what the kernels must read and store.
    - `more_bytes(case)` is the number of bytes that must be moved in addition to these tensors. In total, the kernels may move
      10 % more bytes.
    - `launches` is the largest number of launches allowed; `kind` tells the learner which launches are expected.
    - `torch_combines`: torch may compute with what the kernels have stored, but not with the arguments.
    - `programs(case)` is the smallest and the largest number of programs allowed in the launch that reads the last part of
      `reads`. Each of these programs may run at most `most_stores` stores; `each` says what one program must do.
    - `grid(case)` is the grid that the given lines of the kernel expect. A different grid breaks no rule, but can explain a
      wrong access.
    - `tile(case)` maps the name of an argument to the largest number of its elements that one load may read.
    """

    arguments: tuple[str, ...]
    reads: Callable[[Case], list[Part]]
    stores: Callable[[Case, Any], list[Part]]
    more_bytes: Callable[[Case], int] = lambda case: 0
    launches: int = 1
    kind: str = "use one fused kernel"
    torch_combines: bool = False
    programs: Callable[[Case], tuple[int, int]] | None = None
    grid: Callable[[Case], tuple[int, ...]] | None = None
    most_stores: int | None = None
    each: str = "part"
    tile: Callable[[Case], Mapping[str, int]] | None = None

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call of the learner's function. Memory that the call allocates without initialising it is filled with NaN."""
        given = dict(zip(self.arguments, case.args, strict=False))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        guard = TorchGuard(tensors, function, results_are_free=self.torch_combines)
        with watch_kernels() as launches, guard:
            yield _KernelWatch(self, case, guard, launches)


@dataclass
class _KernelWatch(Watch):
    contract: KernelContract
    case: Case
    guard: TorchGuard
    launches: list[KernelLaunch]

    def breach(self, value: Any) -> str:
        own = next((launch.name for launch in self.launches if launch.from_labkit), "")
        if own:
            return f"{own} is a kernel of labkit, or calls a kernel of labkit: write the kernel yourself"
        if self.guard.refused:
            return self.guard.refused
        if not self.launches:
            return "no kernel was launched: your own kernel has to do the work"
        if len(self.launches) > self.contract.launches:
            return f"it launches {len(self.launches)} kernels; {self.contract.kind}"
        if any(launch.extents is None for launch in self.launches):
            return ""  # The loads and stores of a compiled kernel cannot be watched.
        return self._loads_and_stores(value)

    def clue(self) -> str:
        """A message about elements of a new tensor that no kernel has stored; "" if there are none.

        A new tensor, such as the result of one part, is an argument of a kernel but not of the function.
        """
        given = [value for value in self.case.args if isinstance(value, Tensor)]
        for extent in (extent for launch in self.launches for extent in launch.extents or ()):
            if extent.shape is None or any(extent.overlaps(tensor) for tensor in given):
                continue
            stored = np.logical_or.reduce([launch.stored(extent) for launch in self.launches])
            if words := _missing(extent.name, stored, "stored"):
                return words
        return ""

    def clue_to_error(self, kind: str) -> str:
        return self._wrong_grid() if kind == OutsideTensor.__name__ else ""

    def _loads_and_stores(self, value: Any) -> str:
        contract = self.contract
        reads, stores = contract.reads(self.case), contract.stores(self.case, value)
        for parts, verb, done in ((stores, "writes", "stored"), (reads, "reads", "read")):
            for part in parts:
                touched = np.zeros(part.tensor.numel(), dtype=bool)
                for launch in self.launches:
                    touched |= launch.touched(verb, part.tensor)
                if words := _missing(part.name, touched.reshape(part.tensor.shape), done, part.rows):
                    grid = self._wrong_grid()
                    return f"{grid}; {words}" if grid else words
        return self._grid(reads) or self._tiles() or self._bytes(reads + stores)

    def _grid(self, reads: list[Part]) -> str:
        contract = self.contract
        if contract.programs is None and contract.most_stores is None:
            return ""
        last = reads[-1]
        reading = [launch for launch in self.launches if launch.touched("reads", last.tensor).any()]
        if len(reading) > 1:
            return f"{len(reading)} launches read {last.name}; only one launch may read it; a second launch may combine parts"
        launch = reading[0]
        asked = f"let each program do one {contract.each}, without a loop over several of them"
        if contract.most_stores is not None and launch.stores > contract.most_stores * launch.programs:
            return f"{launch.name} has {_programs(launch)} and runs {launch.stores:,} stores: {asked}"
        words = self._programs_differ(launch)
        return f"{words}: {asked}" if words else ""

    def _wrong_grid(self) -> str:
        """A message about the grid, if it can be the cause of a wrong or a missing access; else ""."""
        if len(self.launches) != 1 or not self.launches[0].programs or not self.launches[0].accesses:
            return ""
        (launch,), grid = self.launches, self.contract.grid(self.case) if self.contract.grid else ()
        if grid and launch.grid != (*grid, *[1] * (3 - len(grid))):
            return f"{self._against(launch, math.prod(grid))}, over {grid}"
        return self._programs_differ(launch)

    def _programs_differ(self, launch: KernelLaunch) -> str:
        low, high = self.contract.programs(self.case) if self.contract.programs else (1, launch.programs)
        return "" if low <= launch.programs <= high else self._against(launch, high)

    def _against(self, launch: KernelLaunch, right: int) -> str:
        each = f"with one program for each {self.contract.each} there are {right:,}"
        return f"{launch.name} is launched over {launch.grid}, {_programs(launch)}; {each}"

    def _tiles(self) -> str:
        for name, most in (self.contract.tile(self.case) if self.contract.tile else {}).items():
            tensor = self.case.args[self.contract.arguments.index(name)]
            widest = max(launch.widest(tensor) for launch in self.launches)
            if widest > most:
                over = f"{widest:,} elements of {name}, more than ROWS x BLOCK, which is {most:,}"
                return f"one load takes {over}: load {name} in blocks"
        return ""

    def _bytes(self, parts: list[Part]) -> str:
        least = sum(part.bytes for part in parts) + self.contract.more_bytes(self.case)
        moved = sum(launch.bytes_moved for launch in self.launches)
        if moved <= 1.1 * least + SLACK_BYTES:
            return ""
        return (
            f"your kernel moves {moved:,} bytes where {least:,} are enough: it reads values that it has stored itself, or "
            "stores values that could stay in registers"
        )


def _programs(launch: KernelLaunch) -> str:
    return f"{launch.programs:,} program{'s' * (launch.programs != 1)}"


def _missing(name: str, touched: Any, done: str, rows: Sequence[int] | None = None) -> str:
    """Describe the elements of a tensor (or of its `rows`) that no kernel has read or stored; "" if there are none.

    If kernels have read or stored other rows instead, the message says so: in this case an address is wrong, and no load or
    store is missing.
    """
    touched = np.atleast_1d(touched)
    wanted = np.ones(len(touched), dtype=bool)
    if rows is not None:
        wanted[:] = False
        wanted[list(rows)] = True
    left = ~touched & wanted.reshape(-1, *[1] * (touched.ndim - 1))
    if not left.any():
        return ""
    asked = int(wanted.sum()) * (touched.size // max(len(wanted), 1))
    count = "none" if int(left.sum()) == asked else f"{asked - int(left.sum()):,}"
    elsewhere = touched & ~wanted.reshape(-1, *[1] * (touched.ndim - 1))
    if not elsewhere.any():
        return f"kernels have {done} {count} of the {asked:,} elements of {name}; the first missing element is {_first(left)}"
    wrong = f"{counted(int(elsewhere.sum()), 'element')} of {name} at other places, for example at {_first(elsewhere)}"
    return (
        f"kernels have {done} {wrong}, and {count} of the {asked:,} that must be {done}; the first of these is {_first(left)}"
    )


def _first(marks: Any) -> Any:
    """The index of the first marked element: an integer if there is one dimension, otherwise a tuple."""
    first = tuple(int(place[0]) for place in marks.nonzero())
    return first if len(first) > 1 else first[0]
