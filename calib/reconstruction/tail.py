"""The rest of the float network after a unit: from the unit's outputs to the predictions, and gradients back.

PD-Quant and BRECQ's Fisher information judge a unit by what it does to the predictions. Units that are not yet trained
count as float, so the tail is the teacher's view of everything after the unit; its parameters are never updated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from isobit.calib.precision import Precision, resolve_precision
from isobit.calib.reconstruction.boundary import CachedValue
from isobit.pipeline.graph.nodes import is_constant
from isobit.pipeline.graph.subgraphs import extract

ByAnswers = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


class Tail:
    """Everything after one unit that leads from it to a prediction, in float.

    Args:
        graph: the graph under calibration.
        names: nodes after the unit; none for the last unit, whose outputs are the predictions.
        outputs: names of the unit's outputs, in order.
        others: values of the quantized prefix that skip over the unit.
        answers: names of the predictions' nodes, in any order.
        precision: what the tail computes in; see `calib.precision`. Predictions are float32 either way.

    Attributes:
        answers: names of the predictions that depend on the unit, in the graph's order.
    """

    def __init__(
        self, graph: fx.GraphModule, names: Collection[str], outputs: Sequence[str], others: Mapping[str, CachedValue],
        answers: Collection[str], precision: Precision = "float32",
    ) -> None:
        self._outputs, self._others = tuple(outputs), others
        device = next((parameter.device for parameter in graph.parameters()), torch.device("cpu"))
        self._dtype = resolve_precision(precision, device)
        self.answers, between = _between(graph, set(names), outputs, answers)
        later = [name for name in self.answers if name in between]
        self._module = extract(graph, between, quantized=False, answers=later) if later else None
        self._inputs = self._module.input_names if self._module is not None else ()
        self._later = self._module.output_names if self._module is not None else ()
        if self._module is not None and self._dtype is not torch.float32:
            self._module = copy.deepcopy(self._module).to(self._dtype)

    def predictions(self, outputs: Sequence[Tensor], index: Tensor) -> dict[str, Tensor]:
        """The predictions for the images `index` by name, given the unit's outputs for them."""
        own = dict(zip(self._outputs, outputs, strict=True))
        found: dict[str, Tensor] = {name: own[name] for name in self.answers if name in own}
        if self._module is not None:
            inputs = [own[name] if name in own else self._others[name].rows(index) for name in self._inputs]
            values = self._module(*(
                value.to(self._dtype) if value.is_floating_point() else value for value in inputs
            ))
            found.update({name: value.float() for name, value in zip(self._later, values, strict=True)})
        return found

    def gradients(self, outputs: Sequence[Tensor], index: Tensor, by_answers: ByAnswers) -> list[Tensor]:
        """Gradients of a loss by each of the unit's outputs, given how to get its gradients by the predictions.

        Integers (an argmax) neither pull nor are pulled at: their gradients are zeros.
        """
        leaves = [output.detach().requires_grad_(output.is_floating_point()) for output in outputs]
        with torch.enable_grad():
            found = self.predictions(leaves, index)
        pulls = by_answers({name: value.detach() for name, value in found.items()})
        ends = [(value, pulls[name]) for name, value in found.items() if value.requires_grad and name in pulls]
        learning = [leaf for leaf in leaves if leaf.requires_grad]
        pulled: dict[Tensor, Tensor | None] = {}
        if ends and learning:
            values, gradients = zip(*ends, strict=True)
            grown = torch.autograd.grad(values, learning, gradients, allow_unused=True)
            pulled = dict(zip(learning, grown, strict=True))
        found_of = [pulled.get(leaf) for leaf in leaves]
        return [
            torch.zeros_like(leaf, dtype=torch.float32) if gradient is None else gradient
            for leaf, gradient in zip(leaves, found_of, strict=True)
        ]


def _between(
    graph: fx.GraphModule, after: set[str], outputs: Sequence[str], answers: Collection[str]
) -> tuple[tuple[str, ...], set[str]]:
    """The predictions that depend on the unit, and the nodes after it that they are computed by."""
    reached: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.name in outputs or (node.name in after and reached.intersection(node.all_input_nodes)):
            reached.add(node)
    found = [node for node in reached if node.name in answers]
    needed: set[fx.Node] = set()
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        if node.name in after and node not in needed:
            needed.add(node)
            waiting.extend(source for source in node.all_input_nodes if not is_constant(source))
    names = {node.name for node in needed}
    ordered = [node.name for node in graph.graph.nodes if node in set(found)]
    return tuple(ordered), names
