"""Lab 02, Fused kernels: the optimisations of FasterTransformer, one at a time.

For each optimisation, the learner writes a function (usually a kernel) that runs in the engine.
"""

from labkit.exercises.lab02 import (
    capture,
    online_softmax,
    products,
    qkv_and_cache,
    residual_norm,
    rotary_write,
    sampling,
    split_attention,
)

EXERCISES = (
    *qkv_and_cache.EXERCISES,
    *residual_norm.EXERCISES,
    *rotary_write.EXERCISES,
    *online_softmax.EXERCISES,
    *split_attention.EXERCISES,
    *products.EXERCISES,
    *sampling.EXERCISES,
    *capture.EXERCISES,
)
