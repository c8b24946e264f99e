"""What follows a sum: done while results are in registers where they lie well, and everywhere the same."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import triconv
from bench.after import candidates, main
from triconv.after import After, pitch
from triconv.benchmark.workload import Workload
from triconv.form import Role
from triconv.kernels import contract, transform
from triconv.kernels.finish import Finish
from triconv.layers import Conv, ConvTranspose, Flatten, Layer, ReLU, Sequential
from triconv.ops import followed

Array = NDArray[Any]

CASES: dict[str, tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "dense": ("conv", (2, 16, 9, 9), (40, 16, 3, 3), {"padding": 1}),
    "few channels": ("conv", (3, 2, 9, 9), (3, 2, 3, 3), {}),
    "odd channels, strided": ("conv", (2, 17, 9, 8), (23, 17, 3, 2), {"stride": 2, "padding": 1}),
    "groups": ("conv", (2, 16, 9, 9), (32, 4, 3, 3), {"groups": 4, "padding": 1}),
    "depthwise": ("conv", (2, 24, 9, 9), (24, 1, 3, 3), {"groups": 24, "padding": 1}),
    "circular": ("conv", (2, 16, 9, 9), (32, 16, 3, 3), {"padding": 1, "border": "circular"}),
    "local": ("conv", (5, 16, 4, 4), (2, 2, 32, 16, 3, 3), {}),
    "local, positions and channels one vector": ("conv", (1, 24, 5), (5, 24, 1, 1), {"groups": 24}),
    "one axis, large": ("conv", (2, 16, 70), (32, 16, 17), {"padding": 8}),
    "no axes": ("conv", (7, 16), (40, 16), {}),
    "three axes": ("conv", (2, 8, 5, 5, 5), (16, 8, 3, 3, 3), {"padding": 1}),
    "transposed": ("conv_transpose", (2, 16, 9, 9), (32, 16, 3, 3), {"padding": 1}),
    "transposed, strided": ("conv_transpose", (2, 16, 10, 10), (32, 16, 4, 4), {"stride": 2, "padding": 1}),
    "transposed, strided, odd": ("conv_transpose", (2, 20, 9, 9), (24, 20, 4, 4), {"stride": 2, "padding": 2}),
    "transposed, positions without taps": ("conv_transpose", (2, 16, 9, 9), (32, 16, 1, 1), {"stride": 2}),
    "transposed, reflect": ("conv_transpose", (2, 16, 9, 9), (32, 16, 3, 3), {"padding": 1, "border": "reflect"}),
    "transposed, depthwise": ("conv_transpose", (2, 24, 9, 9), (24, 1, 3, 3), {"groups": 24, "padding": 1}),
    "transposed, summed over visible": ("conv_transpose", (2, 3, 9, 9), (32, 3, 3, 3), {}),
}
ENGINES = ("direct", "winograd", "fft", "im2row", "matrix")
STEPS = [steps for steps in product((False, True), repeat=3) if any(steps)]


def lying(array: Array, last: bool) -> Array:
    """The same numbers, channels innermost in memory or not."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1) if last else array.copy()


def made(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: str, steps: tuple[bool, bool, bool], last: bool
) -> After:
    bias, positive, where = steps
    return After(
        rng.standard_normal(shape[1]).astype(dtype) if bias else None,
        positive,
        lying(rng.standard_normal(shape).astype(dtype), last) if where else None,
    )


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", CASES)
def test_it_is_what_numpy_does_afterwards(name: str, engine: str, last: bool) -> None:
    operation, visible, weight, options = CASES[name]
    for dtype in ("float32", "float64"):
        try:
            plan = triconv.explain(operation, visible, weight, engine=engine, dtype=dtype, **options)
        except ValueError as error:
            pytest.skip(str(error))
        rng, shape = np.random.default_rng(0), plan.shape(plan.problem.produces)
        a, b = (rng.standard_normal(plan.shape(role)).astype(dtype) for role in plan.problem.operands)
        a, out, expected = lying(a, last), *(lying(np.empty(shape, dtype), last) for _ in range(2))
        for steps in STEPS:
            after = made(rng, shape, dtype, steps, last)
            out[...] = expected[...] = np.nan
            plan.built(a, b, out, None, after)
            plan.built(a, b, expected)
            after.apply(expected)
            np.testing.assert_array_equal(out, expected)


