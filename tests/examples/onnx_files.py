"""Small ONNX files made in code, and what ONNX Runtime and our reading of them say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from isobit.pipeline.model.onnx.batch import free_batch
from isobit.pipeline.model.onnx.file import open_file, read_graph
from isobit.pipeline.model.onnx.network import OnnxNetwork, build_network
from isobit.pipeline.model.onnx.proof import OnnxOrigin

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}


def write(
    path: Path, nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[int | str]], outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None, opset: int = 17, kinds: Mapping[str, int] | None = None,
) -> Path:
    """A file of float inputs; `kinds` says the element types of inputs and outputs that have another."""
    kinds = kinds or {}
    graph = helper.make_graph(
        list(nodes), "tests",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), list(s)) for n, s in inputs.items()],
        [helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, str(path))
    return path


def network(path: Path) -> tuple[OnnxNetwork, OnnxOrigin]:
    """The file as it is, without simplification, its batch freed."""
    graph = read_graph(open_file(path), path)
    built = build_network(graph)
    free_batch(built)
    return built, OnnxOrigin(path, graph.inputs, graph.outputs, graph.fixed_batch)


def single(
    tmp_path: Path, op: str, shape: Sequence[int | str], constants: Sequence[Any] = (), *, opset: int = 17,
    outputs: int = 1, kind: int = TensorProto.FLOAT, result: int = TensorProto.FLOAT, **attributes: Any,
) -> float:
    """Largest share by which one operator, read from a file, is off ONNX Runtime's answers to two samples."""
    names = [f"y{place}" for place in range(outputs)]
    held = {f"c{place}": value for place, value in enumerate(constants) if value is not None}
    given = [f"c{place}" if value is not None else "" for place, value in enumerate(constants)]
    node = helper.make_node(op, ["x", *given], names, name="tested", **attributes)
    path = write(tmp_path / "single.onnx", [node], {"x": shape}, names, held, opset,
                 {"x": kind, **dict.fromkeys(names, result)})
    built, origin = network(path)
    return max(origin.differences(built, origin.random_samples(2)).values())


def f32(*shape: int) -> np.ndarray:
    """Random weights, always the same."""
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def exported(built: OnnxNetwork, samples: Sequence[torch.Tensor]) -> torch.export.ExportedProgram:
    """The network captured with a free batch."""
    shapes = tuple({0: torch.export.Dim("batch", min=1)} for _ in samples)
    return torch.export.export(built, tuple(samples), dynamic_shapes=shapes)
