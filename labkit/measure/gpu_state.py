"""Power, clocks and temperature of a GPU at this moment, from NVIDIA's management library; None where there is none."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class GPUState:
    """One reading: watts, MHz of the multiprocessors and the memory, degrees Celsius."""

    watts: float
    sm_mhz: int
    memory_mhz: int
    celsius: int

    def to_dict(self) -> dict[str, Any]:
        """For a record."""
        return asdict(self)


def gpu_state(index: int = 0) -> GPUState | None:
    """Read GPU `index`; None when the library or the GPU is missing (a number is never made up)."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # the library raises its own kinds, and there may be no library
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
