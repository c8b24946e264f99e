"""Max pooling and its transpose against NumPy, bit for bit: any geometry, dtype, memory order and number of threads."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import triconv
from triconv import pool
from triconv.geometry import OUTSIDE, Geometry, pooled
from triconv.kernels import target, team
from triconv.kernels.compile import object_code
from triconv.kernels.pool import MaxPool, Scatter
from triconv.kernels.team import Part
from triconv.kernels.threads import threads

Array = NDArray[Any]

BFLOAT16 = ml_dtypes.bfloat16
DTYPES = ["float32", "float64", "float16", BFLOAT16, ">f4"]

GEOMETRIES: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "no axes": ((), (), {}),
    "one position": ((1,), (1,), {}),
    "window 2": ((24, 24), (2, 2), {}),
    "window 3, stride 2, padded": ((11, 70), (3, 3), {"stride": 2, "padding": 1}),
    "stride 1 over many vectors": ((5, 150), (3, 3), {"stride": 1, "padding": 1}),
    "stride 2 to the last number": ((3, 65), (1, 1), {"stride": 2}),
    "stride 3": ((9, 100), (3, 2), {"stride": 3}),
    "dilated": ((9, 40), (3, 2), {"stride": (2, 1), "dilation": (2, 5)}),
    "ceil": ((10, 38), (3, 4), {"stride": (2, 3), "ceil": True}),
    "ceil, padded and dilated": ((8, 9, 10), (2, 3, 2), {"stride": 2, "padding": 1, "dilation": 2, "ceil": True}),
    "uneven padding": ((7, 8), (3, 4), {"stride": 1, "padding": ((2, 0), (0, 3))}),
    "edges alone": ((3,), (5,), {"stride": 1, "padding": 2}),
    "gaps between windows": ((50,), (2,), {"stride": 5}),
    "whole plane": ((7, 9), (7, 9), {}),
    "whole plane, padded": ((4, 3), (6, 5), {"padding": 1}),
    "four axes": ((4, 3, 5, 4), (2, 1, 3, 2), {"stride": (2, 1, 1, 3), "padding": ((1, 0), (0, 0), (1, 1), (0, 1))}),
}


def pooled_by_numpy(v: Array, window: tuple[int, ...], **options: Any) -> tuple[Array, Array]:
    """Tap by tap, over a table of what each window reads; one number smaller than any stands for the padding."""
    rank = v.ndim - 2
    every = {
        name: np.broadcast_to(options.get(name, default), rank) for name, default in (("dilation", 1), ("ceil", 0))
    }
    stride = np.broadcast_to(options.get("stride", window), rank)
    pads = options.get("padding", 0)
    pads = pads if isinstance(pads, tuple) else ((pads, pads),) * rank
    steps = zip(v.shape[2:], window, stride.tolist(), every["dilation"].tolist(), pads, every["ceil"], strict=True)
    geometry = Geometry(tuple(pooled(x, k, s, e, p, bool(ceil), "") for x, k, s, e, p, ceil in steps))
    flat = np.full((*v.shape[:2], prod(geometry.visible) + 1), -np.inf, v.dtype)
    flat[..., :-1] = v.reshape(*v.shape[:2], -1)
    reads = geometry.reads
    first = reads[np.arange(len(reads)), np.argmax(reads != OUTSIDE, axis=1)]
    where = np.broadcast_to(first, (*v.shape[:2], len(reads))).copy()
    best = flat[..., first]
    for tap in reads.T:
        value = flat[..., tap]
        with np.errstate(invalid="ignore"):
            better = (value > best) | (np.isnan(value) & ~np.isnan(best))
        np.copyto(best, value, where=better)
        np.copyto(where, tap, where=better)
    shape = (*v.shape[:2], *geometry.hidden)
    return best.reshape(shape), where.reshape(shape)


def scattered_by_numpy(h: Array, indices: Array, size: tuple[int, ...]) -> Array:
    """Values added one after the other, in float32 at least."""
    wide = np.dtype("float32") if h.dtype.itemsize == 2 else h.dtype
    flat = np.zeros((*h.shape[:2], prod(size)), wide)
    for n, i in np.ndindex(h.shape[:2]):
        np.add.at(flat[n, i], indices[n, i].ravel(), h[n, i].ravel().astype(wide))
    return flat.reshape(*h.shape[:2], *size).astype(h.dtype)


def odd_numbers(*shape: int, dtype: Any = "float64", seed: int = 0) -> Array:
    """Random numbers with ties, zeros of both signs, infinities and NaN, and planes of nothing else."""
    rng = np.random.default_rng(seed)
    v = np.round(2 * rng.standard_normal(shape)) / 2
    for value in (np.nan, np.inf, -np.inf, -0.0):
        v[rng.random(shape) < 0.05] = value
    planes = v.reshape(-1, prod(shape[2:]))
    for plane, value in zip(planes, (np.nan, -np.inf, -0.0), strict=False):
        plane[...] = value
    return v.astype(dtype)


def lying(v: Array, order: str) -> Array:
    """The same numbers in another memory order."""
    match order:
        case "channels last":
            return np.moveaxis(np.moveaxis(v, 1, -1).copy(), -1, 1)
        case "examples last":
            return np.moveaxis(np.moveaxis(v, 0, -1).copy(), -1, 0)
        case "every other, channels last":
            apart = np.zeros((*v.shape[:1], *v.shape[2:], 2 * v.shape[1]), v.dtype)
            apart[..., ::2] = np.moveaxis(v, 1, -1)
            return np.moveaxis(apart[..., ::2], -1, 1)
        case "reversed":
            return v[:, ::-1].copy()[:, ::-1]
    return v.copy()


ORDERS = ["channels first", "channels last", "examples last", "every other, channels last", "reversed"]


def same_bits(actual: Array, expected: Array) -> None:
    """Equal, with the signs of zeros; a NaN is a NaN."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual.astype("f8"), expected.astype("f8"))
    numbers = ~np.isnan(actual.astype("f8"))
    np.testing.assert_array_equal(np.signbit(actual)[numbers], np.signbit(expected)[numbers])


