"""One grid where a concatenation joins tensors: its producers take over its quantizer, it becomes a layout operator.

A producer that also feeds something else, or whose grid the target prescribes, keeps its own; the runtime then
requantizes that input of the concatenation. So do grids with bits for each channel: those belong to one tensor.
Sharing is identity: two nodes that call one module.
"""

from __future__ import annotations

from torch import fx

from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.nodes import finish, quantizer_of
from isobit.pipeline.target import Target


def share_grids(graph: fx.GraphModule, target: Target) -> bool:
    """Share in place where the target's rule says `shared`, as for concatenations; True where anything was shared."""
    joined = [call.node for call in Calls(graph) if call.op and target.rule_of(call).output == "shared"]
    changed = False
    for node in joined:
        changed |= _share(graph, node)
    if changed:
        finish(graph)
    return changed


def _share(graph: fx.GraphModule, node: fx.Node) -> bool:
    users = list(node.users)
    quantizer = quantizer_of(graph, users[0]) if len(users) == 1 else None
    if quantizer is None or quantizer.spec.grid.own_bits:
        return False
    sources = list(node.all_input_nodes)
    private = [
        n for n in sources
        if (own := quantizer_of(graph, n)) is not None and len(n.users) == 1
        and own.spec == quantizer.spec and not own.fixed
    ]
    changed = [n for n in private if n.target != users[0].target]
    for source in changed:
        source.target = users[0].target
    if len(private) == len(sources):
        users[0].replace_all_uses_with(node)
        graph.graph.erase_node(users[0])
    return bool(changed)
