"""Plain functions on `fx.GraphModule`: names, bound arguments, origin, insertion, sub-graphs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx

from pipeline.quantizer import BiasQuantizer, Quantizer

ORIGIN_KEYS = ("nn_module_stack", "stack_trace", "source_fn_stack", "unit")


_FRAME = re.compile(r'File "(.+?)", line (\d+)')
_TORCH = str(Path(torch.__file__).parent)

# `reshape` is `view` that also takes non-contiguous tensors: one name for both.
_ALIASES = {"reshape": "view"}


def op_name(node: fx.Node) -> str:
    """Canonical operator name of a call: `conv2d` for aten.conv2d.default; empty for other nodes.

    A call in a form that integer kernels do not have gets a qualified name, so that no rule takes it by mistake:
    `add_constant` (an operand is not an activation), `mean_over_dims` (not the global average), `pad_reflect`,
    `linear_3d`, `conv2d_dynamic` (weight or bias is computed), `upsample_nearest2d_uneven` (pixels are not repeated
    equally often), `python_mul` (of sizes, not of tensors).
    """
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:  # arithmetic on sizes (operator.mul): never the operator of tensors that is called the same
        return f"python_{getattr(node.target, '__name__', node.target)}"
    name = str(packet.__name__)
    name = _ALIASES.get(name, name)
    qualify = _QUALIFIERS.get(name)
    return name + (qualify(node) if qualify else "")


def _operands(node: fx.Node) -> str:
    if any(not isinstance(arg, fx.Node) or is_constant(arg) for arg in node.args[:2]):
        return "_constant"
    return "_scaled" if node.kwargs.get("alpha", 1) != 1 else ""


def _mean(node: fx.Node) -> str:
    args = bound_args(node)
    source = node.args[0]
    rank = len(tensor_shape(source)) or 4
    dims = sorted(dim % rank for dim in args.get("dim") or ())
    return "" if rank == 4 and dims == [2, 3] and args.get("keepdim") else "_over_dims"


def _pad(node: fx.Node) -> str:
    args = bound_args(node)
    if args["mode"] != "constant":
        return f"_{args['mode']}"
    return "" if not args["value"] else "_with_value"


def _weighted(node: fx.Node) -> str:
    args = bound_args(node)
    if not is_constant(args["weight"]) or (args["bias"] is not None and not is_constant(args["bias"])):
        return "_dynamic"
    rank = len(tensor_shape(node.args[0]))
    return f"_{rank}d" if node.target is torch.ops.aten.linear.default and rank not in (0, 2) else ""


def _resized(node: fx.Node) -> str:
    sizes = zip(tensor_shape(node.args[0])[2:], tensor_shape(node)[2:], strict=True)
    return "" if all(old and new and new % old == 0 for old, new in sizes) else "_uneven"


_QUALIFIERS = {
    "add": _operands, "mul": _operands, "mean": _mean, "pad": _pad, "conv2d": _weighted, "linear": _weighted,
    "upsample_nearest2d": _resized,
}


def pair(value: Any) -> tuple[int, int]:
    """Both entries of an ATen int[2] argument, which may hold one."""
    entries = [value] if isinstance(value, int) else list(value)
    return (entries[0], entries[-1]) if entries else (0, 0)


def bound_args(node: fx.Node) -> dict[str, Any]:
    """All arguments of an ATen call by the schema's names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    bound: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(node.args):
            bound[argument.name] = node.args[position]
        else:
            bound[argument.name] = node.kwargs.get(argument.name, argument.default_value)
    return bound


def set_argument(node: fx.Node, name: str, value: Any) -> None:
    """Set one argument of an ATen call by its schema name, positional or keyword as it stands."""
    names = [argument.name for argument in node.target._schema.arguments]  # type: ignore[union-attr]
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
    """`file.py:58` of the user's code that made this node (torch's own layers are not), or the empty string."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [frame for frame in frames if not frame[0].startswith(_TORCH)]
    return f"{Path(own[-1][0]).name}:{own[-1][1]}" if own else ""


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


def get_attribute(graph: fx.GraphModule, node: fx.Node) -> torch.Tensor:
    """The tensor behind a `get_attr` node."""
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
    """Add a function call behind `after` (default: before `origin`) that carries `origin`'s meta."""
    place = graph.graph.inserting_after(after) if after is not None else graph.graph.inserting_before(origin)
    with place:
        node = graph.graph.create_node("call_function", target, tuple(args), name=name)
    copy_origin(node, origin)
    return node


