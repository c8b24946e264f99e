"""The public operations: dtypes, sizes, pooling, plans, and one line for every bad input."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
import torch
import torch.nn.functional as tnf
from bounds import TOTAL, problem_of, takes
from grid import GRID, OPERATIONS, RESULT, Row, normal
from numpy.typing import NDArray
from test_split import ROWS as SPLIT_ROWS

import triconv
from triconv import dispatch, ops, trial
from triconv.coefficients import coefficients
from triconv.dispatch import ENGINES
from triconv.engine import Engine
from triconv.form import Role
from triconv.kernels.target import target
from triconv.memory import LARGE, release

Array = NDArray[Any]

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def random(*shape: int, dtype: str = "float64", seed: int = 0) -> Array:
    return normal(np.random.default_rng(seed), shape, dtype)


# The three operations.


@pytest.mark.parametrize("row", GRID, ids=lambda row: row.name)
def test_the_form_is_trilinear(row: Row) -> None:
    """⟨h, conv⟩ = ⟨v, conv_transpose⟩ = ⟨w, conv_weight⟩, by the engines chosen."""
    operands = row.operands(9)
    values = [
        (row.call(getattr(triconv, name), name, operands) * operands[RESULT[name]]).sum(dtype="complex128")
        for name in OPERATIONS
    ]
    absolute = {role: np.abs(array) for role, array in operands.items()}
    magnitude = (row.expected("conv", absolute) * absolute["hidden"]).sum()
    terms = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, **row.options).problem.terms
    # The last sum, over the entries of the result, is of the same terms.
    allowed = oracle.bound(2 * terms, magnitude, row.dtype)
    assert abs(values[0] - values[1]) <= allowed
    assert abs(values[0] - values[2]) <= allowed


def test_hand_worked_numbers() -> None:
    """Small enough to check on paper; the kernel is not flipped."""
    v, w = np.array([[[1.0, 2.0, 3.0, 4.0]]]), np.array([[[1.0, 10.0]]])
    np.testing.assert_array_equal(triconv.conv(v, w), [[[21, 32, 43]]])
    np.testing.assert_array_equal(triconv.conv(v, w, stride=2), [[[21, 43]]])
    np.testing.assert_array_equal(triconv.conv(v, w, dilation=2), [[[31, 42]]])
    np.testing.assert_array_equal(triconv.conv(v, w, padding=((1, 0),)), [[[10, 21, 32, 43]]])
    np.testing.assert_array_equal(triconv.conv(v, w, padding="same"), [[[21, 32, 43, 4]]])
    np.testing.assert_array_equal(triconv.conv(v, w, padding="full", border="circular"), [[[14, 21, 32, 43, 14]]])
    np.testing.assert_array_equal(triconv.conv(v, w, padding="full", border="reflect"), [[[12, 21, 32, 43, 34]]])
    np.testing.assert_array_equal(triconv.conv(v, w, padding="full", border="replicate"), [[[11, 21, 32, 43, 44]]])
    bank = np.array([[[[1.0, 10.0]]], [[[0.0, 100.0]]]])
    np.testing.assert_array_equal(triconv.conv(v, bank), [[[21, 300, 43]]])
    h = np.array([[[1.0, 2.0, 3.0]]])
    np.testing.assert_array_equal(triconv.conv_transpose(h, w), [[[1, 12, 23, 30]]])
    np.testing.assert_array_equal(triconv.conv_transpose(h, w, stride=3), [[[1, 10, 0, 2, 20, 0, 3, 30]]])
    np.testing.assert_array_equal(triconv.conv_transpose(h, bank), [[[1, 10, 203, 30]]])
    np.testing.assert_array_equal(triconv.conv_weight(v, h, 2), [[[14, 20]]])
    np.testing.assert_array_equal(triconv.conv_weight(v, h, 2, bank=2), [[[[10, 14]]], [[[4, 6]]]])
    np.testing.assert_array_equal(triconv.conv_weight(v, h[..., :2], 2, stride=2), [[[7, 10]]])


def test_complex_numbers_are_not_conjugated() -> None:
    v, w = np.array([[[1j, 2.0]]]), np.array([[[1j, 1.0]]])
    np.testing.assert_array_equal(triconv.conv(v, w), [[[1.0]]])
    np.testing.assert_array_equal(triconv.conv_transpose(np.array([[[1j]]]), w), [[[-1.0, 1j]]])
    np.testing.assert_array_equal(triconv.conv_weight(v, np.array([[[1j]]]), 2), [[[-1.0, 2j]]])


FLOATS = ["float32", "float64", "complex64", "complex128"]


@pytest.mark.parametrize(("one", "two"), list(product(FLOATS, FLOATS)))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_mixed_dtypes_are_promoted_as_numpy_does(operation: str, one: str, two: str) -> None:
    row = Row("mixed", (2, 2, 6), (3,), 2, padding=1)
    operands = row.operands()
    first, second = OPERATIONS[operation]
    operands[first] = normal(np.random.default_rng(1), operands[first].shape, one)
    operands[second] = normal(np.random.default_rng(2), operands[second].shape, two)
    result = row.call(getattr(triconv, operation), operation, operands)
    dtype = np.result_type(np.dtype(one), np.dtype(two))
    assert result.dtype == dtype
    # The bound goes by the wider dtype: an operand is cast before anything is multiplied.
    cast = {role: array.astype(dtype) for role, array in operands.items()}
    oracle.assert_close(result, row.expected(operation, operands), row.allowed(operation, cast))


@pytest.mark.parametrize("dtype", [np.dtype("float16"), BFLOAT16], ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_half_precision_is_stored_and_computed_in_float32(operation: str, dtype: Any) -> None:
    """The bits of the float32 result, rounded once; a sum that float16 could not hold on the way is right."""
    row = Row("half", (2, 3, 9), (3,), 4, padding=1, stride=2)
    halves = {role: array.astype(dtype) for role, array in row.operands().items()}
    singles = {role: array.astype("float32") for role, array in halves.items()}
    result = row.call(getattr(triconv, operation), operation, halves, engine="direct")
    assert result.dtype == dtype
    expected = row.call(getattr(triconv, operation), operation, singles, engine="direct")
    assert expected.dtype == "float32"
    np.testing.assert_array_equal(result, expected.astype(dtype))
    plan = triconv.explain(operation, row.visible, row.weight, dtype=dtype, engine="direct", **row.options)
    assert plan.problem.dtype == "float32"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_large_arrays_of_float16_have_the_bits_of_float32(operation: str) -> None:
    row = Row("large", (2, 40, 90, 80), (3, 3), 48, padding=1, dtype="float32")
    halves = {role: array.astype("float16") for role, array in row.operands().items()}
    assert halves["visible"].nbytes > LARGE
    singles = {role: array.astype("float32") for role, array in halves.items()}
    result = row.call(getattr(triconv, operation), operation, halves)
    expected = row.call(getattr(triconv, operation), operation, singles)
    np.testing.assert_array_equal(result, expected.astype("float16"))


@pytest.mark.parametrize("dtype", [np.dtype("float16"), BFLOAT16], ids=str)
def test_half_precision_does_not_lose_small_terms(dtype: Any) -> None:
    ones = np.ones((1, 4096, 1), dtype)
    assert triconv.conv(ones, np.ones((1, 4096, 1), dtype)).item() == 4096
    big = np.array([[[60000.0, 60000.0, -60000.0]]]).astype(dtype)
    assert triconv.conv(big, np.ones((1, 1, 3), dtype)).item() == big[0, 0, 0]


@pytest.mark.parametrize(("half", "other"), [(h, o) for h in ("float16", BFLOAT16) for o in FLOATS])
def test_half_precision_is_promoted(half: Any, other: str) -> None:
    result = triconv.conv(np.ones((1, 1, 3), half), np.ones((1, 1, 2), other))
    assert result.dtype == np.result_type(np.dtype(half), np.dtype(other))


def test_lists_are_arrays() -> None:
    np.testing.assert_array_equal(triconv.conv([[[1.0, 2.0]]], [[[3.0]]]), [[[3.0, 6.0]]])


@pytest.mark.parametrize("name", [None, *TOTAL])
@pytest.mark.parametrize("bank", [None, 2, "local"])
def test_no_examples(name: str | None, bank: Any) -> None:
    """An empty batch has an empty result, and a weight gradient of zero."""
    row = Row("no examples", (0, 4, 6, 5), (3, 2), 2, groups=2, padding=1, stride=2, bank=bank, visible_size=(6, 5))
    operands = row.operands()
    for operation in OPERATIONS:
        result = row.call(getattr(triconv, operation), operation, operands, engine=name or "auto")
        assert result.shape == getattr(row, RESULT[operation])
        assert result.dtype == "float64"
        assert not result.any()


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "kernel"), [(1, 0, 1, 3), (2, 1, 1, 3), (3, 2, 2, 3), (4, 0, 1, 2)]
)
def test_visible_size_is_the_output_padding_of_pytorch(stride: int, padding: int, dilation: int, kernel: int) -> None:
    """None is output_padding 0, and every size up to stride − 1 more is right."""
    h, w = random(2, 3, 5, 4), random(3, 2, kernel, kernel, seed=1)
    for more in range(stride):
        expected = tnf.conv_transpose2d(
            torch.from_numpy(h),
            torch.from_numpy(w),
            None,
            stride,
            padding,
            more if more < max(stride, dilation) else 0,
            1,
            dilation,
        ).numpy()
        size = expected.shape[2:]
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        allowed = oracle.tolerance("conv_transpose", h, w, visible_size=size, **options)
        oracle.assert_close(triconv.conv_transpose(h, w, visible_size=size, **options), expected, allowed)
        if more == 0:
            oracle.assert_close(triconv.conv_transpose(h, w, **options), expected, allowed)
        assert triconv.conv(expected, w, **options).shape == h.shape


def test_per_axis_arguments_take_any_integers() -> None:
    v, w = random(1, 1, 6, 6), random(1, 1, 2, 2, seed=1)
    expected = triconv.conv(v, w, stride=2, padding=((1, 1), (0, 0)), dilation=(1, 2))
    for stride, padding, dilation in [
        ((2, 2), (1, 0), [1, 2]),
        (np.int32(2), np.array([1, 0]), np.array([1, 2])),
        ([np.int64(2), 2], [[1, 1], [0, 0]], (np.uint8(1), 2)),
    ]:
        np.testing.assert_array_equal(triconv.conv(v, w, stride=stride, padding=padding, dilation=dilation), expected)
    with_bank = triconv.conv_weight(v, random(1, 1, 5, 5), 2, bank=np.array([2, 5]))
    np.testing.assert_array_equal(with_bank, triconv.conv_weight(v, random(1, 1, 5, 5), 2, bank=(2, "local")))


def test_groups_take_a_graph_in_any_form(monkeypatch: pytest.MonkeyPatch) -> None:
    v, w = random(1, 2, 4), random(2, 2, 2, seed=1)
    graph = np.array([[True, False], [True, True]])
    expected = triconv.conv(v, w, groups=graph)
    np.testing.assert_allclose(triconv.conv(v, np.where(graph[..., None], w, 0)), expected, rtol=0, atol=1e-15)
    for groups in (graph.tolist(), np.asfortranarray(graph)):
        monkeypatch.setattr(ops, "_ready", {})  # or it would only be known again
        np.testing.assert_array_equal(triconv.conv(v, w, groups=groups), expected)


def test_a_graph_that_has_been_changed_is_another() -> None:
    """Also one of the same entries in another shape, and numbers that are no graph."""
    v, w, graph = random(1, 2, 4), random(2, 2, 2, seed=1), np.eye(2, dtype=bool)
    before = triconv.conv(v, w, groups=graph)
    graph[1, 0] = True
    found = triconv.conv(v, w, groups=graph)
    np.testing.assert_allclose(found, triconv.conv(v, np.where(graph[..., None], w, 0)), rtol=0, atol=1e-15)
    assert (found[:, 1] != before[:, 1]).all()
    for other in (graph.reshape(1, 4), graph.astype(np.uint8)):
        with pytest.raises((TypeError, ValueError), match=r"^groups: expected"):
            triconv.conv(v, w, groups=other)


# flip


def test_flip_reverses_the_kernel_axes_as_a_view() -> None:
    w = random(2, 3, 4, 5)
    np.testing.assert_array_equal(triconv.flip(w), w[:, :, ::-1, ::-1])
    assert np.shares_memory(triconv.flip(w), w)
    np.testing.assert_array_equal(triconv.flip(w, rank=1), w[..., ::-1])
    bank = random(6, 5, 2, 3, 4, 5)
    np.testing.assert_array_equal(triconv.flip(bank, rank=2), bank[..., ::-1, ::-1])
    np.testing.assert_array_equal(triconv.flip(w[:, :, 0, 0]), w[:, :, 0, 0])


def test_a_flipped_weight_makes_a_true_convolution() -> None:
    v, w = random(7), random(3, seed=1)
    result = triconv.conv(v[None, None], triconv.flip(w[None, None]), padding="full")[0, 0]
    oracle.assert_close(result, np.convolve(v, w), oracle.bound(3, np.convolve(np.abs(v), np.abs(w)), "float64"))


# explain


def test_explain_computes_nothing() -> None:
    """A gigabyte of result is planned in no time and no memory."""
    assert str(triconv.explain("conv", (1, 64, 15, 15), (96, 64, 3, 3), padding=1, engine="reference"))  # to load all
    tracemalloc.start()
    began = time.perf_counter()
    plan = triconv.explain("conv", (1, 64, 1500, 1500), (96, 64, 3, 3), padding=1, engine="reference")
    assert str(plan)
    assert time.perf_counter() - began < 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    assert plan.shape(Role.HIDDEN) == (1, 96, 1500, 1500)
    assert plan.flops == 2 * 64 * 96 * 9 * 1500**2
    assert plan.bytes == 4 * (64 * 1500**2 + 64 * 96 * 9 + 96 * 1500**2)


WORKSPACES = {
    "many channels": Row("many channels", (4, 16, 16, 16), (3, 3), 16, padding=1),
    "one large image": Row("one large image", (1, 1, 90, 90), (7, 7), 1),
    "one long kernel": Row("one long kernel", (1, 1, 4000), (101,), 1),
    "tiled": Row("tiled", (3, 2, 30, 30), (3, 3), 4, bank=(4, 7)),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", WORKSPACES)
def test_workspace_is_what_a_call_takes(operation: str, engine: str, name: str) -> None:
    """At least the memory that a call takes besides its result, and no absurd multiple of it."""
    row = WORKSPACES[name]
    if engine == "reference" and name != "many channels":
        return  # it holds two vectors of channels, whatever the size, and would take minutes
    if not takes(engine, operation, row):
        pytest.skip(f"{engine} does not take this problem")
    plan = triconv.explain(operation, row.visible, row.weight, dtype=row.dtype, engine=engine, **row.options)
    first, second = (row.operands()[role] for role in OPERATIONS[operation])
    out = np.empty(getattr(row, RESULT[operation]))
    plan.run(first, second, out)  # what is imported on the way is no workspace
    peaks = []
    for _ in range(2):  # what a thread of the test runner's takes meanwhile comes once at most
        release()  # nor would memory be that is there already
        tracemalloc.start()
        plan.engine.build(plan.problem)(first, second, out)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    peak = min(peaks)
    allowed = plan.workspace + (1 << 18)  # what Python itself takes
    assert peak <= allowed
    assert engine == "reference" or plan.workspace <= 8 * peak


@pytest.mark.parametrize("engine", [name for name, one in {**ENGINES, **dispatch.HALVES}.items() if one.most])
def test_no_workspace_is_above_the_most(engine: str) -> None:
    """So where that fits in memory, what takes as long to know as the rest of a choice need not be known."""
    known = {**ENGINES, **dispatch.HALVES}[engine]
    assert known.most is not None
    checked = 0
    wide = Row("wide", (1, 64, 3), (2,), 64, stride=4000, padding=40000, border="circular")
    for row in (
        *GRID,
        *WORKSPACES.values(),
        *SPLIT_ROWS,
        wide,
        Row("no examples", (0, 64, 100, 100), (3, 3), 64, padding=1),
    ):
        for operation in OPERATIONS:
            problem = problem_of(operation, row)
            if engine in dispatch.HALVES:
                problem = replace(problem, dtype=engine, itemsize=2)
            if not known.why_not(problem):
                assert known.workspace(problem) <= known.most(problem), f"{row.name}, {operation}"
                checked += 1
    assert checked > (20 if engine == "split" else 100) or (engine == "split" and not target().matrices)


@pytest.mark.parametrize(("room", "expected"), [(1 << 30, "large"), (1 << 20, "slow")])
def test_of_those_that_fit_in_memory_the_fastest_is_chosen(
    room: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is not the fastest of all, so that nobody had asked yet how long another takes, but at least."""
    problem = triconv.explain("conv", (1, 4, 8), (4, 4, 3)).problem
    every = {"large": (1.0, 0.0, 1 << 29), "slow": (5.0, 0.0, 0), "bounded": (9.0, 2.0, 0)}
    engines = {
        name: replace(
            ENGINES["reference"],
            name=name,
            cost=lambda _, cost=cost: cost,
            least=lambda _, least=least: least,
            workspace=lambda _, size=size: size,
        )
        for name, (cost, least, size) in every.items()
    }
    monkeypatch.setattr(dispatch, "ENGINES", engines)
    monkeypatch.setattr(dispatch, "memory", lambda: room)
    plan = dispatch._choose.__wrapped__(problem, "auto")  # type: ignore[attr-defined]
    assert plan.engine.name == expected
    said = {"large": "slower: at least 2 s", "slow": "slower: about 9 s"}
    assert plan.why_not["bounded"] == said[expected]


