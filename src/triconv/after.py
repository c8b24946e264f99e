"""What is done to a result before it is written, while it is still in a register: a bias, the positive part, a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class After:
    """The steps that follow a sum, in this order.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.array([[[-1.0, 2.0], [3.0, -4.0]]])
    >>> After(bias=np.array([10.0, 0.0]), positive=True).apply(out)
    >>> out
    array([[[ 9., 12.],
            [ 3.,  0.]]])
    """

    bias: Array | None = None
    """To be added: a number for each channel of the result."""
    positive: bool = False
    """Whether the positive part is taken; NaN stays NaN."""
    where: Array | None = None
    """Of the result's shape: where it is not positive, the result is zero."""

    @property
    def steps(self) -> tuple[bool, bool, bool]:
        """Which of them there are."""
        return self.bias is not None, self.positive, self.where is not None

    @property
    def arrays(self) -> tuple[Array, ...]:
        """Those that kernels read besides."""
        return tuple([array for array in (self.bias, self.where) if array is not None])

    def apply(self, out: Array) -> None:
        """Do it to a result that is there."""
        with np.errstate(all="ignore"):
            if self.bias is not None:
                out += self.bias.reshape(-1, *(1,) * (out.ndim - 2))
            if self.positive:
                np.maximum(out, 0, out=out)
            if self.where is not None:
                keep(out, self.where > 0)

    def fits(self, out: Array) -> bool:
        """Whether kernels can do it that write the result: what they read lies as that does, and has its dtype."""
        lying = self.where is None or (self.where.strides == out.strides and self.where.dtype == out.dtype)
        together = self.bias is None or (self.bias.dtype == out.dtype and self.bias.strides == (out.itemsize,))
        return lying and together and all(array.flags.aligned for array in self.arrays)

    def of(self, pick: Any) -> After:
        """What is done to a part of the result."""
        return self if self.where is None else After(self.bias, self.positive, self.where[pick])


def keep(out: Array, there: Array) -> None:
    """Make an array zero where something is not.

    NumPy chooses slowly: a number's bits times 1 or 0 are the number or +0, an infinity and a NaN too.
    """
    if out.dtype.kind == "f" and out.itemsize <= 8:
        bits = out.view(f"i{out.itemsize}")
        np.multiply(bits, there, out=bits)
    else:
        out[~there] = 0


def pitch(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> int:
    """How many numbers positions are apart whose channels are neighbours; 0 where they lie otherwise.

    A number's channel is then what is left of its place, divided by the pitch.
    """
    steps = [step for axis, (size, step) in enumerate(zip(shape, strides, strict=True)) if axis != 1 and size > 1]
    least = min(steps, default=shape[1] * itemsize)
    together = (shape[1] == 1 or strides[1] == itemsize) and least >= max(shape[1], 1) * itemsize
    return least // itemsize if together and not any(step % least for step in steps) and least % itemsize == 0 else 0
