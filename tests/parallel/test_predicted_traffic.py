"""The predicted traffic between ranks equals the traffic that the ranks have recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from labkit import native
from labkit.checkpoints import config_of
from labkit.errors import InvalidRequest
from labkit.model import FixedBatches, KVCache
from labkit.parallel import Layout, load_parallel
from labkit.parallel.predicted_traffic import (
    all_reduce_bytes,
    all_reduces,
    cache_bytes,
    predicted_scaling,
    stage_bytes,
)
from labkit.planning.collectives import bubble, ring_bytes
from tests.parallel.models import save_peer
from tests.sampled import one_in

GPTJ_6B = config_of("gpt-j-6b")


@pytest.mark.skipif(not native.available(), reason=f"not measured here: {native.why_not()}")
@pytest.mark.parametrize("layout", one_in(3, [Layout(2, 2), Layout(2, 1), Layout(1, 3)]))
def test_a_decode_step_sends_what_was_predicted(layout: Layout, tmp_path: Path) -> None:
    save_peer(tmp_path)
    tokens = 3
    with load_parallel(tmp_path, layout, dtype="fp32") as engine:
        forward: Any = engine.forward
        config, part = engine.config, engine.model.part
        cache = KVCache(config, 60, device=engine.device, dtype=engine.dtype, part=part)
        batches = FixedBatches(tokens, 20, engine.device)
        forward(batches.prefill(list(torch.randint(1, 200, (tokens, 9)))), cache)
        forward.ledger()
        forward(batches.decode(torch.ones(tokens, dtype=torch.int64)), cache)
        entries = forward.ledger()
        assert cache.keys.nbytes + cache.values.nbytes == 60 * cache_bytes(
            config, layout, layout.pipeline_parallel - 1, element_bytes=4
        )
    for rank in range(layout.ranks):
        stage = layout.part(rank).stage
        own = {e.what: e for e in entries if e.rank == rank}
        sums = own.get("all_reduce")
        assert (sums.calls if sums else 0) == all_reduces(config, layout, stage)
        assert (sums.total_bytes if sums else 0) == tokens * all_reduce_bytes(config, layout, stage)
        sent = own.get("send")
        assert (sent.total_bytes if sent else 0) == (tokens * stage_bytes(config, layout) if not layout.part(rank).last else 0)
        assert ("recv" in own) == (not layout.part(rank).first)


def test_formulas_at_known_places() -> None:
    assert all_reduces(GPTJ_6B, Layout(4, 1)) == 29
    assert all_reduces(GPTJ_6B, Layout(4, 1), a_layer=2) == 57
    assert all_reduces(GPTJ_6B, Layout(2, 2), 1) == 14
    assert all_reduces(GPTJ_6B, Layout(1, 4)) == 0
    assert all_reduce_bytes(GPTJ_6B, Layout(2, 1)) == 29 * 4096 * 4
    assert ring_bytes(100, 4) == 150
    assert cache_bytes(GPTJ_6B, Layout(1, 1)) == 458752
    assert cache_bytes(GPTJ_6B, Layout(2, 4)) == 458752 / 8
    assert (bubble(1, 3), bubble(4, 1), bubble(2, 4)) == (0, 0.75, 0.2)
    for given in ((0, 1), (1, 0)):
        with pytest.raises(InvalidRequest, match="at least one of each"):
            bubble(*given)


def test_scaling_grows_with_gpus_and_less_than_they_do() -> None:
    found = predicted_scaling(GPTJ_6B)
    assert list(found) == [2, 4, 8]
    assert 1 < found[2] < found[4] < found[8]
    assert all(speed < count for count, speed in found.items())
