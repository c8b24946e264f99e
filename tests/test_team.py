"""Parts of kernel calls side by side: on helpers, nested, from many threads, after a fork, interrupted, at the end."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from program import python

from triconv.kernels import rows
from triconv.kernels import team as module
from triconv.kernels.compile import Call, assembly
from triconv.kernels.copy import Dim, Move
from triconv.kernels.relay import FREE, MAIL, Relay
from triconv.kernels.sheet import Sheet
from triconv.kernels.target import NAMED, target
from triconv.kernels.team import in_parts, run_all, run_stages
from triconv.kernels.threads import threads

Array = NDArray[Any]

LONG = 60
"""Seconds after which something that should have happened will not."""

pytestmark = pytest.mark.skipif(module.CHECKED, reason="in checked mode all parts run on the thread that asks for them")


def call(run: Callable[..., Any], *values: int) -> Call:
    """A function of Python's in a kernel's place."""
    machine_code: Any = ctypes.CFUNCTYPE(None, *(ctypes.c_int64,) * len(values))(lambda *told: run(*told) and None)
    kernel: Any = partial(run)
    kernel.entry = ctypes.cast(machine_code, ctypes.c_void_p).value
    return Call(kernel, values, (machine_code,))


OURS = module._Team()


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the threads that other tests may have PyTorch lend."""
    monkeypatch.setattr(module, "_team", OURS)


@pytest.fixture
def team(monkeypatch: pytest.MonkeyPatch) -> module._Team:
    """A team that has no helpers yet."""
    fresh = module._Team()
    monkeypatch.setattr(module, "_team", fresh)
    return fresh


def on_a_thread(run: Callable[[], Any]) -> None:
    """Run something on a thread of its own, which must end."""
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


# Side by side


@pytest.mark.parametrize("parts", [0, 1, 2, 3, 40])
def test_every_part_runs_once_and_its_calls_in_their_order(parts: int) -> None:
    ran: list[tuple[int, int]] = []
    kept = [call(lambda part, step: ran.append((part, step)), 0, 0) for _ in range(3)]
    run_all([[one._replace(values=(part, step)) for step, one in enumerate(kept)] for part in range(parts)])
    assert sorted(ran) == [(part, step) for part in range(parts) for step in range(3)]
    for part in range(parts):
        assert [step for one, step in ran if one == part] == [0, 1, 2]


def test_calls_of_different_kernels_have_their_own_arguments() -> None:
    seen: list[tuple[int, ...]] = []
    one, three = call(lambda a: seen.append((a,)), 7), call(lambda *values: seen.append(values), 1, -2, 1 << 62)
    run_all([[one, three], [three, one]])
    assert sorted(seen) == sorted([(7,), (1, -2, 1 << 62)] * 2)


def test_parts_may_have_fewer_calls_than_others() -> None:
    ran: list[int] = []
    counted = call(ran.append, 0)
    run_all([[counted._replace(values=(part,))] * part for part in (3, 1, 2)])
    assert sorted(ran) == [1, 2, 2, 3, 3, 3]


SIZES = [1, 2, 5, 3, 16, 1], [4, 4], [1, 1], [40]
"""Of the parts of some stages."""


@pytest.mark.parametrize("number", [1, 2, 3, 8])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_a_stage_begins_when_all_of_the_one_before_is_done(sizes: list[int], number: int) -> None:
    """Whoever does it, and however long it takes: each part has as many calls as its number says."""
    done: list[tuple[int, int]] = []

    def work(stage: int, part: int) -> None:
        before = sum((part + 1) for size in sizes[:stage] for part in range(size))
        seen = sum(1 for own, _ in done if own < stage)
        time.sleep(1e-4 * (part % 3))
        done.append((stage, part if seen == before else -1))

    kept = call(work, 0, 0)
    stages = [[[kept._replace(values=(n, part))] * (part + 1) for part in range(size)] for n, size in enumerate(sizes)]
    for _ in range(5):
        done.clear()
        run_stages(stages, number)
        assert sorted(done) == [
            (n, part) for n, size in enumerate(sizes) for part in range(size) for _ in range(part + 1)
        ]


