"""Exercise 4.9: compute, before the server runs, how many copies of a model and which delay keep the latency within a bound."""

from __future__ import annotations

from labkit.exercises.exercise import Exercise
from labkit.exercises.held_cases import HeldCases

CHOOSE_BATCHING = Exercise(
    name="lab04.choose_batching",
    lab="04",
    number="4.9",
    title="Choose copies and delay",
    function="choose_batching",
    statement=(
        "Requests arrive evenly, `rate` per second. Every n requests form a batch; n is at most `most`. A copy of the model "
        "computes a batch in `first + more * n` seconds. The delay is the time that the first request of a batch waits for the "
        "n-th. The copies must keep up. Of all n whose longest latency (delay plus computation) is at most "
        "`bound`, choose the fewest copies, then the lowest latency. Return `(copies, n, delay, latency)` in "
        "seconds, or None if no n fits."
    ),
    points=10,
    minutes=30,
    difficulty=3,
    cases=HeldCases("labkit.answers.lab04.choosing"),
    hints=(
        "First take a single n: what are its delay, its computing time, its latency and its number of copies? Then loop over "
        "n.",
        "One copy answers n / (first + more * n) requests per second. Divide rate by that number and round up (math.ceil) to "
        "get the copies.",
        "plans.append((copies, n, delay, latency)) for each plan within the bound; then min(plans, key=lambda p: (p[0], "
        "p[3]), default=None).",
    ),
)
