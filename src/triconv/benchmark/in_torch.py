"""PyTorch's ways: its convolution in both memory orders, with the weight packed before, and what users write by hand.

Gradients are `aten.convolution_backward`, asked for one gradient at a time, as autograd would call it. Operands are in
the order of the way before the clock starts, and so are weights that users keep in an order of their choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import named_dtype
from ..form import Problem, Role
from ..geometry import Axis, Geometry
from .way import Ready, Unable, Way, bordered, not_for, refuse
from .workload import Operands, masked, within_result

Array = NDArray[Any]
LIBRARY = "PyTorch"


def ways() -> list[Way]:
    """All of them; those that cannot take a problem say so."""
    made: list[tuple[str, Callable[[Problem, Operands], Ready]]] = []
    for order, last in (("channels first", False), ("channels last", True)):
        made += [
            (order, partial(convolution, last=last)),
            (f"conv_transpose, {order}", partial(transposed, last=last)),
            (f"packed weight, {order}", partial(packed, last=last)),
            (f"sum of conv3d, {order}", partial(sum_over_taps, last=last)),
            (f"convolution per kernel, {order}", partial(per_kernel, last=last)),
        ]
    made += [
        ("unfold + einsum", partial(unfolded, by_einsum=True)),
        ("unfold + bmm", partial(unfolded, by_einsum=False)),
    ]
    return [Way(f"{LIBRARY} {name}", LIBRARY, prepare, "torch") for name, prepare in made]


def convolution(problem: Problem, operands: Operands, last: bool) -> Ready:
    """conv1d, conv2d or conv3d, and each of their gradients; a channel graph is a weight with zeros."""
    not_for(banks=problem.geometry.banked, more_than_3_axes=problem.geometry.rank > 3)
    run = Convolution(problem, last)
    values = masked(problem, operands)
    a, b = (run.placed(role, values[role]) for role in problem.operands)
    like = {role: run.empty(role) for role in Role}
    graph = None
    if problem.channels.mask is not None:
        mask = np.array(problem.channels.mask)
        graph = import_module("torch").from_numpy(mask.reshape(*mask.shape, *(1,) * len(run.axes)))
    calls: dict[Role, Callable[[], Any]] = {
        Role.HIDDEN: lambda: run.conv(a, b),
        Role.VISIBLE: lambda: run.conv_transpose(a, b, like[Role.VISIBLE]),
        Role.WEIGHT: lambda: run.conv_weight(a, b, like[Role.WEIGHT]),
    }
    if graph is not None and problem.produces is Role.WEIGHT:
        return Ready(lambda: run.conv_weight(a, b, like[Role.WEIGHT]) * graph, run.array)
    return Ready(calls[problem.produces], run.array)


def transposed(problem: Problem, operands: Operands, last: bool) -> Ready:
    """conv_transpose1d, 2d, 3d: the gradient to the visible as a forward operation."""
    not_for(
        this_operation=problem.produces is not Role.VISIBLE,
        banks=problem.geometry.banked,
        more_than_3_axes=problem.geometry.rank > 3,
    )
    run = Convolution(problem, last)
    more = [
        axis.visible - ((axis.hidden - 1) * axis.stride - 2 * axis.before + axis.span)
        for axis in (run.axes if run.native else ())
    ]
    beyond = any(not 0 <= m < max(a.stride, a.dilation) for m, a in zip(more, run.axes, strict=False))
    refuse(padding_that_it_does_not_know=not run.native or beyond)
    values = masked(problem, operands)
    h, w = run.placed(Role.HIDDEN, values[Role.HIDDEN]), run.placed(Role.WEIGHT, values[Role.WEIGHT])
    function = getattr(import_module("torch.nn.functional"), f"conv_transpose{len(run.axes)}d")
    stride, dilation, pads = run.steps()
    groups = problem.channels.groups
    return Ready(
        lambda: function(h, w, stride=stride, padding=pads, output_padding=more, dilation=dilation, groups=groups),
        run.array,
    )


def packed(problem: Problem, operands: Operands, last: bool) -> Ready:
    """conv2d and conv3d with the weight already in oneDNN's own order, as inference keeps it."""
    not_for(
        this_operation=problem.produces is not Role.HIDDEN,
        banks=problem.geometry.banked,
        so_few_or_many_axes=problem.geometry.rank not in (2, 3),
        other_dtypes_than_float32=problem.dtype != "float32",
    )
    torch = import_module("torch")
    run = Convolution(problem, last)
    refuse(padding_that_it_does_not_know=not run.native, no_oneDNN=not torch.backends.mkldnn.is_available())
    values = masked(problem, operands)
    v, w = (run.placed(role, values[role]) for role in problem.operands)
    stride, dilation, pads = run.steps()
    order = pads, stride, dilation, problem.channels.groups
    try:
        kept = torch.ops.mkldnn._reorder_convolution_weight(w, *order, list(v.shape))
    except (AttributeError, RuntimeError) as error:  # not a public function: another version may lack it
        raise Unable(str(error).splitlines()[0]) from None
    return Ready(
        lambda: torch.ops.mkldnn._convolution_pointwise(v, kept, None, *order, "none", [], ""),
        run.array,
    )


