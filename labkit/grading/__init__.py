"""Checks a learner's answers, in the notebook and from the command line, and records the results."""

from labkit.grading.check import check, hint, passed
from labkit.grading.made import made
from labkit.grading.panel import progress_panel
from labkit.grading.prediction import predicted
from labkit.grading.reset import reset
from labkit.grading.solution import solution
from labkit.grading.solved import solved
from labkit.grading.submit import submit
from labkit.grading.verdict import Verdict

__all__ = ["Verdict", "check", "hint", "made", "passed", "predicted", "progress_panel", "reset", "solution", "solved", "submit"]
