"""Tests of the peers on a small random model.

In fp32, the peers must choose the same greedy tokens as labkit. In lower precisions, they must say what they store. What a peer
cannot run must be refused with the reason.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.bench.engines import PRECISIONS, BenchEngine, LabkitEngine
from labkit.bench.peers import PEERS, conversion_space, openvino_model
from labkit.bench.peers.separate_process import run_in_separate_process
from labkit.bench.peers.telemetry import without_telemetry
from labkit.bench.rounds import Prompts
from labkit.checkpoints import Checkpoint, open_checkpoint
from labkit.errors import InsufficientResources, NotAvailable
from labkit.measure import Ceilings
from tests.models import random_peer
from tests.sampled import as_long

CPU = torch.device("cpu")
LENGTH, NEW = 21, 12
IN_THIS_PROCESS = [as_long(name) if name.endswith("-compiled") else name for name in PEERS if name != "vllm"]
"""The peers that run in labkit's environment. These are all peers but vllm, which `test_vllm` tests."""
WITH_PACKAGES = [name for name, kind in PEERS.items() if name != "vllm" and kind.packages]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("random")
    random_peer("rotary below the head", seed=5).save_pretrained(folder)
    return open_checkpoint(folder)


def build(name: str, checkpoint: Checkpoint, precision: str = "fp32") -> BenchEngine:
    """Build a peer. If it cannot run here, skip the test and say why."""
    try:
        PEERS[name].require(CPU, precision)
        return PEERS[name](checkpoint, CPU, precision)
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")


def generate(engine: BenchEngine, prompts: Tensor, new: int = NEW) -> Tensor:
    first = engine.prefill(prompts, new)
    assert first.shape == (len(prompts),)
    return torch.cat((first[:, None], engine.decode(first, new - 1)), dim=1)


@pytest.mark.parametrize("name", [name for name in IN_THIS_PROCESS if name != "llama.cpp-q4km"])  # which has no fp32
def test_greedy_tokens_are_labkits_in_every_round_and_batch_size(name: str, checkpoint: Checkpoint) -> None:
    engine, labkit = build(name, checkpoint), LabkitEngine(checkpoint, CPU, "fp32")
    assert "fp32" in engine.detail
    assert engine.version()
    sizes = (2, 2) if name.endswith("-compiled") else (3, 3, 1)  # each size is compiled anew, which takes long
    for number, batch in enumerate(sizes):
        prompts = Prompts(checkpoint.config, batch, LENGTH, seed=7)[number]
        ours = generate(labkit, prompts)
        assert ours.shape == (batch, NEW)
        assert torch.equal(generate(engine, prompts), ours)
        assert len(ours.unique()) > NEW // 2  # the answer varies, so a wrong cache would give other tokens


@pytest.mark.parametrize("name", ["ctranslate2", "openvino"])
def test_a_prefill_without_a_decode_leaves_nothing_behind(name: str, checkpoint: Checkpoint) -> None:
    engine = build(name, checkpoint)
    prompts = Prompts(checkpoint.config, 2, LENGTH, seed=8)
    first = engine.prefill(prompts[0], NEW)
    assert not torch.equal(engine.prefill(prompts[1], NEW), first)
    assert torch.equal(generate(engine, prompts[0])[:, 0], first)
    if name == "openvino":
        assert sys.modules["openvino_telemetry"] is None  # nothing is reported over the network


def test_ctranslate2_in_two_parts_makes_what_it_makes_in_one(checkpoint: Checkpoint) -> None:
    engine: Any = build("ctranslate2", checkpoint)
    prompts = Prompts(checkpoint.config, 3, LENGTH, seed=9)[0]
    texts = [[str(token) for token in row] for row in prompts.tolist()]
    whole = engine._generator.generate_batch(texts, max_length=NEW, include_prompt_in_result=False, end_token=[211])
    assert generate(engine, prompts).tolist() == [result.sequences_ids[0] for result in whole]


