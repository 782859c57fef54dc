"""Known ways to cheat, or to harm the run, with the exercise `kv_cache_bytes`. They run only in the sandbox.

None of them works out the number of bytes by itself, except where the cheat needs a right number to be a cheat at all.

In a source, `$SECRET`, `$PORT` and the names in `PLACES` are replaced by facts of the run, because a good cheat knows these:
"""

from __future__ import annotations

from dataclasses import dataclass, field

PLACES = ("$PACKAGE", "$ROOT", "$OTHER", "$GRADES", "$HOME", "$TEMP")
"""The folders of labkit, of its repository, of the honest learner, of the grades, of the user's files, and of temporary
files."""

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


def _body(*lines: str) -> str:
    """The exercise's function with these lines."""
    return HEAD + "\n".join(f"    {line}" for line in lines)


def _sends(*lines: str) -> str:
    """The exercise's function with these lines, which may use the pipe."""
    return _TO_THE_PIPE + "\n" + _body(*lines)


WRONG = "The value is not right"
"""Part of the message about a wrong number."""

ENDS_EARLY = {
    "prints-and-exits": Cheat(
        "It prints full marks and ends the process by sys.exit.",
        _body("import sys", """print('{"verdict": "passed", "points": 10}')""", "sys.exit(0)"),
        "SystemExit",
    ),
    "prints-and-ends-at-once": Cheat(
        "It prints full marks and ends the process by os._exit, so nothing can catch it.",
        _body("import os", """os.write(1, b'{"verdict": "passed", "points": 10}\\n')""", "os._exit(0)"),
        "ended before your function answered (status 0)",
    ),
    "ends-in-a-cell": Cheat(
        "It ends the process while the cells run, before any function is called.",
        f"import os\nMARKS = os._exit(0)\n{_body('return MARKS')}",
        "ended before your function answered (status 0)",
    ),
    "marks-to-the-pipe": Cheat(
        "It writes full marks to the pipe of the worker and ends.",
        _sends("""open(sys.argv[2], "w").write('{"verdict": "passed", "points": 10}')""", "os._exit(0)"),
        "could not be read",
    ),
    "frame-without-seeds": Cheat(
        "It writes a frame with no answers, in the hope that nothing to compare is nothing wrong.",
        _sends("send({})", "os._exit(0)"),
        "returned no answers to some inputs",
    ),
    "frame-without-answers": Cheat(
        "It writes a frame that has all seeds and no answers.",
        _sends("send({seed: [] for seed in seeds()})", "os._exit(0)"),
        "returned 0 answers for 5 inputs",
    ),
    "frame-of-zeros": Cheat(
        "It writes a frame that says that nothing went wrong, with the answer 0 everywhere.",
        _sends("""send({seed: rows({"plain": 0}) for seed in seeds()})""", "os._exit(0)"),
        WRONG,
    ),
    "frame-of-other-seeds": Cheat(
        "It writes answers to seeds that it chose.",
        _sends("""send({seed: rows({"plain": 0}) for seed in [*seeds(), 1]})""", "os._exit(0)"),
        "could not be read",
    ),
    "two-frames": Cheat(
        "It writes a frame of its own before the worker writes the real one.",
        _sends("""send({seed: rows({"plain": 0}) for seed in seeds()})""", f"return {RIGHT}"),
        "could not be read",
    ),
    "says-it-is-not-to-blame": Cheat(
        "It writes that the machine was busy, so that the verdict is not a fail.",
        _sends("""send({seed: [rows({"plain": 0})[0] | {"busy": "it was not me"}] for seed in seeds()})""", "os._exit(0)"),
        "It was not me",
    ),
    "kills-its-parent": Cheat(
        "It kills the process that started it.",
        _body("import os, signal, time", "os.kill(os.getppid(), signal.SIGKILL)", "time.sleep(1)", "return 0"),
        WRONG,
    ),
}

