"""Getting a named model's files onto this disk: the built-in one is there already, the others come from a hub.

A download checks the disk first, shows its progress, goes on where an earlier one stopped, and is verified against
the hub's SHA-256 before it counts. `LABKIT_HUB_ENDPOINT` names a mirror with the hub's interface; `HF_HUB_OFFLINE=1`
forbids the network.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.checkpoints.directory import sha256_of
from labkit.errors import CheckpointError, InsufficientResources, InvalidRequest, NotAvailable
from labkit.home import home, write_atomically

BUILT_IN = {"gptj-tiny": Path(__file__).parents[1] / "builtin" / "gptj-tiny"}
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class HubModel:
    """A repository on the hub, the branch to take, and the files of it that are needed."""

    repository: str
    revision: str
    files: tuple[str, ...] = ("config.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin")


HUB_MODELS = {"gpt-j-6b": HubModel("EleutherAI/gpt-j-6b", "float16")}
ATTEMPTS = 5
MARKER = "fetched.json"


@dataclass(frozen=True)
class FetchResult:
    """A directory that `transformers` loads, the bytes of all its files, and the weight file's SHA-256 ("" if unasked)."""

    path: Path
    bytes: int
    sha256: str


def fetch(name: str, *, with_checksum: bool = True) -> FetchResult:
    """Make sure that the model `name` is on this disk and say where.

    Raises `InvalidRequest` for a name without files, `NotAvailable` when the network is needed and forbidden or gone,
    `InsufficientResources` when the disk is too small, `CheckpointError` when the hub's bytes are not the right ones.
    """
    if name in BUILT_IN:
        path = BUILT_IN[name]
    elif name in HUB_MODELS:
        path = home() / "models" / name
        if not _is_complete(path):
            _download(HUB_MODELS[name], path)
    else:
        known = ", ".join([*BUILT_IN, *HUB_MODELS])
        raise InvalidRequest(f"{name!r} has no files to fetch; {known} have (synthetic models need none)")
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return FetchResult(path, size, _checksum(path) if with_checksum else "")


def _checksum(path: Path) -> str:
    return next(sha256_of(path / file) for file in WEIGHT_FILES if (path / file).exists())


def _is_complete(path: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((path / MARKER).read_text("utf-8"))
        return all((path / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError):
        return False


def _download(model: HubModel, path: Path) -> None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        raise NotAvailable(
            f"{model.repository} is not on this disk and HF_HUB_OFFLINE forbids fetching it; unset that, or use "
            "gptj-tiny or gpt-j-6b-synthetic"
        )
    endpoint = os.environ.get("LABKIT_HUB_ENDPOINT") or None
    try:
        info = HfApi(endpoint=endpoint).model_info(model.repository, revision=model.revision, files_metadata=True)
    except (HfHubHTTPError, OSError) as error:
        raise NotAvailable(
            f"cannot reach the hub for {model.repository}: {_first_line(error)}; check the network or set "
            "LABKIT_HUB_ENDPOINT to a mirror"
        ) from error
    files = {row.rfilename: row for row in info.siblings or [] if row.rfilename in model.files}
    _check_disk(path, sum(row.size or 0 for row in files.values()))
    for file, row in files.items():
        _download_file(model, file, path, endpoint)
        _verify(path / file, row)
    write_atomically(path / MARKER, json.dumps({file: (path / file).stat().st_size for file in files}))


def _check_disk(path: Path, needed: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    present = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    free = shutil.disk_usage(path).free
    if needed - present > free:
        raise InsufficientResources(
            f"{path} needs {(needed - present) / 1e9:.2f} GB more, but its disk has {free / 1e9:.2f} GB free; free some "
            "space or set LABKIT_HOME to a larger disk"
        )


def _download_file(model: HubModel, file: str, path: Path, endpoint: str | None) -> None:
    """One file; a dropped or stalled connection is taken up again where it broke off."""
    import httpx
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(ATTEMPTS):
        try:
            hf_hub_download(model.repository, file, revision=model.revision, local_dir=path, endpoint=endpoint, etag_timeout=10)
            return
        except (httpx.HTTPError, HfHubHTTPError, OSError) as error:
            if attempt == ATTEMPTS - 1:
                raise NotAvailable(
                    f"{file} of {model.repository} broke off {ATTEMPTS} times ({_first_line(error)}); what has come is "
                    "kept: run the same command again to go on"
                ) from error
            time.sleep(min(2**attempt, 8) * float(os.environ.get("LABKIT_RETRY_SECONDS", "1")))


def _verify(path: Path, row: Any) -> None:
    """Size, and SHA-256 where the hub states one; a wrong file is removed so that the next run fetches it anew."""
    size = path.stat().st_size
    expected = row.lfs.sha256 if row.lfs else None
    found = sha256_of(path) if expected else None
    if (row.size is not None and size != row.size) or found != expected:
        path.unlink()
        raise CheckpointError(
            f"{path.name} came wrong: {size} bytes with sha256 {found}, the hub states {row.size} bytes with {expected}; "
            "it is removed, run the same command again"
        )


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
