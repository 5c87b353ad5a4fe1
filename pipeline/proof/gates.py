"""The rules of parity that fail a build: every field of the files, every code and logit at every gated level.

That of accuracy is `judge`'s.
"""

from __future__ import annotations

import numpy as np

from isobit.pipeline.graph.ports import OUTPUT
from isobit.pipeline.proof.counts import FLOAT_ROUNDING
from isobit.pipeline.proof.findings import Rule
from isobit.pipeline.proof.parity import LevelReport, ParityReport

UNSTEADY = "right after a float operator, float rounding moves no code by more than one step"


def apply_gates(report: ParityReport) -> None:
    """Write the rules of parity into the report."""
    report.rules += [] if report.read_back is None else report.read_back.rules
    report.rules += [] if report.directed is None else report.directed.rules
    for level in report.levels:
        if level.gated:
            report.rules += _level_rules(level)


def _compared(level: LevelReport) -> str:
    """What must be equal to the bit; values that float operators give are held to float rounding instead."""
    exact = [count.in_float is None for count in level.outputs.values()]
    if all(exact):
        return "code or logit"
    return "code or output value that integer kernels compute" if any(exact) else "code that integer kernels compute"


def _level_rules(level: LevelReport) -> list[Rule]:
    differing = level.codes.differing + level.exact_differing
    what = _compared(level)
    compared = level.codes.compared + sum(count.compared for count in level.boundaries.values())
    compared += sum(count.compared for count in level.outputs.values() if count.in_float is None)
    rules = [Rule(
        f"no {what} differs from the target's integer arithmetic at level '{level.level}'", "parity", differing, 0,
        differing == 0 and compared > 0,
    )]
    if level.boundaries:
        rules.append(Rule(
            f"right after a float operator, no code is further off than float rounding explains at level "
            f"'{level.level}'", "parity", level.unexplained, 0, level.unexplained == 0,
        ))
        rules.append(Rule(
            f"{UNSTEADY} at level '{level.level}'", "parity", level.unsteady, 0, level.unsteady == 0,
        ))
    for name, count in level.outputs.items():
        if count.in_float is not None:
            error, what = count.in_float.largest_error, name if name == OUTPUT else f"output '{name}'"
            rules.append(Rule(
                f"relative error of {what} that a float operator computes at level '{level.level}'", "parity",
                error if np.isfinite(error) else "not finite", FLOAT_ROUNDING, error <= FLOAT_ROUNDING,
            ))
    return rules
