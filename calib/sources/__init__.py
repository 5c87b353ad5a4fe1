"""Where calibration images come from: chosen from the data that a user has, or made out of the float network.

`@source("name", Parameters, needs={"labels"})` registers a function `(pool, parameters, count, seed) -> Batches`, where
`pool` is everything in the order of the files, `count` how many images the recipe asks for, and the result the chosen
ones in their order: of fewer than `count` images all are taken. It sees names, labels and pixels, no model.

`@maker("name", Parameters, gives={"images"}, cost=_cost)` registers a function `(calibration, parameters) -> (images,
labels)`, which sees the network and no data: no image is ever read for it. `_cost` says in advance what the making
costs, for `calib.estimate`.

`images.count: 0` in a recipe leaves the number of images to the source. A source is registered with `counts=False`
where it knows that number itself, and then a recipe must leave it; to all others a recipe must state it.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from isobit.calib.checkpoints import UnitCheckpoints, tensors_sha256
from isobit.calib.context import Calibration
from isobit.calib.cost import Cost, CostFacts
from isobit.calib.parameters import Parameters, checked_parameters
from isobit.calib.run_facts import KIND, RECIPE
from isobit.pipeline.errors import InputError, RecipeError
from isobit.pipeline.graph.nodes import takes_one_float
from isobit.pipeline.graph.norms import folded_norm
from isobit.pipeline.graph.ports import input_names
from isobit.pipeline.graph.subgraphs import channels_last
from isobit.pipeline.recipe.schema import IMAGES_KEYS, ImagesRule
from isobit.pipeline.registry import Registry, discover
from isobit.pipeline.samples.data import Batches
from isobit.pipeline.stages import Findings, Quantized
from isobit.pipeline.watcher import CalibrationWatcher, Quiet

P = TypeVar("P", bound=Parameters)
Given = Literal["images", "labels"]
Choose = Callable[[Batches, P, int, int], Batches]
Make = Callable[[Calibration, P], tuple[Tensor, Tensor | None]]
StateCost = Callable[[P, CostFacts], Cost]


@dataclass(frozen=True)
class Source(Generic[P]):
    """A registered source that chooses.

    Args:
        needs: what the data must have: `labels`, one a sample, `classes`, which boxes name as well, or nothing.
        counts: whether a recipe says how many images are wanted.
    """

    name: str
    parameters: type[P]
    needs: frozenset[str]
    choose: Choose[P]
    counts: bool = True


@dataclass(frozen=True)
class Maker(Generic[P]):
    """A registered source that makes.

    Args:
        gives: `images`, and `labels` of theirs; nothing for methods that want none.
        cost: what the making costs.
        counts: as for `Source`.
    """

    name: str
    parameters: type[P]
    gives: frozenset[Given]
    make: Make[P]
    cost: StateCost[P]
    counts: bool = True


@dataclass(frozen=True)
class SyntheticImages:
    """Images that no camera took.

    Args:
        images: float32 [N, C, H, W] on the CPU; N may be 0.
        labels: int64 [N], or None.
        findings: what the making has to tell.
    """

    images: Tensor
    labels: Tensor | None
    findings: Findings


SOURCES: Registry[Source[Any] | Maker[Any]] = Registry(
    "source of images", RecipeError, "isobit.sources", "recipe.images.source"
)


def source(
    name: str, parameters: type[P], needs: set[str], counts: bool = True
) -> Callable[[Choose[P]], Choose[P]]:
    """Register the decorated function as source `name`, which chooses."""

    def register(choose: Choose[P]) -> Choose[P]:
        SOURCES.register(name)(Source(name, parameters, frozenset(needs), choose, counts))
        return choose

    return register


def maker(
    name: str, parameters: type[P], gives: Set[Given], cost: StateCost[P], counts: bool = True
) -> Callable[[Make[P]], Make[P]]:
    """Register the decorated function as source `name`, which makes."""

    def register(make: Make[P]) -> Make[P]:
        SOURCES.register(name)(Maker(name, parameters, frozenset(gives), make, cost, counts))
        return make

    return register


def find_source(images: ImagesRule) -> tuple[Source[Any] | Maker[Any], Parameters]:
    """The source that a recipe names, and its checked parameters; can be asked before any data is there.

    Raises:
        RecipeError: no such source, an unknown parameter or a value that is not allowed, with the nearest spelling; a
            number of images where the source knows it, or none where it does not; images to augment that it makes.
    """
    discover(sys.modules[__name__])
    found = SOURCES.get(images.source)
    owner = f"source '{images.source}'"
    parameters = checked_parameters(found.parameters, images.parameters, owner, "images", IMAGES_KEYS)
    if found.counts and images.count == 0:
        raise RecipeError(
            f"the {owner} draws or makes as many images as the recipe says, and it says 0", where="images.count",
            allowed="at least 1", field="recipe.images.count",
        )
    if not found.counts and images.count != 0:
        raise RecipeError(
            f"the {owner} knows itself how many images there are", where="images.count", allowed="0",
            field="recipe.images.count",
            hint="`recipe.images.count=0`",
        )
    if isinstance(found, Maker) and images.augment != "eval":
        raise RecipeError(
            f"the {owner} makes images, and none is augmented", where="images.augment", allowed="eval",
            field="recipe.images.augment",
        )
    return found, parameters


def makes_images(images: ImagesRule) -> bool:
    """Whether the recipe's source reads no data: then there is nothing to give it."""
    return isinstance(find_source(images)[0], Maker)


