"""docs/results.json: every number of the plan, from the rows of a sweep; docs/results.md shows a part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tools.bench.rows import CELLS, SUBJECT_TITLES
from tools.reproduce.papers import BESIDE, FLOAT, SOURCES, TITLES, published
from tools.reproduce.plan import RANKED_AT, RANKING, Group, Line, cells_of
from tools.reproduce.summary import Records, figures, ranking

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
    "seeds, measured": "of the plan, and how many of them were measured",
    "top1, deviation, lowest, highest": "of the artifact on the whole evaluation set, %, over seeds",
    "below_float": "points that the mean loses to the float network",
    "undecided_percent": "rounding variables that training left between both codes, mean over units and seeds",
    "kept_nearest, units": "units that were no better for learning and kept nearest rounding, of all units and seeds",
    "cpu_s": "CPU seconds of calibration at one thread, images included; images_cpu_s: of making the images alone",
    "compared, differing": "codes of all samples and seeds, and those that differ from the integer arithmetic",
    "measured_on": "machine and code; of lines without these three `before` of the group says them together",
    "paper": "top-1 of papers_network on ImageNet, or of what the source says: other data, for the order only",
    "authors_code": "top-1 of the code of the paper's authors with the same network, images and budget",
    "beside, time_beside": "mean top-1 of another line, and this line's calibration time over that line's",
    "gain, noise": "difference of two means in points, and two standard errors of it",
}

Content = Mapping[str, Any]
_NOT_KEPT = ("beside", "paper", "authors_code", "state", "failed")  # said anew of every line


def content(groups: Sequence[Group], records: Records, kept: Content) -> dict[str, Any]:
    """What docs/results.json holds.

    Args:
        groups: the whole plan.
        records: what was measured; a line of which every seed was stands in place of the kept one.
        kept: what the file held before; empty where there was none.
    """
    before = kept.get("groups", {})
    lines = {group.name: [line_content(line, records, before.get(group.name, {})) for line in group.lines]
             for group in groups}
    everything = {_identity(line): said for group in groups
                  for line, said in zip(group.lines, lines[group.name], strict=True)}
    found = {}
    for group in groups:
        old, here = before.get(group.name, {}), lines[group.name]
        if old or any("top1" in said or "failed" in said for said in here):
            for line, said in zip(group.lines, here, strict=True):
                said |= _beside(line, said, everything)
            found[group.name] = group_content(group, here, old)
    return {"about": ABOUT, "fields": FIELDS, "groups": found}


def line_content(line: Line, records: Records, old: Content) -> dict[str, Any]:
    """One experiment: what was run, what came out; of the group's `old` numbers where not every seed was run again."""
    about = {
        "network": line.subject, "recipe": line.recipe, "bits": line.bits.upper(), "edits": list(line.sets),
        "images": line.images or "none", "note": line.note, "seeds": len(line.seeds),
    }
    new, kept = figures(line, records), _kept(about, old)
    if "top1" in kept and new["measured"] < len(line.seeds):
        kept = {name: value for name, value in kept.items() if name not in _NOT_KEPT}
        return {**kept, **about, **({"failed": new["failed"]} if "failed" in new else {})}
    state = {} if "top1" in new else {"state": "failed" if "failed" in new else "not measured"}
    return {**about, **new, **state}


def _kept(about: Content, old: Content) -> Content:
    names = ("network", "recipe", "edits", "images", "seeds")
    return next((line for line in old.get("lines", ()) if all(line[name] == about[name] for name in names)), {})


def _identity(line: Line) -> tuple[Any, ...]:
    return line.subject, line.recipe, line.sets, line.images, line.seeds


def group_content(group: Group, lines: Sequence[dict[str, Any]], old: Content) -> dict[str, Any]:
    """One group: its command, networks, lines, ranking, sources of published figures."""
    papers = [published(line.published_as, line.bits, line.subject) for line in group.lines]
    found: dict[str, Any] = {
        "command": f"python tools/reproduce/reproduce.py --groups {group.name}",
        "cells": len(cells_of((group,))),
        "networks": _networks(lines, old),
        "lines": [{name: value for name, value in line.items() if name != "float"} for line in lines],
        "sources": {paper[1]: SOURCES[paper[1]] for paper in papers if paper},
    }
    if "before" in old and any("top1" in line and "measured_on" not in line for line in lines):
        found["before"] = old["before"]
    return found | ({"ranking": _ranking(lines, old.get("ranking", ()))} if group.view == "order" else {})


def places(group: Content) -> list[str]:
    """Where, and by which code, the lines of a group were measured."""
    own = {place for line in group["lines"] for place in line.get("measured_on", ())}
    return sorted(own | set(group.get("before", {}).get("measured_on", ())))


def differing(group: Content) -> int:
    """Codes that differ in all artifacts of a group."""
    return sum(line.get("differing", 0) for line in group["lines"]) + group.get("before", {}).get("differing", 0)


def _beside(line: Line, said: Content, everything: Mapping[Any, Content]) -> dict[str, Any]:
    """Figures for comparison: of the paper, of its authors' code, of another line of the plan."""
    found: dict[str, Any] = {}
    if paper := published(line.published_as, line.bits, line.subject):
        found["paper"] = {"top1": paper[0], "source": paper[1]}
    if line.authors is not None:
        found["authors_code"] = line.authors
    if line.beside is not None:
        other = everything.get(_identity(line.beside), {})
        whole = other.get("measured") == len(line.beside.seeds)
        found["beside"] = {"line": told(line.beside, line), "top1": other["top1"] if whole else None}
    if line.time_beside is not None and "time_beside" not in said:
        other = everything.get(_identity(line.time_beside), {})
        alike = said.get("measured_on") == other.get("measured_on") and said.get("cpu_s") and other.get("cpu_s")
        found["time_beside"] = {"line": told(line.time_beside, line),
                                "times": round(said["cpu_s"] / other["cpu_s"], 2) if alike else None}
    return found


def told(line: Line, own: Line) -> str:
    """How a line that stands beside `own` is called."""
    return METHOD_TITLES.get(line.method, line.method) if line.method != own.method else "equal bits"


def _networks(lines: Sequence[Content], old: Content) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        network, paper = line["network"], BESIDE.get(line["network"])
        about = {"papers_network": TITLES[paper], "papers_float": FLOAT[paper]} if paper else {}
        about |= {"measure": MEASURES[network]} if network in MEASURES else {}
        before = old.get("networks", {}).get(network, {}).get("float")
        found.setdefault(network, {"title": SUBJECT_TITLES[network], "float": before, **about})
        if "float" in line:
            found[network]["float"] = line["float"]
    return found


def _ranking(lines: Sequence[Content], old: Sequence[Content]) -> list[dict[str, Any]]:
    """Steps of every place; those that were known of one where nothing is new, as they rest on unrounded numbers."""
    rows: list[dict[str, Any]] = []
    for subject, bits in RANKED_AT:
        place = (subject, bits.upper())
        here = {line["recipe"].rpartition("_")[0]: line for line in lines if (line["network"], line["bits"]) == place}
        found = [here[method] for method in RANKING if method in here]
        known = [dict(row) for row in old if (row["network"], row["bits"]) == place]
        new = not known or any("measured_on" in line for line in found)
        rows += known if not new else ranking(found, RANKING) if len(found) == len(RANKING) else []
    return rows
