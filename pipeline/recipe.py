"""Recipe: everything that changes numbers, as one flat YAML file; unknown keys and values out of range are errors.

A recipe names no target, no path and no device. There is no inheritance between recipes: the file is the
experiment. `--set key=value` edits the file's content before it is validated, so both obey the same rules.
The parameters of a method and of a source are carried, not judged: only their own files know which exist.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from pipeline.errors import RecipeError, nearest_spelling
from pipeline.grid import MAX_CHANNEL_BITS, RANGE_PARAMETER
from pipeline.plain_yaml import parse_yaml

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
MIN_BITS, MAX_BITS = 2, 8
MAX_BYTES = 1 << 17  # of a recipe file; one with a line for each of a thousand layers has half of it
SHOWN = 80  # characters of a wrong value in a message

Bits = Annotated[int, Field(ge=MIN_BITS, le=MAX_BITS)]
RangeName = Literal["minmax", "mse", "mse_shrink", "average", "percentile"]
# Below 1 a far outlier costs hardly more than a near one; above 4 small errors underflow in float32.
Exponent = Annotated[float, Field(ge=1.0, le=4.0)]
Percentile = Annotated[float, Field(gt=0.0, le=1.0)]
# Which layers keep 8 bits; what each name stands for is the table of pipeline/policy.py.
PolicyName = Literal["none", "qdrop", "brecq", "brecq-intended", "captq"]
Rule = TypeVar("Rule", "WeightRule", "ActivationRule")
AnyRule = TypeVar("AnyRule", "WeightRule", "ActivationRule", "RuleChange")

# Weights: a number, or `mp` (mixed precision) and the budget, `mp3` bits on average or `mp0.12mb`.
_WEIGHTS = r"w(?P<weights>\d+|mp\d+(?:\.\d+)?(?:mb)?)"
_BITS_IN_NAME = re.compile(rf"(?P<stem>.*_){_WEIGHTS}a(?P<activations>\d+)")
_BITS_SWAPPED = re.compile(rf"(?P<stem>.*_)a(?P<activations>\d+){_WEIGHTS}")
POSITIONS = ("first", "penultimate", "last")  # of a layer, as `where` of an override says it
OPERATOR = "op:"


class _Frozen(BaseModel):
    """Immutable, no unknown keys, no silent conversion (a YAML `"4"` is not 4)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _parameter_fits_range(rule: AnyRule) -> AnyRule:
    """A parameter that the range search beside it does not read is a mistake, not a wish to be dropped."""
    for key in ("exponent", "percentile"):
        takers = " or ".join(name for name, parameter in RANGE_PARAMETER.items() if parameter == key)
        if getattr(rule, key) is not None and RANGE_PARAMETER.get(rule.range) != key:
            beside = f"range: {rule.range}" if rule.range else "no range in the same override"
            raise ValueError(f"'{key}' belongs to range: {takers}, and beside it stands {beside}")
    return rule


def _levels_fit_bits(rule: AnyRule) -> AnyRule:
    """Levels that are not uniform exist for 1 to 4 bits a channel."""
    if rule.levels != "uniform" and isinstance(rule.bits, BitBudget):
        raise ValueError(f"levels: {rule.levels} allocates bits by itself: give a number, not a budget")
    if rule.levels != "uniform" and rule.bits > MAX_CHANNEL_BITS:
        raise ValueError(f"levels: {rule.levels} has at most {MAX_CHANNEL_BITS} bits, not {rule.bits}")
    return rule