def test_a_plan_runs_on_what_it_was_made_for_only() -> None:
    plan = triconv.explain("conv", (1, 8, 64), (8, 8, 1))
    v, w, out = np.ones((1, 8, 64), "f4"), np.ones((8, 8, 1), "f4"), np.empty((1, 8, 64), "f4")
    frozen = out.copy()
    frozen.flags.writeable = False
    for a, b, c, message in [
        (v, w, v, "out shares memory with visible"),
        (v[:, :, ::-1], w, v, "out shares memory with visible"),
        (v, w, out[..., :5], r"hidden of shape \(1, 8, 5\)"),
        (v.astype("f8"), w, out, "visible of shape .* and dtype float64"),
        (v, w[0], out, "weight of shape"),
        (v, w, frozen, "out is read-only"),
        (v, w, np.lib.stride_tricks.as_strided(out, (1, 8, 64), (0, 0, 4)), "overlaps itself"),
    ]:
        with pytest.raises(ValueError, match=message):
            plan.run(a, b, c)
    with pytest.raises(TypeError, match="visible of type MaskedArray: expected a plain NumPy array"):
        plan.run(np.ma.masked_array(v), w, out)
    plan.run(v, w, out)
    np.testing.assert_array_equal(out, np.full(out.shape, 8.0))


