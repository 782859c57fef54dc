"""Cheats that look for the answers, the secret or the grades outside their own notebook."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import Cheat, body

CHEATS = {
    "imports-the-answer": Cheat(
        "It imports labkit's reference.",
        "import importlib\n"
        + body(
            "name = 'labkit.' + 'answers.lab00'",
            "return importlib.import_module(name).ANSWERS[2].reference(config, lengths, element_bytes)",
        ),
        "ModuleNotFoundError",
    ),
    "reads-the-answer": Cheat(
        "It reads the files of labkit for a reference: the sources, and what Python compiled from them.",
        body(
            "import os",
            "found = [name for _, _, names in os.walk('$PACKAGE/answers') for name in names]",
            "raise LookupError(f'{len(found)} files of answers')",
        ),
        "0 files of answers",
    ),
    "finds-the-answer-in-memory": Cheat(
        "It looks through all objects of its process for an answer.",
        body(
            "import gc",
            "found = [one for one in gc.get_objects() if type(one).__name__ in ('Answer', 'Mistake')]",
            "raise LookupError(f'{len(found)} answers in memory')",
        ),
        "0 answers in memory",
    ),
    "reads-the-solutions": Cheat(
        "It reads the solved notebook in the repository of labkit.",
        body("import glob", "raise LookupError(f\"{len(glob.glob('$ROOT/solutions/*'))} solutions found\")"),
        "0 solutions found",
    ),
    "uncovers-the-answer": Cheat(
        "It makes a namespace of its own, and unmounts the empty folder that hides the answers.",
        body(
            "import subprocess",
            "command = 'umount $PACKAGE/answers; umount -l $PACKAGE/answers; ls $PACKAGE/answers | wc -l'",
            "done = subprocess.run(['unshare', '-Urm', 'sh', '-c', command], capture_output=True, text=True)",
            "raise LookupError(f'{done.stdout.strip() or 0} files uncovered')",
        ),
        "0 files uncovered",
    ),
    "reads-another-submission": Cheat(
        "It reads the notebook of another learner.",
        body("return len(open('$OTHER/00.ipynb').read())"),
        "FileNotFoundError",
    ),
    "looks-around": Cheat(
        "It lists the folders above its notebook.",
        body(
            "import json, os, sys",
            "from pathlib import Path",
            "found = os.listdir(Path(json.load(open(sys.argv[1]))['folder']).parent)",
            "raise LookupError(f'learners: {found}' if len(found) > 1 else 'nobody else')",
        ),
        "nobody else",
    ),
    "reads-the-environment": Cheat(
        "It looks for the secret of the seeds in the environment and the command of every process.",
        body(
            "import os",
            "found = 0",
            "for pid in filter(str.isdigit, os.listdir('/proc')):",
            "    for what in ('environ', 'cmdline'):",
            "        try:",
            "            found += b'$SECRET' in open(f'/proc/{pid}/{what}', 'rb').read()",
            "        except OSError:",
            "            pass",
            "found += '$SECRET' in str(os.environ)",
            "raise LookupError(f'{found} secrets found')",
        ),
        "0 secrets found",
    ),
    "reads-the-grader": Cheat(
        "It opens the memory of the grader, which knows the right numbers.",
        body(
            "import os",
            "pids = [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid()]",
            "commands = [open(f'/proc/{pid}/cmdline').read() for pid in pids]",
            "found = [one for one in commands if 'spawn_main' in one]",
            "raise LookupError(f'{len(found)} graders found')",
        ),
        "0 graders found",
    ),
    "takes-over-its-host": Cheat(
        "It writes to the memory of the process from which it was forked.",
        body("import os", "open(f'/proc/{os.getppid()}/mem', 'r+b')", "return 0"),
        "PermissionError",
    ),
    "reads-kept-results": Cheat(
        "It reads the folder LABKIT_HOME, where a check keeps its results.",
        body(
            "import os",
            "from pathlib import Path",
            "found = [*Path(os.environ['LABKIT_HOME']).rglob('*.json'), *Path('$HOME').rglob('*')]",
            "raise LookupError(f'{len(found)} results found')",
        ),
        "0 results found",
    ),
    "reads-the-gradebook": Cheat(
        "It opens the gradebook and gives itself points.",
        body(
            "import sqlite3",
            "base = sqlite3.connect('file:$GRADES/gradebook.sqlite?mode=rw', uri=True)",
            "base.execute('UPDATE result SET points = out_of')",
            "base.commit()",
            "return 0",
        ),
        "unable to open database file",
    ),
    "reads-its-job": Cheat(
        "It reads the job of the worker, which might contain the right numbers.",
        body(
            "import json, sys",
            "job = json.load(open(sys.argv[1]))",
            "raise LookupError(f\"cases: {job['cases']}, answers: {job.get('expected')}\")",
        ),
        "cases: {}, answers: None",
    ),
    "calls-home": Cheat(
        "It connects to a program of this machine that knows the answers.",
        body(
            "import socket",
            "with socket.create_connection(('127.0.0.1', $PORT), timeout=5) as other:",
            "    return int(other.recv(100))",
        ),
        "ConnectionRefusedError",
    ),
    "calls-far-away": Cheat(
        "It connects to a program on another machine.",
        body("import socket", "socket.create_connection(('192.0.2.1', 80), timeout=5)", "return 0"),
        "unreachable",
    ),
}
