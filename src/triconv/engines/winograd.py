"""Winograd's minimal filtering on every axis at once: fewer multiplications, for kernels of few taps.

Tiles of m results take m + r − 1 products on each axis instead of m · r, between transforms that mostly add. For the
transpose the kernel is flipped, and the weight's gradient is the same sum with the roles exchanged (`filtering`).
A stride leaves a problem of stride 1 for each residue of the visible positions, with every s-th tap: their
convolutions are added up; of the transpose and of the weight's gradient each makes a part.

Tiles cover an axis evenly, some of them one shorter: these do without one of the products (`kernels/shares`).

Channels that are few would fill no vector, and be soon summed: then a convolution may transform the first axis alone,
of any stride, and sum the taps of all others as they are (`kernels/one_axis`).

Rounding errors grow by the product of the axes' `amplification`: relative to the root mean square of the result, about
that times 2 eps for independent random operands, and what long sums add besides. Tiles that would exceed AMPLIFIED are
not taken.

Transforms read bfloat16 as float32, and round what they write. What is added to is float32 until it is whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..after import After, pitch
from ..arrays import COMPUTED
from ..coefficients import coefficients, depending, moving
from ..engine import KEPT_ORDERS, Array, Engine, Run, nothing, widened
from ..filtering import POINTS, filtering
from ..form import Problem, Role
from ..geometry import evenly
from ..kept import Kept
from ..memory import LINE, address, empty

if TYPE_CHECKING:
    from ..kernels.finish import Finish
    from ..kernels.prepared import Prepared
    from ..kernels.schedule import Schedule
    from ..kernels.ways import Strides, Way

TRANSFORMED, BFLOAT16 = ("float32", "float64"), "bfloat16"
"""What transforms are in; and what they read and write besides, in float32 from there to there."""

AMPLIFIED = 9.5
"""The most that rounding errors may grow: as those of tiles of 4 by 4 and kernels of 3 by 3, and somewhat more."""

GRADIENT = 0.95
"""How long vectors of a weight's gradient take beside those of a convolution."""

TURNED = 1.5
"""How much longer kernels take whose outputs are not side by side, where each panel of them is turned first."""

PASSES = 4
"""How often what is kept of the transforms comes and goes where it is not near: to be written, and to be read again."""

SOME = 32
"""Positions along the last axis that are worth to be transformed together, along the first alone."""

BEGUN = 3
"""Products that take as long as to begin a sum and to write it, where sums are short."""

MANY_PARTS = 16
"""Problems of stride 1 that take no longer to start than to run."""


def why_not(problem: Problem) -> tuple[str, ...]:
    geometry, found = problem.geometry, []
    if problem.precision == "highest":
        found.append('precision="highest" forbids transforms')
    if problem.dtype not in (*TRANSFORMED, BFLOAT16):
        found.append(f"needs {', '.join(TRANSFORMED)} or {BFLOAT16}, not {problem.dtype}")
    if geometry.banked:
        found.append("needs one kernel for all positions")
    if problem.channels.mask is not None:
        found.append("needs whole groups of channels")
    return tuple(found or (() if _along(problem) else _why_not_all(problem)))


