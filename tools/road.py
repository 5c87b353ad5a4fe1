"""Draws docs/road.svg, the picture of the README: from a trained network to a proven artifact.

    python tools/road.py            exit status 1 where the picture is not what docs/performance.json says
    python tools/road.py --write    draws it

Every number in it is read from the record of one build in that file. The picture carries its own colours for light and
dark pages, its own background, and loads nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from tools.documents import read_json

PICTURE, RECORD = "docs/road.svg", "docs/performance.json"
NETWORK, TITLE, RECIPE, DEPLOYED = "resnet20", "ResNet-20 on CIFAR-10", "qdrop_w4a4", "all"
WIDTH, HEIGHT, BOX, GAP, TOP, TALL = 1000, 330, 168, 32, 62, 150
STYLE = """
 .page{fill:#f6f8fb} .box{fill:#fff;stroke:#8a97a8} .proof{stroke:#1a7f4b} .line{stroke:#5b6877;fill:none}
 .ok{stroke:#1a7f4b;fill:none} .head{fill:#5b6877} .okhead{fill:#1a7f4b}
 text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:#1c2530;text-anchor:middle}
 .title{font-size:19px;font-weight:600} .what{font-size:14.5px;fill:#4b5766} .number{font-size:22px;font-weight:600}
 .said{font-size:17px;fill:#14693d;font-weight:600} .small{font-size:14.5px;fill:#4b5766}
 @media (prefers-color-scheme: dark){
 .page{fill:#161b22} .box{fill:#0d1117;stroke:#6b7785} .proof{stroke:#4ac77f} .line{stroke:#9aa7b5} .ok{stroke:#4ac77f}
 .head{fill:#9aa7b5} .okhead{fill:#4ac77f} text{fill:#e8edf3} .what,.small{fill:#aab6c3} .said{fill:#6fdc9d}}
"""


def record(content: Mapping[str, Any]) -> dict[str, Any]:
    """The build that is shown, and the kilobytes of its float file as `float_kb`.

    Raises:
        StopIteration: the file holds no such build.
    """
    build = next(row for row in content["builds"] if (row["network"], row["recipe"]) == (NETWORK, RECIPE))
    size = next(row["kb"] for row in content["latency"] if (row["network"], row["file"]) == (NETWORK, "float"))
    return {**build, "float_kb": size}


def picture(build: Mapping[str, Any]) -> str:
    """The SVG of one build, as `record` gives it."""
    compared, differing = build["codes"][DEPLOYED]
    boxes = (
        ("network", ("trained in PyTorch,", "or float ONNX"), f"{build['float']:.2f} %",
         f"{build['float_kb']:,.0f} kB"),
        ("graph", ("quantizers where the", "target needs them"), "", ""),
        ("calibrated", ("scales and roundings", "learned from images"), f"{build['calibrated']:.2f} %", ""),
        ("reference", ("frozen integers: what", "must be computed"), f"{build['reference']:.2f} %", ""),
        ("artifact", ("model.onnx, module", "or C code"), f"{build['artifact']:.2f} %", f"{build['kb']:,.0f} kB"),
    )
    said = f"{differing:,} of {compared:,} codes differ"
    title = f"From a trained network to a proven artifact: {TITLE}, {build['recipe']}; {said}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}" rx="12"/>',
        _text(WIDTH // 2, 36, "small", f"{TITLE}: top-1 and size on the way to 4 bits, recipe {build['recipe']}"),
    ]
    lefts = [(WIDTH - 5 * BOX - 4 * GAP) // 2 + place * (BOX + GAP) for place in range(len(boxes))]
    for left, box in zip(lefts, boxes, strict=True):
        lines += _box(left, *box)
    for left in lefts[1:]:
        lines += _arrow(left - GAP + 3, left - 3)
    lines += _loop(lefts[3] + BOX // 2, lefts[4] + BOX // 2, said)
    return "\n".join([*lines, "</svg>", ""])


def _box(left: int, title: str, what: Sequence[str], number: str, size: str) -> Iterator[str]:
    middle, proven = left + BOX // 2, title in ("reference", "artifact")
    yield (f'<rect class="box{" proof" if proven else ""}" x="{left}" y="{TOP}" width="{BOX}" height="{TALL}" rx="9" '
           f'stroke-width="{2 if proven else 1.2}"/>')
    yield _text(middle, TOP + 30, "title", title)
    for line, text in enumerate(what):
        yield _text(middle, TOP + 54 + 19 * line, "what", text)
    if number:
        yield _text(middle, TOP + 110, "number", number)
    if size:
        yield _text(middle, TOP + 135, "small", size)


def _arrow(start: int, end: int) -> Iterator[str]:
    middle = TOP + TALL // 2
    yield f'<path class="line" stroke-width="2" d="M{start} {middle}H{end - 8}"/>'
    yield f'<path class="head" d="M{end} {middle}l-10 -5.5v11z"/>'


def _loop(start: int, end: int, said: str) -> Iterator[str]:
    """The comparison below artifact and reference, with its result."""
    low = TOP + TALL
    yield f'<path class="ok" stroke-width="2" d="M{start} {low + 10}V{low + 38}H{end}V{low + 10}"/>'
    for x in (start, end):
        yield f'<path class="okhead" d="M{x} {low + 2}l-5.5 10h11z"/>'
    yield _text((start + end) // 2, low + 64, "said", said)
    yield _text((start + end) // 2, low + 86, "small", "one would fail the build")


def _text(x: int, y: int, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """The command line; 1 where the picture is not current."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="draw it")
    write = parser.parse_args(arguments).write
    path, drawn = root / PICTURE, picture(record(read_json(root / RECORD)))
    if path.is_file() and path.read_text(encoding="utf-8") == drawn:
        return 0
    if write:
        path.write_text(drawn, encoding="utf-8")
    print(f"{PICTURE}: {'drawn' if write else 'not current; run python tools/road.py --write'}")
    return int(not write)


if __name__ == "__main__":
    sys.exit(main())
