"""Šegvić, *Backward propagation through convolutions* (lecture): rows S of docs/equations.md.

Indices count from 1 and a position outside reads zero, as on the slides ("illegal access is solved by padding").
"""

# ruff: noqa: N803, N806 (the lecture's capital letters)

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from arithmetic import Array, conv, conv_transpose, conv_weight, jacobian, near, real, same, slope, whole

import triconv
from triconv.engines import im2row
from triconv.engines.matrix import matrix
from triconv.layers import (
    SGD,
    Affine,
    Conv,
    ConvTranspose,
    GlobalMaxPool,
    Layer,
    MaxPool,
    ReLU,
    Sequential,
    Upsample,
    backprop,
    softmax_cross_entropy,
)

torch.set_num_threads(1)

Index = tuple[int, ...]

# The lecture's words.


def read(p: Array, *index: int) -> float:
    """p at an index that counts from 1; zero outside."""
    inside = all(1 <= i <= size for i, size in zip(index, p.shape, strict=True))
    return p[tuple(i - 1 for i in index)] if inside else 0.0


def o(k: int) -> int:
    """o_k = ⌊k/2⌋ + 1."""
    return k // 2 + 1


def crop(k: int, p: Array, *at: int) -> Array:
    """The k × … × k window of p around an index."""
    window = np.empty((k,) * p.ndim)
    for u in np.ndindex(*window.shape):
        window[u] = read(p, *(i - o(k) + 1 + ui for i, ui in zip(at, u, strict=True)))
    return window


def shift(p: Array, *by: int) -> Array:
    """shift(p, s)_i = p_{i+s}."""
    moved = np.empty_like(p)
    for i in np.ndindex(*p.shape):
        moved[i] = read(p, *(1 + ii + s for ii, s in zip(i, by, strict=True)))
    return moved


def star(w: Array, p: Array) -> Array:
    """w ⋆ p: cross-correlation, wherever the kernel w lies inside p."""
    q = np.zeros(tuple(x - k + 1 for x, k in zip(p.shape, w.shape, strict=True)))
    for c in np.ndindex(*q.shape):
        q[c] = sum(w[u] * p[tuple(ci + ui for ci, ui in zip(c, u, strict=True))] for u in np.ndindex(*w.shape))
    return q


def pad(p: Array, by: int) -> Array:
    return np.pad(p, by)


def onehot(n: int, at: int) -> Array:
    """onehotⁿ(i), counting from 1: onehot⁴(2) = [0 1 0 0]."""
    return np.array([float(i == at) for i in range(1, n + 1)])


def embed(n: Index, x: Array, at: Index) -> Array:
    """embed_kⁿ(x, p): x at [p : p + k] in zeros, counting from 0 as slices do."""
    big = np.zeros(n)
    big[tuple(slice(p, p + k) for p, k in zip(at, x.shape, strict=True))] = x
    return big


# One image, one channel.


def correlate(p: Array, w: Array, **options: Any) -> Array:
    return conv(p[None, None], w[None, None], **options)[0, 0]


def to_input(dq: Array, w: Array, size: Index, **options: Any) -> Array:
    return conv_transpose(dq[None, None], w[None, None], visible_size=size, **options)[0, 0]


def to_weight(p: Array, dq: Array, k: Index, **options: Any) -> Array:
    return conv_weight(p[None, None], dq[None, None], k, **options)[0, 0]


def affine(W: Array, b: Array | None = None) -> Affine:
    layer = Affine(W.shape[1], W.shape[0], bias=None if b is None else "channel", dtype="float64")
    layer.parameters["weight"].value[...] = W
    if b is not None:
        layer.parameters["bias"].value[...] = b
    return layer


def convolution(w: Array, b: Array | None = None, **options: Any) -> Conv:
    layer = Conv(w.shape[1], w.shape[0], w.shape[2:], bias=None if b is None else "channel", dtype="float64", **options)
    layer.parameters["weight"].value[...] = w
    if b is not None:
        layer.parameters["bias"].value[...] = b
    return layer


# Recap: deep models, affine layers.


def test_chain_rule_through_a_deep_model() -> None:
    """h_l = f_l(h_{l−1}); ∂L/∂h_{l−1} = ∂L/∂h_l · ∂h_l/∂h_{l−1}: the product of Jacobians is the backward pass."""
    layers = [convolution(whole(0, 3, 2, 2), whole(1, 3)), ReLU(), convolution(whole(2, 2, 3, 3))]
    h = [whole(3, 1, 2, 8)]
    for layer in layers:
        h.append(layer.forward(h[-1]))
    gradient = whole(4, *h[-1].shape)
    chained = gradient.ravel()
    for layer, before in zip(reversed(layers), reversed(h[:-1]), strict=True):
        # A quarter: no whole number but 0 changes its sign on the way.
        step = jacobian(layer.forward, before, 0.25).reshape(-1, before.size)
        assert not isinstance(layer, ReLU) or (before != 0).all()
        layer.forward(before)
        chained = chained @ step
    same(Sequential(layers).backward(gradient).ravel(), chained)


def test_deep_model_ends_in_softmax() -> None:
    """Output softmax(h_L); the backward pass takes the prediction and the label to the gradients of the parameters."""
    W_1, W_2, x, y = real(0, 4, 3), real(1, 2, 4), real(2, 5, 3), np.array([0, 1, 1, 0, 1])
    layers = [affine(W_1), ReLU(), affine(W_2)]

    def loss(W_1: Array, W_2: Array) -> Any:
        hidden = x @ W_1.T
        scores = np.where(hidden.real > 0, hidden, 0) @ W_2.T
        prediction = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        return -np.log(prediction[np.arange(5), y]).mean()

    near(np.array(backprop(layers, x, y)), loss(W_1, W_2), 200)
    near(layers[0].parameters["weight"].gradient, slope(lambda w: loss(w, W_2), W_1), 200)
    near(layers[2].parameters["weight"].gradient, slope(lambda w: loss(W_1, w), W_2), 200)


def test_shapes_of_gradients() -> None:
    """A gradient has the shape of what it is the gradient of: activations and weights, affine and convolutional.

    On the slide rows and columns of a weight run to H and W, which are the image's; they run to the weight's own sizes.
    """
    for layer, x, weight in [
        (affine(whole(0, 3, 4)), whole(1, 1, 4), (3, 4)),  # D_l × D_{l−1}
        (convolution(whole(0, 1, 1, 3, 3)), whole(1, 1, 1, 5, 6), (1, 1, 3, 3)),  # k × k
        (convolution(whole(0, 4, 2, 3, 3)), whole(1, 7, 2, 5, 6), (4, 2, 3, 3)),  # [c_out, c_in, k, k]
    ]:
        h = layer.forward(x)
        assert layer.backward(np.ones_like(h)).shape == x.shape  # 1 × D_{l−1}; [n, c, h, w]
        gradient = layer.parameters["weight"].gradient
        assert gradient.shape == weight

        def total(vec: Array, layer: Conv = layer, x: Array = x, weight: Index = weight) -> Array:
            layer.parameters["weight"].value = vec.reshape(weight)
            return layer.forward(x).sum().reshape(1)

        by_vec = jacobian(total, whole(2, *weight).ravel())
        assert by_vec.shape == (1, int(np.prod(weight)))  # 1 × D_l · D_{l−1}; 1 × k · k
        same(by_vec, gradient.reshape(1, -1))


