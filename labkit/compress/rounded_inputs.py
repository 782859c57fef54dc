"""The recipe for 8-bit weights and 8-bit activations (W8A8, FP8), stored as "int-quantized" or "float-quantized".

Weights have a scale for each output row and are rounded to nearest. Activations are rounded while the model runs. Their scales
are computed for each token ("dynamic"), or found by calibration, one for each layer ("static").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from labkit.checkpoints.eight_bit_scheme import FLOAT_QUANTIZED, INT_QUANTIZED
from labkit.checkpoints.quantization_config import COMPRESSED_TENSORS
from labkit.compress.block import FIRST, Block
from labkit.compress.calibrators import calibrator_named
from labkit.compress.layer import BLOCK_BIASES
from labkit.compress.magnitudes import Magnitudes
from labkit.compress.pack_quantized import BLOCK_MATRICES
from labkit.compress.recipe import Recipe
from labkit.compress.smoothquant import ALPHA, check_alpha, smooth
from labkit.config import GPTJConfig
from labkit.errors import InvalidRequest
from labkit.weight_formats import (
    INT8_MAX,
    Fp8E5M2Weight,
    Fp8Weight,
    Int8Weight,
    RoundedInputsWeight,
    RowScaledWeight,
    W8A8Weight,
)
from labkit.weight_formats.rounded_inputs import E4M3, E5M2, Fp8Form

ACTIVATIONS = ("dynamic", "static")
"""The ways to choose the scales of activations."""
WEIGHT_SCALES = ("row", "tensor")
"""Whether each output row of a matrix has its own scale, or the whole matrix has one scale."""
FORMS: dict[str, tuple[type[RoundedInputsWeight], float]] = {
    "w8a8": (W8A8Weight, INT8_MAX),
    "fp8": (Fp8Weight, E4M3.largest),
    "fp8_e5m2": (Fp8E5M2Weight, E5M2.largest),
}
"""The weight format of each kind of method, and the largest number that the format can store."""

ROUNDED_INPUTS = tuple(f"{form}{end}" for form in FORMS for end in ("", "-smoothquant"))
"""The names of the methods."""


@dataclass(frozen=True)
class RoundedInputs(Recipe):
    """A recipe with 8-bit weights and 8-bit activations.

    `form` is a key of `FORMS`. `alpha` is the alpha of SmoothQuant; None means no smoothing. `activations` is one of
    `ACTIVATIONS`. `calibrator` is one of `CALIBRATORS`, and for FP8 not entropy; it is used only for static activations.
    `weight_scales` is one of `WEIGHT_SCALES`.
    """

    form: str
    alpha: float | None = None
    activations: str = "dynamic"
    calibrator: str = "minmax"
    weight_scales: str = "row"

    def __post_init__(self) -> None:
        if self.activations not in ACTIVATIONS:
            raise InvalidRequest(f"activations is {self.activations!r}; {' and '.join(ACTIVATIONS)} are accepted")
        if self.weight_scales not in WEIGHT_SCALES:
            raise InvalidRequest(f"weight-scales is {self.weight_scales!r}; {' and '.join(WEIGHT_SCALES)} are accepted")
        calibrator_named(self.calibrator, self._fp8)
        if self.alpha is not None:
            check_alpha(self.alpha)

    @property
    def name(self) -> str:
        """The name of the method, such as w8a8-smoothquant."""
        return self.form if self.alpha is None else f"{self.form}-smoothquant"

    @property
    def calibrated(self) -> bool:
        """Whether the method needs calibration text."""
        return self.alpha is not None or self.activations == "static"

    def check(self, config: GPTJConfig) -> None:
        """Accept a model of any shape."""

    def bits_per_weight(self, config: GPTJConfig) -> float:
        """The bits per weight: 8 bits, plus the float32 scale of each row or matrix."""
        hidden, inner = config.hidden_size, config.intermediate_size
        weights, rows = 4 * hidden * hidden + 2 * inner * hidden, 5 * hidden + inner
        return 8 + 32 * (rows if self.weight_scales == "row" else 6) / weights

    def block_tensors(self, block: Block, hidden: Sequence[Tensor], layer: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Smooth the block if the method includes smoothing, find the scales of its inputs, and round its matrices."""
        where = f"block {layer}"
        if self.alpha is not None:
            smooth(block, hidden, self.alpha, where)
        for name in BLOCK_BIASES[:2]:  # later layers are calibrated with the layer norm as it is stored
            block.tensors[name] = block.tensors[name].to(dtype).float()
        scales = self._input_scales(block, hidden, where)
        found = {name: block.tensors[name].to(dtype) for name in BLOCK_BIASES}
        for name, scale in scales.items():
            found |= self._matrix(name, block.tensors[f"{name}.weight"], scale)
        # Tensors with the most bytes per number come first in the file, so that all offsets are aligned.
        return dict(sorted(found.items(), key=lambda item: -item[1].element_size()))

    def head_tensors(
        self, tensors: dict[str, Tensor], epsilon: float, hidden: Sequence[Tensor], dtype: torch.dtype
    ) -> dict[str, Tensor]:
        """Store the head in int8 with a scale for each row; its inputs are not rounded."""
        dense = {name: tensor.to(dtype) for name, tensor in tensors.items() if name != "lm_head.weight"}
        return row_scaled_tensors("lm_head", Int8Weight.quantize(tensors["lm_head.weight"]), None) | dense

    def quantization_config(self) -> dict[str, Any]:
        """The `quantization_config` of `config.json`, with one config group for the blocks and one for the head."""
        form = INT_QUANTIZED if self.form == "w8a8" else FLOAT_QUANTIZED
        return {
            "quant_method": COMPRESSED_TENSORS,
            "format": form if form == INT_QUANTIZED else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": {
                "group_0": eight_bit_group([BLOCK_MATRICES], form, self.activations, self.weight_scales),
                "group_1": eight_bit_group(["lm_head"], INT_QUANTIZED, None, "row"),
            },
            "ignore": [],
            "kv_cache_scheme": None,
            "global_compression_ratio": None,
        }

    def settings(self) -> dict[str, Any]:
        """All settings that change the result."""
        found: dict[str, Any] = {"activations": self.activations, "alpha": self.alpha, "weight_scales": self.weight_scales}
        return found | ({"calibrator": self.calibrator} if self.activations == "static" else {})

    @property
    def _fp8(self) -> Fp8Form | None:
        return {"fp8": E4M3, "fp8_e5m2": E5M2}.get(self.form)

    def _matrix(self, module: str, weight: Tensor, input_scale: float | None) -> dict[str, Tensor]:
        """The tensors of one rounded matrix."""
        form, _ = FORMS[self.form]
        if self.weight_scales == "row":
            return row_scaled_tensors(module, form.quantize(weight), input_scale)
        whole = form.quantize(weight.reshape(1, -1))
        found = row_scaled_tensors(module, form(whole.values.view(weight.shape), whole.scales), input_scale)
        return found | {f"{module}.weight_scale": whole.scales}

    def _input_scales(self, block: Block, hidden: Sequence[Tensor], where: str) -> dict[str, float | None]:
        """The scale of the inputs of each matrix; None if scales are dynamic. Matrices with the same inputs share a scale."""
        inputs: dict[str, Callable[[], Iterable[Tensor]]] = {
            "layer norm": lambda: map(block.normed, hidden),
            "out_proj": lambda: (block.attended(block.normed(each)) for each in hidden),
            "fc_out": lambda: (block.inner(block.normed(each)) for each in hidden),
        }
        readers = {"layer norm": FIRST, "out_proj": ("attn.out_proj",), "fc_out": ("mlp.fc_out",)}
        found: dict[str, float | None] = {}
        for name, of_name in inputs.items():
            scale = self._scale(f"{where} {name}", of_name) if self.activations == "static" else None
            found |= dict.fromkeys(readers[name], scale)
        return found

    def _scale(self, name: str, inputs: Callable[[], Iterable[Tensor]]) -> float:
        _, most = FORMS[self.form]
        return max(calibrator_named(self.calibrator, self._fp8)(Magnitudes(name, inputs)), 1e-30) / most


