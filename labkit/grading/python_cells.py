"""Turns the text of a cell into the Python that Jupyter runs for it.

IPython's transformer translates magics, `!ls` and `f?`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labkit.errors import NotAvailable
from labkit.grading.notebook_file import FileCell, has_conflict
from labkit.grading.shorten import shorten

RUN_IN_THE_NOTEBOOK = ("time", "capture", "prun")
"""Cell magics whose body runs with the names of the notebook.

The bodies of all other cell magics are in another language, or define no names.
"""
MOST_CELL_CHARACTERS = 64_000
"""The length of a cell, in characters, up to which IPython translates its magics.

A longer cell, or a cell with more than `MOST_MAGICS` magics, must be plain Python, because IPython reads the whole cell again
for each magic.
"""
MOST_MAGICS = 100
_MAGIC = re.compile(r"^\s*[%!?,;/]|=\s*[%!]|\?\s*$", re.MULTILINE)
UNPARSABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


@dataclass(frozen=True)
class PythonCell:
    """A code cell: its number in the notebook, its Python source, and, if it cannot run, the reason (`problem`)."""

    number: int
    source: str
    problem: str = ""


def python_cells(cells: list[FileCell]) -> list[PythonCell]:
    """The Python source of every code cell; nothing is run.

    A cell that Jupyter could not run because of a syntax error has an empty source and a `problem`. Raises `NotAvailable` if a
    cell contains magics and IPython is not installed.
    """
    return [_python_cell(cell.number, cell.text) for cell in cells if cell.is_code]


def parse(source: str) -> ast.Module:
    """The syntax tree of a source, without showing the compiler's warnings. Raises one of the errors in `UNPARSABLE`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(source)


def code_of_magics(node: ast.stmt) -> list[ast.stmt]:
    """The statements in a line such as `%time x = f()` or `%prun f()`. These statements use the notebook's names and can bind
    names.
    """
    found: list[ast.stmt] = []
    for part in ast.walk(node):
        match part:
            case ast.Call(
                ast.Attribute(attr="run_line_magic"), [ast.Constant(value="time" | "prun"), ast.Constant(value=str() as code)]
            ):
                with contextlib.suppress(*UNPARSABLE):
                    found += parse(code_of_line(code)).body
    return found


def code_of_line(line: str) -> str:
    """The Python code in the line after `%time`, without the options of the magic."""
    return _transformed(re.sub(r"^(?:--?[A-Za-z][\w-]*\s+)+", "", line.strip()))


def _python_cell(number: int, text: str) -> PythonCell:
    try:
        source = _transformed(text)
        tree = parse(source)
    except UNPARSABLE as error:
        return PythonCell(number, "", _problem(number, text, error))
    magic = _cell_magic(tree)
    if magic is None:
        return PythonCell(number, source)
    name, body = magic
    if name in RUN_IN_THE_NOTEBOOK:
        return _python_cell(number, body)
    return PythonCell(number, "", f"Cell {number} is not read: the magic %%{shorten(name, 20)} defines no names.")


def _transformed(text: str) -> str:
    if len(text) > MOST_CELL_CHARACTERS or len(_MAGIC.findall(text)) > MOST_MAGICS:
        return text
    transform = _transformer()
    if transform is not None:
        with _without_warnings():
            return transform(text)
    try:
        parse(text)
    except UNPARSABLE as error:
        if any(line.lstrip().startswith(("%", "!", "?")) or line.rstrip().endswith("?") for line in text.splitlines()):
            message = (
                "the notebook has magics, which need IPython, and IPython is not installed; install labkit with its extra 'lab'"
            )
            raise NotAvailable(message) from error
        raise
    return text


def _transformer() -> Callable[[str], str] | None:
    """IPython's `transform_cell`, or None if IPython is not installed."""
    if importlib.util.find_spec("IPython") is None:
        return None
    from IPython.core.inputtransformer2 import TransformerManager

    def transform(text: str) -> str:
        try:
            return str(TransformerManager().transform_cell(text))  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # A cell may contain hundreds of magics.
            raise ValueError(str(error)) from error

    return transform


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _cell_magic(tree: ast.Module) -> tuple[str, str] | None:
    """The name and the body of a cell magic, or None if the cell has no cell magic."""
    match tree.body:
        case [ast.Expr(ast.Call(ast.Attribute(ast.Call(ast.Name("get_ipython")), "run_cell_magic"), [name, _, body]))]:
            return ast.literal_eval(name), ast.literal_eval(body)
    return None


def _problem(number: int, text: str, error: BaseException) -> str:
    if has_conflict(text):
        return f"Cell {number} is left out: it contains marks of a merge conflict; resolve the conflict and save the notebook."
    if len(text) > MOST_CELL_CHARACTERS:
        return (
            f"Cell {number} is left out: it has {len(text):,} characters and is not plain Python; split it into shorter cells."
        )
    if len(_MAGIC.findall(text)) > MOST_MAGICS:
        return f"Cell {number} is left out: it has more than {MOST_MAGICS} magics; split it into shorter cells."
    line = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
    words = shorten((error.msg if isinstance(error, SyntaxError) else str(error)) or type(error).__name__, 120).rstrip(".")
    return f"Cell {number} is left out, because Jupyter cannot run it{line}: {words}."
