"""The titles of the labs by number; separate from the exercises, so that listing labs does not import torch."""

LAB_TITLES = {
    "00": "Class environment",
    "01": "Hugging Face baseline",
    "02": "Fused kernels",
    "03": "Tensor and pipeline parallelism",
    "04": "Triton deployment",
}
