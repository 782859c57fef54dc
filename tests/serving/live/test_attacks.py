"""Programs of other users can reach a server's ports: their harmful requests are refused and have no effect."""

from __future__ import annotations

import base64
import http.client
import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from labkit.serving.access import HEADER, access_headers, exposure_warning, secret_of
from labkit.serving.channels import channel_options, client_library, grpc_client
from labkit.serving.server import Server
from labkit.serving.shared_folder import shared_folder
from labkit.serving.user_folder import user_folder
from tests.patience import PATIENCE
from tests.serving.live.processes import processes, region_prefix, shared_memory
from tests.serving.live.requests import ask, ensemble, infer, post

PAGE = {"Origin": "http://evil.example", "Content-Type": "text/plain"}
"""Headers that a browser sends for a web page without a preflight request to the server."""

EVIL_CONFIG = {
    "name": "evil",
    "backend": "python",
    "input": [{"name": "A", "data_type": "TYPE_INT32", "dims": [1]}],
    "output": [{"name": "B", "data_type": "TYPE_INT32", "dims": [1]}],
}

SECRETS: dict[str, dict[str, str]] = {
    "none": {},
    "wrong": {HEADER: "0" * 64},
    "empty": {HEADER: ""},
    "the stand-in of the process list": {HEADER: "..."},
}

