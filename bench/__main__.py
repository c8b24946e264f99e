"""`python -m bench`: one table of everything, its JSON and its chart."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from triconv.benchmark import first
from triconv.benchmark.machine import Machine, last_cache_bytes
from triconv.benchmark.measure import Settings, in_process, measure
from triconv.benchmark.row import Row
from triconv.benchmark.table import (
    asked_operations,
    busy,
    loads,
    machines,
    notes,
    to_json,
    write_chart,
    write_json,
)
from triconv.benchmark.workload import Workload
from triconv.cli.bench import show
from triconv.cli.parse import sizes
from triconv.dispatch import AUTO, ENGINES

from .aims import limits, verdicts
from .training import NAME, measure_epoch
from .workloads import GROUPS, OPERATIONS, cases

QUICK = 2
"""Examples of each workload with --quick."""


class Parser(argparse.ArgumentParser):
    """One line for an error."""

    def error(self, message: str) -> NoReturn:
        print(f"bench: {message}", file=sys.stderr)
        sys.exit(2)


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = Parser("bench", description=__doc__)
    parser.add_argument("--only", default="*", metavar="NAME", help="workloads whose name matches or contains this")
    parser.add_argument("--operations", default=",".join(OPERATIONS), help="which, between commas")
    parser.add_argument("--threads", default="1,2", help="numbers of threads, between commas")
    parser.add_argument("--rounds", type=int, default=10, help="samples of each candidate")
    parser.add_argument("--seconds", type=float, default=1.0, help="after so many, a candidate leaves the rounds")
    parser.add_argument("--engine", default=AUTO, help=f"{AUTO}, {', '.join(ENGINES)}")
    parser.add_argument("--quick", action="store_true", help=f"at most {QUICK} examples, 3 rounds, no first calls")
    parser.add_argument("--json", type=Path, default=Path("runs/bench.json"), help="where all samples go")
    parser.add_argument("--chart", type=Path, default=Path("runs/bench.png"), help="where the picture goes")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    try:
        return _run(arguments(given))
    except (ValueError, TypeError, OSError, MemoryError) as error:
        print(f"bench: {' '.join(str(error).split())}", file=sys.stderr)
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
    return 1


def _run(options: argparse.Namespace) -> int:
    operations, threads = asked_operations(options.operations), sizes("threads", options.threads)
    if options.engine != AUTO and options.engine not in ENGINES:
        raise ValueError(f"engine={options.engine!r}: expected {AUTO} or one of {', '.join(ENGINES)}")
    settings = Settings(options.rounds, options.seconds, options.engine)
    chosen = cases(options.only)
    trains = options.only == "*" or options.only in NAME
    if not chosen and not trains:
        raise ValueError(f"only={options.only!r}: no workload is called so; try resnet, local, depthwise, 4-D, train")
    workloads = [case.workload for case in chosen]
    if options.quick:
        settings = replace(settings, rounds=3, seconds=min(settings.seconds, 0.2), first_calls=False)
        workloads = [replace(one, visible=(min(QUICK, one.visible[0]), *one.visible[1:])) for one in workloads]
    load = loads()
    rows: list[Row] = []
    limit: dict[int, Machine] = {}
    for found in _measured(workloads, operations, threads, settings, trains):
        if isinstance(found, Machine):
            limit[found.threads] = found
            continue
        rows.append(found)
        ratio = found.ratio()
        said = found.failure or ("no peer" if ratio is None else f"{ratio:.2f}")
        print(f"{len(rows):4} {found.title}: {said}", file=sys.stderr, flush=True)
    order = {one.name: number for number, one in enumerate(workloads)}
    rows.sort(key=lambda row: (order.get(row.workload, len(order)), [*OPERATIONS, row.operation].index(row.operation)))
    process = _process(workloads, settings) if settings.first_calls else {}
    aims = {(case.workload.name, operation): aim for case in chosen for operation, aim in case.aims.items()}
    judged = verdicts(rows, aims, last_cache_bytes())
    title = f"--quick: at most {QUICK} examples, 3 rounds; not to be quoted" if options.quick else "triconv's benchmark"
    lines = [*machines(limit), *busy(load), *(f"{name}: {seconds * 1e3:.1f} ms" for name, seconds in process.items())]
    lines += [f"left out: {note}" for note in notes(rows)]
    lines += ["", *(f"group {number}: {text}" for number, text in GROUPS.items())]
    for verdict in judged:
        lines += [str(verdict), *(f"  {text}" for text in verdict.short)]
    show(rows, title, [*lines, *limits(rows, process, first.TINY.name)])
    kept = {"settings": settings.__dict__, "quick": options.quick, "process": process}
    write_json(to_json(rows, limit, load, **kept, verdicts=[verdict.__dict__ for verdict in judged]), options.json)
    print(f"wrote {options.json}")
    if any(row.ratio() is not None for row in rows):
        write_chart(rows, options.chart)
        print(f"wrote {options.chart}")
    return int(any(row.failure for row in rows))


def _measured(
    workloads: list[Workload], operations: tuple[str, ...], threads: tuple[int, ...], settings: Settings, trains: bool
) -> Iterator[Row | Machine]:
    yield from measure(workloads, operations, threads, settings)
    if trains:
        for count in threads:
            yield in_process(count, measure_epoch, count, settings.rounds)


def _process(workloads: list[Workload], settings: Settings) -> dict[str, float]:
    """Seconds that a process pays once: imports, and its very first call."""
    found = {f"import {name}": first.import_seconds(name) for name in ("triconv", "numpy")}
    for one in [first.TINY, *(one for one in workloads if one.name.startswith("resnet 3×3 64"))]:
        calls = first.calls(one, "conv", settings.engine, loaded=False)
        found[f"very first call of a process, {one.name}, cold"] = calls["cold"]
        found[f"very first call of a process, {one.name}, from the disk cache"] = calls["disk"]
    return found


if __name__ == "__main__":
    sys.exit(main())
