"""The reader of protobuf's text format accepts the same texts as protobuf and knows the line of every value."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")

from google.protobuf import text_format

from labkit.serving.repository.checker.pbtxt import model_config_class, read
from tests.serving.mistakes import TEXTS

LEGAL = (
    "",
    "# only a comment",
    'name: "a" \'b\' "\\n" # and more',
    'input < name: "a"; dims: -1, dims: 0x10 >',
    "input: { dims: [ ] }, input { dims: [1,2] };",
    'input [ { name: "{ [" }, { name: "#" } ]',
    "input { data_type: 11 optional: t }",
    "model_transaction_policy { decoupled: True }\r\n",
    "parameters { key: 'a' value { string_value: 'b' } } parameters { key: 'a' }",
)
ILLEGAL = (
    "input { dims: [1 2] }",
    "input { dims: [1,] }",
    "input [ {} {} ]",
    "input { ",
    "}",
    'name "a"',
    'name: "a',
    'name: "a\nb"',
    "name: a",
    "name:",
    "dims ; 3",
    "max_batch_size: 99999999999",
    "max_batch_size: 1.5",
    "input: 5",
    "input [ { nam: 'a' }, { dim: 1 } ]",
    "instance_group { kind: GPU }",
    "dynamic_batching { } ensemble_scheduling { }",
    "a-b: 3",
    "name: { }",
    "max_batch_size: [ 1, 2 ]",
    "input > { }",
    "input { dims: -\n1 }",
    "\ufeffname: 'a'",
)


def refused(text: str) -> bool:
    try:
        text_format.Parse(text, model_config_class()())
    except text_format.ParseError:
        return True
    return False


@pytest.mark.parametrize("text", LEGAL, ids=repr)
def test_what_protobuf_takes_has_no_fault(text: str) -> None:
    assert not refused(text)
    document = read(text)
    assert document.faults == []
    assert document.root is not None


@pytest.mark.parametrize("text", ILLEGAL, ids=repr)
def test_what_protobuf_refuses_has_a_fault(text: str) -> None:
    assert refused(text)
    assert read(text).faults


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_protobuf_on_texts_with_random_damage(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(25):
        text = TEXTS[chance.choice(list(TEXTS))][:1500]
        text = text[: text.rindex("\n  {")].rstrip().rstrip(",") + "\n]" if chance.random() < 0.8 else text
        for _ in range(chance.randint(1, 2)):
            place, length = chance.randrange(len(text)), chance.choice((0, 1, 1, 3, 12))
            text = text[:place] + chance.choice(("", "", *'{}[]:,;"x1 -#\n')) + text[place + length :]
        faults = read(text).faults
        assert bool(faults) is refused(text), text
        assert all(1 <= fault.line <= text.count("\n") + 1 for fault in faults)


def test_every_value_has_its_line() -> None:
    root = read('name:\n "a"\ninput [\n {\n  dims: [ 1,\n  -1 ]\n },\n { dims: 3 }\n]\n').root
    assert root is not None
    assert root.line_of("name") == 2
    assert [tensor.line for tensor in root.all("input")] == [4, 8]
    assert [(dim.line, dim.content) for dim in root.all("input")[0].scalars["dims"]] == [(5, 1), (6, -1)]


def test_values_are_as_protobuf_reads_them() -> None:
    root = read("name: 'a\\n' 'b' max_batch_size: 0x10 input { data_type: 11 optional: t }").root
    assert root is not None
    assert (root.value("name"), root.value("max_batch_size")) == ("a\nb", 16)
    (tensor,) = root.all("input")
    assert (tensor.value("data_type"), tensor.value("optional")) == ("TYPE_FP32", True)
