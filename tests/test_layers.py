"""Layers, losses and optimisers against finite differences and PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch.nn import functional

from triconv import layers
from triconv.layers import Layer
from triconv.testing import finite_differences

BFLOAT16 = ml_dtypes.bfloat16
RNG = np.random.default_rng(5)

# Central differences of step 1e-6 on values near 1: truncation 1e-12, rounding 1e-16 / 1e-6, times the values summed.
STEP, CLOSE = 1e-6, 1e-7


def cases() -> dict[str, tuple[Layer, tuple[int, ...]]]:
    graph = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=bool)
    local: dict[str, Any] = {"bank": "local", "visible_size": (5, 4), "bias": "bank", "dtype": "float64"}
    tiled: dict[str, Any] = {"bank": (2, 3), "visible_size": (7, 6), "bias": "bank", "dtype": "float64"}
    return {
        "affine": (layers.Affine(4, 3, dtype="float64"), (2, 4)),
        "affine without bias": (layers.Affine(4, 3, bias=None, dtype="float64"), (2, 4)),
        "conv 1-D": (layers.Conv(2, 3, (3,), stride=2, padding="same", dtype="float64"), (2, 2, 7)),
        "conv 2-D": (layers.Conv(2, 3, (3, 2), stride=(2, 1), padding=1, dtype="float64"), (2, 2, 5, 4)),
        "conv 3-D": (layers.Conv(1, 2, (2, 2, 2), border="circular", padding=1, dtype="float64"), (1, 1, 3, 3, 2)),
        "conv graph": (layers.Conv(3, 4, (3,), groups=graph, dtype="float64"), (2, 3, 6)),
        "conv local": (layers.Conv(2, 3, (3, 2), **local), (2, 2, 5, 4)),
        "conv tiled": (layers.Conv(2, 3, (3, 2), stride=(2, 1), **tiled), (2, 2, 7, 6)),
        "transpose": (layers.ConvTranspose(3, 2, (3, 2), stride=(2, 1), dtype="float64"), (2, 3, 2, 3)),
        "transpose local": (layers.ConvTranspose(3, 2, (3, 2), **local), (2, 3, 3, 3)),
        "transpose tiled": (layers.ConvTranspose(3, 2, (3, 2), stride=(2, 1), **tiled), (2, 3, 3, 5)),
        "relu": (layers.ReLU(), (2, 3, 4)),
        "sigmoid": (layers.Sigmoid(), (2, 3, 4)),
        "tanh": (layers.Tanh(), (2, 3, 4)),
        "max pool": (layers.MaxPool(2), (2, 2, 4, 6)),
        "max pool overlapping": (layers.MaxPool((3, 2), stride=(2, 1), padding=(1, 0)), (2, 2, 5, 4)),
        "max pool ceil": (layers.MaxPool(2, ceil=True), (2, 2, 5)),
        "global max pool": (layers.GlobalMaxPool(), (2, 3, 4, 3)),
        "upsample nearest": (layers.Upsample((2, 3)), (2, 2, 3, 2)),
        "upsample linear": (layers.Upsample(2, mode="linear"), (1, 2, 3, 2, 2)),
        "flatten": (layers.Flatten(), (2, 3, 4)),
        "sequential": (
            layers.Sequential([layers.Conv(1, 2, (3,), dtype="float64"), layers.ReLU(), layers.Flatten()]),
            (2, 1, 6),
        ),
    }


@pytest.mark.parametrize("name", cases())
def test_backward_is_the_gradient(name: str) -> None:
    layer, shape = cases()[name]
    for parameter in layer.parameters.values():
        parameter.value[...] = RNG.standard_normal(parameter.value.shape)
    x = RNG.standard_normal(shape)
    cotangent = RNG.standard_normal(layer.forward(x).shape)

    def loss(_: np.ndarray) -> float:
        return float(np.vdot(layer.forward(x), cotangent))

    layer.forward(x)
    gradient = layer.backward(cotangent)
    assert gradient.shape == x.shape
    np.testing.assert_allclose(gradient, finite_differences(loss, x, STEP), atol=CLOSE)
    for parameter in layer.parameters.values():
        assert parameter.gradient is not None
        expected = finite_differences(loss, parameter.value, STEP)
        np.testing.assert_allclose(parameter.gradient, expected, atol=CLOSE)


@pytest.mark.parametrize("name", cases())
def test_backward_needs_a_forward_pass(name: str) -> None:
    layer, _ = cases()[name]
    with pytest.raises(RuntimeError, match="forward pass first"):
        layer.backward(np.zeros((1, 1)))


@pytest.mark.parametrize("dtype", ["float16", BFLOAT16, "float32", "float64", "complex128"], ids=str)
def test_relu_passes_a_gradient_or_plus_zero(dtype: Any) -> None:
    """Bit for bit: where nothing passes, an infinity, a NaN or a negative number leaves no trace."""
    gradient, x = np.array([[1, -2.5, -0.0, np.inf, -np.inf, np.nan]] * 3), np.array([[1], [0], [-1]])
    layer = layers.ReLU()
    layer.forward(np.broadcast_to(x, gradient.shape).astype(dtype))
    found = layer.backward(gradient.astype(dtype))
    assert found.dtype == dtype
    assert found[0].tobytes() == gradient[0].astype(dtype).tobytes()
    assert not np.frombuffer(found[1:].tobytes(), "u1").any()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_results_have_channels_innermost_whatever_the_order_of_the_data(rank: int) -> None:
    """So engines read them fastest; of data with one channel no order can be told. The numbers stay the same."""
    x = np.random.default_rng(0).standard_normal((2, 1, *(5,) * rank)).astype(np.float32)
    first, second = layers.Conv(1, 3, (3,) * rank, padding=1), layers.ConvTranspose(3, 4, (3,) * rank, padding=1)
    made = first.forward(x)
    again = second.forward(np.ascontiguousarray(made))
    gradient = second.backward(np.ascontiguousarray(again))
    for found in (made, again, gradient):
        assert np.moveaxis(found, 1, -1).flags.c_contiguous
        assert not found.flags.c_contiguous
    np.testing.assert_array_equal(second.forward(made), again)


def test_conv_is_torch_conv() -> None:
    layer = layers.Conv(4, 6, (3, 3), stride=2, padding=1, groups=2, dtype="float64")
    weight, bias = layer.parameters["weight"], layer.parameters["bias"]
    bias.value[...] = RNG.standard_normal(6)
    x = RNG.standard_normal((2, 4, 7, 8))
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, weight.value, bias.value)]
    expected = functional.conv2d(*tensors, stride=2, padding=1, groups=2)
    np.testing.assert_allclose(layer.forward(x), expected.detach().numpy(), rtol=1e-12, atol=1e-12)
    cotangent = RNG.standard_normal(expected.shape)
    expected.backward(torch.tensor(cotangent))
    found = [layer.backward(cotangent), weight.gradient, bias.gradient]
    for one, tensor in zip(found, tensors, strict=True):
        assert one is not None
        assert tensor.grad is not None
        np.testing.assert_allclose(one, tensor.grad.numpy(), rtol=1e-12, atol=1e-12)


def test_a_local_bias_belongs_to_its_position() -> None:
    layer = layers.Conv(1, 1, (2,), bank="local", visible_size=(4,), bias="bank", dtype="float64")
    layer.parameters["weight"].value[...] = 0
    layer.parameters["bias"].value[:, 0] = [1, 2, 3]
    np.testing.assert_array_equal(layer.forward(np.zeros((2, 1, 4))), [[[1, 2, 3]]] * 2)


def test_a_tiled_transpose_bias_repeats_with_stride_times_period() -> None:
    layer = layers.ConvTranspose(1, 1, (1,), stride=2, bank=2, visible_size=(9,), bias="bank", dtype="float64")
    layer.parameters["weight"].value[...] = 0
    layer.parameters["bias"].value[:, 0] = [1, 2, 3, 4]
    np.testing.assert_array_equal(layer.forward(np.zeros((1, 1, 5)))[0, 0], [1, 2, 3, 4, 1, 2, 3, 4, 1])


def test_shared_parameters_add_their_gradients() -> None:
    first = layers.Affine(2, 2, bias=None, dtype="float64")
    second = layers.Affine(2, 2, bias=None, dtype="float64", weight=first.weight)
    x, y = RNG.standard_normal((3, 2)), np.array([0, 1, 1])
    layers.backprop([first, second], x, y)
    found = first.weight.gradient
    assert found is second.weight.gradient

    def loss(_: np.ndarray) -> float:
        return layers.softmax_cross_entropy(second.forward(first.forward(x)), y)[0]

    assert found is not None
    np.testing.assert_allclose(found, finite_differences(loss, first.weight.value, STEP), atol=CLOSE)


def tied() -> tuple[layers.Sequential, layers.Parameter]:
    first = layers.Conv(1, 2, (3,), bias=None, dtype="float64")
    second = layers.ConvTranspose(2, 1, (3,), bias=None, dtype="float64", weight=first.weight)
    return layers.Sequential([first, second]), first.weight


def test_a_shared_parameter_is_in_a_sequential_once() -> None:
    model, weight = tied()
    assert list(model.parameters) == ["0.weight"]
    outer = layers.Sequential([model, layers.ConvTranspose(2, 1, (3,), dtype="float64", weight=weight)])
    assert list(outer.parameters) == ["0.0.weight", "1.bias"]
    # What is equal but not shared stays.
    two = layers.Sequential([layers.Affine(2, 2, bias=None), layers.Affine(2, 2, bias=None)])
    assert list(two.parameters) == ["0.weight", "1.weight"]


@pytest.mark.parametrize("optimizer", [lambda p: layers.SGD(p, 0.25), lambda p: layers.Adam(p, 0.25)])
def test_a_shared_parameter_moves_once(optimizer: Callable[[Any], Any]) -> None:
    _, weight = tied()
    alone = layers.Parameter(weight.value.copy())
    gradient = RNG.standard_normal(weight.value.shape)
    for parameters in ({"a": weight, "b": weight}, {"a": alone}):
        next(iter(parameters.values())).gradient = gradient
        one = optimizer(parameters)
        one.step()
        assert list(one.parameters) == ["a"]
    np.testing.assert_array_equal(weight.value, alone.value)


def test_a_bank_is_for_one_size() -> None:
    layer = layers.Conv(1, 2, (3,), bank=2, visible_size=(6,))
    assert layer.forward(np.zeros((2, 1, 6), np.float32)).shape == (2, 2, 4)
    with pytest.raises(ValueError, match=r"^x of shape \(2, 1, 8\): expected \(examples, 1, 6\)"):
        layer.forward(np.zeros((2, 1, 8), np.float32))
    # Without a bank any size will do.
    assert layers.Conv(1, 2, (3,), visible_size=(6,)).forward(np.zeros((2, 1, 8), np.float32)).shape == (2, 2, 6)


@pytest.mark.parametrize("rows", [0, 1, 4, 5])
def test_in_batches_is_forward(rows: int) -> None:
    model = layers.Sequential([layers.Conv(1, 2, (3,), dtype="float64"), layers.ReLU(), layers.Flatten()])
    x = RNG.standard_normal((rows, 1, 6))
    found = layers.in_batches(model, x, size=2)
    assert found.shape == (rows, 8)
    np.testing.assert_allclose(found, model.forward(x), rtol=1e-13, atol=1e-13)


LOSSES = [layers.mean_squared_error, layers.softmax_cross_entropy, layers.hinge, layers.binary_cross_entropy]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex128"])
def test_predictions_are_real_floating_point(loss: Any, dtype: str) -> None:
    target = np.zeros(2, int) if loss in (layers.softmax_cross_entropy, layers.hinge) else np.zeros((2, 3))
    with pytest.raises(TypeError, match=f"^prediction of dtype {dtype}: expected real floating-point numbers$"):
        loss(np.zeros((2, 3), dtype), target)


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_need_an_example(loss: Any) -> None:
    target = np.zeros(0, int) if loss in (layers.softmax_cross_entropy, layers.hinge) else np.zeros((0, 3))
    with pytest.raises(ValueError, match=r"^prediction of shape \(0, 3\): expected at least one example"):
        loss(np.zeros((0, 3)), target)


def test_a_second_backprop_forgets_the_first() -> None:
    layer = layers.Affine(2, 2, dtype="float64")
    x, y = RNG.standard_normal((3, 2)), np.array([0, 1, 1])
    layers.backprop([layer], x, y)
    once = layer.weight.gradient
    layers.backprop([layer], x, y)
    np.testing.assert_array_equal(once, layer.weight.gradient)


@pytest.mark.parametrize(("mode", "theirs"), [("nearest", "nearest"), ("linear", "bilinear")])
def test_upsample_is_torch_interpolate(mode: Any, theirs: str) -> None:
    x = RNG.standard_normal((2, 3, 4, 5))
    options = {} if theirs == "nearest" else {"align_corners": False}
    expected = functional.interpolate(torch.tensor(x), scale_factor=(3, 2), mode=theirs, **options)
    np.testing.assert_allclose(layers.Upsample((3, 2), mode=mode).forward(x), expected.numpy(), rtol=1e-13, atol=1e-13)


TARGETS = np.array([1, 0, 3, 1, 2])
SCORES = RNG.standard_normal((5, 4))
ENDS = np.array([0.0, 0.0, 1.0])
PROBABILITIES, BITS = RNG.random((5, 4)), RNG.random((5, 4))


@pytest.mark.parametrize(
    ("loss", "prediction", "target", "theirs"),
    [
        (layers.mean_squared_error, SCORES, BITS, functional.mse_loss),
        (layers.softmax_cross_entropy, SCORES, TARGETS, functional.cross_entropy),
        (layers.hinge, SCORES, TARGETS, lambda s, y: 4 * functional.multi_margin_loss(s, y)),  # a mean over 4 classes
        (layers.binary_cross_entropy, PROBABILITIES, BITS, functional.binary_cross_entropy),
        (layers.binary_cross_entropy, np.array([0.0, 1.0, 0.5]), ENDS, functional.binary_cross_entropy),
    ],
    ids=["mean squared error", "softmax cross-entropy", "hinge", "binary cross-entropy", "binary at the ends"],
)  # fmt: skip
def test_losses_are_torchs(loss: Any, prediction: np.ndarray, target: np.ndarray, theirs: Callable[..., Any]) -> None:
    tensor = torch.tensor(prediction, requires_grad=True)
    expected = theirs(tensor, torch.tensor(target))
    expected.backward()
    value, gradient = loss(prediction, target)
    assert tensor.grad is not None
    assert value == pytest.approx(expected.item(), rel=1e-13)
    # The cut-off 1e-12 is a float32 constant there, which is right to 6e-8.
    close = 6e-8 if target is ENDS else 1e-12
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=close, atol=1e-15)


def test_softmax_cross_entropy_survives_large_scores() -> None:
    loss, gradient = layers.softmax_cross_entropy(np.array([[1e4, -1e4]]), np.array([1]))
    assert loss == 2e4
    np.testing.assert_array_equal(gradient, [[1, -1]])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda p: layers.SGD(p, 0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (lambda p: layers.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (lambda p: layers.Adam(p, 0.01), lambda p: torch.optim.Adam(p, 0.01)),
        (lambda p: layers.Adam(p, 0.01, betas=(0.5, 0.9)), lambda p: torch.optim.Adam(p, 0.01, betas=(0.5, 0.9))),
    ],
    ids=["sgd", "momentum", "adam", "adam with other betas"],
)
def test_optimisers_are_torchs(ours: Any, theirs: Any) -> None:
    start = RNG.standard_normal((3, 4))
    parameter, tensor = layers.Parameter(start.copy()), torch.tensor(start, requires_grad=True)
    one, other = ours({"w": parameter}), theirs([tensor])
    for _ in range(20):
        gradient = RNG.standard_normal((3, 4))
        parameter.gradient, tensor.grad = gradient, torch.tensor(gradient)
        one.step()
        other.step()
    np.testing.assert_allclose(parameter.value, tensor.detach().numpy(), rtol=1e-12, atol=1e-14)


def test_an_optimiser_continues_from_its_state() -> None:
    def steps(optimizer: Any, parameter: layers.Parameter, gradients: np.ndarray) -> None:
        for gradient in gradients:
            parameter.gradient = gradient
            optimizer.step()

    gradients = RNG.standard_normal((6, 3))
    whole = layers.Parameter(np.ones(3))
    steps(layers.Adam({"w": whole}, 0.1), whole, gradients)
    half = layers.Parameter(np.ones(3))
    first = layers.Adam({"w": half}, 0.1)
    steps(first, half, gradients[:3])
    second = layers.Adam({"w": half}, 0.1)
    second.restore({name: array.copy() for name, array in first.state.items()})
    steps(second, half, gradients[3:])
    np.testing.assert_array_equal(whole.value, half.value)


def test_initial_values_have_the_variance_they_are_named_for() -> None:
    he = layers.Conv(16, 32, (5, 5), init="he", seed=1).weight.value
    glorot = layers.Conv(16, 32, (5, 5), init="glorot", seed=1).weight.value
    # The sample variance of n values is off by a few times sqrt(2 / n).
    wide = 5 * np.sqrt(2 / he.size)
    assert he.var() * 16 * 25 / 2 == pytest.approx(1, abs=wide)
    assert glorot.var() * (16 + 32) * 25 / 2 == pytest.approx(1, abs=wide)
    assert abs(glorot).max() <= np.sqrt(6 / ((16 + 32) * 25))
    np.testing.assert_array_equal(he, layers.Conv(16, 32, (5, 5), init="he", seed=1).weight.value)
    assert not np.array_equal(he, layers.Conv(16, 32, (5, 5), init="he", seed=2).weight.value)


def test_weights_lie_with_hidden_channels_innermost() -> None:
    shared = layers.Conv(3, 4, (5, 2)).weight.value
    assert np.argsort(shared.strides)[0] == 0
    assert shared.transpose(2, 3, 1, 0).flags.c_contiguous
    local = layers.Conv(3, 4, (5, 2), bank="local", visible_size=(7, 7)).weight.value
    assert local.transpose(0, 1, 4, 5, 3, 2).flags.c_contiguous


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: layers.Conv(1, 2, 3), ["kernel_size=3", "one int per axis"]),  # type: ignore[arg-type]
        (lambda: layers.Conv(0, 2, (3,)), ["visible_channels=0", "at least 1"]),
        (lambda: layers.Conv(1, 2, (3,), bank="local"), ["bank='local'", "visible_size"]),
        (lambda: layers.Conv(1, 2, (3,), bank=9, visible_size=(5,)), ["bank=9", "hidden size 3"]),
        (lambda: layers.Conv(3, 4, (3,), groups=2), ["groups=2", "3 visible channels"]),
        (lambda: layers.Conv(1, 2, (3,), bias="each"), ["bias='each'", '"channel"']),  # type: ignore[arg-type]
        (lambda: layers.Conv(1, 2, (3,), init="zeros"), ["init='zeros'", '"he"']),  # type: ignore[arg-type]
        (lambda: layers.Conv(1, 2, (3,), weight=layers.Parameter(np.zeros((1, 1, 3)))), ["(1, 1, 3)", "(2, 1, 3)"]),
        (lambda: layers.Upsample(2, mode="cubic"), ["mode='cubic'", '"linear"']),  # type: ignore[arg-type]
        (lambda: layers.Conv(1, 2, (3,), padding=-1), ["padding=-1", "at least 0"]),
        (lambda: layers.Conv(1, 2, (3,), padding="some"), ["padding='some'", '"same"']),
        (lambda: layers.Conv(1, 2, (3,), stride=0), ["stride=0", "at least 1"]),
        (lambda: layers.Conv(1, 2, (3,), dilation=(1, 1)), ["dilation=(1, 1)", "got 2"]),
        (lambda: layers.Conv(1, 2, (3,), border="no"), ["border='no'", "circular"]),
        (lambda: layers.ConvTranspose(2, 1, (3,), stride=1.5), ["stride=1.5", "int", "float"]),
        (lambda: layers.Conv(1, 2, (3,), dtype="int32"), ["dtype='int32'", "float32"]),
        (lambda: layers.Affine(1, 2, dtype="foo"), ["dtype='foo'", "float32"]),
        (lambda: layers.Affine(1, 2, weight=layers.Parameter(np.zeros((2, 1), int))), ["weight", "int64", "float32"]),
        (lambda: layers.MaxPool("a"), ["window='a'", "int"]),
        (lambda: layers.MaxPool((2, 0)), ["window=(2, 0)", "at least 1", "axis 1"]),
        (lambda: layers.MaxPool(2, stride=1.5), ["stride=1.5", "int"]),
        (lambda: layers.MaxPool(2, dilation=0), ["dilation=0", "at least 1"]),
        (lambda: layers.MaxPool(2, padding=(0, -1)), ["padding=(0, -1)", "at least 0"]),
        (lambda: layers.Upsample(0), ["factor=0", "at least 1"]),
        (lambda: layers.Upsample((2, 1.5)), ["factor=(2, 1.5)", "float", "axis 1"]),  # type: ignore[arg-type]
        (lambda: layers.Adam({}, epsilon=-1), ["epsilon=-1", "at least 0"]),
        (lambda: layers.Adam({}, epsilon=np.nan), ["epsilon=nan", "at least 0"]),
        (lambda: layers.SGD({}, rate=0), ["rate=0", "positive"]),
        (lambda: layers.SGD({}, rate=1, momentum=1), ["momentum=1", "less than 1"]),
        (lambda: layers.Adam({}, betas=(0.9, 1)), ["betas=(0.9, 1)"]),
        (lambda: layers.softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 3])), ["target", "0 to 2"]),
        (lambda: layers.softmax_cross_entropy(np.zeros((2, 3)), np.array([0.0, 1.0])), ["float64", "integers"]),
        (lambda: layers.hinge(np.zeros((2, 3)), np.array([0])), ["(1,)", "2 examples"]),
        (lambda: layers.hinge(np.zeros(3), np.array([0])), ["(3,)", "(examples, classes)"]),
        (lambda: layers.mean_squared_error(np.zeros(3), np.zeros(4)), ["(4,)", "(3,)"]),
    ],
)
def test_mistakes_are_told_in_one_line(make: Callable[[], object], words: list[str]) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_layers_take_what_the_functions_take() -> None:
    v = RNG.standard_normal((1, 2, 6, 4))
    expected = layers.MaxPool(2).forward(v)
    np.testing.assert_array_equal(layers.MaxPool(np.array(2), stride=np.array([2, 2])).forward(v), expected)
    np.testing.assert_array_equal(layers.Upsample(np.array(2)).forward(v), layers.Upsample(2).forward(v))  # type: ignore[arg-type]
    assert layers.Conv(2, 2, (3,), dtype="bfloat16").weight.value.dtype.name == "bfloat16"
