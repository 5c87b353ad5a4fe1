"""A network that ends at its cut: the heads' own values, nothing that decodes, nothing lost of what is prepared."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.passes import prepare, without_decoding
from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.ends.cut import find_cut
from isobit.pipeline.graph.nodes import op_name
from isobit.pipeline.graph.ports import input_names, output_names, output_nodes
from tests.examples.detectors import DETECTORS, captured_detector


@pytest.mark.parametrize("name", sorted(set(DETECTORS) - {"plain"}))
def test_the_outputs_are_the_heads_values(name):
    captured, images = captured_detector(name)
    ended = without_decoding(captured)
    again = prepare(ended.graph, ended.cut)
    assert {op_name(node) for node in output_nodes(again)} == {"conv2d"}
    with torch.no_grad():
        first, second = ended.graph(images), again(images)
    first, second = (each if isinstance(each, tuple) else (each,) for each in (first, second))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_outputs_that_nothing_decodes_keep_their_names():
    captured, images = captured_detector("centernet")
    ended = without_decoding(captured)
    assert output_names(ended.graph) == ("output_1", "output_2", "heat") and ended.without == ("output_0",)
    with torch.no_grad():
        whole, cut = captured.graph(images), ended.graph(images)
    torch.testing.assert_close(cut[0], whole[1])
    peaks = whole[0] > 0
    torch.testing.assert_close(torch.sigmoid(cut[2])[peaks], whole[0][peaks])


class Named(nn.Module):
    """Outputs that are decoded and have the names of the layers before them."""

    def __init__(self):
        super().__init__()
        self.scores, self.boxes = nn.Conv2d(3, 2, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return {"scores": self.scores(x).sigmoid(), "boxes": self.boxes(x).exp()}


def test_no_value_before_the_cut_takes_the_name_of_a_decoded_output():
    model, x = Named().eval(), torch.randn(2, 3, 4, 4)
    ended = without_decoding(capture(model, x))
    assert ended.without == ("scores", "boxes") and output_names(ended.graph) == ("conv2d", "conv2d_1")
    cut = find_cut(prepare(ended.graph, ended.cut), ended.without)
    assert "does not compute scores, boxes" in cut.text
    with torch.no_grad():
        torch.testing.assert_close(ended.graph(x)[0].sigmoid(), model(x)["scores"])


def test_no_value_before_the_cut_takes_the_name_of_an_input():
    captured = capture(Named().eval(), torch.randn(2, 3, 4, 4), ports=(["scores"], ["a", "b"]))
    ended = without_decoding(captured)
    assert input_names(ended.graph) == ("scores",) and output_names(ended.graph) == ("conv2d", "boxes")


def test_a_value_without_a_free_name_is_refused():
    class Taken(Named):
        def forward(self, x):
            raw = super().forward(x)
            return raw | {"conv2d": raw["scores"] * 2.0}

    with pytest.raises(InputError, match="have the names of scores") as error:
        without_decoding(capture(Taken().eval(), torch.randn(2, 3, 4, 4)))
    assert "conv2d" in error.value.where and "target=onnx" in error.value.hint
