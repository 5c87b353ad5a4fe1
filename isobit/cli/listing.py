"""The commands that list what there is: recipes and targets, as tables for people or JSON for scripts."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from isobit.backends.base import BACKENDS
from isobit.build import check_recipe
from isobit.calib.methods import find_method
from isobit.calib.sources import makes_images
from isobit.cli.completion import recipe_names
from isobit.cli.exits import exit_codes
from isobit.cli.options import Json
from isobit.cli.tables import Row, show_table
from isobit.cli.terminal import Terminal, open_console
from isobit.fields import in_options
from isobit.pipeline.errors import CompileError, TargetError
from isobit.pipeline.recipe.family import Family, list_families
from isobit.pipeline.recipe.file import load_recipe

RecipeToShow = Annotated[str | None, typer.Argument(
    metavar="NAME", show_default=False, autocompletion=recipe_names, help="A recipe, or a YAML file, to print in full.",
)]


@dataclass(frozen=True)
class RecipeRow:
    """A family of recipes in the list; `needs` is what its method wants and its source of images reads."""

    name: str
    bits: str
    policy: str
    needs: str
    what: str


def recipes(name: RecipeToShow = None, as_json: Json = False) -> None:
    """List the families of recipes, or print one recipe in full, as a YAML file that builds the same."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=False))
        if name is not None:
            recipe = load_recipe(name)
            check_recipe(recipe)
            if as_json:
                terminal.show_json(recipe.model_dump(mode="json"))
            else:
                terminal.results.print(recipe.to_yaml().rstrip(), soft_wrap=True)
            return
        rows = [recipe_row(family) for family in list_families()]
        if as_json:
            terminal.show_json({"recipes": [asdict(row) for row in rows]})
        else:
            show_table(terminal.results, [Row(tuple(asdict(row).values())) for row in rows], RECIPE_COLUMNS)
            terminal.results.print("\nw4a8: weights of 4 bits, activations of 8. One in full: recipes qdrop_w4a8")


RECIPE_COLUMNS = ("recipe", "bits", "policy below w8a8", "needs", "what it does")


def recipe_row(family: Family) -> RecipeRow:
    """What the list says about a family."""
    recipe = load_recipe(family.recipes[0])
    method, parameters = find_method(recipe.method)
    needed = method.needed(parameters)
    data = sorted(needed & {"images", "labels"})
    made = f"{recipe.images.source} makes them" if data and makes_images(recipe.images) else ""
    others = sorted(word for need, word in NEEDS.items() if need in needed)
    text = ", ".join([*data, *others]) or "nothing"
    return RecipeRow(
        f"{family.name}_*", f"{family.bits[0]} to {family.bits[-1]}", family.policy,
        f"{text} ({made})" if made else text, family.summary,
    )


NEEDS = {"bn_statistics": "batch norms", "tail": "classes"}


@dataclass(frozen=True)
class TargetRow:
    """One device profile of a target; `ready` where this machine can build and prove for it."""

    target: str
    profile: str
    needs: str
    ready: bool
    missing: str
    do: str


def targets(as_json: Json = False) -> None:
    """List the targets with their device profiles, what an artifact needs there, and what is missing here."""
    with ExitStack() as stack:
        terminal = Terminal(open_console(sys.stdout), open_console(sys.stderr))
        stack.enter_context(exit_codes(terminal, as_json=as_json, debug=False))
        rows = target_rows()
        if as_json:
            terminal.show_json({"targets": [asdict(row) for row in rows]})
            return
        show_table(terminal.results, [
            Row((row.target, row.profile, row.needs, row.missing or "yes"), marked=not row.ready)
            for row in rows
        ], ("target", "profile", "on the device", "ready here"))


def target_rows() -> list[TargetRow]:
    """Every profile of every target, checked on this machine; the first profile of a target is its default."""
    rows = []
    for name in BACKENDS.names():
        try:
            backend = BACKENDS.get(name)
        except CompileError as error:  # a plug-in that cannot be loaded hides no other target
            rows.append(TargetRow(name, "", "", False, in_options(error.what), in_options(error.hint)))
            continue
        for profile in backend.profiles:
            try:
                backend.check(profile)
                missing, do = "", ""
            except TargetError as error:
                missing, do = in_options(error.what), in_options(error.hint)
            rows.append(TargetRow(name, profile, backend.device_needs, not missing, missing, do))
    return rows
