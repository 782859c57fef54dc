"""Measures time, memory and the ceilings of the machine, and makes rooflines, records and plots."""

from labkit.measure.ceilings import Ceilings, Reader, ceilings
from labkit.measure.contention import Contention
from labkit.measure.kept_runs import KeptRuns
from labkit.measure.ladder import Ladder
from labkit.measure.memory import HostPeak, gpu_peak_bytes, peak_host_memory
from labkit.measure.profiler import OperationTime, profile_call
from labkit.measure.progress_bar import progress_bar
from labkit.measure.record import Record, versions
from labkit.measure.roofline import Roofline, roofline
from labkit.measure.rung import Rung
from labkit.measure.task import Task
from labkit.measure.timing import Ratio, Timing, compare, noted, ratio, time_call

__all__ = [
    "Ceilings",
    "Contention",
    "HostPeak",
    "KeptRuns",
    "Ladder",
    "OperationTime",
    "Ratio",
    "Reader",
    "Record",
    "Roofline",
    "Rung",
    "Task",
    "Timing",
    "ceilings",
    "compare",
    "gpu_peak_bytes",
    "noted",
    "peak_host_memory",
    "profile_call",
    "progress_bar",
    "ratio",
    "roofline",
    "time_call",
    "versions",
]