def test_it_is_done_in_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of results that lie well nothing is touched again; bits are the same for any number of threads."""
    monkeypatch.setattr(After, "apply", lambda *_: pytest.fail("a second pass over the result"))
    rng = np.random.default_rng(1)
    for name in ("dense", "groups", "depthwise", "odd channels, strided", "transposed", "transposed, strided"):
        operation, visible, weight, options = CASES[name]
        for engine in ("direct", "winograd"):
            if (engine, "depthwise" in name) == ("winograd", True):
                continue
            plan = triconv.explain(operation, visible, weight, engine=engine, dtype="float32", **options)
            shape = plan.shape(plan.problem.produces)
            a, b = (
                lying(rng.standard_normal(plan.shape(r), np.float32), r is not Role.WEIGHT)
                for r in plan.problem.operands
            )
            after, results = made(rng, shape, "float32", (True, True, True), True), []
            for threads in (1, 2, 3):
                out = lying(np.empty(shape, np.float32), True)
                with triconv.threads(threads):
                    plan.built(a, b, out, None, after)
                results.append(out)
            assert all((one == results[0]).all() for one in results)


def test_infinities_and_nan() -> None:
    """An infinite sum is seen before it is made positive; NaN stays NaN, and is zero where it is not kept."""
    plan = triconv.explain("conv", (1, 16, 12, 12), (16, 16, 3, 3), padding=1, engine="winograd", dtype="float32")
    rng = np.random.default_rng(2)
    a, b = (rng.standard_normal(plan.shape(role)).astype(np.float32) for role in plan.problem.operands)
    a[0, 0, 0, 0], a[0, 1, 6, 6], a[0, 2, 11, 11] = -np.inf, np.nan, np.inf
    for steps in STEPS:
        after = made(rng, plan.shape(Role.HIDDEN), "float32", steps, True)
        out, expected = (lying(np.empty(plan.shape(Role.HIDDEN), np.float32), True) for _ in range(2))
        plan.built(lying(a, True), b, out, None, after)
        triconv.explain("conv", a.shape, b.shape, padding=1, engine="direct", dtype="float32").built(a, b, expected)
        after.apply(expected)
        np.testing.assert_array_equal(out, expected)


def test_what_kernels_cannot_do_is_done_afterwards() -> None:
    """Another dtype or memory order of what is read besides."""
    plan = triconv.explain("conv", (2, 16, 9, 9), (32, 16, 3, 3), engine="direct", dtype="float32")
    rng, shape = np.random.default_rng(3), plan.shape(Role.HIDDEN)
    a, b = (rng.standard_normal(plan.shape(role)).astype(np.float32) for role in plan.problem.operands)
    for after in (
        After(bias=rng.standard_normal(32)),
        After(bias=rng.standard_normal(64).astype(np.float32)[::2]),
        After(where=rng.standard_normal(shape).astype(np.float32)),
        After(where=lying(rng.standard_normal(shape) > 0, True)),
    ):
        out, expected = (lying(np.empty(shape, np.float32), True) for _ in range(2))
        plan.built(lying(a, True), b, out, None, after)
        plan.built(lying(a, True), b, expected)
        after.apply(expected)
        np.testing.assert_array_equal(out, expected)


def test_the_benchmark_compares_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    workload = Workload("small", (2, 16, 5, 5), (32, 16, 3, 3), {"padding": 1})
    for _, calls in candidates(workload):
        np.testing.assert_array_equal(calls["afterwards"](), calls["in one pass"]())
    assert main(["--only", "batch 64", "--rounds", "1"]) == 0
    assert capsys.readouterr().out.count("3×3 32→64 @8, batch 64") == 2


@pytest.mark.parametrize("bad", [After(bias=np.zeros(5)), After(where=np.zeros((1, 1, 3)))])
def test_shapes_are_checked(bad: After) -> None:
    with pytest.raises(ValueError, match=r"(bias|where) of shape .*: expected"):
        followed("conv", np.zeros((2, 1, 4)), np.zeros((3, 1, 2)), bad)
    with pytest.raises(ValueError, match="operation='conv_weight': expected conv or conv_transpose"):
        followed("conv_weight", np.zeros((2, 1, 4)), np.zeros((3, 1, 2)), After())


def stack(rng: np.random.Generator) -> Sequential:
    """Every neighbourhood of a positive part: in stacks within stacks, twice, before what is no convolution."""
    inner = Sequential([ReLU(), Conv(16, 16, (3, 3), padding="same", seed=rng), ReLU(), ReLU()])
    tiled = Conv(16, 16, (3, 3), padding="same", bank=(2, 2), visible_size=(8, 8), bias="bank", seed=rng)
    up = ConvTranspose(16, 3, (3, 3), padding=1, seed=rng)
    return Sequential(
        [ReLU(), Conv(3, 16, (3, 3), padding="same", seed=rng), inner, tiled, ReLU(), up, ReLU(), Flatten()]
    )


def test_layers_do_it_in_their_own_pass_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(4)
    model = stack(rng)
    for parameter in model.parameters.values():
        parameter.value += 0.1 * rng.standard_normal(parameter.value.shape).astype(np.float32)
    x = lying(rng.standard_normal((2, 3, 8, 8)).astype(np.float32), True)
    g = rng.standard_normal((2, 3 * 64)).astype(np.float32)

    def run() -> list[Any]:
        for parameter in model.parameters.values():
            parameter.gradient = None
        return [model.forward(x), model.backward(g), *(one.gradient for one in model.parameters.values())]

    asked: list[tuple[bool, bool, bool]] = []
    real = After.__init__
    monkeypatch.setattr(After, "__init__", lambda self, *a, **k: real(self, *a, **k) or asked.append(self.steps))
    together = run()
    assert {(True, True, False), (False, False, True)} <= set(asked)
    for layer in model.leaves:
        layer.forward = partial(layer.forward)  # type: ignore[method-assign]
    for one, other in zip(together, run(), strict=True):
        np.testing.assert_array_equal(one, other)


class Residual(Sequential):
    """A user's stack with a shortcut."""

    def forward(self, x: Array) -> Array:
        return x + super().forward(x)

    def backward(self, gradient: Array) -> Array:
        return gradient + super().backward(gradient)


