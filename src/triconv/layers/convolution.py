"""Layers whose map is the form: convolution, its transpose, and the affine map, which is convolution with no axes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..after import After
from ..architecture import Convolution, Scheme
from ..arrays import named_dtype, operand
from ..ops import conv, conv_weight, followed
from .base import FINISHING, Finishing, Parameter, passing

Array = NDArray[Any]
Bias = Literal["channel", "bank"] | None


class _Linear(Finishing):
    """A convolution used in one direction, with a bias on what it produces."""

    def __init__(
        self,
        spec: Convolution,
        produced_channels: int,
        produced_periods: tuple[int, ...],
        bias: Bias,
        init: Scheme,
        seed: int | np.random.Generator,
        dtype: Any,
        weight: Parameter | None,
    ) -> None:
        super().__init__()
        self.spec = spec
        if weight is None:
            weight = Parameter(spec.initial_weight(np.random.default_rng(seed), init, named_dtype(dtype)))
        elif weight.value.shape != spec.weight_shape:
            raise ValueError(f"weight of shape {weight.value.shape}: expected {spec.weight_shape}")
        operand("weight", weight.value)
        self.weight = self.parameters["weight"] = weight
        self.bias: Parameter | None = None
        if bias not in ("channel", "bank", None):
            raise ValueError(f'bias={bias!r}: expected "channel", "bank" or None')
        if bias is not None:
            periods = produced_periods if bias == "bank" else ()
            self.bias = self.parameters["bias"] = Parameter(np.zeros((*periods, produced_channels), weight.value.dtype))

    def made(self, operation: str, x: Array, positive: bool, **sizes: Any) -> Array:
        """The layer's map of x: the operation, the bias, and the positive part if it is wanted.

        A bank of biases is convolution of a constant 1 with a bank of one-tap kernels.
        """
        value = None if self.bias is None else self.bias.value
        if value is None or value.ndim == 1:
            return followed(operation, x, self.weight.value, After(value, positive), **sizes, **self.spec.options)
        taps = value.reshape(*value.shape, 1, *(1,) * self.spec.rank)
        produced = followed(operation, x, self.weight.value, After(), **sizes, **self.spec.options)
        produced += conv(np.ones((1, 1, *produced.shape[2:]), value.dtype), taps)
        After(positive=positive).apply(produced)
        return produced

    def returned(self, operation: str, gradient: Array, positive: bool, **sizes: Any) -> Array:
        """The gradient to the last input, zero where that is not positive if this is wanted."""
        after = After(where=self.recall() if positive else None)
        return followed(operation, gradient, self.weight.value, after, **sizes, **self.spec.options)

    def add_bias_gradient(self, gradient: Array) -> None:
        if self.bias is None:
            return
        ones = np.broadcast_to(gradient.dtype.type(1), (len(gradient), 1, *gradient.shape[2:]))
        bank = self.bias.value.shape[:-1] or None
        taps = conv_weight(ones, gradient, (1,) * self.spec.rank, bank=bank)
        self.bias.add_gradient(taps.reshape(self.bias.value.shape))


class Conv(_Linear):
    """Convolve and add a bias: H = b + W @_d V. The kernel is not flipped.

    ::

        h[n, o, c] = b[o] + Σ_{i,k}  w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible_channels, hidden_channels, kernel_size
        C_in, C_out and K: one int per axis, which also sets the rank.
    stride, padding, dilation, groups, border
        As for `triconv.conv`.
    bank
        None for one shared kernel, a period (an int or one per axis) for tiled ones, "local" for one per hidden
        position; with a bank, the visible_size must be known.
    visible_size
        X, one int per axis.
    bias
        "channel": one per hidden channel; "bank": one per channel and kernel of the bank; None.
    init, seed, dtype
        "he" or "glorot" (`triconv.architecture.initial`); an int or a NumPy Generator; the parameters' dtype.
    weight
        A parameter to share, as tied layers do, instead of a new one.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    Gradients are `conv_transpose` and `conv_weight`: Goodfellow 2010, sections 2 and 5.2; the lecture of Šegvić,
    "Multi-channel 2D conv".

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Conv
    >>> layer = Conv(3, 8, (3, 3), stride=2, padding=1)
    >>> layer.forward(np.zeros((5, 3, 9, 9), np.float32)).shape
    (5, 8, 5, 5)
    >>> layer.backward(np.ones((5, 8, 5, 5), np.float32)).shape
    (5, 3, 9, 9)
    >>> Conv(3, 8, (3, 3), bank="local", visible_size=(9, 9), bias="bank").parameters
    {'weight': Parameter(shape=(7, 7, 8, 3, 3, 3), dtype=float32), 'bias': Parameter(shape=(7, 7, 8), dtype=float32)}
    """

    def __init__(
        self,
        visible_channels: int,
        hidden_channels: int,
        kernel_size: tuple[int, ...],
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        border: Any = "zero",
        bank: Any = None,
        visible_size: tuple[int, ...] | None = None,
        bias: Bias = "channel",
        init: Scheme = "he",
        seed: int | np.random.Generator = 0,
        dtype: Any = "float32",
        weight: Parameter | None = None,
    ) -> None:
        spec = Convolution(
            visible_channels,
            hidden_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            border,
            bank,
            visible_size,
        )
        super().__init__(spec, hidden_channels, spec.periods, bias, init, seed, dtype, weight)

    @passing(FINISHING)
    def forward(self, x: Array, *, positive: bool = False) -> Array:
        spec = self.spec
        if spec.periods and spec.visible_size is not None and x.shape[2:] != tuple(spec.visible_size):
            sizes = ", ".join(str(size) for size in (spec.visible_channels, *spec.visible_size))
            raise ValueError(f"x of shape {x.shape}: expected (examples, {sizes}), for which the bank was made")
        self.remember(x)
        return self.made("conv", x, positive)

    @passing(FINISHING)
    def backward(self, gradient: Array, *, positive: bool = False) -> Array:
        v, spec = self.recall(), self.spec
        bank = spec.periods or None
        self.weight.add_gradient(conv_weight(v, gradient, spec.kernel_size, bank=bank, **spec.options))
        self.add_bias_gradient(gradient)
        return self.returned("conv_transpose", gradient, positive, visible_size=v.shape[2:])


class Affine(Conv):
    """Multiply by a matrix and add a bias: q = W p + b, which is convolution without axes.

    ::

        q[n, o] = b[o] + Σ_i  w[o, i] · p[n, i]

    Parameters
    ----------
    inputs, outputs
        Sizes of p and q.
    bias, init, seed, dtype, weight
        As for `Conv`.

    Notes
    -----
    The lecture of Šegvić, "Fully connected layer"; *Gradient in convolutional neural networks*, section 1, whose
    W is the transpose of this one.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Affine
    >>> Affine(4, 3).forward(np.ones((2, 4), np.float32)).shape
    (2, 3)
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        bias: Bias = "channel",
        init: Scheme = "he",
        seed: int | np.random.Generator = 0,
        dtype: Any = "float32",
        weight: Parameter | None = None,
    ) -> None:
        super().__init__(inputs, outputs, (), bias=bias, init=init, seed=seed, dtype=dtype, weight=weight)


