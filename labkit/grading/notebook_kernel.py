"""Runs the cells of a notebook in a Jupyter kernel, without a Jupyter server.

This process and the kernel talk through Unix sockets, which only this user can reach. Jupyter's default is TCP, through which
every user of the machine can reach the kernel; so a kernel that uses TCP prints a warning. TCP is used only where Unix sockets
are missing, or where the path of the temporary folder is too long for them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

START_SECONDS = 300
"""How many seconds a kernel may take to start. The default of nbclient, 60 seconds, can be too short on a busy machine."""

ALL_OUTPUTS = {"iopub_timeout": START_SECONDS, "raise_on_iopub_timeout": True}
"""nbclient waits for late outputs of a cell. Otherwise it would leave out outputs that come 4 seconds after the cell's end."""


def run_cells(notebook: Any, folder: Path, *, timeout: int, **options: Any) -> None:
    """Run every code cell in a new kernel, whose working directory is `folder`, and put the outputs into `notebook`.

    timeout: the seconds that a single cell may take. options: further settings of `nbclient.NotebookClient`. Raises the
    exceptions that `NotebookClient.execute` raises. Ctrl-C ends the kernel and raises `KeyboardInterrupt`.
    """
    from nbclient import NotebookClient
    from nbclient.output_widget import OutputWidget
    from traitlets.config import Config

    class _Unsent(OutputWidget):
        """An output widget, such as `interact` makes. Its outputs are kept, but not sent to the kernel.

        nbclient would send them over the socket on which it waits for the end of the cell. If the kernel's reply arrives during
        this, pyzmq does not wake the waiting task, and the cell seems to run until its time limit
        (https://github.com/jupyter/nbclient/issues/312).
        """

        def sync_state(self) -> None:
            pass

    where = {"metadata": {"path": str(folder)}}
    with tempfile.TemporaryDirectory(prefix="labkit-kernel-") as place:
        settings = Config({"KernelManager": _connection(Path(place))})
        given = {"timeout": timeout, "startup_timeout": START_SECONDS} | ALL_OUTPUTS | options
        client = NotebookClient(notebook, resources=where, config=settings, **given)
        client.widget_registry = {"@jupyter-widgets/output": {"OutputModel": _Unsent}}
        # Not client.execute(): its handler of Ctrl-C ends the kernel, and then it may wait for the kernel until the timeout.
        with client.setup_kernel():
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number, execution_count=client.code_cells_executed + 1)
            client.set_widgets_metadata()


def _connection(place: Path) -> dict[str, Any]:
    """The settings that let a kernel use Unix sockets in the folder `place`; empty if it must use TCP."""
    import zmq

    sockets = place / "kernel-ipc-1"  # the name that Jupyter gives to the first of five sockets
    if not zmq.has("ipc") or len(str(sockets)) > zmq.IPC_PATH_MAX_LEN:
        return {}
    return {"transport": "ipc", "connection_file": str(place / "kernel.json")}
