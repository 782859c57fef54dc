"""Makes the files of a named model available on this disk. The built-in model is part of labkit; other models are downloaded.

A model that is already on this disk is only read, so in that case `LABKIT_HOME` can be read-only. A copy that `transformers`
has downloaded to the hub's own cache (`HF_HUB_CACHE`, `HF_HOME`) is used as well.

A download first checks the free disk space. It shows its progress and continues where an earlier download stopped, even if
another process began that download. Downloaded files are accepted only if they have the checksums that the hub states.
`LABKIT_HUB_ENDPOINT` names a mirror with the hub's interface; `HF_HUB_OFFLINE=1` forbids the use of the network.

`hf_hub_download` is not used, because it deletes a partial file when the connection fails permanently or the process dies, and
the files of GPT-J 6B are 12 GB large.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING

from labkit.checkpoints.directory import sha256_of
from labkit.checkpoints.hub_cache import cached_snapshot, is_whole
from labkit.checkpoints.weight_files import names_of_files
from labkit.config import GPT_J_6B, GPTJConfig
from labkit.errors import CheckpointError, InsufficientResources, InvalidRequest, NotAvailable
from labkit.home import home, home_path, write_atomically

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoSibling

BUILT_IN = {"gptj-tiny": Path(__file__).parents[1] / "builtin" / "gptj-tiny"}


@dataclass(frozen=True)
class HubModel:
    """A repository on the hub, its branch, the config of the model, and the files to download."""

    repository: str
    revision: str
    config: GPTJConfig
    files: tuple[str, ...] = ("config.json", "tokenizer.json", "tokenizer_config.json", "pytorch_model.bin")


HUB_MODELS = {"gpt-j-6b": HubModel("EleutherAI/gpt-j-6b", "float16", GPT_J_6B)}
ATTEMPTS = 5
MARKER = "fetched.json"
ANSWER_SECONDS = 10


@dataclass(frozen=True)
class FetchResult:
    """A directory that `transformers` can load, its size in bytes, and the SHA-256 of its weights ("" if not requested)."""

    path: Path
    bytes: int
    sha256: str


def fetch(name: str, *, with_checksum: bool = True) -> FetchResult:
    """Make sure that the model `name` is on this disk, and return where it is.

    Raises `InvalidRequest` if `name` is in neither `BUILT_IN` nor `HUB_MODELS`, `NotAvailable` if the network is needed but
    forbidden or down, `InsufficientResources` if the disk is too small, and `CheckpointError` if the downloaded bytes are
    wrong.
    """
    if name in BUILT_IN:
        path = BUILT_IN[name]
    elif name in HUB_MODELS:
        path = find_local(name) or _download(HUB_MODELS[name], home() / "models" / name)
    else:
        known = ", ".join([*BUILT_IN, *HUB_MODELS])
        raise InvalidRequest(f"{name!r} has no files to download; {known} have files, and synthetic models need no files")
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
    return FetchResult(path, size, _checksum(path) if with_checksum else "")


def find_local(name: str) -> Path | None:
    """The folder of a hub model on this disk, or None if it must be downloaded. This function writes nothing.

    Looks in labkit's home first, then in the hub's own cache.
    """
    model, path = HUB_MODELS[name], home_path() / "models" / name
    unmarked = is_whole(path) and not (path / MARKER).exists()  # a user copied the model there, or a download was interrupted
    if _is_complete(path) or (unmarked and (_is_offline() or not os.access(path, os.W_OK))):
        return path
    return cached_snapshot(model.repository, (model.revision, "main"))


def _checksum(path: Path) -> str:
    """The SHA-256 of the weight file.

    If there are several files, the result is the SHA-256 of their concatenated SHA-256 sums.
    """
    sums = [sha256_of(path / file) for file in names_of_files(path)]
    return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()


def _is_complete(path: Path) -> bool:
    try:
        sizes: dict[str, int] = json.loads((path / MARKER).read_text("utf-8"))
        return all((path / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, AttributeError, TypeError):  # no marker, or not a valid marker
        return False


def _download(model: HubModel, path: Path) -> Path:
    if _is_offline():
        raise NotAvailable(
            f"{model.repository} is not on this disk, in {path} or in the hub's cache, and HF_HUB_OFFLINE forbids fetching it; "
            "unset HF_HUB_OFFLINE, or use gptj-tiny or gpt-j-6b-synthetic"
        )
    with _locked(path):
        if _is_complete(path):  # another process downloaded the model while this one waited for the lock
            return path
        files = _listed_files(model, path)
        missing = [file for file in files if not (file.path.exists() and file.is_right(file.path))]
        _check_disk(path, missing)
        for file in missing:
            _download_file(file, model.repository)
        write_atomically(path / MARKER, json.dumps({file.path.name: file.size for file in files}))
    return path


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that keeps other processes from writing the same files. If this process dies, the lock is released."""
    import fcntl

    path.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@dataclass(frozen=True)
