"""The titles of the labs, by number.

The titles are kept apart from the exercise modules, so that the labs can be listed without importing torch.
"""

LAB_TITLES = {
    "00": "Class environment",
    "01": "Hugging Face baseline",
    "02": "Fused kernels",
    "03": "Tensor and pipeline parallelism",
    "04": "Triton deployment",
    "05": "Quantization",
    "06": "Sparsity and distillation",
    "07": "Graph compilers and the ensemble of parts",
    "08": "Sizing a deployment",
}
