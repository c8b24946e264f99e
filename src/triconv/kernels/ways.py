"""The ways to run a problem: what vectors run over, what is copied first, where edges have loops of their own.

The index that vectors run over is chosen by the cycles it should take. Channels-last arrays want a channel; few
channels, and channel graphs, want positions, or examples. Where the vector's index is summed, the lanes of a vector
are added at the end:

    vectors over    step by one in        conv       conv_transpose    conv_weight
    hidden          hidden, weight                   summed
    visible         visible, weight       summed
    channel         all three             (depthwise: one hidden and one visible channel a group)
    position        visible, hidden                                    summed
    example         visible, hidden                                    summed

Operands are read where they lie if they step by one along the vector and need no padding; else they are copied once.
Edges need none that have loops of their own, or that tiles know of: a depthwise tile has a bit for each position that
may be outside, and takes zeros instead.

A transpose gathers: each visible position sums its own, over all taps. Where every hidden position has a kernel of its
own and all of them come from memory, it scatters: kernels are read once, as they lie, and tiles add to the visible.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, gcd, prod

from ..coefficients import coefficients, depending, lasting, multiplying
from ..form import Problem, Role
from ..geometry import Axis, Parts
from ..memory import CLASH, LINE
from .block import MULTIPLICATIONS, SUM_UP
from .layout import Apart, Buffer, Layout
from .lines import along_lines
from .loops import LARGE, WIDE, Lying, arrays, nests, over_data
from .matrices import LEAST, at_a_time
from .nest import Cut, cut
from .patches import in_patches
from .target import Machine, cache_bytes, machine, target
from .words import PAIRS, SPLIT

FAR = 1.25
"""How much longer multiplications take whose vectors are data, which come from further away than weights do; where both
operands come as vectors, what a step takes says so already."""

STRAIGHT, ACROSS = 0.3125, 0.625
"""How much of the time that a far copy takes one does whose numbers stay neighbours, or do not: most come and go near.
"""

Strides = tuple[int, ...]
"""Of an array, in numbers."""

Paired = tuple[Strides, int]
"""An array's steps in pairs, and 0; or in numbers, and how far apart the two of a pair are."""


