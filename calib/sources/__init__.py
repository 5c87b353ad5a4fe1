"""Where calibration images come from. A source chooses from everything that `--calib-data` holds.

`@source("name", Parameters, needs={"labels"})` registers a function `(pool, parameters, count, seed) -> Batches`, where
`pool` is everything in the order of the files, `count` how many images the recipe asks for, and the result the chosen
ones in their order: of fewer than `count` images all are taken. A source sees names, labels and pixels, no model.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from calib.parameters import Parameters, checked_parameters
from pipeline.data import Batches
from pipeline.errors import InputError, RecipeError
from pipeline.recipe import IMAGES_KEYS, ImagesRule
from pipeline.registry import Registry, discover

P = TypeVar("P", bound=Parameters)
Choose = Callable[[Batches, P, int, int], Batches]


@dataclass(frozen=True)
class Source(Generic[P]):
    """A registered source.

    Args:
        needs: what the data must have: `labels` or nothing.
    """

    name: str
    parameters: type[P]
    needs: frozenset[str]
    choose: Choose[P]


SOURCES: Registry[Source[Any]] = Registry("source of images", RecipeError)


def source(name: str, parameters: type[P], needs: set[str]) -> Callable[[Choose[P]], Choose[P]]:
    """Register the decorated function as source `name`."""

    def register(choose: Choose[P]) -> Choose[P]:
        SOURCES.register(name)(Source(name, parameters, frozenset(needs), choose))
        return choose

    return register


def find_source(images: ImagesRule) -> tuple[Source[Any], Parameters]:
    """The source that a recipe names, and its checked parameters; can be asked before any data is there.

    Raises:
        RecipeError: no such source, an unknown parameter or a value that is not allowed; with the nearest spelling.
    """
    discover(sys.modules[__name__])
    found = SOURCES.get(images.source)
    owner = f"source '{images.source}'"
    return found, checked_parameters(found.parameters, images.parameters, owner, "images", IMAGES_KEYS)


def draw(pool: Batches, images: ImagesRule, seed: int) -> Batches:
    """The calibration images that a recipe asks for, checked, and augmented where it says so.

    Args:
        pool: everything that is there, as `open_pool` gives it.
        images, seed: of the recipe.

    Raises:
        RecipeError: see `find_source`.
        InputError: the data lacks what the source needs, or cannot be used.
    """
    found, parameters = find_source(images)
    if "labels" in found.needs and pool.labels is None:
        raise InputError(
            f"the source '{found.name}' needs labels, and there are none", where=str(pool.path),
            allowed="a folder with one subfolder a class, or an .npz with x and y",
            hint="--set images.source=files draws without labels.",
        )
    if images.augment == "train":
        pool = pool.augmented(seed)
    return found.choose(pool, parameters, images.count, seed).checked()
