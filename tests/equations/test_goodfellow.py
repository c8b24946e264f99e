"""Goodfellow 2010, *Multidimensional, Downsampled Convolution for Autoencoders*: rows G of docs/equations.md.

Arrays have the document's order of indices: positions, channel, example for V and H; positions, visible channel,
hidden channel for W. `ours` and `theirs` move the last two axes to the front and back, whichever role the array has.
"""

# ruff: noqa: N803, N806 (the document's capital letters)

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from arithmetic import Array, conv, conv_transpose, conv_weight, jacobian, near, real, same, slope, whole
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import convolve

import triconv
from triconv.engines.matrix import matrix
from triconv.form import OPERANDS, Role
from triconv.layers import Conv, ConvTranspose, Layer, Parameter, Sequential, Sigmoid, Tanh, mean_squared_error

Index = tuple[int, ...]

VISIBLE, HIDDEN, EXAMPLES = 2, 3, 2

CASES: dict[str, tuple[Index, Index, Index]] = {  # visible size, kernel size, stride
    "0d": ((), (), ()),
    "1d": ((5,), (3,), (1,)),
    "1d stride 2, one position left over": ((8,), (3,), (2,)),
    "1d stride above the kernel": ((8,), (2,), (3,)),
    "2d": ((4, 5), (2, 3), (1, 1)),
    "2d strides 2 and 1": ((5, 4), (3, 2), (2, 1)),
    "3d strides 1, 2, 3": ((3, 3, 4), (2, 1, 2), (1, 2, 3)),
}
cases = pytest.mark.parametrize(("X", "K", "d"), CASES.values(), ids=CASES)
stride_1 = pytest.mark.parametrize(("X", "K"), [(X, K) for X, K, d in CASES.values() if set(d) <= {1}])


def ours(array: Array) -> Array:
    return np.moveaxis(array, (-1, -2), (0, 1))


def theirs(array: Array) -> Array:
    return np.moveaxis(array, (0, 1), (-1, -2))


