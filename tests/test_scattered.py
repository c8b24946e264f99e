"""Transposes that take large local kernels as they lie: against the oracle, on any threads, and when they do."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import oracle
import pytest
from grid import Row
from test_direct import ORDERS, cases, known, problem_of

import triconv
from triconv.engines import direct
from triconv.form import Problem, Role
from triconv.kernels import loops, prepared, team, ways
from triconv.kernels.target import target

LARGE = Row("large", (8, 64, 28, 28), (3, 3), 64, bank="local", padding=1, dtype="float32")


def forced(patch: pytest.MonkeyPatch, vector: str) -> None:
    """Have kernels taken as they lie, whatever their size, and any work shared."""

    def chosen(problem: Problem, strides: tuple[ways.Strides, ...], *_: object) -> ways.Way:
        return ways.way(problem, vector, strides, (False,) * problem.geometry.rank, scattered=True)

    patch.setattr(prepared, "best_way", chosen)
    patch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
    patch.setattr(prepared.Prepared, "_written_down", lambda *_: None)


def results(row: Row, *operands: Any) -> list[np.ndarray]:
    """Of a transpose, for several numbers of threads."""
    run, shape, found = direct.build(problem_of(row, "conv_transpose")), row.visible, []
    for threads in (1, 2, 3, 8):
        with triconv.threads(threads):
            found.append(np.full(shape, np.nan, row.dtype))
            run(*operands, found[-1])
    return found


def test_any_number_of_threads_finds_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = set()
    for case in cases():
        if case.scattered:
            forced(monkeypatch, case.vector)
            a, b, expected, allowed = known(case.row, case.operation)
            for order in ORDERS.values():
                found = results(case.row, order(a), order(b))
                assert len({one.tobytes() for one in found}) == 1, case
                oracle.assert_close(found[0], expected, allowed, str(case))
            tried.add((case.row.rank, case.vector))
    assert {(rank, vector) for rank in (1, 2) for vector in ("hidden", "visible", "example")} <= tried


MANY_BANDS = [
    Row("bands", (9, 20, 23, 5), (3, 2), 33, bank="local", padding=1, dtype="float32"),
    Row("strided", (3, 20, 37, 6), (3, 3), 7, bank="local", padding=((2, 1), (0, 2)), stride=(2, 3), dtype="float32",
        visible_size=(37, 6)),
    Row("dilated", (17, 5, 21, 4), (3, 2), 18, bank="local", padding=3, dilation=(2, 3), dtype="float64"),
    Row("taps far apart", (2, 3, 31), (2,), 40, bank="local", dilation=17, dtype="float32"),
    Row("circular", (3, 6, 19, 4), (3, 3), 8, bank="local", padding=1, border="circular", dtype="complex64"),
    Row("in groups", (5, 12, 17, 3), (3, 2), 40, bank="local", padding=1, groups=2, dtype="float32"),
]  # fmt: skip


@pytest.mark.parametrize("vector", ["hidden", "visible", "example"])
@pytest.mark.parametrize("row", MANY_BANDS, ids=lambda row: row.name)
def test_bands_of_many_positions(row: Row, vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, vector)
    hidden, weight, expected, allowed = known(row, "conv_transpose")
    found = results(row, ORDERS["channels last"](hidden), weight)
    assert len({one.tobytes() for one in found}) == 1
    oracle.assert_close(found[0], expected, allowed, row.name)


@pytest.mark.parametrize("vector", ["hidden", "visible", "example"])
@pytest.mark.parametrize("into", ["hidden", "weight"])
def test_infinities_go_where_taps_are(into: str, vector: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = MANY_BANDS[0]
    hidden, weight = (np.array(one) for one in known(row, "conv_transpose")[:2])
    changed = hidden if into == "hidden" else weight
    random = np.random.default_rng(0)
    changed.ravel()[random.integers(0, changed.size, 12)] = [np.inf, -np.inf, np.nan] * 4
    expected = triconv.conv_transpose(hidden, weight, engine="reference", **row.options)
    assert np.isfinite(expected).any()
    forced(monkeypatch, vector)
    for one in results(row, hidden, weight):
        np.testing.assert_array_equal(np.isnan(one), np.isnan(expected))
        np.testing.assert_array_equal(one[np.isinf(expected)], expected[np.isinf(expected)])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_rounded_once(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers, of which sums are exact until then."""
    made, pairs = [], dtype == "bfloat16" and target().pairs

    def told(*given: Any) -> ways.Way:
        made.append(ways.way(*given))
        return made[-1]

    forced(monkeypatch, "hidden")
    monkeypatch.setattr(prepared, "way", told)
    random, kind = np.random.default_rng(0), np.dtype(getattr(ml_dtypes, dtype, dtype))
    hidden = random.integers(-3, 4, (4, 36, 11, 5)).astype(kind)
    weight = random.integers(-3, 4, (11, 5, 36, 10, 3, 3)).astype(kind)
    found = triconv.conv_transpose(hidden, weight, padding=1, engine="bfloat16" if pairs else "direct")
    wide = triconv.conv_transpose(hidden.astype("f4"), weight.astype("f4"), padding=1, engine="reference")
    np.testing.assert_array_equal(found.astype("f4"), wide.astype(kind).astype("f4"))
    assert bool(made) is pairs  # sums are added up in a buffer of their own
    assert all(one.scattered for one in made)


