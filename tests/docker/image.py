"""Builds the learner's image with buildah on a bare Debian, and makes a container from it.

Buildah keeps everything in a temporary folder that is deleted at the end. The bare Debian is made once and kept in the
user's cache. The settings of pip and apt on this machine (indexes, certificates, a proxy) are used inside the image as well.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from tests.kept import KEPT

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
RELEASE = "bookworm"
BASE, IMAGE = "localhost/labkit-test-base", "localhost/labkit-test-course"
CERTIFICATES = "/mnt/certificates.pem"


def can_build() -> bool:
    """Whether this machine can build the image: it needs buildah, debootstrap and the permission to use them."""
    tools = ("buildah", "debootstrap", "apt-get", "dpkg", "unshare", "ip")
    return sys.platform == "linux" and os.geteuid() == 0 and all(shutil.which(tool) for tool in tools)


def output(*command: str | Path) -> str:
    """Return the output of a command. If the command fails, fail the test with the end of the output."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


# The bare Debian ------------------------------------------------------------------------------------------------------
def bare_debian() -> Path:
    """Debian's smallest system as a tar file, taken from the user's cache or made now."""
    architecture = output("dpkg", "--print-architecture").strip()
    packed = KEPT / f"{RELEASE}-{architecture}.tar"
    if not packed.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="labkit-debian-") as folder:
            made, part = Path(folder) / "root", Path(folder) / "root.tar"
            output("debootstrap", "--variant=minbase", RELEASE, made, *apt_mirror())
            left_out = [f"--exclude={path}" for path in ("./dev/*", "./var/cache/apt/*", "./var/lib/apt/lists/*")]
            output("tar", "--create", "--file", part, "--directory", made, *left_out, ".")
            shutil.move(part, packed.with_suffix(".part"))
        packed.with_suffix(".part").replace(packed)
    return packed


def apt_mirror() -> list[str]:
    """The address from which this machine downloads the same release of Debian; empty if the machine has no such address."""
    wanted = ("Created-By: Packages", f"Codename: {RELEASE}", "Component: main")
    return output("apt-get", "indextargets", "--format", "$(REPO_URI)", *wanted).split()[:1]


def apt_settings() -> str:
    """apt's settings on this machine: its proxy, and whether it checks the dates of Debian's lists."""
    lines = output("apt-config", "dump").splitlines()
    return "".join(f"{line}\n" for line in lines if re.match(r"Acquire::(https?::proxy|check-)", line, re.IGNORECASE))


# pip's options --------------------------------------------------------------------------------------------------------
def pip_settings() -> dict[str, str]:
    """pip's options on this machine, by their environment variables. Later sections of pip's list take priority."""
    found: dict[str, dict[str, str]] = {}
    for line in output(sys.executable, "-m", "pip", "config", "list").splitlines():
        if match := re.match(r"(global|install|:env:)\.([\w-]+)=(.+)", line):
            found.setdefault(match[1], {})[f"PIP_{match[2].upper().replace('-', '_')}"] = ast.literal_eval(match[3])
    return found.get("global", {}) | found.get("install", {}) | found.get(":env:", {})


def pip_arguments() -> list[str]:
    """Arguments for `buildah build`: the pip options that the Dockerfile takes, and read-only mounts of their files."""
    settings = pip_settings()
    taken = re.findall(r"^ARG (PIP_\w+)", DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    arguments: list[str] = []
    certificates = settings.get("PIP_CERT") or ssl.get_default_verify_paths().cafile
    if certificates and Path(certificates).is_file():
        settings["PIP_CERT"] = CERTIFICATES  # apt uses the usual path for Debian's own file
        arguments += ["--volume", f"{certificates}:{CERTIFICATES}:ro"]
    for name in sorted(set(taken) & set(settings)):
        arguments += ["--build-arg", f"{name}={' '.join(settings[name].split())}"]
        folders = {folder_of(word) for word in settings[name].split()}
        for folder in sorted(folder for folder in folders if folder):
            arguments += ["--volume", f"{folder}:{folder}:ro"]
    return arguments


def folder_of(word: str) -> Path | None:
    """The folder that a value of a pip option names, or None.

    For a package index it is the parent folder, because the index's pages refer to files beside the index.
    """
    is_url = word.startswith("file:")
    path = Path(urlsplit(word).path if is_url else word)
    if not path.is_absolute() or not path.is_dir():
        return None
    return path.parent if is_url else path


# The image and a container from it ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Container:
    """A container of the learner's image, with its start command, its health check and the folder of its volume."""

    buildah: tuple[str | Path, ...]
    name: str
    start: list[str]
    health: list[str]
    volume: Path

    def command(self, *command: str) -> list[str]:
        """The command line that runs a command in the container, with the image's user, folder and environment."""
        return [*map(str, self.buildah), "run", "--volume", f"{self.volume}:/home/learner/course", self.name, "--", *command]

    def offline(self, *command: str) -> list[str]:
        """Like `command`, but the container's only network is its own loopback."""
        return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "offline", *self.command(*command)]

    def bytes_unpacked(self) -> int:
        """The size of all files of the image."""
        root = output(*self.buildah, "mount", self.name).strip()
        try:
            return 1024 * int(output("du", "--summarize", "--one-file-system", "--block-size=1K", root).split()[0])
        finally:
            output(*self.buildah, "umount", self.name)


@contextmanager
def built_container() -> Iterator[Container]:
    """Build the image and make a container from it. At the end, delete all files of buildah."""
    folder = Path(tempfile.mkdtemp(prefix="labkit-image-"))
    buildah = ("buildah", "--storage-driver", "vfs", "--root", folder / "storage", "--runroot", folder / "run")
    try:
        build(buildah, folder)
        config = json.loads(output(*buildah, "inspect", "--type", "image", IMAGE))["Docker"]["config"]
        name = output(*buildah, "from", "--pull-never", "--isolation", "chroot", "--network", "host", IMAGE).strip()
        volume = folder / "volume"
        volume.mkdir()
        os.chown(volume, 1000, 1000)
        health = config["Healthcheck"]["Test"]
        assert health[0] == "CMD"
        yield Container(buildah, name, config["Cmd"], health[1:], volume)
    finally:
        subprocess.run([*buildah, "rm", "--all"], capture_output=True)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
        assert not mounted, f"still mounted, so not removed: {mounted}"
        shutil.rmtree(folder)


def build(buildah: tuple[str | Path, ...], folder: Path) -> None:
    """Make the base image, and from it the learner's image, as `make docker` does."""
    settings = folder / "apt.conf"
    settings.write_text(apt_settings())
    scratch = output(*buildah, "from", "scratch").strip()
    output(*buildah, "add", "--quiet", scratch, bare_debian(), "/")
    output(*buildah, "add", "--quiet", scratch, settings, "/etc/apt/apt.conf.d/90-host")
    output(*buildah, "commit", "--quiet", "--rm", scratch, BASE)
    how = ("--isolation", "chroot", "--network", "host", "--layers=false", "--format", "docker", "--pull-never")
    what: tuple[str | Path, ...] = ("--build-arg", f"BASE={BASE}", *pip_arguments(), "--file", DOCKERFILE, "--tag", IMAGE)
    output(*buildah, "build", *how, *what, ROOT)
