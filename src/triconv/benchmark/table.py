"""Rows as a table to read, as JSON to keep, and as a picture."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from ..files import make_directory, replace_file
from ..form import OPERATIONS
from .machine import Machine, described
from .row import Row

FORMAT = 1
"""Of the JSON; another number where a field changes its meaning."""
BUSY = 0.5
"""Processes that wanted a processor in the last minute, from which on the machine is not idle."""
COLUMNS = (
    "workload",
    "operation",
    "threads",
    "engine",
    "time",
    "GFLOP/s",
    "C first",
    "% peak",
    "% memory",
    "PyTorch",
    "JAX",
    "ratio",
    "to the best peer",
    "first call, ms",
    "extra, KiB",
    "checked",
)
LEGEND = (
    "GFLOP/s: of the sum as written, by the median over rounds, with channels innermost in memory; C first: in the "
    "order (N, C, *X); PyTorch, JAX: their best way. % peak, % memory: of the multiply-adds, and of the time to move "
    "operands and result, as measured in this run. ratio: how many times as fast as the best peer (what we make of a "
    "weight is kept where that peer's is packed before); ?: samples spread by more than a quarter. first call: with "
    "nothing compiled / with the disk cache. extra: the most memory besides operands and result / what one padded copy "
    "and the packed weight take. checked: the largest difference from a peer, as a share of what rounding allows."
)


def table(rows: Iterable[Row], title: str = "") -> Table:
    """One line a row; a row that failed says why."""
    made = Table(title=title or None, box=SIMPLE_HEAD, pad_edge=False)
    for name in COLUMNS:
        left = name in ("workload", "operation", "engine", "to the best peer")
        made.add_column(name, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells(row)))
    return made


def cells(row: Row) -> list[str | Text]:
    """A row's line."""
    start: list[str | Text] = [row.workload, row.operation, str(row.threads), row.engine]
    if row.failure:
        return [*start, *[""] * 8, Text(f"FAILED: {row.failure}", "bold red"), "", "", ""]
    ratio, best = row.ratio(), row.best()
    return [
        *start,
        _time(row.seconds()),
        _number(row.speed()) if row.flops else "",
        _number(row.speed("triconv, channels first")) if row.flops else "",
        _percent(row.share_of_peak) if row.flops else "",
        _percent(row.share_of_bandwidth) if row.read else "",
        _library(row, "PyTorch"),
        _library(row, "JAX"),
        "" if ratio is None else Text(f"{ratio:.2f}{'?' * row.disturbed}", "" if ratio >= 1 else "yellow"),
        best or "none",
        f"{row.first['cold'] * 1e3:.0f} / {row.first['disk'] * 1e3:.1f}" if row.first else "",
        f"{row.extra['traced'] >> 10:,} / {row.extra['allowed'] >> 10:,}" if "traced" in row.extra else "",
        row.against if row.apart is None else f"{row.apart:.2g}",
    ]


