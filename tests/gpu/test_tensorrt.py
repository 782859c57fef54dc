"""If TensorRT and a GPU are available, TensorRT runs an exported part: plan, CUDA graph, timing cache, sparse kernels, INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.gpu
pytest.importorskip("onnxscript", reason="not measured here: labkit's extra 'graphs' is not installed")

from labkit.errors import CheckpointError, NotAvailable  # noqa: E402
from labkit.graphs.export import export  # noqa: E402
from labkit.graphs.exported import ExportedModel  # noqa: E402
from labkit.graphs.runner import GraphModel  # noqa: E402
from labkit.graphs.tensorrt import PlanSettings, TensorRTPart, build_plan, tensorrt  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def needs_tensorrt() -> None:
    try:
        tensorrt()
    except NotAvailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export("gptj-tiny", tmp_path_factory.mktemp("trt") / "graph")


def inputs(exported: ExportedModel, past: int = 0) -> dict[str, torch.Tensor]:
    tensors = exported.parts[0].tensors
    torch.manual_seed(0)
    found = {"input_ids": torch.randint(8192, (1, 5 if past == 0 else 1), device="cuda")}
    config = exported.config
    for tensor in tensors.past:
        found[tensor.name] = torch.randn(1, config.num_heads, past, config.head_dim, device="cuda", dtype=torch.float32)
    return found


@pytest.mark.parametrize("settings", [{}, {"sparse": True}, {"fp16": True}, {"int8": True}], ids=str)
def test_a_plan_computes_what_onnx_runtime_computes(settings: dict[str, bool], exported: ExportedModel, tmp_path: Path) -> None:
    calibration = [inputs(exported, past) for past in (1, 8, 64)]
    cache = tmp_path / "timings"
    try:
        chosen = PlanSettings(timing_cache=cache, **settings)
        plan = build_plan(exported.parts[0], tmp_path / "model.plan", chosen, calibration)
    except NotAvailable as error:
        pytest.skip(f"not measured here: {error}")
    assert cache.stat().st_size > 0
    part = TensorRTPart(plan)
    given = inputs(exported)
    found = part.run(given)["logits"].float().cpu().numpy()
    truth = GraphModel(exported).prefill(given["input_ids"].cpu().numpy())
    error = np.abs(found - truth).max() / np.abs(truth).max()
    assert error < (1e-3 if set(settings) <= {"sparse"} else 0.05 if "fp16" in settings else 0.5)
    assert np.abs(found).max() > 0


def test_a_captured_step_reads_its_inputs_again(exported: ExportedModel, tmp_path: Path) -> None:
    part = TensorRTPart(build_plan(exported.parts[0], tmp_path / "model.plan", PlanSettings()))
    given = inputs(exported, past=8)
    graph, outputs = part.capture(given)
    given["input_ids"].fill_(7)
    graph.replay()
    torch.cuda.synchronize()
    replayed = outputs["logits"].clone()
    assert torch.allclose(replayed, part.run(given)["logits"], atol=1e-4)


def test_a_damaged_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"no plan")
    with pytest.raises(CheckpointError, match="build it again"):
        TensorRTPart(tmp_path / "model.plan")
