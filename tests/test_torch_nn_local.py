"""Locally connected and tiled modules against the NumPy layers, their waiting for a first input, and Keras' weights."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
from nn_bound import allowed
from torch.nn.parameter import UninitializedParameter

from triconv import layers
from triconv.form import weight_order
from triconv.torch import nn
from triconv.torch.layout import order_of

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "groups": 2},
    {"padding": "same", "padding_mode": "circular"},
    {"padding": ((1, 0), (0, 2)), "bias": "channel"},
    {"bias": False, "stride": (1, 3)},
]
BIAS = {True: "bank", False: None, "channel": "channel"}


def numpy_layer(cls: Any, layer: Any, bank: Any, size: Any, options: dict[str, Any]) -> Any:
    """The NumPy layer of the same values."""
    named = {key: value for key, value in options.items() if key not in ("bias", "padding_mode")}
    border = {"zeros": "zero", "circular": "circular"}[options.get("padding_mode", "zeros")]
    bias = BIAS[options.get("bias", True)]
    made = cls(4, 6, (3, 2), bank=bank, visible_size=size, border=border, bias=bias, dtype="float64", **named)
    for name, parameter in layer.named_parameters():
        assert made.parameters[name].value.shape == parameter.shape
        made.parameters[name].value[...] = parameter.detach().numpy()
    assert len(made.parameters) == len(list(layer.parameters()))
    return made


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_locally_connected_as_numpys(options: dict[str, Any]) -> None:
    layer = nn.LocallyConnected(4, 6, (3, 2), visible_size=(7, 8), dtype=torch.float64, **options)
    x = torch.randn(3, 4, 7, 8, dtype=torch.float64, requires_grad=True)
    theirs = numpy_layer(layers.Conv, layer, "local", (7, 8), options)
    y = layer(x)
    oracle.assert_close(y.detach(), theirs.forward(x.detach().numpy()), allowed(layer, x.detach()))
    cotangent = torch.randn(y.shape, dtype=torch.float64)
    found = torch.autograd.grad(y, [x, *layer.parameters()], cotangent)
    expected = [theirs.backward(cotangent.numpy()), *(one.gradient for one in theirs.parameters.values())]
    for one, two in zip(found, expected, strict=True):
        oracle.assert_close(one, two, oracle.bound(y.numel(), 64.0 * y.numel(), np.float64) * np.ones(two.shape))


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
def test_transpose_as_numpys(options: dict[str, Any]) -> None:
    layer = nn.LocallyConnectedTranspose(4, 6, (3, 2), visible_size=(9, 8), dtype=torch.float64, **options)
    y = torch.randn(3, 4, *layer.weight.shape[:2], dtype=torch.float64)
    theirs = numpy_layer(layers.ConvTranspose, layer, "local", (9, 8), options)
    oracle.assert_close(layer(y).detach(), theirs.forward(y.numpy()), allowed(layer, y))


@pytest.mark.parametrize("options", GEOMETRIES, ids=str)
@pytest.mark.parametrize("period", [1, 2, (3, 1)])
def test_tiled_as_numpys(period: Any, options: dict[str, Any]) -> None:
    layer = nn.Tiled(4, 6, (3, 2), period, dtype=torch.float64, **options)
    for size in ((7, 8), (9, 11)):
        x = torch.randn(3, 4, *size, dtype=torch.float64)
        theirs = numpy_layer(layers.Conv, layer, period, size, options)
        oracle.assert_close(layer(x).detach(), theirs.forward(x.numpy()), allowed(layer, x))


def test_tiled_transpose_bias() -> None:
    """A bank of biases over visible positions repeats with s·t."""
    options = {"stride": 2, "padding": 1}
    layer = nn.ConvTranspose(4, 6, (3, 2), bank=2, bias="bank", visible_size=(10, 11), dtype=torch.float64, **options)
    assert layer.bias.shape == (4, 4, 6)
    y = torch.randn(3, 4, 5, 6, dtype=torch.float64)
    theirs = numpy_layer(layers.ConvTranspose, layer, 2, (10, 11), options)
    oracle.assert_close(layer(y).detach(), theirs.forward(y.numpy()), allowed(layer, y))


def test_kernels_lie_as_engines_like() -> None:
    layer = nn.LocallyConnected(4, 6, (3, 2), visible_size=(7, 8))
    waiting = nn.LocallyConnected(4, 6, (3, 2))
    waiting(torch.zeros(1, 4, 7, 8))
    for one in (layer, waiting, deepcopy(layer), layer.double()):
        assert order_of(one.weight.shape, one.weight.stride()) == list(weight_order(2, True))


def test_initial_values_are_of_one_kernel() -> None:
    """The scale is that of one position's connections, not of the bank's."""
    torch.manual_seed(0)
    layer = nn.LocallyConnected(4, 6, (3, 2), visible_size=(7, 8))
    limit = 1 / (4 * 3 * 2) ** 0.5
    for parameter in layer.parameters():
        assert 0.95 * limit < parameter.abs().max() <= limit * (1 + 1e-6)


MAKE: dict[str, Any] = {
    "local": lambda **options: nn.LocallyConnected(4, 6, (3, 2), 2, **options),
    "transpose": lambda **options: nn.LocallyConnectedTranspose(4, 6, (3, 2), 2, **options),
}
SIZES = {"local": (7, 8), "transpose": (15, 16)}


@pytest.fixture(params=list(MAKE))
def kind(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.manual_seed(0)
    return request.param


def test_waits_for_the_first_input(kind: str) -> None:
    """As one that was told the size: same values from the same seed, same text, no hooks left."""
    layer = MAKE[kind]()
    assert all(isinstance(one, UninitializedParameter) for one in layer.parameters())
    text = repr(layer)
    x = torch.randn(2, 4, 7, 8)
    torch.manual_seed(1)
    y = layer(x[0])
    torch.manual_seed(1)
    told = MAKE[kind](visible_size=SIZES[kind])
    assert torch.equal(y, told(x[0]))
    assert torch.equal(layer(x), told(x))
    assert repr(layer) == repr(told) != text
    for one in (layer, told):
        assert not one._forward_pre_hooks
        assert not one._load_state_dict_pre_hooks
        assert not hasattr(one, "_initialize_hook")
    assert type(layer) is type(told)


@pytest.mark.parametrize("travel", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("first", [False, True], ids=["waiting", "made"])
def test_waiting_ones_travel(kind: str, travel: str, first: bool) -> None:
    layer = MAKE[kind]()
    x = torch.randn(2, 4, 7, 8)
    if first:
        layer(x)
    if travel == "deepcopy":
        copy = deepcopy(layer)
    elif travel == "pickle":
        copy = pickle.loads(pickle.dumps(layer))
    else:
        torch.save(layer, file := io.BytesIO())
        file.seek(0)
        copy = torch.load(file, weights_only=False)
    assert type(copy) is type(layer)
    torch.manual_seed(3)
    expected = layer(x)
    torch.manual_seed(3)
    assert torch.equal(copy(x), expected)


def test_waiting_ones_load(kind: str) -> None:
    told = MAKE[kind](visible_size=SIZES[kind])
    layer = MAKE[kind]()
    layer.load_state_dict(told.state_dict())
    x = torch.randn(2, 4, 7, 8)
    assert torch.equal(layer(x), told(x))
    wrong = MAKE[kind]()
    wrong.load_state_dict(told.state_dict())
    with pytest.raises(ValueError, match="as it was loaded: expected"):
        wrong(torch.randn(2, 4, 11, 8))
    assert torch.equal(wrong(x), told(x))
    part = MAKE[kind]()
    part.load_state_dict({"weight": told.weight}, strict=False)
    with pytest.raises(ValueError, match="and bias with it"):
        part(x)


def test_transpose_waits_for_the_output_size() -> None:
    for options, call, size in (
        ({}, {"output_size": (16, 16)}, (16, 16)),
        ({"output_padding": 1}, {}, (16, 17)),
        ({}, {}, (15, 16)),
    ):
        layer = MAKE["transpose"](**options)
        h = torch.randn(2, 4, 7, 8)
        assert layer(h, **call).shape[2:] == size
        assert (layer.visible_size, layer.output_padding) == (size, (0, 0))
        assert layer.bias.shape == (*size, 6)
        assert layer(h).shape[2:] == size


def test_other_sizes_are_refused(kind: str) -> None:
    layer = MAKE[kind](visible_size=SIZES[kind])
    with pytest.raises(ValueError, match=r"expected \(examples, channels, 7, 8\)|comes from visible size") as raised:
        layer(torch.zeros(1, 4, 9, 10))
    assert "\n" not in str(raised.value)


def test_data_parallel_takes_those_that_do_not_wait(kind: str) -> None:
    """torch.nn.DataParallel makes replicas this way."""
    with pytest.raises(RuntimeError, match="uninitialized"):
        MAKE[kind]()._replicate_for_data_parallel()
    assert MAKE[kind](visible_size=SIZES[kind])._replicate_for_data_parallel() is not None


def keras_loop(x: Any, kernel: Any, bias: Any, taps: Any, strides: Any, first: bool) -> Any:
    """What a layer of Keras 2 computes, position by position."""
    rank = len(taps)
    positions = x.shape[2:] if first else x.shape[1:-1]
    hidden = [(size - k) // s + 1 for size, k, s in zip(positions, taps, strides, strict=True)]
    out = np.zeros((len(x), *hidden, kernel.shape[2]))
    for number, c in enumerate(product(*map(range, hidden))):
        window = tuple(slice(s * at, s * at + k) for at, k, s in zip(c, taps, strides, strict=True))
        seen = x[(slice(None), slice(None), *window)] if first else x[(slice(None), *window)]
        out[(slice(None), *c)] = seen.reshape(len(x), -1) @ kernel[number] + (0 if bias is None else bias[c])
    return np.moveaxis(out, -1, 1) if first else np.moveaxis(out, -1, rank + 1)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize(
    ("size", "taps", "strides"), [((9,), (3,), (2,)), ((6, 7), (3, 2), (1, 2)), ((6, 7), (2, 2), (1, 1))], ids=str
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_keras_weights(data_format: Any, size: Any, taps: Any, strides: Any, with_bias: bool) -> None:
    rng = np.random.default_rng(0)
    hidden = [(x - k) // s + 1 for x, k, s in zip(size, taps, strides, strict=True)]
    kernel = rng.standard_normal((int(np.prod(hidden)), int(np.prod(taps)) * 4, 5))
    bias = rng.standard_normal((*hidden, 5)) if with_bias else None
    layer = nn.from_keras(kernel, bias, kernel_size=taps, visible_size=size, strides=strides, data_format=data_format)
    first = data_format == "channels_first"
    x = rng.standard_normal((3, 4, *size) if first else (3, *size, 4))
    expected = keras_loop(x, kernel, bias, taps, strides, first)
    given = torch.from_numpy(x) if first else torch.from_numpy(x).movedim(-1, 1)
    actual = layer(given)
    bound = allowed(layer, given)
    if not first:
        actual, bound = actual.movedim(1, -1), np.moveaxis(bound, 1, -1)
    oracle.assert_close(actual.detach(), expected, bound)
    assert (layer.bias is not None) == with_bias


def test_keras_errors() -> None:
    with pytest.raises(ValueError, match=r"kernel of shape \(30, 12, 8, 1\): expected \(30, 3·channels, filters\)"):
        nn.from_keras(np.zeros((30, 12, 8, 1)), kernel_size=3, visible_size=32)
    with pytest.raises(ValueError, match=r"kernel of shape \(30, 13, 8\)"):
        nn.from_keras(np.zeros((30, 13, 8)), kernel_size=3, visible_size=32)
    with pytest.raises(ValueError, match=r"bias of shape \(8,\): expected \(30, 8\)"):
        nn.from_keras(np.zeros((30, 12, 8)), np.zeros(8), kernel_size=3, visible_size=32)
    with pytest.raises(TypeError, match=r"^kernel of dtype int64: expected float32, .*; cast it"):
        nn.from_keras(np.zeros((30, 12, 8), int), kernel_size=3, visible_size=32)
    with pytest.raises(TypeError, match=r"^bias of dtype int64: expected float32, .*; cast it"):
        nn.from_keras(np.zeros((30, 12, 8)), np.zeros((30, 8), int), kernel_size=3, visible_size=32)
    with pytest.raises(TypeError, match=r"^bias of dtype complex128: expected a real one, as the kernel is$"):
        nn.from_keras(np.zeros((30, 12, 8)), np.zeros((30, 8), complex), kernel_size=3, visible_size=32)
    with pytest.raises(ValueError, match="data_format='first'"):
        nn.from_keras(np.zeros((30, 12, 8)), kernel_size=3, visible_size=32, data_format="first")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", ">f4", "complex64"])
def test_keras_dtypes(dtype: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    kernel = np.random.default_rng(0).standard_normal((30, 12, 8)).astype(kind)
    layer = nn.from_keras(kernel, kernel[:, 0], kernel_size=3, visible_size=32)
    assert layer.weight.dtype is layer.bias.dtype is getattr(torch, kind.name)
    wider = np.result_type(kind.newbyteorder("="), np.float32)
    np.testing.assert_array_equal(layer.bias.to(getattr(torch, wider.name)).detach(), kernel[:, 0].astype(wider))


def test_a_first_input_that_is_too_small_leaves_the_layer_waiting() -> None:
    layer = nn.LocallyConnected(3, 4, (3, 3))
    with pytest.raises(ValueError, match="size 2"):
        layer(torch.randn(2, 3, 2, 2))
    assert layer(torch.randn(2, 3, 6, 6)).shape == (2, 4, 4, 4)


@pytest.mark.parametrize("period", [(2,), 0, "local"])
def test_a_wrong_period_is_called_so(period: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"^period="):
        nn.Tiled(3, 4, (3, 3), period)


@pytest.mark.parametrize("make", [nn.ConvTranspose2d, nn.LocallyConnectedTranspose])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((11, 10), r"\(11, 10\): visible size 11: hidden size 4 comes from visible size 9 to 10 on axis 0"),
        ((2, 4, 9, 8), r"\(9, 8\): visible size 8: hidden size 4 comes from visible size 9 to 10 on axis 1"),
        ((9, 0), r"\(9, 0\): expected an int of at least 1, or 2 of them, got 0 on axis 1"),
        ((9.0, 9), r"\(9\.0, 9\): expected an int of at least 1, or 2 of them, got float on axis 0"),
    ],
)
@pytest.mark.parametrize("gradient", [True, False])
def test_an_output_size_out_of_range_is_called_so(
    make: Callable[..., nn.ConvTranspose], size: Any, message: str, gradient: bool
) -> None:
    """And a visible_size is called by its own name."""
    x = torch.ones(2, 6, 4, 4)
    with torch.set_grad_enabled(gradient), pytest.raises((ValueError, TypeError), match=f"^output_size={message}$"):
        make(6, 4, (3, 3), 2)(x, output_size=size)
    with torch.set_grad_enabled(gradient), pytest.raises(ValueError, match=r"^visible_size=\(12, 9\): .*on axis 0$"):
        nn.ConvTranspose2d(6, 4, (3, 3), 2, visible_size=(12, 9))(x)


@pytest.mark.parametrize("size", [(10,), (1, 2, 3, 10, 10)])
def test_a_wrong_number_of_output_sizes_is_called_so(size: Any) -> None:
    for layer in (nn.ConvTranspose2d(6, 4, 3, 2), nn.LocallyConnectedTranspose(6, 4, (3, 3), 2)):
        with pytest.raises(ValueError, match=r"^output_size=.*: expected 2 sizes, one per axis, got \d$"):
            layer(torch.ones(2, 6, 4, 4), output_size=size)
