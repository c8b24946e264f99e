"""Progress of a training run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from ..train import Progress
from .app import console

Show = Callable[[Progress], None]


@contextmanager
def progress_display() -> Iterator[Show]:
    """What to call after every step."""
    if console.quiet:
        yield lambda _: None
        return
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (
        TextColumn("{task.description:<11}"),
        BarColumn(bar_width=24),
        TextColumn("epoch {task.fields[epoch]}  loss {task.fields[loss]:.5f}  {task.fields[speed]:,.0f} images/s"),
        TimeRemainingColumn(compact=True),
    )
    with Bars(*columns, console=console) as bars:
        yield _Live(bars)


class _Speed:
    """Images per second since the phase began."""

    def __init__(self) -> None:
        self.phase, self.start, self.images = "", 0.0, 0

    def __call__(self, progress: Progress) -> float:
        if progress.phase != self.phase:
            self.phase, self.start, self.images = progress.phase, monotonic(), progress.images
            return 0.0
        return (progress.images - self.images) / max(monotonic() - self.start, 1e-9)


class _Live:
    def __init__(self, bars: Bars) -> None:
        self.bars, self.speed = bars, _Speed()
        self.tasks: dict[str, TaskID] = {}

    def __call__(self, progress: Progress) -> None:
        fields: dict[str, Any] = {
            "epoch": f"{progress.epoch}/{progress.epochs}",
            "loss": progress.loss,
            "speed": self.speed(progress),
        }
        if progress.phase not in self.tasks:
            self.tasks[progress.phase] = self.bars.add_task(progress.phase, total=progress.all_images, **fields)
        self.bars.update(self.tasks[progress.phase], completed=progress.images, **fields)


class _Lines:
    """One line an epoch."""

    def __init__(self) -> None:
        self.speed = _Speed()

    def __call__(self, progress: Progress) -> None:
        speed = self.speed(progress)
        if progress.metrics is not None:
            left = (progress.all_images - progress.images) / speed if speed else 0.0
            print(
                f"{progress.phase} epoch {progress.epoch}/{progress.epochs} loss {progress.loss:.5f} "
                f"unseen {progress.metrics['unseen']:.5f} {speed:,.0f} images/s {left:.0f} s left",
                flush=True,
            )
