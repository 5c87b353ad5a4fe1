"""Studies of a tiny network, and rows as a sweep finds them."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from isobit.sweep.cells import Cell
from isobit.sweep.results import DONE, Row
from tests.examples import tiny

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0  # seconds
SMALL = ["images.count=12", "images.batch_size=4"]
# A network whose file says that it is being read, and waits for a word: what is killed is killed in the middle.
GATED = """
import pathlib, sys, time
sys.path.insert(0, {root!r})
from tests.examples.tiny import Residual as Network
def make():
    here = pathlib.Path({here!r})
    (here / "started").touch()
    while not (here / "go").exists():
        time.sleep(0.02)
    return Network()
"""


def given(folder: Path, gate: Path | None = None) -> dict[str, str]:
    """Files of a model beside a study; the entry that names them.

    Args:
        gate: the network waits until there is a file `go` in this folder, and leaves `started` there.
    """
    model, images = tiny.model_and_images(samples=12)
    torch.save(model.state_dict(), folder / "model.pth")
    np.savez(folder / "data.npz", x=images.numpy(), y=np.arange(12) % 5)
    if gate is None:
        shutil.copy(ROOT / "tests" / "examples" / "tiny.py", folder / "net.py")
    else:
        (folder / "net.py").write_text(GATED.format(root=str(ROOT), here=str(gate)))
    arch = "net.py:Residual" if gate is None else "net.py:make"
    return {"file": "model.pth", "arch": arch, "calib_data": "data.npz", "eval_data": "data.npz"}


def study(folder: Path, **changes) -> Path:
    """A study file of the model that `given` leaves; `changes` replace its keys, None leaves one out."""
    if "models" not in changes:
        changes["models"] = [given(folder)]
    content = {"recipes": [{"name": "minmax_w8a8", "set": SMALL}], "targets": ["reference"],
               **changes}
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Until it holds; raises AssertionError where the process ends before, or nothing comes of it."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None and time.monotonic() < until, "what was waited for did not come"
        time.sleep(0.02)


def cell(name: str = "net", **changes) -> Cell:
    """A cell that nobody builds."""
    said = {"model": name, "recipe": "minmax_w8a8", "edits": (), "target": "onnx", "profile": "generic", "seed": 1,
            "key": (name + "0" * 64)[:64], "words": (name,)}
    return Cell(**{**said, **changes})


def row(accuracy: float | None = 90.0, size: int = 1000, of_float: float = 91.0, **changes) -> Row:
    """A done cell of `net`, of a float network with 91 %."""
    said = {"key": "0" * 64, "model": "net", "recipe": "minmax_w8a8", "edits": (), "target": "onnx",
            "profile": "generic", "seed": 1, "status": DONE, "artifact": f"cells/{size}", "measure": "top-1",
            "unit": "%",
            "accuracy": {} if accuracy is None else {"float": of_float, "artifact": accuracy}, "bytes": size,
            "differing": 0, "seconds": 2.0}
    return Row(**{**said, **changes})


def seeds(values: Sequence[float], **changes) -> list[Row]:
    """A row for each value, with seeds from 1."""
    return [row(value, seed=seed, **changes) for seed, value in enumerate(values, start=1)]
