"""Names that only lab 00 imports: drawings, and functions that count FLOPs and bytes for the roofline."""

from labkit.exercises.pictures import lab00 as pictures
from labkit.measure.roofline import head_flops, matmul_flops_per_token, weight_bytes_per_step

__all__ = ["head_flops", "matmul_flops_per_token", "pictures", "weight_bytes_per_step"]
