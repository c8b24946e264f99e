"""What was made of an array that stays the same, from call to call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

MOST = 8
"""Things that are kept."""


class Kept:
    """What engines make of one weight. They guess nothing: whoever has it drops it when the weight changes.

    Examples
    --------
    >>> kept = Kept()
    >>> kept.of("two", lambda: 2), kept.of("two", lambda: 3)
    (2, 2)
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __len__(self) -> int:
        """How many things are kept."""
        return len(self._made)

    def of(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What was made under this key, or is made now. Only the last few are kept."""
        try:
            return self._made[key]
        except KeyError:
            made = self._made[key] = make()
            for old in list(self._made)[:-MOST]:  # a list, as others may keep something meanwhile
                self._made.pop(old, None)
            return made
