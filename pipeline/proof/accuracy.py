"""Is the artifact any good? The verdict ACCURACY, beside parity, with the likely cause of what is wrong.

Parity proves that the files compute what was calibrated. It cannot know whether that is worth anything: calibration on
black images, labels in another order and inputs that are not normalised all give an exact artifact. Those are judged
here, from what the stages answered and what the samples look like.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.observed import InputLook, Seen
from isobit.pipeline.proof.outputs import KINDS
from isobit.pipeline.proof.verdicts import Rule

Status = Literal["ok", "unknown", "warning", "failed"]
ORDER: tuple[Status, ...] = ("ok", "unknown", "warning", "failed")

MOST_POINTS = 5.0  # that the artifact may lose without a warning
MOST_SHARE = 0.1  # of what float has above chance, the same; the smaller of the two counts
CHANCE_RISK = 0.01  # a float accuracy that chance reaches this often is not told from chance
SAMPLING = 1.645  # standard errors (one in twenty) by which a loss must exceed what is allowed
INTERVAL = 1.96  # standard errors to either side of a stated loss
WEAK = 0.5  # share of what is above chance below which a float accuracy is low, if something explains it
ONE_ANSWER = 0.9  # share of samples with one answer from which a network is said to give no other
PURE = 0.6  # share that the commonest label of each chosen class has, from which labels are said to be permuted, and
BEYOND_CHANCE = 0.3  # by how much it must exceed chance for that
BEYOND_RIGHT = 0.1  # and by how much it must exceed what is right as it is: half-shuffled labels are in no other order
EACH = 10  # samples for each chosen class that this takes

EMPTY = 0.5  # share of images without contrast
OUTSIDE = 0.2  # share of values outside of what calibration saw
SPAN = 4.0  # ratio of two sets' spans (1 % to 99 %)
OFFSET = 20.0  # standard deviations of a mean that normalised in another scale
PIXELS = 16.0  # span from which inputs are taken for pixels of 0 to 255

Subject = Literal["calibration", "evaluation", "float", "artifact"]


@dataclass(frozen=True)
class Finding:
    """Something that makes the artifact worth less: what is seen, of what, its likely cause, what to do."""

    about: Subject
    what: str
    cause: str
    do: str

    @property
    def text(self) -> str:
        """In sentences."""
        return f"{self.what}. Likely cause: {self.cause}. {self.do[:1].upper()}{self.do[1:]}."


@dataclass(frozen=True)
class AccuracyVerdict:
    """What can be said of the artifact's use.

    Args:
        status: `failed` where `options.max_drop` is broken; `unknown` where the samples do not tell.
        text: one line.
        findings: with causes, the likeliest first.
        chance: percent of the samples that the commonest label has; None without labels.
        allowed: most points that may be lost without a warning; None where nothing was measured.
        rule: of the gate; None where `judge` was given no bound, or measured no accuracy.
    """

    status: Status
    text: str
    findings: tuple[Finding, ...] = ()
    chance: float | None = None
    allowed: float | None = None
    rule: Rule | None = None

    @property
    def blames_calibration(self) -> bool:
        """The calibration data is at fault, so that no loss says anything about the method."""
        return any(finding.about == "calibration" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Its part of `parity.json`."""
        return {"status": self.status, "text": self.text, "chance": self.chance, "allowed": self.allowed,
                "findings": [asdict(finding) for finding in self.findings]}


def points_lost(accuracy: Mapping[str, float | None]) -> float | None:
    """Top-1 points from float to artifact; None without labels."""
    before, after = accuracy["float"], accuracy["artifact"]
    return None if before is None or after is None else round(before - after, 4)


