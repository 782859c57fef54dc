"""Configurations: generated configurations are right, and for every planted mistake an error names the mistake and its line."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")

from google.protobuf import text_format

from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving.repository.checker.check_config import check_config
from labkit.serving.repository.checker.check_repository import check_repository
from labkit.serving.repository.checker.fault import Fault
from labkit.serving.repository.checker.pbtxt import model_config_class
from labkit.serving.repository.model_config import Batching, Instances, config_text
from tests.sampled import one_in
from tests.serving.conftest import Server
from tests.serving.mistakes import MISTAKES, MODELS, REFUSED, TEXTS, Mistake


def check(text: str, model: str, folder: Path, gpus: int = 0) -> list[Fault]:
    file = folder / model / "config.pbtxt"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text)
    others = {name: other for name, other in TEXTS.items() if name != model}
    return check_config(file, expected=MODELS[model], others=others, gpus=gpus)


def repository(folder: Path) -> Path:
    for name, text in TEXTS.items():
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(text)
        if name != "ensemble":
            (folder / name / "1" / "model.py").write_text("")
    return folder


def as_lines(faults: list[Fault]) -> list[str]:
    return [str(fault) for fault in faults]


@pytest.mark.parametrize("model", MODELS)
def test_a_generated_configuration_has_no_fault(model: str, tmp_path: Path) -> None:
    assert as_lines(check(TEXTS[model], model, tmp_path)) == []
    assert as_lines(check(TEXTS[model], model, tmp_path, gpus=8)) == []


@pytest.mark.parametrize("model", ["gptj", "fastertransformer"])
def test_a_configuration_from_before_the_new_tensors_has_no_fault(model: str, tmp_path: Path) -> None:
    meant = MODELS[model]
    old = replace(
        meant,
        inputs=tuple(spec for spec in meant.inputs if not spec.is_new),
        outputs=tuple(spec for spec in meant.outputs if not spec.is_new),
    )
    assert old != meant
    file = tmp_path / model / "config.pbtxt"
    file.parent.mkdir()
    file.write_text(config_text(old))
    assert as_lines(check_config(file, expected=meant, others={}, gpus=0)) == []


@pytest.mark.parametrize("model", MODELS)
def test_protobuf_reads_what_was_meant(model: str) -> None:
    read, meant = text_format.Parse(TEXTS[model], model_config_class()()), MODELS[model]
    assert (read.name, read.max_batch_size, read.backend, read.platform) == (
        meant.name,
        meant.max_batch_size,
        meant.backend,
        meant.platform,
    )
    assert [tensor.name for tensor in read.input] == [spec.name for spec in meant.inputs]
    assert [tensor.name for tensor in read.output] == [spec.name for spec in meant.outputs]
    assert [tuple(tensor.dims) for tensor in read.input] == [spec.dims for spec in meant.inputs]
    assert [tensor.HasField("reshape") for tensor in read.input] == [meant.reshapes(spec) for spec in meant.inputs]
    assert {key: value.string_value for key, value in read.parameters.items()} == dict(meant.parameters)
    assert read.model_transaction_policy.decoupled is meant.decoupled
    assert [dict(step.input_map) for step in read.ensemble_scheduling.step] == [step.input_map for step in meant.steps]
    assert [dict(step.output_map) for step in read.ensemble_scheduling.step] == [step.output_map for step in meant.steps]


def test_batching_instances_and_odd_letters_come_through() -> None:
    config = replace(
        MODELS["preprocessing"],
        batching=Batching((4, 8), 100),
        instances=Instances(2, "KIND_GPU"),
        parameters={'a "quoted"\\ key': "two\nlines\té"},
    )
    read = text_format.Parse(config_text(config), model_config_class()())
    assert list(read.dynamic_batching.preferred_batch_size) == [4, 8]
    assert read.dynamic_batching.max_queue_delay_microseconds == 100
    assert (read.instance_group[0].count, read.instance_group[0].kind) == (2, 1)
    assert read.parameters['a "quoted"\\ key'].string_value == "two\nlines\té"
    assert as_lines(check_config(config_text(config), expected=config, gpus=1)) == []


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_planted_mistake_is_named_with_its_line(mistake: Mistake, tmp_path: Path) -> None:
    faults = check(mistake.planted(), mistake.model, tmp_path)
    found = [f for f in faults if f.line == mistake.line() and all(word in str(f) for word in mistake.words)]
    assert found, (mistake.line(), as_lines(faults))
    assert len(faults) <= 5, as_lines(faults)
    assert [fault.line for fault in faults] == sorted(fault.line for fault in faults)


@pytest.mark.parametrize("mistake", one_in(8, MISTAKES), ids=lambda mistake: f"{mistake.name}: {mistake.server}")
def test_what_the_real_server_does_about_it(mistake: Mistake, tritonserver: Server) -> None:
    for name, text in TEXTS.items():
        tritonserver.put(name, text)
    tritonserver.put(mistake.model, mistake.planted())
    complaint = tritonserver.complaint(mistake.model)
    assert bool(complaint) is (mistake.server == REFUSED), complaint


@pytest.mark.parametrize("model", MODELS)
def test_the_real_server_takes_what_is_generated(model: str, tritonserver: Server) -> None:
    for name, text in TEXTS.items():
        tritonserver.put(name, text)
    assert tritonserver.complaint(model) == ""


def test_many_mistakes_are_told_at_once_in_the_order_of_lines() -> None:
    text = """
