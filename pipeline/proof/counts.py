"""How many integers and output values were compared, and how many differ: by tensor, by boundary, by output;
and over every input that there can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from isobit.pipeline.proof.findings import Rule

# What two float32 evaluations of one operator may be apart, as a share of the range of its values; about a hundred
# times what ONNX Runtime and PyTorch were seen to differ by. 8-bit steps are 4e-3 of the range.
FLOAT_ROUNDING = 2.0**-15


Bounds = tuple[np.ndarray, np.ndarray]


def _same_bytes(expected: np.ndarray, got: np.ndarray) -> bool:
    """Two arrays of one shape hold the same bytes: the answer for nearly every tensor, before anything is counted."""
    if expected.dtype != got.dtype:
        return False
    rows = [np.ascontiguousarray(values).reshape(-1).view(np.uint8) for values in (expected, got)]
    if rows[0].size % 8 == 0:
        rows = [values.view(np.uint64) for values in rows]
    return np.array_equal(*rows)


def within_a_step(codes: np.ndarray, low: np.ndarray, high: np.ndarray) -> Bounds:
    """The part of `low ... high` that is one step from `codes` at most: what may stand right after a float operator."""
    middle = codes.astype(np.int64)
    return np.maximum(low, middle - 1), np.minimum(high, middle + 1)


@dataclass
class CodeCount:
    """How many integers were compared, how many differ, by how many steps at most."""

    compared: int = 0
    differing: int = 0
    max_lsb: int = 0

    def add(self, expected: np.ndarray, got: np.ndarray | None) -> int:
        """Count one tensor; returns how many of its codes differ. None or another shape differs everywhere."""
        self.compared += expected.size
        if got is None or expected.shape != got.shape:
            self.differing += expected.size
            return expected.size
        if _same_bytes(expected, got):
            return 0
        steps = np.abs(expected.astype(np.int64) - got.astype(np.int64))
        differing = int(np.count_nonzero(steps))
        self.differing += differing
        self.max_lsb = max(self.max_lsb, int(steps.max(initial=0)))
        return differing


@dataclass
class BoundaryCount(CodeCount):
    """Codes right after a float operator.

    Args:
        unexplained: are further off than float rounding explains.
        unsteady: are not, and yet more than one step off: differences of nearly equal numbers.
    """

    unexplained: int = 0
    unsteady: int = 0

    @property
    def wrong(self) -> int:
        return self.unexplained + self.unsteady

    def add_bounded(
        self, expected: np.ndarray, got: np.ndarray | None, low: np.ndarray, high: np.ndarray, jumps: bool = False
    ) -> None:
        """Count one tensor of which float rounding explains codes `low ... high`.

        Args:
            jumps: what is explained may be many steps off.
        """
        self.add(expected, got)
        if got is None or expected.shape != got.shape:
            self.unexplained += expected.size
            return
        beyond = (got < low) | (got > high)
        self.unexplained += int(np.count_nonzero(beyond))
        if not jumps and not _same_bytes(expected, got):
            low, high = within_a_step(expected, low, high)
            self.unsteady += int(np.count_nonzero(((got < low) | (got > high)) & ~beyond))


def _relative_error(expected: np.ndarray, got: np.ndarray) -> float:
    """The largest difference of a sample's numbers, relative to its largest magnitude; infinite ones are left out."""
    wanted, given = (np.where(np.isinf(values), 0, values).reshape(len(values), -1).astype(np.float64)
                     for values in (expected, got))
    largest = np.maximum(np.abs(wanted).max(axis=1, initial=0.0), np.finfo(np.float32).tiny)
    return float((np.abs(wanted - given).max(axis=1, initial=0.0) / largest).max(initial=0.0))


@dataclass
class FloatOutput:
    """An output that a float operator computes.

    Args:
        largest_error: relative to each sample's largest magnitude, of numbers that lie beyond their bounds.
        measured: the same of all numbers.
    """

    compared: int = 0
    largest_error: float = 0.0
    allowed: float = FLOAT_ROUNDING
    measured: float = 0.0

    def add(self, expected: np.ndarray, got: np.ndarray | None, bounds: Bounds | None = None) -> None:
        """Count one batch [N, ...]; None, another shape, and infinities that are not the same, are infinitely wrong.

        Args:
            bounds: the least and largest numbers that float rounding explains; what lies between them is right.
        """
        self.compared += expected.size
        error = beyond = float("inf")
        if got is not None and expected.shape == got.shape and _same_infinities(expected, got):
            error = beyond = _relative_error(expected, got)
            if bounds is not None:
                beyond = _relative_error(expected, np.where((bounds[0] <= got) & (got <= bounds[1]), expected, got))
        self.largest_error, self.measured = max(self.largest_error, beyond), max(self.measured, error)


