"""Real kernels: the kernels of the solution pass, and a kernel with a planted mistake fails with that mistake's message.

`test_proof.py` tests the same for mistakes in torch functions. In this file, the mistakes are in kernels as a learner would
write them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labkit.exercises.registry import exercise as find
from labkit.grading.judge import SEEDS
from labkit.grading.notebook_check import run_apart
from labkit.grading.submission import submission_of
from labkit.grading.verdict import FAILED, PASSED
from labkit.grading.workers import Workers
from labkit.ops.backend import has_triton
from tests.exercises.learners import solved_cells
from tests.sampled import chosen, one_in

ROOT = Path(__file__).parents[2]
CELLS = solved_cells("02")
SET_UP = "import math\nimport torch\nfrom labkit.exercises.kernels import tl, triton\n"
TILE = next(cell for cell in CELLS if "def product_tile" in cell)
LOADS, LAUNCH = (next(cell for cell in CELLS if name in cell) for name in ("def load_part(", "def launch("))

NORM, ROTARY, ATTENTION, GELU, INT8 = KERNELS = (
    "fused_residual_layer_norm",
    "fused_rotary_cache_write",
    "split_decode_attention",
    "fused_linear_gelu",
    "int8_product",
)
HALF = "In half precision your sums overflow"
SQUARES = "x * x) / size - (tl.sum(x) / size) * (tl.sum(x) / size)"
ROOT_OF = "tl.sqrt(head_dim.to(tl.float32))"
WEIGHT = "tl.where(seen, tl.exp(score - top), 0.0)"

# The exercise, the text to replace in the solution's cell, its replacement, and a part of the expected message.
PLANTED: list[tuple[str, dict[str, str], str]] = [
    (NORM, {"mask=inside, other=0.0": "other=None"}, "You do not mask the last columns"),
    (NORM, {"mask=inside, other=0.0": "mask=inside"}, "Elements that a mask leaves out are undefined"),
    (NORM, {" + epsilon": ""}, "epsilon is missing"),
    (NORM, {"weight + column": "weight + place"}, "weight and bias have only one row"),
    (NORM, {".to(tl.float32)": ""}, HALF),
    (
        NORM,
        {"other=0.0).to(tl.float32)": "other=0.0)", "    tl.store(hidden": "    x = x.to(tl.float32)\n    tl.store(hidden"},
        "You add the three tensors in half precision",
    ),
    (NORM, {"return hidden, normed": "return normed, hidden"}, "You swapped hidden and normed"),
    (NORM, {"BLOCK=triton.next_power_of_2(size)": "BLOCK=size"}, "take BLOCK=triton.next_power_of_2(size)"),
    (NORM, {"norm_kernel[(count,)]": "norm_kernel[(count)]"}, "one number needs a comma: kernel[(count,)]"),
    (NORM, {"centred * centred)": "centred ** 2)"}, "Triton has no **: write z * z"),
    (NORM, {"BLOCK=triton.next_power_of_2(size)": "BLOCK=1024"}, "of hidden; the first missing element is (0, 1024)"),
    (NORM, {"tl.store(normed + place": "tl.store(hidden + place"}, "kernels have stored none of the 300 elements of normed"),
    (NORM, {"tl.sum(centred * centred) / size": "tl.sum(centred * centred) / BLOCK"}, "You divide the variance by BLOCK"),
    (NORM, {"tl.where(inside, x - tl.sum(x) / size, 0.0)": "x - tl.sum(x) / size"}, "Columns that the mask leaves out hold 0"),
    (NORM, {"x - tl.sum(x) / size": "x - tl.sum(x) / BLOCK"}, "You divide the mean by BLOCK"),
    (
        NORM,
        {"tl.rsqrt(tl.sum(centred * centred) / size + epsilon)": "1 / (tl.sqrt(tl.sum(centred * centred) / size) + epsilon)"},
        "You add epsilon to the square root",
    ),
    (NORM, {"/ size + epsilon": "/ (size - 1) + epsilon"}, "You divide the variance by size - 1"),
    (NORM, {"tl.load(residual + place, mask=inside, other=0.0).to(tl.float32)": "0.0"}, "The residual is missing"),
    (
        NORM,
        {".to(tl.float32)": "", "centred * centred) / size": SQUARES},
        HALF,
    ),
    (NORM, {"centred * centred) / size": SQUARES}, "You compute the variance as the mean of x * x, minus mean * mean"),
    (
        NORM,
        {"tl.where(inside, x - tl.sum(x) / size, 0.0)": "x - tl.sum(x) / size", "/ size + epsilon": "/ (size - 1) + epsilon"},
        "Two things are wrong. First: Columns that the mask leaves out hold 0",
    ),
    (ROTARY, {"k0 * c - k1 * s": "k0", "k1 * c + k0 * s": "k1"}, "You write the key before you rotate it"),
    (ROTARY, {"tl.load(positions + token)": "token"}, "You rotate by the angle of the row number"),
    (ROTARY, {"tl.load(slots + token)": "tl.load(positions + token)"}, "You write to slot positions[token]"),
    (ROTARY, {"other=1.0": "other=0.0"}, "Your elements after rotary_dim become 0"),
    (ROTARY, {"0 * c - ": "0 * c + ", "1 * c + ": "1 * c - "}, "You rotate in the wrong direction"),
    (ROTARY, {"tl.load(slots + token)": "token"}, "You write to the slot with the number `token`"),
    (ROTARY, {"* (rotary_dim // 2) + pair": "* rotary_dim + pair"}, "A row of sin or cos has rotary_dim // 2 elements"),
    (ROTARY, {"2 * sin.shape[1]": "sin.shape[1]"}, "A row of `sin` has one angle for each pair"),
    (ROTARY, {"token * 3 * width": "token * width"}, "A row of qkv has 3 * heads * head_dim elements"),
    (ROTARY, {"tl.store(keys": "# tl.store(keys"}, "You do not write the key to the cache"),
    (ROTARY, {"tl.store(values": "# tl.store(values"}, "You do not write the value to the cache"),
    (
        ROTARY,
        {
            "    tl.store(query + token * width + even, q0 * c - q1 * s": "    q0 = q0 * c - q1 * s\n"
            "    tl.store(query + token * width + even, q0",
            "    tl.store(keys + slot, k0 * c - k1 * s": "    k0 = k0 * c - k1 * s\n    tl.store(keys + slot, k0",
        },
        "You overwrite the first element of a pair before you compute the second",
    ),
    (
        ROTARY,
        {"q + width, mask": "q + head_dim, mask", "q + width + 1": "q + head_dim + 1"},
        "You read the key head_dim after the query",
    ),
    (ROTARY, {"(q + width": "(q + head_dim", "q + 2 * width": "q + 2 * head_dim"}, "You read key and value head_dim and"),
    (ROTARY, {"sin + angle, mask=turned, other=0.0": "sin + angle + 31 * (rotary_dim // 2)"}, "of `sin`"),
    (ROTARY, {"slots + token": "slots + token + 4"}, "of `slots`"),
    (ROTARY, {"mask=inside": "mask=pair < BLOCK"}, "You do not mask the pairs from head_dim // 2 on"),
    (
        ROTARY,
        {"2 * pair": "pair", "q + 1": "q + head_dim // 2", "even + 1": "even + head_dim // 2"},
        "kernels have stored 72 of the 120 elements of keys",  # pairs are taken from halves of the whole head
    ),
    (
        ROTARY,
        {"tl.load(slots + token) * width": "tl.load(slots + token) * head_dim"},
        "kernels have stored 100 elements of keys at other places, for example at (3, 1, 0), and none of the 120 that must be",
    ),
    (ROTARY, {"tl.load(slots + token) * width + even": "even"}, "kernels have stored 30 elements of keys at other places"),
    (
        ROTARY,
        {"[(count, heads)]": "[(heads, count)]"},
        "over (3, 4, 1), 12 programs; with one program for each token and head there are 12, over (4, 3); kernels have stored",
    ),
    (
        ROTARY,
        {"[(count, heads)]": "[(count,)]"},
        "over (4, 1, 1), 4 programs; with one program for each token and head there are 12, over (4, 3); kernels have stored",
    ),
    (
        ROTARY,
        {"[(count, heads)]": "[(count * heads,)]"},
        "over (12, 1, 1), 12 programs; with one program for each token and head there are 12, over (4, 3). It raised",
    ),
    (
        NORM,
        {"[(count,)]": "[(count * size,)]"},
        "over (300, 1, 1), 300 programs; with one program for each token there are 3. It raised OutsideTensor: program (3",
    ),
    (
        NORM,
        {"[(count,)]": "[(1,)]"},
        "1 program; with one program for each token there are 3; kernels have stored 100 of the 300",
    ),
    (ATTENTION, {" / tl.sqrt(head_dim.to(tl.float32))": ""}, "The scores are not multiplied by 1/sqrt(head_dim)"),
    (ATTENTION, {"head_dim.to(tl.float32)": "head_dim"}, "convert whole numbers by .to(tl.float32)"),
    (ATTENTION, {"head_dim.to(tl.float32)": "(head_dim * 0 + DIM).to(tl.float32)"}, "You scale by the padded size"),
    (
        ATTENTION,
        {"torch.exp(tops - tops.amax(-1, keepdim=True))": "torch.ones_like(tops)"},
        "You add the parts without weights",
    ),
    (ATTENTION, {"tl.load(table + s * width + position, mask=seen, other=0)": "position"}, "You read slots 0, 1, 2"),
    (ATTENTION, {"position < tl.load(lengths + s)": "position < width"}, "You read beyond lengths[s]"),
    (ATTENTION, {'float("-inf")': "0.0", WEIGHT: "tl.exp(score - top)"}, "A masked score must be -inf"),
    (ATTENTION, {WEIGHT: "tl.exp(score - top)"}, "The maximum of an empty part is -inf"),
    (ATTENTION, {"position < tl.load(lengths + s)": "position <= tl.load(lengths + s)"}, "You read one position too many"),
    (ATTENTION, {"slot[:, None] * heads + head": "slot[:, None] + head"}, "A slot holds the keys of all heads"),
    (
        ATTENTION,
        {'score = tl.where(seen, score, float("-inf"))': "pass"},
        "Set the masked scores to -inf before you take the maximum",
    ),
    (
        ATTENTION,
        {"query[None, :] * key, axis=1": "query[None, :] * key, axis=0"},
        "a sum over axis=1 leaves one number for each row",
    ),
    (
        ATTENTION,
        {
            "* value, axis=0), mask": "* value, axis=0) / tl.sum(weight, axis=0), mask",
            "share * totals": "(share > 0).float()",
            "share[..., None] * sums": "sums.nan_to_num()",
        },
        "You divide each part by its own sum",
    ),
    (ATTENTION, {"mask=seen, other=0": "other=None"}, "it raised OutsideTensor: program ("),
    (ATTENTION, {ROOT_OF: "head_dim ** 0.5"}, "Triton has no **: for a root write tl.sqrt(n.to(tl.float32))"),
    (ATTENTION, {ROOT_OF: "head_dim ** -0.5"}, "Triton has no **: for a root write tl.sqrt(n.to(tl.float32))"),
    (
        ATTENTION,
        {"tops.amax(-1, keepdim=True)": "tops.max()"},
        "You take one maximum of `tops` over several sequences or heads",
    ),
    (
        ATTENTION,
        {"tops.amax(-1, keepdim=True)": "tops.amax((1, 2), keepdim=True)"},
        "You take one maximum of `tops` over several sequences or heads",
    ),
    (ATTENTION, {"    tl.store(tops + here, top)\n": ""}, "kernels have stored none of the 12 elements of tops"),
    (
        ATTENTION,
        {"tops + here": "tops + tl.program_id(2)"},
        "of the 12 elements of tops; the first missing element is (0, 1, 0)",
    ),
    (ATTENTION, {"sums + here * head_dim": "sums + here"}, "elements of sums; the first missing element is (0, 1, "),
    (
        NORM,
        {"norm_kernel[(count,)](": "norm_kernel("},
        "you call the kernel norm_kernel like a function, but a kernel needs a grid",
    ),
    (
        NORM,
        {"tl.load(weight + column, mask=inside)": "weight[column]"},
        "in a kernel, you cannot take an element of a tensor by an index",
    ),
    (ROTARY, {"tl.load(slots + token)": "slots[token]"}, "in a kernel, you cannot take an element of a tensor by an index"),
    (ATTENTION, {"tl.store(tops + here, top)": "tops[here] = top"}, "write with tl.store(x + i, value)"),
    (ATTENTION, {"tl.max(score, axis=0)": "max(score)"}, "Python's max, min, sum and for do not work on a block"),
    (ATTENTION, {ROOT_OF: "math.sqrt(head_dim)"}, "math and numpy, float and int do not work on an argument or a block"),
    (ATTENTION, {ROOT_OF: "__import__('numpy').sqrt(head_dim)"}, "math and numpy, float and int do not work on an argument"),
    (ATTENTION, {ROOT_OF: "math.sqrt(DIM)"}, "You scale by the padded size"),  # a constant of the kernel is a Python number
    (
        NORM,
        {"    tl.store(hidden": "    if column < size:\n        tl.store(hidden"},
        "cannot take a block: use a mask, or tl.where",
    ),
    (NORM, {"column < size": "column < size and column >= 0"}, "combine masks with & and |"),
    (NORM, {"tl.sum(x) / size, 0.0": "tl.mean(x), 0.0"}, "tl has no mean: divide tl.sum(x) by the number of elements"),
    (ATTENTION, {"tl.max(score, axis=0)": "tl.max(score, dim=0)"}, "the functions of tl call this argument axis, not dim"),
    (ATTENTION, {"tl.sum(query[None, :] * key, axis=1)": "tl.dot(query, query)"}, "tl.dot multiplies two tiles"),
    (ATTENTION, {"tl.exp(score - top)": "torch.exp(score - top)"}, "torch and numpy do not work inside a kernel"),
    (GELU, {"z * z * z": "z"}, "The cubic term of the GELU is missing"),
    (GELU, {"tl.sigmoid(2 * ": "tl.sigmoid("}, "The argument of sigmoid must be twice the argument"),
    (GELU, {"z *= tl.sigmoid": "z = tl.sigmoid"}, "You return only the sigmoid"),
    (GELU, {", mask=mask)": ")"}, "The last tile extends past the end"),
    (GELU, {"z += tl.load(bias + column, mask=column < outs, other=0.0)[None, :]\n": "\n"}, "The bias is missing"),
    (INT8, {"total *= tl.load(scales + row, mask=row < outs, other=0.0)\n": "\n"}, "The scales are missing"),
    (INT8, {"total *= tl": "total /= tl"}, "You divide by the scale"),
    (
        INT8,
        {
            "for begin in range(0, SIZE, BLOCK)": "for begin in range(0, SIZE, 256)",
            "k = begin + tl.arange(0, BLOCK)": "k = begin + tl.arange(0, 256)",
        },
        " in blocks",
    ),
    (INT8, {"total += ": "total = "}, "You return only the sum of the last block"),
    (INT8, {"x + token * SIZE + k": "x + k"}, "Every token gets the answer of token 0"),
    (INT8, {"mask=both, other=0": "other=None"}, "You do not mask the rows or the inputs past the end"),
    (INT8, {"\n    total *= tl": "\n        total *= tl"}, "You scale the running sum in every block"),
]

pytestmark = pytest.mark.skipif(not has_triton(), reason="not measured here: the package triton is not installed")


def source_of(function: str, changes: dict[str, str] | None = None) -> str:
    """The solution cell of an exercise, with `changes` applied, and the code that the cell needs."""
    cell = next(cell for cell in CELLS if cell.startswith(f"def {function}("))
    cell = "\n\n".join((LOADS, LAUNCH, cell)) if function == ATTENTION else cell
    for old, new in (changes or {}).items():
        assert old in cell, f"{function} has no {old!r}"
        cell = cell.replace(old, new)
    return "\n\n".join((SET_UP, TILE, cell))


def judged(sources: list[list[object]]) -> list[list[str]]:
    """Judge rows of [exercise, source, seeds] in one process. Return their verdicts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.exercises.judge_kernels"],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        input=json.dumps(sources),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[list[str]] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def verdicts(request: pytest.FixtureRequest) -> dict[str | int, list[str]]:
    """The verdicts that the tests of this run need: on solutions, by name, and on members of `PLANTED`, by index."""
    names, indices = chosen("name", request), chosen("index", request)
    sources: list[list[object]] = [[name, source_of(name), SEEDS] for name in names]
    sources += [[PLANTED[index][0], source_of(*PLANTED[index][:2]), SEEDS[:1]] for index in indices]
    return dict(zip([*names, *indices], judged(sources), strict=True))


