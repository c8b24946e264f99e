"""How many turns of each loop a tile takes: what fits the registers and should take the fewest cycles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, product
from math import ceil, gcd, prod

from .index import Index

LOADS, MULTIPLICATIONS = 2, 2
"""How many of them a core starts in a cycle."""

WHOLE = 4
"""Vectors next to each other that memory gives as fast as it can."""

FETCHED = 6
"""As many loads as a vector takes that comes from the second-level cache, as do the channels of neighbouring lines."""

BESIDE = 0.4
"""How much of that the second of two neighbouring lines takes, which comes along with the first."""

FAR_APART = 0.02
"""By how much of a step each further run of neighbouring rows or columns makes it longer. Rows that the depth comes to
in further steps are of one run."""

OVERHEAD, SUM_UP, SUMMED = 20, 6, 1.25
"""Cycles that a tile takes besides its steps, and that adding up the lanes of a vector takes; and how much longer a
step takes where both operands come as vectors, as the caches feel it."""

FRESH = 2.5
"""Cycles that a vector takes from the second-level cache."""

EACH_LOAD, ADDED = 0.02, 2
"""Cycles by which a load makes a step longer of which multiplications take most, where tiles must be whole; and that a
sum takes which is added to what is there, beside the next tile's multiplications.
"""

LOADED, STREAM = 0.1, 40
"""Cycles that a load is felt to take beside multiplications; and that pass until vectors of B which lie elsewhere come
as fast as they can. A core that a thread has to itself feels no loads. One that it shares with somebody else's takes as
long for each as for 0.8 multiplications, which in a rented machine may be most of the time.
"""

CROWDED = 1.06
"""How much longer steps take of rows that push each other's lines out of the first-level cache."""


@dataclass(frozen=True)
class Block:
    """How many of each result index a tile takes, numbers of the vector among them, and cycles for the whole nest."""

    sizes: tuple[int, ...]
    cycles: float


