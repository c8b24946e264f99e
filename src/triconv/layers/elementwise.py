"""Layers that act on each value by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..after import keep
from .base import POSITIVE, Layer, passing

Array = NDArray[Any]


class ReLU(Layer):
    """Take the positive part: q = max(0, p). There is no kernel, so nothing is flipped.

    Its gradient is ∂L/∂q where p > 0 and zero elsewhere, at 0 too (the lecture of Šegvić, "Vectors: ReLU"; *Gradient in
    convolutional neural networks*, equations 11 and 12). A NaN stays a NaN. What it made is what it remembers: whoever
    changes that before backward changes the gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import ReLU
    >>> layer = ReLU()
    >>> layer.forward(np.array([-1.0, 0.0, 2.0]))
    array([0., 0., 2.])
    >>> layer.backward(np.array([1.0, 1.0, 1.0]))
    array([0., 0., 1.])
    """

    @passing(POSITIVE)
    def forward(self, x: Array) -> Array:
        q: Array = np.maximum(x, 0)
        self.remember(q)
        return q

    @passing(POSITIVE)
    def backward(self, gradient: Array) -> Array:
        found = np.array(gradient)
        keep(found, self.recall() > 0)
        return found


class Sigmoid(Layer):
    """Squash to (0, 1): q = 1 / (1 + exp(−p)), with gradient ∂L/∂q · q (1 − q). Nothing is flipped.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Sigmoid
    >>> Sigmoid().forward(np.array([-1000.0, 0.0, 1000.0]))
    array([0. , 0.5, 1. ])
    """

    def forward(self, x: Array) -> Array:
        # tanh saturates without overflow, unlike exp.
        q = 0.5 * np.tanh(0.5 * x) + 0.5
        self.remember(q)
        return q

    def backward(self, gradient: Array) -> Array:
        q: Array = self.recall()
        slope: Array = q * (1 - q)
        return gradient * slope


class Tanh(Layer):
    """Squash to (−1, 1): q = tanh(p), with gradient ∂L/∂q · (1 − q²). Nothing is flipped.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Tanh
    >>> Tanh().forward(np.array([0.0]))
    array([0.])
    """

    def forward(self, x: Array) -> Array:
        q = np.tanh(x)
        self.remember(q)
        return q

    def backward(self, gradient: Array) -> Array:
        q: Array = self.recall()
        slope: Array = 1 - q * q
        return gradient * slope
