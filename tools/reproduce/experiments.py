"""What an experiment is: a line of a table, repeated over seeds; a cell is one line with one seed.

The same cell may stand in several groups and is run once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Images = Literal["calib", "pool"]
View = Literal["lines", "order", "pairs", "best", "methods"]


@dataclass(frozen=True)
class Cell:
    """One build and its measurement.

    Args:
        subject: the network, a model of `study.models`.
        recipe: name of a shipped recipe.
        sets: `--set` edits in the order in which they are made, the seed apart.
        images: which of the network's folders calibration draws from; None where the recipe's source reads no data.
    """

    subject: str
    recipe: str
    sets: tuple[str, ...]
    seed: int
    images: Images | None = "calib"

    @property
    def id(self) -> str:
        """`resnet20/qdrop_w4a4+method.steps=500/1005`, for people."""
        from_pool = "@pool" if self.images == "pool" else ""
        return f"{self.subject}/{'+'.join([self.recipe, *self.sets])}{from_pool}/{self.seed}"

    @property
    def edits(self) -> list[str]:
        """All `--set` edits, as `load_recipe` takes them."""
        return [*self.sets, f"seed={self.seed}"]


@dataclass(frozen=True)
class Line:
    """One experiment over its seeds.

    Args:
        authors: what the code of the paper's authors reached with the same network, images and budget, % (for
            comparison).
        beside: a line whose mean is shown for comparison.
        time_beside: a line whose CPU time of calibration is shown for comparison.
        note: what sets it apart from its neighbours, in words.
        paper: method under which `papers.py` has its figures; None for that of the recipe's name.
    """

    subject: str
    recipe: str
    sets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (1005, 1, 2)
    images: Images | None = "calib"
    authors: float | None = None
    beside: Line | None = None
    time_beside: Line | None = None
    note: str = ""
    paper: str | None = None

    @property
    def method(self) -> str:
        """`qdrop` of `qdrop_w4a4`, `qdrop-mobilenetv2` of `qdrop-mobilenetv2_w4a4`."""
        return self.recipe.rpartition("_")[0]

    @property
    def published_as(self) -> str:
        """Method of the published figures that stand beside it."""
        own = self.method.partition("-")[0]
        # Figures of QDrop and PD-Quant are of a low-bit stem output.
        return self.paper or (f"{own}, 8-bit stem" if "policy=captq" in self.sets else own)

    @property
    def bits(self) -> str:
        """`w4a4` of `qdrop_w4a4`, `w4a8` with the edit `activations.bits=8`, `wmp3a4` with an average of 3 bits for the
        weights; empty where the name has no bits.
        """
        found = re.search(r"_w(\d+)a(\d+)$", self.recipe)
        if not found:
            return ""
        bits = {"weights": found[1], "activations": found[2]}
        for edit in self.sets:
            key, _, value = edit.partition("=")
            part, _, name = key.partition(".")
            if name == "bits" and part in bits:
                average = re.fullmatch(r"\{average: (\S+)\}", value)
                bits[part] = f"mp{average[1]}" if average else value
        return f"w{bits['weights']}a{bits['activations']}"

    @property
    def cells(self) -> list[Cell]:
        """A cell for every seed."""
        return [Cell(self.subject, self.recipe, self.sets, seed, self.images) for seed in self.seeds]


@dataclass(frozen=True)
class Group:
    """A table of docs/results.md.

    Args:
        name: of its mark in the document, and for `--groups`.
        view: `lines` is a plain table; `order` is a table of methods by bits, and how they rank; `pairs` has a row
            for each line with another beside it; `best` has no lines of its own and names the best line of all other
            groups for each network and bit width; `methods` is a table of methods by bits, without what was not
            measured.
    """

    name: str
    lines: tuple[Line, ...] = ()
    view: View = "lines"


def cells_of(groups: tuple[Group, ...]) -> list[Cell]:
    """Every cell once, in the order of the plan."""
    return list(dict.fromkeys(cell for group in groups for line in group.lines for cell in line.cells))