def hidden_size(X: Index, K: Index, d: Index) -> Index:
    return tuple((x - k) // s + 1 for x, k, s in zip(X, K, d, strict=True))


def place(d: Index, c: Index, k: Index) -> Index:
    """d ∘ c + k."""
    return tuple(s * ci + ki for s, ci, ki in zip(d, c, k, strict=True))


def draw(X: Index, K: Index, d: Index, seed: int = 0) -> tuple[Array, Array, Array]:
    """W, V and an H of the sizes of a case."""
    Y = hidden_size(X, K, d)
    return (
        whole(seed, *K, VISIBLE, HIDDEN),
        whole(seed + 1, *X, VISIBLE, EXAMPLES),
        whole(seed + 2, *Y, HIDDEN, EXAMPLES),
    )


# The document's three definitions, index by index.


def strided(W: Array, V: Array, d: Index) -> Array:
    """H_cij = Σ_{k,m} W_kmi V_{d∘c+k,m,j}."""
    *K, M, channels = W.shape
    Y = hidden_size(V.shape[:-2], tuple(K), d)
    H = np.zeros((*Y, channels, V.shape[-1]), np.result_type(W, V))
    for c, i, j in product(np.ndindex(*Y), range(channels), range(V.shape[-1])):
        H[*c, i, j] = sum(W[*k, m, i] * V[*place(d, c, k), m, j] for k in np.ndindex(*K) for m in range(M))
    return H


def transposed(W: Array, H: Array, d: Index, X: Index) -> Array:
    """R_qmj = Σ_{c,k with d∘c+k=q} Σ_i W_kmi H_cij."""
    *K, M, channels = W.shape
    meeting: dict[Index, list[tuple[Index, Index]]] = {q: [] for q in np.ndindex(*X)}
    for c, k in product(np.ndindex(*H.shape[:-2]), np.ndindex(*K)):
        meeting[place(d, c, k)].append((c, k))
    R = np.zeros((*X, M, H.shape[-1]), np.result_type(W, H))
    for q, m, j in product(meeting, range(M), range(H.shape[-1])):
        R[*q, m, j] = sum(W[*k, m, i] * H[*c, i, j] for c, k in meeting[q] for i in range(channels))
    return R


def sharp(B: Array, C: Array, d: Index, K: Index) -> Array:
    """A_cij = Σ_{k,m} B_kjm C_{d∘k+c,i,m}."""
    *Y, channels, examples = B.shape
    A = np.zeros((*K, C.shape[-2], channels), np.result_type(B, C))
    for c, i, j in product(np.ndindex(*K), range(C.shape[-2]), range(channels)):
        A[*c, i, j] = sum(B[*k, j, m] * C[*place(d, k, c), i, m] for k in np.ndindex(*Y) for m in range(examples))
    return A


# The same three by this package.


def at(W: Array, V: Array, d: Index, **options: Any) -> Array:
    return theirs(conv(ours(V), ours(W), stride=d, **options))


def at_transposed(W: Array, H: Array, d: Index, X: Index, **options: Any) -> Array:
    return theirs(conv_transpose(ours(H), ours(W), stride=d, visible_size=X, **options))


def hash_d(B: Array, C: Array, d: Index, K: Index, **options: Any) -> Array:
    return theirs(conv_weight(ours(C), ours(B), K, stride=d, **options))


engines = pytest.mark.parametrize("engine", ["auto", "reference", "matrix", "im2row"])


@engines
@cases
def test_strided_convolution(X: Index, K: Index, d: Index, engine: str) -> None:
    W, V, _ = draw(X, K, d)
    same(at(W, V, d, engine=engine), strided(W, V, d))


@engines
@cases
def test_transpose_of_strided_convolution(X: Index, K: Index, d: Index, engine: str) -> None:
    W, _, H = draw(X, K, d)
    same(at_transposed(W, H, d, X, engine=engine), transposed(W, H, d, X))


@engines
@cases
def test_weight_gradient_operation(X: Index, K: Index, d: Index, engine: str) -> None:
    _, V, H = draw(X, K, d)
    same(hash_d(H, V, d, K, engine=engine), sharp(H, V, d, K))


@pytest.mark.parametrize(("X", "K"), [((6,), (3,)), ((5, 6), (2, 3)), ((4, 3, 5), (2, 2, 3))])
def test_weight_is_pre_flipped(X: Index, K: Index) -> None:
    """With the kernel flipped beforehand the operation is convolution as mathematics has it, which is SciPy's."""
    V, W = whole(0, *X), whole(1, *K)
    same(conv(V[None, None], triconv.flip(W[None, None]))[0, 0], convolve(V, W, mode="valid", method="direct"))


def test_derivation_of_the_weight_gradient() -> None:
    """Section 2, line by line: the chain rule with the whole Jacobian, then its sums as they shrink."""
    X, K, d = (8,), (3,), (2,)
    W, V, G = draw(X, K, d)  # G stands for ∂L/∂H
    dH_dW = jacobian(lambda w: strided(w, V, d), W)
    chain = np.einsum("kmn,kmncij->cij", G, dH_dW)
    only_j = np.einsum("kjn,kjncij->cij", G, dH_dW)  # H_kmn depends on W_cij for m = j alone
    last = np.zeros_like(W)
    for c, i, j in np.ndindex(*W.shape):
        last[c, i, j] = sum(G[k, j, n] * V[2 * k + c, i, n] for k in range(G.shape[0]) for n in range(EXAMPLES))
    same(chain, last)
    same(only_j, last)
    same(hash_d(G, V, d, K), last)


# Section 3.


def flat_index(shape: Index) -> Callable[[Index, int, int], int]:
    """hr and vr: positions, channel and example to the place in our flattened (example, channel, *positions)."""
    *positions, channels, examples = shape
    return lambda c, i, j: int(np.ravel_multi_index((j, i, *c), (examples, channels, *positions)))


def printed_matrix(W: Array, X: Index, d: Index, examples: int) -> Array:
    """M_{hr(c,i,j), vr(d∘c+k,m,j)} = W_kmi, and 0 elsewhere."""
    *K, M, channels = W.shape
    Y = hidden_size(X, tuple(K), d)
    hr, vr = flat_index((*Y, channels, examples)), flat_index((*X, M, examples))
    big = np.zeros((int(np.prod(Y)) * channels * examples, int(np.prod(X)) * M * examples))
    for c, i, j, k, m in product(np.ndindex(*Y), range(channels), range(examples), np.ndindex(*K), range(M)):
        big[hr(c, i, j), vr(place(d, c, k), m, j)] = W[*k, m, i]
    return big


@cases
def test_matrix_of_strided_convolution(X: Index, K: Index, d: Index) -> None:
    """h = M v with the document's M; ours is its block for one example, as the examples do not mix."""
    W, V, _ = draw(X, K, d)
    M = printed_matrix(W, X, d, EXAMPLES)
    same(M @ ours(V).ravel(), ours(strided(W, V, d)).ravel())
    problem = triconv.explain("conv", ours(V).shape, ours(W).shape, stride=d).problem
    same(np.kron(np.eye(EXAMPLES), matrix(problem, ours(W)).toarray()), M)


@cases
def test_matrix_is_sparse_with_equal_elements(X: Index, K: Index, d: Index) -> None:
    """Every weight stands in M once for each hidden position and example, and there is nothing else."""
    values = np.arange(1.0, 1 + np.prod((*K, VISIBLE, HIDDEN))).reshape(*K, VISIBLE, HIDDEN)
    problem = triconv.explain("conv", (EXAMPLES, VISIBLE, *X), ours(values).shape, stride=d).problem
    found, times = np.unique(matrix(problem, ours(values)).toarray(), return_counts=True)
    same(found[found > 0], values.ravel())
    assert set(times[found > 0]) == {int(np.prod(hidden_size(X, K, d)))}


@cases
def test_transpose_is_the_transposed_matrix(X: Index, K: Index, d: Index) -> None:
    """r = Mᵀ h, that is r_a = Σ_b M_ba h_b; printed is M_ab h_b, whose shapes do not even match."""
    W, _, H = draw(X, K, d)
    M = printed_matrix(W, X, d, EXAMPLES)
    h = ours(H).ravel()
    r = np.array([sum(M[b, a] * h[b] for b in range(len(h))) for a in range(M.shape[1])])
    same(ours(at_transposed(W, H, d, X)).ravel(), r)
    if M.shape[0] != M.shape[1]:
        with pytest.raises(ValueError, match="mismatch"):
            M @ h


@cases
def test_sum_over_all_that_land_on_a(X: Index, K: Index, d: Index) -> None:
    """r_a = Σ_{c,i,j,k,m with vr(d∘c+k,m,j)=a} W_kmi H_cij."""
    W, _, H = draw(X, K, d)
    vr = flat_index((*X, VISIBLE, EXAMPLES))
    r = np.zeros(int(np.prod(X)) * VISIBLE * EXAMPLES)
    for (*c, i, j), (*k, m, seen) in product(np.ndindex(*H.shape), np.ndindex(*W.shape)):
        if seen == i:
            r[vr(place(d, tuple(c), tuple(k)), m, j)] += W[*k, m, i] * H[*c, i, j]
    same(ours(at_transposed(W, H, d, X)).ravel(), r)


@pytest.mark.parametrize(("x", "k", "d"), [(8, 3, 2), (8, 2, 3), (11, 5, 3), (6, 3, 1)])
def test_transpose_needs_a_modulus(x: int, k: int, d: int) -> None:
    """The taps that reach q are those with q − k divisible by d; at d = 1 the condition is void."""
    W, _, H = draw((x,), (k,), (d,))
    R = np.zeros((x, VISIBLE, EXAMPLES))
    for q, m, j in np.ndindex(*R.shape):
        taps = [tap for tap in range(k) if (q - tap) % d == 0 and 0 <= (q - tap) // d < H.shape[0]]
        R[q, m, j] = sum(W[tap, m, i] * H[(q - tap) // d, i, j] for tap in taps for i in range(HIDDEN))
    same(at_transposed(W, H, (d,), (x,)), R)
    (axis,) = triconv.explain("conv", (1, 1, x), (1, 1, k), stride=d).problem.geometry.axes
    assert [phase.taps for phase in axis.phases] == [
        tuple(tap for tap in range(k) if (q - tap) % d == 0) for q in range(d)
    ]


def read(array: Array, position: Index, *rest: int) -> float:
    """An entry, zero where the position lies outside."""
    inside = all(0 <= p < size for p, size in zip(position, array.shape, strict=False))
    return float(array[*position, *rest]) if inside else 0.0


@stride_1
def test_transpose_at_stride_1(X: Index, K: Index) -> None:
    """R_cij = Σ_{k,m} W_{w−k,i,m} H_{c−w+k,m,j} with w = W.shape − 1, and H zero outside."""
    W, _, H = draw(X, K, (1,) * len(X))
    w = tuple(size - 1 for size in K)
    R = np.zeros((*X, VISIBLE, EXAMPLES))
    for (*c, i, j), k, m in product(np.ndindex(*R.shape), np.ndindex(*K), range(HIDDEN)):
        back = tuple(wi - ki for wi, ki in zip(w, k, strict=True))
        R[*c, i, j] += W[*back, i, m] * read(H, tuple(ci - bi for ci, bi in zip(c, back, strict=True)), m, j)
    same(at_transposed(W, H, (1,) * len(X), X), R)


@stride_1
def test_transpose_by_padding_flipping_and_exchanging(X: Index, K: Index) -> None:
    """@ᵀ is @ on H padded by the kernel's size − 1 on each side, the kernel flipped, its channels exchanged.

    Printed is padding by d − 1, which at d = 1 is none at all: the result then has the wrong size.
    """
    W, _, H = draw(X, K, (1,) * len(X))
    flipped = np.flip(W, tuple(range(len(K)))).swapaxes(-1, -2)
    padded = np.pad(H, [*((size - 1, size - 1) for size in K), (0, 0), (0, 0)])
    expected = transposed(W, H, (1,) * len(X), X)
    same(strided(flipped, padded, (1,) * len(X)), expected)
    same(theirs(conv(ours(H), triconv.flip(ours(W)).swapaxes(0, 1), padding="full")), expected)
    if max(K, default=1) > 1:
        assert strided(flipped, H, (1,) * len(X)).shape != expected.shape


@stride_1
def test_weight_gradient_by_exchanging(X: Index, K: Index) -> None:
    """# is @ with examples and channels exchanged ("a few dimshuffles"): H is the kernel that slides over V."""
    _, V, H = draw(X, K, (1,) * len(X))
    expected = sharp(H, V, (1,) * len(X), K)
    same(strided(H.swapaxes(-1, -2), V.swapaxes(-1, -2), (1,) * len(X)).swapaxes(-1, -2), expected)
    same(conv(ours(V).swapaxes(0, 1), ours(H).swapaxes(0, 1)).swapaxes(0, 1), ours(expected))


def expressible(first: Array, second: Array, size: int, strides: tuple[int, ...] = (1, 2)) -> Iterator[Array]:
    """All W @_e V of one size, with the two vectors in either part, each flipped or not and padded by up to 6 zeros."""
    pads = list(product(range(7), repeat=2))
    for (image, kernel), e in product([(first, second), (second, first)], strides):
        images = [np.pad(a, pad) for a in (image, image[::-1]) for pad in pads]
        kernels = [np.pad(a, pad) for a in (kernel, kernel[::-1]) for pad in pads]
        for v, w in product(images, kernels):
            if len(v) >= len(w) and (len(v) - len(w)) // e + 1 == size:
                yield sliding_window_view(v, len(w))[::e] @ w


def finds(target: Array, candidates: Iterator[Array]) -> bool:
    return any(np.array_equal(target, candidate) for candidate in candidates)


@pytest.mark.parametrize("d", [1, 2])
def test_only_stride_1_is_expressible(d: int) -> None:
    """@ᵀ and # are @ of padded, flipped or exchanged arguments at stride 1, and are not at stride 2.

    In W @_e V the coefficients of V_1 are those of V_0 moved by 1/e positions; @ᵀ_d moves them by d. So e = d = 1. The
    search is the counter-example in numbers: distinct primes, in one dimension with one channel, where exchanging
    channels does nothing.
    """
    W, H = np.array([7.0, 11.0, 13.0]), np.array([2.0, 3.0, 5.0])
    x = 2 * d + 3
    V = np.array([17.0, 19.0, 23.0, 29.0, 31.0, 37.0, 41.0])[:x]
    R = conv_transpose(H[None, None], W[None, None], stride=d)[0, 0]
    same(R, transposed(W[:, None, None], H[:, None, None], (d,), (x,))[:, 0, 0])
    assert finds(R, expressible(H, W, len(R))) == (d == 1)
    A = conv_weight(V[None, None], H[None, None], 3, stride=d)[0, 0]
    same(A, sharp(H[:, None, None], V[:, None, None], (d,), (3,))[:, 0, 0])
    assert finds(A, expressible(V, H, len(A))) == (d == 1)


@cases
def test_stride_multiplies_the_kernel_index_in_the_weight_gradient(X: Index, K: Index, d: Index) -> None:
    """In # the stride multiplies the index into the kernel: with H as the kernel that is dilation, which @_d lacks."""
    _, V, H = draw(X, K, d)
    dilated = conv(ours(V).swapaxes(0, 1), ours(H).swapaxes(0, 1), dilation=d).swapaxes(0, 1)
    same(dilated[(..., *(slice(k) for k in K))], ours(sharp(H, V, d, K)))


# Section 5: the autoencoder.


def loss(R: Array, target: Array) -> Any:
    return ((R - target) ** 2).mean()


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def autoencoder(W_r: Array, W_e: Array, b_v: Array, b_h: Array, V: Array, d: Index) -> Array:
    """R = g_v(b_v + W_r @ᵀ g_h(b_h + W_e @ V)) with g_h the logistic function and g_v tanh; a bias per channel."""
    hidden = sigmoid(b_h[:, None] + strided(W_e, V, d))
    return np.tanh(b_v[:, None] + transposed(W_r, hidden, d, V.shape[:-2]))


AUTOENCODERS = pytest.mark.parametrize(
    ("X", "K", "d"), [((6,), (3,), (1,)), ((6,), (3,), (2,)), ((4, 5), (2, 2), (2, 3))]
)


def built(W_r: Parameter, W_e: Parameter, b_v: Array, b_h: Array, X: Index, K: Index, d: Index) -> Sequential:
    encode = Conv(VISIBLE, HIDDEN, K, stride=d, weight=W_e)
    decode = ConvTranspose(HIDDEN, VISIBLE, K, stride=d, visible_size=X, weight=W_r)
    encode.parameters["bias"].value, decode.parameters["bias"].value = b_h, b_v
    return Sequential([encode, Sigmoid(), decode, Tanh()])


def terms(X: Index, K: Index) -> int:
    """Operations on the longest path from an operand to the loss and back: every array is summed over once or twice."""
    return 4 * int(np.prod(X) * np.prod(K)) * VISIBLE * HIDDEN * EXAMPLES


@AUTOENCODERS
def test_autoencoder_with_free_weights(X: Index, K: Index, d: Index) -> None:
    """The formula, and its gradient with respect to both weights, both biases and the input."""
    W_r, W_e = real(0, *K, VISIBLE, HIDDEN), real(1, *K, VISIBLE, HIDDEN)
    b_v, b_h, V, target = real(2, VISIBLE), real(3, HIDDEN), real(4, *X, VISIBLE, EXAMPLES), real(5, *X, VISIBLE, 2)
    model = built(Parameter(ours(W_r)), Parameter(ours(W_e)), b_v, b_h, X, K, d)
    R = model.forward(ours(V))
    near(theirs(R), autoencoder(W_r, W_e, b_v, b_h, V, d), terms(X, K))
    value, gradient = mean_squared_error(R, ours(target))
    near(np.array(value), loss(theirs(R), target), terms(X, K))
    dV = model.backward(gradient)

    def total(**changed: Array) -> Any:
        operands = {"W_r": W_r, "W_e": W_e, "b_v": b_v, "b_h": b_h, "V": V} | changed
        return loss(autoencoder(**operands, d=d), target)

    found = {name: parameter.gradient for name, parameter in model.parameters.items()}
    assert list(found) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    near(theirs(found["2.weight"]), slope(lambda w: total(W_r=w), W_r), terms(X, K))
    near(theirs(found["0.weight"]), slope(lambda w: total(W_e=w), W_e), terms(X, K))
    near(found["2.bias"], slope(lambda b: total(b_v=b), b_v), terms(X, K))
    near(found["0.bias"], slope(lambda b: total(b_h=b), b_h), terms(X, K))
    near(theirs(dV), slope(lambda v: total(V=v), V), terms(X, K))


@AUTOENCODERS
def test_autoencoder_with_tied_weights(X: Index, K: Index, d: Index) -> None:
    """W_r = W_e = W: one parameter, whose gradient is the sum of the two."""
    W, b_v, b_h = real(0, *K, VISIBLE, HIDDEN), real(2, VISIBLE), real(3, HIDDEN)
    V, target = real(4, *X, VISIBLE, EXAMPLES), real(5, *X, VISIBLE, EXAMPLES)
    tied = Parameter(ours(W))
    model = built(tied, tied, b_v, b_h, X, K, d)
    _, gradient = mean_squared_error(model.forward(ours(V)), ours(target))
    model.backward(gradient)
    near(theirs(tied.gradient), slope(lambda w: loss(autoencoder(w, w, b_v, b_h, V, d), target), W), terms(X, K))


def test_stacked_layers_pass_gradients_back() -> None:
    """Two convolutions of an MLP, one on the other: ∂L/∂V of the upper is ∂L/∂H of the lower."""
    X, lower, upper, d = (9,), (3,), (2,), (2,)
    W_1, W_2 = real(0, *lower, VISIBLE, HIDDEN), real(1, *upper, HIDDEN, VISIBLE)
    V = real(2, *X, VISIBLE, EXAMPLES)

    def total(W_1: Array, W_2: Array, V: Array) -> Any:
        return (sigmoid(strided(W_2, sigmoid(strided(W_1, V, d)), d)) ** 2).sum()

    layers: list[Layer] = [
        Conv(VISIBLE, HIDDEN, lower, stride=d, bias=None, weight=Parameter(ours(W_1))),
        Sigmoid(),
        Conv(HIDDEN, VISIBLE, upper, stride=d, bias=None, weight=Parameter(ours(W_2))),
        Sigmoid(),
    ]
    model = Sequential(layers)
    out = model.forward(ours(V))
    dV = model.backward(2 * out)
    near(theirs(dV), slope(lambda v: total(W_1, W_2, v), V), terms(X, lower))
    near(theirs(model.parameters["0.weight"].gradient), slope(lambda w: total(w, W_2, V), W_1), terms(X, lower))
    near(theirs(model.parameters["2.weight"].gradient), slope(lambda w: total(W_1, w, V), W_2), terms(X, lower))


# The derivations of sections 5 and 6, line by line, on one small problem. As many examples as hidden channels, so that
# what is printed with one index in the other's place can be evaluated, and seen to be something else.

LINE = ((7,), (3,), (2,))
ROWS, TAPS, CHANNELS, COUNT = 3, 3, 3, 3  # hidden positions, taps, hidden channels, examples


def draw_line() -> tuple[Array, Array, Array]:
    return whole(0, 3, VISIBLE, CHANNELS), whole(1, 7, VISIBLE, COUNT), whole(2, ROWS, CHANNELS, COUNT)


def test_derivation_of_the_transposes_weight_gradient() -> None:
    """Section 5.1.1: the chain rule over all q, m, j; then m = y; then q = d∘c + x."""
    X, K, d = LINE
    W, G, H = draw_line()  # G stands for ∂L/∂R
    dR_dW = jacobian(lambda w: transposed(w, H, d, X), W)
    chain = np.einsum("qmj,qmjxyz->xyz", G, dR_dW)
    only_y = np.einsum("qyj,qyjxyz->xyz", G, dR_dW)
    conditioned, last = np.zeros_like(W), np.zeros_like(W)
    for x, y, z in np.ndindex(*W.shape):
        conditioned[x, y, z] = sum(
            G[q, y, j] * sum(H[c, z, j] for c in range(ROWS) if 2 * c + x == q) for q in range(7) for j in range(COUNT)
        )
        last[x, y, z] = sum(G[2 * c + x, y, j] * H[c, z, j] for c in range(ROWS) for j in range(COUNT))
    for line in (chain, only_y, conditioned, hash_d(H, G, d, K)):
        same(line, last)


def test_derivation_of_the_transposes_input_gradient() -> None:
    """Section 5.1.2; its last two lines print d∘c + k where the position is x: d∘x + k."""
    X, _, d = LINE
    W, G, H = draw_line()
    dR_dH = jacobian(lambda h: transposed(W, h, d, X), H)
    chain = np.einsum("qmj,qmjxyz->xyz", G, dR_dH)
    only_z = np.einsum("qmz,qmzxyz->xyz", G, dR_dH)
    conditioned, last = np.zeros_like(H), np.zeros_like(H)
    for x, y, z in np.ndindex(*H.shape):
        conditioned[x, y, z] = sum(
            G[q, m, z] * sum(W[k, m, y] for k in range(TAPS) if 2 * x + k == q)
            for q in range(7)
            for m in range(VISIBLE)
        )
        last[x, y, z] = sum(G[2 * x + k, m, z] * W[k, m, y] for k in range(TAPS) for m in range(VISIBLE))
    for line in (chain, only_z, conditioned, at(W, G, d)):
        same(line, last)


def test_derivation_of_the_input_gradient() -> None:
    """Section 5.2."""
    X, _, d = LINE
    W, V, G = draw_line()  # G stands for ∂L/∂H
    dH_dV = jacobian(lambda v: strided(W, v, d), V)
    chain = np.einsum("cij,cijxyz->xyz", G, dH_dV)
    only_z = np.einsum("ciz,cizxyz->xyz", G, dH_dV)
    conditioned, last = np.zeros_like(V), np.zeros_like(V)
    for x, y, z in np.ndindex(*V.shape):
        conditioned[x, y, z] = sum(
            G[c, i, z] * sum(W[k, y, i] for k in range(TAPS) if 2 * c + k == x)
            for c in range(ROWS)
            for i in range(CHANNELS)
        )
        pairs = [(c, k) for c in range(ROWS) for k in range(TAPS) if 2 * c + k == x]
        last[x, y, z] = sum(W[k, y, i] * G[c, i, z] for c, k in pairs for i in range(CHANNELS))
    for line in (chain, only_z, conditioned, at_transposed(W, G, d, X)):
        same(line, last)


def test_derivation_of_sharp_with_respect_to_the_first() -> None:
    """Section 6.1; its third and fourth line print ∂L/∂A_ciz where B_xyz, with y the channel, belongs to A_ciy."""
    _, K, d = LINE
    G, C, B = draw_line()  # G stands for ∂L/∂A
    dA_dB = jacobian(lambda b: sharp(b, C, d, K), B)
    chain = np.einsum("cij,cijxyz->xyz", G, dA_dB)
    right, printed, renamed = np.zeros_like(B), np.zeros_like(B), np.zeros_like(B)
    for x, y, z in np.ndindex(*B.shape):
        right[x, y, z] = sum(G[c, i, y] * C[2 * x + c, i, z] for c in range(TAPS) for i in range(VISIBLE))
        printed[x, y, z] = sum(G[c, i, z] * C[2 * x + c, i, z] for c in range(TAPS) for i in range(VISIBLE))
    for c, i, j in np.ndindex(*B.shape):
        renamed[c, i, j] = sum(G[k, m, i] * C[2 * c + k, m, j] for k in range(TAPS) for m in range(VISIBLE))
    for line in (chain, right, at(G, C, d)):
        same(line, renamed)
    assert not np.array_equal(printed, renamed)


def test_derivation_of_sharp_with_respect_to_the_second() -> None:
    """Section 6.2; all of it is right, the renamed last line too."""
    X, K, d = LINE
    G, C, B = draw_line()
    dA_dC = jacobian(lambda v: sharp(B, v, d, K), C)
    chain = np.einsum("cij,cijxyz->xyz", G, dA_dC)
    third, renamed = np.zeros_like(C), np.zeros_like(C)
    for x, y, z in np.ndindex(*C.shape):
        pairs = [(c, k) for c in range(TAPS) for k in range(ROWS) if 2 * k + c == x]
        third[x, y, z] = sum(G[c, y, j] * B[k, j, z] for c, k in pairs for j in range(CHANNELS))
    for q, m, j in np.ndindex(*C.shape):
        pairs = [(c, k) for c in range(ROWS) for k in range(TAPS) if 2 * c + k == q]
        renamed[q, m, j] = sum(G[k, m, i] * B[c, i, j] for c, k in pairs for i in range(CHANNELS))
    for line in (chain, third, at_transposed(G, B, d, X)):
        same(line, renamed)


# Section 7: the six identities, entry by entry, against exact differences of the document's own formula.


@cases
@pytest.mark.parametrize(
    "identity",
    [
        "grad_W L(H = W @ V) = (grad_H L) # V",
        "grad_V L(H = W @ V) = W @T grad_H L",
        "grad_W L(R = W @T H) = H # grad_R L",
        "grad_H L(R = W @T H) = W @ grad_R L",
        "grad_B L(A = B # C) = (grad_A L) @ C",
        "grad_C L(A = B # C) = (grad_A L) @T B",
    ],
)
def test_six_identities(X: Index, K: Index, d: Index, identity: str) -> None:
    W, V, H = draw(X, K, d)
    G_W, G_V, G_H = draw(X, K, d, seed=10)  # the gradients of L with respect to what an operation produces
    match identity.split(" L")[0], identity.split(" = ")[1].split(" ")[1]:
        case "grad_W", "@":
            same(hash_d(G_H, V, d, K), jacobian(lambda w: (G_H * strided(w, V, d)).sum(), W))
        case "grad_V", "@":
            same(at_transposed(W, G_H, d, X), jacobian(lambda v: (G_H * strided(W, v, d)).sum(), V))
        case "grad_W", "@T":
            same(hash_d(H, G_V, d, K), jacobian(lambda w: (G_V * transposed(w, H, d, X)).sum(), W))
        case "grad_H", "@T":
            same(at(W, G_V, d), jacobian(lambda h: (G_V * transposed(W, h, d, X)).sum(), H))
        case "grad_B", "#":
            same(at(G_W, V, d), jacobian(lambda b: (G_W * sharp(b, V, d, K)).sum(), H))
        case "grad_C", "#":
            same(at_transposed(G_W, H, d, X), jacobian(lambda c: (G_W * sharp(H, c, d, K)).sum(), V))
        case other:
            raise AssertionError(other)


Scalar = Callable[[dict[Role, Array]], float]


def differentiated(phi: Scalar, role: Role, base: Array) -> Scalar:
    """phi's derivative at base with respect to a role; the function's own argument in that role is the direction."""
    return lambda given: phi({**given, role: base + given[role]}) - phi({**given, role: base})


def by_the_table(produces: Role, given: dict[Role, Array], X: Index, K: Index, d: Index) -> Array:
    first, second = (given[role] for role in OPERANDS[produces])
    match produces:
        case Role.HIDDEN:
            return at(second, first, d)
        case Role.VISIBLE:
            return at_transposed(second, first, d, X)
        case Role.WEIGHT:
            return hash_d(second, first, d, K)


@cases
@pytest.mark.parametrize("operation", Role, ids=["@T", "@", "#"])
def test_table_of_derivatives_to_third_order(X: Index, K: Index, d: Index, operation: Role) -> None:
    """Differentiate an operation along every path of three steps; each step's result is one of the three operations.

    `phi` is L = ⟨G, operation⟩ by the document's formula, then, step by step, its difference in a fresh direction.
    """
    W, V, H = draw(X, K, d)
    arrays = {Role.WEIGHT: W, Role.VISIBLE: V, Role.HIDDEN: H}
    seeds = iter(range(100, 1000))

    def fresh(role: Role) -> Array:
        return whole(next(seeds), *arrays[role].shape)

    def phi(given: dict[Role, Array]) -> float:
        w, v, h = given[Role.WEIGHT], given[Role.VISIBLE], given[Role.HIDDEN]
        produced = {
            Role.HIDDEN: lambda: h * strided(w, v, d),
            Role.VISIBLE: lambda: v * transposed(w, h, d, X),
            Role.WEIGHT: lambda: w * sharp(h, v, d, K),
        }[operation]()
        return float(produced.sum())

    paths = 0

    def descend(phi: Scalar, produces: Role, given: dict[Role, Array], order: int) -> None:
        """`given` holds the operands of the operation that produces a role, and the cotangent in that role."""
        nonlocal paths
        for x in OPERANDS[produces]:
            gradient = by_the_table(x, given, X, K, d)
            direction = fresh(x)
            derivative = differentiated(phi, x, given[x])
            assert (gradient * direction).sum() == derivative({**given, x: direction})
            if order == 3:
                paths += 1
            else:
                descend(derivative, x, {**given, x: direction}, order + 1)

    descend(phi, operation, {**arrays, operation: fresh(operation)}, 1)
    assert paths == 8


def test_operations_are_closed_under_differentiation() -> None:
    """Each operation's operands are produced by the other two: @ᵀ and # for @, @ and # for @ᵀ, @ and @ᵀ for #."""
    assert {role: set(operands) for role, operands in OPERANDS.items()} == {role: set(Role) - {role} for role in Role}
