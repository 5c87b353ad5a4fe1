"""Families: the shipped recipes, a file each with the bits left open; `qdrop_w4a8` is `qdrop.yaml` at 4 and 8 bits.

A family's file is a recipe without `name` and bits, with what it is in a line (`summary`, `paper`), what differs at
some bits (`at`) and the family whose lines it takes over (`extends`). It exists for the bits at which that is valid.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from isobit.pipeline.errors import RecipeError, nearest_spelling
from isobit.pipeline.recipe.budget import MAX_BITS, MIN_BITS, named_budget
from isobit.pipeline.recipe.findings import keys_text, shown
from isobit.pipeline.recipe.merge import Content, resolved
from isobit.pipeline.recipe.names import NamedBits, bits_in_name, usual_spelling
from isobit.pipeline.recipe.plain_yaml import read_yaml
from isobit.pipeline.recipe.schema import Recipe

MAX_BYTES = 1 << 17  # of a recipe file; one with a line for each of a thousand layers has half of it
SUFFIX = ".yaml"
_BITS = {str(bits): bits for bits in range(MIN_BITS, MAX_BITS + 1)}
_ARXIV = re.compile(r"arXiv (\d{4}\.\d{5})")


@dataclass(frozen=True)
class Family:
    """What a list of recipes shows of one family.

    Args:
        name: `qdrop`.
        summary: what it does, in a line.
        paper: who published it, where, and the arXiv number if there is one; its own, or what it extends says.
        method: name of the calibration method.
        policy: which layers keep 8 bits where not all have them.
        bits: every pair that it exists for, `w2a2` to `w8a8`, in rising order.
    """

    name: str
    summary: str
    paper: str
    method: str
    policy: str
    bits: tuple[str, ...]

    @property
    def recipes(self) -> tuple[str, ...]:
        """The name of the recipe at each pair of bits."""
        return tuple(f"{self.name}_{pair}" for pair in self.bits)


def recipes_folder() -> Traversable:
    """The folder of the shipped families."""
    return Path(__file__).resolve().parents[2] / "recipes"


def family_names() -> list[str]:
    """Names of the shipped families, sorted."""
    return sorted(
        file.name.removesuffix(SUFFIX) for file in recipes_folder().iterdir() if file.name.endswith(SUFFIX)
    )


def list_families() -> list[Family]:
    """Every shipped family, sorted by name."""
    return [_family(name) for name in family_names()]


def family_files(name: str) -> list[tuple[str, Content]]:
    """(path, content) of a family and of those that it extends, the furthest first."""
    file = recipes_folder() / f"{name}{SUFFIX}"
    content = read_content(file)
    extended = content.get("extends")
    return [*(family_files(extended) if extended else []), (str(file), content)]


def find_family(name: str) -> tuple[str, dict[str, Any]]:
    """(family, bits of weights and activations) of a name as a user types it; no bits where it says none.

    Args:
        name: `qdrop_w4a4` in any case and with the bits in either order, `qdrop_wmp3a4` for a budget, or `qdrop`.

    Raises:
        RecipeError: there is no such family, or bits that no recipe has.
    """
    usual, known = usual_spelling(name), family_names()
    if usual in known:
        return usual, {}
    named = bits_in_name(usual)
    if named is None or named.family not in known:
        bits = usual.removeprefix(f"{named.family}_") if named else "w4a4"
        likely = [*(f"{family}_{bits}" for family in known), *([] if named else known)]
        raise RecipeError(
            f"there is no recipe {shown(name)}",
            allowed=f"{{{','.join(known)}}} and the bits, as {known[0]}_w4a8; or the path of a YAML file",
            hint=nearest_spelling(usual, likely), field="recipe",
        )
    weights = named_budget(named.weights) if named.weights.startswith("mp") else _BITS.get(named.weights)
    activations = _BITS.get(named.activations)
    if weights is None or activations is None:
        raise RecipeError(
            f"there is no recipe {shown(name)}: bits are {MIN_BITS} to {MAX_BITS}",
            allowed=bits_of_family(named.family), hint=nearest_spelling(usual, _family(named.family).recipes),
            field="recipe",
        )
    return named.family, {"weights": weights, "activations": activations}


def family_without_bits(name: str, where: str = "") -> RecipeError:
    """The error for a family without bits where a recipe is needed."""
    return RecipeError(
        f"'{name}' is a family of recipes and says no bits", where=where, allowed=bits_of_family(name),
        hint=f"For example {name}_w4a8: weights of 4 bits, activations of 8", field="recipe",
    )


def bits_of_family(name: str) -> str:
    """The names of a family's recipes, first to last, for a message."""
    recipes = _family(name).recipes
    return f"{recipes[0]} to {recipes[-1]}, each of the two by itself"


def read_content(file: Traversable) -> Content:
    """What a recipe file says, before anything is judged.

    Raises:
        RecipeError: it cannot be read, is no YAML, is too long or holds no mapping.
    """
    try:
        content = read_yaml(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise RecipeError(f"the recipe cannot be read as YAML: {error}", where=str(file), field="recipe") from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise RecipeError(f"the recipe file holds {kind}", where=str(file), allowed=keys_text(Recipe), field="recipe")
    return content


def families_table(families: Sequence[Family]) -> str:
    """The families as a Markdown table, a row each."""
    rows = [
        ("recipe", "what it does", "policy", "paper, arXiv"),
        ("---",) * 4,
        *((f"`{family.name}`", family.summary, f"`{family.policy}`", _linked(family.paper)) for family in families),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _linked(paper: str) -> str:
    """Links to what arXiv has; the whole reference where it has nothing."""
    links = [f"[{number}](https://arxiv.org/abs/{number})" for number in _ARXIV.findall(paper)]
    return ", ".join(links) or paper


def _family(name: str) -> Family:
    files = family_files(name)
    content, own = resolved(files, {}), files[-1][1]
    paper = next(content["paper"] for _, content in reversed(files) if "paper" in content)
    return Family(
        name, own["summary"], paper, content["method"]["name"], content.get("policy", "none"),
        tuple(_pairs(name, files)),
    )


def _pairs(name: str, files: list[tuple[str, Content]]) -> list[str]:
    """The bit pairs at which the family is a recipe that the schema takes."""
    pairs = []
    for weights, activations in product(_BITS.values(), repeat=2):
        named = NamedBits(name, str(weights), str(activations))
        try:
            Recipe.model_validate(
                {**resolved(files, {"weights": weights, "activations": activations}), "name": str(named)}
            )
        except ValidationError:
            continue
        pairs.append(str(named).removeprefix(f"{name}_"))
    return pairs
