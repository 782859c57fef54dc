"""Tests of the peer `vllm`: its error message if vLLM is not installed, and its greedy tokens in fp32 if vLLM is installed.

The variable LABKIT_VLLM_PYTHON holds the path of the Python that has vLLM.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch

from labkit.bench.engines import LabkitEngine
from labkit.bench.peers import PEERS
from labkit.bench.peers.vllm_process import VARIABLE, VLLMProcess, environment
from labkit.bench.rounds import Prompts
from labkit.checkpoints import open_checkpoint
from labkit.errors import NotAvailable
from tests.models import random_peer

CPU = torch.device("cpu")
LENGTH, NEW = 21, 12


def test_without_the_variable_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(NotAvailable, match=rf"peer vllm needs the package vllm .* its extra 'vllm', and set {VARIABLE}"):
        PEERS["vllm"].require(CPU, "fp32")


def test_a_python_without_vllm_or_no_python_at_all_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path / "python"))
    with pytest.raises(NotAvailable, match=rf"{VARIABLE} is '{tmp_path}/python', which does not run as a Python"):
        PEERS["vllm"].require(CPU, "fp32")
    plain = Path(sys.base_prefix) / "bin" / "python3"  # without site-packages of its own
    monkeypatch.setenv(VARIABLE, str(plain))
    with pytest.raises(NotAvailable, match=r"peer vllm needs the package vllm, which .*python3 .* does not have.*extra 'vllm'"):
        PEERS["vllm"].require(CPU, "fp32")


def test_precisions_and_devices_that_it_lacks_are_refused() -> None:
    with pytest.raises(NotAvailable, match="vllm runs fp32, bf16 on cpu, not int8"):
        PEERS["vllm"].require(CPU, "int8")
    with pytest.raises(NotAvailable, match="vllm does not run on cuda"):
        PEERS["vllm"].require(torch.device("cuda"), "bf16")


def test_it_runs_on_as_many_cores_as_labkit_and_keeps_other_preloaded_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {7, 3, 5})
    monkeypatch.setenv("LD_PRELOAD", "/lib/theirs.so")
    found = environment(["/lib/a.so", "/lib/b.so"], 2)
    assert found["VLLM_CPU_OMP_THREADS_BIND"] == "3,5"
    assert found["OMP_NUM_THREADS"] == "2"
    assert found["LD_PRELOAD"] == "/lib/a.so:/lib/b.so:/lib/theirs.so"


@pytest.fixture
def has_vllm() -> None:
    """Skip the test if vLLM cannot run here, and say why."""
    try:
        PEERS["vllm"].require(CPU, "fp32")
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")


@pytest.mark.long
@pytest.mark.usefixtures("has_vllm")
def test_greedy_tokens_are_labkits(tmp_path: Path) -> None:
    """vLLM must choose the same greedy tokens as labkit in every batch size.

    The model has heads of 256, because vLLM needs at least 32 dimensions per head. The test is long, because vLLM compiles for
    minutes.
    """
    random_peer("head of 256", seed=5).save_pretrained(tmp_path)
    model = open_checkpoint(tmp_path)
    engine, labkit = PEERS["vllm"](model, CPU, "fp32"), LabkitEngine(model, CPU, "fp32")
    assert engine.version()
    for number, batch in enumerate((1, 3, 8, 1)):
        prompts = Prompts(model.config, batch, LENGTH, seed=7)[number]
        ours = labkit.prefill(prompts, NEW)
        first = engine.prefill(prompts, NEW)
        assert torch.equal(first, ours)
        if number == 1:  # a prefill without a decode leaves nothing behind
            first = engine.prefill(prompts, NEW)
        assert torch.equal(engine.decode(first, NEW - 1), labkit.decode(ours, NEW - 1))


@pytest.mark.long
@pytest.mark.usefixtures("has_vllm")
def test_a_model_that_vllm_refuses_is_said_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(NotAvailable, match="vllm failed: "):
        VLLMProcess(os.environ[VARIABLE], {"model": str(tmp_path / "none")}, 1)
