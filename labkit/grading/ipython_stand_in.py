"""Replaces IPython in the worker's process, so that magics and shell commands in a learner's code do no harm."""

from __future__ import annotations

import ast
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from labkit.grading.python_cells import code_of_line, parse
from labkit.grading.shorten import shorten

_QUIET = (
    "matplotlib",
    "load_ext",
    "reload_ext",
    "autoreload",
    "config",
    "pylab",
    "xmode",
    "precision",
    "pinfo",
    "pinfo2",
    "psearch",
)
"""Magics that change only the display, not the values that a function returns."""
MOST_NOTES = 20


class Shell:
    """The value of `get_ipython()`. The magics `%time`, `%prun` and `%env` work, and so does `%run` with a file. Other magics
    do nothing and return None.

    Shell commands are not run: `x = !ls` makes `x` an empty list. `notes` is a list of messages about magics and commands that
    were not run.
    """

    def __init__(self, scope: dict[str, Any], folder: Path | None) -> None:
        self.user_ns = scope
        self.notes: list[str] = []
        self._folder = folder

    def run_line_magic(self, name: str, line: str, *_: Any) -> Any:
        """Run the magic `%name line`, and return its value."""
        if name in ("time", "prun"):
            return self._time(line)
        if name in ("env", "set_env") and "=" in line:
            key, value = line.split("=", 1)
            os.environ[key.strip()] = value.strip()
        elif name == "run" and line.split()[:1] and (path := self._file(line.split()[0])):
            self.user_ns.update(runpy.run_path(str(path), run_name="__main__"))
        elif name not in _QUIET:
            self._note(f"%{name} {line}")
        return None

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """Do nothing, because a cell magic inside a function or a block does not work in Jupyter either."""
        self._note(f"%%{name} {line}")

    def system(self, command: str) -> None:
        """Stands for `!command`: does not run the command."""
        self._note(f"!{command}")

    def getoutput(self, command: str, *_: Any, **__: Any) -> list[str]:
        """Stands for `x = !command`: does not run the command, and returns an empty list."""
        self._note(f"!{command}")
        return []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None

    def _time(self, line: str) -> Any:
        """Run the code of a line with the caller's names, as `%time` does. Return the value of the last expression."""
        caller = sys._getframe(2)
        local = self.user_ns if caller.f_locals is caller.f_globals else caller.f_locals
        value = None
        for node in parse(code_of_line(line)).body:
            value = None
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), "<magic>", "eval", dont_inherit=True), self.user_ns, local)
            else:
                exec(compile(ast.Module([node], []), "<magic>", "exec", dont_inherit=True), self.user_ns, local)
        return value

    def _file(self, name: str) -> Path | None:
        path = (self._folder or Path()) / (name if name.endswith(".py") else f"{name}.py")
        return path if path.is_file() else None

    def _note(self, what: str) -> None:
        note = f"`{shorten(what.strip(), 60)}` is for IPython; a check does not run it"
        if note not in self.notes and len(self.notes) < MOST_NOTES:
            self.notes.append(note)
