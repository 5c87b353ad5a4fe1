"""How templates are rendered: all that is told of an artifact is escaped, and nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from jinja2.filters import do_forceescape, do_mark_safe

from isobit.fields import in_options
from isobit.pipeline.facts.record import Box, SampleFacts

TEMPLATES = Path(__file__).parent / "templates"
MOST_BYTES = 2_000_000  # of a page


def render(template: str, **facts: Any) -> str:
    """One page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
    )
    environment.filters |= {"percent": percent, "percent1": percent1, "db": decibel, "count": count,
                            "counted": counted, "both": both_answers, "coded": coded, "curve": curve_path,
                            "shape": shape_text, "verdict": sample_verdict}
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8").strip()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        **facts, script=do_mark_safe(script), script_hash=f"sha256-{digest}"
    )


def percent(share: float | None) -> str:
    """`0.31 %`, of a share; a dash for None."""
    return "–" if share is None else f"{100 * share:.2f} %"


def percent1(share: float | None) -> str:
    """`98.4 %`."""
    return "–" if share is None else f"{100 * share:.1f} %"


def decibel(ratio: float | None) -> str:
    """`21.4`; a dash for None."""
    return "–" if ratio is None else f"{ratio:.1f}"


def count(number: float) -> str:
    """`1.25 million`."""
    for size, name in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= 0.9995 * size:  # what rounds to it
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}"


def size_text(number: int) -> str:
    """`13,999 B` or `4.6 MB`: powers of ten."""
    for size, name in ((1e9, "GB"), (1e6, "MB"), (1e4, "kB")):
        if number >= size:
            return f"{number / (1e3 if name == 'kB' else size):.1f} {name}"
    return f"{number:,} B"


def counted(boxes: Sequence[Box]) -> str:
    """`21 × RBC, 1 × WBC`."""
    return ", ".join(f"{number} × {label}" for label, number in sorted(Counter(box.label for box in boxes).items()))


def both_answers(sample: SampleFacts) -> list[tuple[str, float | None, float | None]]:
    """(class, share by float, share by the artifact) of the likeliest; None of a class that is not among a side's."""
    labels = {one.index: one.label for side in (sample.before, sample.after) for one in side.classes}
    was, now = ({one.index: one.share for one in side.classes} for side in (sample.before, sample.after))
    return [(labels[index], was.get(index), now.get(index)) for index in dict.fromkeys([*was, *now])]


def curve_path(heights: Sequence[int]) -> str:
    """A path through a box 1000 wide and 1000 high; `heights` count from its lower end."""
    wide = 1000 / max(1, len(heights) - 1)
    return "M" + "L".join(f"{place * wide:.0f} {1000 - height}" for place, height in enumerate(heights))


def shape_text(shape: Sequence[int | None]) -> str:
    """`8 × 4 × 4`, of one sample; a free size is `?`."""
    return " × ".join("?" if size is None else f"{size}" for size in shape)


def sample_verdict(sample: SampleFacts) -> tuple[str, str]:
    """(class of style, words): whether both sides choose alike, and whether that is the label."""
    before, after = sample.right(sample.before), sample.right(sample.after)
    if sample.changed:
        more = "" if before is None else ": the artifact is wrong" if before else \
            ": the artifact is right" if after else ": both are wrong"
        return "other", f"≠ another choice{more}"
    if before is None:
        return "same", "✓ same choice"
    return ("same", "✓ same choice, right") if before else ("wrong", "✗ same choice, both are wrong")


def coded(text: str) -> str:
    """A text in the words of the command line, in which what stands in backticks is code, escaped like any other."""
    return do_mark_safe(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(do_forceescape(in_options(text)))))
