"""The folder of files that are kept for this user's next process: only what this user wrote is read.

What is read there is executed, or decides what is, so it is read only when nobody but this user can have put it there.
Ownership and mode, of the folder and of the file, keep others out: the folder is opened first and looked at as opened
(a folder, not a link, this user's own, not writable by others), then the file inside that opened folder in the same
way, so neither can be exchanged between the look and the use. Without the folder's test, others could rename what this
user wrote. A file is written beside and renamed, so processes that write the same one at once all leave it whole.
Anything unexpected means that there is no such file: the cache is never an error. Where files have no owners (Windows),
there is none.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count

VARIABLE = "TRICONV_CACHE"

OWNED = hasattr(os, "geteuid") and os.open in os.supports_dir_fd
"""Whether files have owners, and can be named inside an opened folder."""


def place() -> str | None:
    """Where the folder is, or would be; None when there can be none."""
    wanted = os.environ.get(VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(base, "triconv") if wanted is None else os.path.abspath(wanted)
    return path if wanted != "" and os.path.isabs(path) and OWNED else None


@contextmanager
def _folder(make: bool = False) -> Iterator[int | None]:
    """The opened folder, this user's alone, made if it is not there and is to be; None when there can be none."""
    path, opened = place(), None
    if path is None:
        yield None
        return
    try:
        if make:
            os.makedirs(path, mode=0o700, exist_ok=True)
        opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        yield opened if _is_ours(os.fstat(opened)) else None
    finally:
        if opened is not None:
            os.close(opened)


def _is_ours(status: os.stat_result) -> bool:
    """Whether only this user can have written a file or folder."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def read(name: str) -> bytes | None:
    """What a file of the folder holds, if it is this user's own."""
    with suppress(OSError), _folder() as folder:
        if folder is None:
            return None
        # A pipe in a file's place is not waited for.
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        try:
            status = os.fstat(opened)
            if stat.S_ISREG(status.st_mode) and _is_ours(status):
                with open(opened, "rb", closefd=False) as file:
                    return file.read()
        finally:
            os.close(opened)
    return None


def write(name: str, content: bytes, before: Callable[[int], None] = lambda _: None) -> bool:
    """Put a file in the folder, beside and renamed, after what is to be done to the opened folder; was it put?"""
    import secrets

    with suppress(OSError), _folder(make=True) as folder:
        if folder is None:
            return False
        with suppress(OSError):
            before(folder)
        beside = f"{secrets.token_hex(8)}.part"
        opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        try:
            with open(opened, "wb") as file:
                file.write(content)
            os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(OSError):
                os.unlink(beside, dir_fd=folder)
            raise
        return True
    return False


DIGEST = 32

LEFT = re.compile(r"[0-9a-f]{16}\.part")
"""What a process leaves that is killed as it writes."""

SELDOM = 32
"""So many files are written for each look at all of them, which takes a millisecond or two where they are many."""


@dataclass(frozen=True)
class Shelf:
    """The files of one kind, each of which holds what belongs to a key: whole, or it is not there.

    A digest over the key and the content finds damage: a truncated file, a flipped bit, what belongs to another key
    under this one's name. Who wrote a file it cannot tell, as who can write the content can write its digest.
    """

    ending: str
    most: int
    """Files that are kept; then the older half goes."""
    _written: Iterator[int] = field(default_factory=count, repr=False)

    def file(self, name: str, key: bytes) -> str:
        return f"{name}-{key.hex()[:40]}.{self.ending}"

    def read(self, name: str, key: bytes) -> bytes | None:
        """What belongs to a key, if the folder has it whole."""
        found = read(self.file(name, key)) or b""
        content = found[len(self.begin) + DIGEST :]
        return content if found == self.whole(key, content) else None

    def write(self, name: str, key: bytes, content: bytes) -> None:
        """Put it there; the first of a process, and some others, after a look at how many there are."""
        before = [self.prune] * (next(self._written) % SELDOM == 0)
        write(self.file(name, key), self.whole(key, content), *before)

    def whole(self, key: bytes, content: bytes) -> bytes:
        """What a file holds."""
        return self.begin + sha256(key + content).digest() + content

    @property
    def begin(self) -> bytes:
        """What every file begins with."""
        return f"triconv {self.ending} 2\n".encode()

    def prune(self, folder: int) -> None:
        """Remove the older half of files that are too many, and what killed processes left."""
        names = os.listdir(folder)
        if len(names) >= self.most:  # to look at each takes a while
            own = re.compile(rf"\w+-[0-9a-f]{{40}}\.{self.ending}")
            names = [name for name in names if own.fullmatch(name) or LEFT.fullmatch(name)]
        if len(names) < self.most:
            return
        by_age = sorted((os.stat(name, dir_fd=folder, follow_symlinks=False).st_mtime, name) for name in names)
        for _, name in by_age[: len(names) // 2]:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