class ConvTranspose(_Linear):
    """Apply the transpose of a convolution and add a bias: R = b + W @_d^T H. The kernel is not flipped.

    ::

        v[n, i, x] = b[i] + Σ_{o,c,k : s∘c + e∘k − p = x}  w[c mod t, o, i, k] · h[n, o, c]

    Parameters
    ----------
    hidden_channels, visible_channels, kernel_size
        C_out and C_in of the convolution that this is the transpose of: the layer's inputs and outputs. One int of K
        per axis.
    stride, padding, dilation, groups, border, bank, init, seed, dtype, weight
        As for `Conv`; the weight has the same shape, so the two can share one.
    visible_size
        X, what the layer produces; None is the smallest, see `triconv.conv_transpose`.
    bias
        "channel": one per visible channel; "bank": one per channel and visible position that the bank tells apart
        (period s·t, every position when local); None.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected.

    Notes
    -----
    Gradients are `conv` and `conv_weight`: Goodfellow 2010, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import ConvTranspose
    >>> layer = ConvTranspose(8, 3, (4, 4), stride=2, padding=1)
    >>> layer.forward(np.zeros((5, 8, 7, 7), np.float32)).shape
    (5, 3, 14, 14)
    """

    def __init__(
        self,
        hidden_channels: int,
        visible_channels: int,
        kernel_size: tuple[int, ...],
        *,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
        border: Any = "zero",
        bank: Any = None,
        visible_size: tuple[int, ...] | None = None,
        bias: Bias = "channel",
        init: Scheme = "he",
        seed: int | np.random.Generator = 0,
        dtype: Any = "float32",
        weight: Parameter | None = None,
    ) -> None:
        spec = Convolution(
            visible_channels,
            hidden_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            border,
            bank,
            visible_size,
        )
        super().__init__(spec, visible_channels, spec.visible_periods, bias, init, seed, dtype, weight)

    @passing(FINISHING)
    def forward(self, x: Array, *, positive: bool = False) -> Array:
        self.remember(x)
        return self.made("conv_transpose", x, positive, visible_size=self.spec.visible_size)

    @passing(FINISHING)
    def backward(self, gradient: Array, *, positive: bool = False) -> Array:
        h, spec = self.recall(), self.spec
        bank = spec.periods or None
        self.weight.add_gradient(conv_weight(gradient, h, spec.kernel_size, bank=bank, **spec.options))
        self.add_bias_gradient(gradient)
        return self.returned("conv", gradient, positive)
