"""Buffers against NumPy's own padding and transposing; memory that is used again; and the look for infinities."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from itertools import permutations, product
from subprocess import run
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from triconv import memory
from triconv.arrays import allocate
from triconv.geometry import Axis, forward
from triconv.kernels.finite import all_finite
from triconv.kernels.layout import Buffer

Array = NDArray[Any]

MODES = {"zero": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}


def steps(array: Array) -> tuple[int, ...]:
    return tuple(step // array.itemsize for step in array.strides)


def read(flat: Array, buffer: Buffer) -> Array:
    """The array that a buffer stands for, number by number through its layout."""
    layout, found = buffer.layout, np.empty(buffer.shape, flat.dtype)
    for place in np.ndindex(buffer.shape):
        at = 0
        for axis, position in enumerate(place):
            if layout.panel and axis == buffer.order[-1]:
                at += position // layout.panel * layout.panel_step + position % layout.panel
            else:
                at += layout.at(axis, position)
        found[place] = flat[at]
    return found


def filled(buffer: Buffer, array: Array, axes: tuple[Axis | None, ...]) -> Array:
    flat = np.full(buffer.size, np.nan, array.dtype)
    buffer.fill(array.shape, steps(array), axes, array.dtype.name).run(array, flat)
    return flat


@pytest.mark.parametrize("border", MODES)
@pytest.mark.parametrize("split", [1, 2, 3])
def test_fill_pads_and_reorders(border: Any, split: int) -> None:
    """Every order of the axes, and the last axis cut into residues, as NumPy pads."""
    axis = forward(5, 3, 1, 1, (2, 1), border, "")
    array = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    for order, view in product(permutations(range(3)), (array, np.asfortranarray(array), array[:, ::-1, ::-1])):
        buffer = Buffer((2, 3, 8), (0, 0, 2), order, split)
        wanted = np.pad(view, [(0, 0), (0, 0), (2, 1)], MODES[border])  # type: ignore[call-overload]
        np.testing.assert_array_equal(read(filled(buffer, view, (None, None, axis)), buffer), wanted)


def test_fill_in_panels() -> None:
    """The last axis in order, a panel of neighbours after the other."""
    weight = np.random.default_rng(0).standard_normal((6, 4, 3))
    buffer = Buffer((6, 4, 3), (0, 0, 0), (2, 1, 0), panel=2)
    flat = filled(buffer, weight, (None, None, None))
    np.testing.assert_array_equal(read(flat, buffer), weight)
    np.testing.assert_array_equal(flat.reshape(3, 3, 4, 2), weight.reshape(3, 2, 4, 3).transpose(0, 3, 2, 1))


def test_fill_leaves_gaps() -> None:
    """After each turn of the last axis in order, and nothing is written there."""
    visible = np.random.default_rng(0).standard_normal((2, 4, 3))
    buffer = Buffer((2, 4, 5), (0, 0, 1), (0, 2, 1), gap=3)
    flat = filled(buffer, visible, (None, None, None))
    np.testing.assert_array_equal(read(flat, buffer), np.pad(visible, ((0, 0), (0, 0), (1, 1))))
    assert np.isnan(flat.reshape(2, 5, 7)[:, :, 4:]).all()


@pytest.mark.parametrize("split", [1, 2, 3, 9])
def test_drain_takes_a_buffer_back(split: int) -> None:
    """To an array of any order; every number is written."""
    array = np.random.default_rng(0).standard_normal((2, 3, 7))
    for order in permutations(range(3)):
        buffer = Buffer(array.shape, (0, 0, 0), order, split)
        flat = filled(buffer, array, (None, None, None))
        for out in (np.full((2, 3, 7), np.nan), np.full((7, 3, 2), np.nan).transpose()[:, ::-1]):
            for move, begin, first in buffer.drain(out.shape, steps(out), "float64"):
                move.run(flat[begin:], out[..., first:])
            np.testing.assert_array_equal(out, array)


@pytest.mark.parametrize("border", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("split", [1, 2])
def test_fold_is_the_adjoint_of_fill(border: Any, split: int) -> None:
    """⟨fill(x), y⟩ = ⟨x, fold(y)⟩, in whole numbers."""
    random, axis = np.random.default_rng(0), forward(5, 3, 1, 1, (2, 3), border, "")
    for order in permutations(range(3)):
        buffer = Buffer((2, 3, axis.reach), (0, 0, 2), order, split)
        array, other = (random.integers(-9, 10, shape).astype(float) for shape in ((2, 3, 5), buffer.size))
        out = np.full(array.shape, np.nan)
        buffer.fold(other, out, (None, None, axis))
        extended = read(filled(buffer, array, (None, None, axis)), buffer)
        assert (extended * read(other, buffer)).sum() == (array * out).sum()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_one_number_that_is_not_finite_is_found_anywhere(dtype: str, value: float) -> None:
    for size in (1, 7, 64, 300):
        array = np.full(size, np.finfo(dtype).max, dtype)
        assert all_finite(array)
        for place in range(size):
            array[place] = value
            assert not all_finite(array)
            assert not all_finite(array[::-1])
            array[place] = -np.finfo(dtype).max
    gaps = np.full((4, 6), np.nan, dtype)
    gaps[:, ::2] = 1
    assert all_finite(gaps[:, ::2])
    assert not all_finite(gaps)
    assert all_finite(np.empty((0, 3), dtype))


@pytest.fixture
def nothing_kept() -> Iterator[None]:
    gc.collect()
    memory.release()
    yield
    memory.release()


@pytest.mark.usefixtures("nothing_kept")
def test_a_block_that_was_left_is_taken_again() -> None:
    assert memory.kept() == 0
    block = memory.take(3 << 20)
    assert len(block) >= 3 << 20
    assert block.ctypes.data % 64 == 0
    place = block.ctypes.data
    memory.give(block)
    assert memory.kept() == len(block)
    assert memory.take(1 << 20).ctypes.data != place, "far too large for what was asked"
    assert memory.take(4 << 20).ctypes.data != place, "too small for what was asked"
    lent = memory.take(1 << 20, soon_left=True)
    assert lent.ctypes.data == place, "nobody has to do without it for long"
    memory.give(lent)
    again = memory.take(2 << 20)
    assert again.ctypes.data == place
    assert memory.kept() == 0
    assert memory.take(2 << 20).ctypes.data != place, "one block for two"


@pytest.mark.usefixtures("nothing_kept")
def test_an_array_keeps_its_block_while_any_view_of_it_lives() -> None:
    array = memory.empty((1 << 10, 1 << 10), "float32")
    assert array.ctypes.data % 64 == 0
    view, place = array[::2, 1:].T, array.ctypes.data
    del array
    gc.collect()
    view[...] = 3
    other = memory.empty((1 << 10, 1 << 10), "float32")
    assert other.ctypes.data != place
    assert (view == 3).all()
    del view
    gc.collect()
    assert memory.empty((1 << 10, 1 << 10), "float32").ctypes.data == place


@pytest.mark.usefixtures("nothing_kept")
def test_no_more_is_kept_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEPT", 10 << 20)
    blocks = [memory.take(3 << 20) for _ in range(6)]
    places = [block.ctypes.data for block in blocks]
    for block in blocks:
        memory.give(block)
    taken = memory.take(3 << 20)
    assert taken.ctypes.data in places
    assert memory.kept() <= 10 << 20
    memory.release()
    assert memory.kept() == 0


@pytest.mark.usefixtures("nothing_kept")
def test_small_arrays_have_no_block() -> None:
    array = memory.empty((3,), "float64")
    del array
    gc.collect()
    assert memory.kept() == 0
    assert memory.empty((), "float32").shape == ()


def test_no_more_is_kept_than_the_bound_when_arrays_go(monkeypatch: pytest.MonkeyPatch) -> None:
    memory.release()
    monkeypatch.setattr(memory, "KEPT", 5 << 20)
    arrays = [memory.empty((1 << 19,), "float32") for _ in range(6)]
    huge = memory.empty((2 << 20,), "float32")
    del arrays, huge
    assert 0 < memory.kept() <= 5 << 20
    memory.release()


@pytest.mark.usefixtures("nothing_kept")
def test_of_blocks_of_one_size_that_comes_first_which_was_left_last() -> None:
    """A cache may still have it."""
    blocks = [memory.take(2 << 20) for _ in range(3)]
    places = [block.ctypes.data for block in blocks]
    for block in blocks:
        memory.give(block)
    assert [memory.take(2 << 20).ctypes.data for _ in blocks] == places[::-1]


@pytest.mark.parametrize("size", [3, 1 << 11], ids=["small", "large"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (3, 1, 0, 2)])
@pytest.mark.parametrize("shape", [(2, 5, 1, 3), (2, 0, 7, 3)])
def test_arrays_are_allocated_in_any_physical_order(size: int, order: tuple[int, ...], shape: tuple[int, ...]) -> None:
    sizes = (*shape[:2], shape[2] * size, shape[3] * (size // 32 + 1))
    expected = np.empty([sizes[axis] for axis in order], np.float32).transpose(np.argsort(order))
    for like in (order, expected):
        found = allocate("conv", sizes, "float32", like)
        assert found.shape == sizes
        assert found.size == 0 or found.strides == expected.strides
        found[...] = np.arange(found.size, dtype=np.float32).reshape(sizes)
        assert (found == np.arange(found.size, dtype=np.float32).reshape(sizes)).all()


@pytest.mark.usefixtures("nothing_kept")
def test_those_that_were_left_first_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they could not be put with the others at once."""
    monkeypatch.setattr(memory, "KEPT", 10 << 20)
    blocks = [memory.take(3 << 20) for _ in range(4)]
    places = [block.ctypes.data for block in blocks]
    with memory._lock:
        for block in blocks[:2]:
            memory.give(block)
    for block in blocks[2:]:
        memory.give(block)
    assert [memory.take(3 << 20).ctypes.data for _ in range(3)] == places[:0:-1]


