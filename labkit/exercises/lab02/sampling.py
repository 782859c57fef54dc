"""Exercise 2.9: choose a token from a row of logits."""

from __future__ import annotations

import torch

from labkit.exercises.case import Case
from labkit.exercises.contracts import NothingDrawn
from labkit.exercises.exercise import Exercise
from labkit.exercises.lab02.draws import Draws


def _cases(seed: int) -> list[Case]:
    draws = Draws(seed)
    cases = []
    settings = [(1.0, 0, 1.0), (0.6, 5, 1.0), (1.7, 0, 0.7), (0.7, 12, 0.8), (1.4, 9, 0.55), (0.8, 1, 0.9)]
    for temperature, top_k, top_p in settings:
        for _ in range(7):
            vocab = draws.pick.choice([23, 50, 97])
            share = draws.pick.random()
            logits = draws.normal(vocab, scale=1.5).cpu()
            label = f"vocab {vocab}, temperature {temperature}, top_k {top_k}, top_p {top_p}, share {share:.3f}"
            cases.append(Case(label, (logits, temperature, top_k, top_p, share)))
    for top_k, top_p in ((3, 1.0), (0, 0.6)):  # `share` is 0, but token 0 is not kept
        logits = draws.normal(31, scale=1.5).cpu()
        logits[0] = float(logits.min()) - 1
        cases.append(Case(f"share 0, top_k {top_k}, top_p {top_p}, token 0 dropped", (logits, 0.9, top_k, top_p, 0.0)))
    for top_k in (1, 4):  # Several tokens are the likeliest, or equally likely tokens are at the border of top_k.
        logits = torch.full((23,), -1.0)
        logits[[2, 5, 11, 17, 20]] = torch.tensor([2.0] * 5 if top_k == 1 else [1.0, 2.0, 1.0, 1.0, 1.0])
        cases.append(Case(f"equal logits, top_k {top_k}", (logits, 0.8, top_k, 1.0, 0.999)))
    return cases


SAMPLE_TOKEN = Exercise(
    name="lab02.sample_token",
    lab="02",
    number="2.9",
    title="From logits to a token",
    function="sample_token",
    statement=(
        "Divide `logits` `[vocab]` by `temperature`. Keep the `top_k` likeliest tokens (0 keeps all; of equal tokens, the "
        "lower number comes first). Of these, keep the smallest set of likeliest tokens whose probabilities together **reach** "
        "the fraction `top_p` of their total. Then add up the kept probabilities in order of token number, and return the "
        "first token at which the sum **exceeds** the fraction `share` (0 to 1) of their total.\n\n$$p_i \\propto e^{z_i / T} "
        "\\qquad \\min\\{t : \\textstyle\\sum_{i \\le t} p_i > \\text{share} \\cdot \\sum_i p_i\\}$$"
    ),
    points=10,
    minutes=20,
    difficulty=3,
    cases=_cases,
    hints=(
        "Sort the probabilities, largest first, and remember the token of each. Set the probabilities of tokens "
        "that are not kept to 0.",
        "top_k keeps the first of the sorted tokens. For top_p, the running sum (cumsum) before a token tells whether enough "
        "has been kept. Then restore the order of token numbers (scatter), and find share in the running sum (searchsorted).",
        "The sum before each token is before = ordered.cumsum(0) - ordered; compare it with top_p times the total that top_k "
        "kept.",
    ),
    contract=NothingDrawn("use the argument share, which is already a random number"),
)
EXERCISES = (SAMPLE_TOKEN,)
