"""Winograd's minimal filtering on every axis at once: fewer multiplications, for kernels that step by one.

Tiles of m results take m + r − 1 products on each axis instead of m · r, between transforms that mostly add. For the
transpose the kernel is flipped, and the weight's gradient is the same sum with the roles exchanged (`filtering`).

Rounding errors grow by the product of the axes' `amplification`: relative to the root mean square of the result, about
that times 2 eps for independent random operands. Tiles that would exceed AMPLIFIED are not taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import ceil, prod
from typing import TYPE_CHECKING

from ..engine import Array, Engine, Run
from ..filtering import POINTS, filtering
from ..form import Problem, Role, weight_order

if TYPE_CHECKING:
    from ..kernels.filtered import Sizes
    from ..kernels.prepared import Prepared
    from ..kernels.ways import Strides, Way

AMPLIFIED = 9.5
"""The most that rounding errors may grow: as those of tiles of 4 by 4 and kernels of 3 by 3, and somewhat more."""

CYCLES, COPIED = 4e9, 25e9
"""A second's cycles, and bytes copied."""

MULTIPLIED, TRANSFORMED, KERNEL, STARTED = 0.6, 7.0, 12.0, 1e-4
"""Cycles of a vector's multiplication in a contraction, and of a vector transformed, of tiles and of kernels; and
seconds to start all."""

KEPT_ORDERS = 8
"""How many memory orders of a problem are kept ready."""


def why_not(problem: Problem) -> tuple[str, ...]:
    geometry, found = problem.geometry, []
    if problem.precision == "highest":
        found.append('precision="highest" forbids transforms')
    if problem.dtype not in ("float32", "float64"):
        found.append(f"needs float32 or float64, not {problem.dtype}")
    if geometry.banked:
        found.append("needs one kernel for all positions")
    if problem.channels.mask is not None:
        found.append("needs whole groups of channels")
    if any(axis.stride > 1 for axis in geometry.axes):
        found.append("needs stride 1")
    if not any(axis.kernel > 1 for axis in geometry.axes) or any(len(POINTS) < axis.kernel for axis in geometry.axes):
        found.append(f"needs kernels of 2 to {len(POINTS)} taps")
    if not found and not _choices(problem):
        found.append(f"rounding errors would grow more than {AMPLIFIED} times")
    return tuple(found)


@lru_cache(maxsize=64)
def _choices(problem: Problem) -> tuple[tuple[int, ...], ...]:
    """Sizes of tiles that do not amplify errors too much, and fill the axes well."""
    each = [range(1, len(POINTS) + 3 - axis.kernel) if axis.kernel > 1 else (1,) for axis in problem.geometry.axes]
    found = []
    for sizes in product(*each):
        kernels = [axis.kernel for axis in problem.geometry.axes]
        amplified = prod(filtering(m, r).amplification for m, r in zip(sizes, kernels, strict=True))
        if any(m > 1 for m in sizes) and amplified <= AMPLIFIED:
            found.append(sizes)
    return tuple(found)


def cost(problem: Problem) -> float:
    """Seconds on arrays that lie well."""
    return min(_seconds(problem, sizes) for sizes in _choices(problem))


@lru_cache(maxsize=64)
def tile_sizes(problem: Problem) -> tuple[int, ...]:
    """How many results a tile has along each axis."""
    return min(_choices(problem), key=lambda sizes: _seconds(problem, sizes))