# a model
name: "preprocessing"
backend: "python"
max_batch_size: 4
input [
  { name: "QUERY" data_typ: TYPE_STRING dims: [ -1 ] },
  { name: "REQUEST_OUTPUT_LEN" data_type: TYPE_INT dims: [ 0 ] }
]
output { name: "INPUT_ID", dim: -1, data_type: TYPE_UINT32 }
instance_group [ { count: 0; kind: GPU } ]
dynamic_batching { preferred_batch_size: 8 }
"""
    assert as_lines(check_config(text)) == [
        "config.pbtxt:7: input has no field data_typ; write data_type",
        "config.pbtxt:8: data_type has no value TYPE_INT; write TYPE_INT32",
        "config.pbtxt:8: input REQUEST_OUTPUT_LEN has 0 in its dims; write the size, 1 or more, or -1 if it may vary",
        "config.pbtxt:10: output has no field dim; write dims",
        "config.pbtxt:11: kind has no value GPU; write KIND_GPU",
        "config.pbtxt:11: count is 0, which the server reads as 1; write 1 or more; to serve no copy, do not load the model",
        "config.pbtxt:12: preferred_batch_size holds 8 and max_batch_size is 4; prefer sizes from 1 to max_batch_size",
    ]


def test_each_of_several_gpus_would_get_a_copy(tmp_path: Path) -> None:
    text = TEXTS["gptj"]
    group = text[text.index("instance_group") : text.index("parameters")]
    (fault,) = check(text.replace(group, ""), "gptj", tmp_path, gpus=4)
    assert "instance_group is not given" in fault.what
    assert "4 GPUs" in fault.what
    (fault,) = check(text.replace("KIND_CPU", "KIND_GPU"), "gptj", tmp_path, gpus=4)
    assert "kind is KIND_GPU" in fault.what


def test_a_missing_tensor_is_shown_as_it_should_be() -> None:
    whole = config_text(replace(MODELS["postprocessing"], inputs=MODELS["postprocessing"].inputs[:1]))
    (fault,) = check_config(whole, expected=MODELS["postprocessing"])
    assert fault.what == "input SEQUENCE_LENGTH is missing"
    assert 'input { name: "SEQUENCE_LENGTH" data_type: TYPE_UINT32 dims: [ -1 ]' in fault.do


def test_an_ensemble_alone_is_checked_as_far_as_it_goes() -> None:
    text = TEXTS["ensemble"]
    assert check_config(text, expected=MODELS["ensemble"]) == []
    faults = check_config(text.replace('value: "_TOKENS_BATCH"', 'value: "_TOKEN"', 1), expected=MODELS["ensemble"])
    assert "_TOKENS_BATCH" in str(faults)


def test_a_batched_step_may_stand_beside_one_whose_dims_hold_the_batch() -> None:
    step = 'name: "s" backend: "python" {} output {{ name: "B" data_type: TYPE_FP32 dims: [ {} ] }}'
    ensemble = """
name: "e" platform: "ensemble" max_batch_size: 4
output { name: "Z" data_type: TYPE_FP32 dims: [ 2 ] }
ensemble_scheduling { step { model_name: "s" model_version: -1
  input_map { key: "A" value: "X" } output_map { key: "B" value: "Z" } } }
input { name: "X" data_type: TYPE_FP32 dims: [ 2 ] }
"""
    takes = 'input { name: "A" data_type: TYPE_FP32 dims: [ -1, 2 ] }'
    assert check_config(ensemble, others={"s": step.format(takes, "-1, 2")}) == []
    (fault,) = check_config(ensemble, others={"s": step.format(takes, "2")})
    assert (fault.line, fault.what) == (
        3,
        "the ensemble takes batches and s does not, so that only a batch of one passes: "
        "Z is [ 2 ] as s's output B, but [ -1, 2 ] as the ensemble's output",
    )


def test_a_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_bytes(b'backend: "python"\nname: "\xff"\n')
    assert [fault.line for fault in check_config(file)] == [2, 2]
    assert "not in UTF-8" in str(check_config(file))


def test_a_right_repository_has_no_fault(tmp_path: Path) -> None:
    assert as_lines(check_repository(repository(tmp_path), gpus=0)) == []


def test_faults_of_a_repository_name_their_files(tmp_path: Path) -> None:
    repository(tmp_path)
    (tmp_path / "gptj" / "1" / "model.py").unlink()
    (tmp_path / "ensemble" / "1").rmdir()
    (tmp_path / "postprocessing" / "config.pbtxt").unlink()
    (tmp_path / "preprocessing" / "config.pbtxt").write_text(TEXTS["preprocessing"].replace("KIND_CPU", "KIND_GPU"))
    kind = TEXTS["preprocessing"].split("KIND_CPU")[0].count("\n") + 1
    step = TEXTS["ensemble"].split('"postprocessing"')[0].count("\n") + 1
    assert as_lines(check_repository(tmp_path, gpus=0)) == [
        f"ensemble/config.pbtxt:{step}: there is no model postprocessing in the repository; write preprocessing",
        "ensemble: there is no folder for a version, such as 1/; make one; for an ensemble it stays empty",
        "gptj/1/model.py: there is no such file, and the server would wait for it forever; write the model's code there",
        "postprocessing: there is no config.pbtxt; write one",
        f"preprocessing/config.pbtxt:{kind}: kind is KIND_GPU and the machine has no GPU; write KIND_CPU",
    ]


def test_a_repository_must_be_there_and_hold_models(tmp_path: Path) -> None:
    (fault,) = check_repository(tmp_path)
    assert "no model" in str(fault)
    with pytest.raises(InvalidRequest, match="no folder"):
        check_repository(tmp_path / "nowhere")


def test_without_tritonclient_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient.grpc.model_config_pb2", None)
    with pytest.raises(NotAvailable, match=r"labkit's extra: pip install -e '\.\[serve\]'"):
        check_config("")
