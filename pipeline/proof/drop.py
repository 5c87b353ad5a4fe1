"""How much worse one stage is than the float network, in one number: what a search holds to a limit.

The first that is there counts: the metric that was named and compares with targets; top-1 on labels; a metric in
percent that was named and compares with float, which has 100 itself; the share of choices that are not float's.
"""

from __future__ import annotations

from dataclasses import dataclass

from isobit.pipeline.proof.accuracy import points_lost
from isobit.pipeline.proof.answers import INTERVAL, Answers
from isobit.pipeline.proof.findings import lost_text

STAGES = ("float", "artifact")  # of the `Answers` that are judged; the second is whatever is compared with float
TOP1 = "top-1 accuracy"
FLOAT_HAS = 100.0  # percent, of a metric that compares with float


@dataclass(frozen=True)
class Drop:
    """By how much `after` is worse than `before`.

    Args:
        title: what is measured.
        unit: of all numbers: `%`, or the metric's own.
        before, after: of the float network and of the other stage.
        lost: positive where the other stage is worse.
        error: half of the interval in which the loss of other samples like these lies 19 times of 20; None where that
            is not known.
    """

    title: str
    unit: str
    before: float
    after: float
    lost: float
    error: float | None = None

    @property
    def text(self) -> str:
        """In words: `top-1 accuracy, %: 91.3 -> 90.9, 0.40 points lost`."""
        unit = f", {self.unit}" if self.unit else ""
        said = lost_text(self.lost, self.unit, (self.before - self.after) * self.lost >= 0)
        error = "" if self.error is None else f" (+- {self.error:.2f})"
        return f"{self.title}{unit}: {self.before:.6g} -> {self.after:.6g}, {said}{error}"


def measured_drop(answers: Answers) -> Drop | None:
    """What the stage `artifact` of `answers` loses; None where nothing says so: numbers without a metric of theirs."""
    held = answers.held_metric
    if held is not None:
        values = answers.measured[held.name].values
        before, after = values["float"], values["artifact"]
        if before is None or after is None:
            return None
        return Drop(answers.measured[held.name].title, held.unit, before, after, round(held.loss(before, after), 6))
    lost = points_lost(answers.accuracy)
    if lost is not None:
        before, after = answers.accuracy["float"] or 0.0, answers.accuracy["artifact"] or 0.0
        return Drop(TOP1, "%", before, after, lost, answers.margin)
    for metric in answers.measures.metrics:
        value = answers.measured[metric.name].values["artifact"]
        if metric.against == "float" and metric.unit == "%" and metric.higher_is_better and value is not None:
            return _of_float(metric.title, value)
    same = answers.agreement["float"].percent
    error = 100 * INTERVAL * answers.agreement_error
    return None if same is None else _of_float("the same choice as float", same, error)


def _of_float(title: str, value: float, error: float | None = None) -> Drop:
    return Drop(title, "%", FLOAT_HAS, value, round(FLOAT_HAS - value, 4), error)
