"""Ranges before training: of the whole graph from the float network, or of one unit from the quantized prefix."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, fx

from isobit.calib.context import Calibration
from isobit.calib.ranges.observers import RangeObserver, check_finite, params_of, weight_params
from isobit.calib.ranges.told_apart import Ends, ends_told_apart
from isobit.calib.reconstruction.boundary import EVALUATION_BATCH, batches
from isobit.calib.reconstruction.reconstruct import UnitTask
from isobit.pipeline.graph.nodes import bias_quantizer_of, get_attribute, nodes_by_name, quantizer_of, source_of, where
from isobit.pipeline.graph.quantized_tensors import quantizers
from isobit.pipeline.graph.sums import check_sums
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.quant.quantizer import BiasQuantizer, Phase, Quantizer, StandIn, stand_in_for
from isobit.pipeline.samples.network_inputs import run_graph


def search_ranges(calibration: Calibration, images: int | None = None) -> None:
    """Give every quantizer that the target does not fix its scale and zero point, and switch all of them ON.

    Activations see the float network's values of the first `images` images (None: all), once or twice depending on
    the range search.

    Raises:
        CalibrationError: values that are not finite; names the node.
        TargetError: a sum that the target cannot hold; as from every search here.
    """
    _choose_weight_params(calibration)
    search_activation_ranges(calibration, images)


def search_weight_ranges(calibration: Calibration) -> None:
    """Give every weight quantizer its numbers and switch the weights ON; activations and biases stay float."""
    _choose_weight_params(calibration)
    for quantizer in calibration.weights().values():
        quantizer.phase = Phase.ON
    _check_sums(calibration)


def search_activation_ranges(calibration: Calibration, images: int | None = None) -> None:
    """Give every activation quantizer its numbers from the network as it stands, then switch everything ON.

    That is the float network where weights are still OFF, the one with rounded weights where they are ON.
    """
    graph = calibration.graph
    nodes = nodes_by_name(graph)
    activations = {where(nodes[name]): quantizer for name, quantizer in calibration.activations().items()}
    _observe(calibration, activations, images)
    _switch_on(graph)
    _check_sums(calibration)


def round_weights(calibration: Calibration) -> None:
    """Decide every weight: the nearest code in its quantizer's numbers."""
    nodes = nodes_by_name(calibration.graph)
    for name, quantizer in calibration.weights().items():
        quantizer.harden(quantizer.quantize(get_attribute(calibration.graph, source_of(nodes[name]))))


@torch.no_grad()
def search_ranges_in_order(calibration: Calibration, images: int) -> None:
    """Like `search_activation_ranges`, but each quantizer sees what the ones before it have already quantized.

    One forward pass of the first `images` images as one batch (BRECQ's initialisation of its activation stage).
    """
    nodes = nodes_by_name(calibration.graph)
    searched = {where(nodes[name]): quantizer for name, quantizer in calibration.activations().items()}
    _switch_on(calibration.graph)
    finest = _Finest()
    ends = ends_told_apart(calibration.graph)
    with stand_in_for(
        (quantizer, _ObserveOnce(quantizer, name, finest, ends[quantizer])) for name, quantizer in searched.items()
    ):
        run_graph(calibration.graph, calibration.batch_at(slice(images)))
    _check_sums(calibration)


class _Finest:
    """The smallest scale so far, for tensors that are always zero.

    Any scale holds them. One out of proportion to the rest of the network makes what is added to them or computed
    from them unrepresentable: sums beside which the output's step is nothing, biases of no or of endless many steps.
    """

    def __init__(self) -> None:
        self._scale: Tensor | None = None

    def see(self, quantizer: Quantizer) -> None:
        """Take in the scale of a tensor that is not always zero."""
        scale = quantizer.scale.detach()
        self._scale = scale if self._scale is None else torch.minimum(self._scale, scale)

    def give(self, quantizer: Quantizer) -> None:
        """Use it, where there is one, for a tensor that is."""
        if self._scale is not None:
            quantizer.set_params(QParams(self._scale, quantizer.zero_point))


class _ObserveOnce:
    """Chooses a quantizer's numbers from the first tensor that passes, and quantizes it and all later ones."""

    def __init__(self, quantizer: Quantizer, name: str, finest: _Finest, ends: Ends) -> None:
        self._quantizer, self._name, self._finest, self._ends, self._seen = quantizer, name, finest, ends, False

    def __call__(self, x: Tensor) -> Tensor:
        if not self._seen:
            self._quantizer.set_params(params_of(x, self._quantizer.spec, self._name, self._ends))
            (self._finest.see if bool(x.any()) else self._finest.give)(self._quantizer)
            self._seen = True
        return self._quantizer.fake_quantize(x)


