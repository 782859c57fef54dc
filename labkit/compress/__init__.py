"""Makes a model smaller: reads a model directory and writes a smaller one, which the engine can run.

The weight quantizers are round to nearest, activation-aware scaling (AWQ), error compensation (GPTQ), training (QAT) and signs
(one bit). Each has its own module. Mixed precision gives each matrix a number of bits according to its measured sensitivity.
`rounded_inputs` rounds weights and activations to 8 bits; it offers SmoothQuant and four calibrators. `sparse` makes 2:4 sparse
weights by magnitude, Wanda or SparseGPT, optionally with a channel permutation and with training to recover the quality.
`pruning` removes single weights, attention heads or MLP neurons.
"""

from labkit.compress.calibration import CalibrationText
from labkit.compress.compress import CompressResult, compress
from labkit.compress.method import METHODS, Method, method_named
from labkit.compress.recipe import Recipe
from labkit.compress.recipe_named import RECIPES, recipe_named

__all__ = [
    "METHODS",
    "RECIPES",
    "CalibrationText",
    "CompressResult",
    "Method",
    "Recipe",
    "compress",
    "method_named",
    "recipe_named",
]
