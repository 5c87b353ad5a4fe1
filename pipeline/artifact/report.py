"""`report.md`: what was built, what it computes, what it costs; for a person who has to decide whether to ship it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from isobit.pipeline.artifact.manifest import Manifest, TensorEntry, packed_bytes
from isobit.pipeline.graph.placement import PlacementRow
from isobit.pipeline.proof.parity import ParityReport
from isobit.pipeline.proof.verdicts import (
    distances,
    float_kernels,
    headlines,
    kernels_text,
    level_note,
    reach_text,
    steps,
)
from isobit.pipeline.quant.grids import grid_kind
from isobit.pipeline.recipe.allocation import Allocation, budget_text
from isobit.pipeline.stages import EpochLog, UnitLog

_TEMPLATE = Path(__file__).parent / "report.md.j2"
PICTURES = "calibration.png"
EPOCH_ROWS = 22  # the first, the last, and twenty between them
FRONTIER = "frontier.svg"
_BREAKS = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]+")
_MARKUP = re.compile(rf"{_BREAKS.pattern}|[`|*<>\\&]|\]\(|^_.*_$")


def render_report(
    manifest: Manifest, parity: ParityReport, placement: Sequence[PlacementRow], log: Sequence[UnitLog],
    notes: Sequence[str], trainings: Mapping[str, Sequence[EpochLog]] | None = None,
    allocation: Allocation | None = None,
) -> str:
    """Markdown of one build.

    Args:
        manifest: with its file table filled in.
        placement: in execution order.
        log: one entry per reconstructed unit.
        notes: what the build has to tell (projected grids, advice of the target).
        trainings: epochs of what was trained as a whole, by what that was.
        allocation: of weight bits, where the recipe has a budget; `FRONTIER` lies beside the report then.
    """
    environment = jinja2.Environment(trim_blocks=False, autoescape=False, undefined=jinja2.StrictUndefined)
    environment.filters |= {"cell": cell, "one_line": one_line}
    calibration = manifest.calibration
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        manifest=manifest,
        parity=parity,
        moved=parity.moved_by_requantization,
        headlines=headlines(parity),
        steps=steps(parity),
        choices=any(level.top1_agreement is not None for level in parity.levels),
        level_note=level_note,
        reach=reach_text(parity),
        open=_open(parity),
        kernels=kernels_text(parity.integer_ops),
        float_kernels=float_kernels(parity.integer_ops),
        distances=distances(parity),
        calibration="none" if calibration is None else calibration.text,
        pictures=PICTURES if PICTURES in manifest.files else None,
        trainings={title: _epoch_table(epochs) for title, epochs in (trainings or {}).items() if epochs},
        notes=notes,
        files=sorted(manifest.files.items()),
        levels=_levels(manifest.tensors),
        placement=placement,
        log=log,
        allocation=allocation,
        budget=None if allocation is None else budget_text(allocation.budget),
        omegas=_chosen_omegas(allocation),
        frontier=FRONTIER if FRONTIER in manifest.files else None,
        packages=", ".join(f"{name} {version}" for name, version in sorted(manifest.packages.items())),
    )


def one_line(text: str) -> str:
    """A text without line breaks and other control characters."""
    return _BREAKS.sub(" ", text)


def cell(name: str) -> str:
    """A name of the user's, for a cell of a table or a line: in backticks where Markdown would read marks in it."""
    if not _MARKUP.search(name):
        return name
    runs = [len(run) for run in re.findall("`+", name)]
    fence = "`" * (max(runs, default=0) + 1)
    inside = one_line(name).replace("|", r"\|")
    return f"{fence} {inside} {fence}" if runs else f"{fence}{inside}{fence}"


def _chosen_omegas(allocation: Allocation | None) -> dict[str, str]:
    """Omega of the open layers at the bits that they got."""
    if allocation is None:
        return {}
    return {path: f"{known[allocation.bits[path]]:.3g}" for path, known in allocation.sensitivities.items()}


def _open(parity: ParityReport) -> dict[str, list[str]]:
    """Tensors of which nothing can be said for every input, by the reason."""
    found: dict[str, list[str]] = {}
    for one in parity.reach:
        if one.verdict == "open":
            found.setdefault(one.why, []).append(one.name)
    return found


def _levels(tensors: Sequence[TensorEntry]) -> list[str]:
    """What each kind of grid really costs, in sentences; none where all are uniform."""
    lines = []
    for kind in sorted({entry.levels for entry in tensors}):
        entries = [entry for entry in tensors if entry.levels == kind and entry.kind != "bias"]
        sizes = [(entry.count if entry.count is not None else entry.elements) or 0 for entry in entries]
        average = sum(entry.bits * size for entry, size in zip(entries, sizes, strict=True)) / max(1, sum(sizes))
        lines.append(grid_kind(kind).cost(len(entries), average, sum(sizes), packed_bytes(entries)))
    return [line for line in lines if line]


def _epoch_table(epochs: Sequence[EpochLog]) -> dict[str, Any]:
    """Head and rows of at most `EPOCH_ROWS` epochs, evenly spread; a measure that an epoch lacks is left empty."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.measured))
    count = min(len(epochs), EPOCH_ROWS)
    shown = [epochs[round(place * (len(epochs) - 1) / max(count - 1, 1))] for place in range(count)]
    rows = [
        [str(epoch.number), str(epoch.steps),
         *(f"{epoch.measured[name]:.4g}" if name in epoch.measured else "" for name in names)]
        for epoch in shown
    ]
    return {"head": ["epoch", "steps", *names], "rows": rows}
