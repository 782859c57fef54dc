"""`labkit serve`: runs GPT-J in a Triton Inference Server, in the foreground."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from labkit.cli.interruption import Interruption
from labkit.cli.output import DeviceOption, JsonOption, KVCacheOption, PrecisionOption, SeedOption, print_json, say

if TYPE_CHECKING:
    from labkit.serving.server import Server


def serve(
    name: Annotated[
        str,
        typer.Argument(
            help="A model's name (gptj-tiny, gpt-j-6b), its directory or config.json; or a model repository, which is served "
            "unchanged."
        ),
    ] = "gptj-tiny",
    precision: PrecisionOption = None,
    kv_cache_dtype: KVCacheOption = None,
    device: DeviceOption = None,
    seed: SeedOption = 0,
    tensor_parallel: Annotated[int, typer.Option(help="The number of ranks that share each layer.")] = 1,
    pipeline_parallel: Annotated[int, typer.Option(help="The number of pipeline stages; each stage has its own ranks.")] = 1,
    instances: Annotated[int, typer.Option(help="The number of engines; each engine has its own weights and cache.")] = 1,
    max_batch: Annotated[int, typer.Option(help="The number of sequences that an engine runs at a time.")] = 64,
    max_queue: Annotated[int, typer.Option(help="The most requests that can wait for an engine; others are refused.")] = 256,
    request_seconds: Annotated[
        float,
        typer.Option(
            help="The longest time for one request, in seconds; a request that takes longer ends with an error. If one step of "
            "the engine takes longer, the server is restarted."
        ),
    ] = 600.0,
    start_seconds: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="The longest time for a start, and for each later restart, in seconds: within it, every model must have "
            "answered. A download before the start does not count.",
        ),
    ] = 600.0,
    drain_seconds: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="After Ctrl-C or SIGTERM, the server refuses new requests and finishes the others, for at most this many "
            "seconds. A second Ctrl-C ends it at once.",
        ),
    ] = 5.0,
    cache_bytes: Annotated[
        int | None, typer.Option(help="The size of each KV cache; if left out, as large as memory allows.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="Threads of an engine on the CPU; if left out, small models leave one core to the server."),
    ] = None,
    http_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 takes any free port.")] = 8002,
    address: Annotated[str, typer.Option(help="Address to listen on; by default only this machine can connect.")] = "127.0.0.1",
    repository: Annotated[
        Path | None, typer.Option(help="The folder for the model repository; a temporary one if left out.")
    ] = None,
    log: Annotated[Path | None, typer.Option(help="File for the server's output.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the repository and start nothing.")] = False,
    write_only: Annotated[bool, typer.Option("--write-only", help="Write the repository and start nothing.")] = False,
    install: Annotated[
        bool, typer.Option("--install", help="Install a Triton Inference Server if there is none, and exit.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Run NVIDIA's Triton Inference Server with a model until you press Ctrl-C. The ports for gRPC, HTTP and metrics are
    printed.

    Example: labkit serve gptj-tiny --max-batch 32

        curl -d '{"text_input": "In the beginning"}' 127.0.0.1:8000/v2/models/gptj/generate

    If tritonserver exits, or crashes on a request, it is started again.
    If you give a model repository of your own, it is checked first. Each fault in a config.pbtxt is printed with its line and
    how to fix it.
    """
    from labkit.serving.server.install import install_server, need_server

    if install:  # the set-up does this even where torch cannot run, for example when an image for another CPU is built
        say(f"Triton Inference Server: {install_server(say).executable}")
        return
    from labkit.serving.repository.writer import ServeSettings, write_repository
    from labkit.serving.server.locked_folder import LockedFolder, sweep

    times = {"start_seconds": start_seconds, "drain_seconds": drain_seconds}
    if check or is_repository(Path(name)):
        print_faults(Path(name))
        if not check:
            need_server()
            _run(Path(name), name, (http_port, grpc_port, metrics_port), address, log, json=json, **times)
        return
    settings = ServeSettings(
        model=name,
        precision=precision,
        kv_cache_dtype=kv_cache_dtype,
        device=device,
        seed=seed,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        instances=instances,
        max_batch=max_batch,
        max_queue=max_queue,
        request_seconds=request_seconds,
        cache_bytes=cache_bytes,
        threads=threads,
    )
    if write_only:
        folder = repository or Path(tempfile.mkdtemp(prefix="labkit-repository-"))
        models = write_repository(folder, settings)
        say(f"{folder} holds {', '.join(models)}")
        if json:
            print_json({"repository": str(folder), "models": models})
        return
    need_server()
    sweep()
    own = LockedFolder("repository")
    try:
        folder = repository or own.path
        say(f"{name}: the model repository is written to {folder}")
        write_repository(folder, settings)
        _run(folder, name, (http_port, grpc_port, metrics_port), address, log, json=json, **times)
    finally:
        own.delete()