PATCHES = {
    "patches-comparisons": Cheat(
        "It replaces torch.equal, torch.allclose and labkit's own comparison.",
        "import torch\nfrom labkit.exercises.comparison import Comparison\n"
        + _body(
            "torch.equal = torch.allclose = lambda *a, **k: True",
            "Comparison.difference = lambda *a, **k: None",
            "return 0",
        ),
        WRONG,
    ),
    "patches-check": Cheat(
        "It replaces `check` and the judge by functions that always pass.",
        "import labkit.grading.check as module, labkit.grading.verdict as verdicts\n"
        + _body("module.check = lambda *a, **k: verdicts.PASSED", "verdicts.FAILED = verdicts.PASSED", "return 0"),
        WRONG,
    ),
    "patches-timers": Cheat(
        "It stops all clocks and removes the timer, and works in peace.",
        _body(
            "import signal, time",
            "signal.setitimer(signal.ITIMER_REAL, 0)",
            "time.time = time.monotonic = time.perf_counter = lambda: 0.0",
            "return 0",
        ),
        WRONG,
    ),
    "patches-inspect": Cheat(
        "It replaces parts of inspect, ast and linecache, which the check uses to read the source.",
        "import ast, inspect, linecache\n"
        + _body(
            f"linecache.getlines = lambda *a: [{RIGHT!r}]",
            "linecache.cache.clear()",
            f"inspect.getsource = lambda *a: {RIGHT!r}",
            "inspect.unwrap = ast.parse = lambda *a, **k: None",
            "return 0",
        ),
        WRONG,
    ),
    "patches-the-encoder": Cheat(
        "It replaces the function that writes values by one that writes `equal to everything`.",
        "import gc\n"
        + _body(
            "for found in gc.get_objects():",
            "    if isinstance(found, dict) and getattr(found.get('encode'), '__module__', '') == 'labkit.plain_values':",
            "        found['encode'] = lambda *a: {'equal': 'to everything'}",
            "return 0",
        ),
        "could not be read",
    ),
    "patches-json": Cheat(
        "It replaces json.dumps by a function that returns full marks.",
        f"import json\n{_body('json.dumps = lambda *a, **k: chr(123) + chr(125)', 'return 0')}",
        "could not be read",
    ),
    "takes-the-inputs-away": Cheat(
        "It removes the inputs of the exercise in its process, so that there is nothing to be wrong about.",
        "import labkit.grading.call as module\n"
        "GONE = setattr(module, 'run_cases', lambda *a, **k: [])\n" + _body("return GONE"),
        "returned 0 answers for 5 inputs",
    ),
}