def judge(answers: Answers, seen: Seen | None = None, max_drop: float | None = None) -> AccuracyVerdict:
    """The verdict on one build.

    Args:
        answers: of all stages to the evaluation samples.
        seen: what calibration and evaluation look like; None where nobody looked.
        max_drop: most points that may be lost, in place of the default; more of them fail the build.
    """
    data = _data_findings(seen) if seen is not None else []
    if answers.labels:
        found = _by_labels(answers, seen, max_drop)
    elif answers.kind == "values":
        found = _by_distance(answers)
    else:
        found = _by_agreement(answers)
    if not answers.labels and found.status == "ok" and (strange := _scaling(seen)):
        # Float and artifact may agree on inputs of which neither makes anything; only labels would show it.
        found = replace(found, status="unknown", findings=(*found.findings, *strange))
    if answers.has_labels and not answers.labels and answers.kind is not None:
        shape = ", ".join(["N", *map(str, answers.shape)])
        found = replace(found, text=f"{found.text}; labels are not compared, the outputs [{shape}] are "
                                     f"{KINDS[answers.kind]}")
    blamed = any(finding.about == "calibration" for finding in data)
    # Bad calibration data explains a loss; few bits are not to blame then.
    rest = [finding for finding in found.findings if not (blamed and finding.about == "artifact")]
    status = max(found.status, "warning" if data else "ok", key=ORDER.index)
    return replace(found, status=status, findings=(*data, *rest))


# --- what was measured ---


def _by_labels(answers: Answers, seen: Seen | None, max_drop: float | None) -> AccuracyVerdict:
    accuracy, chance, samples = answers.accuracy, answers.chance or 0.0, answers.right["float"].seen
    before, after, lost = accuracy["float"] or 0.0, accuracy["artifact"] or 0.0, points_lost(accuracy) or 0.0
    above = max(0.0, before - 100 * chance)
    allowed = min(MOST_POINTS, MOST_SHARE * above) if max_drop is None else max_drop
    rule = None if max_drop is None else Rule(
        "top-1 points lost from float to artifact", "accuracy", lost, max_drop, lost <= max_drop)
    broken = rule is not None and not rule.passed
    told = f"top-1 {before:.2f} % (float) -> {after:.2f} % (artifact)"
    size = f"{samples:,} samples, chance {100 * chance:.1f} %"

    def verdict(status: Status, text: str, *findings: Finding) -> AccuracyVerdict:
        text += f"; {lost:.2f} points are lost, `options.max_drop` allows {max_drop:g}" if broken else ""
        return AccuracyVerdict("failed" if broken else status, text, findings, round(100 * chance, 4),
                               round(allowed, 4), rule)

    if len(answers.labels) == 1:
        return verdict("unknown", f"{told}; all {samples:,} labels are one class, which any constant answer gets right")
    if chance**samples > CHANCE_RISK:
        return verdict("unknown", f"{told}; {samples:,} samples are too few to tell the float network from chance")
    if _tail(answers.right["float"].hits, samples, chance) > CHANCE_RISK or above < MOST_SHARE * (100 - 100 * chance):
        text = f"{told}: the float network itself is at or near chance level ({size})"
        return verdict("warning", text, *_why_chance(answers, seen))
    margin = INTERVAL * 100 * math.sqrt(answers.lost + answers.won + 1) / samples
    text = f"{told}: {lost:.2f} points lost (+- {margin:.2f}; {size})"
    weak = _evident(answers, seen) if above < WEAK * (100 - 100 * chance) else []
    least: Status = "warning" if weak else "ok"
    if weak:
        text += "; the float network itself has few of them right"
    if lost <= allowed:
        return verdict(least, text, *weak)
    text += "" if broken else f"; more than {allowed:.2f} lost"
    noise = answers.lost + answers.won - (answers.lost - answers.won) ** 2 / samples
    if not broken and lost - SAMPLING * 100 * math.sqrt(max(0.0, noise)) / samples <= allowed:
        text += ", but not by more than so few samples may err: more of them would tell"
        return verdict("warning" if weak else "unknown", text, *weak)
    return verdict("warning", text, *weak, _why_lost(accuracy))


