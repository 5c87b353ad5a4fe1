"""`isobit compare`: artifacts side by side on one page, in the style of `report.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isobit.pages import charts
from isobit.pages.artifact import Artifact, open_artifact
from isobit.pages.environment import MOST_BYTES, render
from isobit.pages.layers import Row, layer_rows
from isobit.pages.report import MARKS, number, tiles
from isobit.pipeline.artifact.timings import Latency, read_latency
from isobit.pipeline.errors import InputError
from isobit.pipeline.recipe.plain_yaml import parse_yaml

BRAND = "Isobit comparison"
LEAST, MOST = 2, 8  # artifacts on a page


@dataclass(frozen=True)
class Cell:
    """What one artifact has of a layer; nothing where it has none."""

    row: Row | None
    differs: bool

    @property
    def bits(self) -> str:
        """`W4 A8`, or where it runs instead."""
        return "–" if self.row is None else self.row.bits


def compare_page(folders: Sequence[Path]) -> str:
    """The page; of large networks layers are left out to keep to `MOST_BYTES`, verdicts and what differs never.

    Raises:
        InputError: too few or too many folders, or one that is no artifact.
    """
    if not LEAST <= len(folders) <= MOST:
        raise InputError(f"{len(folders)} artifact(s) are given", field="artifacts",
                         allowed=f"{LEAST} to {MOST} folders", hint="isobit compare artifacts/a artifacts/b")
    artifacts = [open_artifact(folder) for folder in folders]
    latencies = latency_bars([read_latency(folder) for folder in folders])
    rows, text = [layer_rows(artifact) for artifact in artifacts], ""
    for most in (None, 1500, 300):
        text = render("compare.html.j2", **_facts(artifacts, rows, most), latencies=latencies)
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _facts(artifacts: Sequence[Artifact], rows: Sequence[Sequence[Row]], most: int | None) -> dict[str, Any]:
    names = titles(artifacts)
    layers = side_by_side(rows)
    ratios = [[row.ratio for row in one if row.output is not None] for one in rows]
    sizes = [artifact.manifest.sizes.get("model", 0) for artifact in artifacts]
    largest = max([1, *sizes, *(artifact.facts.network.bytes for artifact in artifacts)])
    return {
        "brand": BRAND, "names": names, "marks": MARKS, "artifacts": artifacts,
        "tiles": list(zip(*(tiles(artifact) for artifact in artifacts), strict=False)) if _alike(artifacts) else [],
        "columns": [column(artifact) for artifact in artifacts], "stages": stages(artifacts),
        "accuracies": accuracies(artifacts), "warnings": warnings(artifacts, names),
        "recipes": recipe_differences([artifact.manifest.recipe.text for artifact in artifacts]),
        "sizes": [{"name": name, "bytes": size, "float": artifact.facts.network.bytes,
                   "width": round(100 * size / largest, 2)}
                  for name, size, artifact in zip(names, sizes, artifacts, strict=True)],
        "layers": layers[:most], "left_out": len(layers) - len(layers[:most]),
        "differing": sum(any(cell.differs for cell in cells) for _, cells in layers),
        "profile": charts.profile(ratios, [row.name for row in rows[0] if row.output is not None]),
    }


def _alike(artifacts: Sequence[Artifact]) -> bool:
    """Their tiles are of the same numbers."""
    return len({tuple(tile["title"] for tile in tiles(artifact)) for artifact in artifacts}) == 1


def titles(artifacts: Sequence[Artifact]) -> list[str]:
    """Names of the folders; numbered where two are the same."""
    names = [artifact.name for artifact in artifacts]
    return [name if names.count(name) == 1 else f"{name} ({place})" for place, name in enumerate(names, start=1)]


def column(artifact: Artifact) -> list[tuple[str, str]]:
    """What an artifact was made of."""
    manifest = artifact.manifest
    calibration = "none" if manifest.calibration is None else manifest.calibration.text
    return [("model", manifest.model.name), ("recipe", manifest.recipe.name), ("bit policy", manifest.recipe.policy),
            ("target", f"{manifest.target.name} ({manifest.target.profile})"), ("calibration", calibration),
            ("seed", str(manifest.seed)), ("samples", f"{artifact.proof.samples:,}"),
            ("evaluation data, SHA-256", artifact.facts.evaluation.sha256[:16])]


def warnings(artifacts: Sequence[Artifact], names: Sequence[str]) -> list[str]:
    """What makes numbers of these artifacts no fair comparison; nothing where all were judged alike."""
    found = []
    same = {artifact.facts.evaluation.sha256 for artifact in artifacts}
    if len(same) > 1:
        first = artifacts[0].facts.evaluation.sha256
        others = ", ".join(name for name, one in zip(names, artifacts, strict=True)
                           if one.facts.evaluation.sha256 != first)
        found.append(f"Not judged on the samples of {names[0]}: {others}. Accuracies cannot be compared.")
    if len({artifact.facts.steps.title for artifact in artifacts if artifact.facts.steps.rows}) > 1:
        found.append("Judged by different metrics: compare each with its own float value alone.")
    if len({artifact.manifest.model.sha256 for artifact in artifacts}) > 1:
        found.append("Made of different models.")
    return found


def accuracies(artifacts: Sequence[Artifact]) -> list[dict[str, Any]]:
    """A bar an artifact of its last stage beside its float value, all from 0; none where their units differ."""
    steps = [artifact.facts.steps for artifact in artifacts]
    if len({(found.title, found.unit) for found in steps}) > 1:
        return []
    known = [{row.stage: row.value for row in found.rows} for found in steps]
    values = [(one.get("float"), one.get("artifact")) for one in known]
    most = max((value for pair in values for value in pair if value is not None), default=0.0)
    if most <= 0 or any(value is not None and value < 0 for pair in values for value in pair):
        return []
    unit = steps[0].unit
    return [{"float": number(before, unit), "value": number(after, unit), "width": round(100 * (after or 0) / most, 2),
             "mark": None if before is None else round(100 * before / most, 2),
             "change": "" if before is None or after is None else f"{after - before:+.2f}"} for before, after in values]


def latency_bars(found: Sequence[Latency | None]) -> list[dict[str, Any]]:
    """A bar an artifact of its milliseconds, None where its build measured none; none at all where no build did."""
    most = max((max(one.artifact_ms, one.float_ms) for one in found if one is not None), default=0.0)
    return [] if not most else [
        {"found": one, "width": 0 if one is None else round(100 * one.artifact_ms / most, 2)} for one in found]


def recipe_differences(texts: Sequence[str]) -> list[tuple[str, list[str | None]]]:
    """Fields in which recipes differ, by their path, with the value of each; None where it has no such field."""
    known = [dict(_fields("", _content(text))) for text in texts]
    order = dict.fromkeys(path for fields in known for path in fields)
    return [(path, [fields.get(path) for fields in known]) for path in order
            if len({fields.get(path) for fields in known}) > 1]


def _content(text: str) -> Any:
    """A recipe's fields; the text as one field where it cannot be read."""
    try:
        return parse_yaml(text)
    except ValueError:
        return {"recipe": text}


