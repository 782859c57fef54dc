"""The parts of a model that ranks hold: together they cover the model once, and a rank reads its own part and next to nothing
else. Bad layouts are refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from labkit.checkpoints import open_checkpoint
from labkit.checkpoints.checkpoint import expected_shapes
from labkit.checkpoints.split import span
from labkit.config import GPT_J_6B
from labkit.errors import InvalidRequest
from labkit.model.weight_store import read_model
from labkit.parallel import Layout
from tests.parallel.models import save_peer


def test_stretches_cover_everything_once_and_differ_by_one_at_most() -> None:
    for count in (1, 5, 28, 211, 50_257):
        for parts in (1, 2, 3, 4, 8):
            stretches = [span(count, index, parts) for index in range(parts)]
            assert [i for stretch in stretches for i in stretch] == list(range(count))
            assert max(map(len, stretches)) - min(map(len, stretches)) <= 1


@pytest.mark.parametrize("layout", [Layout(1, 1), Layout(2, 1), Layout(4, 1), Layout(1, 4), Layout(2, 2), Layout(8, 2)])
def test_every_number_of_gpt_j_6b_belongs_to_one_rank_but_for_what_all_need(layout: Layout) -> None:
    parts = [layout.part(rank) for rank in range(layout.ranks)]
    assert len(set(parts)) == layout.ranks
    assert [layout.rank(part.stage, part.shard) for part in parts] == list(range(layout.ranks))
    assert (parts[0].last, parts[0].shard) == (True, 0), "rank 0 draws the tokens"
    for name, shape in expected_shapes(GPT_J_6B).items():
        pieces = [part.slices(name, shape) for part in parts if part.stage == parts[0].stage]
        if layout.tensor_parallel > 1 and "ln_" not in name and not name.endswith("fc_out.bias"):
            spans = [next(iter(piece.values())) for piece in pieces if piece]
            along = 0 if "rows" in (pieces[0] or {}) else 1
            assert [s.start for s in spans[1:]] == [s.stop for s in spans[:-1]]
            assert (spans[0].start, spans[-1].stop) == (0, shape[along]), name
        else:
            whole = [piece for piece in pieces if piece is not None]
            assert whole == [{}] * (1 if name.endswith("fc_out.bias") else layout.tensor_parallel), name


@pytest.mark.parametrize("layout", [Layout(2, 1), Layout(1, 3), Layout(2, 2)])
def test_a_rank_reads_its_share_and_next_to_nothing_else(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_peer(tmp_path)
    checkpoint, read, preadv = open_checkpoint(tmp_path), 0, os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        nonlocal read
        got = preadv(descriptor, buffers, offset)
        read += got
        return got

    monkeypatch.setattr(os, "preadv", counted)
    total = 0
    for rank in range(layout.ranks):
        read = 0
        model = read_model(checkpoint, "fp32", torch.device("cpu"), layout.part(rank))
        norms = [x for layer in model.layers for x in (layer.ln_1_weight, layer.ln_1_bias)]
        tensors = [model.wte, model.ln_f_weight, model.ln_f_bias, *norms]
        linears = [x for layer in model.layers for x in (layer.qkv, layer.out_proj, layer.fc_in, layer.fc_out)]
        linears += [model.lm_head] if model.lm_head else []
        shapes = [x.weight.shape for x in linears] + [x.bias.shape for x in linears if x.bias is not None]
        share = 4 * (sum(x.numel() for x in tensors if x is not None) + sum(torch.Size(shape).numel() for shape in shapes))
        assert share <= read <= 1.05 * share
        total += read
    whole = 4 * checkpoint.config.parameter_count
    assert whole <= total <= 1.05 * whole  # all shards of a stage hold the layer norms


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (Layout(3, 1), r"tensor_parallel 3 does not divide the 16 heads; 2 does"),
        (Layout(32, 1), r"tensor_parallel 32 does not divide the 16 heads; 16 does"),
        (Layout(1, 40), r"pipeline_parallel 40 exceeds the 28 layers; at most 28 is accepted"),
        (Layout(0, 1), r"tensor_parallel is 0; a whole number of at least 1"),
        (Layout(16, 8), r"makes 128 ranks; at most 64"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_with_the_nearest_that_can(layout: Layout, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        layout.check(GPT_J_6B)
