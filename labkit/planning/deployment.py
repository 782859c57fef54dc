"""One way to deploy a model: how it is divided among the devices, its precision, and the requests that it serves."""

from __future__ import annotations

from dataclasses import dataclass

from labkit.bits_per_weight import BITS
from labkit.errors import InvalidRequest
from labkit.planning.catalogue import Device
from labkit.planning.shape import Shape

PRECISIONS = ("fp32", "bf16", "fp16", "fp8", "int8", "int4")
"""The precisions for which the catalogue has FLOPs per second. 8-bit activations (w8a8) are not among them."""
MICRO_BATCH_TOKENS = 1024
"""FasterTransformer divides a batch until a micro-batch has at most this many tokens (see its function `getLocalBatchSize`)."""


@dataclass(frozen=True)
class Deployment:
    """A model on `tensor_parallel` x `pipeline_parallel` devices, which serves batches of equal requests.

    Every request has `input_tokens` prompt tokens and gets `output_tokens` new tokens. `precision` is the format of the
    matrices. `sparse`: 2:4 structured sparsity of the layers' matrices. `cache_precision`: the format of the KV cache; "" means
    4 bytes per number for fp32 and 2 bytes otherwise.
    """

    shape: Shape
    device: Device
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    precision: str = "fp16"
    batch: int = 1
    input_tokens: int = 128
    output_tokens: int = 32
    sparse: bool = False
    cache_precision: str = ""

    def __post_init__(self) -> None:
        for name in ("tensor_parallel", "pipeline_parallel", "batch", "input_tokens", "output_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise InvalidRequest(f"{name} is {value!r}; a whole number of at least 1 is accepted")
        for name in (self.precision, self.cache_precision or self.precision):
            if name not in PRECISIONS:
                raise InvalidRequest(f"precision is {name!r}; {', '.join(PRECISIONS)} is accepted")
        if why := does_not_divide(self.shape, self.tensor_parallel, self.pipeline_parallel):
            raise InvalidRequest(why)
        if self.sparse and not self.device.sparse:
            raise InvalidRequest(f"{self.device.name} has no units for 2:4 sparsity; GPUs since Ampere have them")

    @property
    def ranks(self) -> int:
        """The number of devices of one instance."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def element_bytes(self) -> float:
        """Bytes of one number in activations and hidden states."""
        return 4.0 if self.precision == "fp32" else 2.0

    @property
    def matrix_bytes(self) -> float:
        """Bytes per weight of a layer's matrices. With 2:4 sparsity, half of the weights are kept, each with a 2-bit index."""
        bits = BITS[self.precision]
        return (bits / 2 + 1 if self.sparse else bits) / 8

    @property
    def head_bytes(self) -> float:
        """Bytes of one weight of the head. If the matrices are int4, the head is int8."""
        return BITS["int8" if self.precision == "int4" else self.precision] / 8

    @property
    def cache_bytes(self) -> float:
        """Bytes of one number in the KV cache."""
        return BITS[self.cache_precision] / 8 if self.cache_precision else self.element_bytes

    @property
    def prefill_batch(self) -> int:
        """The number of sequences in one micro-batch of the prefill."""
        return micro_batch(self.batch, self.input_tokens, self.pipeline_parallel)

    @property
    def decode_batch(self) -> int:
        """The number of sequences in one micro-batch of a decode step."""
        return micro_batch(self.batch, 1, self.pipeline_parallel)

    @property
    def label(self) -> str:
        """The deployment in words."""
        sparse = ", 2:4 sparse" if self.sparse else ""
        return (
            f"{self.shape.name} on {self.device.name}, TP {self.tensor_parallel} x PP {self.pipeline_parallel}, "
            f"{self.precision}{sparse}, batch {self.batch}, {self.input_tokens} + {self.output_tokens} tokens"
        )


def does_not_divide(shape: Shape, tensor_parallel: int, pipeline_parallel: int) -> str:
    """The reason why a shape cannot be divided this way, and the nearest number that works; "" if the shape can be divided."""
    for parts, whole, what in (
        (tensor_parallel, shape.num_heads, "heads"),
        (tensor_parallel, shape.intermediate_size, "inner features"),
        (pipeline_parallel, shape.num_layers, "layers"),
    ):
        if whole % parts:
            near = max(number for number in range(1, min(parts, whole) + 1) if whole % number == 0)
            kind = "pipeline_parallel" if what == "layers" else "tensor_parallel"
            return f"{kind} {parts} does not divide the {whole} {what} of {shape.name}; {near} does"
    return ""


def micro_batch(batch: int, tokens: int, stages: int) -> int:
    """The number of sequences in a micro-batch when a batch passes through `stages` stages, by FasterTransformer's rule."""
    if stages == 1:
        return batch
    size = batch // stages if batch % stages == 0 else batch
    while size * tokens > MICRO_BATCH_TOKENS and size % 2 == 0:
        size //= 2
    return size