def test_end_of_text_does_not_end_a_generation(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """A model whose head always chooses token 0, its end of text, must still generate all tokens that were asked for."""
    peer = random_peer("rotary below the head", seed=6)
    with torch.no_grad():
        peer.lm_head.bias[0] = 1e4
    peer.save_pretrained(tmp_path)
    stubborn = open_checkpoint(tmp_path)
    for name in ("ctranslate2", "openvino"):
        made = generate(build(name, stubborn), Prompts(checkpoint.config, 2, LENGTH, seed=1)[0])
        assert made.tolist() == [[0] * NEW] * 2


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        ("hf", "bf16", "bf16"),
        ("ctranslate2", "int8", "weights int8, lm_head and embedding too, activations int8 by row"),
        ("openvino", "bf16", "weights bf16"),
        ("openvino", "fp16", "weights fp16"),
        ("openvino", "int8", "weights int8 by row (symmetric)"),
        ("openvino", "int4", "weights int4 (symmetric, groups of 32), lm_head and embedding int8"),
        ("onnxruntime", "int8", "weights int8, activations fp32, products with 8-bit inputs, KV cache fp32"),
        ("plain", "bf16", "weights, activations and KV cache bf16; eager"),
        ("llama.cpp", "bf16", "weights bf16, activations bf16 in products, else fp32, KV cache fp16"),
        ("llama.cpp", "fp16", "weights fp16"),
        ("llama.cpp", "int8", "weights int8 (Q8_0, groups of 32)"),
        ("llama.cpp", "int4", "weights int4 (Q4_0, groups of 32), lm_head and embedding int8 (Q8_0)"),
    ],
)
def test_lower_precisions_run_and_say_what_they_are(name: str, precision: str, said: str, checkpoint: Checkpoint) -> None:
    engine = build(name, checkpoint, precision)
    assert said in engine.detail
    prompts = Prompts(checkpoint.config, 8, LENGTH, seed=3)[0]
    first, exact = engine.prefill(prompts, NEW), LabkitEngine(checkpoint, CPU, "fp32").prefill(prompts, NEW)
    assert engine.decode(first, NEW - 1).shape == (8, NEW - 1)
    assert float((first == exact).double().mean()) >= (0.35 if precision == "int4" else 0.7)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["int8", "fp32", "int4"])
