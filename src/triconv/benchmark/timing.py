"""Timing several candidates in one run, round by round in turn, so that what slows the machine slows them all."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median
from time import perf_counter, sleep

SAMPLE = 5e-3
"""Seconds that a sample lasts at least; shorter calls are repeated and divided."""
MOST_CALLS = 10_000
LONG = 50e-3
"""Seconds from which on a call is its own warm-up."""
WARM = 30e-3
"""Seconds after which the threads of the usual libraries no longer work on, or spin for more work."""


@dataclass(frozen=True)
class Timing:
    """The seconds of one call, a sample for each round, and how many calls each sample is the mean of."""

    samples: tuple[float, ...]
    calls: int

    @property
    def median(self) -> float:
        return median(self.samples)

    @property
    def least(self) -> float:
        return min(self.samples)


def interleave(
    candidates: Mapping[str, Callable[[], object]],
    rounds: int = 10,
    seconds: float = 1.0,
    sample: float = SAMPLE,
    warm: float = 0.0,
    clock: Callable[[], float] = perf_counter,
) -> dict[str, Timing]:
    """Time candidates in turn.

    Each is called twice before: once to warm up, and once to see how many calls make a sample. Then every round takes
    one sample of each; round r begins with candidate r, so that none always follows the same one. Before a sample come
    calls that do not count, at least one and for so many seconds: threads that still work or wait for the candidate
    before go to sleep meanwhile, and caches and processors get warm. Long calls have a pause instead. A candidate that
    has used its seconds leaves the rounds, never before its first sample.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: expected at least 1")
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    once = {name: _once(call, clock) for name, call in candidates.items()}
    calls = {name: min(max(1, ceil(sample / max(elapsed, 1e-9))), MOST_CALLS) for name, elapsed in once.items()}
    spent = dict.fromkeys(candidates, 0.0)
    names = list(candidates)
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            first = turn % max(len(names), 1)
            for name in names[first:] + names[:first]:
                if samples[name] and spent[name] >= seconds:
                    continue
                call, count = candidates[name], range(calls[name])
                _warm_up(call, once[name], warm, clock)
                start = clock()
                for _ in count:
                    call()
                elapsed = clock() - start
                spent[name] += elapsed
                samples[name].append(elapsed / calls[name])
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(tuple(samples[name]), calls[name]) for name in names}


def _warm_up(call: Callable[[], object], once: float, seconds: float, clock: Callable[[], float]) -> None:
    """Calls that do not count, or a pause before long ones."""
    if once >= LONG:
        sleep(seconds)
        return
    end = clock() + seconds
    call()
    while clock() < end:
        call()


def _once(call: Callable[[], object], clock: Callable[[], float]) -> float:
    """The seconds of one call after another."""
    call()
    start = clock()
    call()
    return clock() - start
