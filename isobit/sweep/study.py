"""The study file: which models, recipes, targets and seeds, what a cell may take, and what is best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError

from isobit.pipeline.errors import InputError, nearest_spelling
from isobit.pipeline.recipe.budget import Frozen
from isobit.pipeline.recipe.findings import shown
from isobit.pipeline.recipe.plain_yaml import read_yaml
from isobit.sweep.options import Option, Word, check_known, words
from isobit.sweep.rules import Rule

MAX_BYTES = 1 << 20  # of a study file: a thousand models with ten options each have a tenth of it
MODEL_KEYS = ("file", "name")
NAME = Field(min_length=1, max_length=200)
Seeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(strict=False, min_length=1)]


def _named(value: Any) -> Any:
    """A name alone is short for an entry that says nothing else."""
    return {"name": value} if isinstance(value, str) else value


class ModelEntry(Frozen):
    """A trained model; what stands beside `file` and `name` are options of `isobit build`."""

    model_config = ConfigDict(extra="allow")

    file: Annotated[str, NAME]
    name: Annotated[str | None, NAME] = None

    @property
    def options(self) -> dict[str, Any]:
        """Everything else, as written."""
        return dict(self.__pydantic_extra__ or {})


class RecipeEntry(Frozen):
    """A recipe by name or file, with edits as of `--set`; `models` names those of the study that it is for, all
    without it, and `seeds` stands in place of the study's.
    """

    name: Annotated[str, NAME]
    edits: Annotated[tuple[str, ...], Field(strict=False, alias="set")] = ()
    models: Annotated[tuple[str, ...], Field(strict=False, min_length=1)] | None = None
    seeds: Seeds | None = None


class TargetEntry(Frozen):
    """A target, with a device profile or several of them; without one its default."""

    name: Annotated[str, NAME]
    profile: Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(
        lambda value: [value] if isinstance(value, str) else value)] | None = None

    @property
    def profiles(self) -> tuple[str | None, ...]:
        """One a cell."""
        return self.profile or (None,)


class Resources(Frozen):
    """What a cell takes: threads (they change sums, and so bytes), GB of memory, GPUs, and minutes for Slurm."""

    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    memory: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 2.0
    gpus: Annotated[float, Field(ge=0, le=64, allow_inf_nan=False)] = 0.0
    minutes: Annotated[int, Field(ge=1, le=100_000)] = 24 * 60


class Content(Frozen):
    """A study file as written; see `load_study`."""

    models: Annotated[tuple[ModelEntry, ...], Field(strict=False, min_length=1)]
    recipes: Annotated[
        tuple[Annotated[RecipeEntry, BeforeValidator(_named)], ...], Field(strict=False, min_length=1)]
    targets: Annotated[
        tuple[Annotated[TargetEntry, BeforeValidator(_named)], ...], Field(strict=False, min_length=1)]
    seeds: Seeds | None = None
    resources: Resources = Resources()
    best: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    slurm: dict[str, Any] = Field(default_factory=dict)


class Model(Frozen):
    """A model of a study: its name in tables, and the words of `isobit build` that say all but recipe and target."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str
    file: Path
    words: tuple[Word, ...]


class Study(Frozen):
    """A study that was read: `folder` is what relative paths begin with."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    folder: Path
    models: tuple[Model, ...]
    content: Content

    def seeds_of(self, recipe: RecipeEntry) -> tuple[int | None, ...]:
        """None for the recipe's own."""
        return recipe.seeds or self.content.seeds or (None,)

    def models_of(self, recipe: RecipeEntry) -> tuple[Model, ...]:
        """Those that the recipe is for."""
        return tuple(model for model in self.models if recipe.models is None or model.name in recipe.models)


