"""From the frozen graph to `model.onnx`: quantizers become Q [Clip] [Mul Mul] DQ, regions become nodes in two forms.

`qdq`: DQ -> operator -> Q around float operators, which an optimised session fuses into integer kernels.
`qoperator`: the integer kernels themselves, which every session runs as they are.
Both have the same values under the same names: the uint8 tensor of a quantizer has the quantizer's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import fx

from isobit.backends.fixed_point.numbers import without_largest
from isobit.backends.onnx.emitters import (
    refusal,
    without_kernel,
)
from isobit.backends.onnx.forms.qdq import Emission
from isobit.backends.onnx.forms.qoperator import OperatorEmission
from isobit.pipeline.errors import TargetError
from isobit.pipeline.graph.calls import Calls
from isobit.pipeline.graph.nodes import is_constant, where
from isobit.pipeline.graph.ports import input_names, output_names
from isobit.pipeline.stages import Reference
from isobit.pipeline.target import Target

if TYPE_CHECKING:
    import onnx_ir as ir

Form = Literal["qdq", "qoperator"]
FORMS: tuple[Form, ...] = get_args(Form)


def unsupported(graph: fx.GraphModule) -> list[tuple[fx.Node, str]]:
    """Operators of a prepared or quantized graph that cannot be written, with the reason."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function" and not is_constant(node)]
    return [(node, reason) for node in calls if (reason := refusal(node) or without_largest(node))]


def check_ports(graph: fx.GraphModule) -> None:
    """Refuse ports that share a name: a file has one value of it.

    Raises:
        TargetError: an input and an output of the network are called the same, as in a file that returns its input.
    """
    both = next((name for name in output_names(graph) if name in input_names(graph)), None)
    if both is not None:
        raise TargetError(
            f"'{both}' is an input and an output of the model, and an ONNX file has one value of a name",
            where=f"output '{both}'", field="target",
            hint="rename one of the two in the model, or keep the other outputs alone (`outputs`)",
        )


def without_kernels(graph: fx.GraphModule, target: Target) -> list[tuple[fx.Node, str]]:
    """Operators of a prepared or quantized graph that stand in integers and have no such kernel, with the reason."""
    calls = [call for call in Calls(graph) if call.op and target.rule_of(call).inputs != "float"]
    return [(call.node, why) for call in calls if (why := without_kernel(call.node))]


def emit_model(reference: Reference, path: Path, form: Form = "qdq") -> None:
    """Write `reference` to `path`; the same graph gives the same bytes.

    Raises:
        TargetError: an operator that has no emitter.
        onnx.checker.ValidationError: never for a graph of ours; a defect.
    """
    import onnx

    problems = unsupported(reference.graph)
    if problems:
        node, reason = problems[0]
        raise TargetError(reason, where=where(node), field="target", hint="replace it, or use `target=reference`")
    emission = OperatorEmission(reference) if form == "qoperator" else Emission(reference)
    proto = _serialize(emission.write())
    # The checker infers shapes in a full check, and knows none of ONNX Runtime's own operators.
    onnx.checker.check_model(proto, full_check=form == "qdq")
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _serialize(model: ir.Model) -> Any:
    import onnx_ir as ir

    proto = ir.to_proto(model)
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:
            node.ClearField("name")  # onnx-ir gives every node one: 15 bytes each
    del proto.graph.value_info[:]
    return proto
