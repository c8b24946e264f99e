"""The machine's coefficients, measured one after the other, each on a problem that takes little else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from statistics import median
from time import get_clock_info, perf_counter, process_time

import numpy as np

from ..coefficients import DEFAULT, Coefficients, use
from ..dispatch import ENGINES
from ..form import OPERATIONS, Problem
from ..kernels.copy import Dim, Move
from ..kernels.threads import threads
from ..trial import ready
from .workload import Workload

SECONDS = 0.4
"""How long each is tried again; of a round the fastest counts, as what disturbs only makes slower."""

CLOCK = process_time if get_clock_info("process_time").resolution < 1e-6 else perf_counter
"""Without what other processes take, where the system counts finely."""

BYTES, FAR = 4 << 20, 64 << 20
"""Of an array that is near a core, and of one that is not."""

FURTHER = 1.01
"""By how much a coefficient is changed to see how an estimate follows it."""

APART = 30.0
"""How many times its default a measured coefficient may be, or its default it; beyond, something else was measured."""

ROUNDS = 8
"""In how many turns each has its time."""

TURNS = 6
"""How often all are found anew from the same times: each is found while the others are as they were found last."""


@dataclass(frozen=True)
class Probe:
    """A problem of which an engine's estimate is mostly made of one coefficient."""

    engine: str
    visible: tuple[int, ...]
    weight: tuple[int, ...]
    padding: int = 0
    operation: str = "conv"
    stride: int = 1

    @property
    def problem(self) -> Problem:
        channels = self.visible[1] // self.weight[1]
        options = {"padding": self.padding, "stride": self.stride, "groups": channels}
        one = Workload("probe", self.visible, self.weight, options).problem()
        return one.producing(OPERATIONS[self.operation])

    def seconds(self, found: Coefficients) -> float:
        """The engine's estimate by some coefficients."""
        use(found)
        return ENGINES[self.engine].cost(self.problem)


PROBES: dict[str, Probe] = {
    "cycles": Probe("direct", (1, 128, 28, 28), (128, 128, 3, 3)),
    "copied": Probe("direct", (8, 1, 80, 80), (2, 1, 3, 3), 1, "conv_transpose"),
    "started": Probe("direct", (1, 16, 5, 5), (16, 16, 3, 3), 1, "conv_transpose", 2),
    "called": Probe("direct", (1, 16, 4, 4), (16, 16, 1, 1)),
    "winograd_multiplied": Probe("winograd", (2, 256, 28, 28), (256, 256, 3, 3), 1),
    "winograd_transformed": Probe("winograd", (4, 8, 56, 56), (8, 8, 3, 3), 1),
    "winograd_kernel": Probe("winograd", (1, 384, 2, 2), (384, 384, 3, 3), 1),
    "winograd_called": Probe("winograd", (1, 16, 4, 4), (16, 16, 3, 3), 1),
    "split_multiplied": Probe("split", (2, 256, 28, 28), (256, 256, 3, 3), 1),
    "split_copied": Probe("split", (2, 64, 56, 56), (16, 64, 1, 1)),
    "fft_multiplied": Probe("fft", (1, 64, 56, 56), (64, 1, 31, 31), 15),
    "fft_moved": Probe("fft", (1, 8, 6, 6), (256, 8, 9, 9), 4, "conv_weight"),
    "fft_started": Probe("fft", (1, 16, 8, 8), (16, 16, 5, 5), 2),
    "loop": Probe("reference", (1, 1, 12, 12), (8, 1, 3, 3)),
    "term": Probe("reference", (4096, 64, 2, 2), (4, 64, 1, 1)),
    "gemm": Probe("im2row", (8, 512, 14, 14), (512, 512, 1, 1)),
    "rowed": Probe("im2row", (8, 64, 28, 28), (4, 64, 3, 3), 1),
    "listed": Probe("matrix", (1, 8, 28, 28), (8, 8, 3, 3), 1),
    "sparse": Probe("matrix", (256, 8, 7, 7), (8, 8, 3, 3), 1),
}
"""What each coefficient is measured on."""


def able() -> dict[str, Probe]:
    """Those of engines that this machine has."""
    return {name: probe for name, probe in PROBES.items() if not ENGINES[probe.engine].why_not(probe.problem)}


