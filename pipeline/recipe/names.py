"""Names of recipes: a family, then the bits of weights and activations, `qdrop_w4a8`."""

from __future__ import annotations

import re
from typing import NamedTuple

# Weights: a number, or `mp` (mixed precision) and the budget, `mp3` bits on average or `mp0.12mb`.
_WEIGHTS = r"w(?P<weights>\d+|mp\d+(?:\.\d+)?(?:mb)?)"
_NAME = re.compile(rf"(?P<family>.*)_{_WEIGHTS}a(?P<activations>\d+)")
_SWAPPED = re.compile(rf"(?P<family>.*)_a(?P<activations>\d+){_WEIGHTS}")


class NamedBits(NamedTuple):
    """A name in its parts; the bits as text, because a budget is no number."""

    family: str
    weights: str
    activations: str

    def __str__(self) -> str:
        return f"{self.family}_w{self.weights}a{self.activations}"


def bits_in_name(name: str) -> NamedBits | None:
    """The parts of a name that says its bits, weights first; None for one that does not."""
    match = _NAME.fullmatch(name)
    return NamedBits(**match.groupdict()) if match else None


def usual_spelling(name: str) -> str:
    """The name in lower case with the weights first: `QDrop_A8W4` is `qdrop_w4a8`."""
    swapped = _SWAPPED.fullmatch(name.lower())
    return str(NamedBits(**swapped.groupdict())) if swapped else name.lower()
