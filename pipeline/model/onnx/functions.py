"""Local functions of an ONNX file, written out where they are called, if that gives a file of a size that is one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from isobit.pipeline.errors import InputError
from isobit.pipeline.model.archive import byte_limit
from isobit.pipeline.model.onnx.graph import MAX_NAME

if TYPE_CHECKING:
    import onnx

MOST_NODES = 1 << 18  # of a file whose functions are written out; the largest networks have some ten thousand
TOO_MUCH = 1 << 62
Key = tuple[str, ...]
Size = tuple[int, int]  # nodes, bytes


def written_out(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """The file without functions of its own.

    Raises:
        InputError: they call each other in a circle, or more often than any network does: n functions of which each
            calls the next one twice are 2**n nodes.
    """
    import onnx.inliner

    if not proto.functions:
        return proto
    nodes, size = _written_size(proto, path)
    limit = byte_limit(proto.ByteSize())
    if nodes > MOST_NODES or size > limit:
        raise InputError(
            f"its {len(proto.functions)} functions, written out where they are called, are more than a network of "
            "this file's size", where=str(path), allowed=f"at most {MOST_NODES:,} nodes and {limit:,} bytes",
            hint="Export the model again without local functions.",
        )
    return onnx.inliner.inline_local_functions(proto)


def _written_size(proto: onnx.ModelProto, path: Path) -> Size:
    """What the nodes of the graph are once no function is called any more."""
    bodies = {_key(each.domain, each.name, each): list(_all_nodes(each.node)) for each in proto.functions}
    sizes: dict[Key, Size] = {}
    for first in bodies:
        # A stack of our own, as calls may be thousands deep: open functions, each with those that it calls yet.
        waiting = {first: _calls(bodies[first], bodies)} if first not in sizes else {}
        while waiting:
            key, calls = next(reversed(waiting.items()))
            called = next((each for each in calls if each not in sizes), None)
            if called is None:
                sizes[key] = _sum(bodies[key], sizes)
                del waiting[key]
            elif called in waiting:
                raise InputError(f"its function '{called[1][:MAX_NAME]}' calls itself", where=str(path))
            else:
                waiting[called] = _calls(bodies[called], bodies)
    return _sum(_all_nodes(proto.graph.node), sizes)


def _calls(nodes: Iterable[onnx.NodeProto], known: Iterable[Key]) -> Iterator[Key]:
    return (key for node in nodes if (key := _key(node.domain, node.op_type, node)) in known)


def _sum(nodes: Iterable[onnx.NodeProto], sizes: dict[Key, Size]) -> Size:
    found = [sizes.get(_key(node.domain, node.op_type, node), (1, node.ByteSize())) for node in nodes]
    # What is too much stays as large as it is: 2**10000 would take its own time.
    return min(sum(nodes for nodes, _ in found), TOO_MUCH), min(sum(size for _, size in found), TOO_MUCH)


def _key(domain: str, name: str, holder: onnx.NodeProto | onnx.FunctionProto) -> Key:
    """A function's name, by which it is called; files before IR 10 have no overloads."""
    return "" if domain == "ai.onnx" else domain, name, getattr(holder, "overload", "")


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """The nodes, and those of the graphs that are attributes of them."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)
