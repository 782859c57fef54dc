"""One group of beams: which candidates go on, which have ended, and when no better one can come.

Pure bookkeeping on numbers; the rules, ties included, are those of transformers' beam search. Several groups of one
prompt are searches of their own that the diversity penalty keeps apart (Vijayakumar et al. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from labkit.engine.beams.beam_tree import BeamTree, Node
from labkit.engine.sampling_params import SamplingParams

Ends = Callable[[Node | None, int, int], bool]


@dataclass(frozen=True)
class Candidate:
    """A token behind a running beam: its beam's index, and the sum of the branch's scores with this token's."""

    score: float
    beam: int
    token: int


@dataclass(frozen=True)
class Beam:
    """A branch that goes on (`node` None: the prompt alone); `parent` is the index of the beam that it came from."""

    score: float
    node: Node | None
    parent: int


@dataclass(frozen=True)
class Hypothesis:
    """A branch that has ended; `score` is its sum of scores over its number of tokens to the power of the penalty."""

    score: float
    node: Node


class BeamGroup:
    """The running beams of a group, best first, and the pool of its ended hypotheses, best first.

    `size` beams; a candidate, the `made`-th token, ends when `ends(parent node, token, made)` or as the last of
    `max_new_tokens`.
    """

    def __init__(self, params: SamplingParams, max_new_tokens: int, ends: Ends, tree: BeamTree, row: int = 0) -> None:
        self.size = params.num_beams // params.num_beam_groups
        self.row = row  # of its first beam in the batch; the others follow
        self.beams = [Beam(0.0, None, 0)]
        self.pool: list[Hypothesis] = []
        self.done = False
        self._params = params
        self._max_new_tokens = max_new_tokens
        self._ends = ends
        self._tree = tree
        self.made = 0

    def take(self, candidates: Sequence[Candidate]) -> list[tuple[Node, int]]:
        """Go one token on, given the likeliest candidates, best first; the nodes made, and the beams that they continue."""
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
            self._tree.release(hypothesis.node)  # it keeps its tokens, but nothing will be computed behind it
        self.pool = sorted([*self.pool, *ended], key=lambda hypothesis: -hypothesis.score)[: self.size]
        self.done = not running or (len(self.pool) == self.size and self._is_settled())
        if self.done:
            for beam in running:
                self._tree.release(beam.node)
            self.beams = []
        return made

    def _is_settled(self) -> bool:
        """Whether the search ends with a full pool: at once, or when the best beam is taken to have no better end."""
        params = self._params
        if params.early_stopping is True:
            return True
        longest = params.early_stopping == "never" and params.length_penalty > 0
        length = self._max_new_tokens if longest else self.made
        best_end: float = self.beams[0].score / length**params.length_penalty
        return best_end <= self.pool[-1].score
