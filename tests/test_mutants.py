"""Break the package in one place at a time, and see the battery fail.

Each mutant is one text in one module, replaced in a copy of the package that a subprocess imports. Mutants that no
result can tell from the original are not listed.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import triconv
from triconv.kernels.target import IMITATED, lacking, target

SOURCE = Path(triconv.__file__).parent
BATTERY = Path(__file__).with_name("battery.py")
AT_LEAST = 40

POSITION = "self.stride * c + self.dilation * k - self.before"
ZERO = "(position < 0) | (position > last)"
SIZES = "(padded - covered) // stride + 1"
SEEN = "np.zeros((problem.batch, len(i)), v.dtype) if outside else v[:, i, *x]"
POOL = "kernels/pool.py"

MUTANTS: dict[str, tuple[str, str, str]] = {
    # Which positions meet.
    "padding added, not subtracted": ("geometry.py", POSITION, POSITION.replace("-", "+")),
    "padding after for padding before": ("geometry.py", POSITION, POSITION.replace("before", "after")),
    "stride and dilation exchanged": ("geometry.py", POSITION, "self.dilation * c + self.stride * k - self.before"),
    "kernel flipped": ("geometry.py", POSITION, POSITION.replace("* k", "* (self.kernel - 1 - k)")),
    "off by one": ("geometry.py", POSITION, POSITION + " + 1"),
    "flat positions by the hidden size": ("geometry.py", "reads * axis.visible", "reads * axis.hidden"),
    "axes paired the other way round": (
        "geometry.py",
        "combine(a[:, None, :, None], b[None, :, None, :])",
        "combine(a[None, :, None, :], b[:, None, :, None])",
    ),
    "span without its last position": ("geometry.py", "dilation * (kernel - 1) + 1", "dilation * (kernel - 1)"),
    "span of whole steps": ("geometry.py", "dilation * (kernel - 1) + 1", "dilation * kernel"),
    "extension from the first visible": ("geometry.py", "np.arange(self.reach) - self.before", "np.arange(self.reach)"),
    "reach of one window more": (
        "geometry.py",
        "self.stride * (self.hidden - 1) + self.span",
        "self.stride * self.hidden + self.span",
    ),
    # Borders.
    "zero border starts late": ("geometry.py", ZERO, "(position < 0) | (position >= last)"),
    "zero border starts early": ("geometry.py", ZERO, "(position < 1) | (position > last)"),
    "circular with another period": (
        "geometry.py",
        "np.mod(position, self.visible)",
        "np.mod(position, self.visible + 1)",
    ),
    "replicate the second value": (
        "geometry.py",
        "np.clip(position, 0, last)",
        "np.clip(position, min(1, last), last)",
    ),
    "reflect repeats the first value": (
        "geometry.py",
        "last - np.abs(position))",
        "last - np.abs(position + (position < 0)))",
    ),
    "reflect repeats the last value": (
        "geometry.py",
        "last - np.abs(last - np.abs(position))",
        "last - np.abs(last - np.abs(position) + (np.abs(position) > last))",
    ),
    "reflect may be as wide as the axis": (
        "geometry.py",
        "max(before, after) >= visible",
        "max(before, after) > visible",
    ),
    # Sizes.
    "last window dropped": ("geometry.py", SIZES, "(padded - covered - 1) // stride + 1"),
    "sizes rounded up": ("geometry.py", SIZES, "-(-(padded - covered) // stride) + 1"),
    "same with the odd one before": (
        "geometry.py",
        "return total // 2, total - total // 2",
        "return total - total // 2, total // 2",
    ),
    "same rounded down": ("geometry.py", "((-(-visible // stride) - 1)", "((visible // stride - 1)"),
    "full without dilation": ("geometry.py", "return covered - 1, covered - 1", "return kernel - 1, kernel - 1"),
    "full on one side": ("geometry.py", "return covered - 1, covered - 1", "return covered - 1, 0"),
    "kernel as large as the visible refused": ("geometry.py", "if padded < covered", "if padded <= covered"),
    "transpose to the largest visible": ("geometry.py", "visible or least,", "visible or end - 1,"),
    "one visible size too many": ("geometry.py", "else 1), least + stride", "else 1), least + stride + 1"),
    "visible sizes of same": ("geometry.py", "stride * (hidden - 1) + 1, -(", "stride * (hidden - 1), -("),
    "visible sizes without padding after": ("geometry.py", "covered - before - after", "covered - 2 * before"),
    "pooling keeps a window in the padding": (
        "geometry.py",
        "(axis.hidden - 1) * stride >= before + visible",
        "(axis.hidden - 1) * stride > before + visible",
    ),
    "pooling does not grow its padding": ("geometry.py", "after + more", "after"),
    # Phases, interior and banks of an axis.
    "phases without padding": ("geometry.py", "padded = first + self.before", "padded = first"),
    "phases by dilation": ("geometry.py", "% self.stride == 0)", "% self.dilation == 0)"),
    "phase offsets off by one": ("geometry.py", "// self.stride for k in taps", "// self.stride + 1 for k in taps"),
    "phases of the first positions only": ("geometry.py", "range(min(self.stride, self.visible))", "range(1)"),
    "interior starts early": (
        "geometry.py",
        "first = -(-self.before // self.stride)",
        "first = self.before // self.stride",
    ),
    "interior ends late": (
        "geometry.py",
        "(self.visible + self.before - self.span) //",
        "(self.visible + self.before) //",
    ),
    "banks in runs": (
        "geometry.py",
        "np.arange(self.hidden) % self.bank",
        "np.arange(self.hidden) * self.bank // self.hidden",
    ),
    # Channels.
    "columns by group": ("channels.py", "visible % visible.shape[1]", "visible // visible.shape[1]"),
    "groups interleaved": (
        "channels.py",
        "np.arange(self.hidden).reshape(self.groups, -1)",
        "np.arange(self.hidden).reshape(-1, self.groups).T",
    ),
    "graph transposed": ("channels.py", "reshape(self.hidden, self.visible)", "reshape(self.visible, self.hidden).T"),
    "weight of a group has all channels": (
        "channels.py",
        "self.hidden, self.visible // self.groups",
        "self.hidden, self.visible",
    ),
    "only the first of equal hidden channels": (
        "channels.py",
        ".append((hidden_channels, sees))",
        ".append((hidden_channels[:1] * len(hidden_channels), sees))",
    ),
    "graph of all edges": ("channels.py", "np.count_nonzero(self.mask)", "self.mask.size"),
    # The table and the form.
    "operands of the transpose exchanged": (
        "form.py",
        "Role.VISIBLE: (Role.HIDDEN, Role.WEIGHT)",
        "Role.VISIBLE: (Role.WEIGHT, Role.HIDDEN)",
    ),
    "operands of the weight gradient exchanged": (
        "form.py",
        "Role.WEIGHT: (Role.VISIBLE, Role.HIDDEN)",
        "Role.WEIGHT: (Role.HIDDEN, Role.VISIBLE)",
    ),
    "bank behind the channels": (
        "form.py",
        "(*bank, *self.channels.weight, *self.geometry.kernel)",
        "(*self.channels.weight, *bank, *self.geometry.kernel)",
    ),
    "complex flops as real ones": ("form.py", "(8 if self.complex else 2)", "2"),
    "weight order with visible innermost": ("form.py", "lead + 1, lead)", "lead, lead + 1)"),
    "equation without the period": ("form.py", 'f"{c} mod {axis.bank}"', 'f"{c} / {axis.bank}"'),
    # The engine reference.
    "reference reads beyond a zero border": ("engines/reference.py", SEEN, "v[:, i, *x]"),
    "reference adds what falls on the border": (
        "engines/reference.py",
        "case Role.VISIBLE if not outside:",
        "case Role.VISIBLE:",
    ),
    "reference leaves what was there": ("engines/reference.py", "out[...] = 0", "out[...] += 0"),
    "reference keeps the last term of the weight": (
        "engines/reference.py",
        "column, *k] += seen.T",
        "column, *k] = seen.T",
    ),
    "reference ignores the bank": ("engines/reference.py", "(t[ci] for t", "(0 * t[ci] for t"),
    "reference conjugates the transpose": (
        "engines/reference.py",
        "np.outer(h[:, o, *c], w[",
        "np.outer(h[:, o, *c], np.conj(w)[",
    ),
    # The engine matrix.
    "matrix pads the other way round": ("engines/matrix.py", "(axis.before, axis.after)", "(axis.after, axis.before)"),
    "matrix reflects with the edge value": ("engines/matrix.py", '{"mode": "reflect"}', '{"mode": "symmetric"}'),
    "matrix without dilation": ("engines/matrix.py", "[: axis.span : axis.dilation]", "[: axis.kernel]"),
    "matrix without stride": ("engines/matrix.py", "range(0, len(labels), axis.stride)", "range(len(labels))"),
    "matrix with banks in runs": ("engines/matrix.py", "positions % axis.bank", "np.minimum(positions, axis.bank - 1)"),
    "matrix counts groups wrong": ("engines/matrix.py", "o // per_group * width", "o % per_group * width"),
    "matrix takes the adjoint": ("engines/matrix.py", "matrix(problem, w).T", "matrix(problem, w.conj()).T"),
    "matrix drops the first visible": ("engines/matrix.py", "terms.visible >= 0", "terms.visible > 0"),
    "matrix keeps the last example": ("engines/matrix.py", "total += by_visible", "total = by_visible"),
    # The engine im2row.
    "im2row splits banks in runs": (
        "engines/im2row.py",
        "reshape(turns, axis.bank).T",
        "reshape(axis.bank, turns)",
    ),
    "im2row uses rows left over": ("engines/im2row.py", "hidden >= axis.hidden)", "hidden > axis.hidden)"),
    "im2row writes where blocks share channels": (
        "engines/im2row.py",
        "width = self.inputs if problem.channels.mask is not None else stack.visible.size",
        "width = stack.visible.size",
    ),
    "im2row exchanges the channels of its columns": (
        "engines/im2row.py",
        "self.inputs, self.outputs).transpose(0, 1, 4, 3, 2)",
        "self.outputs, self.inputs).transpose(0, 1, 3, 4, 2)",
    ),
    "im2row keeps the last part": ("engines/im2row.py", "total += share", "total[...] = share"),
    "im2row takes the first part again": ("engines/im2row.py", "slice(n, n + step)", "slice(0, step)"),
    # Operands against each other, and arguments.
    "transpose forgets the groups": ("problem.py", "(group_count(options.groups) or 1)", "1"),
    "bank axes reversed": ("problem.py", "weight[:lead] or None", "weight[:lead][::-1] or None"),
    "channels of the weight exchanged": (
        "problem.py",
        "weight[lead : lead + 2], weight",
        "weight[lead : lead + 2][::-1], weight",
    ),
    "hidden channels unchecked": ("problem.py", "if out != hidden[1]:", "if out > hidden[1]:"),
    "examples unchecked": ("problem.py", "if hidden[0] != visible[0]:", "if hidden[0] > visible[0]:"),
    "an int pads one side": ("arguments.py", "else (one, one)", "else (one, 0)"),
    "local means shared": ("arguments.py", "size if one == LOCAL else one", "1 if one == LOCAL else one"),
    "bank beyond the hidden size allowed": ("arguments.py", "if period > size:", "if period > size + 1:"),
    "groups that do not divide allowed": ("arguments.py", "if number % count:", "if number < count:"),
    "zero stride allowed": ("arguments.py", "else index(one)) < least", "else index(one)) < least - 1"),
    # dtypes, memory, dispatch.
    "half precision computed as it is stored": ("arrays.py", '"float16": "float32"', '"float16": "float16"'),
    "results in one memory order": (
        "arrays.py",
        "np.empty_like(order, kind, shape=shape, subok=False)",
        "np.empty(shape, kind)",
    ),
    "axes put back in the wrong order": ("arrays.py", "in reversed(order):", "in order:"),
    "the dearest engine": (
        "dispatch.py",
        "sorted(able, key=worth)",
        "sorted(able, key=lambda one: -worth(one))",
    ),
    "memory unchecked": ("dispatch.py", "if need > memory():", "if need < 0:"),
    "empty batches left unwritten": (
        "engine.py",
        'sum over no examples."""\n    out[...] = 0',
        'sum over no examples."""\n    out[...] += 0',
    ),
    "result not cast back": ("ops.py", "return _cast(result, self.dtype)", "return result"),
    "flip leaves the last axis": (
        "ops.py",
        "tuple(range(array.ndim - axes, array.ndim))",
        "tuple(range(array.ndim - axes, array.ndim - 1))",
    ),
    "explain another operation": (
        "ops.py",
        "problem.producing(OPERATIONS[operation])",
        "problem.producing(Role.HIDDEN)",
    ),
    # The native engine: strands, loops, tiles, copies.
    "native: all kernels of a bank take one turn more": (
        "geometry.py",
        "(more, self.bank, turns))",
        "(more, self.bank, turns + 1))",
    ),
    "native: turns of a bank by the stride alone": (
        "geometry.py",
        "Run(count, self.stride * self.bank, self.bank, 0)",
        "Run(count, self.stride, self.bank, 0)",
    ),
    "native: a transpose asks for nothing after the last": (
        "geometry.py",
        "max(0, highest - self.hidden + 1)",
        "max(0, highest - self.hidden)",
    ),
    "native: a transpose asks for nothing before the first": ("geometry.py", "return max(0, -lowest),", "return 0,"),
    "native: kernels of a transpose without the phase": (
        "geometry.py",
        "(first + o) % self.bank) for k",
        "first % self.bank) for k",
    ),
    "native: residues of a transpose by the stride alone": (
        "geometry.py",
        "Run(turns, self.stride * residues, residues",
        "Run(turns, self.stride, residues",
    ),
    "native: hidden positions without their overhang": (
        "kernels/loops.py",
        "self.hidden(strand.hidden + self.overhang)",
        "self.hidden(strand.hidden)",
    ),
    "native: every strand begins at the first kernel": ("kernels/loops.py", "self.bank * strand.bank)", "0)"),
    "native: taps of a transpose forwards": (
        "kernels/loops.py",
        "Steps(0, at.hidden(axis.dilation), -at.kernel(1))",
        "Steps(0, at.hidden(axis.dilation), at.kernel(1))",
    ),
    "native: split residues without dilation": (
        "kernels/loops.py",
        "self.visible(strand.visible + axis.dilation * k) for",
        "self.visible(strand.visible + k) for",
    ),
    "native: edges of a graph at the first visible": (
        "kernels/loops.py",
        "[step.visible * i,",
        "[0 * i,",
    ),
    "native: corners with the first taps": (
        "kernels/loops.py",
        "ends[which], ends[which + 1]",
        "ends[0 * which], ends[1 + 0 * which]",
    ),
    "native: loops merged whatever their steps in C": (
        "kernels/index.py",
        "(self.b, inner.b), (self.c, inner.c))",
        "(self.b, inner.b))",
    ),
    "native: taps not multiplied by the other sums": (
        "kernels/nest.py",
        "corners[:, 3:] *= len(around)",
        "corners[:, 3:] *= 1",
    ),
    "native: the first tap alone inside": (
        "kernels/nest.py",
        "nest.taps[first:last]) for",
        "nest.taps[first : first + 1]) for",
    ),
    "native: residues as long as the line": (
        "kernels/layout.py",
        "return -(-self.shape[-1] // self.split)",
        "return self.shape[-1] // self.split",
    ),
    "native: padding after for padding before": (
        "kernels/layout.py",
        "(skipped, before, inside, 1)",
        "(skipped, room - before - inside, inside, 1)",
    ),
    "native: bands all read from the first": (
        "kernels/layout.py",
        "skipped, before = max(0, -before)",
        "skipped, before = 0",
    ),
    "native: bands of a transpose begin with the hidden": (
        "kernels/bands.py",
        "parts.first[number] + n * parts",
        "n * parts",
    ),
    "native: bands inside all where the first is": (
        "kernels/bands.py",
        "begin - inside[0])",
        "0)",
    ),
    "native: every band of the first examples": (
        "kernels/bands.py",
        "far = example * steps[0]",
        "far = 0",
    ),
    "native: a chunk adds to what was there": (
        "kernels/chunks.py",
        "[chunk > begin]",
        "[chunk >= begin]",
    ),
    "native: a chunk forgets the ones before": (
        "kernels/chunks.py",
        "[chunk > begin]",
        "[chunk < begin]",
    ),
    "native: every block of channels reads the first": (
        "kernels/chunks.py",
        "one.moved(n * wide, 0)",
        "one.moved(0, 0)",
    ),
    "native: every block of channels writes the first": (
        "kernels/chunks.py",
        "(to_a, to_b, behind[block])",
        "(to_a, to_b, 0)",
    ),
    "native: every chunk in place is the first": (
        "kernels/chunks.py",
        "self._asked.itemsize * begins[number][chunk]",
        "self._asked.itemsize * begins[number][0]",
    ),
    "native: parts of every example begin in the first": (
        "kernels/bands.py",
        "example * steps[0] + (first + n * step)",
        "(first + n * step)",
    ),
    "native: pieces of the sum lie over each other": (
        "kernels/chunks.py",
        "given[3][piece * self.size :]",
        "given[3][0:]",
    ),
    "native: all positions scatter the first one's kernel": (
        "kernels/loops.py",
        "self.bank * c + self.kernel(k)",
        "self.kernel(k)",
    ),
    "native: what is scattered is the last tap's": (
        "kernels/loops.py",
        "adds=True, pieces=pieces",
        "adds=False, pieces=pieces",
    ),
    "native: bands end one corner early": (
        "kernels/loops.py",
        "tuple(np.searchsorted(band[order], np.arange(many + 1)).tolist())",
        "tuple((np.searchsorted(band[order], np.arange(many + 1)) - np.eye(many + 1, dtype=int)[-1]).tolist())",
    ),
    "native: what is added to is not zero": (
        "kernels/program.py",
        "not (first or one.first)",
        "not first",
    ),
    "native: a fold keeps the last": ("kernels/layout.py", "inside[source] += along", "inside[source] = along"),
    "native: what is met lies side by side": (
        "engine.py",
        "slice(0, axis.reach, axis.stride) if own",
        "slice(0, axis.hidden) if own",
    ),
    "native: the visible unpadded": ("geometry.py", "return self.before, self.reach", "return 0, self.reach"),
    "native: borders of a transpose taken for zero": (
        "kernels/ways.py",
        "with_borders_written_out(problem) if transposed",
        "problem if transposed",
    ),
    "native: a split for every vector": ("kernels/ways.py", "axes[-1].stride if in_residues else 1", "1"),
    "native: the first piece alone": ("kernels/prepared.py", "result += other", "result += 0"),
    "native: the first copy alone is filled": ("kernels/program.py", "for _, own in near]", "for _, own in near[:1]]"),
    "native: one piece less": ("kernels/adding.py", "Index(pieces, 0, apart, 0)", "Index(pieces - 1, 0, apart, 0)"),
    "native: every piece sums the first examples": (
        "kernels/prepared.py",
        "slice(n * self.examples, (n + 1) * self.examples)",
        "slice(0, self.examples)",
    ),
    "native: an edge after one position more": (
        "kernels/edges.py",
        "(at < 0) | (at >= edge.size)",
        "(at < 0) | (at > edge.size)",
    ),
    "native: no edge before the first position": (
        "kernels/edges.py",
        "(at < 0) | (at >= edge.size)",
        "(at >= edge.size)",
    ),
    "native: known edges of a transpose from its last tap on": (
        "geometry.py",
        "min(self.phases[0].offsets)",
        "max(self.phases[0].offsets)",
    ),
    "native: whole patches alone": ("kernels/patches.py", "if whole < loop.count:", "if whole > loop.count:"),
    "native: every patch where the first is": (
        "kernels/nest.py",
        "(i * loop.move if loop.axis",
        "(0 * loop.move if loop.axis",
    ),
    "native: infinities not looked for": (
        "kernels/prepared.py",
        "return all_finite(weight) if kept",
        "return True if kept",
    ),
    # What follows a sum, and weights that are kept.
    "after: the bias of the first channels": (
        "kernels/finish.py",
        "k.build.urem(place, I64(self.pitch))",
        "k.build.urem(place, I64(1))",
    ),
    "after: the positive part of NaN is zero": (
        "kernels/finish.py",
        'fcmp_unordered(">", value',
        'fcmp_ordered(">", value',
    ),
    "after: kept where it is not negative": (
        "kernels/finish.py",
        'fcmp_ordered(">", k.load',
        'fcmp_ordered(">=", k.load',
    ),
    "after: with the first of some parts": (
        "engines/winograd.py",
        "number == len(every) - 1 else None",
        "number == 0 else None",
    ),
    "after: the mask of the whole, of a part": ("after.py", "self.where[pick]", "self.where[: len(self.where)]"),
    "kept: one part's weight for all": ("engines/winograd.py", "of_parts[number], more", "of_parts[0], more"),
    # Pairs of bfloat16.
    "bfloat16: one beside an odd number": (
        "engines/bfloat16.py",
        "np.zeros_like(groups,",
        "np.full_like(groups, 16256,",
    ),
    "bfloat16: pairs that overlap": ("kernels/prepared.py", "[2 * step if", "[1 * step if"),
    "bfloat16: infinities not looked for": (
        "engines/bfloat16.py",
        ".tried(given, kept)",
        ".run(given, kept) is None",
    ),
    "bfloat16: infinities beside lines": ("engines/bfloat16.py", " and all_finite(a):", ":"),
    "bfloat16: lines that begin anywhere": ("kernels/lines.py", "self.front : self.front +", "0 :"),
    "bfloat16: pairs of one number": ("kernels/words.py", 'upper = self.at(place, self["other"])', "upper = place"),
    "bfloat16: rounded before it is whole": ("kernels/prepared.py", "if rounds and any(", "if any(() and "),
    "bfloat16: chunks add to what is rounded": (
        "kernels/prepared.py",
        "frozenset({problem.produces} if problem.dtype == PAIRS else ())",
        "frozenset(())",
    ),
    "bfloat16: cut off, not rounded": (
        "kernels/words.py",
        "return self.build.fptrunc(value, ir.like(value.type, half))",
        "bits = self.build.bitcast(value, ir.like(value.type, I32))\n"
        "        bits = self.build.udiv(bits, bits.type(1 << 16))\n"
        "        cut = self.build.trunc(bits, ir.like(value.type, I16))\n"
        "        return self.build.bitcast(cut, ir.like(value.type, half))",
    ),
    "matrices: every run begins with the first row": (
        "kernels/matrices.py",
        "k.at(a, run.first + other)",
        "k.at(a, other)",
    ),
    "matrices: sums go on from tile to tile": ("kernels/contract.py", "held.zero(k)\n            if", "if"),
    "split: low halves of B are left out": ("kernels/matrices.py", "(low_b, (0,))] if any", "] if any"),
    "split: the high half of A twice": ("kernels/matrices.py", "[(0, (0, low_a))", "[(0, (0, 0))"),
    "split: low halves are what is to be split": (
        "kernels/words.py",
        "self.build.fsub(numbers, self.build.bitcast(bits, kind))",
        "numbers",
    ),
    "split: small numbers are split": (
        "kernels/words.py",
        "self.broadcast(self.build.sub(self.build.trunc(least, I32), I32(1)), SPLIT_LANES)",
        "kind(0)",
    ),
    "split: every band writes the first": ("kernels/halves.py", "one.at([(0, 0, place)])", "one.at([(0, 0, 0)])"),
    "split: parts of an axis begin where the first does": (
        "kernels/bands.py",
        "before[2 + self.axis] = -begin",
        "before[2 + self.axis] = -self.parts.first[number]",
    ),
    "split: a tap meets the hidden beside it": ("kernels/gradients.py", "(last - turn) * along", "turn * along"),
    "split: every residue is the first": ("kernels/gradients.py", "self.rows.residues.index(own) * residue", "0"),
    "split: chunks write over each other": ("kernels/gradients.py", "programs[not new]", "programs[0]"),
    "split: the first piece twice": ("kernels/gradients.py", "given[3][n * self._apart :]", "given[3][0:]"),
    "split: kernels are not flipped back": ("engines/split.py", "(slice(None, None, -1),)", "(slice(None),)"),
    "split: lines all begin with the first of a pair": (
        "kernels/lines.py",
        "divmod(count * int(last.position(first, 0)), 2)",
        "count * int(last.position(first, 0)) // 2, 0",
    ),
    "split: every other position begins as the first": (
        "kernels/lines.py",
        "last.position(first, 0)",
        "last.position(0, 0)",
    ),
    "split: groups are no whole panels": (
        "kernels/loops.py",
        "count // layout.panel * layout.panel_step if layout.panel else count * step",
        "count * step",
    ),
    "split: panels of groups that they do not divide": (
        "kernels/ways.py",
        "size if channels > size and own % size == 0",
        "size if channels > size and channels % size == 0",
    ),
    "split: lines go to the first positions": ("kernels/lines.py", "slice(first, None, many)", "slice(0, None, many)"),
    "split: blocks have one residue's positions": (
        "kernels/blocks.py",
        "at = begin[-1] + own",
        "at = begin[-1]",
    ),
    "matrices: rows of B as far apart as those of A": (
        "kernels/contract.py",
        "k.at(b, k.mul(at, self.bk)), columns, self.bk)",
        "k.at(b, k.mul(at, self.bk)), columns, self.rows[-1][0])",
    ),
    # The engine fft.
    "fft takes a wave the other way round": ("kernels/waves.py", "_waves(f, -(", "_waves(f, ("),
    "fft without dilation": ("kernels/waves.py", "axis.dilation * np.arange(axis.kernel)", "np.arange(axis.kernel)"),
    "fft without stride": ("kernels/waves.py", "axis.stride * np.arange(axis.hidden)", "np.arange(axis.hidden)"),
    "fft without padding": (
        "kernels/waves.py",
        "np.arange(axis.hidden) - axis.before, n)",
        "np.arange(axis.hidden), n)",
    ),
    "fft counts half the frequencies once": ("kernels/waves.py", "(2 * f < n), 2, 1) / n", "(2 * f < n), 1, 1) / n"),
    "fft counts the middle frequency twice": ("kernels/waves.py", "(2 * f < n), 2, 1)", "(2 * f <= n), 2, 1)"),
    "fft with a frequency too few": (
        "kernels/waves.py",
        "max(one.visible, one.visible + one.before, read)",
        "max(one.visible, one.visible + one.before - 1, read - 1)",
    ),
    "fft forgets a border": ("kernels/waves.py", 'extended = axis.border != "zero"', "extended = False"),
    "fft multiplies by conjugates": ("kernels/fourier.py", "[-imaginary] * (rows - 2)", "[imaginary] * (rows - 2)"),
    "fft takes three rows for four": ("kernels/fourier.py", "((y.shape[1] - 2) * row for", "(row for"),
    "fft takes an axis' parts for another's": (
        "kernels/fourier.py",
        "*range(2, 2 * many + 1, 2))",
        "*range(2 * many, 1, -2))",
    ),
    "fft keeps channels of a transpose as they are": (
        "engines/fft.py",
        "Channels(channels.hidden, channels.visible, channels.groups)",
        "Channels(channels.visible, channels.hidden, channels.groups)",
    ),
    "fft forgets an imaginary part": ("engines/fft.py", "out.imag += made", "out.imag += 0"),
    "infinities spread": ("dispatch.py", "if not finite:", "if finite:"),
    "winograd: tiles see one position further": (
        "geometry.py",
        "visible = int(axis.position(hidden, 0))",
        "visible = int(axis.position(hidden, 0)) + 1",
    ),
    "winograd: a mirrored axis pads as its own": (
        "geometry.py",
        "before = self.span - 1 - self.before",
        "before = self.before",
    ),
    "winograd: the transpose's kernel unflipped": ("kernels/correlation.py", "*(-step for step in taps))", "*taps)"),
    "winograd: nothing lies beyond an edge": (
        "kernels/filtered.py",
        "bool((jobs[..., 2] % self.lanes | 1 - jobs[..., 3]).any())",
        "bool((jobs[..., 2] % self.lanes).any())",
    ),
    "winograd: one more position is inside": (
        "kernels/transform.py",
        "k.less(ends[2 * axis + 1], k.add(n, 1))",
        "k.less(ends[2 * axis + 1], n)",
    ),
    "copy: all is transposed": ("kernels/copy.py", "not turned.all(), *self", "not turned.any(), *self"),
    "halves: written before all is added": (
        "kernels/winograd.py",
        "own * some <= most or s.once",
        "own * some <= most",
    ),
    "halves: a bias read as float32": ("kernels/transform.py", '"source", *self.finish.arguments', '"source",'),
    "halves: parts added to what is rounded": (
        "engines/winograd.py",
        "return problem.dtype == BFLOAT16 and added",
        "return problem.dtype == BFLOAT16 and not added",
    ),
    "halves: what is not finite is computed as whole numbers": (
        "dispatch.py",
        "convert(b, other, own, computed)",
        "other[...] = b.view(np.uint16)",
    ),
    "along: pieces begin with the first tap": (
        "geometry.py",
        "before = one.axis.before - first",
        "before = one.axis.before",
    ),
    "along: pieces of a stride's neighbours": (
        "geometry.py",
        "one.kernel + self.stride * first",
        "one.kernel + first",
    ),
    "along: a tap that the kernel has not": (
        "kernels/one_axis.py",
        "return min(self.taps, -((piece.kernel - self.axes[0].kernel) // self.axes[0].stride))",
        "return self.taps",
    ),
    "along: lines without zeros before them": (
        "kernels/one_axis.py",
        "found.append((begin - first,",
        "found.append((0 * first,",
    ),
    "along: nothing is behind a line": ("kernels/one_axis.py", "min(end, axis.visible) - begin", "end - begin"),
    "along: lines beyond an edge are read": ("kernels/one_axis.py", "(at >= 0) & (at < axis.visible)", "at >= at"),
    "along: tiles lie inside": (
        "kernels/one_axis.py",
        "(tiles[..., 1] == 0) & (tiles[..., 2] == self.points)",
        "tiles[..., 1] == tiles[..., 1]",
    ),
    "along: a bias that goes on": (
        "kernels/one_axis.py",
        "if self.finish.pitch and channels % target().lanes(self.problem.itemsize) else RUN",
        "if self.finish.pitch and not channels else RUN",
    ),
    "along: a step of the other axes": ("kernels/one_axis.py", "axis.stride * seen, 0, made", "seen, 0, made"),
    "along: neighbours for what is dilated": ("kernels/one_axis.py", "axis.dilation * seen, taps", "seen, taps"),
    "along: the last block begins behind": ("kernels/one_axis.py", "min(begin, count - size)", "begin"),
    "even: one product too few": ("kernels/shares.py", "else counts[axis] - 1", "else counts[axis] - 2"),
    "even: infinity comes first": (
        "kernels/shares.py",
        "begin += (counts[axis] - 1) * steps[axis]",
        "begin += 0",
    ),
    "even: tiles in their usual order": ("kernels/filtered.py", "channels, back)[self.order]", "channels, back)"),
    "even: a share begins with the first tile": ("kernels/filtered.py", "some.start * seen_row", "0 * seen_row"),
    "even: blocks need what the one before does": (
        "kernels/winograd.py",
        "own.start < begin + block",
        "own.start < begin",
    ),
    "even: later blocks of a piece need all, its first some": (
        "kernels/winograd.py",
        "if n % many else range(len(programs))",
        "if n % many == 0 else range(len(programs))",
    ),
    "even: one round's tiles for all": (
        "kernels/filtered.py",
        "np.arange(0, self.tiles, len(order))",
        "0 * np.arange(0, self.tiles, len(order))",
    ),
    "winograd: only the last residue counts": ("engines/winograd.py", "summed and number > 0", "False"),
    # Pooling.
    "pooling takes the last of equals": (POOL, 'fcmp_unordered(">", value, held)', 'fcmp_unordered(">=", value, held)'),
    "pooling takes the last NaN": (POOL, 'k.build.and_(larger, k.build.fcmp_ordered("ord", held, held))', "larger"),
    "pooling drops NaN": (POOL, 'fcmp_ordered("ord", held, held)', 'fcmp_ordered("ord", value, value)'),
    "pooling pads with zero": (POOL, 'k.real(float("-inf"))', "k.real(0.0)"),
    "pooling gives a vector the positions of its first lane": (
        POOL,
        'k.broadcast(k["drift"], lanes)',
        "k.broadcast(I64(0), lanes)",
    ),
    "pooling undilated": (POOL, 'k.mul(tap, k["dilation"])', "tap"),
    "pooling starts at the first tap": (
        "pool.py",
        "np.argmax(sources != OUTSIDE, axis=1)",
        "np.zeros(inner.hidden, int)",
    ),
    "the transpose keeps the last of what meets": (
        POOL,
        'k.build.fadd(k.load(place), k.load(k["hidden"], at))',
        'k.load(k["hidden"], at)',
    ),
    "pooling with another stride": ("pool.py", "windows if stride is None else", "(1,) * rank if stride is None else"),
    "indices beyond the visible allowed": ("pool.py", ".max() < pixels", ".max() <= pixels"),
}


