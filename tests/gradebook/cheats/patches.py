"""Cheats that change Python, torch or labkit in the worker's process."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import RIGHT, WRONG, Cheat, body

CHEATS = {
    "patches-comparisons": Cheat(
        "It replaces torch.equal, torch.allclose and labkit's own comparison.",
        "import torch\nfrom labkit.exercises.comparison import Comparison\n"
        + body(
            "torch.equal = torch.allclose = lambda *a, **k: True",
            "Comparison.difference = lambda *a, **k: None",
            "return 0",
        ),
        WRONG,
    ),
    "patches-check": Cheat(
        "It replaces `check` and the judge by functions that always pass.",
        "import labkit.grading.check as module, labkit.grading.verdict as verdicts\n"
        + body("module.check = lambda *a, **k: verdicts.PASSED", "verdicts.FAILED = verdicts.PASSED", "return 0"),
        WRONG,
    ),
    "patches-timers": Cheat(
        "It stops all clocks and removes the timer, so that no time limit stops it.",
        body(
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
        + body(
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
        + body(
            "for found in gc.get_objects():",
            "    if isinstance(found, dict) and getattr(found.get('encode'), '__module__', '') == 'labkit.plain_values':",
            "        found['encode'] = lambda *a: {'equal': 'to everything'}",
            "return 0",
        ),
        "could not be read",
    ),
    "patches-json": Cheat(
        "It replaces json.dumps by a function that returns full marks.",
        f"import json\n{body('json.dumps = lambda *a, **k: chr(123) + chr(125)', 'return 0')}",
        "could not be read",
    ),
    "takes-the-inputs-away": Cheat(
        "It removes the inputs of the exercise in its process, so that no answer can be wrong.",
        "import labkit.grading.call as module\nGONE = setattr(module, 'run_cases', lambda *a, **k: [])\n" + body("return GONE"),
        "returned 0 answers for 5 inputs",
    ),
}