@pytest.mark.parametrize("name", KERNELS)
def test_the_solutions_kernels_pass(name: str, verdicts: dict[str | int, list[str]]) -> None:
    assert verdicts[name][0] == PASSED, verdicts[name]


@pytest.mark.parametrize("index", one_in(4, range(len(PLANTED))), ids=[f"{name}-{said[:30]}" for name, _, said in PLANTED])
def test_a_mistake_in_a_kernel_is_named(index: int, verdicts: dict[str | int, list[str]]) -> None:
    verdict, message, _ = verdicts[index]
    assert (verdict, PLANTED[index][2] in message) == (FAILED, True), message


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as found:
        yield found


def test_a_notebook_may_import_triton_itself(workers: Workers) -> None:
    plain = source_of(NORM).replace(
        "from labkit.exercises.kernels import tl, triton", "import triton\nimport triton.language as tl"
    )
    assert run_apart(find(NORM), submission_of(plain), workers).verdict == PASSED


def test_an_answer_without_a_kernel_is_refused(workers: Workers) -> None:
    by_torch = "from labkit import ops\n\ndef fused_linear_gelu(x, weight, bias):\n    return ops.linear_gelu(x, weight, bias)"
    refused = run_apart(find(GELU), submission_of(by_torch), workers)
    assert refused.verdict == FAILED
    assert "it calls labkit's own linear_gelu (in your line `return ops.linear_gelu(x, weight, bias)`)" in refused.message


