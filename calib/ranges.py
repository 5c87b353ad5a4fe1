"""Ranges before training: of the whole graph from the float network, or of one unit from the quantized prefix."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from calib.boundary import batches
from calib.context import Calibration
from calib.observers import RangeObserver, weight_params
from calib.reconstruct import UnitWork
from pipeline.graph import bias_quantizer_of, get_attribute, quantizer_of, quantizers, where
from pipeline.quantizer import BiasQuantizer, Phase, Quantizer


def search_ranges(calibration: Calibration, images: int | None = None) -> None:
    """Give every quantizer that the target does not fix its scale and zero point, and switch all of them ON.

    Activations see the float network's values of the first `images` images (None: all), once or twice depending on
    the range search.

    Raises:
        CalibrationError: values that are not finite; names the node.
    """
    graph = calibration.graph
    nodes = {node.name: node for node in graph.graph.nodes}
    for name, quantizer in calibration.weights().items():
        weight = get_attribute(graph, nodes[name].args[0])
        quantizer.set_params(weight_params(weight, quantizer.spec, where(nodes[name])))
    activations = {where(nodes[name]): quantizer for name, quantizer in calibration.activations().items()}
    _observe(graph, activations, calibration.images[:images], calibration.device)
    for quantizer in _all(graph):
        quantizer.phase = Phase.ON


@torch.no_grad()
def search_unit_ranges(work: UnitWork, images: int) -> None:
    """Search the open activation ranges of one unit again, on what really arrives there.

    The unit's input comes from the hardened, quantized prefix, its weights are rounded to nearest, and a later
    quantizer sees the output of the earlier ones (QDrop's first release, branch master).

    Args:
        images: how many of the calibration images are seen.
    """
    open_ones = {*work.activations, *work.inner}
    for name, quantizer in quantizers(work.student).items():
        if quantizer not in open_ones:
            continue
        observer = RangeObserver(quantizer.spec, f"{work.unit.name}, {name}")
        quantizer.phase, quantizer.observer = Phase.OBSERVE, observer
        for second in (False, True)[: 1 + observer.needs_second_pass]:
            if second:
                observer.start_second_pass()
            for part in batches(min(images, work.count)):
                work.student(*(value.rows(part) for value in work.inputs))
        quantizer.phase, quantizer.observer = Phase.ON, None
        quantizer.set_params(observer.params())


def _all(graph: fx.GraphModule) -> list[Quantizer | BiasQuantizer]:
    found = (quantizer_of(graph, node) or bias_quantizer_of(graph, node) for node in graph.graph.nodes)
    return [quantizer for quantizer in found if quantizer is not None]


@torch.no_grad()
def _observe(graph: fx.GraphModule, named: dict[str, Quantizer], images: Tensor, device: torch.device) -> None:
    observers = {quantizer: RangeObserver(quantizer.spec, name) for name, quantizer in named.items()}
    for quantizer, observer in observers.items():
        quantizer.phase, quantizer.observer = Phase.OBSERVE, observer
    _forward(graph, images, device)
    second = [quantizer for quantizer, observer in observers.items() if observer.needs_second_pass]
    for quantizer, observer in observers.items():
        quantizer.observer = observer if quantizer in second else None
    if second:
        for quantizer in second:
            observers[quantizer].start_second_pass()
        _forward(graph, images, device)
    for quantizer, observer in observers.items():
        quantizer.observer = None
        quantizer.set_params(observer.params())


def _forward(graph: fx.GraphModule, images: Tensor, device: torch.device) -> None:
    for part in batches(images.shape[0]):
        graph(images[part].to(device))
