"""A way to compute an operation: ours, or another library's in one memory order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from numpy.typing import NDArray

from ..form import Problem
from .workload import Operands

Array = NDArray[Any]


class Unable(Exception):  # noqa: N818 (not an error)
    """Why a way cannot take a problem."""


class NotMeant(Unable):
    """It is for other problems than this one."""


@dataclass(frozen=True)
class Ready:
    """Operands in their place: `call` computes, and waits until it is done; `array` is its result as form has it."""

    call: Callable[[], Any]
    array: Callable[[Any], Array]

    def result(self) -> Array:
        return self.array(self.call())


@dataclass(frozen=True)
class Way:
    """One way, as data: prepare(problem, operands) makes it ready or raises Unable."""

    name: str
    library: str
    prepare: Callable[[Problem, Operands], Ready]
    module: str = ""
    """The library's module, which may be missing."""

    def ready(self, problem: Problem, operands: Operands) -> Ready:
        if self.module and find_spec(self.module) is None:
            raise Unable(f"{self.module} is not installed")
        return self.prepare(problem, operands)


def refuse(**reasons: object) -> None:
    """Raise Unable with the reasons that hold."""
    if found := _holding(reasons):
        raise Unable(found)


def not_for(**kinds: object) -> None:
    """Raise NotMeant with the kinds of problem that this is and that the way is not for."""
    if found := _holding(kinds):
        raise NotMeant(f"not for {found}")


def _holding(reasons: dict[str, object]) -> str:
    return ", ".join(reason.replace("_", " ") for reason, holds in reasons.items() if holds)


def bordered(problem: Problem) -> bool:
    """Whether a border is not of zeros, where there is padding at all."""
    return any(axis.border != "zero" and axis.before + axis.after > 0 for axis in problem.geometry.axes)
