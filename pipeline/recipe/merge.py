"""One file's content put onto another's: what `extends` takes over, and what `at` changes at some bits."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.grid import RANGE_PARAMETER
from isobit.pipeline.recipe.budget import MAX_BITS, MIN_BITS
from isobit.pipeline.recipe.schema import IMAGES_KEYS

# Keys of a file that say how its recipe is made; `load_recipe` leaves a recipe without them.
FILE_KEYS = ("summary", "paper", "extends", "at")
_AT = re.compile(rf"(?=.)(?:w(?P<weights>[{MIN_BITS}-{MAX_BITS}]))?(?:a(?P<activations>[{MIN_BITS}-{MAX_BITS}]))?")

Content = dict[Any, Any]  # as YAML's reader gives it: keys may be anything until the schema has judged them


def resolved(files: Sequence[tuple[str, Content]], bits: Mapping[str, Any]) -> Content:
    """The content that files which extend one another have at these bits.

    Args:
        files: (place for messages, content), each extending the one before it. A file's lines come after everything
            that the file before it says, its `at` included, and a file's own `at` after its other lines.
        bits: of `weights` and `activations`, as a recipe states them; empty where the files state them.

    Raises:
        RecipeError: an `at` that is not a mapping of bits to changes.
    """
    content: Content = {tensors: {"bits": value} for tensors, value in bits.items()}
    for where, own in files:
        content = merged(content, {key: value for key, value in own.items() if key not in FILE_KEYS})
        for change in _changes_at(own.get("at", {}), content, where):
            content = merged(content, change)
    return content


def merged(content: Content, change: Content) -> Content:
    """`content` with the keys of `change` in place of its own: mappings key by key, everything else as a whole.

    Parameters belong to the method, source or range search beside which they stand: another one drops them.
    """
    result = dict(content)
    for key, value in change.items():
        old = result.get(key)
        # A budget of bits is one value: an average and a size do not add up.
        if isinstance(old, dict) and isinstance(value, dict) and key != "bits":
            result[key] = merged(_still_valid(old, value), value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def bits_stated(content: Content) -> dict[str, Any]:
    """The bits of weights and activations that the content states."""
    rules = {tensors: content.get(tensors) for tensors in ("weights", "activations")}
    return {key: rule["bits"] for key, rule in rules.items() if isinstance(rule, dict) and "bits" in rule}


def _still_valid(old: Content, change: Content) -> Content:
    """The part of `old` that means something beside `change`."""
    if old.get("name") != change.get("name", old.get("name")):
        return {}
    if old.get("source") != change.get("source", old.get("source")):
        return {key: value for key, value in old.items() if key in IMAGES_KEYS}
    if old.get("range") != change.get("range", old.get("range")):
        return {key: value for key, value in old.items() if key not in RANGE_PARAMETER.values()}
    return old


def _changes_at(table: Any, content: Content, where: str) -> Iterator[Content]:
    """The entries of `at` that stand for the bits of `content`, in the file's order."""
    bits = bits_stated(content)
    for name, change in table.items() if isinstance(table, dict) else [("", table)]:
        match = _AT.fullmatch(str(name))
        if not match or not isinstance(change, dict):
            raise RecipeError(
                f"'at{f'.{name}' if match or name else ''}' is no change at some bits", where=where,
                allowed=f"bits and what changes there: w{MAX_BITS}a{MAX_BITS}: {{policy: none}}, "
                f"or w{MAX_BITS}: ... for weights alone", field="recipe.at",
            )
        if all(width is None or str(bits.get(tensors)) == width for tensors, width in match.groupdict().items()):
            yield change
