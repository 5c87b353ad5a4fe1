"""Plain functions on `fx.GraphModule`: names, bound arguments, origin, insertion, sub-graphs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode

from isobit.pipeline.graph.ports import input_nodes
from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.quant.quantizer import BiasQuantizer, Quantizer
from isobit.pipeline.shapes import known_sizes

# The batch whose sizes `meta["example"]` holds; torch.export would take 0 and 1 for fixed sizes.
EXAMPLE_BATCH = 2
ORIGIN_KEYS = ("nn_module_stack", "stack_trace", "source_fn_stack", "file_node", "file_node_name", "unit")


_FRAME = re.compile(r'File "(.+?)", line (\d+)')
# Code that no user wrote: torch's, here or where an exported program was made; ours; and what torch generates.
_FOREIGN = tuple(f"{path}{os.sep}" for path in (Path(torch.__file__).parent, Path(__file__).parents[1]))
_FOREIGN_ANYWHERE = re.compile(r"^<|[/\\](site|dist)-packages[/\\]torch[/\\]")

# Takes one tensor of those that an operator returns.
TUPLE_ENTRY = "python_getitem"
# `reshape` is `view` that also takes non-contiguous tensors: one name for both.
_ALIASES = {"reshape": "view"}


def op_name(node: fx.Node) -> str:
    """Canonical operator name of a call: `conv2d` for aten.conv2d.default; empty for other nodes.

    A call in a form that integer kernels do not have gets a qualified name, so that no rule takes it by mistake:
    `add_constant` (an operand is a number, or has one for each channel), `add_parameter` (one that differs within
    channels), `mean_over_dims` (not the global average), `pad_reflect`,
    `matmul_of_parameter`, `conv2d_dynamic` (weight or bias is computed), `upsample_nearest2d_uneven` (pixels are not
    repeated equally often), `repeat_interleave_self_Tensor` (an overload that no row of `MOVES` names),
    `expand_of_parameter` (a class token, as often as there are samples), `python_mul` (of sizes, not of tensors).
    """
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:  # arithmetic on sizes (operator.mul): never the operator of tensors that is called the same
        return f"python_{getattr(node.target, '__name__', node.target)}"
    name = str(packet.__name__)
    name = _ALIASES.get(name, name)
    qualify = _QUALIFIERS.get(name)
    name += qualify(node) if qualify else ""
    if name in MOVES and isinstance(node.args[0], fx.Node) and is_constant(node.args[0]):
        return f"{name}_of_parameter"
    other = name in MOVES and node.target not in MOVES[name].overloads
    return f"{name}_{overload_of(node)._overloadname}" if other else name


def _operands(node: fx.Node) -> str:
    scaled = (node.args[2] if len(node.args) > 2 else node.kwargs.get("alpha", 1)) != 1
    constants = [arg for arg in node.args[:2] if not isinstance(arg, fx.Node) or is_constant(arg)]
    if scaled or not constants:
        return "_scaled" if scaled else ""
    rank = len(tensor_shape(node))
    shapes = [tensor_shape(constant) for constant in constants if isinstance(constant, fx.Node)]
    return "_constant" if all(differs_by_channel(shape, rank) for shape in shapes) else "_parameter"


def _second_operand(node: fx.Node) -> str:
    """`_operands` where the second is the constant, which may not be exchanged with the first."""
    other, kind = node.args[1], _operands(node)
    return "" if isinstance(other, fx.Node) and not is_constant(other) and kind != "_scaled" else kind


def _quotient(node: fx.Node) -> str:
    return "_rounded" if node.kwargs.get("rounding_mode") is not None else _second_operand(node)


def _power(node: fx.Node) -> str:
    base, exponent = node.args[:2]
    if isinstance(base, fx.Node) and isinstance(exponent, fx.Node):
        return "_of_tensors"
    return "" if isinstance(base, fx.Node) else "_of_number"


def _mean(node: fx.Node) -> str:
    args = bound_args(node)
    rank = len(tensor_shape(source_of(node))) or 4
    dims = sorted(dim % rank for dim in args.get("dim") or ())
    return "" if rank == 4 and dims == [2, 3] and args.get("keepdim") else "_over_dims"


def _pad(node: fx.Node) -> str:
    args = bound_args(node)
    if args["mode"] != "constant":
        return f"_{args['mode']}"
    return "" if not args["value"] else "_with_value"


def _weighted(node: fx.Node) -> str:
    args = bound_args(node)
    computed = not is_constant(args["weight"]) or (args["bias"] is not None and not is_constant(args["bias"]))
    return "_dynamic" if computed else ""


def _product(node: fx.Node) -> str:
    sources = node.all_input_nodes
    if any(map(is_constant, sources)):
        return "_of_parameter"
    return "_of_vector" if any(len(tensor_shape(source)) < 2 for source in sources) else ""


def _resized(node: fx.Node) -> str:
    sizes = zip(tensor_shape(source_of(node))[2:], tensor_shape(node)[2:], strict=True)
    return "" if all(old and new and new % old == 0 for old, new in sizes) else "_uneven"


_QUALIFIERS = {
    "add": _operands, "mul": _operands, "mean": _mean, "pad": _pad, "conv2d": _weighted, "linear": _weighted,
    "upsample_nearest2d": _resized, "sub": _second_operand, "rsub": _second_operand, "div": _quotient,
    "pow": _power, "matmul": _product,
}


def computes_size(node: fx.Node) -> bool:
    """The value is a number that follows from the size of the batch, not a tensor."""
    name = op_name(node)
    return name.startswith("sym_") or (name.startswith("python_") and name != TUPLE_ENTRY)


def pair(value: Any) -> tuple[int, int]:
    """Both entries of an ATen int[2] argument, which may hold one."""
    entries = [value] if isinstance(value, int) else list(value)
    return (entries[0], entries[-1]) if entries else (0, 0)


def overload_of(node: fx.Node) -> OpOverload:
    """The ATen operator, with its overload, that `node` calls; raises TypeError where it calls something else."""
    if not isinstance(node.target, OpOverload):
        raise TypeError(f"{where(node)} calls {node.target}, not an ATen operator")
    return node.target


def source_of(node: fx.Node, position: int = 0) -> fx.Node:
    """The node whose value is argument `position` of `node`; raises TypeError where it is a number or a list."""
    source = node.args[position]
    if not isinstance(source, fx.Node):
        raise TypeError(f"argument {position} of {where(node)} is {source!r}, not the value of a node")
    return source


def bound_args(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen call by the schema's names, defaults filled in."""
    schema = overload_of(node)._schema
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set one argument of an ATen call by its schema name, positional or keyword as it stands."""
    names = [argument.name for argument in overload_of(node)._schema.arguments]
    position = names.index(name)
    if position < len(node.args):
        node.update_arg(position, value)
    else:
        node.update_kwarg(name, value)


def module_path(node: fx.Node) -> str:
    """Path of the innermost module that ran this node (`layer1.0.conv1`), or the empty string."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(next(reversed(stack.values()))[0]) if stack else ""


