"""What a build is held to, what is found wrong with it, and the verdict on its accuracy: plain values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "unknown", "warning", "failed"]
ORDER: tuple[Status, ...] = ("ok", "unknown", "warning", "failed")
Subject = Literal["calibration", "evaluation", "float", "artifact"]
KEPT = 100  # differences that are told one by one


def amount(difference: float, unit: str) -> str:
    """A difference of two numbers in this unit, without its sign: `0.92 points` of a percentage, `0.3 dB`."""
    return f"{abs(difference):.2f} points" if unit == "%" else f"{abs(difference):.4g}{f' {unit}' if unit else ''}"


def lost_text(lost: float, unit: str, higher_is_better: bool = True) -> str:
    """What became of a metric, in words: `0.92 points lost`, `0.02 points gained`, `3.00 points more` of errors.

    Args:
        lost: negative where it became better.
    """
    shown = amount(lost, unit)
    better = lost < 0 and shown != amount(0.0, unit)
    return f"{shown} {('gained' if better else 'lost') if higher_is_better else ('less' if better else 'more')}"


@dataclass(frozen=True)
class Rule:
    """What a build is held to.

    Args:
        rule: in words.
        of: the verdict that it belongs to.
        measured, allowed: numbers; `measured` is a word where there is no finite one.
    """

    rule: str
    of: Literal["parity", "accuracy"]
    measured: float | str
    allowed: float
    passed: bool

    @property
    def text(self) -> str:
        """In one line."""
        gain = " (a gain)" if self.of == "accuracy" and isinstance(self.measured, float) and self.measured < 0 else ""
        return f"{self.rule}: measured {self.measured}{gain}, allowed {self.allowed}"


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


@dataclass(frozen=True)
class Difference:
    """One field of the files that is not what it must be.

    Args:
        layer: name of the layer, or of the module or tensor; empty for the file as a whole.
        field: which of its fields.
        found, expected: what stands there, and what must.
    """

    layer: str
    field: str
    found: str
    expected: str

    @property
    def text(self) -> str:
        """In one line."""
        layer = f"{self.layer}: " if self.layer else ""
        return f"{layer}{self.field} is {self.found}, must be {self.expected}"


@dataclass(frozen=True)
class ReadBack:
    """Whether the files say what the reference says.

    Args:
        operators, constants: how many were read.
        differences: none where every field is as it must be.
        unread: kinds of operators of which only the edges were compared.
        reason: why nothing was read, where nothing was.
    """

    operators: int = 0
    constants: int = 0
    differences: tuple[Difference, ...] = ()
    unread: tuple[str, ...] = ()
    reason: str = ""

    @property
    def text(self) -> str:
        """In one line, for people."""
        if self.reason:
            return f"not read back: {self.reason}"
        read = f"{self.operators:,} operators, {self.constants:,} constants"
        if self.differences:
            return f"{read}, {len(self.differences):,} fields differ: {self.differences[0].text}"
        apart = f"; not read back: {', '.join(self.unread)}" if self.unread else ""
        return f"{read}, every field{' read' if apart else ''} as the reference says{apart}"

    @property
    def rules(self) -> list[Rule]:
        """What the build is held to; none where nothing was read."""
        if self.reason:
            return []
        first = f" ({self.differences[0].text})" if self.differences else ""
        *others, last = self.unread or ("",)
        kinds = f"{', '.join(others)} and {last}" if others else last
        apart = f" but those of {kinds}" if kinds else ""
        text = f"every field of the files{apart} is what the reference says must stand there{first}"
        return [Rule(text, "parity", len(self.differences), 0, not self.differences)]

    def to_json(self) -> dict[str, Any]:
        """Its part of `parity.json`."""
        return {**asdict(self), "differences": [asdict(each) for each in self.differences[:KEPT]],
                "differing": len(self.differences), "text": self.text}
