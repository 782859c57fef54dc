"""SmoothQuant: a smoothed block computes the same as before, and its activations have smaller outliers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from labkit.compress.block import Block
from labkit.compress.smoothquant import check_alpha, factors, smooth
from labkit.errors import InvalidRequest
from tests.compress.directories import CONFIG


def block(seed: int = 0) -> Block:
    """A random block in which two channels of the layer norm are large."""
    chooser = torch.Generator().manual_seed(seed)
    hidden, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    shapes = {f"attn.{each}_proj.weight": (hidden, hidden) for each in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc_in.weight": (inner, hidden), "mlp.fc_out.weight": (hidden, inner)}
    tensors = {name: torch.randn(shape, generator=chooser) * shape[1] ** -0.5 for name, shape in shapes.items()}
    sizes = (("fc_in", inner), ("fc_out", hidden))
    tensors |= {f"mlp.{name}.bias": torch.randn(size, generator=chooser) for name, size in sizes}
    tensors |= {"ln_1.weight": torch.ones(hidden), "ln_1.bias": torch.zeros(hidden)}
    tensors["ln_1.weight"][[3, 17]] = torch.tensor([60.0, 25.0])
    return Block(CONFIG, tensors)


def states(count: int = 2) -> list[Tensor]:
    return list(torch.randn(count, 20, CONFIG.hidden_size, generator=torch.Generator().manual_seed(5)).unbind(0))


def peak(x: Tensor) -> float:
    """The largest magnitude divided by the typical magnitude."""
    channels = x.abs().amax(0)
    return float(channels.max() / channels.median())


def test_the_block_computes_the_same_and_its_inputs_are_smoother() -> None:
    made, hidden = block(), states()
    before, raw = [made.forward(state) for state in hidden], made.normed(hidden[0])
    smooth(made, hidden, 0.5, "a block")
    for state, expected in zip(hidden, before, strict=True):
        assert torch.allclose(made.forward(state), expected, rtol=1e-4, atol=1e-4)
    assert peak(raw) > 20
    assert peak(made.normed(hidden[0])) < 0.2 * peak(raw)


def test_alpha_half_gives_inputs_and_weights_the_same_magnitudes() -> None:
    channels, weight = torch.tensor([8.0, 0.5, 1.0]), torch.tensor([[0.5, -2.0, 1.0], [0.25, 1.0, 0.5]])
    found = factors(channels, weight, 0.5)
    assert torch.allclose(channels / found, (weight * found).abs().amax(0))
    assert torch.allclose(factors(channels, weight, 1.0), channels)
    assert torch.allclose(factors(channels, weight, 0.0), 1 / weight.abs().amax(0))


def test_channels_of_zeros_stay_finite() -> None:
    assert torch.isfinite(factors(torch.zeros(3), torch.zeros(2, 3), 0.5)).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alphas_that_are_refused(alpha: float) -> None:
    with pytest.raises(InvalidRequest, match=r"a number from 0 .* to 1"):
        check_alpha(alpha)