def test_python_decides_about_a_number_and_a_constant(workers: Workers) -> None:
    decides = {
        "    tl.store(hidden": "    if tl.program_id(0) < size and not (BLOCK < 1):\n        tl.store(hidden",
        "tl.rsqrt(": "math.sqrt(BLOCK * BLOCK) / BLOCK * tl.rsqrt(",
    }
    assert run_apart(find(NORM), submission_of(source_of(NORM, decides)), workers).verdict == PASSED


def test_a_mask_that_was_computed_counts_as_a_mask(workers: Workers) -> None:
    computed = {"mask=inside": "mask=inside & (tl.load(slots + token) >= 0)"}
    assert run_apart(find(ROTARY), submission_of(source_of(ROTARY, computed)), workers).verdict == PASSED


def test_a_kernel_is_graded_in_a_process_of_its_own(workers: Workers) -> None:
    assert run_apart(find(INT8), submission_of(source_of(INT8)), workers).verdict == PASSED
    outside = run_apart(find(ATTENTION), submission_of(source_of(ATTENTION, {"mask=seen, other=0": "other=None"})), workers)
    assert outside.verdict == FAILED
    assert re.search(r"reads \d+ elements outside the tensors that the kernel got; .* `table`", outside.message)
    assert "in your line `slot = tl.load(" in outside.message
    assert "the address is wrong, or a mask is missing" in outside.message
    shifted = {"values + row[:, None] * SIZE": "values + (row[:, None] + outs) * SIZE"}
    masked = run_apart(find(INT8), submission_of(source_of(INT8, shifted)), workers)
    assert "its mask lets these elements through: the address is wrong, or the mask is too wide" in masked.message
    stub = {"z = product_tile": "raise NotImplementedError\n    z = product_tile"}
    empty = run_apart(find(GELU), submission_of(source_of(GELU, stub)), workers)
    assert "still raises NotImplementedError" in empty.message


