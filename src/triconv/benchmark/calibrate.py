"""The machine's coefficients, measured one after the other, each on a problem that takes little else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from time import get_clock_info, perf_counter, process_time

import numpy as np

from ..coefficients import DEFAULT, Coefficients, use
from ..dispatch import ENGINES
from ..form import OPERATIONS, Problem
from ..kernels.copy import Dim, Move
from ..kernels.threads import threads
from ..trial import ready
from .workload import Workload

SECONDS, MOST = 0.4, 1000
"""How long a problem is tried again, and how often at most; the fastest counts, as what disturbs only makes slower."""

CLOCK = process_time if get_clock_info("process_time").resolution < 1e-6 else perf_counter
"""Without what other processes take, where the system counts finely."""

BYTES, FAR = 4 << 20, 64 << 20
"""Of an array that is near a core, and of one that is not."""

FURTHER = 1.01
"""By how much a coefficient is changed to see how an estimate follows it."""

APART = 30.0
"""How many times its default a measured coefficient may be, or its default it; beyond, something else was measured."""

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
    "cycles": Probe("direct", (4, 128, 28, 28), (128, 128, 3, 3)),
    "copied": Probe("direct", (8, 1, 8000), (16, 1, 7), 3, "conv_transpose"),
    "started": Probe("direct", (1, 16, 5, 5), (16, 16, 3, 3), 1, "conv_transpose", 2),
    "called": Probe("direct", (1, 16, 4, 4), (16, 16, 1, 1)),
    "winograd_multiplied": Probe("winograd", (4, 256, 28, 28), (256, 256, 3, 3), 1),
    "winograd_transformed": Probe("winograd", (4, 16, 56, 56), (16, 16, 3, 3), 1),
    "winograd_kernel": Probe("winograd", (1, 384, 4, 4), (384, 384, 3, 3), 1),
    "winograd_called": Probe("winograd", (1, 16, 4, 4), (16, 16, 3, 3), 1),
    "fft_multiplied": Probe("fft", (4, 128, 28, 28), (128, 128, 9, 9), 4),
    "fft_started": Probe("fft", (1, 16, 8, 8), (16, 16, 5, 5), 2),
    "loop": Probe("reference", (1, 1, 12, 12), (8, 1, 3, 3)),
    "term": Probe("reference", (4096, 64, 2, 2), (4, 64, 1, 1)),
    "gemm": Probe("im2row", (8, 512, 14, 14), (512, 512, 1, 1)),
    "rowed": Probe("im2row", (8, 64, 28, 28), (4, 64, 3, 3), 1),
    "listed": Probe("matrix", (1, 8, 28, 28), (8, 8, 3, 3), 1),
    "sparse": Probe("matrix", (256, 8, 7, 7), (8, 8, 3, 3), 1),
}
"""What each coefficient is measured on."""


def least(call: Callable[[], object], seconds: float = SECONDS) -> float:
    """The least seconds of a call, after one that makes all ready."""
    call()
    times, begun = list[float](), perf_counter()
    while not times or (len(times) < MOST and perf_counter() - begun < seconds):
        start = CLOCK()
        call()
        times.append(CLOCK() - start)
    return min(times)


def calibrate(show: Callable[[str], None], seconds: float = SECONDS) -> Coefficients:
    """Measure all coefficients on one thread, each for so long; `show` is told the name of the one that comes."""
    found, took = DEFAULT, dict[str, float]()
    with threads(1):
        for name, measure in RATES.items():
            show(name)
            found = _with(found, name, measure(seconds))
        for name, probe in PROBES.items():
            show(name)
            if not ENGINES[probe.engine].why_not(probe.problem):
                took[name] = least(ready(ENGINES[probe.engine], probe.problem), seconds)
    return fitted(found, took)


def fitted(found: Coefficients, took: Mapping[str, float]) -> Coefficients:
    """The coefficients by which the probes should take what they took."""
    for _ in range(TURNS):
        for name, seconds in took.items():
            found = _with(found, name, _solved(found, name, seconds))
    use(found)
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


def _moved(seconds: float) -> float:
    """Bytes that a copy reads and writes in a second where both arrays outgrow the caches."""
    source, target = np.ones(FAR // 4, np.float32), np.zeros(FAR // 4, np.float32)
    (call,) = Move.of([Dim(((0, 0, source.size),), 1, 1)], "float32").calls(source, target, 0, 1)
    return 2 * FAR / least(call.run, seconds)


def _converted(seconds: float) -> float:
    """Bytes that converting numbers reads and writes in a second."""
    source = np.ones(BYTES // 4, np.float32)
    half = source.astype(np.float16)

    def there_and_back() -> None:
        source.astype(np.float16)
        half.astype(np.float32)

    return 3 * BYTES / least(there_and_back, seconds)


RATES: dict[str, Callable[[float], float]] = {"moved": _moved, "converted": _converted}
"""What is measured without an engine."""
