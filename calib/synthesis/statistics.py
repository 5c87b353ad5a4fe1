"""What the batch norms of the float network see: their inputs' statistics, next to the running ones.

Data-free methods know the training images by nothing else. The batch norms are folded; a batch norm's input follows
from the answer of the layer that took it in (`pipeline.graph.norms`), so that one tapped network serves ZeroQ's
distilled images, GDFQ's and FDDA's generators and PD-Quant's correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from isobit.pipeline.graph.norms import FoldedNorm, folded_norm
from isobit.pipeline.graph.subgraphs import float_network
from isobit.pipeline.shapes import positions

VARIANCE_FLOOR = 1e-6  # added to variances before roots, in ZeroQ's and PD-Quant's code alike


class Watched:
    """A float (sub-)graph that also answers with what every folded layer in it answers.

    Args:
        graph: without quantizers, its layers carrying `FoldedNorm`.
        device: of the running statistics.
        outputs: False leaves the graph's own outputs out, and everything that only they need.
    """

    def __init__(self, graph: fx.GraphModule, device: torch.device, outputs: bool = True) -> None:
        watched = fx.Graph()
        copies: dict[fx.Node, fx.Node] = {}
        results: tuple[fx.Node, ...] = ()
        for node in graph.graph.nodes:
            if node.op == "output":
                results = tuple(copies[source] for source in node.all_input_nodes) if outputs else ()
            else:
                copies[node] = watched.node_copy(node, lambda n: copies[n])
        folded = {node: norm for node in copies if (norm := folded_norm(node)) is not None}
        watched.output((results, tuple(copies[node] for node in folded)))
        watched.eliminate_dead_code()
        self.norms = [norm.to(device) for norm in folded.values()]
        self.names = [node.name for node in folded]
        self._module = fx.GraphModule(graph, watched)

    def __call__(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """(the graph's outputs, the folded layers' answers in execution order)."""
        return self._module(*inputs)


def watched_network(graph: fx.GraphModule, device: torch.device, outputs: bool = True) -> Watched:
    """The whole float network of a graph with quantizers; shares its parameters and never trains them.

    Args:
        outputs: False stops the forward pass after the last batch norm.
    """
    return Watched(float_network(graph), device, outputs)


@dataclass(frozen=True)
class Statistics:
    """Moments of one batch norm's input over a batch: float32 [usable channels] each.

    Args:
        mean, variance: over images and positions; the variance is biased.
    """

    mean: Tensor
    variance: Tensor


def running(norm: FoldedNorm) -> Statistics:
    """What training left in `norm`, channels that the fold lost left out."""
    return Statistics(norm.mean[norm.usable], norm.variance[norm.usable])


def batch_statistics(answer: Tensor, norm: FoldedNorm) -> Statistics:
    """Statistics of the batch norm's input, computed in float32 from the folded layer's `answer` [N, C, ...]."""
    usable, factor = norm.usable, norm.factor[norm.usable]
    rows = answer.float().movedim(1, -1).reshape(-1, answer.shape[1]) - norm.beta
    # Products with a row of ones: reductions over all but the last axis are much slower.
    ones = rows.new_full((1, rows.shape[0]), 1.0 / rows.shape[0])
    mean, square = ((ones @ values)[0, usable] for values in (rows, rows * rows))
    variance = (square - mean.square()).clamp(min=0.0)
    return Statistics(mean / factor + norm.mean[usable], variance / factor.square())


def alignment_loss(found: Sequence[Statistics], wanted: Sequence[Statistics]) -> Tensor:
    """GDFQ's L_BNS: mean over batch norms of MSE(mean, wanted mean) + MSE(variance, wanted variance).

    MSE is the mean over channels of the squared difference.
    """
    terms = [
        (f.mean - w.mean).square().mean() + (f.variance - w.variance).square().mean()
        for f, w in zip(found, wanted, strict=True) if f.mean.numel()
    ]
    return torch.stack(terms).mean()


def statistics_loss(answers: tuple[Tensor, ...], norms: list[FoldedNorm]) -> Tensor:
    """Sum over batch norms of the mean over images of ||mean - running mean||^2 + ||deviation - running deviation||^2.

    Each image has statistics of its own, over its positions; squared norms are summed over channels (ZeroQ, PD-Quant).

    Args:
        answers: outputs [N, C, ...] of the folded layers.
        norms: what was folded into each.
    """
    total = answers[0].new_zeros(())
    for answer, norm in zip(answers, norms, strict=True):
        usable, mean, variance = norm.usable, *image_moments(answer, norm.beta)
        factor = norm.factor[usable]
        total = total + (mean[:, usable] / factor).square().sum(1).mean()
        if positions(answer) > 1:
            deviation = torch.sqrt(variance[:, usable] / factor.square() + VARIANCE_FLOOR)
            wanted = torch.sqrt(norm.variance[usable] + VARIANCE_FLOOR)
            total = total + (deviation - wanted).square().sum(1).mean()
    return total


def image_moments(answer: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    """Per image and channel [N, C]: mean minus `centre`, and unbiased variance, over positions.

    Matrix products with a row of ones are an order of magnitude faster than `torch.var_mean` on channels-last data;
    centring first keeps the difference of squares exact enough, because an image's mean is near the running one.
    """
    count = positions(answer)
    rows = answer.flatten(2).transpose(1, 2) if answer.dim() > 2 else answer.unsqueeze(1)
    rows = rows - centre
    ones = rows.new_full((rows.shape[0], 1, count), 1.0 / count)
    mean, square = (torch.bmm(ones, values)[:, 0] for values in (rows, rows * rows))
    return mean, (square - mean * mean).clamp(min=0.0) * (count / max(count - 1, 1))