def test_jacobian_of_outputs_by_inputs() -> None:
    """∂h_l/∂h_{l−1}: affine, a dense matrix; convolution, a sparse tensor of order 4, or 6 with channels."""
    dense = jacobian(lambda x: affine(whole(0, 3, 4)).forward(x[None])[0], whole(1, 4))
    assert dense.shape == (3, 4)
    assert (dense != 0).all()
    single = jacobian(lambda p: correlate(p, whole(0, 3, 3), padding="same"), whole(1, 6, 7))
    assert single.shape == (6, 7, 6, 7)
    assert np.count_nonzero(single) == (3 * 6 - 2) * (3 * 7 - 2)  # three per axis and output, two missing at the ends
    full = jacobian(lambda p: conv(p[None], whole(0, 2, 3, 3, 3))[0], whole(1, 3, 4, 5))
    assert full.ndim == 6


def test_jacobian_of_outputs_by_weights() -> None:
    """∂h_l/∂W_l: affine, a sparse tensor of order 3; simple convolution, a tensor of order 4 of shifted inputs.

    With channels it has order 7, as printed, but it is not dense then: an output sees its own channel's kernel alone.
    """
    D, C = 4, 3
    x = whole(0, D)
    by_weight = jacobian(lambda W: affine(W).forward(x[None])[0], whole(1, C, D))
    assert by_weight.shape == (C, C, D)
    assert np.count_nonzero(by_weight) == C * D
    assert by_weight.reshape(C, -1).shape == (C, C * D)
    p, k = whole(2, 5, 6), 3
    tensor = jacobian(lambda w: correlate(p, w, padding="same"), whole(3, k, k))
    assert tensor.ndim == 4
    for u, v in product(range(1, k + 1), repeat=2):
        same(tensor[:, :, u - 1, v - 1], shift(p, u - o(k), v - o(k)))
    full = jacobian(lambda w: conv(whole(2, 1, 2, 4, 4), w)[0], whole(3, 2, 2, 3, 3))
    assert full.ndim == 7
    assert not full[0, :, :, 1].any()
    assert full[0, :, :, 0].all()


W, b, p, dq = whole(0, 3, 4), whole(1, 3), whole(2, 4), whole(3, 3)
"""An affine layer of 4 inputs and 3 outputs, one datum, and ∂L/∂q."""


def test_fully_connected_layer() -> None:
    """q = W p + b; ∂L/∂p = ∂L/∂q · W; ∂L/∂vec(W) = ∂L/∂q · ∂q/∂vec(W)."""
    layer = affine(W, b)
    same(layer.forward(p[None])[0], [sum(W[j, i] * p[i] for i in range(4)) + b[j] for j in range(3)])
    same(layer.backward(dq[None])[0], [sum(dq[j] * W[j, i] for j in range(3)) for i in range(4)])
    by_vec = jacobian(lambda W: W @ p, W).reshape(3, -1)
    assert by_vec.shape == (3, 3 * 4)  # dim(q) × dim(q)·dim(p)
    same(layer.parameters["weight"].gradient.ravel(), dq @ by_vec)


def test_sparsity_of_the_affine_jacobian() -> None:
    """q_j depends on the row W_j alone, and on every p_i."""
    by_weight = jacobian(lambda W: affine(W).forward(p[None])[0], W)
    for j, row in product(range(3), repeat=2):
        same(by_weight[j, row], p if j == row else np.zeros(4))
    same(jacobian(lambda x: affine(W).forward(x[None])[0], p), W)


def test_outer_product_of_the_affine_gradient() -> None:
    """∂L/∂W_j = ∂L/∂q_j · pᵀ; ∂L/∂W = [∂L/∂q]ᵀ · pᵀ; the textbook's ∂L/∂Wᵀ = p · ∂L/∂q."""
    layer = affine(W)
    layer.forward(p[None])
    layer.backward(dq[None])
    gradient = layer.parameters["weight"].gradient
    for j in range(3):
        same(gradient[j], dq[j] * p)
    same(gradient, dq[None].T @ p[None])
    same(gradient.T, p[:, None] @ dq[None])
    # The slide's question, the connection with the chain rule: of its sum over outputs one term is left for each row.
    by_weight = jacobian(lambda W: affine(W).forward(p[None])[0], W)
    for r, j in np.ndindex(3, 3):
        same(by_weight[r, j], p if r == j else 0 * p)
    same(gradient, sum(dq[r] * by_weight[r] for r in range(3)))


def test_multiplications_for_mnist() -> None:
    """784 · 10² multiplications by the Jacobian, 784 · 10 by the outer product: as many times fewer as outputs."""
    plan = triconv.explain("conv_weight", (1, 784), (10, 784))
    assert plan.problem.terms == 784 * 10
    outputs = jacobian(lambda W: affine(W).forward(np.ones((1, 8)))[0], whole(0, 10, 8))
    assert outputs.size / 8 * 784 == 784 * 10**2  # of 8 pixels instead of 784: the Jacobian grows with their number
    assert outputs.size / 8 * 784 == 10 * plan.problem.terms


def test_gradient_of_a_batch() -> None:
    """∂L/∂W = 1/N Σ ∂L_i/∂W = 1/N · G · P with G_{:,i} = [∂L_i/∂q]ᵀ and P_{i,:} = p_iᵀ.

    Our losses hand back gradients that carry the 1/N, so a layer multiplies G by P and nothing more.
    """
    N = 8
    P, G = whole(0, N, 4), whole(1, 3, N)
    mean = sum(np.outer(G[:, i], P[i]) for i in range(N)) / N
    same(G @ P / N, mean)
    layer = affine(W)
    layer.forward(P)
    layer.backward(G.T / N)
    same(layer.parameters["weight"].gradient, mean)
    value, gradient = softmax_cross_entropy(real(2, N, 3), np.arange(N) % 3)
    singles = [softmax_cross_entropy(real(2, N, 3)[i : i + 1], np.array([i % 3])) for i in range(N)]
    near(np.array(value), sum(one for one, _ in singles) / N, 50)
    near(gradient, np.concatenate([each for _, each in singles]) / N, 50)


# The layer interface and the algorithm.


class LectureLayer:
    """The slide "Layer interface" with its names; f, g and h as functions of the parameters and the cached input."""

    theta: Array
    f: Callable[[Array, Array], Array]
    g: Callable[[Array, Array], Array]
    h: Callable[[Array, Array], Array]

    def fwd_pass(self, p: Array) -> Array:
        self.p = p
        return self.f(p, self.theta)

    def bwd_pass(self, dq: Array) -> Array:
        dp = self.g(dq, self.theta)
        self.dtheta = self.h(dq, self.p)
        return dp


class LectureAffine(LectureLayer):
    def __init__(self, theta: Array) -> None:
        self.theta = theta
        self.f = lambda p, theta: p @ theta.T
        self.g = lambda dq, theta: dq @ theta
        self.h = lambda dq, p: dq.T @ p


class LectureReLU(LectureLayer):
    """Without parameters; the gradient of its input needs the cached input, which the slide's g does not get."""

    def __init__(self) -> None:
        self.theta = np.zeros(0)
        self.f = lambda p, _: np.maximum(p, 0)
        self.g = lambda dq, _: dq * (self.p > 0)
        self.h = lambda _dq, _p: np.zeros(0)


def lecture_backprop(L: list[LectureLayer], x: Array, y: Array) -> None:
    """The slide "Algorithm", with softmax and the mean log-likelihood as grad_loss."""

    def grad_loss(q: Array, y: Array) -> Array:
        e = np.exp(q)
        return (e / e.sum(axis=1, keepdims=True) - np.eye(q.shape[1])[y]) / len(q)

    q = x
    for layer in L:
        q = layer.fwd_pass(q)
    dq = grad_loss(q, y)
    for layer in reversed(L):
        dq = layer.bwd_pass(dq)


