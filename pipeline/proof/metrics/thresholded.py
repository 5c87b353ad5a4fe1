"""F1 and intersection over union of what lies above a threshold: for maps of text, notes of audio, labels that overlap.

Every value of an output says yes where it is `threshold` or more; of a target, where it is above 0. With several
outputs the worst counts, or the one that `output` names. Without targets, what the float network says yes to stands for
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from isobit.pipeline.errors import InputError
from isobit.pipeline.proof.metrics import Outputs, as_array, first_output, metric


class Thresholded:
    """Counts of where outputs and targets say yes.

    Attributes:
        name: the metric's.
        both, given, wanted: by output name, how often a stage and the target say yes together, and each of them.
    """

    name: str

    def __init__(self, threshold: float = 0.5, output: str = "") -> None:
        self._threshold, self._output = threshold, output
        self.both: dict[str, int] = {}
        self.given: dict[str, int] = {}
        self.wanted: dict[str, int] = {}

    def share(self, both: int, given: int, wanted: int) -> float:
        """The number of one output, 0 to 1; `given` or `wanted` is above 0."""
        raise NotImplementedError

    def update(self, outputs: Outputs, target: Any) -> None:
        """Count one batch.

        Args:
            outputs: [N, ...] by name.
            target: of the shape of the first output, or of the one that is named; or for each sample a dictionary of
                such by output name.

        Raises:
            InputError: there is no such output, or the targets have other shapes.
        """
        for name, wanted in self._targets(outputs, target).items():
            given = outputs[name] >= self._threshold
            if wanted.shape != given.shape:
                raise InputError(
                    f"targets of shape {list(wanted.shape)} are compared with the output '{name}' of shape "
                    f"{list(given.shape)}", field="evaluation", allowed="targets of the output's shape")
            for counts, found in ((self.both, given & wanted), (self.given, given), (self.wanted, wanted)):
                counts[name] = counts.get(name, 0) + int(np.count_nonzero(found))

    def answer(self, outputs: Outputs) -> dict[str, np.ndarray]:
        """Where each output says yes."""
        return {name: outputs[name] >= self._threshold for name in self._names(outputs)}

    def compute(self) -> float | None:
        """In percent, of the worst output; None where neither side ever says yes."""
        found = [self.share(self.both[name], self.given[name], self.wanted[name])
                 for name in self.both if self.given[name] or self.wanted[name]]
        return round(100 * min(found), 4) if found else None

    def _names(self, outputs: Outputs) -> list[str]:
        if self._output and self._output not in outputs:
            raise InputError(f"the network has no output '{self._output}'", field="options.metrics",
                             allowed=f"output={' or '.join(outputs)}")
        return [self._output] if self._output else list(outputs)

    def _targets(self, outputs: Outputs, target: Any) -> dict[str, np.ndarray]:
        """Yes or no by output name."""
        names = self._names(outputs)
        if isinstance(target, dict):  # float's answers
            return {name: target[name] for name in names}
        if isinstance(target, list) and target and isinstance(target[0], Mapping):
            known = [name for name in names if name in target[0]]
            if not known:
                raise InputError(f"no target has the name of an output; they are {', '.join(map(str, target[0]))}",
                                 field="evaluation", allowed=", ".join(names))
            return {name: as_array([one[name] for one in target], self.name) > 0 for name in known}
        if not self._output and len(names) > 1:
            names = [next(name for name in names if outputs[name] is first_output(outputs))]
        wanted = as_array(target, self.name) > 0
        shape = outputs[names[0]].shape
        same = [size for size in wanted.shape if size != 1] == [size for size in shape if size != 1]
        return {names[0]: wanted.reshape(shape) if same else wanted}


@metric("f1", "F1 of what is above the threshold", unit="%", answers="answers")
class F1(Thresholded):
    """The harmonic mean of precision and recall, over all values."""

    name = "f1"

    def share(self, both: int, given: int, wanted: int) -> float:
        """2 hits over all that either says."""
        return 2 * both / (given + wanted)


@metric("iou", "intersection over union above the threshold", unit="%", answers="answers")
class Iou(Thresholded):
    """What both say yes to over what either does."""

    name = "iou"

    def share(self, both: int, given: int, wanted: int) -> float:
        """Hits over what either says."""
        return both / (given + wanted - both)
