"""Model files that try to run code or to take all memory when they are read; each is a builder from a good file."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

MARKER = "evil_was_here"  # what the payloads create in the current folder
CODE = f"__import__('os').mkdir('{MARKER}')"
MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"


class Evil:
    """Unpickling it makes the folder `MARKER`."""

    def __reduce__(self):
        return (__import__("os").mkdir, (MARKER,))


class Small(nn.Module):
    """A layer of each kind of value that an exported program describes: sizes, several outputs, a constant."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        left, right = torch.relu_(self.norm(self.conv(x))).chunk(2, 1)
        x = torch.cat([left, right], 1).mean((2, 3))
        return self.head(x.view(x.shape[0], -1)) + torch.tensor([1.0, 2.0])


def export_small(path: Path) -> Path:
    """Writes a good `.pt2`."""
    torch.manual_seed(0)
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Small().eval(), (torch.randn(2, 3, 6, 6),), dynamic_shapes=shapes)
    torch.export.save(program, path)
    return path


def members(path: Path) -> dict[str, bytes]:
    """The members of an archive by their names below its folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(content: dict[str, bytes], path: Path, folder: str = "small/") -> Path:
    """Writes an archive from its members."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(folder + name, data)
    return path


def edited(content: dict[str, bytes], edit: Callable[[Any], None], member: str = MODEL) -> dict[str, bytes]:
    """The members with one JSON member changed in place by `edit`."""
    parsed = json.loads(content[member])
    edit(parsed)
    return {**content, member: json.dumps(parsed).encode()}


def renamed(content: dict[str, bytes], old: str, new: str) -> dict[str, bytes]:
    """The members with a name changed wherever the description or the weights have it."""
    def change(value: Any) -> Any:
        if isinstance(value, dict):
            return {(new if key == old else key): change(each) for key, each in value.items()}
        if isinstance(value, list):
            return [change(each) for each in value]
        return new if value == old else value

    files = [name for name in content if name.endswith(".json")]
    return {**content, **{name: json.dumps(change(json.loads(content[name]))).encode() for name in files}}


def pickled(value: Any) -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def graph(program: Any) -> Any:
    """The graph in a description."""
    return program["graph_module"]["graph"]


