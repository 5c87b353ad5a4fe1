"""A tiny network taken through the chain with min-max ranges, for tests that need a frozen reference and no method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from isobit import passes
from isobit.calib.training.multibit import TABLES, MultibitWeights
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.nodes import get_attribute, is_constant, quantizer_of, tensor_shape
from isobit.pipeline.quant.grid import QParams, params_from_range
from isobit.pipeline.quant.quantizer import Phase
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Calibrated, Quantized, Reference
from isobit.pipeline.target import Target


class Residual(nn.Module):
    """conv-BN-ReLU, a residual block, global average, classifier: every kind of region but few numbers."""

    def __init__(self, channels: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = torch.relu(x + self.outer(torch.relu(self.inner(x))))
        return self.head(x.mean(dim=(2, 3)))


def model_and_images(seed: int = 0, samples: int = 12) -> tuple[nn.Module, Tensor]:
    """A `Residual` with lively batch-norm statistics, and images [samples, 3, 8, 8]."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Residual()
    model.norm.running_mean.normal_(generator=generator)
    model.norm.running_var.uniform_(0.5, 2, generator=generator)
    return model.eval(), torch.randn(samples, 3, 8, 8, generator=generator)


def quantized_net(target: Target, recipe: Recipe | str = "qdrop_w4a4", model: nn.Module | None = None,
                  images: Tensor | None = None) -> tuple[Quantized, Tensor]:
    """Capture and place; returns the quantized stage and the images."""
    default, default_images = model_and_images()
    model, images = model or default, default_images if images is None else images
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    return passes.quantize(capture(model, images[:1]), recipe, target), images


def keeping(seen: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """A stand-in that appends every tensor to `seen` and passes it on as it is."""

    def keep(x: Tensor) -> Tensor:
        seen.append(x)
        return x

    return keep


def calibrate_by_range(quantized: Quantized, images: Tensor) -> Calibrated:
    """Min-max ranges on every quantizer, then ON."""
    graph = quantized.graph
    nodes = [n for n in graph.graph.nodes if quantizer_of(graph, n) is not None]
    seen: dict[int, list[Tensor]] = {}
    for node in nodes:
        quantizer = quantizer_of(graph, node)
        quantizer.phase = Phase.OBSERVE
        if quantizer.stand_in is None:
            quantizer.attach(keeping(seen.setdefault(id(quantizer), [])))
    with torch.no_grad():
        graph(images)
    for node in nodes:
        quantizer = quantizer_of(graph, node)
        if quantizer.stand_in is not None:
            quantizer.detach(quantizer.stand_in)
        quantizer.phase = Phase.ON
        if quantizer.fixed:
            continue
        values = [get_attribute(graph, node.args[0])] if is_constant(node) else seen[id(quantizer)]
        rows = [v.flatten(1) if quantizer.spec.axis == 0 else v.flatten()[None] for v in values]
        low = torch.stack([r.amin(1) for r in rows]).amin(0)
        high = torch.stack([r.amax(1) for r in rows]).amax(0)
        if quantizer.spec.axis is None:
            low, high = low[0], high[0]
        quantizer.set_params(params_from_range(low, high, quantizer.spec))
    return Calibrated(graph, quantized)


def frozen_reference(target: Target, recipe: Recipe | str = "qdrop_w4a4", model: nn.Module | None = None,
                     images: Tensor | None = None) -> tuple[Reference, Tensor]:
    """The whole chain up to the frozen reference."""
    quantized, images = quantized_net(target, recipe, model, images)
    return passes.legalize(calibrate_by_range(quantized, images))[0], images


def multibit_recipe(*edits: str, policy: str = "none") -> Recipe:
    """Codebooks per channel and nested activation bits, two on average."""
    return load_recipe("minmax_w8a8", [
        "name=levels", "weights={bits: 2, symmetric: true, granularity: per_channel, range: minmax, levels: multibit}",
        "activations.bits=2", "activations.levels=nested", f"policy={policy}", *edits,
    ])  # fmt: skip


def fill_levels(quantized: Quantized, images: Tensor) -> Calibrated:
    """`calibrate_by_range`, then every number of bits from 0 to 4 on channels of every tensor whose levels want it.

    Activations are clipped at a third of their range, so that the few codes of each channel all occur.
    """
    calibrated = calibrate_by_range(quantized, images)
    for index, node in enumerate(calibrated.graph.graph.nodes):
        quantizer = quantizer_of(calibrated.graph, node)
        if quantizer is None or not quantizer.spec.grid.own_bits:
            continue
        channels = tensor_shape(node)[0 if is_constant(node) else 1]
        bits = (torch.arange(channels) * 3 + index) % 5
        if not is_constant(node):
            quantizer.set_params(QParams(quantizer.scale / 3, quantizer.zero_point))
            quantizer.set_channel_bits(bits)
            continue
        weight = get_attribute(calibrated.graph, node.args[0]).detach()
        kappa = torch.tensor([book.kappa for book in TABLES["laplace"]])
        clip = kappa[bits] * weight.flatten(1).abs().mean(1)
        MultibitWeights(bits, clip, limit=quantizer.spec.grid.qmax).settle(quantizer, weight)
    return calibrated


def frozen_levels(target: Target, recipe: Recipe | None = None, model: nn.Module | None = None,
                  images: Tensor | None = None) -> tuple[Reference, Tensor]:
    """A frozen reference with codebooks and nested activations."""
    quantized, images = quantized_net(target, recipe or multibit_recipe(), model, images)
    return passes.legalize(fill_levels(quantized, images))[0], images
