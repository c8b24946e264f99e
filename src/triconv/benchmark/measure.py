"""Measuring rows, each number of threads in a process of its own that may use as many processors.

A row that fails is a row that says why; one that takes its process with it is named too, and the next has a new one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from math import sqrt
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import STORED
from ..dispatch import Plan
from ..form import Problem, Role
from ..kernels.threads import VARIABLE, available
from . import first, in_jax, in_torch, in_triconv
from .machine import LIMITS, Machine, Memory, last_cache_bytes, machine
from .memory import resident_extra, traced_extra
from .row import OURS, Row
from .timing import WARM, interleave
from .way import NotMeant, Ready, Unable, Way
from .workload import Operands, Workload, as_layers_keep, channels_last, moved, operands, terms

Array = NDArray[Any]

LAMBDA = 10
"""A rounding error of n products exceeds λ √n u Σ|products| with a probability below 2n exp(−λ²/2)."""
CONTROLLED = (VARIABLE, "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables by which libraries are told how many threads to use."""


@dataclass(frozen=True)
class Settings:
    """How to measure: rounds, and seconds after which a candidate leaves them; which engine of ours;
    whether first calls are measured too."""

    rounds: int = 10
    seconds: float = 1.0
    engine: str = "auto"
    first_calls: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds}: expected at least 1")
        if not self.seconds > 0:
            raise ValueError(f"seconds={self.seconds}: expected more than 0")


def ways(settings: Settings) -> list[Way]:
    return [*in_triconv.ways(settings.engine), *in_torch.ways(), *in_jax.ways()]


def measure(
    workloads: Sequence[Workload], operations: Sequence[str], threads: Sequence[int], settings: Settings
) -> Iterator[Row | Machine]:
    """The machine with each number of threads, then its rows, as they are measured."""
    for count in threads:
        if not 1 <= count <= available():
            raise ValueError(f"threads={count}: expected 1 to {available()}, the processors this process may use")
    for count in threads:
        with limited(count):
            pool = _pool(count)
            try:
                yield pool.submit(_machine, count).result()
                for workload in workloads:
                    for operation in operations:
                        try:
                            row = pool.submit(measure_row, workload, operation, count, settings).result()
                        except BrokenProcessPool:
                            row = Row(workload.name, operation, count, failure="the measuring process was killed")
                            pool = _pool(count)
                        if settings.first_calls and count == threads[0] and not row.failure:
                            row.first = first.calls(workload, operation, settings.engine)
                        yield row
            finally:
                pool.shutdown(cancel_futures=True)


def in_process(threads: int, function: Callable[..., Row], *values: Any) -> Row:
    """The row that a function measures, in a fresh process of so many threads."""
    with limited(threads), _pool(threads) as pool:
        return pool.submit(function, *values).result()


@contextmanager
def limited(threads: int) -> Iterator[None]:
    """Processes that start inside may use so many processors, and libraries in them so many threads."""
    before = {name: os.environ.get(name) for name in CONTROLLED}
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_setaffinity") else set()
    os.environ |= dict.fromkeys(CONTROLLED, str(threads))
    try:
        if processors:
            os.sched_setaffinity(0, sorted(processors)[:threads])
        yield
    finally:
        if processors:
            os.sched_setaffinity(0, processors)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _pool(threads: int) -> ProcessPoolExecutor:
    """One fresh process, so that libraries read the variables and the processors that they may use."""
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_begin, initargs=(threads,))


def _begin(threads: int) -> None:
    if find_spec("torch") is not None:
        torch = import_module("torch")
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)


@lru_cache(maxsize=1)
def _machine(threads: int) -> Machine:
    return machine(threads)


@lru_cache(maxsize=1)
def _memory(threads: int) -> Memory:
    return Memory(threads)


def measure_row(workload: Workload, operation: str, threads: int, settings: Settings) -> Row:
    """Verify and time one operation, in this process."""
    row = Row(workload.name, operation, threads)
    try:
        plan = workload.plan(operation, settings.engine)
        problem = workload.problem(operation)
        _describe(row, plan, problem, _machine(threads))
        values = operands(problem)
        candidates = _verified(row, plan, problem, values, settings)
        calls = {name: one.call for name, one in candidates.items()}
        far = row.read + row.written > last_cache_bytes()  # its limits are timed beside it, as they change
        limits = _memory(threads).limits() if far else {}
        row.timings = interleave(calls | limits, settings.rounds, settings.seconds, warm=WARM)
        if far:
            timed = {name: row.timings.pop(name) for name in LIMITS}
            row.moving_seconds = _memory(threads).seconds(timed, row.read, row.written)
        if OURS in candidates:
            result = problem.bytes_of(problem.produces)
            row.extra["traced"] = traced_extra(candidates[OURS].call)
            for name, way in (("resident", OURS), ("resident of the best peer", row.best())):
                found = None if way is None else resident_extra(candidates[way].call, result)
                if found is not None:
                    row.extra[name] = found
    except Exception as error:  # whatever it is, it is this row's
        row.failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return row