def test_explain_is_the_plan_that_runs() -> None:
    plan = triconv.explain("conv_weight", (2, 3, 8, 8), (4, 3, 3, 3), stride=2)
    assert plan.problem.name == "conv_weight"
    assert {plan.engine.name, *plan.why_not} == set(ENGINES)
    assert plan.engine.name not in plan.why_not
    able = [engine for engine in ENGINES.values() if not engine.why_not(plan.problem)]
    assert plan.seconds == min(engine.cost(plan.problem) for engine in able)
    assert plan.workspace == plan.engine.workspace(plan.problem) > 0
    for name, reason in plan.why_not.items():
        if ENGINES[name] not in able:
            assert reason == "; ".join(ENGINES[name].why_not(plan.problem))
            continue
        known = "at least" if ENGINES[name].least(plan.problem) > plan.seconds else "about"
        assert reason == f"slower: {known} {reason.split(known + ' ', 1)[1]}"
        assert ENGINES[name].cost(plan.problem) >= plan.seconds
        assert dict(plan.rows())[f"not {name}"].startswith("slower: about ")
    assert plan.why_not["fft"].startswith("slower: at least ")
    v, h = random(2, 3, 8, 8, dtype="float32"), random(2, 4, 3, 3, dtype="float32")
    expected = triconv.conv_weight(v, h, 3, stride=2)
    out = np.full_like(expected, np.nan)  # in the same memory order: in another, sums may be taken in another
    plan.run(v, h, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("engine", "operation", "shapes", "options", "words"),
    [
        (
            "direct",
            "conv",
            ((8, 64, 56, 56), (64, 64, 3, 3)),
            {"padding": 1},
            r"^vectors over hidden, tiles of .* vectors",
        ),
        ("direct", "conv", ((2, 8, 20), (1, 8, 3)), {}, r"vectors over (example|position|visible), .*; copies "),
        ("winograd", "conv", ((8, 64, 56, 56), (64, 64, 3, 3)), {"padding": 1}, r"^tiles of 4 × 4 by blocks$"),
        (
            "winograd",
            "conv_weight",
            ((1, 96, 9, 9), (96, 96, 3, 3)),
            {},
            r"^tiles of \d × \d gradient by \w+$",
        ),
        (
            "winograd",
            "conv_transpose",
            ((2, 16, 20, 20), (16, 16, 4, 4)),
            {"stride": 2},
            r"^4 parts of a stride: 4 with tiles of \d × \d by ",
        ),
        (
            "fft",
            "conv",
            ((4, 8, 64, 64), (8, 8, 15, 15)),
            {},
            r"^\d+ × \d+ parts of \d+ × \d+ frequencies, \d of 4 ",
        ),
    ],
)
def test_explain_says_the_blocks(
    engine: str, operation: str, shapes: tuple[tuple[int, ...], ...], options: dict[str, Any], words: str
) -> None:
    rows = dict(triconv.explain(operation, *shapes, engine=engine, **options).rows())
    assert re.search(words, rows["blocks"]), rows["blocks"]


def test_explain_says_how_far_it_is_from_the_roofline() -> None:
    plan = triconv.explain("conv", (2, 16, 20, 20), (16, 16, 3, 3), engine="direct")
    multiplied, moved = plan.roofline
    lanes = target().lanes(4)
    assert multiplied == plan.flops / (4 * lanes * coefficients().cycles)
    assert moved == plan.bytes / coefficients().copied
    doubled = triconv.explain("conv", (2, 16, 20, 20), (16, 16, 3, 3), dtype="complex64").roofline
    assert doubled[1] == 2 * moved
    before = dict(plan.rows())
    assert "measured" not in before["roofline"]
    assert before["not im2row"].startswith('engine="direct" was asked for; about ')
    v, w, out = np.ones((2, 16, 20, 20), "f4"), np.ones((16, 16, 3, 3), "f4"), np.empty((2, 16, 18, 18), "f4")
    plan.run(v, w, out)
    plan.measured["direct"] = 10 * max(multiplied, moved)
    assert "the longer one is 10 %" in dict(plan.rows())["roofline"]


