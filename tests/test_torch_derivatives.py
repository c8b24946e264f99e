"""Derivatives of the operations on tensors, of every order and in both modes, against differences and by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from grid import BY_NAME, GRID, OPERATIONS, RESULT, Row
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vjp

import triconv.torch as tt
from triconv.torch import calls as front
from triconv.torch import engines, operators, stages

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
"""PyTorch's own, when it first makes forward derivatives."""

WIDE = {"float32": torch.float64, "complex64": torch.complex128}
"""What a row's dtype is checked in: differences want all digits."""

CASES = [(row, name) for row in GRID if row.visible[0] for name in OPERATIONS]
"""Every row and operation; rows without examples have nothing to differentiate, and `test_no_examples` of their own."""

FEW = CASES[::5]
"""A part that meets every row group and, as 5 is no multiple of 3, every operation in turn."""


def function(row: Row, name: str) -> Callable[[Tensor, Tensor], Tensor]:
    one, two = OPERATIONS[name]
    return lambda a, b: row.call(getattr(tt, name), name, {one: a, two: b})


def leaves(row: Row, name: str, *, wanted: tuple[bool, bool] = (True, True)) -> tuple[Tensor, Tensor]:
    operands = row.operands()
    tensors = [torch.from_numpy(operands[role]) for role in OPERATIONS[name]]
    dtype = WIDE.get(row.dtype, tensors[0].dtype)
    one, two = (x.to(dtype).requires_grad_(want) for x, want in zip(tensors, wanted, strict=True))
    return one, two


def check(row: Row, name: str, *, fast_mode: bool) -> None:
    f, operands = function(row, name), leaves(row, name)
    assert gradcheck(
        f,
        operands,
        fast_mode=fast_mode,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
    )
    assert gradgradcheck(f, operands, fast_mode=fast_mode, check_fwd_over_rev=True, check_batched_grad=True)


def label(value: Any) -> str:
    return value.name if isinstance(value, Row) else str(value)


@pytest.mark.parametrize(("row", "name"), FEW, ids=label)
def test_gradients(row: Row, name: str) -> None:
    check(row, name, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "name"), CASES, ids=label)
