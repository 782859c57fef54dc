"""A contract on memory: the learner's function may hold only a few numbers at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from torch.multiprocessing.reductions import StorageWeakRef

from labkit.exercises.case import Case
from labkit.exercises.contracts.torch_modes import Dispatches, Functions
from labkit.exercises.contracts.watch import Watch
from labkit.measure.torch_traffic import tensors_in


@dataclass(frozen=True)
class HeldContract:
    """During the call, the tensors that the function has made hold at most `most(case)` elements at any time, and no numbers
    are kept in lists.
    """

    most: Callable[[Case], int]

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[Watch]:
        """Watch a call of the learner's function."""
        held = _Held(self.most(case))
        with Functions(held.function), Dispatches(held.dispatch):
            yield held


@dataclass
class _Held(Watch):
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
            return f"{self.left_torch}() takes a block out of torch, where a check cannot see it; keep blocks as tensors"
        if self.peak > self.most:
            return (
                f"it holds {self.peak:,} numbers of its own at a time, but a block and three running values need at most "
                f"{self.most:,}: use each block as it arrives, and keep no copy"
            )
        return ""
