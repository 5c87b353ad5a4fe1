"""A made-up artifact for pages, whose names are hostile where a user may choose them, and what a page must not hold."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

from isobit.pages.artifact import PROOF, Artifact, open_artifact
from isobit.pipeline.artifact.digest import MANIFEST
from isobit.pipeline.artifact.manifest import (
    CalibrationEntry,
    FileEntry,
    Manifest,
    ModelEntry,
    RecipeEntry,
    TargetEntry,
    TensorEntry,
    file_table,
)
from isobit.pipeline.artifact.timings import Latency
from isobit.pipeline.facts.record import FACTS, Facts

HOSTILE = "<script>alert('x')</script>\"'&<img src=//evil.example/x onerror=alert(1)>"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
VOID = {"meta", "link", "input", "br", "img", "hr", "path", "rect", "image", "use"}
LOADS = {"src", "srcset", "data", "poster", "background", "action", "formaction", "ping"}


def tensor(name, kind="activation", **changes):
    known = {
        "name": name, "kind": kind, "own": 21.5, "network": None if kind == "weight" else 15.0,
        "flipped": 0.125 if kind == "weight" else None, "clipped": 0.01, "qmin": -8, "qmax": 7, "least": -1.0,
        "most": 1.5, "histogram": {"low": -9.5, "high": 8.5, "heights": [0, 250, 1000, 40]},
    }
    return {**known, **changes}


def node(name, reads=(), **changes):
    known = {
        "name": name, "module": HOSTILE, "op": "conv2d+relu", "runs": "integer", "weight": "4", "output": 4,
        "grid": "unsigned", "note": HOSTILE, "source": "net.py:3", "reads": list(reads), "weight_tensor": f"{name}_w",
        "unit": "block", "shape": [8, 4, 4],
    }
    return {**known, **changes}


def classes(*indices):
    return {"classes": [{"index": index, "label": HOSTILE if index == 0 else f"class {index}",
                         "share": None if place else 0.75} for place, index in enumerate(indices)]}


def sample(place=0, before=(0, 1), after=(0, 1), **changes):
    known = {"place": place, "kind": "png", "data": PIXEL, "width": 8, "height": 8, "truth": HOSTILE, "truth_index": 0,
             "before": classes(*before), "after": classes(*after), "difference": 12.0}
    return {**known, **changes}


def facts(length=3, **changes):
    names = [f"step{place}" for place in range(length)]
    known = {
        "form": 3, "command": ["net.pth", "--arch", HOSTILE],
        "verdicts": [{"name": "PARITY", "status": "ok", "title": "PARITY PASSED", "text": HOSTILE, "details": []},
                     {"name": "ACCURACY", "status": "warning", "title": "ACCURACY WARNING", "text": "`code`",
                      "details": [HOSTILE]}],
        "steps": {"title": "top-1", "unit": "%", "higher_is_better": True, "rows": [
            {"stage": stage, "value": value, "change": change, "cause": HOSTILE} for stage, value, change in
            (("float", 90.0, None), ("calibrated", 88.5, -1.5), ("reference", 88.75, 0.25), ("artifact", 88.75, 0.0))
        ]},
        "notes": [HOSTILE], "network": {"parameters": 1000, "bytes": 4000, "macs": 2.5e6},
        "evaluation": {"samples": 16, "sha256": "e" * 64, "labelled": True}, "changed": 2, "samples_seen": 1,
        "nodes": [node(name, names[:place][-2:]) for place, name in enumerate(names)],
        "tensors": [one for name in names for one in (tensor(f"{name}_w", "weight"), tensor(name))],
        "units": [{"name": "block", "nearest": 2.0, "hard": 1.25, "kept_nearest": False, "undecided": 0.25}],
        "frontier": {"budget": "3 bits", "points": [{"bytes": 10, "omega": 1.0}, {"bytes": 20, "omega": 0.1}],
                     "chosen": {"bytes": 20, "omega": 0.1}, "uniform": {2: {"bytes": 10, "omega": 1.5}},
                     "omegas": {HOSTILE: 0.1}},
        "samples": [sample()],
    }
    return Facts.model_validate({**known, **changes})


def manifest(length=3):
    names = [name for place in range(length) for name in (f"step{place}_w", f"step{place}")]
    entries = [TensorEntry(
        name=name, module=HOSTILE, kind="weight" if name.endswith("_w") else "activation", bits=4, signed=True,
        symmetric=True, axis=None, scale=0.5, zero_point=0, container="int8",
        count=100 if name.endswith("_w") else None, codes_sha256=None,
    ) for name in names]
    return Manifest(
        version="0.1.0", recipe=RecipeEntry(name=HOSTILE, policy="qdrop", text=f"name: {HOSTILE}\n", sha256="r" * 64),
        model=ModelEntry(name=HOSTILE, sha256="m" * 64, arch=None),
        calibration=CalibrationEntry(kind="files", sha256="c" * 64, count=16),
        target=TargetEntry(name="onnx", profile="generic", runtime={}), packages={"torch": "2.13"}, seed=7,
        tensors=entries, files={HOSTILE: FileEntry(bytes=10, sha256="f" * 64)},
        sizes={"model": 1000, "weights_packed": 150, HOSTILE: 3},
        allocation={"budget": "3 bits", "bits": {HOSTILE: 3}, "average": 3.0, "omega": 0.1, "images": 4},
    )


PROVEN = {
    "samples": 16, "codes": {"compared": 1000, "differing": 0, "max_lsb": 0},
    "gate": {"passed": True, "rules": [
        {"rule": HOSTILE, "of": "parity", "measured": 0, "allowed": 0, "passed": True},
        {"rule": "r", "of": "accuracy", "measured": "not finite", "allowed": 1.0, "passed": False}]},
    "levels": [{"level": "all", "gated": True, "samples": 16, "compared": 1000, "differing": 0, "max_lsb": 0,
                "logits_differing": 0, "top1_agreement": 100.0}],
    "moved_by_requantization": {"samples": 4, "compared": 100, "differing": 2, "max_lsb": 1},
    "integer_ops": {"integer": 3, "float": 1, "reasons": {HOSTILE: HOSTILE}},
    "output_values": {HOSTILE: {"signal_to_noise_db": {"artifact": 15.0, "float": None}},
                      "boxes": {"signal_to_noise_db": {"artifact": 14.25, "float": None}}},
}


LATENCY = Latency(processor="a processor", runtime="one 1", float_runtime="one 1", artifact_ms=0.5, float_ms=1.0,
                  ratio=2.0, low=1.9, high=2.1, rounds=15)


def write_artifact(folder: Path, length=3, **changes) -> Path:
    """A folder that pages can be drawn of."""
    folder.mkdir(exist_ok=True)
    (folder / FACTS).write_text(facts(length, **changes).to_json())
    (folder / PROOF).write_text(json.dumps(PROVEN))
    written = manifest(length)
    written = written.model_copy(update={"files": {**written.files, **file_table(folder)}})
    (folder / MANIFEST).write_text(written.to_json())
    return folder


def made_artifact(folder: Path, length=3, **changes) -> Artifact:
    return open_artifact(write_artifact(folder, length, **changes))


class PageReader(HTMLParser):
    """Reads a page strictly: every tag is closed in turn, nothing is loaded, graphics and tables have names.

    Attributes:
        faults: what is wrong.
        ids, links: of elements, and within the page.
        text: all that is shown.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        self.ids += [known["id"]] if "id" in known else []
        for name, value in known.items():
            href = name in ("href", "xlink:href") and not (value or "").startswith(("#", "data:"))
            if name in LOADS or href or name.startswith("on") or "url(" in (value or ""):
                self.faults.append(f"<{tag} {name}={value!r}>")
        self.links += [known["href"][1:]] if known.get("href", "").startswith("#") else []
        named = "aria-label" in known or known.get("aria-hidden") == "true"
        if tag == "svg" and not named:
            self.faults.append(f"a graphic without a name: {known}")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self._open.pop()

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> at line {self.getpos()[0]} closes another")

    def handle_data(self, data):
        self.text += data
