"""Work that is written down is kept on disk: the next process reads it, runs it on its arrays, and makes the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triconv.kernels import filed

FILING = Path(__file__).with_name("filing.py")


def process(folder: Path, **more: str) -> dict[str, Any]:
    """What a process with its cache in a folder makes, and how."""
    environment = os.environ | {"TRICONV_CACHE": str(folder), "TRICONV_CALIBRATED": "1", "PYTHONHASHSEED": "1"} | more
    command = [sys.executable, "-W", "error", str(FILING)]
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


def test_much_is_not_kept(first: tuple[Path, dict[str, Any]]) -> None:
    """No file is larger than is soon read."""
    folder, _ = first
    sizes = [len(content) for content in files(folder, "calls").values()]
    assert np.max(sizes) < filed.LARGEST + (1 << 14)
