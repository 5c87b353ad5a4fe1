"""Recipe: everything that changes numbers, as one frozen value; unknown keys and values out of range are errors.

A recipe names no target, no path and no device. The parameters of a method and of a source are carried, not judged:
only their own files know which exist.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from isobit.pipeline.quant.grid import RANGE_PARAMETER, Grid, Tensors
from isobit.pipeline.quant.grids import grid_kind, kinds_of
from isobit.pipeline.recipe.budget import MAX_BITS, BitBudget, Bits, Frozen
from isobit.pipeline.recipe.names import bits_in_name

RangeName = Literal["minmax", "mse", "mse_shrink", "average", "percentile"]
# Below 1 a far outlier costs hardly more than a near one; above 4 small errors underflow in float32.
Exponent = Annotated[float, Field(ge=1.0, le=4.0)]
Percentile = Annotated[float, Field(gt=0.0, le=1.0)]
# Which layers keep 8 bits; what each name stands for is the table of pipeline/recipe/policy.py.
PolicyName = Literal["none", "qdrop", "brecq", "brecq-intended", "captq", "depthwise"]
FinishPart = Literal["scales", "biases", "rounding"]
Augmentation = Literal["mix", "shift", "flip", "noise"]
Rule = TypeVar("Rule", "WeightRule", "ActivationRule")
AnyRule = TypeVar("AnyRule", "WeightRule", "ActivationRule", "RuleChange")

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"  # of a recipe's name
POSITIONS = ("first", "penultimate", "last")  # of a layer, as `where` of an override says it
OPERATOR = "op:"


def _parameter_fits_range(rule: AnyRule) -> AnyRule:
    """A parameter that the range search beside it does not read is a mistake, not a wish to be dropped."""
    for key in ("exponent", "percentile"):
        takers = " or ".join(name for name, parameter in RANGE_PARAMETER.items() if parameter == key)
        if getattr(rule, key) is not None and RANGE_PARAMETER.get(rule.range or "") != key:
            beside = f"range: {rule.range}" if rule.range else "no range in the same override"
            raise ValueError(f"'{key}' belongs to range: {takers}, and beside it stands {beside}")
    return rule


def _grid_fits_rule(rule: Rule) -> Rule:
    """The kind of grid has so many bits, and stands beside what the rule says else."""
    bits = None if isinstance(rule.bits, BitBudget) else rule.bits
    grid_kind(rule.levels).check_rule(bits, rule.symmetric, rule.granularity == "per_channel")
    return rule


def _levels_of(tensors: Tensors) -> AfterValidator:
    """The value is the name of a kind of grid for such tensors."""

    def check(name: str) -> str:
        names = kinds_of(tensors)
        if name not in names:
            expected = " or ".join(f"'{one}'" for one in names)
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name

    return AfterValidator(check)


# pydantic puts these tags into its locations; `pipeline/recipe/findings.py` takes them out again.
BITS_TAG, BUDGET_TAG = "<bits>", "<budget>"


def _kind_of_bits(value: Any) -> str:
    return BUDGET_TAG if isinstance(value, (Mapping, BitBudget)) else BITS_TAG


WeightBits = Annotated[
    Annotated[Bits, Tag(BITS_TAG)] | Annotated[BitBudget, Tag(BUDGET_TAG)], Discriminator(_kind_of_bits)
]


class WeightRule(Frozen):
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
    levels: Annotated[str, _levels_of("weights")] = Grid.kind

    _fits = model_validator(mode="after")(_parameter_fits_range)
    _levels = model_validator(mode="after")(_grid_fits_rule)

    @property
    def fixed_bits(self) -> int:
        """The bits of a rule that states a number; raises ValueError where it states a budget."""
        if isinstance(self.bits, BitBudget):
            raise ValueError(f"bits of a weight: a budget ({self.bits}) where a number is needed")
        return self.bits

    @property
    def budget(self) -> BitBudget:
        """The budget of a rule that states one; raises ValueError where it states a number."""
        if not isinstance(self.bits, BitBudget):
            raise ValueError(f"bits of a weight: {self.bits} where a budget is needed")
        return self.bits

    def at_widest(self) -> WeightRule:
        """This rule with the widest option of its budget; itself where the bits are a number."""
        return changed(self, weight_change(self.bits.options[-1])) if isinstance(self.bits, BitBudget) else self


class ActivationRule(Frozen):
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
    levels: Annotated[str, _levels_of("activations")] = Grid.kind

    _fits = model_validator(mode="after")(_parameter_fits_range)
    _levels = model_validator(mode="after")(_grid_fits_rule)


class RuleChange(Frozen):
    """The part of a rule that an override replaces; what is None stays as it was.

    More bits than the kind of grid has are uniform levels, whatever the rule's are: the 8-bit layers of a policy.

    A range search is one thing with its parameter: `range` replaces both, and a parameter is stated beside it.
    """

    bits: Bits | None = None
    symmetric: bool | None = None
    range: RangeName | None = None
    exponent: Exponent | None = None
    percentile: Percentile | None = None

    _fits = model_validator(mode="after")(_parameter_fits_range)


Where = Annotated[str, Field(min_length=1)]


class Override(Frozen):
    """One line of `overrides`: later lines win.

    `where` is `first`, `penultimate` or `last` (layer with weights), `op:` and an operator name (`op:conv2d`,
    `op:depthwise_conv2d`), or a glob on names of layers and module paths (`layer3.*`), or a list of these.
    `activations` means the activations that enter the layer, `output` what leaves it, after its activation function.
    `float: true` leaves the operators out of quantization: a target that computes in float computes them so, between
    the grids of their neighbours.
    """

    where: Where | Annotated[tuple[Where, ...], Field(strict=False, min_length=1)]
    float: bool | None = None
    weights: RuleChange | None = None
    activations: RuleChange | None = None
    output: RuleChange | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Override:
        changes = (self.weights, self.activations, self.output)
        if not any(changes) and self.float is None:
            raise ValueError("an override states weights, activations or output, or several of them, or float")
        if any(changes) and self.float:
            raise ValueError("an override with float: true states nothing else: there are no grids to change")
        if "op:" in self.patterns:
            raise ValueError("'op:' is followed by an operator name, for example op:conv2d")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """What it selects, one pattern or several."""
        return (self.where,) if isinstance(self.where, str) else self.where

    @property
    def text(self) -> str:
        """What it selects, for tables and errors."""
        return ", ".join(self.patterns)


class ImagesRule(Frozen):
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


class MethodChoice(Frozen):
    """A calibration method by name, with the parameters as written; the method's own file judges them."""

    name: Annotated[str, Field(min_length=1)]
    parameters: dict[str, Any] = Field(default_factory=dict)


