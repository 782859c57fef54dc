"""docker/serve_nodes.sh: two nodes serve one model, and all of them end when node 0 ends. Both nodes are this host."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request

import pytest

import labkit
from labkit.serving.channels import open_url
from labkit.serving.server.install import find_server
from tests.patience import PATIENCE, wait_for

ROOT = Path(__file__).parents[2]
PROMPT, TOKENS = "In the beginning", 8

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(find_server() is None, reason="not measured here: no Triton Inference Server"),
]


def free_ports(count: int) -> list[int]:
    """Ports on loopback on which no process is listening."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def node(number: int, folder: Path, ports: list[int]) -> subprocess.Popen[bytes]:
    """Start a node as LeaderWorkerSet does."""
    group = {"LWS_GROUP_SIZE": "2", "LWS_WORKER_INDEX": str(number), "LWS_LEADER_ADDRESS": "127.0.0.1"}
    group |= {"MASTER_PORT": str(ports[0]), "LABKIT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    named = [f"--{name}-port={port}" for name, port in zip(("http", "grpc", "metrics"), ports[1:], strict=True)]
    with (folder / f"{number}.log").open("wb") as log:
        command = [ROOT / "docker" / "serve_nodes.sh", "gptj-tiny", *named]
        return subprocess.Popen(command, env=os.environ | group | {"PATH": path}, stdout=log, stderr=log)


def test_two_nodes_serve_one_model(tmp_path: Path) -> None:
    ports = free_ports(4)
    nodes = [node(number, tmp_path, ports) for number in range(2)]
    log = tmp_path / "0.log"
    try:
        wait_for(lambda: "ready: HTTP" in log.read_text() or nodes[0].poll() is not None, "the server of node 0", 3 * PATIENCE)
        assert nodes[0].poll() is None, log.read_text()[-3000:] + (tmp_path / "1.log").read_text()[-3000:]
        body = json.dumps({"text_input": PROMPT, "max_new_tokens": TOKENS}).encode()
        request = Request(f"http://127.0.0.1:{ports[1]}/v2/models/gptj/generate", data=body)
        with open_url(request, timeout=PATIENCE) as answer:
            found = json.loads(answer.read())
        params = labkit.SamplingParams(max_new_tokens=TOKENS)
        assert found["token_ids"] == labkit.load("gptj-tiny").generate(PROMPT, params)[0].token_ids
        nodes[0].send_signal(signal.SIGTERM)
        assert [one.wait(PATIENCE) for one in nodes] == [0, 0]
    finally:
        for one in nodes:
            one.kill()