class BitBudget(_Frozen):
    """Mixed precision: each layer's weight bits are chosen from the images, under a size (docs/methods.md).

    Layers whose bits the policy or an override fixes keep them; the others are *open*.

    Args:
        average: mean bits of the open layers, weighted by their numbers of weights: `average: 3` has exactly the size
            of `bits: 3`.
        budget_mb: size of the codes of all quantized weights, those of fixed bits included, in units of 2^20 bytes as
            in the papers' tables; biases and scales are not counted.
        options: the bits that a layer may get.
    """

    average: Annotated[float, Field(ge=MIN_BITS, le=MAX_BITS)] | None = None
    budget_mb: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    options: Annotated[tuple[Bits, ...], Field(strict=False, min_length=2)] = (2, 3, 4, 5, 6, 8)

    @field_validator("options")
    @classmethod
    def _sorted_and_distinct(cls, options: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(options)) < len(options):
            raise ValueError(f"the options {list(options)} hold a number twice")
        return tuple(sorted(options))

    @model_validator(mode="after")
    def _one_budget(self) -> BitBudget:
        if (self.average is None) == (self.budget_mb is None):
            raise ValueError("a budget of bits states exactly one of average and budget_mb")
        if self.average is not None and not self.options[0] <= self.average <= self.options[-1]:
            raise ValueError(f"an average of {self.average:g} bits lies outside the options {list(self.options)}")
        return self

    def __str__(self) -> str:
        """As a recipe's name says it: `mp3`, `mp2.5`, `mp0.12mb`."""
        number = Decimal(str(self.budget_mb if self.average is None else self.average)).normalize()
        return f"mp{number:f}" + ("mb" if self.average is None else "")


# pydantic puts these tags into its locations; `_explained` takes them out again.
_BITS_TAG, _BUDGET_TAG = "<bits>", "<budget>"


def _kind_of_bits(value: Any) -> str:
    return _BUDGET_TAG if isinstance(value, (Mapping, BitBudget)) else _BITS_TAG


WeightBits = Annotated[
    Annotated[Bits, Tag(_BITS_TAG)] | Annotated[BitBudget, Tag(_BUDGET_TAG)], Discriminator(_kind_of_bits)
]


class WeightRule(_Frozen):
    """How the weights of every convolution and linear layer are quantized.

    `exponent` and `percentile` are the parameters of some range searches; None for the search's default. `levels:
    multibit` gives every output channel a codebook of 2^K values with K = 0 ... 4, of which `bits` is the average; an
    override to more than 4 bits makes a layer uniform again.
    """

    bits: WeightBits
    symmetric: bool
    granularity: Literal["per_channel", "per_tensor"]
    range: RangeName
    exponent: Exponent | None = None
    percentile: Percentile | None = None
    levels: Literal["uniform", "multibit"] = "uniform"

    _fits = model_validator(mode="after")(_parameter_fits_range)
    _levels = model_validator(mode="after")(_levels_fit_bits)

    @model_validator(mode="after")
    def _codebooks_are_symmetric(self) -> WeightRule:
        if self.levels == "multibit" and not (self.symmetric and self.granularity == "per_channel"):
            raise ValueError("levels: multibit stands beside symmetric: true and granularity: per_channel")
        return self

    def at_widest(self) -> WeightRule:
        """This rule with the widest option of its budget; itself where the bits are a number."""
        return changed(self, weight_change(self.bits.options[-1])) if isinstance(self.bits, BitBudget) else self


class ActivationRule(_Frozen):
    """How activations are quantized: one grid for a whole tensor, because integer kernels sum over channels.

    `levels: nested` gives every channel of a tensor that cannot be negative 0 to 4 bits of its own, of which `bits` is
    the average, on one common grid.
    """

    bits: Bits
    symmetric: bool
    granularity: Literal["per_tensor"]
    range: RangeName
    exponent: Exponent | None = None
    percentile: Percentile | None = None
    levels: Literal["uniform", "nested"] = "uniform"

    _fits = model_validator(mode="after")(_parameter_fits_range)
    _levels = model_validator(mode="after")(_levels_fit_bits)


class RuleChange(_Frozen):
    """The part of a rule that an override replaces; what is None stays as it was.

    More than 4 bits are uniform levels, whatever the rule's are: the 8-bit layers of a policy.

    A range search is one thing with its parameter: `range` replaces both, and a parameter is stated beside it.
    """

    bits: Bits | None = None
    symmetric: bool | None = None
    range: RangeName | None = None
    exponent: Exponent | None = None
    percentile: Percentile | None = None

    _fits = model_validator(mode="after")(_parameter_fits_range)


