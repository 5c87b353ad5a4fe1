"""Networks that were read from a file of nodes: a message names the node there, not a line of what read it."""

from __future__ import annotations

from torch import fx, nn

from isobit.pipeline.graph.nodes import module_path


class FileNode(nn.Module):
    """A module that stands for one node of a file.

    Args:
        file_node: the node as a person finds it in a viewer of such files.
    """

    def __init__(self, file_node: str) -> None:
        super().__init__()
        self.file_node = file_node


def note_file_nodes(graph: fx.GraphModule, model: nn.Module) -> None:
    """Write `meta["file_node"]` on what the file nodes of `model` became; `graph` is its capture."""
    known = {path: module.file_node for path, module in model.named_modules() if isinstance(module, FileNode)}
    for node in graph.graph.nodes:
        if (path := module_path(node)) in known:
            node.meta["file_node"] = known[path]
