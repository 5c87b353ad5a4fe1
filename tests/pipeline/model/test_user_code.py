"""The user's files: a network's own `pipeline`, `passes`, `calib` and `compile` are its own, at any time."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from isobit.pipeline.errors import InputError
from isobit.pipeline.model import user_code
from isobit.pipeline.model.modelfile import load_model
from isobit.pipeline.model.network import build_arch

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
    monkeypatch.setattr(user_code, "_folders", [])
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = dict(sys.modules)
    yield tmp_path / "mine"
    for name, module in list(sys.modules.items()):
        if before.get(name) is not module and str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def test_both_have_their_own(folder):
    """In a process of its own, with the checkout first on the path as `PYTHONPATH` puts it."""
    program = (
        "import sys, torch; from isobit.pipeline.model.network import build_arch\n"
        "before = list(sys.path)\n"
        "net = build_arch('mine/train.py:net', {}); x = torch.ones(1, 3)\n"
        "assert sys.path == before and net.layer.weight.shape == (3, 3)\n"
        "assert torch.equal(net(x), net.layer(x) * 2)\n"  # imports when it is called
        "from isobit.pipeline.graph import norms; import pipeline\n"
        "print(norms.__file__, pipeline.__file__, sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder.parent, capture_output=True, text=True,
                          env={"PYTHONPATH": str(user_code.OUR_ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [Path(line) for line in done.stdout.split()] == [
        user_code.OUR_ROOT / "pipeline" / "graph" / "norms.py", folder / "pipeline" / "__init__.py",
    ]


def test_the_command_of_a_checkout_leaves_the_users_names_alone(folder):
    (folder / "broken.py").write_text("import pipeline\nraise SystemExit(pipeline.__file__)\n")
    torch.save(torch.nn.Linear(1, 1).state_dict(), folder / "model.pth")
    np.savez(folder / "calib.npz", x=np.zeros((4, 1), np.float32))
    command = [sys.executable, str(user_code.OUR_ROOT / "compile.py"), "model.pth", "--arch", "broken.py:net",
               "--recipe", "minmax_w8a8", "--target", "reference", "--calib-data", "calib.npz", "--out", "out"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"COLUMNS": "1000"})
    assert str(folder / "pipeline" / "__init__.py") in done.stderr, done.stderr


def test_two_users_have_their_own(folder):
    other = folder.parent / "other"
    (other / "pipeline").mkdir(parents=True)
    (other / "pipeline" / "__init__.py").write_text("WIDTH = 5\n")
    (other / "net.py").write_text(
        "from torch import nn\n\n\ndef net():\n    from pipeline import WIDTH\n    return nn.Linear(WIDTH, 1)\n"
    )
    first = build_arch(f"{folder / 'train.py'}:net", {})
    assert first(torch.ones(1, 3)).shape == (1, 3)
    assert build_arch(f"{other / 'net.py'}:net", {}).weight.shape == (1, 5)
    assert build_arch(f"{folder / 'train.py'}:net", {})(torch.ones(1, 3)).shape == (1, 3)


def test_a_pickle_of_the_users_package(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "pipeline" / "nets.py").write_text("from torch import nn\n\n\nclass Net(nn.Linear):\n    pass\n")
    program = "import torch; from pipeline.nets import Net; torch.save(Net(2, 3), 'whole.pth')"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=folder, env={"PYTHONPATH": str(folder)})
    for arch in (None, "train.py:net"):
        loaded = load_model("whole.pth", arch, trust_pickle=True)
        assert type(loaded.module).__module__ == "pipeline.nets"
        assert loaded.module(torch.zeros(1, 2)).shape == (1, 3)


@pytest.mark.parametrize("name", ["isobit.py", "isobit/__init__.py"])
def test_a_module_of_the_packages_own_name_is_refused(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("")
    with pytest.raises(InputError, match="'isobit' has the name of this package") as caught:
        build_arch(f"{folder / 'train.py'}:net", {})
    assert caught.value.where == str(folder / name) and "Rename" in caught.value.hint


def test_a_file_of_our_own_tests_means_our_modules():
    before = list(sys.path)
    with user_code.importable(user_code.OUR_ROOT / "tests"):
        from isobit import backends

        assert sys.path == [*before, str(user_code.OUR_ROOT / "tests")]
    assert backends.__file__ == str(user_code.OUR_ROOT / "backends" / "__init__.py") and sys.path == before


def test_a_file_that_is_not_of_python_is_named(folder):
    with pytest.raises(InputError, match="not a file of Python") as error:
        user_code.module_of_file(folder / "pipeline" / "width.txt")
    assert ".py" in error.value.allowed


@pytest.mark.parametrize("line", [
    "torchvision.models.resnet18(weights='IMAGENET1K_V1')", "urllib.request.urlopen('http://127.0.0.1:9/')",
])
def test_code_that_builds_a_network_downloads_nothing(tmp_path, monkeypatch, line):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    (tmp_path / "net.py").write_text(
        f"import urllib.request\nimport torchvision\n\n\ndef make():\n    return {line}\n"
    )
    before = socket.socket.connect, socket.getaddrinfo
    with pytest.raises(InputError, match="wants to download") as error:
        build_arch(f"{tmp_path / 'net.py'}:make", {})
    assert error.value.field == "arch" and "pretrained=False" in error.value.hint
    assert (socket.socket.connect, socket.getaddrinfo) == before


def test_other_threads_may_connect_meanwhile():
    found = []
    with user_code.no_downloads("net"):
        thread = threading.Thread(target=lambda: found.append(socket.getaddrinfo("127.0.0.1", 9)))
        thread.start()
        thread.join()
    assert found[0]


def test_no_line_of_ours_is_told_as_the_place():
    with pytest.raises(InputError, match="fails: ValueError") as error, user_code.cause_shown("`decoder=f`", "fails"):
        float("word")
    assert error.value.where == "`decoder=f`"