class Override(_Frozen):
    """One line of `overrides`: later lines win.

    `where` is `first`, `penultimate` or `last` (layer with weights), `op:` and an operator name (`op:conv2d`), or a
    glob on names of layers and module paths (`layer3.*`). `activations` means the activations that enter the layer,
    `output` what leaves it, behind its activation function.
    """

    where: Annotated[str, Field(min_length=1)]
    weights: RuleChange | None = None
    activations: RuleChange | None = None
    output: RuleChange | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Override:
        if self.weights is None and self.activations is None and self.output is None:
            raise ValueError("an override states weights, activations or output, or several of them")
        if self.where == "op:":
            raise ValueError("'op:' is followed by an operator name, for example op:conv2d")
        return self


class ImagesRule(_Frozen):
    """Where calibration images come from, how many are drawn or made and in which batches they run.

    `count: 0` leaves their number to the source (`one-per-class`, `none`); the source judges whether it knows it.
    `augment: train` crops and flips image files as in training, once for all (`Batches.augmented`); `parameters` are
    those of the source, as written: the source's own file judges them.
    """

    source: Annotated[str, Field(min_length=1)]
    count: Annotated[int, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=1)]
    augment: Literal["train", "eval"] = "eval"
    parameters: dict[str, Any] = Field(default_factory=dict)


IMAGES_KEYS = tuple(key for key in ImagesRule.model_fields if key != "parameters")


class MethodChoice(_Frozen):
    """A calibration method by name, with the parameters as written; the method's own file judges them."""

    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] = Field(default_factory=dict)


class Recipe(_Frozen):
    """One experiment. See `load_recipe` for how it is made and `to_yaml` for its canonical text."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    weights: WeightRule
    activations: ActivationRule
    policy: PolicyName = "none"
    overrides: Annotated[tuple[Override, ...], Field(strict=False)] = ()
    placement: Literal["target", "paper"]
    images: ImagesRule
    method: MethodChoice
    passes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    seed: Annotated[int, Field(ge=0, lt=2**63)]

    @field_validator("method", mode="before")
    @classmethod
    def _collect_parameters(cls, method: Any) -> Any:
        """YAML keeps `name` and the parameters on one level; the type keeps them apart."""
        if not isinstance(method, Mapping):
            return method
        parameters = {key: value for key, value in method.items() if key != "name"}
        return {**({"name": method["name"]} if "name" in method else {}), "parameters": parameters}

    @field_validator("images", mode="before")
    @classmethod
    def _collect_source_parameters(cls, images: Any) -> Any:
        """As for the method: what is no key of `ImagesRule` goes to the source."""
        if not isinstance(images, Mapping):
            return images
        own = {key: value for key, value in images.items() if key in IMAGES_KEYS}
        return {**own, "parameters": {key: value for key, value in images.items() if key not in own}}

    @model_validator(mode="after")
    def _name_tells_the_bits(self) -> Recipe:
        match = _BITS_IN_NAME.fullmatch(self.name)
        content = (str(self.weights.bits), str(self.activations.bits))
        if match and match.group("weights", "activations") != content:
            raise ValueError(f"the name '{self.name}' does not say the recipe's bits (w{content[0]}a{content[1]})")
        return self

    def at_bits(self, bits: int) -> Recipe:
        """This recipe with every layer that a budget leaves open at `bits`: what one option means."""
        return self.model_copy(update={"weights": changed(self.weights, weight_change(bits))})

    def with_bits(self, bits: Mapping[str, int]) -> Recipe:
        """This recipe with a line for the weights of each layer, in front of its own overrides, which go on winning.

        Args:
            bits: name of the layer -> weight bits, of all layers: a line selects everything inside its module, so that
                one which stands above others would change them too.
        """
        # Sorted, a module comes before what is inside it, and later lines win.
        lines = [Override(where=exactly(path), weights=weight_change(bits[path])) for path in sorted(bits)]
        return self.model_copy(update={"overrides": (*lines, *self.overrides)})

    def to_yaml(self) -> str:
        """The whole recipe as YAML in one canonical order: equal recipes give equal text, and it loads again."""
        content = self.model_dump(exclude_none=True)
        for rule in (content["weights"], content["activations"]):
            if rule["levels"] == "uniform":  # the text, and so the hash, of every recipe that does not state it
                rule.pop("levels")
        content["images"].pop("parameters")
        content["images"] |= dict(sorted(self.images.parameters.items()))
        content["method"] = {"name": self.method.name, **dict(sorted(self.method.parameters.items()))}
        # Tuples are not plain YAML.
        if isinstance(self.weights.bits, BitBudget):
            content["weights"]["bits"]["options"] = list(self.weights.bits.options)
        content["overrides"], content["passes"] = list(content["overrides"]), list(content["passes"])
        return yaml.safe_dump(content, sort_keys=False, width=120)

    @property
    def sha256(self) -> str:
        """Hex digest of `to_yaml()`."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()


