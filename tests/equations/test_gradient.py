"""*Gradient in convolutional neural networks*: rows C of docs/equations.md.

One image is a row vector x of D entries, W is D-by-C: the transpose of this package's weight. Indices count from 1.
"""

# ruff: noqa: N803, N806 (the document's capital letters)

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from arithmetic import Array, conv, conv_transpose, conv_weight, jacobian, near, real, same, slope, whole

import triconv
from triconv.layers import Affine, MaxPool, ReLU, hinge, softmax_cross_entropy

D, C = 4, 3
x, W, b, dy = whole(0, D), whole(1, D, C), whole(2, C), whole(3, C)
"""One datum, the layer's parameters, and ∂L/∂y."""


def affine(W: Array, b: Array) -> Affine:
    layer = Affine(D, C, dtype="float64")
    layer.parameters["weight"].value[...] = W.T
    layer.parameters["bias"].value[...] = b
    return layer


def forward(x: Array, W: Array, b: Array) -> Array:
    return affine(W, b).forward(x[None])[0]


def backward(x: Array, dy: Array) -> tuple[Array, Array, Array]:
    """∂L/∂x, ∂L/∂W in the document's shape, and ∂L/∂b, of a batch."""
    layer = affine(W, b)
    layer.forward(x)
    dx = layer.backward(dy)
    return dx, layer.parameters["weight"].gradient.T, layer.parameters["bias"].gradient


def test_affine_forward() -> None:
    """(1): y = xW + b."""
    same(forward(x, W, b), [sum(x[d] * W[d, c] for d in range(D)) + b[c] for c in range(C)])


def test_affine_input_jacobian() -> None:
    """(2), (3), (4): ∂y/∂x is C-by-D and Wᵀ, its rows the classifiers; ∂L/∂x = ∂L/∂y · Wᵀ.

    The text applies (3) "to Eq. 3" to get (4); it is to (2) that it applies it.
    """
    by_input = jacobian(lambda x: forward(x, W, b), x)
    assert by_input.shape == (C, D)
    same(by_input, np.stack([W[:, i] for i in range(C)]))
    dx, _, _ = backward(x[None], dy[None])
    assert dx.shape == (1, D)
    same(dx[0], [sum(dy[i] * by_input[i, d] for i in range(C)) for d in range(D)])
    same(dx[0], [sum(dy[c] * W[d, c] for c in range(C)) for d in range(D)])


def printed_tensor() -> Array:
    """(5): slice i is a D-by-C matrix with xᵀ in column i and zeros."""
    tensor = np.zeros((C, D, C))
    for i in range(C):
        tensor[i, :, i] = x
    return tensor


def test_affine_weight_jacobian() -> None:
    """(5): ∂y/∂W is C-by-D-by-C."""
    same(jacobian(lambda W: forward(x, W, b), W), printed_tensor())


def test_affine_weight_gradient() -> None:
    """(6): ∂L/∂W = Σ_i ∂L/∂y_i · ∂y_i/∂W = [∂L/∂y_1 · xᵀ, …, ∂L/∂y_C · xᵀ] = xᵀ · ∂L/∂y."""
    _, dW, _ = backward(x[None], dy[None])
    tensor = printed_tensor()
    same(dW, sum(dy[i] * tensor[i] for i in range(C)))
    same(dW, np.stack([dy[i] * x for i in range(C)], axis=1))
    same(dW, x[:, None] @ dy[None])


def test_affine_bias_gradient() -> None:
    """(7), (8): ∂y/∂b is the identity, ∂L/∂b = ∂L/∂y."""
    same(jacobian(lambda b: forward(x, W, b), b), np.eye(C))
    _, _, db = backward(x[None], dy[None])
    same(db, dy)


def test_affine_batch_question() -> None:
    """Is (6) still applicable to a data matrix X? Yes: Xᵀ · ∂L/∂Y sums over images. (8) needs its sum written out."""
    N = 5
    X, dY = whole(4, N, D), whole(5, N, C)
    dX, dW, db = backward(X, dY)
    same(dW, X.T @ dY)
    same(dW, sum(np.outer(X[n], dY[n]) for n in range(N)))
    same(dX, dY @ W.T)
    same(db, [sum(dY[n, c] for n in range(N)) for c in range(C)])


# The losses that section 1 names.


def test_cross_entropy_loss() -> None:
    scores, classes = real(0, 6, C), np.arange(6) % C

    def total(s: Array) -> Any:
        return -np.log(np.exp(s)[np.arange(6), classes] / np.exp(s).sum(axis=1)).mean()

    value, gradient = softmax_cross_entropy(scores, classes)
    near(np.array(value), total(scores), 40)
    near(gradient, slope(total, scores), 40)


