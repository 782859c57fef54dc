"""Downloads from a hub on loopback that are complete, interrupted, killed, stalled, too short, corrupted or refused."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

import labkit
from labkit.checkpoints import expected_shapes, fetch, open_checkpoint
from labkit.errors import CheckpointError, InsufficientResources, InvalidRequest, NotAvailable
from tests.checkpoints.hub import PIECE, TINY, WEIGHTS, Fault, Hub, serve, write_model
from tests.patience import PATIENCE, wait_for

FILES = {"config.json", "tokenizer.json", "tokenizer_config.json", WEIGHTS}
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, bytes]]:
    """A random GPT-J, and its files on the hub, of which labkit does not need one."""
    directory = tmp_path_factory.mktemp("source")
    model = write_model(directory)
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    return model, files | {"README.md": b"not needed"}


@pytest.fixture(scope="module")
def running_hub(source: tuple[Any, dict[str, bytes]]) -> Iterator[Hub]:
    with serve(source[1]) as hub:
        yield hub


@pytest.fixture
def hub(running_hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub without faults. The home is empty, and downloads use this hub without pauses between retries."""
    running_hub.reset()
    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LABKIT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))  # ignore this machine's real cache
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABKIT_HUB_ENDPOINT", running_hub.endpoint)
    monkeypatch.setenv("LABKIT_RETRY_SECONDS", "0")
    huggingface_hub.close_session()
    return running_hub


@pytest.fixture
def models(hub: Hub, tmp_path: Path) -> Path:
    """The folder for the downloaded files."""
    return tmp_path / "home" / "models" / "gpt-j-6b"


def command() -> list[str]:
    return [sys.executable, "-m", "labkit", "fetch", "gpt-j-6b", "--json"]


def assert_whole(models: Path, hub: Hub) -> None:
    for name in FILES:
        assert (models / name).read_bytes() == hub.files[name], name
    assert not list(models.glob("*.partial"))