def compare(name: str, dtype: Any, order: str, batch: tuple[int, int] = (2, 3)) -> None:
    """Pool, and transpose, as NumPy does."""
    size, window, options = GEOMETRIES[name]
    v = lying(odd_numbers(*batch, *size, dtype=dtype), order)
    hidden, indices = triconv.max_pool(v, window, **options)
    values, where = pooled_by_numpy(v, window, **options)
    same_bits(hidden, values)
    same_bits(indices, where.astype("int64"))
    h = lying(np.random.default_rng(1).standard_normal(values.shape).astype(dtype), order)
    same_bits(triconv.max_pool_transpose(h, indices, size), scattered_by_numpy(h, where, size))


def compare_all() -> None:
    """Every geometry in the two orders that have kernels of their own, with more and with fewer channels than lanes."""
    for name, dtype, order, channels in product(GEOMETRIES, ["float32", "float64"], ORDERS[:2], [3, 70]):
        compare(name, dtype, order, (2, channels))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).str if dtype == ">f4" else str(dtype))
@pytest.mark.parametrize("name", GEOMETRIES)
def test_pooling_is_that_of_numpy(name: str, dtype: Any) -> None:
    for order in ORDERS:
        compare(name, dtype, order)


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 64, 81])
@pytest.mark.parametrize("order", ORDERS[:2])
def test_any_number_of_channels(channels: int, order: str) -> None:
    for name in ("window 3, stride 2, padded", "whole plane", "no axes"):
        for dtype in ("float32", "float64"):
            compare(name, dtype, order, (2, channels))


@pytest.mark.parametrize("order", ORDERS)
def test_results_have_the_memory_order_of_their_operand(order: str) -> None:
    v = lying(odd_numbers(2, 3, 6, 8), order)
    hidden, indices = triconv.max_pool(v, 2)
    for array in (hidden, indices, triconv.max_pool_transpose(hidden, indices, (6, 8))):
        assert np.argsort(array.strides).tolist() == np.argsort(np.abs(v.strides)).tolist()


def counted_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls were run side by side, each time that some are from now on."""
    sizes: list[int] = []
    whole = team.run_all

    def run_all(calls: Sequence[Part]) -> None:
        sizes.append(len(calls))
        whole(calls)

    monkeypatch.setattr(team, "run_all", run_all)
    return sizes


@pytest.mark.parametrize("order", ORDERS[:2])
def test_any_number_of_threads_gives_the_same_bits(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "WORTH_THREADS", 0)
    sizes = counted_calls(monkeypatch)
    for count in (1, 2, 3, 7):
        with threads(count):
            for name in ("window 3, stride 2, padded", "edges alone", "whole plane"):
                compare(name, "float32", order, (5, 2))
    assert {1, 2, 3, 5, 7} == set(sizes)  # the transpose has 5 examples


def test_small_calls_stay_on_their_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = counted_calls(monkeypatch)
    with threads(2):
        triconv.max_pool(np.zeros((1, 1, 8, 8)), 2)
        triconv.max_pool(np.zeros((1, 1, 1024, 1024)), 2)
    assert sizes == [1, 2]


def test_positions_in_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for planes of more than 2³¹ positions, on small ones."""
    limit = np.iinfo(np.int32).max
    assert MaxPool("float32", 1) == pool._kernel(np.dtype("float32"), 1, limit)
    assert MaxPool("float32", 0, wide=True) == pool._kernel(np.dtype("float32"), 3, limit + 1)
    monkeypatch.setattr(
        pool, "_kernel", lambda dtype, step, _: MaxPool(dtype.name, step if step <= 2 else 0, wide=True)
    )
    for name, order in product(GEOMETRIES, ORDERS[:2]):
        compare(name, "float32", order)


