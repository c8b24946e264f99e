"""Problems in bands: every band of the grid's, against the oracle; and when there are any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracle
import pytest
from test_direct import ORDERS, Case, cases, known, problem_of

import triconv
from triconv.engines import direct
from triconv.form import Problem, Role
from triconv.kernels import bands, prepared, schedule, ways
from triconv.kernels.target import target
from triconv.kernels.words import CHECKED

COPIED = frozenset((Role.VISIBLE, Role.HIDDEN))


def forced(patch: pytest.MonkeyPatch, case: Case, found: list[bands.Bands | None]) -> None:
    """Have a case run this way, in bands of about a third of what it copies."""

    def chosen(problem: Problem, strides: tuple[ways.Strides, ...], *_: object) -> ways.Way:
        best = ways.way(problem, case.vector, strides, case.exact, case.parts, COPIED)
        patch.setattr(bands, "cache_bytes", lambda: (0, best.copied * 4 // 9))
        return best

    def told(*given: Any) -> bands.Bands | None:
        found.append(bands.bands.__wrapped__(*given))
        return found[-1]

    patch.setattr(prepared, "best_way", chosen)
    patch.setattr(prepared, "bands", told)
    patch.setattr(bands, "AGAIN", 100)


def test_the_grid_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits for any number of threads, too."""
    monkeypatch.setattr(schedule, "NUMBERS_WORTH_A_THREAD", 1)
    tried = Counter[tuple[str, str, str]]()
    for number, case in enumerate(cases()):
        problem = problem_of(case.row, case.operation)
        if problem.produces is Role.WEIGHT or any(case.exact) or case.vector not in ("example", "position"):
            continue
        found: list[bands.Bands | None] = []
        forced(monkeypatch, case, found)
        lie = ORDERS[("channels last", "reversed")[number % 2]]
        a, b, expected, allowed = known(case.row, case.operation)
        run, bits = direct.build(problem), set()
        for threads in (1, 2, 3):
            with triconv.threads(threads):
                out = lie(np.full(expected.shape, np.nan, case.row.dtype))
                run(lie(a), lie(b), out)
                bits.add(out.tobytes())
                oracle.assert_close(out, expected, allowed, f"{case}, {threads} threads: {found}")
        assert len(bits) == 1, case
        for one in found:
            if one is not None:
                axis = one.parts.axis
                kinds = {"parts": one.way.parts > 1, "strided": axis.stride > 1, "dilated": axis.dilation > 1}
                kinds |= {"graph": problem.channels.mask is not None, "": True}
                tried.update((case.operation, case.vector, kind) for kind, is_so in kinds.items() if is_so)
    for operation in ("conv", "conv_transpose"):
        for kind in ("strided", "dilated", "graph", ""):
            assert tried[operation, "example", kind], (operation, kind, tried)
        assert tried[operation, "example", "parts"]
        assert tried[operation, "position", ""]


def chosen(operation: str, order: str, **options: Any) -> bands.Bands | None:
    """The bands of a problem of many channels on arrays in an order."""
    shape, weight = (8, 64, 28, 28), (64, 64, 3, 3)
    graph = np.random.default_rng(0).random(weight[:2]) < 0.1
    problem = triconv.explain(operation, shape, weight, groups=graph, padding=1, engine="direct", **options).problem
    arrays = [ORDERS[order](np.empty(problem.shape(role), np.float32)) for role in ways.ROLES]
    strides = tuple(tuple(step // 4 for step in array.strides) for array in arrays)
    return bands.bands.__wrapped__(ways.best_way(problem, strides, finite=True), strides)


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_bands_fit_the_cache(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 512 << 10))
    found = chosen(operation, "channels last")
    assert found is not None
    assert found.way.copied <= 384 << 10
    assert found.copied() <= bands.AGAIN * found.whole.copied
    assert found.units == len(list(found.moves(0, (1, 1, 1, 1)))) > 1


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_bands_are_those_that_take_least(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several as wide as the cache allows, and narrower; an odd number of them as one more, which two threads have;
    and more where they fill most of the cache."""
    tried, within = list[bands.Bands](), bands._of_examples

    def told(*given: Any) -> Iterator[bands.Bands]:
        for one in within(*given):
            tried.append(one)
            yield one

    monkeypatch.setattr(bands, "_of_examples", told)
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 1 << 20))
    found = chosen(operation, "channels last")
    assert found is not None
    assert len({one.parts.count for one in tried}) > len({one.examples for one in tried})

    def takes(one: bands.Bands) -> float:
        crowded = 1 if one.way.copied <= 1 << 19 else bands.CROWDED
        return 2 * -(-one.units // 2) * one.way.seconds() * crowded

    assert {one.way.copied <= 1 << 19 for one in tried} == {True, False}
    assert any(one.units % 2 for one in tried)
    assert takes(found) == min(takes(one) for one in tried if one.copied() <= bands.AGAIN * one.whole.copied)
    assert [found.seconds()] == pytest.approx([takes(found)])


def test_bands_of_two_threads_have_a_gap_between_them_where_there_is_room(
    monkeypatch: pytest.MonkeyPatch, allow: Callable[[int], None]
) -> None:
    """It makes them faster, but is no reason to take more than a call should."""
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 512 << 10))
    gaps = []
    for extra in (1, 1 << 40):
        allow(extra)
        found = chosen("conv", "channels last")
        assert found is not None
        gaps.append(found.schedule(((), (), ()))._gap)
    assert gaps[0] == 0 < gaps[1]


def test_stages_are_shared_where_a_thread_is_worth_waking() -> None:
    """From sixteen times as many multiplications as take as long as handing work over."""
    least = 16 * 2 * schedule.MULTIPLICATIONS_A_COPY * schedule.NUMBERS_WORTH_A_THREAD
    for flops, threads, shared in ((least - 1, 2, 1), (least, 2, 2), (least, 1, 1), (least, 3, 3)):
        assert schedule.Schedule(flops, 0, 0, 0, tuple).sharing(threads) == shared


@pytest.mark.skipif(CHECKED, reason="nothing is written down")
@pytest.mark.parametrize("engine", ["direct", "split"])
def test_bands_and_pairs_are_written_down(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a small call takes Python no longer than in other engines."""
    if engine == "split" and not target().matrices:
        pytest.skip("no matrices")
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 512 << 10))
    seen, written_down = list[bool](), prepared.Prepared._written_down

    def noted(self: prepared.Prepared, *given: Any) -> Any:
        assert isinstance(self.program, schedule.Schedule)
        seen.append((found := written_down(self, *given)) is not None)
        return found

    monkeypatch.setattr(prepared.Prepared, "_written_down", noted)
    random = np.random.default_rng(1)
    v, w = (random.standard_normal(shape, np.float32) for shape in ((8, 28, 28, 64), (3, 3, 64, 64)))
    groups = random.random((64, 64)) < 0.1 if engine == "direct" else 1
    triconv.conv(np.moveaxis(v, -1, 1), w.transpose(3, 2, 0, 1), padding=1, groups=groups, engine=engine)
    assert seen
    assert all(seen)


def test_no_bands_where_copies_fit_or_lines_would_be_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 512 << 10))
    assert chosen("conv", "C order") is None
    assert chosen("conv_weight", "channels last") is None
    assert chosen("conv", "channels last", border="circular") is None
    monkeypatch.setattr(bands, "cache_bytes", lambda: (32 << 10, 64 << 20))
    assert chosen("conv", "channels last") is None
