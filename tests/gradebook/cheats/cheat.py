"""The definition of a cheat, and the form of its cells.

In a cheat's source, the words below are replaced by facts about the run, because a good cheat knows these facts:

- `$PACKAGE` and `$ROOT`: the folders of labkit and of its repository;
- `$OTHER`: the folder of the honest learner;
- `$GRADES`, `$HOME` and `$TEMP`: folders of the person who grades;
- `$SECRET`: the secret of the seeds;
- `$PORT`: a port on which a program on this machine is listening;
- `$TABLE`: a table of right answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RIGHT = "2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes"
HEAD = "def kv_cache_bytes(config, lengths, element_bytes):\n"
MARKER = "98765.4321"
"""The number of seconds that a cheat's child process sleeps to outlive its parent. This number identifies the child."""

_TO_THE_PIPE = """
import json, os, sys
from labkit.frames import pack_frame

def send(runs, data=b"\\x02\\x00\\x00\\x00\\x00\\x00\\x00\\x00{}", more=b""):
    frame = pack_frame(json.dumps({"runs": runs, "notes": []}).encode(), data)
    with open(sys.argv[2], "wb", buffering=0) as pipe:
        pipe.write(frame + more)

def rows(value):
    row = {"error": "", "error_kind": "", "changed": "", "breach": "", "clue": "", "busy": ""}
    return [row | {"value": value}] * 5

def seeds():
    return json.load(open(sys.argv[1]))["seeds"]
"""


@dataclass(frozen=True)
class Cheat:
    """A cheat: what it tries, the code of its cells, and words in its verdict that show how far the cheat came.

    `files` holds the texts of further files in the notebook's folder, and `links` holds symbolic links in this folder.
    """

    tries: str
    source: str
    says: str
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def body(*lines: str) -> str:
    """The exercise's function with these lines as its body."""
    return HEAD + "\n".join(f"    {line}" for line in lines)


def sends(*lines: str) -> str:
    """The exercise's function with these lines as its body, which can use `send`, `rows` and `seeds` to write to the pipe."""
    return _TO_THE_PIPE + "\n" + body(*lines)


WRONG = "The value is not right"
"""Part of the message about a wrong number."""
