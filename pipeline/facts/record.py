"""`facts.json`: what a page shows of an artifact and neither the manifest nor `parity.json` holds.

Signal-to-noise ratios and histograms of every tensor, the network's steps and what each reads, what reconstruction did,
the frontier of bits, sample pictures with both networks' answers. Two builds with one seed on one machine give the same
bytes. A page is drawn from this file, the manifest and the proof alone.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from isobit.pipeline.artifact.reading import read_bounded
from isobit.pipeline.errors import InputError

FACTS = "facts.json"
FORM = 3  # of the file: raised when a field is added, moved or gone; a reader refuses another

MOST = 1e39  # of a number that is drawn: float32 has none beyond
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Code = Annotated[int, Field(ge=-(2**32), le=2**32)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Verdict(_Frozen):
    """A headline of `pipeline.proof.verdicts`, with the sentences below it."""

    name: str
    status: Literal["ok", "unknown", "warning", "failed"]
    title: str
    text: str
    details: list[str]


class StageFacts(_Frozen):
    """One stage of the waterfall; `value` and `change` in `StepsFacts.unit`, None where nothing is known."""

    stage: str
    value: Number | None
    change: Number | None
    cause: str


class StepsFacts(_Frozen):
    """The stages from float to artifact, by the number that judges the build; no rows where none does."""

    title: str
    unit: str
    higher_is_better: bool
    rows: list[StageFacts]


class FloatFacts(_Frozen):
    """The float network: `parameters` with its buffers, the bytes that they take, multiply-accumulates a sample."""

    parameters: int
    bytes: int
    macs: float


class Histogram(_Frozen):
    """How the float values of a tensor lie on its grid.

    Args:
        low, high: ends, in codes; what lies beyond is counted in the first and last bin.
        heights: of equally wide bins, the highest being 1000.
    """

    low: Number
    high: Number
    heights: list[Annotated[int, Field(ge=0, le=1000)]] = Field(min_length=1, max_length=512)


class TensorFacts(_Frozen):
    """One quantized tensor.

    Args:
        own: decibel; the float values' power over that of the error which this tensor's grid alone makes.
        network: the same of an activation in the frozen network, where all before it is quantized as well.
        flipped: share of a weight's codes that are not the nearest ones, at the scale at which they were rounded.
        clipped: share of the values beyond the ends of the grid.
        qmin, qmax: ends of the grid, in codes.
        least, most: of the float values.
    """

    name: str
    kind: Literal["weight", "activation"]
    own: Number | None
    network: Number | None
    flipped: Share | None
    clipped: Share | None
    qmin: Code
    qmax: Code
    least: Number | None
    most: Number | None
    histogram: Histogram | None


class NodeFacts(_Frozen):
    """A step of the network, as the placement table has it.

    Args:
        reads: names of the steps whose values it reads.
        weight_tensor: name of its weight in the tables.
        unit: that calibration optimised it in.
        shape: of its value for one sample.
    """

    name: str
    module: str
    op: str
    runs: Literal["integer", "layout", "float"]
    weight: str | None
    output: int | None
    grid: str | None
    note: str
    source: str
    reads: list[str]
    weight_tensor: str | None
    unit: str | None
    shape: list[int | None]


class UnitFacts(_Frozen):
    """What reconstruction did to a unit: its loss on the calibration samples with nearest rounding, and as learned;
    `undecided` is the share of its rounding variables that training left between both codes.
    """

    name: str
    nearest: float | None
    hard: float | None
    kept_nearest: bool
    undecided: Share


class PointFacts(_Frozen):
    """Bytes of all weight codes, and the sum of sensitivities in nats."""

    bytes: Annotated[int, Field(ge=0, le=2**60)]
    omega: Number


class FrontierFacts(_Frozen):
    """What a budget of bits could be spent on; `uniform` by bits, `omegas` of the open layers at their bits."""

    budget: str
    points: list[PointFacts] = Field(min_length=1)
    chosen: PointFacts
    uniform: dict[int, PointFacts]
    omegas: dict[str, float]


class Scored(_Frozen):
    """A class, and how sure the network is: a share after softmax, or the score that the network itself gives."""

    index: Annotated[int, Field(ge=0)]  # two classes may have one label
    label: str
    share: float | None


class Box(_Frozen):
    """What a decoder found; corners as shares of width and height."""

    corners: list[Share] = Field(min_length=4, max_length=4)
    label: str
    score: float


class Answer(_Frozen):
    """What one network says of a sample: classes, boxes or a text, whichever it gives."""

    classes: list[Scored] = []
    boxes: list[Box] = []
    text: str | None = None


class SampleFacts(_Frozen):
    """A sample as far as it can be shown, and what both networks say.

    Args:
        place: among the samples that parity was proven on, from 0.
        kind: `png` or `jpeg`, a picture, `data` in base64; `curve`, a signal along its last axis, `curve` from the
            least to the greatest value, 0 to 1000; `values`, anything else, `data` the first numbers as a text.
        width, height: of the network's input where it is a picture; 0 else.
        truth: the label's name, where it is known.
        truth_index: the label.
        difference: decibel; the float outputs' power over that of the artifact's difference to them.
    """

    place: Annotated[int, Field(ge=0)]
    kind: Literal["png", "jpeg", "curve", "values"]
    data: str
    curve: list[Annotated[int, Field(ge=0, le=1000)]] = Field(default=[], max_length=1000)
    width: int
    height: int
    truth: str | None
    truth_index: int | None
    before: Answer
    after: Answer
    difference: float | None

    @property
    def is_picture(self) -> bool:
        """`data` is a picture."""
        return self.kind in ("png", "jpeg")

    @property
    def changed(self) -> bool:
        """The artifact gives another answer than float: another likeliest class, other boxes by label, another text."""
        if self.before.classes and self.after.classes:
            return self.before.classes[0].index != self.after.classes[0].index
        labels = [sorted(box.label for box in side.boxes) for side in (self.before, self.after)]
        return labels[0] != labels[1] or self.before.text != self.after.text

    def right(self, side: Answer) -> bool | None:
        """Whether a side's likeliest class is the label; None where there is no label or no class."""
        return None if self.truth_index is None or not side.classes else side.classes[0].index == self.truth_index

    @model_validator(mode="after")
    def _holds_a_picture(self) -> SampleFacts:
        if self.is_picture and not re.fullmatch(r"[A-Za-z0-9+/]*={0,2}", self.data):
            raise ValueError("a picture's data is no base64")
        return self


