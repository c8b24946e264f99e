"""First calls, which can be measured only once a process: with nothing compiled, and with a disk cache that holds all.

As a program this module is the process: it reads what to call, and prints what it took.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from .workload import Workload

TINY = Workload("tiny", (1, 4, 8, 8), (4, 4, 3, 3), {"padding": 1})
"""Called before, where the library is to be loaded already; and the problem whose calls are all overhead."""
SHARED = Workload("shared", (1, 16, 256, 256), (16, 16, 1, 1))
"""Called before too, so that threads are there that share work, and know how."""
IMPORT = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def calls(workload: Workload, operation: str, engine: str = "auto", loaded: bool = True) -> dict[str, float]:
    """Seconds of the first call, with an empty cache and with one that holds what the first process left there.

    `loaded`: with other problems of another dtype called before it, so that no kernel is shared with it; otherwise
    the call is the very first of its process, and loads the library's own parts besides.
    """
    with TemporaryDirectory() as folder:
        found = {}
        for name in ("cold", "disk"):
            seconds = _in_a_process(folder, workload, operation, engine, loaded)
            found[name], found[f"{name}, called again"] = seconds
        return found


def import_seconds(module: str, tries: int = 5) -> float:
    """The median time to import a module, in a fresh process each time."""
    command = [sys.executable, "-c", IMPORT.format(module)]
    output = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(tries)]
    return median(float(text) for text in output)


def _in_a_process(folder: str, *what: Any) -> tuple[float, float]:
    command = [sys.executable, "-m", "triconv.benchmark.first"]
    environment = os.environ | {"TRICONV_CACHE": folder, "PYTHONPYCACHEPREFIX": _bytecode().name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, input=pickle.dumps(what), capture_output=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"the process of a first call failed: {done.stderr.decode().strip().splitlines()[-1:]}")
    first, again = json.loads(done.stdout)
    return first, again


@lru_cache(maxsize=1)
def _bytecode() -> TemporaryDirectory[str]:
    """A folder with this package in Python's byte code, as where it is installed: else modules are compiled anew."""
    folder = TemporaryDirectory()
    command = [
        sys.executable,
        "-X",
        f"pycache_prefix={folder.name}",
        "-m",
        "compileall",
        "-q",
        str(Path(__file__).parents[1]),
    ]
    subprocess.run(command, capture_output=True, check=False)
    return folder


def _main() -> None:
    from ..coefficients import coefficients, use
    from .in_triconv import ready, ways
    from .workload import operands

    workload, operation, engine, loaded = pickle.loads(sys.stdin.buffer.read())
    if loaded:
        other = "float64" if workload.dtype != "float64" else "float32"
        for before in (TINY, SHARED):
            problem = replace(before, dtype=other).problem(operation)
            ready(problem, operands(problem), "direct").call()
    problem = workload.problem(operation)
    call = ways(engine)[0].ready(problem, operands(problem)).call
    use(coefficients())  # to know the problem was to ask for its plan: what was chosen is forgotten
    seconds = []
    for _ in range(2):
        start = perf_counter()
        call()
        seconds.append(perf_counter() - start)
    print(json.dumps(seconds))


if __name__ == "__main__":
    _main()