def notes(rows: Iterable[Row]) -> list[str]:
    """What was left out and why, once for each way and reason, and every result that was wrong.

    Ways that are for other problems are named where none of their library is left.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        elsewhere = {way: reason for way, reason in row.not_meant.items() if row.best(_library_of(way)) is None}
        for way, reason in (row.left_out | elsewhere).items():
            found.setdefault((way, reason), []).append(row.title)
    return [f"{way}: {reason} ({_titles(titles)})" for (way, reason), titles in sorted(found.items())]


def machines(found: Mapping[int, Machine]) -> list[str]:
    """What the machine can do, in words."""
    return [
        f"{one.threads} thread{'s'[: one.threads > 1]}: peak {', '.join(_peaks(one))}; "
        f"memory {one.read:.1f} GB/s read, {one.write:.1f} written, {one.copy:.1f} copied"
        for one in found.values()
    ]


def _peaks(one: Machine) -> list[str]:
    (dtype, peak), *others = one.peak.items()
    return [f"{peak:.0f} GFLOP/s in {dtype}", *(f"{peak:.0f} in {dtype}" for dtype, peak in others)]


def loads() -> list[float]:
    """How many processes wanted a processor in the last 1, 5 and 15 minutes; empty where the system does not say."""
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else []


def busy(load: Sequence[float]) -> list[str]:
    """A line that says so when other processes had the processors before."""
    if not load or load[0] < BUSY:
        return []
    return [f"the machine was busy before (load {load[0]:.1f}): figures are of what was left of it"]


def to_json(rows: Sequence[Row], found: Mapping[int, Machine], load: Sequence[float], **more: Any) -> dict[str, Any]:
    """Everything measured, with the machine, its load before, and the versions it belongs to."""
    return {
        "format": FORMAT,
        "described": described(),
        "load": list(load),
        "machine": [asdict(one) for one in found.values()],
        **more,
        "rows": [row.to_json() for row in rows],
    }


def write_json(data: Mapping[str, Any], path: Path) -> None:
    make_directory(path.parent)
    with replace_file(path) as beside:
        beside.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_chart(rows: Sequence[Row], path: Path) -> None:
    """Draw the ratio to the best peer of every row: a panel for each operation, a mark for each number of threads."""
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.ratio() is not None]
    if not shown:
        raise ValueError(f"chart {path}: no row has both ours and a peer to compare with")
    operations = [name for name in OPERATIONS if any(row.operation == name for row in shown)] or ["conv"]
    workloads = list(dict.fromkeys(row.workload for row in shown))[::-1]
    threads = sorted({row.threads for row in shown})
    figure = Figure(figsize=(3 + 3.2 * len(operations), 1.4 + 0.26 * len(workloads)), dpi=120, layout="constrained")
    panels = figure.subplots(1, len(operations), sharex=True, sharey=True, squeeze=False)[0]
    # What is none of the operations, an epoch of training, stands in the first panel.
    panel_of = {row.title: row.operation if row.operation in OPERATIONS else operations[0] for row in shown}
    for panel, operation in zip(panels, operations, strict=True):
        for number, count in enumerate(threads):
            points = [
                (row.ratio(), workloads.index(row.workload))
                for row in shown
                if (panel_of[row.title], row.threads) == (operation, count)
            ]
            if not points:
                continue
            colour, mark = (("#0072B2", "o"), ("#D55E00", "D"), ("#009E73", "s"), ("#CC79A7", "^"))[number % 4]
            label = f"{count} thread{'s'[: count > 1]}"
            panel.plot(*zip(*points, strict=True), mark, color=colour, ms=4.5, label=label, alpha=0.85)
        panel.axvline(1, color="0.3", lw=1)
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}×")
        panel.set_title(operation)
        panel.set_yticks(range(len(workloads)), workloads, fontsize=8)
        panel.set_ylim(-0.7, len(workloads) - 0.3)
        panel.grid(color="0.88")
        panel.set_axisbelow(True)
    panels[0].legend(loc="best", fontsize=8)
    figure.supxlabel("how many times as fast as the best peer (medians; right of the line: faster)", fontsize=9)
    make_directory(path.parent)
    with replace_file(path) as beside:
        figure.savefig(beside)


def asked_operations(text: str) -> tuple[str, ...]:
    """The operations named between commas."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in OPERATIONS]:
        raise ValueError(f"operations={unknown[0]!r}: expected some of {', '.join(OPERATIONS)} between commas")
    return names


def _library_of(way: str) -> str:
    """The library that the name of a way begins with."""
    return re.split("[ ,]", way)[0]


def _library(row: Row, library: str) -> str:
    way = row.best(library)
    if way is None:
        return "–"
    return _number(row.speed(way)) if row.flops else _time(row.seconds(way))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.{1 if share < 0.1 else 0}f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def _titles(titles: Sequence[str]) -> str:
    return titles[0] if len(titles) == 1 else f"{len(titles)} rows, first {titles[0]}"


__all__ = [
    "LEGEND",
    "asked_operations",
    "cells",
    "machines",
    "notes",
    "table",
    "to_json",
    "write_chart",
    "write_json",
]
