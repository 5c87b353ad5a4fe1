"""Tokens outside of a table are told before anything is computed."""

import numpy as np
import pytest
import torch
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.capture.lookups import check_lookups
from isobit.pipeline.errors import InputError
from isobit.pipeline.samples.data import array_batches


class Words(nn.Module):
    """Rows of a table, of which one output is made."""

    def __init__(self):
        super().__init__()
        self.rows, self.last = nn.Embedding(7, 3), nn.Linear(3, 2)

    def forward(self, tokens):
        return self.last(self.rows(tokens).mean(1))


@pytest.mark.parametrize("purpose", ["calib", "eval"])
def test_tokens_outside_of_the_table_are_told_with_what_is_allowed(purpose):
    graph = capture(Words().eval(), torch.zeros(1, 4, dtype=torch.int64), name="words", sha256="").graph
    tokens = torch.from_numpy(np.arange(12).reshape(3, 4) % 7)
    check_lookups(graph, array_batches(tokens, None, 2, purpose, "here"))
    for wrong in (7, -1):
        tokens[1, 2] = wrong
        batches = array_batches(tokens, None, 2, purpose, "here")
        with pytest.raises(InputError, match=rf"'input' has the number {wrong} in sample 1.* 7 rows") as error:
            check_lookups(graph, batches)
        assert error.value.allowed == "0 to 6" and error.value.where == "here"
        assert error.value.field == {"calib": "calibration", "eval": "evaluation"}[purpose]
        check_lookups(graph, batches.select([0, 2]))
