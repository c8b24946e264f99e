"""*Inside Convolutional Networks* (lecture): rows I of docs/equations.md. Tensors' indices count from 1."""

# ruff: noqa: N803, N806 (the lecture's capital letters)

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from arithmetic import Array, conv, conv_transpose, conv_weight, jacobian, same, whole
from scipy.signal import convolve

import triconv
from triconv.engines.matrix import matrix
from triconv.layers import Conv

Index = tuple[int, ...]


def read(array: Array, *index: int) -> float:
    """An entry, counting from 1; zero outside, as the sums over all integers need."""
    inside = all(1 <= i <= size for i, size in zip(index, array.shape, strict=True))
    return array[tuple(i - 1 for i in index)] if inside else 0.0


def image(array: Array) -> Array:
    return array[None, None]


def convolved(x: Array, w: Array, padding: Any = "full") -> Array:
    """True convolution of two arrays by this package."""
    return conv(image(x), triconv.flip(image(w)), padding=padding)[0, 0]


# The convolution operation.


def test_integral() -> None:
    """s(t) = ∫ x(a) w(t − a) da for functions that are constant between whole numbers: midpoint sums are exact.

    At a whole t the steps of x and of the reversed w fall together, and s(t) is the discrete convolution at t − 1.
    """
    x, w = whole(0, 6), whole(1, 3)

    def step(values: Array, at: float) -> float:
        return read(values, 1 + int(np.floor(at)))

    middles = np.arange(-8, 16, 0.25) + 0.125
    for t in range(-1, 12):
        s = sum(step(x, a) * step(w, t - a) for a in middles) / 4
        assert s == read(convolved(x, w), t)


def test_weighted_average_needs_a_probability() -> None:
    """With weights of sum 1, none negative, s stays between the extremes of x and keeps constants; else it need not."""
    x = whole(0, 20)
    density = np.array([0.5, 0.25, 0.25])
    s = convolved(x, density, "valid")
    assert x.min() <= s.min()
    assert s.max() <= x.max()
    same(convolved(np.full(20, 7.0), density, "valid"), np.full(18, 7.0))
    assert convolved(x, 2 * density, "valid").max() > x.max()


@pytest.mark.parametrize(("n", "k"), [(7, 3), (3, 7), (5, 5), (6, 1)])
def test_discrete_convolution(n: int, k: int) -> None:
    """s(t) = Σ_a x(a) w(t − a) over all a, x and w being zero but on the finite set that is stored (from 1 on)."""
    x, w = whole(0, n), whole(1, k)
    everywhere = {t: sum(read(x, a) * read(w, t - a) for a in range(-20, 20)) for t in range(-10, 25)}
    support = range(2, n + k + 1)
    same(convolved(x, w), [everywhere[t] for t in support])
    assert not any(value for t, value in everywhere.items() if t not in support)
    same(convolved(x, w), np.convolve(x, w))


SIZES = pytest.mark.parametrize(("shape", "kernel"), [((5, 6), (3, 2)), ((3, 3), (3, 3)), ((4, 7), (4, 1))])


@SIZES
def test_two_dimensional_convolution(shape: Index, kernel: Index) -> None:
    """S(t, r) = ΣΣ I(i, j) K(t − i, r − j) = ΣΣ I(t − i, r − j) K(i, j) = K * I (t, r); the sums run from −∞."""
    I, K = whole(0, *shape), whole(1, *kernel)  # noqa: E741 (the lecture's name of the image)
    S = convolved(I, K)
    every = list(product(range(-1, 12), repeat=2))
    for t, r in np.ndindex(*S.shape):
        first = sum(read(I, i, j) * read(K, t + 2 - i, r + 2 - j) for i, j in every)
        second = sum(read(I, t + 2 - i, r + 2 - j) * read(K, i, j) for i, j in every)
        assert S[t, r] == first == second
    same(convolved(K, I), S)
    same(S, convolve(I, K, mode="full", method="direct"))


