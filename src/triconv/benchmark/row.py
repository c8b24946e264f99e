"""One row of the benchmark: an operation of a workload with a number of threads, and everything measured of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .timing import Timing

OURS = "triconv"
"""The way that ratios are of, and the library that all our ways belong to."""
LIKE = {
    "PyTorch packed weight, channels last": "triconv, weight kept",
    "PyTorch packed weight, channels first": "triconv, weight kept",
}
"""Ways of others that make the weight ready before the clock starts, and ours that does so too: like is compared with
like."""
SPREAD = 1.25
"""Times the least sample that a median may be before something else is taken to have had the processors too."""


@dataclass
class Row:
    """Seconds by way, what they are shares of, and why anything is missing. Sizes are in bytes."""

    workload: str
    operation: str
    threads: int
    shapes: str = ""
    dtype: str = ""
    engine: str = ""
    flops: int = 0
    read: int = 0
    written: int = 0
    weight_bytes: int = 0
    peak_seconds: float = 0.0
    """The time of the flops at the measured peak."""
    moving_seconds: float = 0.0
    """The time to read operands and write the result at the measured rates of memory."""
    timings: dict[str, Timing] = field(default_factory=dict)
    libraries: dict[str, str] = field(default_factory=dict)
    """The library of each way that was timed."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a way was not timed, though it is for such problems."""
    not_meant: dict[str, str] = field(default_factory=dict)
    """The ways that are for other problems."""
    against: str = ""
    """The way that ours was compared with, number by number."""
    apart: float | None = None
    """The largest difference of ours from it, as a share of what rounding allows."""
    extra: dict[str, int] = field(default_factory=dict)
    """Memory besides operands and result: stated, allowed, traced and resident."""
    first: dict[str, float] = field(default_factory=dict)
    """Seconds of the first call of a process that has loaded the library: cold, and from the disk cache."""
    failure: str = ""

    @property
    def title(self) -> str:
        return f"{self.workload}, {self.operation}, {self.threads} thread{'s'[: self.threads > 1]}"

    def seconds(self, way: str = OURS) -> float | None:
        return self.timings[way].median if way in self.timings else None

    def speed(self, way: str = OURS) -> float | None:
        """GFLOP/s of the sum as written, whatever an algorithm really does."""
        seconds = self.seconds(way)
        return None if seconds is None else self.flops / seconds / 1e9

    def best(self, library: str = "") -> str | None:
        """The way of a library, or of all but ours, that ours is least ahead of; the fastest where ours is missing."""
        wanted = [
            way for way in self.timings if (self.libraries[way] == library if library else self.libraries[way] != OURS)
        ]
        return min(wanted, key=lambda way: self.ratio(way) or self.timings[way].median, default=None)

    def like(self, way: str) -> str:
        """The way of ours that a way is compared with."""
        ours = LIKE.get(way, OURS)
        return ours if ours in self.timings else OURS

    def ratio(self, to: str | None = None, least: bool = False) -> float | None:
        """How many times as fast as a way, or the best peer, ours is: by medians, or by the least of all rounds."""
        to = to or self.best()
        if to is None or to not in self.timings or OURS not in self.timings:
            return None
        ours, theirs = self.timings[self.like(to)], self.timings[to]
        return theirs.least / ours.least if least else theirs.median / ours.median

    @property
    def disturbed(self) -> bool:
        """Whether the samples of ours or of the best peer spread so much that the ratio says little."""
        best = self.best()
        timings = [self.timings[way] for way in (OURS, best and self.like(best), best) if way in self.timings]
        return any(one.median > SPREAD * one.least for one in timings)

    @property
    def share_of_peak(self) -> float | None:
        seconds = self.seconds()
        return None if seconds is None else self.peak_seconds / seconds

    @property
    def share_of_bandwidth(self) -> float | None:
        seconds = self.seconds()
        return None if seconds is None else self.moving_seconds / seconds

    def to_json(self) -> dict[str, Any]:
        """All that is kept, and the figures made of it."""
        data = asdict(self)
        best = self.best()
        data["figures"] = {
            "seconds": self.seconds(),
            "gflops": {way: self.speed(way) for way in self.timings},
            "share_of_peak": self.share_of_peak,
            "share_of_bandwidth": self.share_of_bandwidth,
            "best_peer": best,
            "ratio": self.ratio(),
            "ratio_of_least": self.ratio(least=True),
            "disturbed": self.disturbed,
        }
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        kept = {name: value for name, value in data.items() if name != "figures"}
        kept["timings"] = {way: Timing(tuple(one["samples"]), one["calls"]) for way, one in kept["timings"].items()}
        return cls(**kept)