@pytest.mark.parametrize("engine", TOTAL)
def test_explain_a_named_engine(engine: str) -> None:
    plan = triconv.explain("conv_transpose", (2, 3, 9), (4, 3, 3), stride=2, engine=engine)
    assert plan.engine is ENGINES[engine]
    refused = {name: "; ".join(one.why_not(plan.problem)) for name, one in ENGINES.items()}
    asked = f'engine="{engine}" was asked for'
    assert plan.why_not == {other: refused[other] or asked for other in ENGINES if other != engine}
    lines = str(plan).splitlines()
    assert lines[0].split() == ["operation", "conv_transpose,", "float32"]
    for text in (
        "hidden (2, 4, 4) · weight (4, 3, 3) → visible (2, 3, 9)",
        "v[n, i, x] = Σ_{o<4, c<4, k<3} h[n, o, c] · w[o, i, k]   where x = 2c + k",
        "visible positions 0, 2, … from taps [0, 2]; 1, 3, … from taps [1]",
        "576 flops on 488 B",
        engine,
    ):
        assert text in str(plan), text


def test_the_fastest_engine_may_be_tried_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the estimates say; once for a problem; and the plan tells of all that were tried."""
    tried: list[str] = []
    times = {"direct": 3e-3, "winograd": 1e-3, "fft": 2e-3}
    monkeypatch.setattr(trial, "seconds", lambda engine, _: tried.append(engine.name) or times.get(engine.name, 1.0))
    monkeypatch.setattr(dispatch, "WORTH_A_TRIAL", float("inf"))
    v, w = random(2, 16, 21, 19, dtype="float32"), random(16, 16, 3, 3, dtype="float32", seed=1)
    result = triconv.conv(v, w, engine="measure")
    able = [name for name, one in ENGINES.items() if takes_problem(one, v, w)]
    assert tried == able
    np.testing.assert_array_equal(result, triconv.conv(v, w, engine="winograd"))
    plan = triconv.explain("conv", v.shape, w.shape, engine="measure", dtype="float32")
    assert tried == able
    assert plan.engine.name == "winograd"
    assert "measured 1 ms" in dict(plan.rows())["engine"]
    assert "measured 3 ms" in dict(plan.rows())["not direct"]


def takes_problem(engine: Engine, v: Array, w: Array) -> bool:
    return not engine.why_not(triconv.explain("conv", v.shape, w.shape, dtype="float32").problem)


def test_a_trial_takes_the_time_of_a_call() -> None:
    problem = triconv.explain("conv", (2, 16, 40, 40), (16, 16, 3, 3), dtype="float32").problem
    ran: list[tuple[Any, ...]] = []
    engine = replace(ENGINES["direct"], build=lambda _: lambda *arrays: ran.append(arrays))
    assert 0 <= trial.seconds(engine, problem) < 1
    assert len(ran) == 1 + trial.TRIALS
    for a, b, out in ran:
        assert [array.shape for array in (a, b, out)] == [(2, 16, 40, 40), (16, 16, 3, 3), (2, 16, 38, 38)]
        assert a.strides[1] == a.itemsize
        assert np.isfinite(a).all()
        assert np.isfinite(b).all()


def test_a_plan_remembers_what_it_took() -> None:
    plan = triconv.explain("conv", (2, 16, 41, 40), (16, 16, 3, 3), dtype="float32")
    assert "measured" not in dict(plan.rows())["engine"]
    v, w, out = (
        random(2, 16, 41, 40, dtype="float32"),
        random(16, 16, 3, 3, dtype="float32"),
        np.empty((2, 16, 39, 38), "f4"),
    )
    plan.run(v, w, out)
    assert "GFLOP/s of the sum as written" in dict(plan.rows())["engine"]


def test_the_cheapest_engine_is_the_default() -> None:
    small = triconv.explain("conv", (1, 1, 1), (1, 1, 1))
    assert small.seconds <= min(ENGINES[name].cost(small.problem) for name in TOTAL)
    assert triconv.explain("conv", (8, 16, 32, 32), (16, 16, 3, 3)).engine.name != "reference"


def test_an_engine_that_declines_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    from triconv import dispatch

    problem = triconv.explain("conv", (1, 1, 5), (1, 1, 2)).problem
    none = {name: replace(one, why_not=lambda _: ("it rains", "it pours")) for name, one in ENGINES.items()}
    monkeypatch.setattr(dispatch, "ENGINES", {**none, "reference": ENGINES["reference"]})
    plan = dispatch._choose.__wrapped__(problem, "auto")
    assert plan.engine.name == "reference"
    assert set(plan.why_not.values()) == {"it rains; it pours"}
    with pytest.raises(ValueError, match="cannot take this problem: im2row: it rains, it pours"):
        dispatch._choose.__wrapped__(problem, "im2row")


@pytest.mark.parametrize("value", [np.array(2), np.int64(2), np.array([2, 2]), [2, 2], (2, 2)], ids=repr)
def test_arrays_and_lists_are_numbers_for_the_axes(value: Any) -> None:
    rng = np.random.default_rng(0)
    v, w = rng.standard_normal((1, 2, 9, 8)), rng.standard_normal((3, 2, 2, 2))
    found = triconv.conv(v, w, stride=value, padding=value, dilation=value)
    np.testing.assert_array_equal(found, triconv.conv(v, w, stride=2, padding=2, dilation=2))
    np.testing.assert_array_equal(
        triconv.conv_weight(v, found, value, stride=2, padding=2, dilation=2),
        triconv.conv_weight(v, found, 2, stride=2, padding=2, dilation=2),
    )


def test_groups_of_any_whole_number() -> None:
    v, w = np.ones((1, 4, 5)), np.ones((6, 2, 3))
    expected = triconv.conv(v, w, groups=2)
    for groups in (np.int8(2), np.array(2)):
        np.testing.assert_array_equal(triconv.conv(v, w, groups=groups), expected)
        assert triconv.conv_transpose(expected, w, groups=groups).shape == v.shape


def test_half_precision_overflows_without_a_warning() -> None:
    assert np.isinf(triconv.conv(np.full((1, 1, 1), 60000, np.float16), np.full((1, 1, 1), 2, np.float16))).all()


def test_explain_knows_bfloat16_by_name() -> None:
    assert triconv.explain("conv", (1, 1, 5), (1, 1, 2), dtype="bfloat16", engine="direct").problem.dtype == "float32"


def test_built_plans_hold_a_bounded_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of many sizes come and go; what is kept stays below the bound, and is what engines say they hold."""
    from triconv import dispatch

    monkeypatch.setattr(dispatch, "KEPT_BYTES", 4 << 20)
    dispatch._kept.clear()
    w = np.ones((1, 1, 5, 5), np.float32)
    tracemalloc.start()
    try:
        for size in range(60, 90):
            triconv.conv(np.ones((1, 1, size, size), np.float32), w, engine="im2row")
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0 < sum(size for _, size in dispatch._kept.values()) <= 4 << 20
    assert held < 6 << 20  # 30 plans would hold 60 MiB
    monkeypatch.setattr(dispatch, "KEPT_PLANS", 5)
    for size in range(6, 20):
        triconv.conv(np.ones((1, 1, size, size), np.float32), w, engine="im2row")
    assert len(dispatch._kept) == 5
    triconv.conv(np.ones((1, 1, 400, 400), np.float32), w, engine="im2row")  # alone beyond the bound: not kept at all
    assert sum(size for _, size in dispatch._kept.values()) <= 4 << 20


# Pooling


POOLS = list(product([1, 2, 3], [None, 1, 2, 3], [0, 1], [1, 2], [False, True]))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool_is_that_of_pytorch(rank: int) -> None:
    """Values, positions and gradients; with NaN, infinities and ties."""
    pool = (tnf.max_pool1d, tnf.max_pool2d, tnf.max_pool3d)[rank - 1]
    compared = 0
    for window, stride, padding, dilation, ceil in POOLS:
        if padding > window // 2:
            continue
        v = random(2, 3, *(7, 6, 5)[:rank], seed=compared)
        v[0, 1] = np.round(v[0, 1])  # ties
        v[1, 0].flat[::7] = -np.inf
        v[1, 1] = -np.inf
        v[1, 2].flat[::5] = np.inf
        tensor = torch.from_numpy(v).requires_grad_()
        options = {"stride": stride, "padding": padding, "dilation": dilation}
        expected, where = pool(tensor, window, **options, ceil_mode=ceil, return_indices=True)
        hidden, indices = triconv.max_pool(v, window, **options, ceil=ceil)
        np.testing.assert_array_equal(hidden, expected.detach().numpy())
        np.testing.assert_array_equal(indices, where.numpy())
        assert indices.dtype == "int64"
        cotangent = random(*hidden.shape, seed=1)
        (gradient,) = torch.autograd.grad(expected, tensor, torch.from_numpy(cotangent))
        transposed = triconv.max_pool_transpose(cotangent, indices, v.shape[2:])
        np.testing.assert_allclose(transposed, gradient.numpy(), rtol=0, atol=1e-14)
        v[0, 0].flat[::9] = np.nan
        expected = pool(torch.from_numpy(v), window, **options, ceil_mode=ceil)
        np.testing.assert_array_equal(triconv.max_pool(v, window, **options, ceil=ceil)[0], expected.numpy())
        compared += 1
    assert compared > 30


