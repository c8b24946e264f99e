"""*Convolution and its gradients* ("same" padding): rows P of docs/equations.md. Indices count from 0."""

# ruff: noqa: N803, N806 (the document's capital letters)

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from arithmetic import Array, conv, conv_transpose, conv_weight, jacobian, same, whole

import triconv
from triconv.layers import Conv

M, N = 5, 6

filters = pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 3), (3, 5), (5, 1)])


def read(X: Array, x: int, y: int) -> float:
    """Missing values are zero."""
    return X[x, y] if 0 <= x < X.shape[0] and 0 <= y < X.shape[1] else 0.0


def dot(X: Array, W: Array) -> float:
    """y = X ⊙ W = Σ_{x<a} Σ_{y<b} X_xy W_xy, the top-left corners aligned."""
    return sum(read(X, x, y) * W[x, y] for x, y in np.ndindex(*W.shape))


def shifted(X: Array, alpha: int, beta: int) -> Array:
    """X with its values moved down by α and right by β: (X shifted)_xy = X_{x−α,y−β}."""
    return np.array([[read(X, x - alpha, y - beta) for y in range(X.shape[1])] for x in range(X.shape[0])])


def image(array: Array) -> Array:
    return array[None, None]


def test_layer_is_many_kernels_and_biases() -> None:
    """A Conv2D layer is many small kernels, one per pair of channels, followed by biases."""
    layer = Conv(2, 3, (3, 3), padding="same", dtype="float64")
    W, b, X = whole(0, 3, 2, 3, 3), whole(1, 3), whole(2, 1, 2, M, N)
    layer.parameters["weight"].value[...], layer.parameters["bias"].value[...] = W, b
    for o in range(3):
        kernels = sum(conv(X[:, i : i + 1], image(W[o, i]), padding="same") for i in range(2))
        same(layer.forward(X)[:, o : o + 1], kernels + b[o])


@filters
def test_kernel_is_a_dot_product(a: int, b: int) -> None:
    """y = X ⊙ W is the first output of the unpadded convolution; the letter y is also printed for a summation index."""
    X, W = whole(0, M, N), whole(1, a, b)
    assert conv(image(X), image(W))[0, 0, 0, 0] == dot(X, W)


def test_kernel_larger_than_the_input() -> None:
    """Where a > m or b > n, X is padded with zeros: here by as much as is missing, after."""
    X, W = whole(0, 2, 4), whole(1, 3, 5)
    y = conv(image(X), image(W), padding=((0, 1), (0, 1)))
    assert y.shape == (1, 1, 1, 1)
    assert y[0, 0, 0, 0] == dot(X, W)


@filters
def test_kernel_gradients(a: int, b: int) -> None:
    """dy/dW_xy = X_xy, dy/dX_xy = W_xy (0 where W does not reach)."""
    X, W = whole(0, M, N), whole(1, a, b)
    one = np.zeros((1, 1, M - a + 1, N - b + 1))
    one[0, 0, 0, 0] = 1
    same(conv_weight(image(X), one, (a, b))[0, 0], X[:a, :b])
    same(conv_transpose(one, image(W))[0, 0], [[read(W, x, y) for y in range(N)] for x in range(M)])
    same(jacobian(lambda X: np.array(dot(X, W)), X), [[read(W, x, y) for y in range(N)] for x in range(M)])


@filters
def test_shifted_kernel(a: int, b: int) -> None:
    """(X ⊙ W) shifted by (α, β) = Σ_xy X_{x+α,y+β} W_xy, which is X ⊙ W with W moved down by α and right by β.

    The text says "right and down with (α, β)"; α, the row's, is down.
    """
    X, W = whole(0, M, N), whole(1, a, b)
    y = conv(image(X), image(W), padding="full")[0, 0]
    large = np.zeros((M, N))
    large[:a, :b] = W
    for alpha, beta in product(range(1 - a, M), range(1 - b, N)):
        total = sum(read(X, i + alpha, j + beta) * W[i, j] for i, j in np.ndindex(a, b))
        assert y[alpha + a - 1, beta + b - 1] == total
        if 0 <= alpha <= M - a and 0 <= beta <= N - b:
            assert dot(X, shifted(large, alpha, beta)) == total


@filters
def test_shifted_kernel_gradients(a: int, b: int) -> None:
    """With the shift: dy/dW_xy = X_{x+α,y+β}, dy/dX_xy = W_{x−α,y−β}."""
    X, W = whole(0, M, N), whole(1, a, b)
    for alpha, beta in [(0, 0), (1, 2), (-1, 1), (2, -2), (1 - a, 1 - b), (M - 1, N - 1)]:
        if alpha <= -a or beta <= -b:
            continue
        one = np.zeros((1, 1, M + a - 1, N + b - 1))
        one[0, 0, alpha + a - 1, beta + b - 1] = 1
        dW = [[read(X, x + alpha, y + beta) for y in range(b)] for x in range(a)]
        same(conv_weight(image(X), one, (a, b), padding="full")[0, 0], dW)
        dX = [[read(W, x - alpha, y - beta) for y in range(N)] for x in range(M)]
        same(conv_transpose(one, image(W), padding="full")[0, 0], dX)


