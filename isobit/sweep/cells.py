"""Cells: a study's models x recipes x targets x seeds, each with the key of all that changes its bytes.

A recipe may be for some of the models alone, and have seeds of its own.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from isobit.backends.base import BACKENDS
from isobit.build import check_recipe
from isobit.pipeline.artifact.manifest import package_versions
from isobit.pipeline.errors import CompileError, InputError
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.samples.coco import is_annotations, read_annotations
from isobit.shipping.ship import PACKAGES
from isobit.sweep.hashes import UNREADABLE, build_sha256, tree_sha256
from isobit.sweep.options import Word
from isobit.sweep.study import Model, RecipeEntry, Resources, Study

MOST = 1_000_000  # cells
READABLE, KEY = 120, 12  # characters of a folder's name: of its readable part, and of the key


@dataclass(frozen=True)
class Cell:
    """One build.

    Args:
        recipe: its name, which follows edits of bits.
        edits: `--set` texts of the study, the seed apart.
        profile: of the device; the target's default where the study says none.
        key: SHA-256 of all that changes the artifact's bytes.
        words: of `isobit build`, without `--out`.
    """

    model: str
    recipe: str
    edits: tuple[str, ...]
    target: str
    profile: str
    seed: int
    key: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """`digits-qdrop_w4a4-onnx-generic-1005-0123456789ab`: the name of its folders, other for every key."""
        said = f"{self.model}-{'+'.join((self.recipe, *self.edits))}-{self.target}-{self.profile}-{self.seed}"
        readable = re.sub(r"[^A-Za-z0-9._=+-]+", "_", said)[:READABLE].strip("._-")
        return f"{readable}-{self.key[:KEY]}"


@dataclass(frozen=True)
class _Recipe:
    """A recipe of the study with one seed, found and judged, with the words that name it."""

    found: Recipe
    sha256: str
    content: str  # hash of all but name and seed
    edits: tuple[str, ...]
    words: tuple[Word, ...]


def cells_of(study: Study) -> list[Cell]:
    """Every cell of the study, models outermost, seeds innermost.

    Raises:
        InputError: a recipe or a target that there is not, or two that are the same.
    """
    content = study.content
    places = sum(len(entry.profiles) for entry in content.targets)
    count = places * sum(len(study.models_of(entry)) * len(study.seeds_of(entry)) for entry in content.recipes)
    if count > MOST:
        raise InputError(f"'seeds': the study has {count:,} cells", field="seeds", allowed=f"at most {MOST:,}")
    recipes = [_seeded(study, entry, f"recipes.{place}") for place, entry in enumerate(content.recipes)]
    targets = [place for number, entry in enumerate(content.targets)
               for place in _places(entry.name, entry.profiles, f"targets.{number}")]
    _refuse_same(enumerate((target, profile) for target, profile, _ in targets), "targets", "a target with one profile")
    wanted = [(model, place) for model in study.models for place, entry in enumerate(content.recipes)
              if model in study.models_of(entry)]
    seeded = [(place, model.name, one) for model, place in wanted for one in recipes[place]]
    _refuse_same([(place, (model, one.found.name, one.edits, one.found.seed)) for place, model, one in seeded],
                 "recipes", "a name with the same edits")
    _refuse_same([(place, (model, one.content, one.found.seed)) for place, model, one in seeded],
                 "recipes", "one recipe")
    return [_cell(model, recipe, target, content.resources)
            for model, place in wanted for target in targets for recipe in recipes[place]]


def _seeded(study: Study, entry: RecipeEntry, field: str) -> list[_Recipe]:
    """The recipe with every seed that it is built with."""
    inside = study.folder / entry.name
    is_file = Path(entry.name).suffix.lower() in (".yaml", ".yml") or len(Path(entry.name).parts) > 1
    name = str(inside) if is_file else entry.name
    try:
        found = load_recipe(name, entry.edits)
        check_recipe(found)
    except CompileError as error:
        raise InputError(f"'{field}': {error.what}", where=error.where, allowed=error.allowed, hint=error.hint,
                         field=field) from error
    said = (Word("--recipe", name, inside if is_file else None), *(Word("--set", edit) for edit in entry.edits))
    content, recipes = found.model_copy(update={"name": "any", "seed": 0}).sha256, []
    for seed in study.seeds_of(entry):
        one = found if seed is None else found.model_copy(update={"seed": seed})
        more = () if seed is None else (Word("--seed", str(seed)),)
        recipes.append(_Recipe(one, one.sha256, content, entry.edits, (*said, *more)))
    return recipes


def _places(name: str, profiles: tuple[str | None, ...], field: str) -> Iterator[tuple[str, str, tuple[Word, ...]]]:
    """(target, profile, words) of a target's entry."""
    try:
        backend = BACKENDS.get(name)
    except CompileError as error:
        raise InputError(f"'{field}': {error.what}", allowed=error.allowed, hint=error.hint, field=field) from error
    for profile in profiles:
        if profile is not None and profile not in backend.profiles:
            raise InputError(f"'{field}.profile': the target '{name}' has no profile '{profile}'",
                             field=f"{field}.profile", allowed=", ".join(backend.profiles))
        said = () if profile is None else (Word("--device-profile", profile),)
        yield name, profile or backend.profiles[0], (Word("--target", name), *said)


