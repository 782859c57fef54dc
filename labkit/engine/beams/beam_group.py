"""One group of beams: decides which candidates continue, which candidates end, and when the search is over.

This module works only on scores and tokens. It follows the rules of the beam search in `transformers`, even for equal scores.
If a prompt has several groups, each group is a separate search; the diversity penalty makes them choose different tokens
(Vijayakumar et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.engine.beams.beam_tree import BeamTree, Node
from labkit.engine.sampling_params import SamplingParams

Ends = Callable[[Node | None, int, int], bool]


@dataclass(frozen=True)
class Candidate:
    """A token that could continue a beam.

    `beam` is the beam's index; `score` is the sum of the beam's and the token's score.
    """

    score: float
    beam: int
    token: int


@dataclass(frozen=True)
class Beam:
    """A running beam: a branch of the tree that has not ended.

    `node`: the beam's last token; None if the beam has only the prompt. `parent`: the index, in the previous step, of the beam
    that this one continues.
    """

    score: float
    node: Node | None
    parent: int


@dataclass(frozen=True)
class Hypothesis:
    """A branch that has ended. `score` is the sum of its tokens' scores, divided by (number of tokens ** length_penalty)."""

    score: float
    node: Node


class BeamGroup:
    """The running beams of a group, and its finished hypotheses. Each of the two lists has up to `size` entries, best first.

    A candidate ends its branch if `ends(parent node, token, made)` is true, or if `made` is `max_new_tokens`. `made` is the
    number of new tokens in the branch, including the candidate.
    """

    def __init__(self, params: SamplingParams, max_new_tokens: int, ends: Ends, tree: BeamTree, row: int = 0) -> None:
        self.size = params.num_beams // params.num_beam_groups
        self.row = row  # the batch row of the group's first beam; the group's other beams have the next rows
        self.beams = [Beam(0.0, None, 0)]
        self.pool: list[Hypothesis] = []
        self.done = False
        self._params = params
        self._max_new_tokens = max_new_tokens
        self._ends = ends
        self._tree = tree
        self.made = 0

    def take(self, candidates: Sequence[Candidate]) -> list[tuple[Node, int]]:
        """Advance the group by one token. `candidates` are the likeliest candidates, best first.

        Returns the new nodes, each with the index of the beam that it continues.
        """
        self.made += 1
        running: list[Beam] = []
        ended: list[Hypothesis] = []
        made: list[tuple[Node, int]] = []
        for rank, candidate in enumerate(candidates):
            parent = self.beams[candidate.beam].node
            ends = self.made == self._max_new_tokens or self._ends(parent, candidate.token, self.made)
            if (ends and rank >= self.size) or (not ends and len(running) == self.size):
                continue
            node = self._tree.add(candidate.token, parent)
            made.append((node, candidate.beam))
            if ends:
                ended.append(Hypothesis(candidate.score / self.made**self._params.length_penalty, node))
            else:
                running.append(Beam(candidate.score, node, candidate.beam))
        for beam in self.beams:
            self._tree.release(beam.node)
        self.beams = running
        for hypothesis in ended:
            self._tree.release(hypothesis.node)  # the hypothesis keeps its tokens, but nothing is computed after them
        self.pool = sorted([*self.pool, *ended], key=lambda hypothesis: -hypothesis.score)[: self.size]
        self.done = not running or (len(self.pool) == self.size and self._is_settled())
        if self.done:
            for beam in running:
                self._tree.release(beam.node)
            self.beams = []
        return made

    def _is_settled(self) -> bool:
        """Whether a search that has `size` hypotheses is over: `early_stopping` is set, or no running beam can score better."""
        params = self._params
        if params.early_stopping is True:
            return True
        longest = params.early_stopping == "never" and params.length_penalty > 0
        length = self._max_new_tokens if longest else self.made
        best_end: float = self.beams[0].score / length**params.length_penalty
        return best_end <= self.pool[-1].score
