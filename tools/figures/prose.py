"""Measured figures inside sentences of README and docs: each is read off a JSON file that a tool wrote.

A `Figure` is a sentence's text with `{}` where its numbers stand. What is in the document is compared with what the
numbers say and can be written anew. `loose` finds measured numbers that no figure and no exemption covers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isobit.pipeline.errors import InputError
from tools.bench.docs import time_over_float
from tools.bench.rows import DS_CNN, FLOAT, RESNET, W8A8
from tools.code_state import ROOT
from tools.documents import read_json

UNITS = "%|points?|bytes|kB|MB|MiB|GB|ns|µs|ms|s|seconds?|minutes?|hours?|min|times|fold|x(?! ?[0-9])|dB|AP"
_NUMBER = r"\d(?:[\d,.]*\d)?"
# A number with a unit of what is measured, or a large number of codes; a range is one number.
_MEASURED = re.compile(rf"(?<![\w.,`/^-]){_NUMBER}(?:(?: to | and |[–-]){_NUMBER})?[ -]?(?:{UNITS})(?![\w`])"
                       r"|(?<![\w.,])\d{1,3}(?:,\d{3})+ codes")
_GENERATED = re.compile(r"<!-- (\w+:\w+) -->.*?<!-- /\1 -->", re.DOTALL)
_CODE = re.compile(r"^```.*?^```|`[^`\n]*`|\]\([^)]*\)", re.DOTALL | re.MULTILINE)

Numbers = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """Numbers in a sentence.

    Args:
        document: from the root of the checkout.
        text: as the document has it, `{}` for each number; line ends do not count.
        values: the numbers as text, from the JSON files of docs by their names.
    """

    document: str
    text: str
    values: Callable[[Numbers], Sequence[str]]

    def pattern(self) -> re.Pattern[str]:
        """Finds the sentence whatever its numbers are and however its lines break."""
        words = [re.escape(word).replace(r"\{\}", f"({_NUMBER}|–)") for word in self.text.split()]
        return re.compile(r"\s+".join(words))

    def written(self, text: str, numbers: Numbers) -> str:
        """The document's `text` with this figure as `numbers` have it.

        Raises:
            InputError: the sentence does not stand in it once.
        """
        found = list(self.pattern().finditer(text))
        if len(found) != 1:
            raise InputError(f"the sentence '{self.text}' stands there {len(found)} times", where=self.document,
                             hint="tools/figures/prose.py says what numbers it holds: change both")
        for place, value in reversed(list(enumerate(self.values(numbers), start=1))):
            text = text[:found[0].start(place)] + value + text[found[0].end(place):]
        return text


def read_numbers(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """Every JSON file of docs by its name without an ending."""
    return {path.stem: read_json(path) for path in sorted((root / "docs").glob("*.json"))}


def write(text: str, document: str, numbers: Numbers, figures: Iterable[Figure]) -> str:
    """The text of a document with all of its figures as `numbers` have them."""
    for figure in figures:
        if figure.document == document:
            text = figure.written(text, numbers)
    return text


def loose(text: str, document: str, figures: Iterable[Figure], exempt: Mapping[tuple[str, str], str]) -> list[str]:
    """Measured numbers in the sentences of a document that neither a figure nor an exemption covers."""
    spans = [found.span() for figure in figures if figure.document == document
             for found in figure.pattern().finditer(text)]
    spans += [(place.start(), place.end()) for where, words in exempt if where == document
              for place in re.finditer(r"\s+".join(map(re.escape, words.split())), text)]
    spans += [found.span() for pattern in (_GENERATED, _CODE) for found in pattern.finditer(text)]
    return [found[0] for found in _MEASURED.finditer(text)
            if not any(start <= found.start() and found.end() <= end for start, end in spans)]


# --- what documents say -----------------------------------------------------------------------------------------------


def _build(numbers: Numbers, network: str, recipe: str) -> Mapping[str, Any]:
    (found,) = [build for build in numbers["performance"]["builds"]
                if (build["network"], build["recipe"]) == (network, recipe)]
    return found


def _lost(numbers: Numbers, network: str, recipe: str) -> float:
    build = _build(numbers, network, recipe)
    return build["float"] - build["artifact"]


def _file(numbers: Numbers, network: str, title: str) -> Mapping[str, Any]:
    (found,) = [entry for entry in numbers["performance"]["latency"]
                if (entry["network"], entry["file"]) == (network, title)]
    return found


def _over_float(numbers: Numbers, network: str) -> float:
    return time_over_float(_file(numbers, network, W8A8))


def _smaller(numbers: Numbers, bits: str) -> float:
    return _file(numbers, RESNET, FLOAT)["kb"] / _build(numbers, RESNET, f"qdrop_{bits}")["kb"]


def _span(values: Iterable[float], digits: int = 2) -> tuple[str, str]:
    found = list(values)
    return f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"


def _compiled(numbers: Numbers, contender: str, key: str) -> list[float]:
    return [entry[key] for run in numbers["latency"]["runs"] for entry in run["contenders"]
            if entry["contender"] == contender]


def _lines(numbers: Numbers, group: str, network: str, **what: str) -> list[Mapping[str, Any]]:
    return [line for line in numbers["results"]["groups"][group]["lines"] if line["network"] == network
            and "top1" in line and all(line[key] == value for key, value in what.items())]


def _top1(numbers: Numbers, group: str, network: str, recipe: str) -> str:
    lines = _lines(numbers, group, network, recipe=recipe)
    return f"{lines[0]['top1']:.1f}" if len(lines) == 1 else "–"


def _times(numbers: Numbers, **what: str) -> list[float]:
    """PD-Quant's time over QDrop's."""
    return [line["time_beside"]["times"] for line in numbers["results"]["groups"]["order"]["lines"]
            if line.get("time_beside", {}).get("times") and all(line[key] == value for key, value in what.items())]


def _finished(numbers: Numbers, bits: str) -> float:
    return max(line["top1"] for line in _lines(numbers, "finish", DS_CNN, bits=bits))


def _float(numbers: Numbers, group: str, network: str) -> float:
    return numbers["results"]["groups"][group]["networks"][network]["float"]


PERFORMANCE, LATENCY, PARITY, RESULTS = "docs/performance.md", "docs/latency.md", "docs/parity.md", "docs/results.md"
DECISIONS = "docs/decisions.md"
VNNI, AVX2 = "tvm, x86-64-vnni", "tvm, x86-64-v3"
FIGURES = (
    Figure(PERFORMANCE, "at 8 bits {} to {} points below float with QDrop; with ranges alone (`nearest_w8a8`) the "
                        "DS-CNN loses {}.",
           lambda n: (*_span((_lost(n, name, "qdrop_w8a8") for name in (RESNET, DS_CNN)), 1),
                      f"{_lost(n, DS_CNN, 'nearest_w8a8'):.1f}")),
    Figure(PERFORMANCE, "{} times smaller than ResNet-20's float file ({} kB) at W8A8, {} at W4A4, {} at W2A2.",
           lambda n: (f"{_smaller(n, 'w8a8'):.1f}", f"{_file(n, RESNET, FLOAT)['kb']:,.0f}",
                      f"{_smaller(n, 'w4a4'):.1f}", f"{_smaller(n, 'w2a2'):.0f}")),
    Figure(PERFORMANCE, "Time over float is {} to {} on ResNets, {} on MobileNetV2, and {}, *slower*, on the DS-CNN, "
                        "which takes {} ms.",
           lambda n: (*_span(_over_float(n, name) for name in (RESNET, "resnet18")),
                      *(f"{_over_float(n, name):.2f}" for name in ("mobilenet_v2", DS_CNN)),
                      f"{_file(n, DS_CNN, FLOAT)['ms']:.2f}")),
    Figure(PERFORMANCE, "float has {} % (ResNet-20) and {} % (DS-CNN).",
           lambda n: tuple(f"{_build(n, name, 'qdrop_w8a8')['float']:.2f}" for name in (RESNET, DS_CNN))),
    Figure(PERFORMANCE, "{} codes of ResNet-20 and {} of the DS-CNN were compared at each level.",
           lambda n: tuple(f"{_build(n, name, 'qdrop_w8a8')['codes']['all'][0]:,}" for name in (RESNET, DS_CNN))),
    Figure(LATENCY, "W8A8 takes {} to {} of the float file's time, {} to {} of our own ONNX artifact's, {} to {} of "
                    "the fastest other runtime's; W4A4 {} to {} of W8A8's.",
           lambda n: (*_span(_compiled(n, f"{VNNI}, W8A8", "over_float")),
                      *_span(_compiled(n, f"{VNNI}, W8A8", "over_our_onnx")),
                      *_span(_compiled(n, f"{VNNI}, W8A8", "over_fastest_other")),
                      *_span(_compiled(n, f"{VNNI}, W4A4", "over_w8a8")))),
    Figure(LATENCY, "W4A4 takes {} to {} of W8A8's time, {} to {} of the float file's, {} to {} of "
                    "the fastest other runtime's; "
                    "W8A8 {} to {} of our own ONNX artifact's; W7A8 {} to {} of W8A8's.",
           lambda n: (*_span(_compiled(n, f"{AVX2}, W4A4", "over_w8a8")),
                      *_span(_compiled(n, f"{AVX2}, W4A4", "over_float")),
                      *_span(_compiled(n, f"{AVX2}, W4A4", "over_fastest_other")),
                      *_span(_compiled(n, f"{AVX2}, W8A8", "over_our_onnx")),
                      *_span(_compiled(n, f"{AVX2}, W7A8", "over_w8a8")))),
    Figure(PARITY, "{} artifacts, no differing code.", lambda n: (str(len(n["parity"]["lines"])),)),
    Figure("docs/how-to/recipes.md", "32 images, takes {} ms, {} times as fast as the plain loop; all units at 20,000 "
                                     "steps would take {} minutes, and {} GB.",
           lambda n: (f"{n['devices']['ours']['ms_per_step']:.2f}", f"{n['devices']['times_faster']:.1f}",
                      f"{60 * n['devices']['ours']['hours_at_paper_steps']:.1f}",
                      f"{n['devices']['ours']['peak_gb']:.1f}")),
    Figure(DECISIONS, "ResNet-20 W2A2 at 300 steps takes {} times QDrop's time with 20",
           lambda n: _span(_times(n, network=RESNET, bits="W2A2"), 1)[:1]),
    Figure(RESULTS, "which learns nothing, loses {} to {} points; `qdrop_w8a8` {} to {}",
           lambda n: tuple(lost for recipe in ("nearest_w8a8", "qdrop_w8a8")
                           for lost in _span((_lost(n, name, recipe) for name in (RESNET, DS_CNN)), 1))),
    Figure(RESULTS, "`pdquant_*` takes {} to {} times QDrop's time", lambda n: _span(_times(n), 1)),
    Figure(RESULTS, "At W2A2 the DS-CNN still loses {} points at best",
           lambda n: (f"{_float(n, 'finish', DS_CNN) - _finished(n, 'W2A2'):.0f}",)),
)
# What looks like a measured number and is none: (document, words) and why.
_THRESHOLD = "a limit in the code, named beside it"
EXEMPT: Mapping[tuple[str, str], str] = {
    ("docs/c.md", "16 MB of constants and 4 MB of RAM"): "the board that is emulated",
    ("docs/models.md", "disturbed by 40 dB"): "what is asked, not what was found",
    ("docs/numerics.md", "from 20 dB"): _THRESHOLD,
    ("docs/numerics.md", "below 10 dB"): _THRESHOLD,
    ("docs/numerics.md", "at most 5 points and at most 10 %"): _THRESHOLD,
    ("docs/onnx.md", "more than 2 GB of weights"): "the limit of a protobuf file",
    ("docs/results.md", "(one is 0.2 points)"): "one of 500",
}
