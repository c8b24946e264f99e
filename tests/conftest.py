"""One thread a test process, as processes run in parallel; results full of NaN, or less memory, for those who ask; the
default coefficients again after tests that use others."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits
from torch import set_num_threads

from triconv import ops
from triconv.coefficients import DEFAULT, use
from triconv.form import Problem

os.environ["TRICONV_CALIBRATED"] = "0"  # no test depends on what was measured on this machine
set_num_threads(1)
threadpool_limits(1)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background jobs are born deaf, and so are theirs
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def poisoned() -> Iterator[None]:
    """Results are allocated full of NaN: what an engine does not write is seen."""

    def allocate(*args: Any) -> Any:
        out = allocated(*args)
        out[...] = np.nan
        return out

    allocated = ops.allocate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "allocate", allocate)
        yield


@pytest.fixture
def allow(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Says how many bytes a call may take besides operands and result: also to problems that know it already."""

    def allow(size: int) -> None:
        monkeypatch.setattr(Problem, "extra", property(lambda _: size))

    return allow


@pytest.fixture
def default() -> Iterator[None]:
    """The default coefficients are in use again afterwards."""
    yield
    use(DEFAULT)
