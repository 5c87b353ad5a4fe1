"""Recomputed units: the same values and gradients to the last bit, and far less kept on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from isobit.calib.reconstruction.predictions import FloatPredictions
from isobit.calib.training.finish import Teacher
from isobit.calib.training.recompute import Recomputed, activation_bytes, free_memory, runner
from isobit.calib.training.variables import TrainedNetwork
from isobit.pipeline.recipe.schema import FinishRule
from isobit.pipeline.samples.network_inputs import run_graph
from isobit.pipeline.stages import Unit
from tests.examples import nets
from tests.examples.units import CPU, calibration, recipe

NAMES = ("residual", "squeeze", "dense", "unet")


@contextmanager
def kept(sizes: dict[int, int]) -> Iterator[None]:
    """Notes what autograd keeps in a block: bytes of every storage, by its address."""
    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def trained(name: str) -> tuple[TrainedNetwork, FloatPredictions]:
    """The finish's network, of a tiny one with its ranges and codes."""
    made = calibration(recipe("minmax_w4a4"), name=name)
    for tensor in made.weights().values():
        tensor.codes = None
    rule = FinishRule(steps=1, what=("scales", "biases"))
    teacher = Teacher(made, rule)
    return TrainedNetwork(made, rule, teacher.names), teacher.predictions


def gradients(network: TrainedNetwork, predictions: FloatPredictions, run: Callable[..., Any]) -> list[Tensor]:
    images, index = network.calibration.images, torch.arange(8)
    with network.attached():
        run_graph(run, images[index])
        loss = predictions.loss(network._found, index)
        found = torch.autograd.grad(loss, network.moved(), allow_unused=True)
    return [loss.detach(), *(torch.zeros(()) if each is None else each for each in found)]


@pytest.mark.parametrize("name", NAMES)
def test_the_finish_gets_the_same_gradients(name: str) -> None:
    network, predictions = trained(name)
    plain = gradients(network, predictions, network.run)
    again = gradients(network, predictions, Recomputed(network, network.calibration.units))
    assert all(torch.equal(left, right) for left, right in zip(plain, again, strict=True))
    assert sum(float(each.abs().sum()) for each in plain[1:]) > 0.0


@pytest.mark.parametrize("name", [*NAMES, "mobile"])
def test_any_partition_gives_the_same(name: str) -> None:
    """Every node a unit of its own, or none at all."""
    captured, images = nets.captured_net(name)
    graph = captured.graph
    single = [Unit(n.name, "layer", "test", (n.name,)) for n in graph.graph.nodes if n.op == "call_function"]
    expected = run_graph(fx.Interpreter(graph).run, images)
    for units in (single, []):
        found = run_graph(Recomputed(fx.Interpreter(graph), units), images)
        assert all(torch.equal(left, right) for left, right in zip(expected, found, strict=True))


class Deep(nn.Module):
    """Blocks alike, whose activations dwarf their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) + x
        return x.mean((2, 3))


class Noting(Recomputed):
    """Notes what is handed to every part: torch's checkpoints keep it."""

    def __init__(self, interpreter: fx.Interpreter, units: list[Unit], sizes: dict[int, int]) -> None:
        super().__init__(interpreter, units)
        self.sizes = sizes

    def _run(self, part: Any, *inputs: Any) -> tuple[Any, ...]:
        self.sizes |= {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in inputs}
        return super()._run(part, *inputs)


def test_less_is_kept_and_the_estimate_is_of_the_right_size() -> None:
    captured, images = nets.captured_of(Deep().eval(), 4, 32, 32)
    names = [node.name for node in captured.graph.graph.nodes if node.op == "call_function"]
    units = [Unit(str(place), "block", "test", tuple(names[place : place + 6])) for place in range(0, len(names), 6)]
    taken, sizes = [], dict[int, int]()
    for run in (fx.Interpreter(captured.graph).run, Noting(fx.Interpreter(captured.graph), units, sizes)):
        sizes.clear()
        with kept(sizes):
            outputs = run_graph(run, images.requires_grad_())
        taken.append(sum(sizes.values()))
        assert outputs[0].requires_grad
    assert taken[1] < 0.5 * taken[0]
    assert 0.3 * taken[0] < activation_bytes(captured.graph, images.shape[0]) < 4.0 * taken[0]


def test_it_is_done_where_activations_would_not_fit() -> None:
    network, _ = trained("residual")
    units, needed = network.calibration.units, activation_bytes(network.module, 8)
    assert runner(network, units, 8, CPU, free=4 * needed) == network.run
    assert isinstance(runner(network, units, 8, CPU, free=needed), Recomputed)
    assert activation_bytes(network.module, 16) == 2 * needed and free_memory(CPU) > 0
