"""The names, folders and environment of a server are resolved once, before the server starts in a folder of its own."""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest
from google.protobuf import text_format

from labkit.checkpoints import config_of
from labkit.checkpoints.fetch import BUILT_IN
from labkit.errors import InvalidRequest, NotAvailable
from labkit.serving import user_folder as private
from labkit.serving.access import make_secret, secret_of, withdraw_secret
from labkit.serving.channels import channel_options
from labkit.serving.metrics import read_metrics
from labkit.serving.python_backend.engine_socket import _reachable
from labkit.serving.repository.checker.pbtxt import model_config_class
from labkit.serving.repository.writer import ServeSettings, write_repository
from labkit.serving.server.server import check_code
from labkit.serving.server.shell_paths import absolute_paths, shell_safe_path
from labkit.serving.user_folder import user_folder, write_private

pytest.importorskip("tritonclient.grpc", reason="not measured here: no tritonclient")

SMALL = {"vocab_size": 256, "n_positions": 64, "n_embd": 32, "n_layer": 1, "n_head": 2, "rotary_dim": 8, "model_type": "gptj"}


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models that is the current folder of this process."""
    for name in ("plain", "models/plain", 'a "b" c;d', "gptj"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir()
        for file in ("config.json", "model.safetensors", "tokenizer.json"):
            (tmp_path / name / file).symlink_to(BUILT_IN["gptj-tiny"] / file)
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def served_model(folder: Path) -> str:
    """The model that the configuration of `gptj` in the repository names."""
    text = (folder / "repository" / "gptj" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_class()())
    return str(config.parameters["model"].string_value)


@pytest.mark.parametrize(
    "name", ["plain", "models/plain", "./plain", "models/../plain", "small.json", "~/plain", 'a "b" c;d', "gptj"]
)
def test_a_model_is_found_from_any_folder(models: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_repository(models / "repository", ServeSettings(model=name))
    expected = config_of(name)
    monkeypatch.chdir("/")
    written = served_model(models)
    assert Path(written).is_absolute()
    assert config_of(written) == expected


def test_a_model_that_has_a_name_keeps_it(models: Path) -> None:
    (models / "gptj-tiny").mkdir()
    write_repository(models / "repository", ServeSettings(model="gptj-tiny"))
    assert served_model(models) == "gptj-tiny"


def test_folders_in_the_environment_become_absolute(models: Path) -> None:
    given = {"LABKIT_HOME": "~/home", "PYTHONPATH": f".{os.pathsep}/lib{os.pathsep}", "TMPDIR": "", "PATH": "bin"}
    found = absolute_paths(given)
    assert found == {"LABKIT_HOME": f"{models}/home", "PYTHONPATH": f"{models}{os.pathsep}/lib"}


@pytest.mark.parametrize("name", ["a b", "$(touch x)", "it's", "a;b", "müll", "a&b", "a\nb"])
def test_a_path_that_a_shell_would_take_apart_gets_a_plain_link(tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    odd.mkdir()
    (odd / "inside").touch()
    link = shell_safe_path(odd, tmp_path, "repository")
    assert link == tmp_path / "repository"
    assert (link / "inside").exists()
    assert shell_safe_path(tmp_path, odd, "repository") == tmp_path
    with pytest.raises(NotAvailable, match="set TMPDIR"):
        shell_safe_path(odd, odd, "repository")
    (odd / "1").mkdir()
    (odd / "1" / "model.py").touch()
    (odd / "config.pbtxt").write_text(f'backend: "python" name: "{name}"')
    with pytest.raises(InvalidRequest, match="Triton cannot start the Python model"):
        check_code(tmp_path, [name])


def test_the_private_folder_is_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is at the same place for every TMPDIR, unless another user has taken this place."""
    usual = user_folder()
    assert usual.parent == Path("/tmp")
    assert stat.S_IMODE(usual.stat().st_mode) == 0o700
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert user_folder() == usual
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)  # a user who does not own the files that this test makes
    try:
        with pytest.raises(NotAvailable, match="belongs to somebody else"):
            user_folder()
    finally:
        for parent in (Path("/tmp"), tmp_path):
            (parent / "labkit-serving-4000000000").rmdir()


def test_a_link_is_no_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / f"labkit-serving-{os.getuid()}"
    (tmp_path / "other").mkdir(mode=0o700)
    mine.symlink_to(tmp_path / "other")
    monkeypatch.setattr(private, "PLACE", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(NotAvailable, match="belongs to somebody else"):
        user_folder()


def test_a_private_file_is_readable_by_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "file", "first")
        write_private(tmp_path / "file", "second")
    finally:
        os.umask(before)
    assert (tmp_path / "file").read_text() == "second"
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_socket_with_a_long_path_is_reached(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    path = folder / "engine.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
        with _reachable(path) as address:
            listener.bind(address)
        listener.listen()
        with _reachable(path) as address:
            caller.connect(address)
        listener.accept()[0].close()
    assert path.is_socket()


def test_a_server_of_one_s_own_has_no_proxy_at_any_address(tmp_path: Path) -> None:
    address = f"192.0.2.1:{os.getpid()}"
    assert ("grpc.enable_http_proxy", 0) not in channel_options(address)
    make_secret(tmp_path, [address])
    try:
        assert ("grpc.enable_http_proxy", 0) in channel_options(address)
    finally:
        withdraw_secret(tmp_path)
    assert secret_of(address) is None


@pytest.mark.parametrize(
    ("address", "direct"),
    [("127.0.0.1:8001", True), ("127.3.2.1:8001", True), ("localhost:1", True), ("[::1]:1", True), ("10.0.0.1:8001", False)],
)
def test_loopback_has_no_proxy(address: str, direct: bool) -> None:
    assert (("grpc.enable_http_proxy", 0) in channel_options(address)) == direct


def test_metrics_on_loopback_are_read_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the proxy were used, the error would name the proxy's port."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        port = server.getsockname()[1]
        with pytest.raises(NotAvailable, match="timed out"):
            read_metrics(f"127.0.0.1:{port}", timeout=0.3)
        assert server.accept()[0].recv(100).startswith(b"GET /metrics ")