def calibrate(show: Callable[[str], None], seconds: float = SECONDS) -> Coefficients:
    """Measure all coefficients on one thread, each for so long; `show` is told the name of each that is made ready."""
    calls: dict[str, Callable[[], object]] = {}
    with threads(1):
        for name, probe in able().items():
            show(name)
            calls[name] = ready(ENGINES[probe.engine], probe.problem)
        for name, rate in RATES.items():
            show(name)
            calls[name] = rate()
        took = typical(calls, seconds)
    rates = {name: MOVED[name] / took.pop(name) for name in RATES}
    found = scaled(fitted(replace(DEFAULT, **rates), took))
    use(found)
    return found


FOUND: dict[str, float] = {
    "cycles": 3.9e9,
    "copied": 9e9,
    "started": 1.4e-7,
    "called": 5.2e-6,
    "winograd_multiplied": 0.65,
    "winograd_transformed": 5.9,
    "winograd_kernel": 4.35,
    "winograd_called": 7.4e-6,
    "split_multiplied": 16,
    "split_copied": 5e10,
    "fft_multiplied": 0.46,
    "fft_moved": 1.25e11,
    "fft_started": 8.4e-7,
    "moved": 3.5e10,
    "converted": 4.5e9,
    "loop": 4.1e-6,
    "term": 1.88e-9,
    "gemm": 6.4e10,
    "rowed": 1.16e10,
    "listed": 1.35e-8,
    "sparse": 2e-9,
}
"""What the probes find on the machine that the default coefficients are of, or these where it has no such engine. They
were set on many geometries, and each probe is one, so that what it finds elsewhere is taken beside this."""


def typical(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """What each call takes in most rounds, of each the least, after one call that makes all ready.

    In turns, so that all meet the same machine, which may be fast in some rounds and slow in others.
    """
    for call in calls.values():
        call()
    rounds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begun, took = perf_counter(), _timed(call)
            while perf_counter() - begun < seconds / ROUNDS:
                took = min(took, _timed(call))
            rounds[name].append(took)
    return {name: median(took) for name, took in rounds.items()}


def _timed(call: Callable[[], object]) -> float:
    start = CLOCK()
    call()
    return max(CLOCK() - start, 1e-9)


def scaled(found: Coefficients) -> Coefficients:
    """The coefficients of a machine on which the probes find these: as much beside the default ones as beside FOUND."""
    for name, here in asdict(found).items():
        found = _with(found, name, getattr(DEFAULT, name) * (here / FOUND[name]))
    return found


def fitted(found: Coefficients, took: Mapping[str, float]) -> Coefficients:
    """The coefficients by which the probes should take what they took."""
    for _ in range(TURNS):
        for name, seconds in took.items():
            found = _with(found, name, _solved(found, name, seconds))
    return found


def _solved(found: Coefficients, name: str, seconds: float) -> float:
    """The coefficient by which a probe takes so long, as its estimate follows it."""
    rate = "/s" in _unit(name)
    now = getattr(found, name) ** (-1 if rate else 1)
    further = replace(found, **{name: (now * FURTHER) ** (-1 if rate else 1)})
    at, beyond = PROBES[name].seconds(found), PROBES[name].seconds(further)
    solved = now + (seconds - at) * now * (FURTHER - 1) / (beyond - at)
    return float(1 / solved if rate and solved else solved)


def _with(found: Coefficients, name: str, value: float) -> Coefficients:
    """The coefficients with one measured, if it is one that a machine can have."""
    usual: float = getattr(DEFAULT, name)
    return replace(found, **{name: value}) if usual / APART <= value <= usual * APART else found


def _unit(name: str) -> str:
    unit: str = Coefficients.__dataclass_fields__[name].metadata["unit"]
    return unit


def _moving() -> Callable[[], object]:
    """A copy of what outgrows the caches."""
    source, target = np.ones(FAR // 4, np.float32), np.zeros(FAR // 4, np.float32)
    (call,) = Move.of([Dim(((0, 0, source.size),), 1, 1)], "float32").calls(source, target, 0, 1)
    return call.run


def _converting() -> Callable[[], object]:
    """Numbers converted to half precision, and back."""
    source = np.ones(BYTES // 4, np.float32)
    return lambda: source.astype(np.float16).astype(np.float32)


RATES: dict[str, Callable[[], Callable[[], object]]] = {"moved": _moving, "converted": _converting}
"""What is measured without an engine."""

MOVED = {"moved": 2 * FAR, "converted": 3 * BYTES}
"""Bytes that these read and write."""
