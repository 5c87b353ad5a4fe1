"""Where each tensor lies in the arena: lifetimes, outputs that take over an input's place, and the least total size.

Tensors whose lifetimes overlap get disjoint bytes. Placing them one by one, each as low as it fits, reaches the optimum
for some order; a few good orders are tried and then improved by exchanges until the sum of what lives at the busiest
step, which no placement can beat, is reached or the tries are spent. The same program always gives the same plan.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isobit.backends.fixed_point.operators.steps import Extreme
from isobit.backends.fixed_point.program import (
    Buffer,
    Conv,
    Lookup,
    Move,
    Product,
    Program,
    Step,
    Sum,
)

ALIGNMENT = 4  # a word: kernels may read four codes at once
TRIES = 2000
SEED = 0


@dataclass(frozen=True)
class Plan:
    """The arena.

    Args:
        offsets: first byte of each tensor by its number; the network's input is the caller's and has none.
        scratch: first byte of each step's scratch by the number of the step.
        size: bytes of the arena.
        plain: the same in plain C, whose steps use less scratch.
        bound: bytes that live at the busiest step: no plan is smaller.
    """

    offsets: Mapping[int, int]
    scratch: Mapping[int, int]
    size: int
    plain: int
    bound: int


@dataclass
class _Block:
    """Bytes that live from step `first` to step `last`; `tensors` use them one after the other.

    In plain C only `plain` of them are used.
    """

    size: int
    plain: int
    first: int
    last: int
    tensors: list[int]
    step: int | None = None  # whose scratch it is

    def meets(self, other: _Block) -> bool:
        return self.first <= other.last and other.first <= self.last


def plan_arena(program: Program, scratch: Mapping[int, tuple[int, int]]) -> Plan:
    """Place every tensor but the input, and scratch for the steps that need it.

    Args:
        scratch: bytes by the number of the step, and how many of them plain C uses.
    """
    blocks = _tensor_blocks(program)
    blocks += [_Block(_aligned(size), _aligned(plain), step, step, [], step)
               for step, (size, plain) in scratch.items() if size]
    places, (size, plain), bound = _place(blocks)
    pairs = list(zip(blocks, places, strict=True))
    return Plan(
        {number: place for block, place in pairs for number in block.tensors},
        {block.step: place for block, place in pairs if block.step is not None}, size, plain, bound[0],
    )


def plan_values(lives: Mapping[int, tuple[int, int]], sizes: Mapping[int, int]) -> tuple[Mapping[int, int], int]:
    """The first element of each float value in memory of their own, and how many there are.

    Args:
        lives: first and last step of each value.
        sizes: elements of each.
    """
    blocks = [_Block(sizes[number], sizes[number], first, last, [number]) for number, (first, last) in lives.items()]
    places, (size, _), _ = _place(blocks)
    return {block.tensors[0]: place for block, place in zip(blocks, places, strict=True)}, size


def is_identity(step: Step, source: Buffer, output: Buffer) -> bool:
    """A `Move` that moves nothing: the output's bytes are the input's."""
    if not isinstance(step, Move) or source.size != output.size:
        return False
    if step.index is not None:
        return np.array_equal(step.index, np.arange(source.size))
    return (
        source.shape == output.shape and step.stride == (1, 1) and step.origin == (0, 0)
        and np.array_equal(step.channels, np.arange(source.shape[2]))
    )


def _in_place(program: Program, step: Step, written: int) -> tuple[int, ...]:
    """Inputs over which the kernel may write tensor `written`: it reads each of their codes just before it does."""
    output = program.buffers[written]
    match step:
        case Conv():
            return step.inputs[1:] if step.residual and step.inputs[0] != step.inputs[1] else ()
        case Sum() | Product() | Extreme():
            # Not over a pixel that is broadcast: it is read again.
            return tuple(number for number in step.inputs if program.buffers[number].shape == output.shape)
        case Lookup():
            return step.inputs
        case Move() if is_identity(step, program.buffers[step.inputs[0]], output):
            return step.inputs
    return ()


def _tensor_blocks(program: Program) -> list[_Block]:
    last = {number: index for index, step in enumerate(program.steps) for number in step.inputs}
    holder: dict[int, _Block] = {}
    blocks = []
    for index, step in enumerate(program.steps):
        if step.output is None:
            continue
        end = last.get(step.output, index)
        written = program.buffers[step.output]
        size = _aligned(written.size * (4 if written.integers else 1))
        taken = next((holder[number] for number in _in_place(program, step, step.output)
                      if number in holder and last[number] == index and holder[number].size == size), None)
        if taken is None:
            taken = _Block(size, size, index, end, [])
            blocks.append(taken)
        taken.last = end
        taken.tensors.append(step.output)
        holder[step.output] = taken
    return blocks


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _place(blocks: Sequence[_Block]) -> tuple[list[int], tuple[int, int], tuple[int, int]]:
    """Offset of each block; the size of the whole and of what plain C uses; what neither can be less than. The whole
    comes first: plain C gets what that leaves.
    """
    bound = _bounds(blocks)
    numbers = range(len(blocks))
    orders = [
        sorted(numbers, key=lambda i: (-blocks[i].size, blocks[i].first)),
        sorted(numbers, key=lambda i: (-blocks[i].size * (blocks[i].last - blocks[i].first + 1), blocks[i].first)),
        sorted(numbers, key=lambda i: (blocks[i].first, -blocks[i].size)),
    ]
    # Scratch above the tensors: so plain C, which uses less of it, needs less.
    orders += [sorted(order, key=lambda i: blocks[i].step is not None) for order in orders]
    sizes = [_sizes_of(blocks, _lowest_fit(blocks, order)) for order in orders]
    least = min(sizes)
    best = orders[sizes.index(least)]
    generator = random.Random(SEED)
    for _ in range(TRIES if len(blocks) > 1 else 0):
        if least == bound:
            break
        order = list(best)
        i, j = generator.sample(range(len(order)), 2)
        order[i], order[j] = order[j], order[i]
        found = _sizes_of(blocks, _lowest_fit(blocks, order))
        if found <= least:  # equal ones too: a plateau is left sideways
            best, least = order, found
    return _lowest_fit(blocks, best), least, bound


def _bounds(blocks: Sequence[_Block]) -> tuple[int, int]:
    """Bytes that live at the busiest step: of the whole, and of what plain C uses."""
    lives = [[block for block in blocks if block.first <= step <= block.last]
             for step in range(1 + max((block.last for block in blocks), default=0))]
    return (max((sum(block.size for block in each) for each in lives), default=0),
            max((sum(block.plain for block in each) for each in lives), default=0))


def _lowest_fit(blocks: Sequence[_Block], order: Sequence[int]) -> list[int]:
    """Offsets when the blocks are placed in this order, each as low as those before it allow."""
    places = [0] * len(blocks)
    placed: list[int] = []
    for number in order:
        block, lowest = blocks[number], 0
        for other in sorted((i for i in placed if blocks[i].meets(block)), key=places.__getitem__):
            if lowest + block.size <= places[other]:
                break
            lowest = max(lowest, places[other] + blocks[other].size)
        places[number] = lowest
        placed.append(number)
    return places


def _sizes_of(blocks: Sequence[_Block], places: Sequence[int]) -> tuple[int, int]:
    pairs = list(zip(blocks, places, strict=True))
    return (max((place + block.size for block, place in pairs), default=0),
            max((place + block.plain for block, place in pairs if block.plain), default=0))
