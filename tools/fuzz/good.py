"""Small good files of every kind that a user hands over, and the command that reads each."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from isobit.build import Options, compile_model
from isobit.pipeline.quiet import quiet
from isobit.pipeline.recipe.file import load_recipe
from isobit.pipeline.samples.data import open_pool

SIDE, CLASSES, SAMPLES = 8, 4, 6
NETWORK = '''
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))
'''
SHORT = ("--recipe", "minmax_w8a8", "--set", "images.count=4", "--set", "images.batch_size=2", "--device", "cpu")
BUILD, DRY = (*SHORT, "--target", "reference", "--out", "out"), (*SHORT, "--dry-run", "--out", "out")
SIZES = ("--calib-data", "good.npz")
PICTURES = ("--input-size", str(SIDE), "--set", "images.augment=eval")


class Net(nn.Module):
    """The network of `NETWORK`, on [N, 3, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, 4]."""
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Args:
        victim: the file that is damaged, or a folder of which one file is.
        words: the command line, run in the folder of the files.
        make: writes the victim and what else the command reads into a folder.
        forms: names of the kinds of damage of `damage.FORMS` that fit, beside those of plain bytes.
        may_fail: the command ends with 1 where what it read does not hold.
    """

    victim: str
    words: tuple[str, ...]
    make: Callable[[Path], None]
    forms: tuple[str, ...] = ()
    may_fail: bool = False


