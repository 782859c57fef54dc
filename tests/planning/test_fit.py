"""The fit recovers the efficiencies behind simulated measurements, states its uncertainty, and reports extrapolation."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from labkit.errors import InvalidRequest
from labkit.planning.catalogue import named_gpu
from labkit.planning.deployment import Deployment
from labkit.planning.efficiencies import Efficiencies
from labkit.planning.fit import Fit, Measurement, errors, fit, slopes, with_spread_of_left_out
from labkit.planning.latency import request_parts
from labkit.planning.named_shapes import named_shape

TRUE = replace(Efficiencies(), read=0.75, layer_seconds=120e-6, compute=0.5)


def rows_of(model: str, tensor: tuple[int, ...] = (1,)) -> list[Measurement]:
    """The times that would be measured on a machine with the efficiencies `TRUE`."""
    plans = [
        Deployment(named_shape(model), named_gpu("a100-80gb"), split, 1, "fp16", batch, length, 16)
        for split in tensor
        for batch in (1, 8, 64)
        for length in (20, 200)
    ]
    return [Measurement(plan, float(request_parts(plan, TRUE).total)) for plan in plans]


@pytest.fixture(scope="module")
def found() -> Fit:
    return fit(rows_of("gpt-6.7b"), source="a test")


def test_the_fit_finds_what_made_the_measurements(found: Fit) -> None:
    """Six rows pull the typical efficiencies most of the way to the true ones, but not the whole way, because the true ones are
    implausible.
    """
    untouched = replace(found, found=Efficiencies())
    for model in ("gpt-6.7b", "gpt-20b"):
        rows = rows_of(model)
        worst = max(abs(error) for error in errors(found, rows))
        assert worst < 0.1
        assert worst < max(abs(error) for error in errors(untouched, rows)) / 2
    assert found.found.compute < 0.57
    assert found.found.layer_seconds > 90e-6


def test_what_is_not_measured_stays_typical(found: Fit) -> None:
    """No row has two GPUs, so the rows say nothing about the link."""
    assert found.found.link == pytest.approx(Efficiencies().link)
    assert found.found.hops == pytest.approx(1.0)


def test_an_interval_holds_the_truth_and_is_wider_outside_the_measured_range(found: Fit) -> None:
    inside = found.predict(rows_of("gpt-6.7b")[0].plan)
    assert inside.low < inside.seconds < inside.high
    assert inside.beyond == ()
    far = replace(rows_of("gpt-6.7b")[0].plan, shape=named_shape("gpt-20b"), tensor_parallel=4, batch=256)
    outside = found.predict(far)
    assert outside.low < float(request_parts(far, TRUE).total) < outside.high
    assert outside.high / outside.seconds > 1.3 * inside.high / inside.seconds
    assert any("tensor_parallel 4 is outside 1 to 1" in words for words in outside.beyond)
    assert any("batch 256" in words for words in outside.beyond)


def test_another_gpu_or_precision_is_said(found: Fit) -> None:
    plan = replace(rows_of("gpt-6.7b")[0].plan, device=named_gpu("h100-80gb"), precision="fp8")
    assert set(found.predict(plan).beyond) >= {"GPU h100-80gb was not measured", "precision fp8 was not measured"}


def test_one_measurement_is_enough_to_start_with() -> None:
    row = rows_of("gpt-6.7b")[:1]
    few = fit(row)
    assert abs(errors(few, row)[0]) < 0.75 * abs(errors(replace(few, found=Efficiencies()), row)[0])
    predicted = few.predict(row[0].plan)
    assert predicted.low < row[0].seconds < predicted.high
    with pytest.raises(InvalidRequest, match="at least one row"):
        fit([])


def test_slopes_are_derivatives() -> None:
    plan = rows_of("gpt-6.7b")[0].plan
    slope = slopes(plan, "request", TRUE)
    faster = replace(TRUE, read=TRUE.read * 1.01)
    change = np.log(request_parts(plan, faster).total / request_parts(plan, TRUE).total) / np.log(1.01)
    assert slope[0] == pytest.approx(change, rel=0.02)
    assert slope[0] < -0.3


def test_the_spread_of_left_out_models_is_not_that_of_the_fit() -> None:
    rows = rows_of("gpt-6.7b") + [replace(row, seconds=1.3 * row.seconds) for row in rows_of("gpt-20b")]
    left_out = with_spread_of_left_out(rows, lambda row: row.plan.shape.name)
    assert left_out.spread > 1.5 * fit(rows).spread > 0.01


def test_a_fit_is_written_and_read_back(found: Fit) -> None:
    again = Fit.from_dict(json.loads(json.dumps(found.to_dict())))
    plan = rows_of("gpt-20b")[0].plan
    assert again.predict(plan).high == pytest.approx(found.predict(plan).high, rel=1e-3)
    assert again.seen == found.seen
