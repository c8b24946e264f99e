"""What is measured of errors: the root mean square of what float32 adds to float64, by engine."""

from __future__ import annotations

import numpy as np
import pytest

import triconv
from bench.errors import MEASURED, errors, main
from triconv.benchmark.first import TINY
from triconv.benchmark.workload import operands
from triconv.kernels.target import target

ABLE = tuple(name for name in MEASURED if name != "split" or target().matrices)
"""Lines of a tiny problem's windows have enough numbers to be split, where the processor can."""


def test_errors_are_relative_to_the_result() -> None:
    a, b = operands(TINY.problem("conv")).values()
    exact, found = (triconv.conv(x, w, engine="direct", **TINY.options) for x, w in ((a.astype("f8"), b), (a, b)))
    expected = np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean())
    measured = dict(errors(TINY, "conv"))
    assert tuple(measured) == ABLE
    assert measured["direct"] == pytest.approx(expected, rel=1e-6)
    assert all(1e-8 < error < (1e-5 if name == "split" else 1e-6) for name, error in measured.items())


def test_what_it_prints(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert main(["--only", "tiny"]) == 0
    printed = capsys.readouterr().out.split()
    assert [printed.count(name) for name in MEASURED] == [int(name in ABLE) for name in MEASURED]
