"""Winograd's transforms along the first axis alone: of few channels, of strides, and of more taps than points."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracle
import pytest
from bounds import allowed, likely
from grid import Row
from numpy.typing import NDArray
from test_direct import ORDERS

import triconv
from triconv.after import After
from triconv.coefficients import DEFAULT, use
from triconv.engines import winograd
from triconv.form import Problem, Role
from triconv.geometry import Axis
from triconv.kernels import loops, one_axis, target
from triconv.kernels.finish import Finish
from triconv.kernels.transform import Transform
from triconv.kernels.ways import with_borders_written_out

Array = NDArray[Any]

TILES = [winograd.Tiles(*pair) for pair in ((2, 2), (3, 4), (5, 3), (7, 2))]

ROWS = [
    Row("of a photograph", (2, 3, 23, 30), (7, 7), 16, stride=2, padding=3, dtype="float32"),
    Row("one channel to some", (3, 1, 12, 17), (5, 5), 6, padding=2, dtype="float32"),
    Row("every axis its own", (2, 5, 19, 14), (11, 3), 23, stride=(4, 3), padding=((2, 5), (0, 4)), dtype="float32"),
    Row("dilated on the last", (1, 4, 11, 20), (4, 3), 9, dilation=(1, 3), padding=(0, 5)),
    Row("a last axis that begins in the padding", (2, 2, 9, 3), (3, 2), 5, stride=(1, 2), padding=((1, 1), (7, 9))),
    Row("more taps than positions", (2, 3, 2, 8), (9, 2), 8, padding=((4, 5), 1), dtype="float32"),
    Row("bordered", (2, 3, 9, 10), (5, 4), 7, padding=(2, 3), border=("reflect", "circular"), dtype="float32"),
    Row("of volumes", (2, 3, 9, 6, 7), (4, 3, 2), 10, stride=(2, 1, 2), padding=(1, 2, 0), dtype="float32"),
    Row("of rank four", (1, 2, 6, 4, 3, 5), (3, 2, 2, 3), 4, padding=(1, 0, 1, 2), dtype="float32"),
    Row("many channels", (2, 40, 10, 11), (5, 3), 33, padding=1, dtype="float32"),
]  # fmt: skip

NAMES = "visible", "hidden", "weight"

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@pytest.fixture(params=TILES, ids=lambda tiles: f"{tiles.size} of {tiles.taps}")
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[winograd.Tiles]:
    """Tiles along the first axis alone, wherever these can be; the default choice again afterwards."""
    able = winograd._along_one.__wrapped__
    monkeypatch.setattr(winograd, "_along_one", lambda problem: (request.param,) if able(problem) else ())
    monkeypatch.setattr(winograd, "_why_not_all", lambda _: ["not here"])
    monkeypatch.setattr(winograd, "_has_room", lambda *_: True)
    use(DEFAULT)  # what was chosen before is forgotten
    yield request.param
    use(DEFAULT)


def problem_of(row: Row) -> Problem:
    plan = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, engine="winograd", **row.options)
    assert [part.along for part in winograd.parts(plan.problem)] != [None]
    return plan.problem


@pytest.mark.usefixtures("guarded", "tiles")
@rows
@pytest.mark.parametrize("order", ORDERS)
def test_it_is_the_sum_as_written(row: Row, order: str) -> None:
    """Within the bounds of its filtering; with the same bits for any number of threads."""
    problem, operands = problem_of(row), row.operands(0)
    expected = row.expected("conv", operands)
    given, results = {role: ORDERS[order](array) for role, array in operands.items()}, list[Array]()
    for threads in (1, 2, 3):
        out = ORDERS[order](np.full(row.hidden, np.nan, row.dtype))
        with triconv.threads(threads):
            assert winograd.build(problem)(given["visible"], given["weight"], out)
        results.append(out)
    oracle.assert_close(results[0], expected, allowed("conv", row, operands, "winograd"))
    oracle.assert_close(results[0], expected, likely("conv", row, operands))
    assert all((one == results[0]).all() for one in results)


@pytest.mark.usefixtures("guarded", "tiles")
@rows
def test_blocks_are_as_wide_as_there_is_room(row: Row, allow: Callable[[int], None]) -> None:
    """Each of a few positions, of which the last ones reach back over what is done already."""
    problem, operands = problem_of(row), row.operands(1)
    (along,) = (part.along for part in winograd.parts(problem))
    assert along is not None
    steps = [tuple(step // array.itemsize for step in array.strides) for array in map(operands.__getitem__, NAMES)]
    widths = [one_axis.OneAxis(problem, *along, *steps, room).last.hidden for room in (0, 1 << 30)]
    assert widths == [1, problem.geometry.axes[-1].hidden]
    room = next(room for room in range(0, 1 << 30, 512) if _width(problem, along, steps, room) > 1)
    allow(room)
    out = np.full(row.hidden, np.nan, row.dtype)
    winograd.build(problem)(operands["visible"], operands["weight"], out)
    oracle.assert_close(out, row.expected("conv", operands), likely("conv", row, operands))


def _width(problem: Problem, along: winograd.Tiles, steps: list[tuple[int, ...]], room: int) -> int:
    return one_axis.OneAxis(problem, *along, *steps, room).last.hidden


@pytest.mark.usefixtures("tiles")
@rows
def test_what_follows_is_done_in_the_kernels(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a result that lies well, whether or not its channels fill vectors; the bits are NumPy's."""
    problem, operands = problem_of(row), row.operands(2)
    random = np.random.default_rng(3)
    lying = ORDERS["channels last"]
    out, expected = (lying(np.full(row.hidden, np.nan, row.dtype)) for _ in range(2))
    bias, where = random.standard_normal(row.out).astype(row.dtype), lying(operands["hidden"])
    after = After(bias, True, where)
    winograd.build(problem)(operands["visible"], operands["weight"], expected)
    after.apply(expected)
    monkeypatch.setattr(After, "apply", lambda *_: pytest.fail("a second pass over the result"))
    winograd.build(problem)(operands["visible"], operands["weight"], out, None, after)
    np.testing.assert_array_equal(out, expected)


