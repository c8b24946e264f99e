"""Convolution in any number of dimensions, its transpose and its weight gradient: one trilinear form."""

from .dispatch import Plan
from .kernels.threads import threads
from .ops import conv, conv_transpose, conv_weight, explain, flip
from .pool import max_pool, max_pool_transpose

__version__ = "0.1.0"

__all__ = [
    "Plan",
    "conv",
    "conv_transpose",
    "conv_weight",
    "explain",
    "flip",
    "max_pool",
    "max_pool_transpose",
    "threads",
]