def test_stages_are_handed_over_once(team: module._Team, monkeypatch: pytest.MonkeyPatch) -> None:
    handed, run = list[int](), team.run

    def counted(*given: Any) -> None:
        handed.append(1)
        run(*given)

    monkeypatch.setattr(team, "run", counted)
    ran: list[int] = []
    kept = call(ran.append, 0)
    run_stages([[[kept._replace(values=(n,))]] * 3 for n in range(4)], 2)
    run_stages([[], [[kept._replace(values=(4,))]], []], 2)  # nothing to share
    assert ran == [n for n in range(4) for _ in range(3)] + [4]
    assert handed == [1]


def test_who_waits_for_a_stage_goes_on_when_it_is_done() -> None:
    """Also after so long that it looks only now and then."""
    both, events = threading.Barrier(2), list[str]()

    def work(stage: int) -> None:
        if stage == 0:
            both.wait(LONG)
            if threading.current_thread() is not main:
                time.sleep(0.1)
            events.append("ended")
        else:
            events.append("began")

    main, kept = threading.current_thread(), call(work, 0)
    run_stages([[[kept._replace(values=(stage,))] for _ in range(2)] for stage in (0, 1)], 2)
    assert events == ["ended", "ended", "began", "began"]


def test_a_late_helper_takes_part_in_later_stages(team: module._Team) -> None:
    """And does nothing again that was done without it."""
    ran, here = list[tuple[int, bool]](), threading.current_thread()
    late, main_waits = threading.Event(), threading.Event()

    def work(stage: int) -> None:
        ran.append((stage, threading.current_thread() is here))
        if stage == 0 and len(ran) == 2:
            late.set()
        if stage == 1 and threading.current_thread() is here:
            main_waits.wait(LONG)
        elif stage == 1:
            main_waits.set()

    helper = module._Helper(module.TURNS)

    def serve() -> None:
        late.wait(LONG)
        helper.serve()

    helper.thread = threading.Thread(target=serve, name="triconv-helper", daemon=True)
    helper.thread.start()
    team.idle.append(helper)
    team.size = 1
    kept = call(work, 0)
    run_stages([[[kept._replace(values=(n,))] for _ in range(2)] for n in range(3)], 2)
    assert [stage for stage, _ in ran[:2]] == [0, 0]
    assert all(on_main for stage, on_main in ran if stage == 0)
    assert sorted(stage for stage, _ in ran) == [0, 0, 1, 1, 2, 2]
    assert not all(on_main for stage, on_main in ran if stage == 1)


@pytest.mark.parametrize("parts", [1, 4])
def test_a_sheet_moves_to_other_arrays(parts: int) -> None:
    """What was written down for some arrays runs on others, also from the middle of them, and keeps none of them."""
    same = np.arange(40.0)

    def calls(source: Array, target: Array) -> list[list[Call]]:
        move = Move.of([Dim(((0, 0, 10),), 1, 1)], "float64")
        from_source = [move.calls(source[10 * n :], target[10 * n :], 0, 1) for n in range(parts)]
        from_same = [move.calls(same[30:], target[40 + 10 * n :], 0, 1) for n in range(parts)]
        return [[*a, *b] for a, b in zip(from_source, from_same, strict=True)]

    first = np.zeros(40), np.full(80, np.nan)
    sheet = Sheet.of([calls(*first)], first)
    gone = weakref.ref(first[0])
    del first
    assert gone() is None
    for seed in range(2):
        source, target = np.random.default_rng(seed).random(40), np.full(80, np.nan)
        sheet.run((source, target), 3)
        np.testing.assert_array_equal(target[: 10 * parts], source[: 10 * parts])
        np.testing.assert_array_equal(target[40 : 40 + 10 * parts], np.tile(same[30:], parts))
        assert np.isnan(target).sum() == 80 - 20 * parts


