"""Delayed scaling of FP8: the scale follows the largest values of earlier steps, and values larger than these are clipped."""

from __future__ import annotations

import pytest
import torch

from labkit.compress.delayed_scaling import DelayedScaling, clipped_share
from labkit.errors import InvalidRequest
from labkit.weight_formats.rounded_inputs import E4M3, E5M2, Fp8Form


def test_the_scale_comes_from_earlier_steps() -> None:
    scaling = DelayedScaling()
    first = torch.tensor([0.5, -7.0])
    cast, factor = scaling.cast(first)
    assert factor == 1
    assert cast.float().tolist() == [0.5, -7.0]
    assert scaling.scale == 448 / 7
    cast, factor = scaling.cast(torch.tensor([3.5]))
    assert cast.float().tolist() == [224.0]
    assert float(cast.float() * factor) == 3.5


def test_a_sudden_outlier_is_clipped_once() -> None:
    scaling = DelayedScaling(history_length=4)
    for _ in range(4):
        scaling.cast(torch.tensor([1.0]))
    outlier = torch.tensor([0.5, 100.0])
    assert clipped_share(outlier, scaling) == 0.5
    cast, factor = scaling.cast(outlier)
    assert (cast.float() * factor).tolist() == [0.5, 1.0]
    cast, factor = scaling.cast(outlier)
    assert float(cast[1].float() * factor) == 100
    assert clipped_share(outlier, scaling) == 0


@pytest.mark.parametrize(("algorithm", "expected"), [("max", [8.0, 8.0, 8.0, 2.0]), ("most_recent", [8.0, 1.0, 2.0, 2.0])])
def test_the_history_forgets(algorithm: str, expected: list[float]) -> None:
    scaling, found = DelayedScaling(history_length=3, algorithm=algorithm), []
    for amax in (8.0, 1.0, 2.0, 2.0):
        scaling.cast(torch.tensor([amax]))
        found.append(448 / scaling.scale)
    assert found == expected


def test_margin_and_steps_without_a_usable_amax() -> None:
    scaling = DelayedScaling(margin=2)
    scaling.cast(torch.tensor([7.0]))
    assert scaling.scale == 448 / 7 / 4
    recent = DelayedScaling(algorithm="most_recent")
    recent.cast(torch.tensor([7.0]))
    for bad in (torch.zeros(3), torch.tensor([torch.inf]), torch.zeros(0)):
        recent.cast(bad)
        assert recent.scale == 448 / 7


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_every_number_of_the_format_survives(form: Fp8Form) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(form.dtype).float()
    every = every[torch.isfinite(every)]
    scaling = DelayedScaling(form)
    scaling.cast(every)
    assert scaling.scale == 1
    cast, factor = scaling.cast(every)
    assert torch.equal(cast.float() * factor, every)
    assert float(every.max()) == form.largest


def test_what_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="algorithm is 'mean'; max and most_recent are accepted"):
        DelayedScaling(algorithm="mean")
    with pytest.raises(InvalidRequest, match="history_length is 0"):
        DelayedScaling(history_length=0)
