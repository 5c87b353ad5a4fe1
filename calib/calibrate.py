"""`calibrate`: the stage function from `Quantized` to `Calibrated`; the only step that wants images and a device."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from isobit.calib.checkpoints import UnitCheckpoints, tensors_sha256
from isobit.calib.context import Calibration
from isobit.calib.methods import check_needs, check_ranks, find_method
from isobit.calib.ranks import ALONE, Ranks
from isobit.calib.run_facts import KIND, RECIPE
from isobit.pipeline.errors import CalibrationError
from isobit.pipeline.graph.subgraphs import channels_last
from isobit.pipeline.recipe.schema import FinishRule, Recipe
from isobit.pipeline.samples.batching import BUDGET, evaluation_batch
from isobit.pipeline.samples.network_inputs import Inputs, in_floats, sample_count, shapes, tensors
from isobit.pipeline.stages import Calibrated, Quantized
from isobit.pipeline.watcher import CalibrationWatcher, Quiet


def calibrate(
    quantized: Quantized,
    images: Inputs,
    *,
    device: str | torch.device = "cpu",
    progress: CalibrationWatcher | None = None,
    checkpoints: Path | None = None,
    resume: bool = False,
    data_sha256: str = "",
    labels: Tensor | None = None,
    memory: float = BUDGET,
    ranks: Ranks = ALONE,
) -> Calibrated:
    """Choose all numbers with the recipe's method.

    Works on a copy: `quantized` stays as it is. The result is on the CPU, its quantizers are ON with weight codes
    decided and nothing random left; biases are rounded to their int32 steps, which `freeze` stores. Results depend on
    the recipe's seed, the device and the data, never on progress, checkpoints or resume.

    Args:
        images: [N, ...] in the model's own input shape, a tuple where it has several inputs; N = 0 where the method
            needs none.
        checkpoints: folder in which finished units are kept.
        resume: go on after the last unit found there.
        data_sha256: hash of the data set, for the checkpoints' key; computed where empty.
        labels: int64 [N] of the images, where they are known.
        memory: bytes that forward passes keep to, beside the model, the images and one unit's caches.
        ranks: the processes that calibrate together; each calls this with the same arguments, `device` apart, and what
            counts is the result of the first.

    Raises:
        RecipeError: the recipe's method or its parameters.
        CalibrationError: images that do not fit, values that are not finite.
    """
    method, parameters = find_method(quantized.recipe.method)
    check_needs(quantized.recipe.method, quantized)
    check_ranks(quantized.recipe, ranks)
    needed = method.needed(parameters)
    images = _checked(images, quantized, "images" in needed)
    if "labels" in needed and labels is None:
        raise CalibrationError(
            f"the method '{method.name}' needs the images' labels, and there are none",
            allowed="a folder with one subfolder a class, or an .npz with x and y", field="calibration",
        )
    device = torch.device(device)
    # Channels last, as images lie in memory: convolution kernels then copy neither.
    graph = channels_last(copy.deepcopy(quantized.graph).to(device))
    facts = functools.partial(_facts, quantized, images, ranks.named(device.type), data_sha256)
    store = None if checkpoints is None else UnitCheckpoints.of(checkpoints, facts())
    calibration = Calibration(
        graph, quantized.units, images, quantized.recipe, device, progress or Quiet(), store, resume, labels,
        quantized.captured.num_classes, target=quantized.target, batch=evaluation_batch(graph, memory),
        ranks=ranks,
    )
    calibration.say_what_is_not_resumed()
    calibration.findings.notes += ranks.notes
    with _lookups_told():
        log = method.calibrate(calibration, parameters)
    graph = graph.cpu().to(memory_format=torch.contiguous_format)
    return Calibrated(graph, quantized, log, calibration.findings)


@contextlib.contextmanager
def _lookups_told() -> Iterator[None]:
    """Turn what torch raises of a number outside of a table, which the network computes, into a CalibrationError."""
    try:
        yield
    except IndexError as error:
        if "out of range in self" not in str(error):
            raise
        raise CalibrationError(
            "the network looks up a number that is outside of its table", where="the calibration data",
            field="calibration", allowed="numbers for which the table of the network's embedding has a row",
        ) from error


def _checked(images: Inputs, quantized: Quantized, needed: bool) -> Inputs:
    expected = quantized.captured.input_shapes
    if shapes(images) != tuple(expected.values()):
        raise CalibrationError(
            f"calibration images have shape {', '.join(str(list(shape)) for shape in shapes(images))}",
            allowed=f"the model's {', '.join(str(list(shape)) for shape in expected.values())}",
            field="input_size", hint="set `input_size`, or prepare the images as for the model's training",
        )
    if needed and sample_count(images) == 0:
        raise CalibrationError(
            "there are no calibration images", hint="give some, or take a method that needs none", field="calibration",
        )
    for name, values in zip(expected, tensors(images), strict=True):
        if not bool(torch.isfinite(values).all()):
            wrong = (~torch.isfinite(values.flatten(1))).any(dim=1).nonzero().flatten().tolist()
            place = f"image {wrong[0]}" if len(expected) == 1 else f"input '{name}', sample {wrong[0]}"
            raise CalibrationError(
                f"{len(wrong)} calibration image(s) hold values that are not finite", where=place,
                hint="remove or repair them", field="calibration",
            )
    return in_floats(images, torch.float32)


def _without_finish(recipe: Recipe) -> Recipe:
    """The recipe as units depend on it: whether a finish follows, which keeps samples from them, not what it does."""
    return recipe.model_copy(update={"finish": FinishRule(steps=min(1, recipe.finish.steps))})


def _facts(quantized: Quantized, images: Inputs, device: str, data_sha256: str) -> dict[str, str]:
    return {
        KIND: "calibration",
        RECIPE: _without_finish(quantized.recipe).to_yaml(),
        "model": quantized.captured.sha256,
        "weights": tensors_sha256(quantized.graph.state_dict().values()),
        "target": f"{quantized.target.name}/{quantized.target.profile}",
        "data": data_sha256 or tensors_sha256(tensors(images)),
        "units": ";".join(f"{unit.name}:{','.join(unit.nodes)}" for unit in quantized.units),
        "device": device,
    }
