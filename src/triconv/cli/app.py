"""The application that commands are added to, and how it tells a user what went wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer
from rich.console import Console

from .. import __version__
from ..processes import leads

console = Console(soft_wrap=False, markup=False, emoji=False, highlight=False, quiet=not leads())
"""Prints text as it is: a path may hold brackets and colons. Of several processes that work together, one speaks."""

FAILED, INTERRUPTED = 1, 130
"""Exit status of a command that failed, and the shell's own for one stopped by Ctrl-C."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Convolution, its transpose and its weight gradient: train autoencoders, check derivatives, explain choices.",
)


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function a command whose errors are one line each, never a traceback."""

    @wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (ValueError, TypeError, OSError, MemoryError, FloatingPointError) as error:
            fail(" ".join(str(error).split()) or type(error).__name__)
        except KeyboardInterrupt:
            fail("interrupted", INTERRUPTED)

    app.command()(guarded)
    return function


def fail(message: str, status: int = FAILED) -> None:
    """Print one line to the error stream and leave; of several processes one says it."""
    if leads():
        print(f"triconv: {message}", file=sys.stderr)
    raise typer.Exit(status)


def _version(asked: bool) -> None:
    if asked:
        print(f"triconv {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Convolution, its transpose and its weight gradient: train autoencoders, check derivatives, explain choices."""
