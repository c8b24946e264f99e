"""What an option's text means: sizes, padding, stages of an autoencoder."""

from __future__ import annotations

import re
from typing import Any

from ..architecture import Stage


def sizes(name: str, text: str) -> tuple[int, ...]:
    """Whole numbers between commas or crosses: "3", "3,5", "3x5"."""
    if not re.fullmatch(r"\d+([,x]\d+)*", text):
        raise ValueError(f"{name}={text!r}: expected whole numbers between commas, such as 3 or 2,1")
    return tuple(int(number) for number in re.split("[,x]", text))


def per_axis(name: str, text: str) -> int | tuple[int, ...]:
    """One whole number for all axes, or one per axis."""
    numbers = sizes(name, text)
    return numbers[0] if len(numbers) == 1 else numbers


def padding(text: str) -> Any:
    """A word, one number, one per axis, or before:after per axis."""
    if text in ("valid", "same", "full"):
        return text
    if not re.fullmatch(r"\d+(:\d+)?([,x]\d+(:\d+)?)*", text):
        raise ValueError(
            f"padding={text!r}: expected valid, same, full, a number, or for each axis a number or before:after, "
            "such as 1 or 1:2,0"
        )
    if text.isdecimal():
        return int(text)
    pairs = [tuple(int(side) for side in part.split(":")) for part in re.split("[,x]", text)]
    return tuple(pair * 2 if len(pair) == 1 else pair for pair in pairs)


def stage(text: str, rank: int) -> Stage:
    """One stage: "16,kernel=3,stride=2,padding=same,bank=local"; sizes per axis between crosses."""
    first, *rest = text.split(",")
    expected = (
        'expected CHANNELS[,kernel=K][,stride=S][,padding=valid|same|full][,bank=T|local], such as "16,kernel=3x3"'
    )
    named = dict(part.split("=", 1) for part in rest if "=" in part)
    unknown = set(named) - {"kernel", "stride", "padding", "bank"}
    if not first.isdecimal() or len(named) != len(rest) or unknown:
        raise ValueError(f"stage={text!r}: {expected}")

    def every_axis(name: str, value: str) -> tuple[int, ...]:
        numbers = sizes(f"stage={text!r}: {name}", value)
        return numbers * rank if len(numbers) == 1 else numbers

    pads = named.get("padding", "valid")
    if pads not in ("valid", "same", "full"):
        raise ValueError(f"stage={text!r}: padding={pads!r}: expected valid, same or full")
    bank: Any = named.get("bank")
    return Stage(
        int(first),
        every_axis("kernel", named.get("kernel", "3")),
        every_axis("stride", named.get("stride", "1")),
        pads,
        bank if bank in (None, "local") else every_axis("bank", bank),
    )
