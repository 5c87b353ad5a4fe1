"""What a captured graph takes and gives: which outputs are kept, and that all of it is [N, ...] with a free N."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import fx

from isobit.pipeline.errors import CaptureError
from isobit.pipeline.graph.nodes import is_constant, tensor_dtype, tensor_shape, where
from isobit.pipeline.graph.ports import input_names, input_nodes, name_ports, output_names, output_node, output_nodes
from isobit.pipeline.samples.network_inputs import Inputs, shapes, tensors

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def keep_outputs(graph: fx.GraphModule, names: Collection[str]) -> None:
    """Leave out every output but those called `names`, in place; all are kept where there are none.

    Raises:
        CaptureError: the graph has no such output.
    """
    if not names:
        return
    known = dict(zip(output_names(graph), output_nodes(graph), strict=True))
    wrong = next((name for name in names if name not in known), None)
    if wrong is not None:
        raise CaptureError(f"the model has no output '{wrong}'", allowed=", ".join(known), field="outputs")
    kept = {name: node for name, node in known.items() if name in names}
    nodes = tuple(kept.values())
    output_node(graph).args = (nodes[0] if len(nodes) == 1 else nodes,)
    name_ports(graph, outputs=tuple(kept))
    for node in reversed(list(graph.graph.nodes)):  # a random operator of what is left out is no longer of interest
        if not node.users and node.op not in ("placeholder", "output") and not _writes(node):
            graph.graph.erase_node(node)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def check_inputs(graph: fx.GraphModule, example: Inputs) -> None:
    """Refuse a graph whose inputs are not such as `example` has.

    Raises:
        CaptureError: another number of inputs, another type or shape, a batch that is fixed.
    """
    nodes, names, given = input_nodes(graph), input_names(graph), tensors(example)
    if len(nodes) != len(given):
        raise CaptureError(
            f"the model takes {len(nodes)} inputs ({', '.join(names)}), the data has {len(given)}", field="calibration",
            hint="give data of every input",
        )
    for node, name, tensor in zip(nodes, names, given, strict=True):
        _check_input(node, name)
        if tensor_dtype(node) != tensor.dtype:
            raise CaptureError(
                f"input '{name}' of the model is {tensor_dtype(node)}, the data is {tensor.dtype}", where=where(node),
                hint="give data of the type that the model takes",
            )
    wanted = tuple(tensor_shape(node)[1:] for node in nodes)
    if wanted != shapes(example):
        raise CaptureError(
            f"the model was exported for inputs of shape {shapes_text(wanted)}, the data has "
            f"{shapes_text(shapes(example))}", field="input_size",
            hint="give data of the model's input size (`input_size`)"
        )


def _check_input(node: fx.Node, name: str) -> None:
    shape, dtype = tensor_shape(node), tensor_dtype(node)
    if not isinstance(node.meta.get("val"), torch.Tensor) or dtype not in (torch.float32, *INTEGERS):
        kind = dtype if isinstance(node.meta.get("val"), torch.Tensor) else type(node.meta.get("val")).__name__
        raise CaptureError(
            f"the program takes {kind}", where=f"input '{name}'", allowed="torch.float32, or integers"
        )
    if not shape or shape[0] is not None:
        raise CaptureError(
            f"the program was exported for a fixed batch of {shape[0] if shape else '?'}", where=f"input '{name}'",
            hint="export it with dynamic_shapes=({0: torch.export.Dim('batch')},)",
        )
    if None in shape[1:]:
        raise CaptureError("only the batch dimension may be dynamic", where=f"input shape {shape_text(shape)}")


def check_outputs(graph: fx.GraphModule) -> None:
    """Refuse outputs that are no [N, ...] of floats or integers, that no input has a part in, or that hold no numbers.

    Raises:
        CaptureError: names the output and where it is computed.
    """
    reached: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder" or reached.intersection(node.all_input_nodes):
            reached.add(node)
    for name, node in zip(output_names(graph), output_nodes(graph), strict=True):
        shape, dtype = tensor_shape(node), tensor_dtype(node)
        if is_constant(node) or node not in reached:
            raise CaptureError(
                f"output '{name}' depends on no input", where=where(node), field="outputs",
                hint="read it from the model's parameters, and keep the other outputs alone (`outputs`)",
            )
        if not shape or shape[0] is not None or None in shape[1:] or not _is_number(dtype):
            raise CaptureError(
                f"output '{name}' of the model is a tensor of shape {shape_text(shape)} and type {dtype}",
                where=where(node), allowed="floats or integers [N, ...], the free batch N first", field="outputs",
                hint="return it in that form, or keep the other outputs alone (`outputs`)",
            )
        if 0 in shape:
            raise CaptureError(
                f"output '{name}' of the model holds no numbers: its shape is {shape_text(shape)}", where=where(node),
                allowed="sizes of 1 or more", field="outputs",
                hint="correct the sizes that it is cut to, or keep the other outputs alone (`outputs`)",
            )


def _is_number(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point or dtype in INTEGERS


def shape_text(shape: Sequence[int | None]) -> str:
    """`[N, 3, 32, 32]`."""
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"


def shapes_text(all_shapes: Sequence[Sequence[int | None]]) -> str:
    """`[3, 32, 32]`, one after the other of several."""
    return ", ".join(shape_text(shape) for shape in all_shapes)
