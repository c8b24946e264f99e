"""Whatever PyTorch does around a call: vmap, autocast, checkpointing, modes and tracers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import oracle
import pytest
import torch
from grid import BY_NAME, GRID, OPERATIONS, Row
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import triconv.torch as tt
from triconv.form import OPERATIONS as ROLES
from triconv.torch import operators, pooling

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
"""PyTorch's own, when it first makes forward derivatives."""

ROWS = [
    BY_NAME[name]
    for name in (
        "affine",
        "affine in groups",
        "affine on a graph",
        "stride with a position left over",
        "circular, strided and dilated",
        "groups",
        "depthwise with a multiplier",
        "graph with an idle hidden channel",
        "tiled in groups",
        "tiled on a graph",
        "local and depthwise",
        "image, every axis its own",
        "image, reflect and replicate",
        "image, tiled on one axis only",
        "padding same, even kernel",
        "padding full",
        "volume, strided, tiled, bordered",
    )
]
SUBSETS = [(True, False), (False, True), (True, True)]


def batch_of(row: Row, role: str, size: int, axis: int) -> Tensor:
    """Operands of a role for several seeds, along an axis."""
    return torch.stack([torch.from_numpy(row.operands(seed)[role]) for seed in range(1, size + 1)], axis)


def function(row: Row, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    one, two = OPERATIONS[name]
    return lambda a, b: row.call(getattr(tt, name), name, {one: a, two: b})


def assert_close(actual: Tensor, expected: Tensor, row: Row) -> None:
    """Sums of the same products, in any order."""
    terms = max(torch.Size(shape).numel() for shape in (row.visible, row.hidden, row.weight))
    allowed = oracle.bound(terms, 10 * terms, row.dtype)  # no product of normal numbers here is above ten
    torch.testing.assert_close(actual, expected, rtol=0, atol=allowed)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_vmap_over_any_operands(row: Row, name: str) -> None:
    """The same as one call after the other; a batch of any size, along any axis, of either operand or both."""
    f = function(row, name)
    operands = {role: torch.from_numpy(array) for role, array in row.operands().items()}
    for subset, size, last in product(SUBSETS, (1, 3), (False, True)):
        given, dims = [], []
        for role, batched in zip(OPERATIONS[name], subset, strict=True):
            axis = operands[role].ndim if last else 0
            given.append(batch_of(row, role, size, axis) if batched else operands[role])
            dims.append(axis if batched else None)
        each = [
            f(*(x if dim is None else x.select(dim, n) for x, dim in zip(given, dims, strict=True)))
            for n in range(size)
        ]
        assert_close(vmap(f, tuple(dims))(*given), torch.stack(each), row)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", ROWS[-5:], ids=lambda row: row.name)
def test_vmap_inside_vmap(row: Row, name: str) -> None:
    """Two batches, each over any operands."""
    f = function(row, name)
    operands = [torch.from_numpy(row.operands()[role]) for role in OPERATIONS[name]]
    for outer, inner in product(SUBSETS, repeat=2):
        sizes = [[n for n, wanted in ((2, outer[k]), (3, inner[k])) if wanted] for k in (0, 1)]
        given = [torch.randn(*size, *x.shape).to(x) for size, x in zip(sizes, operands, strict=True)]
        dims = [tuple(0 if wanted else None for wanted in subset) for subset in (outer, inner)]
        found = vmap(vmap(f, dims[1]), dims[0])(*given)
        for n, m in product(range(2), range(3)):
            one, two = (
                x[tuple(at for at, wanted in ((n, outer[k]), (m, inner[k])) if wanted)] for k, x in enumerate(given)
            )
            assert_close(found[n, m], f(one, two), row)


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap_calls_an_operator_once(name: str, subset: tuple[bool, bool]) -> None:
    row = BY_NAME["tiled on a graph"]
    f = function(row, name)
    given = [batch_of(row, role, 4, 0) if batched else torch.from_numpy(row.operands()[role])
             for role, batched in zip(OPERATIONS[name], subset, strict=True)]  # fmt: skip
    graph = make_fx(vmap(f, tuple(0 if batched else None for batched in subset)))(*given)
    targets = [node.target for node in graph.graph.nodes if node.target in operators.OPERATORS.values()]
    assert [target.name() for target in targets] == [f"triconv::{name}"]


def test_a_batch_of_graphs_is_refused() -> None:
    v, w = torch.randn(2, 4, 5), torch.randn(3, 4, 2)
    graphs = torch.ones(2, 3, 4, dtype=torch.bool)
    with pytest.raises(NotImplementedError, match=r"^groups: expected one channel graph for the whole batch"):
        vmap(lambda graph: tt.conv(v, w, groups=graph))(graphs)


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0)])
def test_an_empty_batch_gives_one(dims: tuple[int | None, int | None]) -> None:
    """Of the shape that any batch gives, with gradients of zero, and with the errors of a call without vmap."""
    v, w = (torch.ones(2, 4, 5), torch.ones(6, 2, 2))
    given = [x if dim is None else x.expand(0, *x.shape) for x, dim in zip((v, w), dims, strict=True)]
    given = [x.clone().requires_grad_() for x in given]
    found = vmap(lambda v, w: tt.conv(v, w, groups=2), dims)(*given)
    assert found.shape == (0, 2, 6, 4)
    for gradient, x in zip(torch.autograd.grad(found.sum(), given), given, strict=True):
        assert torch.equal(gradient, torch.zeros_like(x))
    with pytest.raises(ValueError, match=r"^weight of shape \(6, 2, 2\): expected 4 visible channels"):
        vmap(tt.conv, dims)(*given)


