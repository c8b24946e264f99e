"""How many threads: settings, the environment, control groups, forks."""

from __future__ import annotations

import asyncio
import importlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import python

import triconv
from triconv.kernels import threads as module
from triconv.kernels.threads import available, thread_count, threads

LONG = 60
"""Seconds after which something that should have happened will not."""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of anybody's."""
    monkeypatch.setattr(module, "_everywhere", [])
    monkeypatch.setattr(module, "usual", available)
    monkeypatch.delenv("TRICONV_NUM_THREADS", raising=False)


def on_a_thread(call: Callable[[], Any]) -> Any:
    """A call's result on a thread of its own, which must end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    return results[0]


# How many


def test_the_default_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count() == available() >= 1
    monkeypatch.setenv("TRICONV_NUM_THREADS", " 7 ")
    assert thread_count() == 7
    threads(5)
    assert thread_count() == 5
    with threads(3):
        assert thread_count() == 3
    assert thread_count() == 5


def test_threads_is_public_and_light() -> None:
    assert triconv.threads is threads
    loaded = python("import sys, triconv; triconv.threads(2); print([m for m in sys.modules if 'llvm' in m])")
    assert loaded == "[]"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to processors")
def test_processors_that_the_process_may_not_use_do_not_count() -> None:
    text = "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]);"
    text += "from triconv.kernels.threads import thread_count; print(thread_count())"
    assert python(text) == "1"


def test_a_control_group_grants_processors(tmp_path: Path) -> None:
    def granted(own: str, **files: str) -> int:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name, text in files.items():
            path = root / name.replace("__", "/").replace("max", "cpu.max").replace("v1", "cpu/cpu.cfs")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
        (tmp_path / f"own{root.name}").write_text(own)
        return module._granted.__wrapped__(root, tmp_path / f"own{root.name}")

    none = module.MOST
    assert granted("0::/\n") == none
    assert granted("0::/\n", max="max 100000") == none
    assert granted("0::/\n", max="200000 100000") == 2
    assert granted("0::/\n", max="150000 100000") == 2
    assert granted("0::/\n", max="1000 100000") == 1
    assert granted("0::/a/b\n", a__b__max="300000 100000", a__max="max 100000", max="900000 100000") == 3
    assert granted("0::/a/b\n", a__b__max="300000 100000", a__max="100000 100000") == 1
    assert granted("3:cpu,cpuacct:/x\n0::/\n", v1_quota_us="400000", v1_period_us="100000") == 4
    assert granted("3:cpu,cpuacct:/x\n", v1_quota_us="-1", v1_period_us="100000") == none
    assert granted("0::/\n", max="nonsense") == none
    assert module._granted.__wrapped__(tmp_path / "none", tmp_path / "none") == none


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1025", "²", "9" * 5000])
def test_a_wrong_variable_is_one_line(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRICONV_NUM_THREADS", text)
    with pytest.raises(
        ValueError, match=rf"^TRICONV_NUM_THREADS='{text}': expected a number of threads from 1 to 1024$"
    ):
        thread_count()


@pytest.mark.parametrize(
    ("count", "error", "got"),
    [(0, ValueError, ""), (-2, ValueError, ""), (1025, ValueError, ""), (2.0, TypeError, ", got float"),
     ("2", TypeError, ", got str"), (True, TypeError, ", got bool"), (None, TypeError, ", got NoneType")],
)  # fmt: skip
def test_a_wrong_count_is_one_line_and_sets_nothing(count: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error) as raised:
        threads(count)
    assert str(raised.value) == f"threads={count!r}: expected a number of threads from 1 to 1024{got}"
    assert thread_count() == available()


# Settings


def test_settings_nest_and_end_with_an_error() -> None:
    with threads(2) as outer, threads(3):
        assert thread_count() == 3
        with pytest.raises(KeyError, match="2"), outer:  # once more
            raise KeyError(thread_count())
        assert thread_count() == 3
    assert thread_count() == available()


def test_a_setting_is_for_all_threads_and_a_with_statement_for_its_own() -> None:
    with threads(6):
        assert on_a_thread(thread_count) == available()
        threads(4)
        assert (thread_count(), on_a_thread(thread_count)) == (6, 4)
    assert thread_count() == 4


def test_with_statements_begun_at_once_leave_no_setting() -> None:
    threads(5)
    first, second = threads(1), threads(2)
    with first:
        on_a_thread(second.__enter__)
        assert thread_count() == 1
        assert on_a_thread(thread_count) == 5
    assert thread_count() == 5


def test_a_with_statement_is_its_tasks_own() -> None:
    async def count(number: int, seen: list[int]) -> None:
        with threads(number):
            await asyncio.sleep(0.01)
            seen.append(thread_count() - number)

    async def both() -> list[int]:
        seen: list[int] = []
        await asyncio.gather(count(2, seen), count(3, seen))
        return seen

    assert asyncio.run(both()) == [0, 0]


def test_settings_do_not_pile_up() -> None:
    for _ in range(3 * module.MOST):
        threads(2)
    assert len(module._everywhere) <= module.MOST


# Processes


@pytest.mark.filterwarnings("ignore:os.fork")  # JAX, which other tests may have imported, warns of every fork
@pytest.mark.parametrize("lock", ["triconv.memory", "triconv.dispatch", "triconv.ops"])
def test_a_fork_waits_for_locks_that_the_child_would_wait_for(lock: str) -> None:
    held = importlib.import_module(lock)._lock
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with held:
            holding.set()
            done.wait(0.3)

    other = threading.Thread(target=hold)
    other.start()
    holding.wait()
    child = os.fork()
    if child == 0:
        os._exit(0 if held.acquire(timeout=5) else 1)
    done.set()
    other.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
