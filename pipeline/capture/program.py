"""An exported program as a plain graph: nothing monkey-patched, no guards, inputs and outputs flat and with names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree

from isobit.pipeline.errors import CaptureError, first_line
from isobit.pipeline.graph.nodes import tensor_dtype, tensor_shape, where
from isobit.pipeline.graph.ports import input_nodes, name_ports, unlike
from isobit.pipeline.quiet import quiet
from isobit.pipeline.shapes import known_sizes

LARGEST_VALUE = 2 << 30  # bytes
BATCH = 2  # any size above 1: torch.export would burn in the sizes 0 and 1


def plain_graph(program: torch.export.ExportedProgram, inputs: Sequence[str] = ()) -> fx.GraphModule:
    """A GraphModule with a placeholder for each input tensor and a node, or a tuple of nodes, as output.

    Outputs in dicts and named tuples get their keys as names, `aux.0` the parts of one; what is no tensor
    (None, a number) is left out.

    Args:
        inputs: names of the inputs, in their order; none where they have no other than the arguments'.

    Raises:
        CaptureError: the program does not hold together, or returns no tensor.
    """
    try:
        exported = program.module(check_guards=False)
    except Exception as error:  # a program from a file may lack anything
        raise CaptureError(
            f"the exported program does not hold together: {type(error).__name__}: {str(error)[:200]}",
            where="the .pt2 file", hint="Export it again.",
        ) from error
    graph, copies, returned = fx.Graph(), {}, []
    for node in exported.graph.nodes:
        if node.op == "output":
            returned = _flat(node.args[0])
        else:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    names = _output_names(program, len(returned), [*inputs, *(node.name for node in input_nodes(exported))])
    kept = {name: copies[value] for name, value in zip(names, returned, strict=True) if isinstance(value, fx.Node)}
    if not kept:
        raise CaptureError("the model returns 0 tensors", allowed="tensors [N, ...]")
    nodes = tuple(kept.values())
    graph.output(nodes[0] if len(nodes) == 1 else nodes)
    plain = fx.GraphModule(exported, graph)
    told = any(name != f"output_{place}" for place, name in enumerate(names))
    name_ports(plain, inputs, tuple(kept) if told else ())
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    return plain


def _flat(returned: Any) -> list[Any]:
    return list(returned) if isinstance(returned, tuple | list) else [returned]


def _output_names(program: torch.export.ExportedProgram, count: int, taken: Sequence[str]) -> list[str]:
    """Where the model put each output: its keys, else `output_0` and so on; no name is `taken` or stands there twice.
    """
    default = [f"output_{place}" for place in range(count)]
    spec = program.call_spec.out_spec
    if spec is None or spec.num_leaves != count:
        return default
    paths, _ = _pytree.tree_flatten_with_path(_pytree.tree_unflatten(default, spec))
    names: list[str] = []
    for path, name in paths:
        keys = [_written(getattr(key, "key", getattr(key, "name", getattr(key, "idx", "")))) for key in path]
        told = any(not isinstance(key, _pytree.SequenceKey) for key in path)
        name = (".".join(filter(None, keys)) if told else "") or name
        names.append(unlike(name, [*names, *taken]))
    return names


def _written(key: Any) -> str:
    """The key as text that files can hold: none holds half a character, and archives end a name at a zero."""
    return str(key).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


class _SizeCheck(fx.Interpreter):
    """Runs a graph on shapes alone and stops where one value would be larger than any network's."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is torch.ops.aten.detach_.default:  # shapes alone count constants as views, which it refuses
            return args[0]
        return super().call_function(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor) and value.numel() * value.element_size() > LARGEST_VALUE:
            raise CaptureError(
                f"the program makes a tensor of shape {list(value.shape)}", where=where(n),
                allowed=f"at most {LARGEST_VALUE >> 20:,} MiB for {BATCH} samples",
            )
        if isinstance(value, int) and abs(value) >= 2**63:
            raise CaptureError("the program computes a size of more than 64 bits", where=where(n))
        return value


def check_sizes(graph: fx.GraphModule) -> None:
    """A program from a file fits together and takes no more memory than a network does, found out without taking it."""
    try:
        with quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            _SizeCheck(graph).run(*(
                torch.empty(BATCH, *known_sizes(tensor_shape(node)[1:]), dtype=tensor_dtype(node))
                for node in input_nodes(graph)
            ))
    except CaptureError:
        raise
    except Exception as error:  # any operator may refuse its operands
        raise CaptureError(
            f"the exported program cannot be run: {first_line(error)}", where="the .pt2 file", hint="Export it again.",
        ) from error
