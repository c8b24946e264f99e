"""Work that is written down, kept on disk for the next process: its calls, the tables they read, which kernels run.

To write it down takes Python some milliseconds, mostly for tables; to read it back, a few tenths. What a file says is
executed, so it is read as object code is (`cache`): only what this user wrote, and only when it is whole.

In the words of a file addresses in tables count from where the tables begin, and entries are numbers of kernels, whose
object code has files of its own. Where one is gone the work is written down again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ctypes import string_at
from time import perf_counter
from typing import Any

import numpy as np
from numpy.lib.array_utils import byte_bounds
from numpy.typing import NDArray

from .. import coefficients
from ..cache import Shelf
from ..memory import LINE, address
from .compile import Filed, entry
from .rows import WORD
from .sheet import Sheet
from .short import Short
from .target import machine
from .words import CHECKED

CALLS = Shelf("calls", 2048)
"""Of 5 to 300 kB."""

LARGEST = 1 << 20
"""Bytes of tables and calls: more take as long to be read as to be made."""


def kept(known_by: str, make: Callable[[], Short | None]) -> Short | None:
    """The work that is known so: read, or made and perhaps written. `known_by` says all that it depends on, but the
    machine, this package and its coefficients; nothing is kept of what is known by nothing."""
    key = coefficients.fingerprint("calls", known_by, machine()) if known_by and not CHECKED else None
    if key is None:
        return make()
    if (content := CALLS.read("work", key)) is not None and (found := unpacked(content)) is not None:
        return found
    begun = perf_counter()
    made = make()
    if made is not None and perf_counter() - begun > coefficients.LONG and (content := packed(made)) is not None:
        CALLS.write("work", key, content)
    return made


def packed(short: Short) -> bytes | None:
    """The work as bytes; None where a kernel is not kept, or there is too much."""
    sheet, begins, size = short.sheet, dict[tuple[int, int], int](), 0
    reached = [byte_bounds(array) for array in sheet.kept]
    for low, high in dict.fromkeys(reached):
        begins[low, high], size = size, -(-(size + high - low) // LINE) * LINE
    kernels = {id(kernel): kernel.filed for kernel in sheet.kernels}
    if size + sheet.words.nbytes > LARGEST or None in kernels.values():
        return None
    words, room = sheet.words.copy(), np.zeros(size, np.uint8)
    for (low, high), begin in begins.items():
        room[begin : begin + high - low] = np.frombuffer(string_at(low, high - low), np.uint8)
    words[sheet.at] -= np.array([low - begins[low, high] for low, high in reached], np.int64)
    numbers = {kernel: number for number, kernel in enumerate(kernels)}
    words[sheet.entries] = [numbers[id(kernel)] for kernel in sheet.kernels]
    parts = words, np.array(sheet.at, np.int64), np.array(sheet.entries, np.int64), room
    head = {
        "kernels": [(filed.name, filed.key.hex(), filed.symbol) for filed in kernels.values() if filed is not None],
        "sizes": [len(part) for part in parts],
        "sheet": [sheet.shape, sheet.home, sheet.apart],
        "short": [short.helpers, short.room, short.kind.str, short.total],
        "marks": None if short.marks is None else [short.marks.start, short.marks.stop],
    }
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % WORD)
    return len(text).to_bytes(WORD, "little") + text + b"".join(part.tobytes() for part in parts)


def unpacked(content: bytes) -> Short | None:
    """The work that bytes say; None where the code of one of its kernels is gone."""
    end = WORD + int.from_bytes(content[:WORD], "little")
    head: dict[str, Any] = json.loads(content[WORD:end])
    found = [entry(Filed(name, bytes.fromhex(key), symbol)) for name, key, symbol in head["kernels"]]
    if None in found:
        return None
    parts = list[NDArray[Any]]()
    for size, kind in zip(head["sizes"], (np.int64, np.int64, np.int64, np.uint8), strict=True):
        parts.append(np.frombuffer(content, kind, size, end))
        end += parts[-1].nbytes
    words, at, entries, tables = parts
    room = np.empty(len(tables) + LINE, np.uint8)
    room = room[-address(room) % LINE :][: len(tables)]
    room[...], words = tables, words.copy()
    words[at] += address(room)
    words[entries] = np.array(found, np.int64)[words[entries]]
    (width, stages), home, apart = head["sheet"]
    sheet = Sheet(words, (width, tuple(map(tuple, stages))), (room,), home, apart)
    helpers, numbers, kind, total = head["short"]
    marks = None if head["marks"] is None else slice(*head["marks"])
    return Short(sheet, helpers, numbers, np.dtype(kind), total, marks)
