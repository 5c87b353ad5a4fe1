"""Tiny networks under a recipe, ready for calibration: shared by the tests of this folder."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from isobit.backends import reference
from isobit.calib.calibrate import calibrate
from isobit.calib.context import Calibration
from isobit.calib.ranges.ranges import search_ranges
from isobit.calib.reconstruction.boundary import Boundary, Segment, segments
from isobit.calib.reconstruction.reconstruct import UnitTask, unit_task
from isobit.passes import quantize
from isobit.pipeline.graph.nodes import get_attribute
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Calibrated, Quantized, UnitLog
from isobit.pipeline.target import OpRule, Target
from tests.examples import nets
from tests.examples.detectors import captured_detector
from tests.examples.tiny import model_and_images, quantized_net

CPU = torch.device("cpu")
IMAGES = 48
# The papers' world with the extra quantizer that integer runtimes ask for: 8 bits before a sum.
TARGET = Target(
    "test", "generic",
    {
        "conv2d": OpRule("quantized", "own", absorbs=("relu",)),
        "linear": OpRule("quantized", "own", absorbs=("relu",)),
        "add": OpRule("quantized", "own", absorbs=("relu",), inner_bits=8),
        "mean": OpRule("quantized", "own"),
        "view": OpRule("quantized", "as_input"),
    },
    grids=None,
)

PAPER = reference.TARGET  # the papers' own world: no runtime's limits
WITHOUT_STEPS = ("nearest", "mse", "minmax")


def recipe(name: str = "qdrop_w4a4", *sets: str, steps: int = 40, batch: int = 8) -> Recipe:
    own = [f"images.batch_size={batch}"]
    if not name.startswith(WITHOUT_STEPS):
        own.append(f"method.steps={steps}")
    if name.startswith("brecq"):
        own.append(f"method.activation_steps={steps}")
    return load_recipe(name, [*own, *sets])


def subject(name: str = "tiny", samples: int = IMAGES) -> tuple[nn.Module, Tensor]:
    """A model and images: `tiny` (one batch norm, a skip over two units) or one of `tests.nets` by its name.

    `residual` has basic blocks full of batch norms, `mobile` inverted residuals with linear bottlenecks.
    """
    if name == "tiny":
        return model_and_images(samples=samples)
    model, images = nets.build(name)
    return model, torch.randn(samples, *images.shape[1:], generator=torch.Generator().manual_seed(0))


def net(
    of: Recipe | None = None, samples: int = IMAGES, name: str = "tiny", target: Target = TARGET
) -> tuple[Quantized, Tensor]:
    model, images = subject(name, samples)
    quantized, _ = quantized_net(target, of or recipe(), model, images)
    return quantized, images


def responsive(of: Recipe, target: Target = TARGET) -> tuple[Quantized, Tensor]:
    """A residual network whose running statistics are those of noise images, and whose classes are far apart."""
    model, images = subject("residual")
    with torch.no_grad():
        model.train()
        for _ in range(20):
            model(images)
        *_, head = (module for module in model.modules() if isinstance(module, nn.Linear))
        head.weight.mul_(20.0)
    quantized, _ = quantized_net(target, of, model.eval(), images)
    return quantized, images


class Notes:
    """A watcher that remembers; raises `KeyboardInterrupt` when `stop_at` units are done."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.total, self.steps, self.logs, self.stop_at = 0, 0, [], stop_at
        self.trained = 0

    def note(self, text: str) -> None:
        self.notes.append(text)

    def units(self, total: int, steps: int) -> None:
        self.total, self.steps = total, steps

    def step(self, count: int) -> None:
        self.trained += count

    def done(self, log: UnitLog) -> None:
        self.logs.append(log)
        if self.stop_at is not None and len(self.logs) == self.stop_at:
            raise KeyboardInterrupt


def calibration(
    of: Recipe | None = None, ranges: bool = True, watcher: Notes | None = None, name: str = "tiny",
    target: Target = TARGET,
) -> Calibration:
    """A calibration of a tiny network, its ranges searched."""
    quantized, images = net(of, name=name, target=target)
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, watcher or Notes())
    if ranges:
        search_ranges(made)
    return made


def detector_calibration(name: str, of: Recipe | None = None) -> Calibration:
    """The same of a tiny detector, in the papers' world."""
    found, images = captured_detector(name)
    quantized = quantize(found, of or recipe("qdrop_w2a2"), PAPER)
    made = Calibration(quantized.graph, quantized.units, images, quantized.recipe, CPU, Notes())
    search_ranges(made)
    return made


def path_over(made: Calibration) -> tuple[list[Segment], Boundary]:
    """The path over the units, and the boundary before it."""
    path = segments(made.graph, [unit.nodes for unit in made.units])
    return path, Boundary(made.graph, made.images, CPU)


def task_at(made: Calibration, unit: int) -> tuple[UnitTask, Boundary]:
    """A unit before its training, everything before it as its quantizers stand."""
    path, boundary = path_over(made)
    for place, segment in enumerate(path):
        boundary.run_teacher(segment)
        if segment.unit == unit:
            return unit_task(made, boundary, path, place, made.units[unit]), boundary
        boundary.run_student(segment, keep=True)
        boundary.cross(segment)
    raise AssertionError(f"no unit {unit}")


def everything(task: UnitTask) -> slice:
    """All images of a unit."""
    return slice(0, task.count)


def answer(task: UnitTask) -> Tensor:
    """The unit's output for all images, as its quantizers stand."""
    with torch.no_grad():
        return task.student(*(value.rows(everything(task)) for value in task.inputs))[0]


def calibrated(of: Recipe, name: str = "tiny", target: Target = TARGET, watcher: Notes | None = None) -> Calibrated:
    """A tiny network through the whole stage, by the recipe's method."""
    quantized, images = net(of, name=name, target=target)
    return calibrate(quantized, images, progress=watcher)


def output_error(result: Calibrated, name: str = "tiny") -> float:
    """Mean squared distance of the calibrated network's answers from the float network's."""
    images = subject(name)[1]
    with torch.no_grad():
        return float((result.graph(images) - result.quantized.teacher(images)).square().mean())


def weight_of(graph: fx.GraphModule, node: str) -> Tensor:
    """The float weight that enters the quantizer at `node`."""
    found = next(n for n in graph.graph.nodes if n.name == node)
    return get_attribute(graph, found.args[0])
