"""What the tests of the equations compute with: numbers whose comparison needs no tolerance, and the one that does.

Convolution is linear in each operand. On small whole numbers held in float64 every product and every partial sum is a
whole number below 2⁵³, so it is exact in whatever order an engine adds, and so is a difference quotient with step 1.
`same` therefore compares bit by bit. Only exp, log and tanh, and what is computed from them, need `near`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import triconv

Array = NDArray[Any]

# "highest" forbids engines that regroup the sum through transforms, whose constants are not whole numbers.
conv = partial(triconv.conv, precision="highest")
conv_transpose = partial(triconv.conv_transpose, precision="highest")
conv_weight = partial(triconv.conv_weight, precision="highest")


def whole(seed: int, *shape: int) -> Array:
    """Whole numbers from −9 to 9 without 0, so that a term that should not be there is seen."""
    rng = np.random.default_rng(seed)
    return rng.choice([-1.0, 1.0], shape) * rng.integers(1, 10, shape)


def real(seed: int, *shape: int) -> Array:
    """Uniform in [−1, 1]."""
    return np.random.default_rng(seed).uniform(-1, 1, shape)


def same(actual: Array, expected: Any) -> None:
    """Equal to the last bit, in shape and dtype too."""
    np.testing.assert_array_equal(actual, np.asarray(expected, np.float64), strict=True)


def near(actual: Array, expected: Any, terms: int) -> None:
    """Equal up to the rounding of `terms` operations on numbers of the size of the largest.

    Each operation rounds by eps/2 relative to a partial result, and no partial result here exceeds `terms` times the
    largest operand; both sides round, and exp, log and tanh are off by up to 2 eps: 4 · terms · eps covers them.
    """
    expected = np.asarray(expected)
    assert np.shape(actual) == expected.shape
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=4 * terms * np.finfo(np.float64).eps * scale)


def jacobian(f: Callable[[Array], Array], x: Array, step: float = 1.0) -> Array:
    """∂f/∂x of shape (*f, *x) by difference quotients: exact where f is linear in each entry over the step."""
    at = np.asarray(f(x))
    columns = []
    for index in np.ndindex(*x.shape):
        moved = x.copy()
        moved[index] += step
        columns.append((f(moved) - at) / step)
    return np.stack(columns, axis=-1).reshape(*at.shape, *x.shape)


def slope(f: Callable[[Array], Any], x: Array) -> Array:
    """The gradient of an analytic scalar f by a difference along the imaginary axis: no cancellation, no truncation.

    f(x + i·t) = f(x) + i·t·f′(x) − t²/2·f″(x) − …, and with t = 1e-100 the later terms are below the smallest digit.
    """
    gradient = np.empty(x.shape)
    for index in np.ndindex(*x.shape):
        moved = x.astype(np.complex128)
        moved[index] += 1e-100j
        gradient[index] = f(moved).imag / 1e-100
    return gradient