def insert_module(
    graph: fx.GraphModule, origin: fx.Node, target: str, source: fx.Node, *, before: fx.Node | None = None
) -> fx.Node:
    """Add `call_module target(source)` behind `source` (or before a given node), named after the target's last part."""
    place = graph.graph.inserting_before(before) if before is not None else graph.graph.inserting_after(source)
    with place:
        node = graph.graph.create_node("call_module", target, (source,), name=target.rpartition(".")[2])
    copy_origin(node, origin)
    node.meta["shape"] = tensor_shape(source)
    return node


class _ShapeRecorder(fx.Interpreter):
    """Runs a graph and keeps the shape of every value."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, torch.Tensor):
            self.shapes[n] = tuple(value.shape)
        return value


def record_shapes(graph: fx.GraphModule) -> None:
    """Set `meta["shape"]` of every node by running two batch sizes: what differs is the batch (None)."""
    source = next(n for n in graph.graph.nodes if n.op == "placeholder")
    sizes = tensor_shape(source)[1:]
    device = next((p.device for p in graph.parameters()), torch.device("cpu"))
    runs = []
    for batch in (2, 3):
        recorder = _ShapeRecorder(graph)
        with torch.no_grad():
            recorder.run(torch.zeros(batch, *sizes, device=device))
        runs.append(recorder.shapes)
    for node, shape in runs[0].items():
        node.meta["shape"] = tuple(a if a == b else None for a, b in zip(shape, runs[1][node], strict=True))


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


def quantizers(graph: fx.GraphModule) -> dict[str, Quantizer]:
    """Every distinct quantizer by the name of its first node, in execution order."""
    found: dict[str, Quantizer] = {}
    seen: set[int] = set()
    for node in graph.graph.nodes:
        quantizer = quantizer_of(graph, node)
        if quantizer is not None and id(quantizer) not in seen:
            seen.add(id(quantizer))
            found[node.name] = quantizer
    return found


def absorbed(node: fx.Node, names: Collection[str]) -> tuple[fx.Node, ...]:
    """The run of operators called `names` behind `node`, as far as each is the only reader of the one before."""
    found: list[fx.Node] = []
    while len(node.users) == 1 and op_name(next(iter(node.users))) in names:
        node = next(iter(node.users))
        found.append(node)
    return tuple(found)


def is_constant(node: fx.Node) -> bool:
    """The node's value does not depend on the input: a parameter or its quantizer."""
    if node.op == "get_attr":
        return True
    return node.op == "call_module" and all(is_constant(source) for source in node.all_input_nodes)


def extract(graph: fx.GraphModule, names: Collection[str], *, quantized: bool = True) -> fx.GraphModule:
    """A sub-graph of `graph` that shares its parameters and quantizers (same objects, nothing is copied back).

    Args:
        names: nodes of the sub-graph; parameters that they read come along.
        quantized: False leaves every quantizer out (the teacher's view of the same nodes).

    Returns:
        A module whose inputs are the outside activations that the nodes read, in execution order (placeholders carry
        the outside node's name), and whose output is a tuple of the values that are used outside, in execution order;
        `.input_names` and `.output_names` list them.
    """
    wanted = set(names)
    inside = [node for node in graph.graph.nodes if node.name in wanted]
    sub = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    read = {source for node in inside for source in node.all_input_nodes if source.name not in wanted}
    outside = [node for node in graph.graph.nodes if node in read and not is_constant(node)]
    for node in outside:
        copies[node] = sub.placeholder(node.name)
    for node in inside:
        for source in node.all_input_nodes:
            _copy_constant(graph, sub, source, copies, quantized)
        if node in copies:
            continue
        if not quantized and node.op == "call_module":
            copies[node] = copies[node.args[0]]
        else:
            copies[node] = sub.node_copy(node, lambda n: copies[n])
    outputs = [n for n in inside if not is_constant(n) and any(u.name not in wanted for u in n.users)]
    sub.output(tuple(copies[node] for node in outputs))
    module = fx.GraphModule(graph, sub)
    module.input_names = tuple(node.name for node in outside)
    module.output_names = tuple(node.name for node in outputs)
    return module


def float_network(graph: fx.GraphModule) -> fx.GraphModule:
    """The whole graph without its quantizers, as `extract` gives it: its outputs come as a tuple."""
    names = [node.name for node in graph.graph.nodes if node.op not in ("placeholder", "output")]
    return extract(graph, names, quantized=False)


def _copy_constant(
    graph: fx.GraphModule, sub: fx.Graph, node: fx.Node, copies: dict[fx.Node, fx.Node], quantized: bool
) -> None:
    if node in copies or not is_constant(node):
        return
    for source in node.all_input_nodes:
        _copy_constant(graph, sub, source, copies, quantized)
    if node.op == "call_module" and not quantized:
        copies[node] = copies[node.args[0]]
    else:
        copies[node] = sub.node_copy(node, lambda n: copies[n])
