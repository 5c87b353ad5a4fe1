"""What is not [N, ...] of floats or integers is refused by the name of the input or output."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isobit.pipeline.capture.interface import check_inputs, check_outputs, keep_outputs, shape_text
from isobit.pipeline.capture.program import plain_graph
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import finish
from isobit.pipeline.graph.ports import output_names

X, WORDS = torch.ones(2, 4), torch.zeros(2, 3, dtype=torch.int64)


class Two(nn.Module):
    def forward(self, x, words):
        return {"sum": x.sum(1), "last": words[:, -1], "any": x > 0, "all": x.sum()}


@pytest.fixture
def graph():
    batch = {0: torch.export.Dim("batch", min=1)}
    return finish(plain_graph(torch.export.export(Two(), (X, WORDS), dynamic_shapes=(batch, batch))))


def test_outputs_are_kept_by_name_in_the_model_s_order(graph):
    keep_outputs(graph, ())
    assert output_names(graph) == ("sum", "last", "any", "all")
    keep_outputs(graph, ("last", "sum"))
    assert output_names(graph) == ("sum", "last")
    check_outputs(finish(graph))
    keep_outputs(graph, ["last"])
    finish(graph)
    assert output_names(graph) == ("last",) and torch.equal(graph(X, WORDS), WORDS[:, -1])


@pytest.mark.parametrize(("kept", "words"), [("any", "type torch.bool"), ("all", r"shape \[\]")])
def test_outputs_that_have_no_sample_or_no_number(graph, kept, words):
    keep_outputs(graph, ("last", kept))
    with pytest.raises(CaptureError, match=f"output '{kept}'.*{words}") as error:
        check_outputs(finish(graph))
    assert error.value.field == "outputs"


def test_an_output_without_numbers_is_refused_by_name():
    class Cut(nn.Module):
        def forward(self, x):
            return {"whole": x * 2, "cut": x[:, :0]}

    x = {0: torch.export.Dim("batch", min=1)}
    graph = finish(plain_graph(torch.export.export(Cut(), (X,), dynamic_shapes=(x,))))
    with pytest.raises(CaptureError, match=r"'cut' of the model holds no numbers: its shape is \[N, 0\]") as error:
        check_outputs(graph)
    assert error.value.field == "outputs" and error.value.allowed and "`outputs`" in error.value.hint
    keep_outputs(graph, ["whole"])
    check_outputs(finish(graph))


@pytest.mark.parametrize(
    ("example", "words"),
    [
        (X, "takes 2 inputs .x, words., the data has 1"),
        ((X, WORDS.float()), "input 'words' of the model is torch.int64, the data is torch.float32"),
        ((X, WORDS[:, 1:]), r"shape \[4\], \[3\], the data has \[4\], \[2\]"),
    ],
)
def test_data_that_does_not_fit(graph, example, words):
    check_inputs(graph, (X, WORDS))
    with pytest.raises(CaptureError, match=words):
        check_inputs(graph, example)


def test_the_batch_is_called_n():
    assert shape_text((None, 3, 5)) == "[N, 3, 5]"
