"""Finds the statements that a function needs. A statement is needed if it binds or changes a name, and the function or another
needed statement uses this name.

Other statements (measurements, plots, servers) are not run. The needed statements run in the notebook's order. If there are
several definitions, the last definition counts, as in a notebook that is run from top to bottom.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import cached_property

from labkit.grading.changes import root_of
from labkit.grading.statements import Statement

_PROCESS = ("sys", "os")
_PROCESS_PARTS = ("environ", "path", "setrecursionlimit")
"""Parts of `sys` and `os` that later statements depend on. Calls of other parts do not count as changes."""


class Needs:
    """Finds the statements that the functions of one notebook need.

    Make one object for each notebook, and call `needed_for` for each function.
    """

    def __init__(self, statements: Sequence[Statement]) -> None:
        self._all = list(statements)

    def needed_for(self, name: str) -> list[Statement]:
        """The statements that the function with this name needs, in order. The list is empty if no statement binds the name."""
        end = len(self._all)
        kept = {at for at, one in enumerate(self._all) if one.is_future or one.changes.anything or self._touches_process(at)}
        asked: set[tuple[str, int, int]] = set()
        open_ones = [(name, end, end)] if any(name in one.binds for one in self._all) or kept else []
        fresh = list(kept)
        while open_ones or fresh:
            for at in fresh:
                open_ones += self._demands(at)
            fresh = []
            while open_ones:
                demand = open_ones.pop()
                if demand not in asked:
                    asked.add(demand)
                    fresh += [at for at in self._givers(*demand) if at not in kept]
                    kept |= set(fresh)
        return [self._all[at] for at in sorted(kept)]

    def _demands(self, at: int) -> list[tuple[str, int, int]]:
        """The names that a statement needs, each with two positions: the last and the first at which its value is read."""
        one, end = self._all[at], len(self._all)
        packages = {f"package {package}" for package in one.packages.values()}
        later = one.scope.reads_later | one.scope.binds_later | packages | self._in_texts(one)
        return [(name, at, at) for name in one.scope.reads] + [(name, end, at) for name in later]

    def _in_texts(self, one: Statement) -> set[str]:
        """The words in the strings of a statement, if the notebook runs strings with `exec`: the code in a string may use these
        names.
        """
        if not self._runs_texts:
            return set()
        texts = [part.value for part in ast.walk(one.node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        return {word for text in texts for word in re.findall(r"\w+", text)}

    @cached_property
    def _runs_texts(self) -> bool:
        return any(call.function == "exec" for one in self._all for call in one.changes.calls)

    def _givers(self, name: str, place: int, since: int) -> list[int]:
        """The statements before `place` that bind or change a name.

        If any statement up to the position `since` replaces the value, the statements before the last such statement are left
        out.
        """
        found = []
        for at in reversed(range(place)):
            one = self._all[at]
            if name in one.binds or name in self._changed[at]:
                found.append(at)
            if at <= since and name in one.replaces:
                break
        return found

    def _touches_process(self, at: int) -> bool:
        one = self._all[at]
        roots = one.changes.objects | one.changes.modules
        parts = (part for part in ast.walk(one.node) if isinstance(part, ast.Attribute) and part.attr in _PROCESS_PARTS)
        return any(self._packages.get(root_of(part)) in _PROCESS and root_of(part) in roots for part in parts)

    @cached_property
    def _packages(self) -> dict[str, str]:
        return {name: package for one in self._all for name, package in one.packages.items()}

    @cached_property
    def _functions(self) -> set[str]:
        return {name for one in self._all for name in one.defines}

    @cached_property
    def _older(self) -> dict[str, set[str]]:
        """For each name, the older names that may mean the same object after one or more assignments."""
        older: dict[str, set[str]] = {}
        for new, old in (pair for one in self._all for pair in one.changes.aliases | one.inner.aliases):
            older.setdefault(new, set()).add(old)
        return {name: _reached(name, older) for name in older}

    @cached_property
    def _done_by(self) -> dict[str, tuple[set[str], bool]]:
        """For each function of the notebook: the names that a call changes, and whether a call may change its arguments."""
        own: dict[str, set[str]] = {}
        calls: dict[str, set[str]] = {}
        on_given: set[str] = set()
        for one in self._all:
            inner, changed = one.inner, one.inner.objects | one.inner.called | one.inner.modules | one.scope.binds_later
            altered = self._with_older(changed | self._data(inner.passed))
            for name in one.binds if altered or inner.calls else ():
                own.setdefault(name, set()).update(altered & (one.scope.reads_later | one.scope.binds_later))
                calls.setdefault(name, set()).update(call.function for call in inner.calls)
                if altered & one.parameters:
                    on_given.add(name)
        done = {}
        for name in own:
            every = _reached(name, calls) | {name}
            done[name] = {change for other in every for change in own.get(other, ())}, bool(every & on_given)
        return done

    @cached_property
    def _changed(self) -> list[set[str]]:
        """For each statement: the names whose objects it may change, and the packages that it may change."""
        found = []
        for one in self._all:
            changes = one.changes
            changed = changes.objects | changes.called - self._packages.keys() | self._data(changes.passed)
            for call in changes.calls:
                done, on_given = self._done_by.get(call.function, (set(), False))
                changed |= done | (set(call.given) if on_given else set())
            packages = {self._packages[root] for root in (changed | changes.modules) & self._packages.keys()} - {*_PROCESS}
            found.append(self._with_older(changed) | {f"package {package}" for package in packages})
        return found

    def _data(self, names: set[str]) -> set[str]:
        """The names in `names` that are bound to data. Calls may change this data.

        Names of the notebook's functions and of imports are left out.
        """
        return names - self._functions - self._packages.keys()

    def _with_older(self, names: set[str]) -> set[str]:
        return names.union(*(self._older.get(name, set()) for name in names)) - {""}


def _reached(start: str, steps: dict[str, set[str]]) -> set[str]:
    """All names that can be reached from a name by `steps`. The name itself is included only if a path leads back to it."""
    found: set[str] = set()
    todo = [start]
    while todo:
        for name in steps.get(todo.pop(), set()) - found:
            found.add(name)
            todo.append(name)
    return found
