"""The measured documents: their numbers, how tables are made of them, and what code each part depends on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tools.bench import docs as bench_docs
from tools.bench import modules, sizes
from tools.check import compat, levels, parity_matrix, zoo
from tools.code_state import ROOT, changed_since
from tools.documents import fill, read_json
from tools.figures import beside
from tools.instructions import instructions
from tools.reproduce import docs as reproduce_docs
from tools.reproduce.content import places
from tools.reproduce.plan import PLAN
from tools.sweep import scale

AGE = "age"
PEERS = ROOT / "docs" / "peers.json"
_CODE = re.compile(r"code ([0-9a-f]{12})")


@dataclass(frozen=True)
class Part:
    """Figures of a document that one command measures.

    Args:
        areas: of the code that change them (tools/code_state.py).
        codes: the states of the code that measured them, read off the document's JSON.
        command: measures them again.
        cheap: that command takes minutes, not hours.
        times: it says how long calibration takes, which code that computes the same may change.
    """

    name: str
    areas: tuple[str, ...]
    codes: Callable[[Mapping[str, Any]], Iterable[str]]
    command: str
    cheap: bool = False
    times: bool = False

    def changed(self, numbers: Mapping[str, Any], root: Path = ROOT) -> tuple[str, ...]:
        """The areas that have changed since it was measured."""
        return changed_since(sorted(set(self.codes(numbers))), self.areas, root, alike=not self.times)


@dataclass(frozen=True)
class Page:
    """A document with tables made of a JSON file, and marks for the sentence about their age.

    Args:
        document, file: from the root of the checkout.
    """

    document: str
    file: str
    mark: str
    tables: Callable[[Mapping[str, Any]], Mapping[str, str]]
    parts: Callable[[Mapping[str, Any]], tuple[Part, ...]]

    def numbers(self, root: Path = ROOT) -> dict[str, Any]:
        """What the JSON file holds."""
        return read_json(root / self.file)


def current(document: str, root: Path = ROOT) -> str:
    """The text of a document as it must be: every table from its JSON files, and what is older than the code."""
    text, old = (root / document).read_text(encoding="utf-8"), []
    for page in (page for page in PAGES if page.document == document):
        found = page.numbers(root)
        text = fill(text, page.tables(found), page.mark, document)
        old += [replace(part, codes=lambda _, part=part, found=found: part.codes(found)) for part in page.parts(found)]
    return fill(text, {"figures": age(old, {}, root)}, AGE, document) if old else text


def age(parts: Iterable[Part], numbers: Mapping[str, Any], root: Path = ROOT) -> str:
    """The sentence that says which figures older code measured, and what has changed since."""
    old: dict[str, list[str]] = {}
    for part in parts:
        if changed := part.changed(numbers, root):
            reason = "code not known" if changed == ("code",) else f"changed since: {', '.join(changed)}"
            old.setdefault(reason, []).append(part.name)
    said = [f"{', '.join(names)} ({reason})" for reason, names in old.items()]
    return f"Figures of older code: {'; '.join(said)}." if old else "All figures are of the present code."


def _one(name: str, areas: tuple[str, ...], command: str, cheap: bool = False) -> Callable[..., tuple[Part, ...]]:
    """The only part of a document, whose JSON names the code at its top."""
    return lambda found: (Part(name, areas, lambda numbers: [numbers.get("code", "unknown")], command, cheap),)


def _performance(found: Mapping[str, Any]) -> tuple[Part, ...]:
    def codes(section: str) -> Callable[[Mapping[str, Any]], Iterable[str]]:
        return lambda numbers: [run.get("code", "unknown") for run in numbers["runs"] if run["section"] == section]

    built = ("capture", "calibration", "arithmetic", "evaluation", "onnx")
    return (
        Part("accuracy, parity, size", built, codes("accuracy, parity, size"), "make bench BENCH_ARGS=--write-docs"),
        Part("latency", ("onnx",), codes("latency"), "make bench BENCH_ARGS='--only latency --write-docs'"),
        Part("calibration time", ("calibration",), codes("calibration"),
             "python tools/bench/bench.py --only calibration --threads 1 --calibration-steps 25,75 --write-docs",
             cheap=True, times=True),
    )


def _group(name: str) -> Part:
    """A group of docs/results.json."""
    def codes(numbers: Mapping[str, Any]) -> Iterable[str]:
        return [code for place in places(numbers["groups"][name]) for code in _CODE.findall(place)] or ["unknown"]

    command = f"python tools/reproduce/reproduce.py --groups {name}"
    return Part(name, ("capture", "calibration", "arithmetic", "evaluation"), codes, command, cheap=name == "finish")


PAGES = (
    Page("docs/performance.md", "docs/performance.json", "bench", bench_docs.tables, _performance),
    Page("docs/latency.md", "docs/latency.json", "bench", modules.tables,
         lambda found: (
             Part("compiled modules", ("tvm", "arithmetic"), lambda numbers: [run["code"] for run in numbers["runs"]],
                  "python tools/bench/modules.py --write-docs"),)),
    Page("docs/parity.md", "docs/parity.json", "parity", parity_matrix.tables,
         _one("the matrix", ("arithmetic", "tvm", "c"), "python tools/check/parity_matrix.py --write-docs")),
    Page("docs/compat.md", "docs/compat.json", "compat", compat.tables,
         lambda found: (
             Part("codes", ("arithmetic", "onnx"), lambda numbers: [numbers.get("code", "unknown")],
                  "python tools/check/compat.py --only codes"),
             Part("kernels by themselves", ("arithmetic", "onnx", "tvm"), lambda numbers: [numbers["probes"]["code"]],
                  "python tools/check/compat.py --only probes"))),
    Page("docs/models.md", "docs/models.json", "zoo", zoo.tables,
         _one("networks", ("capture", "calibration", "arithmetic", "onnx"),
              "python tools/check/zoo.py --write-docs")),
    Page("docs/onnx.md", "docs/levels.json", "levels", levels.tables,
         _one("differing codes by level", ("arithmetic", "onnx"), "python tools/check/levels.py --write-docs", True)),
    Page("docs/c.md", "docs/sizes.json", "sizes", sizes.c_tables,
         _one("sizes", ("arithmetic", "c"), "python tools/bench/sizes.py --write-docs", True)),
    Page("docs/c.md", "docs/instructions.json", "instructions", instructions.tables,
         _one("instructions", ("arithmetic", "c"), "python tools/instructions/instructions.py --write-docs", True)),
    Page("docs/tvm.md", "docs/sizes.json", "sizes", sizes.tvm_tables,
         _one("sizes", ("arithmetic", "tvm"), "python tools/bench/sizes.py --write-docs", True)),
    Page("docs/results.md", "docs/results.json", "reproduce", lambda found: reproduce_docs.tables(PLAN, found),
         lambda found: tuple(_group(group.name) for group in PLAN if group.name in found["groups"])),
    Page("docs/sweep.md", "docs/scale.json", "scale", scale.tables,
         _one("the plan", ("sweep",), "python tools/sweep/scale.py --write-docs", True)),
    Page("README.md", "docs/results.json", "products", lambda found: beside.tables(read_json(PEERS), found),
         lambda found: (_group("imagenet"),)),
)