def test_the_transpose_takes_complex_numbers_and_any_integers() -> None:
    _, indices = triconv.max_pool(odd_numbers(2, 3, 9, 8), 3, stride=1)
    h = np.random.default_rng(0).standard_normal((2, *indices.shape))
    expected = scattered_by_numpy(h[0], indices, (9, 8)) + 1j * scattered_by_numpy(h[1], indices, (9, 8))
    for kind in ("int8", "uint8", ">i4", "uint64"):
        actual = triconv.max_pool_transpose(h[0] + 1j * h[1], indices.astype(kind), (9, 8))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("index", [-1, 4, -(2**63), 2**63], ids=str)
def test_indices_outside_are_refused(index: int) -> None:
    indices = np.array([[[0, index]]], "uint64" if index == 2**63 else "int64")
    with pytest.raises(ValueError, match=f"{index}.*expected 0 to 3"):
        triconv.max_pool_transpose(np.ones((1, 1, 2)), indices, 4)


def test_the_transpose_of_nothing_is_zero() -> None:
    empty = triconv.max_pool_transpose(np.ones((2, 3, 0)), np.zeros((2, 3, 0), int), 4)
    np.testing.assert_array_equal(empty, np.zeros((2, 3, 4)))


@pytest.mark.parametrize("name", target.NAMED)
def test_kernels_compile_for_every_target(name: str) -> None:
    for dtype in ("float32", "float64"):
        for kernel in (MaxPool(dtype, 1), MaxPool(dtype, 2), MaxPool(dtype, 0), Scatter(dtype)):
            assert object_code(kernel, target.target(name))


def elsewhere(code: str, **environment: str) -> str:
    """What a fresh Python prints that imports this module, with environment variables of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import test_pool, triconv; {code}"],
        cwd=Path(__file__).parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_checked_kernels_find_nothing() -> None:
    assert elsewhere("test_pool.compare_all(); print('same')", TRICONV_CHECKED="1") == "same"


@pytest.mark.parametrize(
    ("table", "array"), [("rows", "rows"), ("heads", "visible"), ("spans", "spans"), ("taps", "visible")]
)
def test_checked_kernels_find_what_is_outside(table: str, array: str) -> None:
    """A table that names what is not there."""
    code = f"test_pool.break_table({table!r})"
    assert f": {array} at byte" in elsewhere(code, TRICONV_CHECKED="1")


def break_table(table: str) -> None:
    whole = pool._tables

    def broken(*args: Any) -> tuple[Array, ...]:
        rows, heads, spans = (array.copy() for array in whole(*args))
        match table:
            case "rows":
                rows = rows[:-1]
            case "heads":
                heads[-1] += 8
            case "spans":
                spans = spans[:, :3].copy()
            case "taps":
                spans[-1, 3] += 1
        return rows, heads, spans

    pool._tables = broken  # type: ignore[assignment]
    try:
        triconv.max_pool(np.zeros((1, 1, 8, 8)), 2)
    except IndexError as error:
        print(error)


def test_pooling_for_other_vectors() -> None:
    """Those of narrower registers, which any x86 processor with AVX2 has."""
    from llvmlite import binding

    names = ["sse", "avx2"] if binding.get_host_cpu_features().get("avx2") else ["host"]
    for name in names:
        assert elsewhere("test_pool.compare_all(); print('same')", TRICONV_TARGET=name) == "same"


def test_llvm_is_loaded_by_the_first_call() -> None:
    code = "import sys, numpy, triconv; {}; print('llvmlite' in sys.modules)"
    for call, loaded in (("", False), ("triconv.max_pool(numpy.zeros((1, 1, 2)), 2)", True)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(call or "0")], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(loaded)
