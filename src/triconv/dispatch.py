"""Which engine computes a problem: the ordered list of engines, the choice, and the plan that explains it."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import takewhile
from pathlib import Path
from threading import RLock
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from . import trial
from .after import After
from .arrays import STORED
from .coefficients import coefficients, depending, lasting, multiplying
from .engine import Array, Engine, Run
from .engines import bfloat16, direct, fft, im2row, matrix, reference, split, winograd
from .form import OPERANDS, Problem, Role, equation
from .kept import Kept
from .memory import in_line

if TYPE_CHECKING:
    from .kernels.target import Machine

ENGINES: dict[str, Engine] = {
    e.ENGINE.name: e.ENGINE for e in (direct, winograd, split, fft, im2row, matrix, reference)
}

HALVES: dict[str, Engine] = {e.ENGINE.name: e.ENGINE for e in (bfloat16,)}
"""Engines of operands in half precision alone; of all others, those that do not take them compute in float32."""

AUTO, MEASURE = "auto", "measure"
"""What an engine may be called besides by its name: the one that should be fastest, or that was when they were tried.
"""

ASKED, SLOWER = "was asked for", "slower"
"""What reasons end or begin with, of engines that could have been chosen."""

AT_LEAST = f"{SLOWER}: at least"
"""Of those whose estimate nobody needed."""

WORTH_A_TRIAL = 4
"""How many times as long as the fastest an engine may be expected to take, to be tried."""


WORTH_MEMORY = 1.1
"""How many times as fast an engine should be that takes more memory than a call should, to be chosen."""


@dataclass(frozen=True, eq=False)
class Plan:
    """One operation at one size, an engine for it, and why none of the others. str(plan) explains it to a person."""

    problem: Problem
    engine: Engine
    why_not: dict[str, str]
    measured: dict[str, float] = field(default_factory=dict)
    """The least seconds that engines took when they were tried, and this plan's when it was run."""

    @property
    def built(self) -> Run:
        """The bare callable, which trusts its caller; built when first asked for, and kept while there is room."""
        return _built(self)

    def run(self, a: Array, b: Array, out: Array) -> None:
        """Write the operation on a and b over out, an array of its own; all of them as the plan has them."""
        roles = self.problem.operands
        self._check_all({roles[0]: a, roles[1]: b}, out)
        self._run(a, b, out, None)

    def with_weight(self, weight: Array) -> Callable[[Array, Array], None]:
        """A callable run(data, out) for this weight, of which it has a copy, and keeps what the engine makes of it.

        Both come besides what a call takes, which `workspace` says.

        Raises
        ------
        ValueError, TypeError
            A weight that is not as the plan has it; a plan whose result is the weight.

        Examples
        --------
        >>> import numpy as np
        >>> import triconv
        >>> plan = triconv.explain("conv", (1, 1, 4), (1, 1, 2), dtype="float64")
        >>> run, out = plan.with_weight(np.array([[[1.0, -1.0]]])), np.empty((1, 1, 3))
        >>> run(np.array([[[1.0, 2.0, 4.0, 8.0]]]), out)
        >>> out
        array([[[-1., -2., -4.]]])
        """
        if self.problem.produces is Role.WEIGHT:
            raise ValueError("a plan for conv_weight: expected one for conv or conv_transpose, which take a weight")
        self._check(Role.WEIGHT, weight)
        own, kept, (role, _) = in_line(weight), Kept(), self.problem.operands

        def run(data: Array, out: Array) -> None:
            self._check_all({role: data}, out)  # nobody else has the weight
            self._run(data, own, out, kept)

        return run

    @cached_property
    def _shapes(self) -> dict[Role, tuple[int, ...]]:
        return {role: self.problem.shape(role) for role in Role}

    def _check_all(self, operands: dict[Role, Array], out: Array) -> None:
        """Raise what operands and the result are not that they have to be."""
        for role, array in (*operands.items(), (self.problem.produces, out)):
            self._check(role, array)
        for role, array in operands.items():
            if np.may_share_memory(array, out):
                raise ValueError(f"out shares memory with {role.value}: expected an array of its own")
        repeated = 0 in out.strides and any(step == 0 for step, n in zip(out.strides, out.shape, strict=True) if n > 1)
        if not out.flags.writeable or (repeated and out.size):
            raise ValueError("out is read-only or overlaps itself: expected an array of its own")

    def _check(self, role: Role, array: Array) -> None:
        """Raise what an array is not that it has to be."""
        if type(array) is not np.ndarray:
            raise TypeError(f"{role.value} of type {type(array).__name__}: expected a plain NumPy array")
        if array.shape != self._shapes[role] or array.dtype != self.problem.dtype:
            expected = f"{self._shapes[role]} and {self.problem.dtype}, as the plan has"
            raise ValueError(f"{role.value} of shape {array.shape} and dtype {array.dtype}: expected {expected}")

    def _run(self, a: Array, b: Array, out: Array, kept: Kept | None) -> None:
        run, begun = self.built, perf_counter()
        run(a, b, out, kept)
        took, name = perf_counter() - begun, self.engine.name
        self.measured[name] = min(took, self.measured.get(name, took))

    @property
    def flops(self) -> int:
        return self.problem.flops

    @property
    def bytes(self) -> int:
        return self.problem.bytes

    @property
    def workspace(self) -> int:
        """The most bytes that a call allocates besides its result, of arrays that lie alike: all channels innermost, or
        all in the order of their axes."""
        own, problem = self.engine.workspace(self.problem), self.problem
        if not self.engine.spreads or problem.dtype not in STORED:
            return own
        other = choose(replace(problem, precision="highest"))  # where something is not finite
        return own + other.problem.bytes + other.workspace

    @property
    def seconds(self) -> float:
        """The engine's own estimate of one call."""
        return self.engine.cost(self.problem)

    def shape(self, role: Role) -> tuple[int, ...]:
        return self.problem.shape(role)

    def __str__(self) -> str:
        return "\n".join(f"{name:<14} {text}" for name, text in self.rows())

    def rows(self) -> list[tuple[str, str]]:
        """What the plan says, as (name, text)."""
        problem = self.problem
        arrays = [f"{role.value} {problem.shape(role)}" for role in (*OPERANDS[problem.produces], problem.produces)]
        rows = [
            ("operation", f"{problem.name}, {problem.dtype}"),
            ("shapes", f"{arrays[0]} · {arrays[1]} → {arrays[2]}"),
            ("equation", equation(problem)),
            *_phases(problem),
            ("work", f"{problem.flops:,} flops on {_bytes(problem.bytes)}, workspace at most {_bytes(self.workspace)}"),
            ("engine", f"{self.engine.name}, about {_seconds(self.seconds)}{self._measured(self.engine.name)}"),
        ]
        if blocks := self.engine.describe(problem):
            rows.append(("blocks", blocks))
        rows.append(("roofline", self._roofline()))
        return rows + [(f"not {name}", f"{self._refusal(name)}{self._measured(name)}") for name in self.why_not]

    def _measured(self, name: str) -> str:
        """What an engine took, with the rate of the sum as written."""
        if not (took := self.measured.get(name)):
            return ""
        return f", measured {_seconds(took)}: {self.flops / took / 1e9:.4g} GFLOP/s of the sum as written"

    def _refusal(self, name: str) -> str:
        """Why not an engine; of one that could have been asked for, or takes longer, how long it should take."""
        reason, one = self.why_not[name], {**HALVES, **ENGINES}[name]
        own, bounded = one.own(self.problem), reason.startswith(AT_LEAST)
        if not (bounded or reason.endswith(ASKED)) or one.why_not(own):
            return reason
        about = f"about {_seconds(one.cost(own) + _casting(self.problem, own))}"
        return f"{SLOWER}: {about}" if bounded else f"{reason}; {about}"

    def _roofline(self) -> str:
        """The least time of the sum as written, and what share of the measured time that is."""
        multiplied, moved = self.roofline
        text = f"{_seconds(multiplied)} at one thread's peak, {_seconds(moved)} at its rate of copies"
        if took := self.measured.get(self.engine.name):
            text += (
                f"; measured {_seconds(took)}, of which the longer one is {100 * max(multiplied, moved) / took:.2g} %"
            )
        return text

    @property
    def roofline(self) -> tuple[float, float]:
        """Seconds at the peak of one thread, and at the rate of copies, by the machine's coefficients."""
        from .kernels.target import target

        problem = self.problem
        itemsize = problem.itemsize // 2 if problem.complex else problem.itemsize
        multiplied = multiplying(problem.flops // 2, target().at_once(problem.dtype, itemsize))
        return multiplied, problem.bytes / coefficients().copied


KEPT_PLANS, KEPT_BYTES = 1024, 256 << 20
"""How many built plans are kept, and what their tables hold together; the ones used longest ago are built again."""

_kept: OrderedDict[Plan, tuple[Run, int]] = OrderedDict()
_lock = RLock()  # a signal's handler may call in the middle of a call
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a thread that it has not
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def _built(plan: Plan) -> Run:
    with _lock:
        if found := _kept.get(plan):
            _kept.move_to_end(plan)
            return found[0]
    run, size = plan.engine.build(plan.problem), plan.engine.tables(plan.problem)
    if plan.engine.spreads:
        run = _with_infinities(plan.problem, run)
    with _lock:
        if size <= KEPT_BYTES:
            _kept[plan] = run, size
        while len(_kept) > KEPT_PLANS or sum([size for _, size in list(_kept.values())]) > KEPT_BYTES:
            _kept.popitem(last=False)
    return run


def _with_infinities(problem: Problem, run: Run) -> Run:
    """What spreads infinities and NaN, with the sum as written where there are any, or numbers too large for it."""
    from .kernels.finite import all_finite

    def either(a: Array, b: Array, out: Array, kept: Kept | None = None, after: After | None = None) -> None:
        known = finite = run(a, b, out, kept, after)
        if finite is None:
            finite = all(map(all_finite, (out.real, out.imag) if problem.complex else (out,)))
        if not finite:
            _as_written(problem, a, b, out, after)
        elif known is None and after is not None:
            after.apply(out)

    return either


def _as_written(problem: Problem, a: Array, b: Array, out: Array, after: After | None) -> None:
    """Compute a problem by the sum as written."""
    from .kernels.copy import convert

    plan = choose(replace(problem, precision="highest"))
    own, computed = problem.dtype, plan.problem.dtype
    if own == computed:
        plan.built(a, b, out, None, after)
        return
    data, other, result = (np.empty_like(array, computed) for array in (a, b, out))
    convert(a, data, own, computed)
    convert(b, other, own, computed)
    plan.built(data, other, result, None, after)
    convert(result, out, computed, own)


def choose(problem: Problem, engine: str = AUTO) -> Plan:
    """The plan for a problem: the named engine, or of those that can take it the one that should take, or takes, least.

    FFT, if it should take more memory than a call should, has to take a tenth less than others. Which one "measure"
    finds is remembered, as is every choice.
    """
    if not isinstance(engine, str) or engine not in (AUTO, MEASURE, *ENGINES, *HALVES):
        names = ", ".join([*ENGINES, *HALVES])
        raise ValueError(f'engine={" ".join(repr(engine).split())}: expected "{AUTO}", "{MEASURE}" or one of {names}')
    return _choose(problem, engine)


@depending(KEPT_PLANS)
def _choose(problem: Problem, engine: str) -> Plan:
    every = {**HALVES, **ENGINES} if problem.dtype in STORED or engine in HALVES else ENGINES
    wanted = every if engine in (AUTO, MEASURE) else {engine: every[engine]}
    _check_memory(problem, problem.bytes_of(problem.produces))
    own = {name: one.own(problem) for name, one in every.items()}
    refused = {name: why for name, one in every.items() if (why := one.why_not(own[name]))}
    able = [one for name, one in wanted.items() if name not in refused]
    if not able:
        reasons = "; ".join(f"{name}: {', '.join(refused[name])}" for name in wanted)
        raise ValueError(f"engine={engine!r} cannot take this problem: {reasons}")
    names = tuple(one.name for one in able)
    seconds, hopeless = _estimated(problem, names, WORTH_A_TRIAL if engine == MEASURE else WORTH_MEMORY)

    def fits(one: Engine) -> bool:
        return any(
            _bytes_asked(own[one.name], size) <= memory() for size in (one.most, one.workspace) if size is not None
        )

    def worth(one: Engine) -> float:
        costly = one.name not in hopeless and not one.modest(own[one.name])
        return seconds[one.name] * (WORTH_MEMORY if costly else 1.0)

    fastest = sorted(able, key=worth)
    if hopeless and not fits(fastest[0]):
        seconds, hopeless = _estimated(problem, names, float("inf"))
        fastest.sort(key=worth)
    too_large = list(takewhile(lambda one: not fits(one), fastest))
    if too_large == fastest:
        _check_memory(problem, min(_bytes_asked(own[one.name], one.workspace) for one in able))
    best = fastest[len(too_large)]
    measured: dict[str, float] = {}
    if engine == MEASURE and problem.terms:
        tried = [one for one in able if seconds[one.name] <= WORTH_A_TRIAL * seconds[best.name] and fits(one)]
        measured = {one.name: trial.seconds(one, own[one.name]) for one in tried}
        best = min(tried, key=lambda one: measured[one.name] + _casting(problem, own[one.name]))

    def why_not(one: Engine) -> str:
        if one.name in refused:
            return "; ".join(refused[one.name])
        if one.name not in wanted:
            return f'engine="{engine}" {ASKED}'
        if one in too_large:
            return f"its workspace of {_bytes(one.workspace(own[one.name]))} does not fit in memory"
        if not measured and seconds[one.name] < seconds[best.name]:
            return f"takes more memory and is not much faster: about {_seconds(seconds[one.name])}"
        return f"{AT_LEAST if one.name in hopeless else f'{SLOWER}: about'} {_seconds(seconds[one.name])}"

    refusals = {name: why_not(one) for name, one in every.items() if one is not best}
    return Plan(own[best.name], best, refusals, measured)


def _estimated(problem: Problem, names: tuple[str, ...], worth: float) -> tuple[dict[str, float], set[str]]:
    """What engines should take, and which of them take at least so much, and are not worth to be asked for more."""
    if len(names) == 1:
        return {names[0]: 0.0}, set()
    from .kernels.target import machine

    return _compared(problem, names, worth, machine())


@lasting
def _compared(
    problem: Problem, names: tuple[str, ...], worth: float, _machine: Machine
) -> tuple[dict[str, float], set[str]]:
    able = [{**HALVES, **ENGINES}[name] for name in names]
    own = {one.name: one.own(problem) for one in able}
    seconds, hopeless = dict[str, float](), set[str]()
    for least, one in sorted([(one.least(own[one.name]), one) for one in able], key=lambda pair: pair[0]):
        casting = _casting(problem, own[one.name])
        if seconds and least + casting > worth * min(seconds.values()):
            hopeless.add(one.name)
        else:
            least = one.cost(own[one.name])
        seconds[one.name] = least + casting
    return seconds, hopeless


def _casting(problem: Problem, computed: Problem) -> float:
    """Seconds to convert operands and result of a problem that is computed in another dtype than it is stored in."""
    return 0.0 if computed is problem else (problem.bytes + computed.bytes) / coefficients().converted


def _check_memory(problem: Problem, need: int) -> None:
    if need > memory():
        shape = problem.shape(problem.produces)
        raise MemoryError(f"{problem.name} to shape {shape} asks for {need} bytes, more than this machine's {memory()}")


def _bytes_asked(problem: Problem, besides: Callable[[Problem], int]) -> int:
    """The bytes of the result, and those that are taken besides."""
    return problem.bytes_of(problem.produces) + besides(problem)


@lru_cache(maxsize=1)
def memory() -> int:
    """The memory in bytes that the machine has, or that this process's group may use; 2⁶² where nobody says."""
    limits = [1 << 62]
    with suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(limit for limit in limits if limit > 0)


def _phases(problem: Problem) -> list[tuple[str, str]]:
    """For a strided transpose, the taps that reach each residue of the visible positions, axis by axis."""
    if problem.produces is not Role.VISIBLE:
        return []
    rows = []
    for a, axis in enumerate(problem.geometry.axes):
        if 1 < axis.stride <= 8:
            phases = [f"{p.first}, {p.first + axis.stride}, … from taps {list(p.taps)}" for p in axis.phases]
            rows.append((f"phases {a}", f"visible positions {'; '.join(phases)}"))
    return rows


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:,.4g} TiB"


def _seconds(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if seconds >= scale or unit == "ns":
            break
    return f"{float(f'{seconds / scale:.2g}'):g} {unit}"
