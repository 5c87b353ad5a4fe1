"""Graphs as they come from a file without module classes: of a captured network, in place."""

from __future__ import annotations

import onnx
from torch import fx

from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import module_path, op_name


def nameless(graph: fx.GraphModule) -> fx.GraphModule:
    """No operator says where it stands, and no parameter is called after its module."""
    for node in graph.graph.nodes:
        node.meta.pop("nn_module_stack", None)
    for number, node in enumerate(list(graph.graph.find_nodes(op="get_attr"))):
        owner, _, name = str(node.target).rpartition(".")
        setattr(graph, f"initializer_{number}", getattr(graph.get_submodule(owner), name))
        node.target = f"initializer_{number}"
    graph.recompile()
    return graph


def named(graph: fx.GraphModule) -> fx.GraphModule:
    """A module for each operator, called after where it stood (`layer1.0.conv1`, `layer1.0.add`), all of one class."""
    for node in graph.graph.nodes:
        if node.op == "call_function" and "nn_module_stack" in node.meta:
            path = module_path(node)
            leaf = path if op_name(node) in {*WEIGHTED, "batch_norm"} else f"{path}.{node.name}".lstrip(".")
            node.meta["nn_module_stack"] = {"": ("", "file.Network"), leaf: (leaf, "file.Node")}
    return graph


def without_names(file: onnx.ModelProto) -> onnx.ModelProto:
    """The file with nodes n0, n1, ..., values v0, v1, ... and nothing that an exporter wrote beside them, in place."""
    kept = {port.name for port in [*file.graph.input, *file.graph.output]}
    names: dict[str, str] = {"": ""}

    def renamed(name: str) -> str:
        return name if name in kept else names.setdefault(name, f"v{len(names)}")

    for number, node in enumerate(file.graph.node):
        node.name = f"n{number}"
        node.input[:], node.output[:] = map(renamed, node.input), map(renamed, node.output)
        del node.metadata_props[:]
    for tensor in file.graph.initializer:
        tensor.name = renamed(tensor.name)
    del file.graph.value_info[:]
    return file
