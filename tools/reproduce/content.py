"""docs/results.json: every number of the grid, from recorded cells; docs/results.md shows a part of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tools.bench.rows import CELLS, SUBJECT_TITLES
from tools.reproduce.papers import BESIDE, FLOAT, SOURCES, TITLES, published
from tools.reproduce.plan import RANKED_AT, RANKING, Group, Line, cells_of
from tools.reproduce.summary import Records, Summary, ranking, summarize

METHOD_TITLES = {
    "nearest": "nearest", "lsq": "LSQ", "adaround": "AdaRound", "brecq": "BRECQ", "qdrop": "QDrop",
    "pdquant": "PD-Quant", "captq": "CaPTQ random", "captq-smooth": "CaPTQ smooth",
    "captq-brecq": "CaPTQ random, BRECQ", "pdquant-mobilenetv2": "PD-Quant, depthwise",
    "mse": "MSE ranges", "minmax": "min-max ranges", "zeroq": "ZeroQ", "zeroq-qdrop": "QDrop on ZeroQ's images",
    "gdfq": "GDFQ", "fdda-f8l8-small": "FDDA F8L8", "dmbq-small": "DMBQ", "finish": "network-wise finish",
}
MEASURES = {CELLS: "AP"}  # what the accuracy of a network is where it is not top-1

ABOUT = "Every number of tools/reproduce/reproduce.py; docs/results.md shows a part."
FIELDS = {
    "edits": "of the recipe, as --set takes them",
    "images": "calib, pool (4,096 training images of ResNet-20), or none where the recipe makes its own",
    "seeds, measured": "of the plan, and how many of them have a record",
    "top1, deviation, lowest, highest": "of the artifact on the whole evaluation set, %, over seeds",
    "below_float": "points that the mean loses to the float network",
    "undecided_percent": "rounding variables that training left between both codes, mean over units and seeds",
    "kept_nearest, units": "units that were no better for learning and kept nearest rounding, of all units and seeds",
    "cpu_s": "CPU seconds of calibration at one thread, images included; images_cpu_s: of making the images alone",
    "paper": "top-1 of papers_network on ImageNet, or of what the source says: other data, for the order only",
    "authors_code": "top-1 of the code of the paper's authors with the same network, images and budget",
    "beside, time_beside": "mean top-1 of another line, and this line's calibration time over that line's",
    "gain, noise": "difference of two means in points, and two standard errors of it",
}

Content = Mapping[str, Any]


def content(groups: Sequence[Group], records: Records, names: Collection[str], kept: Content) -> dict[str, Any]:
    """What docs/results.json holds.

    Args:
        groups: the whole plan.
        names: of the groups that are written from the records; the others stay as `kept` has them.
        kept: what the file held before; empty where there was none.
    """
    whole = all(cell in records for cell in cells_of(tuple(groups)))
    measured_on = environment(records) if whole or "environment" not in kept else kept["environment"]
    before = kept.get("groups", {})
    written = [group for group in groups if group.view != "best" and (group.name in names or group.name in before)]
    return {
        "about": ABOUT,
        "fields": FIELDS,
        "environment": measured_on,
        "groups": {
            group.name: group_content(group, records) if group.name in names else before[group.name]
            for group in written
        },
    }


def environment(records: Records) -> list[dict[str, Any]]:
    """Where the cells were measured and by which state of the code, most cells first."""
    places = Counter(
        (record["machine"]["cpu"], record["machine"]["cores"],
         ", ".join(f"{name} {version}" for name, version in record["versions"].items()), record["code"][:12])
        for record in records.values() if record["error"] is None
    )
    names = ("cpu", "cores", "versions", "code")
    return [{"cells": count, **dict(zip(names, place, strict=True))} for place, count in places.most_common()]


def group_content(group: Group, records: Records) -> dict[str, Any]:
    """One group: its command, networks, lines, proof, machines, errors, ranking, sources of published figures."""
    summaries = [summarize(line, records) for line in group.lines]
    papers = [published(line.published_as, line.bits, line.subject) for line in group.lines]
    found: dict[str, Any] = {
        "command": f"python tools/reproduce/reproduce.py --groups {group.name}",
        "cells": len(cells_of((group,))),
        "networks": _networks(summaries),
        "lines": [line_content(summary, records) for summary in summaries],
        "proof": {
            "artifacts": sum(len(summary.top1) for summary in summaries),
            "compared": sum(summary.compared for summary in summaries),
            "differing": sum(summary.differing for summary in summaries),
        },
        "measured_on": sorted(set().union(*(summary.places for summary in summaries))),
        "failures": _failures(group, records),
        "sources": {paper[1]: SOURCES[paper[1]] for paper in papers if paper},
    }
    return found | ({"ranking": _ranking(group, records)} if group.view == "order" else {})


def line_content(summary: Summary, records: Records) -> dict[str, Any]:
    """One experiment: what was run, and where it was measured, what came out and what stands beside it."""
    line = summary.line
    about = {
        "network": line.subject, "recipe": line.recipe, "bits": line.bits.upper(), "edits": list(line.sets),
        "images": line.images or "none", "note": line.note, "seeds": len(line.seeds), "measured": len(summary.top1),
    }
    beside = _beside(summary, records)
    if not summary.top1:
        return {**about, "state": "failed" if summary.errors else "not measured", **beside}
    return {
        **about, "top1": round(summary.mean, 2), "deviation": round(summary.deviation, 2),
        "lowest": round(min(summary.top1), 2), "highest": round(max(summary.top1), 2),
        "below_float": round(summary.float_top1 - summary.mean, 2),
        "undecided_percent": None if summary.undecided is None else round(100 * summary.undecided, 2),
        "kept_nearest": summary.kept_nearest, "units": summary.units, "cpu_s": round(summary.seconds), **beside,
        **({"last_epoch": _last_epoch(summary)} if summary.last_epoch else {}),
    }


def _beside(summary: Summary, records: Records) -> dict[str, Any]:
    """Figures for comparison: of the paper, of its authors' code, of another line of the plan."""
    line, found = summary.line, {}
    if paper := published(line.published_as, line.bits, line.subject):
        found["paper"] = {"top1": paper[0], "source": paper[1]}
    if line.authors is not None:
        found["authors_code"] = line.authors
    if line.beside is not None:
        other = summarize(line.beside, records)
        found["beside"] = {"line": told(line.beside, line), "top1": round(other.mean, 2) if other.complete else None}
    if line.time_beside is not None:
        other = summarize(line.time_beside, records)
        ratio = round(summary.seconds / other.seconds, 2) if summary.complete and other.complete else None
        found["time_beside"] = {"line": told(line.time_beside, line), "times": ratio}
    if any(summary.images_s):
        found["images_cpu_s"] = round(max(summary.images_s))
    return found


