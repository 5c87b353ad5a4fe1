"""Samples as pictures, curves or numbers, with what the float network and the artifact say of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from isobit.pipeline.facts.record import Answer, Box, SampleFacts, Scored
from isobit.pipeline.proof.metrics.signal_to_noise import Noise
from isobit.pipeline.proof.outputs import output_kind
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.decoder import Decoder

SAMPLES = 8  # that a page shows
LEAST_SIDE = 8  # of an input that is taken for a picture
LARGE = 64  # pixels of a side from which a picture is stored as JPEG
MOST_SIDE = 320  # of a stored picture
QUALITY = 82
TOP = 3
LEAST_SCORE, MOST_BOXES = 0.5, 40
LONGEST_TEXT = 400
LEAST_CURVE, CURVE = 16, 240  # values of a signal that is drawn, and points of its curve
FIRST_VALUES = 12

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Reader:
    """How outputs are told to people.

    Args:
        names: of the classes; None where nobody gave any.
        decoder: of boxes or texts; None where there is none.
        size: (height, width) of the network's input, for the decoder.
        scored: names of the outputs that are scores; of others a softmax makes them.
    """

    names: Sequence[str] | None
    decoder: Decoder | None
    size: tuple[int, int]
    scored: Collection[str] = ()

    def answer(self, outputs: Outputs) -> Answer:
        """What outputs [1, ...] say; nothing where they are numbers without a choice."""
        if self.decoder is not None:
            found = self.decoder({name: array[0] for name, array in outputs.items()}, self.size)
            if isinstance(found, str):
                return Answer(text=found[:LONGEST_TEXT].encode(errors="replace").decode())
            return Answer(boxes=self._boxes(found.boxes, found.scores, found.labels))
        name, first = next(iter(outputs.items()))
        choice = output_kind(first.shape) == "classes"
        return Answer(classes=self._classes(first[0], name in self.scored)) if choice else Answer()

    def name(self, label: int) -> str:
        """What a class is called."""
        return self.names[label] if self.names is not None and 0 <= label < len(self.names) else f"class {label}"

    def _classes(self, values: np.ndarray, scored: bool) -> list[Scored]:
        """The likeliest, with their scores as they are, or with shares after softmax."""
        values = values.astype(np.float64)
        order = np.argsort(-values, kind="stable")[:TOP]
        if not np.isfinite(values).all():
            return [Scored(index=int(label), label=self.name(int(label)), share=None) for label in order]
        shares = values
        if not scored:
            shares = np.exp(values - values.max())
            shares /= shares.sum()
        return [Scored(index=int(label), label=self.name(int(label)), share=round(float(shares[label]), 4))
                for label in order]

    def _boxes(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> list[Box]:
        """The surest of them; corners as shares of the input's sides, cut off at its edges."""
        kept = [int(place) for place in np.argsort(-scores, kind="stable") if LEAST_SCORE <= scores[place] < np.inf]
        sides = np.array([self.size[1], self.size[0]] * 2, np.float64)
        shares = np.clip(np.nan_to_num(boxes.astype(np.float64)) / sides, 0, 1).round(4)
        return [Box(corners=shares[place].tolist(), label=self.name(int(labels[place])),
                    score=round(float(scores[place]), 3)) for place in kept[:MOST_BOXES]]


def sample_facts(
    batches: Batches, places: Sequence[int], before: Sequence[Outputs], after: Sequence[Outputs], reader: Reader
) -> list[SampleFacts]:
    """One entry a sample.

    Args:
        batches: the samples, few.
        places: where each stands among all.
        before, after: outputs [1, ...] by name for each sample, of the float network and of the artifact.
    """
    found = []
    for place, (was, now) in enumerate(zip(before, after, strict=True)):
        labels, noise = batches.labels, Noise()
        for name, array in was.items():
            noise.add(now[name], array)
        truth = None if labels is None or reader.decoder is not None else int(labels[place])
        found.append(SampleFacts(
            place=places[place], **_drawn(batches.pixels(place)), truth_index=truth,
            truth=None if truth is None else reader.name(truth),
            before=reader.answer(was), after=reader.answer(now), difference=noise.ratio,
        ))
    return found


def _drawn(values: Tensor) -> dict[str, Any]:
    """What of a sample is shown: a picture, a curve, or its first numbers."""
    picture = as_picture(values)
    if picture is not None:
        kind, data = _encoded(picture)
        return {"kind": kind, "data": data, "width": picture.width, "height": picture.height}
    curve = as_curve(values)
    if curve:
        return {"kind": "curve", "data": "", "curve": curve, "width": 0, "height": 0}
    first = ", ".join(f"{value:.4g}" for value in values.flatten()[:FIRST_VALUES].tolist())
    return {"kind": "values", "data": first + (", ..." if values.numel() > FIRST_VALUES else ""), "width": 0,
            "height": 0}


def as_curve(values: Tensor) -> list[int]:
    """A signal of one channel, least to greatest value 0 to 1000, `CURVE` numbers at most: of longer ones the ends of
    each part. Empty where it is none: integers, too few values, several channels.
    """
    line = values.flatten()
    if not values.is_floating_point() or max(values.shape, default=0) != len(line) or len(line) < LEAST_CURVE:
        return []
    line = torch.nan_to_num(line.double())
    if len(line) > CURVE:
        parts = torch.tensor_split(line, CURVE // 2)
        line = torch.stack([end for part in parts for end in (part.min(), part.max())])
    low, high = float(line.min()), float(line.max())
    return ((line - low) / max(high - low, 1e-30) * 1000).round().clamp(0, 1000).int().tolist()


def as_picture(values: Tensor) -> Image.Image | None:
    """A sample as a picture, spread over its own range where it leaves 0 to 1; None where it is none."""
    if values.dim() != 3 or not values.numel():
        return None
    if values.shape[0] not in (1, 3) and values.shape[2] in (1, 3):
        values = values.permute(2, 0, 1)
    if values.shape[0] not in (1, 3) or min(values.shape[1:]) < LEAST_SIDE:
        return None
    values = torch.nan_to_num(values.float())
    low, high = float(values.min()), float(values.max())
    if low < 0 or high > 1:
        values = (values - low) / max(high - low, 1e-30)
    pixels = (values * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def _encoded(picture: Image.Image) -> tuple[Literal["png", "jpeg"], str]:
    """Its form and its bytes in base64: JPEG for pictures that are large, made smaller where they are larger still."""
    factor = MOST_SIDE / max(picture.size)
    if factor < 1:
        size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
    large, written = min(picture.size) >= LARGE, io.BytesIO()
    if large:
        picture.save(written, format="JPEG", quality=QUALITY)
    else:
        picture.save(written, format="PNG", optimize=True)
    return "jpeg" if large else "png", base64.b64encode(written.getvalue()).decode()
