"""How the exercises of this lab are run: on real processes, whose ledger is looked at beside the values."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from labkit.exercises.case import Case
from labkit.launch import Launched, RankRaisedError, launch
from labkit.launch.ledger import COMPUTE, Entry

PATIENCE = 3.0
"""Seconds that a collective waits for the other ranks."""

BY_RANK = {f"[{rank}]": f"rank {rank}" for rank in range(4)}
"""Names of the places of an answer that has a value for each rank."""

Call = tuple[str, tuple[int, ...]]
"""A collective and the shape of the tensor that this rank gives to it or gets."""


@dataclass(frozen=True)
class RanksCase(Case):
    """A case for `ranks` processes; an argument that is `Each` differs by rank."""

    ranks: int = 2


def on_ranks(function: Callable[..., Any], case: Case) -> Launched:
    """Call a function on all ranks of a case; what a rank raises is raised here, under the same name."""
    return _on_all(case, function, *case.args)


def inside(program: Callable[..., Any]) -> Callable[[Callable[..., Any], Case], Launched]:
    """Run a program on all ranks that is given the learner's function as its first argument."""

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
    """What is compared: each rank's value."""
    return launched.values


def _like(error: RankRaisedError) -> Exception:
    if error.kind == "NotImplementedError":
        return NotImplementedError()
    kind: type[Exception] = type(error.kind, (Exception,), {})
    return kind(f"on rank {error.rank}: {error.cause.removeprefix(f'{error.kind}: ')}")


@dataclass(frozen=True)
class LedgerContract:
    """What passes between ranks is looked at: `rule` says what is wrong with it, as the end of a sentence, or nothing."""

    rule: Callable[[RanksCase, Launched], str]

    @contextlib.contextmanager
    def watch(self, case: Case, function: Any) -> Iterator[_Watched]:
        """Watch a call."""
        assert isinstance(case, RanksCase)
        yield _Watched(self.rule, case)


@dataclass(frozen=True)
class _Watched:
    rule: Callable[[RanksCase, Launched], str]
    case: RanksCase

    def breach(self, value: Launched) -> str:
        return self.rule(self.case, value)


def of_rank(launched: Launched, rank: int) -> list[Entry]:
    """The collectives of a rank, in their order."""
    return [entry for entry in launched.ledger if entry.rank == rank and entry.what != COMPUTE]


def calls_of(launched: Launched, rank: int) -> Counter[Call]:
    """How often a rank called which collective on what shape."""
    return Counter((entry.what, entry.shape) for entry in of_rank(launched, rank))


def exactly(wanted: Callable[[RanksCase, int], Counter[Call]], why: str) -> LedgerContract:
    """Each rank calls just what is wanted of it; `why` says what that is good for."""

    def rule(case: RanksCase, launched: Launched) -> str:
        for rank in range(case.ranks):
            found, asked = calls_of(launched, rank), wanted(case, rank)
            if found != asked:
                return f"rank {rank} of {case.ranks} calls {in_words(found)} where {in_words(asked)} is asked for: {why}"
        return ""

    return LedgerContract(rule)


def in_words(calls: Counter[Call]) -> str:
    """Collectives in words: "2 x all_reduce of [5, 12]"."""
    parts = [f"{count} x {what}{f' of {list(shape)}' if shape else ''}" for (what, shape), count in sorted(calls.items())]
    return ", ".join(parts) or "no collective"
