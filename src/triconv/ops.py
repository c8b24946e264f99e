"""The three operations on NumPy arrays: validate, allocate, dispatch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .after import After
from .arguments import Bank, Groups, Padding, PerAxis, per_axis, sizes_of
from .arrays import allocate, common_dtype, named_dtype, operand
from .coefficients import forgetting
from .dispatch import AUTO, Plan, choose
from .form import OPERANDS, OPERATIONS, Problem, Role
from .problem import Options, problem_hidden, problem_visible, problem_weight

Array = NDArray[Any]
Border = str | tuple[str, ...]


def conv(
    visible: ArrayLike,
    weight: ArrayLike,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = AUTO,
    precision: str = "default",
) -> Array:
    """Convolve in any number of dimensions: hidden from visible and weight. The kernel is not flipped.

    ::

        h[n, o, c] = Σ_{i,k}  w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible
        (N, C_in, *X), with any number of spatial axes X, also none (an affine map).
    weight
        (C_out, C_in/groups, *K), the same kernel everywhere; or (*t, C_out, C_in/groups, *K), a bank of kernels that
        repeats with period t along each axis: 1 shares the kernel, the hidden size connects locally.
    stride, dilation
        s and e: an int, or one per axis.
    padding
        p: an int, one per axis, (before, after) per axis, or "valid" (0), "same" (hidden size = ceil(X / s), the odd
        one after) or "full" (every position that the kernel touches).
    groups
        An int, or a channel graph: a boolean (C_out, C_in) array. A graph's weight is dense, (C_out, C_in, *K); its
        entries outside the graph are ignored.
    border
        What the padding reads: "zero", "circular", "reflect" (without the edge value) or "replicate"; or one per axis.
        A zero border takes part in the products: 0 · inf is NaN.
    engine
        "auto" for the one that should be fastest; "measure" for the one that is, as each that is worth it is tried
        when such a problem first comes; or the name of one. See `explain`.
    precision
        "highest" forbids engines that regroup the sum through transforms, and bfloat16 multiplied as it is stored.

    Returns
    -------
    numpy.ndarray
        hidden (N, C_out, *Y) with Y = floor((X + before + after − e·(K−1) − 1) / s) + 1, in the memory order of
        visible. float32, float64, complex64 or complex128 by NumPy's promotion (complex numbers are not conjugated);
        float16 and bfloat16 are summed in float32 and rounded once. Where the processor multiplies bfloat16 itself,
        numbers below 2⁻¹²⁶ may count as zero.

    Raises
    ------
    ValueError, TypeError
        One line that names the argument, its value and what was expected, before anything is computed.
    MemoryError
        With the bytes asked for.

    Notes
    -----
    ``H = W @_d V`` in Goodfellow 2010, section 4. Its derivatives are `conv_transpose` and `conv_weight`.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> signal = np.array([[[1.0, 2.0, 4.0, 8.0]]])
    >>> triconv.conv(signal, np.array([[[1.0, -1.0]]]))
    array([[[-1., -2., -4.]]])
    >>> triconv.conv(signal, np.array([[[1.0, -1.0]]]), stride=2, padding=((0, 1),), border="circular")
    array([[[-1., -4.]]])
    """
    written = (stride, padding, dilation, groups, border, precision)
    return _call("conv", visible, weight, (), written, engine)


def conv_transpose(
    hidden: ArrayLike,
    weight: ArrayLike,
    *,
    visible_size: PerAxis | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = AUTO,
    precision: str = "default",
) -> Array:
    """Apply the exact transpose of `conv`: visible from hidden and weight. The kernel is not flipped.

    ::

        v[n, i, x] = Σ_{o,c,k : s∘c + e∘k − p = x}  w[c mod t, o, i, k] · h[n, o, c]

    It is conv's gradient with respect to visible and, used forward, the strided transposed convolution that upsamples.
    With a border, what conv reads from the border is added back to where the border took it from.

    Parameters
    ----------
    hidden
        (N, C_out, *Y).
    weight
        As for `conv`: (C_out, C_in/groups, *K) or (*t, C_out, C_in/groups, *K).
    visible_size
        X, an int or one per axis: a size from which conv makes this hidden size. None is the smallest.
    stride, padding, dilation, groups, border, engine, precision
        As for `conv`.

    Returns
    -------
    numpy.ndarray
        visible (N, C_in, *X), in the memory order of hidden; dtypes as for `conv`. Transposed, not conjugated.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `conv`; a visible_size that does not yield this hidden is told which sizes do.

    Notes
    -----
    ``R = W @_d^T H`` in Goodfellow 2010, sections 3 and 4; "integrated backward" in the lecture of Šegvić.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> triconv.conv_transpose(np.array([[[1.0, 10.0]]]), np.array([[[1.0, 2.0, 3.0]]]), stride=2)
    array([[[ 1.,  2., 13., 20., 30.]]])
    >>> triconv.conv_transpose(np.array([[[1.0, 10.0]]]), np.array([[[1.0, 2.0, 3.0]]]), stride=2, visible_size=6)
    array([[[ 1.,  2., 13., 20., 30.,  0.]]])
    """
    written = (stride, padding, dilation, groups, border, precision)
    return _call("conv_transpose", hidden, weight, (visible_size,), written, engine)


def conv_weight(
    visible: ArrayLike,
    hidden: ArrayLike,
    kernel_size: PerAxis,
    *,
    bank: Bank = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = AUTO,
    precision: str = "default",
) -> Array:
    """Correlate hidden with visible: conv's gradient with respect to weight. The kernel is not flipped.

    ::

        w[b, o, i, k] = Σ_{n,c : c mod t = b}  h[n, o, c] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    visible, hidden
        (N, C_in, *X) and (N, C_out, *Y), of sizes that belong together.
    kernel_size
        K, an int or one per axis.
    bank
        None for a shared kernel; or the period t, an int or one per axis, "local" meaning the hidden size.
    stride, padding, dilation, groups, border, engine, precision
        As for `conv`. Outside a channel graph the result is exactly zero.

    Returns
    -------
    numpy.ndarray
        weight (C_out, C_in/groups, *K), or (*t, C_out, C_in/groups, *K) with a bank; in memory the hidden channels are
        innermost, as layers keep their weights. dtypes as for `conv`.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As `conv`.

    Notes
    -----
    ``A = H #_d V`` in Goodfellow 2010, sections 2 and 4.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> signal, cotangent = np.array([[[1.0, 2.0, 4.0, 8.0]]]), np.array([[[1.0, 0.0, 1.0]]])
    >>> triconv.conv_weight(signal, cotangent, 2)
    array([[[ 5., 10.]]])
    >>> triconv.conv_weight(signal, cotangent, 2, bank="local")[:, 0, 0]
    array([[1., 2.],
           [0., 0.],
           [4., 8.]])
    """
    written = (stride, padding, dilation, groups, border, precision)
    return _call("conv_weight", visible, hidden, (kernel_size, bank), written, engine)


def followed(
    operation: str,
    data: Array,
    weight: Array,
    after: After,
    *,
    visible_size: PerAxis | None = None,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
) -> Array:
    """Compute conv or conv_transpose and what follows it, in one pass over the result. The kernel is not flipped.

    ::

        q = f(b + W @_d V)        f(x) = x or max(0, x), and zero where a mask is not positive

    Parameters
    ----------
    operation
        "conv" or "conv_transpose".
    data, weight, visible_size, stride, padding, dilation, groups, border
        As for the operation.
    after
        A bias (one number for each channel of the result), whether the positive part is taken, and an array of the
        result's shape: where that is not positive the result is zero, as the gradient of max(0, x) is.

    Returns
    -------
    ndarray
        As of the operation, with channels innermost in memory: what reads it next does so fastest.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As the operation; a bias or a mask of another shape.

    Notes
    -----
    The lecture of Šegvić, "Vectors: ReLU"; *Gradient in convolutional neural networks*, equations 11 and 12.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.after import After
    >>> signal, weight = np.array([[[1.0, 2.0, 4.0, 8.0]]]), np.array([[[1.0, -1.0]]])
    >>> followed("conv", signal, weight, After(bias=np.array([2.5]), positive=True))
    array([[[1.5, 0.5, 0. ]]])
    """
    if operation not in ("conv", "conv_transpose"):
        raise ValueError(f"operation={operation!r}: expected conv or conv_transpose")
    sizes = () if operation == "conv" else (visible_size,)
    written = (stride, padding, dilation, groups, border, "default")
    return _call(operation, data, weight, sizes, written, AUTO, True, after if any(after.steps) else None)


def flip(weight: ArrayLike, *, rank: int | None = None) -> Array:
    """Reverse a weight along its kernel axes, as a view: with it `conv` is true convolution.

    ::

        flip(w)[…, k] = w[…, K − 1 − k]

    Parameters
    ----------
    weight
        (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    rank
        The number of kernel axes, which are the last; None means all but two, as a weight without a bank has.

    Raises
    ------
    ValueError
        When the weight has fewer axes.

    Notes
    -----
    The "inverted filter" of *Inside Convolutional Networks*; the "rotated filter" of *Gradient in convolutional neural
    networks*, section 2; ``flip2d`` in the lecture of Šegvić.

    Examples
    --------
    >>> import numpy as np
    >>> import triconv
    >>> signal, kernel = np.array([1.0, 2.0, 4.0]), np.array([1.0, 10.0])
    >>> triconv.conv(signal[None, None], triconv.flip(kernel[None, None]), padding="full")[0, 0]
    array([ 1., 12., 24., 40.])
    >>> np.convolve(signal, kernel)
    array([ 1., 12., 24., 40.])
    """
    array = np.asarray(weight)
    axes = array.ndim - 2 if rank is None else per_axis("rank", rank, 1, 0)[0]
    if not 0 <= axes <= array.ndim - 2:
        raise ValueError(f"rank={rank}: expected 0 to {max(array.ndim - 2, 0)} for a weight of shape {array.shape}")
    return np.flip(array, tuple(range(array.ndim - axes, array.ndim)))


def explain(
    operation: str,
    visible_shape: tuple[int, ...],
    weight_shape: tuple[int, ...],
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    groups: Groups = 1,
    border: Border = "zero",
    engine: str = AUTO,
    precision: str = "default",
    dtype: Any = "float32",
) -> Plan:
    """Say what an operation would do at these shapes, without doing it. The kernel is not flipped.

    ::

        T(v, w, h) = Σ_{n,o,i,c,k}  h[n, o, c] · w[c mod t, o, i, k] · v[n, i, s∘c + e∘k − p]

    Parameters
    ----------
    operation
        "conv", "conv_transpose" or "conv_weight": the derivative of T to be explained.
    visible_shape, weight_shape
        (N, C_in, *X) and (C_out, C_in/groups, *K), or with a bank (*t, C_out, C_in/groups, *K).
    stride, padding, dilation, groups, border, engine, precision
        As for `conv`.
    dtype
        Of the operands.

    Returns
    -------
    Plan
        Shapes, flops, bytes, workspace in bytes, the chosen engine, seconds by its own estimate, and for every other
        engine why not; ``print`` shows it to a person.

    Raises
    ------
    ValueError, TypeError, MemoryError
        As the operation itself.

    Notes
    -----
    The form and its three derivatives: Goodfellow 2010, section 7.

    Examples
    --------
    >>> import triconv
    >>> plan = triconv.explain("conv_weight", (8, 3, 32, 32), (16, 3, 5, 5), engine="reference")
    >>> plan.flops
    15052800
    >>> plan.why_not["im2row"]
    'engine="reference" was asked for'
    """
    if not isinstance(operation, str) or operation not in OPERATIONS:
        raise ValueError(f"operation={' '.join(repr(operation).split())}: expected one of {', '.join(OPERATIONS)}")
    options = Options(stride, padding, dilation, groups, border, precision)
    kind = named_dtype(dtype)
    visible, weight = sizes_of("visible_shape", visible_shape), sizes_of("weight_shape", weight_shape)
    problem = problem_hidden(visible, weight, kind, options)
    return choose(problem.producing(OPERATIONS[operation]), engine)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "conv": problem_hidden,
    "conv_transpose": problem_visible,
    "conv_weight": problem_weight,
}

KEPT_CALLS = 1024
"""How many calls are kept ready; those made ready first go first."""

_ready: dict[tuple[Any, ...], Call] = {}
forgetting(_ready.clear)
_lock = Lock()
if hasattr(os, "register_at_fork"):  # a child would wait for ever for a thread that it has not
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@dataclass(frozen=True, eq=False)
class Call:
    """All that the shapes, dtypes and arguments of a call decide. What is built for it is kept with its plan."""

    operation: str
    plan: Plan
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    computed: np.dtype[Any]
    order: tuple[int, ...] | None
    """The physical order of the result's axes; None is the first operand's."""

    casts: bool
    """Whether an operand or the result has another dtype than what is computed."""

    def run(self, a: Array, b: Array, after: After | None = None) -> Array:
        """The operation, in an array of `dtype`, and what follows it."""
        if after is not None:
            self._check(after)
        if not self.casts:
            return self._run(a, b, after)
        with np.errstate(all="ignore"):  # as engines are: what becomes infinite is no accident
            result = self._run(_cast(a, self.computed), _cast(b, self.computed), after)
            return _cast(result, self.dtype)

    def _check(self, after: After) -> None:
        for name, array, expected in (("bias", after.bias, self.shape[1:2]), ("where", after.where, self.shape)):
            if array is not None and array.shape != expected:
                raise ValueError(f"{name} of shape {array.shape}: expected {expected}, as of the result")

    def _run(self, a: Array, b: Array, after: After | None) -> Array:
        out = allocate(self.operation, self.shape, self.computed, a if self.order is None else self.order)
        self.plan.built(a, b, out, None, after)
        return out


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in another dtype; itself if it has it."""
    if array.dtype != dtype and array.size > WORTH_KERNELS and {array.dtype.name, dtype.name} <= HALF:
        from .kernels.copy import converted
        from .kernels.target import target

        if target().halves:
            return converted(array, dtype)
    return array.astype(dtype, copy=False)


HALF = frozenset(("float16", "bfloat16", "float32"))
"""What kernels convert into each other."""

WORTH_KERNELS = 1 << 14
"""Numbers that NumPy converts, one at a time, as soon as a kernel would be found for them."""


def _call(
    operation: str,
    a: ArrayLike,
    b: ArrayLike,
    sizes: tuple[Any, ...],
    written: tuple[Any, ...],
    engine: str,
    ordered: bool = False,
    after: After | None = None,
) -> Array:
    """Find the call ready, or make it ready, and run it. Is the result `ordered` as engines read it fastest?"""
    key = None
    if type(a) is type(b) is np.ndarray and plain(sizes) and (known := _known_by((*written, engine))) is not None:
        key = operation, a.shape, b.shape, a.dtype, b.dtype, sizes, ordered, known
        if (ready := _ready.get(key)) is not None:
            return ready.run(a, b, after)
    first, second = (role.value for role in OPERANDS[OPERATIONS[operation]])
    one, two = operand(first, a), operand(second, b)
    dtype = common_dtype(one.dtype, two.dtype)
    problem = PROBLEMS[operation](one.shape, two.shape, *sizes, dtype, Options(*written))
    plan = choose(problem, engine)
    order = problem.order(problem.produces) if ordered or problem.produces is Role.WEIGHT else None
    shape, computed = problem.shape(problem.produces), named_dtype(plan.problem.dtype)
    casts = any(kind != computed for kind in (one.dtype, two.dtype, dtype))
    ready = Call(operation, plan, shape, dtype, computed, order, casts)
    if key is not None:
        with _lock:
            while len(_ready) >= KEPT_CALLS:
                _ready.pop(next(iter(_ready)))
            _ready[key] = ready
    return ready.run(one, two, after)


SMALL_GRAPH = 1 << 16
"""Entries of a channel graph that are looked up sooner than a problem is made of them."""


def _known_by(values: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """What arguments are known by: themselves, or a graph's entries and the others; None if not all that means."""
    if known_plain(values):
        return values
    arrays = [number for number, value in enumerate(values) if type(value) is np.ndarray]
    if len(arrays) != 1:
        return None
    (number,) = arrays
    graph, others = values[number], (*values[:number], *values[number + 1 :])
    fits = graph.dtype == np.bool_ and graph.size <= SMALL_GRAPH and plain(others)
    return (number, graph.shape, graph.tobytes(), *others) if fits else None


_SIMPLE = frozenset((int, str, type(None)))
_PLAIN = _SIMPLE | {tuple}


def plain(values: Iterable[Any]) -> bool:
    """Whether whatever equals these means the same, as True, 1.0 and an array do not that equal 1."""
    while not (kinds := set(map(type, values))) <= _SIMPLE:
        if not kinds <= _PLAIN:
            return False
        values = list(chain.from_iterable([value for value in values if type(value) is tuple]))
    return True


_written: dict[tuple[int, ...], tuple[Any, ...]] = {}
"""Plain arguments by their identities. They are kept, so nothing else can have these meanwhile; what a program spells
out comes again as the same objects."""


def known_plain(values: tuple[Any, ...]) -> bool:
    """`plain`, sooner for what was plain before."""
    identities = tuple(map(id, values))
    if identities in _written:
        return True
    if not plain(values):
        return False
    if len(_written) >= KEPT_CALLS:
        _written.clear()
    _written[identities] = values
    return True
