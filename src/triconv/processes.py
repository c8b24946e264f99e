"""Which of several processes this one is, where a launcher such as torchrun started them to work together."""

from __future__ import annotations

import os
from dataclasses import dataclass

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Of the environment, as torchrun sets them."""


@dataclass(frozen=True)
class Process:
    """One of `size` processes, `local_size` of them on this machine, numbered from 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes the files and the screen."""
        return self.rank == 0


def this_process() -> Process:
    """What the environment says; a process of its own where it says nothing.

    Raises
    ------
    ValueError
        One line that names the variable.
    """
    if not all(name in os.environ for name in VARIABLES):
        return Process()
    texts = {name: os.environ[name] for name in VARIABLES}
    for name, text in texts.items():
        if not text.isdecimal():
            raise ValueError(f"{name}={text!r}: expected a whole number, as torchrun sets it")
    return Process(*(int(text) for text in texts.values()))


def leads() -> bool:
    """Whether this process speaks for all: there is no other, or it is the first."""
    try:
        return this_process().leads
    except ValueError:
        return True
