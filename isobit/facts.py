"""What a build leaves for pages: `facts.json`, made of what calibration kept and of a few samples run once more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from isobit.backends.network import network_nodes
from isobit.calib.cost import network_cost
from isobit.pipeline.artifact.manifest import PreprocessingEntry
from isobit.pipeline.errors import first_line
from isobit.pipeline.facts.record import (
    FACTS,
    MOST,
    EvaluationFacts,
    Facts,
    FloatFacts,
    FrontierFacts,
    PointFacts,
    SampleFacts,
    StageFacts,
    StepsFacts,
    UnitFacts,
    Verdict,
)
from isobit.pipeline.facts.samples import SAMPLES, Reader, sample_facts
from isobit.pipeline.facts.tensors import tensor_facts
from isobit.pipeline.graph.ends.predictions import gives_scores
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.proof.arithmetic import Runner
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.proof.parity import ParityReport
from isobit.pipeline.proof.verdicts import headlines, steps
from isobit.pipeline.recipe.allocation import Allocation, Point, budget_text
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.decoder import Decoder
from isobit.pipeline.samples.network_inputs import Inputs, copied, in_numpy, part, run_graph, sample_count, tensors
from isobit.pipeline.stages import Calibrated, Reference, UnitLog

MOST_POINTS = 400  # of a frontier that is drawn
MOST_VALUES = 20_000_000  # that the tensors of all samples that are looked at may have together


@dataclass(frozen=True)
class Shown:
    """What a page is made from.

    Args:
        samples: that parity was proven on.
        session: of the artifact, at the level that is deployed.
        outputs: names of the network's outputs.
        decoder: that was named; None where none was.
        command: words of the command line that repeats the build; none for a build from Python.
    """

    calibrated: Calibrated
    reference: Reference
    parity: ParityReport
    samples: Batches
    session: Runner
    outputs: Sequence[str]
    preprocessing: PreprocessingEntry | None
    allocation: Allocation | None
    decoder: Decoder | None
    notes: Sequence[str]
    command: Sequence[str]


def write_facts(shown: Shown, folder: Path) -> None:
    """Write `facts.json` into `folder`."""
    reference = shown.reference
    captured, calls = reference.quantized.captured, reference.quantized.calls
    answers = shown.parity.answers
    changed = answers.changed if answers is not None and answers.kind == "classes" else None
    if changed and max(changed) >= len(shown.samples):
        changed = None  # a sample has several rows of answers
    places = shown_places(changed or (), len(shown.samples))
    batches = shown.samples.select(places)
    inputs, _ = batches.materialize()
    few = part(inputs, slice(_affordable(reference, sample_count(inputs))))
    stored = [*captured.graph.parameters(), *captured.graph.buffers()]
    facts = Facts(
        command=list(shown.command),
        verdicts=[Verdict.model_validate({"name": line.name, "status": line.status, "title": line.title,
                                          "text": line.text, "details": list(line.details)})
                  for line in headlines(shown.parity)],
        steps=_steps(shown.parity),
        notes=list(shown.notes),
        network=FloatFacts(parameters=sum(tensor.numel() for tensor in stored),
                           bytes=sum(tensor.numel() * tensor.element_size() for tensor in stored),
                           macs=network_cost(Layers(calls)).macs),
        evaluation=EvaluationFacts(samples=len(shown.samples), sha256=shown.samples.sha256,
                                   labelled=shown.samples.labels is not None),
        changed=None if changed is None else len(changed),
        samples_seen=sample_count(few),
        nodes=network_nodes(reference.graph, reference.quantized.target, reference.quantized.units),
        tensors=tensor_facts(reference, few),
        units=[_unit(unit) for unit in shown.calibrated.log],
        frontier=None if shown.allocation is None else frontier_facts(shown.allocation),
        samples=_samples(shown, batches, inputs, places),
    )
    (folder / FACTS).write_text(facts.to_json(), encoding="utf-8")


def shown_places(changed: Sequence[int], samples: int) -> list[int]:
    """Places of the `SAMPLES` samples that are shown, at most half of them `changed` ones, the others evenly spread."""
    first = [changed[place] for place in spread(len(changed), SAMPLES // 2)] if changed else []
    others = [place for place in spread(samples, SAMPLES) if place not in first]
    kept = min(len(others), SAMPLES - len(first))
    return [*first, *(others[place] for place in spread(len(others), kept))] if kept else first


def _affordable(reference: Reference, count: int) -> int:
    """How many of the samples are run twice: fewer where a sample's tensors are large."""
    values = network_cost(Layers(reference.quantized.calls)).values
    return max(1, min(count, int(MOST_VALUES // max(1.0, values))))


def _steps(parity: ParityReport) -> StepsFacts:
    found = steps(parity)
    held = None if parity.answers is None else parity.answers.held_metric
    return StepsFacts(
        title=found.title, unit=found.unit, higher_is_better=held is None or held.higher_is_better,
        rows=[StageFacts(stage=row.stage, value=_drawn(row.value), change=_drawn(row.change), cause=row.cause)
              for row in found.rows],
    )


def _drawn(number: float | None) -> float | None:
    return number if number is not None and abs(number) <= MOST else None


def _unit(unit: UnitLog) -> UnitFacts:
    return UnitFacts(name=unit.name, nearest=_finite(unit.loss_nearest), hard=_finite(unit.loss_hard),
                     kept_nearest=unit.kept_nearest, undecided=min(1.0, max(0.0, unit.undecided)))


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def frontier_facts(allocation: Allocation) -> FrontierFacts | None:
    """What of a frontier can be drawn; None where the chosen point cannot, or no other."""
    places = dict.fromkeys([*spread(len(allocation.frontier), MOST_POINTS), len(allocation.frontier) - 1])
    points = [drawn for place in places if (drawn := _point(allocation.frontier[place])) is not None]
    chosen = _point(allocation.chosen)
    if chosen is None or not points:
        return None
    omegas = {path: known[allocation.bits[path]] for path, known in allocation.sensitivities.items()}
    return FrontierFacts(
        budget=budget_text(allocation.budget), points=points, chosen=chosen,
        uniform={bits: drawn for bits, at in allocation.uniform.items() if (drawn := _point(at)) is not None},
        omegas={path: omega for path, omega in omegas.items() if _drawn(omega) is not None},
    )


def _point(point: Point) -> PointFacts | None:
    omega = _drawn(point.omega)
    return None if omega is None else PointFacts(bytes=point.bytes, omega=omega)


def attempted(path: Path, write: Callable[[], None]) -> list[str]:
    """Notes: none where `write` made the file, else why the artifact is without it.

    A file that only shows what was proven fails no build; a disk that cannot be written does.
    """
    try:
        write()
    except OSError:
        raise
    except Exception as error:
        path.unlink(missing_ok=True)
        return [f"{path.name} is not written: {first_line(error)}"]
    return []


def _samples(shown: Shown, batches: Batches, inputs: Inputs, places: Sequence[int]) -> list[SampleFacts]:
    """The samples with both answers."""
    first = tensors(inputs)[0]
    record = shown.preprocessing
    names = shown.samples.classes if record is None else record.classes
    sides = first.shape[2:] if first.dim() == 4 else (0, 0)
    height, width = sides if record is None else (record.height, record.width)
    before, after = [], []
    for place in range(sample_count(inputs)):
        one = part(inputs, slice(place, place + 1))
        before.append(_float_outputs(shown, one))
        results = shown.session.run(one)
        after.append({name: results[name] for name in shown.outputs})
    scored = {name for name, scores in gives_scores(shown.reference.quantized.graph).items() if scores}
    reader = Reader(names, shown.decoder, (int(height), int(width)), scored)
    return sample_facts(batches, places, before, after, reader)


def _float_outputs(shown: Shown, sample: Inputs) -> Mapping[str, np.ndarray]:
    with torch.no_grad():
        found = run_graph(shown.reference.quantized.captured.graph, copied(sample))
    return {name: in_numpy(value) for name, value in zip(shown.outputs, found, strict=True)}
