"""Describes this machine: processor, memory, disk, GPUs and package versions. It knows nothing about labs or models."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from labkit.host_cores import usable_cores
from labkit.host_memory import available_memory, total_memory
from labkit.plurals import counted

INSTRUCTION_SETS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""The instruction sets that decide which kernels a CPU can run, by their names in Linux."""

PACKAGES = (
    "torch",
    "transformers",
    "triton",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "jupyterlab",
    "tritonclient",
    "onnxruntime",
)


@dataclass(frozen=True)
class CPU:
    """A processor: its model, its architecture, its number of cores, and the `INSTRUCTION_SETS` that it has.

    `cores` counts the physical cores, and `usable_cores` the cores that this process can use.
    """

    model: str
    architecture: str
    cores: int
    usable_cores: int
    instruction_sets: tuple[str, ...]


@dataclass(frozen=True)
class GPU:
    """A GPU: name, memory in bytes, driver, compute capability, PCIe generation and width, and active NVLinks."""

    index: int
    name: str
    memory_bytes: int
    driver: str
    compute_capability: str
    pcie: str
    nvlinks: int


@dataclass(frozen=True)
class Machine:
    """The description of a machine. If the machine has no usable GPU, `gpus_why_none` says why."""

    system: str
    cpu: CPU
    memory_bytes: int
    memory_available_bytes: int
    disk_free_bytes: int
    gpus: tuple[GPU, ...]
    gpus_why_none: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Return the processor, its number of usable cores, and the GPUs as one line of text."""
        return ", ".join([self.cpu.model, counted(self.cpu.usable_cores, "core"), *(gpu.name for gpu in self.gpus)])


def describe() -> Machine:
    """Describe this machine. The call takes well under a second, and changes nothing."""
    gpus, why = find_gpus()
    return Machine(
        system=f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        cpu=find_cpu(),
        memory_bytes=total_memory(),
        memory_available_bytes=available_memory(),
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        gpus=gpus,
        gpus_why_none=why,
        versions=find_versions(),
    )


def find_cpu(cpuinfo: str | None = None) -> CPU:
    """The processor that the text `cpuinfo` describes. By default, the text is read from `/proc/cpuinfo`."""
    if cpuinfo is None:
        path = Path("/proc/cpuinfo")
        cpuinfo = path.read_text() if path.exists() else ""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    usable = usable_cores()
    return CPU(
        model=fields.get("model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=psutil.cpu_count(logical=False) or usable,
        usable_cores=usable,
        instruction_sets=tuple(name for name in INSTRUCTION_SETS if name in flags),
    )


def find_gpus() -> tuple[tuple[GPU, ...], str]:
    """Find the NVIDIA GPUs that NVML reports.

    The second value is "", or the reason why no GPU was found: no library, no driver or no GPU.
    """
    try:
        import pynvml
    except ImportError:
        return (), "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return (), f"no NVIDIA driver answered ({error})"
    try:
        count = pynvml.nvmlDeviceGetCount()
        gpus = tuple(_gpu(pynvml, index) for index in range(count))
    except pynvml.NVMLError as error:
        return (), f"the NVIDIA driver refused the request ({error})"
    finally:
        pynvml.nvmlShutdown()
    return gpus, "" if gpus else "the NVIDIA driver sees no GPU"


def _gpu(nvml: Any, index: int) -> GPU:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
    return GPU(
        index=index,
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        driver=_text(nvml.nvmlSystemGetDriverVersion()),
        compute_capability=f"{major}.{minor}",
        pcie=_pcie(nvml, handle),
        nvlinks=_nvlinks(nvml, handle),
    )


def _pcie(nvml: Any, handle: Any) -> str:
    try:
        generation = nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle)
        return f"gen {generation} x{nvml.nvmlDeviceGetMaxPcieLinkWidth(handle)}"
    except nvml.NVMLError:
        return "unknown"


def _nvlinks(nvml: Any, handle: Any) -> int:
    links = 0
    for link in range(getattr(nvml, "NVML_NVLINK_MAX_LINKS", 18)):
        try:
            links += nvml.nvmlDeviceGetNvLinkState(handle, link) == nvml.NVML_FEATURE_ENABLED
        except nvml.NVMLError:
            break
    return links


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def find_versions(packages: Iterable[str] | None = None) -> dict[str, str]:
    """The versions of those `packages` (default: `PACKAGES`) that are installed."""
    found = {}
    for package in PACKAGES if packages is None else packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
