"""Products with a constant matrix are layers.

    matmul(x, W), mm(x, W)    -> linear(x, W^T)
    addmm(b, x, W)            -> linear(x, beta * b, alpha * W^T)
    linear(x, W) + b          -> linear(x, W, b)   (`fold_affine`)
"""

from __future__ import annotations

from torch import Tensor, fx

from isobit.passes.recognise.rewriting import aten, call, is_call, parameter, tensor_of
from isobit.pipeline.graph.nodes import bound_args, set_attribute, tensor_shape


def linear(graph: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The layer that a product with a constant matrix is."""
    if is_call(node, aten.matmul.default, aten.mm.default):
        x, matrix, bias, beta, alpha = *node.args[:2], None, 1, 1
    elif is_call(node, aten.addmm.default):
        args = bound_args(node)
        x, matrix, bias, beta, alpha = (args[key] for key in ("mat1", "mat2", "self", "beta", "alpha"))
    else:
        return None
    weight = tensor_of(graph, matrix)
    if weight is None or weight.dim() != 2 or not isinstance(matrix, fx.Node):
        return None
    if not isinstance(x, fx.Node) or tensor_of(graph, x) is not None:
        return None
    rank, outputs = len(tensor_shape(x)), weight.shape[1]
    shift = None
    if bias is not None:
        shift = tensor_of(graph, bias)
        if shift is None or shift.numel() not in (1, outputs) or shift.numel() != shift.shape[-1:].numel():
            return None
        shift = (shift * beta).reshape(-1).expand(outputs)
    if rank < 2:
        return None
    stored = _transposed(graph, node, matrix, (weight * alpha).t())
    return call(graph, node, aten.linear.default, x, stored,
                None if shift is None else parameter(graph, node, "bias", shift))  # fmt: skip


def _transposed(graph: fx.GraphModule, node: fx.Node, matrix: fx.Node, value: Tensor) -> fx.Node:
    """The weight under the matrix's own name, which names the layer, where nothing else reads that."""
    readers = {user for n in graph.graph.find_nodes(op="get_attr") if n.target == matrix.target for user in n.users}
    if readers != {node}:
        return parameter(graph, node, "weight", value)
    set_attribute(graph, str(matrix.target), value.float().contiguous())
    matrix.meta["shape"] = tuple(value.shape)
    return matrix