class FinishRule(Frozen):
    """The network-wise finish after the method (`calib.training.finish`); nothing where `steps` is 0.

    The defaults are for weights of 4 bits and more, whose codes a short training takes apart; below that the rounding
    pays, at a higher rate, as the families `*-finish` have it.

    Args:
        steps: of Adam, in batches of `images.batch_size`.
        rate: of multipliers of scales and offsets of biases, at the first step.
        rounding_rate: of the rounding of weights, in codes.
        what: is learned. Without `rounding` the codes stay those that the method decided.
        loss: `predictions` compares classes, scores and boxes as such (`calib.reconstruction.predictions`), `outputs`
            all of them as plain numbers, each as a share of its squares.
        temperature: of the softmaxes of a classifier's predictions.
        features: how much the error of what units hand on counts beside predictions; 0 for nothing.
        augment: what training samples pass, in random measure (`calib.training.augment`).
    """

    steps: Annotated[int, Field(ge=0)] = 0
    rate: Annotated[float, Field(gt=0.0)] = 2e-3
    rounding_rate: Annotated[float, Field(gt=0.0)] = 1e-2
    what: Annotated[tuple[FinishPart, ...], Field(strict=False, min_length=1)] = ("scales", "biases")
    loss: Literal["predictions", "outputs"] = "predictions"
    temperature: Annotated[float, Field(gt=0.0)] = 4.0
    features: Annotated[float, Field(ge=0.0)] = 0.5
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ("mix",)

    @model_validator(mode="after")
    def _rounds_at_its_rate(self) -> Self:
        if "rounding" not in self.what and self.rounding_rate != type(self).model_fields["rounding_rate"].default:
            raise ValueError("'rounding_rate' does nothing where 'what' leaves 'rounding' out: change one of them")
        return self


class Recipe(Frozen):
    """One experiment. See `load_recipe` for how it is made and `to_yaml` for its canonical text."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    weights: WeightRule
    activations: ActivationRule
    policy: PolicyName = "none"
    overrides: Annotated[tuple[Override, ...], Field(strict=False)] = ()
    placement: Literal["target", "paper"] = "target"
    images: ImagesRule
    method: MethodChoice
    finish: FinishRule = FinishRule()
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
        named = bits_in_name(self.name)
        content = (str(self.weights.bits), str(self.activations.bits))
        if named and (named.weights, named.activations) != content:
            raise ValueError(f"the name '{self.name}' does not say the recipe's bits (w{content[0]}a{content[1]})")
        return self

    def at_bits(self, bits: int) -> Recipe:
        """This recipe with every layer that a budget leaves open at `bits`: what one option means."""
        return self.model_copy(update={"weights": changed(self.weights, weight_change(bits))})

    def with_bits(self, bits: Mapping[str, int]) -> Recipe:
        """This recipe with a line for the weights of each layer, before its own overrides, which go on winning.

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
            if rule["levels"] == Grid.kind:  # the text, and so the hash, of every recipe that does not state it
                rule.pop("levels")
        content["images"].pop("parameters")
        content["images"] |= dict(sorted(self.images.parameters.items()))
        content["method"] = {"name": self.method.name, **dict(sorted(self.method.parameters.items()))}
        if self.finish.steps:
            content["finish"] |= {"what": list(self.finish.what), "augment": list(self.finish.augment)}
        else:
            content.pop("finish")
        # Tuples are not plain YAML.
        if isinstance(self.weights.bits, BitBudget):
            content["weights"]["bits"]["options"] = list(self.weights.bits.options)
        content["overrides"], content["passes"] = list(content["overrides"]), list(content["passes"])
        for override in content["overrides"]:
            override["where"] = override["where"] if isinstance(override["where"], str) else list(override["where"])
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
    levels = {"levels": Grid.kind} if (change.bits or 0) > grid_kind(rule.levels).most_bits else {}
    return rule.model_copy(update=change.model_dump(exclude_none=True) | search | levels)


def weight_change(bits: int) -> RuleChange:
    """A layer's weights at `bits`. Integer kernels want zero point 0, and 8-bit codes have no room to be moved."""
    return RuleChange(bits=bits, symmetric=True if bits == MAX_BITS else None)


def exactly(path: str) -> str:
    """The `where` of an override that selects the module of this path, and what is inside it."""
    if path in POSITIONS or path.startswith(OPERATOR):
        return f"[{path[0]}]{glob.escape(path[1:])}"
    return glob.escape(path) or "*"
