"""The operations on PyTorch tensors: differentiable, under every transform, on every device. The kernel is not flipped.

`conv`, `conv_transpose`, `conv_weight` and `max_pool` take the arguments of `triconv`'s own. On processors the engines
compute on the tensors' memory, elsewhere PyTorch's own operators do; derivatives of every order are the same operations
again.
"""

try:
    import torch as _torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ImportError("triconv.torch needs PyTorch: pip install 'triconv[torch]'") from None

from ..kernels.team import use_openmp as _use_openmp
from . import nn
from .functions import conv, conv_transpose, conv_weight
from .pooling import max_pool, max_pool_transpose

_use_openmp(_torch.get_num_threads)

__all__ = ["conv", "conv_transpose", "conv_weight", "max_pool", "max_pool_transpose", "nn"]
