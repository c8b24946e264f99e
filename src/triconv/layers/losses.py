"""Losses: each returns its mean over the examples and the gradient with respect to the prediction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arrays import STORED

Array = NDArray[Any]


def mean_squared_error(prediction: Array, target: ArrayLike) -> tuple[float, Array]:
    """Average (prediction − target)² over all values. Nothing is flipped.

    ::

        L = 1/M Σ (q − y)²,    ∂L/∂q = 2/M (q − y),    M the number of values

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import mean_squared_error
    >>> mean_squared_error(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    (2.0, array([0., 2.]))
    """
    prediction = _predicted(prediction)
    difference = prediction - _like(prediction, target)
    loss = float(np.mean(difference * difference))
    difference *= prediction.dtype.type(2 / prediction.size)
    return loss, difference


def softmax_cross_entropy(prediction: Array, target: ArrayLike) -> tuple[float, Array]:
    """Average the negative log-likelihood of the true classes under softmax. Nothing is flipped.

    ::

        L = 1/N Σ_n  log Σ_j exp(s[n, j]) − s[n, y_n],    ∂L/∂s = 1/N (softmax(s) − onehot(y))

    Parameters
    ----------
    prediction
        Scores (N, classes), any real numbers.
    target
        The true class of each example, (N,) integers from 0.

    Raises
    ------
    ValueError, TypeError
        When the target is not one class for each example.

    Notes
    -----
    The lecture of Šegvić, "Matrices: problem"; *Gradient in convolutional neural networks*, section 1.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import softmax_cross_entropy
    >>> loss, gradient = softmax_cross_entropy(np.array([[0.0, 0.0]]), np.array([1]))
    >>> round(loss, 6), gradient
    (0.693147, array([[ 0.5, -0.5]]))
    """
    prediction = _predicted(prediction)
    rows, classes = _classes(prediction, target)
    shifted = prediction - prediction.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=1, keepdims=True)
    gradient = exponentials / total
    gradient[rows, classes] -= 1
    loss = np.mean(np.log(total[:, 0]) - shifted[rows, classes])
    return float(loss), gradient / prediction.dtype.type(len(prediction))


def hinge(prediction: Array, target: ArrayLike, *, margin: float = 1.0) -> tuple[float, Array]:
    """Average the multi-class hinge loss: by how much wrong classes come within a margin of the true one.

    ::

        L = 1/N Σ_n Σ_{j ≠ y_n}  max(0, s[n, j] − s[n, y_n] + margin)

    The gradient adds 1/N to each violating class and takes as much from the true one. Nothing is flipped.

    Parameters
    ----------
    prediction, target
        As for `softmax_cross_entropy`.
    margin
        How far the true score must lie above the others.

    Raises
    ------
    ValueError, TypeError
        As `softmax_cross_entropy`.

    Notes
    -----
    The hinge loss that *Gradient in convolutional neural networks*, section 1, names, in Weston and Watkins' form.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import hinge
    >>> hinge(np.array([[2.0, 2.5, 0.0]]), np.array([0]))
    (1.5, array([[-1.,  1.,  0.]]))
    """
    prediction = _predicted(prediction)
    rows, classes = _classes(prediction, target)
    excess = prediction - prediction[rows, classes][:, None] + prediction.dtype.type(margin)
    excess[rows, classes] = 0
    violated = (excess > 0).astype(prediction.dtype)
    violated[rows, classes] = -violated.sum(axis=1)
    return float(np.maximum(excess, 0).sum() / len(prediction)), violated / prediction.dtype.type(len(prediction))


def binary_cross_entropy(prediction: Array, target: ArrayLike) -> tuple[float, Array]:
    """Average the negative log-likelihood of independent bits over all values. Nothing is flipped.

    ::

        L = −1/M Σ  y log q + (1 − y) log(1 − q),    ∂L/∂q = 1/M (q − y) / (q (1 − q))

    Parameters
    ----------
    prediction
        Probabilities in [0, 1], any shape; logarithms are cut off at −100 and q (1 − q) at 1e-12, so that certain
        mistakes cost much but not infinitely much.
    target
        Values in [0, 1], the same shape.

    Raises
    ------
    ValueError
        When the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import binary_cross_entropy
    >>> loss, gradient = binary_cross_entropy(np.array([0.5]), np.array([1.0]))
    >>> round(loss, 6), gradient
    (0.693147, array([-2.]))
    """
    prediction = _predicted(prediction)
    y = _like(prediction, target)
    with np.errstate(divide="ignore"):
        log_q = np.maximum(np.log(prediction), -100)
        log_not_q = np.maximum(np.log1p(-prediction), -100)
    loss = -np.mean(y * log_q + (1 - y) * log_not_q)
    slope = np.maximum(prediction * (1 - prediction), prediction.dtype.type(1e-12))
    return float(loss), (prediction - y) / slope / prediction.dtype.type(prediction.size)


def _predicted(prediction: ArrayLike) -> Array:
    """The prediction as an array that has a mean and a gradient."""
    array = np.asarray(prediction)
    if array.dtype.kind != "f" and array.dtype.name not in STORED:
        raise TypeError(f"prediction of dtype {array.dtype}: expected real floating-point numbers")
    if not array.size:
        raise ValueError(f"prediction of shape {array.shape}: expected at least one example, and values in it")
    return array


def _like(prediction: Array, target: ArrayLike) -> Array:
    array = np.asarray(target, dtype=prediction.dtype)
    if array.shape != prediction.shape:
        raise ValueError(f"target of shape {array.shape}: expected the prediction's shape {prediction.shape}")
    return array


def _classes(prediction: Array, target: ArrayLike) -> tuple[Array, Array]:
    """Row and class of the true score of each example."""
    classes = np.asarray(target)
    if prediction.ndim != 2:
        raise ValueError(f"prediction of shape {prediction.shape}: expected (examples, classes)")
    if classes.dtype.kind not in "iu":
        raise TypeError(f"target of dtype {classes.dtype}: expected integers, the true class of each example")
    if classes.shape != prediction.shape[:1]:
        raise ValueError(f"target of shape {classes.shape}: expected one class for each of {len(prediction)} examples")
    if classes.size and not 0 <= classes.min() <= classes.max() < prediction.shape[1]:
        raise ValueError(
            f"target from {classes.min()} to {classes.max()}: expected classes 0 to {prediction.shape[1] - 1}"
        )
    return np.arange(len(prediction)), classes