def _seconds(problem: Problem, sizes: tuple[int, ...]) -> float:
    """The cost of tiles of some sizes."""
    from ..kernels.target import target

    lanes, channels, axes = target().lanes(problem.itemsize), problem.channels, problem.geometry.axes
    transposed = problem.produces is Role.VISIBLE
    made = [axis.visible if transposed else axis.hidden for axis in axes]
    tiles = problem.batch * prod(
        min(axis.dilation, count) * ceil(count / (m * min(axis.dilation, count)))
        for count, m, axis in zip(made, sizes, axes, strict=True)
    )
    points = prod(m + axis.kernel - 1 for m, axis in zip(sizes, axes, strict=True))
    vectors = channels.groups * ceil(channels.hidden // channels.groups / lanes), ceil(channels.visible / lanes)
    inputs = channels.hidden // channels.groups if transposed else channels.weight[1]
    outputs = ceil((channels.weight[1] if transposed else channels.hidden // channels.groups) / lanes)
    multiplied = MULTIPLIED * tiles * channels.groups * inputs * outputs
    transformed = TRANSFORMED * tiles * sum(vectors) + KERNEL * channels.groups * inputs * outputs
    return points * (multiplied + transformed) / CYCLES + problem.bytes / COPIED + STARTED


@dataclass(frozen=True)
class _Lying:
    """Where arrays are copied first, as the transforms want their channels side by side."""

    way: Way
    strides: tuple[Strides, ...]


def _lying(problem: Problem, strides: tuple[Strides, ...]) -> _Lying:
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES, Way, with_borders_written_out

    bordered = any(axis.border != "zero" for axis in problem.geometry.axes)
    inner = with_borders_written_out(problem) if bordered else problem
    outputs = 1 if problem.produces is Role.VISIBLE else 0
    rank = problem.geometry.rank
    buffers: list[Buffer | None] = []
    for role, steps in zip(ROLES, strides, strict=True):
        shape, unit = inner.shape(role), outputs if role is Role.WEIGHT else 1
        before = [0] * len(shape)
        extended = role is Role.VISIBLE and inner is not problem
        if extended:
            before[2:] = [axis.before if axis.border != "zero" else 0 for axis in problem.geometry.axes]
        order = weight_order(rank, False) if role is Role.WEIGHT else (0, *range(2, 2 + rank), 1)
        order = (*(axis for axis in order if axis != unit), unit)
        as_it_is = (steps[unit] == 1 or shape[unit] == 1) and not extended
        buffers.append(None if as_it_is else Buffer(shape, tuple(before), order))
    found = tuple(own if buffer is None else buffer.layout.steps for own, buffer in zip(strides, buffers, strict=True))
    return _Lying(Way(problem, inner, "hidden", (), tuple(buffers), (), ()), found)


def _sizes(problem: Problem, strides: tuple[Strides, ...]) -> Sizes:
    from ..kernels.correlation import Correlation
    from ..kernels.filtered import Sizes

    return Sizes(problem, Correlation.of(problem, *strides), tile_sizes(problem))


def _prepared(problem: Problem, strides: tuple[Strides, ...]) -> Prepared:
    """The problem made ready for arrays of these strides, in numbers."""
    from ..kernels.prepared import Prepared, moves
    from ..kernels.ways import ROLES
    from ..kernels.winograd import schedule

    lying = _lying(problem, strides)
    sizes = _sizes(lying.way.problem, lying.strides)
    seen, made = (Role.HIDDEN, Role.VISIBLE) if problem.produces is Role.VISIBLE else (Role.VISIBLE, Role.HIDDEN)
    operands = tuple(ROLES.index(role) for role in (seen, Role.WEIGHT, made))
    produced = ROLES.index(problem.produces)
    program = schedule(sizes, problem.produces is Role.WEIGHT)
    copies = moves(lying.way, strides, produced)
    return Prepared(lying.way, produced, None, problem.batch, 1, program, operands, *copies)


def build(problem: Problem) -> Run:
    from ..kernels.prepared import aligned
    from ..kernels.ways import ROLES

    order = [ROLES.index(role) for role in (*problem.operands, problem.produces)]
    given_at, produced = [order.index(number) for number in range(3)], ROLES.index(problem.produces)

    @lru_cache(maxsize=KEPT_ORDERS)
    def ready(strides: tuple[Strides, ...]) -> Prepared:
        return _prepared(problem, tuple(tuple(step // problem.itemsize for step in own) for own in strides))

    def run(a: Array, b: Array, out: Array) -> bool | None:
        if problem.batch == 0:
            out[...] = 0
            return True
        arguments = aligned(a), aligned(b), aligned(out)
        given = [arguments[number] for number in given_at]
        finite = ready((given[0].strides, given[1].strides, given[2].strides)).run(given)
        if given[produced] is not out:
            out[...] = given[produced]
        return finite

    return run


@lru_cache(maxsize=64)
def workspace(problem: Problem) -> int:
    """Transforms of tiles and kernels, and copies of arrays whose channels do not lie side by side."""
    from ..kernels.layout import Buffer
    from ..kernels.ways import ROLES
    from ..kernels.winograd import schedule

    if problem.batch == 0:
        return 0
    strides = []
    for role in ROLES:
        shape = problem.shape(role)
        strides.append(Buffer(shape, (0,) * len(shape), tuple(range(len(shape)))).layout.steps)
    lying = _lying(problem, tuple(strides))
    scratch = schedule(_sizes(lying.way.problem, lying.strides), problem.produces is Role.WEIGHT).scratch
    return lying.way.copied + scratch * problem.itemsize + 2 * tables(problem)


def tables(problem: Problem) -> int:
    """The jobs of all tiles and kernels."""
    if problem.batch == 0:
        return 0
    sizes = tile_sizes(problem)
    axes, transposed = problem.geometry.axes, problem.produces is Role.VISIBLE
    tiles = problem.batch * prod(
        len((axis.mirrored if transposed else axis).tiles(m)) for axis, m in zip(axes, sizes, strict=True)
    )
    return 8 * (4 + 2 * len(axes)) * (2 * tiles * (1 + problem.channels.groups) + prod(problem.channels.weight))


ENGINE = Engine("winograd", why_not, cost, workspace, tables, build, spreads=True)