def test_an_empty_batch_is_pooled() -> None:
    found = vmap(lambda v: tt.max_pool_transpose(*tt.max_pool(v, 2), (5,)))(torch.ones(0, 2, 4, 5))
    assert found.shape == (0, 2, 4, 5)


def test_no_channels_are_refused_as_without_vmap() -> None:
    with pytest.raises(ValueError, match=r"^visible of shape \(2, 0, 5\): expected at least 1 of its channels$"):
        vmap(tt.conv)(torch.ones(3, 2, 0, 5), torch.ones(3, 6, 0, 2))


def test_gradients_of_each_example() -> None:
    v, w = torch.randn(5, 4, 6, 6, dtype=torch.float64), torch.randn(3, 4, 3, 3, dtype=torch.float64)

    def loss(w: Tensor, example: Tensor) -> Tensor:
        return (tt.conv(example[None], w, padding=1) ** 2).sum()

    found = vmap(grad(loss), (None, 0))(w, v)
    expected = torch.stack([grad(loss)(w, example) for example in v])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(vmap(grad(loss), (None, 0), chunk_size=2)(w, v), expected)
    # Each lies as its tensor does, the batch around them.
    weights = torch.stack([w, 2 * w, -w, w, w])
    assert all(g.is_contiguous() for g in vmap(grad(loss, (0, 1)))(weights, v))
    last = v.to(memory_format=torch.channels_last)
    (found,) = vmap(grad(loss, (1,)))(weights, last)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_hessian() -> None:
    """Of ⟨y, y⟩/2, which is quadratic in either operand: JᵀJ."""
    row = BY_NAME["tiled in groups"]
    f = function(row, "conv")
    a, b = (torch.from_numpy(row.operands()[role]).real.contiguous() for role in OPERATIONS["conv"])
    for number, x in enumerate((a, b)):
        jacobian = jacrev(f, number)(a, b).reshape(-1, x.numel())
        found = hessian(lambda a, b: (f(a, b) ** 2).sum() / 2, number)(a, b)
        torch.testing.assert_close(found.reshape(x.numel(), x.numel()), jacobian.mT @ jacobian)


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap_of_pooling(dims: tuple[int | None, int | None]) -> None:
    v = torch.randn(3, 3, 3, 3, 8)
    hidden, indices = vmap(lambda v: tt.max_pool(v, (2, 3), stride=1))(v)
    for n in range(3):
        one, two = tt.max_pool(v[n], (2, 3), stride=1)
        torch.testing.assert_close(hidden[n], one)
        torch.testing.assert_close(indices[n], two)
    given = [x[0] if dim is None else x.movedim(0, dim) for x, dim in zip((hidden, indices), dims, strict=True)]
    found = vmap(lambda h, at: tt.max_pool_transpose(h, at, (3, 8)), dims)(*given)
    for n in range(3):
        one, two = (x if dim is None else x.select(dim, n) for x, dim in zip(given, dims, strict=True))
        torch.testing.assert_close(found[n], tt.max_pool_transpose(one, two, (3, 8)))


