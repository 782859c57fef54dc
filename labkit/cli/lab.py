"""`labkit lab`: describes the machine, then starts JupyterLab at the first lab."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from labkit.cli.output import say
from labkit.errors import InvalidRequest, NotAvailable


def lab(
    course: Annotated[Path, typer.Option(help="The course's folder, with labs/.")] = Path(),
    ip: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can connect.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="First port to try; if it is taken, the next free one is used.")] = 8888,
    browser: Annotated[bool, typer.Option(help="Open a browser if there is a display.")] = True,
) -> None:
    """Describe this machine, start JupyterLab at lab 00 and print its address.

    If a Jupyter server for this folder is running already, its address is printed and no second server is started.

    Example: labkit lab --port 9000
    """
    from labkit.cli.doctor import doctor
    from labkit.serving.access import is_loopback

    labs = sorted((course / "labs").glob("[0-9][0-9]_*.ipynb"))
    if not labs:
        raise InvalidRequest(
            f"{course.resolve()} has no labs/NN_slug.ipynb; run this in the course's folder, or name that folder with --course"
        )
    doctor()
    running = running_server(course)
    first = labs[0].relative_to(course)
    if running:
        print(f"JupyterLab is already running here: {address(running, first)}")
        return
    need_writable_folders()
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")) or sys.platform == "darwin"
    if not is_loopback(f"{ip}:{port}") or ip == "0.0.0.0":
        say(
            f"--ip {ip}: anybody who can reach this address and knows the token can run programs as you; the token is sent "
            "unencrypted"
        )
    arguments = [f"--ServerApp.ip={ip}", f"--ServerApp.port={port}", f"--ServerApp.root_dir={course.resolve()}"]
    arguments += [f"--LabApp.default_url=/lab/tree/{first.as_posix()}"]
    arguments += [] if browser and has_display else ["--no-browser"]
    arguments += ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    say("JupyterLab starts; open the address that it prints below. Ctrl-C ends it; your notebooks and progress are kept.")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", *arguments])


def running_server(course: Path) -> dict[str, str] | None:
    """The Jupyter server that runs with this folder as its root, or None."""
    try:
        from jupyter_server.serverapp import list_running_servers
    except ImportError as error:
        raise NotAvailable("JupyterLab is not installed; run `make env`, or install labkit with its extra 'lab'") from error
    here = str(course.resolve())
    return next((server for server in list_running_servers() if server.get("root_dir") == here), None)


def need_writable_folders() -> None:
    """Raise `NotAvailable` if a folder in which JupyterLab keeps its files cannot be made or written, for example on a full
    disk.
    """
    from jupyter_core.paths import jupyter_config_dir, jupyter_data_dir, jupyter_runtime_dir

    for folder in map(Path, (jupyter_runtime_dir(), jupyter_data_dir(), jupyter_config_dir())):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(4096))
        except OSError as error:
            raise NotAvailable(
                f"JupyterLab keeps files in {folder}, which cannot be written ({error.strerror}); use another home, for "
                "example HOME=/some/folder make lab"
            ) from error


def address(server: dict[str, str], notebook: Path) -> str:
    """The address to open in a browser for a notebook on a running server."""
    return f"{server['url']}lab/tree/{notebook.as_posix()}?token={server['token']}"