@pytest.mark.usefixtures("nothing_kept")
def test_no_more_waits_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long nobody can put what is left with what is free."""
    monkeypatch.setattr(memory, "KEPT", 10 << 20)
    with memory._lock:
        arrays = [memory.empty((3 << 18,), "float32") for _ in range(9)]
        del arrays
        assert 0 < memory.kept() <= 10 << 20


@pytest.mark.usefixtures("nothing_kept")
def test_a_lease_that_a_signal_cut_off() -> None:
    """Before it is written down, or before its end is: nothing is said, and nothing stays for ever."""
    array = memory.empty((1 << 20,), "float32")
    (lease,) = memory._leases.values()
    memory._ended(lease)
    assert not memory._leases
    memory._ended(lease)
    assert memory.kept() == len(lease.block)
    memory._leases[id(lease)] = lease
    del array
    gc.collect()
    assert not memory._leases
    room = memory.empty((1 << 20,), "float32")
    (own,) = memory._leases.values()
    gone: Any = (ctypes.c_ubyte * 1)()
    dead = memory._Lease(gone, lambda _: None)
    del gone
    memory._leases[id(dead)] = dead
    memory.release()
    assert list(memory._leases.values()) == [own]
    assert room.base is not None


def test_nothing_is_said_of_arrays_that_live_when_the_interpreter_ends() -> None:
    """They may still be written, by whoever goes after this module."""
    text = """
import builtins, sys
import numpy
from triconv import memory
class Saver:
    def __init__(self):
        self.array = memory.empty((16 << 20,), "float32")
    def __del__(self):
        self.array[::1024] = 2
numpy.saver = Saver()
builtins.later = kept = [memory.empty((1 << 20,), "float32") for _ in range(4)]
sys.modules["__main__"].ring = ring = [memory.empty((1 << 20,), "float32")]
ring.append(ring)
print(len(kept))
"""
    done = run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("4\n", "")
