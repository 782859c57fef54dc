"""GPUs and links with the figures of their data sheets, and a function that describes this machine.

All rates are those of the data sheet, without 2:4 sparsity. The module `efficiencies` gives the share of each rate that
software achieves. To add a GPU, add its `Device` to `GPUS`, or pass the numbers of the data sheet to `Device` yourself.

The data sheets themselves were not available. Each figure was compared with a web page that repeats it. `source` names the page
and says which figures are not on the page. There are no prices here, because they vary too much: on one page of May 2026
(mercatus-ai.com/blog/cloud-gpu-pricing), an A100 with 80 GB costs 0.80 to 3.00 dollars an hour. The user gives the price.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from labkit.errors import InvalidRequest

if TYPE_CHECKING:
    from labkit.measure.ceilings import Ceilings


@dataclass(frozen=True)
class Link:
    """A connection between devices. `bytes_per_second`: how fast one device sends. `hop_seconds`: the latency of one hop."""

    name: str
    bytes_per_second: float
    hop_seconds: float
    source: str


@dataclass(frozen=True)
class Device:
    """One GPU, or one CPU machine.

    `flops_per_second`: dense FLOPs per second in each precision in which the device computes. `runtime_bytes`: memory that the
    driver and the libraries take. `watts`: the power limit, 0 if unknown. `link` connects the devices of a node. `far_link`
    connects nodes; its bytes per second are the sum over all network cards of a node, which the devices of the node share.
    `shared`: whether ranks share the device's rates and memory, as processes on one CPU do. `sparse`: whether the device
    multiplies 2:4 sparse matrices twice as fast.
    """

    name: str
    memory_bytes: float
    read_bytes_per_second: float
    flops_per_second: dict[str, float]
    source: str
    watts: float = 0.0
    link: Link | None = None
    far_link: Link | None = None
    devices_per_node: int = 8
    runtime_bytes: float = 2.5e9
    sparse: bool = False
    shared: bool = False
    kind: str = field(default="gpu")

    def rate(self, precision: str) -> float:
        """The FLOPs per second with which the device multiplies matrices that are stored in `precision`.

        Weight-only formats (int8, int4) are multiplied in 16 bits on a GPU. Raises `InvalidRequest` if the device cannot
        compute in `precision`.
        """
        stands_for = {"int4": ("int4", "int8", "bf16"), "int8": ("int8", "bf16")} if self.kind == "cpu" else {}
        for name in stands_for.get(precision, (precision, {"int8": "fp16", "int4": "fp16", "bf16": "fp16"}.get(precision, ""))):
            if name in self.flops_per_second:
                return self.flops_per_second[name]
        raise InvalidRequest(
            f"{self.name} does not compute in {precision}; its data sheet lists {', '.join(self.flops_per_second)}"
        )


_NETWORKS = "alpha-one-index.github.io/ai-infra-index/specs/networking-interconnects.html"
_HOPS = "the latency of a hop is assumed"
NVLINK_V100 = Link("NVLink 2", 150e9, 1e-6, f"300 GB/s in both directions together ({_NETWORKS}); {_HOPS}")
NVLINK_A100 = Link("NVLink 3", 300e9, 1e-6, f"600 GB/s in both directions together ({_NETWORKS}); {_HOPS}")
NVLINK_H100 = Link("NVLink 4", 450e9, 1e-6, f"900 GB/s in both directions together ({_NETWORKS}); {_HOPS}")
_PCIE = "after the encoding (hpc-notes.pages.dev/reference/pcie)"
PCIE_3 = Link("PCIe 3 x16", 15.7e9, 2e-6, f"15.7 GB/s {_PCIE}; {_HOPS}")
PCIE_4 = Link("PCIe 4 x16", 31.5e9, 2e-6, f"31.5 GB/s {_PCIE}; {_HOPS}")
PCIE_5 = Link("PCIe 5 x16", 63e9, 2e-6, f"63 GB/s {_PCIE}; {_HOPS}")
HDR_8 = Link(
    "8 x InfiniBand HDR", 200e9, 5e-6, f"200 Gb/s per card ({_NETWORKS}); 8 cards per node from memory, not checked; {_HOPS}"
)
_BASEPOD = "docs.nvidia.com/dgx-basepod, core components"
NDR_8 = Link("8 x InfiniBand NDR", 400e9, 5e-6, f"8 cards of up to 400 Gb/s per node ({_BASEPOD}); {_HOPS}")
MEMORY_LINK = Link("memory of the host", 10e9, 5e-6, "assumed: ranks on one CPU exchange data in shared memory")
LINKS = {
    "nvlink-v100": NVLINK_V100,
    "nvlink-a100": NVLINK_A100,
    "nvlink-h100": NVLINK_H100,
    "pcie3": PCIE_3,
    "pcie4": PCIE_4,
    "pcie5": PCIE_5,
}
"""Links within a node, by their names on the command line. The latency of a hop is assumed; a fit corrects it by a factor."""


def _gpu(
    name: str,
    gib: int,
    read: float,
    rates: dict[str, float],
    watts: float,
    link: Link,
    far: Link,
    source: str,
    sparse: bool = True,
) -> Device:
    return Device(
        name=name,
        memory_bytes=gib * 2**30,
        read_bytes_per_second=read * 1e9,
        flops_per_second={precision: rate * 1e12 for precision, rate in rates.items()},
        source=source,
        watts=watts,
        link=link,
        far_link=far,
        sparse=sparse,
    )


_KLOCKWOOD = "glennklockwood.com/garden/processors"
_HMC = "hmc-tech.com/gpu/nvidia-h100-vs-nvidia-a100-sxm-40gb"
_SYSRQMTS = "sysrqmts.com/gpus/compare/nvidia-tesla-t4-vs-nvidia-tesla-v100-sxm3-32-gb"
_V100 = f"memory and fp32: {_SYSRQMTS} (897 GB/s); 125 TFLOPS and 300 W: ozyphus.github.io/gpu-maths.html"
_A10 = "memory and fp32: sysrqmts.com (A10 PCIe: 600.2 GB/s, 31.24 TFLOPS); 125 TFLOPS and 150 W: from memory, not checked"
_L4 = "grokipedia.com/page/NVIDIA_L4_vs_L40S (with sparsity 242 and 485 TFLOPS); fp32: fpsbench.com (30.29 TFLOPS)"
_L40S = "mullet.se/product.html?product_id=355414 (a table of NVIDIA's data sheet)"
_H100_PCIE = f"{_HMC}; memory and 350 W: NVIDIA H100 PCIe product brief PB-11133-001"
_H200 = f"memory, link and 700 W: aiminingco.com/gpu/h200/specs; rates: those of the H100, {_KLOCKWOOD}/h100"
_A100 = {"fp16": 312.0, "bf16": 312.0, "fp32": 19.5}
_H100 = {"fp16": 989.4, "bf16": 989.4, "fp8": 1978.9, "fp32": 67.0}
GPUS = {
    gpu.name: gpu
    for gpu in (
        _gpu("v100-16gb", 16, 900, {"fp16": 125.0, "fp32": 15.7}, 300, NVLINK_V100, HDR_8, _V100, sparse=False),
        _gpu("v100-32gb", 32, 900, {"fp16": 125.0, "fp32": 15.7}, 300, NVLINK_V100, HDR_8, _V100, sparse=False),
        _gpu("t4-16gb", 16, 320, {"fp16": 65.0, "fp32": 8.1}, 70, PCIE_3, HDR_8, _SYSRQMTS, sparse=False),
        _gpu("a10-24gb", 24, 600, {"fp16": 125.0, "bf16": 125.0, "fp32": 31.2}, 150, PCIE_4, HDR_8, _A10),
        _gpu("a100-40gb", 40, 1555, _A100, 400, NVLINK_A100, HDR_8, f"{_KLOCKWOOD}/A100"),
        _gpu("a100-80gb", 80, 2039, _A100, 400, NVLINK_A100, HDR_8, f"{_KLOCKWOOD}/A100"),
        _gpu("l4-24gb", 24, 300, {"fp16": 121.0, "bf16": 121.0, "fp8": 242.0, "fp32": 30.3}, 72, PCIE_4, NDR_8, _L4),
        _gpu("l40s-48gb", 48, 864, {"fp16": 362.0, "bf16": 362.0, "fp8": 733.0, "fp32": 91.6}, 350, PCIE_4, NDR_8, _L40S),
        _gpu(
            "h100-pcie-80gb",
            80,
            2000,
            {"fp16": 756.0, "bf16": 756.0, "fp8": 1513.0, "fp32": 51.0},
            350,
            PCIE_5,
            NDR_8,
            _H100_PCIE,
        ),
        _gpu("h100-80gb", 80, 3350, _H100, 700, NVLINK_H100, NDR_8, f"{_KLOCKWOOD}/h100"),
        _gpu("h200-141gb", 141, 4800, _H100, 700, NVLINK_H100, NDR_8, _H200),
    )
}
"""GPUs by name."""


def named_gpu(name: str) -> Device:
    """The GPU with this name.

    For an unknown name, raises `InvalidRequest`, which suggests a similar name and says how to add a GPU.
    """
    if name in GPUS:
        return GPUS[name]
    near = difflib.get_close_matches(name, GPUS, 1, 0.4)
    raise InvalidRequest(
        f"the catalogue has no GPU named {name!r:.60}; {f'did you mean {near[0]}? ' if near else ''}It has {', '.join(GPUS)}. "
        "To add a GPU, write the memory, bytes per second and FLOPs per second of its data sheet in "
        "labkit/planning/catalogue.py, or make a labkit.planning.catalogue.Device in your own script"
    )


def with_link(device: Device, name: str | None) -> Device:
    """Return the device with the link `name` between the devices of a node. Raises `InvalidRequest` for an unknown name."""
    if name is None:
        return device
    if name not in LINKS:
        raise InvalidRequest(f"there is no link named {name!r:.60}; the names are {', '.join(LINKS)}")
    return replace(device, link=LINKS[name])


INT8_TIMES_BF16 = 2
"""A CPU's VNNI instruction multiplies twice as many int8 numbers as its bf16 instruction multiplies bf16 numbers."""


def this_machine(ceilings: Ceilings, *, memory_bytes: float, instruction_sets: tuple[str, ...] = ()) -> Device:
    """Describe this machine as a `Device`, from its measured ceilings. Ranks on a CPU share its memory and its cores."""
    rates = {name: rate for name, rate in ceilings.flops_per_second.items() if rate > 0}
    cpu = not ceilings.device.startswith("cuda")
    if cpu and "avx512_vnni" in instruction_sets and "bf16" in rates:
        rates["int8"] = INT8_TIMES_BF16 * rates["bf16"]
    return Device(
        name=f"this machine ({ceilings.device})",
        memory_bytes=memory_bytes,
        read_bytes_per_second=ceilings.read_bytes_per_second,
        flops_per_second=rates,
        source="measured by labkit.measure.ceilings",
        link=MEMORY_LINK if cpu else NVLINK_H100,
        devices_per_node=1 if cpu else 8,
        runtime_bytes=0.3e9 if cpu else 2.5e9,
        shared=cpu,
        kind="cpu" if cpu else "gpu",
    )