CLOSED = [
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/gptj/load"),
    ("POST", "/v2/repository/models/gptj/unload"),
    ("POST", "/v2/repository/other/models/gptj/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/mine/register"),
    ("POST", "/v2/systemsharedmemory/region/mine/unregister"),
    ("POST", "/v2/systemsharedmemory/unregister"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/cudasharedmemory/region/mine/register"),
    ("POST", "/v2/cudasharedmemory/unregister"),
    ("GET", "/v2/logging"),
    ("POST", "/v2/logging"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/trace/setting"),
    ("POST", "/v2/models/gptj/trace/setting"),
]


def call(
    server: Server, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, str, dict[str, str]]:
    """Send a request. Return the status, text and headers of the answer."""
    connection = http.client.HTTPConnection(server.http, timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(errors="replace"), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def evil_code(proof: Path) -> str:
    """The code of a model that creates a file when the code is loaded."""
    return f"open({str(proof)!r}, 'w').write('it ran')\n"


def evil_load(proof: Path) -> dict[str, Any]:
    """The body of a load request that contains the model's code."""
    code = base64.b64encode(evil_code(proof).encode()).decode()
    return {"parameters": {"config": json.dumps(EVIL_CONFIG), "file:1/model.py": code}}


@pytest.mark.parametrize("secret", SECRETS)
def test_code_is_not_loaded_over_http(served: Server, tmp_path: Path, secret: str) -> None:
    proof = tmp_path / "proof"
    body = json.dumps(evil_load(proof))
    status, text, _ = call(served, "POST", "/v2/repository/models/evil/load", body, PAGE | SECRETS[secret])
    assert (status, HEADER in text) == (403, True), text
    assert not proof.exists()
    assert ask(served, text_input="In the", max_new_tokens=2)["completion_tokens"][0] == 2


@pytest.mark.parametrize("secret", SECRETS)
def test_code_is_not_loaded_over_grpc(served: Server, tmp_path: Path, secret: str) -> None:
    library = client_library()
    headers = {"origin": "http://evil.example"} | {f"triton-grpc-protocol-{name}": it for name, it in SECRETS[secret].items()}
    files = {"file:1/model.py": evil_code(tmp_path / "proof").encode()}
    with library.InferenceServerClient(served.grpc, channel_args=channel_options(served.grpc)) as stranger:
        with pytest.raises(library.InferenceServerException, match="restricted"):
            stranger.load_model("evil", headers=headers, config=json.dumps(EVIL_CONFIG), files=files)
        assert not (tmp_path / "proof").exists()
        for change in (
            lambda: stranger.unload_model("gptj", headers=headers),
            lambda: stranger.get_model_repository_index(headers=headers),
            lambda: stranger.register_system_shared_memory("mine", "/mine", 64, headers=headers),
            lambda: stranger.register_cuda_shared_memory("mine", b"", 0, 64, headers=headers),
            lambda: stranger.update_log_settings({"log_file": str(tmp_path / "proof")}, headers=headers),
            lambda: stranger.update_trace_settings(settings={"trace_file": str(tmp_path / "proof")}, headers=headers),
        ):
            with pytest.raises(library.InferenceServerException, match="restricted"):
                change()
    assert not (tmp_path / "proof").exists()
    assert grpc_client(served.grpc).is_model_ready("gptj")


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_what_changes_a_server_is_closed(served: Server, method: str, path: str) -> None:
    for secret in SECRETS.values():
        status, text, _ = call(served, method, path, "{}" if method == "POST" else None, PAGE | secret)
        assert status == 403, (path, status, text)


def test_programs_use_models_and_read_without_a_secret(served: Server) -> None:
    status, text = post(served, "/v2/models/gptj/generate", {"text_input": "In the", "max_new_tokens": 2})
    assert (status, json.loads(text)["completion_tokens"]) == (200, 2)
    assert infer(served, "ensemble", ensemble(["In the"], 2))["OUTPUT_0"][0, 0].startswith("In the")
    for path in ("/v2", "/v2/health/ready", "/v2/models/gptj", "/v2/models/gptj/config", "/v2/models/gptj/stats"):
        assert call(served, "GET", path)[0] == 200, path


@pytest.mark.parametrize("path", ["/v2/models/gptj/generate", "/v2/models/gptj/infer", "/v2/models/gptj/config"])
def test_a_page_may_not_read_what_comes_back(served: Server, path: str) -> None:
    """No answer has the header without which a browser does not let a page read the answer, and preflight requests are refused.

    A simple request does reach the model, because Triton checks neither Origin nor Host.
    """
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": HEADER}
    for method, body in (("OPTIONS", None), ("POST", '{"text_input": "In", "max_new_tokens": 1}'), ("GET", None)):
        status, _, headers = call(served, method, path, body, PAGE | asked)
        assert not [name for name in headers if name.startswith("access-control")], (method, headers)
        if method == "OPTIONS":
            assert status == 405


def test_the_metrics_port_gives_numbers_and_takes_nothing(served: Server) -> None:
    for method, path in (("GET", "/metrics"), ("POST", "/metrics"), ("POST", "/v2/repository/models/gptj/unload")):
        connection = http.client.HTTPConnection(served.metrics, timeout=PATIENCE)
        connection.request(method, path, headers=PAGE)
        answer = connection.getresponse()
        begin = b"# HELP nv_inference_request_success" if method == "GET" else b'{"error":"Method Not Allowed"}'
        assert answer.read().startswith(begin), (method, path)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]
        connection.close()
    assert grpc_client(served.grpc).is_model_ready("gptj")


def readable_by_others(kind: str) -> list[str]:
    """The content of the files of this kind in `/proc` that other users can read, for all processes."""
    found = []
    for file in Path("/proc").glob(f"[0-9]*/{kind}"):
        try:
            if file.stat().st_mode & stat.S_IROTH:
                found.append(file.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return found


def test_the_secret_is_seen_by_nobody_else(served: Server) -> None:
    secret = secret_of(served.grpc)
    assert secret is not None
    assert len(secret) == 64
    assert secret == secret_of(served.http) == secret_of(f"localhost:{served.grpc.rpartition(':')[2]}")
    commands = readable_by_others("cmdline")
    assert any("--http-restricted-api=" in command for command in commands)
    assert not [command for command in commands + readable_by_others("environ") if secret in command]
    assert secret not in served.log.read_text(errors="replace")
    _, *models = processes(served)
    assert len(models) == 4
    assert not [each.pid for each in models if secret in str(each.environ())], "what a model's code prints of its environment"
    for path, _, names in os.walk(user_folder() / "access"):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700
        assert {stat.S_IMODE((Path(path) / name).stat().st_mode) for name in names} == {0o600}


def test_files_and_shared_memory_are_for_the_user_alone(served: Server) -> None:
    for folder in (user_folder(), shared_folder(served.pid)):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    regions = shared_memory(region_prefix(served))
    assert len(regions) >= 4
    assert {stat.S_IMODE(region.stat().st_mode) for region in regions} == {0o600}


def test_only_loopback_is_listened_on(served: Server) -> None:
    found = listening(processes(served))
    assert len(found) == 3
    assert {address.removeprefix("::ffff:") for address, _ in found} == {"127.0.0.1"}


def listening(found: list[psutil.Process]) -> set[tuple[str, int]]:
    """The addresses and ports on which processes are listening."""
    connections = [one for process in found for one in process.net_connections("inet")]
    return {(one.laddr.ip, one.laddr.port) for one in connections if one.status == psutil.CONN_LISTEN}


def test_a_secret_is_random_and_opens_its_server_until_that_ends(served: Server, tmp_path: Path) -> None:
    """With the server's secret, the same attack works. So a request without the secret is refused only because the secret is
    missing.
    """
    proof = tmp_path / "proof"
    with Server(served.repository, models=["postprocessing"], watch=False, log=tmp_path / "log") as other:
        address = other.grpc
        assert secret_of(address) not in (None, secret_of(served.grpc))
        for headers, status in ((access_headers(served.http), 403), (access_headers(other.http), 400)):
            assert not proof.exists()
            found = call(other, "POST", "/v2/repository/models/evil/load", json.dumps(evil_load(proof)), headers)
            assert found[0] == status, found
        assert proof.read_text() == "it ran"
    assert secret_of(address) is None
    assert secret_of(served.grpc) is not None


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost", "::1"])
def test_loopback_needs_no_warning(address: str) -> None:
    assert exposure_warning(address) == ""


def test_what_another_address_opens_is_said(served: Server) -> None:
    words = "--address 0.0.0.0: every machine that reaches this one can now use the models"
    command = [
        sys.executable,
        "-m",
        "labkit",
        "serve",
        str(served.repository),
        "--address",
        "0.0.0.0",
        "--http-port",
        "100000",
    ]
    found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert found.stderr.count(words) == 1, found.stderr
    assert "port 100000 on 0.0.0.0 is not available" in found.stderr


def test_a_secret_goes_to_no_other_machine(served: Server) -> None:
    port = served.http.rpartition(":")[2]
    assert secret_of(f"127.0.0.1:{port}") is not None
    assert secret_of(f"10.0.0.1:{port}") is None
    assert secret_of(f"127.example.org:{port}") is None
