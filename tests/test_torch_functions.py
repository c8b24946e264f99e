"""The operations on tensors compute what they compute on arrays, whichever way a call takes, and refuse the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from grid import BY_NAME, GRID, OPERATIONS, Row
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.nn import functional as tnf

import triconv
import triconv.torch as tt
from triconv.form import OPERATIONS as ROLES
from triconv.torch import calls, engines, operators, portable

Array = NDArray[Any]
gpu = pytest.mark.gpu

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no accelerator")]
    ),
]


def tensors(row: Row, device: str = "cpu") -> dict[str, Tensor]:
    return {role: torch.from_numpy(array).to(device) for role, array in row.operands().items()}


def call(row: Row, name: str, operands: dict[str, Tensor], **more: Any) -> Tensor:
    result: Tensor = row.call(getattr(tt, name), name, operands, **more)
    return result


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results lie in memory that is NaN before."""

    def empty(shape: tuple[int, ...], dtype: Any) -> Array:
        return np.full(shape, np.nan, dtype)

    monkeypatch.setattr(engines, "LARGE", 0)
    monkeypatch.setattr(engines, "empty", empty)
    for kept in (engines.ready, calls._ready):
        kept.cache_clear()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
def test_the_grid(row: Row, name: str) -> None:
    """The bits of NumPy's front end, straight to the engine and through the operator alike."""
    operands = tensors(row)
    expected = row.call(getattr(triconv, name), name, row.operands())
    oracle.assert_close(expected, row.expected(name, row.operands()), row.allowed(name, row.operands()))
    straight = call(row, name, operands)
    led = torch.func.vjp(lambda a, b: call(row, name, dict(zip(OPERATIONS[name], (a, b), strict=True))),
                         *(operands[role] for role in OPERATIONS[name]))[0]  # fmt: skip
    for found in (straight, led):
        assert found.dtype == operands["visible"].dtype
        np.testing.assert_array_equal(found.numpy(), expected)
    for made in (engines.ready, calls._ready):
        made.cache_clear()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
def test_pytorchs_own_operators(row: Row, name: str, device: str) -> None:
    """What other devices run, on any device."""
    operands = tensors(row, device)
    plan = triconv.explain(name, row.visible, row.weight, dtype=row.dtype, **row.options)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = portable.compute(plan.problem, *(operands[role] for role in OPERATIONS[name])).cpu().numpy()
    allowed = 4 * row.allowed(name, row.operands())  # theirs may sum in any order, of several parts
    oracle.assert_close(found, row.expected(name, row.operands()), allowed)


@gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no accelerator")
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", GRID[::7], ids=lambda row: row.name)
def test_devices_have_the_same_gradients(row: Row, name: str) -> None:
    def gradients(device: str) -> list[Array]:
        operands = [tensors(row, device)[role].to(torch.float64).requires_grad_() for role in OPERATIONS[name]]
        result = call(row, name, dict(zip(OPERATIONS[name], operands, strict=True)))
        return [g.cpu().numpy() for g in torch.autograd.grad((result**2).sum(), operands, create_graph=True)]

    if not row.dtype.startswith("complex"):
        for one, two in zip(gradients("cpu"), gradients("cuda"), strict=True):
            np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9)


# Memory orders.

LYING: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
    "examples innermost": lambda x: x.movedim(0, -1).contiguous().movedim(-1, 0),
    "positions reversed": lambda x: x.permute(0, 1, 3, 2).contiguous().permute(0, 1, 3, 2),
    "every other": lambda x: x.repeat_interleave(2, 1)[:, ::2],
    "repeated": lambda x: x[:1].expand_as(x),
}


