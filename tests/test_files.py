"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from triconv.files import WriteError, make_directory, replace_file


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"old")
    return path


def only(path: Path, content: bytes) -> bool:
    """Whether the path's directory holds that file and nothing else."""
    return [file.name for file in path.parent.iterdir()] == [path.name] and path.read_bytes() == content


def test_new_file(tmp_path: Path) -> None:
    path = tmp_path / "new.bin"
    with replace_file(path) as beside:
        beside.write_bytes(b"new")
        assert not path.exists()
    assert only(path, b"new")


def test_old_file_stays_until_the_end(old: Path) -> None:
    with replace_file(str(old)) as beside:
        beside.write_bytes(b"new")
        assert old.read_bytes() == b"old"
        assert beside.parent == old.parent
        assert beside.name.startswith(".")
        assert beside.suffix == old.suffix
    assert only(old, b"new")


def test_longest_name(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 251 + ".png")
    with replace_file(path) as beside:
        beside.write_bytes(b"new")
    assert only(path, b"new")


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    plain, ours = tmp_path / "plain", tmp_path / "ours"
    plain.write_bytes(b"")
    with replace_file(ours) as beside:
        beside.write_bytes(b"")
    assert stat.S_IMODE(ours.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_contents_reach_the_disk_before_the_name(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("replace"), replace(a, b))[1])
    with replace_file(old) as beside:
        beside.write_bytes(b"new")
    assert calls == ["fsync", "replace"]


@pytest.mark.parametrize(
    "error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(1)], ids=lambda e: type(e).__name__
)
def test_failure_inside_the_block(old: Path, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, replace_file(old) as beside:  # noqa: PT012 (the block is what fails)
        beside.write_bytes(b"half")
        raise error
    assert raised.value is error
    assert only(old, b"old")


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_full_disk(old: Path, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    monkeypatch.setattr(os, function, full)
    with pytest.raises(WriteError) as raised, replace_file(old) as beside:
        beside.write_bytes(b"new")
    assert str(raised.value) == f"cannot write {old}: No space left on device"
    assert raised.value.errno == errno.ENOSPC
    assert only(old, b"old")


def test_full_disk_inside_the_block(old: Path) -> None:
    with (
        pytest.raises(OSError, match=r"^cannot write .*model.safetensors: No space left on device$"),
        replace_file(old),
    ):
        full()
    assert only(old, b"old")


def test_error_without_a_number_keeps_its_first_line(old: Path) -> None:
    with pytest.raises(WriteError, match=r": encoder error$"), replace_file(old):
        raise OSError("encoder error\nand more")


def test_error_of_a_file_within_is_not_named_twice(old: Path, tmp_path: Path) -> None:
    inner = tmp_path / "missing" / "inner"
    with pytest.raises(WriteError) as raised, replace_file(old), replace_file(inner):
        pass
    assert str(raised.value) == f"cannot write {inner}: No such file or directory"
    assert only(old, b"old")


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (("missing", "file"), "No such file or directory"),
        (("model.safetensors", "file"), "Not a directory"),
        (("x" * 300,), "File name too long"),
        ((".",), "Is a directory"),
    ],
)
def test_unwritable_place(old: Path, parts: tuple[str, ...], reason: str) -> None:
    path = old.parent.joinpath(*parts)
    with pytest.raises(WriteError) as raised, replace_file(path) as beside:
        beside.write_bytes(b"new")
    assert str(raised.value) == f"cannot write {path}: {reason}"
    assert only(old, b"old")


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(WriteError, match=r"^cannot write /dev/null: Is not a regular file$"), replace_file("/dev/null"):
        raise AssertionError
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_symbolic_link_is_followed(old: Path) -> None:
    link = old.parent / "link"
    link.symlink_to(old.name)
    with replace_file(link) as beside:
        beside.write_bytes(b"new")
    assert link.is_symlink()
    assert old.read_bytes() == b"new"


def test_make_directory(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert make_directory(folder) == folder == make_directory(str(folder))
    assert folder.is_dir()
    file = tmp_path / "file"
    file.write_bytes(b"")
    for path, reason in ((file, "File exists"), (file / "below", "Not a directory")):
        with pytest.raises(WriteError) as raised:
            make_directory(path)
        assert str(raised.value) == f"cannot write {path}: {reason}"
