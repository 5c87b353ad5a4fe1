"""Networks that were read from a file of nodes: a message names the node there, not a line of what read it."""

from __future__ import annotations

from torch import fx, nn

from isobit.pipeline.graph.nodes import module_path


class FileNode(nn.Module):
    """A module that stands for one node of a file.

    Args:
        file_node: the node as a person finds it in a viewer of such files.
        file_node_name: the name that the file gives it; empty for none.
    """

    def __init__(self, file_node: str, file_node_name: str = "") -> None:
        super().__init__()
        self.file_node, self.file_node_name = file_node, file_node_name


def note_file_nodes(graph: fx.GraphModule, model: nn.Module) -> None:
    """Write `meta["file_node"]` and its name on what the file nodes of `model` became; `graph` is its capture."""
    known = {path: module for path, module in model.named_modules() if isinstance(module, FileNode)}
    for node in graph.graph.nodes:
        if (module := known.get(module_path(node))) is not None:
            node.meta["file_node"], node.meta["file_node_name"] = module.file_node, module.file_node_name


def file_node_names(node: fx.Node) -> tuple[str, ...]:
    """What a user may call the file's node that `node` came from: as a viewer shows it, and by its name."""
    return tuple(filter(None, (node.meta.get("file_node", ""), node.meta.get("file_node_name", ""))))
