"""Judges kernel exercises in one process with Triton's interpreter.

It reads a JSON list of [exercise, source, seeds] and prints the verdicts.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_seeds
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import judge
from labkit.grading.run_statements import define
from labkit.grading.submission import submission_of


def main() -> None:
    verdicts = []
    out, sys.stdout = sys.stdout, sys.stderr  # the output of kernels must not mix with the verdicts
    for name, source, seeds in json.load(sys.stdin):
        exercise, scope = find(name), dict[str, Any](__name__="__main__")
        failed = define(submission_of(source).needed_for(exercise.function), scope)
        assert exercise.function in scope, failed
        verdict = judge(answer_to(exercise), run_seeds(scope[exercise.function], exercise, seeds))
        verdicts.append([verdict.verdict, verdict.message, verdict.details])
    json.dump(verdicts, out)


if __name__ == "__main__":
    main()
