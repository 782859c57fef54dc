"""The training script: the trained module is a GPT-J, a resumed run gives the same model as an uninterrupted run, and the
optimizer computes the right updates.
"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from labkit.builtin.corpus import Corpus, split_pieces
from labkit.builtin.train import (
    HeadLoss,
    Recipe,
    TrainableGPTJ,
    batch_at,
    bits_per_byte,
    learning_rate_factor,
    orthogonalize,
    train,
)

SMALL = Recipe(
    vocab_size=300,
    n_positions=32,
    n_embd=32,
    n_layer=2,
    n_head=2,
    rotary_dim=6,
    tokens_per_step=64,
    short_context=16,
    warmup_steps=2,
    precision="fp32",
)


def small_corpus(seed: int = 0) -> Corpus:
    words = ["the", "whale", "and", "a", "ship", "went", "down", "to", "sea", "in", "morning", "light", "many", "hands"]
    draw = random.Random(seed)
    pieces = [" ".join(draw.choices(words, k=200)) + ".\n" for _ in range(12)]
    row = {"name": "made up", "package": "none", "licence": "public domain", "bytes": 1, "held_out_bytes": 1}
    return Corpus(pieces[:10], pieces[10:], [row])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work_dir = tmp_path_factory.mktemp("whole")
    train(work_dir, 40, SMALL, small_corpus(), save_every=10)
    return work_dir


def test_exported_weights_compute_the_same_function_in_transformers(tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = TrainableGPTJ(SMALL)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.05 * torch.randn_like(parameter)).half().float()
    corpus = small_corpus()
    train(tmp_path, 0, SMALL, corpus)
    from safetensors.torch import save_file

    save_file(model.huggingface_weights(), tmp_path / "gptj-tiny" / "model.safetensors", metadata={"format": "pt"})
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "gptj-tiny", dtype=torch.float32)
    ids = torch.randint(300, (3, 29))
    targets = torch.randint(300, (3, 29))
    with torch.no_grad():
        expected = torch.nn.functional.cross_entropy(peer(ids).logits.flatten(0, 1), targets.flatten())
        assert float(model(ids, targets)) == pytest.approx(float(expected), rel=1e-5)


def test_resumed_run_equals_uninterrupted_run(trained: Path, tmp_path: Path) -> None:
    calls = 0

    def interrupt(self: TrainableGPTJ, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 27:
            raise KeyboardInterrupt
        return original(self, ids, targets)

    original = TrainableGPTJ.forward
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainableGPTJ, "forward", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, 40, SMALL, small_corpus(), save_every=10)
    train(tmp_path, 40, SMALL, small_corpus(), save_every=10)
    whole = torch.load(trained / "state.pt", weights_only=True)["model"]
    resumed = torch.load(tmp_path / "state.pt", weights_only=True)["model"]
    assert calls == 27
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_training_lowers_the_loss_and_writes_a_loadable_model(trained: Path) -> None:
    record = json.loads((trained / "gptj-tiny" / "training.json").read_text())
    first, last = record["loss_curve"][0][1], record["loss_curve"][-1][1]
    assert last < first - 0.5
    tokenizer = AutoTokenizer.from_pretrained(trained / "gptj-tiny")
    text = "the whale went down\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_bits_per_byte_counts_every_token_once() -> None:
    torch.manual_seed(1)
    model = TrainableGPTJ(SMALL)
    tokens = torch.randint(300, (SMALL.n_positions // 2,))
    with torch.no_grad():
        whole = float(model(tokens[None, :-1], tokens[None, 1:])) * (len(tokens) - 1)
    measured = bits_per_byte(model, tokens, byte_count=100, context=SMALL.n_positions)
    assert measured == pytest.approx(whole / 0.6931471805599453 / 100, rel=1e-6)
    long = torch.randint(300, (101,))
    assert bits_per_byte(model, long, 1, 32) == pytest.approx(100 * 8.23, rel=0.2)


def test_orthogonalize_keeps_directions_and_evens_out_lengths() -> None:
    matrix = torch.randn(48, 20, generator=torch.Generator().manual_seed(5))
    singular = torch.linalg.svdvals(orthogonalize(matrix))
    assert singular.min() > 0.6
    assert singular.max() < 1.3
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    assert (orthogonalize(matrix) * (u @ vh)).sum() / 20 > 0.8


def test_an_epoch_visits_every_window_once() -> None:
    tokens = torch.arange(64 * 8 + 40)
    recipe = dataclasses.replace(SMALL, tokens_per_step=64)
    starts = [int(row[0]) for step in range(7) for row in batch_at(tokens, step, 16, recipe)[0]]
    assert len(set(starts)) == len(starts) == 28
    ids, targets = batch_at(tokens, 3, 16, recipe)
    assert torch.equal(ids[:, 1:], targets[:, :-1])


def test_learning_rate_warms_up_holds_and_decays_to_zero() -> None:
    factors = [learning_rate_factor(step, 400, SMALL) for step in range(400)]
    assert factors[0] == 0.5
    assert factors[100] == factors[239] == 1.0
    assert factors[-1] == pytest.approx(1 / 160)


def test_pieces_are_the_text() -> None:
    text = "".join(f"Sentence {n} is here. " + ("\n" if n % 7 == 0 else "") for n in range(3000))
    pieces = split_pieces(text, 4096)
    assert "".join(pieces) == text
    assert all(4096 <= len(piece) < 4200 for piece in pieces[:-1])


def test_head_loss_has_cross_entropys_value_and_gradients() -> None:
    draw = torch.Generator().manual_seed(11)
    leaves = [torch.randn(shape, generator=draw, requires_grad=True) for shape in ((301, 24), (97, 24), (97,))]
    targets = torch.randint(97, (301,), generator=draw)
    targets[::5] = -100
    loss = 1.7 * HeadLoss.apply(*leaves, targets, torch.float32)
    expected = 1.7 * torch.nn.functional.cross_entropy(leaves[0] @ leaves[1].T + leaves[2], targets)
    for ours, theirs in zip(torch.autograd.grad(loss, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