def changed(rule: Rule, change: RuleChange | None) -> Rule:
    """`rule` with the stated fields of `change` put in place of its own."""
    if change is None:
        return rule
    search = {"exponent": change.exponent, "percentile": change.percentile} if change.range is not None else {}
    levels = {"levels": "uniform"} if (change.bits or 0) > MAX_CHANNEL_BITS else {}
    return rule.model_copy(update=change.model_dump(exclude_none=True) | search | levels)


def weight_change(bits: int) -> RuleChange:
    """A layer's weights at `bits`. Integer kernels want zero point 0, and 8-bit codes have no room to be moved."""
    return RuleChange(bits=bits, symmetric=True if bits == MAX_BITS else None)


def exactly(path: str) -> str:
    """The `where` of an override that selects the module of this path, and what is inside it."""
    if path in POSITIONS or path.startswith(OPERATOR):
        return f"[{path[0]}]{glob.escape(path[1:])}"
    return glob.escape(path) or "*"


def available_recipes(folder: Path = RECIPES) -> list[str]:
    """Names of the recipes in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = (), folder: Path = RECIPES) -> Recipe:
    """The recipe of that name in `folder`, or in the YAML file of that path, with `--set` edits applied.

    Args:
        name_or_path: `qdrop_w4a4`, in any case and with the bits in either order, or a path.
        overrides: `key=value` strings, for example `method.steps=500` or `overrides.0.weights.bits=8`. Changed
            bits are followed by the recipe's name (`qdrop_w4a4` becomes `qdrop_w3a4`) unless `name` is set too.
        folder: where names are looked up.

    Raises:
        RecipeError: no such recipe, no valid YAML, an unknown key, a value that is not allowed.
    """
    path = _find(name_or_path, folder)
    content = _read(path)
    edits = [_edit(content, text) for text in overrides]
    if edits and not any(keys == ("name",) for keys in edits):
        _let_name_follow_bits(content, edits)
    for keys, number in _numbers(content):
        if not (-(2**63) <= number < 2**64 if isinstance(number, int) else math.isfinite(number)):
            allowed = "a whole number of 64 bits" if isinstance(number, int) else "a finite number"
            raise RecipeError(f"'{keys}' is {_shown(number)}", where=_blamed(keys, path, edits), allowed=allowed)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise _explained(error, path, edits) from None


def _find(name_or_path: str | Path, folder: Path) -> Path:
    path = Path(name_or_path)
    if path.suffix.lower() in (".yaml", ".yml") or len(path.parts) > 1 or isinstance(name_or_path, Path):
        if not path.is_file():
            what = "is a folder, not a recipe file" if path.is_dir() else "does not exist"
            raise RecipeError(f"the recipe file '{path}' {what}", hint=f"Names without a path: {_listed(folder)}")
        return path
    name = str(name_or_path).lower()
    if swapped := _BITS_SWAPPED.fullmatch(name):
        name = "{stem}w{weights}a{activations}".format(**swapped.groupdict())
    if name not in available_recipes(folder):
        raise RecipeError(
            f"there is no recipe '{name_or_path}'",
            allowed=f"{_listed(folder)}, or the path of a YAML file",
            hint=nearest_spelling(name, available_recipes(folder)),
        )
    return folder / f"{name}.yaml"


def _listed(folder: Path) -> str:
    """The recipes in `folder` as a shell would write them: `{brecq,qdrop}_w{2a2,4a4}, minmax_w8a8`."""
    plain: list[str] = []
    bits_of: dict[str, list[str]] = {}
    for name in available_recipes(folder):
        if _BITS_IN_NAME.fullmatch(name):
            stem, _, bits = name.rpartition("_w")
            bits_of.setdefault(stem, []).append(bits)
        else:
            plain.append(name)
    stems_of: dict[str, list[str]] = {}
    for stem, widths in bits_of.items():
        stems_of.setdefault(_braced(widths), []).append(stem)
    families = [f"{_braced(stems)}_w{widths}" for widths, stems in stems_of.items()]
    return ", ".join(families + plain) or f"(no recipe in '{folder}')"


def _braced(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{{{','.join(parts)}}}"


def _read(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES:,} bytes")
        content = parse_yaml(data.decode())
    except (OSError, ValueError) as error:
        raise RecipeError(f"the recipe cannot be read as YAML: {error}", where=str(path)) from error
    if not isinstance(content, dict):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise RecipeError(f"the recipe file holds {kind}", where=str(path), allowed=_keys_text(Recipe))
    return content


def _shown(value: Any) -> str:
    """The value as YAML's reader gives it, cut to what a message can hold."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integers of so many digits
        return "a number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _edit(content: dict[Any, Any], text: str) -> tuple[str, ...]:
    """Writes one `key=value` into the raw content; returns the key path. Whether the key exists is judged later."""
    key, separator, value_text = text.partition("=")
    keys = tuple(key.strip().split("."))
    where = f"--set {text}"
    if not separator or not all(keys):
        raise RecipeError("not of the form key=value", where=where, hint="For example --set method.steps=500")
    try:
        value = parse_yaml(value_text)
    except ValueError as error:
        raise RecipeError(f"the value cannot be read as YAML: {error}", where=where) from error
    place: Any = content
    for depth, step in enumerate(keys[:-1], start=1):
        place = _enter(place, step, ".".join(keys[:depth]), where)
    if isinstance(place, list):
        place[_index(place, keys[-1], key, where)] = value
    else:
        place[keys[-1]] = value
    return keys


