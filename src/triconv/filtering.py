"""Winograd's minimal filtering F(m, r): m neighbouring results of a kernel of r taps from m + r − 1 products.

A correlation of m results is the form on one axis, and it is a sum of few products of the three roles' transforms:

    Σ_{c,k}  h[c] · w[k] · v[c + k]  =  Σ_p  (H h)[p] · (W w)[p] · (V v)[p]

Σ h[c] w[k] is a product of two polynomials, which m + r − 1 of its values tell: H and W evaluate the two, and the
transpose of V interpolates (Toom and Cook; Winograd 1980). The last point is infinity: the leading coefficient.

Points are small powers of two and their inverses, so H and W are exact. They come in an order in which every so many
first ones amplify rounding errors little: two points whose product is −1, or 1, disturb each other least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd, prod, sqrt

Row = tuple[float, ...]
Matrix = tuple[Row, ...]

POINTS = 0.0, 1.0, -1.0, 0.5, -2.0, 2.0, -0.5
"""Multiples of a half."""


@dataclass(frozen=True)
class Filtering:
    """F(m, r) as the matrices V, W and H, one row for every product."""

    visible: Matrix
    weight: Matrix
    hidden: Matrix

    @cached_property
    def amplification(self) -> float:
        """How much larger the products are than those of the sum as written, root mean square, for random operands.

        Rounding errors grow by as much: by the product of this over the axes.
        """
        results, taps = len(self.hidden[0]), len(self.weight[0])
        rows = zip(self.visible, self.weight, self.hidden, strict=True)
        squares = [prod(sum(x * x for x in row) for row in three) for three in rows]
        return sqrt(sum(squares) / (results * taps))

    def growth(self, role: str) -> float:
        """The most that absolute products may sum up to in an entry of a role, for operands that are at most one."""
        others = [getattr(self, name) for name in ("visible", "weight", "hidden") if name != role]
        products: list[float] = [prod(sum(map(abs, row)) for row in pair) for pair in zip(*others, strict=True)]
        own: Matrix = getattr(self, role)
        entries = zip(*own, strict=True)
        sums = [sum(abs(x) * product for x, product in zip(entry, products, strict=True)) for entry in entries]
        return float(max(sums))


@lru_cache(maxsize=64)
def filtering(size: int, kernel: int) -> Filtering:
    """F(size, kernel): so many results, of a kernel of so many taps.

    Raises
    ------
    ValueError
        If there are not enough points.

    Examples
    --------
    >>> for row in filtering(2, 3).visible:
    ...     print(row)
    (1.0, 0.0, -1.0, 0.0)
    (0.0, 1.0, 1.0, 0.0)
    (0.0, -1.0, 1.0, 0.0)
    (0.0, -1.0, 0.0, 1.0)
    """
    if size + kernel - 2 > len(POINTS):
        raise ValueError(f"F({size}, {kernel}): expected at most {len(POINTS)} points besides infinity")
    points = POINTS[: size + kernel - 2]
    hidden, weight, visible = [], [], []
    for number in range(len(points) + 1):
        entries, whole = _interpolating(points, number)
        # To weights, of which there are fewest, goes what makes the visible's entries exact, and none larger than one.
        scale = 1 << (max(map(abs, entries)) - 1).bit_length()
        hidden.append(_powers(points, number, size))
        weight.append(tuple(power * scale / whole for power in _powers(points, number, kernel)))
        visible.append(tuple(entry / scale for entry in entries))
    return Filtering(tuple(visible), tuple(weight), tuple(hidden))


def _powers(points: Sequence[float], number: int, count: int) -> Row:
    """What a polynomial of so many coefficients is at a point, as a row; at infinity, its last coefficient. Exact."""
    if number == len(points):
        return tuple(float(power == count - 1) for power in range(count))
    return tuple(points[number] ** power for power in range(count))


def _interpolating(points: Sequence[float], number: int) -> tuple[list[int], int]:
    """The coefficients of the polynomial that is one at a point and zero at the others, as many as there are points.

    As whole numbers, and the one that all of them are over, in lowest terms: fractions take longer to multiply.
    """
    twice = [int(2 * point) for point in points]
    others = [point for other, point in enumerate(twice) if other != number]
    found = [1]
    for point in others:
        found = [low - point * high for low, high in zip([0, *found], [*found, 0], strict=True)]
    found = [entry << power for power, entry in enumerate(found)]
    if number == len(points):
        whole = 1 << len(others)
    else:
        found, whole = [*found, 0], prod(twice[number] - point for point in others)
    shared = gcd(whole, *found) * (1 if whole > 0 else -1)
    return [entry // shared for entry in found], whole // shared
