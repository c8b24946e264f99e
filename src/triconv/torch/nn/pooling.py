"""Max pooling modules of any rank."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.fx
from torch import Tensor
from torch.nn.modules.pooling import _MaxPoolNd

from ...arguments import Padding, PerAxis, axes_in, padding_per_axis, per_axis
from ..pooling import max_pool
from .base import examples


class MaxPool(_MaxPoolNd):
    """Take the largest value of each window, in any number of dimensions. There is no kernel, so nothing is flipped.

    ::

        h[n, i, c] = max_k  v[n, i, s∘c + e∘k − p]

    `torch.nn.MaxPool1d`, `MaxPool2d` and `MaxPool3d` with more axes: arguments, attributes and text are theirs.

    Parameters
    ----------
    kernel_size
        The window K: one int per axis, or an int for whatever axes an input (N, C, *X) has.
    stride
        s; None is the window.
    padding, dilation
        p and e, as for `triconv.max_pool`; the padding is never the largest.
    return_indices
        Whether to return (hidden, indices), the indices flat into *X as `triconv.torch.max_pool_transpose` takes them.
    ceil_mode
        Whether to keep a last window that lies in the visible only in part.

    Shapes
    ------
    input (N, C, *X), output (N, C, *Y); without the examples where the rank is known, as from a tuple.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import MaxPool
    >>> MaxPool(2, return_indices=True)(torch.tensor([[[1.0, 5.0, 2.0, 4.0]]]))
    (tensor([[[5., 4.]]]), tensor([[[1, 3]]]))
    >>> MaxPool((2, 2, 2, 2))(torch.zeros(3, 4, 4, 4, 4)).shape
    torch.Size([3, 2, 2, 2, 2])
    """

    rank: ClassVar[int | None] = None
    """The number of spatial axes; None: as kernel_size says, or the input."""

    def __init__(
        self,
        kernel_size: PerAxis,
        stride: PerAxis | None = None,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        """Keep the arguments as they are written."""
        super().__init__(kernel_size, stride, padding, dilation, return_indices, ceil_mode)  # type: ignore[arg-type]
        for name in ("kernel_size", "stride", "dilation"):
            value = getattr(self, name)
            per_axis(name, value, axes_in(value))
        padding_per_axis(padding, axes_in(padding))

    def forward(self, input: Tensor) -> Any:  # noqa: A002 (PyTorch's name)
        rank = self.rank
        if rank is None and not isinstance(self.kernel_size, int):
            rank = len(self.kernel_size)
        options: dict[str, Any] = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return pooled(input, rank, self.kernel_size, {**options, "ceil": self.ceil_mode}, self.return_indices)


@torch.fx.wrap
def pooled(given: Tensor, rank: int | None, window: Any, options: dict[str, Any], with_indices: bool) -> Any:
    """`MaxPool` of an input, from plain data: one node of a graph that torch.fx traces."""
    visible, single = examples(given, given.ndim - 2 if rank is None else rank)
    hidden, indices = max_pool(visible, window, **options)
    if single:
        hidden, indices = hidden.squeeze(0), indices.squeeze(0)
    return (hidden, indices) if with_indices else hidden


class MaxPool1d(MaxPool, torch.nn.MaxPool1d):
    """`MaxPool` along one axis; takes the place of `torch.nn.MaxPool1d`."""

    rank = 1


class MaxPool2d(MaxPool, torch.nn.MaxPool2d):
    """`MaxPool` along two axes; takes the place of `torch.nn.MaxPool2d`."""

    rank = 2


class MaxPool3d(MaxPool, torch.nn.MaxPool3d):
    """`MaxPool` along three axes; takes the place of `torch.nn.MaxPool3d`."""

    rank = 3


class MaxPool4d(MaxPool):
    """`MaxPool` along four axes."""

    rank = 4