def _why_not_all(problem: Problem) -> list[str]:
    """Why all axes cannot be transformed."""
    geometry, found = problem.geometry, []
    if any(axis.stride > 1 and (axis.dilation > 1 or axis.border != "zero") for axis in geometry.axes):
        found.append("needs stride 1 where there is dilation or a border that is not zero")
    if prod(axis.stride for axis in geometry.axes) > MANY_PARTS:
        found.append(f"needs strides of at most {MANY_PARTS} together")
    taps = [-(-axis.kernel // axis.stride) for axis in geometry.axes]
    if max(taps, default=1) == 1 or max(taps) > len(POINTS):
        found.append(f"needs kernels of 2 to {len(POINTS)} taps, a stride apart")
    if not found and not all(_choices(part.problem) for part in of_a_stride(problem)):
        found.append(f"rounding errors would grow more than {AMPLIFIED} times")
    return found


WHOLE = slice(0, None, 1)


class Tiles(NamedTuple):
    """Of the first axis, where it alone is transformed."""

    size: int
    taps: int
    """Of each of the pieces that a kernel's are cut into."""


@dataclass(frozen=True)
class Part:
    """A problem of stride 1, and what of the visible and of the weight it is of, as slices; or all there is."""

    problem: Problem
    visible: tuple[slice, ...]
    weight: tuple[slice, ...]
    along: Tiles | None = None
    """The tiles along the first axis, where only that is transformed, and there may be a stride."""

    @cached_property
    def whole(self) -> bool:
        """Whether that is all of both."""
        return all(cut == WHOLE for cut in (*self.visible, *self.weight))

    def slices(self, role: Role) -> tuple[slice, ...]:
        """What is the part of an array in a role."""
        own = {Role.VISIBLE: self.visible, Role.WEIGHT: self.weight}.get(role, ())
        return slice(None), slice(None), *own

    def of(self, role: Role, array: Array) -> Array:
        """The part of an array in a role."""
        return array[self.slices(role)]


@depending(64)
def parts(problem: Problem) -> tuple[Part, ...]:
    """What is computed one after the other: whatever is expected to take least."""
    along, rank = _along(problem), problem.geometry.rank
    able = not along or not _why_not_all(problem)
    found = of_a_stride(problem) if able else ()
    if along:
        least = min(along, key=lambda tiles: _seconds_along(problem, tiles))
        if not able or _seconds_along(problem, least) < _seconds_of(found):
            return (Part(problem, (WHOLE,) * rank, (WHOLE,) * rank, least),)
    return found


def _along(problem: Problem) -> list[Tiles]:
    """Tiles along the first axis alone that there is room for."""
    return [tiles for tiles in _along_one(problem) if _has_room(problem, tiles)]


def _has_room(problem: Problem, tiles: Tiles) -> bool:
    """Whether there is for blocks of some positions: those of few would take longer to start than to run."""
    from ..kernels.one_axis import OneAxis

    return OneAxis(problem, *tiles, (), (), (), problem.extra).has_room(SOME)


@lru_cache(maxsize=64)
def _along_one(problem: Problem) -> tuple[Tiles, ...]:
    """Tiles along the first axis that do not amplify errors too much, if it can be the only one."""
    axes = problem.geometry.axes
    able = problem.produces is Role.HIDDEN and problem.dtype in TRANSFORMED and problem.channels.groups == 1
    if not able or len(axes) < 2 or axes[0].dilation > 1:
        return ()
    most = -(-axes[0].kernel // axes[0].stride)
    every = (Tiles(size, taps) for taps in range(2, most + 1) for size in range(2, len(POINTS) + 3 - taps))
    return tuple(one for one in every if filtering(*one).amplification <= AMPLIFIED)


@lru_cache(maxsize=64)
def of_a_stride(problem: Problem) -> tuple[Part, ...]:
    """The problems of stride 1 that a problem is made of, in the dtype of transforms: those that have taps."""
    problem = widened(problem)
    geometry, found = problem.geometry, []
    for residues in product(*(axis.residues for axis in geometry.axes)):
        steps = list(zip(residues, geometry.axes, strict=True))
        if all(one.axis.kernel for one in residues):
            inner = replace(problem, geometry=replace(geometry, axes=tuple(one.axis for one in residues)))
            visible = tuple(slice(one.visible, None, axis.stride) for one, axis in steps)
            found.append(Part(inner, visible, tuple(slice(one.kernel, None, axis.stride) for one, axis in steps)))
    return tuple(found)


@lru_cache(maxsize=64)
def _choices(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Sizes of tiles that do not amplify errors too much; tiles of one are for kernels of one tap."""
    kernels = [axis.kernel for axis in problem.geometry.axes]
    return tuple(sizes for sizes in _within(kernels, AMPLIFIED) if max(sizes) > 1 or max(kernels) == 1)


def _within(kernels: Sequence[int], limit: float) -> Iterator[tuple[int, ...]]:
    """Sizes of tiles for kernels of so many taps, that amplify errors at most so much."""
    if not kernels:
        yield ()
        return
    first, *others = kernels
    for size in range(1, len(POINTS) + 3 - first) if first > 1 else (1,):
        amplified = filtering(size, first).amplification
        if amplified <= limit:
            yield from ((size, *rest) for rest in _within(others, limit / amplified))


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well, and those in which they come and go where they are not near."""
    seconds = moving(problem.bytes) + _seconds_of(parts(problem))
    if _is_wide(problem):
        made = problem.bytes_of(problem.produces) + widened(problem).bytes_of(problem.produces)
        seconds += made / coefficients().converted
    return seconds


def _seconds_of(every: Sequence[Part]) -> float:
    """The cost of parts, one after the other."""
    return sum(
        _seconds(part.problem, tile_sizes(part.problem))
        if part.along is None
        else _seconds_along(part.problem, part.along)
        for part in every
    )


def _seconds_along(problem: Problem, tiles: Tiles) -> float:
    """The cost of tiles along the first axis alone."""
    from ..kernels.target import target

    (first, *others), channels, found = problem.geometry.axes, problem.channels, coefficients()
    lanes, pieces = target().lanes(problem.itemsize), len(first.pieces(tiles.taps))
    points, every = tiles.size + tiles.taps - 1, problem.batch * ceil(first.hidden / tiles.size)
    made = ceil(channels.hidden / lanes) * prod(axis.hidden for axis in others)
    seen = ceil(pieces * prod(axis.reach for axis in others) * channels.visible / lanes)
    terms = pieces * prod(axis.kernel for axis in others) * channels.visible
    cycles = found.winograd_multiplied * made * (terms + BEGUN) + found.winograd_transformed * (made + seen)
    cycles = points * (every * cycles + found.winograd_kernel * terms * ceil(channels.hidden / lanes))
    # Of one channel nothing says that the result's should lie side by side: mostly they do not, and it is copied.
    copied = 2 * problem.bytes_of(Role.HIDDEN) if channels.visible == 1 < channels.hidden else 0
    return cycles / found.cycles + copied / found.copied + found.winograd_called


@depending(64)
def tile_sizes(problem: Problem) -> tuple[int, ...]:
    """How many results a tile of a problem of stride 1 has along each axis."""
    return min(_choices(problem), key=lambda sizes: _seconds(problem, sizes))


class Counts(NamedTuple):
    """Of a problem of stride 1 in tiles of some sizes."""

    tiles: int
    points: int
    """Products of each."""
    shared: float
    """How many of all these there are where tiles are even, which they are along two axes at most."""
    vectors: tuple[int, int]
    """Of the channels of a hidden position, and of a visible one."""
    kernels: int
    """Vectors of all kernels, at each point."""


def _counts(problem: Problem, sizes: tuple[int, ...]) -> Counts:
    """Tiles, products and vectors."""
    from ..kernels.target import target

    lanes, channels, axes = target().lanes(problem.itemsize), problem.channels, problem.geometry.axes
    transposed = problem.produces is Role.VISIBLE
    made = [axis.visible if transposed else axis.hidden for axis in axes]
    tiles = problem.batch * prod(
        min(axis.dilation, count) * ceil(count / (m * min(axis.dilation, count)))
        for count, m, axis in zip(made, sizes, axes, strict=True)
    )
    points = prod(m + axis.kernel - 1 for m, axis in zip(sizes, axes, strict=True))
    saved = sorted(
        shorter / (some * (m + axis.kernel - 1)) * (shorter < some)
        for count, m, axis in zip(made, sizes, axes, strict=True)
        for some, shorter in [evenly(ceil(count / min(axis.dilation, count)), m)]
    )
    vectors = channels.groups * ceil(channels.hidden // channels.groups / lanes), ceil(channels.visible / lanes)
    inputs = channels.hidden // channels.groups if transposed else channels.weight[1]
    outputs = ceil((channels.weight[1] if transposed else channels.hidden // channels.groups) / lanes)
    return Counts(tiles, points, prod(1 - one for one in saved[-2:]), vectors, channels.groups * inputs * outputs)


def _seconds(problem: Problem, sizes: tuple[int, ...]) -> float:
    """The cost of tiles of some sizes."""
    from ..kernels.filtered import even_rounds, worth_sharing
    from ..kernels.target import target
    from ..kernels.winograd import PIECES

    transposed, gradient = problem.produces is Role.VISIBLE, problem.produces is Role.WEIGHT
    tiles, points, shared, vectors, kernels = _counts(problem, sizes)
    whole = tiles * (sum(vectors) if gradient else vectors[not transposed])
    others = PIECES * kernels if gradient else kernels
    few, held = whole < others, min(whole, others)
    turned = TURNED if transposed and few else 1.0
    found = coefficients()
    if gradient and few:  # in as many rounds as there is room for
        rounds = even_rounds(problem.batch, ceil(points * whole * target().vector_bytes / max(1, problem.extra)))
    else:
        rounds = 1
    made = shared if rounds and worth_sharing(tiles, rounds, shared) else 1.0
    multiplied = found.winograd_multiplied * tiles * kernels * made
    transformed = found.winograd_transformed * tiles * sum(vectors)
    cycles = points * (multiplied + transformed + turned * found.winograd_kernel * kernels)
    cycles *= GRADIENT if gradient else 1.0
    far = PASSES * moving(points * held * target().vector_bytes)
    return cycles / found.cycles + far + found.winograd_called


def _way(problem: Problem, strides: tuple[Strides, ...], lines: bool) -> Way:
    """Where arrays are copied first, as the transforms want channels side by side; but take kernels in any order.

    And perhaps positions along the last axis one behind the other, as `lines`.
    """
    from ..kernels.layout import Buffer, Layout
    from ..kernels.ways import ROLES, Way, with_borders_written_out

    bordered = any(axis.border != "zero" for axis in problem.geometry.axes)
    inner = with_borders_written_out(problem) if bordered else problem
    outputs = 1 if problem.produces is Role.VISIBLE else 0
    buffers: list[Buffer | None] = []
    for role, steps in zip(ROLES, strides, strict=True):
        shape, unit = inner.shape(role), outputs if role is Role.WEIGHT else 1
        before = [0] * len(shape)
        extended = role is Role.VISIBLE and inner is not problem
        if extended:
            before[2:] = [axis.before if axis.border != "zero" else 0 for axis in problem.geometry.axes]
        order = (*(axis for axis in problem.order(role) if axis != unit), unit)
        as_it_is = (steps[unit] == 1 or shape[unit] == 1) and not extended
        as_it_is &= not lines or are_lines(shape, steps)
        as_it_is |= role is Role.WEIGHT is not problem.produces
        buffers.append(None if as_it_is else Buffer(shape, tuple(before), order))
    layouts = (Layout(own) if buffer is None else buffer.layout for own, buffer in zip(strides, buffers, strict=True))
    return Way(problem, inner, "hidden", (), tuple(buffers), tuple(layouts), ())


def are_lines(shape: tuple[int, ...], strides: Strides) -> bool:
    """Whether positions along the last axis lie one behind the other, where channels are side by side."""
    return strides[-1] == shape[1] or shape[-1] == 1


def _scheduled(
    problem: Problem,
    along: Tiles | None,
    strides: tuple[Strides, ...],
    room: int,
    stored: Collection[Role] = (),
    adds: bool = False,
    finish: Finish | None = None,
    in_line: bool = False,
) -> tuple[Way, Schedule, str]:
    """Where arrays of these strides, in numbers, are copied to, what is done then, and what that is called.

    `room` is how many bytes it should take at most; is the result `in_line` with the cache? Arrays of `stored` roles
    are in bfloat16; copies are not.
    """
    from ..kernels import winograd
    from ..kernels.correlation import Correlation
    from ..kernels.filtered import Sizes
    from ..kernels.ways import ROLES

    way = _way(problem, strides, along is not None)
    if along is not None:
        return way, _along_first(way, along, room, finish, in_line), "along the first axis"
    correlation = Correlation.of(way.problem, *(layout.steps for layout in way.layouts))
    own = {role for role, buffer in zip(ROLES, way.buffers, strict=True) if role in stored and buffer is None}
    seen = {_as_in_a_convolution(problem, role) for role in own}
    sizes = Sizes(problem, correlation, tile_sizes(problem), room, adds, finish, seen)
    schedule = winograd.schedule(sizes, problem.produces is Role.WEIGHT)
    return way, schedule(sizes), schedule.__name__


def _along_first(way: Way, along: Tiles, room: int, finish: Finish | None, in_line: bool) -> Schedule:
    """What is done where the first axis alone is transformed."""
    from ..kernels.finish import AS_IT_IS
    from ..kernels.one_axis import OneAxis
    from ..kernels.ways import ROLES

    by_visible, by_hidden, by_weight = (layout.steps for layout in way.layouts)
    past = in_line and way.buffers[ROLES.index(Role.HIDDEN)] is None
    whole = OneAxis(way.problem, *along, by_visible, by_hidden, by_weight, room, finish or AS_IT_IS, past)
    return whole.schedule()


def _as_in_a_convolution(problem: Problem, role: Role) -> Role:
    """What a role is called where visible is what is seen and hidden what is made: a transpose sees the hidden."""
    turned = {Role.VISIBLE: Role.HIDDEN, Role.HIDDEN: Role.VISIBLE} if problem.produces is Role.VISIBLE else {}
    return turned.get(role, role)


def _prepared(
    problem: Problem,
    along: Tiles | None,
    strides: tuple[Strides, ...],
    room: int,
    stored: Collection[Role],
    adds: bool,
    finish: Finish | None,
    in_line: bool,
) -> Prepared:
    """A problem of stride 1 made ready for arrays of these strides, in numbers, to be added to what is there or not."""
    from ..kernels.prepared import Prepared, may_be_short, moves
    from ..kernels.ways import ROLES

    way, program, _ = _scheduled(problem, along, strides, room, stored, adds, finish, in_line)
    roles = (_as_in_a_convolution(problem, role) for role in (Role.VISIBLE, Role.WEIGHT, Role.HIDDEN))
    operands, produced = tuple(map(ROLES.index, roles)), ROLES.index(problem.produces)
    moved, short = moves(way, strides, produced, stored=stored), may_be_short(problem, strides)
    known_by = repr((problem, along or tile_sizes(problem), strides, room, stored, adds, finish, in_line))
    return Prepared(way, produced, None, problem.batch, 1, program, operands, *moved, short, known_by=known_by)


def build(problem: Problem) -> Run:
    if problem.batch == 0:
        return nothing
    from ..kernels.copy import convert
    from ..kernels.finish import Finish
    from ..kernels.finite import all_finite
    from ..kernels.loops import outgrows
    from ..kernels.prepared import aligned
    from ..kernels.ways import ROLES, arguments, folds

    given_at, produced = arguments(problem), ROLES.index(problem.produces)
    every, covered, summed = parts(problem), _covers(problem), problem.produces is Role.HIDDEN
    unread, wide, computed = _unread(problem), _is_wide(problem), np.dtype(widened(problem).dtype)
    past = outgrows(problem)
    known_by = problem.produces, tuple((cut.start, cut.step) for part in every for cut in part.weight)

    @lru_cache(maxsize=KEPT_ORDERS * max(1, len(every)))
    def ready(number: int, strides: tuple[Strides, ...], size: int, finish: Finish | None, in_line: bool) -> Prepared:
        """A part on arrays of these strides, whose result has so many bytes a number."""
        inner, along = every[number].problem, every[number].along
        sizes = [size if role is problem.produces else problem.itemsize for role in ROLES]
        own = tuple(tuple(step // size for step in one) for size, one in zip(sizes, strides, strict=True))
        stored = [role for role, size in zip(ROLES, sizes, strict=True) if size != inner.itemsize]
        return _prepared(inner, along, own, problem.extra, stored, summed and number > 0, finish, in_line)

    def fused(given: Array, after: After) -> Finish | None:
        """What is done as tiles are written: of a sum of parts, with the last one's."""
        whole = covered and not folds(problem)
        if _first_alone(problem) is not None:  # what is elsewhere first lies otherwise
            whole = whole and are_lines(given.shape, tuple(step // given.itemsize for step in given.strides))
        apart = pitch(given.shape, given.strides, given.itemsize)  # all parts begin a multiple of it behind each other
        bias, positive, where = after.steps
        return Finish(apart * bias, positive, where) if whole and apart and after.fits(given) else None

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> bool | None:
        if problem.dtype != BFLOAT16 or not (wide or (after is not None and fused(aligned(out), after) is None)):
            return compute(a, b, out, kept, after)
        result = _channels_last(out.shape, computed)
        finite = compute(a, b, result, kept, after)
        if finite is None and (finite := all_finite(result)) and after is not None:
            after.apply(result)
        convert(result, out, computed.name, BFLOAT16)
        return finite

    def compute(a: Array, b: Array, out: Array, kept: Kept | None, after: After | None) -> bool | None:
        numbers = aligned(a), aligned(b), aligned(out)
        given, finite = [numbers[number] for number in given_at], list[bool | None]()
        if summed and len(every) > 1 and out.strides[1] != out.itemsize:
            given[produced] = _channels_last(out.shape, out.dtype)
        if not covered:
            given[produced][...] = 0
        of_parts = [None] * len(every) if kept is None else kept.of(known_by, lambda: [Kept() for _ in every])
        done = None if after is None else fused(given[produced], after)
        for number, part in enumerate(every):
            own = given if part.whole else [part.of(role, array) for role, array in zip(ROLES, given, strict=True)]
            finish = done if not summed or number == len(every) - 1 else None
            more = after.of(part.slices(problem.produces)).arrays if after is not None and finish is not None else ()
            in_line = past and part.along is not None and address(own[produced]) % LINE == 0
            best = ready(number, tuple(array.strides for array in own), out.itemsize, finish, in_line)
            finite.append(best.run(own, of_parts[number], more))
        if unread is not None:
            finite.append(all_finite(given[ROLES.index(unread)]))
        found = None if None in finite else all(finite)
        if found and after is not None and done is None:
            after.apply(given[produced])
        if given[produced] is not out:
            out[...] = given[produced]
        return found

    return run


def _first_alone(problem: Problem) -> Tiles | None:
    """The tiles along the first axis, where that is transformed alone: then all is one part."""
    return next((part.along for part in parts(problem)), None)


def _covers(problem: Problem) -> bool:
    """Whether the parts make all of the result, and not only what some tap, or some visible position, meets."""
    sizes = {Role.VISIBLE: "visible", Role.HIDDEN: "hidden", Role.WEIGHT: "kernel"}
    made = [prod(getattr(part.problem.geometry, sizes[problem.produces])) for part in parts(problem)]
    whole = prod(getattr(problem.geometry, sizes[problem.produces]))
    return bool((max if problem.produces is Role.HIDDEN else sum)([0, *made]) == whole)


def _unread(problem: Problem) -> Role | None:
    """Whose numbers meet zeros of the padding that no part has, as the taps there meet nothing else; if there are any.

    With what is not finite these make NaN.
    """
    taps = sum(prod(part.problem.geometry.kernel) for part in parts(problem))
    beside = {Role.HIDDEN: Role.WEIGHT, Role.WEIGHT: Role.HIDDEN}.get(problem.produces)
    return beside if taps < prod(problem.geometry.kernel) else None


def _channels_last(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An array whose channels are side by side."""
    examples, channels, *sizes = shape
    return np.moveaxis(empty((examples, *sizes, channels), dtype), -1, 1)


def _is_wide(problem: Problem) -> bool:
    """Whether a result in bfloat16 is added up before it is rounded: of parts of a stride, or on a border."""
    from ..kernels.ways import folds

    added = len(parts(problem)) > 1 if problem.produces is Role.HIDDEN else folds(problem)
    return problem.dtype == BFLOAT16 and added


def _stored(problem: Problem) -> frozenset[Role]:
    """What transforms read or write in bfloat16."""
    if problem.dtype != BFLOAT16:
        return frozenset()
    return frozenset(problem.operands if _is_wide(problem) else Role)


def workspace(problem: Problem) -> int:
    """Transforms of tiles and kernels, and copies of arrays whose channels do not lie side by side."""
    from ..kernels.threads import thread_count

    return _workspace(problem, thread_count()) if problem.batch else 0


@depending(64)
def _workspace(problem: Problem, _threads: int) -> int:
    """With so many threads, which have scratch of their own."""
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES, folds

    def of_part(part: Part) -> int:
        shapes = [part.problem.shape(role) for role in ROLES]
        plain = (Buffer(shape, (0,) * len(shape), tuple(range(len(shape)))).layout.steps for shape in shapes)
        way, program, _ = _scheduled(part.problem, part.along, tuple(plain), problem.extra, stored)
        return way.copied * (1 + folded) + program.scratch * part.problem.itemsize

    # NumPy adds what lies on a border, one axis after the other.
    folded = sum(axis.border != "zero" for axis in problem.geometry.axes) if folds(problem) else 0
    stored, every = _stored(problem), parts(problem)
    added = _is_wide(problem) or (problem.produces is Role.HIDDEN and len(every) > 1)
    sums = widened(problem).bytes_of(problem.produces) if added else 0
    # A block of memory that one part leaves may be too small for the next.
    return sum(map(of_part, every)) + sums + 2 * tables(problem)


def most(problem: Problem) -> int:
    """More than `workspace`, and sooner known: transforms of all tiles for each thread, of all kernels for each piece,
    and copies of all there is."""
    from ..kernels.target import target
    from ..kernels.threads import thread_count
    from ..kernels.winograd import PIECES

    if not problem.batch or _first_alone(problem) is not None:  # of which it is as soon known
        return workspace(problem)
    held = sum(map(problem.bytes_of, Role)) + 2 * tables(problem)
    for inner in (part.problem for part in parts(problem)):
        tiles, points, _, vectors, kernels = _counts(inner, tile_sizes(inner))
        rows = (thread_count() + 2) * (tiles + TILES_MORE) * (sum(vectors) + inner.channels.groups + LINES_MORE)
        made = points * (rows + (PIECES + 2) * 2 * kernels) * target().vector_bytes
        held += made + COPIES * (inner.padded + widened(problem).bytes_of(problem.produces))
    return held


TILES_MORE, LINES_MORE, COPIES = 64, 16, 6
"""More than fill blocks up, and lines, and more copies than there are."""


def tables(problem: Problem) -> int:
    """The jobs of all tiles and kernels."""
    return sum(map(_jobs, parts(problem))) if problem.batch else 0


def _jobs(part: Part) -> int:
    problem = part.problem
    if part.along is not None:
        from ..kernels.one_axis import OneAxis
        from ..kernels.ways import with_borders_written_out

        inner = with_borders_written_out(problem)
        return OneAxis(inner, *part.along, (), (), (), problem.extra).told
    axes, transposed = problem.geometry.axes, problem.produces is Role.VISIBLE
    tiles = problem.batch * prod(
        len((axis.mirrored if transposed else axis).tiles(m)) for axis, m in zip(axes, tile_sizes(problem), strict=True)
    )
    return 8 * (4 + 2 * len(axes)) * (2 * tiles * (1 + problem.channels.groups) + prod(problem.channels.weight))


def describe(problem: Problem) -> str:
    """Tiles, and the way through the transforms, of each part of a stride."""
    if not problem.batch:
        return ""
    stored, every = _stored(problem), parts(problem)
    if (along := _first_alone(problem)) is not None:
        return f"tiles of {along.size} along the first axis, {along.taps} taps at a time"
    found = Counter(
        f"tiles of {' × '.join(map(str, tile_sizes(part.problem)))} {_named(part.problem, problem.extra, stored)}"
        for part in every
    )
    many = f"{len(every)} parts of a stride: " if len(every) > 1 else ""
    return many + "; ".join(f"{count} with {text}" if many else text for text, count in found.items())


def _named(problem: Problem, room: int, stored: Collection[Role]) -> str:
    """The way through the transforms, on arrays whose channels lie side by side."""
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES

    strides = []
    for role in ROLES:
        shape = problem.shape(role)
        strides.append(Buffer(shape, (0,) * len(shape), problem.order(role)).layout.steps)
    return _scheduled(problem, None, tuple(strides), room, stored)[2].replace("_", " ")


ENGINE = Engine(
    "winograd",
    why_not,
    cost,
    workspace,
    tables,
    build,
    spreads=True,
    dtypes=(*COMPUTED, BFLOAT16),
    describe=describe,
    most=most,
)
