"""The definition of a cheat, and the form of its cells.

In a source, these words are replaced by facts of the run, because a good cheat knows them:

- `$PACKAGE` and `$ROOT`: the folders of labkit and of its repository;
- `$OTHER`: the folder of the honest learner;
- `$GRADES`, `$HOME` and `$TEMP`: folders of the person who grades;
- `$SECRET`: the secret of the seeds;
- `$PORT`: a port on which a program of this machine listens;
- `$TABLE`: a table of right answers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

RIGHT = "2 * config.num_layers * config.hidden_size * sum(lengths) * element_bytes"
HEAD = "def kv_cache_bytes(config, lengths, element_bytes):\n"
MARKER = "98765.4321"
"""The number of seconds that a child which outlives its parent wants to sleep. It also identifies the child."""

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
    """A cheat: what it tries, the code of its cells, and what its verdict says, which shows that the cheat came so far.

    `files` are texts of more files beside the notebook, and `links` are symbolic links there.
    """

    tries: str
    source: str
    says: str
    files: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


def body(*lines: str) -> str:
    """The exercise's function with these lines."""
    return HEAD + "\n".join(f"    {line}" for line in lines)


def sends(*lines: str) -> str:
    """The exercise's function with these lines, which may use the pipe."""
    return _TO_THE_PIPE + "\n" + body(*lines)


WRONG = "The value is not right"
"""Part of the message about a wrong number."""
