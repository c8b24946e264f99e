"""Convolution as products of frequencies, for large kernels: discrete Fourier transforms over parts of every axis.

A part of an axis meets visible positions x, taps k and hidden positions c, and the form sums over x = s·c + e·k − p.
For n frequencies, of which no two positions of the part that must be told apart are a multiple of n apart,

    [x = s·c + e·k − p]  =  1/n · Σ_f  exp(−2πi f·x/n) · exp(2πi f·e·k/n) · exp(2πi f·(s·c − p)/n)

so T = Σ_f (B v)_f · (G w)_f · (A h)_f, with a matrix for each role that holds stride, dilation, padding and border. The
three operations are the derivatives of that, as of the form itself: transform both operands, multiply frequency by
frequency (and sum over channels or examples), apply the transpose of the result's matrix. The real part of the products
of half the frequencies of one axis is enough, as operands are real.

Over several axes, T is as well a product of such real parts, of half the frequencies of each axis, which then has real
and imaginary parts of its own: a number of N axes has 2^N. So all transforms are real, and multiply half as much; but
2^N numbers make 4^N products, twice as many for every axis but one. That pays where transforms are most of the work,
as they are where channels are not summed over. Nor is the error larger.

Parts are short (a few kernels long: overlap-save), so the transforms are products with small matrices, which
the generated contraction does near the machine's peak; at these lengths that is sooner than a fast transform, which
saves multiplications and spends the time in moving numbers. The products of frequencies are the contraction too: a
locally connected convolution, whose positions are the frequencies.

Rounding spreads over a part. With u the unit of rounding and L the lengths of all sums added up (of the transforms, and
over channels or examples), an error is at most about L·u·Σ ‖v‖₁‖w‖₁, norms over a part, summed over channels. Errors of
random sign come to a fraction of √n·u of the largest result, n being the frequencies of an axis: measured in float32,
at most 5e-7 up to n = 71, 7e-7 at 203, 1.5e-6 at 842, beside 4e-7 to 7e-6 of the sum as written. No axis has more than
2048, so 1e-5 is far.

Where it pays, measured on one core of a Zen 5 with 64 channels, is where the sum as written has many terms. Dense:
7 taps 1.2 times, 101 taps 5.6 times sooner; 7×7 3.3 times, 31×31 9 times; 7×7×7 5 times. Depthwise: 21×21 at 56×56 not,
31×31 1.4 times, 51×51 3.2 times; 7×7×7 at 20×20×20 not, 11×11×11 twice; on one axis not up to 101 taps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ..after import After
from ..channels import Channels
from ..coefficients import coefficients, depending, lasting
from ..engine import Array, Engine, Run, nothing
from ..form import Problem, Role
from ..geometry import Axis
from ..kept import Kept
from ..kernels.waves import Cut
from ..memory import empty

if TYPE_CHECKING:
    from ..kernels.short import Short
    from ..kernels.target import Machine

ROLES = tuple(Role)

LEAST = 1 << 14
"""Bytes of room besides what stages write: arrays begin on lines."""

CHUNK = 8 << 20
"""Bytes of frequencies at a time, if there are several examples."""


def build(problem: Problem) -> Run:
    if problem.batch == 0:
        return nothing
    return _of_complex(problem) if problem.complex else _of_real(problem)


def _filed(work: str, lying: str, make: Callable[[], Short | None]) -> Short | None:
    """Work that is written down, of this process or of one before."""
    from ..kernels.filed import kept

    return kept(f"fft {work} {lying}", make)


def _of_complex(problem: Problem) -> Run:
    """Complex numbers by four real runs."""
    real = _real(problem)
    run = _of_real(real)

    def of_complex(a: Array, b: Array, out: Array, _kept: Kept | None = None, _after: After | None = None) -> None:
        made = np.empty(out.shape, real.dtype)
        with np.errstate(all="ignore"):
            run(a.real, b.real, made)
            out.real = made
            run(a.imag, b.imag, made)
            out.real -= made
            run(a.real, b.imag, made)
            out.imag = made
            run(a.imag, b.real, made)
            out.imag += made

    return of_complex


def _real(problem: Problem) -> Problem:
    """The problem on the real or the imaginary parts."""
    real = np.empty(0, problem.dtype).real.dtype
    return replace(problem, dtype=real.name, itemsize=real.itemsize)


def _of_real(problem: Problem) -> Run:
    from ..kernels.fourier import Data, Products, Transform, Weights
    from ..kernels.prepared import aligned
    from ..kernels.scratch import Scratch
    from ..kernels.short import Later, Written

    plan, kind = planned(problem), np.dtype(problem.dtype)
    some = replace(problem, batch=plan.examples)
    read, made = (Role.HIDDEN, Role.VISIBLE) if problem.produces is Role.VISIBLE else (Role.VISIBLE, Role.HIDDEN)
    gradient = problem.produces is Role.WEIGHT
    own, other = Data(read, plan.cuts, some), Data(made, plan.cuts, some)
    of_own, of_other = (Transform(role, plan.cuts, some, plan.apart) for role in (read, made))
    of_weight = Transform(Role.WEIGHT, plan.cuts, some, plan.apart, plan.rows)
    weights, products = Weights(problem), Products(of_own.made, plan.channels, some)
    parts = [slice(n, n + plan.examples) for n in range(0, problem.batch, plan.examples)]
    known_by = problem.produces, problem.dtype, problem.channels, plan.cuts, plan.apart
    shape = (1, *of_weight.made, prod(plan.channels.weight))

    def frequencies(weight: Array, kernels: Array, _: Array, later: Later) -> None:
        of_weight.forward(weights.read(weight, later), later, kernels)

    def results(data: Array, kernels: Array, out: Array, later: Later) -> None:
        later.foresee(plan.rooms(plan.examples))
        x = of_own.forward(own.read(data, later), later)
        z = later.array(x.size // x.shape[-1] * other.channels, kind).reshape(*x.shape[:-1], other.channels)
        products(x, z, products.kernels(kernels[0]), Role.HIDDEN, later)
        later.leave(x)
        entries, rest = other.written(out, later)
        of_other.back(z, entries, later)
        if rest is not None:
            other.drain(rest, out, later)

    def sums(visible: Array, hidden: Array, kernels: Array, later: Later) -> None:
        x = of_own.forward(own.read(visible, later), later)
        z = of_other.forward(other.read(hidden, later), later)
        products(x, z, products.kernels(kernels[0]), Role.WEIGHT, later)

    def entries(kernels: Array, weight: Array, _: Array, later: Later) -> None:
        weights.put(lambda own: of_weight.back(kernels, own, later), weight, later)

    room = (plan.room + LEAST) // kind.itemsize
    works = frequencies, results, sums, entries
    written = (Written(one, kind, room, partial(_filed, repr((plan, plan.examples, one.__name__)))) for one in works)
    to_kernels, to_results, to_sums, to_weight = written

    def transformed(weight: Array, room: Array) -> Array:
        kernels = room.reshape(shape)
        to_kernels(weight, kernels, kernels)
        return kernels

    def conv(data: Array, weight: Array, out: Array, kept: Kept | None) -> None:
        with Scratch() as lent:
            if kept is None:
                kernels = transformed(weight, lent.array(prod(shape), kind))
            else:
                kernels = kept.of(known_by, lambda: transformed(weight, empty((prod(shape),), kind)))
            for part in parts:
                to_results(data[part], kernels, out[part])

    def conv_weight(visible: Array, hidden: Array, out: Array, _kept: Kept | None) -> None:
        with Scratch() as lent:
            total, more = (lent.array(prod(shape), kind).reshape(shape) for _ in range(2))
            for part in parts:
                to_sums(visible[part], hidden[part], more if part.start else total)
                if part.start:
                    total += more
            to_weight(total, out, out)

    def run(a: Array, b: Array, out: Array, kept: Kept | None = None, _after: After | None = None) -> None:
        made = aligned(out)
        with np.errstate(all="ignore"):
            (conv_weight if gradient else conv)(aligned(a), aligned(b), made, kept)
        if made is not out:
            out[...] = made

    return run


@dataclass(frozen=True)
class Planned:
    """How the axes are cut, and how many examples are taken at a time."""

    problem: Problem
    cuts: tuple[Cut, ...]
    apart: bool = False
    """Whether each axis has real and imaginary parts of its own: half the work in transforms, twice that in products
    for every axis but one."""

    @property
    def channels(self) -> Channels:
        """Those of the products: what is summed over first."""
        channels = self.problem.channels
        swapped = Channels(channels.hidden, channels.visible, channels.groups)
        return swapped if self.problem.produces is Role.VISIBLE else channels

    @cached_property
    def parts(self) -> int:
        return prod([cut.parts.count for cut in self.cuts])

    @cached_property
    def numbers(self) -> int:
        """Of a channel's frequencies in a part."""
        *others, last = (cut.length for cut in self.cuts)
        halves = [2 * (length // 2 + 1) for length in others] if self.apart else others
        return prod(halves) * 2 * (last // 2 + 1)

    @property
    def pairs(self) -> int:
        """How many times a number is of a real and an imaginary part."""
        return len(self.cuts) if self.apart else 1

    @property
    def rows(self) -> int:
        """What the weight has in the place of each such pair."""
        return 4 if self.problem.produces is Role.WEIGHT else 3

    @cached_property
    def kernels(self) -> int:
        """The numbers of the weight's frequencies."""
        return prod([*self.problem.channels.weight, self.numbers >> self.pairs, *[self.rows] * self.pairs])

    @cached_property
    def examples(self) -> int:
        """A divisor of their number, of which the frequencies stay near the caches, or are about the weight's.

        Fewer where more would not be within what a call should take.
        """
        channels, itemsize = self.problem.channels, self.problem.itemsize
        each = self.numbers * self.parts * (channels.visible + channels.hidden)
        beside = self.kernels * (2 if self.problem.produces is Role.WEIGHT else 1)
        most = min(max(CHUNK // itemsize, beside) // each, self.problem.batch)
        return next((n for n in range(most, 1, -1) if self.problem.batch % n == 0 and self._within(n)), 1)

    @property
    def modest(self) -> bool:
        """Whether all is within what a call should take."""
        return self._within(self.examples)

    def _within(self, examples: int) -> bool:
        fixed, more = self._held
        return (fixed + examples * more) * self.problem.itemsize <= self.problem.extra

    def _lengths(self, role: Role, examples: int) -> list[int]:
        """The numbers of a role's arrays in so many examples: the parts, and what each stage of transforms writes."""
        each, count = prod([cut.size(role) for cut in self.cuts]), self._count(role, examples)
        return [count * each, *[count * written for _, written in self.stages[role]]]

    def rooms(self, examples: int) -> tuple[int, int]:
        """The numbers of two arrays in the place of which all have room that a convolution has, two at a time."""
        less, more = sorted((self._lengths(role, examples) for role in (Role.VISIBLE, Role.HIDDEN)), key=max)
        return more[-1], max(less[-1], more[-2])

    @cached_property
    def _held(self) -> tuple[int, int]:
        """The numbers that are there at once: of however many examples, and of each example."""
        if self.problem.produces is not Role.WEIGHT:
            return sum(self._lengths(Role.WEIGHT, 1)), sum(self.rooms(1))
        visible, hidden = (self._lengths(role, 1) for role in (Role.VISIBLE, Role.HIDDEN))
        return 2 * self.kernels, visible[-1] + hidden[-1] + max(sum(visible[:-1]), sum(hidden[:-1]))

    @cached_property
    def stages(self) -> dict[Role, list[tuple[int, int]]]:
        """The multiplications, and the numbers written, of each stage of the roles' transforms, for one channel."""
        return {role: self._stages(role) for role in ROLES}

    def _stages(self, role: Role) -> list[tuple[int, int]]:
        sizes = [(cut.length, cut.size(role)) for cut in (self.cuts[-1], *self.cuts[:-1])]
        parts = self.rows if self.apart and role is Role.WEIGHT else 2
        found, done, rest, real = [], 1, prod([size for _, size in sizes]), True
        for length, size in sizes:
            rest //= size
            rows, entries = (parts * (length // 2 + 1), size) if real else (2 * length, 2 * size)
            found.append((done * rows * entries * rest, done * rows * rest))
            done, real = done * (rows if self.apart else rows // 2), self.apart
        return found

    def _count(self, role: Role, examples: int) -> int:
        """How many times a role's transforms are made."""
        channels = self.problem.channels
        if role is Role.WEIGHT:
            return prod(channels.weight)
        return examples * self.parts * (channels.visible if role is Role.VISIBLE else channels.hidden)

    @cached_property
    def seconds(self) -> float:
        from ..kernels.target import target

        (multiplied, moved, started), found = self.work, coefficients()
        cycles = found.fft_multiplied * multiplied / target().lanes(self.problem.itemsize)
        far = moved * max(0.0, 1 - NEARBY / self.workspace) if moved > NEARBY else 0.0
        return cycles / found.cycles + moved / found.fft_moved + far / found.moved + started * found.fft_started

    @property
    def work(self) -> tuple[int, int, int]:
        """Multiplications, bytes that are read and written between them, and how many kernels are started."""
        problem, batch = self.problem, max(1, self.problem.batch)
        chunks = batch // self.examples
        multiplied = 2**self.pairs * batch * self.parts * self.numbers * problem.channels.edges
        # A gradient's four sums are written and read, and added to those of the chunk before.
        passes = 3 * chunks if problem.produces is Role.WEIGHT else chunks
        moved = passes * self.kernels * problem.itemsize + 2 * problem.bytes
        for role in ROLES:
            count = self._count(role, batch)
            for products, written in self.stages[role]:
                multiplied += count * products
                moved += 2 * count * written * problem.itemsize
        return multiplied, moved, _started(len(self.cuts), chunks)

    @property
    def workspace(self) -> int:
        """Operands and the result as they lie in parts, and what every stage writes."""
        problem, examples = self.problem, self.examples
        numbers = sum(sum(self._lengths(role, examples)) for role in Role)
        return (numbers + 2 * self.kernels) * problem.itemsize

    @property
    def room(self) -> int:
        """And what contractions copy besides."""
        return self.workspace * 5 // 4

    @property
    def tables(self) -> int:
        matrices = sum(8 * cut.length * cut.size(role) for cut in self.cuts for role in Role)
        return 2 * matrices * self.problem.itemsize + 32 * self.numbers * 8


def _started(axes: int, chunks: int) -> int:
    """How many are started: the transforms of all axes, products, copies."""
    return 4 + axes * (1 + 2 * chunks) + 3 * chunks


NEARBY = 32 << 20
"""Bytes that stages find again in a cache; of more, as many as are beyond come from memory."""

LONGEST = 2048
"""Frequencies of an axis, beyond which matrices are too large, and sums too long for the error that is promised."""

COUNTS = (*range(1, 16), *(2**n * m // 4 for n in range(4, 20) for m in (4, 5, 6, 7)))
"""Into how many parts an axis may be cut."""


@lru_cache(maxsize=256)
def _cuts(axis: Axis, transposed: bool) -> list[Cut]:
    """How an axis may be cut, into more parts each time; more parts of the same size are only more to do."""
    most = -(-axis.visible // axis.stride) if transposed else axis.hidden
    sizes = dict[int, int]()
    for count in COUNTS if axis.border == "zero" else (1,):
        if count <= max(1, most):
            sizes.setdefault(-(-most // count), count)
    cuts = [Cut.of(axis, count, transposed) for count in sizes.values()]
    return [cut for cut in cuts if cut.length <= LONGEST] or cuts[-1:]


def _choices(problem: Problem) -> list[list[Cut]]:
    return [_cuts(axis, problem.produces is Role.VISIBLE) for axis in problem.geometry.axes]


@depending(256)
def planned(problem: Problem) -> Planned:
    """The parts that should take the least time, and whether axes are apart."""
    from ..kernels.target import machine

    apart, counts = _counts(problem, machine())
    axes, transposed = problem.geometry.axes, problem.produces is Role.VISIBLE
    return Planned(problem, tuple(Cut.of(axis, n, transposed) for axis, n in zip(axes, counts, strict=True)), apart)


@lasting
def _counts(problem: Problem, _machine: Machine) -> tuple[bool, tuple[int, ...]]:
    """Whether axes are apart, and into how many parts each is cut."""
    choices = _choices(problem)
    able = (False, True) if len(choices) > 1 else (False,)
    best = min(
        (_cut(Planned(problem, tuple(cuts[0] for cuts in choices), apart), choices) for apart in able), key=_time
    )
    return best.apart, tuple(cut.parts.count for cut in best.cuts)


def _cut(best: Planned, choices: Sequence[Sequence[Cut]]) -> Planned:
    """One axis after the other cut as takes the least time, twice; not again where no other was cut anew."""
    beside: dict[int, tuple[Cut, ...]] = {}
    for _ in range(2):
        for number, cuts in enumerate(choices):
            others = (*best.cuts[:number], *best.cuts[number + 1 :])
            if beside.get(number) == others:
                continue
            beside[number] = others
            before, after = best.cuts[:number], best.cuts[number + 1 :]
            found = (Planned(best.problem, (*before, cut, *after), best.apart) for cut in cuts)
            best = min(found, key=_time)
    return best


def _time(plan: Planned) -> float:
    return plan.seconds


def why_not(problem: Problem) -> tuple[str, ...]:
    geometry = problem.geometry
    reasons = {
        "there is no axis to transform": geometry.rank == 0,
        "a kernel that is not the same everywhere has no frequencies": any(bank > 1 for bank in geometry.bank),
        "frequencies of a channel graph are not implemented": problem.channels.graph is not None,
        'precision="highest" forbids transforms': problem.precision == "highest",
    }
    found = tuple(reason for reason, holds in reasons.items() if holds)
    if not found and (longest := max(cuts[-1].length for cuts in _choices(problem))) > LONGEST:
        return (f"a part of an axis has {longest} frequencies, more than {LONGEST}",)
    return found


def least(problem: Problem) -> float:
    """Seconds that no plan is below: with the best cut of each axis for itself, beside the best of all others.

    On an axis of n parts with L frequencies, products are proportional to n·L, and the transform of operands of which a
    part has s entries to n·L·s; beside it, other axes have n·L or n·s. A product of factors r ≥ 1 is at least
    1 + Σ (r − 1).
    """
    from ..kernels.target import target

    found, real, choices = coefficients(), _real(problem), _choices(problem)
    batch, channels = max(1, problem.batch), problem.channels
    multiplied = found.fft_multiplied / target().lanes(real.itemsize) / found.cycles
    written = 2 * real.itemsize / found.fft_moved
    lines = [min(cut.parts.count * cut.length for cut in cuts) for cuts in choices]
    products = multiplied * 2 * batch * channels.edges * prod(lines)
    counts = {
        Role.VISIBLE: batch * channels.visible,
        Role.HIDDEN: batch * channels.hidden,
        Role.WEIGHT: prod(channels.weight),
    }
    roles = [(role, count, _beside(role, choices)) for role, count in counts.items()]

    def added(axis: int, cut: Cut) -> float:
        """By the factor of an axis, and the transforms along it."""
        transforms = sum(
            count * _parts(role, cut) * cut.length * beside[axis] * (multiplied * cut.size(role) + written)
            for role, count, beside in roles
        )
        return products * (cut.parts.count * cut.length / lines[axis] - 1) + transforms

    seconds = products + sum(min(added(axis, cut) for cut in cuts) for axis, cuts in enumerate(choices))
    seconds += 2 * real.bytes / found.fft_moved + _started(len(choices), 1) * found.fft_started
    return seconds * (4 if problem.complex else 1)


def _parts(role: Role, cut: Cut) -> int:
    return 1 if role is Role.WEIGHT else cut.parts.count


def _beside(role: Role, choices: Sequence[Sequence[Cut]]) -> list[float]:
    """How many numbers of a role there are on all other axes at least, as they are or transformed, beside each."""
    numbers = [min(_parts(role, cut) * min(cut.length, cut.size(role)) for cut in cuts) for cuts in choices]
    return [prod(numbers) / each for each in numbers]


def cost(problem: Problem) -> float:
    return planned(_real(problem)).seconds * (4 if problem.complex else 1)


def workspace(problem: Problem) -> int:
    """What stages write, and what contractions copy besides: as much as operands and the result, twice, at most."""
    plan = planned(_real(problem))
    return plan.room + tables(problem) + (4 if problem.complex else 2) * problem.bytes


def modest(problem: Problem) -> bool:
    """Whether frequencies of operands and result are within what a call should take."""
    return planned(_real(problem)).modest


def tables(problem: Problem) -> int:
    """Matrices, tiles of every frequency, and jobs of copies: about a byte for each number that they move."""
    return planned(_real(problem)).tables + problem.bytes * 5 // (4 * problem.itemsize)


def describe(problem: Problem) -> str:
    """Into what parts the axes are cut, and how many examples are taken at a time."""
    plan = planned(_real(problem))
    counts, lengths = (" × ".join(map(str, found)) for found in zip(*map(_sized, plan.cuts), strict=True))
    return f"{counts} parts of {lengths} frequencies, {plan.examples} of {problem.batch} examples at a time"


def _sized(cut: Cut) -> tuple[int, int]:
    return cut.parts.count, cut.length


ENGINE = Engine(
    "fft", why_not, cost, workspace, tables, build, spreads=True, describe=describe, least=least, modest=modest
)