def test_layer_interface() -> None:
    """forward caches the input; backward returns the gradient of the input and stores those of the parameters."""
    theirs, layer = LectureAffine(W), affine(W)
    x, gradient = whole(4, 5, 4), whole(5, 5, 3)
    same(layer.forward(x), theirs.fwd_pass(x))
    assert layer.parameters["weight"].gradient is None
    same(layer.backward(gradient), theirs.bwd_pass(gradient))
    same(layer.parameters["weight"].gradient, theirs.dtheta)
    with pytest.raises(RuntimeError, match="forward pass first"):
        affine(W).backward(gradient)
    relu, of_lecture, pieces = ReLU(), LectureReLU(), whole(6, 5, 4)
    same(relu.forward(pieces), of_lecture.fwd_pass(pieces))
    same(relu.backward(x), of_lecture.bwd_pass(x))


def test_backprop_listing() -> None:
    """The lecture's algorithm on the lecture's layers, and ours on ours, leave the same gradients."""
    W_1, W_2, x, y = real(0, 6, 4), real(1, 3, 6), real(2, 7, 4), np.arange(7) % 3
    theirs = [LectureAffine(W_1), LectureReLU(), LectureAffine(W_2)]
    lecture_backprop(theirs, x, y)
    layers: list[Layer] = [affine(W_1), ReLU(), affine(W_2)]
    for _ in range(2):  # gradients of an earlier call are gone
        backprop(layers, x, y)
    near(layers[0].parameters["weight"].gradient, theirs[0].dtheta, 300)
    near(layers[2].parameters["weight"].gradient, theirs[2].dtheta, 300)


def test_backprop_asks_for_compatible_neighbours() -> None:
    with pytest.raises(ValueError, match=r"expected 6 visible channels.*got 5"):
        backprop([affine(whole(0, 6, 4)), affine(whole(1, 3, 5))], whole(2, 7, 4), np.arange(7) % 3)


# Vectors.


class LayerConv1x1:
    """The listing of the slide "Vectors: scalar kernel, code"."""

    def __init__(self, w: float) -> None:
        self.w = w

    def fwd_pass(self, p: Array) -> Array:
        self.p = p
        return self.w * self.p

    def bwd_pass(self, dq: Array) -> Array:
        dp = self.w * dq
        self.dw = np.dot(dq, self.p)
        return dp


def test_scalar_kernel_listing() -> None:
    p, dq = whole(0, 7), whole(1, 7)
    theirs, layer = LayerConv1x1(3.0), convolution(np.array([[[3.0]]]))
    same(layer.forward(p[None, None])[0, 0], theirs.fwd_pass(p))
    same(layer.backward(dq[None, None])[0, 0], theirs.bwd_pass(dq))
    same(layer.parameters["weight"].gradient, [[[theirs.dw]]])


def test_scalar_kernel() -> None:
    """q = w · p; ∂q/∂p = w · I; ∂L/∂p = w · ∂L/∂q; ∂L/∂w = ∂L/∂q · p."""
    w, p, dq = np.array([3.0]), whole(0, 7), whole(1, 7)
    same(correlate(p, w), 3 * p)
    same(jacobian(lambda x: correlate(x, w), p), 3 * np.eye(7))
    same(to_input(dq, w, (7,)), 3 * dq)
    same(to_weight(p, dq, (1,)), [sum(dq * p)])