def draw(pool: Batches, images: ImagesRule, seed: int) -> Batches:
    """The calibration images that a recipe asks for, checked, and augmented where it says so.

    Args:
        pool: everything that is there, as `open_pool` gives it.
        images, seed: of the recipe.

    Raises:
        RecipeError: see `find_source`; the source makes its images.
        InputError: the data lacks what the source needs, or cannot be used.
    """
    found, parameters = find_source(images)
    if isinstance(found, Maker):
        raise RecipeError(
            f"the source '{found.name}' draws from no data", where="images.source", field="recipe.images.source",
        )
    if ("labels" in found.needs and pool.labels is None) or ("classes" in found.needs and pool.classes_shown is None):
        boxes = ", or a COCO .json" if "classes" in found.needs else ""
        raise InputError(
            f"the source '{found.name}' needs labels, and there are none", where=str(pool.path),
            allowed=f"a folder with one subfolder a class, or an .npz with x and y{boxes}",
            field="recipe.images.source",
            hint="`recipe.images.source=files` draws without labels.",
        )
    if "classes" in found.needs and not any(pool.classes_shown or ()):
        raise InputError(
            f"the source '{found.name}' draws by classes, and no sample shows one", where=str(pool.path),
            allowed="at least one picture with a box", field="recipe.images.source",
            hint="`recipe.images.source=files` draws without classes.",
        )
    if images.augment == "train":
        pool = pool.augmented(seed)
    return found.choose(pool, parameters, images.count, seed).checked()


def make(
    quantized: Quantized, *, device: str | torch.device = "cpu", progress: CalibrationWatcher | None = None,
    checkpoints: Path | None = None, resume: bool = False,
) -> SyntheticImages:
    """The images that the recipe's source makes; no data is read.

    They depend on the network, on the recipe's `images` and seed, and on the device; the method and the bits change
    nothing about them.

    Args:
        checkpoints, resume: as in `calib.calibrate.calibrate`.

    Raises:
        RecipeError: the source chooses from data; the network has no batch norm that could tell about images.
        CalibrationError: see the source.
    """
    recipe, device = quantized.recipe, torch.device(device)
    found, parameters = find_source(recipe.images)
    if not isinstance(found, Maker):
        raise RecipeError(
            f"the source '{found.name}' makes no images", where="images.source", field="recipe.images.source",
        )
    check_source(quantized)
    nodes = quantized.graph.graph.nodes
    if found.gives and not any(folded_norm(node) is not None for node in nodes):
        raise RecipeError(
            f"the source '{found.name}' needs the statistics of batch norms, and the model has none",
            where="images.source", field="recipe.images.source",
            hint="`recipe.images.source=files`, and give `calibration`.",
        )
    graph = channels_last(copy.deepcopy(quantized.graph).to(device))
    store = None if checkpoints is None else UnitCheckpoints.of(checkpoints, _facts(quantized, device))
    calibration = Calibration(
        graph, (), torch.empty(0, *quantized.captured.input_shape), recipe, device, progress or Quiet(), store, resume,
        None, quantized.captured.num_classes,
    )
    calibration.say_what_is_not_resumed()
    images, labels = found.make(calibration, parameters)
    labels = None if labels is None else labels.cpu()
    return SyntheticImages(images.float().cpu().contiguous(), labels, calibration.findings)


def check_source(quantized: Quantized) -> None:
    """Refuse a source that makes images for a network that reads something else.

    Raises:
        RecipeError: the network has several inputs, or one of integers.
    """
    found, _ = find_source(quantized.recipe.images)
    if isinstance(found, Maker) and not takes_one_float(quantized.graph):
        raise RecipeError(
            f"the source '{found.name}' makes images, and the model takes {', '.join(input_names(quantized.graph))}",
            where="images.source", allowed="a model of one input of floats", field="recipe.images.source",
            hint="`recipe.images.source=files`, and give `calibration`.",
        )


def _facts(quantized: Quantized, device: torch.device) -> dict[str, str]:
    """Everything that made images depend on."""
    recipe, captured = quantized.recipe, quantized.captured
    return {
        KIND: "images",
        RECIPE: json.dumps({"images": recipe.images.model_dump(), "seed": recipe.seed}, sort_keys=True),
        "model": captured.sha256,
        "weights": tensors_sha256(quantized.graph.state_dict().values()),
        "data": str(captured.input_shape),
        "device": device.type,
    }