def test_gradients_of_the_whole_grid(row: Row, name: str) -> None:
    check(row, name, fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(("row", "name"), CASES, ids=label)
def test_gradients_of_the_whole_grid_entry_by_entry(row: Row, name: str) -> None:
    check(row, name, fast_mode=False)


MIXED = Row("mixed", (2, 4, 6, 5), (3, 2), 6, stride=(2, 1), padding=((1, 2), (0, 1)), groups=2, bank=(2, 1),
            border=("reflect", "zero"), visible_size=(6, 5))  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_entry_by_entry(name: str) -> None:
    check(MIXED, name, fast_mode=False)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_operators_themselves(name: str) -> None:
    """PyTorch leads a call through its levels to the same derivatives as the short way takes."""
    f, operands = function(MIXED, name), leaves(MIXED, name)
    cotangent = torch.randn_like(f(*operands))
    expected = torch.autograd.grad(f(*operands), operands, cotangent)
    result, pull = vjp(f, *(x.detach() for x in operands))
    torch.testing.assert_close(pull(cotangent), expected, rtol=0, atol=0)
    torch.testing.assert_close(result, f(*operands).detach(), rtol=0, atol=0)


# Higher orders, by hand: along a line, T is a polynomial.


@pytest.mark.parametrize("row", [MIXED, BY_NAME["tiled on a graph"], BY_NAME["affine on a graph"]], ids=label)
def test_third_order_by_hand(row: Row) -> None:
    """f = ⟨y, y⟩/2 of y = conv(a + t u, b + t s): d³f/dt³ = 6 (⟨conv(u, s), conv(u, b) + conv(a, s)⟩), twice so much
    at t = 0, as f's coefficient of t³ is ⟨y₁, y₂⟩ with y = y₀ + t y₁ + t² y₂."""
    f = function(row, "conv")
    a, b = leaves(row, "conv", wanted=(False, False))
    u, s = torch.randn_like(a), torch.randn_like(b)

    def energy(t: Tensor) -> Tensor:
        y = f(a + t * u, b + t * s)
        return (y * y.conj()).real.sum() / 2

    first, second = f(u, b) + f(a, s), f(u, s)
    expected = 6 * (first * second.conj()).real.sum()
    zero = torch.zeros((), dtype=torch.float64)
    for one, two, three in product((grad, forward), repeat=3):
        torch.testing.assert_close(one(two(three(energy)))(zero), expected)
    t = zero.clone().requires_grad_()
    value = energy(t)
    for _ in range(3):
        (value,) = torch.autograd.grad(value, t, create_graph=True)
    torch.testing.assert_close(value, expected)


def forward(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The derivative of a function of one number, in forward mode."""
    return lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_dual_numbers(name: str) -> None:
    """A dual number in one operand, in the other and in both; and the gradient of a tangent."""
    f = function(MIXED, name)
    a, b = leaves(MIXED, name)
    da, db = torch.randn_like(a), torch.randn_like(b)
    for one, two in ((da, None), (None, db), (da, db)):
        with forward_ad.dual_level():
            x = a if one is None else forward_ad.make_dual(a, one)
            y = b if two is None else forward_ad.make_dual(b, two)
            tangent = forward_ad.unpack_dual(f(x, y)).tangent
            assert tangent is not None
            terms = ([] if one is None else [f(one, b)]) + ([] if two is None else [f(a, two)])
            torch.testing.assert_close(tangent, sum(terms))
            if one is not None and two is not None:
                found = torch.autograd.grad(tangent.sum(), (a, b))
        if one is not None and two is not None:
            torch.testing.assert_close(found, torch.autograd.grad((f(one, b) + f(a, two)).sum(), (a, b)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_dual_numbers_of_which_no_gradient_is_wanted(name: str) -> None:
    f = function(MIXED, name)
    a, b = leaves(MIXED, name, wanted=(False, False))
    da = torch.randn_like(a)
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(a, da), b)).tangent
        torch.testing.assert_close(tangent, f(da, b))


def test_jacobians() -> None:
    row = BY_NAME["tiled"]
    f = function(row, "conv")
    a, b = (x.detach() for x in leaves(row, "conv"))
    for argument in (0, 1):
        torch.testing.assert_close(jacfwd(f, argument)(a, b), jacrev(f, argument)(a, b))


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_examples(name: str) -> None:
    row = BY_NAME["local without examples"]
    a, b = leaves(row, name)
    gradients = torch.autograd.grad(function(row, name)(a, b).sum(), (a, b))
    assert [g.shape for g in gradients] == [a.shape, b.shape]
    assert not any(g.any() for g in gradients)


# What is computed, and what is kept.


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the operations that engines are asked for."""
    seen: list[str] = []
    run = engines.Call.run

    def counted(call: engines.Call, a: Tensor, b: Tensor) -> Tensor:
        seen.append(call.plan.problem.name)
        return run(call, a, b)

    monkeypatch.setattr(engines.Call, "run", counted)
    return seen


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("wanted", [(True, False), (False, True), (True, True)])
def test_only_what_is_asked_for_is_computed(
    name: str, wanted: tuple[bool, bool], transformed: bool, calls: list[str]
) -> None:
    f = function(MIXED, name)
    a, b = leaves(MIXED, name, wanted=wanted)
    if transformed:
        argnums = tuple(number for number, want in enumerate(wanted) if want)
        grad(lambda a, b: f(a, b).sum(), argnums)(a.detach(), b.detach())
    else:
        f(a, b).sum().backward()
        assert ((a.grad is not None), (b.grad is not None)) == wanted
    role_of = {role: operation for operation, role in RESULT.items()}
    asked = [role_of[role] for role, want in zip(OPERATIONS[name], wanted, strict=True) if want]
    assert calls == [name, *asked]


@pytest.mark.parametrize("named", [0, 1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_only_what_is_named_is_computed(
    name: str, named: int, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both want gradients, and one is named; also where it is no leaf, and in the second order."""
    monkeypatch.setattr(stages, "ASKING", 0)
    front._ready.cache_clear()
    role_of = {role: operation for operation, role in RESULT.items()}
    asked, other = (role_of[OPERATIONS[name][which]] for which in (named, 1 - named))
    operands = leaves(MIXED, name)
    (first,) = torch.autograd.grad(function(MIXED, name)(*operands).square().sum(), operands[named], create_graph=True)
    assert calls == [name, asked]
    calls.clear()
    torch.autograd.grad(first.square().sum(), operands[1 - named])
    assert sorted(calls) == sorted([other, name, other])  # of the gradient itself, and by way of what it began with
    calls.clear()
    inner = [operand * 1 for operand in operands]
    torch.autograd.grad(function(MIXED, name)(*inner).sum(), inner[named])
    assert calls == [name, asked]


def test_small_gradients_are_computed_unasked(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody wants is not handed out; to ask would take longer."""
    front._ready.cache_clear()
    a, b = leaves(MIXED, "conv")
    monkeypatch.setattr(operators, "asked_for", None)
    (gradient,) = torch.autograd.grad(function(MIXED, "conv")(a, b).sum(), b)
    assert calls == ["conv", "conv_transpose", "conv_weight"]
    assert a.grad is None
    assert gradient.shape == b.shape


def test_of_one_gradient_alone_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "ASKING", 0)
    monkeypatch.setattr(operators, "asked_for", None)
    front._ready.cache_clear()
    for wanted in ((True, False), (False, True)):
        operands = leaves(MIXED, "conv", wanted=wanted)
        function(MIXED, "conv")(*operands).sum().backward()
        assert tuple(operand.grad is not None for operand in operands) == wanted
    both = leaves(MIXED, "conv")
    front._ready.cache_clear()
    with pytest.raises(TypeError):
        function(MIXED, "conv")(*both).sum().backward()


def test_nothing_is_kept_that_no_gradient_needs() -> None:
    a, b = leaves(MIXED, "conv", wanted=(False, True))
    saved: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        function(MIXED, "conv")(a, b)
    assert [x.data_ptr() for x in saved] == [a.data_ptr()]


def test_a_graph_used_twice_and_an_operand_changed_meanwhile() -> None:
    """PyTorch's own errors."""
    a, b = leaves(MIXED, "conv")
    total = function(MIXED, "conv")(a, b).sum()
    total.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        total.backward()
    changed = a * 1
    total = function(MIXED, "conv")(changed, b).sum()
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize("lying", ["contiguous", "channels_last", "hidden innermost"])
def test_gradients_lie_as_their_tensors_do(lying: str) -> None:
    """So that an optimizer's and DistributedDataParallel's copies are plain ones."""
    v, w = torch.randn(2, 4, 6, 5), torch.randn(6, 4, 3, 3)
    if lying == "channels_last":
        v, w = (x.to(memory_format=torch.channels_last) for x in (v, w))
    elif lying == "hidden innermost":
        w = w.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    v.requires_grad_()
    w.requires_grad_()
    for create_graph in (False, True):
        gradients = torch.autograd.grad(tt.conv(v, w, padding=1).sum(), (v, w), create_graph=create_graph)
        assert [g.stride() for g in gradients] == [v.stride(), w.stride()]


def test_complex_gradients_are_conjugated() -> None:
    """y = w v with one number each: PyTorch's gradient of Re y with respect to v is the conjugate of w."""
    v = torch.tensor([[[1 + 2j]]], requires_grad=True)
    w = torch.tensor([[[3 - 1j]]])
    (found,) = torch.autograd.grad(tt.conv(v, w).real.sum(), v)
    assert found.item() == 3 + 1j


def test_a_real_operand_has_a_real_gradient() -> None:
    v = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 2, dtype=torch.complex128, requires_grad=True)
    assert gradcheck(tt.conv, (v, w))


# Pooling.


def pooled(v: Tensor, **options: Any) -> Tensor:
    return tt.max_pool(v, **options)[0]


@pytest.mark.parametrize(
    "options",
    [
        {"window": 2},
        {"window": 3, "stride": 1, "padding": 1},
        {"window": (2, 3), "stride": 2, "dilation": 2, "ceil": True},
    ],
    ids=str,
)
def test_gradients_of_pooling(options: dict[str, Any]) -> None:
    # Differences must not change which is the largest.
    v = torch.randperm(2 * 3 * 7 * 8).double().reshape(2, 3, 7, 8).requires_grad_()
    checks: dict[str, Any] = {"check_batched_grad": True}
    assert gradcheck(partial(pooled, **options), v, check_forward_ad=True, check_batched_forward_grad=True, **checks)
    assert gradgradcheck(partial(pooled, **options), v, check_fwd_over_rev=True, **checks)
    hidden, indices = tt.max_pool(v, **options)
    assert not indices.requires_grad

    def put(h: Tensor) -> Tensor:
        return tt.max_pool_transpose(h, indices, (7, 8))

    assert gradcheck(put, hidden.detach().requires_grad_(), check_forward_ad=True, **checks)
    assert gradgradcheck(put, hidden.detach().requires_grad_(), check_fwd_over_rev=True, **checks)
