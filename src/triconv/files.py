"""Files that are whole or absent: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class WriteError(OSError):
    """One line that says what could not be written, and why."""

    def __init__(self, path: Path | str, reason: OSError | str) -> None:
        number = None
        if isinstance(reason, OSError):
            number, reason = reason.errno, reason.strerror or str(reason) or type(reason).__name__
        super().__init__(f"cannot write {path}: {reason.splitlines()[0]}")
        self.errno = number


@contextmanager
def replace_file(path: Path | str) -> Iterator[Path]:
    """A path to write to; what is there at the end of the block takes the place of `path`, all at once.

    The path lies in the same directory, is hidden and has the same extension. A block that fails, or is interrupted,
    leaves the old file as it was and nothing beside it. A symbolic link is followed, not replaced.

    Parameters
    ----------
    path
        Where the file is to be: in a directory that exists, and nothing but a regular file there.

    Raises
    ------
    WriteError
        An OSError of one line, "cannot write PATH: No space left on device", for every OSError inside the block too.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from triconv.files import replace_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replace_file(Path(folder, "note.txt")) as beside:
    ...         _ = beside.write_text("whole")
    ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
    [('note.txt', 'whole')]
    """
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():  # renaming would replace a device, say /dev/null
            raise WriteError(path, "Is a directory" if target.is_dir() else "Is not a regular file")
        beside = target.with_name(f".{target.stem[:40]}.{secrets.token_hex(4)}{target.suffix}")
        try:
            beside.touch(exist_ok=False)
            yield beside
            with beside.open("rb+") as file:  # otherwise the name may reach the disk before the contents
                os.fsync(file.fileno())
            os.replace(beside, target)
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(path, error) from None


def remove_leftovers(path: Path | str) -> None:
    """Remove what `replace_file` left beside a file when its process was killed."""
    target = Path(os.path.realpath(path))
    beside = re.compile(rf"\.{re.escape(target.stem[:40])}\.[0-9a-f]{{8}}{re.escape(target.suffix)}")
    for file in target.parent.iterdir():
        if beside.fullmatch(file.name):
            with suppress(OSError):
                file.unlink()


def make_directory(path: Path | str) -> Path:
    """The directory at a path, made with its parents when it is missing; a WriteError when it cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(path, error) from None
    return Path(path)