def _refuse_same(entries: Iterable[tuple[int, Hashable]], key: str, what: str) -> None:
    """Raises InputError where two places of the study's list `key` hold the same."""
    seen: dict[Hashable, int] = {}
    for place, entry in entries:
        first = seen.setdefault(entry, place)
        if first != place:
            raise InputError(f"'{key}' has {what} twice: entries {first} and {place}", field=f"{key}.{place}",
                             hint="Leave one of them out, or give it another name.")


def _cell(model: Model, recipe: _Recipe, place: tuple[str, str, tuple[Word, ...]], resources: Resources) -> Cell:
    target, profile, said = place
    words = [Word("", str(model.file), model.file), *model.words, *recipe.words, *said]
    flat = tuple(text for word in words for text in (word.flag, word.text) if text)
    return Cell(model.name, recipe.found.name, recipe.edits, target, profile, recipe.found.seed,
                _key(words, recipe.sha256, target, profile, resources), flat)


def _key(words: list[Word], recipe: str, target: str, profile: str, resources: Resources) -> str:
    """Hash of what the build is told, with the bytes of all files in place of the folders that they lie in."""
    said = sorted((word.flag, _of_any_machine(word), *_contents(word)) for word in words)
    content = {
        "words": said, "recipe": recipe, "target": [target, profile, _versions(target)],
        "code": build_sha256(), "packages": _packages(),
        "threads": resources.cpus, "gpu": resources.gpus > 0,  # sums depend on how they are shared out
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _of_any_machine(word: Word) -> str:
    return (word.text or "") if word.file is None else (word.text or "").rpartition("/")[2]


def _contents(word: Word) -> tuple[str, ...]:
    return () if word.file is None else _file_hashes(word.file)


@cache
def _file_hashes(file: Path) -> tuple[str, ...]:
    """Hash of a file or folder, and of the pictures that an annotation file names."""
    found = [tree_sha256(file)]
    with suppress(OSError):
        if file.is_file() and is_annotations(file):
            try:
                said = read_annotations(file)
                found += [tree_sha256(said.root / name) for name in said.files]
            except CompileError:  # the cell meets the same error and records it
                found.append(UNREADABLE)
    return tuple(found)


@cache
def _packages() -> dict[str, str]:
    """Versions on the host that the sweep is driven from; others must have the same."""
    return package_versions(*PACKAGES)


@cache
def _versions(target: str) -> dict[str, str]:
    """Versions of the target's runtime; nothing where it is not installed: its cells fail by themselves."""
    try:
        return dict(BACKENDS.get(target).versions())
    except (CompileError, ImportError):
        return {}
