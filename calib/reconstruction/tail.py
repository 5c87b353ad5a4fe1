"""The rest of the float network after a unit: from the unit's outputs to the logits, and gradients back.

PD-Quant and BRECQ's Fisher information judge a unit by what it does to the prediction. Units that are not yet trained
count as float, so the tail is the teacher's view of everything after the unit; its parameters are never updated.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, fx

from isobit.calib.precision import Precision, resolve_precision
from isobit.calib.reconstruction.boundary import CachedValue
from isobit.pipeline.graph.subgraphs import extract


class Tail:
    """Everything after one unit, in float.

    Args:
        graph: the graph under calibration.
        names: nodes after the unit; none for the last unit, whose output is the prediction.
        outputs: names of the unit's outputs, in order.
        others: values of the quantized prefix that skip over the unit.
        precision: what the tail computes in; see `calib.precision`. Logits are float32 either way.
    """

    def __init__(
        self, graph: fx.GraphModule, names: Collection[str], outputs: Sequence[str], others: Mapping[str, CachedValue],
        precision: Precision = "float32",
    ) -> None:
        self._outputs, self._others = tuple(outputs), others
        device = next((parameter.device for parameter in graph.parameters()), torch.device("cpu"))
        self._dtype = resolve_precision(precision, device)
        self._module = extract(graph, names, quantized=False) if names else None
        self._inputs = self._module.input_names if self._module is not None else ()
        if self._module is not None and self._dtype is not torch.float32:
            self._module = copy.deepcopy(self._module).to(self._dtype)

    def logits(self, outputs: Sequence[Tensor], index: Tensor) -> Tensor:
        """The prediction for the images `index`, given the unit's outputs for them."""
        if self._module is None:
            return outputs[0]
        own = dict(zip(self._outputs, outputs, strict=True))
        inputs = [own[name] if name in own else self._others[name].rows(index) for name in self._inputs]
        return self._module(*(value.to(self._dtype) for value in inputs))[0].float()

    def gradients(
        self, outputs: Sequence[Tensor], index: Tensor, by_logits: Callable[[Tensor], Tensor]
    ) -> list[Tensor]:
        """Gradients of a loss by each of the unit's outputs, given how to get its gradient by the logits."""
        leaves = [output.detach().requires_grad_() for output in outputs]
        with torch.enable_grad():
            logits = self.logits(leaves, index)
        gradients = torch.autograd.grad(logits, leaves, by_logits(logits.detach()), allow_unused=True)
        return [
            torch.zeros_like(leaf) if gradient is None else gradient
            for leaf, gradient in zip(leaves, gradients, strict=True)
        ]
