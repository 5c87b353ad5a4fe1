"""A graph's inputs and outputs: their nodes, and the names that a user knows them by."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import fx

INPUT = "input"
OUTPUT = "logits"
_NAME, _NAMES = "port_name", "port_names"


def input_nodes(graph: fx.GraphModule) -> tuple[fx.Node, ...]:
    """The placeholders, in the order of the graph's arguments."""
    return tuple(node for node in graph.graph.nodes if node.op == "placeholder")


def output_nodes(graph: fx.GraphModule) -> tuple[fx.Node, ...]:
    """The nodes whose values the graph returns, in their order; a node may stand there twice."""
    returned = output_node(graph).args[0]
    return (returned,) if isinstance(returned, fx.Node) else tuple(returned)  # pyright: ignore[reportArgumentType]


def input_names(graph: fx.GraphModule) -> tuple[str, ...]:
    """One name for each input: as the model or `name_ports` gave it; `input` of one without a name.

    Where an output was given that name, the input's is longer by `_`.
    """
    nodes, given = input_nodes(graph), output_node(graph).meta.get(_NAMES, ())
    default = unlike(INPUT, given)
    return tuple(str(node.meta.get(_NAME, default if len(nodes) == 1 else node.name)) for node in nodes)


def output_names(graph: fx.GraphModule) -> tuple[str, ...]:
    """One name for each output; `logits` of one without a name, `output_0`, `output_1` and so on of several.

    Where an input is called so, the output's name is longer by `_`.
    """
    count = len(output_nodes(graph))
    default = (OUTPUT,) if count == 1 else tuple(f"output_{place}" for place in range(count))
    return tuple(output_node(graph).meta.get(_NAMES) or (unlike(name, input_names(graph)) for name in default))


def unlike(name: str, taken: Collection[str]) -> str:
    """`name`, longer by as many `_` as it takes to be none of those `taken`."""
    while name in taken:
        name += "_"
    return name


def name_ports(graph: fx.GraphModule, inputs: Sequence[str] = (), outputs: Sequence[str] = ()) -> None:
    """Give inputs and outputs the names that users know; copies of the graph keep them. Empty: as they are."""
    for node, name in zip(input_nodes(graph), inputs, strict=False):
        node.meta[_NAME] = name
    if outputs:
        output_node(graph).meta[_NAMES] = tuple(outputs)


def output_node(graph: fx.GraphModule) -> fx.Node:
    """The node that returns."""
    return next(node for node in reversed(graph.graph.nodes) if node.op == "output")