COUNTED = """
import torch
from labkit.exercises.kernels import tl, triton
from labkit.exercises.kernel_guard import count_memory_bytes
from labkit.ops.kernels.interpreter_traffic import count_traffic

def kernel(x, y, out, size, BLOCK: tl.constexpr):
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    inside = column < size
    total = tl.load(x + row * size + column, mask=inside) + tl.load(y + column, mask=inside) + tl.load(y)
    tl.store(out + row * size + column, total, mask=inside)

x, y = torch.randn(3, 100), torch.randn(100)
out = torch.empty_like(x)
with count_memory_bytes() as memory, count_traffic() as traffic:
    triton.jit(kernel)[(3,)](x, y, out, 100, BLOCK=128)
assert torch.allclose(out, x + y + y[0])
assert (memory.bytes_read, memory.bytes_written, memory.launches, memory.programs) == (4 * 400, 4 * 300, 1, 3), memory
assert (traffic.bytes_read, traffic.bytes_written) == (4 * (600 + 3), 4 * 300), traffic
with count_memory_bytes() as memory:
    pass
assert memory.total == 0
"""


def test_memory_moves_each_byte_once(tmp_path: Path) -> None:
    script = tmp_path / "counted.py"
    script.write_text(COUNTED)
    done = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


COMPILED = """
import sys
import torch, triton
import triton.language as tl
from labkit.grading.run_statements import define
from labkit.grading.submission import submission_of
from labkit.ops.kernels.compiled_kernel import compile_kernel

def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")

class Recorder:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *args, **options: launched.append((self.kernel, args, options))

tokens, heads, head_dim, ints = 7, 16, 256, torch.int32
wide, cache = heads * head_dim, meta(99, heads, head_dim)
arguments = {
    "fused_residual_layer_norm": (*[meta(tokens, wide)] * 3, meta(wide), meta(wide), 1e-5),
    "fused_rotary_cache_write": (
        meta(tokens, 3 * wide), meta(tokens, dtype=torch.int64), meta(2048, 32), meta(2048, 32), cache, cache,
        meta(tokens, dtype=torch.int64)
    ),
    "split_decode_attention": (meta(tokens, heads, 64), meta(99, heads, 64), meta(99, heads, 64), meta(tokens, 300, dtype=ints),
                               meta(tokens, dtype=ints)),
    "fused_linear_gelu": (meta(tokens, 512), meta(2048, 512), meta(2048)),
    "int8_product": (meta(1, 2048), meta(2048, 2048, dtype=torch.int8), meta(2048)),
}
for source in sys.stdin.read().split("#####"):
    scope, launched = {"__name__": "__main__"}, []
    code = submission_of(source)
    (function,) = code.functions & set(arguments)
    assert not define(code.needed_for(function), scope)
    for name, kernel in list(scope.items()):
        if type(kernel).__name__ == "JITFunction" and name not in ("product_tile", "load_part"):
            scope[name] = Recorder(kernel)
    scope[function](*arguments[function])
    ((kernel, args, options),) = launched
    for arch in (80, 90):
        compiled = compile_kernel(kernel, args, options, arch)
        assert not compiled.problems(), compiled.problems()
        print(function, arch, compiled.registers)
"""


def test_the_solutions_kernels_compile_for_gpus(tmp_path: Path) -> None:
    script = tmp_path / "compiled.py"
    script.write_text(COMPILED)
    plain = "import math\nimport torch\nimport triton\nimport triton.language as tl\n"  # not the interpreter
    sources = "#####".join(source_of(name).replace(SET_UP, plain) for name in KERNELS)
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, env=environment, input=sources, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout.splitlines()) == 2 * len(KERNELS)
