"""Does a network treat every sample by itself? Found out by running it: alone, in a batch, and once more.

An answer that depends on the other samples of a batch, or on chance, can be neither calibrated nor proven: calibration,
evaluation and the device all run batches of different sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from isobit.pipeline.errors import CaptureError, first_line
from isobit.pipeline.graph.nodes import where
from isobit.pipeline.graph.ports import output_nodes
from isobit.pipeline.graph.subgraphs import in_dtype
from isobit.pipeline.samples.network_inputs import Inputs, copied, grouped, in_floats, part, run_graph, tensors

SAMPLES = 4
ALONE = (0, 3)  # which of them are run by themselves as well
SUSPECT = 1e-4  # of the spread of the answers over the samples, in float32: then float64 decides
CERTAIN = 1e-6  # the same in float64, where rounding is nine orders smaller
ROUNDING = 1e-11  # of the largest answer in float64
# Where a network does not run in float64: a difference that no rounding makes.
ALONE_CERTAIN, ALONE_ROUNDING = 1e-2, 1e-3


@dataclass(frozen=True)
class _Difference:
    """How far answers are apart, how far answers to different samples are, and how large they are."""

    largest: float
    spread: float
    magnitude: float

    def beyond(self, share: float, rounding: float) -> bool:
        """More than `share` of the spread and more than `rounding` of the magnitude."""
        return self.largest > share * self.spread + rounding * self.magnitude


def check_samplewise(graph: fx.GraphModule, example: Inputs) -> None:
    """Refuse a network whose answer to a sample depends on its batch or on chance.

    Judged by `SAMPLES` made-up inputs, first of the example's own level and contrast; inputs to which every answer is
    the same or not finite tell nothing, then others are tried.

    Args:
        graph: inputs and outputs are [N, ...].
        example: an input [N, ...] with N >= 1, or a tuple of several.

    Raises:
        CaptureError: with the source line of the first operator that mixes samples or draws random numbers; or no
            output holds a number; or the network fails.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for x in _probes(grouped([_own(tensor) for tensor in tensors(example)])):
            batch, alone = _rows(graph, x), _alone(graph, x)
            if not any(rows.numel() for rows in tensors(batch)):
                _refuse_empty(graph)
            found = _worst(part(batch, list(ALONE)), alone)
            if found.spread == 0 or not all(bool(rows.isfinite().all()) for rows in (*tensors(batch), *tensors(alone))):
                continue
            if found.beyond(SUSPECT, 0.0):
                if _worst(batch, _rows(graph, x)).beyond(SUSPECT, 0.0):
                    _refuse_random(graph, x)
                if _confirmed(graph, x, found):
                    _refuse_mixing(graph, x)
            return


def _probes(example: Inputs) -> Iterator[Inputs]:
    """Inputs [SAMPLES, ...] to try, the likeliest first."""
    generator = torch.Generator().manual_seed(0)
    firsts = [tensor[:1] for tensor in tensors(example)]
    if any(first.is_floating_point() and first.numel() > 1 and float(first.std()) > 0 for first in firsts):
        yield grouped([_like(first, generator) for first in firsts])
    for draw, factor in ((torch.randn, 1), (torch.rand, 1), (torch.rand, 255)):
        yield grouped([
            factor * draw((SAMPLES, *first.shape[1:]), generator=generator) if first.is_floating_point()
            else _reordered(first) for first in firsts
        ])


