"""Modules whose kernels depend on the position: locally connected ones, and tiled ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter

from ...arguments import LOCAL, Groups, Padding, PerAxis, axes_in, per_axis
from ...problem import Options, problem_visible
from .base import Bias, Convolving, empty_weight, examples
from .convolution import Conv, ConvTranspose, as_given, visible_sizes


class Waiting(LazyModuleMixin, Convolving):
    """Modules with a kernel for each hidden position that may wait for their first input, to know how many.

    They wait as `torch.nn.LazyConv2d` does: parameters are `UninitializedParameter`s until then.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not self.has_uninitialized_params():
            self._initialize_hook.remove()
            self._load_hook.remove()
            del self._initialize_hook, self._load_hook

    def _waits(self) -> bool:
        return self.visible_size is None

    def _replicate_for_data_parallel(self) -> Any:
        if self.has_uninitialized_params():
            return LazyModuleMixin._replicate_for_data_parallel(self)
        return torch.nn.Module._replicate_for_data_parallel(self)

    def _materialize(self, visible_size: tuple[int, ...]) -> None:
        """Take the size that the first input has, and parameters for it unless a state_dict has brought them."""
        waiting = [name for name, one in self._parameters.items() if isinstance(one, UninitializedParameter)]
        self.visible_size = visible_size
        try:
            shape = self._weight_shape()
            if "weight" not in waiting and (waiting or tuple(self.weight.shape) != shape):
                missing = f", and {', '.join(waiting)} with it" if waiting else ""
                raise ValueError(
                    f"weight of shape {tuple(self.weight.shape)}, as it was loaded: "
                    f"expected {shape} for visible size {visible_size}{missing}"
                )
        except ValueError:  # the next input may do
            self.visible_size = None
            raise
        for name in waiting:
            parameter = getattr(self, name)
            parameter.materialize(shape if name == "weight" else (*self._bias_periods(), self.out_channels))
        made = {"device": self.weight.device, "dtype": self.weight.dtype}
        laid = empty_weight(self, shape, **made)
        self.weight.data = laid if waiting else laid.copy_(self.weight.data)
        if waiting:
            self.reset_parameters()


class LocallyConnected(Waiting, Conv):
    """Convolve with a kernel of its own at each hidden position, and add a bias. Kernels are not flipped.

    ::

        h[n, o, c] = b[c, o] + Σ_{i,k}  w[c, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, device, dtype
        As for `Conv`.
    bias
        True or "bank" is one number per position and channel; "channel" one per channel; False is none.
    visible_size
        X, an int or one per axis. None: the size of the first input; until then the parameters wait, as those of
        `torch.nn.LazyConv2d` do, so make the optimiser after it.

    Shapes
    ------
    input (N, C_in, *X) or (C_in, *X), output (N, C_out, *Y) or (C_out, *Y); weight (*Y, C_out, C_in/groups, *K), in
    memory with its hidden channels innermost; bias (*Y, C_out).

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected; for an input of another size too.

    Notes
    -----
    "Locally connected convolution" in *Inside Convolutional Networks*: no two positions share a kernel.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import LocallyConnected
    >>> layer = LocallyConnected(3, 8, (3, 3))
    >>> layer(torch.zeros(5, 3, 9, 9)).shape, layer.weight.shape
    (torch.Size([5, 8, 7, 7]), torch.Size([7, 7, 8, 3, 3, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: Groups = 1,
        bias: Bias = True,
        padding_mode: str | Sequence[str] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        visible_size: PerAxis | None = None,
    ) -> None:
        """Make the parameters, with values if the size is known."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            "bank" if bias is True else bias,
            padding_mode,
            device,
            dtype,
            bank=LOCAL,
            visible_size=visible_size,
        )

    def initialize_parameters(self, input: Tensor) -> None:  # noqa: A002 (PyTorch's name)
        """Make what waits for the size of the first input."""
        if self.visible_size is None:
            self._materialize(tuple(examples(input, len(self.kernel_size))[0].shape[2:]))