def brute_pool(v: Array, k: Any, s: Any, p: Any, e: Any, hidden: tuple[int, ...]) -> tuple[Array, Array]:
    size = v.shape[2:]
    values, where = np.empty((*v.shape[:2], *hidden), v.dtype), np.empty((*v.shape[:2], *hidden), int)
    for n, i in np.ndindex(v.shape[:2]):
        for c in np.ndindex(hidden):
            best, at = None, None
            for tap in product(*map(range, k)):
                x = tuple(sa * ca + ea * ta - pa for sa, ca, ea, ta, pa in zip(s, c, e, tap, p, strict=True))
                if all(0 <= xa < size_a for xa, size_a in zip(x, size, strict=True)):
                    value = v[n, i, *x]
                    if best is None or value > best or (np.isnan(value) and not np.isnan(best)):
                        best, at = value, int(np.ravel_multi_index(x, size)) if size else 0
            values[n, i, *c], where[n, i, *c] = best, at
    return values, where


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", BFLOAT16], ids=str)
def test_max_pool_of_four_axes_by_brute_force(dtype: Any) -> None:
    """Every axis its own; of equal values the first, a NaN before all."""
    v = np.round(random(2, 2, 4, 3, 5, 4)).astype(dtype)
    v[0, 0].flat[::11] = np.nan
    hidden, indices = triconv.max_pool(
        v, (2, 1, 3, 2), stride=(2, 1, 1, 3), padding=((1, 0), (0, 0), (1, 1), (0, 1)), dilation=(1, 1, 2, 1)
    )
    values, where = brute_pool(v.astype(float), (2, 1, 3, 2), (2, 1, 1, 3), (1, 0, 1, 0), (1, 1, 2, 1), (2, 3, 3, 2))
    assert hidden.dtype == dtype
    np.testing.assert_array_equal(hidden.astype(float), values.astype(float))
    np.testing.assert_array_equal(indices, where)


def test_max_pool_without_axes_is_the_identity() -> None:
    v = random(3, 2)
    hidden, indices = triconv.max_pool(v, ())
    np.testing.assert_array_equal(hidden, v)
    assert not indices.any()
    np.testing.assert_array_equal(triconv.max_pool_transpose(hidden, indices, ()), v)


def test_max_pool_ties_and_nan() -> None:
    v = np.array([[[3.0, 3.0, np.nan, 1.0, np.nan, -np.inf]]])
    hidden, indices = triconv.max_pool(v, 2)
    np.testing.assert_array_equal(hidden, [[[3.0, np.nan, np.nan]]])
    assert indices.tolist() == [[[0, 2, 4]]]
    assert triconv.max_pool(v, 6)[1].tolist() == [[[2]]]
    minus = np.full((1, 1, 2), -np.inf)
    assert triconv.max_pool(minus, 2, padding=1)[1].tolist() == [[[0, 1]]]


def test_max_pool_of_no_examples() -> None:
    hidden, indices = triconv.max_pool(random(0, 2, 5), 2)
    assert hidden.shape == indices.shape == (0, 2, 2)
    assert triconv.max_pool_transpose(hidden, indices, 5).shape == (0, 2, 5)


def test_max_pool_transpose_is_the_adjoint_where_windows_overlap() -> None:
    v, cotangent = random(2, 3, 7, 6), random(2, 3, 5, 4, seed=1)
    hidden, indices = triconv.max_pool(v, 3, stride=1)
    direction = random(*v.shape, seed=2)
    picked = np.take_along_axis(direction.reshape(2, 3, -1), indices.reshape(2, 3, -1), axis=2).reshape(hidden.shape)
    pulled = triconv.max_pool_transpose(cotangent, indices, (7, 6))
    oracle.assert_close(
        (picked * cotangent).sum(),
        (direction * pulled).sum(),
        oracle.bound(120, np.abs(picked * cotangent).sum(), "float64"),
    )
    assert (np.unique(indices, return_counts=True)[1] > 1).any()


@pytest.mark.parametrize(("dtype", "whole"), [("float16", 2048), (BFLOAT16, 256)], ids=["float16", "bfloat16"])
def test_max_pool_transpose_rounds_once(dtype: Any, whole: int) -> None:
    """A whole number after which the dtype has even ones only: + 1 + 1 is lost when each sum is rounded."""
    hidden = np.array([[[whole, 1, 1]]], dtype)
    assert (hidden[..., 0] + hidden[..., 1] == whole).all()
    visible = triconv.max_pool_transpose(hidden, np.zeros((1, 1, 3), int), 2)
    assert visible.dtype == dtype
    assert visible.astype(float).tolist() == [[[whole + 2, 0]]]


def test_pooling_keeps_the_memory_order() -> None:
    v = np.moveaxis(random(2, 6, 6, 3), -1, 1)
    hidden, indices = triconv.max_pool(v, 2)
    for array in (hidden, indices, triconv.max_pool_transpose(hidden, indices, 6)):
        assert np.moveaxis(array, 1, -1).flags.c_contiguous


# Bad input: one line that names the argument, its value, what was expected and, where there is one, the axis.


V, W, H = np.ones((2, 4, 6, 5)), np.ones((6, 4, 3, 3)), np.ones((2, 6, 4, 3))
FIRST = np.zeros(H.shape, int)


def conv(visible: Any = V, weight: Any = W, **options: Any) -> Array:
    return triconv.conv(visible, weight, **options)


def transpose(hidden: Any = H, weight: Any = W, **options: Any) -> Array:
    return triconv.conv_transpose(hidden, weight, **options)


def gradient(visible: Any = V, hidden: Any = H, kernel_size: Any = 3, **options: Any) -> Array:
    return triconv.conv_weight(visible, hidden, kernel_size, **options)


def pool(visible: Any = V, window: Any = 2, **options: Any) -> Any:
    return triconv.max_pool(visible, window, **options)


def unpool(hidden: Any = H, indices: Any = FIRST, visible_size: Any = (8, 6)) -> Any:
    return triconv.max_pool_transpose(hidden, indices, visible_size)


def explain(operation: Any = "conv", visible: Any = V.shape, weight: Any = W.shape, **options: Any) -> triconv.Plan:
    return triconv.explain(operation, visible, weight, **options)


HUGE = 10**13
Bad = tuple[Callable[[], Any], type[Exception], list[str]]
ALONE = np.ones((2, 3))
"""The visible and the weight of an affine map: no axes, but arguments are read all the same."""

