"""The changes that captured decoding makes to a batch, tested on the CPU: the padding, and the step to the next token.

The capture itself is tested in tests/gpu.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from labkit import ops
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest, NotAvailable
from labkit.model import GPTJ, FixedBatches, KVCache, cuda_graph
from labkit.model.batch import Batch
from labkit.model.cuda_graph import GraphedGPTJ
from labkit.model.decode_inputs import BUCKETS, DecodeInputs, bucket_of
from labkit.model.prefill_inputs import PrefillInputs
from tests.models import SHAPES, peer_greedy, random_peer, random_prompts

CPU = torch.device("cpu")


def model_of(peer: Any) -> GPTJ:
    weights = peer.state_dict()
    return GPTJ.from_tensors(GPTJConfig.from_dict(peer.config.to_dict()), lambda name: weights[name].detach().clone())


class Decoding:
    """Prefilled sequences of different lengths. Slots that no sequence holds are filled with NaN."""

    def __init__(self, lengths: list[int], capacity: int = 30, shape: str = "one head of 80") -> None:
        self.peer = random_peer(shape, 3)
        self.model = model_of(self.peer)
        slots = len(lengths) * capacity
        self.padding = slots
        self.cache = KVCache(self.model.config, slots + 1, device=CPU, dtype=torch.float32)
        self.cache.keys.fill_(math.nan)
        self.cache.values.fill_(math.nan)
        self.batches = FixedBatches(len(lengths), capacity, CPU)
        self.prompts = random_prompts(self.model.config.vocab_size, lengths, 3)
        logits = self.model.forward(self.batches.prefill([torch.tensor(prompt) for prompt in self.prompts]), self.cache)
        self.first = logits.argmax(-1)

    def batch(self) -> Batch:
        return self.batches.decode(self.first)

    def peer_tokens(self, steps: int) -> list[list[int]]:
        """The new tokens that transformers generates for each prompt, without the first new token."""
        return [peer_greedy(self.peer, prompt, steps + 1, eos_token_id=None)[1:] for prompt in self.prompts]


def test_buckets() -> None:
    assert [bucket_of(n) for n in (1, 2, 3, 9, 17, 25, 200, 256, 257)] == [1, 2, 4, 16, 24, 32, 256, 256, None]
    assert bucket_of(2, (4, 1)) == 4
    assert list(BUCKETS) == sorted(BUCKETS)


@pytest.mark.parametrize("bucket", [3, 4, 8])
def test_padding_changes_no_real_row_and_no_slot_but_paddings(bucket: int) -> None:
    plain, padded = Decoding([5, 1, 9]), Decoding([5, 1, 9])
    expected = plain.model.forward(plain.batch(), plain.cache)
    inputs = DecodeInputs(8, 40, padded.padding, CPU)
    inputs.load(padded.batch())
    logits = padded.model.forward(inputs.batch(bucket), padded.cache)
    assert logits.shape[0] == bucket
    assert bool(logits.isfinite().all()), "a padding row read a slot that nobody wrote"
    assert (logits[:3] - expected).norm() / expected.norm() < 1e-5
    assert logits[:3].argmax(-1).tolist() == expected.argmax(-1).tolist()
    for mine, others in ((padded.cache.keys, plain.cache.keys), (padded.cache.values, plain.cache.values)):
        assert torch.allclose(mine[:, :-1], others[:, :-1], rtol=1e-4, atol=1e-5, equal_nan=True)
        assert bool(mine[:, -1].isnan().all()) == (bucket == 3)


def test_a_smaller_batch_leaves_nothing_of_a_larger_one() -> None:
    large, small = Decoding([5, 1, 9, 2]), Decoding([3, 4])
    inputs = DecodeInputs(8, 40, large.padding, CPU)
    inputs.load(large.batch())
    inputs.load(small.batch())
    batch = inputs.batch(4)
    assert batch.token_ids.tolist() == [*small.first.tolist(), 0, 0]
    assert batch.positions.tolist() == [3, 4, 0, 0]
    assert batch.slot_mapping.tolist() == [3, 34, large.padding, large.padding]
    assert batch.lengths.tolist() == [4, 5, 1, 1]
    assert batch.slot_table[2:, 0].tolist() == [large.padding] * 2
    assert batch.slot_table[1, :5].tolist() == [30, 31, 32, 33, 34]
    assert batch.starts.tolist() == [0, 1, 2, 3, 4]
    assert (batch.num_decodes, batch.is_decode) == (4, True)


def test_sequences_move_on_and_padding_stays() -> None:
    decoding = Decoding([3, 1])
    inputs = DecodeInputs(4, 30, decoding.padding, CPU)
    inputs.load(decoding.batch())
    for step in range(1, 4):
        inputs.advance(torch.tensor([10, 20, 30, 40]) + step)
        batch = inputs.batch(4)
        assert batch.token_ids.tolist() == [10 + step, 20 + step, 30 + step, 40 + step]
        assert batch.positions.tolist() == [3 + step, 1 + step, 0, 0]
        assert batch.lengths.tolist() == [4 + step, 2 + step, 1, 1]
        assert batch.slot_mapping.tolist() == [3 + step, 31 + step, decoding.padding, decoding.padding]
    assert inputs.made(2, 3).tolist() == [[11, 12, 13], [21, 22, 23]]
    inputs.load(decoding.batches.decode(decoding.first))
    inputs.advance(torch.tensor([7, 8]))
    assert inputs.made(2, 1).tolist() == [[7], [8]]


def test_the_last_slot_can_be_filled() -> None:
    inputs = DecodeInputs(1, 3, 9, CPU)
    decoding = FixedBatches(1, 3, CPU)
    decoding.lengths += 2
    inputs.load(decoding.decode(torch.tensor([5])))
    inputs.advance(torch.tensor([6]))
    assert inputs.batch(1).lengths.tolist() == [4]


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_transformers(shape: str) -> None:
    decoding = Decoding([4, 1, 11], 24, shape)
    graphed = GraphedGPTJ(decoding.model, decoding.padding)
    batch = decoding.batch()
    made = graphed.decode_greedy(batch, decoding.cache, 12)
    assert made.tolist() == decoding.peer_tokens(12)
    assert batch.lengths.tolist() == [5, 2, 12], "the caller's batch was changed"
    decoding.batches.lengths += 11
    more = graphed.decode_greedy(decoding.batches.decode(made[:, -1]), decoding.cache, 1)
    assert more.tolist() == [row[-1:] for row in decoding.peer_tokens(13)]


def test_on_the_cpu_it_goes_operation_by_operation() -> None:
    decoding, plain = Decoding([5, 1]), Decoding([5, 1])
    graphed = GraphedGPTJ(decoding.model, decoding.padding)
    assert (graphed.device, graphed.dtype, graphed.config) == (CPU, torch.float32, decoding.model.config)
    assert torch.equal(graphed.forward(decoding.batch(), decoding.cache), plain.model.forward(plain.batch(), plain.cache))
    with pytest.raises(NotAvailable, match="need a GPU and the package triton; the model is on cpu"):
        graphed.capture(decoding.cache)


class Eager:
    """Replaces a captured graph: `replay` repeats the captured call on the same tensors."""

    made = 0

    def __init__(self, run: Callable[[], torch.Tensor], pool: object) -> None:
        Eager.made += 1
        self._run = run
        run()

    def replay(self) -> torch.Tensor:
        return self._run()


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "on_triton", lambda tensor: True)
    monkeypatch.setattr(cuda_graph, "_Captured", Eager)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(Eager, "made", 0)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_which_batches_come_from_a_graph_and_when_it_is_captured() -> None:
    decoding, plain = Decoding([5, 1, 9]), Decoding([5, 1, 9])
    graphed = GraphedGPTJ(decoding.model, decoding.padding, buckets=(1, 4))
    for _ in range(2):  # the second step replays the graph of the first
        found, expected = graphed.forward(decoding.batch(), decoding.cache), plain.model.forward(plain.batch(), plain.cache)
        assert found.shape == expected.shape
        assert (found - expected).norm() / expected.norm() < 1e-5
    assert Eager.made == 1
    seen: list[int] = []

    def embedding(token_ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        seen.append(len(token_ids))
        return table[token_ids]

    with ops.use(embedding=embedding):
        graphed.forward(decoding.batch(), decoding.cache)
    assert seen == [3], "the swapped operation did not run, or on a padded batch"
    graphed.forward(decoding.batches.prefill([torch.tensor([1, 2])] * 3), decoding.cache)
    assert Eager.made == 2, "a short prefill has a graph of its own"
    graphed.forward(decoding.batches.prefill([torch.tensor([1, 2])] * 3, all_logits=True), decoding.cache)
    graphed.forward(decoding.batches.prefill([torch.tensor([1])] * 3), decoding.cache)
    assert Eager.made == 3, "eight rows are padded as six are"
    mixed = dataclasses.replace(decoding.batches.prefill([torch.tensor([1])] * 3), num_decodes=2)
    graphed.forward(mixed, decoding.cache)
    assert Eager.made == 3
    rows = torch.tensor([2, 0])
    wanted = dataclasses.replace(decoding.batch(), logit_rows=rows)
    assert torch.equal(graphed.forward(wanted, decoding.cache), graphed.forward(dataclasses.replace(wanted), decoding.cache))
    assert graphed.forward(wanted, decoding.cache).shape[0] == 2
    graphed.capture(decoding.cache, greedy=True)
    assert Eager.made == 6
    another = KVCache(decoding.model.config, decoding.padding + 1, device=CPU, dtype=torch.float32)
    another.keys.zero_()
    another.values.zero_()
    graphed.forward(decoding.batch(), another)
    assert Eager.made == 7
    graphed.forward(decoding.batches.prefill([torch.tensor([1])] * 3), decoding.cache)
    assert Eager.made == 7, "a prefill over another cache has the graphs dropped"


@pytest.mark.usefixtures("as_on_a_gpu")
def test_greedy_tokens_come_from_a_graph_too() -> None:
    decoding = Decoding([4, 1, 11])
    graphed = GraphedGPTJ(decoding.model, decoding.padding, buckets=(8,))
    assert graphed.decode_greedy(decoding.batch(), decoding.cache, 12).tolist() == decoding.peer_tokens(12)
    assert Eager.made == 1


def test_refusals() -> None:
    decoding = Decoding([20, 3])
    graphed = GraphedGPTJ(decoding.model, decoding.padding)
    with pytest.raises(InvalidRequest, match="no bucket of 5 sequences; the buckets are"):
        graphed.capture(decoding.cache, [5])
    with pytest.raises(
        InvalidRequest, match=r"12 greedy steps from position 20 on need 32 columns of the slot table, which has"
    ):
        graphed.decode_greedy(decoding.batch(), decoding.cache, 12)
    with pytest.raises(InvalidRequest, match="decode_greedy got 0 steps"):
        graphed.decode_greedy(decoding.batch(), decoding.cache, 0)
    with pytest.raises(InvalidRequest, match="one new token of each sequence"):
        graphed.decode_greedy(decoding.batches.prefill([torch.tensor([1, 2])] * 2), decoding.cache, 1)
    with pytest.raises(InvalidRequest, match="padding_slot is -1"):
        GraphedGPTJ(decoding.model, -1)
    small = KVCache(decoding.model.config, decoding.padding, device=CPU, dtype=torch.float32)
    with pytest.raises(InvalidRequest, match=f"slot {decoding.padding}, but the KV cache has {decoding.padding} slots"):
        graphed._bind(small)


def test_which_prefills_are_padded_to_what() -> None:
    inputs = PrefillInputs(700, 0, CPU)
    for counts, bucket in {(1,): (1, 16), (17, 1): (2, 32), (1, 1, 1): (4, 16), (300, 200): (2, 512), (513,): None}.items():
        batches = FixedBatches(len(counts), 600, CPU)
        assert inputs.bucket(batches.prefill([torch.ones(count, dtype=torch.int64) for count in counts])) == bucket
    batches = FixedBatches(1, 600, CPU)
    scored = batches.prefill([torch.ones(9, dtype=torch.int64)], all_logits=True)
    assert inputs.bucket(scored) is None, "more rows of logits than sequences"
    batches = FixedBatches(1, 701, CPU)
    assert inputs.bucket(batches.prefill([torch.ones(9, dtype=torch.int64)])) is None, "more slots than fit"
    soft = dataclasses.replace(batches.prefill([torch.ones(9, dtype=torch.int64)]), soft_rows=torch.tensor([0]))
    assert PrefillInputs(800, 0, CPU).bucket(soft) is None


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("shape", SHAPES)
def test_padded_prefills_give_the_plain_models_logits(shape: str) -> None:
    """Whole prompts and later pieces of prompts are prefilled. The graphs have room for more sequences and tokens."""
    padded, plain = Decoding([5, 1, 9], 60, shape), Decoding([5, 1, 9], 60, shape)
    graphed = GraphedGPTJ(padded.model, padded.padding)
    vocab = padded.model.config.vocab_size
    for number, counts in enumerate([(3, 1, 6), (1, 2, 1), (4, 4, 2)]):
        prompts = [torch.tensor(tokens) for tokens in random_prompts(vocab, list(counts), number)]
        found = graphed.forward(padded.batches.prefill(prompts), padded.cache)
        expected = plain.model.forward(plain.batches.prefill(prompts), plain.cache)
        assert found.shape == expected.shape
        assert bool(found.isfinite().all())
        assert (found - expected).norm() / expected.norm() < 1e-5
    for mine, others in ((padded.cache.keys, plain.cache.keys), (padded.cache.values, plain.cache.values)):
        assert torch.allclose(mine[:, :-1], others[:, :-1], rtol=1e-4, atol=1e-5, equal_nan=True)
    rows = torch.tensor([4, 0])
    prompts = [torch.tensor(tokens) for tokens in random_prompts(vocab, [2, 2, 2], 9)]
    wanted = dataclasses.replace(padded.batches.prefill(prompts), logit_rows=rows)
    expected = plain.model.forward(dataclasses.replace(plain.batches.prefill(prompts), logit_rows=rows), plain.cache)
    found = graphed.forward(wanted, padded.cache)
    assert (found - expected).norm() / expected.norm() < 1e-5
    assert graphed.forward(dataclasses.replace(wanted, logit_rows=rows[:0]), padded.cache).shape == (0, vocab)
