"""The discrete Fourier transforms of the form: an axis in parts, and the matrices of the three roles.

    [x = s·c + e·k − p]  =  1/n · Σ_f  exp(−2πi f·x/n) · exp(2πi f·e·k/n) · exp(2πi f·(s·c − p)/n)

for n frequencies, of which no two positions that must be told apart are a multiple of n apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..form import Role
from ..geometry import Axis, Parts

Array = NDArray[Any]


@dataclass(frozen=True)
class Cut:
    """An axis in parts, and how many frequencies a part has."""

    parts: Parts
    length: int

    @classmethod
    def of(cls, axis: Axis, count: int, transposed: bool) -> Cut:
        parts = Parts(1, axis, (0, 0), (0, 0)) if count == 1 else axis.parts(count, transposed)
        one = parts.axis
        # What is read, and what there is to be read: from −before to reach − before, and from 0 to visible.
        read = one.reach - one.before
        apart = one.reach if one.border != "zero" else max(one.visible, one.visible + one.before, read)
        return cls(parts, max(1, apart))

    def size(self, role: Role) -> int:
        """How many entries a part has."""
        axis = self.parts.axis
        if role is Role.WEIGHT:
            return axis.kernel
        return axis.visible if role is Role.VISIBLE else axis.hidden

    def matrix(self, role: Role, half: bool, dtype: str) -> Array:
        """(frequency, real and imaginary part, entry) of the role's transform.

        Of half the frequencies on real entries, or of all of them on complex ones: (…, real and imaginary part, entry).
        """
        axis, n = self.parts.axis, self.length
        f = np.arange(n // 2 + 1 if half else n)
        match role:
            case Role.VISIBLE:
                extended = axis.border != "zero"
                waves = _waves(f, -(np.arange(axis.reach) - axis.before if extended else np.arange(axis.visible)), n)
                if extended:
                    waves = waves @ (axis.extension[:, None] == np.arange(axis.visible))
            case Role.WEIGHT:
                waves = _waves(f, axis.dilation * np.arange(axis.kernel), n)
            case Role.HIDDEN:
                twice = np.where(half & (f > 0) & (2 * f < n), 2, 1) / n
                waves = twice[:, None] * _waves(f, axis.stride * np.arange(axis.hidden) - axis.before, n)
        if half:
            return np.stack([waves.real, waves.imag], axis=1).astype(dtype)
        return np.stack(
            [np.stack([waves.real, -waves.imag], axis=1), np.stack([waves.imag, waves.real], axis=1)], axis=1
        ).astype(dtype)


def _waves(f: Array, position: Array, n: int) -> Array:
    """exp(2πi f·x/n), of angles that are exact."""
    waves: Array = np.exp(2j * np.pi / n * (np.outer(f, position) % n))
    return waves
