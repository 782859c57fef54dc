"""Ranks with one GPU each generate the same tokens as one GPU, and an error names a lost rank. These tests need two GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import labkit
from labkit import native
from labkit.engine import Engine
from labkit.errors import NotAvailable, RankFailed
from labkit.native.shared_group import FOLDER
from labkit.parallel import Layout, load_parallel
from tests.models import random_prompts
from tests.parallel.models import CONTEXT, save_peer
from tests.patience import PATIENCE, is_running

GPUS = torch.cuda.device_count() if torch.cuda.is_available() else 0
GREEDY = labkit.SamplingParams(max_new_tokens=24, ignore_eos=True)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(GPUS < 2, reason=f"not measured here: needs two GPUs, {GPUS} found"),
    pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("model")
    return path, save_peer(path)


@pytest.fixture(scope="module", params=[Layout(2, 1), Layout(1, 2), Layout(2, 2), Layout(1, 4)], ids=str)
def engines(request: pytest.FixtureRequest, folder: tuple[Path, Any]) -> Iterator[tuple[Engine, Engine]]:
    """Two engines with the same model: one on a single GPU, the other on several. A step has few tokens, so prompts are split
    into chunks.
    """
    if request.param.ranks > GPUS:
        pytest.skip(f"not measured here: needs {request.param.ranks} GPUs, {GPUS} found")
    options: dict[str, Any] = {"max_batch_size": 5, "max_step_tokens": 32}
    with load_parallel(folder[0], request.param, device="cuda", dtype="fp32", **options) as several:
        yield labkit.load(folder[0], device="cuda", dtype="fp32", **options), several


def tokens_of(engine: Engine, prompts: list[list[int]], params: Any) -> list[list[list[int]]]:
    return [[c.token_ids for c in output.completions] for output in engine.generate(prompts, params)]


def test_tokens_are_those_of_one_gpu(engines: tuple[Engine, Engine]) -> None:
    prompts = random_prompts(211, [1, 2, 40, 17, 63, 5, 29, 8], seed=1)
    drawn = replace(GREEDY, temperature=0.9, top_k=40, top_p=0.9, repetition_penalty=1.2, seed=4, num_samples=2)
    for params in (GREEDY, drawn, replace(GREEDY, num_beams=3, max_new_tokens=12), replace(GREEDY, speculate=4)):
        one, several = (tokens_of(engine, prompts, params) for engine in engines)
        assert several == one


def test_logits_are_near_those_of_float64(engines: tuple[Engine, Engine], folder: tuple[Path, Any]) -> None:
    tokens = random_prompts(211, [CONTEXT], seed=4)[0]
    with torch.no_grad():
        expected = folder[1].double()(torch.tensor([tokens])).logits[0]
    found = engines[1].logits(tokens).double().cpu()
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def test_soft_and_prefix_prompts_reach_every_gpu(engines: tuple[Engine, Engine]) -> None:
    soft = torch.randn(3, 96, generator=torch.Generator().manual_seed(5))
    prefix = torch.randn(5, 2, 4, 3, 24, generator=torch.Generator().manual_seed(6))
    for params in (replace(GREEDY, soft_prompt=soft), replace(GREEDY, prefix_prompt=prefix)):
        one, several = (tokens_of(engine, random_prompts(211, [6], seed=5), params) for engine in engines)
        assert several == one


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8", "int4"])
def test_other_precisions_stay_as_near_as_on_one_gpu(precision: str, folder: tuple[Path, Any]) -> None:
    tokens = random_prompts(211, [60], seed=6)[0]
    with torch.no_grad():
        expected = folder[1].double()(torch.tensor([tokens])).logits[0]
    with load_parallel(folder[0], Layout(2, 1), device="cuda", dtype=precision) as several:
        errors = [
            float((engine.logits(tokens).double().cpu() - expected).norm() / expected.norm())
            for engine in (several, labkit.load(folder[0], device="cuda", dtype=precision))
        ]
    assert errors[0] < 1.5 * errors[1]


def test_several_long_steps_in_flight_come_to_their_end(folder: tuple[Path, Any]) -> None:
    options: dict[str, Any] = {"dtype": "fp32", "device": "cuda", "max_batch_size": 64, "max_step_tokens": 1024}
    prompts, params = random_prompts(211, [88] * 48, seed=8), replace(GREEDY, max_new_tokens=4)
    one = tokens_of(labkit.load(folder[0], **options), prompts, params)
    with load_parallel(folder[0], Layout(1, min(GPUS, 4)), **options) as engine:
        assert tokens_of(engine, prompts, params) == one


def left_behind(pids: list[int]) -> list[str]:
    return [f"process {pid}" for pid in pids if is_running(pid)] + [path.name for path in FOLDER.glob("labkit-*")]


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 2)], ids=str)
@pytest.mark.parametrize(
    ("harm", "cause"),
    [(signal.SIGKILL, "its process was ended by signal 9"), (signal.SIGSTOP, "it gave no sign of life for")],
)
def test_a_rank_that_goes_is_named(folder: tuple[Path, Any], layout: Layout, harm: signal.Signals, cause: str) -> None:
    before = left_behind([])
    engine = load_parallel(folder[0], layout, device="cuda", dtype="fp32")
    pids = list(engine.forward.ranks.process_ids.values())  # type: ignore[attr-defined]
    stream = engine.stream(random_prompts(211, [30], seed=1), replace(GREEDY, max_new_tokens=60))
    for _ in range(5):
        next(stream)
    os.kill(pids[0], harm)
    with pytest.raises(RankFailed, match=rf"rank 1 \(.*\) on {os.uname().nodename} failed at step \d+: {cause}"):
        list(stream)
    assert left_behind(pids) == before
    one = labkit.load(folder[0], device="cuda", dtype="fp32")
    assert one.generate([[1, 2]], GREEDY)[0].completions[0].token_ids, "the process and its GPU go on"


def test_more_ranks_than_gpus_are_refused() -> None:
    with pytest.raises(NotAvailable, match=f"{GPUS + 1} ranks were asked for, one GPU each, but {GPUS} GPUs are available"):
        load_parallel("gptj-tiny", Layout(1, GPUS + 1), device="cuda")


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 2)], ids=str)
def test_ranks_that_torchrun_starts_take_a_gpu_each(layout: Layout) -> None:
    prompt, options = "In the beginning", ["--max-new-tokens", "20", "--device", "cuda", "--precision", "fp32", "--json"]
    sizes = ["--tensor-parallel", str(layout.tensor_parallel), "--pipeline-parallel", str(layout.pipeline_parallel)]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "labkit", "generate", prompt, *options, *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout.strip().splitlines()[-1])["outputs"]
    one = labkit.load("gptj-tiny", device="cuda", dtype="fp32")
    assert row["token_ids"] == one.generate(prompt, labkit.SamplingParams(max_new_tokens=20))[0].completions[0].token_ids