def test_the_command_fetches_all_and_prints_where_how_much_and_the_checksum(
    hub: Hub, models: Path, source: tuple[Any, dict[str, bytes]]
) -> None:
    done = subprocess.run(command(), capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["path"] == str(models)
    assert answer["sha256"] == hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    assert answer["bytes"] == sum(path.stat().st_size for path in models.iterdir())
    assert answer["bytes"] > sum(len(hub.files[name]) for name in FILES)
    assert WEIGHTS in done.stderr
    assert "100%" in done.stderr, "no progress was shown"
    assert not hub.requests_for("README.md")
    assert_whole(models, hub)

    weights = source[0].state_dict()
    checkpoint = open_checkpoint("gpt-j-6b")
    assert checkpoint.weight_dtype == torch.float16
    assert set(checkpoint.tensor_names()) == set(weights) == set(expected_shapes(checkpoint.config))
    for name in checkpoint.tensor_names():
        assert torch.equal(checkpoint.read(name), weights[name]), name
    assert labkit.load("gpt-j-6b", device="cpu").tokenizer is not None

    hub.requests.clear()
    assert fetch("gpt-j-6b").bytes == answer["bytes"]
    assert hub.requests == [], "files that are here were asked for again"


def test_transformers_loads_what_was_fetched(hub: Hub, source: tuple[Any, dict[str, bytes]]) -> None:
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(fetch("gpt-j-6b").path, dtype=torch.float16)
    assert torch.equal(model.lm_head.weight, source[0].lm_head.weight)
    assert model.lm_head.weight.std() > 0


def test_a_dropped_connection_is_taken_up_where_it_broke_off(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("drop", 300_000), Fault("drop", 700_001))
    fetch("gpt-j-6b")
    asked = [(request.range, request.sent) for request in hub.requests_for(WEIGHTS)]
    size = len(hub.files[WEIGHTS])
    assert asked == [(None, 300_000), ("bytes=300000-", 400_001), ("bytes=700001-", size - 700_001)]
    assert_whole(models, hub)


def test_a_killed_process_is_taken_up_by_the_next_run(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("slow", 400_000, seconds=0.2))
    process = subprocess.Popen(command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(
        lambda: process.poll() is not None or sum(path.stat().st_size for path in models.glob(f"{WEIGHTS}*")) >= 400_000,
        "400 kB of the weights",
    )
    assert process.poll() is None
    process.kill()
    process.wait()
    (partial,) = models.glob(f"{WEIGHTS}*")
    kept = partial.stat().st_size
    assert 400_000 <= kept < len(hub.files[WEIGHTS])
    assert not (models / WEIGHTS).exists(), "half a file must not look like a whole one"

    hub.reset()
    fetch("gpt-j-6b")
    (request,) = hub.requests_for(WEIGHTS)
    assert request.range == f"bytes={kept}-"
    assert request.sent == len(hub.files[WEIGHTS]) - kept
    assert not any(hub.requests_for(name) for name in FILES - {WEIGHTS}), "whole files were sent again"
    assert_whole(models, hub)


def test_a_stalled_connection_is_given_up_and_taken_up_again(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 3.0)
    hub.misbehave(WEIGHTS, Fault("stall", 20 * PIECE, seconds=PATIENCE))
    fetch("gpt-j-6b")
    assert [request.range for request in hub.requests_for(WEIGHTS)] == [None, f"bytes={20 * PIECE}-"]
    assert_whole(models, hub)


def test_a_short_file_is_completed(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("truncate", 123_456))
    fetch("gpt-j-6b")
    assert [request.range for request in hub.requests_for(WEIGHTS)] == [None, "bytes=123456-"]
    assert_whole(models, hub)


def test_a_file_that_stays_short_is_refused(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, *[Fault("truncate", 123_456)] * 5)
    with pytest.raises(NotAvailable, match=rf"{WEIGHTS} .*the connection broke 5 times \(123456 of \d+ bytes were received\)"):
        fetch("gpt-j-6b")
    assert not (models / WEIGHTS).exists()


def test_a_hub_that_knows_no_ranges_sends_all_again(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("drop", 300_000), Fault("ignore-range"))
    fetch("gpt-j-6b")
    assert_whole(models, hub)


@pytest.mark.parametrize("file", [WEIGHTS, "tokenizer.json"])
def test_corrupted_bytes_are_refused_and_removed(hub: Hub, models: Path, file: str) -> None:
    hub.misbehave(file, Fault("corrupt", 100_000))
    with pytest.raises(CheckpointError, match=f"{file} .*was not received correctly.*removed, run the same command again"):
        fetch("gpt-j-6b")
    assert not list(models.glob(f"{file}*"))
    assert not hub.faults[file]
    fetch("gpt-j-6b")
    assert_whole(models, hub)


def test_five_failures_end_the_run_and_keep_what_has_come(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("drop", 200_000), *[Fault("drop", 200_000)] * 2, *[Fault("refuse")] * 2)
    with pytest.raises(
        NotAvailable, match=rf"{WEIGHTS} .*the connection broke 5 times .*503.*the part received so far is kept"
    ):
        fetch("gpt-j-6b")
    assert len(hub.requests_for(WEIGHTS)) == 5
    hub.reset()
    fetch("gpt-j-6b")
    assert [request.range for request in hub.requests_for(WEIGHTS)] == ["bytes=200000-"]
    assert_whole(models, hub)


def test_four_failures_do_not(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, *[Fault("refuse")] * 4)
    fetch("gpt-j-6b")
    assert_whole(models, hub)


def test_two_processes_at_once_fetch_once(hub: Hub, models: Path) -> None:
    hub.misbehave(WEIGHTS, Fault("slow", 0, seconds=0.015))
    processes = [subprocess.Popen(command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert len(hub.requests_for(WEIGHTS)) == 1
    assert_whole(models, hub)


def test_a_file_lost_later_is_fetched_alone(hub: Hub, models: Path) -> None:
    fetch("gpt-j-6b")
    (models / "tokenizer.json").unlink()
    hub.reset()
    fetch("gpt-j-6b")
    assert len(hub.requests_for("tokenizer.json")) == 1
    assert not hub.requests_for(WEIGHTS)
    assert_whole(models, hub)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "nonsense", "http://127.0.0.1:port"])
def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setenv("LABKIT_HUB_ENDPOINT", endpoint)
    with pytest.raises(NotAvailable, match=r"cannot reach the hub .*check the network or set LABKIT_HUB_ENDPOINT"):
        fetch("gpt-j-6b")


def test_a_hub_without_the_files(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "files", {name: hub.files[name] for name in FILES - {WEIGHTS}})
    with pytest.raises(NotAvailable, match=f"has no file {WEIGHTS}"):
        fetch("gpt-j-6b")


def test_a_server_that_is_no_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABKIT_HUB_ENDPOINT", f"{hub.endpoint}/elsewhere")
    with pytest.raises(NotAvailable, match="cannot reach the hub"):
        fetch("gpt-j-6b")


def test_offline_asks_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(NotAvailable, match="HF_HUB_OFFLINE forbids"):
        fetch("gpt-j-6b")
    done = subprocess.run(command(), capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 1
    assert done.stderr.startswith("labkit: EleutherAI/gpt-j-6b is not on this disk")
    assert len(done.stderr.splitlines()) == 1
    assert hub.requests == []


def test_offline_is_no_hindrance_once_fetched(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch("gpt-j-6b")
    hub.reset()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch("gpt-j-6b").bytes > 0
    assert hub.requests == []


def test_a_full_disk_is_refused_before_a_file_is_asked_for(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    needed = sum(len(hub.files[name]) for name in FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - needed + 1, needed - 1))
    with pytest.raises(InsufficientResources, match=r"needs 0\.00 GB more on its disk, which has only .*LABKIT_HOME"):
        fetch("gpt-j-6b")
    assert not any(hub.requests_for(name) for name in FILES)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - needed, needed))
    fetch("gpt-j-6b")


def test_a_disk_that_fills_up_meanwhile(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.misbehave(WEIGHTS, Fault("truncate", 500_000))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: full(descriptor) if list(models.glob(f"{WEIGHTS}*")) else None)
        with pytest.raises(InsufficientResources, match=f"became full during the download of {WEIGHTS}; the part received"):
            fetch("gpt-j-6b")
    fetch("gpt-j-6b")
    assert hub.requests_for(WEIGHTS)[-1].range == "bytes=500000-"
    assert_whole(models, hub)


@pytest.mark.parametrize("marker", ["", "[]", '{"config.json": 1}', "3"])
def test_a_marker_that_is_wrong_costs_only_a_look(hub: Hub, models: Path, marker: str) -> None:
    fetch("gpt-j-6b")
    (models / "fetched.json").write_text(marker)
    hub.reset()
    fetch("gpt-j-6b")
    assert len(hub.requests) == 1
    assert_whole(models, hub)


def test_what_has_come_needs_no_room(hub: Hub, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.misbehave(WEIGHTS, *[Fault("drop", 1_000_000)] * 5)
    with pytest.raises(NotAvailable):
        fetch("gpt-j-6b")
    usage = namedtuple("usage", "total used free")
    missing = len(hub.files[WEIGHTS]) - 1_000_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - missing, missing))
    fetch("gpt-j-6b")
    assert_whole(models, hub)


@pytest.mark.parametrize("name", ["gpt-j-7b", "gpt-j-6b-synthetic", ""])
def test_a_name_without_files(hub: Hub, name: str) -> None:
    with pytest.raises(InvalidRequest, match=r"has no files to download; gptj-tiny, gpt-j-6b have"):
        fetch(name)
    assert hub.requests == []


def test_the_built_in_model_needs_no_request(hub: Hub) -> None:
    result = fetch("gptj-tiny")
    assert result.path == TINY
    assert result.sha256 == hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert hub.requests == []


def test_the_hubs_own_client_agrees_with_this_hub(hub: Hub, tmp_path: Path) -> None:
    """This shows that the tests above use the real hub's interface and not an invented one."""
    info = huggingface_hub.HfApi(endpoint=hub.endpoint).model_info(
        "EleutherAI/gpt-j-6b", revision="float16", files_metadata=True
    )
    assert {row.rfilename for row in info.siblings or []} == set(hub.files)
    hub.misbehave(WEIGHTS, Fault("none"))
    path = huggingface_hub.hf_hub_download(
        "EleutherAI/gpt-j-6b", WEIGHTS, revision="float16", local_dir=tmp_path / "theirs", endpoint=hub.endpoint
    )
    assert Path(path).read_bytes() == hub.files[WEIGHTS]
