"""The four calibrators are tested on inputs whose best clipping is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.compress.calibrators import CALIBRATORS, PERCENTILE, calibrator_named
from labkit.compress.magnitudes import BINS, Magnitudes
from labkit.errors import InvalidRequest, LabkitError
from labkit.weight_formats.rounded_inputs import E4M3, E5M2, Fp8Form, quantize_rows_fp8


def magnitudes(*windows: Tensor) -> Magnitudes:
    return Magnitudes("a layer", lambda: windows)


def heavy_tailed() -> Tensor:
    """Samples of Student's t with 3 degrees of freedom: the largest of 200,000 numbers is an extreme outlier."""
    chooser = torch.Generator().manual_seed(1)
    normal = torch.randn(4, 1000, 200, generator=chooser)
    return normal[0] / (normal[1:].square().mean(0)).sqrt()


def rounding_error(x: Tensor, amax: float) -> float:
    step = amax / 127
    return float(((x / step).round().clamp(-127, 127) * step - x).double().square().mean())


def test_a_histogram_counts_every_number_of_every_window() -> None:
    first, second = torch.tensor([[1.0, -4.0], [0.5, 2.0]]), torch.tensor([[-3.0, 0.0]])
    found = magnitudes(first, second)
    assert found.channels.tolist() == [3, 4]
    assert found.largest == 4
    assert found.counts.sum() == 6
    places = (found.counts > 0).nonzero().flatten().tolist()
    assert places == [0, BINS // 8, BINS // 4, BINS // 2, 3 * BINS // 4, BINS - 1]


def test_minmax_clips_nothing_and_percentile_the_rest() -> None:
    x = heavy_tailed()
    found = magnitudes(*x.chunk(3))
    assert calibrator_named("minmax")(found) == float(x.abs().max())
    exact = float(x.abs().double().quantile(PERCENTILE / 100)) if x.numel() < 2**24 else 0.0
    assert calibrator_named("percentile")(found) == pytest.approx(exact, abs=2 * found.largest / BINS)


def test_mse_has_less_error_than_the_others() -> None:
    x = heavy_tailed()
    found = magnitudes(x)
    errors = {name: rounding_error(x, calibrate(found)) for name, calibrate in CALIBRATORS.items()}
    assert errors["mse"] < 1.02 * min(errors.values())
    assert errors["mse"] < 0.8 * errors["minmax"]
    best = min(rounding_error(x, float(x.abs().max()) * share / 400) for share in range(4, 401))
    assert errors["mse"] < 1.1 * best


@pytest.mark.parametrize("form", [E4M3, E5M2])
def test_mse_rounds_to_fp8_if_the_inputs_are_fp8(form: Fp8Form) -> None:
    """The steps of FP8 grow with the numbers, so the best limit of FP8 keeps an outlier that the best limit of int8 clips."""
    x = torch.randn(1000, 200, generator=torch.Generator().manual_seed(3))
    x[0, 0] = 80.0

    def error(amax: float) -> float:
        values, scales = quantize_rows_fp8(x, amax / form.largest, form)
        return float((values.float() * scales[:, None] - x).double().square().mean())

    found = magnitudes(x)
    best = min(error(found.largest * share / 100) for share in range(4, 101))
    assert error(calibrator_named("mse", form)(found)) < 1.02 * best
    assert error(calibrator_named("mse")(found)) > 2 * best
    with pytest.raises(InvalidRequest, match="equal steps of int8; for fp8, minmax, percentile, mse are accepted"):
        calibrator_named("entropy", form)


@pytest.mark.parametrize("name", CALIBRATORS)
def test_a_uniform_input_is_hardly_clipped(name: str) -> None:
    x = torch.linspace(-2, 2, 100_000).view(100, 1000)
    assert 1.9 < CALIBRATORS[name](magnitudes(x)) <= 2.0


def test_entropy_clips_outliers_that_carry_no_mass() -> None:
    x = torch.randn(1000, 100, generator=torch.Generator().manual_seed(2))
    x[0, 0] = 100.0
    found = magnitudes(x)
    assert 3 < calibrator_named("entropy")(found) < 10
    assert calibrator_named("minmax")(found) == 100


@pytest.mark.parametrize("name", CALIBRATORS)
def test_inputs_of_zeros(name: str) -> None:
    assert CALIBRATORS[name](magnitudes(torch.zeros(3, 4))) >= 0


def test_bad_inputs_and_names() -> None:
    with pytest.raises(LabkitError, match="calibration inputs of a layer are NaN or infinite"):
        magnitudes(torch.tensor([[1.0, torch.inf]]))
    with pytest.raises(InvalidRequest, match="calibrator is 'median'; minmax, percentile, entropy, mse are accepted"):
        calibrator_named("median")