def told(line: Line, own: Line) -> str:
    """How a line that stands beside `own` is called."""
    return METHOD_TITLES.get(line.method, line.method) if line.method != own.method else "equal bits"


def _networks(summaries: Sequence[Summary]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        network, paper = summary.line.subject, BESIDE.get(summary.line.subject)
        about = {"papers_network": TITLES[paper], "papers_float": FLOAT[paper]} if paper else {}
        about |= {"measure": MEASURES[network]} if network in MEASURES else {}
        found.setdefault(network, {"title": SUBJECT_TITLES[network], "float": None, **about})
        if summary.float_top1 is not None:
            found[network]["float"] = round(summary.float_top1, 2)
    return found


def _last_epoch(summary: Summary) -> dict[str, Any]:
    """What networks, generators and images that were trained as a whole had reached when they were done."""
    return {
        what: {"epoch": epoch["number"], **{name: float(f"{value:.3g}") for name, value in epoch["measured"].items()}}
        for what, epoch in summary.last_epoch.items()
    }


def _failures(group: Group, records: Records) -> list[dict[str, Any]]:
    """An entry for each error, with the first cell that met it."""
    failed: dict[str, list[str]] = {}
    for cell in cells_of((group,)):
        if cell in records and records[cell]["error"] is not None:
            failed.setdefault(" ".join(records[cell]["error"].split()), []).append(cell.id)
    return [{"cells": len(ids), "first": ids[0], "error": error} for error, ids in failed.items()]


def _ranking(group: Group, records: Records) -> list[dict[str, Any]]:
    rows = []
    for subject, bits in RANKED_AT:
        found = [summarize(line, records) for method in RANKING for line in group.lines
                 if (line.subject, line.bits, line.method) == (subject, bits, method)]
        steps = ranking(found) if len(found) == len(RANKING) else None
        rows += [
            {"network": subject, "bits": bits.upper(), "worse": step.worse, "better": step.better,
             "gain": round(step.gain, 2), "noise": round(step.noise, 2), "word": step.word}
            for step in steps or ()
        ]
    return rows