def _own(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor


def _like(first: Tensor, generator: torch.Generator) -> Tensor:
    """Samples of the level and contrast of one."""
    if not first.is_floating_point():
        return _reordered(first)
    strength = 0.5 + torch.rand(SAMPLES, *[1] * (first.dim() - 1), generator=generator)
    spread = first.std() if first.numel() > 1 else first.abs().max()
    return first * strength + spread * torch.randn((SAMPLES, *first.shape[1:]), generator=generator)


def _reordered(first: Tensor) -> Tensor:
    """Integers of one sample in another order for each: as valid as they were."""
    return torch.cat([first.flatten().roll(place).reshape(first.shape) for place in range(SAMPLES)])


def _answers(graph: fx.GraphModule, x: Inputs) -> Sequence[Tensor]:
    """Every output; what shapes alone do not tell, as an index beyond its table, ends here."""
    try:
        return run_graph(graph, copied(x))
    except (IndexError, RuntimeError, ValueError) as error:
        if "memory" in str(error):
            raise
        raise CaptureError(
            f"the network cannot answer a sample: {first_line(error)}",
            where=", ".join(f"{tensor.dtype} {list(tensor.shape)}".removeprefix("torch.") for tensor in tensors(x)),
            hint="Run the model on samples of this shape and type: it must answer each.",
        ) from error


def _rows(graph: fx.GraphModule, x: Inputs) -> Inputs:
    """One row a sample of each output, whose parts may be rows of their own in the network's output."""
    return grouped([answer.reshape(SAMPLES, -1) for answer in _answers(graph, x)])


def _alone(graph: fx.GraphModule, x: Inputs) -> Inputs:
    answers = [_answers(graph, part(x, slice(index, index + 1))) for index in ALONE]
    return grouped([torch.cat([row.reshape(1, -1) for row in rows]) for rows in zip(*answers, strict=True)])


def _worst(one: Inputs, other: Inputs) -> _Difference:
    """The difference of the output whose answers are furthest apart, as a share of their spread where they have any."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    found = [_difference(first.double(), second.double()) for first, second in pairs if first.numel()]
    varied = [difference for difference in found if difference.spread]
    return max(varied or found, key=lambda difference: difference.largest / max(difference.spread, 1e-300))


def _difference(one: Tensor, other: Tensor) -> _Difference:
    both = torch.cat((one, other))
    return _Difference(
        float((one - other).abs().max()), float((both.amax(0) - both.amin(0)).max()), float(both.abs().max())
    )


def _confirmed(graph: fx.GraphModule, x: Inputs, found: _Difference) -> bool:
    """Whether the difference is the network's and not that of float32 rounding."""
    double = in_dtype(graph, torch.float64)
    try:
        wide = in_floats(x, torch.float64)
        batch, alone = _rows(double, wide), _alone(double, wide)
    except RuntimeError:  # a type is written into the network
        return found.beyond(ALONE_CERTAIN, ALONE_ROUNDING)
    return _worst(part(batch, list(ALONE)), alone).beyond(CERTAIN, ROUNDING)


def _output(graph: fx.GraphModule) -> fx.Node:
    return output_nodes(graph)[0]


def _refuse_empty(graph: fx.GraphModule) -> None:
    raise CaptureError(
        "no output of the network holds a number: one of their sizes is 0", where=where(_output(graph)),
        allowed="an output with at least one number for each sample",
        hint="look at the sizes of the input and at slices; `outputs` chooses others of the network's values",
    )


def _refuse_random(graph: fx.GraphModule, x: Inputs) -> None:
    first, second = _values(graph, x), _values(graph, x)
    node = next((node for node, value in first.items() if not torch.equal(value, second[node])), _output(graph))
    raise CaptureError(
        "the network draws random numbers: two runs on the same samples differ", where=where(node),
        allowed="a network that gives one answer to one input",
        hint="call model.eval(), and pass training=self.training to dropout; leave noise out of evaluation",
    )


def _refuse_mixing(graph: fx.GraphModule, x: Inputs) -> None:
    batch = _values(graph, x)
    runs = [(index, _values(graph, part(x, slice(index, index + 1)))) for index in ALONE]
    node = next(
        (node for node, value in batch.items() if any(_mixes(value, index, run[node]) for index, run in runs)),
        _output(graph),
    )
    raise CaptureError(
        f"the answer to a sample depends on the other samples of its batch: run alone and among {SAMPLES} it differs",
        where=where(node), allowed="a network that treats every sample by itself",
        hint="take sums, means and orders over channels or space instead of the batch (dimension 0); a batch norm "
             "needs running statistics and evaluation mode",
    )


def _mixes(batch: Tensor, index: int, alone: Tensor) -> bool:
    """Whether what a node gives for one sample differs; False where the two cannot be laid side by side."""
    if batch.shape[:1] == (SAMPLES,) and alone.shape[:1] == (1,) and batch.shape[1:] == alone.shape[1:]:
        one, other = batch[index : index + 1], alone
    elif batch.shape == alone.shape and batch.dim():
        one, other = batch[None], alone[None]
    else:
        return False
    return _difference(one.double(), other.double()).beyond(SUSPECT, 1e-5)


class _Recorder(fx.Interpreter):
    """Runs a graph and keeps a copy of every tensor that the input reaches, as it was when it was computed."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.values: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and n.op == "call_function":
            self.values[n] = value.clone()
        return value


def _values(graph: fx.GraphModule, x: Inputs) -> dict[fx.Node, Tensor]:
    recorder = _Recorder(graph)
    recorder.run(*tensors(copied(x)))
    return recorder.values