class Guided(ReLU):
    """A user's way back."""

    def backward(self, gradient: Array) -> Array:
        return super().backward(np.maximum(gradient, 0))


class Leaky(ReLU):
    """A user's way there and back."""

    def forward(self, x: Array) -> Array:
        return super().forward(x) + 0.1 * np.minimum(x, 0)


class Doubled(Conv):
    """A user's convolution, whose passes have the arguments that layers have."""

    def forward(self, x: Array) -> Array:  # type: ignore[override]
        return 2 * super().forward(x)

    def backward(self, gradient: Array) -> Array:  # type: ignore[override]
        return super().backward(2 * gradient)


class Halved(Layer):
    """A user's layer that has nothing to remember."""

    def forward(self, x: Array) -> Array:
        return x / 2

    def backward(self, gradient: Array) -> Array:
        return gradient / 2


def test_layers_with_passes_of_their_own_are_called() -> None:
    """A stack does nothing in their place, wherever they are in it."""
    for first in (Conv, Doubled):
        for between in (ReLU, Guided, Leaky):
            rng, one = np.random.default_rng(5), {"dtype": "float64", "padding": "same"}
            inner = Residual([first(2, 2, (3,), seed=2, **one), ReLU()])
            layers: list[Layer] = [first(2, 2, (3,), seed=1, **one), between(), Halved(), between(), inner]
            x, g = rng.standard_normal((2, 3, 2, 5))
            expected, back = x, g
            for layer in layers:
                expected = layer.forward(expected)
            for layer in reversed(layers):
                back = layer.backward(back)
            model = Sequential([Sequential(layers[:2]), *layers[2:]])
            np.testing.assert_array_equal(model.forward(x), expected)
            np.testing.assert_array_equal(model.backward(g), back)
            assert model.leaves == layers


def test_what_changed_between_two_layers_keeps_its_own_gradient() -> None:
    """A positive part is that of what the layer before made, not of what the next one got."""
    model = Sequential([ReLU(), Conv(1, 1, (1,), dtype="float64")])
    model.leaves[1].parameters["weight"].value[...] = 1
    q = model.leaves[0].forward(np.array([[[-1.0, 2.0]]]))
    model.leaves[1].forward(q + 1)
    np.testing.assert_array_equal(model.backward(np.ones((1, 1, 2))), [[[0.0, 1.0]]])


@pytest.mark.parametrize(
    ("shape", "strides", "found"),
    [
        ((2, 8, 3, 3), (72, 1, 24, 8), 8),
        ((2, 8, 3, 3), (90, 1, 30, 10), 10),
        ((2, 8, 3, 3), (72, 9, 3, 1), 0),
        ((2, 8, 3, 3), (75, 1, 25, 8), 0),
        ((2, 1, 3, 3), (9, 9, 3, 1), 1),
        ((1, 8, 1, 1), (5, 1, 7, 2), 8),
        ((2, 8, 3, 3), (-72, 1, 24, 8), 0),
        ((2, 8, 3, 3), (4, 1, 24, 8), 0),
    ],
)
def test_pitch(shape: tuple[int, ...], strides: tuple[int, ...], found: int) -> None:
    assert pitch(shape, strides, 1) == found
    assert pitch(shape, tuple(4 * step for step in strides), 4) == found


def test_kernels_that_finish_nothing_take_nothing_more() -> None:
    assert Finish().arguments == {}
    assert contract.Contraction.__dataclass_fields__["finish"].default == Finish()
    assert transform.Transform.__dataclass_fields__["finish"].default == Finish()