class EvaluationFacts(_Frozen):
    """What parity was proven and accuracy measured on; `sha256` as `Batches.sha256`, whatever the order."""

    samples: int
    sha256: str
    labelled: bool


class Facts(_Frozen):
    """The file; `samples_seen` is how many samples the tensors were measured on, `changed` how many got another class
    from the artifact than from float, None where outputs are no choice between classes.
    """

    form: Literal[3] = FORM
    command: list[str]
    verdicts: list[Verdict]
    steps: StepsFacts
    notes: list[str]
    network: FloatFacts
    evaluation: EvaluationFacts
    changed: int | None
    samples_seen: int
    nodes: list[NodeFacts]
    tensors: list[TensorFacts]
    units: list[UnitFacts]
    frontier: FrontierFacts | None
    samples: list[SampleFacts]

    def to_json(self) -> str:
        """One line: equal facts give equal bytes."""
        return self.model_dump_json() + "\n"


def read_facts(folder: Path) -> Facts:
    """The facts of the artifact in `folder`; raises InputError where there are none that can be read."""
    path = folder / FACTS
    try:
        return Facts.model_validate_json(read_bounded(path))
    except FileNotFoundError as error:
        raise InputError(
            f"the artifact has no {FACTS}", where=str(folder), field="artifact",
            hint="Build it again: the release that made it did not write what a page shows.",
        ) from error
    except (OSError, ValidationError) as error:
        raise InputError(f"no facts that can be read: {str(error).splitlines()[0]}", where=str(path), field="artifact",
                         hint="Build it again: another release wrote the file, or it is damaged.") from error