def module_stack(node: fx.Node) -> list[tuple[str, str]]:
    """(path, class name) of every module around this node, outermost first."""
    stack = node.meta.get("nn_module_stack") or {}
    named = []
    for path, kind in stack.values():
        named.append((str(path), kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"))
    return named


def source_line(node: fx.Node) -> str:
    """Where the user finds what made this node: its file's node, `file.py:58` of the user's code, or nothing.

    torch's own layers are no user's code, and neither is what reads a file.
    """
    if "file_node" in node.meta:
        return node.meta["file_node"]
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [file for file in frames if not file[0].startswith(_FOREIGN) and not _FOREIGN_ANYWHERE.search(file[0])]
    return f"{PureWindowsPath(own[-1][0]).name}:{own[-1][1]}" if own else ""  # takes both kinds of separators


def where(node: fx.Node) -> str:
    """Node, module path and source line in one phrase, for errors and tables."""
    details = ", ".join(part for part in (module_path(node), source_line(node)) if part)
    return f"node {node.name}" + (f" ({details})" if details else "")


def tensor_shape(node: fx.Node) -> tuple[int | None, ...]:
    """Shape of the node's value, None where it varies with the batch; () where it is not a tensor."""
    if "shape" in node.meta:
        return node.meta["shape"]
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple(size if isinstance(size, int) else None for size in value.shape)


def tensor_dtype(node: fx.Node) -> torch.dtype:
    """Element type of the node's value; float32 where nobody recorded one."""
    if "dtype" in node.meta:
        return node.meta["dtype"]
    return getattr(node.meta.get("val"), "dtype", torch.float32)


def takes_one_float(graph: fx.GraphModule) -> bool:
    """The network has one input, and that is no integer: an image, features, sound."""
    return [tensor_dtype(node).is_floating_point for node in input_nodes(graph)] == [True]


def differs_by_channel(shape: Sequence[int | None], rank: int) -> bool:
    """A constant of `shape` that broadcasts against a tensor of `rank` differs along axis 1, its channels, at most."""
    axes = (*[1] * (rank - len(shape)), *shape)
    return all(size == 1 for axis, size in enumerate(axes) if axis != 1)


def get_attribute(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The tensor of a `get_attr` node."""
    owner, _, name = str(node.target).rpartition(".")
    return getattr(graph.get_submodule(owner), name)


def set_attribute(graph: fx.GraphModule, target: str, value: torch.Tensor) -> None:
    """Store `value` as parameter `target` of the graph, making sub-modules as needed."""
    owner, _, name = target.rpartition(".")
    module: torch.nn.Module = graph
    for part in owner.split(".") if owner else ():
        if not hasattr(module, part):
            module.add_module(part, torch.nn.Module())
        module = getattr(module, part)
    setattr(module, name, torch.nn.Parameter(value, requires_grad=False))


def copy_origin(node: fx.Node, origin: fx.Node) -> None:
    """Give an inserted node the module path, source line and unit of the node that caused it."""
    for key in ORIGIN_KEYS:
        if key in origin.meta:
            node.meta.setdefault(key, origin.meta[key])


def insert_call(
    graph: fx.GraphModule, origin: fx.Node, target: Any, args: Sequence[Any], *, after: fx.Node | None = None,
    name: str | None = None,
) -> fx.Node:
    """Add a function call that follows `after` (default: before `origin`) that carries `origin`'s meta."""
    place = graph.graph.inserting_after(after) if after is not None else graph.graph.inserting_before(origin)
    with place:
        node = graph.graph.create_node("call_function", target, tuple(args), name=name)
    copy_origin(node, origin)
    return node


def insert_constant(graph: fx.GraphModule, origin: fx.Node, name: str, value: torch.Tensor) -> fx.Node:
    """A `get_attr` of `value` before `origin`, among the constants that passes make."""
    set_attribute(graph, f"constants.{name}", value)
    with graph.graph.inserting_before(origin):
        node = graph.graph.create_node("get_attr", f"constants.{name}")
    node.meta["shape"] = tuple(value.shape)
    return node


def insert_module(
    graph: fx.GraphModule, origin: fx.Node, target: str, source: fx.Node, *, before: fx.Node | None = None
) -> fx.Node:
    """Add `call_module target(source)` after `source` (or before a given node), named after the target's last part."""
    place = graph.graph.inserting_before(before) if before is not None else graph.graph.inserting_after(source)
    with place:
        node = graph.graph.create_node("call_module", target, (source,), name=target.rpartition(".")[2])
    copy_origin(node, origin)
    node.meta["shape"] = tensor_shape(source)
    return node


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape and type of every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
            n.meta["dtype"] = value.dtype
        return value


def record_shapes(graph: fx.GraphModule) -> None:
    """Write into the meta of every node what two batch sizes show: `shape`, None where the two differ, and `dtype`.

    `example` is the shape with the first of them, `EXAMPLE_BATCH`. No number is computed where operators can tell
    shapes without; else inputs are zeros of their type: rows and places that a network may read are valid at 0.
    """
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            runs = _shapes_of_batches(graph)
    except Exception:  # operators without shape rules raise many types; one that is wrong does again below
        runs = _shapes_of_batches(graph)
    for node, shape in runs[0].items():
        node.meta["shape"] = tuple(a if a == b else None for a, b in zip(shape, runs[1][node], strict=True))
        node.meta["example"] = shape


def _shapes_of_batches(graph: fx.GraphModule) -> list[dict[fx.Node, tuple[int, ...]]]:
    device = next((p.device for p in graph.parameters()), torch.device("cpu"))
    sources = [(known_sizes(tensor_shape(node)[1:]), tensor_dtype(node)) for node in input_nodes(graph)]
    runs = []
    for batch in (EXAMPLE_BATCH, EXAMPLE_BATCH + 1):
        recorder = _ShapeRecorder(graph)
        with torch.no_grad():
            recorder.run(*(torch.zeros(batch, *sizes, dtype=dtype, device=device) for sizes, dtype in sources))
        runs.append(recorder.shapes)
    return runs


def finish(graph: fx.GraphModule) -> fx.GraphModule:
    """Drop dead nodes, check, recompile, record shapes; every pass that changed something ends with it."""
    graph.graph.eliminate_dead_code()
    graph.graph.lint()
    graph.recompile()
    record_shapes(graph)
    return graph


def quantizer_of(graph: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The `Quantizer` that `node` calls, or None."""
    if node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, Quantizer) else None


def bias_quantizer_of(graph: fx.GraphModule, node: fx.Node) -> BiasQuantizer | None:
    """The `BiasQuantizer` that `node` calls, or None."""
    if node.op != "call_module":
        return None
    module = graph.get_submodule(str(node.target))
    return module if isinstance(module, BiasQuantizer) else None


def nodes_by_name(graph: fx.GraphModule) -> dict[str, fx.Node]:
    """All nodes of `graph` by their names."""
    return {node.name: node for node in graph.graph.nodes}


def is_constant(node: fx.Node) -> bool:
    """The node's value does not depend on the input: a parameter or its quantizer."""
    if node.op == "get_attr":
        return True
    return node.op == "call_module" and all(is_constant(source) for source in node.all_input_nodes)