def _tensor(array: Array) -> Any:
    """An array's numbers, of which PyTorch and NumPy know bfloat16 by the bits alone, in the order of the axes."""
    torch, together = import_module("torch"), np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(together.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(together)


class Convolution:
    """PyTorch's convolution of a problem's sizes, in one memory order.

    A single axis is taken as the second of two, as there is no channels-last order for one. Padding that is not the
    same on both sides is made, or cropped, by a copy of its own inside the call.
    """

    def __init__(self, problem: Problem, last: bool) -> None:
        refuse(
            a_border_that_is_not_zero=bordered(problem),
            complex_numbers=problem.complex,
            no_axes=problem.geometry.rank == 0,
        )
        self.torch = import_module("torch")
        self.problem, self.last = problem, last
        self.lifted = last and problem.geometry.rank == 1
        self.axes = (Axis(1, 1, 1), *problem.geometry.axes) if self.lifted else problem.geometry.axes
        # Padding the same on both sides, which gives as many hidden positions.
        self.native = all((a.visible + 2 * a.before - a.span) // a.stride + 1 == a.hidden for a in self.axes)
        self.around = [side for a in reversed(self.axes) for side in (a.before, a.reach - a.before - a.visible)]
        self.format = {4: self.torch.channels_last, 5: self.torch.channels_last_3d}.get(len(self.axes) + 2)

    def steps(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, dilation, padding."""
        pads = [axis.before if self.native else 0 for axis in self.axes]
        return [axis.stride for axis in self.axes], [axis.dilation for axis in self.axes], pads

    def placed(self, role: Role, array: Array) -> Any:
        """An operand in the memory order of this way."""
        del role
        tensor = _tensor(array)
        if self.lifted:
            tensor = tensor.unsqueeze(2)
        return tensor.contiguous(memory_format=self.format) if self.last and self.format else tensor

    def empty(self, role: Role, batch: int | None = None) -> Any:
        """What stands for an operand of which only the shape is asked, perhaps of another batch."""
        shape = list(self.problem.shape(role))
        if batch is not None:
            shape[0] = batch
        if role is Role.VISIBLE and not self.native:
            shape[2:] = [axis.reach for axis in self.problem.geometry.axes]
        return self.placed(role, np.zeros(shape, named_dtype(self.problem.dtype)))

    def array(self, tensor: Any) -> Array:
        tensor = tensor.float() if tensor.dtype is self.torch.bfloat16 else tensor
        found: Array = tensor.squeeze(2).numpy() if self.lifted else tensor.numpy()
        return found

    def conv(self, v: Any, w: Any) -> Any:
        stride, dilation, pads = self.steps()
        seen = v if self.native else self.torch.nn.functional.pad(v, self.around)
        return self.torch.convolution(
            seen, w, None, stride, pads, dilation, False, [0] * len(pads), self.problem.channels.groups
        )

    def conv_transpose(self, h: Any, w: Any, like: Any) -> Any:
        result = self._backward(h, like, w, 0)
        return result if self.native else self.torch.nn.functional.pad(result, [-side for side in self.around])

    def conv_weight(self, v: Any, h: Any, like: Any) -> Any:
        return self._backward(h, v if self.native else self.torch.nn.functional.pad(v, self.around), like, 1)

    def _backward(self, h: Any, v: Any, w: Any, wanted: int) -> Any:
        stride, dilation, pads = self.steps()
        asked = [number == wanted for number in range(3)]
        return self.torch.ops.aten.convolution_backward(
            h, v, w, None, stride, pads, dilation, False, [0] * len(pads), self.problem.channels.groups, asked
        )[wanted]


def sum_over_taps(problem: Problem, operands: Operands, last: bool) -> Ready:
    """Four axes as users write them: for each tap of the first, a conv3d over the positions it meets, summed.

    Arrays lie with the first axis outermost, before the examples, so that a tap's positions are a slice and not a copy.
    """
    not_for(axes_that_are_not_4=problem.geometry.rank != 4, banks=problem.geometry.banked)
    refuse(a_border_that_is_not_zero=bordered(problem))
    torch = import_module("torch")
    first, *others = problem.geometry.axes
    run = Convolution(replace(problem, geometry=Geometry(tuple(others))), last)
    values = masked(problem, operands)
    kind = torch.from_numpy(np.empty(0, problem.dtype)).dtype

    def zeros(role: Role) -> Any:
        """(first axis, examples, channels, *others), channels innermost if they are to be last."""
        n, c, x, *more = problem.shape(role)
        if last and role is not Role.WEIGHT:
            return torch.zeros((x, n, *more, c), dtype=kind).movedim(-1, 2)
        return torch.zeros((x, n, c, *more), dtype=kind)

    placed = {role: zeros(role).copy_(torch.from_numpy(np.moveaxis(array, 2, 0))) for role, array in values.items()}
    taps = [_meeting(first, tap) for tap in range(first.kernel)]
    # Each tap's own weight, as a user keeps it.
    weights = [run.placed(Role.WEIGHT, w.numpy()) for w in placed.get(Role.WEIGHT, ())]

    def flat(tensor: Any, where: slice) -> Any:
        part = tensor[where]
        return part.reshape(part.shape[0] * part.shape[1], *part.shape[2:])

    counts = {hidden.stop - hidden.start for hidden, _ in taps}
    likes = {count: run.empty(Role.VISIBLE, problem.batch * count) for count in counts if count}
    weight_like = run.empty(Role.WEIGHT)

    def conv() -> Any:
        out = zeros(Role.HIDDEN)
        for (hidden, visible), w in zip(taps, weights, strict=True):
            if hidden.stop > hidden.start:
                flat(out, hidden).add_(run.conv(flat(placed[Role.VISIBLE], visible), w))
        return out

    def conv_transpose() -> Any:
        out = zeros(Role.VISIBLE)
        for (hidden, visible), w in zip(taps, weights, strict=True):
            if (count := hidden.stop - hidden.start) > 0:
                part = run.conv_transpose(flat(placed[Role.HIDDEN], hidden), w, likes[count])
                out[visible].add_(part.view(out[visible].shape))
        return out

    def conv_weight() -> Any:
        out = zeros(Role.WEIGHT)
        for tap, (hidden, visible) in enumerate(taps):
            if hidden.stop > hidden.start:
                h = flat(placed[Role.HIDDEN], hidden)
                out[tap] = run.conv_weight(flat(placed[Role.VISIBLE], visible), h, weight_like)
        return out

    calls = {Role.HIDDEN: conv, Role.VISIBLE: conv_transpose, Role.WEIGHT: conv_weight}
    return Ready(calls[problem.produces], lambda tensor: np.moveaxis(tensor.numpy(), 0, 2))


def _meeting(axis: Axis, tap: int) -> tuple[slice, slice]:
    """The hidden positions that a tap connects with visible positions inside, and those."""
    inside = [c for c in range(axis.hidden) if 0 <= int(axis.position(c, tap)) < axis.visible]
    if not inside:
        return slice(0, 0), slice(0, 0)
    first, last = int(axis.position(inside[0], tap)), int(axis.position(inside[-1], tap))
    return slice(inside[0], inside[-1] + 1), slice(first, last + 1, axis.stride)


def unfolded(problem: Problem, operands: Operands, by_einsum: bool) -> Ready:
    """Banks of kernels on images: unfold, and a product for each kernel of the bank.

    The weight lies as the product wants it, (*bank, O, C·K). A period that divides the hidden size splits each axis of
    positions into turns and banks: (y, a) and (x, b) below; so the weight is never repeated.
    """
    axes, channels = problem.geometry.axes, problem.channels
    not_for(shared_kernels=not problem.geometry.banked)
    refuse(
        not_2_axes=len(axes) != 2,
        groups=channels.groups != 1,
        a_border_that_is_not_zero=bordered(problem),
        complex_numbers=problem.complex,
        a_period_that_does_not_divide_the_hidden_size=any(axis.hidden % axis.bank for axis in axes),
        padding_that_it_does_not_know=any(
            (a.visible + 2 * a.before - a.span) // a.stride + 1 != a.hidden for a in axes
        ),
    )
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")
    values = masked(problem, operands)
    n, width, out = problem.batch, channels.visible * prod(problem.geometry.kernel), channels.hidden
    banks = [axis.bank for axis in axes]
    split = [size for axis in axes for size in (axis.hidden // axis.bank, axis.bank)]
    how = {
        "kernel_size": problem.geometry.kernel,
        "dilation": [axis.dilation for axis in axes],
        "padding": [axis.before for axis in axes],
        "stride": [axis.stride for axis in axes],
    }

    def rows(tensor: Any) -> Any:
        """(n, numbers, positions) as (bank, n·turn, numbers): the examples and turns that share a kernel."""
        apart = tensor.reshape(n, -1, *split).permute(3, 5, 0, 2, 4, 1)
        return apart.reshape(prod(banks), -1, tensor.shape[1])

    def positions(tensor: Any) -> Any:
        """The way back."""
        apart = tensor.reshape(*banks, n, *split[::2], -1)
        return apart.permute(2, 5, 3, 0, 4, 1)

    def product(subscripts: str, a: Any, b: Any) -> Any:
        if by_einsum:
            return torch.einsum(subscripts, a, b)
        match problem.produces:
            case Role.HIDDEN:
                return positions(torch.bmm(rows(a), b.reshape(-1, out, width).transpose(1, 2)))
            case Role.VISIBLE:
                return positions(torch.bmm(rows(a), b.reshape(-1, out, width)))
            case Role.WEIGHT:
                return torch.bmm(rows(b).transpose(1, 2), rows(a))

    a, b = (torch.from_numpy(np.ascontiguousarray(values[role])) for role in problem.operands)
    weight_shape = (*banks, out, width)

    def unfold(v: Any) -> Any:
        return functional.unfold(v, **how).reshape(n, width, *split)

    def conv() -> Any:
        return product("nkyaxb,abok->noyaxb", unfold(a), b.reshape(weight_shape)).reshape(problem.shape(Role.HIDDEN))

    def conv_transpose() -> Any:
        columns = product("noyaxb,abok->nkyaxb", a.reshape(n, out, *split), b.reshape(weight_shape))
        return functional.fold(columns.reshape(n, width, -1), problem.geometry.visible, **how)

    def conv_weight() -> Any:
        result = product("nkyaxb,noyaxb->abok", unfold(a), b.reshape(n, out, *split))
        return result.reshape(problem.shape(Role.WEIGHT))

    calls = {Role.HIDDEN: conv, Role.VISIBLE: conv_transpose, Role.WEIGHT: conv_weight}
    return Ready(calls[problem.produces], lambda tensor: within_result(problem, tensor.numpy()))


def per_kernel(problem: Problem, operands: Operands, last: bool) -> Ready:
    """A tiled bank of few kernels as that many ordinary convolutions of a larger stride, put together."""
    axes = problem.geometry.axes
    not_for(
        shared_kernels=not problem.geometry.banked,
        more_than_64_kernels=prod(problem.geometry.bank) > 64,
    )
    refuse(
        more_than_3_axes=len(axes) > 3,
        channel_graph=problem.channels.graph is not None,
    )
    torch = import_module("torch")
    functional = import_module("torch.nn.functional")
    values = dict(operands)
    around = [side for a in reversed(axes) for side in (a.before, a.reach - a.before - a.visible)]
    parts = []
    for bank in np.ndindex(problem.geometry.bank):
        own = []
        for axis, at in zip(axes, bank, strict=True):
            turns = len(range(at, axis.hidden, axis.bank))
            step = axis.stride * axis.bank
            own.append(Axis(step * (turns - 1) + axis.span, turns, axis.kernel, step, axis.dilation))
        starts = [axis.stride * at for axis, at in zip(axes, bank, strict=True)]
        seen = (..., *(slice(start, start + axis.visible) for start, axis in zip(starts, own, strict=True)))
        shown = (..., *(slice(at, None, axis.bank) for at, axis in zip(bank, axes, strict=True)))
        run = Convolution(replace(problem, geometry=Geometry(tuple(own))), last)
        parts.append((bank, run, seen, shown, run.empty(Role.VISIBLE), run.empty(Role.WEIGHT)))
    run = parts[0][1]
    refuse(a_border_that_is_not_zero=bordered(problem), a_single_axis=run.lifted)
    placed = {role: run.placed(role, array) for role, array in values.items() if role is not Role.WEIGHT}
    weights = (
        {bank: run.placed(Role.WEIGHT, np.ascontiguousarray(values[Role.WEIGHT][bank])) for bank, *_ in parts}
        if Role.WEIGHT in values
        else {}
    )
    kind = next(iter(placed.values())).dtype
    order = {"memory_format": run.format} if last and run.format else {}
    padded = [problem.batch, problem.channels.visible, *(axis.reach for axis in axes)]

    def conv() -> Any:
        v = functional.pad(placed[Role.VISIBLE], around)
        out = torch.empty(problem.shape(Role.HIDDEN), dtype=kind, **order)
        for bank, one, seen, shown, _, _ in parts:
            out[shown] = one.conv(v[seen], weights[bank])
        return out

    def conv_transpose() -> Any:
        out = torch.zeros(padded, dtype=kind).contiguous(**order)
        for bank, one, seen, shown, like, _ in parts:
            out[seen] += one.conv_transpose(placed[Role.HIDDEN][shown], weights[bank], like)
        return functional.pad(out, [-side for side in around])

    def conv_weight() -> Any:
        v = functional.pad(placed[Role.VISIBLE], around)
        out = torch.empty(problem.shape(Role.WEIGHT), dtype=kind)
        for bank, one, seen, shown, _, like in parts:
            out[bank] = one.conv_weight(v[seen], placed[Role.HIDDEN][shown], like)
        return out

    calls = {Role.HIDDEN: conv, Role.VISIBLE: conv_transpose, Role.WEIGHT: conv_weight}
    return Ready(calls[problem.produces], lambda tensor: tensor.numpy())
