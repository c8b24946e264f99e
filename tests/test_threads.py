"""How many threads, and calls side by side: on the pool, nested, from many threads, after a fork, with errors."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import triconv
from triconv.kernels import threads as module
from triconv.kernels.threads import available, run_all, thread_count, threads

LONG = 60
"""Seconds after which something that should have happened will not."""


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of anybody's."""
    monkeypatch.setattr(module, "_everywhere", [])
    monkeypatch.delenv("TRICONV_NUM_THREADS", raising=False)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> module._Pool:
    """A pool that has no threads yet."""
    fresh = module._Pool()
    monkeypatch.setattr(module, "_pool", fresh)
    return fresh


def on_a_thread(call: Callable[[], Any]) -> Any:
    """A call's result on a thread of its own, which must end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()), daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()
    return results[0]


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


# Side by side


@pytest.mark.parametrize("number", [0, 1, 2, 3, 40])
def test_every_call_runs_once(number: int) -> None:
    ran: list[int] = []
    run_all([partial(ran.append, which) for which in range(number)])
    assert sorted(ran) == list(range(number))


def test_one_call_stays_here() -> None:
    seen: list[threading.Thread] = []
    run_all([lambda: seen.append(threading.current_thread())])
    assert seen == [threading.current_thread()]


def meet(number: int) -> list[threading.Thread]:
    """Calls that wait for one another, so must all be under way at once; on which threads they ran."""
    barrier, seen = threading.Barrier(number), []

    def call() -> None:
        seen.append(threading.current_thread())
        barrier.wait(LONG)

    run_all([call] * number)
    return seen


@pytest.mark.parametrize("number", [2, 5])
def test_calls_run_side_by_side_and_one_of_them_here(number: int) -> None:
    seen = meet(number)
    assert len(set(seen)) == number
    assert threading.current_thread() in seen


def test_the_pool_is_kept_and_grows_as_needed(pool: module._Pool) -> None:
    for number in (3, 2, 3):
        meet(number)
        assert pool.size == 2
    meet(6)
    assert pool.size == 5


def test_what_was_run_is_let_go(pool: module._Pool) -> None:
    class Array:
        gone = threading.Event()

        def use(self) -> None:
            pass

        def __del__(self) -> None:
            self.gone.set()

    meet(2)
    array = Array()
    run_all([array.use, array.use])
    del array
    assert Array.gone.wait(LONG)
    assert pool.size == 1


def test_calls_may_run_calls() -> None:
    """More deep and wide than there are threads: nobody waits for a thread that waits for it."""
    leaves: list[int] = []

    def tree(depth: int) -> None:
        if depth:
            run_all([partial(tree, depth - 1)] * 4)
        else:
            leaves.append(1)

    on_a_thread(partial(tree, 5))
    assert len(leaves) == 4**5


def test_many_threads_at_once() -> None:
    totals: list[int] = []

    def use() -> None:
        sums = [0, 0, 0]

        def add(which: int, by: int) -> None:
            sums[which] += by

        for turn in range(300):
            run_all([partial(add, which, turn) for which in range(3)])
        totals.append(sum(sums))

    users = [threading.Thread(target=use, daemon=True) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join(LONG)
    assert totals == [3 * sum(range(300))] * 8


def test_without_threads_to_be_had_the_calls_run_here(pool: module._Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    seen: list[threading.Thread] = []
    run_all([lambda: seen.append(threading.current_thread())] * 3)
    assert seen == [threading.current_thread()] * 3
    assert pool.size == 0


# Errors


def fails(error: BaseException, barrier: threading.Barrier | None = None) -> None:
    if barrier is not None:
        barrier.wait(LONG)
    raise error


@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize(
    "error", [ValueError("wrong"), SystemExit(3), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_an_error_of_any_call_is_raised(error: BaseException, place: int) -> None:
    """Of two calls that are under way at once, so on two threads."""
    barrier = threading.Barrier(2)
    calls: list[Callable[[], Any]] = [partial(barrier.wait, LONG)]
    calls.insert(place, partial(fails, error, barrier))
    with pytest.raises(type(error)) as raised:
        run_all(calls)
    assert raised.value is error
    assert len(meet(2)) == 2


def test_no_error_is_lost() -> None:
    barrier = threading.Barrier(3)
    errors = [ValueError("zero"), KeyError("one"), IndexError("two")]
    with pytest.raises(ValueError, match="zero") as raised:
        run_all([partial(fails, error, barrier) for error in errors])
    assert raised.value is errors[0]
    assert raised.value.__notes__ == [f"and another thread raised {error!r}" for error in errors[1:]]


def test_an_interruption_goes_before_an_error() -> None:
    barrier = threading.Barrier(2)
    with pytest.raises(KeyboardInterrupt) as raised:
        run_all([partial(fails, ValueError("wrong"), barrier), partial(fails, KeyboardInterrupt(), barrier)])
    assert raised.value.__notes__ == ["and another thread raised ValueError('wrong')"]


def test_an_error_waits_for_calls_under_way_and_begins_no_others() -> None:
    barrier, ended, begun = threading.Barrier(2), [], []

    def slow() -> None:
        barrier.wait(LONG)
        time.sleep(0.2)
        ended.append(1)

    with pytest.raises(ValueError, match="wrong"):
        run_all([slow, partial(fails, ValueError("wrong"), barrier)])
    assert ended == [1]
    with pytest.raises(ValueError, match="wrong"):
        run_all([partial(fails, ValueError("wrong"))] + [lambda: begun.append(time.sleep(0.01))] * 1000)
    assert len(begun) < 1000


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param("_thread.interrupt_main()", id="found when it wakes"),
        pytest.param(
            "signal.pthread_kill(main.ident, signal.SIGINT)",
            id="waking it",
            marks=pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="the system sends threads no signals"),
        ),
    ],
)
def test_a_signal_while_waiting_waits_all_the_same(interrupt: str) -> None:
    """The caller is in run_all until its helper has ended; only then the interruption goes on."""
    text = f"""
