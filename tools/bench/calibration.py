"""CPU time of calibration: ours against the plain, literal loop of `literal_qdrop.py`, the same mathematics.

Both run the whole network at a few numbers of steps a unit, in turns. CPU time is a constant (ranges, caching,
hardening) plus a constant per step, so two points give the time at 1,000 steps. Give 1,000 itself to measure it.
`tools/devices.py` measures the same on a GPU, by the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.calib.calibrate import calibrate
from isobit.calib.methods.qdrop import QDropParameters
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Quantized
from tools.bench.literal_qdrop import literal_qdrop
from tools.bench.subjects import Subject
from tools.processor import cpu_name

RECIPE, TARGET = "qdrop_w4a4", "onnx"
STEPS = 1000


def measure(subject: Subject, seed: int, steps: Sequence[int], images: int | None = None) -> dict[str, Any]:
    """CPU seconds of both at each number of steps and at 1,000, and their ratio.

    Args:
        steps: of one unit; ascending.
        images: calibration images; None for the recipe's number.
    """
    runs = []
    # The first run, of one step, is not kept: it alone pays for what libraries prepare on their first call.
    for number, count in enumerate((1, *steps)):
        recipe = _recipe(seed, count, images)
        data = subject.calibration(recipe.images.count, seed)
        quantized = story.plan(subject.load(), recipe, BACKENDS.get(TARGET), data.example)
        seconds = in_turns(quantized, data.materialize()[0], literal_first=bool(number % 2))
        runs.append({"steps": count, "ours_s": seconds["ours"], "literal_s": seconds["literal"]})
    del runs[0]
    totals = {key: at_steps([(run["steps"], run[key]) for run in runs], STEPS) for key in ("ours_s", "literal_s")}
    measured = steps[-1] == STEPS
    how = "measured" if measured else f"extrapolated from {' and '.join(str(count) for count in steps[-2:])} steps"
    return {
        "recipe": RECIPE, "processor": processor(), "runs": runs, **totals,
        "ratio": totals["literal_s"] / totals["ours_s"], "step_ratio": step_ratio(runs), "how": how,
    }


def processor() -> str:
    """The processor and the instructions that PyTorch takes of it; `ATEN_CPU_CAPABILITY` and oneDNN's lower them."""
    return f"{cpu_name()}, {torch.backends.cpu.get_cpu_capability()}"


def step_ratio(runs: Sequence[Mapping[str, float]]) -> float | None:
    """How many times as long the literal loop's step takes; None where the clock cannot tell.

    Between the last two runs, so that what is paid once (ranges, caching, hardening) does not count.
    """
    if len(runs) < 2:
        return None
    ours, literal = (runs[-1][name] - runs[-2][name] for name in ("ours_s", "literal_s"))
    return literal / ours if ours > 0.0 and literal > 0.0 else None


def _recipe(seed: int, steps: int, images: int | None) -> Recipe:
    # Rates are not raised to make up for few steps: only time is asked for, and wild numbers may cost other time.
    edits = [f"seed={seed}", f"method.steps={steps}", "method.schedule=paper"]
    if images is not None:
        edits += [f"images.count={images}", f"images.batch_size={min(32, images)}"]
    return load_recipe(RECIPE, edits)


def in_turns(quantized: Quantized, images: Tensor, literal_first: bool) -> dict[str, float]:
    """CPU seconds of both on the same plan and images."""
    parameters = QDropParameters(**quantized.recipe.method.parameters)
    turns: dict[str, Callable[[], object]] = {
        "ours": lambda: calibrate(quantized, images),
        "literal": lambda: literal_qdrop(quantized, images, parameters),
    }
    seconds = {}
    for name in sorted(turns, reverse=not literal_first):
        start = time.process_time()
        turns[name]()
        seconds[name] = time.process_time() - start
    return seconds


def at_steps(points: Sequence[tuple[int, float]], steps: int) -> float:
    """Seconds at `steps`: the point itself where it was run, else the line through the last two points.

    More steps never take less time; where the clock says so of a smoke run's few steps, the line is level.
    """
    known = dict(points)
    if steps in known or len(points) == 1:
        return known.get(steps, points[0][1])
    (low, at_low), (high, at_high) = points[-2:]
    return at_high + max(0.0, at_high - at_low) / (high - low) * (steps - high)
