"""What kernels do to a sum before they write it: `After`, as code."""

from __future__ import annotations

from dataclasses import dataclass

from . import ir
from .words import I64, POINTER, Kernel, Place, Value

Corner = tuple[Place | None, Place | None]
"""Where the bias, and what says where numbers are kept, begin; None where there is none."""


@dataclass(frozen=True)
class Finish:
    """What a kernel is specialised to: nothing, if nothing is said."""

    pitch: int = 0
    """How far positions are apart in C, whose channels are neighbours, where a bias is added; 0 if none is."""
    positive: bool = False
    where: bool = False
    """Whether an array that lies as C does says where numbers are kept."""

    @property
    def arguments(self) -> dict[str, ir.Type]:
        """Behind all others."""
        return {name: POINTER for name, there in (("bias", self.pitch), ("where", self.where)) if there}

    def corner(self, k: Kernel, place: Value) -> Corner:
        """Where the arrays begin for what begins at a place in C."""
        bias = k.at(k["bias"], k.build.urem(place, I64(self.pitch))) if self.pitch else None
        return bias, k.at(k["where"], place) if self.where else None

    def at(self, k: Kernel, corner: Corner, offset: int) -> Corner:
        """Where they are for what is so far behind the corner in C."""
        bias, where = corner
        here = None if bias is None else k.at(bias, offset % self.pitch)
        return here, None if where is None else k.at(where, offset)

    def __call__(self, k: Kernel, value: Value, here: Corner, used: Value | int | None) -> Value:
        """A vector of sums, finished."""
        lanes, (bias, where) = value.type.count, here
        if bias is not None:
            value = k.build.fadd(value, k.load_vector(bias, lanes, used))
        if self.positive:  # NaN is neither larger nor not
            value = k.build.select(k.build.fcmp_unordered(">", value, k.zeros(lanes)), value, k.zeros(lanes))
        if where is not None:
            kept = k.build.fcmp_ordered(">", k.load_vector(where, lanes, used), k.zeros(lanes))
            value = k.build.select(kept, value, k.zeros(lanes))
        return value


AS_IT_IS = Finish()
