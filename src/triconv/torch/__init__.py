from .functions import conv, conv_transpose, conv_weight

__all__ = ["conv", "conv_transpose", "conv_weight"]