def _choose_weight_params(calibration: Calibration) -> None:
    nodes = nodes_by_name(calibration.graph)
    for name, quantizer in calibration.weights().items():
        weight = get_attribute(calibration.graph, source_of(nodes[name]))
        quantizer.set_params(weight_params(weight, quantizer.spec, where(nodes[name])))
    for node in calibration.graph.graph.nodes:
        if bias_quantizer_of(calibration.graph, node) is not None:
            check_finite(*torch.aminmax(get_attribute(calibration.graph, source_of(node))), where(node))


def _check_sums(calibration: Calibration) -> None:
    """Nothing is trained for codes that the target cannot add up."""
    if calibration.target is not None:
        check_sums(calibration.graph, calibration.target)


def _switch_on(graph: fx.GraphModule) -> None:
    for quantizer in _all(graph):
        quantizer.phase = Phase.ON


@torch.no_grad()
def search_unit_ranges(task: UnitTask, images: int) -> None:
    """Search the open activation ranges of one unit again, on what really arrives there.

    The unit's input comes from the hardened, quantized prefix, its weights are rounded to nearest, and a later
    quantizer sees the output of the earlier ones (QDrop's first release, branch master).

    Args:
        images: how many of the calibration images are seen.
    """
    open_ones = {*task.activations, *task.inner}
    ends, split = ends_told_apart(task.student), task.walk_batch < EVALUATION_BATCH
    for name, quantizer in quantizers(task.student).items():
        if quantizer not in open_ones:
            continue
        observer = RangeObserver(quantizer.spec, f"{task.unit.name}, {name}", split, ends[quantizer])
        with stand_in_for([(quantizer, _watched_by(observer))]):
            for second in (False, True)[: 1 + observer.needs_second_pass]:
                if second:
                    observer.start_second_pass()
                for part in batches(min(images, task.count), task.walk_batch):
                    task.student(*(value.rows(part) for value in task.inputs))
                    observer.went_on(part.stop)
        if not observer.saw_zeros_only:  # it has the numbers of the first search
            quantizer.set_params(observer.params())


def _watched_by(observer: RangeObserver) -> StandIn:
    """Shows `observer` every tensor that passes, and passes it on as it is."""

    def watch(x: Tensor) -> Tensor:
        observer(x)
        return x

    return watch


def _all(graph: fx.GraphModule) -> list[Quantizer | BiasQuantizer]:
    found = (quantizer_of(graph, node) or bias_quantizer_of(graph, node) for node in graph.graph.nodes)
    return [quantizer for quantizer in found if quantizer is not None]


@torch.no_grad()
def _observe(calibration: Calibration, named: dict[str, Quantizer], images: int | None) -> None:
    split = calibration.batch < EVALUATION_BATCH
    ends = ends_told_apart(calibration.graph)
    observers = {
        quantizer: RangeObserver(quantizer.spec, name, split, ends[quantizer]) for name, quantizer in named.items()
    }
    for quantizer in observers:
        quantizer.phase = Phase.OBSERVE
    with stand_in_for((quantizer, _watched_by(observer)) for quantizer, observer in observers.items()):
        _forward(calibration, images, observers.values())
    second = {quantizer: observer for quantizer, observer in observers.items() if observer.needs_second_pass}
    if second:
        for observer in second.values():
            observer.start_second_pass()
        with stand_in_for((quantizer, _watched_by(observer)) for quantizer, observer in second.items()):
            _forward(calibration, images, ())
    finest = _Finest()
    for quantizer, observer in observers.items():
        quantizer.set_params(observer.params())
        if not observer.saw_zeros_only:
            finest.see(quantizer)
    for quantizer, observer in observers.items():
        if observer.saw_zeros_only:
            finest.give(quantizer)


def _forward(calibration: Calibration, images: int | None, observers: Collection[RangeObserver]) -> None:
    count = calibration.count if images is None else min(images, calibration.count)
    for part in batches(count, calibration.batch):
        run_graph(calibration.graph, calibration.batch_at(part))
        for observer in observers:
            observer.went_on(part.stop)
