"""How a learning rate falls over a run."""

from __future__ import annotations

import math


def cosine_factor(step: int, steps: int) -> float:
    """What the first rate is multiplied with at `step`, from 0: half a cosine, from 1 to 0 at `steps`."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))
