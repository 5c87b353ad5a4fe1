"""What a frozen network loses, on evaluation samples, or on calibration samples that no calibration sees."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import fx

from isobit.analyze import Subject
from isobit.calib.methods import check_batch
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.ports import output_names
from isobit.pipeline.graph.subgraphs import fold_constants
from isobit.pipeline.proof.answers import Answers
from isobit.pipeline.proof.drop import STAGES, Drop, measured_drop
from isobit.pipeline.proof.metrics import Outputs
from isobit.pipeline.samples.arrays import Targets, targets_at
from isobit.pipeline.samples.batching import evaluation_batch
from isobit.pipeline.samples.network_inputs import Inputs, copied, in_numpy, on_device, part, run_graph, sample_count
from isobit.pipeline.stages import Reference

KEPT = 0.25  # of the memory of a batch: the float network's answers, which no trial changes


class Judge:
    """Measures what a frozen network loses, always on the same samples."""

    def __init__(self, subject: Subject, inputs: Inputs | None, targets: Targets | None) -> None:
        self._subject, self._inputs, self._targets = subject, inputs, targets
        self._device = torch.device(subject.options.device)
        teacher = subject.quantized.captured.graph
        self._float = teacher if self._device.type == "cpu" else copy.deepcopy(teacher).to(self._device)
        self._size = evaluation_batch(subject.quantized.graph, subject.options.memory)
        self._known: list[Outputs] = []  # the float network's answers, of the first batches
        self._room = subject.options.memory * KEPT

    @property
    def samples(self) -> int:
        """How many."""
        evaluation = self._subject.evaluation
        return sample_count(self._inputs) if self._inputs is not None else len(evaluation or ())

    def check(self) -> None:
        """Raises InputError where nothing says what a drop is: the outputs are numbers, and no metric is named."""
        if self._subject.measures.held is None and self._measure(self._float, most=1) is None:
            raise InputError(
                "nothing says what a drop of this network is: its outputs are numbers, no choice between classes",
                field="options.max_drop", hint="Name a metric that compares with the targets (`options.metrics`).",
            )

    def drop(self, reference: Reference) -> Drop:
        """What `reference` loses."""
        found = self._measure(fold_constants(reference.graph).to(self._device))
        if found is None:
            raise InputError("the metric gives no number for these samples", field="options.metrics")
        return found

    @torch.no_grad()
    def _measure(self, graph: fx.GraphModule, most: int | None = None) -> Drop | None:
        answers = Answers(STAGES, self._subject.measures)
        for place, (x, target) in enumerate(self._batches()):
            if most is not None and place >= most:
                break
            x = on_device(x, self._device)
            if place == len(self._known) and self._room > 0:
                self._known.append(outputs := self._outputs(self._float, x))
                self._room -= sum(value.nbytes for value in outputs.values())
            known = self._known[place] if place < len(self._known) else None
            # Copies: metrics of others may write into what they get.
            teacher = self._outputs(self._float, x) if known is None else {key: of.copy() for key, of in known.items()}
            given = teacher if graph is self._float else self._outputs(graph, x)
            answers.add(dict(zip(STAGES, (teacher, given), strict=True)), target)
        return measured_drop(answers)

    def _outputs(self, graph: fx.GraphModule, x: Inputs) -> Outputs:
        values = run_graph(graph, copied(x))
        return dict(zip(output_names(self._float), map(in_numpy, values), strict=True))

    def _batches(self) -> Iterator[tuple[Inputs, Targets | None]]:
        if self._inputs is None:
            if self._subject.evaluation is not None:
                yield from replace(self._subject.evaluation, batch_size=self._size)
            return
        for start in range(0, sample_count(self._inputs), self._size):
            rows = slice(start, start + self._size)
            yield part(self._inputs, rows), None if self._targets is None else self._targets[rows]


def hold_back(subject: Subject) -> tuple[Subject, Judge]:
    """(the subject with the samples that calibration may see, what judges it).

    Without an evaluation set every second calibration sample is held back from sensitivities and calibrations.

    Raises:
        InputError: a single calibration sample and no evaluation set; nothing says what a drop is.
    """
    if subject.evaluation is not None:
        judge = Judge(subject, None, None)
    else:
        count = sample_count(subject.images)
        if count < 2:
            raise InputError("one calibration sample cannot be halved to measure a drop", field="evaluation",
                             hint="Give samples to measure it on.")
        kept, held = list(range(0, count, 2)), list(range(1, count, 2))
        judge = Judge(subject, part(subject.images, held), targets_at(subject.targets, held))
        labels = None if subject.labels is None else subject.labels[kept]
        targets = targets_at(subject.targets, kept)
        subject = replace(subject, images=part(subject.images, kept), targets=targets, labels=labels)
        check_batch(subject.quantized.recipe, len(kept))
    judge.check()
    return subject, judge
