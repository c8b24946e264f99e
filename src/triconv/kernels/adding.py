"""The sum of results that pieces of a longer sum have in buffers of their own, as one more contraction."""

from __future__ import annotations

import numpy as np

from .index import Index
from .layout import Buffer, Layout
from .nest import Nest
from .program import Program, contractions


def adding(own: Buffer, pieces: int, apart: int, result: Layout, dtype: np.dtype[np.generic]) -> Program:
    """What adds up buffers that are so far apart: C is the result, B the first of them, and A is one.

    Vectors run over the last axis of the buffers, along which the result steps by one too.
    """
    *others, unit = own.order
    rows = [Index(own.shape[axis], 0, own.layout.steps[axis], result.steps[axis]) for axis in others]
    results = (*rows, Index(own.shape[unit], 0, 1, 1, True))
    corners, taps = np.array([[0, 0, 0, 0, 1]]), np.zeros((1, 2), np.int64)
    return Program(contractions(Nest((), results, (Index(pieces, 0, apart, 0),), corners, taps), dtype.name), 0)