class _HubFile:
    """One file: its URL, its path on this disk, and its size and checksum as the hub states them.

    For a large file the hub states the SHA-256, for a small file git's object id (a SHA-1).
    """

    url: str
    path: Path
    size: int
    sha256: str | None
    git_id: str | None

    @property
    def partial(self) -> Path:
        """The file with the bytes received so far; its name contains the checksum, so that two versions are never mixed."""
        return self.path.with_name(f"{self.path.name}.{(self.sha256 or self.git_id or '')[:12]}.partial")

    @property
    def received(self) -> int:
        """The number of bytes received so far."""
        return self.partial.stat().st_size if self.partial.exists() else 0

    def is_right(self, path: Path) -> bool:
        """Whether a file has the size and checksum that the hub states."""
        if path.stat().st_size != self.size:
            return False
        if self.sha256:
            return sha256_of(path) == self.sha256
        return not self.git_id or _git_id_of(path) == self.git_id


def _git_id_of(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _listed_files(model: HubModel, path: Path) -> list[_HubFile]:
    """Ask the hub for the latest commit of the branch, and for its files."""
    from huggingface_hub import HfApi, hf_hub_url

    endpoint = os.environ.get("LABKIT_HUB_ENDPOINT") or None
    ask = partial(HfApi(endpoint=endpoint).model_info, model.repository, revision=model.revision, files_metadata=True)
    try:
        try:
            info = ask(timeout=ANSWER_SECONDS)
        except _network_errors():  # for example, because the hub closed an idle connection
            info = ask(timeout=ANSWER_SECONDS)
        rows = {row.rfilename: row for row in info.siblings or [] if row.size is not None}
    except Exception as error:  # the client raises many kinds of errors, and a malformed answer adds more
        raise NotAvailable(
            f"cannot reach the hub for {model.repository}: {_first_line(error)}; check the network or set "
            "LABKIT_HUB_ENDPOINT to a mirror"
        ) from error
    absent = [name for name in model.files if name not in rows]
    if absent:
        raise NotAvailable(
            f"the hub has no file {', '.join(absent)} in {model.repository} at revision {model.revision}; set "
            "LABKIT_HUB_ENDPOINT to the address of a hub that has it"
        )

    def as_file(name: str, row: RepoSibling) -> _HubFile:
        url = hf_hub_url(model.repository, name, revision=info.sha or model.revision, endpoint=endpoint)
        return _HubFile(url, path / name, row.size or 0, row.lfs.sha256 if row.lfs else None, None if row.lfs else row.blob_id)

    return [as_file(name, rows[name]) for name in model.files]


def _check_disk(path: Path, files: list[_HubFile]) -> None:
    needed = sum(file.size - file.received for file in files)
    free = shutil.disk_usage(path).free
    if needed > free:
        raise InsufficientResources(
            f"{path} needs {needed / 1e9:.2f} GB more on its disk, which has only {free / 1e9:.2f} GB free; free some space "
            "or set LABKIT_HOME to a folder on a larger disk"
        )


def _download_file(file: _HubFile, repository: str) -> None:
    """Download one file. If the connection drops or stalls, the download continues where it stopped."""
    name = file.path.name
    for attempt in range(ATTEMPTS):
        try:
            _receive(file)
            break
        except _network_errors() as error:
            if attempt == ATTEMPTS - 1:
                raise NotAvailable(
                    f"{name} of {repository} could not be downloaded: the connection broke {ATTEMPTS} times "
                    f"({_first_line(error)}); the part received so far is kept: run the same command again to continue"
                ) from error
            time.sleep(min(2**attempt, 8) * float(os.environ.get("LABKIT_RETRY_SECONDS", "1")))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InsufficientResources(
                f"the disk of {file.path.parent} became full during the download of {name}; the part received so far is kept: "
                "free some space and run the same command again"
            ) from error
    if not file.is_right(file.partial):
        size = file.received
        file.partial.unlink()
        raise CheckpointError(
            f"{name} of {repository} was not received correctly: {size} bytes arrived, but the hub states {file.size} bytes "
            f"with the checksum {file.sha256 or file.git_id}; the file was removed, run the same command again"
        )
    file.partial.replace(file.path)


def _receive(file: _HubFile) -> None:
    """Request the missing bytes of a file once, and append them. Raises one of `_network_errors` if not all bytes arrive."""
    from huggingface_hub import constants, get_session, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    received = file.received
    if received >= file.size > 0:
        return
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if received:
        headers["Range"] = f"bytes={received}-"
    with get_session().stream("GET", file.url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        hf_raise_for_status(response)
        goes_on = response.status_code == 206  # for any other status, the hub sends the whole file
        with file.partial.open("ab" if goes_on else "wb") as target:
            _write(response.iter_bytes(), target, file, received if goes_on else 0)
    if file.received < file.size:
        raise _network_errors()[0](f"{file.received} of {file.size} bytes were received")


def _write(chunks: Iterator[bytes], target: IO[bytes], file: _HubFile, received: int) -> None:
    """Write the chunks as they arrive, with a progress bar on stderr."""
    from tqdm import tqdm

    with tqdm(desc=file.path.name, total=file.size, initial=received, unit="B", unit_scale=True) as bar:
        for chunk in chunks:
            target.write(chunk)
            bar.update(len(chunk))
    target.flush()
    os.fsync(target.fileno())


def _network_errors() -> tuple[type[Exception], ...]:
    """The network errors of huggingface_hub: `HTTPError` of httpx before version 2, `HTTPError` of httpx2 since then."""
    from huggingface_hub.errors import HfHubHTTPError

    return tuple(kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError" and issubclass(kind, Exception))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
