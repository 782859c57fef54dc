"""Unusual notebooks that learners might write, each named after what is unusual. The function in a notebook is either right or
wrong.
"""

from __future__ import annotations

NAME = "kv_cache_bytes"
BODY = "return 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes"
SIGNATURE = f"def {NAME}(config, lengths, element_bytes):"
RIGHT = f"{SIGNATURE}\n    {BODY}"
WRONG = f"{SIGNATURE}\n    return 7"


def using(expression: str) -> str:
    """Code that defines a function which is right only if `expression` is 1 when the function is called."""
    return f"{SIGNATURE}\n    return ({expression}) * 2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes"


def indented(text: str) -> str:
    return "    " + text.replace("\n", "\n    ")


PASSING: dict[str, list[str]] = {
    "plain": [RIGHT],
    "timeit -o": [f"def g():\n    pass\n\nr = %timeit -n1 -r1 -o g()\n{RIGHT}"],
    "shell's output": [f"x = !ls\n!true\n{RIGHT}"],
    "help": ["len?", f"{RIGHT}\n\n{NAME}?", "?len", "len??"],
    "an indented magic": [f"if True:\n    %matplotlib inline\n{indented(RIGHT)}"],
    "a magic in the function": [f"{SIGNATURE}\n    %precision 3\n    {BODY}"],
    "an indented cell": [indented(RIGHT)],
    "prompts": [">>> ONE = 1\n... ", "In [3]: ONE = 1", using("ONE")],
    "%%time": [f"%%time\n{RIGHT}"],
    "%%capture of magics": [f"%%capture\n%precision 3\nONE = 1\n{using('ONE')}"],
    "%time binds": ["%time ONE = 1", using("ONE")],
    "%time gives": ["x = %time 1 + 0", using("x")],
    "auto-call": ["def give(x):\n    global ONE\n    ONE = x", "/give 1", using("ONE")],
    "environment": ["%env LABKIT_TEST_ONE=1", "import os", using("int(os.environ['LABKIT_TEST_ONE'])")],
    "in if": [f"if 1 < 2:\n{indented(RIGHT)}\nelse:\n{indented(WRONG)}"],
    "in with": [f"import contextlib\nwith contextlib.nullcontext():\n{indented(RIGHT)}"],
    "in try": [f"try:\n    import no_such_package\nexcept ImportError:\n{indented(RIGHT)}\nfinally:\n    pass"],
    "in for, last one wins": ["for n in (2, 1):\n" + indented(using("n"))],
    "in while": [f"left = 1\nwhile left:\n    left -= 1\n{indented(RIGHT)}"],
    "in match": [f"match 3:\n    case 3:\n{indented(indented(RIGHT))}\n    case _:\n{indented(indented(WRONG))}"],
    "in __main__": [f"if __name__ == '__main__':\n{indented(RIGHT)}"],
    "expressions": ["BOTH = 2**1\nA, B = 1, 1\nB = A + 0", using("BOTH * B / 2")],
    "augmented": ["ONE = 3", "ONE -= 1\nONE //= 2", using("ONE")],
    "starred and annotated": ["ONE, *REST = 1, 2, 3\nTWO: int = len(REST)", using("ONE * TWO / 2")],
    "walrus": ["print(ONE := 1)", using("ONE")],
    "later than the function": [using("ONE"), "ONE = 2", "ONE = 1"],
    "a read before a change": ["A = 1", "B = A", "A = 5", using("B")],
    "lambda": [f"{NAME} = lambda config, lengths, element_bytes: (\n{indented(BODY.removeprefix('return '))}\n)"],
    "another name": [RIGHT.replace(NAME, "mine"), f"{NAME} = mine"],
    "a method": ["class Box:\n" + indented(RIGHT.replace("(config", "(self, config")), f"{NAME} = Box().{NAME}"],
    "a closure": [f"def make():\n    one = 1\n{indented(using('one'))}\n    return {NAME}", f"{NAME} = make()"],
    "nonlocal": [
        "def counter():\n    n = -1\n    def step():\n        nonlocal n\n        n += 1\n        return n\n    return step",
        "step = counter()",
        "ZERO = step()",
        using("1 + ZERO"),
    ],
    "a decorator": [
        "import functools",
        "def plain(f):\n    @functools.wraps(f)\n    def inner(*a):\n        return f(*a)\n    return inner",
        f"@plain\n{RIGHT}",
    ],
    "a decorator without wraps": ["def plain(f):\n    return lambda *a: f(*a)", f"@plain\n{RIGHT}"],
    "registering": [
        "KNOWN = {}\ndef known(f):\n    KNOWN[f.__name__] = f\n    return f",
        "@known\ndef one():\n    return 1",
        using("KNOWN['one']()"),
    ],
    "a registry's method": [
        "class Registry:\n    def __init__(self):\n        self.all = {}\n"
        "    def add(self, f):\n        self.all[f.__name__] = f\n        return f",
        "registry = Registry()",
        "@registry.add\ndef one():\n    return 1",
        using("registry.all['one']()"),
    ],
    "a dictionary's item": ["CONFIG = {}", 'CONFIG["one"] = 1', using("CONFIG['one']")],
    "an alias changes it": ["CONFIG = {'in': {}}", "inner = CONFIG['in']", "inner['one'] = 1", using("CONFIG['in']['one']")],
    "a loop changes it": ["ROWS = [[], []]", "for row in ROWS:\n    row.append(1)", using("ROWS[1][0]")],
    "an attribute of the function": [using(f"{NAME}.one"), f"{NAME}.one = 1"],
    "setattr": [using(f"{NAME}.one"), f"setattr({NAME}, 'one', 1)"],
    "methods that change": [
        "items = [1]",
        "items.append(2)\nitems.reverse()\nfirst = items.pop()",
        using("first * items[0] / 2"),
    ],
    "a helper changes it": ["D = {}\ndef fill(d):\n    d.update(one=1)", "fill(D)", using("D['one']")],
    "a helper's helper changes it": [
        "D = {}\ndef deep():\n    D['one'] = 1\ndef fill():\n    deep()",
        "fill()",
        using("D['one']"),
    ],
    "a library changes it": ["import heapq\nheap = [3, 1, 2]", "heapq.heapify(heap)", using("heap[0]")],
    "del": ["ONE = 3", "del ONE", "try:\n    ONE\nexcept NameError:\n    ONE = 1", using("ONE")],
    "global": ["def count():\n    global ONE\n    ONE = 1", "count()", using("ONE")],
    "star import": ["from math import *", using("int(cos(0))")],
    "exec": ["exec('ONE = 1')", using("ONE")],
    "globals()": ["globals()['ONE'] = 1", using("ONE")],
    "all by exec": [f"exec({RIGHT!r})"],
    "seeded": [
        "import random\nrandom.seed(5)\nfirst = random.random()\nrandom.seed(5)",
        using("first == random.Random(5).random()"),
    ],
    "a module's state": ["import torch\ntorch.set_grad_enabled(False)", using("not torch.is_grad_enabled()")],
    "a module's state, by another name": [
        "import torch\nimport torch.nn.functional as F\ntorch.set_grad_enabled(False)",
        using("not F.relu(__import__('torch').ones(1, requires_grad=True)).requires_grad"),
    ],
    "sys.path": ["import sys\nsys.path.append('more')", "import further", using("further.ONE")],
    "a module beside the notebook": ["from beside import ONE", using("ONE")],
    "%run": ["%run beside.py", using("ONE")],
    "a file beside the notebook": ["ONE = int(open('one.txt').read())", using("ONE")],
    "await": [
        "import asyncio\n\nasync def one():\n    await asyncio.sleep(0)\n    return 1",
        "ONE = await one()",
        using("ONE"),
    ],
    "async for and with": [
        "import contextlib\n@contextlib.asynccontextmanager\nasync def ones():\n"
        "    async def each():\n        yield 1\n    yield each()",
        "async with ones() as some:\n    async for ONE in some:\n        pass",
        "async with ones() as some:\n    TWO = 2 * [n async for n in some][0]",
        using("ONE * TWO / 2"),
    ],
    "display": [f"{SIGNATURE}\n    display(lengths)\n    {BODY}"],
    "a class's hints": ["from dataclasses import dataclass\n\n@dataclass\nclass One:\n    n: 'int' = 1\n", using("One().n")],
    "a broken cell beside it": ["def broken(:", RIGHT, "(" * 300, "%%bash\nfalse", "%%writefile /dev/null\n" + WRONG],
    "a broken line beside it": ["undefined_name", RIGHT],
    "copies": [RIGHT, WRONG, RIGHT],
    "a name in a text": [RIGHT, f"'''\n%%time\n{WRONG}\n!ls\n'''"],
    "semicolons": ["A = 1; ONE = A; A = 2", using("ONE")],
    "line endings": [RIGHT.replace("\n", "\r\n")],
}
FAILING: dict[str, list[str]] = {
    "the last one wins": [RIGHT, WRONG],
    "if, the other way": [f"if 1 > 2:\n{indented(RIGHT)}\nelse:\n{indented(WRONG)}"],
    "a changed constant": ["ONE = 1", using("ONE"), "ONE = 2"],
    "a changed item": ["C = {'one': 1}", using("C['one']"), "for key in C:\n    C[key] += 1"],
    "replaced by a decorator": ["def zero(f):\n    def inner(*a):\n        return 0\n    return inner", f"@zero\n{RIGHT}"],
    "by lambda": [RIGHT, f"{NAME} = lambda *given: 0"],
    "deleted name": ["ONE = 1", using("ONE"), "del ONE"],
    "a stub": [f"{SIGNATURE}\n    raise NotImplementedError('{NAME}')"],
    "a hint that names nothing": [f"def {NAME}(config: Unknown, lengths, element_bytes):\n    {BODY}"],
    "async": [f"async {RIGHT}"],
    "deleted": [RIGHT, f"del {NAME}"],
    "never": [f"if False:\n{indented(RIGHT)}"],
    "an error": [f"{SIGNATURE}\n    return lengths['x']"],
    "a long error": [f"{SIGNATURE}\n    raise ValueError('x' * 300_000)"],
}
LAST = {"future": ["from __future__ import annotations", f"def {NAME}(config: Unknown, lengths, element_bytes):\n    {BODY}"]}
"""In a kernel, this import affects all cells that follow, so this notebook must come last."""
CASES = {**PASSING, **FAILING, **LAST}
