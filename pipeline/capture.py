"""`model` -> one functional ATen graph, through `torch.export` and nothing else.

One capture path on purpose: what `torch.export` cannot turn into a graph is reported with the user's source line
instead of being traced by something weaker.
"""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from pipeline.errors import CaptureError
from pipeline.graph import finish, tensor_shape
from pipeline.stages import Captured

BATCH = 2  # any size above 1: torch.export would burn in the sizes 0 and 1


def capture(
    model: nn.Module | torch.export.ExportedProgram, example: Tensor, *, name: str = "model", sha256: str = ""
) -> Captured:
    """Capture `model` with a free batch dimension.

    Args:
        model: a module in eval mode, or an exported program (its batch dimension must be dynamic).
        example: one input [1, C, H, W] (or more), float32; only its shape and type matter.
        name, sha256: of the model file, carried into the manifest.

    Raises:
        CaptureError: the model branches on data, takes several inputs, or returns something else than one tensor
            [N, ...]; with the source line where one is known.
    """
    if isinstance(model, torch.export.ExportedProgram):
        program = model
    else:
        program = _export(model, example)
    graph = _plain(program)
    shape = _placeholder_shape(graph)
    finish(graph)
    if shape[1:] != tuple(example.shape[1:]):
        raise CaptureError(
            f"the model was exported for inputs of shape {_shape_text(shape[1:])}, the data has "
            f"{_shape_text(tuple(example.shape[1:]))}", hint="give data of the model's input size (--input-size)"
        )
    output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    classes = tensor_shape(output)
    if len(classes) < 2 or classes[1] is None:
        raise CaptureError(f"the model returns a tensor of shape {_shape_text(classes)}", allowed="logits [N, classes]")
    return Captured(graph, tuple(shape[1:]), int(classes[1]), name, sha256)


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    inputs = example[:1].repeat(BATCH, *[1] * (example.dim() - 1))
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model.eval(), (inputs,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many types; every one means "not capturable"
        raise _explained(error, tuple(example.shape[1:])) from error


def _explained(error: Exception, shape: tuple[int, ...]) -> CaptureError:
    text = str(error).strip()
    first = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    where = _user_line(error)
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return CaptureError(
            "the model branches on the values of a tensor, so it is not one graph", where=where,
            hint="replace the branch with torch.where or torch.cond, or move it outside the model",
        )
    if "batch" in text and ("pecializ" in text or "constant" in text or "not valid" in text):
        return CaptureError(
            f"the model fixes the batch size: {first}", where=where,
            hint="derive shapes from x.shape[0] instead of a constant (view(-1, ...), flatten(1))",
        )
    return CaptureError(
        f"torch.export cannot capture the model for inputs of shape {_shape_text(shape)}: {type(error).__name__}: "
        f"{first[:300]}", where=where, hint="check that the model runs on such an input in eval mode",
    )


def _user_line(error: BaseException) -> str:
    """The deepest frame that is not torch's or ours: where the user's model stopped."""
    ours = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(ours)]
    frames = [f for f in frames if not f.filename.startswith("<") and f.name == "forward"] or []
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _plain(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """A plain GraphModule with one placeholder and one tensor as output: nothing monkey-patched, no guards."""
    exported = program.module(check_guards=False)
    graph, copies = fx.Graph(), {}
    placeholders = 0
    for node in exported.graph.nodes:
        if node.op == "output":
            outputs = [leaf for leaf in torch.utils._pytree.tree_leaves(node.args) if leaf is not None]
            if len(outputs) != 1:
                raise CaptureError(f"the model returns {len(outputs)} tensors", allowed="one tensor, the logits")
            graph.output(copies[outputs[0]])
            continue
        placeholders += node.op == "placeholder"
        copies[node] = graph.node_copy(node, lambda source: copies[source])
    if placeholders != 1:
        raise CaptureError(f"the model takes {placeholders} inputs", allowed="one input, a batch of images or features")
    plain = fx.GraphModule(exported, graph)
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    return plain


def _placeholder_shape(graph: fx.GraphModule) -> tuple[int | None, ...]:
    shape = tensor_shape(next(n for n in graph.graph.nodes if n.op == "placeholder"))
    if not shape or shape[0] is not None:
        raise CaptureError(
            f"the program was exported for a fixed batch of {shape[0] if shape else '?'}", where="the .pt2 file",
            hint="export it with dynamic_shapes=({0: torch.export.Dim('batch')},)",
        )
    if None in shape[1:]:
        raise CaptureError("only the batch dimension may be dynamic", where=f"input shape {_shape_text(shape)}")
    return shape


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("N" if size is None else str(size) for size in shape) + "]"
