"""Builds a TensorRT plan from an exported part for this machine's GPU, and runs the plan.

This module was written from the documentation of TensorRT 10's Python API. It has not been run, because TensorRT could not be
installed: *not measured here*. `tests/gpu/test_tensorrt.py` tests it on a machine with TensorRT and a GPU. The package tensorrt
is imported only when a function is called.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from labkit.errors import CheckpointError, InvalidRequest, NotAvailable
from labkit.graphs.exported import ExportedPart
from labkit.home import write_atomically

Sizes = tuple[int, int, int]
"""The smallest, the usual and the largest value of a dynamic size."""


@dataclass(frozen=True)
class PlanSettings:
    """Settings for building a plan.

    fp16, int8: whether TensorRT may choose kernels in these precisions (in TensorRT 10; since TensorRT 11, the graph decides
    the precisions). sparse: whether TensorRT may choose kernels for weights with 2:4 sparsity (`kSPARSE_WEIGHTS`). batch,
    tokens, past: the range of each dynamic size, and the usual value, for which kernels are chosen. workspace_bytes: the
    largest scratch memory of a kernel. timing_cache: a file with measured times of kernels. It is read if it exists, and
    written at the end, so that the next plan is built faster.
    """

    fp16: bool = False
    int8: bool = False
    sparse: bool = False
    batch: Sizes = (1, 1, 8)
    tokens: Sizes = (1, 1, 128)
    past: Sizes = (0, 128, 511)
    workspace_bytes: int = 1 << 30
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("batch", 1), ("tokens", 1), ("past", 0)):
            low, usual, high = getattr(self, name)
            if not least <= low <= usual <= high:
                raise InvalidRequest(
                    f"{name} is {(low, usual, high)}; give the smallest, usual and largest size, each at least {least}"
                )


def tensorrt() -> Any:
    """The package tensorrt. Raises `NotAvailable` if it is not installed, or if this machine has no GPU."""
    try:
        module = importlib.import_module("tensorrt")
    except ImportError as error:
        raise NotAvailable(
            "not measured here: the package tensorrt is not installed; on a machine with an NVIDIA GPU, pip install tensorrt"
        ) from error
    if not torch.cuda.is_available():
        raise NotAvailable("not measured here: TensorRT needs an NVIDIA GPU, and torch finds none")
    return module


def build_plan(
    part: ExportedPart, target: Path, settings: PlanSettings, calibration: Sequence[Mapping[str, Tensor]] = ()
) -> Path:
    """Parse a part's graph, choose kernels on this GPU, and write the serialized plan to the file `target`.

    calibration: needed only for `int8`. Each item holds the inputs of one pass by name, on the GPU; their values determine the
    scales of activations. A plan works only on the same kind of GPU and with the same version of TensorRT. Raises
    `NotAvailable` if TensorRT or a GPU is missing. Raises `CheckpointError` with TensorRT's reason if TensorRT cannot parse the
    graph or build the plan.
    """
    trt = tensorrt()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # the only mode since TensorRT 10
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(part.path)):  # unlike `parse`, this call finds the weights file beside the graph
        reasons = "; ".join(str(parser.get_error(number)) for number in range(parser.num_errors))
        raise CheckpointError(f"{part.path}: TensorRT {trt.__version__} cannot parse this graph ({reasons:.300})")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    profile = _profile(builder, part, settings)
    config.add_optimization_profile(profile)
    _set_precisions(trt, config, settings, profile, calibration)
    cache = _timing_cache(config, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise CheckpointError(f"{part.path}: TensorRT {trt.__version__} could not build a plan; its log on stderr says why")
    if settings.timing_cache is not None:
        write_atomically(settings.timing_cache, bytes(cache.serialize()))
    write_atomically(target, bytes(plan))
    return target


class TensorRTPart:
    """A plan that is loaded on this machine's GPU. Inputs and outputs are torch tensors on the GPU.

    Raises `NotAvailable` if TensorRT or a GPU is missing, and `CheckpointError` if the plan was built for another GPU or by
    another version of TensorRT.
    """

    def __init__(self, plan: Path) -> None:
        self._trt = trt = tensorrt()
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
        self._engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise CheckpointError(
                f"{plan} was built for another GPU or another TensorRT than {trt.__version__}; build it again"
            )
        self._context = self._engine.create_execution_context()
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        names = [self._engine.get_tensor_name(number) for number in range(self._engine.num_io_tensors)]
        is_input = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = [name for name in names if is_input[name]]
        self.outputs = [name for name in names if not is_input[name]]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the plan once and wait for the result.

        Raises `InvalidRequest` if an input is missing, or if its shape is outside the sizes that the plan was built for.
        """
        outputs = self._bind(inputs)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._enqueue()
        self._stream.synchronize()
        return outputs

    def capture(self, inputs: Mapping[str, Tensor]) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]]:
        """Capture one run as a CUDA graph. Each `replay()` reads the same input tensors and writes the same output tensors.

        The CUDA graph works only for the shapes of these inputs. It must not be used after this `TensorRTPart` is deleted.
        """
        outputs = self._bind(inputs)
        self._stream.wait_stream(torch.cuda.current_stream())
        self._enqueue()  # the first run after a change of shapes allocates memory, which a capture cannot record
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._enqueue()
        return graph, outputs

    def _bind(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if missing := [name for name in self.inputs if name not in inputs]:
            raise InvalidRequest(f"the plan needs the input {missing[0]}, and none was given")
        self._held = {name: inputs[name].contiguous() for name in self.inputs}
        for name, tensor in self._held.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise InvalidRequest(
                    f"{name} has shape {list(tensor.shape)}, which is outside the sizes that the plan was built for"
                )
            self._context.set_tensor_address(name, tensor.data_ptr())
        outputs = {}
        for name in self.outputs:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs[name] = torch.empty(shape, dtype=self._dtype(name), device="cuda")
            self._context.set_tensor_address(name, outputs[name].data_ptr())
        return outputs

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise CheckpointError("TensorRT could not run the plan; its log on stderr says why")

    def _dtype(self, name: str) -> torch.dtype:
        kinds = {
            self._trt.DataType.FLOAT: torch.float32,
            self._trt.DataType.HALF: torch.float16,
            self._trt.DataType.INT64: torch.int64,
        }
        return kinds[self._engine.get_tensor_dtype(name)]


def _profile(builder: Any, part: ExportedPart, settings: PlanSettings) -> Any:
    """Make the optimization profile, which holds the smallest, usual and largest shape of each input."""
    sizes = {"batch": settings.batch, "tokens": settings.tokens, "past": settings.past}
    profile = builder.create_optimization_profile()
    for tensor in part.tensors.inputs:
        shapes = [tuple(sizes[size][which] if isinstance(size, str) else size for size in tensor.shape) for which in range(3)]
        profile.set_shape(tensor.name, *shapes)
    return profile


def _set_precisions(
    trt: Any, config: Any, settings: PlanSettings, profile: Any, calibration: Sequence[Mapping[str, Tensor]]
) -> None:
    for wanted, name in ((settings.fp16, "FP16"), (settings.int8, "INT8"), (settings.sparse, "SPARSE_WEIGHTS")):
        if not wanted:
            continue
        flag = getattr(trt.BuilderFlag, name, None)
        if flag is None:
            raise NotAvailable(
                f"TensorRT {trt.__version__} has no builder flag {name}: it takes precisions from the graph; export the model "
                "with --precision fp16, or quantize the graph"
            )
        config.set_flag(flag)
    if settings.int8:
        if not calibration:
            raise InvalidRequest("a plan in int8 needs calibration inputs; give some inputs of the part")
        config.int8_calibrator = _calibrator(trt, calibration)
        config.set_calibration_profile(profile)


def _calibrator(trt: Any, calibration: Sequence[Mapping[str, Tensor]]) -> Any:
    """Make TensorRT's entropy calibrator for the given inputs."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        """Passes the inputs to TensorRT, one after another.

        The calibration is not saved in a file, because it belongs to one plan.
        """

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self._left: Iterator[Mapping[str, Tensor]] = iter(calibration)
            self._held: list[Tensor] = []

        def get_batch_size(self) -> int:
            """The number of sequences in an input."""
            return int(next(iter(calibration[0].values())).shape[0])

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            """Return the addresses of the next inputs, or None after the last inputs."""
            given = next(self._left, None)
            if given is None:
                return None
            self._held = [given[name].contiguous() for name in names]
            return [tensor.data_ptr() for tensor in self._held]

        def read_calibration_cache(self) -> None:
            """Return None, because no earlier calibration was saved."""

        def write_calibration_cache(self, cache: Any) -> None:
            """Do nothing, because the calibration is not saved."""

    return Calibrator()


def _timing_cache(config: Any, settings: PlanSettings) -> Any:
    path = settings.timing_cache
    cache = config.create_timing_cache(path.read_bytes() if path is not None and path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
