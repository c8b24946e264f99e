"""The four ways through Winograd's transforms: what is kept whole, and what goes all the way block by block.

A convolution takes blocks of tiles all the way while they are in the caches, over kernels that are transformed before;
or, where there are few tiles and many channels, panels of outputs, over tiles that are. The weight's gradient sums
S · M, where M is the transform of what a convolution would have made, into K: chunk by chunk over all tiles; or in
pieces of the tiles, each with sums of its own, which are added on the way back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from itertools import count
from math import prod

import numpy as np

from ..form import Role
from .compile import Call
from .correlation import Table
from .filtered import DEPTH, ORIGIN, Sizes, Step, Turning, even_rounds
from .schedule import THREADS, Arrays, Schedule, Stage

FEW, LEAST = 28, 14
"""Tiles of a block at least: so often is a kernel's number multiplied that comes from further away. Fewer only where
there is no room for as many."""

FILLED_UP = 1.04
"""How many times as many tiles blocks may have as there are."""

BLOCK, MORE = 1 << 19, 36
"""Bytes of a block of tiles, in what is seen and in what is made; and as many tiles as may take twice that."""

PIECES = 8
"""Of the tiles of a weight's gradient, at most."""


def by_blocks(s: Sizes) -> Schedule:
    """Blocks of tiles, all the way, over kernels that are transformed before; some groups after the others.

    Of a block some panels of outputs are made after the others where there is no room for all.
    """
    own, groups, spare = s.own, _groups_at_once(s), (s.room - s.kernels) // THREADS
    turns, seen_row = own.groups // groups, s.whole(groups * own.inputs)
    panels = _panels_at_once(s, spare, seen_row)
    slices, outputs, made_row = s.panels // panels, panels * s.wide, groups * panels * s.wide
    most = _most(s, spare, seen_row, made_row)
    block = _full(-(-s.tiles // -(-s.tiles // most)), s.tiles, most)
    blocks, tiles = -(-s.tiles // block), s.scratch(block, seen_row)
    turned, (s, needed) = _turned(s), _needed(s, block, blocks)

    def make() -> tuple[Stage, ...]:
        kernel_jobs = s.kernel_jobs(False)
        kernel_jobs[..., 1] += np.arange(len(kernel_jobs))[:, None] * s.chunk
        kernels = s.transform(Role.WEIGHT, kernel_jobs.reshape(-1, kernel_jobs.shape[-1]), s.kernel)
        copies = s.turning() if turned else None
        jobs = _with_none(s.tile_jobs(Role.VISIBLE, False, groups * own.inputs), (blocks, block))
        jobs = _in_turns(_numbered(jobs, 1, seen_row), 0, turns, groups * own.inputs)
        forth = s.transform(Role.VISIBLE, jobs, s.apart(block, seen_row))
        jobs = _with_none(s.tile_jobs(Role.HIDDEN, True, own.outputs), (blocks, block))
        jobs = np.repeat(_numbered(jobs, 0, made_row)[..., None, :], groups, axis=-2)
        jobs[..., 0] += np.arange(groups) * outputs
        jobs[..., 1] += np.arange(groups) * own.outputs
        jobs = _in_turns(jobs, 1, slices, outputs)
        jobs[-blocks:, ..., 2] -= (slices - 1) * outputs
        jobs[:-blocks, ..., 2] = outputs
        jobs = _in_turns(jobs, 1, turns, groups * own.outputs)
        back = s.transform(Role.HIDDEN, jobs, s.apart(block, made_row), True)
        programs = s.multiplied([range(block)] * len(s.shares), block, groups, panels, seen_row, s.chunks)

        def before(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
            if copies is None:
                return [kernels.call(arrays[1], arrays[5], first, last)]
            _, weight, _, room, _, transformed, *_ = arrays
            made = (copies.calls(weight, room[place:], transformed[n * s.chunk :], n) for n in range(first, last))
            return [call for one in made for call in one]

        def calls(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
            seen, _, made, room, marks, transformed, *more = arrays
            found = []
            for n in range(first, last):
                found.append(forth.call(seen, room[place:], n, n + 1))
                kernel = n // blocks * (s.kernels // turns)
                for unit in range(n, slices * len(forth.jobs), len(forth.jobs)):
                    for chunk in range(s.chunks):
                        a, b = room[place + chunk * s.depth :], transformed[kernel + chunk * s.chunk :]
                        for number in needed[n % blocks]:
                            found += programs[chunk > 0][number].whole(a, b, room[place + tiles :])
                    found.append(back.call(room[place + tiles :], made, unit, unit + 1, marks[unit * s.lanes :], *more))
                    kernel += panels * s.chunks * s.chunk
            return found

        return Stage(len(copies.chunks if copies else kernels.jobs), before), Stage(len(forth.jobs), calls)

    scratch, marks = max(turned, tiles + s.scratch(block, made_row)), turns * blocks * slices * s.lanes
    return Schedule(s.flops, 0, scratch, marks, make, kernels=s.kernels, keeps=s.known_by, room=s.room)


def _full(block: int, tiles: int, most: int) -> int:
    """Blocks of about so many tiles, in full rows of registers where that hardly adds to them: for one kernel."""
    rounded = -(-block // LEAST) * LEAST
    full = rounded if rounded <= most else rounded - LEAST
    return full if full and -(-tiles // full) * full <= FILLED_UP * tiles else block


def _needed(s: Sizes, block: int, blocks: int) -> tuple[Sizes, list[list[int]]]:
    """Even tiles, where some of so many blocks do without some shares of products; and which ones each block needs."""
    even, begins = s.evened(), range(0, blocks * block, block)
    needed = [
        [n for n, (*_, own) in enumerate(even.shares) if own.start < begin + block and begin < own.stop]
        for begin in begins
    ]
    return (even, needed) if min(map(len, needed)) < len(even.shares) else (s, [[0]] * blocks)


def _panels_at_once(s: Sizes, room: int, seen_row: int) -> int:
    """All of a group; of the only one fewer, of which blocks of not so few tiles have room for in so many numbers."""
    able = [n for n in range(s.panels, 0, -1) if s.panels % n == 0 and (s.own.groups == 1 or n == s.panels)]
    return next((n for n in able if s.fitting(room, seen_row, n * s.wide) >= FEW), able[-1])


def _most(s: Sizes, room: int, *rows: int) -> int:
    """How many tiles, transformed into such rows, a block should have, of which there is room for so many numbers."""
    fitting = BLOCK // (s.points * sum(rows) * s.itemsize)
    wanted = max(FEW, min(MORE, 2 * fitting), fitting)
    return max(min(wanted, s.fitting(room, *rows)), min(wanted, LEAST))


def _groups_at_once(s: Sizes) -> int:
    """As many groups, whose channels fill vectors, as a block of not so few tiles has room for; if none do, all."""
    own = s.own
    each = 2 * FEW * s.points * (own.inputs + s.panels * s.wide) * s.itemsize
    able = [n for n in range(1, own.groups + 1) if own.groups % n == 0 and n * own.inputs % s.lanes == 0]
    return max((n for n in able if n * each <= BLOCK), default=min(able, default=own.groups))


def _in_turns(jobs: Table, field: int, turns: int, step: int) -> Table:
    """Jobs of blocks for each of some turns, which are so far apart in the array."""
    every = np.repeat(jobs[None], turns, axis=0)
    every[..., field] += np.arange(turns).reshape(-1, *(1,) * (jobs.ndim - 1)) * step
    return every.reshape(-1, *jobs.shape[1:])


def by_panels(s: Sizes) -> Schedule:
    """Panels of outputs, all the way, over tiles that are transformed before.

    Some inputs come after the others where there is no room for all: what they make is added to what is there. Of a
    weight that stays the same the copies are kept: transforms are several times as large, and would take longer to be
    read than to be made.
    """
    found = _by_panels(s, False)
    return replace(found, knowing=_by_panels(s, True)) if _turned(s) else found


def _by_panels(s: Sizes, kept: bool) -> Schedule:
    """With copies of the weight that are kept, or made for each call."""
    s, rounds = _some_inputs(s.evened())
    own, turned = s.own, _turned(s)
    inputs, chunks, row = s.inputs // rounds, s.chunks // rounds, s.whole(s.inputs // rounds)

    def make() -> tuple[Stage, ...]:
        copies = s.turning() if turned else None
        kernels = None if turned else s.transform(Role.WEIGHT, s.kernel_jobs(False), s.kernel)
        jobs = _numbered(s.tile_jobs(Role.VISIBLE, False, inputs), 1, row)
        forth = s.transform(Role.VISIBLE, _in_turns(jobs, 0, rounds, inputs), s.apart(s.tiles, row))
        jobs = _numbered(s.tile_jobs(Role.HIDDEN, True, s.wide), 0, s.wide)
        jobs = np.repeat(jobs[None], own.groups * s.panels, axis=0)
        group, panel = np.divmod(np.arange(len(jobs)), s.panels)
        jobs[..., 1] += (group * own.outputs + panel * s.wide)[:, None]
        jobs[..., 2] = np.minimum(own.outputs - panel * s.wide, s.wide)[:, None]
        programs = s.multiplied([share.tiles for share in s.shares], s.tiles, 1, 1, row, chunks)

        def stages(turn: int) -> tuple[Stage, Stage]:
            begin, ends = turn * s.tiles, (turn == 0, turn == rounds - 1)
            back = s.transform(Role.HIDDEN, jobs, s.apart(s.tiles, s.wide), True, ends=ends)

            def before(arrays: Arrays, _place: int, first: int, last: int) -> list[Call]:
                return [forth.call(arrays[0], arrays[3], begin + first, begin + last)]

            def calls(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
                _, kernel, made, room, marks, copy, *more = arrays if turn == rounds - 1 else arrays[:6]
                k, m, w = room[place:], room[place + s.chunk :], room[place + each :]
                found = []
                for n in range(first, last):
                    for chunk in range(chunks):
                        number = n * s.chunks + turn * chunks + chunk
                        seen = s.beginning(number)[0] - turn * inputs
                        if copies is not None and kept:
                            found.append(copies.transformed(copy[number * turned :], k, number))
                        elif copies is not None:
                            found += copies.calls(kernel, w, k, number)
                        if kernels is not None:
                            found.append(kernels.call(kernel, k, number, number + 1))
                        for program in programs[chunk > 0]:
                            found += program.whole(room[seen:], k, m)
                    found.append(back.call(m, made, n, n + 1, marks[n * s.lanes :], *more))
                return found

            return Stage(s.tiles, before), Stage(len(jobs), calls)

        every = tuple(stage for turn in range(rounds) for stage in stages(turn))
        return every if copies is None or not kept else (Stage(parts, _copying(copies, turned)), *every)

    parts, each = own.groups * s.panels * s.chunks, _of_a_panel(s) - turned
    return Schedule(
        s.flops,
        s.scratch(s.tiles, row),
        each if kept else each + turned,
        own.groups * s.panels * s.lanes,
        make,
        kernels=parts * turned if kept else 0,
        keeps=s.copied_by if kept else None,
        room=s.room,
    )


def _copying(copies: Turning, size: int) -> Callable[[Arrays, int, int, int], list[Call]]:
    """Copies of a weight's chunks of so many numbers, to be kept."""

    def calls(arrays: Arrays, _place: int, first: int, last: int) -> list[Call]:
        made = (copies.copy(arrays[1], arrays[5][n * size :], n) for n in range(first, last))
        return [call for one in made for call in one]

    return calls


def _some_inputs(s: Sizes) -> tuple[Sizes, int]:
    """Panels, and rounds over so many inputs, for which there is room: wide ones rather, but few rounds before that."""
    found, most = (s, 1), 1 if s.once or s.own.groups > 1 else s.chunks
    for rounds in (n for n in range(1, most + 1) if s.chunks % n == 0):
        for panels in (s, s.narrower()):
            found = panels, rounds
            if s.scratch(s.tiles, s.whole(s.inputs // rounds)) + THREADS * _of_a_panel(panels) <= s.room:
                return found
    return found


def _of_a_panel(s: Sizes) -> int:
    """The numbers of a panel: a chunk of its kernels, and what it makes."""
    return _turned(s) + s.chunk + s.scratch(s.tiles, s.wide)


def _turned(s: Sizes) -> int:
    """The numbers of a chunk's kernels, if they are copied before they are transformed."""
    return s.turned if s.own.kernel[0] != 1 else 0


def gradient_by_chunks(s: Sizes) -> Schedule:
    """Chunks of kernels, over the transforms of all that is seen and made, or of as many tiles as there is room for.

    What the next ones make is added to what is there.
    """
    rounds, parts, some = _in_rounds(s)
    if many := even_rounds(s.own.batch, rounds):
        s = s.evened(many)
    rounds, tiles = (many, s.tiles // many) if s.even_rounds else (rounds, parts * some)
    hidden = s.scratch(tiles, s.seen_row)

    def make() -> tuple[Stage, ...]:
        seen = _filled_up(s, Role.VISIBLE, (rounds, tiles), s.seen_row, s.inputs)
        made = _filled_up(s, Role.HIDDEN, (rounds, tiles), s.hidden_row, s.outputs)
        if s.even_rounds:
            programs = s.summed_by_shares(tiles, s.seen_row, s.hidden_row)
        else:
            others = [(part * some * s.seen_row, part * some * s.hidden_row, 0) for part in range(1, parts)]
            (share,) = s.shares
            programs = s.summed(share, some, tiles, s.seen_row, s.hidden_row, ORIGIN, *[others] * bool(others))

        kernel_jobs = s.kernel_jobs(True)
        backs = lru_cache(lambda *ends: s.transform(Role.WEIGHT, kernel_jobs, s.kernel, True, ends=ends))

        def stages(turn: int) -> tuple[Stage, Stage]:
            begin, back = turn * tiles, backs(turn == 0, turn == rounds - 1)

            def before(arrays: Arrays, _place: int, first: int, last: int) -> list[Call]:
                room, ends = arrays[3], (begin + first, begin + last)
                return [seen.call(arrays[0], room, *ends), made.call(arrays[2], room[hidden:], *ends)]

            def calls(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
                room = arrays[3]
                found = []
                for n in range(first, last):
                    a, b = s.beginning(n)
                    operands = room[a:], room[hidden + b :], room[place:]
                    found += [call for program in programs for call in program.whole(*operands)]
                    found.append(back.call(room[place:], arrays[1], n, n + 1, arrays[4][n * s.lanes :]))
                return found

            return Stage(tiles, before), Stage(len(back.jobs), calls)

        return tuple(stage for turn in range(rounds) for stage in stages(turn))

    return Schedule(
        s.flops, hidden + s.scratch(tiles, s.hidden_row), s.chunk, s.kernels // s.chunk * s.lanes, make, room=s.room
    )


def _in_rounds(s: Sizes) -> tuple[int, int, int]:
    """Rounds, the parts of each, and the tiles of a part: of few rounds, and no part deeper than DEPTH."""
    most = max(LEAST, s.fitting(s.room - THREADS * s.chunk, s.seen_row, s.hidden_row))
    parts = ((rounds, -(-s.tiles // (rounds * DEPTH))) for rounds in count(1))
    sizes = ((rounds, own, -(-s.tiles // (rounds * own))) for rounds, own in parts)
    return next((rounds, own, some) for rounds, own, some in sizes if own * some <= most or s.once)


def gradient_by_pieces(s: Sizes) -> Schedule:
    """Pieces of the tiles, each block by block into sums of its own, which are added on the way back.

    Some groups come after the others.
    """
    own, groups = s.own, _groups_at_once(s)
    turns, seen_row, hidden_row = own.groups // groups, s.whole(groups * own.inputs), s.hidden_row_of(groups)
    pieces = _pieces(s)
    most = min(DEPTH, _most(s, (s.room - pieces * s.kernels) // THREADS, seen_row, hidden_row))
    pieces = max(1, min(pieces, s.tiles // most))
    many = -(-s.tiles // (pieces * most))
    block = -(-s.tiles // (pieces * many))
    hidden, chunks = s.scratch(block, seen_row), s.kernels // s.chunk // turns
    s, needed = _needed(s, block, pieces * many)

    def make() -> tuple[Stage, ...]:
        def blocks(role: Role, row: int, channels: int) -> Step:
            jobs = _with_none(s.tile_jobs(role, False, groups * channels), (pieces * many, block))
            return s.transform(
                role, _in_turns(_numbered(jobs, 1, row), 0, turns, groups * channels), s.apart(block, row)
            )

        seen, made = blocks(Role.VISIBLE, seen_row, own.inputs), blocks(Role.HIDDEN, hidden_row, own.outputs)
        jobs = s.kernel_jobs(True)
        jobs[..., 0] += np.arange(len(jobs))[:, None] * s.chunk
        kernels = s.transform(Role.WEIGHT, jobs, s.kernel, True, pieces)
        begins = [(*s.beginning(chunk), chunk * s.chunk) for chunk in range(chunks)]
        programs = [s.summed(share, block, block, seen_row, hidden_row, *[begins] * min(many, 2)) for share in s.shares]

        def calls(arrays: Arrays, place: int, first: int, last: int) -> list[Call]:
            room, found = arrays[3], []
            for n in range(first * many, last * many):
                turn, piece = divmod(n // many, pieces)
                found.append(seen.call(arrays[0], room[place:], n, n + 1))
                found.append(made.call(arrays[2], room[place + hidden :], n, n + 1))
                operands = room[place:], room[place + hidden :], room[piece * s.kernels + turn * chunks * s.chunk :]
                for number in needed[n % len(needed)] if n % many else range(len(programs)):
                    found += programs[number][n % many > 0].whole(*operands)
            return found

        def after(arrays: Arrays, _place: int, first: int, last: int) -> list[Call]:
            return [kernels.call(arrays[3], arrays[1], first, last, arrays[4][first * s.lanes :])]

        return Stage(turns * pieces, calls), Stage(len(kernels.jobs), after)

    room = hidden + s.scratch(block, hidden_row)
    return Schedule(s.flops, pieces * s.kernels, room, s.kernels // s.chunk * s.lanes, make, room=s.room)


def _pieces(s: Sizes) -> int:
    """How many pieces there is room for, and blocks of not too few tiles besides."""
    groups = _groups_at_once(s)
    rows = s.whole(groups * s.own.inputs), s.hidden_row_of(groups)
    able = (n for n in (PIECES, PIECES // 2, 2) if s.fitting((s.room - n * s.kernels) // THREADS, *rows) >= LEAST)
    return next(able, 1)


def _numbered(jobs: Table, field: int, row: int) -> Table:
    """Jobs with their rows of scratch, from the first of a block on."""
    jobs[..., field] = np.arange(jobs.shape[-2]) * row
    return jobs


def _filled_up(s: Sizes, role: Role, shape: tuple[int, int], row: int, channels: int) -> Step:
    """The transform of all tiles of what has a role in a convolution, and of as many zeros as fill the shape."""
    jobs = _numbered(_with_none(s.tile_jobs(role, False, channels), shape), 1, row)
    return s.transform(role, jobs.reshape(prod(shape), -1), s.apart(shape[-1], row))


def _with_none(jobs: Table, shape: tuple[int, ...]) -> Table:
    """Jobs, and as many of tiles that are not there as fill the shape."""
    none = np.zeros((prod(shape) - len(jobs), jobs.shape[1]), np.int64)
    none[:, 2] = jobs[0, 2]
    return np.concatenate([jobs, none]).reshape(*shape, -1)


def schedule(s: Sizes, gradient: bool) -> Callable[[Sizes], Schedule]:
    """The way that moves the least through the caches. Panels take kernels in any order of memory."""
    seen = s.scratch(s.tiles, s.seen_row)
    if gradient:
        whole = seen + s.scratch(s.tiles, s.hidden_row)
        few = _pieces(s) < min(PIECES // 2, s.kernels // s.chunk)
        return gradient_by_chunks if few or PIECES * s.kernels > whole else gradient_by_pieces
    return by_panels if s.kernels > seen else by_blocks