def test_hinge_loss() -> None:
    """Scores lie at least 1/4 from every kink, and a step is 1/8: differences are exact."""
    scores, classes = np.array([[2.0, 2.25, 0.5], [0.75, -1.0, 3.0], [1.0, 4.25, 3.5], [0.0, 0.25, 9.5]]), [0, 0, 1, 2]

    def total(s: Array) -> float:
        wrong = [(n, j) for n, j in np.ndindex(*s.shape) if j != classes[n]]
        return sum(max(0.0, s[n, j] - s[n, classes[n]] + 1) for n, j in wrong) / 4

    value, gradient = hinge(scores, classes)
    assert value == total(scores) == (1.25 + 3.25 + 0.25) / 4
    same(gradient, jacobian(lambda s: np.array(total(s)), scores, 1 / 8))


# Convolution.


def at(array: Array, *index: int) -> float:
    """An entry, counting from 1; zero outside."""
    inside = all(1 <= i <= size for i, size in zip(index, array.shape, strict=True))
    return array[tuple(i - 1 for i in index)] if inside else 0.0


def spray(values: Array, w: Array, size: int, stride: int = 1, before: int = 0) -> Array:
    """Add value i times w around the place it belongs to; what falls outside is lost."""
    big = np.zeros(size)
    for i, value in enumerate(values):
        for k, weight in enumerate(w):
            if 0 <= (place := stride * i + k - before) < size:
                big[place] += value * weight
    return big


def line(array: Array) -> Array:
    return array[None, None]


def test_convolution_is_cross_correlation() -> None:
    """The dot product of the filter with a local neighbourhood of x, stored in y."""
    signal, w = whole(0, 7), whole(1, 3)
    y = [sum(at(w, 1 + k) * at(signal, i + k - 1) for k in range(3)) for i in range(1, 8)]
    same(conv(line(signal), line(w), padding=1)[0, 0], y)


def test_spray_question() -> None:
    """Spraying each x_i onto y with the reflected W′ gives the same y: the 1-by-three toy example, and an image."""
    signal, w = np.array([1.0, 2.0, 4.0, 8.0]), np.array([1.0, 10.0, 100.0])
    rotated = w[::-1]
    same(rotated, [100, 10, 1])
    by_hand = [10 + 200, 1 + 20 + 400, 2 + 40 + 800, 4 + 80]
    same(spray(signal, rotated, 4, before=1), by_hand)
    same(conv(line(signal), line(w), padding=1)[0, 0], by_hand)
    same(conv_transpose(line(signal), line(rotated), padding=1)[0, 0], by_hand)
    image, kernel = whole(0, 1, 1, 5, 6), whole(1, 1, 1, 3, 3)
    sprayed = np.zeros((7, 8))
    for i, j in np.ndindex(5, 6):
        sprayed[i : i + 3, j : j + 3] += image[0, 0, i, j] * np.rot90(kernel[0, 0], 2)
    same(conv(image, kernel, padding=1)[0, 0], sprayed[1:-1, 1:-1])
    same(triconv.flip(kernel)[0, 0], np.rot90(kernel[0, 0], 2))


@pytest.mark.parametrize("r", [0, 1, 2])
def test_convolution_input_gradient(r: int) -> None:
    """(9) and (10): ∂y_ij/∂x has w_{a−i+r+1,b−j+r+1} at (a, b) near (i, j), else 0; ∂L/∂x is their sum over i and j."""
    M, N = 4, 5
    image, w, dy = whole(0, M, N), whole(1, 2 * r + 1, 2 * r + 1), whole(2, M, N)
    by_input = jacobian(lambda x: conv(line(x), line(w), padding=r)[0, 0], image)
    dx = np.zeros((M, N))
    for i, j in np.ndindex(M, N):
        printed = np.zeros((M, N))
        for a, b in np.ndindex(M, N):
            if -r <= a - i <= r and -r <= b - j <= r:
                printed[a, b] = at(w, a - i + r + 1, b - j + r + 1)
        same(by_input[i, j], printed)
        dx += dy[i, j] * printed
    same(conv_transpose(line(dy), line(w), padding=r)[0, 0], dx)


def test_backward_sprays_with_the_filter_itself() -> None:
    """Backwards ∂L/∂y_i is sprayed with W as it is, forwards x_i with W′."""
    signal, w, dy = whole(0, 7), whole(1, 3), whole(2, 7)
    same(conv_transpose(line(dy), line(w), padding=1)[0, 0], spray(dy, w, 7, before=1))
    same(conv(line(signal), line(w), padding=1)[0, 0], spray(signal, w[::-1], 7, before=1))


