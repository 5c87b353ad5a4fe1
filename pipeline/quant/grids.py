"""The kinds of grids by name: what `levels` of a recipe chooses. A new kind is a new file of this package.

A kind is a subclass `X` of `pipeline.quant.grid.Grid`, and its file says `GRIDS.register(X.kind)(X)`. Everything else
asks the class or the grid; nothing outside this package compares names.
"""

from __future__ import annotations

import functools
import sys

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.quant.grid import Grid, Tensors
from isobit.pipeline.registry import Registry, discover

GRIDS: Registry[type[Grid]] = Registry("kind of grid", RecipeError)
GRIDS.register(Grid.kind)(Grid)


@functools.cache
def _discover() -> None:
    discover(sys.modules[__name__.rpartition(".")[0]])


def grid_kind(name: str) -> type[Grid]:
    """The kind of that name; raises RecipeError, with the known names, where there is none."""
    _discover()
    return GRIDS.get(name)


def kinds_of(tensors: Tensors) -> list[str]:
    """Names of the kinds that such tensors may have, the uniform one first."""
    _discover()
    others = [name for name in GRIDS.names() if name != Grid.kind]
    return [name for name in (Grid.kind, *others) if tensors in GRIDS.get(name).tensors]