def _enter(place: Any, step: str, path: str, where: str) -> Any:
    """The container behind one step of a key path; an absent or empty one is made."""
    if isinstance(place, list):
        inner = place[_index(place, step, path, where)]
    else:
        if place.get(step) is None:
            place[step] = {}
        inner = place[step]
    if not isinstance(inner, (dict, list)):
        raise RecipeError(f"'{path}' is a single value ({_shown(inner)}) and has no keys inside", where=where)
    return inner


def _index(place: list[Any], step: str, path: str, where: str) -> int:
    if not (step.isdecimal() and int(step) < len(place)):
        allowed = f"0 to {len(place) - 1}" if place else "none: the list is empty"
        raise RecipeError(f"'{path}' names no entry of the list", where=where, allowed=allowed)
    return int(step)


def _let_name_follow_bits(content: dict[Any, Any], edits: list[tuple[str, ...]]) -> None:
    match = _BITS_IN_NAME.fullmatch(str(content.get("name")))
    if not match:
        return
    bits = match.groupdict()
    for tensors in ("weights", "activations"):
        if any(keys == (tensors,) or keys[:2] == (tensors, "bits") for keys in edits):
            rule = content[tensors]
            bits[tensors] = _bits_as_named(rule.get("bits") if isinstance(rule, dict) else None) or bits[tensors]
    content["name"] = "{stem}w{weights}a{activations}".format(**bits)


def _bits_as_named(bits: Any) -> str:
    """A number or a budget of bits as a name says it; the empty string for what is neither."""
    if isinstance(bits, dict):
        with contextlib.suppress(ValidationError):
            return str(BitBudget.model_validate(bits))
    return str(bits) if isinstance(bits, int) else ""


