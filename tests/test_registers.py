"""What is computed with registers of matrices, where the processor has none: tests of it in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from triconv.kernels.target import IMITATED, lacking, target

FOLDER = Path(__file__).parent
LONG = 1200
"""Seconds after which tests that should have ended will not."""

needed = pytest.mark.skipif(target().matrices, reason="this processor has registers of matrices")
able = pytest.mark.skipif(bool(lacking(IMITATED)), reason="this processor multiplies no pairs of bfloat16")


def ask(*options: str) -> str:
    """What pytest prints last, all having passed."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options],
        cwd=FOLDER.parent,
        env={**inherited, "TRICONV_TARGET": IMITATED},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout.splitlines()[-1]


@needed
@able
@pytest.mark.parametrize("module", ["test_matrices.py", "test_split.py", "test_errors.py"])
def test_the_tests_of_matrices_pass(module: str) -> None:
    last = ask(str(FOLDER / module))
    assert "passed" in last
    assert "skipped" not in last


def test_the_imitation_is_asked_for_by_name() -> None:
    assert not target("avx512").matrices
    assert target(IMITATED).matrices
    assert target(IMITATED).imitated
    assert not target("host").imitated