def network() -> Net:
    """The same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


def arrays(path: Path) -> None:
    """Samples with labels."""
    draw = np.random.default_rng(0)
    np.savez(path, x=draw.random((SAMPLES, 3, SIDE, SIDE), dtype=np.float32), y=np.arange(SAMPLES) % CLASSES)


def _samples(folder: Path) -> None:
    arrays(folder / "good.npz")


def _state(folder: Path) -> None:
    _samples(folder)
    (folder / "net.py").write_text(NETWORK, encoding="utf-8")
    torch.save(network().state_dict(), folder / "model.pth")


def _module(folder: Path) -> None:
    _samples(folder)
    torch.save(network(), folder / "model.pth")


def _safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    _state(folder)
    save_file(network().state_dict(), folder / "model.safetensors")


def _gzipped(folder: Path) -> None:
    _state(folder)
    data = (folder / "model.pth").read_bytes()
    (folder / "model.pth.gz").write_bytes(gzip.compress(data, mtime=0))


def _exported(folder: Path) -> None:
    _samples(folder)
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network(), (torch.zeros(2, 3, SIDE, SIDE),), dynamic_shapes=batch)
    torch.export.save(program, folder / "model.pt2")


def onnx_model(functions: bool = False) -> onnx.ModelProto:
    """The network as ONNX; with `functions` its activation is a local function that calls another."""
    state = {name: numpy_helper.from_array(value.numpy(), name) for name, value in network().state_dict().items()}
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["a"], name="conv", kernel_shape=[3, 3]),
        helper.make_node("Outer" if functions else "Relu", ["a"], ["b"], "act", domain="own" if functions else ""),
        helper.make_node("GlobalAveragePool", ["b"], ["c"], name="pool"),
        helper.make_node("Flatten", ["c"], ["d"], name="flat", axis=1),
        helper.make_node("Gemm", ["d", "head.weight", "head.bias"], ["y"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes, "small", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])], list(state.values()))
    standard = helper.make_opsetid("", 17)
    opsets = [standard, helper.make_opsetid("own", 1)] if functions else [standard]
    made = [
        helper.make_function("own", name, ["u"], ["v"], [helper.make_node(called, ["u"], ["v"], domain=domain)], opsets)
        for name, called, domain in (("Inner", "Relu", ""), ("Outer", "Inner", "own"))
    ] if functions else []
    return helper.make_model(graph, opset_imports=opsets, functions=made, ir_version=8)


def _many_operators() -> onnx.ModelProto:
    """A network with one operator of each way in which a file states sizes, axes and numbers."""
    draw = np.random.default_rng(0)
    floats = {"w": (4, 3, 3, 3), "t": (4, 4, 2, 2), **dict.fromkeys("sbmv", (4,)), **dict.fromkeys("kg", (4, 4))}
    constants: dict[str, Any] = {
        **{name: draw.random(shape, dtype=np.float32) for name, shape in floats.items()},
        "low": np.float32(0), "high": np.float32(6), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "from": np.array([1, 1]), "to": np.array([5, 5]), "axes": np.array([2, 3]), "parts": np.array([4, 4]),
        "scales": np.array([1, 1, 2, 2], np.float32), "shape": np.array([0, 16, 4]), "last": np.array([0, 2, 1, 3]),
    }
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Conv", ["x", "w"], ["1"], {"pads": [1, 1, 1, 1]}),
        ("BatchNormalization", ["1", "s", "b", "m", "v"], ["2"], {"epsilon": 1e-3}),
        ("Clip", ["2", "low", "high"], ["3"], {}),
        ("MaxPool", ["3"], ["4"], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 0}),
        ("Pad", ["4", "pads"], ["5"], {"mode": "constant"}), ("Slice", ["5", "from", "to", "axes"], ["6"], {}),
        ("ConvTranspose", ["6", "t", "b"], ["7"], {"strides": [2, 2], "output_padding": [0, 0], "group": 1}),
        ("AveragePool", ["7"], ["8"], {"kernel_shape": [2, 2], "strides": [2, 2], "count_include_pad": 1}),
        ("Resize", ["4", "", "scales"], ["9"], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                                "nearest_mode": "floor"}),
        ("GlobalMaxPool", ["9"], ["10"], {}), ("Add", ["8", "10"], ["11"], {}),
        ("Concat", ["8", "11"], ["12"], {"axis": 1}), ("Split", ["12", "parts"], ["13", "14"], {"axis": 1}),
        ("HardSigmoid", ["14"], ["15"], {"alpha": 0.2, "beta": 0.5}),
        ("Mul", ["13", "15"], ["16"], {}), ("Transpose", ["16"], ["17"], {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["17", "shape"], ["18"], {"allowzero": 0}), ("MatMul", ["18", "k"], ["19"], {}),
        ("LayerNormalization", ["19", "s", "b"], ["20"], {"axis": -1, "epsilon": 1e-5}),
        ("Softmax", ["20"], ["21"], {"axis": -1}), ("Gather", ["21", "last"], ["22"], {"axis": 2}),
        ("ReduceMean", ["22"], ["23"], {"axes": [1], "keepdims": 0}),
        ("Gemm", ["23", "g", "b"], ["y"], {"alpha": 0.5, "transB": 1}),
    ]
    nodes = [helper.make_node(op, given, made, f"{op}_{made[0]}", **more) for op, given, made, more in steps]
    graph = helper.make_graph(
        nodes, "many", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _many(folder: Path) -> None:
    onnx.save(_many_operators(), folder / "model.onnx")


def _onnx(folder: Path) -> None:
    onnx.save(onnx_model(), folder / "model.onnx")


def _functions(folder: Path) -> None:
    onnx.save(onnx_model(functions=True), folder / "model.onnx")


def _external(folder: Path) -> None:
    onnx.save(onnx_model(), folder / "model.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)


def _pictures(folder: Path, suffix: str) -> None:
    _exported(folder)
    draw = np.random.default_rng(1)
    for place in range(SAMPLES):
        file = folder / "pictures" / str(place % CLASSES) / f"{place}.{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (10, 12, 3), dtype=np.uint8)).save(file)


def _array(folder: Path) -> None:
    _exported(folder)
    np.save(folder / "good.npy", np.random.default_rng(0).random((SAMPLES, 3, SIDE, SIDE), dtype=np.float32))


def _classes(folder: Path) -> None:
    _pictures(folder, "png")
    (folder / "classes.txt").write_text("0 cat\n1 dog\n2 a bird\n3 fish\n", encoding="utf-8")


def _boxes(folder: Path) -> None:
    _pictures(folder, "png")
    files = sorted(str(path.relative_to(folder / "pictures")) for path in folder.glob("pictures/*/*.png"))
    boxes = [{"id": place, "image_id": place, "category_id": 1 + place % 2, "bbox": [1, 2, 3.5, 4], "iscrowd": 0,
              "area": 14.0} for place in range(len(files))]
    content = {
        "images": [{"id": place, "file_name": name, "width": 12, "height": 10} for place, name in enumerate(files)],
        "annotations": boxes, "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content), encoding="utf-8")


def _recipe(folder: Path) -> None:
    _exported(folder)
    recipe = load_recipe("qdrop_w4a4", ["method.steps=20", "images.count=4", "images.batch_size=2"])
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")


def _study(folder: Path) -> None:
    _state(folder)
    content = {
        "models": [{"file": "model.pth", "arch": "net.py:Net", "calib_data": "good.npz", "mean": [0.5, 0.5, 0.5],
                    "arch_args": {"width": 1}}],
        "recipes": ["minmax_w8a8", {"name": "qdrop_w4a4", "set": ["method.steps=20"], "seeds": [4]}],
        "targets": ["onnx", {"name": "c", "profile": ["generic", "cortex-m4"]}], "seeds": [1, 2],
        "resources": {"cpus": 1, "memory": 2.5, "gpus": 0}, "slurm": {"partition": "short"},
        "best": [{"accuracy": ">= float - 0.5", "minimize": "size"}],
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def _artifact(folder: Path) -> None:
    _samples(folder)
    samples = open_pool(folder / "good.npz", batch_size=2, purpose="calib")
    recipe = load_recipe("minmax_w8a8", ["images.count=4", "images.batch_size=2"])
    with quiet():
        compile_model(network(), recipe, "onnx", samples, None, folder / "artifact", Options())


ARCH = ("--arch", "net.py:Net")
ZIP = ("members", "inside_a_member", "sizes_of_members", "large_member")
KINDS: dict[str, Kind] = {
    "pth": Kind("model.pth", ("model.pth", *ARCH, *SIZES, *DRY), _state, (*ZIP, "pickle", "tensors")),
    "module": Kind("model.pth", ("model.pth", *SIZES, *DRY), _module, (*ZIP, "pickle")),
    "safetensors": Kind("model.safetensors", ("model.safetensors", *ARCH, *SIZES, *DRY), _safetensors, ("header",)),
    "gz": Kind("model.pth.gz", ("model.pth.gz", *ARCH, *SIZES, *DRY), _gzipped, ("gzip",)),
    "pt2": Kind("model.pt2", ("model.pt2", *SIZES, *DRY), _exported, (*ZIP, "json_member", "json_member", "pickle")),
    "onnx": Kind("model.onnx", ("model.onnx", *DRY), _onnx, ("protobuf",) * 6),
    "onnx-plain": Kind("model.onnx", ("model.onnx", "--no-simplify", *DRY), _onnx, ("protobuf",) * 6),
    "onnx-many": Kind("model.onnx", ("model.onnx", "--no-simplify", *DRY), _many, ("protobuf",) * 9),
    "onnx-external": Kind("model.onnx", ("model.onnx", "--no-simplify", *DRY), _external, ("external",) * 6),
    "onnx-functions": Kind("model.onnx", ("model.onnx", "--no-simplify", *DRY), _functions, ("functions",) * 6),
    "npz": Kind("good.npz", ("model.pt2", "--calib-data", "good.npz", *BUILD), _exported, (*ZIP, *("arrays",) * 5)),
    "npy": Kind("good.npy", ("model.pt2", "--calib-data", "good.npy", *BUILD), _array, ("array",)),
    "classes": Kind("classes.txt", ("model.pt2", "--calib-data", "pictures", *PICTURES, "--classes", "classes.txt",
                                    *BUILD), _classes),
    "jpeg": Kind("pictures", ("model.pt2", "--calib-data", "pictures", *PICTURES, *BUILD),
                 lambda folder: _pictures(folder, "jpg"), ("picture",) * 3),
    "png": Kind("pictures", ("model.pt2", "--calib-data", "pictures", *PICTURES, *BUILD),
                lambda folder: _pictures(folder, "png"), ("picture",) * 3),
    "coco": Kind("boxes.json", ("model.pt2", "--calib-data", "boxes.json", "--images", "pictures", *PICTURES, *BUILD),
                 _boxes, ("json",) * 5),
    "recipe": Kind("recipe.yaml", ("model.pt2", *SIZES, "--recipe", "recipe.yaml", "--dry-run", "--out", "out"),
                   _recipe, ("yaml", "yaml_tree", "yaml_tree")),
    "study": Kind("study.yaml", ("sweep", "study.yaml", "--list", "--out", "out"), _study,
                  ("yaml", "yaml_tree", "yaml_tree")),
    "artifact": Kind("artifact", ("verify", "artifact"), _artifact, ("by_suffix", "resealed", "resealed"),
                     may_fail=True),
    "pages": Kind("artifact", ("compare", "artifact", "artifact", "--out", "out.html"), _artifact,
                  ("by_suffix", "resealed", "resealed")),
}
