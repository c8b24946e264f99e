"""What a layer is, how layers are stacked, and the backpropagation algorithm as the lecture writes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from .losses import softmax_cross_entropy

Array = NDArray[Any]
Loss = Callable[[Array, Any], tuple[float, Array]]


class Parameter:
    """A value to be learned, and the gradient of the loss with respect to it: None until a backward pass.

    Layers that share a parameter, as a tied autoencoder's do, each add their part to the gradient.
    """

    def __init__(self, value: Array) -> None:
        self.value = value
        self.gradient: Array | None = None

    def add_gradient(self, part: Array) -> None:
        self.gradient = part if self.gradient is None else self.gradient + part

    def __repr__(self) -> str:
        return f"Parameter(shape={self.value.shape}, dtype={self.value.dtype})"


def each_once(parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
    """The parameters without those seen before under another name: who shares one must not update it twice."""
    first: dict[int, str] = {}
    return {name: one for name, one in parameters.items() if first.setdefault(id(one), name) == name}


class Layer:
    """One function of the model: `forward` caches what `backward` needs, `backward` stores the parameters' gradients.

    A layer is the lecture's interface (Šegvić, "Layer interface") under the names of today: forward is its
    ``fwd_pass``, backward its ``bwd_pass``, and what it keeps in ``dtheta`` is in each parameter's gradient.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, Parameter] = {}
        self._cache: Any = None

    def forward(self, x: Array) -> Array:
        """The layer's output for an input x, with the examples along the first axis."""
        raise NotImplementedError

    def backward(self, gradient: Array) -> Array:
        """The loss's gradient with respect to the last input, from that with respect to the output."""
        raise NotImplementedError

    def remember(self, value: Any) -> None:
        self._cache = value

    def recall(self) -> Any:
        """What the last forward pass remembered."""
        if self._cache is None:
            raise RuntimeError(f"{type(self).__name__}.backward: expected a forward pass first")
        return self._cache


POSITIVE, FINISHING, STACKING = "positive", "finishing", "stacking"
"""Kinds of layers that a stack knows: that take the positive part, do nothing else, and remember what they made; that
can do the same in their own pass; and stacks."""

_kinds: dict[Any, str] = {}

Pass = TypeVar("Pass", bound=Callable[..., Array])


def passing(kind: str) -> Callable[[Pass], Pass]:
    """Mark a pass of a layer of a kind."""

    def marked(one: Pass) -> Pass:
        _kinds[one] = kind
        return one

    return marked


def _is(layer: Layer, kind: str) -> bool:
    """Whether both passes are of a kind: a layer that has one of its own, or that was given one, is of none."""
    return all(_kinds.get(getattr(one, "__func__", None)) == kind for one in (layer.forward, layer.backward))


class Finishing(Layer):
    """A layer that can take the positive part of what it makes in the same pass, and that part's gradient in its own.

    With `positive`, forward is followed by max(0, x), and backward is zero where the last input is not positive.
    """

    def forward(self, x: Array, *, positive: bool = False) -> Array:
        raise NotImplementedError

    def backward(self, gradient: Array, *, positive: bool = False) -> Array:
        raise NotImplementedError


class Sequential(Layer):
    """Layers one after the other; its parameters are theirs, named by position: "0.weight".

    A parameter that several layers share is there once, under its first name. Where a layer is followed by one that
    takes the positive part, or follows it, and can do that in its own pass over the numbers, it does; a layer whose
    forward or backward somebody else wrote is called as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Conv, Flatten, ReLU, Sequential
    >>> model = Sequential([Conv(1, 4, (3, 3), padding="same"), ReLU(), Flatten()])
    >>> model.forward(np.zeros((2, 1, 5, 5), np.float32)).shape
    (2, 100)
    >>> list(model.parameters)
    ['0.weight', '0.bias']
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers = list(layers)
        self.parameters = each_once(
            {
                f"{number}.{name}": parameter
                for number, layer in enumerate(self.layers)
                for name, parameter in layer.parameters.items()
            }
        )

    @property
    def leaves(self) -> list[Layer]:
        """The layers that are no stacks, of all stacks in it; a stack with a pass of its own is one layer."""
        return [leaf for layer in self.layers for leaf in (layer.leaves if _stacks(layer) else [layer])]

    @passing(STACKING)
    def forward(self, x: Array) -> Array:
        layers = deque(self.leaves)
        while layers:
            layer = layers.popleft()
            if layers and _is(layers[0], POSITIVE) and _finishes(layer):
                x = layer.forward(x, positive=True)
                layers.popleft().remember(x)
            else:
                x = layer.forward(x)
        return x

    @passing(STACKING)
    def backward(self, gradient: Array) -> Array:
        layers = deque(self.leaves)
        while layers:
            layer = layers.pop()
            after_positive = bool(layers) and _is(layers[-1], POSITIVE)
            # Somebody may have changed what one layer made before the next had it.
            if after_positive and _finishes(layer) and layers[-1].recall() is layer.recall():
                gradient = layer.backward(gradient, positive=True)
                layers.pop()
            else:
                gradient = layer.backward(gradient)
        return gradient


def _stacks(layer: Layer) -> TypeGuard[Sequential]:
    return _is(layer, STACKING)


def _finishes(layer: Layer) -> TypeGuard[Finishing]:
    return _is(layer, FINISHING)


def backprop(layers: Sequence[Layer], x: Array, y: Any, loss: Loss = softmax_cross_entropy) -> float:
    """Compute the loss of a stack of layers and every parameter's gradient. Kernels are not flipped.

    ::

        q ← x;  for l in L: q ← l.forward(q);    dq ← ∂loss(q, y)/∂q;  for l in reversed(L): dq ← l.backward(dq)

    Parameters
    ----------
    layers
        Compatible neighbours, applied in order.
    x, y
        Inputs and targets, examples along the first axis.
    loss
        Returns (loss, gradient with respect to its first argument).

    Returns
    -------
    float
        The loss; gradients are in each layer's parameters, those of an earlier call are gone.

    Notes
    -----
    "Backward pass: algorithm" in the lecture of Šegvić.

    Examples
    --------
    >>> import numpy as np
    >>> from triconv.layers import Affine, backprop
    >>> layer = Affine(2, 2, dtype="float64")
    >>> layer.parameters["weight"].value[...] = np.eye(2)
    >>> round(backprop([layer], np.array([[1.0, 1.0]]), np.array([1])), 6)
    0.693147
    >>> layer.parameters["weight"].gradient
    array([[ 0.5,  0.5],
           [-0.5, -0.5]])
    """
    for layer in layers:
        for parameter in layer.parameters.values():
            parameter.gradient = None
    q = np.asarray(x)
    for layer in layers:
        q = layer.forward(q)
    value, dq = loss(q, y)
    for layer in reversed(layers):
        dq = layer.backward(dq)
    return value


def in_batches(model: Layer, inputs: Array, size: int = 256) -> Array:
    """A model's outputs for many inputs, some at a time."""
    if not len(inputs):
        return model.forward(inputs)
    return np.concatenate([model.forward(inputs[start : start + size]) for start in range(0, len(inputs), size)])
