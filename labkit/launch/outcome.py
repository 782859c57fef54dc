"""Turns the answers of all ranks into the result of a launch, or into an error about the rank that failed first."""

from __future__ import annotations

import socket
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from labkit.errors import RankFailed
from labkit.launch.ledger import COMPUTE, Entry, decode_entries
from labkit.launch.messages import Message
from labkit.plain_values import decode


@dataclass(frozen=True)
class Launched:
    """The value that each rank returned, the ledger of all ranks, and how many seconds the launch took."""

    values: list[Any]
    ledger: list[Entry] = field(repr=False)
    seconds: float


class RankRaisedError(RankFailed):
    """A launched function raised an exception called `kind` on `rank`; `cause` describes the exception in words."""

    def __init__(self, rank: int, ranks: int, cause: str, kind: str) -> None:
        super().__init__(failure_words(rank, ranks, cause))
        self.rank, self.cause, self.kind = rank, cause, kind


def failure_words(rank: int, ranks: int | None, cause: str) -> str:
    """Return the error message about a rank that failed. ranks: the number of ranks, if it is known."""
    return f"rank {rank}{f' of {ranks}' if ranks else ''} on {socket.gethostname()} failed: {cause}"


def has_waited_in_vain(answers: dict[int, Message]) -> bool:
    """Whether at least one rank failed, and every failed rank failed because it waited for another rank."""
    failures = [answer for answer, _ in answers.values() if "error" in answer]
    return bool(failures) and all(answer["others"] for answer in failures)


def raise_failure(answers: dict[int, Message], ranks: int) -> None:
    """Raise `RankRaisedError` if a rank failed.

    The error names the rank that caused the failure, not a rank that only waited for it.
    """
    said = {rank: answer for rank, (answer, _) in sorted(answers.items())}
    failures = {rank: answer for rank, answer in said.items() if "error" in answer}
    if not failures:
        return
    own = [rank for rank, answer in failures.items() if not answer["others"]]
    if own:
        raise RankRaisedError(own[0], ranks, failures[own[0]]["error"], failures[own[0]]["kind"])
    rank, error = next((rank, answer["error"]) for rank, answer in failures.items())
    silent = [other for other in range(ranks) if other not in said]
    ended = [other for other in answers if other not in failures]
    if silent and not ended:
        raise RankRaisedError(silent[0], ranks, f"this rank did not answer; rank {rank} says: {error}", "RankFailed")
    left = f"; rank {', '.join(map(str, ended))} had already reached the end of the function" if ended else ""
    raise RankRaisedError(rank, ranks, f"{error}{left}", "RankFailed")


def values_of(answers: dict[int, Message]) -> list[Any]:
    """The values that the ranks returned, in the order of the ranks."""
    return [decode(answer["value"], tensors) for _, (answer, tensors) in sorted(answers.items())]


def ledgers_of(answers: dict[int, Message]) -> list[list[Entry]]:
    """The entries of each rank, in the order of the ranks."""
    return [decode_entries(answer["ledger"].encode()) for _, (answer, _) in sorted(answers.items())]


def is_at_rest(answers: dict[int, Message], ledgers: list[list[Entry]]) -> bool:
    """Whether the ranks' process group can be used for another function.

    The group can be used again if no collective is in progress on any rank, every sent message was received, and all ranks
    called the same collectives.
    """
    calls = [Counter(entry.what for entry in ledger if entry.what not in ("send", "recv", COMPUTE)) for ledger in ledgers]
    passed = Counter(entry.what for ledger in ledgers for entry in ledger)
    received = passed["send"] == passed["recv"] and all(found == calls[0] for found in calls)
    return received and all(answer["at_rest"] for answer, _ in answers.values())