def test_rotated_filter_question() -> None:
    """The backward step is convolving ∂L/∂y with W′: a 1-D example by hand, and an image."""
    dy, w = np.array([1.0, 0.0, 2.0]), np.array([1.0, 10.0, 100.0])
    by_hand = [10.0, 100.0 + 2.0, 20.0]
    rotated = w[::-1]
    same(np.array([sum(rotated[k] * at(dy, i + k - 1) for k in range(3)) for i in range(1, 4)]), by_hand)
    same(conv_transpose(line(dy), line(w), padding=1)[0, 0], by_hand)
    same(conv(line(dy), line(rotated), padding=1)[0, 0], by_hand)
    gradient, kernel = whole(0, 1, 1, 5, 6), whole(1, 1, 1, 3, 3)
    same(conv_transpose(gradient, kernel, padding=1), conv(gradient, np.rot90(kernel, 2, (2, 3)), padding=1))


@pytest.mark.parametrize(("n", "k", "s"), [(9, 3, 2), (10, 3, 2), (9, 2, 3), (12, 4, 2), (7, 3, 1)])
def test_strided_question(n: int, k: int, s: int) -> None:
    """Strided: spray every s places; or convolve with W′ after the trick, s − 1 zeros between neighbours of ∂L/∂y.

    Where the forward pass left positions over at the end, zeros for them follow the last.
    """
    w = whole(1, k)
    dy = whole(2, (n - k) // s + 1)
    dx = conv_transpose(line(dy), line(w), stride=s, visible_size=n)[0, 0]
    same(dx, spray(dy, w, n, stride=s))
    spread = np.zeros(n - k + 1)
    spread[::s] = dy
    rotated = w[::-1]
    same(dx, [sum(rotated[t] * at(spread, i + t - k + 1) for t in range(k)) for i in range(1, n + 1)])
    same(dx, conv(line(spread), line(rotated), padding="full")[0, 0])
    signal = whole(3, n)
    same(dx, jacobian(lambda x: (dy * conv(line(x), line(w), stride=s)[0, 0]).sum(), signal))


@pytest.mark.parametrize("s", [1, 2])
def test_weight_gradient_question(s: int) -> None:
    """x as a big filter, W as the input image: each ∂L/∂y_i is sprayed onto W with the piece of x it saw."""
    signal, w = whole(0, 8), whole(1, 3)
    dy = whole(2, (8 - 3) // s + 1)
    sprayed = np.zeros(3)
    for i, value in enumerate(dy):
        sprayed += value * signal[s * i : s * i + 3]
    same(conv_weight(line(signal), line(dy), 3, stride=s)[0, 0], sprayed)
    same(sprayed, jacobian(lambda w: (dy * conv(line(signal), line(w), stride=s)[0, 0]).sum(), w))
    if s == 1:  # literally a convolution with the big filter: y = conv(x, W), and ∂L/∂W = conv(x, ∂L/∂y)
        same(conv(line(signal), line(dy))[0, 0], sprayed)


# ReLU and max pooling.


def test_relu_mask() -> None:
    """(11), (12): y = max(x, 0); ∂L/∂x = x > 0 ? ∂L/∂y : 0, a binary mask. (12) prints ∂y/∂x on its left."""
    values, dy = whole(0, 2, 3, 4), whole(1, 2, 3, 4)
    values[0, 0, 0] = 0
    layer = ReLU()
    y = layer.forward(values)
    dx = layer.backward(dy)
    for index in np.ndindex(*values.shape):
        assert y[index] == max(values[index], 0)
        assert dx[index] == (dy[index] if values[index] > 0 else 0)
    same(dx, dy * (values > 0))
    assert y.shape == values.shape
    assert layer.parameters == {}


def test_max_pooling_question() -> None:
    """2-by-2, stride 2: each ∂L/∂y goes to the place its window's maximum came from, the others get nothing."""
    image = np.random.default_rng(0).permutation(24).astype(np.float64).reshape(1, 1, 4, 6)
    layer = MaxPool(2)
    y = layer.forward(image)
    dy = whole(1, *y.shape)
    dx = np.zeros((4, 6))
    for i, j in product(range(2), range(3)):
        window = {(a, b): image[0, 0, a, b] for a in (2 * i, 2 * i + 1) for b in (2 * j, 2 * j + 1)}
        survivor = max(window, key=lambda place: window[place])
        assert y[0, 0, i, j] == window[survivor]
        dx[survivor] = dy[0, 0, i, j]
    same(layer.backward(dy)[0, 0], dx)
    same(jacobian(lambda x: (dy * MaxPool(2).forward(x)).sum(), image, 0.25)[0, 0], dx)
    assert layer.parameters == {}
