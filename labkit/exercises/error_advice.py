"""Advice about errors that beginners often get, mostly from Triton. This module does not know where an error was raised."""

from __future__ import annotations

_SHAPES = "[BLOCK] becomes a column by [:, None] and a row by [None, :], and a sum over axis=1 leaves one number for each row"
_NUMBER = "Python's own functions for numbers do not work on a block: use tl.sqrt(x), tl.exp(x), x.to(tl.float32) and the like"
_DOT = "tl.dot multiplies two tiles; multiply two blocks with *, and add up the products with tl.sum"
_TORCH = "torch and numpy do not work inside a kernel: use the functions of tl, such as tl.exp, tl.where and tl.sum"
_NO_RESULT = "when an error arrives, `result` is None: look at `error` first, and raise it"
_ONE_ADDRESS = "there is a single address, but the mask or the value is a block: add a block of numbers to the address"
NO_GRID = "a kernel needs a grid, kernel[grid](...): a tuple with the number of programs, such as (count,)"
_ADVICE = {
    "arange's range must be a power of 2": "take BLOCK=triton.next_power_of_2(size), and mask the numbers past the end",
    "object of type 'int' has no len()": "a grid is a tuple, and one number needs a comma: kernel[(count,)]",
    "object of type 'tensor' has no len()": "a kernel gets addresses, which have no length: pass the size as an argument",
    "Cannot call @triton.jit": NO_GRID,
    "for ** or pow(): 'tensor' and 'float'": "Triton has no **: for a root write tl.sqrt(n.to(tl.float32))",
    "unsupported operand type(s) for ** ": "Triton has no **: write z * z for a square, z * z * z for a cube",
    "no attribute '__pow__'": "Triton has no **: write z * z for a square, tl.sqrt(n.to(tl.float32)) for a root",
    "Expected dtype ['fp": "tl.sqrt, tl.exp and the like need floating-point numbers: convert whole numbers by .to(tl.float32)",
    "invalid operands of type pointer": "only a whole number can be added to an address; slots and positions are whole numbers",
    "must be real number, not tensor": _NUMBER,
    "must be a string or a real number, not 'tensor'": _NUMBER,
    "must be Tensor, not tensor": _TORCH,
    "'NoneType' object has no attribute 'to_tensor'": _TORCH,
    "arguments must be of type tl.constexpr": "a size must be known before the launch: use a parameter BLOCK: tl.constexpr",
    "out of bounds for shape ['constexpr": "a block has only axis 0; a tile, such as block[:, None], has the axes 0 and 1",
    "'triton.language' has no attribute 'mean'": "tl has no mean: divide tl.sum(x) by the number of elements, tl.sum(x) / size",
    "'tensor' object has no attribute": "in a kernel, a tensor is an address or a block of numbers; use the functions of tl",
    "unexpected keyword argument 'dim'": "the functions of tl call this argument axis, not dim",
    "must have equal ranks >= 2": _DOT,
    "Both inputs must be either 2D or 3D": _DOT,
    "Input shapes should have M >=": "tl.dot needs at least 16 rows and columns; for less, multiply with * and use tl.sum",
    "for @: 'tensor'": "Triton has no @ between blocks: multiply the blocks with *, and add up with tl.sum",
    "Unsupported ptr type": "tl.load and tl.store take an address: the name of a tensor plus whole numbers",
    "cannot be block type if pointer argument is not a block": _ONE_ADDRESS,
    "'NoneType' object has no attribute 'as_numpy'": _NO_RESULT,
    "'NoneType' object has no attribute 'get_response'": _NO_RESULT,
    "'NoneType' and 'Tensor'": "dist.all_reduce and similar calls work in place and return nothing",
    "for @: 'int' and 'Tensor'": "dist.recv writes into the tensor that you pass, and returns a rank: use the tensor",
    "make_shape_compatible": _SHAPES,
    "inconsistent shape": _SHAPES,
}
"""The advice for each error. A key is a part of the error's text."""


def line_of(error: BaseException) -> str:
    """The line of an error's text that says what is wrong; "" if the error has no text."""
    try:
        text = str(error).strip().splitlines()
    except Exception:  # A learner's exception class might have a __str__ that fails.
        return ""
    # The message of Triton's compiler begins with a copy of the kernel; the last line says what is wrong.
    return text[-1 if type(error).__name__ == "CompilationError" else 0] if text else ""


def advice_on(error: BaseException) -> str:
    """Advice about an error; "" if no advice is known."""
    said = line_of(error)
    return next((advice for known, advice in _ADVICE.items() if known in said), "")
