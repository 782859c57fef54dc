"""Beam search over the model's forward pass, several prompts at once: the branches that are likeliest as a whole.

Each prompt is computed once and its beams name the same slots of the cache. A beam whose past changes gets another row
of slot numbers; keys and values stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass

import torch
from torch import Tensor

from labkit import ops
from labkit.engine.beams.group import Hypothesis
from labkit.engine.beams.prefill import prompt_batch
from labkit.engine.beams.prompt import BeamPrompt, positions_of
from labkit.engine.beams.tree import BeamTree, Node
from labkit.engine.sampler import Sampler, token_logprobs
from labkit.engine.schedule.sequence import Sequence
from labkit.engine.step_failures import check_numbers
from labkit.model.batch import Batch
from labkit.model.forward import Forward
from labkit.model.kv_cache import KVCache


def slots_needed(sequence: Sequence) -> int:
    """Slots of the cache that a prompt and its beams take at most."""
    return positions_of(sequence) + sequence.params.num_beams * (sequence.max_new_tokens - 1)


@dataclass(frozen=True)
class Row:
    """A beam in the batch: its prompt, its score, its last token (None: the prompt's), the row that it comes from."""

    prompt: BeamPrompt
    score: float
    node: Node | None
    parent: int


class BeamSearch:
    """Runs the beams of `sequences` (one a prompt, nothing made yet) to their ends.

    `forward` is the model's, over `vocab_size` tokens; `slots` are the slots of `cache` that it may use: the
    `slots_needed` of all sequences together are always enough. One forward pass takes `max_prefill_tokens` prompt
    tokens, or one prompt.
    """

    def __init__(
        self,
        forward: Forward,
        vocab_size: int,
        cache: KVCache,
        slots: Iterable[int],
        sequences: SequenceOf[Sequence],
        *,
        max_prefill_tokens: int = 8192,
    ) -> None:
        self._forward, self._vocab_size, self._cache = forward, vocab_size, cache
        self._device = cache.keys.device
        self._max_prefill_tokens = max_prefill_tokens
        self.tree = BeamTree(slots)
        self._prompts = [BeamPrompt(sequence, self.tree, row) for row, sequence in enumerate(sequences)]
        self._rows = [Row(prompt, 0.0, None, row) for row, prompt in enumerate(self._prompts)]
        width = max(positions_of(sequence) + sequence.max_new_tokens - 1 for sequence in sequences)
        table = torch.zeros(len(sequences), width, dtype=torch.int32, device="cpu")
        self._sampler = Sampler(sum(s.params.num_beams for s in sequences), vocab_size, self._device)
        for row, prompt in enumerate(self._prompts):
            table[row, : len(prompt.slots)] = torch.tensor(prompt.slots, dtype=torch.int32, device="cpu")
            self._sampler.join(row, prompt.sequence)
        self._table = table.to(self._device)  # [rows, width]: the slots that each row sees

    def run(self) -> list[list[Hypothesis]]:
        """The ended hypotheses of each sequence, best first; the `path` to a hypothesis' node holds its tokens."""
        for _ in self.passes():
            pass
        return self.hypotheses

    def passes(self) -> Iterator[None]:
        """The search, one forward pass a turn, so that others can have theirs in between."""
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
        """What has ended so far of each sequence, best first."""
        return [prompt.hypotheses for prompt in self._prompts]

    def _step(self, logits: Tensor) -> bool:
        """Choose the next tokens of every group; whether any beam goes on."""
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
                self.tree.free += prompt.slots
        self._renumber(live)
        return bool(self._rows)

    def _take(self, prompts: list[BeamPrompt], turn: int, scores: Tensor) -> list[tuple[Node, int]]:
        """Let one group of each prompt take its tokens; one copy to the host for all of them."""
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
            made += prompt.take(turn, best[first:last], places[first:last], self._vocab_size)
            first = last
        return made

    def _scores(self, logits: Tensor) -> Tensor:
        """Each beam's score with each next token: `[rows, vocab_size]`, float32 (float64 for float64)."""
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        temperatures = [row.prompt.params.temperature or 1.0 for row in self._rows]
        scores = [row.score for row in self._rows]
        numbers = torch.tensor([temperatures, scores], dtype=torch.float64, device="cpu")
        temperature, score = numbers.to(self._device, wide.dtype).unbind(0)
        if any(value != 1 for value in temperatures):
            wide = wide / temperature[:, None]
        edited = self._sampler.edit(torch.log_softmax(wide, dim=-1), range(len(self._rows)))
        return edited + score[:, None]

    def _note_logprobs(self, logits: Tensor, made: list[tuple[Node, int]]) -> None:
        """Keep the tokens' log-probabilities where the prompt's parameters ask for them."""
        counts = [self._rows[row].prompt.params.logprobs for _, row in made]
        wanted = [(node, row, count) for (node, row), count in zip(made, counts, strict=True) if count is not None]
        rows = [row for _, row, _ in wanted]
        found = token_logprobs(logits[rows], [node.token for node, _, _ in wanted], [count for _, _, count in wanted])
        for (node, _, _), logprob in zip(wanted, found, strict=True):
            node.logprob = logprob

    def _renumber(self, live: list[BeamPrompt]) -> None:
        """Give the groups the rows that their beams will have, and let the sampler's rows follow."""
        row = 0
        for group in (group for prompt in live for group in prompt.groups):
            group.row = row
            row += len(group.beams)
        self._sampler.select([row.parent for row in self._rows])
        made = [row.node.token for row in self._rows if row.node is not None]
        tokens = torch.tensor(made, dtype=torch.int64, device=self._device)
        self._sampler.advance(tokens, range(len(self._rows)))

    def _prefill(self) -> Iterator[Batch]:
        """Every prompt once, however many beams will go on from it."""
        first, tokens = 0, 0
        for last, prompt in enumerate(self._prompts):
            if last > first and tokens + prompt.num_computed > self._max_prefill_tokens:
                yield prompt_batch(self._prompts[first:last], self._table[first:last], self._forward, self._cache)
                first, tokens = last, 0
            tokens += prompt.num_computed
        yield prompt_batch(self._prompts[first:], self._table[first:], self._forward, self._cache)

    def _decode(self) -> Batch:
        """One new token of every beam, behind the slots of the row that it comes from."""
        nodes = [row.node for row in self._rows if row.node is not None]
        at = [len(row.prompt.slots) + row.prompt.made - 1 for row in self._rows]
        windows = [row.prompt.params.memory_len or len(row.prompt.slots) + row.prompt.made for row in self._rows]
        numbers = [
            [row.parent for row in self._rows],
            [node.token for node in nodes],
            [self.tree.place(node) for node in nodes],
            at,
            [position % window for position, window in zip(at, windows, strict=True)],  # a full memory forgets the oldest
            [min(position + 1, window) for position, window in zip(at, windows, strict=True)],
        ]
        sent = torch.tensor(numbers, dtype=torch.int64, device="cpu").to(self._device)
        parents, token_ids, slots, positions, columns, lengths = sent.unbind(0)
        lines = torch.arange(len(nodes) + 1, dtype=torch.int64, device=self._device)
        self._table = self._table[parents]
        self._table[lines[:-1], columns] = slots.int()
        return Batch(
            token_ids=token_ids,
            positions=positions,
            slot_mapping=slots,
            starts=lines.int(),
            slot_table=self._table,
            lengths=lengths.int(),
            num_decodes=len(nodes),
            logit_rows=lines[:-1],
        )