def _expression(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        graph(program)["tensor_values"]["x"]["sizes"][0]["as_expr"]["expr_str"] = text

    return edit


def _node(**fields: Any) -> Callable[[Any], None]:
    return lambda program: graph(program)["nodes"][1].update(fields)


def _tree(text: str) -> Callable[[Any], None]:
    def edit(program: Any) -> None:
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = text

    return edit


def _from_file(program: Any) -> None:
    arguments = [{"name": "filename", "arg": {"as_string": "/etc/hostname"}, "kind": 1}]
    graph(program)["nodes"][1].update(target="torch.ops.aten.from_file.default", inputs=arguments)


def _enum_tree() -> str:
    context = json.dumps([{"__enum__": True, "fqn": "evil_module:X", "name": "Y"}])
    return json.dumps([1, {"type": "builtins.dict", "context": context, "children_spec": []}])


def _default_tree() -> str:
    context = {"default_factory_module": "evil_module", "default_factory_name": "x", "dict_context": []}
    return json.dumps([1, {"type": "collections.defaultdict", "context": context, "children_spec": []}])


def _meta(**fields: Any) -> Callable[[Any], None]:
    return lambda table: table["config"]["conv.weight"]["tensor_meta"].update(fields)


PROGRAMS: dict[str, Callable[[dict[str, bytes]], dict[str, bytes]]] = {
    "expression": lambda m: edited(m, _expression(CODE)),
    "expression_attribute": lambda m: edited(m, _expression("s0.__class__")),
    "expression_tower": lambda m: edited(m, _expression("9**9**9")),
    "expression_symbol": lambda m: edited(m, _expression(f"Symbol({CODE!r})")),
    "expression_lambda": lambda m: edited(m, _expression("Lambda(s0, s0)")),
    "hint": lambda m: edited(m, lambda p: graph(p)["tensor_values"]["x"]["sizes"][0]["as_expr"].update(
        hint={"as_int": CODE})),
    "name_of_value": lambda m: renamed(m, "relu_", f"relu_=0\n    {CODE}\n    x"),
    "name_of_input": lambda m: renamed(m, "x", f"x={CODE}"),
    "name_of_torch": lambda m: renamed(m, "x", "torch"),
    "name_of_parameter": lambda m: renamed(m, "conv.weight", f'conv.w"), {CODE}, getattr(self, "conv'),
    "name_of_slot": lambda m: renamed(m, "conv.weight", "conv.__class__"),
    "forward_names": lambda m: edited(m, lambda p: p["graph_module"]["module_call_graph"][0]["signature"].update(
        forward_arg_names=[f"x={CODE}"])),
    "operator_from_file": lambda m: edited(m, _from_file),
    "operator_save": lambda m: edited(m, _node(target="torch.ops.aten.save.default")),
    "operator_python": lambda m: edited(m, _node(target="torch.os.system")),
    "operator_builtin": lambda m: edited(m, _node(target="_operator.methodcaller")),
    "operator_power": lambda m: edited(m, _node(target="_operator.pow")),
    "operator_higher": lambda m: edited(m, _node(target="torch.ops.higher_order.cond")),
    "operator_custom": lambda m: edited(m, _node(target="torch.ops.mylib.evil.default")),
    "operator_extension": lambda m: edited(m, _node(target="#evil:x")),
    "argument_operator": lambda m: edited(m, lambda p: graph(p)["nodes"][1]["inputs"][0].update(
        arg={"as_operator": "torch.os.system"})),
    "argument_object": lambda m: edited(m, lambda p: graph(p)["nodes"][1]["inputs"][0].update(
        arg={"as_custom_obj": {"name": "a", "class_fqn": "b"}})),
    "tree_enum": lambda m: edited(m, _tree(_enum_tree())),
    "tree_default": lambda m: edited(m, _tree(_default_tree())),
    "guard": lambda m: edited(m, lambda p: p.update(guards_code=[CODE])),
    "symbol": lambda m: edited(m, lambda p: p["range_constraints"].update(
        {"u99999999999": {"min_val": 0, "max_val": None}})),
    "verifier": lambda m: edited(m, lambda p: p.update(verifiers=["EVIL"])),
    "sample_pickle": lambda m: {**m, "data/sample_inputs/model.pt": pickled(Evil())},
    "weight_pickle": lambda m: {
        **edited(m, lambda t: t["config"]["conv.weight"].update(use_pickle=True), WEIGHTS),
        "data/weights/weight_0": pickled(Evil()),
    },
    "constant_pickle": lambda m: {**m, "data/constants/opaque_obj_0": pickle.dumps(Evil())},
    "weights_of_old_layout": lambda m: {**m, "data/weights/model.pt": pickled(Evil())},
    "weight_too_long": lambda m: edited(m, _meta(sizes=[{"as_int": 10**6}] * 4), WEIGHTS),
    "weight_repeated": lambda m: edited(
        m, _meta(sizes=[{"as_int": 10**4}] * 4, strides=[{"as_int": 0}] * 4), WEIGHTS),
    "weight_offset": lambda m: edited(m, _meta(storage_offset={"as_int": -8}), WEIGHTS),
    "weight_of_nothing": lambda m: {
        **edited(m, _meta(sizes=[{"as_int": 10**4}] * 4), WEIGHTS), "data/weights/weight_0": b""},
    "input_too_large": lambda m: edited(m, lambda p: graph(p)["tensor_values"]["x"]["sizes"].__setitem__(
        3, {"as_int": 10**12})),
    "two_programs": lambda m: {**m, "models/other.json": m[MODEL]},
    "nesting": lambda m: {**m, MODEL: b"[" * 100_000},
    "not_json": lambda m: {**m, MODEL: b"{"},
}  # fmt: skip


def string_places(content: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every string in parsed JSON."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in list(items):
        if isinstance(value, str):
            yield content, key
        else:
            yield from string_places(value)
