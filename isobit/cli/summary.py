"""What a build or a dry run has to say, as lines for a person and as one JSON object for a script; no terminal here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isobit.fields import in_options
from isobit.pipeline.artifact.digest import PREDICTOR, RUNNER
from isobit.pipeline.artifact.manifest import Manifest, RecipeEntry
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.errors import CompileError, ExitCode
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.proof.outputs import output_kind
from isobit.pipeline.proof.parity import ParityReport
from isobit.pipeline.proof.verdicts import distances, float_kernels, kernels_text, level_note, reach_text, steps
from isobit.pipeline.recipe.allocation import Allocation
from isobit.pipeline.recipe.extension import changed
from isobit.pipeline.recipe.plain_yaml import parse_yaml
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Captured, EpochLog, Quantized, UnitLog

SHOWN_REASONS = 5
SHOWN_LAYERS = 4
SHOWN_OUTPUTS = 8
LONGEST_EDIT = 60


def build_lines(
    folder: Path, manifest: Manifest, parity: ParityReport, model_file: str, device_needs: str,
    firmware: Sequence[str] = (), latency: Latency | None = None,
) -> list[str]:
    """The final screen below the verdicts: accuracies and what each step cost, kernels, size, place, next step.

    Args:
        folder: where the artifact stands; for a failed gate the `-failed` one.
        device_needs: what the folder needs on the device.
        firmware: files that are compiled into a firmware instead.
        latency: of one inference on this machine, where it was measured.
    """
    made = [_row("recipe", _recipe_text(manifest.recipe)),
            _row("target", f"{manifest.target.name}, profile {manifest.target.profile}")]
    data = [] if manifest.calibration is None else [_row("calibration", manifest.calibration.text)]
    lines = ["", *made, *data, *_accuracy_lines(parity), *_measured_lines(parity), *_distance_lines(parity), "",
             *_level_lines(parity)]
    divergence = parity.to_json()["first_divergence"]
    if divergence is not None:
        lines.append(_row("first in", f"{divergence['tensor']} ({divergence['module'] or 'no module'})"))
    reached = reach_text(parity)
    lines += [_row("every input", reached)] if reached else []
    lines += _kernel_lines(parity.integer_ops)
    lines += [] if parity.read_back is None else [_row("read back", parity.read_back.text)]
    lines += [] if parity.directed is None else [_row("directed", parity.directed.text)]
    sizes = manifest.sizes
    lines.append(_row("size", f"{sizes['model']:,} bytes in {model_file}, weight codes alone "
                              f"{sizes['weights_packed']:,}"))
    further = [f"{name} {value:,}" for name, value in sizes.items() if name not in ("model", "weights_packed")]
    lines += [_row("", f"bytes on the device: {', '.join(further)}")] if further else []
    lines += [] if latency is None else [_row("latency", latency.text), _row("", latency.where)]
    lines.append(_row("artifact", str(folder)))
    if parity.passed and (folder / RUNNER).is_file():
        lines.append(_row("next", f"python {folder / RUNNER}"))
        if (folder / PREDICTOR).is_file():
            lines.append(_row("", f"python {folder / PREDICTOR} picture.jpg"))
        copied = f"copy the folder to the device; it needs {device_needs} there"
        lines.append(_row("", f"add {' and '.join(firmware)} to the firmware" if firmware else copied))
    elif not parity.passed:
        lines.append(_row("next", f"look at {folder / 'parity.json'} and {folder / 'report.md'}"))
    return lines


def _recipe_text(recipe: RecipeEntry) -> str:
    edits = [edit for edit in changed(Recipe.model_validate(parse_yaml(recipe.text))) if not edit.startswith("policy=")]
    shown_edits = [edit if len(edit) <= LONGEST_EDIT else edit.partition("=")[0] + "=..." for edit in edits]
    return "; ".join([f"{recipe.name}, bit policy {recipe.policy}", *shown_edits])


def allocation_lines(allocation: Allocation) -> list[str]:
    """Which layers got how many bits, and what that costs beside the same bits everywhere; two lines."""
    layers: dict[int, list[str]] = {}
    for path in allocation.sensitivities:
        layers.setdefault(allocation.bits[path], []).append(path or "(the network itself)")
    average = f"{allocation.average:.2f} bits on average over {len(allocation.sensitivities)} layers"
    return [
        f"{average}, {allocation.chosen.bytes:,} bytes; omega {allocation.chosen.omega:.3g} nats",
        "; ".join(f"{bits} bits: {_some(names)}" for bits, names in sorted(layers.items())),
    ]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_LAYERS} more" if len(names) > SHOWN_LAYERS else ""
    return ", ".join(names[:SHOWN_LAYERS]) + more


def _row(label: str, text: str) -> str:
    return f"  {label:<11} {text}".rstrip()


def _accuracy_lines(parity: ParityReport) -> list[str]:
    found = steps(parity)
    if parity.accuracy["float"] is None:
        return []  # the verdict on accuracy says what was measured instead
    lines = []
    for row in found.rows:
        cost = "" if row.change is None else found.change(row.change)
        lines.append(_row(row.stage, f"{found.number(row.value):>8} {cost:>7}  {row.cause}"))
    return lines


def _measured_lines(parity: ParityReport) -> list[str]:
    return [_row("measured", said.text) for said in parity.measured.values()]


def _distance_lines(parity: ParityReport) -> list[str]:
    said = [f"{name}: {text}" for name, text in distances(parity).items()]
    more = [f"{len(said) - SHOWN_OUTPUTS} more outputs, see report.md"] if len(said) > SHOWN_OUTPUTS else []
    shown = [*said[:SHOWN_OUTPUTS], *more]
    return [_row("to float" if place == 0 else "", text) for place, text in enumerate(shown)]


def _level_lines(parity: ParityReport) -> list[str]:
    lines = []
    for level in parity.levels:
        codes = level.codes
        text = f"{codes.differing:,} of {codes.compared:,} differ at level '{level.level}'{level_note(level)}"
        lines.append(_row("" if lines else "codes", text))
    edges = parity.deployed.boundaries.values()
    if edges:
        moved, compared = sum(edge.differing for edge in edges), sum(edge.compared for edge in edges)
        lines.append(_row("", f"after float operators {moved:,} of {compared:,} moved, "
                              f"{parity.deployed.unexplained:,} more than float rounding explains, "
                              f"{parity.deployed.unsteady:,} by rounding alone more than a step"))
    return lines


def _kernel_lines(integer_ops: dict[str, Any]) -> list[str]:
    lines = [_row("kernels", kernels_text(integer_ops))]
    reasons = float_kernels(integer_ops)
    lines += [_row("", reason) for reason in reasons[:SHOWN_REASONS]]
    if len(reasons) > SHOWN_REASONS:
        lines.append(_row("", f"float: {len(reasons) - SHOWN_REASONS} more, see report.md"))
    return lines


def build_json(
    folder: Path, manifest: Manifest, parity: ParityReport, notes: Sequence[str], log: Iterable[UnitLog],
    seconds: float, trainings: Mapping[str, Sequence[EpochLog]] | None = None, latency: Latency | None = None,
) -> dict[str, Any]:
    """The `--json` summary of a build: the content of `parity.json` and what it was made from.

    Args:
        trainings: epochs of what was trained as a whole, by what that was.
    """
    return {
        "exit_code": int(ExitCode.OK if parity.passed else ExitCode.GATE_FAILED),
        "passed": parity.passed,
        "folder": str(folder),
        "model": manifest.model.name,
        "recipe": manifest.recipe.name,
        "policy": manifest.recipe.policy,
        "target": manifest.target.name,
        "profile": manifest.target.profile,
        "seed": manifest.seed,
        "calibration": None if manifest.calibration is None else manifest.calibration.model_dump(),
        "trainings": {title: [asdict(epoch) for epoch in epochs] for title, epochs in (trainings or {}).items()},
        "sizes": manifest.sizes,
        "notes": [in_options(note) for note in notes],
        "units_kept_nearest": [unit.title for unit in log if unit.kept_nearest],
        "seconds": round(seconds, 1),
        "latency": None if latency is None else latency.model_dump(),
        **parity.to_json(),
    }


def error_json(error: CompileError) -> dict[str, Any]:
    """The `--json` summary of a run that ended with an error."""
    return {
        "exit_code": int(error.exit_code),
        "passed": False,
        "error": {
            "stage": error.stage, "field": error.field, "what": in_options(error.what),
            "where": in_options(error.where), "allowed": in_options(error.allowed), "do": in_options(error.hint),
        },
    }


def plan_json(
    quantized: Quantized, placement: Sequence[PlacementRow], notes: Sequence[str], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """The `--json` summary of a dry run.

    Args:
        expected: how long calibration will take.
    """
    return {
        "exit_code": int(ExitCode.OK),
        "dry_run": True,
        "recipe": quantized.recipe.name,
        "policy": quantized.recipe.policy,
        "target": quantized.target.name,
        "profile": quantized.target.profile,
        "input_shape": list(quantized.captured.input_shape),
        "classes": class_count(quantized.captured),
        "units": [{"name": unit.name, "kind": unit.kind, "why": unit.why} for unit in quantized.units],
        "cut": None if quantized.cut is None else quantized.cut.to_json(),
        "expected": dict(expected),
        "placement": [row.to_json() for row in placement],
        "notes": [in_options(note) for note in notes],
    }


def class_count(captured: Captured) -> int | None:
    """Between how many classes the first output chooses; None where it is no [N, C]."""
    return captured.num_classes if output_kind(captured.output_shape) == "classes" else None


def outputs_text(captured: Captured) -> str:
    """`10 classes`, or the outputs with their shapes."""
    count = class_count(captured)
    if count is not None and len(captured.output_shapes) == 1:
        return f"{count} classes"
    return "outputs " + ", ".join(f"{name} {list(shape[1:])}" for name, shape in captured.output_shapes.items())


def placement_counts(placement: Sequence[PlacementRow]) -> str:
    """`20 operators in integers, 1 in float`; those that move codes or quantize the input count as neither."""
    runs = [row.runs for row in placement if row.op != "quantize"]
    return f"{runs.count('integer')} operators in integers, {runs.count('float')} in float"


def float_lines(placement: Sequence[PlacementRow]) -> list[str]:
    """One line for each operator that stays in float, with its place and reason."""
    return [
        f"{row.module or row.name} ({row.op}{', ' + row.source if row.source else ''}): {row.note}"
        for row in placement if row.runs == "float"
    ]