VALUES = {
    "equals-everything": Cheat(
        "It returns an object that is equal to everything and says that it is an int.",
        "class Equal:\n    __class__ = int\n    __eq__ = __le__ = __ge__ = lambda self, other: True\n"
        "    __sub__ = __rsub__ = __abs__ = lambda self, *a: self\n    __hash__ = lambda self: 0\n" + _body("return Equal()"),
        "answer",
    ),
    "int-that-lies": Cheat(
        "It returns a subclass of int that is equal to everything.",
        "class Lies(int):\n    __eq__ = lambda self, other: True\n    __sub__ = __rsub__ = lambda self, other: 0\n"
        "    __hash__ = lambda self: 0\n    __repr__ = lambda self: 'right'\n" + _body("return Lies(0)"),
        WRONG,
    ),
    "tensor-that-lies": Cheat(
        "It returns a subclass of a tensor in which every operation says True.",
        "import torch\nclass Lies(torch.Tensor):\n    @classmethod\n"
        "    def __torch_function__(cls, function, types, args=(), kwargs=None):\n        return True\n"
        + _body("return torch.zeros(()).as_subclass(Lies)"),
        "answer",
    ),
    "scalar-that-changes": Cheat(
        "It returns a scalar whose value is another one each time that it is read.",
        "import itertools\nclass Scalar:\n    shape = ()\n    numbers = itertools.count()\n"
        "    item = lambda self: next(self.numbers)\n" + _body("return Scalar()"),
        WRONG,
    ),
    "huge-number": Cheat(
        "It returns a number of so many digits that reading it takes for ever.",
        _body("return 10 ** 2_000_000"),
        "thousands of digits",
    ),
    "not-a-number": Cheat("It returns NaN, which no comparison calls different.", _body("return float('nan')"), "answer"),
    "huge-tensor": Cheat(
        "It returns a tensor of one number that looks like a tensor of 4 TiB.",
        "import torch\n" + _body("return torch.zeros(1).expand(2**40)"),
        "cannot be read",
    ),
    "malformed-tensor": Cheat(
        "It writes a frame whose tensor lies outside of its data.",
        _sends(
            """head = b'{"0":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'""",
            """runs = {seed: rows({"tensor": "0"}) for seed in seeds()}""",
            "send(runs, len(head).to_bytes(8, 'little') + head)",
            "os._exit(0)",
        ),
        "could not be read",
    ),
    "bottomless-list": Cheat(
        "It returns a list that contains itself.",
        _body("found = []", "found.append(found)", "return found"),
        "cannot be read",
    ),
    "bottomless-frame": Cheat(
        "It writes a frame with a million lists in each other, which may end the process that reads it.",
        _sends(
            "text = b'[' * 10**6",
            "open(sys.argv[2], 'wb', buffering=0).write(pack_frame(text, b''))",
            "os._exit(0)",
        ),
        "could not be read",
    ),
    "millions-of-lists": Cheat(
        "It writes a frame of 60 MiB with empty lists, which take gigabytes in the process that reads them.",
        _sends(
            "text = b'{\"runs\": [[]' + b',[]' * (20 * 2**20) + b']}'",
            "open(sys.argv[2], 'wb', buffering=0).write(pack_frame(text, b''))",
            "os._exit(0)",
        ),
        "more than 8 MiB",
    ),
    "unfinished-work": Cheat(
        "It returns a coroutine, and does the work later or never.",
        f"async def later(config, lengths, element_bytes):\n    return {RIGHT}\n"
        + _body("return later(config, lengths, element_bytes)"),
        "answer",
    ),
    "work-of-a-thread": Cheat(
        "It returns an empty list, and a thread fills the list when the time limit no longer counts.",
        "import threading, time\n"
        + _body(
            "found = []",
            "threading.Thread(target=lambda: (time.sleep(1), found.append(0)), daemon=True).start()",
            "return found",
        ),
        "answer",
    ),
}

