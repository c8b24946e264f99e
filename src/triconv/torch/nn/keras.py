"""Weights of Keras 2, whose locally connected layers Keras 3 has no more."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike

from ...architecture import Convolution
from ...arguments import PerAxis, axes_in, per_axis
from ...arrays import compute_dtype, operand
from .local import LocallyConnected


def from_keras(
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    kernel_size: PerAxis,
    visible_size: PerAxis,
    strides: PerAxis = 1,
    data_format: Literal["channels_last", "channels_first"] = "channels_last",
) -> LocallyConnected:
    """Make the `LocallyConnected` of a `LocallyConnected1D` or `LocallyConnected2D` of Keras 2. Nothing is flipped.

    ::

        weight[y, o, i, k] = kernel[y, (k, i), o]        or kernel[y, (i, k), o] with "channels_first"

    Parameters
    ----------
    kernel, bias
        What ``layer.get_weights()`` returns, of a layer with ``implementation=1``, the default: (positions, taps·C_in,
        C_out) and (*Y, C_out), None without a bias.
    kernel_size, strides, data_format
        As the layer's; "channels_last" is Keras' default. An int of kernel_size is one axis.
    visible_size
        X of the layer's input, an int or one per axis.

    Returns
    -------
    LocallyConnected
        With the values of the arrays, in their dtype. Its input and output have the channels before the positions:
        ``layer(x.movedim(-1, 1)).movedim(1, -1)`` takes and gives what a layer of "channels_last" does. Nothing is
        copied for that, and nothing is slower.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its shape and what was expected, for example for other implementations.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.torch.nn import from_keras
    >>> from_keras(np.zeros((30, 3 * 4, 8)), np.zeros((30, 8)), kernel_size=3, visible_size=32)
    LocallyConnected(4, 8, kernel_size=(3,), stride=(1,), bank=('local',), visible_size=(32,))
    """
    values = operand("kernel", kernel)
    taps = per_axis("kernel_size", kernel_size, axes_in(kernel_size))
    rank = len(taps)
    size, step = per_axis("visible_size", visible_size, rank), per_axis("strides", strides, rank)
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(f'data_format={data_format!r}: expected "channels_last" or "channels_first"')
    hidden = Convolution(1, 1, taps, stride=step).geometry(size).hidden
    expected = f"({prod(hidden)}, {prod(taps)}·channels, filters), as implementation 1 has it"
    if values.ndim != 3 or values.shape[0] != prod(hidden) or values.shape[1] % prod(taps) or not values.size:
        raise ValueError(f"kernel of shape {values.shape}: expected {expected}")
    inputs, outputs = values.shape[1] // prod(taps), values.shape[2]
    if data_format == "channels_last":
        unfolded = values.reshape(*hidden, *taps, inputs, outputs)
    else:
        unfolded = np.moveaxis(values.reshape(*hidden, inputs, *taps, outputs), rank, -2)
    arrays: dict[str, Any] = {"weight": np.moveaxis(unfolded, (-1, -2), (rank, rank + 1))}
    if bias is not None:
        arrays["bias"] = operand("bias", bias)
        if arrays["bias"].dtype.kind == "c" and values.dtype.kind != "c":
            raise TypeError(f"bias of dtype {arrays['bias'].dtype}: expected a real one, as the kernel is")
        if arrays["bias"].shape != (*hidden, outputs):
            raise ValueError(f"bias of shape {arrays['bias'].shape}: expected {(*hidden, outputs)}")
    dtype = getattr(torch, values.dtype.name)
    kinds = {name: compute_dtype(array.dtype).newbyteorder("=") for name, array in arrays.items()}
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array, kinds[name])) for name, array in arrays.items()}
    layer = LocallyConnected(
        inputs, outputs, taps, step, bias=bias is not None, dtype=dtype, visible_size=size, device="meta"
    ).to_empty(device="cpu")
    layer.load_state_dict(tensors)
    return layer
