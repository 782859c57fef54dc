"""Beam search with a model's forward pass, for several prompts at once. Finds the likeliest whole continuations.

Each prompt is computed once, and all its beams share the prompt's cache slots. When a beam continues another beam, only the
beam's line of slot numbers changes; keys and values are never moved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.beams.beam_group import Hypothesis
from labkit.engine.beams.beam_prompt import BeamPrompt
from labkit.engine.beams.beam_tree import BeamTree, Node
from labkit.engine.logprobs import token_logprobs
from labkit.engine.prefill_batch import prefill_batch, write_prefix_prompts
from labkit.engine.sampler import Sampler
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.slot_table import SlotTable
from labkit.engine.step_failures import check_numbers
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


@dataclass(frozen=True)
class Row:
    """One beam in the batch: its prompt, its score, its last token (None: no new token yet), and the row that it continues."""

    prompt: BeamPrompt
    score: float
    node: Node | None
    parent: int


class BeamSearch:
    """Runs the beams of `sequences` until all have ended. Each prompt has one sequence, which has no new tokens yet.

    sampler: applies penalties and bans. sampler_rows: the rows of the sampler that the search uses, `num_beams` of them for
    each sequence. slots: the slots of `cache` that the search may use; the sum of `slots_needed` over all sequences is always
    enough. max_prefill_tokens: the most prompt tokens that one forward pass computes; a longer prompt gets its own pass.
    """

    def __init__(
        self,
        forward: Forward,
        cache: KVCache,
        sampler: Sampler,
        sampler_rows: SequenceOf[int],
        slots: Iterable[int],
        sequences: SequenceOf[Sequence],
        *,
        max_prefill_tokens: int = 8192,
    ) -> None:
        self._forward, self._cache = forward, cache
        self._sampler, self._sampler_rows = sampler, sampler_rows
        self._max_prefill_tokens = max_prefill_tokens
        self.tree = BeamTree(slots)
        self._prompts = [BeamPrompt(sequence, self.tree, row) for row, sequence in enumerate(sequences)]
        self._rows = [Row(prompt, 0.0, None, row) for row, prompt in enumerate(self._prompts)]
        width = max(sequence.given_positions + sequence.max_new_tokens - 1 for sequence in sequences)
        self._table = SlotTable(len(sampler_rows), width, forward.batch_device)
        for row, prompt in enumerate(self._prompts):
            self._table.write(row, prompt.entry.held)
            sampler.join(sampler_rows[row], prompt.sequence)

    def run(self) -> list[list[Hypothesis]]:
        """Search to the end. Returns the hypotheses of each sequence, best first; `path(hypothesis.node)` holds its tokens."""
        for _ in self.passes():
            pass
        return self.hypotheses

    def passes(self) -> Iterator[None]:
        """Run the search, but pause after each forward pass, so that other work can run in between."""
        found = []
        for batch in self._prefill():
            found.append(self._forward(batch, self._cache))
            yield
        logits = torch.cat(found)
        if not ops.swapped():
            check_numbers(logits)
        while self._step(logits):
            logits = self._forward(self._decode(), self._cache)
            yield

    @property
    def hypotheses(self) -> list[list[Hypothesis]]:
        """The hypotheses of each sequence so far, best first."""
        return [prompt.hypotheses for prompt in self._prompts]

    def _step(self, logits: Tensor) -> bool:
        """Choose the next tokens of every group. Returns whether any beam is still running."""
        scores = self._scores(logits)
        live = list(dict.fromkeys(row.prompt for row in self._rows))
        made: list[tuple[Node, int]] = []
        for turn in range(max(len(prompt.groups) for prompt in live)):
            made += self._take([p for p in live if turn < len(p.groups) and not p.groups[turn].done], turn, scores)
        self._note_logprobs(logits, made)
        self._rows = [
            Row(prompt, beam.score, beam.node, group.row + beam.parent)
            for prompt in live
            for group in prompt.groups
            for beam in group.beams
        ]
        for prompt in live:
            if prompt.done:
                self.tree.free += prompt.entry.held.tolist()
        self._renumber(live)
        return bool(self._rows)

    def _take(self, prompts: list[BeamPrompt], turn: int, scores: Tensor) -> list[tuple[Node, int]]:
        """Choose the tokens of group `turn` of each prompt. The results of all prompts are copied to the host together."""
        found = []
        for prompt in prompts:
            group = prompt.groups[turn]
            found.append(prompt.best(scores[group.row : group.row + len(group.beams)], turn))
        if not found:
            return []
        best = torch.cat([values for values, _ in found]).tolist()
        places = torch.cat([indices for _, indices in found]).tolist()
        made, first = [], 0
        for prompt, (values, _) in zip(prompts, found, strict=True):
            last = first + len(values)
            made += prompt.take(turn, best[first:last], places[first:last], scores.shape[1])
            first = last
        return made

    def _scores(self, logits: Tensor) -> Tensor:
        """The score of each beam when continued with each token: `[rows, vocab_size]`, float32 (float64 for float64 logits)."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        temperatures = [row.prompt.params.temperature or 1.0 for row in self._rows]
        scores = [row.score for row in self._rows]
        numbers = torch.tensor([temperatures, scores], dtype=torch.float64, device="cpu")
        temperature, score = numbers.to(wide.device, wide.dtype).unbind(0)
        if any(value != 1 for value in temperatures):
            wide = wide / temperature[:, None]
        edited = self._sampler.edit(torch.log_softmax(wide, dim=-1), self._sampler_rows[: len(self._rows)])
        return edited + score[:, None]

    def _note_logprobs(self, logits: Tensor, made: list[tuple[Node, int]]) -> None:
        """Store the tokens' log-probabilities in their nodes if the request asks for them."""
        counts = [self._rows[row].prompt.params.logprobs for _, row in made]
        wanted = [(node, row, count) for (node, row), count in zip(made, counts, strict=True) if count is not None]
        rows = [row for _, row, _ in wanted]
        found = token_logprobs(logits[rows], [node.token for node, _, _ in wanted], [count for _, _, count in wanted])
        for (node, _, _), logprob in zip(wanted, found, strict=True):
            node.logprob = logprob

    def _renumber(self, live: list[BeamPrompt]) -> None:
        """Give the beams of each group their new row numbers, and reorder the sampler's rows in the same way."""
        row = 0
        for group in (group for prompt in live for group in prompt.groups):
            group.row = row
            row += len(group.beams)
        rows = self._sampler_rows[: len(self._rows)]
        self._sampler.select(rows, [self._sampler_rows[row.parent] for row in self._rows])
        made = [row.node.token for row in self._rows if row.node is not None]
        self._sampler.advance(torch.tensor(made, dtype=torch.int64, device=self._sampler.device), rows)

    def _prefill(self) -> Iterator[Batch]:
        """Yield the prefill batches of the prompts. Each prompt is computed once, even if it has many beams."""
        waiting: list[BeamPrompt] = []
        for prompt in self._prompts:
            if waiting and sum(p.chunk.count for p in (*waiting, prompt)) > self._max_prefill_tokens:
                yield self._prefill_batch(waiting)
                waiting = []
            waiting.append(prompt)
        yield self._prefill_batch(waiting)

    def _prefill_batch(self, prompts: list[BeamPrompt]) -> Batch:
        chunks = [prompt.chunk for prompt in prompts]
        write_prefix_prompts(chunks, self._forward, self._cache)
        return prefill_batch(chunks, self._table.device)

    def _decode(self) -> Batch:
        """Build the batch that has the newest token of every beam.

        In the slot table, this token's slot comes after the slots of the row that the beam continues.
        """
        nodes = [row.node for row in self._rows if row.node is not None]
        positions = [row.prompt.entry.num_slots + row.prompt.made - 1 for row in self._rows]
        self._table.select([row.parent for row in self._rows])
        placed = list(zip(self._rows, positions, strict=True))
        return self._table.decode(
            [node.token for node in nodes],
            positions,
            [self.tree.place(node) for node in nodes],
            [row.prompt.entry.column(position) for row, position in placed],
            [row.prompt.entry.length(position + 1) for row, position in placed],
        )
