"""The labs that exist, by number; apart from the exercises, so that listing them needs no torch."""

LAB_TITLES = {
    "00": "Class environment",
    "01": "Hugging Face baseline",
    "02": "Fused kernels",
    "03": "Tensor and pipeline parallelism",
    "04": "Triton deployment",
}
