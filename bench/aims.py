"""Whether the rows show what they must: each group's figures by number of threads, and every row that falls short."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median

from triconv.benchmark.row import OURS, Row

from .workloads import GROUPS, Aim

BANDWIDTH = 0.7
FIRST_COLD, FIRST_DISK, OVERHEAD, IMPORT = 150e-3, 15e-3, 15e-6, 150e-3

Aims = Mapping[tuple[str, str], tuple[Aim, ...]]
"""By the names of workload and operation."""


@dataclass(frozen=True)
class Verdict:
    """A group's figures with a number of threads, and what falls short of its aims."""

    group: int
    threads: int
    rows: int
    mean: float | None
    """Geometric, as all of the ratios to the best peer."""
    least: float | None
    middle: float | None
    short: tuple[str, ...]

    def __str__(self) -> str:
        figures = "no ratios"
        if self.mean is not None:
            figures = f"geometric mean {self.mean:.2f}, least {self.least:.2f}, median {self.middle:.2f}"
        met = "met" if not self.short else f"{len(self.short)} fall short"
        return f"group {self.group}, {self.threads} thread{'s'[: self.threads > 1]}, {self.rows} rows: {figures}: {met}"


def verdicts(rows: Sequence[Row], aims: Aims, cache: int) -> list[Verdict]:
    """The groups' verdicts; a row that failed, or has no peer, falls short. `cache`: bytes of the last level."""
    found = []
    for number, group in GROUPS.items():
        for threads in sorted({row.threads for row in rows}):
            of_threads = [row for row in rows if row.threads == threads]
            own = [(row, aim) for row in of_threads if (aim := _aim(row, aims, number)) is not None]
            if not own:
                continue
            ratios = [ratio for row, _ in own if (ratio := row.ratio()) is not None]
            mean = exp(fmean(map(log, ratios))) if ratios else None
            least, middle = (min(ratios), median(ratios)) if ratios else (None, None)
            short = [reason for row, aim in own for reason in _short(row, aim, cache)]
            for name, figure, wanted in (("median", middle, group.median), ("geometric mean", mean, group.mean)):
                if figure is not None and figure < wanted:
                    short.append(f"the {name} is {figure:.2f}, below {wanted:g}")
            found.append(Verdict(number, threads, len(own), mean, least, middle, tuple(short)))
    return found


def _aim(row: Row, aims: Aims, group: int) -> Aim | None:
    return next((aim for aim in aims.get((row.workload, row.operation), ()) if aim.group == group), None)


def _short(row: Row, aim: Aim, cache: int) -> list[str]:
    """In what a row falls short, as lines that name it."""
    if row.failure:
        return [f"{row.title}: FAILED: {row.failure}"]
    lines = []
    for least, start in aim.least:
        way = _fastest(row, start)
        ratio = None if way is None else row.ratio(way)
        if ratio is None:
            lines.append(f"{row.title}: nothing named {start or 'a peer'} to compare with")
        elif ratio < least and not (aim.group == 3 and _at_bandwidth(row, cache)):
            lines.append(f"{row.title}: {ratio:.2f} × {way}, below {least:g}")
    return lines


def _fastest(row: Row, start: str) -> str | None:
    """The fastest way whose name begins so; of all peers when nothing is named."""
    if not start:
        return row.best()
    return min((way for way in row.timings if way.startswith(start)), key=lambda w: row.timings[w].median, default=None)


def _at_bandwidth(row: Row, cache: int) -> bool:
    share = row.share_of_bandwidth
    return share is not None and share >= BANDWIDTH and row.weight_bytes > cache


def limits(rows: Iterable[Row], process: Mapping[str, float], tiny: str) -> list[str]:
    """The aims that are not ratios: extra memory, first calls, overhead, import; what is met, and each that is not."""
    rows = [row for row in rows if not row.failure]
    lines = []
    for what, found in (
        (
            "extra memory within one padded copy and the packed weight",
            [
                (f"{row.title}: {row.extra['traced'] >> 10:,} of {row.extra['allowed'] >> 10:,} KiB", bad)
                for row in rows
                if "traced" in row.extra and row.workload != tiny
                for bad in [row.extra["traced"] > row.extra["allowed"]]
            ],
        ),
        (
            f"first calls within {FIRST_COLD * 1e3:.0f} ms cold, {FIRST_DISK * 1e3:.0f} ms from the disk cache, "
            "besides the call itself",
            [
                (f"{row.title}: {cold * 1e3:.0f} and {disk * 1e3:.1f} ms", cold > FIRST_COLD or disk > FIRST_DISK)
                for row in rows
                if row.first
                for cold, disk in [beyond(row.first)]
            ],
        ),
        (
            f"overhead within {OVERHEAD * 1e6:.0f} µs",
            [
                (f"{row.title}: {seconds * 1e6:.1f} µs", seconds > OVERHEAD)
                for row in rows
                if row.workload == tiny and (seconds := row.seconds(OURS)) is not None
            ],
        ),
        (
            f"import triconv within {IMPORT * 1e3:.0f} ms",
            [
                (f"{seconds * 1e3:.0f} ms", seconds > IMPORT)
                for name, seconds in process.items()
                if name == "import triconv"
            ],
        ),
    ):
        if found:
            bad = [line for line, missed in found if missed]
            lines.append(f"{what}: {len(found) - len(bad)} of {len(found)}")
            lines += [f"  {line}" for line in bad]
    return lines


def beyond(first: Mapping[str, float]) -> tuple[float, float]:
    """What a first call takes besides the call itself: cold, and from the disk cache."""
    cold, disk = (first[name] - first[f"{name}, called again"] for name in ("cold", "disk"))
    return cold, disk