# PyTorch's own judge of operators.


class Watching(TorchDispatchMode):
    """What operators are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", ROWS[::3], ids=lambda row: row.name)
def test_opcheck(row: Row, name: str) -> None:
    opcheck(row, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
def test_opcheck_of_the_whole_grid(row: Row, name: str) -> None:
    opcheck(row, name)


def opcheck(row: Row, name: str) -> None:
    """With the arguments that the front end gives the operator, in either memory order."""
    operator = operators.OPERATORS[ROLES[name]]
    operands = [torch.from_numpy(row.operands()[role]) for role in OPERATIONS[name]]
    with Watching() as watching:
        function(row, name)(*operands)
    ((_, _, *rest, _),) = [arguments for called, arguments in watching.calls if called is operator]
    for last in (False, True):
        lying = [x.movedim(1, -1).contiguous().movedim(-1, 1) if last else x for x in operands]
        order = list(reversed(range(operator(*lying, *rest, None).ndim)))
        for asked in (None, order):
            torch.library.opcheck(operator, (*(x.clone().requires_grad_() for x in lying), *rest, asked))


def test_opcheck_of_pooling() -> None:
    v = torch.randn(2, 3, 6, 7, requires_grad=True)
    text = pooling.written({"stride": (1, 2), "padding": 1}, pooling.DEFAULTS)
    torch.library.opcheck(pooling.POOL, (v, [2, 3], text, None))
    hidden, indices = tt.max_pool(v, (2, 3), stride=(1, 2), padding=1)
    torch.library.opcheck(pooling.PUT, (hidden.detach().requires_grad_(), indices, [6, 7], None))


# Everything else.


def model(v: Tensor, w: Tensor) -> Tensor:
    hidden, indices = tt.max_pool(tt.conv(v, w, stride=2, padding="same").tanh(), 2, stride=1)
    back = tt.max_pool_transpose(hidden, indices, (4, 3))
    return (tt.conv_transpose(back, w, stride=2, padding="same", visible_size=v.shape[2:]) ** 2).sum()


@pytest.fixture
def arrays() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(2, 4, 7, 6).requires_grad_(), torch.randn(5, 4, 3, 3).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype: torch.dtype, arrays: tuple[Tensor, Tensor]) -> None:
    """As PyTorch's convolutions: what is float32 or less is computed in the lower precision, what is double is not."""
    v, w = arrays
    with torch.autocast("cpu", dtype=dtype):
        found = tt.conv(v, w)
        h = tt.conv_transpose(found, w)
        assert [x.dtype for x in (found, h, tt.conv_weight(v, found, 3))] == [dtype] * 3
        assert torch.nn.functional.conv2d(v, w).dtype == dtype
        assert tt.conv(v.double(), w.double()).dtype == torch.float64
        assert tt.max_pool(v, 2)[0].dtype == torch.float32
        with torch.no_grad():
            assert tt.conv(v, w).dtype == dtype
        for one, two in ((torch.float16, torch.bfloat16), (torch.bfloat16, torch.float16)):
            assert tt.conv(v.to(one), w.to(two)).dtype == dtype  # which have no common dtype without it
    torch.testing.assert_close(found, tt.conv(v.to(dtype), w.to(dtype)), rtol=0, atol=0)
    gradients = torch.autograd.grad(found.float().sum(), (v, w))
    assert [g.dtype for g in gradients] == [torch.float32] * 2


def test_checkpointing(arrays: tuple[Tensor, Tensor]) -> None:
    expected = torch.autograd.grad(model(*arrays), arrays)
    found = torch.autograd.grad(checkpoint(model, *arrays, use_reentrant=False), arrays)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    checkpoint(model, *arrays, use_reentrant=True).backward()
    torch.testing.assert_close(tuple(x.grad for x in arrays), expected, rtol=0, atol=0)


def test_deterministic_algorithms(arrays: tuple[Tensor, Tensor]) -> None:
    expected = torch.autograd.grad(model(*arrays), arrays)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            found = torch.autograd.grad(model(*arrays), arrays)
            torch.testing.assert_close(found, expected, rtol=0, atol=0)
    finally:
        torch.use_deterministic_algorithms(False)