@dataclass(frozen=True)
class Sets:
    """The places of the first-level cache, each for lines of A that are a page apart: as many numbers, and lines."""

    page: int
    line: int
    ways: int

    def apart(self, results: Sequence[Index]) -> list[int]:
        """How many numbers apart the turns of each loop take places of their own."""
        return [max(gcd(loop.a, self.page), self.line) for loop in results]

    def crowded(self, apart: Sequence[int], sizes: Sequence[int]) -> bool:
        """Whether a block of rows so far apart reads more lines of one place at a time than it has."""
        if prod(sizes) <= self.ways:  # each row reads one line of a place at most
            return False
        return prod([-(-size * step // self.page) for size, step in zip(sizes, apart, strict=True)]) > self.ways


@dataclass(frozen=True)
class Fresh:
    """How many vectors of B more than its own turns each result index meets, as sums step to its neighbours."""

    more: tuple[int, ...]
    turns: int
    """Of those sums."""

    def cycles(self, sizes: Sequence[int]) -> float:
        """That vectors which a block did not meet before take to arrive, by step."""
        return FRESH * prod(size + more for size, more in zip(sizes, self.more, strict=True)) / self.turns


def fresh(results: Sequence[Index], sums: Sequence[Index], lanes: int) -> Fresh:
    """What blocks of these results meet of B."""
    more, turns = [0] * len(results), 1
    steps = [abs(loop.b) * (lanes if loop.vector else 1) for loop in results]
    for loop in sums:
        for number, (result, step) in enumerate(zip(results, steps, strict=True)):
            reach, apart = divmod(abs(loop.b), step) if step else (0, 1)
            if reach and not apart and reach * (loop.count - 1) < result.count:
                more[number] += reach * (loop.count - 1)
                turns *= loop.count
                break
    return Fresh(tuple(more), turns)


def best_block(
    results: Sequence[Index],
    depth: Index,
    steps: float,
    lanes: int,
    registers: int,
    vector_loads: tuple[int, int] = (1, 1),
    whole_lines: bool = False,
    both_data: bool = False,
    fresh: Fresh | None = None,
    sets: Sets | None = None,
    whole: bool = False,
    page: int = 0,
    left_over: float = 1.0,
) -> Block:
    """The tile that should feel the fastest, and the cycles that it takes.

    A step loads vectors and numbers and multiplies rows × columns times; a tile's sums and the vectors it loads
    must fit the registers, and enough multiplications must be under way to hide how long one takes. Only sizes that
    leave nothing over are taken if they must be `whole`; of tiles alike then that which loads least. Rows or columns
    that leave something over are taken to take so many times as long, `left_over`.
    """
    rows = [loop.count if loop.row else 1 for loop in results]
    columns = [loop.count if loop.column else 1 for loop in results]
    alone = prod(loop.count for loop in results if loop.alone)
    apart = sets.apart(results) if sets is not None else []
    near = _near(rows, results, page)
    again = [n for n, loop in enumerate(results) if n != near and 0 < abs(loop.a) < depth.count * abs(depth.a)]
    heights = [
        (
            prod(tall),
            tall,
            max(tall, default=1),
            max(tall, default=1) if near is None else tall[near] * prod([tall[n] for n in again]),
            covering(rows, tall)
            * (CROWDED if sets is not None and sets.crowded(apart, tall) else 1)
            * (1 if left_over == 1 or _divides(rows, tall) else left_over),
        )
        for tall in extents(tuple(rows), registers)
        if not whole or _divides(rows, tall)
    ]
    vector = next((loop for loop in results if loop.vector), Index(lanes, 0, 1, 0, True))
    every = ceil(vector.count / lanes)
    ones = (1,) * len(results)
    best, least = (ones, ones, lanes, float("inf")), float("inf")
    most, each_least, beside_least = min(every, registers // 2), steps / MULTIPLICATIONS + 1, 0 if whole else OVERHEAD
    across = [
        (
            prod(many),
            many,
            alone * covering(columns, many) * (1 if left_over == 1 or _divides(columns, many) else left_over),
        )
        for many in _rectangles(tuple(columns), registers)
        if not whole or _divides(columns, many)
    ]
    fitting: dict[int, list[tuple[int, tuple[int, ...], int, int, float]]] = {}
    for vectors in _fewer(every, min(most, WHOLE) if whole_lines else 1, most):
        if whole and every % vectors:
            continue
        from_a, rounds = vectors * vector_loads[0] if vector.a else 1, ceil(every / vectors)
        for size, many, tiles_across in across:
            if (width := vectors * size) > registers:
                continue
            # Several rows need registers for all sums and vectors of B, and one for A; a single row only for its sums.
            high = max((registers - 1) // width - 1, int(width == 1 or width < registers))
            if high not in fitting:
                fitting[high] = [one for one in heights if one[0] <= high]
            tiles = tiles_across * rounds
            arriving = 0.0
            if fresh is not None:
                arriving = fresh.cycles([vectors if loop.vector else m for loop, m in zip(results, many, strict=True)])
            for height, tall, longest, run, tiles_down in fitting[high]:
                # No tile takes less than its products and their sums.
                if (each_least * height * width + beside_least) * tiles * tiles_down >= least:
                    continue
                loads: float = height * (vector_loads[0] if depth.vector else from_a) + width * vector_loads[1]
                loaded = loads * LOADED
                if vector.a and not depth.vector:
                    arrived = height // longest * _new(results, tall, depth)
                    fetched = vector_loads[0] * (height / depth.count + arrived) + both_data * vector_loads[1]
                    loads = max(loads, FETCHED * width * fetched)
                cycles = max(height * width / MULTIPLICATIONS, loads / LOADS, arriving, 1)
                if whole:
                    each = steps * (cycles + loads * EACH_LOAD) + height * width * ADDED
                    felt = each
                else:
                    # Rows and columns that are far apart share none of what they read.
                    longer = 1 if arriving else 1 + FAR_APART * (height // run + width // vectors - 2)
                    longer *= SUMMED if depth.vector else 1
                    each = steps * cycles * longer + height * width * (SUM_UP if depth.vector else 1) + OVERHEAD
                    felt = each + steps * loaded * longer + STREAM * (width // vectors)
                if (felt := felt * tiles * tiles_down) < least * (1 - 1e-9):
                    least = felt
                    best = tall, many, vectors * lanes, each * tiles * tiles_down
    return Block(sizes_of(results, *best[:3]), best[3])


def _near(rows: Sequence[int], results: Sequence[Index], page: int) -> int | None:
    """The loop whose rows lie on the same lines of A, or pages, if any do: along others they are far apart."""
    near = (n for n, loop in enumerate(results) if rows[n] > 1 and 0 < abs(loop.a) < page)
    return min(near, key=lambda n: abs(results[n].a), default=None)


def _divides(counts: Sequence[int], sizes: Sequence[int]) -> bool:
    return not any(count % size for count, size in zip(counts, sizes, strict=True))


def _new(results: Sequence[Index], tall: Sequence[int], depth: Index) -> int:
    """How many of the rows that share most read what the step before has not."""
    longest, step = max((size, -abs(loop.a)) for loop, size in zip(results, tall, strict=True) if loop.a or size == 1)
    return min(longest, max(1, abs(depth.a) // max(1, -step)))


def sizes_of(results: Sequence[Index], tall: Sequence[int], many: Sequence[int], numbers: int) -> tuple[int, ...]:
    """What a tile takes of each index: so many rows and columns, and at most so many numbers of the vector."""
    each = zip(results, tall, many, strict=True)
    return tuple(min(numbers, loop.count) if loop.vector else m * c for loop, m, c in each)


def covering(counts: Sequence[int], sizes: Sequence[int]) -> int:
    """How many blocks of these sizes cover so many."""
    return prod([-(-count // size) for count, size in zip(counts, sizes, strict=True)])


def extents(counts: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    """Part of one dimension, with all or one of each of the others, while they are few enough together.

    Parts that cover it in as many blocks as smaller ones do are left out: these have less to do.
    """
    choices = [(1,) if count == 1 else (1, count) for count in counts]
    for whole in product(*choices):
        taken = prod(whole)
        if taken <= limit:
            yield whole
        for axis, count in reversed(list(enumerate(counts))):
            if whole[axis] == 1 < count:
                for size in _parts(count, limit // taken):
                    yield (*whole[:axis], size, *whole[axis + 1 :])


def _parts(count: int, most: int) -> Sequence[int]:
    """Sizes between one and all, at most so large, that cover so many in fewer blocks than smaller ones do."""
    return _fewer(count, 1, min(count - 1, most))[1:]


@lru_cache(maxsize=256)
def _fewer(count: int, least: int, most: int) -> Sequence[int]:
    """The least of some sizes, and those up to the most that cover so many in fewer blocks than smaller ones do."""
    return least, *(size for size in range(least + 1, most + 1) if -(-count // size) < -(-count // (size - 1)))


def _rectangles(counts: tuple[int, ...], limit: int) -> Iterator[tuple[int, ...]]:
    """The same, and parts of two dimensions."""
    yield from extents(counts, limit)
    some = [axis for axis, count in enumerate(counts) if count > 1]
    for first, second in combinations(some, 2):
        for high in _parts(counts[first], limit // 2):
            for wide in _parts(counts[second], limit // high):
                yield tuple({first: high, second: wide}.get(axis, 1) for axis in range(len(counts)))


def written_out(
    results: Sequence[Index],
    steps: Sequence[tuple[int, int]],
    lanes: int,
    registers: int,
    vector_loads: tuple[int, int],
    able: Callable[[Sequence[int]], bool] | None = None,
) -> Block:
    """The tile of the fewest cycles where all products of a sum are written out, and what they share is loaded once.

    Of tiles alike it is the one with the most lines, of which each is shorter: that takes up to a third
    less. Not every number of rows need be `able`.
    """
    vector = next((loop for loop in results if loop.vector), Index(lanes, 0, 1, 0, True))
    rows = [loop.count if loop.row else 1 for loop in results]
    columns = [loop.count if loop.column else 1 for loop in results]
    alone = prod(loop.count for loop in results if loop.alone)
    every = ceil(vector.count / lanes)
    steps_a, steps_b = zip(*steps, strict=True)
    best, allowed = Block((), float("inf")), lru_cache(able or (lambda _: True))  # which takes long to find out
    limit = min(SUMS, WRITTEN_IN_ALL // len(steps))
    across = [(prod(many), many, alone * covering(columns, many)) for many in _patches(columns, limit)]
    for tall in _patches(rows, limit):
        height, down = prod(tall), covering(rows, tall)
        for width, many, tiles_across in across:
            for vectors in range(1, min(every, WHOLE, limit // (height * width)) + 1):
                sums, tiles = height * width * vectors, down * tiles_across * ceil(every / vectors)
                multiplied = sums * len(steps) / MULTIPLICATIONS
                if (multiplied + sums + OVERHEAD) * tiles > best.cycles * (1 + 1e-9):  # whatever is loaded
                    continue
                # What shares a load is multiplied in turn, and its other factors are kept in registers until then.
                a, b = _read_of(tall, results, "a", steps_a), _read_of(many, results, "b", steps_b)
                if vector.a:
                    live, shared = height, ceil(height * len(steps) / a)
                    lines = vectors - (1 - BESIDE) * (vectors // 2)
                    loads = width * (lines * a * vector_loads[0] * FETCHED + vectors * len(steps) * vector_loads[1])
                else:
                    live, shared = sums, ceil(width * len(steps) / b)
                    loads = vectors * b * vector_loads[1] + height * a
                cycles = (max(multiplied, loads / LOADS) + sums + OVERHEAD) * tiles
                if live + shared + 2 <= registers and cycles <= best.cycles * (1 + 1e-9) and allowed(tall):
                    best = Block(sizes_of(results, tall, many, vectors * lanes), cycles)
    return best


def least_written(results: Sequence[Index], steps: float, lanes: int) -> float:
    """No fewer cycles than those of `written_out` for so many products, as if all tiles were full."""
    vectors = prod(ceil(loop.count / lanes) if loop.vector else loop.count for loop in results)
    return vectors * (steps / MULTIPLICATIONS + 1 + OVERHEAD / SUMS)


WRITTEN, WRITTEN_IN_ALL = 64, 352
"""Products of a sum, and of a tile, that are few enough to be written out."""

SUMS = 16
"""As many of them in a tile, for more take longer to compile and run no faster."""


def _patches(counts: Sequence[int], limit: int) -> Iterator[tuple[int, ...]]:
    """Part of the innermost dimension, with one or few of each of the others, while they are few enough together."""
    inner = max((axis for axis, count in enumerate(counts) if count > 1), default=-1)
    choices = [range(1, min(count, limit if axis == inner else LINES) + 1) for axis, count in enumerate(counts)]
    return (sizes for sizes in product(*choices) if prod(sizes) <= limit)


LINES = 4
"""Neighbouring lines of a tile, which share most of what they read."""


def _read_of(sizes: Sequence[int], results: Sequence[Index], array: str, steps: tuple[int, ...]) -> int:
    """How many places of an array such a tile reads, the products of a sum being these steps apart."""
    turns = tuple((n, getattr(loop, array)) for n, loop in zip(sizes, results, strict=True) if n > 1)
    return _places(steps, turns)


@lru_cache(maxsize=1024)
def _places(steps: tuple[int, ...], turns: tuple[tuple[int, int], ...]) -> int:
    """How many places are read from steps on in turns of loops, each a count and a step."""
    found = set(steps)
    for count, step in turns:
        found = {place + i * step for place in found for i in range(count)}
    return len(found)


def together(results: Sequence[Index], depth: Index, block: Block, lanes: int, registers: int) -> int:
    """How many steps of the depth to write out, as they share vectors: of A, if rows read several; or else of B.

    Those of B are used up while they are there, so all numbers of A that they meet have to stay in registers.
    """
    sizes = list(zip(results, block.sizes, strict=True))
    tall = [(size, loop.a) for loop, size in sizes if loop.row and size > 1]
    many = [(size, loop.b) for loop, size in sizes if loop.column and size > 1]
    vectors = next((ceil(size / lanes) for loop, size in sizes if loop.vector), 1)
    height, width = prod(size for size, _ in tall), vectors * prod(size for size, _ in many)
    if depth.vector or any(loop.vector and loop.a for loop in results):
        # A step takes a vector of A, and where the depth is one, of B too.
        step, count, live = (lanes, depth.count // lanes, width) if depth.vector else (depth.a, depth.count, 1)
        steps = max(1, min(TOGETHER, count, (registers - height * width - 2) // live))
        shared = _places(tuple(i * step for i in range(steps)), tuple(tall)) < height * steps
        return steps if height > 1 and shared else 1
    steps, columns = depth.count, (*many, (vectors, lanes))
    shared = _places(tuple(i * depth.b for i in range(steps)), columns) < width * steps if steps <= registers else False
    fits = height * (steps + width) < registers and height * width * steps <= WRITTEN_IN_ALL
    return steps if shared and fits else 1


TOGETHER = 4
"""Steps of a depth that are written out: most of what they share is between neighbours."""
