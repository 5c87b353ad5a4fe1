"""QDrop's loop written plainly in PyTorch: the timing baseline of `tools/bench/bench.py`, and nothing else.

The same mathematics as `calib/methods/qdrop.py` in the way a paper's repository has it: fake-quantization composed of
elementary differentiable operations, random numbers from `torch.rand`, the masks applied with `torch.where`, one
rounding module a layer, the regulariser as a value that is differentiated, two Adam optimisers, a learning-rate
scheduler, indices drawn in every step. What a unit needs is cached as QDrop's code does it: two runs a unit, of the
quantized and of the float network, from the image to the unit and no further.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn

from isobit.calib.context import Calibration
from isobit.calib.methods.qdrop import PAPER_STEPS, QDropParameters
from isobit.calib.ranges.ranges import search_ranges
from isobit.calib.roundings.soft import SoftParameters
from isobit.pipeline.graph.nodes import get_attribute, nodes_by_name, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.graph.subgraphs import extract
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.stages import Calibrated, Quantized
from isobit.pipeline.watcher import Quiet


class LiteralActivation(nn.Module):
    """A per-tensor fake quantizer with a learned scale and element-wise drop."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.scale = nn.Parameter(quantizer.scale.detach().clone())
        self.zero_point = quantizer.zero_point
        self.qmin, self.qmax = quantizer.spec.grid.qmin, quantizer.spec.grid.qmax
        self.keep_prob = 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.abs_()
        self.scale.data.clamp_(min=torch.finfo(torch.float32).eps)
        factor = 1.0 / (x.numel() * self.qmax) ** 0.5
        scale = (self.scale - self.scale * factor).detach() + self.scale * factor
        ratio = x / scale
        rounded = (ratio.round() - ratio).detach() + ratio
        codes = torch.clamp(rounded + self.zero_point, self.qmin, self.qmax)
        value = (codes - self.zero_point) * scale
        if self.keep_prob < 1.0:
            return torch.where(torch.rand_like(x) < self.keep_prob, value, x)
        return value


class LiteralRounding(nn.Module):
    """AdaRound's soft rounding of one weight."""

    def __init__(self, quantizer: Quantizer, weight: Tensor) -> None:
        super().__init__()
        self.scale, self.zero_point = (t.detach() for t in quantizer.aligned(weight))
        self.qmin, self.qmax = quantizer.spec.grid.qmin, quantizer.spec.grid.qmax
        fraction = weight / self.scale - torch.floor(weight / self.scale)
        self.alpha = nn.Parameter(-torch.log(1.2 / (fraction + 0.1) - 1.0))

    def soft(self) -> Tensor:
        return torch.clamp(torch.sigmoid(self.alpha) * 1.2 - 0.1, 0.0, 1.0)

    def codes(self, weight: Tensor, mask: Tensor) -> Tensor:
        return torch.clamp(torch.floor(weight / self.scale) + mask + self.zero_point, self.qmin, self.qmax)

    def forward(self, weight: Tensor) -> Tensor:
        return (self.codes(weight, self.soft()) - self.zero_point) * self.scale


def literal_qdrop(
    quantized: Quantized, images: Tensor, parameters: QDropParameters, device: str = "cpu"
) -> Calibrated:
    """Calibrate as `calib.calibrate.calibrate` does, with the plain loop."""
    torch.manual_seed(quantized.recipe.seed)
    graph, teacher = (copy.deepcopy(each).to(device) for each in (quantized.graph, quantized.teacher))
    images = images.to(device)
    search_ranges(
        Calibration(graph, quantized.units, images, quantized.recipe, torch.device(device), Quiet()),
        parameters.init_images,
    )
    for unit in quantized.units:
        student = extract(graph, unit.nodes)
        quantized_inputs = _cache(graph, student.input_names, images)
        inputs, outputs = (_float_names(graph, names) for names in (student.input_names, student.output_names))
        values = _cache(teacher, (*inputs, *outputs), images)
        teacher_inputs, targets = values[: len(inputs)], values[len(inputs) :]
        _train(graph, unit.nodes, student, quantized_inputs, teacher_inputs, targets, parameters)
    return Calibrated(graph.cpu(), quantized)