def nest_of(row: Row, vector: str) -> loops.Nest:
    problem = problem_of(row, "conv_transpose")
    strides = tuple(np.empty(problem.shape(role), np.int8).strides for role in ways.ROLES)
    (cut,) = ways.way(problem, vector, strides, (False,) * row.rank, scattered=True).cuts()
    return cut.nest


def test_pieces_are_bands_that_read_each_kernel_once_and_in_order() -> None:
    nest = nest_of(MANY_BANDS[0], "hidden")
    pieces = [nest.corners[first:last] for first, last in pairwise(nest.pieces)]
    assert len(pieces) == loops.BANDS
    places = [set(piece[:, 2].tolist()) for piece in pieces]
    assert sum(map(len, places)) == len(set().union(*places)) == 23 * 5  # no two add to one position, and all are met
    full = [piece[piece[:, 4] > piece[:, 3]] for piece in pieces]
    assert all((np.diff(piece[:, 1]) > 0).all() for piece in full)
    read = np.concatenate([piece[:, 1] for piece in full]).tolist()
    assert len(set(read)) == len(read) == len(nest.corners) - 23 * 5


def chosen(row: Row, operation: str = "conv_transpose", **changed: Any) -> ways.Way:
    """The best way for arrays that lie well."""
    return direct._expected(problem_of(replace(row, **changed), operation), True)


def test_only_large_local_weights_are_taken_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "cache_bytes", lambda: (32 << 10, 1 << 20))
    monkeypatch.setattr(direct, "_expected", direct._expected.__wrapped__)  # type: ignore[attr-defined]
    monkeypatch.setattr(ways, "best_way", ways.best_way.__wrapped__)  # type: ignore[attr-defined]
    assert chosen(LARGE).scattered
    assert not chosen(LARGE, visible=(8, 64, 4, 4)).scattered
    assert not chosen(LARGE, "conv").scattered
    assert not chosen(LARGE, "conv_weight").scattered
    assert not chosen(LARGE, visible=(8, 1024, 28, 28), bank=(2, 2)).scattered
    assert not chosen(LARGE, visible=(8, 4, 224, 224), out=16).scattered


def test_the_plan_says_so() -> None:
    assert "as they lie" in chosen(LARGE).described
    assert "as they lie" not in chosen(LARGE, visible=(8, 64, 4, 4)).described
    assert chosen(LARGE).supposes is None
    assert Role.WEIGHT not in {role for role, buffer in zip(ways.ROLES, chosen(LARGE).buffers, strict=True) if buffer}
