"""The form as loop nests: every index of T(v, w, h) with its steps in three arrays, whichever of them is the result."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import chain, product
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..form import Problem, Role
from ..geometry import Axis, Run, Strand
from ..memory import LINE
from .edges import Edge
from .index import Index, Table, divisors, outer_sum
from .layout import Layout
from .lines import along_lines
from .nest import Nest
from .target import cache_bytes, target
from .words import HALVED, SPLIT

WIDE = {
    "hidden": (Role.HIDDEN, Role.WEIGHT),
    "visible": (Role.VISIBLE, Role.WEIGHT),
    "channel": (Role.VISIBLE, Role.HIDDEN, Role.WEIGHT),
    "position": (Role.VISIBLE, Role.HIDDEN),
    "example": (Role.VISIBLE, Role.HIDDEN),
}
"""What vectors may run over, and the arrays that step by one along it."""


def over_data(vector: str) -> bool:
    """Whether vectors run over data alone: the weight, operand or result, has no vectors then."""
    return Role.WEIGHT not in WIDE[vector]


class Steps(NamedTuple):
    """How far something is in the visible, in the hidden and in the weight."""

    visible: int = 0
    hidden: int = 0
    weight: int = 0


@dataclass(frozen=True)
class Bundle:
    """A place where loops begin, and the taps that are summed from there."""

    corner: Steps
    taps: tuple[Steps, ...] = (Steps(),)


@dataclass(frozen=True, eq=False)
class Family:
    """Bundles as tables: many objects would take long to make, and to be looked at when garbage is collected."""

    corners: Table
    taps: Sequence[Table]
    which: Table
    """The taps of each corner."""

    @classmethod
    def of(cls, bundles: Sequence[Bundle]) -> Family:
        """The tables of some bundles; taps that are the same are one table."""
        number: dict[tuple[Steps, ...], int] = {}
        which = [number.setdefault(bundle.taps, len(number)) for bundle in bundles]
        return cls(_table([one.corner for one in bundles]), [*map(_table, number)], np.array(which, np.int64))


def _table(steps: Sequence[Steps]) -> Table:
    """Steps as rows; NumPy takes ten times as long for a list of tuples."""
    return np.fromiter(chain.from_iterable(steps), np.int64).reshape(-1, len(Steps._fields))


@dataclass(frozen=True)
class Lying:
    """How the three arrays of a problem lie."""

    visible: Layout
    hidden: Layout
    weight: Layout

    def run(self, axis: int, run: Run) -> Steps:
        """The steps of a run of positions along an axis."""
        return Steps(
            self.visible.step(2 + axis, run.visible),
            self.hidden.step(2 + axis, run.hidden),
            self.weight.steps[axis] * run.bank if run.bank else 0,
        )

    def tap(self, rank: int, axis: int, kernel: int) -> int:
        """Where a kernel tap along an axis is in the weight."""
        return self.weight.steps[axis - rank] * kernel


def arrays(problem: Problem, vector: str) -> tuple[Role, Role, Role]:
    """The roles of A, B and C: the result is C, and B steps by one along the vector."""
    first, second = problem.operands
    if second in WIDE[vector]:
        return first, second, problem.produces
    return second, first, problem.produces


def nests(
    problem: Problem,
    vector: str,
    lying: Lying,
    overhang: Sequence[int],
    exact: Sequence[bool],
    known: bool = False,
    scattered: bool = False,
    pieces: int = 1,
) -> list[Nest]:
    """The loop nests of a problem, for what vectors run over and how arrays lie.

    `overhang` is how many positions the hidden has before its first on each axis. `exact` loops need neither those nor
    padding; a kernel's gradient has none. Nor do tiles whose edges are `known`, nor what is `scattered`. Threads share
    so many `pieces` like this one.
    """
    if scattered:
        return [_scattered(problem, vector, lying)]
    roles = arrays(problem, vector)

    def loop(count: int, steps: Steps, is_vector: bool = False, axis: int = -1, move: int = 0) -> Index:
        return _index(count, steps, roles, is_vector, axis, move)

    bundles, channel_loops = _channels(problem, lying)
    axes, side = problem.geometry.axes, "hidden" if problem.produces is Role.VISIBLE else "visible"
    families = [_groups(problem, lying, axis, overhang[axis], exact, known) for axis in range(len(axes))]
    edges = tuple(Edge(*axis.edge(side == "hidden")) for axis in axes) if known else ()
    examples = Steps(lying.visible.steps[0], lying.hidden.steps[0], 0)
    read = lying.hidden.steps if problem.produces is Role.VISIBLE else lying.visible.steps
    inside_lines = problem.dtype == SPLIT and len(axes) > 0 and problem.batch > 1 and read[0] < read[-1]
    found = []
    for choice in product(*families):
        runs = [[(run, lying.run(axis, run)) for run in group.runs] for axis, group in enumerate(choice)]
        residues = [loop(run.count, steps) for pair in runs for run, steps in pair if run.bank and run.count > 1]
        turns = [
            (run.count, steps, axis if known else -1, getattr(run, side))
            for axis, pair in enumerate(runs)
            for run, steps in pair
            if not run.bank
        ]
        last = len(turns) - 1 if vector == "position" else None
        positions = [loop(count, steps, number == last, *at) for number, (count, steps, *at) in enumerate(turns)]
        batch = loop(problem.batch, examples, vector == "example")
        spatial = [*positions, batch] if vector == "example" or inside_lines else [batch, *positions]
        taps = [
            loop(count, steps, False, axis if known else -1, axes[axis].dilation)
            for axis, group in enumerate(choice)
            for count, steps in group.kernel
        ]
        g, o, i = (
            [*(loop(*panel) for panel in panels), loop(count, steps, name == vector)]
            for name, (*panels, (count, steps)) in channel_loops.items()
        )
        spread = problem.produces is Role.WEIGHT and vector == "channel"
        if spread:
            g = _panels(g[0], target().lanes(problem.itemsize), prod(problem.geometry.kernel), pieces < ENOUGH)
        outer, results, sums = _order(problem, vector, (g, o, i), residues, spatial, taps, inside_lines)
        corners, tap_table = _tables([bundles, *(Family.of(group.bundles) for group in choice)], roles)
        corners = np.pad(corners, ((0, 0), (0, len(edges)))) if edges else corners
        once = "ABC"[roles.index(Role.WEIGHT)] if residues and problem.bytes_of(Role.WEIGHT) > LARGE else ""
        inside = over_data(vector) and problem.channels.mask is None and not once
        inside |= problem.dtype == SPLIT
        loops = tuple(outer), tuple(results), tuple(sums)
        leaps = over_data(vector) and problem.channels.mask is not None and problem.produces is not Role.WEIGHT
        nest = Nest(*loops, corners, tap_table, inside, once, spread, _reread(problem), edges, leaps)
        low = tuple(getattr(lying, role.value).low for role in roles[:2])
        nest = replace(nest, pairs=problem.dtype in HALVED, low=low, past=once == "C" or outgrows(problem))
        found.append(nest)
    return found


def _scattered(problem: Problem, vector: str, lying: Lying) -> Nest:
    """The loop nest of a transpose that takes kernels of positions' own as they lie, each tap of each once.

    What a tap finds for a position is added to the visible one that it belongs to. Pieces are bands of visible
    positions, which begin with a corner without taps for each of them: it is zero at first. Terms of a number are added
    in the order in which the weight lies, however it is cut.
    """
    roles, axes = arrays(problem, vector), problem.geometry.axes
    (bundles, loops), families, place = _channels(problem, lying), [], np.zeros(1, np.int64)
    for number, axis in enumerate(axes):
        at, met = Places(problem, lying, number, 0, 0), axis.inside
        families.append(Family.of([Bundle(at.of_tap(axis, c, k)) for c, k in met]))
        place = np.add.outer(place * axis.visible, [int(axis.position(c, k)) for c, k in met]).ravel()
    corners, taps = _tables([bundles, *families], roles)
    positions, weight = prod(axis.visible for axis in axes), roles.index(Role.WEIGHT)
    many = min(BANDS, positions)
    zeros = np.zeros((positions, 5), np.int64)
    lines = [[lying.visible.at(2 + number, x) for x in range(axis.visible)] for number, axis in enumerate(axes)]
    zeros[:, 2] = reduce(np.add.outer, lines, np.zeros((), np.int64)).ravel()
    corners, place = np.concatenate([zeros, corners]), np.concatenate([np.arange(positions), place.astype(np.int64)])
    band = place * many // positions
    order = np.lexsort((corners[:, weight], corners[:, 4] > corners[:, 3], band))
    pieces = tuple(np.searchsorted(band[order], np.arange(many + 1)).tolist())
    g, i, o = (
        [_index(count, steps, roles, name == vector) for count, steps in loops[name]]
        for name in ("channel", "visible", "hidden")
    )
    batch = _index(problem.batch, Steps(lying.visible.steps[0], lying.hidden.steps[0]), roles, vector == "example")
    results = (*g, *i, batch)
    return Nest((), results, tuple(o), corners[order], taps, once="ABC"[weight], adds=True, pieces=pieces)


BANDS = 8
"""Of visible positions, which threads share. Where they meet, kernels are not read as one long run."""


PANEL = 8
"""Vectors of channels that a panel has at most where threads share panels: enough for memory to give lines that follow
each other."""

ENOUGH = 8
"""Pieces of a sum that threads can share, so that they need not share panels of each."""

NEAR = 4
"""The part of the first-level cache that a panel's sums may take, to which every patch adds."""


