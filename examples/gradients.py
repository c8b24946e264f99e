"""Differentiate a convolution twice by the one table, and print the derivatives as calls of the three operations."""

from triconv.testing import check_gradients

for check in check_gradients((1, 2, 9), (3, 2, 3), order=2, stride=2):
    print(f"{check.name:22} = {check.formula}")
    assert check.passed
