"""Joined values: every logit is found by number, and steps say it where they can."""

import numpy as np
import torch

from isobit.backends.fixed_point.joined import Joined, find_parts, join
from isobit.backends.fixed_point.layout import OUTSIDE, identity_map


def whole(buffer, shape):
    """A tensor (height, width, channels) in the order of the graph [C, H, W]."""
    height, width, channels = shape
    return Joined(((buffer, height * width * channels),), identity_map(shape, (channels, height, width))[None])


def spread(parts, shapes, size):
    """(buffer, element) of each logit, by what the parts say; None where none does."""
    found = [None] * size
    for buffer, part in parts:
        if len(part.logits):
            pairs = zip(part.elements.tolist(), part.logits.tolist(), strict=True)
        else:
            pairs = [(element, part.first + sum(i * step for i, step in zip(place, part.steps, strict=True)))
                     for element, place in enumerate(np.ndindex(shapes[buffer]))]
        for element, logit in pairs:
            assert found[logit] is None
            found[logit] = (buffer, element)
    return found


SHAPES = [(2, 3, 4), (2, 3, 1)]


def joined(operator):
    return join([whole(0, SHAPES[0]), whole(1, SHAPES[1])], operator)


def test_channels_beside_each_other_are_two_parts_with_steps():
    parts = find_parts(joined(lambda n: torch.cat(n, 1)), SHAPES)
    assert [(buffer, part.first, part.steps, len(part.logits)) for buffer, part in parts] == [
        (0, 0, (3, 1, 6), 0), (1, 24, (3, 1, 0), 0),
    ]  # fmt: skip


def test_every_logit_comes_from_the_element_that_the_operators_put_there():
    for operator in (
        lambda n: torch.cat(n, 1).permute(0, 2, 3, 1), lambda n: torch.cat(n, 1)[:, 1:, :, 1:],
        lambda n: torch.cat([n[1], n[0]], 1).reshape(1, 3, 5, 2).transpose(1, 3),
    ):
        value = joined(operator)
        found = spread(find_parts(value, SHAPES), SHAPES, value.numbers.size)
        flat = value.numbers.reshape(-1)
        assert found == [(0, n) if n < 24 else (1, n - 24) for n in flat.tolist()]


def test_what_is_read_twice_and_what_lies_outside():
    twice = join([joined(lambda n: n[0]), whole(0, SHAPES[0])], lambda n: torch.cat(n, 1))
    assert [buffer for buffer, _ in find_parts(twice, [SHAPES[0], SHAPES[1], SHAPES[0]])] == [0, 0]
    doubled = Joined(((0, 24),), np.array([[3, 3, OUTSIDE]]))
    ((_, part),) = find_parts(doubled, [SHAPES[0]])
    assert (part.elements.tolist(), part.logits.tolist()) == ([3, 3], [0, 1])
    padded = join([doubled, whole(1, SHAPES[1])], lambda n: torch.cat([n[0], n[1].flatten(1)], 1))
    assert padded.numbers.tolist() == [[3, 3, OUTSIDE, *range(24, 30)]]


def test_a_tensor_of_which_nothing_is_left_is_no_part():
    assert [buffer for buffer, _ in find_parts(joined(lambda n: torch.cat(n, 1)[:, 4:]), SHAPES)] == [1]
