"""Cheats that end the worker early, or write to its pipe."""

from __future__ import annotations

from tests.gradebook.cheats.cheat import RIGHT, WRONG, Cheat, body, sends

CHEATS = {
    "prints-and-exits": Cheat(
        "It prints full marks and ends the process by sys.exit.",
        body("import sys", """print('{"verdict": "passed", "points": 10}')""", "sys.exit(0)"),
        "SystemExit",
    ),
    "prints-and-ends-at-once": Cheat(
        "It prints full marks and ends the process by os._exit, so nothing can catch it.",
        body("import os", """os.write(1, b'{"verdict": "passed", "points": 10}\\n')""", "os._exit(0)"),
        "ended before your function answered (status 0)",
    ),
    "ends-in-a-cell": Cheat(
        "It ends the process while the cells run, before any function is called.",
        f"import os\nMARKS = os._exit(0)\n{body('return MARKS')}",
        "ended before your function answered (status 0)",
    ),
    "marks-to-the-pipe": Cheat(
        "It writes full marks to the pipe of the worker and ends.",
        sends("""open(sys.argv[2], "w").write('{"verdict": "passed", "points": 10}')""", "os._exit(0)"),
        "could not be read",
    ),
    "frame-without-seeds": Cheat(
        "It writes a frame with no answers, in the hope that without answers to compare nothing is found wrong.",
        sends("send({})", "os._exit(0)"),
        "returned no answers to some inputs",
    ),
    "frame-without-answers": Cheat(
        "It writes a frame that has all seeds and no answers.",
        sends("send({seed: [] for seed in seeds()})", "os._exit(0)"),
        "returned 0 answers for 5 inputs",
    ),
    "frame-of-zeros": Cheat(
        "It writes a frame that says that nothing went wrong, with the answer 0 everywhere.",
        sends("""send({seed: rows({"plain": 0}) for seed in seeds()})""", "os._exit(0)"),
        WRONG,
    ),
    "frame-of-other-seeds": Cheat(
        "It writes answers to seeds that it chose.",
        sends("""send({seed: rows({"plain": 0}) for seed in [*seeds(), 1]})""", "os._exit(0)"),
        "could not be read",
    ),
    "two-frames": Cheat(
        "It writes a frame of its own before the worker writes the real one.",
        sends("""send({seed: rows({"plain": 0}) for seed in seeds()})""", f"return {RIGHT}"),
        "could not be read",
    ),
    "says-it-is-not-to-blame": Cheat(
        "It writes that the machine was busy, so that the verdict is not a fail.",
        sends("""send({seed: [rows({"plain": 0})[0] | {"busy": "it was not me"}] for seed in seeds()})""", "os._exit(0)"),
        "It was not me",
    ),
    "kills-its-parent": Cheat(
        "It kills the process that started it.",
        body("import os, signal, time", "os.kill(os.getppid(), signal.SIGKILL)", "time.sleep(1)", "return 0"),
        "ended before your function answered",
    ),
}
