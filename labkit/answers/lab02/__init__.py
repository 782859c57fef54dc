"""The answers to the exercises of lab 02."""

from labkit.answers.lab02 import (
    capture,
    online_softmax,
    products,
    qkv_and_cache,
    residual_norm,
    rotary_write,
    sampling,
    split_attention,
)

ANSWERS = (
    *capture.ANSWERS,
    *online_softmax.ANSWERS,
    *products.ANSWERS,
    *qkv_and_cache.ANSWERS,
    *residual_norm.ANSWERS,
    *rotary_write.ANSWERS,
    *sampling.ANSWERS,
    *split_attention.ANSWERS,
)
"""All answers of the lab."""