def _panels(channels: Index, lanes: int, taps: int, shared: bool) -> list[Index]:
    """The loop over channels as one over panels, which threads can share if they are to, and one inside of a panel.

    Wide ones rather: of what lies between those of a panel memory gives the next lines too, which are wanted later.
    """
    vectors = channels.count // lanes
    if channels.count % lanes or vectors <= 1:
        return [channels]
    most = cache_bytes()[0] // (NEAR * LINE * taps)
    most = max(1, min(most, PANEL, vectors // 2) if shared else most)
    wide = lanes * max(n for n in range(1, min(most, vectors) + 1) if vectors % n == 0)
    if wide == channels.count:
        return [channels]
    panels = Index(vectors * lanes // wide, wide * channels.a, wide * channels.b, wide * channels.c)
    return [panels, replace(channels, count=wide)]


def _order(
    problem: Problem,
    vector: str,
    channels: tuple[list[Index], list[Index], list[Index]],
    residues: list[Index],
    spatial: list[Index],
    taps: list[Index],
    inside_lines: bool,
) -> tuple[list[Index], list[Index], list[Index]]:
    """The loops over results around the corners and in them, outermost first, and those that are summed.

    Weights of a bank's kernels are passed once, or once for each chunk of examples that stays near if they do too; a
    shared weight too large for the cache is passed panel by panel.
    """
    g, o, i = channels
    match problem.produces:
        case Role.WEIGHT if vector == "channel":
            return g[:-1], [*residues, *taps, g[-1]], spatial
        case Role.WEIGHT:
            return [], [*g, *residues, *o[:-1], *taps, *i, o[-1]], spatial
        case Role.HIDDEN:
            channel, sums = o, [*i, *taps] if over_data(vector) else [*taps, *i]
            if problem.dtype == SPLIT:  # what taps share of a panel is near then
                sums = taps if along_lines(problem) else [*i[:-1], *taps, i[-1]]
        case Role.VISIBLE:
            channel, sums = i, [*o, *taps] if over_data(vector) else [*taps, *o]
            if problem.dtype == SPLIT:
                sums = [*o[:-1], *taps, o[-1]]
    near = 2 if inside_lines or (vector == "example" and problem.batch * problem.itemsize % LINE) else 1
    lines, line = spatial[:-near], spatial[-near:]
    if vector in ("hidden", "visible") and problem.bytes_of(Role.WEIGHT) > LARGE and not residues:
        return [*g, *channel, *lines], line, sums
    if vector == "channel" and _window(problem) <= LARGE:
        return [*residues, *lines], [*line, *g], sums
    if vector in ("hidden", "visible") and problem.channels.groups > 1 and _stays(problem):
        return [*residues, *lines], [*line, *g, *channel], sums
    if (
        residues
        and lines
        and vector != "example"
        and near == 1
        and problem.bytes_of(Role.WEIGHT) <= cache_bytes()[1] // 2
    ):
        chunks, examples = _in_chunks(problem, lines[0])
        return [*g, chunks, *residues, examples, *lines[1:]], [*line, *channel], sums
    return [*g, *residues, *lines], [*line, *channel], sums


def _in_chunks(problem: Problem, batch: Index) -> tuple[Index, Index]:
    """The loop over examples as one over chunks that stay near while all kernels meet them, and one inside."""
    each = sum(map(problem.bytes_of, (Role.VISIBLE, Role.HIDDEN))) // batch.count
    many = max(n for n in divisors(batch.count) if n == 1 or n * each <= cache_bytes()[1] // 2)
    chunks = Index(batch.count // many, many * batch.a, many * batch.b, many * batch.c)
    return chunks, replace(batch, count=many)


def _reread(problem: Problem) -> int:
    """The room for what all tiles of a kernel's gradient read: both operands, or a group's or a kernel's share of them.

    A share lies in short pieces between those of others, which meet in few places of the caches.
    """
    if problem.produces is not Role.WEIGHT:
        return 0
    met = prod(min(axis.kernel / axis.stride, 1.0) for axis in problem.geometry.axes)
    data = int(problem.bytes_of(Role.VISIBLE) * met) + problem.bytes_of(Role.HIDDEN)
    shares = problem.channels.groups * prod(problem.geometry.bank)
    return data if shares == 1 else BETWEEN * data // shares


BETWEEN = 4
"""How much more room short pieces between others take."""


def _window(problem: Problem) -> int:
    """The bytes of the lines, planes, … of all channels that neighbouring ones of the result share."""
    axes = problem.geometry.axes
    lines = axes[0].span * prod(axis.reach for axis in axes[1:]) if axes else 1
    return lines * problem.channels.visible * problem.itemsize


def _stays(problem: Problem) -> bool:
    """Whether what neighbouring lines read of all groups stays near: each takes short pieces between those of others.

    Else every group in its turn would fetch all lines of memory, of which it needs little.
    """
    return _window(problem) + problem.bytes_of(Role.WEIGHT) <= LARGE


def outgrows(problem: Problem) -> bool:
    """Whether a result that is not a weight only fills the caches."""
    return problem.produces is not Role.WEIGHT and problem.bytes_of(problem.produces) >= BEYOND


BEYOND = 1 << 24
"""Bytes of a result of which little is left in the last of the caches when somebody reads it."""

LARGE = 1 << 19
"""Bytes of a weight, or of a window, that do not share the second-level cache well with the rest: panels of channels
are then taken one after the other.
"""


def _index(
    count: int, steps: Steps, roles: tuple[Role, Role, Role], is_vector: bool = False, axis: int = -1, move: int = 0
) -> Index:
    a, b, c = (_of(steps, role) for role in roles)
    return Index(count, a, b, c, is_vector, axis, move)


def _of(steps: Steps, role: Role) -> int:
    step: int = getattr(steps, role.value)
    return step


def _channels(problem: Problem, lying: Lying) -> tuple[Family, dict[str, list[tuple[int, Steps]]]]:
    """Where blocks of channels begin, and the loops over groups, hidden and visible channels."""
    channels, lead = problem.channels, problem.geometry.rank if problem.geometry.banked else 0
    visible, hidden = lying.visible.steps[1], lying.hidden.steps[1]
    by_hidden, by_visible = lying.weight.steps[lead : lead + 2]
    if channels.mask is not None:
        none = {name: [(1, Steps())] for name in ("channel", "hidden", "visible")}
        return _edges(problem, np.nonzero(channels.mask), Steps(visible, hidden), by_hidden), none
    groups, outputs, inputs = channels.groups, channels.hidden // channels.groups, channels.weight[1]
    group = Steps(
        _apart(lying.visible, visible, inputs),
        _apart(lying.hidden, hidden, outputs),
        _apart(lying.weight, by_hidden, outputs) if by_hidden == 1 else by_hidden * outputs,
    )
    loops = {
        "channel": [(groups, group)],
        "hidden": [(outputs, Steps(0, hidden, by_hidden))],
        "visible": [(inputs, Steps(visible, 0, by_visible))],
    }
    weight = Steps(0, 0, lying.weight.panel_step)
    data = Steps(lying.visible.panel_step, lying.hidden.panel_step, 0)
    for name, layout, own in (
        ("hidden" if by_hidden == 1 else "visible", lying.weight, weight),
        ("visible", lying.visible, data._replace(hidden=0)),
        ("hidden", lying.hidden, data._replace(visible=0)),
    ):
        if layout.panel:
            loops[name] = _in_panels(loops[name][0], layout.panel, own)
    return Family.of([Bundle(Steps())]), loops


def _apart(layout: Layout, step: int, count: int) -> int:
    """How far so many channels are, which are whole panels if there are any."""
    return count // layout.panel * layout.panel_step if layout.panel else count * step


def _in_panels(channels: tuple[int, Steps], wide: int, apart: Steps) -> list[tuple[int, Steps]]:
    """A loop over channels as one over panels of so many, which are so far `apart` in an array, and one inside."""
    count, step = channels
    panels = Steps(*(far or wide * own for far, own in zip(apart, step, strict=True)))
    return [(count // wide, panels), (wide, step)]


def _edges(problem: Problem, edges: Sequence[NDArray[np.intp]], step: Steps, kernel: int) -> Family:
    """A channel graph's edges (o, i), whose kernels follow each other: each result channel with those that it sums."""
    o, i = edges
    places = np.column_stack([step.visible * i, step.hidden * o, kernel * np.arange(len(o))])
    if problem.produces is Role.WEIGHT:
        # Each meets all positions of two channels: of the visible ones as many take turns as stay in the cache.
        near = max(1, cache_bytes()[1] // 2 * problem.channels.visible // problem.bytes_of(Role.VISIBLE))
        return Family(places[np.lexsort((i, o, i // near))], [_table([Steps()])], np.zeros(len(o), np.int64))
    if problem.produces is Role.HIDDEN:
        name, own, count = "hidden", o, problem.channels.hidden
    else:
        name, own, count = "visible", i, problem.channels.visible
    column, order = Steps._fields.index(name), np.argsort(own, kind="stable")
    places[:, column], corners = 0, np.zeros((count, len(step)), np.int64)
    corners[:, column] = np.arange(count) * step[column]
    ends = np.searchsorted(own[order], np.arange(1, count))
    return Family(corners, np.split(places[order], ends), np.arange(count))


@dataclass(frozen=True)
class Group:
    """Strands of an axis that take the same runs: their loops, where each begins, and kernel taps that are a loop."""

    runs: tuple[Run, ...]
    bundles: list[Bundle]
    kernel: list[tuple[int, Steps]]


def _groups(
    problem: Problem, lying: Lying, number: int, overhang: int, exact: Sequence[bool], known: bool
) -> list[Group]:
    """The strands of an axis, those of the same runs together."""
    axis, last = problem.geometry.axes[number], number == problem.geometry.rank - 1
    at = Places(problem, lying, number, overhang, axis.before if known else 0)
    if problem.produces is Role.VISIBLE and not exact[number] and axis.stride == axis.bank == 1:
        (strand,) = axis.transposed(False)
        met = at.transposed(strand)
        step = Steps(0, at.hidden(axis.dilation), -at.kernel(1))  # the taps of the only phase are evenly spaced
        return [Group(strand.runs, [Bundle(_plus(met.corner, met.taps[0]))], [(axis.kernel, step)])]
    if problem.produces is Role.VISIBLE:
        strands = [(strand, at.transposed(strand)) for strand in axis.transposed(exact[number])]
    elif problem.produces is Role.WEIGHT and all(exact):
        return [at.inside(strand, axis) for strand in axis.forward(True) if strand.taps]
    elif problem.produces is Role.WEIGHT and exact[number]:
        return [Group((), at.pairs(axis), [])]
    elif last and lying.visible.split > 1:
        strands = [(strand, bundle) for strand in axis.forward(False) for bundle in at.apart(axis, strand)]
    else:
        strands = [(strand, at.forward(axis, strand, exact[number])) for strand in axis.forward(exact[number])]
    by_runs: dict[tuple[Run, ...], list[Bundle]] = defaultdict(list)
    for strand, bundle in strands:
        if exact[number] and not exact[-1]:  # every line is a loop of its own
            by_runs[()] += at.lines(strand, bundle)
        else:
            by_runs[strand.runs].append(bundle)
    shared = problem.produces is not Role.VISIBLE and not exact[number] and not (last and lying.visible.split > 1)
    kernel = [(axis.kernel, Steps(at.visible(axis.dilation), 0, at.kernel(1)))] if shared else []
    return [Group(runs, bundles, kernel) for runs, bundles in by_runs.items()]


class Places:
    """Where positions of an axis, taps of its kernel and kernels of its bank are in the three arrays."""

    def __init__(self, problem: Problem, lying: Lying, number: int, overhang: int, missing: int) -> None:
        """`missing` is how many positions of the padding strands count that the visible has not."""
        self.produces, self.overhang = problem.produces, overhang
        self.missing = 0 if problem.produces is Role.VISIBLE else missing
        self.bank = lying.weight.steps[number] if problem.geometry.banked else 0
        self.visible = partial(lying.visible.at, 2 + number)
        self.hidden = partial(lying.hidden.at, 2 + number)
        self.kernel = partial(lying.tap, problem.geometry.rank, number)
        self.run = partial(lying.run, number)

    def corner(self, strand: Strand) -> Steps:
        hidden = self.hidden(strand.hidden + self.overhang)
        return Steps(self.visible(strand.visible - self.missing), hidden, self.bank * strand.bank)

    def transposed(self, strand: Strand) -> Bundle:
        # In the order of memory: only the last taps read what earlier ones, and tiles, have not brought to the cache.
        in_order = sorted(strand.taps, key=lambda tap: tap[1])
        taps = (Steps(0, self.hidden(1) * o, self.kernel(k) + self.bank * b) for k, o, b in in_order)
        return Bundle(self.corner(strand), tuple(taps))

    def of_tap(self, axis: Axis, c: int, k: int) -> Steps:
        """A tap of the kernel of a hidden position that it has alone, and the visible position that they meet."""
        return Steps(self.visible(int(axis.position(c, k))), self.hidden(c), self.bank * c + self.kernel(k))

    def forward(self, axis: Axis, strand: Strand, exact: bool) -> Bundle:
        """Taps that all positions of the axis meet are a loop, and not listed."""
        if not exact:
            return Bundle(self.corner(strand))
        taps = tuple(Steps(self.visible(axis.dilation * k), 0, self.kernel(k)) for k, _, _ in strand.taps)
        return Bundle(self.corner(strand), taps)

    def apart(self, axis: Axis, strand: Strand) -> list[Bundle]:
        """Where residues of the visible lie apart, so do taps: they are listed, or are results of their own."""
        corner = self.corner(strand)._replace(visible=0)
        places = [self.visible(strand.visible + axis.dilation * k) for k in range(axis.kernel)]
        taps = [Steps(place, 0, self.kernel(k)) for k, place in enumerate(places)]
        if self.produces is Role.HIDDEN:
            return [Bundle(corner, tuple(taps))]
        return [Bundle(_plus(corner, tap)) for tap in taps]

    def lines(self, strand: Strand, bundle: Bundle) -> list[Bundle]:
        """Every position of a strand on its own."""
        (run,) = strand.runs
        steps = self.run(run)
        return [replace(bundle, corner=_plus(bundle.corner, Steps(*(n * s for s in steps)))) for n in range(run.count)]

    def inside(self, strand: Strand, axis: Axis) -> Group:
        """The positions of a strand, with the taps that they meet inside the visible as a loop."""
        first = strand.taps[0][0]
        corner = _plus(self.corner(strand), Steps(self.visible(axis.dilation * first), 0, self.kernel(first)))
        taps = (len(strand.taps), Steps(self.visible(axis.dilation), 0, self.kernel(1)))
        return Group(strand.runs, [Bundle(corner)], [taps])

    def pairs(self, axis: Axis) -> list[Bundle]:
        """Every tap, with the positions that meet it inside the visible."""
        positions: dict[int, list[int]] = {k: [] for k in range(axis.kernel)}
        for strand in axis.forward(True):
            (run,) = strand.runs
            for k, _, _ in strand.taps:
                positions[k] += range(strand.hidden, strand.hidden + run.count)
        return [
            Bundle(
                Steps(self.visible(int(axis.position(0, k))), 0, self.kernel(k)),
                tuple(Steps(self.visible(axis.stride * c), self.hidden(c), 0) for c in met),
            )
            for k, met in positions.items()
        ]


def _plus(a: Steps, b: Steps) -> Steps:
    return Steps(a.visible + b.visible, a.hidden + b.hidden, a.weight + b.weight)


def _tables(families: Sequence[Family], roles: tuple[Role, Role, Role]) -> tuple[Table, Table]:
    """Corners (a, b, c, first tap, last tap) for every combination of a bundle from each family, and their taps."""
    corners, which, sums, sizes = np.zeros((1, 3), np.int64), np.zeros(1, np.int64), np.zeros((1, 3), np.int64), [1]
    for family in families:
        corners = outer_sum(corners, family.corners)
        which = np.add.outer(which * len(family.taps), family.which).ravel()
        if len(family.taps) == 1:
            sums, sizes = outer_sum(sums, *family.taps), [size * len(family.taps[0]) for size in sizes]
        elif sizes == [1] and family.taps:
            sums, sizes = sums + np.concatenate(family.taps), [*map(len, family.taps)]
        else:
            each = np.split(sums, np.cumsum(sizes[:-1]))
            pieces = [outer_sum(before, table) for before in each for table in family.taps]
            sums, sizes = np.concatenate([sums[:0], *pieces]), [*map(len, pieces)]
    ends = np.cumsum([0, *sizes])
    columns = [Steps._fields.index(role.value) for role in roles]
    found = np.column_stack([corners[:, columns], ends[which], ends[which + 1]])
    return found, np.ascontiguousarray(sums[:, columns[:2]])