def _describe(row: Row, plan: Plan, problem: Problem, here: Machine) -> None:
    row.shapes = " · ".join(f"{role.value} {problem.shape(role)}" for role in problem.operands)
    row.dtype, row.engine, row.flops = problem.dtype, plan.engine.name, problem.flops
    row.read, row.written = moved(problem)
    row.weight_bytes = problem.bytes_of(Role.WEIGHT)
    row.peak_seconds = here.least_seconds(problem.flops, plan.problem.dtype)
    row.moving_seconds = here.moving_seconds(row.read, row.written)
    row.extra = {"stated": plan.workspace, "allowed": problem.extra}


def _verified(row: Row, plan: Plan, problem: Problem, values: Operands, settings: Settings) -> dict[str, Ready]:
    """The ways that can, each of which agrees with the first peer; those that cannot or do not are noted."""
    able: dict[str, Ready] = {}
    for way in ways(settings):
        try:
            able[way.name] = way.ready(problem, values)
            row.libraries[way.name] = way.library
        except NotMeant as error:
            row.not_meant[way.name] = str(error)
        except Unable as error:
            row.left_out[way.name] = str(error)
        except Exception as error:  # a peer's own failure is not the row's
            row.left_out[way.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    peer = next((way for way in ways(settings) if way.name in able and way.library != OURS), None)
    if peer is None:
        row.against = "nothing: no peer can take it"
        return able
    row.against = peer.name
    expected = np.array(able[peer.name].result())
    magnitude = peer.ready(problem, {role: np.abs(array) for role, array in values.items()}).result()
    allowed = rounding(problem) * np.abs(magnitude)
    agreeing = {}
    for name, one in able.items():
        try:
            apart = _apart(np.asarray(one.result()), expected, allowed)
        except Exception as error:
            row.left_out[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            continue
        if name == OURS:
            row.apart = max(apart, _apart(_on_poison(plan, values), expected, allowed))
            apart = row.apart
        if apart <= 1:
            agreeing[name] = one
        else:
            row.left_out[name] = f"WRONG: {apart:.3g} times as far from {peer.name} as rounding allows"
    if OURS not in agreeing:
        row.failure = row.left_out[OURS]
    return agreeing


ROUNDED = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""By how much of a number rounding it to half precision changes it at most."""


def rounding(problem: Problem) -> float:
    """How far two correct results may be apart, as a share of the sum of |products|: each off by half of this.

    A sum of n products is off by at most (n + 2) u Σ|products|, and by more than λ √n u Σ|products| almost never. In
    half precision the sum is rounded once more.
    """
    n = terms(problem)
    unit = float(np.finfo(STORED.get(problem.dtype, problem.dtype)).eps) / 2
    once = ROUNDED.get(problem.dtype, 0.0)
    return 2 * (once + min(n + 2, LAMBDA * sqrt(n) + 2) * unit * (4 if problem.complex else 1))


def _apart(found: Array, expected: Array, allowed: Array) -> float:
    """The largest difference, as a share of what is allowed; infinite for another shape and for NaN."""
    if found.shape != expected.shape:
        return float("inf")
    with np.errstate(all="ignore"):
        shares = np.abs(found - expected) / np.maximum(allowed, np.finfo(allowed.dtype).tiny)
    largest = float(shares.max(initial=0))
    return largest if np.isfinite(largest) else float("inf")


def _on_poison(plan: Plan, values: Operands) -> Array:
    """The plan's result written over NaN: what it leaves out stays NaN."""
    problem = plan.problem
    placed = {
        role: as_layers_keep(array, problem) if role is Role.WEIGHT else channels_last(array)
        for role, array in values.items()
    }
    out = np.full(problem.shape(problem.produces), np.nan, problem.dtype)
    out = as_layers_keep(out, problem) if problem.produces is Role.WEIGHT else channels_last(out)
    a, b = (placed[role].astype(problem.dtype, copy=False) for role in problem.operands)
    plan.run(a, b, out)
    return out
