"""`model` -> one functional ATen graph, through `torch.export` and nothing else.

One capture path on purpose: what `torch.export` cannot turn into a graph is reported with the user's source line
instead of being traced by something weaker.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from isobit.pipeline.capture.constants import settle_constants
from isobit.pipeline.capture.interface import check_inputs, check_outputs, keep_outputs, shapes_text
from isobit.pipeline.capture.mutation import keep_outside
from isobit.pipeline.capture.program import BATCH, check_sizes, plain_graph
from isobit.pipeline.capture.samplewise import check_samplewise
from isobit.pipeline.errors import CaptureError, CompileError
from isobit.pipeline.graph.file_nodes import note_file_nodes
from isobit.pipeline.graph.nodes import finish
from isobit.pipeline.graph.ports import name_ports
from isobit.pipeline.quiet import quiet
from isobit.pipeline.samples.network_inputs import Inputs, grouped, tensors
from isobit.pipeline.stages import Captured


def capture(
    model: nn.Module | torch.export.ExportedProgram, example: Inputs | Mapping[str, Tensor], *, name: str = "model",
    sha256: str = "", outputs: Collection[str] = (), ports: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Captured:
    """Capture `model` with a free batch dimension, as a graph that leaves its input and its own buffers as they are.

    Args:
        model: a module in eval mode, or an exported program (its batch dimension must be dynamic).
        example: one sample of every input, [1, ...] (or more), float32 or integers; by name where the model takes its
            inputs by keyword. Floats matter only as an example of level and contrast; integers are reused, in other
            orders, wherever a valid one is needed.
        name, sha256: of the model file, carried into the manifest.
        outputs: names of the outputs to keep; none for all. What only the others need is left out.
        ports: names of the inputs and of the outputs; the model's own where there are none.

    Raises:
        CaptureError: the model branches on data, takes other inputs than `example`, or returns something else than
            tensors [N, ...]; its answers depend on the batch, on chance or on earlier calls; with the source line
            where one is known.
    """
    named = dict(example) if isinstance(example, Mapping) else {}
    example = grouped(list(named.values())) if isinstance(example, Mapping) else example
    exported = isinstance(model, torch.export.ExportedProgram)
    program = model if exported else _export(model, example, named)
    graph = plain_graph(program, tuple(named))
    if not exported:
        note_file_nodes(graph, model)
    name_ports(graph, *ports)
    keep_outputs(graph, outputs)
    check_inputs(graph, example)
    if exported:
        check_sizes(graph)
    keep_outside(graph)
    settle_constants(graph)
    finish(graph)
    check_outputs(graph)
    check_samplewise(graph, example)
    return Captured(graph, name, sha256)


def _export(model: nn.Module, example: Inputs, named: Mapping[str, Tensor]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    repeated = [x[:1].repeat(BATCH, *[1] * (x.dim() - 1)) for x in tensors(example)]
    shapes = [{0: batch} for _ in repeated]
    positional: tuple[Any, ...] = tuple(repeated)
    keywords: dict[str, Tensor] = {}
    dynamic: Any = tuple(shapes)
    by_name, rest = dict(zip(named, repeated, strict=bool(named))), _rest_of(model)
    if rest is not None and rest < len(shapes):  # all that `*inputs` takes stands in one tuple
        dynamic = (*shapes[:rest], tuple(shapes[rest:]))
    elif named and _has_arguments(model, named):
        positional, keywords, dynamic = (), by_name, dict.fromkeys(named, shapes[0])
    elif named:
        positional, dynamic = (by_name,), (dict.fromkeys(named, shapes[0]),)
    try:
        with quiet():
            return torch.export.export(model.eval(), positional, keywords, dynamic_shapes=dynamic)
    except CompileError:  # a network that was read from a file names the node itself
        raise
    except Exception as error:  # torch.export raises many types; every one means "not capturable"
        raise _explained(error, tuple(tuple(x.shape[1:]) for x in tensors(example))) from error


def _rest_of(model: nn.Module) -> int | None:
    """How many inputs stand before those that `*inputs` of `forward` takes; None where there is no such parameter."""
    try:
        kinds = [given.kind for given in inspect.signature(model.forward).parameters.values()]
    except ValueError:  # a scripted model has none; torch.export says what it is
        return None
    return kinds.index(inspect.Parameter.VAR_POSITIONAL) if inspect.Parameter.VAR_POSITIONAL in kinds else None


def _has_arguments(model: nn.Module, names: Collection[str]) -> bool:
    """Whether `forward` takes arguments of these names; where it takes none of them, a dict may be what it takes."""
    parameters = inspect.signature(model.forward).parameters
    return set(names) <= set(parameters) or any(given.kind is given.VAR_KEYWORD for given in parameters.values())


def _explained(error: Exception, shapes: Sequence[tuple[int, ...]]) -> CaptureError:
    text = str(error).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    line = _user_line(error)
    if isinstance(error, TypeError) and "argument" in first:
        return CaptureError(
            f"the model takes other inputs than the {len(shapes)} given: {first[:300]}", field="calibration",
            hint="give data of every input, in the order of forward's arguments or by their names",
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
        f"torch.export cannot capture the model for inputs of shape {shapes_text(shapes)}: {type(error).__name__}: "
        f"{first[:300]}", where=line, hint="check that the model runs on such an input in eval mode",
    )


def _user_line(error: BaseException) -> str:
    """The deepest frame below torch.export that is not torch's: where the user's model stopped."""
    frames = traceback.extract_tb(error.__traceback__)
    torchs = str(Path(torch.__file__).parent)
    entered = next((i for i, frame in enumerate(frames) if frame.filename.startswith(torchs)), len(frames))
    frames = [f for f in frames[entered:] if not f.filename.startswith(torchs) and f.line]
    return f"{frames[-1].filename}:{frames[-1].lineno}: {frames[-1].line}" if frames else ""
