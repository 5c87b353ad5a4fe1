"""`model` -> one functional ATen graph, through `torch.export` and nothing else.

One capture path on purpose: what `torch.export` cannot turn into a graph is reported with the user's source line
instead of being traced by something weaker.
"""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from isobit.pipeline.errors import CaptureError, first_line
from isobit.pipeline.graph.mutation import keep_outside
from isobit.pipeline.graph.nodes import finish, network_input, tensor_shape, where
from isobit.pipeline.graph.samplewise import check_samplewise
from isobit.pipeline.shapes import known_sizes
from isobit.pipeline.stages import Captured

LARGEST_VALUE = 2 << 30  # bytes
BATCH = 2  # any size above 1: torch.export would burn in the sizes 0 and 1


def capture(
    model: nn.Module | torch.export.ExportedProgram, example: Tensor, *, name: str = "model", sha256: str = ""
) -> Captured:
    """Capture `model` with a free batch dimension, as a graph that leaves its input and its own buffers as they are.

    Args:
        model: a module in eval mode, or an exported program (its batch dimension must be dynamic).
        example: one input [1, C, H, W] (or more), float32; its values matter only as an example of level and contrast.
        name, sha256: of the model file, carried into the manifest.

    Raises:
        CaptureError: the model branches on data, takes several inputs, or returns something else than one tensor
            [N, ...]; its answers depend on the batch, on chance or on earlier calls; with the source line where one is
            known.
    """
    if isinstance(model, torch.export.ExportedProgram):
        program = model
    else:
        program = _export(model, example)
    graph = _plain(program)
    shape = _placeholder_shape(graph)
    if isinstance(model, torch.export.ExportedProgram):
        _check_sizes(graph, shape)
    keep_outside(graph)
    finish(graph)
    if shape[1:] != tuple(example.shape[1:]):
        raise CaptureError(
            f"the model was exported for inputs of shape {_shape_text(shape[1:])}, the data has "
            f"{_shape_text(tuple(example.shape[1:]))}", field="input_size",
            hint="give data of the model's input size (`input_size`)"
        )
    output = next(n for n in graph.graph.nodes if n.op == "output").args[0]
    classes, dtype = tensor_shape(output), output.meta["val"].dtype
    if len(classes) < 2 or classes[0] is not None or classes[1] is None or not dtype.is_floating_point:
        what = f"the model returns a tensor of shape {_shape_text(classes)} and type {dtype}"
        raise CaptureError(what, where=where(output), allowed="float logits [N, classes], the free batch N first")
    check_samplewise(graph, example)
    return Captured(graph, known_sizes(shape[1:]), int(classes[1]), name, sha256)


def _export(model: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    inputs = example[:1].repeat(BATCH, *[1] * (example.dim() - 1))
    shapes = ({0: torch.export.Dim("batch", min=1)},)
    try:
        with _quiet():
            return torch.export.export(model.eval(), (inputs,), dynamic_shapes=shapes)
    except Exception as error:  # torch.export raises many types; every one means "not capturable"
        raise _explained(error, tuple(example.shape[1:])) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, no log and no half-made graphs on the terminal: what went wrong is said once, by us."""
    level = logging.root.manager.disable
    sink = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)


def _explained(error: Exception, shape: tuple[int, ...]) -> CaptureError:
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    line = _user_line(error)
    if isinstance(error, TypeError) and "missing" in first and "argument" in first:
        return CaptureError(
            f"the model takes several inputs: {first}", allowed="one input, a batch of images or features",
        )
    if "data-dependent" in text or "GuardOnDataDependent" in type(error).__name__:
        return CaptureError(
            "the model branches on the values of a tensor, so it is not one graph", where=line,
            hint="replace the branch with torch.where or torch.cond, or move it outside the model",
        )
    if "Constraints violated (batch)" in text:
        # "- You marked batch as dynamic but your code specialized it to be a constant (2). If you're using ..."
        reason = next((line.removeprefix("- ") for line in lines if line.startswith("- ")), "").partition(". ")[0]
        return CaptureError(
            f"the model fixes the batch size ({reason[:200]})", where=line,
            hint="derive shapes from x.shape[0] instead of a constant (view(-1, ...), flatten(1))",
        )
    return CaptureError(
        f"torch.export cannot capture the model for inputs of shape {_shape_text(shape)}: {type(error).__name__}: "
        f"{first[:300]}", where=line, hint="check that the model runs on such an input in eval mode",
    )


def _user_line(error: BaseException) -> str:
    """The deepest frame below torch.export that is not torch's: where the user's model stopped."""
    frames = traceback.extract_tb(error.__traceback__)
    torchs = str(Path(torch.__file__).parent)
    entered = next((i for i, frame in enumerate(frames) if frame.filename.startswith(torchs)), len(frames))
    frames = [f for f in frames[entered:] if not f.filename.startswith(torchs) and f.line]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""


def _plain(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """A plain GraphModule with one placeholder and one tensor as output: nothing monkey-patched, no guards."""
    try:
        exported = program.module(check_guards=False)
    except Exception as error:  # a program from a file may lack anything
        raise CaptureError(
            f"the exported program does not hold together: {type(error).__name__}: {str(error)[:200]}",
            where="the .pt2 file", hint="Export it again.",
        ) from error
    graph, copies = fx.Graph(), {}
    placeholders = 0
    for node in exported.graph.nodes:
        if node.op == "output":
            outputs = node.all_input_nodes
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


def _check_sizes(graph: fx.GraphModule, shape: tuple[int | None, ...]) -> None:
    """A program from a file fits together and takes no more memory than a network does, found out without taking it."""
    try:
        with _quiet(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            _SizeCheck(graph).run(torch.empty(BATCH, *known_sizes(shape[1:])))
    except CaptureError:
        raise
    except Exception as error:  # any operator may refuse its operands
        raise CaptureError(
            f"the exported program cannot be run: {first_line(error)}", where="the .pt2 file", hint="Export it again.",
        ) from error


def _placeholder_shape(graph: fx.GraphModule) -> tuple[int | None, ...]:
    source = network_input(graph)
    value = source.meta.get("val")
    shape, dtype = tensor_shape(source), getattr(value, "dtype", type(value).__name__)
    if dtype is not torch.float32:
        raise CaptureError(f"the program takes {dtype}", where="the .pt2 file", allowed="torch.float32")
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
