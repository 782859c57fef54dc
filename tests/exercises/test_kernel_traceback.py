"""If a kernel raises an error, a notebook shows the learner's lines and the error, not the frames of Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from labkit.exercises.case import own_error
from labkit.exercises.kernel_traceback import ALL_FRAMES
from labkit.ops.backend import has_triton

NOTEBOOK = '''
import sys, traceback
from IPython.core.interactiveshell import InteractiveShell
from labkit.lab import check, tl, triton

shell = InteractiveShell.instance(colors="NoColor")
shell.run_cell("""
import torch
from labkit.lab import check, tl, triton

def fused_linear_gelu(x, weight, bias):
    out = x.new_empty(len(x), len(weight))
    return launch(x, out)

def launch(x, out):
    root_kernel[(1,)](x, out)
    return out

@triton.jit
def root_kernel(x, out):
    value = tl.load(x)
    tl.store(out, root(value))

@triton.jit
def root(value):
    return value ** 0.5
""")
print("--- launched")
shell.run_cell("x = torch.ones(1, 1); fused_linear_gelu(x, x, x)")
print("--- all frames")
shell.run_cell("import sys, traceback; traceback.print_exception(sys.last_value, file=sys.stdout)")
print("--- checked")
shell.run_cell("verdict = check(fused_linear_gelu)")
'''


@pytest.mark.skipif(not has_triton(), reason="not measured here: the package triton is not installed")
def test_a_notebook_shows_the_learners_lines_of_a_kernel_that_raises(tmp_path: Path) -> None:
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK)
    own = {"TRITON_INTERPRET": "1", "IPYTHONDIR": str(tmp_path), "LABKIT_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, str(script)], env=os.environ | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    launched, every_frame, checked = (part.partition("\n")[2] for part in done.stdout.split("--- ")[1:])
    lines = launched.strip().splitlines()
    assert [line.strip() for line in lines if line.startswith("    ")] == [
        "root_kernel[(1,)](x, out)",
        "tl.store(out, root(value))",
        "return value ** 0.5",
    ]
    assert lines[0] == ALL_FRAMES
    assert lines[-2] == "TypeError: unsupported operand type(s) for ** or pow(): 'tensor' and 'float'"
    assert lines[-1] == "What to do: Triton has no **: for a root write tl.sqrt(n.to(tl.float32))."
    assert len(lines) == 9
    assert "interpreter.py" in every_frame
    assert len(checked.strip().splitlines()) < 6
    assert "TypeError" in checked
    assert "interpreter.py" not in checked


class InterpreterError(Exception):
    """An error with the same name as the interpreter's."""


class CompilationError(Exception):
    """An error with the same name as the compiler's."""


def test_an_error_of_triton_is_opened_as_far_as_it_wraps_another() -> None:
    inner, plain = CompilationError("inner"), ValueError("plain")
    inner.__cause__ = plain
    outer = CompilationError("outer")
    outer.__cause__ = inner
    wrapped = InterpreterError("wrapped")
    wrapped.__cause__ = plain
    assert [own_error(error) for error in (wrapped, outer, inner, plain)] == [plain, inner, inner, plain]
    assert own_error(InterpreterError("alone")).args == ("alone",)
