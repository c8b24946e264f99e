"""What was chosen is kept on disk for the next process: found again, and only what belongs to the question."""

from __future__ import annotations

import subprocess
import sys
from ast import literal_eval
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from time import time_ns

import pytest
from grid import GRID, OPERATIONS
from test_direct import problem_of

import triconv
from triconv import coefficients, dispatch
from triconv.coefficients import DEFAULT, lasting, use
from triconv.engines import direct
from triconv.kernels import ways
from triconv.kernels.target import Target, machine

Answer = tuple[int, dict[str, float], set[str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where answers are kept: a folder that is not there yet."""
    monkeypatch.setenv("TRICONV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRICONV_CALIBRATED", "1")
    monkeypatch.setattr(coefficients, "LONG", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def asked() -> list[tuple[int, str]]:
    """What `answer` was asked that it did not know."""
    return []


def answerer(asked: list[tuple[int, str]]) -> Callable[[int, str], Answer]:
    """A function that counts, as a process has it that has not called it yet."""

    @lasting
    def answer(number: int, text: str) -> Answer:
        asked.append((number, text))
        return number + 1, {text: number / 3}, {text}

    return answer


def test_the_next_process_reads_what_was_answered(folder: Path, asked: list[tuple[int, str]]) -> None:
    for _ in range(2):
        answer = answerer(asked)
        assert [answer(1, "a"), answer(2, "a")] == [
            (2, {"a": 1 / 3}, {"a"}),
            (3, {"a": 2 / 3}, {"a"}),
        ]
    assert asked == [(1, "a"), (2, "a")]
    assert len(list(folder.iterdir())) == 2


@pytest.mark.usefixtures("default", "folder")
def test_others_have_answers_of_their_own(asked: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    answerer(asked)(1, "a")
    use(replace(DEFAULT, cycles=3e9))
    answerer(asked)(1, "a")
    use(DEFAULT)
    monkeypatch.setattr(coefficients, "_source", lambda: b"another version")
    answerer(asked)(1, "a")
    monkeypatch.setattr(coefficients, "_source", bytes)  # where its files are not to be seen
    answerer(asked)(1, "a")
    monkeypatch.undo()
    assert asked == [(1, "a")] * 4


def test_what_is_soon_answered_is_not_kept(
    folder: Path, asked: list[tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coefficients, "LONG", 60.0)
    for _ in range(2):
        assert answerer(asked)(1, "a")[0] == 2
    assert asked == [(1, "a")] * 2
    assert not folder.exists()


def test_what_is_no_literal_is_asked_again(folder: Path) -> None:
    asked = []

    @lasting
    def answer(number: int) -> float:
        asked.append(number)
        return float("inf")

    assert [answer(1), answer(1)] == [float("inf")] * 2
    assert asked == [1, 1]
    assert len(list(folder.iterdir())) == 1


def test_functions_of_one_name_have_their_own_answers(folder: Path) -> None:
    """As files are called by the name; what is asked for is in the key."""

    def named(name: str, found: int) -> Callable[[int], int]:
        def function(_number: int) -> int:
            return found

        function.__name__ = name
        return lasting(function)

    assert [named("one", 1)(0), named("other", 2)(0), named("one", 3)(0)] == [1, 2, 1]
    names = {path.name.split("-")[1] for path in folder.iterdir()}
    assert len(names) == 2


def test_another_source_is_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "triconv" / "coefficients.py"
    (source.parent / "kernels").mkdir(parents=True)
    other = source.parent / "kernels" / "ways.py"
    for path in (source, other):
        path.write_text("one")
    monkeypatch.setattr(coefficients, "__file__", str(source))
    monkeypatch.setattr(coefficients, "BEGUN", time_ns() + 10**12)  # all of them are older
    found = []
    for write in (lambda: None, lambda: other.write_text("two"), lambda: (other.parent / "new.py").write_text("")):
        write()
        coefficients._source.cache_clear()
        found.append(coefficients._source())
    source.unlink()
    other.unlink()
    (other.parent / "new.py").unlink()
    coefficients._source.cache_clear()
    found.append(coefficients._source())
    monkeypatch.undo()
    coefficients._source.cache_clear()
    assert len(set(found)) == 4
    assert found[-1] == b""


def test_a_machine_is_told_apart_by_what_its_system_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = []
    for allowed in (False, True):
        monkeypatch.setattr(Target, "matrices", allowed)
        kinds.append(machine())
    assert kinds[0] != kinds[1]


@pytest.mark.parametrize("what", ["cut", "flipped", "another's", "anybody's"])
def test_what_is_damaged_is_asked_again(what: str, folder: Path, asked: list[tuple[int, str]]) -> None:
    answerer(asked)(1, "a")
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    match what:
        case "cut":
            path.write_bytes(whole[:-1])
        case "flipped":
            path.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])
        case "another's":
            answerer(asked)(2, "a")
            (other,) = set(folder.iterdir()) - {path}
            other.replace(path)
        case "anybody's":
            path.write_bytes(whole.replace(b"(2", b"(3"))
            path.chmod(0o666)
    assert answerer(asked)(1, "a") == (2, {"a": 1 / 3}, {"a"})
    assert asked[-1] == (1, "a")
    assert path.read_bytes() == whole


def test_answers_are_literals() -> None:
    for row, operation in product(GRID, OPERATIONS):
        problem = problem_of(row, operation)
        able = tuple(name for name, one in dispatch.ENGINES.items() if not one.why_not(one.own(problem)))
        answers = [dispatch._compared(problem, able, 1.1, machine())]
        if problem.batch and not problem.complex:
            answers.append(ways._best(*direct._run(problem, True), True, (), machine()))
        for found in answers:
            assert literal_eval(repr(found)) == found


def test_all_that_a_problem_and_a_machine_have_tells_them_apart() -> None:
    problem = triconv.explain("conv", (1, 1, 8), (1, 1, 3)).problem
    geometry = problem.geometry
    for one in (problem, geometry, geometry.axes[0], problem.channels, machine()[0], DEFAULT):
        assert all(field.repr for field in fields(one) if field.compare)
        assert repr(one).startswith(f"{type(one).__name__}(")


SCRIPT = """
import numpy as np, triconv
from triconv import dispatch
from triconv.kernels import ways
asked = []
for module, name in ((dispatch, "_casting"), (ways, "_fastest")):
    def seen(*given, real=getattr(module, name), name=name):
        asked.append(name)
        return real(*given)
    setattr(module, name, seen)
x, w = (np.random.default_rng(0).standard_normal(shape, np.float32) for shape in ((2, 32, 20, 20), (24, 32, 5, 5)))
print(len(asked), triconv.conv(x, w, dilation=2, stride=(1, 2)).tobytes().hex()[:4000] if not asked else "", len(asked))
"""


@pytest.mark.usefixtures("folder")
def test_a_process_asks_no_engine_that_another_asked() -> None:
    command = [sys.executable, "-c", SCRIPT]
    said = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    first, second, third = (one.stdout.split() for one in said)
    assert int(first[-1]) > 0 == int(second[-1])
    assert first[1] == second[1] == third[1]