def _fields(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inside in value.items():
            yield from _fields(f"{path}.{key}" if path else f"{key}", inside)
    else:
        yield path, value if isinstance(value, str) else json.dumps(value, default=str)


def stages(artifacts: Sequence[Artifact]) -> list[tuple[str, list[str]]]:
    """Rows of accuracies; each artifact's number is its own, with its unit."""
    order = list(dict.fromkeys(row.stage for artifact in artifacts for row in artifact.facts.steps.rows))
    found = []
    for stage in order:
        values = []
        for artifact in artifacts:
            known = {row.stage: row.value for row in artifact.facts.steps.rows}
            values.append(number(known.get(stage), artifact.facts.steps.unit))
        found.append((stage, values))
    return found


def side_by_side(rows: Sequence[Sequence[Row]]) -> list[tuple[str, list[Cell]]]:
    """Every layer that any artifact has, by name and operator, in execution order, with a cell an artifact."""
    known = [dict(_keyed(one)) for one in rows]
    order = list(dict.fromkeys(key for one in known for key in one))
    found = []
    for key in order:
        here = [one.get(key) for one in known]
        kinds = [None if row is None else (row.node.weight, row.node.output, row.node.runs) for row in here]
        found.append((key[0], [Cell(row, kind != kinds[0]) for row, kind in zip(here, kinds, strict=True)]))
    return found


def _keyed(rows: Sequence[Row]) -> list[tuple[tuple[str, int], Row]]:
    """By name, and how many of that name came before."""
    seen: dict[str, int] = {}
    found = []
    for row in rows:
        seen[row.name] = seen.get(row.name, -1) + 1
        found.append(((row.name, seen[row.name]), row))
    return found
