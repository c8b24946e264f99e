"""A small kernel's gradient in patches: what it sums over neighbouring positions is written out, and added to the rest.

Every number of a patch is loaded once for all taps that meet it, and what lies beyond an edge is known to the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from math import ceil, prod

from .block import FETCHED, LOADS, MULTIPLICATIONS, OVERHEAD, SUMS, WRITTEN_IN_ALL
from .index import Index, outer_sum
from .nest import Nest


def in_patches(nest: Nest) -> list[Nest]:
    """A nest whose tiles know of edges and add to C, as one for each kind of patch; every other nest as it is."""
    if not (nest.spread and nest.edges):
        return [nest]
    choices = []
    for loop, size in zip(nest.sums, _sizes(nest), strict=True):
        whole = loop.count // size * size
        choices.append([(size, range(0, whole, size))])
        if whole < loop.count:
            choices[-1].append((loop.count - whole, range(whole, loop.count)[:1]))
    found = []
    for choice in product(*choices):
        turns = [[nest.turn(loop, i) for i in starts] for loop, (_, starts) in zip(nest.sums, choice, strict=True)]
        sums = tuple(replace(loop, count=size) for loop, (size, _) in zip(nest.sums, choice, strict=True))
        found.append(replace(nest, sums=sums, corners=outer_sum(nest.corners, *turns)))
    return found


def _sizes(nest: Nest) -> tuple[int, ...]:
    """How many turns of each sum a patch takes: those that should take the fewest cycles; of examples always one."""
    taps = [loop for loop in nest.results if loop.row]
    height = min(prod(loop.count for loop in taps), SUMS)
    most = min(SUMS, WRITTEN_IN_ALL // height)  # so that the next tile's numbers are asked for before this one ends
    able = [range(1, min(loop.count, most) + 1 if loop.axis >= 0 else 2) for loop in nest.sums]

    def cycles(sizes: Sequence[int]) -> float:
        steps = prod(sizes)
        loads = FETCHED * (
            prod(_reached(loop, size, taps) for loop, size in zip(nest.sums, sizes, strict=True)) + steps
        )
        each = max(height * steps / MULTIPLICATIONS, loads / LOADS) + height + OVERHEAD
        return each * prod(ceil(loop.count / size) for loop, size in zip(nest.sums, sizes, strict=True))

    return min((sizes for sizes in product(*able) if prod(sizes) <= most), key=cycles)


def _reached(loop: Index, size: int, taps: Sequence[Index]) -> int:
    """How many positions so many turns of a loop meet along its axis."""
    counts = [range(tap.count) for tap in taps if tap.axis == loop.axis >= 0]
    moves = [tap.move for tap in taps if tap.axis == loop.axis >= 0]
    places = {sum(i * move for i, move in zip(place, moves, strict=True)) for place in product(*counts)}
    return len({i * loop.move + place for i in range(size) for place in places})
