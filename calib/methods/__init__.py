"""One paper, one file. A method states its parameters, with the paper's values as defaults, what it needs and costs.

`@method("name", Parameters, needs={"images"}, cost=_cost)` registers a function `(calibration, parameters) -> unit
logs`. `_cost` says in advance what a run costs, for `calib.estimate`. What a method needs may hang on its parameters;
all of it is checked before an image is read, as is that it fills the levels which the recipe asks for.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from isobit.calib.context import Calibration
from isobit.calib.corrected import Corrected
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters, checked_parameters
from isobit.calib.ranks import Ranks
from isobit.calib.training.finish import Teacher, finish, for_method
from isobit.pipeline.errors import CalibrationError, RecipeError
from isobit.pipeline.graph.ends.predictions import find_predictions
from isobit.pipeline.graph.nodes import takes_one_float, tensor_shape
from isobit.pipeline.graph.norms import folded_norm
from isobit.pipeline.graph.ports import input_names, output_nodes
from isobit.pipeline.quant.grid import Grid
from isobit.pipeline.quant.grids import grid_kind
from isobit.pipeline.recipe.schema import MethodChoice, Recipe
from isobit.pipeline.registry import Registry, discover
from isobit.pipeline.stages import Quantized, UnitLog

P = TypeVar("P", bound=Parameters)


Run = Callable[[Calibration, P], tuple[UnitLog, ...]]
Need = Literal["images", "labels", "batch", "bn_statistics", "tail", "predictions", "one_input"]
Needs = Set[Need] | Callable[[P], Set[Need]]
StateCost = Callable[[P, CostFacts], Cost]


@dataclass(frozen=True)
class Method(Generic[P]):
    """A registered method.

    Args:
        needs: what must be at hand: `images`, and `labels` of theirs; `batch`, as many images as one step takes;
            `bn_statistics`, a batch norm folded into some layer; `tail`, a prediction [N, classes] at the end of the
            network; `predictions`, outputs of floats of any kind (`pipeline.graph.ends.predictions`), which
            `Corrected.prediction` may name; `one_input`, no more than one, of floats. A set, or a function of the
            parameters.
        cost: what a run with these parameters costs, making the images apart.
        fills: the kinds of grids, as `levels` names them, whose bits for each channel it chooses.
        shared: whether several processes (`calib.ranks`) share its work, as `reconstruct` has them.
    """

    name: str
    parameters: type[P]
    needs: Needs[P]
    run: Run[P]
    cost: StateCost[P]
    fills: Set[str] = frozenset()
    shared: bool = False

    def needed(self, parameters: P) -> Set[Need]:
        """What a run with these parameters needs."""
        return self.needs(parameters) if callable(self.needs) else self.needs

    def calibrate(self, calibration: Calibration, parameters: P) -> tuple[UnitLog, ...]:
        """Run it, what the parameters ask for around it, and the recipe's finish."""
        if not isinstance(parameters, Corrected):
            return self.run(calibration, parameters)
        parameters.before(calibration)
        rule = calibration.recipe.finish
        teacher = Teacher(calibration, rule, parameters.prediction) if rule.steps else None
        seen = for_method(calibration) if teacher is not None else calibration
        log = self.run(seen, parameters)
        parameters.after(seen)
        if teacher is not None:
            finish(calibration, rule, teacher)
        return log

    def costs(self, parameters: P, facts: CostFacts) -> Cost:
        """What `calibrate` costs, the finish apart."""
        own = self.cost(parameters, facts)
        return own + parameters.around(facts) if isinstance(parameters, Corrected) else own


METHODS: Registry[Method[Any]] = Registry("method", RecipeError, "isobit.methods", "recipe.method.name")


def method(
    name: str, parameters: type[P], needs: Needs[P], cost: StateCost[P], fills: Set[str] = frozenset(),
    shared: bool = False,
) -> Callable[[Run[P]], Run[P]]:
    """Register the decorated function as method `name`."""

    def register(run: Run[P]) -> Run[P]:
        METHODS.register(name)(Method(name, parameters, needs, run, cost, fills, shared))
        return run

    return register


def find_method(choice: MethodChoice) -> tuple[Method[Any], Parameters]:
    """The method that a recipe names, and its checked parameters; needs no data, so it can be asked before any is read.

    Raises:
        RecipeError: no such method, an unknown parameter or a value that is not allowed; with the nearest spelling.
    """
    discover(sys.modules[__name__])
    found = METHODS.get(choice.name)
    return found, checked_parameters(found.parameters, choice.parameters, f"method '{choice.name}'", "method")