def row_scaled_tensors(module: str, weight: RowScaledWeight, input_scale: float | None) -> dict[str, Tensor]:
    """The tensors of one "int-quantized" or "float-quantized" matrix. If `input_scale` is None, no input scale is stored."""
    found = {f"{module}.weight_scale": weight.scales[:, None].contiguous(), f"{module}.weight": weight.values}
    if input_scale is not None:
        found[f"{module}.input_scale"] = torch.tensor([input_scale], dtype=torch.float32, device="cpu")
    return found


def eight_bit_group(targets: list[str], form: str, activations: str | None, weight_scales: str) -> dict[str, Any]:
    """Build one entry of `config_groups`. `activations` is one of `ACTIVATIONS`; None means that inputs are not rounded."""
    kind = {"num_bits": 8, "type": "float" if form == FLOAT_QUANTIZED else "int", "symmetric": True}
    dynamic = activations == "dynamic"
    inputs = None if activations is None else kind | {"strategy": "token" if dynamic else "tensor", "dynamic": dynamic}
    return {
        "targets": targets,
        "weights": kind | {"strategy": "channel" if weight_scales == "row" else "tensor", "dynamic": False},
        "input_activations": inputs,
        "output_activations": None,
        "format": form,
    }


def rounded_inputs_named(
    name: str,
    *,
    activations: str | None = None,
    calibrator: str | None = None,
    alpha: float | None = None,
    weight_scales: str = "row",
) -> RoundedInputs:
    """The method with this name: w8a8, fp8 or fp8_e5m2, or one of these with -smoothquant.

    Raises `InvalidRequest` for options that the method does not have.
    """
    form, _, smoothing = name.partition("-")
    if alpha is not None and not smoothing:
        raise InvalidRequest(f"alpha is {alpha}, but method {name} does no smoothing; only {form}-smoothquant has alpha")
    if calibrator is not None and activations != "static":
        raise InvalidRequest(f"calibrator is {calibrator!r}, but activations are dynamic; static activations have a calibrator")
    chosen = (ALPHA if alpha is None else alpha) if smoothing else None
    return RoundedInputs(form, chosen, activations or "dynamic", calibrator or "minmax", weight_scales)
