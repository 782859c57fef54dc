"""Runs the exercises of this lab on real processes, and checks the returned values and the ledger of collectives."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from labkit.exercises.case import Case
from labkit.exercises.contracts import Watch
from labkit.launch import Launched, RankRaisedError, launch, start
from labkit.launch.ledger import COMPUTE, Entry

PATIENCE = 3.0
"""The number of seconds that a collective waits for the other ranks."""

CHECK_SECONDS = 60.0
"""The time limit for one case in seconds. It is long enough even on a busy machine."""

BY_RANK = {f"[{rank}]": f"rank {rank}" for rank in range(4)}
"""In an answer with one value for each rank, messages call index `[0]` "rank 0", and so on."""

Call = tuple[str, tuple[int, ...]]
"""The name of a collective, and the shape of the tensor that this rank sends or receives with it."""


@dataclass(frozen=True)
class RanksCase(Case):
    """A case for `ranks` processes. An argument of the type `Each` contains a different value for each rank."""

    ranks: int = 2


def start_ranks(case: Case) -> None:
    """Start the processes that a case needs, unless they are already running."""
    assert isinstance(case, RanksCase)
    start(case.ranks)


def on_ranks(function: Callable[..., Any], case: Case) -> Launched:
    """Call a function on all ranks of a case. If a rank raises an error, an error with the same name is raised here."""
    return _on_all(case, function, *case.args)


def inside(program: Callable[..., Any]) -> Callable[[Callable[..., Any], Case], Launched]:
    """Make a function for the field `run` of an exercise.

    The new function calls `program` on all ranks, with the learner's function as the first argument.
    """

    def run(function: Callable[..., Any], case: Case) -> Launched:
        return _on_all(case, program, function, *case.args)

    return run


def _on_all(case: Case, function: Callable[..., Any], *args: Any) -> Launched:
    assert isinstance(case, RanksCase)
    try:
        return launch(function, case.ranks, *args, timeout=PATIENCE)
    except RankRaisedError as error:
        raise _like(error) from None


def values_of(case: Case, launched: Launched) -> list[Any]:
    """The returned values of all ranks, which are compared with the right values."""
    return launched.values


def _like(error: RankRaisedError) -> Exception:
    if error.kind == "NotImplementedError":
        return NotImplementedError()
    kind: type[Exception] = type(error.kind, (Exception,), {})
    return kind(f"on rank {error.rank}: {error.cause.removeprefix(f'{error.kind}: ')}")


@dataclass(frozen=True)
class LedgerContract:
    """A contract on what the ranks send to each other.

    `rule` returns the end of a sentence that says what is wrong; "" if nothing is wrong.
    """

    rule: Callable[[RanksCase, Launched], str]

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[_Watched]:
        """Watch a call of the learner's function."""
        assert isinstance(case, RanksCase)
        yield _Watched(self.rule, case)


@dataclass(frozen=True)
class _Watched(Watch):
    rule: Callable[[RanksCase, Launched], str]
    case: RanksCase

    def breach(self, value: Launched) -> str:
        return self.rule(self.case, value)


def of_rank(launched: Launched, rank: int) -> list[Entry]:
    """The collectives of one rank, in order."""
    return [entry for entry in launched.ledger if entry.rank == rank and entry.what != COMPUTE]


def calls_of(launched: Launched, rank: int) -> Counter[Call]:
    """How often one rank called each collective with each shape."""
    return Counter((entry.what, entry.shape) for entry in of_rank(launched, rank))


def exactly(wanted: Callable[[RanksCase, int], Counter[Call]], why: str) -> LedgerContract:
    """Make a contract: each rank must call exactly the collectives in `wanted`; `why` explains this to the learner."""

    def rule(case: RanksCase, launched: Launched) -> str:
        for rank in range(case.ranks):
            found, asked = calls_of(launched, rank), wanted(case, rank)
            if found != asked:
                return f"rank {rank} of {case.ranks} calls {in_words(found)}; the right calls are {in_words(asked)}: {why}"
        return ""

    return LedgerContract(rule)


def in_words(calls: Counter[Call]) -> str:
    """Collectives in words: "2 x all_reduce of [5, 12]"."""
    parts = [f"{count} x {what}{f' of {list(shape)}' if shape else ''}" for (what, shape), count in sorted(calls.items())]
    return ", ".join(parts) or "no collective"
