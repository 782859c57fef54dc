"""One prompt in a beam search: its groups of beams, its likeliest candidates, and the test for the end of a branch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from labkit.engine.beams.beam_group import BeamGroup, Candidate, Ends, Hypothesis
from labkit.engine.beams.beam_tree import BeamTree, Node, path
from labkit.engine.schedule.cached_sequence import CachedSequence
from labkit.engine.schedule.plan import Chunk
from labkit.engine.schedule.sequence import Sequence


class BeamPrompt:
    """The beams that continue `sequence`, which has no new tokens yet.

    entry: holds the slots of the prompt and of the positions before it; all beams share these slots. chunk: the positions that
    a forward pass computes before the first new token, which are all positions except the positions of a prefix prompt.
    """

    def __init__(self, sequence: Sequence, tree: BeamTree, row: int) -> None:
        self.sequence = sequence
        self.params = sequence.params
        self.entry = CachedSequence(sequence)
        self.entry.extend(np.array([tree.take() for _ in range(sequence.given_positions)], np.int32))
        self.chunk = Chunk.next_of(self.entry, sequence.given_positions)
        ends = ends_of(sequence)
        groups = range(self.params.num_beam_groups)
        self.groups = [BeamGroup(self.params, sequence.max_new_tokens, ends, tree, row) for _ in groups]
        endings = len(sequence.stop_token_ids) + len(self.params.stop)
        self._kept = max(2, 1 + endings)  # so many candidates per beam that enough are left, even if some of them end a branch

    @property
    def done(self) -> bool:
        """Whether the search of every group is over."""
        return all(group.done for group in self.groups)

    @property
    def made(self) -> int:
        """The number of new tokens in each running beam."""
        return max(group.made for group in self.groups)

    @property
    def hypotheses(self) -> list[Hypothesis]:
        """The hypotheses so far, best first."""
        ended = [hypothesis for group in self.groups for hypothesis in group.pool]
        return sorted(ended, key=lambda hypothesis: -hypothesis.score)

    def best(self, scores: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        """The likeliest candidates of group `turn`, best first, as two tensors: scores, and indices in the flattened `scores`.

        scores: this group's scores, `[beams, vocab_size]`. The earlier groups have already chosen their tokens for this step.
        """
        group, vocab_size = self.groups[turn], scores.shape[1]
        if taken := [beam.node.token for g in self.groups[:turn] for beam in g.beams if beam.node is not None]:
            times = torch.tensor(taken, dtype=torch.int64, device=scores.device).bincount(minlength=vocab_size)
            scores = scores - self.params.diversity_penalty * times.to(scores.dtype)
        kept = self._kept * group.size
        if not self.params.diversity_rate:
            best = scores.flatten().topk(min(kept, scores.numel()))
            return best.values, best.indices
        children = scores.topk(min(kept, vocab_size), dim=1)
        ranks = torch.arange(children.values.shape[1], dtype=torch.float32, device=scores.device)
        handicap = self.params.diversity_rate * ranks
        order = (children.values - handicap).flatten().topk(min(kept, children.values.numel())).indices
        places = children.indices + vocab_size * torch.arange(len(scores), dtype=torch.int64, device=scores.device)[:, None]
        return children.values.flatten()[order], places.flatten()[order]

    def take(self, turn: int, scores: list[float], places: list[int], vocab_size: int) -> list[tuple[Node, int]]:
        """Advance group `turn` by one token, given the result of `best`.

        Returns new nodes, each with the batch row it continues.
        """
        group = self.groups[turn]
        pairs = [(score, divmod(place, vocab_size)) for score, place in zip(scores, places, strict=True)]
        found = [Candidate(score, beam, token) for score, (beam, token) in pairs if score > -math.inf]
        return [(node, group.row + beam) for node, beam in group.take(found)]


def ends_of(sequence: Sequence) -> Ends:
    """Return a function that tells whether a token ends a branch, with a stop token, a stop sequence or a stop string."""
    params = sequence.params
    any_string = any(isinstance(word, str) for word in params.stop)

    def ends(parent: Node | None, token: int, made: int) -> bool:
        if token in sequence.stop_token_ids:
            return True
        searched = made - params.min_new_tokens
        if not params.stop or searched <= 0:
            return False
        tokens = [*(node.token for node in path(parent, searched - 1)), token]
        if sequence.stop_words.found(tokens) is not None:
            return True
        stream = sequence.text_stream()
        if any_string:
            stream.push(*map(sequence.piece, tokens))
        return stream.stopped_by is not None

    return ends
