"""Work that is written down is kept on disk: the next process reads it, runs it on its arrays, and makes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import triconv
from triconv import coefficients
from triconv.engines import fft, winograd
from triconv.form import Role
from triconv.kernels import filed

FILING = Path(__file__).with_name("filing.py")


def process(folder: Path, *arguments: str, **more: str) -> dict[str, Any]:
    """What a process with its cache in a folder makes, and how."""
    environment = os.environ | {"TRICONV_CACHE": str(folder), "TRICONV_CALIBRATED": "1", "PYTHONHASHSEED": "1"} | more
    command = [sys.executable, "-W", "error", str(FILING), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def files(folder: Path, ending: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob(f"*.{ending}")}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A folder that a process has filled, and what that made."""
    folder = tmp_path_factory.mktemp("filed") / "cache"
    return folder, process(folder)


def copied(folder: Path, to: Path) -> Path:
    """The same folder, for a process that may change it."""
    to.mkdir(mode=0o700)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_the_next_process_reads_what_was_made(first: tuple[Path, dict[str, Any]]) -> None:
    folder, made = first
    before = files(folder, "calls")
    found = process(folder, PYTHONHASHSEED="2")
    assert found["digests"] == made["digests"]
    assert found["read"] >= made["made"] == len(before) > 20
    assert "made" not in found
    assert files(folder, "calls") == before


def test_files_depend_on_no_process(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """Another one, whose memory is elsewhere, and whose sets have another order, writes the same bytes."""
    folder, made = first
    assert process(tmp_path / "cache", PYTHONHASHSEED="3")["digests"] == made["digests"]
    assert files(tmp_path / "cache", "calls") == files(folder, "calls")


def test_what_is_gone_or_damaged_is_made_again(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder, made = first
    without = copied(folder, tmp_path / "without")
    for name in files(without, "o"):
        (without / name).unlink()
    found = process(without)
    assert found["digests"] == made["digests"]
    assert found["not read"] > 0
    damaged = copied(folder, tmp_path / "damaged")
    for name, content in files(damaged, "calls").items():
        (damaged / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    found = process(damaged)
    assert found["digests"] == made["digests"]
    assert found["made"] == made["made"]
    assert files(damaged, "calls") == files(folder, "calls")


def test_checked_mode_and_default_coefficients_read_nothing(first: tuple[Path, dict[str, Any]]) -> None:
    folder, made = first
    for more in ({"TRICONV_CHECKED": "1"}, {"TRICONV_CALIBRATED": "0"}):
        found = process(folder, **more)
        assert found.keys() == {"digests"}
        assert found["digests"] == made["digests"]


def test_much_is_not_kept(first: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    """What has more tables and calls than are soon read; a few hundred bytes say what they are."""
    _, made = first
    found = process(tmp_path / "cache", "8192")
    assert found["digests"] == made["digests"]
    assert found["not made"] > 0 < found["made"]
    assert max(len(content) for content in files(tmp_path / "cache", "calls").values()) < 8192 + 2048


def test_tiles_and_cuts_tell_work_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the coefficients that chose them are no longer in use when it is written down."""
    rng = np.random.default_rng(0)
    visible, weight = rng.standard_normal((2, 16, 200), np.float32), rng.standard_normal((16, 16, 3), np.float32)
    plan = triconv.explain("conv", visible.shape, weight.shape, engine="winograd", dtype="float32")
    out, known = np.empty(plan.shape(Role.HIDDEN), np.float32), set[str]()
    monkeypatch.setattr(filed, "kept", lambda known_by, make: (known.add(known_by), make())[1])
    for size in (2, 4):
        monkeypatch.setattr(winograd, "tile_sizes", lambda _, size=size: (size,))
        winograd.build(plan.problem)(visible, weight, out)
    assert len(known) == 2
    plan = triconv.explain("conv", (2, 3, 40), (5, 3, 17), engine="fft", dtype="float32")
    a, b = (rng.standard_normal(plan.shape(role), np.float32) for role in plan.problem.operands)
    usual = fft.planned(plan.problem)
    known.clear()
    for apart in (False, True):
        monkeypatch.setattr(fft, "planned", lambda _, apart=apart: replace(usual, apart=apart))
        fft.build(plan.problem)(a, b, np.empty(plan.shape(Role.HIDDEN), np.float32))
    assert len(known) == 4  # of the weight and of the data


def test_nothing_is_kept_of_files_that_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """After this process read them: it runs the old ones, and would be known by the new."""
    monkeypatch.setenv("TRICONV_CALIBRATED", "1")
    for begun, there in ((coefficients.BEGUN, True), (0, False)):
        coefficients._source.cache_clear()
        monkeypatch.setattr(coefficients, "BEGUN", begun)
        assert (coefficients.fingerprint("anything") is not None) == there
    coefficients._source.cache_clear()