@filters
def test_same_forward(a: int, b: int) -> None:
    """Y_ij = (X ⊙ W) shifted by (i−(a−1)/2, j−(b−1)/2) = Σ_xy X_{i+x−(a−1)/2, j+y−(b−1)/2} W_xy, of the shape of X.

    Printed is also Y_ij = y shifted by (i, j), which by y's definition is (X ⊙ W) shifted by (i, j): something else as
    soon as W has more than one element.
    """
    X, W = whole(0, M, N), whole(1, a, b)

    def y(alpha: int, beta: int) -> float:
        return sum(read(X, x + alpha, y + beta) * W[x, y] for x, y in np.ndindex(a, b))

    Y = np.array([[y(i - (a - 1) // 2, j - (b - 1) // 2) for j in range(N)] for i in range(M)])
    found = conv(image(X), image(W), padding="same")[0, 0]
    same(found, Y)
    printed = np.array([[y(i, j) for j in range(N)] for i in range(M)])
    assert np.array_equal(found, printed) == (a == b == 1)


@filters
def test_same_jacobian_columns(a: int, b: int) -> None:
    """A column of the Jacobian has ab entries that are not zero where the window of x lies inside; else fewer."""
    X, W = whole(0, M, N), whole(1, a, b)
    by_input = jacobian(lambda X: conv(image(X), image(W), padding="same")[0, 0], X)
    for x, y in np.ndindex(M, N):
        rows = sum(0 <= x + s < M for s in range(-(a // 2), a // 2 + 1))
        columns = sum(0 <= y + s < N for s in range(-(b // 2), b // 2 + 1))
        assert np.count_nonzero(by_input[:, :, x, y]) == rows * columns
        inside = a // 2 <= x < M - a // 2 and b // 2 <= y < N - b // 2
        assert (rows * columns == a * b) == inside


@filters
def test_same_input_gradient(a: int, b: int) -> None:
    """dX = dY ⊗ W′, still "same", with all of W reversed as printed row by row."""
    X, W, dY = whole(0, M, N), whole(1, a, b), whole(2, M, N)
    reversed_W = np.array([[W[a - 1 - x, b - 1 - y] for y in range(b)] for x in range(a)])
    same(triconv.flip(image(W))[0, 0], reversed_W)
    dX = conv_transpose(image(dY), image(W), padding="same")[0, 0]
    expected = np.zeros((M, N))
    for i, j in np.ndindex(M, N):
        expected[i, j] = sum(
            read(dY, i + x - (a - 1) // 2, j + y - (b - 1) // 2) * reversed_W[x, y] for x, y in np.ndindex(a, b)
        )
    same(dX, expected)
    same(dX, conv(image(dY), image(reversed_W), padding="same")[0, 0])
    same(dX, jacobian(lambda X: (dY * conv(image(X), image(W), padding="same")[0, 0]).sum(), X))


@filters
def test_same_weight_gradient(a: int, b: int) -> None:
    """At the centre dW = dY ⊙ X; at (x, y) from it dW = (dY moved by (x, y)) ⊙ X."""
    X, dY = whole(0, M, N), whole(2, M, N)
    dW = conv_weight(image(X), image(dY), (a, b), padding="same")[0, 0]
    assert dW[(a - 1) // 2, (b - 1) // 2] == dot(dY, X)
    for x, y in product(range(-(a // 2), a // 2 + 1), range(-(b // 2), b // 2 + 1)):
        assert dW[x + (a - 1) // 2, y + (b - 1) // 2] == dot(shifted(dY, x, y), X)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (4, 3)])
def test_same_with_even_filters(a: int, b: int) -> None:
    """The document asks for odd filters. For an even one "same" pads the odd zero after, and dX reverses that."""
    X, W, dY = whole(0, M, N), whole(1, a, b), whole(2, M, N)
    before = tuple((k - 1) // 2 for k in (a, b))
    Y = np.zeros((M, N))
    for i, j in np.ndindex(M, N):
        Y[i, j] = sum(read(X, i + x - before[0], j + y - before[1]) * W[x, y] for x, y in np.ndindex(a, b))
    same(conv(image(X), image(W), padding="same")[0, 0], Y)
    turned = tuple((k - 1 - p, p) for k, p in zip((a, b), before, strict=True))
    dX = conv_transpose(image(dY), image(W), padding="same")
    same(dX, conv(image(dY), triconv.flip(image(W)), padding=turned))
    assert not np.array_equal(dX, conv(image(dY), triconv.flip(image(W)), padding="same"))
