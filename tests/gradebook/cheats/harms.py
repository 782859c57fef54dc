"""Cheats that harm files, the machine or the run."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import MARKER, WRONG, Cheat, body, sends

CHEATS = {
    "deletes-files": Cheat(
        "It deletes and changes everything that belongs to others.",
        body(
            "import shutil",
            "from pathlib import Path",
            "for place in ('$OTHER', '$GRADES', '$HOME'):",
            "    shutil.rmtree(place, ignore_errors=True)",
            "for place in ('$OTHER', '$GRADES', '$HOME', '$TEMP', '$ROOT', '$PACKAGE', '$PACKAGE/grading', '/etc', '/usr'):",
            "    try:",
            "        Path(place).mkdir(parents=True, exist_ok=True)",
            "        Path(place, 'written_by_a_cheat').write_text('cheat')",
            "    except OSError:",
            "        pass",
            "raise RuntimeError('all gone')",
        ),
        "all gone",
    ),
    "writes-into-labkit": Cheat(
        "It opens a file of labkit for writing, so that the next learner's check passes.",
        body("open('$PACKAGE/grading/worker.py', 'r+')", "return 0"),
        "Read-only file system",
    ),
    "writes-over-its-notebook": Cheat(
        "It writes a file beside its own notebook for the next exercise.",
        body(
            "import json, sys",
            "open(json.load(open(sys.argv[1]))['folder'] + '/written_by_a_cheat', 'w')",
            "return 0",
        ),
        "Read-only file system",
    ),
    "leaves-a-child": Cheat(
        "It starts a process in a session of its own, which would keep running after the worker has ended.",
        body(
            "import subprocess",
            f"subprocess.Popen(['sh', '-c', 'setsid sleep {MARKER} & setsid sleep {MARKER}'], start_new_session=True)",
            "return 0",
        ),
        WRONG,
    ),
    "fork-bomb": Cheat(
        "It starts processes without end.",
        body("import os, time", "while True:", "    if os.fork() == 0:", "        time.sleep(600)"),
        "and was stopped",
    ),
    "memory-bomb": Cheat(
        "It asks for memory without end.",
        "import torch\n" + body("found = []", "while True:", "    found.append(torch.empty(2**26))"),
        "memory",
    ),
    "endless-loop": Cheat("It never ends.", body("while True:", "    pass"), "20 seconds"),
    "endless-output": Cheat(
        "It writes to its output and its errors without end.",
        body("import os", "while True:", "    os.write(1, bytes(2**20))", "    os.write(2, bytes(2**20))"),
        "20 seconds",
    ),
    "endless-frame": Cheat(
        "It writes to the pipe without end.",
        sends("pipe = open(sys.argv[2], 'wb', buffering=0)", "while True:", "    pipe.write(bytes(2**20))"),
        "more than 64 MiB",
    ),
    "large-file": Cheat(
        "It fills the disk.",
        body("with open('large', 'wb') as file:", "    while True:", "        file.write(bytes(2**24))"),
        "File too large",
    ),
}
