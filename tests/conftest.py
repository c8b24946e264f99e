"""One thread a test process, as processes run in parallel; results full of NaN, or less memory, for those who ask; the
default coefficients again after tests that use others."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import set_num_threads

from triconv import ops
from triconv.coefficients import DEFAULT, use
from triconv.engines import winograd as engine
from triconv.form import Problem
from triconv.kernels import filtered, winograd
from triconv.kernels.scratch import Scratch
from triconv.memory import LINE, address

os.environ["TRICONV_CALIBRATED"] = "0"  # no test depends on what was measured, or chosen before, on this machine
set_num_threads(1)
threadpool_limits(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs are born deaf, and so are theirs
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def poisoned() -> Iterator[None]:
    """Results are allocated full of NaN: what an engine does not write is seen."""

    def allocate(*args: Any) -> Any:
        out = allocated(*args)
        out[...] = np.nan
        return out

    allocated = ops.allocate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "allocate", allocate)
        yield


WAYS = {
    "blocks and chunks": (winograd.by_blocks, winograd.gradient_by_chunks, 1 << 40),
    "panels and pieces": (winograd.by_panels, winograd.gradient_by_pieces, 1 << 40),
    "panels and chunks of even tiles": (winograd.by_panels, winograd.gradient_by_chunks, 1),
    "blocks and pieces of even tiles": (winograd.by_blocks, winograd.gradient_by_pieces, 1),
}
"""Of a convolution and of a weight's gradient; and of how many tiles on these are even."""

GUARD, GUARDED = 1 << 20, 0xA5
"""Bytes on either side of what is lent to a call, and what each of them is."""


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lent to a call lies between bytes that nobody may write: the test fails where somebody does."""

    def entered(self: Scratch) -> Scratch:
        self.rooms = []  # type: ignore[attr-defined]
        return self

    def array(self: Scratch, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        end = GUARD + size * dtype.itemsize
        room = np.empty(end + GUARD + LINE, np.uint8)
        room = room[-address(room) % LINE :][: end + GUARD]
        room[...] = GUARDED
        self.rooms.append((room, end))  # type: ignore[attr-defined]
        return room[GUARD:end].view(dtype)

    def left(self: Scratch, *_: object) -> None:
        for room, end in self.rooms:  # type: ignore[attr-defined]
            assert (room[:GUARD] == GUARDED).all(), "bytes written before what was lent"
            assert (room[end:] == GUARDED).all(), "bytes written behind what was lent"

    for name, function in (("__enter__", entered), ("array", array), ("__exit__", left)):
        monkeypatch.setattr(Scratch, name, function)


@pytest.fixture
def all_axes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Winograd transforms all axes, wherever it would rather transform the first alone."""
    monkeypatch.setattr(engine, "_along_one", lambda _: ())
    use(DEFAULT)  # what was chosen before is forgotten
    yield
    use(DEFAULT)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of Winograd's ways, whichever the sizes would ask for."""
    forth, gradient, worth = WAYS[request.param]
    monkeypatch.setattr(filtered, "WORTH", worth)
    monkeypatch.setattr(filtered, "SAVED", 0)
    monkeypatch.setattr(winograd, "schedule", lambda _, is_gradient: gradient if is_gradient else forth)


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes a call may take besides operands and result: also to problems that know it already."""

    def allow(size: int) -> None:
        monkeypatch.setattr(Problem, "extra", property(lambda _: size))

    return allow


@pytest.fixture
def default() -> Iterator[None]:
    """The default coefficients are in use again afterwards."""
    yield
    use(DEFAULT)
