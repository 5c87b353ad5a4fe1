"""Programs of a fixed batch: the batch becomes free, the numbers stay; what cannot be freed stays as it is."""

import pytest
import torch
from torch import nn

from isobit.pipeline.capture.capture import capture
from isobit.pipeline.errors import CaptureError
from isobit.pipeline.model.formats.fixed_batch import with_free_batch
from isobit.pipeline.model.modelfile import load_model


class Tokens(nn.Module):
    """Views, a class token expanded to the batch, and samples folded into windows."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.token = nn.Parameter(torch.ones(1, 1, 16))
        self.head = nn.Linear(5 * 16, 3)

    def forward(self, x):
        windows = self.conv(x).view(x.shape[0] * 2, 2, 16).relu()
        tokens = torch.cat([self.token.expand(x.shape[0], -1, -1), windows.view(x.shape[0], 4, 16)], 1)
        return self.head(tokens.reshape(x.shape[0], 80)) + x.new_zeros(3)


class Fixed(nn.Module):
    def forward(self, x):
        return x.permute(1, 0, 2, 3).reshape(3, 8, 4).permute(1, 0, 2).flatten(1)


def exported(net, batch, shape):
    torch.manual_seed(0)
    return torch.export.export(net.eval(), (torch.randn(batch, *shape),))


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_batch_becomes_free_and_the_numbers_stay(batch, tmp_path):
    net = Tokens().eval()
    torch.export.save(exported(net, batch, (1, 4, 4)), tmp_path / "net.pt2")
    program = load_model(tmp_path / "net.pt2").exported
    for samples in (1, 3, batch):
        x = torch.randn(samples, 1, 4, 4)
        assert torch.equal(program.module()(x), net(x))
    captured = capture(program, torch.randn(1, 1, 4, 4), name="net", sha256="0" * 64)
    assert captured.graph.graph.find_nodes(op="output", sort=False)[0].args[0].meta["val"].shape[1] == 3


def test_modules_keep_their_names():
    program = with_free_batch(exported(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), 2, (1, 4, 4)))
    stacks = [list(node.meta["nn_module_stack"].values())[-1][0] for node in program.graph.nodes
              if node.op == "call_function"]
    assert stacks == ["0", "1"]


def test_a_free_batch_is_left_alone():
    net, free = nn.Flatten(), {0: torch.export.Dim("n")}
    program = torch.export.export(net, (torch.randn(2, 3, 4),), dynamic_shapes=(free,))
    assert with_free_batch(program) is program


def test_what_cannot_be_freed_is_refused_by_capture():
    program = exported(Fixed(), 2, (3, 4, 4))
    assert with_free_batch(program) is program
    with pytest.raises(CaptureError, match="fixed batch of 2"):
        capture(program, torch.randn(1, 3, 4, 4), name="net", sha256="0" * 64)
