"""Checking answers: in the notebook, from the command line, and what is kept of it."""

from labkit.grading.check import check, hint, passed
from labkit.grading.panel import progress_panel
from labkit.grading.prediction import predicted
from labkit.grading.verdict import Verdict

__all__ = ["Verdict", "check", "hint", "passed", "predicted", "progress_panel"]