def test_what_follows_counts_channels_of_the_result_itself() -> None:
    """In an array of which it is every other position a bias begins again and again, but not where a copy has it."""
    visible, weight = (np.random.default_rng(n).standard_normal(s).astype("f") for n, s in enumerate((V, W)))
    problem = triconv.explain("conv", V, W, engine="winograd", dtype="float32", **OPTIONS).problem
    bias = np.arange(16, dtype="f")
    plain = np.empty((4, 16, 20, 20), "f")
    winograd.build(problem)(visible, weight, plain)
    room = np.full((4, 20, 40, 16), np.nan, "f")
    out = np.moveaxis(room, -1, 1)[..., ::2]
    winograd.build(problem)(visible, weight, out, None, After(bias=bias))
    np.testing.assert_array_equal(out, plain + bias[:, None, None])
    assert np.isnan(room[:, :, 1::2]).all()


V, W, OPTIONS = (4, 3, 40, 40), (16, 3, 7, 7), {"stride": 2, "padding": 3}


@pytest.mark.parametrize("value", [np.inf, np.nan])
@pytest.mark.parametrize("role", ["visible", "weight"])
def test_what_is_not_finite_stays_where_it_belongs(role: str, value: float) -> None:
    """Every entry is what the direct sum has where that is not finite."""
    operands = {"visible": np.full(V, 0.5, "f"), "weight": np.full(W, 0.25, "f")}
    operands[role][0, 1, 3, 5] = value
    expected, found = (triconv.conv(*operands.values(), engine=engine, **OPTIONS) for engine in ("direct", "winograd"))
    np.testing.assert_array_equal(found, expected)
    assert not np.isfinite(found).all()


def test_large_results_go_past_the_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole vectors that begin on a line; where they do not, it is the same result."""
    past: list[bool] = []

    def recorded(*args: Any, **more: Any) -> Transform:
        past.extend([more["past"]] if more.get("back") else [])
        return Transform(*args, **more)

    monkeypatch.setattr(one_axis, "Transform", recorded)
    monkeypatch.setattr(loops, "outgrows", lambda _: True)
    visible, weight = (np.random.default_rng(n).standard_normal(s).astype("f") for n, s in enumerate((V, W)))
    problem = triconv.explain("conv", V, W, dtype="float32", engine="winograd", **OPTIONS).problem
    results = []
    for shift in (0, 1):
        room = np.empty(4 * 16 * 20 * 20 + 17, "f")
        begin = -(room.ctypes.data // 4) % 16 + shift
        out = np.moveaxis(room[begin : begin + 4 * 16 * 400].reshape(4, 20, 20, 16), -1, 1)
        winograd.build(problem)(visible, weight, out)
        results.append(out)
        assert past.pop() == (shift == 0)
    np.testing.assert_array_equal(*results)


def test_a_weight_is_transformed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that keeps it makes the same bits, and copies nothing of the weight again."""
    visible, weight = (np.random.default_rng(n).standard_normal(s).astype("f") for n, s in enumerate((V, W)))
    plan = triconv.explain("conv", V, W, engine="winograd", dtype="float32", **OPTIONS)
    run, results = plan.with_weight(weight), [np.empty((4, 16, 20, 20), "f") for _ in range(3)]
    plan.built(visible, weight, results[0])
    run(visible, results[1])
    copies: list[Any] = []
    monkeypatch.setattr(one_axis.OneAxis, "_copies", lambda self: copies.append(self))
    run(visible, results[2])
    assert not copies
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize(
    "axis",
    [
        Axis(23, 12, 7, 2, before=3, after=3),
        Axis(9, 9, 9, before=4, after=4),
        Axis(20, 6, 11, 4, before=5),
        Axis(2, 3, 2, 3, before=4, after=3),
    ],
)
@pytest.mark.parametrize("taps", [1, 2, 3, 5])
def test_pieces_add_up_to_the_axis(axis: Axis, taps: int) -> None:
    """Each pair of a hidden position and a tap that meets a visible one is in one piece, and nothing else is."""
    expected = sorted((c, k, int(axis.position(c, k))) for c, k in axis.inside)
    found = []
    for piece in axis.pieces(taps):
        assert piece.axis.kernel == taps
        for c, k in piece.axis.inside:
            tap = piece.kernel + axis.stride * k
            if tap < axis.kernel:
                found.append((c, tap, piece.visible + axis.stride * int(piece.axis.position(c, k))))
    assert sorted(found) == expected


