"""The normal form of code: code and its copy with other names have the same normal form, and different code has a different
one.
"""

from __future__ import annotations

import ast

import pytest

from labkit.course.leaks.normal_code import bodies, normal_form, runs, size, suites

CODE = '''
def mean(values, weights=None):
    """The mean."""
    total = 0.0
    for value in values:
        total += value * (2 if weights is None else weights[0])
    return total / len(values)
'''
COPIES = {
    "other names": """
async def average(xs, ws=None):
    s = 0.0
    for x in xs:
        s += x * (2 if ws is None else ws[0])
    return s / len(xs)
""",
    "annotations, decorators, comments and layout": """
@staticmethod
def mean(values: list[float], weights: "Weights" = None) -> float:
    total: float = 0.0  # the sum
    for value in values: total += (value *
                                   (2 if weights is None else weights[0]))
    return total / len(values)
""",
}
OTHERS = {
    "another constant": CODE.replace("else weights[0]", "else weights[1]"),
    "another builtin": CODE.replace("len(values)", "sum(values)"),
    "another operator": CODE.replace("+=", "-="),
    "two names for one": CODE.replace("return total", "return value"),
    "one name for two": CODE.replace("for value in values:", "for total in values:"),
    "an end of a slice for a begin": CODE.replace("in values:", "in values[1:]:"),
}


def body_of(code: str) -> list[ast.stmt]:
    (body,) = bodies(ast.parse(code))
    return list(body)


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_has_the_same_form(name: str) -> None:
    assert normal_form(body_of(COPIES[name])) == normal_form(body_of(CODE))


@pytest.mark.parametrize("name", OTHERS)
def test_other_code_has_another_form(name: str) -> None:
    forms = {normal_form(body_of(code)) for code in (CODE, *OTHERS.values())}
    assert len(forms) == 1 + len(OTHERS), name


def test_the_two_sides_of_a_slice_differ() -> None:
    assert normal_form(ast.parse("a[:n]").body) != normal_form(ast.parse("a[n:]").body)


def test_attributes_and_names_of_arguments_stay() -> None:
    one, *others = (normal_form(ast.parse(code).body) for code in ("f(x.a, b=x)", "f(x.c, b=x)", "f(x.a, d=x)", "g(y.a, b=y)"))
    assert [one == other for other in others] == [False, False, True]


def test_a_lambda_is_a_function_that_returns() -> None:
    (short,), (long,) = (list(bodies(ast.parse(code))) for code in ("f = lambda x: x + 1", "def f(y):\n    return y + 1"))
    assert normal_form(short) == normal_form(long)


def test_blocks_and_runs() -> None:
    tree = ast.parse("if a:\n    b = 1\n    c = 2\n    d = 3\nelse:\n    e = 4\n")
    blocks = [[ast.unparse(one) for one in suite] for suite in suites(tree)]
    assert blocks[1:] == [["b = 1", "c = 2", "d = 3"], ["e = 4"]]
    block = tree.body[0].body  # type: ignore[attr-defined]
    assert {size(statement) for statement in block} == {3}
    assert [[ast.unparse(one) for one in run] for run in runs(block, 4)] == [["b = 1", "c = 2"], ["c = 2", "d = 3"]]
    assert len(list(runs(block, 3))) == 3
    assert list(runs(block, 10)) == []