@dataclass
class OutputCount:
    """One output of one session against the target's arithmetic.

    Args:
        differing: values that are not equal to the bit.
        in_float: where a float operator computes it, by how much it is off; None where every bit counts.
    """

    compared: int = 0
    differing: int = 0
    in_float: FloatOutput | None = None

    def add(
        self, expected: np.ndarray, got: np.ndarray | None, in_float: bool, bounds: Bounds | None = None
    ) -> None:
        """Count one batch [N, ...], float32; None or another shape differs everywhere. `bounds` as of `FloatOutput`."""
        self.compared += expected.size
        if got is None or expected.shape != got.shape:
            self.differing += expected.size
        else:
            self.differing += int(np.count_nonzero(expected.view(np.uint32) != got.view(np.uint32)))
        if in_float:
            self.in_float = self.in_float or FloatOutput()
            self.in_float.add(expected, got, bounds)

    @property
    def wrong(self) -> bool:
        """A value is not equal to the bit, or further off than float rounding where a float operator computes it."""
        return bool(self.differing) if self.in_float is None else not self.in_float.largest_error <= FLOAT_ROUNDING

    def to_json(self) -> dict[str, Any]:
        """As in `parity.json`; null stands for an error that is not finite, JSON has no infinity."""
        found = self.in_float
        error = None if found is None or not np.isfinite(found.largest_error) else found.largest_error
        told = None if found is None else {"compared": found.compared, "largest_error": error, "allowed": found.allowed}
        return {"compared": self.compared, "differing": self.differing, "float_output": told}


Over = Literal["sums", "pairs", "codes", "numbers", "itself", "nothing"]


@dataclass(frozen=True)
class Reach:
    """One tensor over every input that there can be: does the target's arithmetic give the mathematics' codes?

    Args:
        name: of the tensor.
        over: what was gone through: integer `sums` between their bounds, `pairs` of codes, `codes` of one tensor, all
            finite float32 `numbers` of an input; `itself` where the target's arithmetic is the mathematics; `nothing`
            where it cannot be said.
        inputs, parting: how many there are, and to how many the two give different codes.
        max_lsb: by how many codes at most.
        why: it cannot be said.
        digest: SHA-256 of the target's thresholds, or of its table of codes.
        bound: the largest magnitude that an integer sum of its layer or pool can reach; None where nothing is summed.
        limit: what such a sum may reach in the target's kernels.
    """

    name: str
    over: Over
    inputs: int = 0
    parting: int = 0
    max_lsb: int = 0
    why: str = ""
    digest: str = ""
    bound: int | None = None
    limit: int | None = None

    @property
    def verdict(self) -> Literal["equal", "parts", "open"]:
        """`equal` for every input, `parts` on some, or `open`."""
        return "open" if self.over == "nothing" else "parts" if self.parting else "equal"

    def to_json(self) -> dict[str, Any]:
        """As in `parity.json`: what says nothing is left out."""
        told: dict[str, Any] = {"verdict": self.verdict, "over": self.over}
        if self.inputs:
            told |= {"inputs": self.inputs, "parting": self.parting, "max_lsb": self.max_lsb, "digest": self.digest}
        return told | ({"why": self.why} if self.why else {}) | ({} if self.bound is None else {"bound": self.bound})


SHOWN = 0.5  # share of its codes that every tensor is to have shown on chosen codes


@dataclass(frozen=True)
class Directed:
    """What an artifact's kernels gave for samples and codes that were chosen to show it.

    Args:
        samples: how many.
        layers: each layer was run on chosen codes by itself; else the network as a whole on chosen inputs.
        codes: of all quantized tensors.
        wrong: codes, values and roundings of float operators that are not what the target's arithmetic gives.
        first: the first tensor or output with such a one.
        shown: which share of its codes each tensor has shown.
        reason: why there are none, or none of layers by themselves, where that is so.
        unsteady: codes after float operators that rounding alone moves by more than a step: nothing is known of them.
    """

    samples: int = 0
    layers: bool = False
    codes: CodeCount = field(default_factory=CodeCount)
    wrong: int = 0
    first: str | None = None
    shown: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    unsteady: int = 0

    @property
    def hidden(self) -> list[str]:
        """Tensors that have shown less than the share `SHOWN` of their codes."""
        return [name for name, share in self.shown.items() if share < SHOWN]

    @property
    def text(self) -> str:
        """In one line."""
        if not self.samples:
            return f"none: {self.reason}"
        how = "each layer by itself" if self.layers else "the network as a whole"
        how += f" ({self.reason})" if self.reason else ""
        differ = f"{self.wrong:,} differ, first in {self.first}" if self.wrong else "none differs"
        hidden = f"; {len(self.hidden)} of {len(self.shown)} tensors showed less than {SHOWN:.0%} of their codes"
        few = hidden if self.hidden else ""
        few += f"; of {self.unsteady:,} rounding alone decides more than a step" if self.unsteady else ""
        return f"{self.codes.compared:,} codes of {self.samples} chosen samples, {how}: {differ}{few}"

    @property
    def rules(self) -> list[Rule]:
        """What the build is held to; none where there are none."""
        if not self.samples:
            return []
        how = "each layer by itself" if self.layers else "the network as a whole"
        text = f"no code or output differs on {self.samples} samples that were chosen to show the kernels, {how}"
        return [Rule(text, "parity", self.wrong, 0, self.wrong == 0 and self.codes.compared > 0)]

    def to_json(self) -> dict[str, Any]:
        """Its part of `parity.json`."""
        shown = {name: round(share, 4) for name, share in self.shown.items()}
        return {"samples": self.samples, "layers": self.layers, "codes": asdict(self.codes), "wrong": self.wrong,
                "first": self.first, "shown": shown, "reason": self.reason, "unsteady": self.unsteady,
                "text": self.text}


def _same_infinities(expected: np.ndarray, got: np.ndarray) -> bool:
    """Nothing is not a number, and what is infinite (1 / 0) is so in both: those are the same answer."""
    ends = np.isinf(expected) | np.isinf(got)
    return not np.isnan(got).any() and bool((expected[ends] == got[ends]).all())
