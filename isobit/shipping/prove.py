"""The proof of an artifact: its files read again, every input from integers, chosen codes by layer, all samples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import fx

from isobit.backends.device.probe import PROBE
from isobit.backends.execution.directed import direct
from isobit.backends.execution.exact import ExactArithmetic
from isobit.pipeline.artifact.manifest import PreprocessingEntry
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.graph.ports import input_names
from isobit.pipeline.graph.subgraphs import fold_constants
from isobit.pipeline.proof.arithmetic import Chosen
from isobit.pipeline.proof.gates import apply_gates
from isobit.pipeline.proof.observed import spread
from isobit.pipeline.proof.parity import ParityReport, compare
from isobit.pipeline.samples.batching import proof_batch
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.samples.network_inputs import Inputs, on_device, tensors
from isobit.pipeline.stages import Reference
from isobit.pipeline.watcher import Watcher
from isobit.result import Options
from isobit.shipping.probe import write_probe
from isobit.shipping.shipment import Shipment


def prove(
    shipment: Shipment, folder: Path, evaluation: Batches, options: Options, watcher: Watcher,
    preprocessing: PreprocessingEntry | None,
) -> ParityReport:
    """Run the artifact at every optimisation level on the evaluation data and compare it with the reference."""
    calibrated, reference, backend = shipment.calibrated, shipment.reference, shipment.backend
    quantized, device = calibrated.quantized, torch.device(options.device)
    stages = {
        "float": _on_device(quantized.captured.graph, device),
        "calibrated": _on_device(fold_constants(calibrated.graph), device),
    }
    arithmetic, sessions = backend.arithmetic(reference), {
        level: backend.open(folder, level) for level in backend.levels}
    batch = proof_batch(reference.graph, options.memory)
    report = compare(
        replace(evaluation, batch_size=batch),
        stages,
        arithmetic,
        sessions,
        gated=backend.gated_levels,
        exact=ExactArithmetic(reference),
        other_samples=options.parity_samples,
        modules=_modules(reference),
        measures=shipment.measures,
        progress=lambda samples: watcher.proving(samples, len(evaluation)),
    )
    report.integer_ops, report.reach = dict(backend.integer_ops(folder)), list(arithmetic.every_input())
    report.read_back = backend.read_back(reference, folder, preprocessing)
    session, like = sessions[backend.levels[0]], evaluation.first(1).materialize()[0]
    inputs = input_names(reference.graph)

    def keep(chosen: Chosen, digests: Mapping[str, np.ndarray]) -> None:
        write_probe(folder / PROBE, arithmetic, inputs, chosen, digests, batch)

    report.directed = direct(
        arithmetic, session, backend.pieces(folder), like, batch, keep if backend.probes else None)
    apply_gates(report)
    return report


def _modules(reference: Reference) -> dict[str, str]:
    """The layer or module of every node, by its name."""
    calls = Calls(reference.graph)
    layers = Layers(calls)
    return {call.name: layers.name(call) for call in calls}


def proof_part(evaluation: Batches, samples: int | None) -> tuple[Batches, list[str]]:
    """The evaluation samples that an emulated artifact is proven on, spread over all, and a note that says so."""
    if samples is None or samples >= len(evaluation):
        return evaluation, []
    chosen = [evaluation.order[place] for place in spread(len(evaluation), samples)]
    note = f"proven and measured on {samples} of {len(evaluation):,} samples: the artifact's processor is emulated here"
    return replace(evaluation, order=tuple(chosen)), [note]


def _on_device(graph: fx.GraphModule, device: torch.device) -> Callable[[Inputs], Inputs]:
    graph = graph if device.type == "cpu" else copy.deepcopy(graph).to(device)

    def run(x: Inputs) -> Inputs:
        with torch.no_grad():
            return graph(*tensors(on_device(x, device)))

    return run