BAD: dict[str, Bad] = {
    # Arguments of odd kinds, and arguments where there are no axes.
    "stride of two axes of its own": (
        lambda: conv(stride=np.ones((2, 2), int)),
        TypeError,
        ["stride=", "2 of them", "got list", "axis 0"],
    ),
    "stride beyond the machine": (lambda: conv(stride=10**30), ValueError, ["stride=1000", "at most", "axis 0"]),
    "dilation beyond the machine": (lambda: conv(dilation=10**30), ValueError, ["dilation=1000", "at most"]),
    "pool stride beyond the machine": (lambda: pool(stride=10**30), ValueError, ["stride=1000", "at most"]),
    "graph of ragged rows": (
        lambda: conv(groups=[[True], [True, False]]),
        ValueError,
        ["groups", "(6, 4)", "rows of different lengths"],
    ),
    "borders of wrong names in an array": (
        lambda: conv(border=np.array(["zero", "none"])),
        ValueError,
        ["border=", "zero, circular, reflect, replicate"],
    ),
    "engine in a list": (lambda: conv(engine=["im2row"]), ValueError, ["engine=['im2row']", '"auto"']),
    "precision in a list": (lambda: conv(precision=["highest"]), ValueError, ["precision=['highest']"]),
    "operation in a list": (lambda: explain(["conv"]), ValueError, ["operation=['conv']", "conv_transpose"]),
    "explained arrays": (
        lambda: explain("conv", np.ones((2, 3, 5)), (4, 3, 2)),
        TypeError,
        ["visible_shape: an array of shape (2, 3, 5)", "sequence of sizes"],
    ),
    "explained shape that is a number": (lambda: explain("conv", 5), TypeError, ["visible_shape=5", "sequence"]),
    "explained dtype of no such name": (lambda: explain(dtype="foo"), TypeError, ["dtype='foo'", "float32"]),
    "rank that is a word": (lambda: triconv.flip(W, rank="a"), TypeError, ["rank='a'", "int", "got str"]),  # type: ignore[arg-type]
    "rank that is a bool": (lambda: triconv.flip(W, rank=True), TypeError, ["rank=True", "got bool"]),
    "operand of words": (lambda: conv(np.array(["a"])), TypeError, ["visible", "<U1", "expected float32"]),
    "operand of nothing": (lambda: conv(None), TypeError, ["visible", "object", "expected float32"]),
    "visible_size by its name": (
        lambda: transpose(visible_size=20),
        ValueError,
        ["visible_size=(20, 20)", "comes from visible size"],
    ),
    "stride without axes": (lambda: conv(ALONE, ALONE, stride=1.5), TypeError, ["stride=1.5", "got float"]),
    "dilation without axes": (lambda: conv(ALONE, ALONE, dilation="a"), TypeError, ["dilation='a'", "got str"]),
    "padding without axes": (lambda: conv(ALONE, ALONE, padding=-3), ValueError, ["padding=-3", "at least 0"]),
    "border without axes": (lambda: conv(ALONE, ALONE, border="bogus"), ValueError, ["border='bogus'", "zero"]),
    "bank without axes": (lambda: gradient(ALONE, ALONE, (), bank="x"), TypeError, ["bank='x'", "local"]),
    "bank of half without axes": (lambda: gradient(ALONE, ALONE, (), bank=1.5), TypeError, ["bank=1.5", "got float"]),
    "negative bank without axes": (lambda: gradient(ALONE, ALONE, (), bank=-1), ValueError, ["bank=-1", "got -1"]),
    "engine in a table": (lambda: conv(engine=np.ones((2, 2))), ValueError, ["engine=array([[1., 1.], [1., 1.]])"]),
    "precision in a table": (lambda: conv(precision=np.ones((2, 2))), ValueError, ["precision=[[1.0, 1.0], [1.0"]),
    "operation in a table": (lambda: explain(np.ones((2, 2))), ValueError, ["operation=array([[1., 1.], [1., 1.]])"]),
    "explained dtype of nothing": (lambda: explain(dtype=None), TypeError, ["dtype=NoneType", "float32"]),
    "explained dtype of a number": (lambda: explain(dtype=np.float64(1)), TypeError, ["dtype=float64", "by name"]),
    # Ranks and shapes.
    "visible without channels": (
        lambda: conv(np.ones(3)),
        ValueError,
        ["visible", "(3,)", "(examples, channels, *positions)"],
    ),
    "visible of no axes": (
        lambda: conv(np.float64(3)),
        ValueError,
        ["visible", "()", "(examples, channels, *positions)"],
    ),
    "hidden without channels": (
        lambda: transpose(np.ones(3)),
        ValueError,
        ["hidden", "(3,)", "(examples, channels, *positions)"],
    ),
    "weight of another rank": (
        lambda: conv(weight=np.ones((6, 4, 3))),
        ValueError,
        ["weight", "(6, 4, 3)", "4 axes", "6", "got 3"],
    ),
    "weight with one bank axis of two": (
        lambda: conv(weight=np.ones((1, 6, 4, 3, 3))),
        ValueError,
        ["weight", "4 axes", "got 5"],
    ),
    "weight of another rank than hidden": (
        lambda: transpose(weight=np.ones((6, 4))),
        ValueError,
        ["weight", "(6, 4)", "got 2"],
    ),
    "hidden of another rank than visible": (
        lambda: gradient(hidden=np.ones((2, 6, 4))),
        ValueError,
        ["hidden", "(2, 6, 4)", "4 axes", "(2, 4, 6, 5)"],
    ),
    "no visible channels": (
        lambda: conv(np.ones((2, 0, 6, 5))),
        ValueError,
        ["visible", "(2, 0, 6, 5)", "at least 1", "channels"],
    ),
    "no hidden channels": (
        lambda: transpose(np.ones((2, 0, 4, 3))),
        ValueError,
        ["hidden", "(2, 0, 4, 3)", "at least 1", "channels"],
    ),
    "no hidden channels in the weight": (
        lambda: conv(weight=np.ones((0, 4, 3, 3))),
        ValueError,
        ["weight", "(0, 4, 3, 3)", "at least 1", "axis 0"],
    ),
    "no kernel taps": (
        lambda: conv(weight=np.ones((6, 4, 3, 0))),
        ValueError,
        ["weight", "(6, 4, 3, 0)", "at least 1", "axis 3"],
    ),
    "no positions": (
        lambda: conv(np.ones((2, 4, 6, 0))),
        ValueError,
        ["visible", "(2, 4, 6, 0)", "at least 1", "positions on axis 1"],
    ),
    "no hidden positions": (
        lambda: gradient(hidden=np.ones((2, 6, 0, 3))),
        ValueError,
        ["hidden", "(2, 6, 0, 3)", "positions on axis 0"],
    ),
    # Channels, groups, graphs.
    "visible channels that do not match": (
        lambda: conv(weight=np.ones((6, 3, 3, 3))),
        ValueError,
        ["weight", "(6, 3, 3, 3)", "4 visible channels", "got 3"],
    ),
    "hidden channels that do not match": (
        lambda: transpose(weight=np.ones((5, 4, 3, 3))),
        ValueError,
        ["weight", "(5, 4, 3, 3)", "6 hidden channels", "got 5"],
    ),
    "weight without its groups": (
        lambda: conv(groups=2),
        ValueError,
        ["weight", "2 visible channels in each of 2 groups", "got 4"],
    ),
    "examples that do not match": (
        lambda: gradient(hidden=np.ones((3, 6, 4, 3))),
        ValueError,
        ["hidden", "(3, 6, 4, 3)", "2 examples", "got 3"],
    ),
    "groups that do not divide the visible channels": (
        lambda: conv(groups=3),
        ValueError,
        ["groups=3", "divisor", "4 visible channels"],
    ),
    "groups that do not divide the hidden channels": (
        lambda: conv(groups=4),
        ValueError,
        ["groups=4", "divisor", "6 hidden channels"],
    ),
    "groups that do not divide, weight gradient": (
        lambda: gradient(groups=4),
        ValueError,
        ["groups=4", "divisor", "6 hidden channels"],
    ),
    "groups that do not divide, transpose": (
        lambda: transpose(groups=4),
        ValueError,
        ["groups=4", "divisor", "6 hidden channels"],
    ),
    "no groups": (lambda: conv(groups=0), ValueError, ["groups=0", "at least 1"]),
    "groups that are a float": (lambda: conv(groups=2.0), TypeError, ["groups=2.0", "int", "got float"]),
    "groups that are a bool": (lambda: transpose(groups=True), TypeError, ["groups=True", "int", "got bool"]),
    "groups that are a word": (lambda: conv(groups="two"), TypeError, ["groups='two'", "int", "got str"]),
    "graph of the wrong shape": (
        lambda: conv(groups=np.ones((4, 6), bool)),
        ValueError,
        ["groups", "(hidden, visible channels) = (6, 4)", "got (4, 6)"],
    ),
    "graph of the wrong shape, transpose": (
        lambda: transpose(groups=np.ones((6, 5), bool)),
        ValueError,
        ["groups", "(6, 4)", "got (6, 5)"],
    ),
    "graph of integers": (
        lambda: conv(groups=np.ones((6, 4), int)),
        TypeError,
        ["groups", "boolean", "int64", "groups != 0"],
    ),
    # Banks.
    "bank beyond the hidden size": (
        lambda: conv(weight=np.ones((5, 1, 6, 4, 3, 3))),
        ValueError,
        ["bank=(5, 1)", "between 1 and the hidden size", "got 5 for hidden size 4", "axis 0"],
    ),
    "bank beyond the hidden size, last axis": (
        lambda: gradient(bank=(1, 4)),
        ValueError,
        ["bank=(1, 4)", "got 4 for hidden size 3", "axis 1"],
    ),
    "bank of zero": (lambda: gradient(bank=0), ValueError, ["bank=0", "between 1 and the hidden size", "axis 0"]),
    "bank for the wrong number of axes": (
        lambda: gradient(bank=(1, 2, 3)),
        ValueError,
        ["bank=(1, 2, 3)", "one per axis", "got 3"],
    ),
    "bank that is a word": (
        lambda: gradient(bank="everywhere"),
        TypeError,
        ["bank='everywhere'", '"local"', "got str", "axis 0"],
    ),
    "bank that is a float": (lambda: gradient(bank=(1, 2.5)), TypeError, ["bank=(1, 2.5)", "got float", "axis 1"]),
    # Kernels, strides, dilations.
    "kernel larger than the visible": (
        lambda: conv(weight=np.ones((6, 4, 3, 6))),
        ValueError,
        ["kernel size 6", "at most", "5", "axis 1"],
    ),
    "dilated kernel larger than the padded visible": (
        lambda: conv(dilation=(5, 1), padding=1),
        ValueError,
        ["kernel size 3", "dilation 5", "11", "at most", "8", "axis 0"],
    ),
    "kernel size of zero": (
        lambda: gradient(kernel_size=(3, 0)),
        ValueError,
        ["kernel_size=(3, 0)", "at least 1", "got 0", "axis 1"],
    ),
    "kernel size for the wrong number of axes": (
        lambda: gradient(kernel_size=(3,)),
        ValueError,
        ["kernel_size=(3,)", "2 of them", "got 1"],
    ),
    "kernel size that is a float": (
        lambda: gradient(kernel_size=3.0),
        TypeError,
        ["kernel_size=3.0", "int", "got float", "axis 0"],
    ),
    "stride of zero": (lambda: conv(stride=0), ValueError, ["stride=0", "at least 1", "got 0", "axis 0"]),
    "negative stride": (
        lambda: transpose(stride=(1, -2)),
        ValueError,
        ["stride=(1, -2)", "at least 1", "got -2", "axis 1"],
    ),
    "stride that is a float": (lambda: conv(stride=1.5), TypeError, ["stride=1.5", "int", "got float", "axis 0"]),
    "stride that is a bool": (lambda: conv(stride=True), TypeError, ["stride=True", "int", "got bool", "axis 0"]),
    "stride for the wrong number of axes": (
        lambda: conv(stride=(1, 1, 1)),
        ValueError,
        ["stride=(1, 1, 1)", "2 of them", "one per axis", "got 3"],
    ),
    "dilation of zero": (
        lambda: gradient(dilation=(1, 0)),
        ValueError,
        ["dilation=(1, 0)", "at least 1", "got 0", "axis 1"],
    ),
    "negative dilation": (lambda: conv(dilation=-1), ValueError, ["dilation=-1", "at least 1", "got -1", "axis 0"]),
    "dilation for the wrong number of axes": (
        lambda: transpose(dilation=[2]),
        ValueError,
        ["dilation=[2]", "2 of them", "got 1"],
    ),
    # Padding and borders.
    "negative padding": (lambda: conv(padding=-1), ValueError, ["padding=-1", "at least 0", "got -1", "axis 0"]),
    "negative padding on one side": (
        lambda: transpose(padding=((0, 0), (0, -2))),
        ValueError,
        ["padding=((0, 0), (0, -2))", "at least 0", "got -2", "axis 1"],
    ),
    "padding of three sides": (
        lambda: conv(padding=((0, 0, 0), 1)),
        ValueError,
        ["padding=((0, 0, 0), 1)", "(before, after)", "got (0, 0, 0)", "axis 0"],
    ),
    "padding for the wrong number of axes": (
        lambda: conv(padding=(1, 1, 1)),
        ValueError,
        ["padding=(1, 1, 1)", "3 values for 2 axes"],
    ),
    "padding that is another word": (
        lambda: conv(padding="half"),
        ValueError,
        ["padding='half'", '"valid", "same" or "full"'],
    ),
    "padding that is a float": (lambda: conv(padding=(0, 0.5)), TypeError, ["padding=(0, 0.5)", "got float", "axis 1"]),
    "reflect as wide as the axis": (
        lambda: conv(padding=(0, 5), border="reflect"),
        ValueError,
        ["padding (5, 5)", "reflect", "narrower", "5", "axis 1"],
    ),
    "reflect as wide as the axis, transpose": (
        lambda: transpose(padding=(0, 5), border="reflect"),
        ValueError,
        ["hidden size 3", "no visible size", "axis 1"],
    ),
    "another border": (
        lambda: conv(border="mirror"),
        ValueError,
        ["border='mirror'", "zero, circular, reflect, replicate"],
    ),
    "another border on one axis": (
        lambda: conv(border=("zero", "wrap")),
        ValueError,
        ["border=('zero', 'wrap')", "zero, circular, reflect, replicate"],
    ),
    "borders for the wrong number of axes": (
        lambda: conv(border=("zero",)),
        ValueError,
        ["border=('zero',)", "2 of them"],
    ),
    # Sizes.
    "visible_size too small": (
        lambda: transpose(visible_size=(6, 4)),
        ValueError,
        ["visible size 4", "hidden size 3", "comes from visible size 5", "axis 1"],
    ),
    "visible_size too large for the stride": (
        lambda: transpose(visible_size=(7, 8), stride=2),
        ValueError,
        ["visible size 7", "hidden size 4", "9 to 10", "axis 0"],
    ),
    "visible_size of zero": (lambda: transpose(visible_size=0), ValueError, ["visible_size=0", "at least 1", "axis 0"]),
    "visible_size for the wrong number of axes": (
        lambda: transpose(visible_size=(6,)),
        ValueError,
        ["visible_size=(6,)", "2 of them", "got 1"],
    ),
    "visible_size where there is none": (
        lambda: transpose(padding=9),
        ValueError,
        ["hidden size 4", "no visible size", "padding (9, 9)", "axis 0"],
    ),
    "sizes that do not belong together": (
        lambda: gradient(hidden=np.ones((2, 6, 4, 4))),
        ValueError,
        ["visible size 5", "hidden size 4", "comes from visible size 6", "axis 1"],
    ),
    # dtypes.
    "integers": (lambda: conv(V.astype(int)), TypeError, ["visible", "int64", "float32", ".astype('float64')"]),
    "unsigned integers": (lambda: conv(weight=W.astype("uint8")), TypeError, ["weight", "uint8", ".astype('float64')"]),
    "booleans": (lambda: transpose(H > 0), TypeError, ["hidden", "bool", ".astype('float64')"]),
    "objects": (lambda: gradient(V.astype(object)), TypeError, ["visible", "object", "float32"]),
    "strings": (lambda: conv(V.astype(str)), TypeError, ["visible", "<U", "float32"]),
    "long doubles": (lambda: conv(V.astype("longdouble")), TypeError, ["visible", "float128", "float64"]),
    "a ragged list": (lambda: conv([[[1.0, 2.0], [3.0]]]), ValueError, ["visible", "expected an array"]),
    "a masked array": (lambda: conv(np.ma.masked_array(V)), TypeError, ["visible", "mask", "filled"]),
    "nothing": (lambda: conv(None), TypeError, ["visible", "object"]),
    "dtypes without a common one": (
        lambda: conv(V.astype("float16"), W.astype(BFLOAT16)),
        TypeError,
        ["float16", "bfloat16", "cast"],
    ),
    # Memory.
    "padding beyond memory": (lambda: conv(padding=HUGE), MemoryError, ["conv", "bytes", str(2 * HUGE)[:5]]),
    "stride beyond memory": (lambda: transpose(stride=HUGE), MemoryError, ["conv_transpose", "bytes"]),
    "sizes beyond any integer": (lambda: transpose(stride=10**30), ValueError, ["stride=1000", "at most"]),
    "bank beyond memory": (
        lambda: triconv.conv_weight(
            np.broadcast_to(1.0, (1, 1, 10**7)), np.broadcast_to(1.0, (1, 1, 10**7 - 10**5 + 1)), 10**5, bank="local"
        ),
        MemoryError,
        ["conv_weight", str(8 * 10**5 * (10**7 - 10**5 + 1))[:4], "bytes"],
    ),
    # Names.
    "another engine": (lambda: conv(engine="fastest"), ValueError, ["engine='fastest'", '"auto"', *ENGINES]),
    "another precision": (lambda: conv(precision="low"), ValueError, ["precision='low'", '"default"', '"highest"']),
    "another operation": (lambda: explain("convolve"), ValueError, ["operation='convolve'", *OPERATIONS]),
    "explain integers": (lambda: explain(dtype="int32"), TypeError, ["int32", "float32"]),
    "explain a weight that does not match": (
        lambda: explain(weight=(6, 3, 3, 3)),
        ValueError,
        ["weight", "4 visible channels", "got 3"],
    ),
    "explain beyond memory": (
        lambda: explain("conv", (1, 1, HUGE), (1, 1, 1)),
        MemoryError,
        ["conv", str(4 * HUGE)[:1], "bytes"],
    ),
    "flip of too few axes": (lambda: triconv.flip(np.ones(1)), ValueError, ["rank", "(1,)"]),
    "flip of more axes than there are": (
        lambda: triconv.flip(W, rank=3),
        ValueError,
        ["rank=3", "0 to 2", "(6, 4, 3, 3)"],
    ),
    # Pooling.
    "pool of integers": (lambda: pool(V.astype(int)), TypeError, ["visible", "int64", "float32"]),
    "pool of complex numbers": (lambda: pool(V + 0j), TypeError, ["visible", "complex128", "largest"]),
    "pool of one axis": (lambda: pool(np.ones(3)), ValueError, ["visible", "(3,)", "(examples, channels, *positions)"]),
    "pool without channels": (lambda: pool(np.ones((2, 0, 4, 4))), ValueError, ["visible", "(2, 0, 4, 4)", "zero"]),
    "window of zero": (lambda: pool(window=(2, 0)), ValueError, ["window=(2, 0)", "at least 1", "got 0", "axis 1"]),
    "window larger than the visible": (lambda: pool(window=7), ValueError, ["window 7", "at most", "6", "axis 0"]),
    "window for the wrong number of axes": (
        lambda: pool(window=(2, 2, 2)),
        ValueError,
        ["window=(2, 2, 2)", "2 of them", "got 3"],
    ),
    "pool with a negative stride": (lambda: pool(stride=-1), ValueError, ["stride=-1", "at least 1", "axis 0"]),
    "pool with negative padding": (lambda: pool(padding=-1), ValueError, ["padding=-1", "at least 0", "axis 0"]),
    "window that sees padding only": (
        lambda: pool(padding=((0, 0), (2, 0))),
        ValueError,
        ["padding (2, 0)", "no window to see padding only", "axis 1"],
    ),
    "window that sees padding only, in the middle": (
        lambda: pool(np.ones((1, 1, 1)), 2, padding=2, dilation=4),
        ValueError,
        ["padding (2, 2)", "padding only", "axis 0"],
    ),
    "indices of another shape": (
        lambda: unpool(indices=np.zeros((2, 6, 4, 4), int)),
        ValueError,
        ["indices", "(2, 6, 4, 4)", "(2, 6, 4, 3)"],
    ),
    "indices that are floats": (
        lambda: unpool(indices=np.zeros(H.shape)),
        TypeError,
        ["indices", "float64", "integers"],
    ),
    "indices beyond the visible": (
        lambda: unpool(indices=np.full(H.shape, 48)),
        ValueError,
        ["indices", "48", "0 to 47", "(8, 6)"],
    ),
    "indices before the visible": (
        lambda: unpool(indices=np.full(H.shape, -1)),
        ValueError,
        ["indices", "-1", "0 to 47"],
    ),
    "pooled of one axis": (
        lambda: unpool(np.ones(3), np.zeros(3, int)),
        ValueError,
        ["hidden", "(3,)", "(examples, channels, *positions)"],
    ),
    "pooled visible_size of zero": (
        lambda: unpool(visible_size=(8, 0)),
        ValueError,
        ["visible_size=(8, 0)", "at least 1", "axis 1"],
    ),
    "pooled visible_size beyond memory": (
        lambda: unpool(visible_size=(HUGE, HUGE)),
        MemoryError,
        ["max_pool_transpose", "bytes"],
    ),
    "pool padding beyond memory": (lambda: pool(padding=HUGE), (ValueError, MemoryError), ["padding"]),  # type: ignore[dict-item]
    "explain a negative batch": (lambda: explain("conv", (-1, 4, 6, 5)), ValueError, ["visible", "(-1, 4, 6, 5)"]),
    "explain a fractional shape": (lambda: explain("conv", (1, 4, 6.5, 5)), TypeError, ["visible", "6.5"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told_in_one_line(name: str) -> None:
    function, kind, fragments = BAD[name]
    with pytest.raises(kind) as error:
        function()
    message = str(error.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message, f"{fragment!r} is missing in: {message}"


def test_bad_input_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("allocated a result for bad input")

    from triconv import ops

    monkeypatch.setattr(ops, "allocate", never)
    for function, kind, _ in BAD.values():
        with pytest.raises(kind):
            function()
    with pytest.raises(AssertionError, match="allocated"):
        conv()


def test_nan_is_no_bad_input() -> None:
    v = V.copy()
    v[0, 0, 0, 0] = np.nan
    h = conv(v)
    assert np.isnan(h[0, :, 0, 0]).all()
    assert np.isfinite(h[1]).all()
    assert np.isfinite(h[0, :, 1:]).all()


def test_overflow_and_nan_do_not_warn() -> None:
    """Warnings are errors here: infinities travel silently."""
    huge = np.full((1, 1, 3), 1e38, "float32")
    assert np.isinf(triconv.conv(huge, huge[..., :2])).all()
    assert np.isnan(triconv.conv(np.full((1, 1, 3), np.inf), np.array([[[1.0, -1.0]]]))).all()


HEAVY = [
    "scipy",
    "torch",
    "jax",
    "matplotlib",
    "llvmlite",
    "typer",
    "rich",
    "sklearn",
    "PIL",
    "safetensors",
    "ml_dtypes",
]


def test_importing_triconv_loads_nothing_heavy() -> None:
    """Also none of it when an operation runs by default on a small problem, bar SciPy for the engine that is SciPy."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import triconv"], capture_output=True, text=True, check=True
    )
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in run.stderr.splitlines() if "|" in line}
    assert {"triconv", "numpy"} <= loaded
    assert not loaded & set(HEAVY)
