"""Between a `Server` and its tritonserver: ends the server when told to, or when whoever started it is gone, however that
went, and clears away what is left. Run as `python -m labkit.serving.guardian PARENT FOLDER REGIONS COMMAND...`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from labkit.serving.run_folder import run_folder

LOOK_SECONDS = 0.1
STOP_SECONDS = 20.0


def main(parent: int, folder: Path, regions: str, command: list[str]) -> int:
    """Run the command until it ends, a SIGTERM comes, or process `parent` is gone; its exit status.

    Writes the server's process id to `folder/pid`; deletes `folder`, the server's run folder, and its shared memory, whose
    names begin with `regions`.
    """
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    server = subprocess.Popen(command)
    (folder / "pid").write_text(str(server.pid))
    while not told and os.getppid() == parent:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(LOOK_SECONDS)
            break
    end(server)
    for region in Path("/dev/shm").glob(f"{regions}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(run_folder(server.pid), ignore_errors=True)
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    return server.returncode


def end(server: subprocess.Popen[bytes]) -> None:
    """End a server and the processes of its models: asked first, then killed."""
    children = []
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(server.pid).children(recursive=True)
    if server.poll() is None:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
    if server.poll() is None:
        server.kill()
        server.wait()
    _, alive = psutil.wait_procs(children, timeout=2.0)
    for child in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(alive, timeout=5.0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], sys.argv[4:]))
