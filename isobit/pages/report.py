"""`report.html`: one artifact on one page, drawn from the folder alone."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isobit.pages import charts
from isobit.pages.artifact import Artifact, Proof, open_artifact
from isobit.pages.environment import MOST_BYTES, render, size_text
from isobit.pages.graph import HEIGHT, WIDTH, draw_network
from isobit.pages.layers import BEST, GRADES, Row, layer_rows
from isobit.pipeline.artifact.digest import RUNNER
from isobit.pipeline.artifact.manifest import Manifest, packed_bytes
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.facts.record import SampleFacts, StepsFacts, TensorFacts
from isobit.pipeline.facts.samples import LEAST_SCORE

BRAND = "Isobit report"
PAGE = "report.html"
MARKS = {"ok": "✓", "unknown": "?", "warning": "!", "failed": "✗"}
FIRST_CARDS = 8
FALLS = 5
FLASH = "flash"  # of `sizes`: all that is stored on a microcontroller
SHORT = 12  # letters of a class that fits beside a small picture


@dataclass(frozen=True)
class Limits:
    """What a page leaves out to keep its size; None for nothing.

    Args:
        histograms: how many, the noisiest ones.
        steps: of a network that is drawn at most.
        rows: of the table of layers.
        samples: how many, changed ones first.
    """

    histograms: int | None = None
    steps: int | None = None
    rows: int | None = None
    samples: int | None = None


FEWER = (Limits(), Limits(200, 1500), Limits(60, 400, 1200), Limits(12, 0, 300), Limits(0, 0, 100, 0))


def write_page(folder: Path, manifest: Manifest | None = None) -> None:
    """Write `report.html` into the artifact `folder`.

    Args:
        manifest: where none is written yet.
    """
    (folder / PAGE).write_text(report_page(open_artifact(folder, manifest)), encoding="utf-8")


def report_page(artifact: Artifact, latency: Latency | None = None) -> str:
    """The page, of at most `MOST_BYTES` where steps, tensors and samples are what makes it large: the least telling are
    left out, samples last. Hashes, notes, the recipe and bits by layer always stand there.

    Args:
        latency: that the build measured; None in the artifact itself, whose files are the same for equal builds.
    """
    text = ""
    for limits in FEWER:
        text = render("report.html.j2", **_facts(artifact, limits), latency=latency, latency_rows=latency_bars(latency))
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _facts(artifact: Artifact, limits: Limits) -> dict[str, Any]:
    manifest, facts, proof = artifact.manifest, artifact.facts, artifact.proof
    rows = layer_rows(artifact)
    cards = histogram_cards(artifact, rows)
    shown = cards[:limits.histograms]
    links = {card["tensor"].name: card["id"] for card in shown}
    table = [_linked(row, links) for row in rows[:limits.rows]]
    samples = ordered(facts.samples)[:limits.samples]
    boxed = any(one.before.boxes or one.after.boxes for one in samples)
    labels = sorted({box.label for one in samples for box in (*one.before.boxes, *one.after.boxes)})
    return {
        "brand": BRAND, "m": manifest, "f": facts, "proof": proof, "marks": MARKS,
        "box_width": WIDTH, "box_height": HEIGHT,
        "grades": GRADES, "best": BEST, "least_score": LEAST_SCORE,
        "calibration": "none" if manifest.calibration is None else manifest.calibration.text,
        "tiles": tiles(artifact), "stages": stages(facts.steps), "start": f"{charts.waterfall_start(facts.steps):,.6g}",
        "distances": distances(proof),
        "sizes": sizes(artifact), "runner": RUNNER in manifest.files,
        "rows": table, "learned": any(row.after is not None for row in rows),
        "kinds": sorted({row.node.runs for row in rows}),
        "reasons": [(name, str(why)) for name, why in proof.integer_ops.reasons.items()],
        "cards": shown, "first": FIRST_CARDS,
        "left_out": len(cards) - len(shown), "steps": len(rows),
        "frontier": None if facts.frontier is None or manifest.allocation is None else charts.frontier(facts.frontier),
        "samples": samples, "boxed": boxed, "box_labels": labels, "named": any(
            len(one.label) > SHORT for sample in samples for one in sample.before.classes),
        "drawing": draw_network(rows) if limits.steps is None or len(rows) <= limits.steps else None,
        "profile": profile(rows), "worst": falls(rows),
        "command": command_text(facts.command),
        "hashes": hashes(manifest),
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(manifest.packages.items())),
    }


def distances(proof: Proof) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    """(stages, every output with its signal to noise at each); stages and outputs that differ nowhere are left out."""
    known = {name: output.signal_to_noise_db for name, output in proof.output_values.items()}
    every = dict.fromkeys(stage for ratios in known.values() for stage, ratio in ratios.items() if ratio is not None)
    return list(every), [(name, [ratios.get(stage) for stage in every]) for name, ratios in known.items()
                         if any(ratio is not None for ratio in ratios.values())]


def ordered(samples: Sequence[SampleFacts]) -> list[SampleFacts]:
    """Changed answers first, then those that are wrong on both sides, then the others; each by place."""
    return sorted(samples, key=lambda one: (not one.changed, one.right(one.before) is not False, one.place))


def command_text(words: Sequence[str]) -> str:
    """A command for a shell, an option a line."""
    text = "isobit"
    for word in words:
        text += (" \\\n  " if word.startswith("--") else " ") + shlex.quote(word)
    return text


def _linked(row: Row, links: dict[str, str]) -> dict[str, Any]:
    names = [tensor.name for tensor in (row.weight, row.output) if tensor is not None]
    return {
        "number": row.number, "node": row.node, "weight": row.weight, "output": row.output, "before": row.before,
        "after": row.after, "name": row.name, "ratio": row.ratio, "grade": row.grade,
        "link": next((links[name] for name in names if name in links), ""),
    }


def tiles(artifact: Artifact) -> list[dict[str, str]]:
    """The numbers that people ask for first."""
    manifest, facts, proof = artifact.manifest, artifact.facts, artifact.proof
    values = {row.stage: row.value for row in facts.steps.rows}
    found = []
    if values.get("artifact") is not None:
        unit = facts.steps.unit
        found.append({"title": facts.steps.title, "value": number(values["artifact"], unit),
                      "more": f"float {number(values.get('float'), unit)}"})
    title = FLASH if FLASH in manifest.sizes else "model"
    size = manifest.sizes.get(title, 0)
    found.append({"title": title, "value": size_text(size), "more": factor_text(size, facts.network.bytes)})
    weights = [entry for entry in manifest.tensors if entry.kind == "weight"]
    counts = sum(entry.count or 0 for entry in weights)
    average = 8 * packed_bytes(weights) / counts if counts else 0.0
    activations = sorted({entry.bits for entry in manifest.tensors if entry.kind == "activation"})
    inputs = f"activations {' and '.join(f'{bits:g}' for bits in activations)}" if activations else ""
    found.append({"title": "bits of a weight, on average", "value": f"{average:.2f}", "more": inputs})
    kinds = [node.runs for node in facts.nodes]
    found.append({"title": "steps in integers", "value": f"{kinds.count('integer')}",
                  "more": f"{kinds.count('float')} in float, {kinds.count('layout')} move codes"})
    found.append({"title": "codes that differ", "value": f"{proof.codes.differing:,}",
                  "more": f"of {proof.codes.compared:,} compared"})
    return found


def factor_text(size: int, before: int) -> str:
    """`3.9 times smaller than float`; nothing where one of both is unknown."""
    if not size or not before:
        return ""
    larger = size > before
    return f"{max(size, before) / min(size, before):.1f} times {'larger' if larger else 'smaller'} than float"


def number(value: float | None, unit: str) -> str:
    """`87.40 %`, `0.0123 points`."""
    if value is None:
        return "not measured"
    return f"{value:.2f} %" if unit == "%" else f"{value:.4g}{f' {unit}' if unit else ''}"


def stages(found: StepsFacts) -> list[dict[str, Any]]:
    """Rows of the waterfall."""
    rows = []
    for row, bar in zip(found.rows, charts.waterfall(found), strict=False):
        better = 0 if row.change is None or bar.sign == 0 else bar.sign * (1 if found.higher_is_better else -1)
        between = row.change is not None and row.stage != found.rows[-1].stage
        fill = "fill" if not between else {1: "fill-good", -1: "fill-bad"}.get(better, "fill-dim")
        change = "" if row.change is None else f"{row.change:+.2f}" if found.unit == "%" else f"{row.change:+.4g}"
        rows.append({
            "stage": row.stage, "bar": bar, "value": number(row.value, found.unit), "change": change,
            "tone": {1: "up", -1: "down"}.get(better, "dim"), "fill": fill, "cause": row.cause,
        })
    return rows


def sizes(artifact: Artifact) -> list[dict[str, Any]]:
    """Rows of bytes, the float network first."""
    base, known = artifact.facts.network.bytes, artifact.manifest.sizes
    what = {"model": ("model", "of flash: weights and tables" if FLASH in known else "its file; in C, its constants"),
            "weights_packed": ("weight codes alone", "each in its own bits, packed")}
    rows = [("float network", base, "parameters and buffers as they are stored")]
    rows += [(what[name][0], known[name], what[name][1]) for name in what if name in known]
    rows += [(name, size, "on the device") for name, size in known.items() if name not in what]
    most = max([1, *(size for _, size, _ in rows)])
    # Of what is stored: memory that a run takes is no share of a file.
    stored = {rows[0][0], FLASH, *(title for title, _ in what.values())}
    return [{"title": title, "bytes": size, "width": round(100 * size / most, 2), "what": text,
             "share": f"{100 * size / base:.1f} %" if base and title in stored else ""} for title, size, text in rows]


def latency_bars(latency: Latency | None) -> list[dict[str, Any]]:
    """Rows of milliseconds, the float network first; none where nothing was measured."""
    if latency is None:
        return []
    rows = (("float network", latency.float_ms, latency.float_runtime),
            ("artifact", latency.artifact_ms, latency.runtime))
    most = max(latency.float_ms, latency.artifact_ms)
    return [{"title": title, "value": f"{value:.3g} ms", "width": round(100 * value / most, 2), "what": what,
             "share": f"{100 * value / latency.float_ms:.1f} %"} for title, value, what in rows]


def histogram_cards(artifact: Artifact, rows: list[Row]) -> list[dict[str, Any]]:
    """A card a tensor, the noisiest alone first."""
    titles = {tensor.name: row.name for row in rows for tensor in (row.weight, row.output) if tensor is not None}
    bits = {name: entry.bits for name, entry in artifact.entries().items()}
    cards = []
    for place, tensor in enumerate(artifact.facts.tensors):
        view = charts.histogram(tensor)
        if view is not None and tensor.name in titles:
            what = "weights" if tensor.kind == "weight" else "output"
            cards.append({"id": f"values-{place}", "title": titles[tensor.name], "tensor": tensor, "view": view,
                          "what": f"{what}, {bits.get(tensor.name, 0):g} bits", "range": _range(tensor)})
    return sorted(cards, key=lambda card: (card["tensor"].own is None, card["tensor"].own or 0.0))


def _range(tensor: TensorFacts) -> str:
    return "" if tensor.least is None or tensor.most is None else f"values {tensor.least:.3g} to {tensor.most:.3g}"


def profile(rows: list[Row]) -> charts.Plot | None:
    """Signal to noise along the network."""
    known = [row for row in rows if row.output is not None]
    series = [[row.ratio for row in known], [row.output.own if row.output else None for row in known]]
    return charts.profile(series, [row.name for row in known])


def falls(rows: list[Row]) -> list[dict[str, Any]]:
    """The steps whose output is furthest below the worst of what they read, at most `FALLS`."""
    ratios: dict[str, float | None] = {}
    found = []
    for row in rows:
        read = [ratio for name in row.node.reads if (ratio := ratios.get(name)) is not None]
        through = min(read, default=None)
        ratios[row.node.name] = row.ratio if row.output is not None else through
        if row.ratio is not None and through is not None and through > row.ratio:
            found.append({"name": row.name, "before": through, "after": row.ratio})
    return sorted(found, key=lambda fall: fall["after"] - fall["before"])[:FALLS]


def hashes(manifest: Manifest) -> list[tuple[str, str, str]]:
    """(what, bytes, digest) of what went in and what came out; the page itself cannot know its own."""
    calibration = manifest.calibration
    rows = [("source model", "", manifest.model.sha256), ("recipe", "", manifest.recipe.sha256)]
    rows += [] if calibration is None else [("calibration samples", "", calibration.sha256)]
    return rows + [(name, f"{entry.bytes:,}", entry.sha256) for name, entry in sorted(manifest.files.items())
                   if name not in (PAGE, "report.md")]