ASKED: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "conv": lambda x: tt.conv(x["v"], x["w"]),
    "conv_transpose": lambda x: tt.conv_transpose(x["h"], x["w"]),
    "conv_weight": lambda x: tt.conv_weight(x["v"], x["h"], 1),
    "conv_weight with a bank": lambda x: tt.conv_weight(x["v"], x["h"], 1, bank="local"),
    "max_pool": lambda x: tt.max_pool(x["v"], 1, stride=2)[0],
    "indices": lambda x: tt.max_pool(x["v"], 1, stride=2)[1],
    "max_pool_transpose": lambda x: tt.max_pool_transpose(*tt.max_pool(x["h"], 1), x["h"].shape[2:]),
}


@pytest.mark.parametrize("shape", [(2, 4, 6, 5), (1, 4, 6, 5), (2, 1, 6, 5), (2, 4, 1, 5), (2, 4, 1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("lying", LYING)
def test_memory_order_is_what_fake_tensors_promise(lying: str, shape: tuple[int, ...]) -> None:
    v = LYING[lying](torch.randn(shape))
    w = torch.randn(3, shape[1], 1, 1)
    h = LYING[lying](torch.randn(shape[0], 3, *shape[2:]))
    for name, function in ASKED.items():
        for want in (False, True):
            given = {"v": v, "w": w.clone().requires_grad_(want), "h": h}
            real = function(given)
            look = real.shape, real.stride(), real.dtype
            with FakeTensorMode() as mode:
                fake = function({role: mode.from_tensor(x) for role, x in given.items()})
            assert (fake.shape, fake.stride(), fake.dtype) == look, name
            meta = function({n: torch.empty_strided(x.shape, x.stride(), device="meta") for n, x in given.items()})
            assert (meta.shape, meta.stride(), meta.dtype) == look, name


def test_what_repeats_itself_has_no_memory_order() -> None:
    v = torch.randn(4, 1, 1).expand(2, 4, 6, 5)
    assert tt.conv(v, torch.randn(3, 4, 3, 3)).is_contiguous()


@pytest.mark.parametrize("channels", [1, 4])
def test_channels_last_stays(channels: int) -> None:
    v = torch.randn(2, 6, 5, channels).movedim(-1, 1)
    h = tt.conv(v, torch.randn(3, channels, 3, 3), padding=1)
    assert h.is_contiguous(memory_format=torch.channels_last)
    assert tt.max_pool(h, 2)[0].is_contiguous(memory_format=torch.channels_last)
    assert tt.conv_transpose(h, torch.randn(3, 5, 3, 3)).is_contiguous(memory_format=torch.channels_last)
    assert tt.conv(torch.randn(v.shape), torch.randn(3, channels, 3, 3)).is_contiguous()


def test_engines_see_the_memory_of_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    array = engines._array

    def watched(tensor: Tensor, dtype: torch.dtype) -> Array:
        seen.append(array(tensor, dtype))
        return seen[-1]

    monkeypatch.setattr(engines, "_array", watched)
    v, w = torch.randn(2, 3, 5), torch.randn(4, 3, 2, requires_grad=True)
    tt.conv(v, w)
    assert [x.ctypes.data for x in seen] == [v.data_ptr(), w.data_ptr()]


def test_views_that_are_to_be_computed_are_resolved() -> None:
    v, w = torch.randn(2, 3, 5, dtype=torch.complex64), torch.randn(4, 3, 2, dtype=torch.complex64)
    torch.testing.assert_close(tt.conv(v.conj(), w), tt.conv(v.conj_physical(), w), rtol=0, atol=0)
    real = torch.randn(4, 3, 2)
    assert v.conj().imag.is_neg()
    torch.testing.assert_close(tt.conv(v.conj().imag, real), tt.conv(-v.imag, real), rtol=0, atol=0)


def test_zeros_without_memory_are_operands() -> None:
    """PyTorch makes them where a derivative is known to be none."""
    zero, w = torch._efficientzerotensor(2, 3, 5), torch.randn(4, 3, 2, requires_grad=True)
    hidden = tt.conv(zero, w)
    assert torch.equal(hidden, torch.zeros(2, 4, 4))
    cotangent = torch._efficientzerotensor(2, 4, 4)
    (gradient,) = torch.autograd.grad(tt.conv(torch.randn(2, 3, 5), w), w, cotangent)
    assert torch.equal(gradient, torch.zeros(4, 3, 2))
    values, indices = tt.max_pool(zero, 2)
    assert not values.any()
    assert not tt.max_pool_transpose(torch._efficientzerotensor(2, 3, 2), indices, 5).any()


# dtypes.


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_halves_are_computed_in_float32_and_rounded_once(name: str, dtype: torch.dtype, grad: bool) -> None:
    row = BY_NAME["image, every axis its own"]
    halves = {role: x.to(dtype).requires_grad_(grad) for role, x in tensors(row).items()}
    singles = {role: x.float() for role, x in halves.items()}
    found = call(row, name, halves)
    assert found.dtype == dtype
    torch.testing.assert_close(found, call(row, name, singles).to(dtype), rtol=0, atol=0)


FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("one", FLOATS, ids=str)
@pytest.mark.parametrize("two", FLOATS, ids=str)
def test_mixed_dtypes_are_promoted(one: torch.dtype, two: torch.dtype, grad: bool) -> None:
    v, w = torch.randn(2, 3, 5).to(one).requires_grad_(grad), torch.randn(4, 3, 2).to(two).requires_grad_(grad)
    if {one, two} == {torch.float16, torch.bfloat16}:
        with pytest.raises(TypeError, match=r"^dtypes \w+ and \w+: NumPy has no common type for them; cast one"):
            tt.conv(v, w)
        return
    common = torch.promote_types(one, two)
    found = tt.conv(v, w)
    assert found.dtype == common
    torch.testing.assert_close(found, tt.conv(v.to(common), w.to(common)), rtol=0, atol=0)
    if grad:
        found.abs().sum().backward()
        assert v.grad is not None
        assert (v.grad.dtype, w.grad.dtype if w.grad is not None else None) == (one, two)


# What is refused.

V, W, H = np.ones((2, 4, 6, 5)), np.ones((6, 2, 3, 3)), np.ones((2, 6, 4, 3))
BAD: dict[str, tuple[str, tuple[Array, Array], dict[str, Any]]] = {
    "stride": ("conv", (V, W), {"groups": 2, "stride": 0}),
    "stride of a bool": ("conv", (V, W), {"groups": 2, "stride": True}),
    "stride of a float": ("conv", (V, W), {"groups": 2, "stride": 1.5}),
    "stride per axis": ("conv", (V, W), {"groups": 2, "stride": (1, 2, 3)}),
    "padding": ("conv", (V, W), {"groups": 2, "padding": -1}),
    "padding word": ("conv", (V, W), {"groups": 2, "padding": "some"}),
    "padding pairs": ("conv", (V, W), {"groups": 2, "padding": ((1, 2, 3), (0, 0))}),
    "dilation": ("conv", (V, W), {"groups": 2, "dilation": 9}),
    "groups": ("conv", (V, W), {"groups": 3}),
    "groups of a float": ("conv", (V, W), {"groups": 2.0}),
    "graph": ("conv", (V, W), {"groups": np.ones((2, 2), bool)}),
    "graph of numbers": ("conv", (V, np.ones((6, 4, 3, 3))), {"groups": np.ones((6, 4))}),
    "border": ("conv", (V, W), {"groups": 2, "border": "mirror"}),
    "engine": ("conv", (V, W), {"groups": 2, "engine": "fastest"}),
    "precision": ("conv", (V, W), {"groups": 2, "precision": "low"}),
    "channels": ("conv", (V, W), {}),
    "axes": ("conv", (V, W[0, 0]), {}),
    "no channels": ("conv", (V[:, :0], W), {}),
    "visible size": ("conv_transpose", (H, W), {"groups": 2, "visible_size": 9}),
    "visible size of a float": ("conv_transpose", (H, W), {"groups": 2, "visible_size": 6.0}),
    "hidden": ("conv_transpose", (H[:, :4], W), {"groups": 2}),
    "kernel size": ("conv_weight", (V, H), {"groups": 2, "kernel_size": (3, 3, 3)}),
    "kernel size that does not fit": ("conv_weight", (V, H), {"groups": 2, "kernel_size": 2}),
    "bank": ("conv_weight", (V, H), {"groups": 2, "kernel_size": 3, "bank": 7}),
    "bank word": ("conv_weight", (V, H), {"groups": 2, "kernel_size": 3, "bank": "all"}),
    "examples": ("conv_weight", (V, H[:1]), {"groups": 2, "kernel_size": 3}),
    "memory": ("conv", (np.broadcast_to(V[:1, :1], (1 << 40, 1, 6, 5)), W[:, :1]), {}),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_refused_as_for_arrays(bad: str, grad: bool) -> None:
    """The same exception with the same line."""
    name, arrays, options = BAD[bad]
    with pytest.raises((ValueError, TypeError, MemoryError)) as expected:
        getattr(triconv, name)(*arrays, **options)
    a, b = (torch.from_numpy(x.copy() if x.size < 1 << 20 else x[:1].copy()).expand(x.shape) for x in arrays)
    with pytest.raises(expected.type) as found:
        getattr(tt, name)(a.requires_grad_(grad) if a.is_leaf else a, b, **options)
    assert str(found.value) == str(expected.value)
    assert "\n" not in str(found.value)


BAD_POOLING: dict[str, tuple[str, tuple[Array, ...], dict[str, Any]]] = {
    "window": ("max_pool", (V,), {"window": 0}),
    "window of a float": ("max_pool", (V,), {"window": 2.5}),
    "window per axis": ("max_pool", (V,), {"window": (2, 2, 2)}),
    "window too large": ("max_pool", (V,), {"window": 7}),
    "stride": ("max_pool", (V,), {"window": 2, "stride": True}),
    "padding": ("max_pool", (V,), {"window": 2, "padding": 2}),
    "no positions": ("max_pool", (V[..., :0],), {"window": 2}),
    "complex": ("max_pool", (V + 0j,), {"window": 2}),
    "visible size": ("max_pool_transpose", (H, H.astype(int)), {"visible_size": 1.5}),
    "visible size too small": ("max_pool_transpose", (H, 9 * H.astype(int)), {"visible_size": (2, 2)}),
    "indices": ("max_pool_transpose", (H, H.astype(int)[:1]), {"visible_size": 6}),
    "indices of a float": ("max_pool_transpose", (H, H), {"visible_size": 6}),
    "negative indices": ("max_pool_transpose", (H, -H.astype(int)), {"visible_size": 6}),
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("bad", BAD_POOLING)
def test_bad_pooling_is_refused_as_for_arrays(bad: str, grad: bool) -> None:
    name, arrays, options = BAD_POOLING[bad]
    with pytest.raises((ValueError, TypeError)) as expected:
        getattr(triconv, name)(*arrays, **options)
    first, *others = (torch.from_numpy(x.copy()) for x in arrays)
    with pytest.raises(expected.type) as found:
        getattr(tt, name)(first.requires_grad_(grad), *others, **options)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    "graph", [torch.ones(6, 4), torch.ones(6, 3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)]
)
def test_a_graph_that_is_none_is_refused_as_for_arrays(graph: Tensor) -> None:
    """With numbers and without, on tensors that are there and on fake ones."""
    v, w = torch.from_numpy(V), torch.ones(6, 4, 3, 3, dtype=torch.float64)
    with pytest.raises((ValueError, TypeError)) as expected:
        triconv.conv(V, w.numpy(), groups=graph.numpy())
    for device, grad in (("cpu", False), ("cpu", True), ("meta", False)):
        with pytest.raises(expected.type) as found:
            tt.conv(v.to(device), w.clone().to(device).requires_grad_(grad), groups=graph)
        assert str(found.value).replace("float32", "float64") == str(expected.value).replace("float32", "float64")


NUMBERS: dict[str, Any] = {"stride": 2, "padding": [1, 0], "dilation": [1, 2], "groups": 2}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", NUMBERS)
def test_tensors_do_where_arrays_do(name: str, grad: bool, device: str) -> None:
    """As values of options; what is no whole number is told of as it is of arrays."""
    given, value = {"groups": 2, name: NUMBERS[name]}, torch.tensor(NUMBERS[name])
    v, w = torch.from_numpy(V).to(device), torch.from_numpy(W).to(device).requires_grad_(grad)
    found, expected = tt.conv(v, w, **{**given, name: value}), tt.conv(v, w, **given)
    assert found.shape == expected.shape
    assert device == "meta" or torch.equal(found, expected)
    wrong = value.double() if name != "groups" else torch.tensor(2.0)
    with pytest.raises(TypeError) as told:
        triconv.conv(V, W, **{**given, name: wrong.numpy()})
    with pytest.raises(TypeError) as raised:
        tt.conv(v, w, **{**given, name: wrong})
    assert str(raised.value) == str(told.value)


def test_sizes_may_be_tensors() -> None:
    v, w, h = (torch.from_numpy(x) for x in (V, W, H))
    assert tt.conv_transpose(h, w, visible_size=torch.tensor([6, 5]), groups=2).shape == V.shape
    assert tt.conv_weight(v, h, torch.tensor([3, 3]), groups=2, bank=torch.tensor(1)).shape == (1, 1, *W.shape)
    assert tt.max_pool(v, torch.tensor(3), stride=torch.tensor([1, 2]))[0].shape == (2, 4, 4, 2)


def test_a_graph_has_values() -> None:
    """Only who computes nothing could do without them, and nobody asks it to."""
    v, w = torch.ones(2, 4, 6, 5), torch.ones(6, 4, 3, 3)
    graph = torch.ones(6, 4, dtype=torch.bool, device="meta")
    expected = r"^groups on device meta: expected a channel graph with values; make it on the processor$"
    for device in ("cpu", "meta"):
        with pytest.raises(ValueError, match=expected):
            tt.conv(v.to(device), w.to(device), groups=graph)
    with pytest.raises(ValueError, match=expected):
        tt.nn.Conv2d(4, 6, 3, groups=graph)
    with FakeTensorMode(), pytest.raises(ValueError, match=r"^groups: expected .* got a fake tensor; make it outside"):
        tt.nn.Conv2d(4, 6, 3, groups=torch.ones(6, 4, dtype=torch.bool))


@pytest.mark.parametrize("allow", [False, True])
@pytest.mark.parametrize("kind", ["array", "list", "tensor", "fake"])
def test_fake_operands_take_a_graph_in_any_form(kind: str, allow: bool) -> None:
    """In the mode and outside of it, as PyTorch estimates memory and plans sharding."""
    real = torch.ones(6, 4, dtype=torch.bool).tril()
    mode = FakeTensorMode(allow_non_fake_inputs=allow)
    graph = {"array": real.numpy(), "list": real.tolist(), "tensor": real, "fake": mode.from_tensor(real)}[kind]
    v, w = (mode.from_tensor(x) for x in (torch.ones(2, 4, 6, 5), torch.ones(6, 4, 3, 3, requires_grad=True)))

    def shape() -> tuple[int, ...]:
        hidden = tt.conv(v, w, groups=graph)
        hidden.sum().backward()
        assert w.grad.shape == w.shape
        return tuple(hidden.shape)

    with mode:
        assert shape() == (2, 6, 4, 3)
        if kind != "fake":
            layer = tt.nn.Conv2d(4, 6, 3, groups=graph)
            assert layer(v).shape == (2, 6, 4, 3)
            assert not isinstance(layer.groups, torch._subclasses.FakeTensor)
    if kind != "fake" or not allow:
        assert shape() == (2, 6, 4, 3)


def test_other_devices_have_no_engines() -> None:
    arguments = torch.from_numpy(V), torch.from_numpy(W), 2, None, "{'engine': 'direct'}", None
    with pytest.raises(ValueError, match=r"^engine='direct': expected \"auto\" for tensors on cpu$"):
        operators.elsewhere(ROLES["conv"], *arguments)


def quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2, 4, 6, 5), 0.1, 0, torch.quint8)


@pytest.mark.filterwarnings("ignore:.*(deprecated|ComplexHalf).*:UserWarning")
@pytest.mark.parametrize(
    ("operand", "kind", "message"),
    [
        (lambda: [[1.0]], TypeError, "visible of type list: expected a torch.Tensor"),
        (lambda: V, TypeError, "visible of type ndarray: expected a torch.Tensor"),
        (lambda: torch.ones(2, 4, 6, 5).to_sparse(), TypeError,
         "visible of layout torch.sparse_coo: expected a dense tensor; use visible.to_dense()"),
        (lambda: torch.ones(2, 4, 6, 5).int(), TypeError,
         "visible of dtype int32: expected float32, float64, complex64, complex128, float16, bfloat16; "
         "cast it, for example with .to(torch.float64)"),
        (lambda: torch.ones(2, 4, 6, 5).to(torch.complex32), TypeError,
         "visible of dtype complex32: expected float32, float64, complex64, complex128, float16, bfloat16; "
         "cast it, for example with .to(torch.complex128)"),
        (quantized, TypeError, "visible of dtype quint8: expected numbers; use visible.dequantize()"),
        (lambda: torch.ones(2, 4, 6, 5, device="meta"), ValueError,
         "weight on device cpu: expected meta, as visible"),
    ],
)  # fmt: skip
def test_what_is_no_operand(operand: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as found:
        tt.conv(operand(), torch.from_numpy(W).float(), groups=2)
    assert str(found.value) == message
    if "device" not in message:
        with pytest.raises(kind) as found:
            tt.max_pool(operand(), 2)
        assert str(found.value) == message


def test_without_pytorch_an_import_says_what_to_install() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport triconv\nimport triconv.torch"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode
    last = run.stderr.strip().splitlines()[-1]
    assert last == "ImportError: triconv.torch needs PyTorch: pip install 'triconv[torch]'"


def test_groups_take_a_graph_in_any_form() -> None:
    v, w = torch.randn(2, 4, 5), torch.randn(3, 4, 2)
    graph = np.array([[True, False, True, False], [False, True, True, True], [True, True, False, False]])
    expected = tt.conv(v, w, groups=graph)
    for form in (graph.tolist(), torch.from_numpy(graph), np.asfortranarray(graph), graph[::-1][::-1]):
        for weight in (w, w.clone().requires_grad_()):
            torch.testing.assert_close(tt.conv(v, weight, groups=form).detach(), expected, rtol=0, atol=0)


# Pooling.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("lying", ["contiguous", "channels last"])
def test_pooling_is_pytorchs(lying: str, dtype: torch.dtype) -> None:
    v = LYING[lying](torch.randint(-9, 9, (2, 3, 9, 8)).to(dtype))
    v[0, 0, 4, 4] = torch.nan
    hidden, indices = tt.max_pool(v, (3, 2), stride=2, padding=1, dilation=(1, 2))
    expected, places = tnf.max_pool2d(v.float(), (3, 2), 2, 1, (1, 2), return_indices=True)
    torch.testing.assert_close(hidden, expected.to(dtype), rtol=0, atol=0, equal_nan=True, check_stride=False)
    torch.testing.assert_close(indices, places, check_stride=False)
    back = tt.max_pool_transpose(hidden, indices, (9, 8))
    one, two = (triconv.max_pool(v.float().numpy(), (3, 2), stride=2, padding=1, dilation=(1, 2))[n] for n in (0, 1))
    summed = triconv.max_pool_transpose(one, two, (9, 8))
    torch.testing.assert_close(
        back, torch.from_numpy(summed).to(dtype), rtol=0, atol=0, equal_nan=True, check_stride=False
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options", [{"window": 2}, {"window": (2, 3), "stride": 1, "padding": ((1, 0), (1, 2)), "ceil": True}]
)
def test_pooling_by_pytorchs_own_operators(options: dict[str, Any], device: str) -> None:
    from triconv.torch import pooling

    v = torch.randint(-3, 3, (2, 3, 7, 6)).float()
    v[0] = -torch.inf
    v[1, 1, 2, 2] = torch.nan
    hidden, indices = triconv.max_pool(v.numpy(), **options)
    text = pooling.written({"stride": None, **{n: x for n, x in options.items() if n != "window"}}, pooling.DEFAULTS)
    window = pooling.each(options["window"], 2)
    found, places = pooling._pool_elsewhere(v.to(device), window, text, None)
    np.testing.assert_array_equal(found.cpu().numpy(), hidden)
    np.testing.assert_array_equal(places.cpu().numpy(), indices)
    back = pooling._put_elsewhere(found, places, [7, 6], None)
    np.testing.assert_array_equal(back.cpu().numpy(), triconv.max_pool_transpose(hidden, indices, (7, 6)))


def test_the_operators_have_the_public_names() -> None:
    assert {role: operator.name() for role, operator in operators.OPERATORS.items()} == {
        role: f"triconv::{name}" for name, role in ROLES.items()
    }


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(2, 1, 6, 5), (2, 4, 1, 1)], ids=["one channel", "one position"])
def test_the_weight_decides_where_an_operand_lies_both_ways(shape: tuple[int, ...], last: bool) -> None:
    """As for PyTorch's own convolution: the first of a network gives channels last if the network is so."""
    order = torch.channels_last if last else torch.contiguous_format
    v, w = torch.randn(shape), torch.randn(3, shape[1], 3, 3).to(memory_format=order)
    hidden = tt.conv(v, w, padding=1)
    expected = torch.nn.functional.conv2d(v, w, padding=1)
    if shape[2:] != (1, 1):
        assert hidden.stride() == expected.stride()
    assert hidden.is_contiguous(memory_format=order)
    torch.testing.assert_close(hidden, expected)
    compiled = torch.compile(lambda v, w: tt.conv(v, w, padding=1), fullgraph=True, backend="eager")(v, w)
    assert compiled.stride() == hidden.stride()


def test_tensors_of_two_devices_are_refused_by_every_operator() -> None:
    here, nowhere = torch.ones(1, 1, 2), torch.tensor([[[0, 1]]]).to("meta")
    with pytest.raises(ValueError, match="indices on device meta: expected cpu, as hidden"):
        tt.max_pool_transpose(here, nowhere, 5)
    with pytest.raises(ValueError, match="weight on device meta: expected cpu, as visible"):
        torch.ops.triconv.conv(torch.randn(1, 3, 8, 8), torch.empty(4, 3, 3, 3, device="meta"), 1, None, "{}", None)


def test_an_order_names_each_axis_once() -> None:
    with pytest.raises(ValueError, match=r"order=\[0, 0, 0, 0\]: expected each axis once"):
        torch.ops.triconv.conv(torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3), 1, None, "{}", [0, 0, 0, 0])


def test_indices_are_dense_and_plain_numbers() -> None:
    hidden = torch.ones(1, 1, 2)
    with pytest.raises(TypeError, match=r"indices of layout torch\.sparse_coo: expected a dense tensor"):
        tt.max_pool_transpose(hidden, torch.tensor([[[0, 1]]]).to_sparse(), 5)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_a_graph_changed_after_forward_changes_no_gradient(kind: str) -> None:
    graph = torch.ones(4, 3).bool()
    given = graph if kind == "tensor" else graph.numpy()
    x, weight = torch.randn(2, 3, 6, 6), torch.randn(4, 3, 3, 3, requires_grad=True)
    expected = torch.autograd.grad(tt.conv(x, weight, groups=given).sum(), weight)
    hidden = tt.conv(x, weight, groups=given)
    graph[:] = False
    torch.testing.assert_close(torch.autograd.grad(hidden.sum(), weight), expected)
