"""Cheats that hide the definition of the function, or something beside the notebook."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import RIGHT, WRONG, Cheat, body

CHEATS = {
    "hides-in-a-decorator": Cheat(
        "Its decorator replaces the function by an object that is equal to everything.",
        "class Equal:\n    __eq__ = lambda self, other: True\n    __hash__ = lambda self: 0\n"
        "def swap(function):\n    return lambda *a: Equal()\n@swap\n" + body(f"return {RIGHT}"),
        "answer",
    ),
    "hides-in-a-default": Cheat(
        "It defines the function in the default value of another function's parameter.",
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
        body(f"return {RIGHT}").replace("kv_cache_bytes", "kv_cache_byt\u0435s") + "\n# def kv_cache_bytes(",
        "defines no function kv_cache_bytes",
    ),
    "sitecustomize": Cheat(
        "The files beside its notebook are named like modules that Python imports at its start.",
        body("return 0"),
        WRONG,
        files=dict.fromkeys(
            ("sitecustomize.py", "usercustomize.py", "labkit.py", "torch.py", "json.py"), "import os; os._exit(7)"
        ),
    ),
    "links-to-the-answer": Cheat(
        "A symbolic link beside its notebook leads to the file with the answers.",
        "import answers\n" + body("return answers.ANSWERS[2].reference(config, lengths, element_bytes)"),
        "No module named 'answers'",
        links={"answers.py": "$PACKAGE/answers/lab00.py"},
    ),
    "links-to-a-private-file": Cheat(
        "A symbolic link beside its notebook leads to a file of the person who grades, and the error quotes it.",
        body("raise ValueError(open('notes.txt').read())"),
        "FileNotFoundError",
        links={"notes.txt": "$HOME/private.txt"},
    ),
    "links-to-folders": Cheat(
        "Symbolic links beside its notebook lead to the solutions and to another learner.",
        body(
            "import json, os, sys",
            "own = json.load(open(sys.argv[1]))['folder']",
            "found = [name for link in ('solutions', 'other') for name in os.listdir(f'{own}/{link}')]",
            "raise LookupError(str(found))",
        ),
        "FileNotFoundError",
        links={"solutions": "$ROOT/solutions", "other": "$OTHER"},
    ),
    "deep-code": Cheat(
        "Its code is a sum of 100,000 numbers, which can crash the process that parses it.",
        f"DEEP = {'+'.join(['1'] * 100_000)}\n" + body("return DEEP"),
        "",
    ),
}