@SIZES
def test_convolution_agrees_with_scipy(shape: Index, kernel: Index) -> None:
    """SciPy's `convolve`, valid and same, in other words than the lecture's."""
    I, K = whole(0, *shape), whole(1, *kernel)  # noqa: E741
    same(convolved(I, K, "valid"), convolve(I, K, mode="valid", method="direct"))
    # SciPy's "same" is the middle of "full", from (k − 1) // 2 on.
    middle = tuple((k - 1 - (k - 1) // 2, (k - 1) // 2) for k in kernel)
    same(convolved(I, K, middle), convolve(I, K, mode="same", method="direct"))


def cross_correlated(I: Array, K: Array) -> Array:  # noqa: E741
    """Σ_i Σ_j I(t + i, r + j) K(i, j) at every (t, r) where it is not void."""
    rows, columns = range(1 - K.shape[0], I.shape[0]), range(1 - K.shape[1], I.shape[1])
    taps = list(product(range(1, K.shape[0] + 1), range(1, K.shape[1] + 1)))
    return np.array([[sum(read(I, t + i, r + j) * read(K, i, j) for i, j in taps) for r in columns] for t in rows])


def test_cross_correlation_is_not_the_same() -> None:
    """S(t, r) = ΣΣ I(t + i, r + j) K(i, j), "which is clearly the same", is not: K is not flipped.

    It is what `conv` computes. It equals convolution exactly for a K that a half turn leaves as it is, and exchanging I
    and K turns it by half a turn, so it does not commute. (The star between its factors is a plain product.)
    """
    I, K = whole(0, 4, 5), whole(1, 3, 2)  # noqa: E741
    S = conv(image(I), image(K), padding="full")[0, 0]
    same(S, cross_correlated(I, K))
    assert not np.array_equal(S, convolved(I, K))
    same(S, convolved(I, np.rot90(K, 2)))
    same(conv(image(K), image(I), padding="full")[0, 0], np.rot90(S, 2))
    symmetric = K + np.rot90(K, 2)
    same(conv(image(I), image(symmetric), padding="full")[0, 0], convolved(I, symmetric))


# Real-world tensors: v_ipq, k_ijmn, z_jst.

I_CHANNELS, J_CHANNELS = 2, 3


def tensors(rows: int = 5, columns: int = 6, k: int = 3) -> tuple[Array, Array]:
    """V and K with the lecture's order of indices."""
    return whole(0, I_CHANNELS, rows, columns), whole(1, I_CHANNELS, J_CHANNELS, k, k)


def ours(K: Array) -> Array:
    """k_ijmn has the input channel first, our weight the output channel."""
    return K.swapaxes(0, 1)


def tensor_sum(V: Array, K: Array, u: int = 1, column_offset: str = "n") -> Array:
    """z_jst = Σ_i Σ_m Σ_n v_{i,m+(s−1)u,n+(t−1)u} k_ijmn, or with m for that n."""
    _, _, size, _ = K.shape
    rows, columns = ((x - size) // u + 1 for x in V.shape[1:])
    Z = np.zeros((K.shape[1], rows, columns))
    for j, s, t in product(range(1, K.shape[1] + 1), range(1, rows + 1), range(1, columns + 1)):
        Z[j - 1, s - 1, t - 1] = sum(
            read(V, i, m + (s - 1) * u, (n if column_offset == "n" else m) + (t - 1) * u) * read(K, i, j, m, n)
            for i, m, n in product(range(1, K.shape[0] + 1), range(1, size + 1), range(1, size + 1))
        )
    return Z


def test_convolution_of_tensors() -> None:
    """z_jst = Σ_imn v_{i,s−1+m,t−1+n} k_ijmn. Beside it is printed q = t − 1 + m: the column's offset is n.

    Z's entry is also called z_ijk in the text before; j, s and t are its channel, row and column.
    """
    V, K = tensors()
    Z = conv(V[None], ours(K))[0]
    same(Z, tensor_sum(V, K))
    assert not np.array_equal(Z, tensor_sum(V, K, column_offset="m"))


def test_convolution_of_tensors_is_a_sum_of_2d_convolutions() -> None:
    """Two-dimensional convolutions, summed over the third axis, done for every value of the fourth."""
    V, K = tensors()
    parts = [[conv(image(V[i]), image(K[i, j]))[0, 0] for i in range(I_CHANNELS)] for j in range(J_CHANNELS)]
    same(conv(V[None], ours(K))[0], np.sum(parts, axis=1))


def test_batches_add_an_axis_to_data_only() -> None:
    """Data in batches is 4-D. "And 7-D" for the 6-D weights is wrong: every example meets the same weights."""
    batch, W = whole(0, 4, I_CHANNELS, 4, 5), whole(1, 3, 4, J_CHANNELS, I_CHANNELS, 2, 2)
    assert W.ndim == 6
    Z = conv(batch, W)
    assert Z.ndim == 4
    for example in range(4):
        same(Z[example : example + 1], conv(batch[example : example + 1], W))


def test_hadamard_step() -> None:
    """(a b; c d) ⊙ (e f; g h) ⇒ ae + bf + cg + dh: flatten, dot product, reshape.

    The displayed number is the sum of the Hadamard product's entries, not that product itself.
    """
    a, b, c, d, e, f, g, h = whole(0, 8)
    window, kernel = np.array([[a, b], [c, d]]), np.array([[e, f], [g, h]])
    value = conv(image(window), image(kernel))[0, 0]
    same(value, [[a * e + b * f + c * g + d * h]])
    same(value, (window.ravel() @ kernel.ravel()).reshape(1, 1))


def test_stride_is_downsampling() -> None:
    """Skipping positions is downsampling the output of the full convolution, in a single operation."""
    V, K = tensors(7, 8)
    every = tensor_sum(V, K)
    same(conv(V[None], ours(K), stride=2)[0], every[:, ::2, ::2])


@pytest.mark.parametrize("u", [1, 2, 3])
def test_strided_convolution(u: int) -> None:
    """z_jst = Σ_imn v_{i,m+(s−1)u,n+(t−1)u} k_ijmn; printed is z_ist, whose i is summed over on the right."""
    V, K = tensors(7, 8)
    same(conv(V[None], ours(K), stride=u)[0], tensor_sum(V, K, u))


@pytest.mark.parametrize("u", [(2, 1), (1, 3), (3, 2)])
def test_stride_of_its_own_in_each_direction(u: tuple[int, int]) -> None:
    V, K = tensors(7, 8)
    Z = np.zeros((J_CHANNELS, (7 - 3) // u[0] + 1, (8 - 3) // u[1] + 1))
    for j, s, t in np.ndindex(*Z.shape):
        Z[j, s, t] = sum(
            read(V, i, m + s * u[0], n + t * u[1]) * read(K, i, j + 1, m, n)
            for i, m, n in product((1, 2), (1, 2, 3), (1, 2, 3))
        )
    same(conv(V[None], ours(K), stride=u)[0], Z)


def test_valid_and_full() -> None:
    """Valid: no padding. Full: the padding is the kernel's size − 1, not any padding."""
    V, K = tensors()
    every = list(product(range(1, I_CHANNELS + 1), range(1, 4), range(1, 4)))
    full = np.zeros((J_CHANNELS, 7, 8))
    for j, s, t in np.ndindex(*full.shape):
        full[j, s, t] = sum(read(V, i, s - 2 + m, t - 2 + n) * read(K, i, j + 1, m, n) for i, m, n in every)
    same(conv(V[None], ours(K), padding="full")[0], full)
    same(conv(V[None], ours(K), padding="valid")[0], full[:, 2:-2, 2:-2])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["valid", "full"])
def test_the_same_filter_everywhere(stride: int, padding: str) -> None:
    """In valid, full and strided convolution one filter meets all positions: a moved input moves the output."""
    K = ours(tensors()[1])
    V = np.zeros((1, I_CHANNELS, 12, 12))
    V[:, :, 4:7, 4:7] = whole(0, I_CHANNELS, 3, 3)
    moved = np.roll(V, (stride, 2 * stride), axis=(2, 3))
    before, after = (conv(data, K, stride=stride, padding=padding) for data in (V, moved))
    same(after[:, :, 1:, 2:], before[:, :, :-1, :-2])
    assert after[:, :, 1:, 2:].any()
    local = whole(5, *after.shape[2:], J_CHANNELS, I_CHANNELS, 3, 3)
    before, after = (conv(data, local, stride=stride, padding=padding) for data in (V, moved))
    assert not np.array_equal(after[:, :, 1:, 2:], before[:, :, :-1, :-2])


# Locally connected and tiled convolution.


def test_locally_connected() -> None:
    """A filter of its own for each window, in a 6-D tensor: z_jst = Σ_imn v_{i,m+s−1,n+t−1} w_{j,s,t,i,m,n}.

    That formula stands on the slide "Tiled convolution" (as w_{i,j,k,l,m,n}, with z_ijt for z_ijk); the slide on local
    convolution has the tiled one. The two have changed places.
    """
    V, size = whole(0, I_CHANNELS, 4, 5), 2
    rows, columns = 3, 4
    W = whole(1, J_CHANNELS, rows, columns, I_CHANNELS, size, size)
    Z = np.zeros((J_CHANNELS, rows, columns))
    for j, s, t in product(range(1, J_CHANNELS + 1), range(1, rows + 1), range(1, columns + 1)):
        Z[j - 1, s - 1, t - 1] = sum(
            read(V, i, m + s - 1, n + t - 1) * read(W, j, s, t, i, m, n) for i, m, n in product((1, 2), (1, 2), (1, 2))
        )
    same(conv(V[None], W.transpose(1, 2, 0, 3, 4, 5))[0], Z)


@pytest.mark.parametrize("tile", [1, 2, 3])
def test_tiled(tile: int) -> None:
    """z_jst = Σ_imn v_{i,m+s−1,n+t−1} w_{j,s%l+1,t%l+1,i,m,n}, printed with z_ist though i is summed over.

    s counts from 1, so the first window takes kernel 2 of l: the printed bank is ours moved on by one.
    """
    V, size = whole(0, I_CHANNELS, 6, 7), 2
    rows, columns = 5, 6
    W = whole(1, J_CHANNELS, tile, tile, I_CHANNELS, size, size)
    Z = np.zeros((J_CHANNELS, rows, columns))
    for j, s, t in product(range(1, J_CHANNELS + 1), range(1, rows + 1), range(1, columns + 1)):
        Z[j - 1, s - 1, t - 1] = sum(
            read(V, i, m + s - 1, n + t - 1) * read(W, j, s % tile + 1, t % tile + 1, i, m, n)
            for i, m, n in product((1, 2), (1, 2), (1, 2))
        )
    bank = np.roll(W, (-1, -1), axis=(1, 2)).transpose(1, 2, 0, 3, 4, 5)
    same(conv(V[None], bank)[0], Z)
    if tile > 1:
        assert not np.array_equal(conv(V[None], W.transpose(1, 2, 0, 3, 4, 5))[0], Z)


def test_tiled_kernels_rotate() -> None:
    """Neighbours have different filters, and l positions further on it is the same one again."""
    bank = np.arange(1.0, 4).reshape(3, 1, 1, 1)
    same(conv(np.ones((1, 1, 8)), bank)[0, 0], [1, 2, 3, 1, 2, 3, 1, 2])


def test_parameters_of_the_kinds() -> None:
    """Tiling multiplies the parameters by the number of kernels, local connection by the output's size."""
    kinds: dict[str, tuple[int, ...]] = {"shared": (), "tiled": (2, 2), "local": (7, 9)}
    sizes = {}
    for kind, bank in kinds.items():
        layer = Conv(3, 4, (2, 2), bank=bank or None, visible_size=(8, 10), bias=None)
        sizes[kind] = layer.parameters["weight"].value.size
    one = 3 * 4 * 2 * 2
    assert sizes == {"shared": one, "tiled": one * 4, "local": one * 7 * 9}


def test_difference_between_the_kinds() -> None:
    """The figure: window size 2 over a row of five; each line between neurons carries its weight's letter."""
    v = whole(0, 5)
    a, b, c, d, e, f, g, h = whole(1, 8)
    local = np.array([[a, b], [c, d], [e, f], [g, h]])
    tiled = np.array([[a, b], [c, d]])
    full = np.array([[a, b]])
    x1, x2, x3, x4, x5 = v
    for bank, expected in [
        (local, [a * x1 + b * x2, c * x2 + d * x3, e * x3 + f * x4, g * x4 + h * x5]),
        (tiled, [a * x1 + b * x2, c * x2 + d * x3, a * x3 + b * x4, c * x4 + d * x5]),
        (full, [a * x1 + b * x2, a * x2 + b * x3, a * x3 + b * x4, a * x4 + b * x5]),
    ]:
        same(conv(image(v), bank[:, None, None])[0, 0], expected)


def test_adjacency_of_the_kinds() -> None:
    """Local connection has the edges of valid convolution; what differs is that no two share a weight."""
    shapes = [(2, 1, 2), (4, 2, 1, 2)]  # shared, local
    shared, local = (np.arange(1.0, 1 + np.prod(shape)).reshape(shape) for shape in shapes)
    by_shared, by_local = (
        matrix(triconv.explain("conv", (1, 1, 5), w.shape).problem, w).toarray() for w in (shared, local)
    )
    same((by_shared != 0).astype(np.float64), (by_local != 0).astype(np.float64))
    assert not np.array_equal(by_shared, by_local)
    assert np.unique(by_local[by_local != 0]).size == by_local[by_local != 0].size
    assert np.unique(by_shared[by_shared != 0]).size == shared.size


def test_channel_local_convolution() -> None:
    """A channel dependency graph: hidden channel j is a sum over the visible channels i that it has an edge from."""
    graph = {(1, 1), (1, 2), (2, 2), (3, 1), (3, 3), (3, 4), (4, 4)}  # (j, i)
    V, K = whole(0, 4, 5, 6), whole(1, 4, 4, 2, 2)
    mask = np.array([[(j, i) in graph for i in range(1, 5)] for j in range(1, 5)])
    Z, dV, dK = np.zeros((4, 4, 5)), np.zeros(V.shape), np.zeros(K.shape)
    dZ = whole(2, 4, 4, 5)
    for (j, i), s, t, m, n in product(graph, range(4), range(5), range(2), range(2)):
        Z[j - 1, s, t] += V[i - 1, s + m, t + n] * K[j - 1, i - 1, m, n]
        dV[i - 1, s + m, t + n] += dZ[j - 1, s, t] * K[j - 1, i - 1, m, n]
        dK[j - 1, i - 1, m, n] += dZ[j - 1, s, t] * V[i - 1, s + m, t + n]
    same(conv(V[None], K, groups=mask)[0], Z)
    same(conv_transpose(dZ[None], K, groups=mask)[0], dV)
    same(conv_weight(V[None], dZ[None], (2, 2), groups=mask), dK)


def test_channel_graphs_that_have_names() -> None:
    """Groups are the graph of diagonal blocks, depthwise convolution that of single edges."""
    V = whole(0, 2, 4, 5, 6)
    for groups in (1, 2, 4):
        W = whole(1, 4, 4 // groups, 2, 2)
        mask = np.kron(np.eye(groups), np.ones((4 // groups, 4 // groups))).astype(bool)
        dense = np.zeros((4, 4, 2, 2))
        dense[mask] = W.reshape(-1, 2, 2)
        same(conv(V, W, groups=groups), conv(V, dense, groups=mask))
        same(conv(V, W, groups=groups), conv(V, dense))


def test_a_filter_for_each_window() -> None:
    """To each window its own k × k × d filter: learning changes one window's weights without the others'."""
    V, dZ = whole(0, 1, 3, 4, 5), np.zeros((1, 2, 3, 4))
    dZ[0, :, 1, 2] = [2, 3]
    dW = conv_weight(V, dZ, (2, 2), bank="local")
    expected = np.zeros((3, 4, 2, 3, 2, 2))
    for j in range(2):
        expected[1, 2, j] = (2, 3)[j] * V[0, :, 1:3, 2:4]
    same(dW, expected)


# Backpropagation.


def test_backpropagation_is_the_transposed_matrix() -> None:
    """Convolution is a matrix product, its backward pass the transposed one: filter 3 × 3, block 9 × 9."""
    F = whole(0, 1, 1, 3, 3)
    big = matrix(triconv.explain("conv", (1, 1, 9, 9), F.shape).problem, F).toarray()
    by_formula = np.zeros((7, 7, 9, 9))
    for s, t, m, n in np.ndindex(7, 7, 3, 3):
        by_formula[s, t, s + m, t + n] = F[0, 0, m, n]
    same(big, by_formula.reshape(49, 81))
    X, dO = whole(1, 1, 1, 9, 9), whole(2, 1, 1, 7, 7)
    same(conv(X, F).ravel(), big @ X.ravel())
    same(conv_transpose(dO, F).ravel(), big.T @ dO.ravel())


def test_backpropagation_by_elements() -> None:
    """Which input cell contributes to which output cell: the sum over those pairs, and the inverted filter, agree."""
    F, dO = whole(0, 3, 3), whole(1, 4, 5)
    dX = np.zeros((6, 7))
    for (s, t), (m, n) in product(np.ndindex(4, 5), np.ndindex(3, 3)):
        dX[s + m, t + n] += dO[s, t] * F[m, n]
    same(conv_transpose(image(dO), image(F))[0, 0], dX)
    same(conv(image(dO), image(F[::-1, ::-1]), padding="full")[0, 0], dX)


@pytest.mark.parametrize("tile", [1, 2])
def test_layerwise_to_weightwise(tile: int) -> None:
    """The derivative by weight: that of every connection by itself, added over the connections that share a weight."""
    V, dZ = whole(0, 2, 2, 5, 6), whole(1, 2, 3, 4, 5)
    single = conv_weight(V, dZ, (2, 2), bank="local")
    added = np.zeros((tile, tile, 3, 2, 2, 2))
    for s, t in np.ndindex(4, 5):
        added[s % tile, t % tile] += sum(
            np.einsum("j,imn->jimn", dZ[n, :, s, t], V[n, :, s : s + 2, t : t + 2]) for n in range(2)
        )
    for s, t in np.ndindex(4, 5):
        single[s, t] -= sum(np.einsum("j,imn->jimn", dZ[n, :, s, t], V[n, :, s : s + 2, t : t + 2]) for n in range(2))
    assert not single.any()
    same(conv_weight(V, dZ, (2, 2), bank=tile), added)


# The worked example: X is 3 × 3, F is 2 × 2, no padding; o stands for ∂L/∂o.

X, F, G = whole(0, 3, 3), whole(1, 2, 2), whole(2, 2, 2)
(x11, x12, x13), (x21, x22, x23), (x31, x32, x33) = X
(F11, F12), (F21, F22) = F
(o11, o12), (o21, o22) = G


def test_example_forward() -> None:
    expected = [
        [F11 * x11 + F12 * x12 + F21 * x21 + F22 * x22, F11 * x12 + F12 * x13 + F21 * x22 + F22 * x23],
        [F11 * x21 + F12 * x22 + F21 * x31 + F22 * x32, F11 * x22 + F12 * x23 + F21 * x32 + F22 * x33],
    ]
    same(conv(image(X), image(F))[0, 0], expected)


def test_example_filter_gradient_by_chain_rule() -> None:
    """∂L/∂F_ij is the sum of the entries of ∂L/∂o ⊙ ∂o/∂F_ij; the last entry is printed ∂o for ∂o_22."""
    by_filter = jacobian(lambda F: conv(image(X), image(F))[0, 0], F)
    dF = conv_weight(image(X), image(G), 2 * (2,))[0, 0]
    for i, j in np.ndindex(2, 2):
        assert dF[i, j] == (G * by_filter[:, :, i, j]).sum()


def test_example_filter_gradient() -> None:
    """The four printed sums, and ∂L/∂F = ∂L/∂o * X with ∂L/∂o as the filter (not flipped)."""
    expected = [
        [o11 * x11 + o12 * x12 + o21 * x21 + o22 * x22, o11 * x12 + o12 * x13 + o21 * x22 + o22 * x23],
        [o11 * x21 + o12 * x22 + o21 * x31 + o22 * x32, o11 * x22 + o12 * x23 + o21 * x32 + o22 * x33],
    ]
    same(conv_weight(image(X), image(G), (2, 2))[0, 0], expected)
    same(conv(image(X), image(G))[0, 0], expected)


def test_example_propagated_gradient_by_chain_rule() -> None:
    """∂L/∂x_ij is the sum of the entries of ∂L/∂o ⊙ ∂o/∂x_ij."""
    by_input = jacobian(lambda X: conv(image(X), image(F))[0, 0], X)
    dX = conv_transpose(image(G), image(F))[0, 0]
    for i, j in np.ndindex(3, 3):
        assert dX[i, j] == (G * by_input[:, :, i, j]).sum()


def test_example_propagated_gradient() -> None:
    """The nine printed sums, two of them set right (both times they are printed).

    x_12: the second term is o_12 F_11, printed o_11 F_11. x_22: all four outputs see it, printed are two terms:
    o_11 F_22 and o_12 F_21 are missing.
    """
    printed = np.array(
        [
            [o11 * F11, o11 * F12 + o11 * F11, o12 * F12],
            [o11 * F21 + o21 * F11, o21 * F12 + o22 * F11, o12 * F22 + o22 * F12],
            [o21 * F21, o21 * F22 + o22 * F21, o22 * F22],
        ]
    )
    right = printed.copy()
    right[0, 1] = o11 * F12 + o12 * F11
    right[1, 1] = o11 * F22 + o12 * F21 + o21 * F12 + o22 * F11
    dX = conv_transpose(image(G), image(F))[0, 0]
    same(dX, right)
    same(np.argwhere(dX != printed).astype(np.float64), [[0, 1], [1, 1]])


@pytest.mark.parametrize("size", [2, 3, 4])
def test_padding_of_the_propagated_gradient(size: int) -> None:
    """∂L/∂o is padded by F − 1. Printed is ⌊F/2⌋: the same for the example's F = 2, too little from 3 on."""
    filters, gradient = whole(0, size, size), whole(1, 4, 4)
    dX = conv_transpose(image(gradient), image(filters))[0, 0]
    same(conv(image(np.pad(gradient, size - 1)), image(filters[::-1, ::-1]))[0, 0], dX)
    printed = conv(image(np.pad(gradient, size // 2)), image(filters[::-1, ::-1]))[0, 0]
    assert (printed.shape == dX.shape) == (size == 2)


def test_which_filter_produced_it() -> None:
    """The question on the slide: it is F_inv = (F_22 F_21; F_12 F_11), and ∂L/∂X = (∂L/∂o)_p * F_inv.

    The star is here, as everywhere in the example, cross-correlation. As true convolution it takes F itself.
    """
    padded = np.pad(G, 1)
    F_inv = np.array([[F22, F21], [F12, F11]])
    dX = conv_transpose(image(G), image(F))[0, 0]
    same(conv(image(padded), image(F_inv))[0, 0], dX)
    same(triconv.flip(image(F))[0, 0], F_inv)
    same(convolved(G, F), dX)


def test_inverted_filter() -> None:
    """3 × 3: flipped first horizontally, then vertically, as displayed."""
    a = np.array([[11.0, 12, 13], [21, 22, 23], [31, 32, 33]])
    same(a[:, ::-1], [[13, 12, 11], [23, 22, 21], [33, 32, 31]])
    same(triconv.flip(image(a))[0, 0], [[33, 32, 31], [23, 22, 21], [13, 12, 11]])