@pytest.mark.parametrize("number", [1, 2, 4])
def test_each_thread_has_memory_of_its_own(number: int) -> None:
    """Parts that are written down for the first thread's meet in as many places as there are threads, again and again;
    what points elsewhere stays, also if what stands for a larger array is so near that this seems to be in there."""
    barrier, seen = threading.Barrier(number), list[tuple[int, ...]]()

    def entry(*values: int) -> None:
        barrier.wait(LONG)
        seen.append(values)

    shared, apart = 64, 640
    room, elsewhere = np.zeros(shared + number * apart, np.uint8), np.zeros(64, np.uint8)
    mine, stands = room[shared + 16 :].ctypes.data, np.zeros(1, np.uint8)
    made = call(entry, room[8:].ctypes.data, 5, mine, elsewhere.ctypes.data, mine)
    made.kernel.pointers = (0, 2, 3, 4)  # type: ignore[attr-defined]
    one = made._replace(arrays=(room[8:], room[shared + 16 :], elsewhere, stands))
    sheet = Sheet.of([[[one]] * number], (room, stands), room[shared : shared + apart])
    for _ in range(2):
        other = np.zeros_like(room)
        sheet.run((other, stands), number - 1)
        begin = other.ctypes.data
        places = [begin + shared + 16 + n * apart for n in range(number)]
        own = {(begin + 8, 5, place, elsewhere.ctypes.data, mine) for place in places}
        assert len(seen) == number
        assert set(seen) == own
        seen.clear()


def test_one_part_stays_here() -> None:
    seen: list[threading.Thread] = []
    run_all([[call(lambda: seen.append(threading.current_thread()))]])
    assert seen == [threading.current_thread()]


def meet(number: int) -> list[threading.Thread]:
    """Parts that wait for one another, so must all be under way at once; on which threads they ran."""
    barrier, seen = threading.Barrier(number), list[threading.Thread]()

    def wait() -> None:
        seen.append(threading.current_thread())
        barrier.wait(LONG)

    run_all([[call(wait)] for _ in range(number)])
    return seen


@pytest.mark.parametrize("number", [2, 5])
def test_parts_run_side_by_side_and_one_of_them_here(number: int) -> None:
    seen = meet(number)
    assert len(set(seen)) == number
    assert threading.current_thread() in seen


@pytest.mark.parametrize("pause", [0, 0.05], ids=["awake", "asleep"])
def test_the_team_is_kept_and_grows_as_needed(team: module._Team, pause: float) -> None:
    for number in (3, 2, 3):
        meet(number)
        assert team.size == len(team.idle) == 2
        time.sleep(pause)
    meet(6)
    assert team.size == len(team.idle) == 5


def test_work_too_small_stays_here_and_more_is_cut_by_threads_and_slices() -> None:
    def parts_of(numbers: int) -> int:
        made: list[tuple[int, int]] = []

        def calls(part: int, parts: int) -> list[Call]:
            made.append((part, parts))
            return [call(lambda: None)]

        in_parts(calls, numbers)
        assert made == [(part, len(made)) for part in range(len(made))]
        return len(made)

    worth = module.NUMBERS_WORTH_A_THREAD
    with threads(3):
        assert [parts_of(n) for n in (0, worth, 2 * worth - 1)] == [1, 1, 1]
        assert [parts_of(n) for n in (2 * worth, 5 * worth, 100 * worth)] == [2, 5, 3 * module.SLICES]
    assert module.parts_of(100 * worth, 3, slices=1) == 3
    with threads(1):
        assert parts_of(100 * worth) == 1


def test_what_was_run_is_let_go(team: module._Team) -> None:
    class Array:
        gone = threading.Event()

        def __del__(self) -> None:
            self.gone.set()

    kept = call(lambda: None)
    parts = [[kept._replace(arrays=(cast(Any, Array()),))], [kept]]
    run_all(parts)
    del parts
    assert Array.gone.wait(LONG)
    assert team.size == 1


