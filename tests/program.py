"""Programs in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys

LONG = 60
"""Seconds after which something that should have happened will not."""


def python(text: str, *options: str, **environment: str) -> str:
    """What a program prints."""
    ran = subprocess.run(
        [sys.executable, *options, "-c", text],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env={**os.environ, **environment},
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.strip()