def _float_names(graph: fx.GraphModule, names: tuple[str, ...]) -> tuple[str, ...]:
    """The teacher's nodes that hold the values of these nodes before their quantizers."""
    nodes = nodes_by_name(graph)
    return tuple(nodes[n].args[0].name if quantizer_of(graph, nodes[n]) is not None else n for n in names)


def _cache(graph: fx.GraphModule, names: tuple[str, ...], images: Tensor) -> list[Tensor]:
    """Values of nodes for all images, from a run in batches of 32 that ends with the last of them."""
    prefix = copy.deepcopy(graph.graph)
    nodes = {node.name: node for node in prefix.nodes}
    output = next(node for node in prefix.nodes if node.op == "output")
    output.args = (tuple(nodes[name] for name in names),)
    module = fx.GraphModule(graph, prefix)
    module.graph.eliminate_dead_code()
    module.recompile()
    with torch.no_grad():
        rows = [module(batch) for batch in images.split(32)]
    return [torch.cat(column) for column in zip(*rows, strict=True)]


def _train(
    graph: fx.GraphModule, names: tuple[str, ...], student: fx.GraphModule, quantized_inputs: list[Tensor],
    teacher_inputs: list[Tensor], targets: list[Tensor], parameters: QDropParameters,
) -> None:
    settings, soft_rounding = parameters.settings, parameters.chosen_rounding(PAPER_STEPS).parameters
    if not isinstance(soft_rounding, SoftParameters):
        raise ValueError("this trainer knows soft rounding alone")
    activations: dict[Quantizer, LiteralActivation] = {}
    roundings: dict[Quantizer, tuple[LiteralRounding, Tensor]] = {}
    for tensor in quantized_tensors(graph).within(names):
        quantizer = tensor.quantizer
        if quantizer.stand_in is not None:  # nodes that share a grid share the quantizer
            continue
        if tensor.is_weight:
            weight = get_attribute(graph, tensor.source)
            roundings[quantizer] = (LiteralRounding(quantizer, weight), weight)
            quantizer.attach(roundings[quantizer][0])
        else:
            activations[quantizer] = LiteralActivation(quantizer)
            activations[quantizer].keep_prob = settings.keep_prob
            quantizer.attach(activations[quantizer])
    rounding_optimiser = torch.optim.Adam([r.alpha for r, _ in roundings.values()], lr=soft_rounding.learning_rate)
    scales = [a.scale for a in activations.values()] or [nn.Parameter(torch.zeros(()))]
    scale_optimiser = torch.optim.Adam(scales, lr=settings.scale_learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(scale_optimiser, T_max=settings.steps, eta_min=0.0)
    for step in range(1, settings.steps + 1):
        index = torch.randint(0, targets[0].shape[0], (32,))
        inputs = []
        for student_value, teacher_value in zip(quantized_inputs, teacher_inputs, strict=True):
            student_rows, teacher_rows = student_value[index], teacher_value[index]
            kept = torch.rand_like(student_rows) < settings.keep_prob
            inputs.append(torch.where(kept, student_rows, teacher_rows))
        rounding_optimiser.zero_grad()
        scale_optimiser.zero_grad()
        outputs = student(*inputs)
        loss = sum((o - t[index]).abs().pow(2.0).sum(1).mean() for o, t in zip(outputs, targets, strict=True))
        if step >= soft_rounding.warmup * settings.steps:
            rest = (step - soft_rounding.warmup * settings.steps) / (settings.steps * (1.0 - soft_rounding.warmup))
            beta = soft_rounding.beta_end + (soft_rounding.beta_start - soft_rounding.beta_end) * max(0.0, 1.0 - rest)
            for rounding, _ in roundings.values():
                soft = rounding.soft()
                loss = loss + soft_rounding.rounding_weight * (1.0 - ((soft - 0.5).abs() * 2.0).pow(beta)).sum()
        loss.backward()
        rounding_optimiser.step()
        scale_optimiser.step()
        scheduler.step()
    for quantizer, activation in activations.items():
        quantizer.detach(activation)
        quantizer.scale = activation.scale.detach()
    for quantizer, (rounding, weight) in roundings.items():
        quantizer.harden(rounding.codes(weight, (rounding.alpha.detach() >= 0).float()))
