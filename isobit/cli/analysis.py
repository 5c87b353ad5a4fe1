"""What an analysis has to say: tables of the worst layers and tensors for a person, one JSON object for a script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isobit.analyze import Analysis, LayerRow
from isobit.cli.tables import Row
from isobit.fields import in_options
from isobit.pipeline.errors import ExitCode
from isobit.pipeline.recipe.extension import set_text
from isobit.search import Search


def layer_table(analysis: Analysis, most: int) -> tuple[tuple[str, ...], list[Row]]:
    """(names of the columns, a row for each of the worst layers)."""
    at = analysis.shown_bits[0]
    rows = analysis.worst_layers()[:most]
    drops = [row.effects[at].drop for row in rows]
    unit = next((drop.unit for drop in drops if drop is not None), None)
    columns = ("layer", "operator", "weights", f"dB: weight at {at}", f"input at {at}", "together",
               *(f"answers at {bits}" for bits in analysis.bits), *(() if unit is None else (f"lost at {at}, {unit}",)))
    return columns, [Row(_layer_cells(row, at, analysis.bits, unit is not None)) for row in rows]


def _layer_cells(row: LayerRow, at: int, bits: Sequence[int], counted: bool) -> tuple[str, ...]:
    effect = row.effects[at]
    lost = () if not counted else ("" if effect.drop is None else f"{effect.drop.lost:.2f}",)
    losses = (f"{row.effects[width].loss:.2g}" if width in row.effects else "" for width in bits)
    return (row.name or "(the network itself)", row.op, f"{row.weights:,}", _decibel(effect.snr_weights),
            _decibel(effect.snr_activations), _decibel(effect.snr), *losses, *lost)


def tensor_table(analysis: Analysis, most: int) -> tuple[tuple[str, ...], list[Row]]:
    """The same of the worst activations."""
    at = analysis.shown_bits[1]
    columns = ("activation", "of layer", f"dB at {at}", *(f"answers at {bits}" for bits in analysis.bits))
    return columns, [
        Row((row.name, row.layer or "(no layer)", _decibel(row.effects[at].snr),
             *(f"{row.effects[bits].loss:.2g}" if bits in row.effects else "" for bits in analysis.bits)))
        for row in analysis.worst_tensors()[:most]
    ]


def heading(analysis: Analysis) -> list[str]:
    """What the tables are about."""
    quantized, (weights, activations) = analysis.quantized, analysis.shown_bits
    target = quantized.target
    return [
        f"{quantized.recipe.name} on {target.name} ({target.profile}): {len(analysis.layers)} layers and "
        f"{len(analysis.tensors)} activations, each alone in the float network, {analysis.samples} samples",
        f"worst first: layers at {weights} bits with an input at {quantized.recipe.activations.bits}, activations at "
        f"{activations}; 'answers' is how far the network's outputs move (nats of a class output, else a share of "
        "their power)",
    ]


def analysis_json(analysis: Analysis, seconds: float) -> dict[str, Any]:
    """Everything that was measured: layers and activations in execution order, effects by bits."""
    quantized = analysis.quantized
    return {
        "exit_code": int(ExitCode.OK),
        "recipe": quantized.recipe.name,
        "target": quantized.target.name,
        "profile": quantized.target.profile,
        "samples": analysis.samples,
        "bits": list(analysis.bits),
        "ranked": {"layers": [row.name for row in analysis.worst_layers()],
                   "tensors": [row.name for row in analysis.worst_tensors()]},
        "layers": [
            {"name": row.name, "node": row.node, "op": row.op, "weights": row.weights, "macs": row.macs,
             "at": {str(bits): _finite(asdict(effect)) for bits, effect in row.effects.items()}}
            for row in analysis.layers
        ],
        "tensors": [
            {"name": row.name, "layer": row.layer,
             "at": {str(bits): _finite(asdict(effect)) for bits, effect in row.effects.items()}}
            for row in analysis.tensors
        ],
        "notes": [in_options(note) for note in analysis.notes],
        "seconds": round(seconds, 1),
    }


def search_lines(found: Search, saved: Path | None) -> list[str]:
    """What a search found, below the tables: each trial, the best, and what to do with it."""
    on = f"{found.samples:,} {'calibration samples that were held back' if found.held_back else 'evaluation samples'}"
    verdict = f"FOUND: {found.best.bytes:,} bytes of weight codes" if found.passed else \
        f"NOTHING PASSES: the best of {len(found.trials)} trials is {found.best.bytes:,} bytes of weight codes"
    measured = ", ".join(f"{bits} bits {time:.3f}" for bits, time in found.latencies.items())
    alike = len(set(found.latencies.values())) == 1
    times = [f"  milliseconds with all weights at {measured}{': bits change no time here' if alike else ''}; measured "
             "in turns, as it is deployed, a layer's part by its multiply-accumulates"] if measured else []
    return [
        "", f"{verdict}; {found.best.drop.text}, on {on}; {found.max_drop:g} may be lost",
        *(f"  trial {place}: {trial.text}" for place, trial in enumerate(found.trials, start=1)),
        *times,
        "  the choice was made on these samples: on others the drop may be another",
        "  activations have 8 bits, the most of every target: they are bytes however few bits they have",
        f"  as options: {set_text(found.recipe)}",
        f"  next: the same command as `isobit build`, with --recipe {saved}"
        + (", which calibrates on all samples, these too" if found.held_back else ""),
    ]


def search_json(found: Search, saved: Path | None) -> dict[str, Any]:
    """The same for a script."""
    return {
        "exit_code": int(ExitCode.OK if found.passed else ExitCode.GATE_FAILED),
        "search": {
            "passed": found.passed, "max_drop": found.max_drop, "samples": found.samples,
            "held_back": found.held_back, "minimize": found.minimize,
            "latencies_ms": {str(bits): time for bits, time in found.latencies.items()},
            "best": _finite(asdict(found.best)),
            "trials": [_finite(asdict(trial)) for trial in found.trials],
            "recipe": str(saved), "recipe_text": found.recipe.to_yaml(), "set": set_text(found.recipe),
        },
    }


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