def test_inference_mode(arrays: tuple[Tensor, Tensor]) -> None:
    with torch.inference_mode():
        found = tt.conv(*arrays)
        assert found.is_inference()
        again = tt.conv(found, torch.ones(1, 5, 1, 1))
    torch.testing.assert_close(found, tt.conv(*arrays).detach(), rtol=0, atol=0)
    assert again.shape == (2, 1, 5, 4)


def test_functional_call(arrays: tuple[Tensor, Tensor]) -> None:
    class Module(torch.nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight)

        def forward(self, v: Tensor) -> Tensor:
            return model(v, self.weight)

    v, w = (x.detach() for x in arrays)
    module = Module(torch.zeros_like(w))
    found = grad(lambda parameters: functional_call(module, parameters, (v,)))({"weight": w})
    torch.testing.assert_close(found["weight"], grad(model, 1)(v, w), rtol=0, atol=0)


@pytest.mark.parametrize("tracing", ["real", "fake", "symbolic"])
def test_traced_derivatives(tracing: str, arrays: tuple[Tensor, Tensor]) -> None:
    v, w = (x.detach() for x in arrays)
    graph = make_fx(grad(model, (0, 1)), tracing_mode=tracing)(v, w)
    names = {node.target.name() for node in graph.graph.nodes if hasattr(node.target, "name")}
    assert {f"triconv::{name}" for name in (*OPERATIONS, "max_pool", "max_pool_transpose")} <= names
    assert not any("convolution" in name for name in names)
    torch.testing.assert_close(graph(v, w), grad(model, (0, 1))(v, w), rtol=0, atol=0)


def test_gradients_of_a_batch_of_cotangents(arrays: tuple[Tensor, Tensor]) -> None:
    """torch.autograd's own vectorised form."""
    h = tt.conv(*arrays)
    cotangents = torch.randn(3, *h.shape)
    found = torch.autograd.grad(h, arrays, cotangents, is_grads_batched=True, retain_graph=True)
    for n, cotangent in enumerate(cotangents):
        expected = torch.autograd.grad(h, arrays, cotangent, retain_graph=True)
        torch.testing.assert_close(tuple(x[n] for x in found), expected)


@pytest.mark.parametrize("fake", [False, True])
def test_operations_are_counted(fake: bool, arrays: tuple[Tensor, Tensor]) -> None:
    """As PyTorch counts its own, forward and backward; a bank costs the same, a graph its edges."""
    mode = FakeTensorMode() if fake else nullcontext()
    graph = torch.zeros(5, 4, dtype=torch.bool)
    graph[1:3, 0] = True

    def count(function: Callable[[Tensor, Tensor], Tensor], weight: Tensor) -> dict[str, int]:
        with FlopCounterMode(display=False) as counter, mode:
            v, w = (torch.empty(x.shape, requires_grad=True) for x in (arrays[0], weight))
            function(v, w).sum().backward()
        return {str(operator): flops for operator, flops in counter.get_flop_counts()["Global"].items()}

    w = arrays[1]
    theirs = count(lambda v, w: torch.nn.functional.conv2d(v, w, padding=1), w)
    each = theirs["aten.convolution"]
    assert each == 2 * 2 * 7 * 6 * 5 * 4 * 9
    names = {"triconv.conv", "triconv.conv_transpose", "triconv.conv_weight"}
    assert count(lambda v, w: tt.conv(v, w, padding=1), w) == dict.fromkeys(names, each)
    assert sum(theirs.values()) == 3 * each
    bank = w.expand(2, 1, *w.shape)
    assert count(lambda v, w: tt.conv(v, w, padding=1), bank) == dict.fromkeys(names, each)
    if not fake:  # which has no edges to count
        found = count(lambda v, w: tt.conv(v, w, padding=1, groups=graph), w)
        assert found == dict.fromkeys(names, each // 10)


def test_a_profile_names_the_operators(arrays: tuple[Tensor, Tensor]) -> None:
    v, w = arrays
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        tt.conv(v.detach(), w.detach())
        hidden, indices = tt.max_pool(tt.conv(v, w), 2)
        hidden.sum().backward()
        tt.max_pool_transpose(hidden.detach(), indices, (5, 4))
    rows = {row.key: row.count for row in seen.key_averages()}
    expected = {"conv": 2, "conv_transpose": 1, "conv_weight": 1, "max_pool": 1, "max_pool_transpose": 2}
    assert {name: rows.get(f"triconv::{name}") for name in expected} == expected
