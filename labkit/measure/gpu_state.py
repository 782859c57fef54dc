"""Reads the current power, clocks and temperature of a GPU from NVIDIA's management library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GPUState:
    """One reading: power in watts, clocks of multiprocessors and memory in MHz, temperature in degrees Celsius."""

    watts: float
    sm_mhz: int
    memory_mhz: int
    celsius: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for a record."""
        return asdict(self)


def gpu_state(index: int = 0) -> GPUState | None:
    """Read the state of GPU `index`. Returns None if the library or the GPU is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the library may be missing, and it raises its own exception classes
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        return GPUState(
            watts=pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
            sm_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
            memory_mhz=pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
            celsius=pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        )
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
