"""The batch norm after a fold: its input can be computed from the folded layer's output, wherever it went."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from isobit import passes
from isobit.backends.onnx.target import TARGETS
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.graph.norms import FoldedNorm, folded_norm
from isobit.pipeline.recipe.file import load_recipe
from tests.examples import nets, tiny


class Recorder(fx.Interpreter):
    """Runs a graph and keeps the outputs of the layers that took a batch norm in."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.found: list[tuple[FoldedNorm, Tensor]] = []

    def run_node(self, n: fx.Node) -> object:
        result = super().run_node(n)
        if (norm := folded_norm(n)) is not None:
            self.found.append((norm, result))
        return result


def along_channels(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.dim() - 2))


def norm_inputs(model: nn.Module, images: Tensor) -> list[tuple[nn.Module, Tensor]]:
    """What every batch norm of the un-folded network sees, in execution order."""
    seen: list[tuple[nn.Module, Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.register_forward_hook(lambda module, args, _: seen.append((module, args[0])))
    with torch.no_grad():
        model(images)
    return seen


@pytest.mark.parametrize("name", ["residual", "mobile", "pre_activation", "perceptron", "tiny"])
def test_inputs_of_batch_norms_follow_from_folded_outputs(name: str) -> None:
    """Through the whole of `quantize`; `pre_activation` has batch norms that fold into nothing."""
    model, images = tiny.model_and_images() if name == "tiny" else nets.build(name)
    graph = passes.quantize(capture(model, images[:1]), load_recipe("qdrop_w4a4"), TARGETS["generic"]).graph
    recorder = Recorder(graph)
    with torch.no_grad():
        recorder.run(images)
    expected = norm_inputs(model, images)
    assert len(recorder.found) == len(expected) > 0
    for (norm, output), (module, value) in zip(recorder.found, expected, strict=True):
        output = output.reshape(value.shape)
        beta, factor, mean = (along_channels(v, value) for v in (norm.beta, norm.factor, norm.mean))
        torch.testing.assert_close((output - beta) / factor + mean, value, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(norm.mean, module.running_mean)
        torch.testing.assert_close(norm.variance, module.running_var)
        assert bool(norm.usable.all())


def test_a_channel_that_the_factor_kills_is_not_usable() -> None:
    factor = torch.tensor([0.5, 0.0, -2.0, 1e-9])
    norm = FoldedNorm(factor, *torch.zeros(3, 4))
    assert norm.usable.tolist() == [True, False, True, False]
    assert torch.equal(norm.to(torch.device("cpu")).factor, factor)


def test_a_layer_without_batch_norm_has_none() -> None:
    model, images = tiny.model_and_images()
    graph = passes.prepare(capture(model, images[:1]).graph)
    layers = [node for node in graph.graph.nodes if node.op == "call_function"]
    assert [folded_norm(node) is not None for node in layers] == [True] + [False] * (len(layers) - 1)