import _thread, signal, threading, time
from triconv.kernels.threads import run_all
barrier, ended, main = threading.Barrier(2), [], threading.current_thread()
def call():
    barrier.wait(20)
    if threading.current_thread() is not main:
        time.sleep(0.2)
        {interrupt}
        time.sleep(0.3)
        ended.append(1)
try:
    run_all([call, call])
except KeyboardInterrupt:
    print("interrupted", ended)
"""
    assert python(text) == "interrupted [1]"


# Processes


MEET = """
import os, sys, threading
from triconv.kernels.threads import run_all
def meet():
    barrier = threading.Barrier(3)
    run_all([lambda: barrier.wait(20)] * 3)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_a_pool_of_its_own() -> None:
    """Also where a thread of the parent is starting workers, and its child's child."""
    text = """
import signal
from triconv.kernels import threads
meet()
with threads._pool.growing:
    child = os.fork()
if child == 0:
    signal.alarm(30)
    meet()
    child = os.fork()
    if child == 0:
        meet()
        os._exit(0)
    os._exit(os.waitpid(child, 0)[1])
meet()
print(os.waitpid(child, 0)[1])
"""
    assert python(MEET + text, "-Wignore::DeprecationWarning") == "0"


@pytest.mark.parametrize(
    "ending",
    [
        "meet()",
        "meet(); sys.exit(0)",
        "import atexit; meet(); atexit.register(meet)",
        "import atexit; atexit.register(lambda: run_all([int, int]))",
        "meet(); threading.Thread(target=lambda: [meet() for _ in range(200)]).start()",
        "threading.Thread(target=lambda: [meet() for _ in range(10**9)], daemon=True).start(); meet()",
    ],
)
def test_the_interpreter_ends(ending: str) -> None:
    assert python(f"{MEET}print('in time')\n{ending}") == "in time"


@pytest.fixture(scope="module", autouse=True)
def _nobody_is_left_waiting() -> Iterator[None]:
    """Every worker of the pool is idle in the end, and only workers are left."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("triconv-")]
    assert left == []


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
