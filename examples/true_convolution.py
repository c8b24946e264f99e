"""True convolution, SciPy's, is the form with a flipped kernel; with it the order of the arguments does not matter."""

import numpy as np
from scipy.signal import convolve

import triconv


def convolution(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Every overlap of two arrays of any rank."""
    return triconv.conv(a[None, None], triconv.flip(b[None, None]), padding="full")[0, 0]


rng = np.random.default_rng(0)
image, kernel = rng.standard_normal((9, 7, 5)), rng.standard_normal((3, 2, 4))
assert np.allclose(convolution(image, kernel), convolve(image, kernel))
assert np.allclose(convolution(image, kernel), convolution(kernel, image))
print("conv(v, flip(w)) is SciPy's convolve, and it commutes, in three dimensions:", convolution(image, kernel).shape)
