"""Is the artifact any good? The verdict ACCURACY, beside parity, with the likely cause of what is wrong.

Parity proves that the files compute what was calibrated. It cannot know whether that is worth anything: calibration on
black images, labels in another order and inputs that are not normalised all give an exact artifact. Those are judged
here, from what the stages answered and what the samples look like.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.distances import OutputDistance
from isobit.pipeline.proof.findings import ORDER, AccuracyVerdict, Finding, Rule, Status, Subject, amount, lost_text
from isobit.pipeline.proof.metrics import Metric
from isobit.pipeline.proof.observed import InputLook, Seen
from isobit.pipeline.proof.outputs import KINDS

MOST_POINTS = 5.0  # that the artifact may lose without a warning
MOST_SHARE = 0.1  # of what float has above chance, the same; the smaller of the two counts
# Without labels, decibels by which what varies in an output must exceed the artifact's difference to it. At 20 the
# differences are a tenth of the size of what varies: such a difference rarely moves a decision. Below 10 they hold more
# than a tenth of its power, where few tasks keep their accuracy. Between the two only the task's own metric tells.
GOOD_DECIBEL, LEAST_DECIBEL = 20.0, 10.0
CHANCE_RISK = 0.01  # a float accuracy that chance reaches this often is not told from chance
SAMPLING = 1.645  # standard errors (one in twenty) by which a loss must exceed what is allowed
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
    if answers.held_metric is not None:
        found = _by_metric(answers, answers.held_metric, max_drop)
        found = _with_others(found, answers) if answers.held_metric.chooses else found
    elif answers.labels:
        found = _with_others(_by_labels(answers, seen, max_drop), answers)
    elif answers.kind == "classes":
        found = _with_others(_by_agreement(answers), answers)
    else:
        found = _by_distance(answers.outputs, _choices_text(answers))
    told = answers.labels or (answers.measures.held is not None and answers.has_labels)
    if not told and found.status == "ok" and (strange := _scaling(seen)):
        # Float and artifact may agree on inputs of which neither makes anything; only labels would show it.
        found = replace(found, status="unknown", findings=(*found.findings, *strange))
    if answers.has_labels and not told and answers.kind is not None:
        shape = ", ".join(["N", *map(str, answers.shape)])
        how = "`options.metrics=map` with `options.decoder=file.py:function` compares boxes" if answers.has_boxes else \
            "`options.metrics` names what compares them"
        found = replace(found, text=f"{found.text}; labels are not compared, the outputs [{shape}] are "
                                     f"{KINDS[answers.kind]}: {how}")
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
    text = f"{told}: {lost_text(lost, '%')} (+- {answers.margin:.2f}; {size})"
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


def _by_metric(answers: Answers, metric: Metric, max_drop: float | None) -> AccuracyVerdict:
    said, unit = answers.measured[metric.name], f" {metric.unit}" if metric.unit else ""
    values, title, digits = said.values, said.title, ".2f" if metric.unit == "%" else ".6g"
    before, after = values["float"], values["artifact"]
    held = f"{title} lost from float to artifact{', points' if metric.unit == '%' else unit and f',{unit}'}"
    if before is None or after is None:
        rule = None if max_drop is None else Rule(held, "accuracy", "nothing", max_drop, False)
        return AccuracyVerdict("unknown" if rule is None else "failed", f"{title} was not measured", rule=rule)
    lost = round(metric.loss(before, after), 6)
    has = 100 - before if metric.unit == "%" and not metric.higher_is_better else abs(before)
    most = MOST_POINTS if metric.unit == "%" else math.inf
    allowed = max(0.0, min(most, MOST_SHARE * has)) if max_drop is None else max_drop
    rule = None if max_drop is None else Rule(held, "accuracy", lost, max_drop, lost <= max_drop)
    text = f"{title} {before:{digits}}{unit} (float) -> {after:{digits}}{unit} (artifact): " \
           f"{lost_text(lost, metric.unit, metric.higher_is_better)} ({answers.samples:,} samples)"
    text += "".join(f"; {stage}: {remark}" for stage, remark in said.remarks.items() if stage in ("float", "artifact"))
    nothing = metric.unit == "%" and (before <= 0 if metric.higher_is_better else before >= 100)
    if nothing and (rule is None or rule.passed):
        return AccuracyVerdict("warning", f"{text}; the float network itself has nothing right", (_NOTHING_RIGHT,),
                               allowed=max_drop, rule=rule)
    if lost <= allowed:
        return AccuracyVerdict("ok", text, allowed=round(allowed, 6), rule=rule)
    text += f", `options.max_drop` allows {max_drop:g}" if rule is not None else \
        f", more than {amount(allowed, metric.unit)}"
    why = _why_lost(values, metric.loss, metric.unit)
    return AccuracyVerdict("warning" if rule is None else "failed", text, (why,), allowed=round(allowed, 6), rule=rule)


def _with_others(found: AccuracyVerdict, answers: Answers) -> AccuracyVerdict:
    """A verdict on the first output, with the distance of all others: the worse of both."""
    others = dict(list(answers.outputs.items())[1:])
    if not others:
        return found
    rest = _by_distance(others, "")
    status = max(found.status, rest.status, key=ORDER.index)
    text = f"{found.text}; of the other outputs, {rest.text.removeprefix(_UNMEASURED)}"
    return replace(found, status=status, text=text, findings=tuple(dict.fromkeys((*found.findings, *rest.findings))))


_UNMEASURED = "by the float network's own answers, as nothing measured the task: "


def _by_agreement(answers: Answers) -> AccuracyVerdict:
    """Without labels, for an output [N, C]: the choices of float and artifact, beside the distance of its values."""
    agreement = (answers.agreement["float"].percent or 0.0) / 100
    if not answers.agreement["float"].seen:
        return AccuracyVerdict("unknown", "nothing was measured")
    common = max(answers.chosen.values()) / answers.chosen.total()
    far, _, kept = _distance(next(iter(answers.outputs.values())))
    text, kept = _UNMEASURED + _choices_text(answers), f"; the outputs {kept}"
    if common == 1:
        return AccuracyVerdict("unknown", f"{text}, but float chooses one class for everything{kept}")
    allowed = MOST_SHARE * (1 - common)
    points = round(100 * allowed, 4)
    if 1 - agreement <= allowed:
        return AccuracyVerdict("ok", f"{text}{kept}", allowed=points)
    if 1 - agreement - SAMPLING * answers.agreement_error <= allowed:
        return AccuracyVerdict("unknown", f"{text}; so few samples may err by that much{kept}", allowed=points)
    text += f", less than {100 * (1 - allowed):.2f} %{kept}"
    if far == "ok":  # the largest of an embedding's values, or of a regression's, is no choice
        return AccuracyVerdict("unknown", f"{text}; that is much only where the largest value is the answer",
                               allowed=points)
    return AccuracyVerdict("warning", text, (_few_bits(),), allowed=points)


def _choices_text(answers: Answers) -> str:
    share = answers.agreement["float"]
    where = "" if answers.kind == "classes" else f" at {share.seen:,} positions"
    return "" if share.percent is None else (
        f"float and artifact choose the same class for {share.percent:.2f} % of {answers.samples:,} samples{where}")


def _by_distance(outputs: Mapping[str, OutputDistance], choices: str) -> AccuracyVerdict:
    """The worst output decides; the least signal to noise is the worst."""
    if not outputs:
        return AccuracyVerdict("unknown", "nothing was measured")
    of_all = {name: _distance(output) for name, output in outputs.items()}
    name = max(of_all, key=lambda name: (ORDER.index(of_all[name][0]), -of_all[name][1]))
    status, _, text = of_all[name]
    bad = [name for name, found in of_all.items() if found[0] == "warning"]
    wild = [name for name in bad if not math.isfinite(outputs[name].noise["artifact"].noise)]
    subject = f"the worst of {len(outputs)} outputs is '{name}': its values" if len(outputs) > 1 else \
        f"the values of the output '{name}'"
    text = f"{_UNMEASURED}{subject} {text}" + (f"; {choices}" if choices else "")
    few = [name for name in bad if name not in wild]
    findings = [*(_not_finite(name, outputs[name]) for name in wild), *([_few_bits(few)] if few else [])]
    return AccuracyVerdict(status, text, tuple(findings))


def _distance(output: OutputDistance) -> tuple[Status, float, str]:
    """(status, decibels of what varies, what the values of an output do in words that follow them)."""
    noise = output.noise["artifact"]
    share, ratio = noise.unexplained, noise.ratio
    if not math.isfinite(noise.noise):
        return "warning", -math.inf, "are not all finite"
    kept = "equal the float network's" if noise.noise == 0 else (
        f"lie {ratio:.1f} dB above their difference to float, which is {100 * 10 ** (-ratio / 20):.2g} % of their size"
        if ratio is not None else "differ where the float network gives 0")
    if share is None:
        return "unknown", math.inf, f"{kept}, but float gives one value for everything"
    decibel = math.inf if share == 0 else -10 * math.log10(share)
    if ratio is not None and ratio - decibel > 1:  # a large constant in the output makes the signal look stronger
        kept += f" and {100 * math.sqrt(share):.2g} % of what varies in them"
    if decibel >= GOOD_DECIBEL:
        return "ok", decibel, kept
    if decibel >= LEAST_DECIBEL:
        return "unknown", decibel, f"{kept}: only a metric of the task (`options.metrics`) tells whether that matters"
    return "warning", decibel, f"{kept}: too much for most tasks"


def _tail(hits: int, samples: int, chance: float) -> float:
    """How often `samples` guesses, each right by `chance` < 1, have `hits` or more right."""
    logs = [
        math.lgamma(samples + 1) - math.lgamma(k + 1) - math.lgamma(samples - k + 1)
        + k * math.log(chance) + (samples - k) * math.log1p(-chance)
        for k in range(hits, samples + 1)
    ]
    return math.fsum(map(math.exp, logs))


# --- causes ---

_FEW_BITS, _MORE_BITS = "few bits, as this recipe calibrates them", \
    "take more bits, more of method.steps, another method, or more and other calibration images"


_NOTHING_RIGHT = Finding(
    "float", "what the float network gives has nothing to do with the targets",
    "targets of other samples or in another form, a decoder of another network, or inputs prepared otherwise than in "
    "training", "evaluate the network on these files in your own program",
)


def _few_bits(outputs: Sequence[str] = ()) -> Finding:
    """What is said where nothing else explains a loss; `outputs` are the ones at fault, where that is known."""
    where = f" at {'output' if len(outputs) == 1 else 'outputs'} {', '.join(map(repr, outputs))}" if outputs else ""
    return Finding("artifact", f"the artifact answers otherwise than the float network{where}", _FEW_BITS, _MORE_BITS)


def _not_finite(name: str, output: OutputDistance) -> Finding:
    """What is said where values of the artifact's answers, or of the float network's own, are not finite."""
    if not math.isfinite(output.noise["artifact"].signal.squares):
        return Finding("float", f"values of the float network's output '{name}' are not finite", "a root or logarithm "
                       "of numbers below 0, or a division by 0, in the network itself",
                       "mend the network, or the inputs that lead there")
    return Finding("artifact", f"values of the artifact's output '{name}' are not finite", "a root, logarithm or "
                   "division whose operand was rounded to 0 or below", "add a small number to that operand")


def _why_lost(
    values: Mapping[str, float | None], loss: Callable[[float, float], float] = float.__sub__, unit: str = "%"
) -> Finding:
    """The stage that loses most, by a metric's values and its loss from one to the next."""
    known = {name: value for name, value in values.items() if value is not None}
    lost = {after: loss(known[before], known[after]) for before, after in itertools.pairwise(known)}
    worst = max(lost, key=lambda name: lost[name])
    if worst == "reference":
        return Finding("artifact", f"{amount(lost[worst], unit)} are lost from calibrated to reference",
                       "what the target cannot hold as calibrated", "see the notes, or take another target or profile")
    if worst == "artifact":
        return Finding("artifact", f"{amount(lost[worst], unit)} are lost from reference to artifact",
                       "the files do not compute what the reference does", "see the verdict on parity")
    return Finding("artifact", f"{amount(lost[worst], unit)} are lost from float to calibrated", _FEW_BITS, _MORE_BITS)


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