def _explained(error: ValidationError, path: Path, edits: list[tuple[str, ...]]) -> RecipeError:
    """One RecipeError for a pydantic report: the first finding in full, the keys of the others behind it."""
    findings = sorted(error.errors(include_url=False), key=lambda finding: finding["type"] != "extra_forbidden")
    for finding in findings:
        finding["loc"] = tuple(step for step in finding["loc"] if step not in (_BITS_TAG, _BUDGET_TAG))
    first, others = findings[0], [_key_text(finding["loc"]) for finding in findings[1:]]
    what, allowed, hint = _finding(first)
    if others:
        hint = f"{hint} Also wrong: {', '.join(others)}".strip()
    return RecipeError(what, where=_blamed(_key_text(first["loc"]), path, edits), allowed=allowed, hint=hint)


def _blamed(key: str, path: Path, edits: list[tuple[str, ...]]) -> str:
    """The file, and the edit that made the value at `key` what it is."""
    # One path leads to the other: `--set weights={}` is to blame for a missing `weights.bits`, and the reverse.
    keys = key.split(".")
    blamed = [".".join(edit) for edit in edits if all(a == b for a, b in zip(edit, keys, strict=False))]
    return f"{path}, changed by --set {blamed[-1]}" if blamed else str(path)


def _numbers(content: Any, key: str = "") -> Iterator[tuple[str, int | float]]:
    """(key path, value) of every number in the raw content."""
    if isinstance(content, (int, float)):
        yield key, content
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for step, value in inside:
        yield from _numbers(value, f"{key}.{step}" if key else str(step))


def _finding(finding: Any) -> tuple[str, str, str]:
    """(what, allowed, hint) of one entry of a pydantic report."""
    kind, loc, value = finding["type"], finding["loc"], finding["input"]
    key = _key_text(loc)
    if kind == "extra_forbidden":
        model = _model_at(loc[:-1])
        return f"unknown key '{key}'", _keys_text(model), nearest_spelling(str(loc[-1]), model.model_fields)
    if kind == "missing":
        return f"the key '{key}' is missing", _keys_text(_model_at(loc[:-1])), ""
    if kind == "value_error":  # raised by the validators above: a sentence of ours
        return str(finding["ctx"]["error"]), "", f"See '{key}'." if key else ""
    if loc[-1:] == ("bits",):
        budget = ", or a budget as {average: 3} or {budget_mb: 0.12}" if loc == ("weights", "bits") else ""
        return f"'{key}' is {_shown(value)}", f"an integer from {MIN_BITS} to {MAX_BITS}{budget}", ""
    if kind == "literal_error":
        choices = re.findall(r"'([^']+)'", finding["ctx"]["expected"])
        return f"'{key}' is {_shown(value)}", " or ".join(choices), nearest_spelling(str(value), choices)
    return f"'{key}' is {_shown(value)}", finding["msg"], ""


def _key_text(loc: tuple[int | str, ...]) -> str:
    """A pydantic location as the YAML key path: the level `parameters` does not exist in the file."""
    if loc[:2] in (("method", "parameters"), ("images", "parameters")):
        loc = (loc[0], *(step for step in loc[2:] if step != "[key]"))
    return ".".join(str(step) for step in loc)


def _model_at(loc: tuple[int | str, ...]) -> type[BaseModel]:
    """The model class whose keys stand at `loc`."""
    model: type[BaseModel] = Recipe
    for step in loc:
        if isinstance(step, str):
            model = _model_inside(model.model_fields[step].annotation)
    return model


def _model_inside(annotation: Any) -> type[BaseModel] | None:
    """`X` of `X`, `X | None`, `tuple[X, ...]` and `int | X`; None where there is no model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for part in get_args(annotation) if (model := _model_inside(part)) is not None), None)


def _keys_text(model: type[BaseModel]) -> str:
    return "the keys " + ", ".join(key for key in model.model_fields if key != "parameters")
