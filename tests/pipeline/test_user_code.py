"""The user's files beside ours: modules of our names are theirs in their files and ours in ours, at any time."""

import builtins
import importlib
import subprocess
import sys

import pytest
import torch

import pipeline.user_code as user_code
from pipeline.modelfile import load_model
from pipeline.network import build_arch

FILE = """\
import importlib
from pathlib import Path

from torch import nn

import pipeline
import pipeline.blocks as blocks
from pipeline import blocks as same
from pipeline.blocks import WIDTH
from passes import make
import calib
from compile import run


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        assert same is blocks and pipeline.MINE and calib.MINE and run() == "theirs"
        self.layer = make(WIDTH)

    def forward(self, x):
        import neighbour
        from pipeline.late import scale
        assert importlib.import_module("pipeline.late").scale is scale
        return self.layer(x) * scale() * neighbour.ONE


def net():
    return Net()
"""
PACKAGE = {
    "pipeline/__init__.py": "MINE = True\n",
    "pipeline/blocks.py": "from pathlib import Path\nWIDTH = int(Path(__file__).with_name('width.txt').read_text())\n",
    "pipeline/width.txt": "3",
    "pipeline/late.py": "from .later import two\n\n\n"
    "def scale():\n    from pipeline import later\n    assert later.two is two\n    return two()\n",
    "pipeline/later.py": "def two():\n    return 2\n",
    "passes.py": "from torch import nn\n\n\ndef make(width):\n    return nn.Linear(width, width)\n",
    "calib/part.py": "",
    "calib/__init__.py": "from calib import part\nMINE = True\n",
    "compile.py": "def run():\n    return 'theirs'\n",
    "neighbour.py": "ONE = 1\n",
    "train.py": FILE,
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The user's folder, and Python's ways to import as they were before."""
    for name, text in PACKAGE.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    monkeypatch.setattr(builtins, "__import__", builtins.__import__)
    monkeypatch.setattr(importlib, "import_module", importlib.import_module)
    monkeypatch.setattr(user_code, "_folders", {})
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    yield tmp_path / "mine"
    for name in ("neighbour", "_arch_train"):
        sys.modules.pop(name, None)


def test_both_have_their_own(folder):
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in user_code.OUR_NAMES}
    net = build_arch(f"{folder / 'train.py'}:net", {})
    assert net.layer.weight.shape == (3, 3)
    x = torch.ones(1, 3)
    assert torch.equal(net(x), net.layer(x) * 2)  # imports when it is called
    after = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in user_code.OUR_NAMES}
    assert after == before
    import pipeline.norms as ours  # ours goes on, parts that nobody imported yet as well

    assert ours.__file__.startswith(str(user_code.OUR_ROOT))
    assert not hasattr(sys.modules["pipeline"], "MINE")
    assert importlib.import_module("pipeline.grid").__file__.startswith(str(user_code.OUR_ROOT))


def test_two_users_have_their_own(folder):
    other = folder.parent / "other"
    (other / "pipeline").mkdir(parents=True)
    (other / "pipeline" / "__init__.py").write_text("WIDTH = 5\n")
    (other / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    from pipeline import WIDTH\n    return nn.Linear(WIDTH, 1)\n"
    )
    first = build_arch(f"{folder / 'train.py'}:net", {})
    assert build_arch(f"{other / 'net.py'}:net", {}).weight.shape == (1, 5)
    assert first(torch.ones(1, 3)).shape == (1, 3)
    sys.modules.pop("_arch_net", None)


def test_a_pickle_of_the_users_package(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "pipeline" / "nets.py").write_text("from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n")
    program = "import torch; from pipeline.nets import Net; torch.save(Net(2, 3), 'whole.pth')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, env={"PYTHONPATH": str(folder)})
    for arch in (None, "train.py:net"):
        loaded = load_model("whole.pth", arch, trust_pickle=True)
        assert type(loaded.module).__module__ == "pipeline.nets"
        assert loaded.module(torch.zeros(1, 2)).shape == (1, 3)


def test_a_folder_without_such_names_changes_nothing(folder):
    for name in ("pipeline", "calib"):
        (folder / name).rename(folder / f"my_{name}")
    (folder / "passes.py").unlink()
    (folder / "compile.py").unlink()
    (folder / "plain.py").write_text("from torch import nn\nfrom pipeline.grid import Grid\n\n\ndef net():\n"
                                     "    assert Grid\n    return nn.Linear(1, 1)\n")  # fmt: skip
    plain = builtins.__import__
    build_arch(f"{folder / 'plain.py'}:net", {})
    assert builtins.__import__ is plain
    sys.modules.pop("_arch_plain", None)


def test_a_file_of_our_own_tests_means_our_modules():
    with user_code.importable(user_code.OUR_ROOT / "tests"):
        import backends

    assert backends.__file__ == str(user_code.OUR_ROOT / "backends" / "__init__.py")
    assert user_code.OUR_ROOT / "tests" not in user_code._folders