@rows
@pytest.mark.parametrize("width", [1, 3, 100])
def test_blocks_begin_and_end_within_a_line(row: Row, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all of one is beyond an edge."""
    monkeypatch.setattr(one_axis.OneAxis, "_fits", lambda _, last: last.hidden <= width)
    problem = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, engine="direct", **row.options).problem
    whole = one_axis.OneAxis(problem, 3, 3, (), (), (), 0)
    line, channels = whole.last.reach, problem.channels.visible
    for before, there, begin in whole._blocks() // channels:
        assert 0 <= before <= before + there <= line
        assert there == 0 or 0 <= begin <= begin + there <= whole.axes[-1].visible


def test_there_is_room_for_some_positions() -> None:
    """Where there is not, blocks would be of one or two: nobody takes that way."""
    shapes = (1, 3, 8, 60), (16, 3, 6, 7)
    problem = triconv.explain("conv", *shapes, padding=2, dtype="float32").problem
    assert winograd._along_one(problem)
    assert not winograd._along(problem)
    for visible, weight, options in (
        (V, W, OPTIONS),
        ((8, 3, 224, 224), (64, 3, 7, 7), OPTIONS),
        ((2, 4, 64, 1000), (32, 4, 9, 3), {}),
    ):
        plan = triconv.explain("conv", visible, weight, engine="winograd", dtype="float32", **options)
        for tiles in winograd._along(plan.problem):
            whole = one_axis.OneAxis(plan.problem, *tiles, (), (), (), plan.problem.extra)
            assert whole.last.hidden >= min(winograd.SOME, whole.axes[-1].hidden)


@rows
def test_jobs_are_told(row: Row) -> None:
    """No fewer bytes than there are, in blocks and with a bias, and not many times as many."""
    along = winograd.Tiles(3, 3)
    hidden, weight = (row.operands()[name] for name in ("hidden", "weight"))
    problem = triconv.explain("conv", row.visible, row.weight, dtype=row.dtype, engine="direct", **row.options).problem
    problem = with_borders_written_out(problem)
    lying = ORDERS["channels last"]
    steps = [
        tuple(step // array.itemsize for step in array.strides)
        for array in (lying(np.empty(problem.shape(Role.VISIBLE), row.dtype)), lying(hidden), weight)
    ]
    for room in (0, 1 << 30):
        for finish in (Finish(), Finish(pitch=row.out)):
            whole = one_axis.OneAxis(problem, *along, *steps, room, finish)
            made = whole._forth().jobs.nbytes + whole._back().jobs.nbytes
            assert made <= whole.told
            assert finish == Finish() or 4 * made > whole.told


@pytest.mark.usefixtures("default")
def test_first_layers_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And explain says so; layers of many channels transform all axes, and short sums none. Where a processor
    multiplies no matrices: these are faster still."""
    monkeypatch.setattr(target, "matrices_allowed", lambda: False)
    use(DEFAULT)  # as if nothing had been chosen
    for visible, weight, options, along in (
        ((8, 3, 224, 224), (64, 3, 7, 7), OPTIONS, True),
        ((16, 3, 224, 224), (64, 3, 11, 11), {"stride": 4, "padding": 2}, True),
        ((8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}, False),
        ((8, 64, 56, 56), (64, 64, 3, 3), {"padding": 1, "stride": 2}, False),
    ):
        plan = triconv.explain("conv", visible, weight, dtype="float32", **options)
        assert plan.engine.name == "winograd"
        assert ("along the first axis" in str(plan)) == along
    assert triconv.explain("conv", (8, 1, 32, 32), (6, 1, 3, 3), dtype="float32").engine.name == "direct"