def test_calls_may_run_parts() -> None:
    """More deep and wide than there are threads: nobody waits for a thread that waits for it."""
    leaves: list[int] = []

    def tree(depth: int) -> None:
        if depth:
            run_all([[call(tree, depth - 1)] for _ in range(4)])
        else:
            leaves.append(1)

    on_a_thread(partial(tree, 4))
    assert len(leaves) == 4**4


def test_many_threads_at_once() -> None:
    totals: list[int] = []

    def use() -> None:
        sums = [0, 0, 0]

        def add(which: int, by: int) -> None:
            sums[which] += by

        kept = call(add, 0, 0)
        for turn in range(300):
            run_all([[kept._replace(values=(which, turn))] for which in range(3)])
        totals.append(sum(sums))

    users = [threading.Thread(target=use, daemon=True) for _ in range(8)]
    for user in users:
        user.start()
    for user in users:
        user.join(LONG)
    assert totals == [3 * sum(range(300))] * 8


def test_without_threads_to_be_had_the_parts_run_here(team: module._Team, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    seen: list[threading.Thread] = []
    run_all([[call(lambda: seen.append(threading.current_thread()))] for _ in range(3)])
    assert seen == [threading.current_thread()] * 3
    assert team.size == 0


def test_a_call_in_the_middle_of_growing_does_not_wait_for_it(
    team: module._Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a signal's handler may make it."""
    start, ran = threading.Thread.start, list[int]()

    def interrupted(thread: threading.Thread) -> None:
        run_all([[call(partial(ran.append, 1))] for _ in range(3)])
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    run_all([[call(partial(ran.append, 2))] for _ in range(2)])
    assert sorted(ran) == [1, 1, 1, 2, 2]
    assert team.size == 1


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timers")
def test_interruptions_leave_nothing_behind() -> None:
    """Not the thread on one processor, no helper lost, none at work for ever."""
    text = """
import random, signal, time
from triconv.kernels import team
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
team.NUMBERS_WORTH_A_THREAD = 1 << 5
import numpy as np, triconv
v, w = np.ones((2, 8, 24, 24), np.float32), np.ones((8, 8, 3, 3), np.float32)
triconv.threads(3)
# NumPy imports more when it is first needed, and takes an interruption for a dtype; Python forgets a thread that it
# starts just then, and says KeyError.
triconv.conv(v, w, engine="direct")
before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
stops, end = 0, time.monotonic() + 3
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 4e-4))
        for _ in range(50):
            triconv.conv(v, w, engine="direct")
    except Stop:
        stops += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Stop:
        pass
    assert before is None or os.sched_getaffinity(0) == before
    assert len(team._team.idle) == team._team.size
    assert all(helper.mailbox[0] == 0 for helper in team._team.idle)
print(stops > 100)
"""
    assert python(MEET + text) == "True"


# Waiting


def test_a_job_is_taken_back_from_who_has_not_begun(team: module._Team) -> None:
    """A helper that never looks into its mailbox: nobody waits for it."""
    late = module._Helper(0)
    team.idle.append(late)
    team.size = 1
    seen: list[threading.Thread] = []
    run_all([[call(lambda: seen.append(threading.current_thread()))] for _ in range(2)])
    assert seen == [threading.current_thread()] * 2
    assert late.mailbox[MAIL] == FREE
    assert list(team.idle) == [late]


def test_an_interruption_before_the_work_takes_the_job_back(team: module._Team) -> None:
    class Interrupting:
        def put(self, _: None) -> None:
            raise KeyboardInterrupt

    late = module._Helper(0)
    late.asleep, late.bell = True, cast(Any, Interrupting())
    team.idle.append(late)
    team.size = 1
    with pytest.raises(KeyboardInterrupt):
        run_all([[call(lambda: None)] for _ in range(2)])
    assert late.mailbox[MAIL] == FREE
    assert list(team.idle) == [late]


@pytest.mark.parametrize("seconds", [1e-4, 0.2], ids=["watching", "asleep"])
def test_a_caller_waits_for_what_another_thread_has_begun(seconds: float) -> None:
    both, ended = threading.Barrier(2), list[bool]()

    def work() -> None:
        here = threading.current_thread() is main
        both.wait(LONG)
        if not here:
            time.sleep(seconds)
        ended.append(here)

    main = threading.current_thread()
    for _ in range(20 if seconds < 0.1 else 3):
        ended.clear()
        run_all([[call(work)] for _ in range(2)])
        assert sorted(ended) == [False, True]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system binds no thread to processors")
def test_a_thread_may_use_afterwards_what_it_might_before() -> None:
    before = os.sched_getaffinity(0)
    seen: list[tuple[bool, set[int]]] = []
    main, both = threading.current_thread(), threading.Barrier(2)

    def look() -> None:
        seen.append((threading.current_thread() is main, os.sched_getaffinity(0)))
        both.wait(LONG)

    run_all([[call(look)] for _ in range(2)])
    assert os.sched_getaffinity(0) == before
    (_, helper), (_, here) = sorted(seen, key=lambda one: one[0])
    assert here | helper == before
    if len(before) > 1:
        assert len(here) == 1
        assert not here & helper


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
import _thread, signal, time
ended, main, barrier = [], threading.current_thread(), threading.Barrier(2)
def work():
    barrier.wait(20)
    if threading.current_thread() is not main:
        time.sleep(0.2)
        {interrupt}
        time.sleep(0.3)
        ended.append(1)
try:
    run_all([[call(work)], [call(work)]])
except KeyboardInterrupt:
    print("interrupted", ended)
"""
    assert python(MEET + text) == "interrupted [1]"


# Processes


MEET = """
import os, sys, threading
sys.path.insert(0, "tests")
from test_team import call
from triconv.kernels.team import run_all
def meet():
    barrier = threading.Barrier(3)
    run_all([[call(lambda: barrier.wait(20))] for _ in range(3)])
def part():
    run_all([[call(int)], [call(int)]])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_a_team_of_its_own() -> None:
    """Also where a thread of the parent is starting helpers, and its child's child."""
    text = """
import signal
from triconv.kernels import team
meet()
if team._team.growing.acquire():
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
        "import atexit; atexit.register(part)",
        "meet(); threading.Thread(target=lambda: [meet() for _ in range(200)]).start()",
        "threading.Thread(target=lambda: [part() for _ in range(10**9)], daemon=True).start(); part()",
    ],
)
def test_the_interpreter_ends(ending: str) -> None:
    assert python(f"{MEET}print('in time', flush=True)\n{ending}") == "in time"


def test_helpers_go_home_before_the_interpreter_ends() -> None:
    text = """
import atexit
def left():
    print([thread.name for thread in threading.enumerate() if thread.name.startswith("triconv")])
atexit._clear()
atexit.register(left)
from triconv.kernels import team
atexit.register(lambda: team._team.dismiss())
meet()
"""
    assert python(MEET + text) == "[]"


def test_the_relay_compiles_for_every_target() -> None:
    for name in NAMED:
        assert "relay" in assembly(Relay(), target(name))


@pytest.fixture(scope="module", autouse=True)
def _nobody_is_left_waiting() -> Iterator[None]:
    """Every helper is idle in the end, and only helpers are left."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("triconv-")]
    assert left == []
    assert np.all([helper.mailbox[MAIL] == FREE for helper in OURS.idle])


def test_a_call_of_more_arguments_than_there_is_room_for_is_refused() -> None:
    words = [0] * (rows.MOST + 1)
    with pytest.raises(ValueError, match=rf"^a call of {rows.MOST + 1} arguments: expected at most {rows.MOST}$"):
        module.in_rows([[[call(lambda *_: None, *words)]]])
    assert module.in_rows([[[call(lambda *_: None, *words[1:])]]])[1][0] == rows.FIRST + rows.MOST