@dataclass(frozen=True)
class Way:
    """A way to run a problem: what vectors run over, what is copied first (None: nothing), and how all then lies."""

    asked: Problem
    problem: Problem
    """What is asked for with borders written out as positions of their own, where they are folded afterwards."""
    vector: str
    exact: tuple[bool, ...]
    """Axes whose edges have loops of their own, instead of zeros beyond them."""
    buffers: tuple[Buffer | None, ...]
    layouts: tuple[Layout, ...]
    overhang: tuple[int, ...]
    known: bool = False
    """Whether tiles know what lies beyond the edges of all axes: nothing has to be there."""
    scattered: bool = False
    """Whether a transpose takes kernels as they lie, and adds what each tap finds to where it belongs."""
    straight: tuple[bool, ...] = (False,) * 3
    """Whether neighbours in a copy are neighbours in the array."""
    pieces: int = 1
    """Of how many pieces of a sum this is the way of one."""

    @property
    def parts(self) -> int:
        """Into how many parts the first axis is cut, which are further examples."""
        return self.problem.batch // self.asked.batch

    @property
    def how(self) -> tuple[bool, bool]:
        """What `way` is told last."""
        return self.known, self.scattered

    @property
    def copied(self) -> int:
        """The bytes of the copies."""
        return sum(buffer.size for buffer in self.buffers if buffer is not None) * self.problem.itemsize

    @property
    def copying(self) -> float:
        """The bytes of far copies that take as long."""
        both = [(buffer.size, straight) for buffer, straight in zip(self.buffers, self.straight, strict=True) if buffer]
        return sum(size * (STRAIGHT if straight else ACROSS) for size, straight in both) * self.problem.itemsize

    def near_copies(self, threads: int) -> int:
        """How many copies of a weight there are for so many threads, where it is copied: at most one each.

        What threads read again and again should be in their own caches. What another has too comes back slowly once
        it was dropped, though nobody writes it: two threads with a copy each took 0.75 to 0.95 of the time.
        """
        buffer, problem = self.buffers[ROLES.index(Role.WEIGHT)], self.asked
        if buffer is None or problem.dtype == PAIRS or arrays(problem, self.vector)[1] is not Role.WEIGHT:
            return 1
        (first, second), size = cache_bytes(), buffer.size * problem.itemsize
        if not first < size <= second // 2:
            return 1
        read = problem.terms // prod(problem.shape(Role.WEIGHT))
        return max(1, min(threads, read // OFTEN, 1 + (problem.extra - self.copied) // size))

    def cuts(self) -> tuple[Cut, ...]:
        """The loop nests, cut into tiles."""
        return _cuts(self)

    @property
    def supposes(self) -> Role | None:
        """What has to be finite, as products with zeros beyond an edge are left out or put in; or none.

        A weight's gradient itself, once it is there: no part of the hidden meets zeros only.
        """
        problem, axes = self.problem, self.problem.geometry.axes
        match problem.produces:
            case Role.VISIBLE if self.parts > 1 or any(
                sum(axis.overhang) for axis, own in zip(axes, self.exact, strict=True) if not own
            ):
                return Role.WEIGHT
            case Role.HIDDEN if any(self.exact):
                return Role.WEIGHT
            case Role.WEIGHT if any(self.exact):
                return Role.WEIGHT
        return None

    def seconds(self) -> float:
        """What it takes."""
        return self.multiplied() + 2 * self.copying / coefficients().copied

    def multiplied(self) -> float:
        """What it takes but for copies."""
        found, cuts = coefficients(), self.cuts()
        far = FAR if over_data(self.vector) else 1.0
        cycles = sum(one.block.cycles * (1.0 if one.depth.vector else far) for one in cuts)
        read = self.problem.bytes_of(self.supposes) if self.supposes else 0
        starts = len(cuts) + sum(buffer is not None for buffer in self.buffers) + (self.supposes is not None)
        return cycles / found.cycles + read / found.copied + starts * found.started

    @property
    def felt(self) -> int:
        """The additions and multiplications that take as long where all lanes have some."""
        cycles = sum(one.block.cycles for one in self.cuts())
        return int(cycles * 2 * MULTIPLICATIONS * target().lanes(self.problem.itemsize))

    def least(self) -> float:
        """Seconds that it takes at least."""
        return _least_seconds(self.asked, self.vector, self.copying)

    @property
    def described(self) -> str:
        """What vectors run over, the tiles of the nest that takes longest, and what is copied, in words."""
        cuts = self.cuts()
        if not cuts:
            return "nothing to sum"
        most = max(cuts, key=lambda one: one.block.cycles)
        lanes = target().lanes(self.problem.itemsize)
        sizes = list(zip(most.results, most.block.sizes, strict=True))
        rows = [str(size) for loop, size in sizes if not loop.vector and size > 1]
        vectors = next((ceil(size / lanes) for loop, size in sizes if loop.vector), 1)
        text = f"vectors over {self.vector}, tiles of {' × '.join([*rows, str(vectors)])} vectors"
        text += f", {len(most.steps)} products written out" if most.steps else f", {most.depth.count} deep"
        text += f" as matrices of {most.pairs} pairs" if most.pairs else ""
        text += f" in {most.parts} parts" if most.parts > 1 else ""
        text += f", kernels as they lie, for {len(most.nest.pieces) - 1} bands" if self.scattered else ""
        text += f", the longest of {len(cuts)} nests" if len(cuts) > 1 else ""
        copied = [role.value for role, buffer in zip(ROLES, self.buffers, strict=True) if buffer is not None]
        return f"{text}; copies {', '.join(copied) or 'nothing'}"


ROLES = (Role.VISIBLE, Role.HIDDEN, Role.WEIGHT)


def shape_of(problem: Problem, role: Role) -> tuple[int, ...]:
    """The shape of an array as kernels have it: of a graph's weight the edges' kernels, one behind the other."""
    shape, lead = problem.shape(role), problem.geometry.rank * problem.geometry.banked
    if role is not Role.WEIGHT or problem.channels.mask is None:
        return shape
    return (*shape[:lead], problem.channels.edges, 1, *shape[lead + 2 :])


def arguments(problem: Problem) -> tuple[int, ...]:
    """Which argument of a run, of two operands and the result, each of ROLES is."""
    order = *problem.operands, problem.produces
    return tuple(order.index(role) for role in ROLES)


KEPT = 16
"""Of what was chosen and cut last, which is asked for again when a problem is first chosen, explained and built."""


@depending(KEPT)
def _cuts(way: Way) -> tuple[Cut, ...]:
    room = cache_bytes()[1] // 2
    lying = Lying(*way.layouts)
    found = nests(way.problem, way.vector, lying, way.overhang, way.exact, way.known, way.scattered, way.pieces)
    each = [one for nest in found for one in in_patches(nest)]
    return tuple(cut(nest, way.problem.itemsize, target(), room) for nest in each)


def vectors(problem: Problem) -> list[str]:
    """What vectors may run over."""
    axes, channels = problem.geometry.axes, problem.channels
    found = ["example"]
    if axes and axes[-1].bank == 1:
        found.append("position")
    if channels.mask is None:
        one_each = channels.groups == channels.hidden == channels.visible > 1
        found += ["channel"] if one_each else ["hidden", "visible"]
    return found


def way(
    problem: Problem,
    vector: str,
    strides: tuple[Strides, ...],
    exact: tuple[bool, ...],
    count: int = 1,
    copied: frozenset[Role] = frozenset(),
    known: bool = False,
    scattered: bool = False,
) -> Way:
    """How to run a problem over vectors of something, on arrays of these strides, in the order of ROLES.

    If its first axis is cut into so many parts, they are further examples of a problem without a border there. Some
    can be `copied` in any case; the result is then computed beside the array that it is for.
    """
    produces, axes = problem.produces, problem.geometry.axes
    transposed = produces is Role.VISIBLE
    inner = with_borders_written_out(problem) if transposed else problem
    parts = axes[0].parts(count, transposed) if count > 1 else None
    inner = inner if parts is None else _of_parts(problem, parts)
    each = list(zip(inner.geometry.axes, exact, strict=True))
    overhang = [axis.overhang if transposed and not (own or known) else (0, 0) for axis, own in each]
    pads = {
        Role.VISIBLE: [(0, axis.visible) if transposed or own or known else axis.padded for axis, own in each],
        Role.HIDDEN: [
            (before, before + axis.hidden + after) for (before, after), (axis, _) in zip(overhang, each, strict=True)
        ],
        Role.WEIGHT: [],
    }
    in_residues = vector == "position" or (produces is Role.HIDDEN and _by_lines(problem))
    split = axes[-1].stride if in_residues else 1
    buffers: list[Buffer | None] = []
    layouts, straight = [], []
    for role, steps in zip(ROLES, strides, strict=True):
        shape = problem.shape(role)
        order = _order(problem, role, vector, steps)
        unit = order[-1]
        panel = _panel(problem, role, vector, shape[unit])
        lead = (0,) * (len(shape) - len(pads[role]))
        buffer = Buffer(
            (*inner.shape(role)[: len(lead)], *(length for _, length in pads[role])),
            (*lead, *(before for before, _ in pads[role])),
            order,
            split if role is Role.VISIBLE else 1,
            panel,
            _gap(problem, role, vector, shape),
            None if parts is None or role is Role.WEIGHT else _apart(parts, role),
            problem.dtype == SPLIT and role is not produces,
        )
        lies_well = _along(problem, role, vector, steps)
        if role not in (Role.WEIGHT, produces) and vector in ("hidden", "visible"):
            lies_well = lies_well and _near(problem, role, steps)
        changed = any(buffer.before) or buffer.split > 1 or buffer.panel or buffer.gap or buffer.apart or buffer.halves
        same = buffer.shape == shape and not changed
        as_it_is = same and lies_well and role not in copied and not (role is produces and folds(problem))
        buffers.append(None if as_it_is else buffer)
        # The step of an axis of one entry means nothing; of the vector it is one.
        own = tuple(1 if axis == unit and role in WIDE[vector] else step for axis, step in enumerate(steps))
        layouts.append(Layout(own) if as_it_is else buffer.layout)
        straight.append(steps[unit] == 1 == buffer.split)
    before = tuple(before for before, _ in overhang)
    own_lines = tuple(straight)
    return Way(problem, inner, vector, exact, tuple(buffers), tuple(layouts), before, known, scattered, own_lines)


def _of_parts(problem: Problem, parts: Parts) -> Problem:
    """The problem whose examples are the parts of all examples."""
    axes = (parts.axis, *problem.geometry.axes[1:])
    return replace(problem, geometry=replace(problem.geometry, axes=axes), batch=problem.batch * parts.count)


def _apart(parts: Parts, role: Role) -> Apart:
    """Where parts of the first axis begin in an array."""
    side = ROLES.index(role)
    return Apart(2, parts.count, parts.first[side], parts.step[side])


def _near(problem: Problem, role: Role, steps: Strides) -> bool:
    """Whether the channels of a position lie together, and where positions have own kernels those of all examples."""
    if _local(problem) and steps[0] >= steps[2]:
        return False
    few = problem.bytes_of(role) <= cache_bytes()[0] // 2
    return few or problem.shape(role)[1] == 1 or steps[1] == 1


def filling(problem: Problem) -> int:
    """Into how many parts to cut the first axis, so that they fill vectors over examples; 1 where it cannot be cut.

    A kernel's gradient sums over whole parts only: zeros of the hidden must not meet what no window sees.
    """
    lanes = target().lanes(problem.itemsize)
    count = lanes // gcd(lanes, problem.batch)
    for axis in problem.geometry.axes[:1]:
        size = axis.visible if problem.produces is Role.VISIBLE else axis.hidden
        even = problem.produces is not Role.WEIGHT or axis.hidden % count == 0
        if axis.border == "zero" and axis.bank == 1 and count <= size and even and not folds(problem):
            return count if problem.produces is not Role.VISIBLE or any(phase.taps for phase in axis.phases) else 1
    return 1


def pieces(best: Way) -> int:
    """In how many pieces to sum a kernel's gradient, each over some of the examples; their sums are added at the end.

    A small gradient leaves little to share between threads but the sum, and where they share the gradient each of
    them reads all examples. How many does not depend on the threads, so neither do the bits.
    """
    problem = best.asked
    if problem.produces is not Role.WEIGHT or best.parts > 1 or best.vector == "example":
        return 1
    if problem.channels.mask is not None:  # the weight is of edges, and lies as no shape of the problem's says
        return 1
    weight, read = problem.bytes_of(Role.WEIGHT), problem.bytes_of(Role.VISIBLE) + problem.bytes_of(Role.HIDDEN)
    started = int(best.seconds() / (BEGUN * coefficients().started * len(best.cuts())))
    most = min(cache_bytes()[1] // weight, read // (ADDED * weight), started, MANY_PIECES)
    return next((n for n in (8, 4, 2) if n <= most and problem.batch % n == 0), 1)


MANY_PIECES = 8
"""Of a sum: more than these would hardly be shared out better."""

ADDED = 16
"""How much more is read of the operands than is added at the end."""

BEGUN = 16
"""How much longer all takes than to start the kernels of every piece."""


def _panel(problem: Problem, role: Role, vector: str, channels: int) -> int:
    """How many channels of a weight to put side by side, so that what one tile reads is near; 0 leaves it."""
    if problem.dtype == SPLIT:
        return _matrix(problem, role, vector, channels)
    wide = PANEL * target().lanes(problem.itemsize)
    other = {Role.HIDDEN: "hidden", Role.VISIBLE: "visible"}.get(problem.produces)
    one = role is Role.WEIGHT and vector == other and problem.channels.groups == 1 and not problem.geometry.banked
    return wide if one and channels % wide == 0 and channels > wide and _is_far(problem) else 0


def _is_far(problem: Problem) -> bool:
    """Whether the weight is large; or what a tile reads of a tap has few places in the first cache, and is read often.

    What lies further apart has fewer places: no more than if it were all that lies between.
    """
    read = problem.terms // prod(problem.shape(Role.WEIGHT))
    large = problem.bytes_of(Role.WEIGHT) > LARGE and read >= SOMETIMES
    return large or (_tap(problem) > cache_bytes()[0] and read >= OFTEN)


def _tap(problem: Problem) -> int:
    """The bytes of one tap of a kernel."""
    return prod(problem.channels.weight) * problem.itemsize


OFTEN, SOMETIMES = 512, 12
"""How many positions make up for a copy of the weight, and of one that is large."""


def _gap(problem: Problem, role: Role, vector: str, shape: tuple[int, ...]) -> int:
    """Numbers to leave free after the channels of each position, if these would all share few places in the caches.

    A kernel's gradient takes some channels of many positions for a tile, again and again.
    """
    if role is problem.produces or problem.produces is not Role.WEIGHT or vector not in ("hidden", "visible"):
        return 0
    again = min(problem.channels.weight)
    return LINE // problem.itemsize if again >= AGAIN and shape[1] * problem.itemsize % CLASH == 0 else 0


AGAIN = 128
"""How often all is read, a tile's rows at a time, that makes up for a copy."""

LONG = 16
"""Positions of a line that is not short."""

PANEL = 2
"""Vectors of a panel, as tiles have where there are many rows."""


def with_borders_written_out(problem: Problem) -> Problem:
    """The problem whose visible has positions of its own for what borders read; zero borders need none."""
    axes = tuple(axis if axis.border == "zero" else axis.extended for axis in problem.geometry.axes)
    return replace(problem, geometry=replace(problem.geometry, axes=axes))


def _unit(problem: Problem, role: Role, vector: str) -> int:
    """The axis of an array along which vectors run, if they run over anything in it."""
    if role is Role.WEIGHT:
        return problem.geometry.rank * problem.geometry.banked + (vector == "visible")
    return {"position": problem.geometry.rank + 1, "example": 0}.get(vector, 1)


def _along(problem: Problem, role: Role, vector: str, steps: Strides) -> bool:
    """Whether an array steps by one along what vectors run over, if that is in it."""
    unit = _unit(problem, role, vector)
    return role not in WIDE[vector] or steps[unit] == 1 or problem.shape(role)[unit] == 1


def _order(problem: Problem, role: Role, vector: str, steps: Strides) -> tuple[int, ...]:
    """The order of the axes of a copy, the last one that along which it steps by one."""
    axes = range(len(steps))
    if problem.dtype == SPLIT and role is not problem.produces:
        return _of_matrices(problem, role, vector)
    if role is Role.WEIGHT:
        channel = _unit(problem, role, vector)
        others = sorted((axis for axis in axes if axis != channel), key=lambda axis: -abs(steps[axis]))
        return (*others, channel)
    match vector:
        case "position":
            # All channels of a line side by side, unless lines are so short that they are better joined.
            long = problem.geometry.hidden[-1] >= LONG
            return (0, *axes[2:-1], 1, axes[-1]) if long else tuple(axes)
        case "example":
            # What one kernel reads lies together.
            return (*axes[2:], 1, 0) if _local(problem) else (*axes[1:], 0)
    if _local(problem):  # examples are what shares a kernel
        return (*axes[2:], 0, 1)
    if _transposed(problem, role, vector):
        return tuple(axes)
    return (0, *axes[2:], 1)


def _of_matrices(problem: Problem, role: Role, vector: str) -> tuple[int, ...]:
    """The order of the axes of a copy whose parts are matrices: pairs of a sum innermost in A, the vector in B."""
    rank = problem.geometry.rank
    spatial = tuple(range(2, 2 + rank))
    if role is Role.WEIGHT:
        other, channel = (0, 1) if vector == "visible" else (1, 0)
        return (*spatial, other, channel)
    if along_lines(problem):
        return (0, *spatial[:-1], 1, spatial[-1])
    # Positions of a short line would fill only a part of a matrix, but with those of all examples they do not.
    return (*spatial, 0, 1) if _by_lines(problem) else (0, *spatial, 1)


FEW_ROWS = 12
"""Positions of a line that leave too much of a matrix empty."""


def _by_lines(problem: Problem) -> bool:
    """Whether examples of a position are rows of matrices side by side, as too few positions lie on a line."""
    if problem.dtype != SPLIT or problem.produces is Role.WEIGHT or not problem.geometry.axes or problem.batch == 1:
        return False
    if along_lines(problem):
        return False
    axis = problem.geometry.axes[-1]
    alike = -(-axis.visible // axis.stride) if problem.produces is Role.VISIBLE else axis.hidden
    return 1 < alike < FEW_ROWS


def _matrix(problem: Problem, role: Role, vector: str, channels: int) -> int:
    """How many neighbours matrices take side by side of a copy's last axis; 0 for all."""
    if role is problem.produces or (role is Role.VISIBLE and along_lines(problem)):
        return 0
    own = channels // (1 if role is Role.WEIGHT and vector == "visible" else problem.channels.groups)
    size = target().lanes(problem.itemsize) if role in WIDE[vector] else at_a_time(own)
    return size if channels > size and own % size == 0 else 0


def _transposed(problem: Problem, role: Role, vector: str) -> bool:
    """Whether positions are innermost in a copy of what a gradient's vectors do not run over: rows of matrices."""
    if problem.dtype != PAIRS or problem.produces is not Role.WEIGHT or not problem.geometry.axes:
        return False
    rows = role not in WIDE[vector] and vector in ("hidden", "visible")
    rows = rows and (role is Role.HIDDEN or problem.geometry.axes[-1].stride == 1)
    return rows and target().matrices and at_a_time(problem.geometry.hidden[-1]) >= LEAST


def _local(problem: Problem) -> bool:
    """Whether every position has a kernel of its own."""
    return problem.geometry.rank > 0 and all(axis.local for axis in problem.geometry.axes)


@depending(KEPT)
def best_way(
    problem: Problem,
    strides: tuple[Strides, ...],
    finite: bool,
    copied: frozenset[Role] = frozenset(),
) -> Way:
    """The way that should take the least time, with some arrays copied in any case.

    If operands are finite, products with a zero of the border may be left out, and products with a zero beyond the
    hidden put in. Else only what the sum has may be multiplied.
    """
    in_turn = tuple(role for role in ROLES if role in copied)
    vector, exact, count, *how = _best(problem, strides, finite, in_turn, machine())
    return way(problem, vector, strides, exact, count, copied, *how)


@lasting
def _best(
    problem: Problem, strides: tuple[Strides, ...], finite: bool, roles: tuple[Role, ...], _machine: Machine
) -> tuple[str, tuple[bool, ...], int, bool, bool]:
    """What the best way's vectors run over, which edges have loops of their own, and the rest that `way` is told."""
    best = _found(problem, strides, finite, frozenset(roles))
    return best.vector, best.exact, best.parts, *best.how


def _found(problem: Problem, strides: tuple[Strides, ...], finite: bool, copied: frozenset[Role]) -> Way:
    rank = problem.geometry.rank
    always = (problem.produces is Role.VISIBLE and not finite,) * rank
    best = _fastest(problem, strides, always, copied)
    if scatters(problem, best.vector):
        return way(problem, best.vector, strides, (False,) * rank, 1, copied, scattered=True)
    others = [exact for exact in _exact_choices(problem, best.vector) if finite and any(exact)]
    ways = [best, *(way(problem, best.vector, strides, exact, 1, copied) for exact in others)]
    if may_know(problem, best.vector) and (finite or problem.produces is not Role.VISIBLE):
        ways.append(way(problem, best.vector, strides, (False,) * rank, 1, copied, known=True))
    if finite and over_data(best.vector) and (count := filling(problem)) > 1:
        # A transpose never multiplies what falls on padding, so it may take less than the least.
        able = problem.produces is Role.VISIBLE
        if able or _least(problem, "example", strides) < best.seconds():
            whole, cut_up = (way(problem, "example", strides, always, n, copied) for n in (1, count))
            near = cut_up.copied <= OVERLAP * whole.copied
            ways += [cut_up] if near and (able or cut_up.least() < best.seconds()) else []
    return min(ways, key=Way.seconds)


def may_scatter(problem: Problem) -> bool:
    """Whether a transpose may take kernels as they lie: where each has a position of its own."""
    return problem.produces is Role.VISIBLE and _local(problem) and problem.channels.mask is None


def scatters(problem: Problem, vector: str) -> bool:
    """Whether it should, as a weight comes from memory, which gives one long run sooner than pieces of many places.

    What is added up more often has to be little beside it: kernels of a few vectors are not.
    """
    far = cache_bytes()[1] * (OF_DATA if over_data(vector) else OF_WEIGHTS)
    return may_scatter(problem) and _tap(problem) >= LEAST_TAP and problem.bytes_of(Role.WEIGHT) > far


OF_DATA, OF_WEIGHTS = 8, 16
"""How many times as large as the second-level cache a weight is that comes from memory, not from a cache beyond: this
is sooner worth it where vectors are of data, as the lanes of none have to be added up."""

LEAST_TAP = 1 << 11
"""Bytes of a tap of one kernel."""


def _fastest(problem: Problem, strides: tuple[Strides, ...], exact: tuple[bool, ...], copied: frozenset[Role]) -> Way:
    """The one that takes the least time, of those over each vector; what cannot be it is not cut into tiles."""
    best, seconds = None, float("inf")
    for least, _, vector in sorted((_least(problem, one, strides), n, one) for n, one in enumerate(vectors(problem))):
        if least < seconds:
            one = way(problem, vector, strides, exact, 1, copied)
            if one.least() < seconds and (own := one.seconds()) < seconds:
                best, seconds = one, own
    assert best is not None
    return best


def _least(problem: Problem, vector: str, strides: tuple[Strides, ...]) -> float:
    """Seconds that no way over a vector is below, whatever else it copies: what does not step by one along it."""
    copied = 0
    for role, steps in zip(ROLES, strides, strict=True):
        if not _along(problem, role, vector, steps):
            copied += _read(problem) if role is Role.VISIBLE else problem.bytes_of(role)
    return _least_seconds(problem, vector, ACROSS * copied)


def _read(problem: Problem) -> int:
    """The bytes of the visible that windows reach."""
    positions = prod(min(axis.visible, axis.padded[1]) for axis in problem.geometry.axes)
    return problem.batch * problem.channels.visible * positions * problem.itemsize


def _least_seconds(problem: Problem, vector: str, copied: float) -> float:
    """Seconds for so many bytes of copies, and all products as if every vector were full and multiplied at once.

    Where vectors are summed, so are the lanes of each result.
    """
    found = coefficients()
    seconds = multiplying(problem.terms, target().at_once(problem.dtype, problem.itemsize))
    if problem.produces not in WIDE[vector] and problem.channels.mask is None:
        seconds += SUM_UP * prod(problem.shape(problem.produces)) / found.cycles
    return seconds + 2 * copied / found.copied


OVERLAP = 1.2
"""How much more memory parts that overlap may take than copies that do not."""


def _exact_choices(problem: Problem, vector: str) -> list[tuple[bool, ...]]:
    """Which axes to try to give loops of their own at the edges: it spares products with zeros, and the padded copy.

    Either every line but none along the last axis, whose long runs of positions edges would break; or all axes, where
    most positions are far from an edge and so share loops.
    """
    axes = problem.geometry.axes
    able = [axis.border == "zero" and axis.bank == 1 and _reads_beyond(problem, axis) for axis in axes]
    lines = prod(axis.visible if problem.produces is Role.VISIBLE else axis.hidden for axis in axes[:-1])
    found = [(*able[:-1], False)] if axes and lines <= MANY_LINES else []
    few = prod(problem.geometry.kernel) <= FEW_TAPS
    if few and problem.produces is Role.WEIGHT:  # what lies at every edge is a nest of its own
        few = vector == "channel" and prod(len(axis.forward(True)) for axis in axes) <= FEW_NESTS
    if few and all(able) and vector in ("hidden", "visible", "channel"):
        found.append(tuple(able))
    return found


def may_know(problem: Problem, vector: str) -> bool:
    """Whether tiles may know what lies beyond the edges: where sums are few products, and vectors cross no edge."""
    axes, few = problem.geometry.axes, 1 < prod(problem.geometry.kernel) <= FEW_TAPS
    plain = all(axis.border == "zero" and axis.bank == 1 for axis in axes)
    reads = problem.produces is Role.WEIGHT or any(_reads_beyond(problem, axis) for axis in axes)
    phases = problem.produces is Role.VISIBLE and any(axis.stride > 1 for axis in axes)
    return vector == "channel" and few and plain and reads and not phases


MANY_LINES = 1024
"""Lines that make tables too long, and edges too rare, for loops of their own."""

FEW_NESTS = 9
"""So many are compiled soon: the edges and the middle of two axes."""

FEW_TAPS = 27
"""A kernel whose window is small, so that most positions are far from an edge, and nests are compiled soon."""


def _reads_beyond(problem: Problem, axis: Axis) -> bool:
    """Whether zeros beyond the edges of an axis are read."""
    if problem.produces is Role.VISIBLE:
        return any(axis.overhang)
    return axis.padded != (0, axis.visible) and (problem.produces is Role.HIDDEN or axis.every_window_sees)


def folds(problem: Problem) -> bool:
    """Whether what is computed on a border is added to what the border reads."""
    return problem.produces is Role.VISIBLE and any(axis.border != "zero" for axis in problem.geometry.axes)