def test_scalar_kernel_against_larger_ones() -> None:
    """The slide's question: with k taps q_i depends on k neighbours instead of one, and there are k gradients."""
    for k in (1, 3, 5):
        depends = jacobian(lambda x, k=k: correlate(x, whole(0, k), padding="same"), whole(1, 9)) != 0
        for i, r in product(range(9), repeat=2):
            assert depends[i, r] == (abs(i - r) <= k // 2)
        assert to_weight(whole(1, 9), whole(2, 9), (k,), padding="same").shape == (k,)


def test_parameters_are_accessible_initialised_and_updated() -> None:
    """The "missing pieces for all layers": access to parameters and gradients, initialisation, update."""
    layer = Conv(2, 3, (3, 3), dtype="float64", seed=1)
    same(Conv(2, 3, (3, 3), dtype="float64", seed=1).parameters["weight"].value, layer.parameters["weight"].value)
    assert layer.parameters["weight"].value.std() > 0
    before = {name: parameter.value.copy() for name, parameter in layer.parameters.items()}
    layer.backward(np.ones_like(layer.forward(whole(0, 1, 2, 5, 5))))
    SGD(layer.parameters, rate=0.5).step()
    for name, parameter in layer.parameters.items():
        same(parameter.value, before[name] - 0.5 * parameter.gradient)


odd_kernels = pytest.mark.parametrize("k", [1, 3, 5])
D = 7


def vectors(k: int) -> tuple[Array, Array, Array]:
    return whole(0, D), whole(1, k), whole(2, D)


@odd_kernels
def test_vector_forward(k: int) -> None:
    """q_i = crop_k(p, i)ᵀ · w = Σ_u p_{i−o_k+u} · w_u; q = w ⋆ p means the padded p."""
    p, w, _ = vectors(k)
    q = correlate(p, w, padding="same")
    for i in range(1, D + 1):
        assert read(q, i) == crop(k, p, i) @ w
        assert read(q, i) == sum(read(p, i - o(k) + u) * read(w, u) for u in range(1, k + 1))
    same(q, star(w, pad(p, k // 2)))


def test_vector_forward_example() -> None:
    """k = 3, i = 5: q_5 = p_4·w_1 + p_5·w_2 + p_6·w_3."""
    p, w, _ = vectors(3)
    assert read(correlate(p, w, padding="same"), 5) == p[3] * w[0] + p[4] * w[1] + p[5] * w[2]
    assert o(3) == 2


@odd_kernels
def test_vector_backward_weights(k: int) -> None:
    """∂q_i/∂w_u = p_{i−o_k+u}; ∂L/∂w_u = Σ_i ∂L/∂q_i · p_{i−o_k+u} = ∂L/∂q · shift(p, −o_k + u)."""
    p, w, dq = vectors(k)
    by_weight = jacobian(lambda w: correlate(p, w, padding="same"), w)
    dw = to_weight(p, dq, (k,), padding="same")
    for u in range(1, k + 1):
        same(by_weight[:, u - 1], [read(p, i - o(k) + u) for i in range(1, D + 1)])
        assert read(dw, u) == sum(read(dq, i) * read(p, i - o(k) + u) for i in range(1, D + 1))
        assert read(dw, u) == dq @ shift(p, -o(k) + u)
    same(dw, star(dq, pad(p, k // 2)))


def test_vector_backward_weights_example() -> None:
    """k = 3: the shifts are −1, 0 and 1."""
    p, _, dq = vectors(3)
    first = sum(read(dq, i) * read(p, i - 1) for i in range(1, D + 1))
    second = sum(read(dq, i) * read(p, i) for i in range(1, D + 1))
    third = sum(read(dq, i) * read(p, i + 1) for i in range(1, D + 1))
    same(to_weight(p, dq, (3,), padding="same"), [first, second, third])
    same(np.array([dq @ shift(p, s) for s in (-1, 0, 1)]), [first, second, third])


@odd_kernels
def test_vector_backward_inputs(k: int) -> None:
    """∂L/∂p_i = Σ_s ∂L/∂q_{i+s} · w_{o_k−s} = sum(crop_k(∂L/∂q, i) ⊙ flip(w)); ∂L/∂p = flip(w) ⋆ pad(∂L/∂q, ⌊k/2⌋)."""
    p, w, dq = vectors(k)
    by_input = jacobian(lambda x: correlate(x, w, padding="same"), p)
    dp = to_input(dq, w, (D,), padding="same")
    reach = range(-(k // 2), k // 2 + 1)
    for i in range(1, D + 1):
        assert read(dp, i) == sum(dq[r] * by_input[r, i - 1] for r in range(D))
        assert read(dp, i) == sum(read(dq, i + s) * read(w, o(k) - s) for s in reach)
        assert read(dp, i) == (crop(k, dq, i) * np.flip(w)).sum()
    same(dp, star(np.flip(w), pad(dq, k // 2)))


def test_vector_which_outputs_depend_on_an_input() -> None:
    """k = 3: ∂q_{i−1}/∂p_i = w_3, ∂q_{i+1}/∂p_i = w_1, ∂q_{i+s}/∂p_i = w_{2−s}; none further away."""
    p, w, _ = vectors(3)
    by_input = jacobian(lambda x: correlate(x, w, padding="same"), p)
    for i in range(2, D):
        assert read(by_input, i - 1, i) == read(w, 3)
        assert read(by_input, i + 1, i) == read(w, 1)
        for s in range(-3, 4):
            if 1 <= i + s <= D:
                assert read(by_input, i + s, i) == read(w, 2 - s)


@pytest.mark.parametrize("k", [2, 4])
def test_even_kernels_need_uneven_padding(k: int) -> None:
    """q_i = Σ_u p_{i−o_k+u}·w_u holds for even k too, but with ⌊k/2⌋ zeros before and k − 1 − ⌊k/2⌋ after.

    The slides' pad(·, ⌊k/2⌋) on both sides, and their sum over s from −⌊k/2⌋ to ⌊k/2⌋, are for odd k: for even k the
    first gives one output too many and the second asks for a w_{k+1}. Backwards the two paddings change places.
    """
    p, w, dq = vectors(k)
    before, after = k // 2, k - 1 - k // 2
    options = {"padding": ((before, after),)}
    q = correlate(p, w, **options)
    same(q, [sum(read(p, i - o(k) + u) * read(w, u) for u in range(1, k + 1)) for i in range(1, D + 1)])
    same(to_input(dq, w, (D,), **options), star(np.flip(w), np.pad(dq, (after, before))))
    same(to_weight(p, dq, (k,), **options), star(dq, np.pad(p, (before, after))))
    assert star(w, pad(p, k // 2)).shape == (D + 1,)


def test_my_conv1d_listing() -> None:
    """The listing "Vectors: code", run; what it prints in pairs is equal, and equal to ours."""

    def my_conv1d(data: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        data_pad = torch.nn.functional.pad(data, (1, 1), "constant", 0)
        return torch.nn.functional.conv1d(data_pad.reshape([1, 1, -1]), kernel.reshape([1, 1, -1])).squeeze()

    D, K = 7, 3
    w = torch.tensor(whole(0, K), requires_grad=True)
    p = torch.tensor(whole(1, D), requires_grad=True)
    q = my_conv1d(p, w)
    torch.sum(q).backward()

    dLdq = torch.ones(D, dtype=torch.float64)
    dLdp = my_conv1d(dLdq, torch.flip(w, (0,)))
    dLdw = my_conv1d(p, dLdq)

    same(dLdw.detach().numpy(), w.grad.numpy())
    same(dLdp.detach().numpy(), p.grad.numpy())
    ours = w.detach().numpy(), p.detach().numpy(), np.ones(D)
    same(correlate(ours[1], ours[0], padding=1), q.detach().numpy())
    same(to_weight(ours[1], ours[2], (K,), padding=1), w.grad.numpy())
    same(to_input(ours[2], ours[0], (D,), padding=1), p.grad.numpy())


def test_relu() -> None:
    """q_i = max(0, p_i); ∂q/∂p is diagonal (printed as a column); ∂L/∂p = ∂L/∂q ⊙ ⟦p > 0⟧, at any order."""
    for shape in [(6,), (2, 3, 4)]:
        p, dq = whole(0, 1, 1, *shape), whole(1, 1, 1, *shape)
        p.flat[2] = 0
        layer = ReLU()
        same(layer.forward(p).ravel(), [max(0.0, x) for x in p.flat])
        indicator = (p > 0).astype(np.float64)
        same(layer.backward(dq), dq * indicator)
        same(layer.backward(dq).ravel(), dq.ravel() @ np.diag(indicator.ravel()))
    smooth = whole(0, 6)
    same(jacobian(lambda x: ReLU().forward(x), smooth, 0.5), np.diag((smooth > 0).astype(np.float64)))


def test_onehot_example() -> None:
    """onehot⁴(2) = [0 1 0 0]: the gradient of a global max pool whose second of four inputs is the largest."""
    same(onehot(4, 2), [0, 1, 0, 0])
    layer = GlobalMaxPool()
    layer.forward(np.array([[[1.0, 5.0, 2.0, 3.0]]]))
    same(layer.backward(np.array([[1.0]]))[0, 0], onehot(4, 2))


@pytest.mark.parametrize("shape", [(7,), (4, 5), (2, 3, 4)])
def test_global_max_pool(shape: Index) -> None:
    """q = maxpool(p); ∂L/∂p = ∂L/∂q · onehot(argmax p), of p's shape at any order."""
    n = int(np.prod(shape))
    p = np.random.default_rng(0).permutation(n).astype(np.float64).reshape(1, 1, *shape)
    layer = GlobalMaxPool()
    same(layer.forward(p), [[max(p.flat)]])
    largest = max(range(1, n + 1), key=lambda i: p.flat[i - 1])
    same(layer.backward(np.array([[3.0]])), 3 * onehot(n, largest).reshape(p.shape))
    same(jacobian(lambda x: GlobalMaxPool().forward(x)[0, 0], p, 0.25), onehot(n, largest).reshape(p.shape))


def test_max_pool_example() -> None:
    """maxpool_2([1 2 3 4 5 6]) = [2 4 6]."""
    same(MaxPool(2).forward(np.array([[[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]]])), [[[2, 4, 6]]])


@pytest.mark.parametrize(("n", "k"), [(6, 2), (9, 3), (7, 2), (8, 3), (10, 4), (3, 5)])
def test_max_pool_sizes(n: int, k: int) -> None:
    """dim(q) = ⌈N/k⌉, the last region being smaller where k does not divide N: `ceil=True`. The default is ⌊N/k⌋.

    The one region that is left where N < k is the whole input: a global max pool.
    """
    p = whole(0, 1, 1, n)
    if n >= k:
        same(MaxPool(k, ceil=True).forward(p)[0, 0], [max(p[0, 0, at : at + k]) for at in range(0, n, k)])
        same(MaxPool(k).forward(p)[0, 0], [max(p[0, 0, k * i : k * i + k]) for i in range(n // k)])
    else:
        same(GlobalMaxPool().forward(p)[0], [max(p[0, 0])])


def test_embed_and_onehot() -> None:
    """embed puts x at [p : p + k]; onehotⁿ(p) = embed_1ⁿ(1, p) with one base of indices for both.

    As printed the two count differently: onehot⁴(2) = [0 1 0 0] counts from 1, the slice [p : p + k] from 0.
    """
    one = np.array([1.0])
    same(embed((6,), np.array([7.0, 8.0]), (3,)), [0, 0, 0, 7, 8, 0])
    same(embed((4,), one, (2 - 1,)), onehot(4, 2))
    assert not np.array_equal(embed((4,), one, (2,)), onehot(4, 2))
    hidden, indices = triconv.max_pool(np.array([[[1.0, 5.0, 2.0, 3.0]]]), 4)
    same(triconv.max_pool_transpose(hidden, indices, 4)[0, 0], 5 * embed((4,), one, (1,)))


@pytest.mark.parametrize(("n", "k"), [(6, 2), (9, 3), (7, 2), (8, 3), (10, 4)])
def test_max_pool_backward(n: int, k: int) -> None:
    """∂L/∂p = Σ_i ∂L/∂q_i · embed(onehot(argmax p_[k·i : k·i+k]), k·i).

    Printed is the sum up to ⌊N/k⌋ − 1, which contradicts dim(q) = ⌈N/k⌉: the last, smaller region has a gradient too.
    """
    p = np.random.default_rng(n).permutation(n).astype(np.float64)
    layer = MaxPool(k, ceil=True)
    q = layer.forward(p[None, None])
    dq = whole(1, *q.shape)
    regions = [p[k * i : k * i + k] for i in range(-(-n // k))]
    parts = [
        dq[0, 0, i] * embed((n,), onehot(len(region), 1 + int(np.argmax(region))), (k * i,))
        for i, region in enumerate(regions)
    ]
    same(layer.backward(dq)[0, 0], sum(parts))
    same(jacobian(lambda x: (dq * MaxPool(k, ceil=True).forward(x[None, None])).sum(), p, 0.25), sum(parts))
    if n % k:
        assert not np.array_equal(sum(parts[: n // k]), sum(parts))


# Matrices.

HEIGHT, WIDTH = 5, 6
PIXELS = list(product(range(1, HEIGHT + 1), range(1, WIDTH + 1)))


def matrices(k: int) -> tuple[Array, Array, Array]:
    return whole(0, HEIGHT, WIDTH), whole(1, k, k), whole(2, HEIGHT, WIDTH)


def taps(k: int) -> list[tuple[int, int]]:
    return list(product(range(1, k + 1), repeat=2))


def shifts(k: int) -> list[tuple[int, int]]:
    return list(product(range(-(k // 2), k // 2 + 1), repeat=2))


@odd_kernels
def test_matrix_forward(k: int) -> None:
    """q_ij = sum(crop(p, i, j) ⊙ w) = Σ_uv p_{i−o_k+u, j−o_k+v} · w_uv."""
    p, w, _ = matrices(k)
    q = correlate(p, w, padding="same")
    for i, j in PIXELS:
        assert read(q, i, j) == (crop(k, p, i, j) * w).sum()
        assert read(q, i, j) == sum(read(p, i - o(k) + u, j - o(k) + v) * read(w, u, v) for u, v in taps(k))
    same(q, star(w, pad(p, k // 2)))


def test_matrix_forward_example() -> None:
    """i = j = 1, k = 3: q_11 = Σ_uv p_{u−1,v−1} · w_uv, whose first row and column are padding."""
    p, w, _ = matrices(3)
    q_11 = sum(read(p, u - 1, v - 1) * read(w, u, v) for u, v in taps(3))
    assert read(correlate(p, w, padding="same"), 1, 1) == q_11


def test_matrix_shapes_of_the_backward_pass() -> None:
    """∂L/∂q and ∂L/∂p are H × W (with padding in the forward pass), ∂L/∂w is k × k; and q does not see all of p."""
    p, w, dq = matrices(3)
    assert correlate(p, w, padding="same").shape == (HEIGHT, WIDTH)
    assert to_input(dq, w, p.shape, padding="same").shape == (HEIGHT, WIDTH)
    assert to_weight(p, dq, (3, 3), padding="same").shape == (3, 3)
    by_input = jacobian(lambda x: correlate(x, w, padding="same"), p)
    assert not by_input.all(axis=(2, 3)).any()


@odd_kernels
def test_matrix_general_input_gradient(k: int) -> None:
    """∂L/∂p_ij = Σ_r ∂L/∂q_r · ∂q_r/∂p_ij, and the questions which r those are: the k × k neighbourhood of (i, j)."""
    p, w, dq = matrices(k)
    by_input = jacobian(lambda x: correlate(x, w, padding="same"), p)
    dp = to_input(dq, w, p.shape, padding="same")
    for i, j in PIXELS:
        column = by_input[:, :, i - 1, j - 1]
        assert read(dp, i, j) == dq.ravel() @ column.ravel()
        near_by = {(a, b) for a, b in PIXELS if abs(a - i) <= k // 2 and abs(b - j) <= k // 2}
        assert {(a + 1, b + 1) for a, b in np.argwhere(column)} == near_by


@odd_kernels
def test_matrix_one_pixel(k: int) -> None:
    """One pixel p_ij ≠ 0: q_{i+s,j+t} = p_ij · w_{o_k−s,o_k−t}, 0 elsewhere; with all pixels ∂q/∂p stays so."""
    _, w, _ = matrices(k)
    i, j = 3, 3
    single = np.zeros((HEIGHT, WIDTH))
    single[i - 1, j - 1] = 7
    expected = np.zeros((HEIGHT, WIDTH))
    for s, t in shifts(k):
        expected[i + s - 1, j + t - 1] = 7 * read(w, o(k) - s, o(k) - t)
    same(correlate(single, w, padding="same"), expected)
    full = whole(5, HEIGHT, WIDTH)
    by_pixel = correlate(full + single, w, padding="same") - correlate(full, w, padding="same")
    same(by_pixel, expected)


def test_matrix_corner_meets_opposite_corner() -> None:
    """∂q_{i+1,j+1}/∂p_ij = w_11 for k = 3."""
    p, w, _ = matrices(3)
    by_input = jacobian(lambda x: correlate(x, w, padding="same"), p)
    for i, j in product(range(1, HEIGHT), range(1, WIDTH)):
        assert by_input[i, j, i - 1, j - 1] == w[0, 0]


@odd_kernels
def test_matrix_backward_inputs(k: int) -> None:
    """∂L/∂p_ij = Σ_st ∂L/∂q_{i+s,j+t} · w_{o_k−s,o_k−t} = sum(crop(∂L/∂q, i, j) ⊙ flip2d(w)); all of them by ⋆."""
    p, w, dq = matrices(k)
    dp = to_input(dq, w, p.shape, padding="same")
    flipped = w[::-1, ::-1]
    for i, j in PIXELS:
        assert read(dp, i, j) == sum(read(dq, i + s, j + t) * read(w, o(k) - s, o(k) - t) for s, t in shifts(k))
        assert read(dp, i, j) == (crop(k, dq, i, j) * flipped).sum()
    same(dp, star(flipped, pad(dq, k // 2)))
    same(triconv.flip(w[None, None])[0, 0], flipped)


@odd_kernels
def test_matrix_backward_inputs_without_padding(k: int) -> None:
    """Without padding in the forward pass ∂L/∂q is padded by k − 1, and ∂L/∂w needs no padding."""
    p, w, _ = matrices(k)
    dq = whole(3, HEIGHT - k + 1, WIDTH - k + 1)
    same(to_input(dq, w, p.shape), star(w[::-1, ::-1], pad(dq, k - 1)))
    same(to_weight(p, dq, (k, k)), star(dq, p))


@odd_kernels
def test_transposed_convolution(k: int) -> None:
    """w ⋆ᵀ x = flip2d(w) ⋆ pad(x, ⌊k/2⌋) is conv_transpose at stride 1 with the forward pass padded."""
    _, w, x = matrices(k)
    same(to_input(x, w, x.shape, padding="same"), star(np.flip(w, (0, 1)), pad(x, k // 2)))


@odd_kernels
def test_matrix_backward_parameters(k: int) -> None:
    """∂L/∂w_uv = Σ_ij ∂L/∂q_ij · p_{i−o_k+u,j−o_k+v} = sum(shift(p, …) ⊙ ∂L/∂q); together ∂L/∂q ⋆ pad(p, ⌊k/2⌋).

    One slide prints [k/2] for ⌊k/2⌋: k/2 is no number of zeros for odd k.
    """
    p, w, dq = matrices(k)
    by_weight = jacobian(lambda w: correlate(p, w, padding="same"), w)
    dw = to_weight(p, dq, (k, k), padding="same")
    for u, v in taps(k):
        shifted = shift(p, -o(k) + u, -o(k) + v)
        same(by_weight[:, :, u - 1, v - 1], shifted)
        assert read(dw, u, v) == sum(read(dq, i, j) * read(p, i - o(k) + u, j - o(k) + v) for i, j in PIXELS)
        assert read(dw, u, v) == (shifted * dq).sum()
    same(dw, star(dq, pad(p, k // 2)))


@odd_kernels
def test_matrix_one_weight(k: int) -> None:
    """w with one w_uv ≠ 0: q_ij = p_{i−o_k+u,j−o_k+v} · w_uv for all i, j."""
    p, _, _ = matrices(k)
    for u, v in taps(k):
        single = np.zeros((k, k))
        single[u - 1, v - 1] = 7
        same(correlate(p, single, padding="same"), 7 * shift(p, -o(k) + u, -o(k) + v))


# The worked problem.


def problem() -> tuple[Array, Array, Array]:
    """x, the two kernels as one weight, and W; indices as on the slide, counted from 1."""
    x, w = np.zeros((1, 1, 4, 4)), np.zeros((2, 1, 3, 3))
    x[0, 0, 2 - 1, 2 - 1] = x[0, 0, 3 - 1, 3 - 1] = 1
    w[0, 0, 2 - 1, 1 - 1], w[0, 0, 2 - 1, 2 - 1] = -1, 1  # w_121, w_122
    w[1, 0, 3 - 1, 2 - 1], w[1, 0, 2 - 1, 2 - 1] = -1, 1  # w_232, w_222
    return x, w, np.eye(2)


@pytest.mark.parametrize("pool", [GlobalMaxPool, lambda: MaxPool((2, 2))])
def test_worked_problem(pool: Callable[[], Layer]) -> None:
    """The printed gradients, and by hand everything on the way to them.

    Both feature maps have their maximum 1 twice, at (1, 1) and (2, 2): the printed gradients are those of the first.
    """
    x, w, W = problem()
    layers: list[Layer] = [convolution(w), ReLU(), pool(), _Squeeze(), affine(W)]
    f = layers[0].forward(x)
    same(f, [[[[1, -1], [0, 1]], [[1, -1], [0, 1]]]])
    h = layers[2].forward(np.maximum(f, 0)).reshape(1, 2)
    same(h, [[1, 1]])
    same(layers[4].forward(h), [[1, 1]])
    near(np.array(backprop(layers, x, np.array([2 - 1]))), np.log(2.0), 10)
    near(layers[4].parameters["weight"].gradient, [[0.5, 0.5], [-0.5, -0.5]], 10)
    printed_1 = [[0, 0, 0], [0, 0.5, 0], [0, 0, 0.5]]
    printed_2 = [[0, 0, 0], [0, -0.5, 0], [0, 0, -0.5]]
    near(layers[0].parameters["weight"].gradient, [[printed_1], [printed_2]], 10)


class _Squeeze(Layer):
    """The listing's squeeze(): the 1 × 1 positions that a 2 × 2 max pool leaves."""

    def forward(self, x: Array) -> Array:
        self.remember(x.shape)
        return x.reshape(x.shape[:2])

    def backward(self, gradient: Array) -> Array:
        return gradient.reshape(self.recall())


def test_worked_problem_interpretation() -> None:
    """After the update the logit of branch 1 is lower and that of branch 2 higher."""
    x, w, W = problem()
    layers = [convolution(w), ReLU(), GlobalMaxPool(), affine(W)]
    model = Sequential(layers)
    before = model.forward(x)
    backprop(layers, x, np.array([1]))
    SGD(model.parameters, rate=0.1).step()
    after = model.forward(x)
    assert after[0, 0] < before[0, 0]
    assert after[0, 1] > before[0, 1]


def test_worked_problem_listing() -> None:
    """The listing, run in PyTorch; every tensor and gradient that it prints, beside ours."""
    x = np.zeros([4, 4])
    x[1, 1] = x[2, 2] = 1
    x = x.reshape([1, *x.shape])
    x = torch.tensor(x, requires_grad=True)

    w1 = np.zeros([3, 3])
    w1[1, 0], w1[1, 1] = -1, 1
    w1 = torch.tensor(w1.reshape([1, 1, *w1.shape]), requires_grad=True)

    w2 = np.zeros([3, 3])
    w2[2, 1], w2[1, 1] = -1, 1
    w2 = torch.tensor(w2.reshape([1, 1, *w2.shape]), requires_grad=True)

    W = torch.tensor(np.eye(2), requires_grad=True)

    f1 = torch.nn.functional.conv2d(x, w1)
    f1r = torch.nn.functional.relu(f1)
    f1m = torch.nn.functional.max_pool2d(f1r, [2, 2])

    f2 = torch.nn.functional.conv2d(x, w2)
    f2r = torch.nn.functional.relu(f2)
    f2m = torch.nn.functional.max_pool2d(f2r, [2, 2])

    h = torch.concat([f1m, f2m]).squeeze()
    s = W @ h

    for t in [f1, f2, h, s]:
        t.retain_grad()
    L = torch.nn.functional.cross_entropy(s, torch.tensor(1))
    L.backward()

    image, weight, matrix_W = problem()
    convolve, relu, pool, connect = convolution(weight), ReLU(), GlobalMaxPool(), affine(matrix_W)
    f = convolve.forward(image)
    our_h = pool.forward(relu.forward(f))
    our_s = connect.forward(our_h)
    loss, ds = softmax_cross_entropy(our_s, np.array([1]))
    dh = connect.backward(ds)
    df = relu.backward(pool.backward(dh))
    dx = convolve.backward(df)
    dw, dW = convolve.parameters["weight"].gradient, connect.parameters["weight"].gradient

    near(np.array(loss), L.item(), 10)
    for ours, gradient, theirs in [
        (our_s[0], ds[0], s),
        (our_h[0], dh[0], h),
        (matrix_W, dW, W),
        (f[0, :1], df[0, :1], f1),
        (f[0, 1:], df[0, 1:], f2),
        (weight[:1], dw[:1], w1),
        (weight[1:], dw[1:], w2),
        (image[0], dx[0], x),
    ]:
        same(ours, theirs.detach().numpy())
        near(gradient, theirs.grad.numpy(), 10)


# Third-order tensors: f counts the input's channels, g the output's.

F, G = 2, 3


def tensors() -> tuple[Array, Array, Array, Array]:
    return whole(0, F, HEIGHT, WIDTH), whole(1, G, F, 3, 3), whole(2, G), whole(3, G, HEIGHT, WIDTH)


def test_multichannel_forward() -> None:
    """q = w ⋆ p + broadcast(b): q⁽ᵍ⁾ = Σ_f w⁽ᵍᶠ⁾ ⋆ p⁽ᶠ⁾ and its elements; both formulas leave the bias b_g out."""
    p, w, b, _ = tensors()
    q = convolution(w, b, padding="same").forward(p[None])[0]
    for g in range(G):
        same(q[g], sum(star(w[g, f], pad(p[f], 1)) for f in range(F)) + b[g])
        for i, j in PIXELS:
            elements = (read(p[f], i - 2 + u, j - 2 + v) * read(w[g, f], u, v) for f in range(F) for u, v in taps(3))
            assert read(q[g], i, j) == sum(elements) + b[g]


def test_multichannel_bias_gradient() -> None:
    """∂L/∂b_g = Σ_ij ∂L/∂q_ij⁽ᵍ⁾."""
    p, w, b, dq = tensors()
    layer = convolution(w, b, padding="same")
    layer.forward(p[None])
    layer.backward(dq[None])
    same(layer.parameters["bias"].gradient, [sum(read(dq[g], i, j) for i, j in PIXELS) for g in range(G)])


def test_multichannel_backward_inputs() -> None:
    """∂L/∂p⁽ᶠ⁾ = Σ_g flip2d(w⁽ᵍᶠ⁾) ⋆ pad(∂L/∂q⁽ᵍ⁾): flipped over the spatial axes alone; by elements too."""
    p, w, _, dq = tensors()
    layer = convolution(w, padding="same")
    layer.forward(p[None])
    dp = layer.backward(dq[None])[0]
    for f in range(F):
        same(dp[f], sum(star(w[g, f, ::-1, ::-1], pad(dq[g], 1)) for g in range(G)))
        for i, j in PIXELS:
            elements = (read(dq[g], i + s, j + t) * read(w[g, f], 2 - s, 2 - t) for g in range(G) for s, t in shifts(3))
            assert read(dp[f], i, j) == sum(elements)


def test_multichannel_transposed_convolution() -> None:
    """(w ⋆ᵀ x)⁽ᶠ⁾ = Σ_g flip2d(w⁽ᵍᶠ⁾) ⋆ pad(x⁽ᵍ⁾, ⌊k/2⌋)."""
    _, w, _, x = tensors()
    result = conv_transpose(x[None], w, padding="same")[0]
    for f in range(F):
        same(result[f], sum(star(triconv.flip(w)[g, f], pad(x[g], 1)) for g in range(G)))


def test_multichannel_backward_parameters() -> None:
    """∂L/∂w⁽ᵍᶠ⁾ = ∂L/∂q⁽ᵍ⁾ ⋆ pad(p⁽ᶠ⁾, ⌊k/2⌋): each slice as if it were alone."""
    p, _, _, dq = tensors()
    dw = conv_weight(p[None], dq[None], (3, 3), padding="same")
    for g, f in product(range(G), range(F)):
        same(dw[g, f], star(dq[g], pad(p[f], 1)))


# Strides.


def spread(x: Array, s: int) -> Array:
    """s − 1 zeros between neighbours along the last two axes."""
    big = np.zeros((*x.shape[:-2], *(s * (size - 1) + 1 for size in x.shape[-2:])))
    big[..., ::s, ::s] = x
    return big


strides = pytest.mark.parametrize(("k", "s"), [(3, 2), (2, 2), (2, 3), (4, 2), (3, 1)])


def strided(k: int, s: int) -> tuple[Array, Array, Array]:
    p, w = whole(0, F, 8, 9), whole(1, G, F, k, k)
    return p, w, whole(2, G, (8 - k) // s + 1, (9 - k) // s + 1)


@strides
def test_stride_is_convolution_then_subsampling(k: int, s: int) -> None:
    p, w, _ = strided(k, s)
    default = np.array([sum(star(w[g, f], p[f]) for f in range(F)) for g in range(G)])
    same(conv(p[None], w, stride=s)[0], default[:, ::s, ::s])


@strides
def test_stride_backward_by_zeros(k: int, s: int) -> None:
    """Neglected outputs get gradient zero, and then transposed convolution goes on: fractional convolution."""
    p, w, dq = strided(k, s)
    at_default = np.zeros((G, 8 - k + 1, 9 - k + 1))
    at_default[:, ::s, ::s] = dq
    through = [sum(star(w[g, f, ::-1, ::-1], pad(at_default[g], k - 1)) for g in range(G)) for f in range(F)]
    same(conv_transpose(dq[None], w, stride=s, visible_size=p.shape[1:])[0], through)
    weights = [[star(at_default[g], p[f]) for f in range(F)] for g in range(G)]
    same(conv_weight(p[None], dq[None], (k, k), stride=s), weights)


@pytest.mark.parametrize(("k", "s"), [(4, 2), (6, 3), (6, 2), (3, 3)])
def test_stride_shrinks_the_receptive_field_of_the_backward_pass(k: int, s: int) -> None:
    """Away from the border an input hears from k/s outputs per axis instead of k (s dividing k; else on average)."""
    p, w = np.ones((1, 1, 6 * s + k)), np.ones((1, 1, k))
    heard = conv_transpose(np.ones_like(conv(p, w, stride=s)), w, stride=s, visible_size=p.shape[2])
    assert set(heard[0, 0, k : 6 * s]) == {k / s}
    default = conv_transpose(np.ones_like(conv(p, w)), w)
    assert set(default[0, 0, k : 6 * s]) == {float(k)}


@strides
def test_stride_integrated_backward(k: int, s: int) -> None:
    """∂L/∂p⁽ᶠ⁾ = Σ_ij Σ_g embed_{k×k}^{H×W}(∂L/∂q_ij⁽ᵍ⁾ · w⁽ᵍᶠ⁾, [s·i, s·j]), i and j from 0.

    The slide says that t denotes the stride; the formula calls it s. The sum ends before shape(q).
    """
    p, w, dq = strided(k, s)
    dp = conv_transpose(dq[None], w, stride=s, visible_size=p.shape[1:])[0]
    for f in range(F):
        windows = [
            embed(p.shape[1:], dq[g, i, j] * w[g, f], (s * i, s * j))
            for i, j in np.ndindex(*dq.shape[1:])
            for g in range(G)
        ]
        same(dp[f], sum(windows))


@pytest.mark.parametrize(("k", "s"), [(2, 2), (3, 2), (4, 2), (3, 3)])
def test_stride_transposed_forward_upsamples(k: int, s: int) -> None:
    """Strided transposed convolution as a forward pass: s times as many positions, and its own exact gradients."""
    x, w = whole(0, 1, G, 4, 5), whole(1, G, F, k, k)
    layer = ConvTranspose(G, F, (k, k), stride=s, bias=None, dtype="float64")
    layer.parameters["weight"].value[...] = w
    q = layer.forward(x)
    assert q.shape == (1, F, s * 3 + k, s * 4 + k)
    if k == s:
        assert q.shape[2:] == (s * 4, s * 5)
    spread_out = np.pad(spread(x[0], s), [(0, 0), (k - 1, k - 1), (k - 1, k - 1)])
    same(q[0], [sum(star(w[g, f, ::-1, ::-1], spread_out[g]) for g in range(G)) for f in range(F)])
    dq = whole(2, *q.shape)
    same(layer.backward(dq), [[sum(star(w[g, f], dq[0, f]) for f in range(F))[::s, ::s] for g in range(G)]])
    same(
        layer.parameters["weight"].gradient, [[star(spread(x[0], s)[g], dq[0, f]) for f in range(F)] for g in range(G)]
    )


def test_bilinear_upsampling_then_convolution() -> None:
    """The alternative: the holes between samples are filled by interpolation instead of zeros; and what it costs."""
    x, w = whole(0, 1, 2, 4, 5), whole(1, 3, 2, 3, 3)
    enlarge = Upsample(2, mode="linear")
    filled = enlarge.forward(x)
    theirs = torch.tensor(x, requires_grad=True)
    reference = torch.nn.functional.interpolate(theirs, scale_factor=2, mode="bilinear", align_corners=False)
    same(filled, reference.detach().numpy())  # quarters and sixteenths: exact
    dq = whole(2, *filled.shape)
    reference.backward(torch.tensor(dq))
    same(enlarge.backward(dq), theirs.grad.numpy())
    convolved = convolution(w, padding="same").forward(filled)
    expected = torch.nn.functional.conv2d(reference, torch.tensor(w), padding=1).detach().numpy()
    same(convolved, expected)
    holes = spread(x, 2)
    assert np.count_nonzero(holes) < holes.size / 3
    assert np.count_nonzero(filled) > 0.9 * filled.size
    # The "larger complexity": as many taps at 2² times the positions.
    dense = triconv.explain("conv", filled.shape, w.shape, padding="same").flops
    integrated = triconv.explain("conv", (1, 3, 8, 10), (2, 3, 3, 3), stride=2, padding="same").flops
    assert dense == 4 * integrated


# Implementation.


def test_flattened_activations() -> None:
    """vec(q) = doubly_circ(w) · vec(p) with the printed matrix, set right.

    Printed are 10 rows of 24 to 31 entries for 9 outputs of 25 inputs, and vec(p) lacks p_45. The first row begins at
    column 1 and the three rows of a block move on by one; a block of q begins 5 columns after the last. The printed
    rows 7 to 10 go on by one column instead.
    """
    w = 1 + np.arange(9.0).reshape(3, 3)  # w_uv = 3 (u − 1) + v: every entry tells which weight it is
    pattern = [1, 2, 3, 0, 0, 4, 5, 6, 0, 0, 7, 8, 9]
    printed = [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]  # zeros before the pattern, row by row
    right = [0, 1, 2, 5, 6, 7, 10, 11, 12]
    rows = np.array([[0] * at + pattern + [0] * (25 - 13 - at) for at in right])
    big = matrix(triconv.explain("conv", (1, 1, 5, 5), (1, 1, 3, 3)).problem, w[None, None]).toarray()
    same(big, rows)
    p = whole(0, 5, 5)
    same(rows @ p.ravel(), star(w, p).ravel())
    assert printed[:6] == right[:6]
    assert len(printed) == len(right) + 1
    assert printed[6:9] != right[6:]


def test_flattened_activations_are_circulant_on_a_circular_border() -> None:
    """The printed matrix is doubly Toeplitz; doubly circulant it is when the border wraps around."""
    n = 5
    problem = triconv.explain("conv", (1, 1, n, n), (1, 1, 3, 3), padding="same", border="circular").problem
    big = matrix(problem, whole(0, 1, 1, 3, 3)).toarray().reshape(n, n, n, n)
    for i, j in product(range(n), repeat=2):
        same(np.roll(big, (i, j, i, j), axis=(0, 1, 2, 3)), big)


def rows_of(p: Array, k: int) -> Array:
    """im2row(p) as the engine of that name makes it, for an image of any number of channels."""
    problem = triconv.explain("conv", (1, *p.shape), (1, p.shape[0], k, k)).problem
    (stack,) = problem.channels.blocks
    maker = im2row.Product(problem, stack, im2row.table(problem.geometry))
    flat = np.append(p.reshape(len(p), -1), np.zeros((len(p), 1)), axis=1).T[None]
    return maker.rows(flat)[0, 0]


def test_im2row() -> None:
    """vec(q) = im2row(p) · vec(w) with the printed table; entries say their place: 13 is x_13.

    One of its four copies prints x_15 for x_13, in the first row. The last printed row is the ninth: rows four to
    eight are left out without a mark.
    """
    x = np.array([[10.0 * i + j for j in range(1, 6)] for i in range(1, 6)])
    printed = [
        [11, 12, 13, 21, 22, 23, 31, 32, 33],
        [12, 13, 14, 22, 23, 24, 32, 33, 34],
        [13, 14, 15, 23, 24, 25, 33, 34, 35],
    ]
    ninth = [33, 34, 35, 43, 44, 45, 53, 54, 55]
    left_out = [
        [21, 22, 23, 31, 32, 33, 41, 42, 43],
        [22, 23, 24, 32, 33, 34, 42, 43, 44],
        [23, 24, 25, 33, 34, 35, 43, 44, 45],
        [31, 32, 33, 41, 42, 43, 51, 52, 53],
        [32, 33, 34, 42, 43, 44, 52, 53, 54],
    ]
    rows = rows_of(x[None], 3)
    same(rows, [*printed, *left_out, ninth])
    w = whole(0, 3, 3)
    same(rows @ w.ravel(), star(w, x).ravel())
    same(conv(x[None, None], w[None, None], engine="im2row").ravel(), star(w, x).ravel())


def test_im2row_of_third_order_input() -> None:
    """The slide is a picture without text: each row holds the window in every channel, and a kernel is a column."""
    p, w = whole(0, F, HEIGHT, WIDTH), whole(1, G, F, 3, 3)
    rows = rows_of(p, 3)
    assert rows.shape == ((HEIGHT - 2) * (WIDTH - 2), F * 9)
    same(
        rows, [[p[f, i + u, j + v] for u, v in np.ndindex(3, 3) for f in range(F)] for i in range(3) for j in range(4)]
    )
    columns = w.transpose(0, 2, 3, 1).reshape(G, -1).T
    expected = np.array([sum(star(w[g, f], p[f]) for f in range(F)) for g in range(G)])
    same((rows @ columns).T.reshape(expected.shape), expected)


@pytest.mark.parametrize(("height", "width", "k"), [(5, 5, 3), (8, 6, 5), (16, 12, 3)])
def test_complexities(height: int, width: int, k: int) -> None:
    """O(W²H²) for the flattened activations, O(WHk²) for convolution; im2row copies O(WHk²) numbers out of O(WH)."""
    plan = triconv.explain("conv", (1, 1, height, width), (1, 1, k, k), padding="same")
    big = matrix(plan.problem, np.ones((1, 1, k, k)))
    assert big.shape == (height * width, height * width)
    assert plan.problem.terms == height * width * k**2
    assert big.nnz <= plan.problem.terms
    valid = rows_of(np.ones((1, height, width)), k)
    assert valid.size == (height - k + 1) * (width - k + 1) * k**2


def test_im2row_backward_parameters() -> None:
    """∂vec(q)/∂vec(w) = im2row(p), and ∂L/∂vec(w) = ∂L/∂vec(q) · im2row(p)."""
    p, w = whole(0, HEIGHT, WIDTH), whole(1, 3, 3)
    dq = whole(2, HEIGHT - 2, WIDTH - 2)
    rows = rows_of(p[None], 3)
    same(rows, jacobian(lambda w: star(w, p), w).reshape(dq.size, w.size))
    same(dq.ravel() @ rows, to_weight(p, dq, (3, 3)).ravel())


def test_im2row_backward_inputs() -> None:
    """G_q = im2row(pad(∂L/∂q, ⌊k/2⌋)); G_p = G_q · vec(flip2d(w)); ∂L/∂p = reshape(G_p, [H, W])."""
    p, w, dq = matrices(3)
    G_q = rows_of(pad(dq, 1)[None], 3)
    G_p = G_q @ w[::-1, ::-1].ravel()
    same(G_p.reshape(HEIGHT, WIDTH), jacobian(lambda x: (dq * star(w, pad(x, 1))).sum(), p))
    same(G_p.reshape(HEIGHT, WIDTH), to_input(dq, w, (HEIGHT, WIDTH), padding="same"))


@pytest.mark.parametrize("s", [2, 3])
def test_im2row_backward_inputs_of_a_strided_convolution_are_sparse(s: int) -> None:
    """At stride s at most one value in s² of the spread gradient's rows is not zero; integrated, no row is made."""
    w, dq = whole(1, 3, 3), whole(2, 4, 4)
    G_q = rows_of(np.pad(spread(dq, s), 2)[None], 3)
    assert np.count_nonzero(G_q) <= G_q.size / s**2
    p_size = (3 * s + 3,) * 2
    dp = (G_q @ w[::-1, ::-1].ravel()).reshape(p_size)
    same(to_input(dq, w, p_size, stride=s), dp)


def test_winograd_halves_the_multiplications() -> None:
    """Winograd's F(2×2, 3×3) makes 4 outputs with 16 multiplications instead of 36: 56 % fewer, "50 %" on the slide."""
    of_input = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    of_kernel = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    of_output = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    p, w = whole(0, 4, 4), whole(1, 3, 3)
    multiplied = (of_kernel @ w @ of_kernel.T) * (of_input @ p @ of_input.T)
    same(of_output @ multiplied @ of_output.T, correlate(p, w))
    direct = triconv.explain("conv", (1, 1, 4, 4), (1, 1, 3, 3)).problem.terms
    assert (multiplied.size, direct) == (16, 36)
    assert 1 - multiplied.size / direct > 0.5