def _by_agreement(answers: Answers) -> AccuracyVerdict:
    share = answers.agreement["float"]
    agreement, positions = (share.percent or 0.0) / 100, share.seen
    if not positions:
        return AccuracyVerdict("unknown", "nothing was measured")
    common = max(answers.chosen.values()) / answers.chosen.total()
    where = "" if answers.kind == "classes" else f" at {positions:,} positions"
    text = (f"no accuracy was measured; float and artifact choose the same class for {100 * agreement:.2f} % of "
            f"{answers.samples:,} samples{where}")
    if common == 1:
        return AccuracyVerdict("unknown", f"{text}, but float chooses one class for everything")
    allowed = MOST_SHARE * (1 - common)
    points = round(100 * allowed, 4)
    if 1 - agreement <= allowed:
        return AccuracyVerdict("ok", text, allowed=points)
    if 1 - agreement - SAMPLING * answers.agreement_error <= allowed:
        return AccuracyVerdict("unknown", f"{text}; so few samples may err by that much", allowed=points)
    return AccuracyVerdict("warning", f"{text}, less than {100 * (1 - allowed):.2f} %", (_FEW_BITS,), allowed=points)


def _by_distance(answers: Answers) -> AccuracyVerdict:
    ratio, share = answers.signal_to_noise["artifact"], answers.unexplained
    text = "no accuracy was measured; " + (
        "the artifact's outputs equal the float network's" if ratio is None
        else f"the artifact's outputs are {ratio:.1f} dB above their difference from float"
    )
    if share is None:
        return AccuracyVerdict("unknown", f"{text}, but float gives one value for everything")
    if share <= MOST_SHARE:
        return AccuracyVerdict("ok", text)
    text += f", which is {100 * share:.0f} % of what varies from sample to sample"
    return AccuracyVerdict("warning", text, (_FEW_BITS,))


def _tail(hits: int, samples: int, chance: float) -> float:
    """How often `samples` guesses, each right by `chance` < 1, have `hits` or more right."""
    logs = [
        math.lgamma(samples + 1) - math.lgamma(k + 1) - math.lgamma(samples - k + 1)
        + k * math.log(chance) + (samples - k) * math.log1p(-chance)
        for k in range(hits, samples + 1)
    ]
    return math.fsum(map(math.exp, logs))


# --- causes ---

_FEW_BITS = Finding(
    "artifact", "the artifact answers otherwise than the float network", "few bits, as this recipe calibrates them",
    "take more bits, more of method.steps, another method, or more and other calibration images",
)


def _why_lost(accuracy: Mapping[str, float | None]) -> Finding:
    known = {name: share for name, share in accuracy.items() if share is not None}
    lost = {after: known[before] - known[after] for before, after in itertools.pairwise(known)}
    worst = max(lost, key=lambda name: lost[name])
    if worst == "reference":
        return Finding("artifact", f"{lost[worst]:.2f} points are lost from calibrated to reference",
                       "what the target cannot hold as calibrated", "see the notes, or take another target or profile")
    if worst == "artifact":
        return Finding("artifact", f"{lost[worst]:.2f} points are lost from reference to artifact",
                       "the files do not compute what the reference does", "see the verdict on parity")
    return Finding("artifact", f"{lost[worst]:.2f} points are lost from float to calibrated", _FEW_BITS.cause,
                   _FEW_BITS.do)


def _evident(answers: Answers, seen: Seen | None) -> list[Finding]:
    """What would explain a low accuracy of the float network, as far as it shows."""
    found = _scaling(seen)
    commonest: Counter[int] = Counter()
    for (_, chosen), count in answers.pairs.items():
        commonest[chosen] = max(commonest[chosen], count)
    samples, hits = answers.pairs.total(), commonest.total()
    right = sum(count for (label, chosen), count in answers.pairs.items() if label == chosen)
    enough = len(commonest) > 1 and samples >= EACH * len(commonest) and hits > right + BEYOND_RIGHT * samples
    if enough and hits >= max(PURE, (answers.chance or 0.0) + BEYOND_CHANCE) * samples:
        found.append(Finding(
            "float", f"for {100 * hits / samples:.0f} % of the samples, what the float network chooses would be right "
            "with the labels in another order", "labels that count the classes in another order than the network",
            "number them as in training (of a folder: the alphabet's order of its subfolders)",
        ))
    return found


