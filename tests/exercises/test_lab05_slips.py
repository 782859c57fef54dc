"""Wrong answers to lab 05 as beginners write them: no wrong answer passes, and each gets a message about its mistake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from labkit.exercises.registry import exercise as find
from labkit.grading.call import run_cases
from labkit.grading.find_answer import answer_to
from labkit.grading.judge import SEEDS, judge
from labkit.grading.verdict import FAILED, PASSED


def verdict_on(name: str, function: Callable[..., Any]) -> Any:
    exercise = find(f"lab05.{name}")
    return judge(answer_to(exercise), {seed: run_cases(function, exercise, seed) for seed in SEEDS})


# 5.1 ------------------------------------------------------------------------------------------------------------------
def parameters(whole: Callable[[float], float], of_zeros: int, *, widen: bool = True) -> Callable[..., Any]:
    def function(low: float, high: float, bits: int, symmetric: bool) -> Any:
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if symmetric:
            largest = max(abs(low), abs(high))
            return (largest / highest if largest or not widen else 1.0), 0
        if widen:
            low, high = min(low, 0), max(high, 0)
            if low == high:
                return 1.0, of_zeros
        scale = (high - low) / (highest - lowest)
        return scale, whole(lowest - low / scale)

    return function


# 5.2 ------------------------------------------------------------------------------------------------------------------
def limits(percentile: Callable[[Tensor], Any], narrow: int = 0) -> Callable[..., Any]:
    def function(x: Tensor, bits: int) -> Any:
        largest, highest, errors = float(x.abs().max()), 2 ** (bits - 1) - 1, []
        tried = [largest * step / 50 for step in range(1, 51)]
        for limit in tried:
            scale = limit / highest if limit else 1.0
            found = (x / scale).round().clamp(narrow - highest - 1, highest) * scale
            errors.append(float((found - x).square().mean()))
        return {"min-max": largest, "percentile": float(percentile(x.abs())), "mse": tried[errors.index(min(errors))]}

    return function


# 5.3 ------------------------------------------------------------------------------------------------------------------
def adds_to_a_view(counts: Tensor, kept: int, levels: int) -> float:
    p = counts[:kept]
    p[-1] += counts[kept:].sum()
    groups = p.view(levels, -1)
    q = (groups.sum(1, keepdim=True) / (groups > 0).sum(1, keepdim=True).clamp(min=1) * (groups > 0)).flatten()
    p, q = p / p.sum(), (q / q.sum()).clamp(min=1e-10)
    return float((p[p > 0] * (p[p > 0] / q[p > 0]).log()).sum())


# 5.4 ------------------------------------------------------------------------------------------------------------------
def quantizer(above: int = 0, *, magnitude: bool = True) -> Callable[..., Any]:
    def function(weight: Tensor, bits: int, group_size: int) -> Any:
        groups = weight.view(weight.shape[0], -1, group_size)
        scales = (groups.abs() if magnitude else groups).amax(2) / (2 ** (bits - 1) - 1 + above)
        scales[scales == 0] = 1.0
        return (groups / scales[..., None]).round().flatten(1).to(torch.int8), scales

    return function


# 5.5 and 5.6 ----------------------------------------------------------------------------------------------------------
def other_way_round_and_no_padding(values: Tensor) -> Tensor:
    v = (values + 8).to(torch.uint8)
    return 16 * v[:, ::2] + v[:, 1::2]


def signed_before_the_shift(packed: Tensor, columns: int) -> Tensor:
    p = packed.to(torch.int8)
    return torch.stack([p & 15, p >> 4], 2).flatten(1)[:, :columns] - 8


# 5.8 ------------------------------------------------------------------------------------------------------------------
def column_twice(weight: Tensor, factor: Tensor, column: int, scales: Tensor, bits: int) -> Tensor:
    new, old = weight.clone(), weight[:, column]
    q = scales * (old / scales).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    new[:, column] = q
    return new - torch.outer((old - q) / factor[column, column], factor[column])


# 5.10 -----------------------------------------------------------------------------------------------------------------
def cast(whole: Callable[[float], float], *, looks_at_x: bool = False, magnitude: bool = True) -> Callable[..., Any]:
    def function(x: Tensor, history: Tensor, dtype: torch.dtype) -> Any:
        most, amax = torch.finfo(dtype).max, float(history.max())
        amax = max(amax, float(x.abs().max())) if looks_at_x else amax
        scale = 2.0 ** whole(math.log2(most / amax)) if amax > 0 else 1.0
        values = (x * scale).clamp(-most, most).to(dtype).float() / scale
        newest = (x.abs() if magnitude else x).max()
        return values, scale, torch.cat([newest[None], history[:-1]])

    return function


def quantile(x: Tensor) -> Tensor:
    return x.flatten().quantile(0.999)


SLIPS: tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...] = (
    ("quantization_parameters", parameters(int, 0), ("truncated",)),
    ("quantization_parameters", parameters(math.floor, 0), ("rounded down",)),
    ("quantization_parameters", parameters(round, 0, widen=False), ("0 must be in the range", "the scale must be 1.0")),
    ("clip_limits", limits(lambda sizes: sizes.flatten().sort().values[int(0.999 * sizes.numel())]), ("torch.quantile",)),
    ("clip_limits", limits(quantile, narrow=1), ("you clip at -127",)),
    ("clip_divergence", adds_to_a_view, ("Q contains the counts beyond the limit",)),
    ("quantize_weight", quantizer(above=1), ("You divide by one more",)),
    ("quantize_weight", quantizer(magnitude=False), ("A negative number may be the largest",)),
    ("pack_int4", other_way_round_and_no_padding, ("belongs in the low four bits", "add a column of 8")),
    ("unpack_int4", signed_before_the_shift, ("before the shift",)),
    ("gptq_column", column_twice, ("begin at j + 1",)),
    ("fp8_cast", cast(int), ("rounds a negative logarithm",)),
    ("fp8_cast", cast(round), ("nearest power of two",)),
    ("fp8_cast", cast(math.floor, looks_at_x=True), ("depends on x and on the history",)),
    ("fp8_cast", cast(math.floor, magnitude=False), ("The history holds magnitudes",)),
)


@pytest.mark.parametrize(("name", "function", "words"), SLIPS, ids=[f"{name}-{words[0]}" for name, _, words in SLIPS])
def test_a_slip_is_named(name: str, function: Callable[..., Any], words: tuple[str, ...]) -> None:
    verdict = verdict_on(name, function)
    assert verdict.verdict == FAILED
    assert all(part in verdict.message for part in words), verdict.message


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("quantization_parameters", parameters(round, 0)),
        ("quantization_parameters", parameters(round, -2)),
        ("clip_limits", limits(quantile)),
        ("quantize_weight", quantizer()),
        ("fp8_cast", cast(math.floor)),
    ],
)
def test_without_the_slip_it_passes(name: str, function: Callable[..., Any]) -> None:
    verdict = verdict_on(name, function)
    assert verdict.verdict == PASSED, verdict.message


@pytest.mark.parametrize("zero_point", [-129, 128, 0.0, None])
def test_a_zero_point_that_is_no_integer_of_these_bits_fails(zero_point: Any) -> None:
    assert verdict_on("quantization_parameters", parameters(round, zero_point)).verdict == FAILED