def load_study(path: Path, options: Mapping[str, Option]) -> Study:
    """Read and judge a study file; recipes and targets are looked up when its cells are made.

    Args:
        options: what a model may say, by name.

    Raises:
        InputError: it cannot be read, or the field that it names is wrong.
    """
    content = _read(path)
    try:
        read = Content.model_validate(content)
    except ValidationError as error:
        raise explained(error, str(path)) from None
    for key in ("models", "recipes", "targets", "seeds"):
        refuse_twins(key, getattr(read, key) or (), str(path))
    folder, models = path.resolve().parent, []
    for place, entry in enumerate(read.models):
        try:
            models.append(_model(entry, folder, options, f"models.{place}"))
        except InputError as error:
            raise InputError(error.what, where=str(path), allowed=error.allowed, hint=error.hint, field=error.field
                             ) from None
    refuse_twins("models", [model.name for model in models], str(path),
                 "Give one of them a `name` of its own.".replace("`", "'"))
    for place, recipe in enumerate(read.recipes):
        _check_recipe(recipe, [model.name for model in models], f"recipes.{place}", str(path))
    return Study(folder=folder, models=tuple(models), content=read)


def _read(path: Path) -> dict[Any, Any]:
    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "does not exist"
            raise InputError(f"the study '{path}' {what}", field="study")
        content = read_yaml(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise InputError(f"the study cannot be read as YAML: {error}", where=str(path), field="study") from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise InputError(f"the study holds {kind}", where=str(path), field="study", allowed=_keys())
    return content


def _model(entry: ModelEntry, folder: Path, options: Mapping[str, Option], field: str) -> Model:
    check_known(options, entry.options, field, MODEL_KEYS)
    said = [word for key, value in entry.options.items()
            for word in words(options[key], value, folder, f"{field}.{key}")]
    return Model(name=entry.name or Path(entry.file).stem, file=folder / entry.file, words=tuple(said))


def _check_recipe(entry: RecipeEntry, models: Sequence[str], field: str, where: str) -> None:
    """Raises InputError for a model that the study does not have, and for one or a seed that stands there twice."""
    for key in ("models", "seeds"):
        refuse_twins(f"{field}.{key}", getattr(entry, key) or (), where)
    for place, name in enumerate(entry.models or ()):
        if name not in models:
            key = f"{field}.models.{place}"
            raise InputError(f"'{key}': the study has no model '{name}'", where=where, field=key,
                             allowed=", ".join(models), hint=nearest_spelling(name, models))


def refuse_twins(key: str, entries: Sequence[Any], where: str, hint: str = "") -> None:
    """Raises InputError for an entry that stands there twice."""
    seen: dict[str, int] = {}
    for place, entry in enumerate(entries):
        first = seen.setdefault(repr(entry), place)
        if first != place:
            raise InputError(f"'{key}.{place}' says the same as '{key}.{first}'", where=where, field=f"{key}.{place}",
                             hint=hint or "Leave one of them out.")


def explained(error: ValidationError, where: str) -> InputError:
    """The first finding of a pydantic report in words, unknown keys before all others."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    kind, loc, value = findings[0]["type"], findings[0]["loc"], findings[0]["input"]
    said = findings[0].get("ctx", {}).get("error", findings[0]["msg"])
    key = ".".join(str(step) for step in loc)
    if kind == "extra_forbidden":
        hint = nearest_spelling(str(loc[-1]), _KEYS) if len(loc) == 1 else ""
        return InputError(f"unknown key '{key}'", where=where, field=key, allowed=_keys() if len(loc) == 1 else "",
                          hint=hint)
    if kind == "missing":
        return InputError(f"the key '{key}' is missing", where=where, field=key,
                          allowed=_keys() if len(loc) == 1 else "")
    if kind in ("too_short", "string_too_short"):
        return InputError(f"'{key}' is empty", where=where, field=key, allowed="at least one entry")
    if kind == "value_error":
        return InputError(f"'{key}': {said}", where=where, field=key)
    return InputError(f"'{key}' is {shown(value)}", where=where, field=key, allowed=findings[0]["msg"])


_KEYS = tuple(Content.model_fields)


def _keys() -> str:
    return f"the keys {', '.join(_KEYS)}"