def is_repository(folder: Path) -> bool:
    """Whether a folder is a model repository (a folder with one or more Triton models), and not the checkpoint of a model."""
    return any(folder.glob("*/config.pbtxt"))


def print_faults(repository: Path) -> None:
    """Print the faults that the checker finds in a model repository. Raises `InvalidRequest` if the repository has a fault."""
    from labkit.environment import find_gpus
    from labkit.errors import InvalidRequest
    from labkit.plurals import counted
    from labkit.serving.repository.checker.check_repository import check_repository

    faults = check_repository(repository, gpus=len(find_gpus()[0]))
    for fault in faults:
        say(str(fault))
    if faults:
        raise InvalidRequest(f"{repository} has {counted(len(faults), 'fault')}, listed above; correct them first")
    say(f"{repository} has no faults")


def _run(
    folder: Path,
    name: str,
    ports: tuple[int, int, int],
    address: str,
    log: Path | None,
    *,
    json: bool,
    start_seconds: float,
    drain_seconds: float,
) -> None:
    from labkit.serving.access import exposure_warning, is_secret_visible
    from labkit.serving.server import Server

    if opens := exposure_warning(address):
        say(f"--address {address}: {opens}")
    told, is_ready = Interruption(), threading.Event()
    told.listen()
    http, grpc, metrics = ports
    server = Server(
        folder,
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
        address=address,
        log=log,
        progress=lambda words: say(f"\n{words}" if is_ready.is_set() else words),  # do not write on the status line
        give_up=told.is_set,
        start_seconds=start_seconds,
        drain_seconds=drain_seconds,
    )
    told.again = server.hurry
    with server:
        if is_secret_visible(server.pid, server.grpc):
            say(
                "this machine forbids ptrace, so the server's secret shows in the process list: every user of this machine can "
                "read it there, and load models into this server"
            )
        is_ready.set()
        say(f"ready: HTTP {server.http}, gRPC {server.grpc}, metrics {server.metrics}; Ctrl-C ends it")
        if json:
            print_json(
                {
                    "http": server.http,
                    "grpc": server.grpc,
                    "metrics": server.metrics,
                    "pid": server.pid,
                    "models": server.models,
                    "repository": str(folder),
                }
            )
        _show_status(server, told, name, is_log_kept=log is not None)


def _show_status(server: Server, told: Interruption, name: str, *, is_log_kept: bool) -> None:
    """Show a status line on a terminal, and report restarts and repairs, until `told` is set.

    If tritonserver cannot be started again, raises `NotAvailable` with the path of the log. is_log_kept: whether the log stays
    when the server ends; if not, the error gives the path of a copy.
    """
    from labkit.errors import NotAvailable
    from labkit.serving.server.status_line import status_line

    last, restarts = 0.0, 0
    began = time.monotonic()
    while not told.wait(1.0):
        if server.failure:
            whole = server.log if is_log_kept else _kept_copy(server.log)
            raise NotAvailable(f"{server.failure}\nthe whole log is {whole}")
        for restart in list(server.restarts)[-1:]:
            if restart.number > restarts:
                restarts, began = restart.number, time.monotonic()
                say(f"\ntritonserver answers again after {restart.seconds:.1f} s; restarts so far: {restarts}")
        for repair in list(server.watchdog.repairs) if server.watchdog else []:
            if repair.when <= last:
                continue
            last = repair.when
            how = f"failed: {repair.failure}" if repair.failure else f"took {repair.seconds:.1f} s"
            say(f"\n{repair.model} did not answer; it was loaded again, which {how}")
        if sys.stderr.isatty():
            width = os.get_terminal_size(sys.stderr.fileno()).columns - 1
            line = status_line(server.metrics, time.monotonic() - began, name, restarts)
            sys.stderr.write("\r" + line[:width].ljust(width))
            sys.stderr.flush()
    say("\nthe server finishes its requests and ends; a second Ctrl-C ends it at once")


def _kept_copy(log: Path) -> Path:
    return Path(shutil.copy(log, tempfile.mkdtemp(prefix="labkit-log-")))