def test_openvino_fuses_attention_and_rotary_and_keeps_their_tables_whole(
    precision: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PEERS["openvino"].packages:
        pytest.importorskip(package, reason=f"not measured here: no package {package}")
    if precision == "int8":  # convert one model in the way that is used for large models
        monkeypatch.setattr(openvino_model, "LARGE", 0)
    try:
        openvino_model.convert(checkpoint, tmp_path, precision)
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")
    without_telemetry()
    import openvino

    assert sorted(path.name for path in tmp_path.iterdir()) == ["openvino_model.bin", "openvino_model.xml"]
    core = openvino.Core()
    model = core.read_model(tmp_path / "openvino_model.xml")
    counts = [sum(node.get_type_name() == kind for node in model.get_ops()) for kind in ("ReadValue", "Assign")]
    assert counts == [2 * checkpoint.config.num_layers] * 2
    stored = [str(node.get_element_type()) for node in model.get_ops() if node.get_type_name() == "Constant"]
    matrices = sum("int4" in kind or "int8_t" in kind for kind in stored)
    assert sum("int4" in kind for kind in stored) == (6 * checkpoint.config.num_layers if precision == "int4" else 0)
    constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
    tables = [node for node in constants if list(node.get_output_shape(0)) == [61, checkpoint.config.rotary_dim]]
    (kind,) = {str(node.get_element_type()) for node in tables}
    assert "float" in kind
    assert bool(matrices) == (precision != "fp32")
    runtime = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    kinds = [node.get_rt_info()["layerType"].astype(str) for node in runtime.get_ops()]
    assert kinds.count("ScaledDotProductAttention") == checkpoint.config.num_layers
    assert kinds.count("RoPE") == 2 * checkpoint.config.num_layers
    assert "Softmax" not in kinds


# What is refused ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", WITH_PACKAGES)
def test_a_missing_package_is_named_with_the_extra_that_has_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PEERS[name].packages:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(NotAvailable, match=rf"peer {name} needs the packages? .*{PEERS[name].packages[0]}.* its extra"):
        PEERS[name].require(CPU, "fp32")


@pytest.mark.parametrize(
    ("name", "precision", "said"),
    [
        ("hf", "int8", "hf runs fp32, bf16, fp16 on cpu, not int8"),
        ("hf-compiled", "int4", "hf-compiled runs fp32, bf16, fp16 on cpu, not int4"),
        ("ctranslate2", "int4", "ctranslate2 runs .*int8 on cpu, not int4"),
        ("onnxruntime", "bf16", "onnxruntime runs fp32, int8 on cpu, not bf16"),
        ("plain", "int8", "plain runs fp32, bf16, fp16 on cpu, not int8"),
    ],
)
def test_a_precision_that_a_peer_lacks_is_refused_with_those_it_has(name: str, precision: str, said: str) -> None:
    if missing := [package for package in PEERS[name].packages if not importlib.util.find_spec(package)]:
        pytest.skip(f"not measured here: no package {missing[0]}")
    with pytest.raises(NotAvailable, match=said):
        PEERS[name].require(CPU, precision)


def test_openvino_is_measured_on_cpus() -> None:
    if missing := [package for package in PEERS["openvino"].packages if not importlib.util.find_spec(package)]:
        pytest.skip(f"not measured here: no package {missing[0]}")
    with pytest.raises(NotAvailable, match="openvino does not run on cuda"):
        PEERS["openvino"].require(torch.device("cuda"), "fp16")


def test_every_precision_of_a_peer_is_one_of_the_benchs() -> None:
    kinds: list[type[BenchEngine]] = [LabkitEngine, *PEERS.values()]
    for kind in kinds:
        if all(importlib.util.find_spec(package) for package in kind.packages):
            assert set(kind.precisions(CPU)) <= set(PRECISIONS)


def test_compiling_without_a_compiler_is_refused(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(NotAvailable, match=r"needs g\+\+"):
        PEERS["hf-compiled"](checkpoint, CPU, "fp32")


def test_a_conversion_that_does_not_fit_is_refused_with_sizes(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InsufficientResources, match=r"converting .* GB of memory"):
        conversion_space.check_conversion_fits(checkpoint, torch.float32, 32, tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 10))  # type: ignore[attr-defined]
    with pytest.raises(InsufficientResources, match=r"GB of disk.* TMPDIR"):
        conversion_space.check_conversion_fits(checkpoint, torch.float32, 32, tmp_path)


def test_a_function_run_apart_returns_raises_or_is_said_to_have_died() -> None:
    assert run_in_separate_process(divmod, 17, 5) == (3, 2)
    with pytest.raises(ZeroDivisionError):
        run_in_separate_process(divmod, 17, 0)
    with pytest.raises(NotAvailable, match="_exit ended with status 7: it wrote nothing"):
        run_in_separate_process(os._exit, 7)


def test_openvino_refuses_weights_that_do_not_fit_with_their_copies(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psutil

    memory = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InsufficientResources, match=r"openvino needs .* packed copies"):
        PEERS["openvino"](checkpoint, CPU, "bf16")


@pytest.mark.long
def test_the_command_with_all_peers_measures_those_it_can_and_names_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from labkit.cli.bench import bench

    run: Any = importlib.import_module("labkit.bench.run")
    monkeypatch.setattr(run, "ceilings", lambda device, seconds: Ceilings("cpu", 1, 1e10, {"fp32": 1e12}))
    sizes = {"batch": "1,2", "prompt_tokens": 9, "new_tokens": 4, "seconds": 0.2, "rounds": 1, "device": "cpu"}
    bench(against=",".join(PEERS), precision="int8", json=True, **sizes)
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    missing = {row["engine"]: row["why"] for row in report["not_measured"]}
    assert {row["engine"] for row in report["rows"]} == {"labkit", *PEERS} - set(missing)
    assert all(row["precision"] == "int8" and "int8" in row["detail"] for row in report["rows"])
    assert {"hf", "hf-compiled"} <= set(missing)
    for name, why in missing.items():
        assert why.startswith("not measured here: ")
        assert name in why
        assert f"{name}: {why}"[:70] in " ".join(out.split())
