"""TorchScript archives: they hold the code of the network, which runs while they are read."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from isobit.pipeline.errors import InputError, first_line
from isobit.pipeline.model.archive import corrupt, read_members

_LOAD = "torch.jit.load('{name}')"


def is_torchscript(path: Path) -> bool:
    """Whether the file is one of `torch.jit.save`."""
    return any(name.split("/")[1:2] == ["constants.pkl"] for name in read_members(path))


def read_torchscript(path: Path, trust: bool) -> Mapping[str, Tensor]:
    """The weights of a trusted archive; its graph is not read: `arch` says what computes with them.

    Raises:
        InputError: the file is not trusted, which is answered with the calls that convert it; or it is damaged.
    """
    if not trust:
        load = _LOAD.format(name=path.name)
        raise InputError(
            "the file is a TorchScript archive, whose code runs when it is loaded", where=str(path),
            field="trust_pickle", allowed="a state_dict, .safetensors, .onnx, or a torch.export .pt2 file",
            hint=f"Convert it where you trust it: torch.save({load}.state_dict(), 'weights.pth') and give `arch`; "
            f"or, without the network's code, torch.onnx.export({load}, (example,), 'model.onnx', dynamo=False). "
            "`trust_pickle=True` with `arch` takes its weights here.",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(torch.jit.load(str(path), map_location="cpu").state_dict())
    except Exception as error:  # the interpreter of another program's archive may raise anything
        raise corrupt(path, first_line(error)) from error
