"""Direct convolution: the form as loop nests, run by the generated contraction; complex numbers as real pairs."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..after import After
from ..channels import Channels
from ..coefficients import coefficients, depending, moving, multiplying
from ..engine import (
    KEPT_ORDERS,
    MUCH,
    Array,
    Engine,
    Run,
    in_channels,
    met,
    nothing,
    on_channels,
    on_met,
    quiet,
    takes_all,
)
from ..form import Problem, Role
from ..kept import Kept
from ..kernels.layout import Buffer
from ..memory import LINE, address

if TYPE_CHECKING:
    from ..kernels.prepared import Prepared, Steps
    from ..kernels.ways import Strides, Way


def build(problem: Problem) -> Run:
    if problem.batch == 0:
        return nothing
    if problem.complex:
        return _build_complex(problem)
    run = on_channels(problem, partial(on_met, build=_build_real))
    mask = problem.channels.mask
    return run if mask is None else _of_edges(problem, np.nonzero(mask), run)


def _build_real(problem: Problem) -> Run:
    """The problem on real arrays, a graph's weight being that of its edges alone."""
    from ..kernels.loops import outgrows
    from ..kernels.prepared import aligned, prepared
    from ..kernels.ways import ROLES, arguments

    @lru_cache(maxsize=KEPT_ORDERS)
    def ready(strides: tuple[Strides, ...], finite: bool, in_line: bool, steps: Steps | None) -> Prepared:
        own = tuple(tuple(step // itemsize for step in one) for one in strides)
        return prepared(problem, own, finite, in_line, steps=steps)

    past = outgrows(problem) or (problem.produces is Role.WEIGHT and problem.geometry.banked)
    itemsize, produced = problem.itemsize, ROLES.index(problem.produces)
    given_at = arguments(problem)

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> None:
        numbers = aligned(a), aligned(b), aligned(out)
        given = [numbers[number] for number in given_at]
        strides = given[0].strides, given[1].strides, given[2].strides
        in_line = past and address(given[produced]) % LINE == 0
        steps = after.steps if after is not None and after.fits(given[produced]) else None
        best = ready(strides, True, in_line, steps)
        if not best.tried(given, kept, _finished_with(best, after)):
            best = ready(strides, False, in_line, steps)
            best.run(given, None, _finished_with(best, after))
        if given[produced] is not out:
            out[...] = given[produced]
        if after is not None and not best.finishes:
            after.apply(out)

    return run


def _finished_with(best: Prepared, after: After | None) -> tuple[Array, ...]:
    """What the program reads besides."""
    return after.arrays if best.finishes and after is not None else ()


def _of_edges(problem: Problem, edges: tuple[Array, ...], run: Run) -> Run:
    """The problem on whole weights: the edges' kernels, one behind the other, are taken out of them or put in.

    What a sum needs of a weight is side by side then, and nothing outside the graph is read.
    """
    from ..kernels.prepared import aligned

    shape, order = _packed(problem)

    @lru_cache(maxsize=1)  # as large as the weight
    def places(strides: Strides) -> Array:
        """Where the edges' kernels are in a weight of these strides, in numbers, on the line of its memory."""
        lead, sizes = _lead(problem), problem.shape(Role.WEIGHT)
        steps = [step // problem.itemsize for step in strides]
        first = sum(max(0, (1 - size) * step) for size, step in zip(sizes, steps, strict=True))
        found = first + edges[0] * steps[lead] + edges[1] * steps[lead + 1]
        for axis in order[2:]:
            found = np.add.outer(found, np.arange(sizes[axis]) * steps[axis])
        return np.asarray(found, np.intp)

    @lru_cache(maxsize=1)
    def in_memory(strides: Strides) -> tuple[Array, Array]:
        """The same places one behind the other, as they are soonest written, and which number belongs to each."""
        found = places(strides).reshape(-1)
        which = np.argsort(found)
        return found[which], which

    def packed(found: Array) -> Array:
        return found.reshape([shape[axis] for axis in order]).transpose(np.argsort(order))

    def with_weight(
        data: Array, weight: Array, out: Array, kept: Kept | None = None, after: After | None = None
    ) -> None:
        def found() -> Array:
            own = aligned(weight)
            return packed(_in_a_line(own).take(places(own.strides), mode="clip"))  # none is outside: no need to look

        run(data, found() if kept is None else kept.of("edges", found), out, kept, after)

    def into_weight(
        visible: Array, hidden: Array, out: Array, _kept: Kept | None = None, _after: After | None = None
    ) -> None:
        found, own = np.empty([shape[axis] for axis in order], out.dtype), aligned(out)
        run(visible, hidden, packed(found))
        own[...] = 0
        where, which = in_memory(own.strides)
        _in_a_line(own)[where] = found.reshape(-1)[which]
        if own is not out:
            out[...] = own

    return into_weight if problem.produces is Role.WEIGHT else with_weight


def _in_a_line(array: Array) -> Array:
    """The memory of an array from its first number to its last, whatever lies between."""
    ends = [(size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)]
    first = array[tuple(slice(None, None, -1 if end < 0 else 1) for end in ends)]
    return np.lib.stride_tricks.as_strided(first, (1 + sum(map(abs, ends)) // array.itemsize,), (array.itemsize,))


def _packed(problem: Problem) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of the weight of a graph's edges, and its axes in the order in which they lie."""
    from ..kernels.ways import shape_of

    lead, shape = _lead(problem), shape_of(problem, Role.WEIGHT)
    return shape, (lead, lead + 1, *range(lead), *range(lead + 2, len(shape)))


def _lead(problem: Problem) -> int:
    """How many axes a weight has before those of its channels."""
    return problem.geometry.rank * problem.geometry.banked


def _build_complex(problem: Problem) -> Run:
    """Complex numbers as pairs of real channels, a complex weight as blocks of two by two."""
    inner = _real(problem)
    run_real, real = build(inner), np.dtype(inner.dtype)
    lead = (slice(None),) * _lead(problem)
    even, odd = slice(0, None, 2), slice(1, None, 2)

    def pairs(array: Array) -> Array:
        """(examples, 2 · channels, *positions), real; a view where channels are neighbours."""
        apart = np.moveaxis(array[..., None].view(real), -1, 2)
        return apart.reshape(array.shape[0], 2 * array.shape[1], *array.shape[2:])

    def blocks(w: Array) -> Array:
        """The real weight of (hidden, visible) pairs; conjugated for a transpose, as its transpose conjugates back."""
        found = _empty(inner, Role.WEIGHT)
        found[(*lead, even, even)] = found[(*lead, odd, odd)] = w.real
        plus, minus = (odd, even), (even, odd)
        if problem.produces is Role.VISIBLE:
            plus, minus = minus, plus
        found[(*lead, *plus)], found[(*lead, *minus)] = w.imag, -w.imag
        return found

    def run(a: Array, b: Array, out: Array) -> None:
        result = _empty(inner, problem.produces)
        if problem.produces is Role.WEIGHT:
            run_real(pairs(a), pairs(b), result)
            out.real = result[(*lead, even, even)] - result[(*lead, odd, odd)]
            out.imag = result[(*lead, even, odd)] + result[(*lead, odd, even)]
        else:
            run_real(pairs(a), blocks(b), result)
            out.real, out.imag = result[:, even], result[:, odd]

    return quiet(run)


def _some(problem: Problem) -> Problem:
    """The problem to estimate: a real one, with at least one example, and as many channels as it is run with."""
    return in_channels(replace(_real(problem) if problem.complex else problem, batch=max(1, problem.batch)))


def _real(problem: Problem) -> Problem:
    """A complex problem as the real one with twice the channels."""
    channels = problem.channels
    graph = None if channels.mask is None else np.kron(channels.mask, np.ones((2, 2), np.bool_)).tobytes()
    pairs = Channels(2 * channels.visible, 2 * channels.hidden, channels.groups, graph)
    real = np.empty(0, problem.dtype).real.dtype
    return replace(problem, channels=pairs, dtype=real.name, itemsize=real.itemsize)


def _empty(problem: Problem, role: Role) -> Array:
    """An array for a role that lies as engines like it, hidden channels innermost."""
    order = problem.order(role)
    return np.empty([problem.shape(role)[axis] for axis in order], problem.dtype).transpose(np.argsort(order))


def _run(problem: Problem, well: bool) -> tuple[Problem, tuple[Strides, ...]]:
    """What is run, and on which strides: of arrays that lie well, or as PyTorch's and NumPy's, channels before
    positions."""
    from ..kernels.ways import ROLES

    strides = []
    for role in ROLES:
        shape = problem.shape(role)
        made_so = role is problem.produces is Role.WEIGHT  # results of that role always lie well
        order = problem.order(role) if well or made_so else tuple(range(len(shape)))
        if role is Role.WEIGHT and problem.channels.mask is not None:
            shape, order = _packed(problem)
        strides.append(Buffer(shape, (0,) * len(shape), order).layout.steps)
    inner, where = met(problem, strides[0])
    strides[0] = tuple(step * (own.step or 1) for step, own in zip(strides[0], where, strict=True))
    return inner, tuple(strides)


@depending(KEPT_ORDERS)
def _expected(problem: Problem, well: bool) -> Way:
    """The best way for arrays that lie so."""
    from ..kernels.ways import best_way

    inner, strides = _run(problem, well)
    return best_way(inner, strides, finite=True)


def _copied(problem: Problem, well: bool) -> int:
    """The bytes that copies take."""
    from ..kernels.prepared import scratch

    return scratch(_expected(problem, well), _run(problem, well)[1])


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well, and those in which they, and copies, come and go where they are not near."""
    from ..kernels.chunks import seconds

    inner = _some(problem)
    return coefficients().called + seconds(_expected(inner, True)) + moving(inner.bytes)


def least(problem: Problem) -> float:
    """Seconds that `cost` is not below: those of the products that every way has."""
    from ..kernels.target import target

    inner = _some(problem)
    multiplied = multiplying(inner.products, target().at_once(inner.dtype, inner.itemsize))
    return coefficients().called + multiplied + moving(inner.bytes)


def workspace(problem: Problem) -> int:
    """Padded copies of operands, the result in another order or in pieces, tables; of complex numbers, pairs."""
    from ..kernels.ways import folds

    inner = _some(problem)
    copied = max(_copied(inner, well) for well in (True, False))
    pairs = 3 * inner.bytes if problem.complex else 0
    edges = prod(_packed(inner)[0]) * inner.itemsize if inner.channels.mask is not None else 0
    visible = _expected(inner, True).buffers[0]
    folded = visible.size * inner.itemsize if visible is not None and folds(inner) else 0
    joined = inner.bytes_of(Role.VISIBLE) if inner.geometry != problem.geometry else 0
    return copied + pairs + edges + folded + joined + 3 * tables(problem)


def most(problem: Problem) -> int:
    """Copies of arrays in any memory order, in any pieces."""
    return MUCH * _some(problem).padded + 3 * tables(problem)


def tables(problem: Problem) -> int:
    """Tiles and taps; of a graph where its kernels are."""
    inner = _some(problem)
    places = 8 * prod(_packed(inner)[0]) if inner.channels.mask is not None else 0
    return places + sum(40 * cut.tiles + 16 * cut.taps for cut in _expected(inner, True).cuts())


def describe(problem: Problem) -> str:
    """What vectors run over, the tiles, what is copied first."""
    from ..kernels.chunks import described

    return described(_expected(_some(problem), True))


ENGINE = Engine("direct", takes_all, cost, workspace, tables, build, describe=describe, least=least, most=most)