PAIRS = "pairs_in_lines", "pairs_in_chunks", "pairs_of_halves"
AFTER = "all_axes_are_transformed", "what_follows_a_sum"
FIRST = {
    "after": AFTER,
    "along": ("the_first_axis_alone",),
    "bfloat16": PAIRS,
    "even": ("all_axes_are_transformed", "even_tiles"),
    "fft": ("frequencies_of_each_axis", "fft"),
    "halves": ("all_axes_are_transformed", "transforms_of_halves"),
    "im2row": ("examples_in_parts", "im2row"),
    "kept": AFTER,
    "matrices": PAIRS[::-1],
    "pooling": ("pooling",),
    "split": ("numbers_in_halves",),
    "winograd": (*AFTER, "winograd"),
    **{engine: (engine,) for engine in ("matrix", "reference")},
}
"""Checks that are asked first of mutants whose names begin so: none lives longer than it must."""


def battery(package: Path, *first: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the battery on the copy of the package in a folder, some checks first, and prove that that was imported."""
    # Checked kernels, as those of a mutant may miss their arrays.
    one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TRICONV_CHECKED": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(BATTERY), *first],
        env={**os.environ, **one_thread, **environment, "PYTHONPATH": str(package.parent)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    imported, *_ = done.stdout.splitlines() or [""]
    assert Path(imported) == package / "__init__.py", f"{imported} was imported: {done.stderr}"
    return done


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package as it is, compiled to byte code, which is copied along with it."""
    package = tmp_path_factory.mktemp("intact") / "triconv"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    assert compileall.compile_dir(package, quiet=1)
    return package


def test_the_unmutated_package_passes(intact: Path) -> None:
    done = battery(intact)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "PASSED"


def test_enough_mutants() -> None:
    assert len(MUTANTS) >= AT_LEAST
    assert len(set(MUTANTS.values())) == len(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_killed(name: str, intact: Path, tmp_path: Path) -> None:
    module, old, new = MUTANTS[name]
    area = re.split(r"\W", name, maxsplit=1)[0]
    if area == "bfloat16" and not target().pairs:
        pytest.skip("this processor multiplies no pairs of bfloat16")
    of_its_own = dict[str, str]()
    if area in ("matrices", "split") and not target().matrices:
        if lacking(IMITATED):
            pytest.skip("this processor, or its system, multiplies no matrices, nor pairs to imitate it")
        of_its_own["TRICONV_TARGET"] = IMITATED
    text = (intact / module).read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {module}, expected once"
    mutated = text.replace(old, new)
    compile(mutated, module, "exec")
    package = tmp_path / "triconv"
    shutil.copytree(intact, package)
    (package / module).write_text(mutated, encoding="utf-8")
    for compiled in (package / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
        compiled.unlink()
    # Nobody compiles a mutant's kernels again, so they are not to drive others from the cache.
    if module.startswith("kernels/"):
        of_its_own["TRICONV_CACHE"] = str(tmp_path / "cache")
    done = battery(package, *FIRST.get(area, ()), **of_its_own)
    verdict = done.stdout.splitlines()[1] if done.stdout.count("\n") > 1 else ""
    assert done.returncode == 1, f"survived: {done.stdout}{done.stderr}"
    assert verdict.startswith(("WRONG", "RAISED")), done.stdout + done.stderr
