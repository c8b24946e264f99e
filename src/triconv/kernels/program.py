"""Contractions that run one after the other over the same three arrays, each table of tiles shared by threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product, repeat
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory import LINE, PAGE, address
from .compile import Call, Compiled, function
from .contract import TILE, Column, Contraction
from .copy import Copying, clearing, in_stage
from .edges import Edges, positions
from .finish import AS_IT_IS, Finish
from .index import Index, Table, offsets, outer_sum
from .matrices import fits, runs
from .nest import Cut, Nest, cut
from .target import cache_bytes, target
from .team import SLICES, parts_of, run_stages
from .threads import thread_count
from .turns import in_turn
from .words import BYTES

AHEAD, NEARER = 2048, 256
"""Numbers that are on the way from memory while others are multiplied: where they are one long run; and where each tap
reads elsewhere, a piece of which the next tile reads the next."""

AS_IT_LIES = 1 << 14
"""Bytes that are on the way where tiles read a weight as it lies."""

MULTIPLICATIONS_A_COPY = 16
"""That take as long as copying a number."""


Operands = Sequence[NDArray[Any]]
"""A, B, C, and what C is finished with."""

Within = tuple[NDArray[Any], int]
"""An array, and how many bytes of it come before a place in it."""

Copied = tuple[NDArray[Any], Sequence[Copying]]
"""A copy of B, and what fills it, unless it is there."""


@dataclass(frozen=True, eq=False)
class Tiled:
    """A contraction, its table of tiles and its table of taps."""

    contraction: Contraction
    tiles: Table
    taps: Table
    pieces: Sequence[int]
    """Where pieces of the table begin that write no number of C in common, and where the last ends."""
    first: bool = False
    """Whether its tiles write what those of other tables add to."""

    @property
    def apart(self) -> int:
        """How many pieces there are."""
        return len(self.pieces) - 1

    def at(self, corners: Sequence[tuple[int, int, int]]) -> Tiled:
        """The same tiles from each of some corners (a, b, c) on, one corner after the other."""
        tiles = outer_sum([(*corner, 0, 0) for corner in corners], self.tiles)
        begins = [number * len(self.tiles) + piece for number in range(len(corners)) for piece in self.pieces[:-1]]
        return replace(self, tiles=tiles, pieces=[*begins, len(tiles)])


def contractions(nest: Nest, dtype: str) -> list[Tiled]:
    """The contractions of a nest, cut for the caches at hand."""
    return tiled(cut(nest, BYTES[dtype], target(), cache_bytes()[1] // 2), dtype, False)


def tiled(cut: Cut, dtype: str, in_line: bool, stored: str = "", finish: Finish | None = None) -> list[Tiled]:
    """The contractions of a nest with their tables, to be run in this order.

    Does C begin `in_line`, on a vector, and how is it `stored`, if not as it is summed?
    """
    found, lanes = [], target().lanes(BYTES[dtype])
    corners, taps = cut.tables()
    many = corners[:, 4] - corners[:, 3]
    for number in range(cut.parts):
        share = corners.copy()
        share[:, 3] = corners[:, 3] + many * number // cut.parts
        share[:, 4] = corners[:, 3] + many * (number + 1) // cut.parts
        for sizes, starts in _variants(cut, cut.block.sizes, apart=cut.adds):
            tiles = outer_sum(*starts[: cut.outer], share, in_turn(cut, sizes, starts, BYTES[dtype]))
            contraction = _contraction(cut, sizes, lanes, dtype, in_line, stored)
            contraction = contraction if finish is None else replace(contraction, finish=finish)
            if cut.nest.edges:
                tiles, outside = _with_edges(cut, sizes, tiles)
                contraction = replace(contraction, outside=outside)
            if cut.nest.pieces:
                found += _in_pieces(cut, contraction, tiles, taps, prod(map(len, starts)))
                continue
            apart = prod(map(len, starts[: cut.outer]))
            each = [tiles] if cut.nest.spread or cut.steps else _full_and_empty(tiles)
            for some in each:
                size = max(1, len(some) // apart) if cut.nest.spread else 1
                found.append(Tiled(contraction, some, taps, range(0, len(some) + 1, size)))
    return found


def _in_pieces(cut: Cut, contraction: Contraction, tiles: Table, taps: Table, each: int) -> list[Tiled]:
    """The tiles of zeros, and those that add to them, `each` so many of a corner, both in the nest's pieces.

    So whoever adds to zeros has written them, and they are near.
    """
    pieces, empty = cut.nest.pieces, tiles[:, 3] == tiles[:, 4]
    piece = np.repeat(np.arange(len(pieces) - 1), each * np.diff(pieces))
    found = []
    for which in (empty, ~empty):
        ends = np.cumsum(np.bincount(piece[which], minlength=len(pieces) - 1)).tolist()
        some = np.ascontiguousarray(tiles[which])
        found.append(Tiled(contraction, some, taps, [0, *ends], which is empty))
    return found


def _full_and_empty(tiles: Table) -> list[Table]:
    """The tiles that sum something as they come, and those of zeros in the order of C: memory takes runs of them."""
    empty = tiles[:, 3] == tiles[:, 4]
    if not empty.any():
        return [tiles]
    zeros = tiles[empty]
    full, zeros = tiles[~empty], zeros[np.argsort(zeros[:, 2], kind="stable")]
    return [full, zeros] if len(full) else [zeros]


Share = tuple[Compiled, tuple[int, ...], tuple[Table, Table]]
"""Of a contraction, what one part of the work calls: the kernel, what it is told besides where the operands are, and
the tables that it reads."""


class Program:
    """The compiled contractions of one operation at one memory order.

    Every number of the result belongs to one tile, or to tiles that compute it alike, or to tiles that add to it and
    lie in the same piece of each table. Tables are split between threads by pieces, and the same way in every
    contraction: so the result has the same bits for any number of threads.
    """

    def __init__(self, tiled: Sequence[Tiled], flops: int, slices: int = SLICES, first: bool = False) -> None:
        """The tables, what they multiply, and whether they write `first` what others will add to."""
        spread = {one.apart for one in tiled if one.apart != len(one.tiles)}
        assert len(spread) <= 1, f"tables that add to the same numbers in {spread} pieces: expected as many in each"
        self.slices = slices
        self.work = flops // (2 * MULTIPLICATIONS_A_COPY)
        self.adds = not first and any(one.contraction.add for one in tiled) and not any(one.first for one in tiled)
        self.finish = tiled[0].contraction.finish if tiled else AS_IT_IS
        self.tables = [(one.tiles, one.taps) for one in tiled]
        self.shares: dict[tuple[int, int], list[Share]] = {}
        self.steps = [
            (
                function(one.contraction.shared()),
                address(one.tiles),
                one.pieces,
                (address(one.taps), not (first or one.first), *one.contraction.told),
            )
            for one in tiled
        ]

    def run(
        self,
        *pieces: Operands,
        fills: Sequence[Sequence[Copying]] = (),
        near: Sequence[Copied] = (),
        threads: int | None = None,
    ) -> None:
        """Run the stages, on so many threads if that was asked before."""
        many = thread_count() if threads is None else threads
        run_stages(self.stages(pieces, many, fills, near), many)

    def stages(
        self,
        pieces: Sequence[Operands],
        threads: int,
        fills: Sequence[Sequence[Copying]] = (),
        near: Sequence[Copied] = (),
    ) -> list[list[list[Call]]]:
        """The contractions over each of some (A, B, C), which have results of their own, for so many threads.

        Each is filled before: by who multiplies it, if pieces are not shared; these may be in one another's place then.
        Of the only piece there may be further copies of B, each filled and read `near` some of the threads alone.
        """
        parts = self.parts(len(pieces), threads)
        zeros = [[clearing(c)] if self.adds else [] for _, _, c, *_ in pieces]
        before = [[*own, *more] for own, more in zip(fills or repeat(()), zeros, strict=False)]
        if near:
            a, _, c, *more = pieces[0]
            filled = [[call for move, source, b in own for call in move.calls(source, b, 0, 1)] for _, own in near]
            # Those of the threads that have these parts in relay.py, however many there are of either.
            copies = [near[(len(near) * (part + 1) - 1) // parts][0] for part in range(parts)]
            multiplied = [self.calls([(a, b, c, *more)], part, parts) for part, b in enumerate(copies)]
            return [in_stage(before[0], threads), filled if any(filled) else [], multiplied]
        if len(pieces) == 1 or parts > len(pieces):
            multiplied = [self.calls(pieces, part, parts) for part in range(parts)]
            return [in_stage([*chain(*before)], threads), multiplied]
        turns = [[*chain(*in_stage(own, 1)), *self.calls([one], 0, 1)] for own, one in zip(before, pieces, strict=True)]
        each = len(pieces) // parts
        return [[[*chain(*turns[n : n + each])] for n in range(0, len(pieces), each)]]

    def parts(self, pieces: int, threads: int) -> int:
        """How many parts there are of so many pieces."""
        return parts_of(self.work * pieces, threads, self.slices, pieces)

    def calls(
        self,
        pieces: Sequence[Operands],
        part: int,
        parts: int,
        behind: tuple[int, int, int] = (0, 0, 0),
        soon: Sequence[Within] = (),
    ) -> list[Call]:
        """What one part of the work calls, in this order: some pieces, or a share of one, so many bytes behind A, B, C.

        `soon` is what to ask for meanwhile, if the contractions do.
        """
        shares = max(1, parts // len(pieces))
        begin, end = len(pieces) * part // parts, len(pieces) * (part + 1) // parts
        found, share = [], self._share(part % shares, shares)
        for operands in pieces[begin : max(begin + 1, end)]:
            a, b, c, *more = map(address, operands)
            places = a + behind[0], b + behind[1], c + behind[2]
            more += [address(array) + place for array, place in soon]
            for kernel, values, tables in share:
                arrays = (*operands[:3], *tables, *operands[3:], *(array for array, _ in soon))
                found.append(Call(kernel, (*places, *values, *more), arrays))
        return found

    def whole(self, a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> list[Call]:
        """What all of the work calls on three arrays: soon made, as others ask for it hundreds of times."""
        places = address(a), address(b), address(c)
        return [Call(kernel, (*places, *values), (a, b, c, *tables)) for kernel, values, tables in self._share(0, 1)]

    def _share(self, part: int, parts: int) -> list[Share]:
        """What one part of the work calls of each contraction."""
        if (part, parts) not in self.shares:
            found = list[Share]()
            for (kernel, tiles, cuts, others), tables in zip(self.steps, self.tables, strict=True):
                first, last = (cuts[(len(cuts) - 1) * (part + n) // parts] for n in (0, 1))
                found.append((kernel, (tiles + first * TILE * 8, last - first, *others), tables))
            self.shares[part, parts] = found  # not before it is whole: other threads take it as it is
        return self.shares[part, parts]


Starts = list[Table]


def _variants(cut: Cut, sizes: Sequence[int], apart: bool) -> Iterator[tuple[tuple[int, ...], Starts]]:
    """The sizes of tiles, with where they start along each result index.

    What is left over is another tile that reaches back over what is done already; or, where tiles must be `apart`
    because they add to what is there, or is less than one tile, a smaller tile.
    """
    choices = []
    for loop, size in zip(cut.results, sizes, strict=True):
        whole = [*range(0, loop.count - size + 1, size)]
        left = loop.count - whole[-1] - size
        if not left:
            choices.append([(size, whole)])
        elif apart:
            choices.append([(size, whole), (left, [loop.count - left])])
        else:
            choices.append([(size, [*whole, loop.count - size])])
    for choice in product(*choices):
        turns = zip(cut.results, choice, strict=True)
        starts = [np.multiply.outer(places, cut.nest.turn(loop, 1)) for loop, (_, places) in turns]
        yield tuple(size for size, _ in choice), starts


def _with_edges(cut: Cut, sizes: Sequence[int], tiles: Table) -> tuple[Table, tuple[tuple[int, ...], ...]]:
    """A table of tiles with words that tell what lies outside, and the bits of each place that are ever set."""
    rows = positions(_rows(cut, sizes), len(cut.nest.edges))
    edges = Edges.of(cut.nest.edges, rows, cut.met)
    words = edges.of_tiles(tiles[:, TILE:])
    ever = int(np.bitwise_or.reduce(words))
    tiles = np.ascontiguousarray(tiles[:, :TILE])
    tiles[:, 3] = words
    return tiles, tuple(tuple(edges.of_place(row, met) & ever for met in cut.met) for row in rows)


def _rows(cut: Cut, sizes: Sequence[int]) -> list[Index]:
    """The loops over rows, as far as a tile of some sizes goes."""
    return [replace(loop, count=size) for loop, size in zip(cut.results, sizes, strict=True) if loop.row]


def _past(cut: Cut, sizes: Sequence[int], lanes: int, itemsize: int) -> bool:
    """Whether C goes past the caches, is met once, and made of whole vectors and lines: a part of a line would be
    written alone."""
    if not cut.nest.past or cut.adds or cut.depth.vector or cut.pairs:
        return False
    whole = max(lanes, LINE // itemsize)
    steps = [lanes * size if loop.vector else loop.c for loop, size in zip(cut.results, sizes, strict=True)]
    steps += [size for loop, size in zip(cut.results, sizes, strict=True) if loop.vector]
    steps += [loop.count for loop in cut.results if loop.vector]
    return not any(step % whole for step in [*steps, *cut.nest.corners[:, 2]])


def _contraction(cut: Cut, sizes: Sequence[int], lanes: int, dtype: str, in_line: bool, stored: str) -> Contraction:
    depth = cut.depth
    taken = [replace(loop, count=size) for loop, size in zip(cut.results, sizes, strict=True)]
    vector = next((loop for loop in taken if loop.vector), Index(lanes, 0, 1, 0, True))
    rows, columns = _rows(cut, sizes), [loop for loop in taken if loop.column]
    places = range(0, vector.count, lanes)
    ahead = AHEAD if len(cut.nest.taps) == 1 else NEARER
    each = tuple(
        Column(place * vector.a, b + place, c + place * vector.c, min(lanes, vector.count - place))
        for b, c in zip(offsets(columns, "b"), offsets(columns, "c"), strict=True)
        for place in places
    )
    pairs = cut.pairs if fits(runs(offsets(rows, "a")), [column.used for column in each]) else 0
    assert pairs or not cut.nest.split, f"tiles of {sizes}: expected as many as the registers hold"
    size = 2 if stored else BYTES[dtype]
    past = in_line and _past(cut, sizes, lanes, size)
    coming = _coming(cut, sizes, lanes)
    return Contraction(
        dtype,
        tuple(zip(offsets(rows, "a"), offsets(rows, "c"), strict=True)),
        each,
        depth.count,
        depth.a,
        depth.b,
        wide=bool(vector.a or depth.vector),
        summed=depth.vector,
        add=cut.adds,
        ahead=(ahead if cut.nest.once == "A" else 0, ahead if cut.nest.once == "B" else 0),
        later=_later(cut, sizes, BYTES[dtype]) if cut.nest.pieces else 0,
        onward=(0, 0) if vector.a or cut.steps else _onward(cut, sizes, BYTES[dtype]),
        coming=coming,
        turns=prod(loop.count for loop in cut.others) if coming else 1,
        steps=cut.steps,
        together=cut.together,
        pairs=pairs,
        low=cut.nest.low,
        past=past,
        stored=stored,
        fetched=not past and _fetched(cut, bool(vector.a), size),
    )


def _fetched(cut: Cut, wide: bool, itemsize: int) -> bool:
    """Whether tiles ask for C before they write it: they add to it, or it is larger than the caches."""
    corners = cut.nest.corners[:, 2]
    if cut.nest.as_matrices:  # what was written before, or is added to, was so long ago
        return True
    if not len(corners) or cut.depth.vector or cut.pairs:
        return False
    if cut.steps and (cut.adds or not wide or target().foresees):
        return False
    span = int(np.ptp(corners)) + sum((loop.count - 1) * abs(loop.c) for loop in cut.results)
    return cut.adds or span * itemsize > cache_bytes()[1]


def _later(cut: Cut, sizes: Sequence[int], itemsize: int) -> int:
    """How many tiles later what is asked for now is read: tiles that read the same of a large weight count as one."""
    name = cut.nest.once.lower()
    steps = [(getattr(loop, name), loop.count, size) for loop, size in zip(cut.results, sizes, strict=True)]
    read = cut.depth.count * prod(size for step, _, size in steps if step)
    again = prod(-(-count // size) for step, count, size in steps if not step)
    return -(-AS_IT_LIES // (read * itemsize)) * again


def _onward(cut: Cut, sizes: Sequence[int], itemsize: int) -> tuple[int, int]:
    """How far the next tile's rows are in A, and each of them from the one before, if rows are asked for in time.

    They are if the depth goes along them, and unless they would meet in few places of the cache.
    """
    rows = [(loop, size) for loop, size in zip(cut.results, sizes, strict=True) if loop.row]
    several = [(loop, size) for loop, size in rows if size > 1]
    line = LINE // itemsize
    if len(several) != 1 or cut.depth.vector or cut.depth.a != 1 or cut.depth.count < line or cut.nest.once == "A":
        return 0, 0
    ((loop, size),) = several
    apart = loop.count > size and loop.a * itemsize % PAGE != 0
    return (size * loop.a, loop.a) if apart else (0, 0)


def _coming(cut: Cut, sizes: Sequence[int], lanes: int) -> tuple[int, ...]:
    """The vectors of B to ask for at each tap, where it leaps from tap to tap: some lines of those that a tap reads.

    The taps of the turns of another sum read most lines again: each asks for the first of as many.
    """
    if (
        not cut.nest.leaps
        or cut.steps
        or cut.depth.vector
        or any(loop.b % lanes for loop in (*cut.results, cut.depth) if not loop.vector)
    ):
        return ()
    many = [replace(loop, count=size) for loop, size in zip(cut.results, sizes, strict=True)]
    lines = [replace(loop, count=-(-loop.count // lanes), b=lanes) if loop.vector else loop for loop in many]
    found = set(offsets([*lines, cut.depth], "b"))
    for loop in cut.others:
        found = {place for place in found if place // abs(loop.b) % loop.count == 0} if loop.b else found
    return tuple(sorted(found))