class LocallyConnectedTranspose(Waiting, ConvTranspose):
    """Apply the transpose of a locally connected layer, and add a bias. Kernels are not flipped.

    ::

        v[n, i, x] = b[x, i] + Σ_{o,c,k : s∘c + e∘k − p = x}  w[c, o, i, k] · h[n, o, c]

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, dilation, padding_mode
        As for `ConvTranspose`.
    bias
        True or "bank" is one number per position and channel of the output; "channel" one per channel; False is none.
    visible_size
        X, the size of the output. None: as the first call says, by its input and its output_size; until then the
        parameters wait, as in `LocallyConnected`.
    device, dtype
        Of the parameters.

    Shapes
    ------
    input (N, C_out, *Y) or (C_out, *Y), output (N, C_in, *X) or (C_in, *X); weight (*Y, C_out, C_in/groups, *K), which
    a `LocallyConnected` and its transpose can share; bias (*X, C_in).

    Raises
    ------
    ValueError, TypeError
        As `LocallyConnected`.

    Notes
    -----
    Goodfellow 2010, section 5.1, with the kernels of *Inside Convolutional Networks*.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import LocallyConnectedTranspose
    >>> layer = LocallyConnectedTranspose(8, 3, (3, 3), stride=2)
    >>> layer(torch.zeros(5, 8, 4, 4)).shape, layer.weight.shape
    (torch.Size([5, 3, 9, 9]), torch.Size([4, 4, 8, 3, 3, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        output_padding: PerAxis = 0,
        groups: Groups = 1,
        bias: Bias = True,
        dilation: PerAxis = 1,
        padding_mode: str | Sequence[str] = "zeros",
        device: Any = None,
        dtype: Any = None,
        *,
        visible_size: PerAxis | None = None,
    ) -> None:
        """Make the parameters, with values if the size is known."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            output_padding,
            groups,
            "bank" if bias is True else bias,
            dilation,
            padding_mode,
            device,
            dtype,
            bank=LOCAL,
            visible_size=visible_size,
        )

    def initialize_parameters(
        self,
        input: Tensor,  # noqa: A002 (PyTorch's name)
        output_size: Sequence[int] | None = None,
    ) -> None:
        """Make what waits for the sizes of the first call."""
        if self.visible_size is not None:
            return
        hidden = tuple(examples(input, len(self.kernel_size))[0].shape)
        steps = self.kernel_size, self.output_padding, None
        size, padding = visible_sizes(hidden[2:], output_size, steps, self.options)
        spec = self.convolution()
        options = Options(**{**spec.options, "padding": padding})
        try:
            problem = problem_visible(hidden, spec.shared_shape, size, np.dtype("float32"), options)
        except (TypeError, ValueError) as error:
            raise as_given(error, output_size) from None
        self._materialize(problem.geometry.visible)
        self.output_padding = (0,) * len(self.kernel_size)  # which the size says now


class Tiled(Conv):
    """Convolve with kernels that take turns over hidden positions, and add a bias. Kernels are not flipped.

    ::

        h[n, o, c] = b[c mod t, o] + Σ_{i,k}  w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, device, dtype
        As for `Conv`.
    period
        t, an int or one per axis: 1 shares the kernel along that axis.
    bias
        True or "bank" is one number per channel and kernel; "channel" one per channel; False is none.

    Shapes
    ------
    As `Conv`, with the weight (*t, C_out, C_in/groups, *K) and the bias (*t, C_out). Inputs may be of any size that has
    at least t hidden positions.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    "Tiled convolution" in *Inside Convolutional Networks*.

    Examples
    --------
    >>> import torch
    >>> from triconv.torch.nn import Tiled
    >>> layer = Tiled(3, 8, (3, 3), period=(2, 1), padding=1)
    >>> layer(torch.zeros(5, 3, 9, 9)).shape, layer.weight.shape
    (torch.Size([5, 8, 9, 9]), torch.Size([2, 1, 8, 3, 3, 3]))
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: PerAxis,
        period: PerAxis,
        stride: PerAxis = 1,
        padding: Padding = 0,
        dilation: PerAxis = 1,
        groups: Groups = 1,
        bias: Bias = True,
        padding_mode: str | Sequence[str] = "zeros",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        """Make the parameters and draw their values."""
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            "bank" if bias is True else bias,
            padding_mode,
            device,
            dtype,
            bank=per_axis("period", period, axes_in(kernel_size)),
        )