READS = {
    "imports-the-answer": Cheat(
        "It imports labkit's reference.",
        "import importlib\n"
        + _body(
            "name = 'labkit.' + 'answers.lab00'",
            "return importlib.import_module(name).ANSWERS[2].reference(config, lengths, element_bytes)",
        ),
        "ModuleNotFoundError",
    ),
    "reads-the-answer": Cheat(
        "It reads the files of labkit for a reference: the sources, and what Python compiled from them.",
        _body(
            "import os",
            "found = [name for _, _, names in os.walk('$PACKAGE/answers') for name in names]",
            "raise LookupError(f'{len(found)} files of answers')",
        ),
        "0 files of answers",
    ),
    "finds-the-answer-in-memory": Cheat(
        "It looks through all objects of its process for an answer.",
        _body(
            "import gc",
            "found = [one for one in gc.get_objects() if type(one).__name__ in ('Answer', 'Mistake')]",
            "raise LookupError(f'{len(found)} answers in memory')",
        ),
        "0 answers in memory",
    ),
    "reads-the-solutions": Cheat(
        "It reads the solved notebook in the repository of labkit.",
        _body("import glob", "raise LookupError(f\"{len(glob.glob('$ROOT/solutions/*'))} solutions found\")"),
        "0 solutions found",
    ),
    "uncovers-the-answer": Cheat(
        "It makes a namespace of its own, and unmounts the empty folder that hides the answers.",
        _body(
            "import subprocess",
            "command = 'umount $PACKAGE/answers; umount -l $PACKAGE/answers; ls $PACKAGE/answers | wc -l'",
            "done = subprocess.run(['unshare', '-Urm', 'sh', '-c', command], capture_output=True, text=True)",
            "raise LookupError(f'{done.stdout.strip() or 0} files uncovered')",
        ),
        "0 files uncovered",
    ),
    "reads-another-submission": Cheat(
        "It reads the notebook of another learner.",
        _body("return len(open('$OTHER/00.ipynb').read())"),
        "FileNotFoundError",
    ),
    "looks-around": Cheat(
        "It lists the folders above its notebook.",
        _body(
            "import json, os, sys",
            "from pathlib import Path",
            "found = os.listdir(Path(json.load(open(sys.argv[1]))['folder']).parent)",
            "raise LookupError(f'learners: {found}' if len(found) > 1 else 'nobody else')",
        ),
        "nobody else",
    ),
    "reads-the-environment": Cheat(
        "It looks for the secret of the seeds in the environment and the command of every process.",
        _body(
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
        _body(
            "import os",
            "pids = [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) != os.getpid()]",
            "commands = [open(f'/proc/{pid}/cmdline').read() for pid in pids]",
            "found = [one for one in commands if 'spawn_main' in one]",
            "raise LookupError(f'{len(found)} graders found')",
        ),
        "0 graders found",
    ),
    "reads-kept-results": Cheat(
        "It reads the folder LABKIT_HOME, where a check keeps its results.",
        _body(
            "import os",
            "from pathlib import Path",
            "found = [*Path(os.environ['LABKIT_HOME']).rglob('*.json'), *Path('$HOME').rglob('*')]",
            "raise LookupError(f'{len(found)} results found')",
        ),
        "0 results found",
    ),
    "reads-the-gradebook": Cheat(
        "It opens the gradebook and gives itself points.",
        _body(
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
        _body(
            "import json, sys",
            "job = json.load(open(sys.argv[1]))",
            "raise LookupError(f\"cases: {job['cases']}, answers: {job.get('expected')}\")",
        ),
        "cases: {}, answers: None",
    ),
    "calls-home": Cheat(
        "It connects to a program of this machine that knows the answers.",
        _body(
            "import socket",
            "with socket.create_connection(('127.0.0.1', $PORT), timeout=5) as other:",
            "    return int(other.recv(100))",
        ),
        "ConnectionRefusedError",
    ),
    "calls-far-away": Cheat(
        "It connects to a program on another machine.",
        _body("import socket", "socket.create_connection(('192.0.2.1', 80), timeout=5)", "return 0"),
        "unreachable",
    ),
}

HARMS = {
    "deletes-files": Cheat(
        "It deletes and changes everything that belongs to others.",
        _body(
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
        _body("open('$PACKAGE/grading/worker.py', 'r+')", "return 0"),
        "Read-only file system",
    ),
    "writes-over-its-notebook": Cheat(
        "It writes a file beside its own notebook for the next exercise.",
        _body(
            "import json, sys",
            "open(json.load(open(sys.argv[1]))['folder'] + '/written_by_a_cheat', 'w')",
            "return 0",
        ),
        "Read-only file system",
    ),
    "leaves-a-child": Cheat(
        "It starts a process in a session of its own, which goes on when the worker has ended.",
        _body(
            "import subprocess",
            f"subprocess.Popen(['sh', '-c', 'setsid sleep {MARKER} & setsid sleep {MARKER}'], start_new_session=True)",
            "return 0",
        ),
        WRONG,
    ),
    "fork-bomb": Cheat(
        "It starts processes without end.",
        _body("import os, time", "while True:", "    if os.fork() == 0:", "        time.sleep(600)"),
        "and was stopped",
    ),
    "memory-bomb": Cheat(
        "It asks for memory without end.",
        "import torch\n" + _body("found = []", "while True:", "    found.append(torch.empty(2**26))"),
        "memory",
    ),
    "endless-loop": Cheat("It never ends.", _body("while True:", "    pass"), "20 seconds"),
    "endless-output": Cheat(
        "It writes to its output and its errors without end.",
        _body("import os", "while True:", "    os.write(1, bytes(2**20))", "    os.write(2, bytes(2**20))"),
        "20 seconds",
    ),
    "endless-frame": Cheat(
        "It writes to the pipe without end.",
        _sends("pipe = open(sys.argv[2], 'wb', buffering=0)", "while True:", "    pipe.write(bytes(2**20))"),
        "more than 64 MiB",
    ),
    "large-file": Cheat(
        "It fills the disk.",
        _body("with open('large', 'wb') as file:", "    while True:", "        file.write(bytes(2**24))"),
        "File too large",
    ),
}

INPUTS = {
    "knows-the-inputs": Cheat(
        "It has a table of the answers to the inputs that the check in the notebook uses.",
        "$TABLE\n" + _body("return TABLE.get((config.num_layers, config.hidden_size, *lengths, element_bytes), 0)"),
        WRONG,
    ),
    "keeps-by-address": Cheat(
        "It works once, and afterwards returns what it kept for the address of the input.",
        "KEPT = {}\n"
        + _body("KEPT.setdefault(id(lengths), next(iter(KEPT.values()), 0) or " + RIGHT + ")", "return KEPT[id(lengths)]"),
        WRONG,
    ),
    "empties-the-inputs": Cheat(
        "It changes the inputs so that 0 is the right number.",
        _body("lengths.clear()", "return 0"),
        WRONG,
    ),
    "changes-the-inputs": Cheat(
        "It returns the right number, and spoils the input for whoever uses it next.",
        _body(f"found = {RIGHT}", "lengths.append(1)", "return found"),
        "changes its argument 2",
    ),
}

HIDES = {
    "hides-in-a-decorator": Cheat(
        "Its decorator replaces the function by an object that is equal to everything.",
        "class Equal:\n    __eq__ = lambda self, other: True\n    __hash__ = lambda self: 0\n"
        "def swap(function):\n    return lambda *a: Equal()\n@swap\n" + _body(f"return {RIGHT}"),
        "answer",
    ),
    "hides-in-a-default": Cheat(
        "It defines the function in the default value of another one.",
        "def helper(x=(kv_cache_bytes := lambda *a: 0)):\n    pass",
        WRONG,
    ),
    "hides-in-a-text": Cheat(
        "It defines the function in an f-string.",
        'TEXT = f"{(kv_cache_bytes := lambda *a: 0)}"',
        WRONG,
    ),
    "hides-in-exec": Cheat(
        "It defines the function in a text, which an ordinary reader of code does not see.",
        "exec('def kv_cache_' + 'bytes(*a): return 0')\ndef kv_cache_(): pass\n# def kv_cache_bytes(",
        WRONG,
    ),
    "looks-like-the-function": Cheat(
        "The name of its function has a Cyrillic letter in it.",
        _body(f"return {RIGHT}").replace("kv_cache_bytes", "kv_cache_byt\u0435s") + "\n# def kv_cache_bytes(",
        "defines no function kv_cache_bytes",
    ),
    "sitecustomize": Cheat(
        "The files beside its notebook are named like modules that Python imports at its start.",
        _body("return 0"),
        WRONG,
        files=dict.fromkeys(
            ("sitecustomize.py", "usercustomize.py", "labkit.py", "torch.py", "json.py"), "import os; os._exit(7)"
        ),
    ),
    "links-to-the-answer": Cheat(
        "A symbolic link beside its notebook leads to the file with the answers.",
        "import answers\n" + _body("return answers.ANSWERS[2].reference(config, lengths, element_bytes)"),
        "No module named 'answers'",
        links={"answers.py": "$PACKAGE/answers/lab00.py"},
    ),
    "links-to-a-private-file": Cheat(
        "A symbolic link beside its notebook leads to a file of the person who grades, and the error quotes it.",
        _body("raise ValueError(open('notes.txt').read())"),
        "FileNotFoundError",
        links={"notes.txt": "$HOME/private.txt"},
    ),
    "links-to-folders": Cheat(
        "Symbolic links beside its notebook lead to the solutions and to another learner.",
        _body(
            "import json, os, sys",
            "own = json.load(open(sys.argv[1]))['folder']",
            "found = [name for link in ('solutions', 'other') for name in os.listdir(f'{own}/{link}')]",
            "raise LookupError(str(found))",
        ),
        "FileNotFoundError",
        links={"solutions": "$ROOT/solutions", "other": "$OTHER"},
    ),
    "deep-code": Cheat(
        "Its code is a sum of 100,000 numbers, which may end the process that reads it.",
        f"DEEP = {'+'.join(['1'] * 100_000)}\n" + _body("return DEEP"),
        "",
    ),
}

CHEATS = ENDS_EARLY | PATCHES | VALUES | READS | HARMS | INPUTS | HIDES
