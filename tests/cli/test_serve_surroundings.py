"""`labkit serve` in unusual surroundings.

In each of these cases, an earlier version waited forever or ended without giving a reason.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import labkit
from labkit.checkpoints.fetch import BUILT_IN
from labkit.errors import NotAvailable
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server import Server
from labkit.serving.server.install import find_server
from tests.patience import PATIENCE, is_running

pytestmark = pytest.mark.skipif(find_server() is None, reason="not measured here: no Triton Inference Server")

COMMAND = [sys.executable, "-m", "labkit", "serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
NO_PROXY = "http://127.0.0.1:9"
"""An address at which no program is listening."""

ASK = """
import sys, time
from labkit.serving.channels import grpc_client
from labkit.serving.client import AsyncClient, Client
from labkit.serving.stress.record import about_served
from labkit.serving.metrics import read_metrics

grpc, metrics = sys.argv[1:]
with Client(grpc) as client:
    print(client.generate("In the beginning", max_new_tokens=4).completion_tokens)

async def ask():
    async with AsyncClient(grpc) as client:
        return (await client.generate("In the beginning", max_new_tokens=4)).completion_tokens

import asyncio
print(asyncio.run(ask()))
print(about_served(grpc)["served"])
until = time.monotonic() + 300  # counters are published every half second
while (requests := read_metrics(metrics).engine().requests) < 2 and time.monotonic() < until:
    time.sleep(0.05)
print(requests)
grpc_client(grpc).load_model("preprocessing")
"""


@pytest.mark.long
def test_odd_folders_names_and_proxies(tmp_path: Path) -> None:
    """The model's path and LABKIT_HOME are relative, TMPDIR has spaces, quotes and 120 characters, and the environment names
    proxies.
    """
    (tmp_path / "models" / "plain").mkdir(parents=True)
    for file in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "models" / "plain" / file).symlink_to(BUILT_IN["gptj-tiny"] / file)
    folder = tmp_path / ('it\'s a "long" $(name) & ' * 5)
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "pythonpath")}
    environment |= {"TMPDIR": str(folder), "LABKIT_HOME": "home"}
    environment["PYTHONPATH"] = os.path.relpath(Path(labkit.__file__).parents[1], tmp_path)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        environment |= {name: NO_PROXY, name.upper(): NO_PROXY}
    command = [*COMMAND, "models/plain", "--json", "--log", str(tmp_path / "log")]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        ready = json.loads(serving.stdout.readline() or "{}")
        assert ready, serving.communicate()[1] + (tmp_path / "log").read_text()[-2000:]
        asking = [sys.executable, "-c", ASK, ready["grpc"], ready["metrics"]]
        asked = subprocess.run(
            asking, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        family = psutil.Process(serving.pid).children(recursive=True)
        serving.send_signal(signal.SIGINT)
        _, said = serving.communicate(timeout=PATIENCE)
    assert asked.returncode == 0, asked.stderr
    *rest, requests = asked.stdout.split()
    assert rest == ["4", "4", str(tmp_path / "models" / "plain")]
    assert requests == "2"
    assert serving.returncode == 0, said
    assert not [process for process in family if is_running(process)]
    assert not list(folder.iterdir())


def test_a_process_that_ends_as_it_begins_is_told(tmp_path: Path) -> None:
    """The process of a model whose libraries are missing ends at its start, and Triton itself would wait for it forever."""
    program = find_server()
    assert program is not None
    option = next((one for one in program.arguments if one.startswith("--backend-directory=")), None)
    if option is None:
        pytest.skip("not measured here: a server that labkit did not install")
    shutil.copytree(option.partition("=")[2], tmp_path / "backends")
    (tmp_path / "backends" / "python" / "triton_python_backend_stub").write_text("#!/bin/sh\nexit 127\n")
    write_repository(tmp_path / "repository", ServeSettings())
    broken = replace(program, arguments=(f"--backend-directory={tmp_path / 'backends'}",))
    with pytest.raises(NotAvailable, match=r"the process of preprocessing, .* ended as it began"):
        Server(tmp_path / "repository", models=["preprocessing"], program=broken, start_seconds=PATIENCE)
