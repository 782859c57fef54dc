"""Cheats in labs 03 and 04, whose functions run in processes of their own in the sandbox: ranks, and stages of a server."""

from __future__ import annotations

import inspect

import pytest

from labkit.answers.lab04.ensemble import ensemble_maps
from labkit.exercises.exercise import Exercise
from labkit.exercises.registry import exercise
from labkit.grading.machine_needs import missing
from labkit.grading.notebook_check import run_apart
from labkit.grading.submission import submission_of
from labkit.grading.verdict import INCONCLUSIVE, PASSED, Verdict
from labkit.grading.workers import Workers
from tests.sandboxes import sandbox_or_skip

pytestmark = pytest.mark.long

SEEDS = (101,)


def verdict_on(asked: Exercise, *cells: str) -> Verdict:
    """Judge these cells in the sandbox on the inputs of one seed. Return the verdict."""
    sandbox = sandbox_or_skip()
    if why := missing(asked):
        pytest.skip(f"not measured here: {asked.function} {why}")
    with Workers(sandbox=sandbox) as workers:
        return run_apart(asked, submission_of(*cells), workers)


RANKS = """
import torch
import torch.distributed as dist
import torch.nn.functional as F
"""
HONEST_RANK = """
def sharded_argmax(hidden, head, bias, first):
    value, place = F.linear(hidden, head, bias).max(-1)
    mine = torch.stack((value.double(), (place + first).double()))
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    values, tokens = torch.stack(found).unbind(1)
    return tokens.gather(0, values.argmax(0, keepdim=True))[0].long()
"""
FORGING_RANK = """
def sharded_argmax(hidden, head, bias, first):
    import os, socket, sys, time
    from labkit.launch.messages import send_message
    from labkit.plain_values import encode
    tensors = {}
    value = encode(torch.zeros(len(hidden), dtype=torch.int64), tensors)
    with socket.socket(fileno=os.dup(int(sys.argv[1]))) as parent:
        for _ in range(100):
            send_message(parent, {"value": value, "ledger": "[]", "at_rest": True}, tensors)
    time.sleep(5)
    return torch.zeros(len(hidden), dtype=torch.int64)
"""
ENDING_RANK = """
def sharded_argmax(hidden, head, bias, first):
    import os, signal
    os.kill(os.getppid(), signal.SIGKILL)
    os._exit(0)
"""


def test_ranks_work_in_the_sandbox() -> None:
    verdict = verdict_on(exercise("lab03.sharded_argmax"), RANKS, HONEST_RANK)
    assert verdict.verdict in (PASSED, INCONCLUSIVE), verdict


@pytest.mark.parametrize("source", [FORGING_RANK, ENDING_RANK], ids=["forges answers", "kills its parent"])
def test_a_rank_that_talks_to_its_parent_gains_nothing(source: str) -> None:
    verdict = verdict_on(exercise("lab03.sharded_argmax"), RANKS, source)
    assert (verdict.points, verdict.verdict == PASSED) == (0, False), verdict


HONEST_STAGE = """
def postprocess(token_ids, lengths, decode):
    return [[decode(ids[:n].tolist()) for ids, n in zip(row, own)] for row, own in zip(token_ids, lengths)]
"""
STEALING_STAGE = """
def postprocess(token_ids, lengths, decode):
    from labkit.exercises.stubs import own_stages
    return own_stages.postprocess(token_ids, lengths, decode)
"""
OTHER_STAGE = """
def postprocess(token_ids, lengths, decode):
    import gc
    import numpy as np
    from labkit.exercises.stubs import stages
    text = np.full(token_ids.shape[:2], b"the answer of another stage", object)
    stages.postprocessing = lambda *arguments: text
    for model in gc.get_objects():
        if type(model).__name__ == "TritonPythonModel":
            type(model)._outputs = lambda self, request: {"OUTPUT": text, "INPUT_ID": np.zeros((1, 1), np.uint32)}
    return [["" for _ in row] for row in token_ids]
"""


def test_a_stage_works_in_the_sandbox() -> None:
    verdict = verdict_on(exercise("lab04.postprocess"), HONEST_STAGE)
    assert verdict.verdict in (PASSED, INCONCLUSIVE), verdict


def test_an_ensemble_has_the_stages_that_it_needs() -> None:
    """Exercise 4.5 is the only exercise whose sandbox shows labkit's own functions for the stages."""
    verdict = verdict_on(
        exercise("lab04.ensemble_maps"), "from __future__ import annotations", inspect.getsource(ensemble_maps)
    )
    assert verdict.verdict in (PASSED, INCONCLUSIVE), verdict


@pytest.mark.parametrize(
    ("source", "says"),
    [(STEALING_STAGE, "has no attribute 'postprocess'"), (OTHER_STAGE, "")],
    ids=["takes labkit's own stage", "answers for another stage"],
)
def test_a_stage_that_takes_or_gives_the_answers_of_others_gains_nothing(source: str, says: str) -> None:
    verdict = verdict_on(exercise("lab04.postprocess"), source)
    assert (verdict.points, verdict.verdict == PASSED) == (0, False), verdict
    assert says in verdict.message
