"""A folder with a network in a file, for tests that load models."""

import sys

import pytest
import torch

from isobit.pipeline.model.modelfile import build_arch

NET = """\
from torch import nn

from neighbour import WIDTH


def tiny(classes=2):
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3), nn.BatchNorm2d(WIDTH), nn.Flatten(), nn.Linear(WIDTH * 4, classes))


def broken():
    raise ZeroDivisionError("in the factory")


def no_module():
    return 3


CONSTANT = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A current folder with `net.py:tiny`, a neighbour that it imports, and a package `nets`; modules forgotten."""
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "neighbour.py").write_text("WIDTH = 3\n")
    (tmp_path / "nets_under_test.py").write_text("from net import tiny\n")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("net", "neighbour", "nets_under_test", "_arch_net"):
        sys.modules.pop(name, None)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return build_arch("net.py:tiny", {})
