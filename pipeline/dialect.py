"""The closed operator set after PREPARE, and what may stand in a graph at which stage.

Passes, emitters and integer kernels know these canonical names only; whatever else a model uses stays in the graph
as it is and is computed in float, named in the placement table.
"""

from __future__ import annotations

from torch import fx

from pipeline.errors import CaptureError
from pipeline.graph import bound_args, is_constant, op_name, quantizer_of, tensor_shape, where
from pipeline.quantizer import BiasQuantizer, Phase, Quantizer
from pipeline.target import Target

# Pads whose border repeats codes of the map.
BORDERS = frozenset({"pad_reflect", "pad_replicate", "pad_circular"})
# Operators that move codes without changing them: exact on the integers.
LAYOUT = BORDERS | {"max_pool2d", "slice", "pad", "view", "permute", "upsample_nearest2d"}
# Those that compare nothing either: they only say where a value stands, of codes and of floats alike.
MOVES = LAYOUT - {"max_pool2d"}
# Layers: a weight, an optional bias.
WEIGHTED = frozenset({"conv2d", "linear"})
# Averages over space.
POOLS = frozenset({"mean", "avg_pool2d"})
# What is computed, each with the emitters and integer rules that targets give it.
COMPUTE = WEIGHTED | POOLS | {"add", "mul", "cat", "hardsigmoid", "sigmoid", "leaky_relu"}
ACTIVATIONS = frozenset({"relu", "hardtanh"})
CANONICAL = LAYOUT | COMPUTE | ACTIVATIONS

STAGES = ("prepared", "quantized", "frozen")
# What PREPARE must have removed.
FORBIDDEN = frozenset({"dropout", "batch_norm", "feature_dropout", "detach", "clone", "contiguous", "flatten", "chunk"})


def verify(graph: fx.GraphModule, stage: str) -> None:
    """Check `graph` against the rules of `stage`, one of `STAGES`.

    Raises:
        CaptureError: names the node and the rule that it breaks.
    """
    if stage not in STAGES:
        raise ValueError(f"no stage '{stage}', only {', '.join(STAGES)}")
    for node in graph.graph.nodes:
        problem = _problem(graph, node, stage)
        if problem:
            raise CaptureError(f"the graph is not legal at stage '{stage}': {problem}", where=where(node))


def gives_no_negatives(node: fx.Node) -> bool:
    """An activation whose values cannot be negative, whatever it reads."""
    name = op_name(node)
    return name in ("relu", "sigmoid", "hardsigmoid") or (name == "hardtanh" and bound_args(node)["min_val"] >= 0)


def lays_out_output(node: fx.Node) -> bool:
    """A layout operator or a concatenation behind which stand only more of them, and the network's output."""
    is_mover = op_name(node) in MOVES or op_name(node) == "cat"
    return is_mover and all(user.op == "output" or lays_out_output(user) for user in node.users)


def source_quantizer(graph: fx.GraphModule, node: fx.Node) -> Quantizer | None:
    """The quantizer whose grid the value is on, looked up through layout operators and shared concatenations."""
    while op_name(node) in LAYOUT or op_name(node) == "cat":
        node = node.all_input_nodes[0]
    return quantizer_of(graph, node)


def wide_operand(node: fx.Node, target: Target) -> fx.Node | None:
    """The layer whose 32-bit sum enters the residual addition `node` as it is; None where there is none.

    Of two layers the one computed last: the other's codes are there when its sum is complete. The same answer before
    and after quantizers are inserted, because only this operand is left without one.
    """
    if node.op != "call_function" or target.rule(op_name(node)).inputs != "residual":
        return None
    left, right = node.args[:2]
    layers = [
        source for source in (left, right)
        if left is not right and op_name(source) in WEIGHTED and len(source.users) == 1
        and tensor_shape(source) == tensor_shape(node)
    ]
    return next((source for source in reversed(node.graph.nodes) if source in layers), None)


def _problem(graph: fx.GraphModule, node: fx.Node, stage: str) -> str:
    if node.op == "call_function":
        name = op_name(node)
        if name.endswith("_") and not name.startswith("_"):
            return f"in-place operator {name}"
        if name in FORBIDDEN:
            return f"operator {name} should have been removed"
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        if stage == "prepared" or not isinstance(module, Quantizer | BiasQuantizer):
            return f"module {type(module).__name__}"
        if stage == "frozen":
            return _frozen_problem(module, is_constant(node))
    return ""


def _frozen_problem(module: Quantizer | BiasQuantizer, constant: bool) -> str:
    if module.phase is not Phase.FROZEN:
        return f"a quantizer is {module.phase.value}, not frozen"
    if isinstance(module, BiasQuantizer):
        return "" if module.codes is not None else "a bias without codes"
    if module.mixing is not None or module.rounding is not None or module.observer is not None:
        return "a quantizer still holds a training part"
    if module.scale is None:
        return "a quantizer without numbers"
    if not constant:
        return ""
    if module.codes is None:
        return "a weight without codes"
    grid, low, high = module.spec.grid, int(module.codes.min()), int(module.codes.max())
    return "" if grid.qmin <= low and high <= grid.qmax else f"codes {low}..{high} leave the grid {grid}"
