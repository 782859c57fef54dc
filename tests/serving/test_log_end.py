"""Which lines of a server's log are shown to users."""

from __future__ import annotations

from pathlib import Path

import pytest

from labkit.serving.server import log_end
from labkit.serving.server.log_end import end_of_log

WITHOUT_GPU = """\
W1128 14:42:00.756150 28850 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned memory pool \
will not be available: CUDA driver version is insufficient for CUDA runtime version"
I1128 14:42:00.756206 28850 cuda_memory_manager.cc:117] "CUDA memory pool disabled"
E1128 14:42:00.756282 28850 server.cc:241] "CudaDriverHelper has not been initialized."
Error: Failed to initialize NVML
W1128 14:42:00.764642 28850 metrics.cc:798] "DCGM unable to start: DCGM initialization error"
E1128 14:42:05.1 1 ensemble_scheduler.cc:1468] "unable to create stream for ensemble: CUDA driver version is insufficient \
for CUDA runtime version"
W1128 14:42:05.2 1 pinned_memory_manager.cc:170] "failed to allocate pinned system memory: no pinned memory pool, falling \
back to non-pinned system memory"
"""

ALWAYS = """\
I1128 14:42:00.761671 28850 server.cc:604]\x20
+------------------+------+
| Repository Agent | Path |
+------------------+------+

I1128 14:42:05.462289 28892 pb_stub.cc:2145]  Non-graceful termination detected.\x20
"""

TELLING = """\
E1128 14:42:06.1 1 model_lifecycle.cc:640] "failed to load 'mine' version 1: Internal: ValueError: the weights of Atlantis"
Signal (11) received.
"""


@pytest.mark.parametrize("gpu", [False, True])
def test_harmless_lines_are_not_shown_and_others_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool) -> None:
    device, log = tmp_path / "nvidiactl", tmp_path / "log"
    monkeypatch.setattr(log_end, "GPU_DEVICE", device)
    if gpu:
        device.touch()
    whole = WITHOUT_GPU + ALWAYS + TELLING
    log.write_text(whole)
    assert end_of_log(log) + "\n" == (WITHOUT_GPU if gpu else "") + TELLING
    assert end_of_log(log, 1) == "Signal (11) received."
    assert log.read_text() == whole, "the file keeps every line"


def test_a_log_that_is_gone_says_nothing(tmp_path: Path) -> None:
    assert end_of_log(tmp_path / "log") == ""