def _why_chance(answers: Answers, seen: Seen | None) -> list[Finding]:
    found = _evident(answers, seen)
    top, times = answers.chosen.most_common(1)[0]
    if not found and times >= ONE_ANSWER * answers.chosen.total():
        found.append(Finding(
            "float", f"the float network chooses class {top} for {100 * times / answers.chosen.total():.0f} % of the "
            "samples", "inputs that are prepared otherwise than in training, or weights that are not trained",
            "scale and normalise the inputs as in training",
        ))
    return found or [Finding(
        "float", "what the float network chooses has little to do with the labels",
        "labels of other samples or in another order, inputs prepared otherwise than in training, or weights that are "
        "not trained", "evaluate the network on these files in your own program",
    )]


def _scaling(seen: Seen | None) -> list[Finding]:
    """Inputs that look as if they were not normalised, which some networks want: a cause, no fault by itself."""
    inputs = None if seen is None else seen.evaluation or seen.calibration
    if inputs is None:
        return []
    if inputs.std > 0 and abs(inputs.mean) > OFFSET * inputs.std:
        return [Finding(
            "evaluation", f"the inputs vary by {inputs.std:.3g} around {inputs.mean:.3g}",
            "`mean` and `std` in 0 to 255, for images that are scaled to 0 to 1 before", "give 0.485, not 123.7",
        )]
    if inputs.min >= 0 and inputs.high - inputs.low > PIXELS:
        return [Finding(
            "evaluation", f"the inputs run from {inputs.min:.3g} to {inputs.max:.3g}",
            "pixels of 0 to 255 for a network that was trained on scaled ones", "scale and normalise as in training",
        )]
    return []


def _data_findings(seen: Seen) -> list[Finding]:
    """What is wrong with the samples whatever was measured."""
    found = []
    sets: tuple[tuple[Subject, InputLook | None], ...] = (
        ("calibration", seen.calibration), ("evaluation", seen.evaluation)
    )
    for name, inputs in sets:
        if inputs is None:
            continue
        if inputs.identical or inputs.constant > EMPTY:
            what = "all are one and the same sample" if inputs.identical else \
                f"{100 * inputs.constant:.0f} % have one value in every channel"
            found.append(Finding(
                name, f"of {inputs.samples} {name} samples {what}", "black, blank or repeated images",
                "give samples of what the network will see",
            ))
    blank = bool(found)
    if seen.constant:
        name, module = seen.constant[0]
        found.append(Finding(
            "calibration", f"calibration leaves {len(seen.constant)} of {seen.tensors} tensors constant, the first is "
            f"{name} ({module or 'no module'})", "calibration samples without content, or far smaller than the "
            "network's inputs", "give samples of what the network will see, prepared in the same way",
        ))
    return found if blank else found + _mismatch(seen)


def _mismatch(seen: Seen) -> list[Finding]:
    ours, theirs = seen.calibration, seen.evaluation
    if ours is None or theirs is None:
        return []
    spans = ours.high - ours.low, theirs.high - theirs.low
    apart = min(spans) > 0 and max(spans) > SPAN * min(spans)
    if seen.outside <= OUTSIDE and not apart:
        return []
    where = f"; {100 * seen.outside:.0f} % of the evaluation's values lie outside" if seen.outside > OUTSIDE else ""
    return [Finding(
        "calibration", f"calibration inputs run from {ours.min:.3g} to {ours.max:.3g}, evaluation inputs from "
        f"{theirs.min:.3g} to {theirs.max:.3g}{where}",
        "one of the two is scaled or normalised otherwise (0 to 1, 0 to 255, `mean` and `std`)",
        "prepare both as in training",
    )]