def check_needs(choice: MethodChoice, quantized: Quantized) -> None:
    """Refuse a method on a network that lacks what it works with, and for levels that it does not fill.

    Raises:
        RecipeError: what is missing, and which parameter does without it.
    """
    found, parameters = find_method(choice)
    _check_fills(found, quantized.recipe)
    needed = found.needed(parameters)
    finishes = quantized.recipe.finish.steps > 0
    if finishes and not isinstance(parameters, Corrected):
        raise RecipeError(
            f"the method '{found.name}' trains the whole network itself, and a finish would train it again",
            where="finish", allowed="finish.steps: 0", field="recipe.finish.steps",
            hint="Take another method, for example qdrop.",
        )
    nodes = quantized.graph.graph.nodes
    if "bn_statistics" in needed and not any(folded_norm(node) is not None for node in nodes):
        raise RecipeError(
            f"the method '{found.name}' needs the statistics of batch norms, and the model has none", where="method",
            hint="Take a method that does without, for example qdrop (pdquant does with method.correction_steps=0).",
            field="recipe.method.name",
        )
    if "one_input" in needed and not takes_one_float(quantized.graph):
        raise RecipeError(
            f"the method '{found.name}' works on images, and the model takes {', '.join(input_names(quantized.graph))}",
            where="method", allowed="one input of floats", field="recipe.method.name", hint="Take qdrop.",
        )
    if finishes or "predictions" in needed:
        _check_predictions(found, quantized, parameters)
    answers = output_nodes(quantized.graph)
    shapes = ", ".join(str(list(tensor_shape(answer))) for answer in answers)
    if "tail" in needed and [len(tensor_shape(answer)) for answer in answers] != [2]:
        raise RecipeError(
            f"the method '{found.name}' compares predictions, and the model's output has the shape {shapes}",
            where="method", allowed="one output [images, classes]", field="recipe.method.name",
            hint="Take qdrop, or brecq with method.fisher=off.",
        )


def _check_predictions(found: Method[Any], quantized: Quantized, parameters: Parameters) -> None:
    corrected = parameters if isinstance(parameters, Corrected) else Corrected()
    if find_predictions(quantized.graph, corrected.prediction.by_kind if corrected.prediction else None):
        return
    finishes = quantized.recipe.finish.steps > 0
    who = "the finish" if finishes else f"the method '{found.name}'"
    raise RecipeError(
        f"{who} compares predictions, and the model gives no floats",
        where="method", allowed="a model with an output of floats",
        field=f"recipe.{'finish.steps' if finishes else 'method.name'}",
        hint="`recipe.finish.steps=0`" if finishes else "Take qdrop, or brecq with method.fisher=off.",
    )


def check_batch(recipe: Recipe, images: int) -> None:
    """Refuse fewer images than one step of the recipe's method takes; can be asked before any is read.

    Raises:
        CalibrationError: how many there are, and how many it takes.
    """
    found, parameters = find_method(recipe.method)
    batch = recipe.images.batch_size
    if "batch" in found.needed(parameters) and images < batch:
        raise CalibrationError(
            f"{images} calibration images do not fill one batch of {batch}", field="recipe.images.batch_size",
            hint=f"Give more images, or `recipe.images.batch_size={max(1, images)}`.",
        )


def check_ranks(recipe: Recipe, ranks: Ranks) -> None:
    """Refuse several processes where they would not share the work; can be asked before anything is read.

    Raises:
        RecipeError: the method works in one process, or a step's images cannot be shared equally.
    """
    found, _ = find_method(recipe.method)
    batch = recipe.images.batch_size
    if ranks.world > 1 and not found.shared:
        shared = [name for name in METHODS.names() if METHODS.get(name).shared]
        raise RecipeError(
            f"{ranks.world} processes were started, and the method '{found.name}' works in one", where="method",
            allowed=", ".join(shared), field="recipe.method.name", hint="Start it without torchrun.",
        )
    if batch % ranks.world:
        raise RecipeError(
            f"{ranks.world} processes cannot share a batch of {batch} images equally", where="images.batch_size",
            allowed=f"a multiple of {ranks.world}", field="recipe.images.batch_size",
            hint=f"`recipe.images.batch_size={-(-batch // ranks.world) * ranks.world}`",
        )


def _check_fills(found: Method[Any], recipe: Recipe) -> None:
    for part, rule in (("weights", recipe.weights), ("activations", recipe.activations)):
        if grid_kind(rule.levels).own_bits and rule.levels not in found.fills:
            able = [name for name in METHODS.names() if rule.levels in METHODS.get(name).fills]
            raise RecipeError(
                f"the method '{found.name}' cannot choose {part}.levels: {rule.levels}",
                where=f"recipe '{recipe.name}'", allowed=", ".join([f"{part}.levels: {Grid.kind}", *able]),
                field=f"recipe.{part}.levels", hint=f"`recipe.{part}.levels={Grid.kind}`",
            )
