"""Calls that are found ready mean what was written: nothing that equals an argument is taken for it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

import triconv
from triconv import dispatch, ops

Array = NDArray[Any]

V, W = np.arange(2 * 2 * 5 * 5, dtype=np.float32).reshape(2, 2, 5, 5), np.ones((3, 2, 2, 2), np.float32)
H = np.ones((2, 3, 4, 4), np.float32)


@pytest.fixture(autouse=True)
def nothing_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "_ready", {})


def conv(**options: Any) -> Array:
    return triconv.conv(V, W, **options)


def conv_transpose(**options: Any) -> Array:
    return triconv.conv_transpose(H, W, **options)


def conv_weight(kernel_size: Any = 2, **options: Any) -> Array:
    return triconv.conv_weight(V, H, kernel_size, **options)


GOOD_AND_BAD: dict[str, tuple[Callable[..., Array], dict[str, Any], dict[str, Any]]] = {
    "stride True": (conv, {"stride": 1}, {"stride": True}),
    "stride 1.0": (conv, {"stride": 1}, {"stride": 1.0}),
    "stride with True inside": (conv, {"stride": (1, 1)}, {"stride": (1, True)}),
    "padding False": (conv, {"padding": 0}, {"padding": False}),
    "pairs with False inside": (conv, {"padding": ((0, 0), (0, 0))}, {"padding": ((0, 0), (0, False))}),
    "dilation 1.0": (conv_transpose, {"dilation": 1}, {"dilation": 1.0}),
    "groups True": (conv, {"groups": 1}, {"groups": True}),
    "visible size 5.0": (conv_transpose, {"visible_size": 5}, {"visible_size": 5.0}),
    "kernel size 2.0": (conv_weight, {"kernel_size": 2}, {"kernel_size": 2.0}),
    "kernel size with True inside": (
        lambda kernel_size: triconv.conv_weight(V, np.ones((2, 3, 5, 5), np.float32), kernel_size),
        {"kernel_size": (1, 1)},
        {"kernel_size": (1, True)},
    ),
    "bank True": (conv_weight, {"bank": 1}, {"bank": True}),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_what_equals_a_good_argument_is_refused_after_it(name: str) -> None:
    call, good, bad = GOOD_AND_BAD[name]
    call(**good)
    assert len(ops._ready) == 1
    with pytest.raises(TypeError):
        call(**bad)
    call(**good)
    assert len(ops._ready) == 1


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.complex64, np.float16, ml_dtypes.bfloat16, ">f4"], ids=str)
def test_every_dtype_is_a_call_of_its_own(kind: Any) -> None:
    conv(padding=1)
    found = triconv.conv(V.astype(kind), W.astype(kind), padding=1)
    assert found.dtype == np.dtype(kind).newbyteorder("=")
    np.testing.assert_array_equal(found.astype(np.complex64), conv(padding=1).astype(np.complex64))


def test_integers_are_refused_after_good_calls() -> None:
    conv()
    with pytest.raises(TypeError, match=r"^visible of dtype int64"):
        triconv.conv(V.astype(np.int64), W)
    with pytest.raises(TypeError, match=r"^weight of dtype bool"):
        triconv.conv(V, W.astype(np.bool_))
    with pytest.raises(TypeError, match=r"masked"):
        triconv.conv(np.ma.masked_array(V, V > 3), W)


def test_arguments_that_differ_are_calls_of_their_own() -> None:
    """Each is made twice, in two orders, and is the same both times."""
    every: list[Callable[[], Array]] = [
        lambda: conv(),
        lambda: conv(stride=2),
        lambda: conv(padding=2),
        lambda: conv(padding=(1, 2)),
        lambda: conv(padding=((1, 2), (2, 1))),
        lambda: conv(padding="same"),
        lambda: conv(padding=1, border="circular"),
        lambda: conv(padding=1, border=("reflect", "zero")),
        lambda: conv(dilation=2),
        lambda: conv(engine="reference"),
        lambda: conv_transpose(),
        lambda: conv_transpose(stride=2),
        lambda: conv_transpose(stride=2, visible_size=9),
        lambda: conv_weight(),
        lambda: conv_weight(bank=1),
        lambda: conv_weight(bank="local"),
        lambda: conv_weight(bank=(2, "local")),
    ]
    first = [call() for call in every]
    assert len(ops._ready) == len(every)
    for before, call in reversed(list(zip(first, every, strict=True))):
        np.testing.assert_array_equal(call(), before)
    assert len(ops._ready) == len(every)


def test_channel_graphs_are_read_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are known by their entries; of large ones every call makes the problem anew."""
    graph = np.ones((3, 2), np.bool_)
    whole = conv(groups=graph)
    graph[0, 1] = False
    assert not np.array_equal(conv(groups=graph), whole)
    assert len(ops._ready) == 2
    graph[0, 1] = True
    np.testing.assert_array_equal(conv(groups=graph), whole)
    assert len(ops._ready) == 2
    ops._ready.clear()
    monkeypatch.setattr(ops, "SMALL_GRAPH", graph.size - 1)
    np.testing.assert_array_equal(conv(groups=graph), whole)
    assert not ops._ready


def test_memory_orders_of_a_ready_call() -> None:
    """The order of the result is that of each call's own operand."""
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(V, 1, -1)), -1, 1)
    expected = conv(padding=1)
    found = triconv.conv(last, W, padding=1)
    assert expected.flags.c_contiguous
    assert np.moveaxis(found, 1, -1).flags.c_contiguous
    np.testing.assert_array_equal(found, expected)
    assert len(ops._ready) == 1


def test_results_are_never_shared() -> None:
    first = conv()
    kept = first.copy()
    second = conv()
    second[...] = -1
    np.testing.assert_array_equal(first, kept)


def test_ready_calls_are_bounded_and_built_ones_not_kept_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "KEPT_CALLS", 3)
    monkeypatch.setattr(dispatch, "KEPT_PLANS", 2)
    dispatch._kept.clear()
    runs = []
    for size in range(6, 12):
        triconv.conv(np.ones((1, 2, size, 5), np.float32), W, engine="im2row")
        assert len(ops._ready) <= 3
        runs.append(weakref.ref(next(reversed(dispatch._kept.values()))[0]))
    gc.collect()
    assert [run() is not None for run in runs] == [False] * 4 + [True] * 2
