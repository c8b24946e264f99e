"""With PyTorch's own threads: they are shared, as many as PyTorch says, with the same bits, after a fork too."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

import numpy as np
import pytest
from program import python

pytest.importorskip("torch")
torch = sys.modules["torch"]

import triconv.torch as tt  # noqa: E402
from triconv import threads  # noqa: E402
from triconv.kernels import team  # noqa: E402

shared = pytest.mark.skipif(
    not isinstance(team._team, team._OpenMP), reason="this PyTorch has no OpenMP library that the process sees"
)


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of anybody's."""
    monkeypatch.delenv("TRICONV_NUM_THREADS", raising=False)


SUM = """
import numpy as np, torch, triconv, triconv.torch as tt
from triconv.kernels import team
from triconv.kernels.threads import thread_count
random = np.random.default_rng(0)
v, w = (torch.from_numpy(random.standard_normal(shape, np.float32)) for shape in ((8, 16, 32, 32), (16, 16, 3, 3)))
def bits():
    return tt.conv(v, w, padding=1).numpy().tobytes()
"""


def test_there_are_as_many_as_pytorch_says_unless_we_do() -> None:
    text = """
torch.set_num_threads(1)
print(thread_count(), end=" ")
torch.set_num_threads(2)
print(thread_count(), end=" ")
with triconv.threads(3):
    print(thread_count())
"""
    assert python(SUM + text, "-Wignore::DeprecationWarning") == "1 2 3"
    assert python(SUM + text, "-Wignore::DeprecationWarning", TRICONV_NUM_THREADS="5") == "5 5 3"


@shared
def test_the_parts_run_on_pytorchs_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of them as parts; none of ours is started."""
    ran: list[int] = []
    whole = team._OpenMP.run

    def run(self: team._OpenMP, job: Callable[[int], team.Job], most: int) -> None:
        ran.append(most + 1)
        whole(self, job, most)

    monkeypatch.setattr(team._OpenMP, "run", run)
    monkeypatch.setattr(team, "NUMBERS_WORTH_A_THREAD", 1)
    before = threading.active_count()
    v, w = torch.randn(4, 8, 16, 16), torch.randn(8, 8, 3, 3)
    found = []
    for count in (1, 2, 3, 8):
        with threads(count):
            found.append(tt.conv(v, w, padding=1).numpy().tobytes())
    assert set(ran) == {2, 3, 8}
    assert len(set(found)) == 1
    assert threading.active_count() == before
    np.testing.assert_allclose(
        tt.conv(v, w, padding=1), torch.nn.functional.conv2d(v, w, padding=1), rtol=1e-4, atol=1e-4
    )


@shared
def test_many_python_threads_share_them_at_once() -> None:
    text = """
import threading
expected, wrong = bits(), []
def use():
    wrong.extend(number for number in range(40) if bits() != expected)
users = [threading.Thread(target=use) for _ in range(6)]
for user in users: user.start()
for user in users: user.join()
print(wrong)
"""
    assert python(SUM + text, "-Wignore::DeprecationWarning") == "[]"


@shared
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    text = """
import os, signal
expected = bits()
child = os.fork()
if child == 0:
    signal.alarm(60)
    with triconv.threads(3):
        os._exit(bits() != expected or not isinstance(team._team, team._Team))
print(os.waitpid(child, 0)[1], isinstance(team._team, team._OpenMP))
"""
    assert python(SUM + text, "-Wignore::DeprecationWarning") == "0 True"
