"""Run as a program by test_filed.py: computes some problems whose work is kept on disk, and says how it got that work.

Prints a line of JSON: digests of all results, how often work was made, and how often it was read. Its argument, if any,
is how many bytes a file has at most.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from hashlib import sha256
from typing import Any

import numpy as np

import triconv
from triconv import coefficients
from triconv.after import After
from triconv.form import Role
from triconv.kept import Kept
from triconv.kernels import filed

CASES: list[tuple[str, str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("winograd", "conv", (2, 20, 13, 12), (24, 20, 3, 3), {"stride": 2, "padding": 1}),
    ("winograd", "conv_transpose", (2, 20, 14, 12), (24, 20, 4, 4), {"stride": 2, "padding": 1}),
    ("winograd", "conv", (1, 128, 6, 6), (64, 128, 3, 3), {"padding": 1}),
    ("winograd", "conv_weight", (2, 40, 12, 12), (24, 40, 3, 3), {"padding": 1}),
    ("winograd", "conv", (2, 3, 30, 30), (16, 3, 7, 7), {"stride": 2, "padding": 3}),
    ("fft", "conv", (2, 6, 20, 20), (6, 1, 9, 9), {"padding": 4, "groups": 6}),
    ("fft", "conv_transpose", (2, 3, 40), (5, 3, 17), {}),
    ("fft", "conv_weight", (2, 3, 40), (5, 3, 17), {}),
]
"""Engine, operation, shapes and options, which have work of several kinds: parts, panels, pieces, one axis, stages."""


def main() -> None:
    coefficients.LONG, ways = 0.0, Counter[str]()
    filed.LARGEST = int(sys.argv[1]) if sys.argv[1:] else filed.LARGEST
    packed, unpacked = filed.packed, filed.unpacked

    def counted(name: str, function: Any) -> Any:
        def count(given: Any) -> Any:
            found = function(given)
            ways[name if found is not None else f"not {name}"] += 1
            return found

        return count

    filed.packed, filed.unpacked = counted("made", packed), counted("read", unpacked)
    digests = []
    for number, (engine, operation, visible, weight, options) in enumerate(CASES):
        plan = triconv.explain(operation, visible, weight, engine=engine, dtype="float32", **options)
        rng = np.random.default_rng(number)
        a, b = (rng.standard_normal(plan.shape(role), np.float32) for role in plan.problem.operands)
        shape = plan.shape(plan.problem.produces)
        lying = np.moveaxis(rng.standard_normal((shape[0], *shape[2:], shape[1]), np.float32), -1, 1)
        afters = [None, After(rng.standard_normal(shape[1], np.float32), True, lying)]
        for threads in (1, 2, 3):
            with triconv.threads(threads):
                kept = Kept()
                for after, known in [(None, None), (afters[1], None), (None, kept), (None, kept)]:
                    if plan.problem.produces is Role.WEIGHT and (after or known):
                        continue
                    out = np.full_like(lying, np.nan)
                    plan.engine.build(plan.problem)(a, b, out, known, after)
                    digests.append(sha256(np.ascontiguousarray(out)).hexdigest())
    print(json.dumps({"digests": digests, **ways}))


if __name__ == "__main__":
    main()
