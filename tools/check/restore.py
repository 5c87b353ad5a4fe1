"""The frozen reference of an artifact: the passes are replayed on the model, the numbers are read from the artifact.

Scales and zero points stand in `manifest.json`, weight codes in `model.onnx`. The result is checked against the
manifest's table tensor by tensor, hashes of the codes included, so it is the reference or an error.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import fx

from isobit import build as story
from isobit.backends.base import BACKENDS
from isobit.backends.describe import tensor_table
from isobit.backends.regions import find_regions
from isobit.passes.freeze import freeze
from isobit.pipeline.artifact.manifest import Manifest, TensorEntry, read_manifest
from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.dialect import WEIGHTED
from isobit.pipeline.graph.nodes import bound_args, quantizer_of
from isobit.pipeline.graph.quantized_tensors import quantized_tensors
from isobit.pipeline.model.modelfile import LoadedModel
from isobit.pipeline.proof.parity import LOGITS
from isobit.pipeline.quant.grid import QParams
from isobit.pipeline.recipe.schema import Recipe
from isobit.pipeline.stages import Quantized, Reference

MODEL = "model.onnx"
_WEIGHT = {"Conv": 1, "Gemm": 1, "MatMul": 1, "QLinearConv": 3, "QGemm": 3}  # input that holds the weight


def restore(folder: Path, loaded: LoadedModel) -> Reference:
    """The reference that the artifact in `folder` was made from.

    Args:
        loaded: the model that it was built from.

    Raises:
        InputError: no artifact, another model, or a file whose numbers are not those of the manifest.
    """
    manifest = read_manifest(folder)
    if loaded.sha256 != manifest.model.sha256:
        raise InputError(f"the artifact was made from another model than '{loaded.name}'", where=str(folder))
    quantized = _replay(folder, manifest, loaded)
    graph = copy.deepcopy(quantized.graph)
    numbers = {entry.name: entry for entry in manifest.tensors}
    for tensor in quantized_tensors(graph):
        entry = numbers[tensor.name]
        tensor.quantizer.set_params(QParams(torch.tensor(entry.scale, dtype=torch.float32),
                                            torch.tensor(entry.zero_point, dtype=torch.int32)))
    for weight, codes in stored_weights(folder / MODEL, graph, quantized).items():
        quantizer = quantizer_of(graph, weight)
        codes = codes + quantizer.zero_point.reshape(-1, *[1] * (codes.dim() - 1))
        grid = quantizer.spec.grid
        if int(codes.min()) < grid.qmin or int(codes.max()) > grid.qmax:
            raise _changed(folder, weight.name, f"codes {int(codes.min())}..{int(codes.max())} leave its grid")
        quantizer.harden(codes)
    freeze(graph)
    _check(tensor_table(graph, quantized.target), manifest.tensors, folder)
    return Reference(graph, quantized)


def _replay(folder: Path, manifest: Manifest, loaded: LoadedModel) -> Quantized:
    recipe = Recipe.model_validate(yaml.safe_load(manifest.recipe.text))
    with np.load(folder / "golden.npz", allow_pickle=False) as golden:
        example = torch.from_numpy(golden["input"][:1])
    return story.plan(loaded, recipe, BACKENDS.get(manifest.target.name), example, manifest.target.profile)


def stored_weights(path: Path, graph: fx.GraphModule, quantized: Quantized) -> dict[fx.Node, torch.Tensor]:
    """int32 codes with zero point 0 of every layer's weight, by the node of the weight's quantizer."""
    import onnx.inliner
    import onnxruntime

    model = onnx.inliner.inline_local_functions(onnx.load(path))
    producers = {name: node for node in model.graph.node for name in node.output}
    wanted: dict[fx.Node, str] = {}
    for region in find_regions(graph, quantized.target):
        if region.integer and region.kind in WEIGHTED:
            output = region.quantizer.name if region.quantizer is not None else LOGITS
            wanted[bound_args(region.anchor)["weight"]] = _weight_name(producers, output)
    constants = {constant.name: constant for constant in model.graph.initializer}
    computed = sorted({name for name in wanted.values() if name not in constants})
    for name in computed:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sample = np.zeros((1, *quantized.captured.input_shape), np.float32)
    arrays = dict(zip(computed, session.run(computed, {"input": sample}), strict=True)) if computed else {}
    arrays |= {name: onnx.numpy_helper.to_array(constant) for name, constant in constants.items()}
    return {node: torch.from_numpy(arrays[name].astype(np.int32)) for node, name in wanted.items()}


def _weight_name(producers: dict[str, Any], output: str) -> str:
    """The value that holds the int8 codes of the layer that computes `output`."""
    node = producers[output]
    while node.op_type not in _WEIGHT:
        node = producers[node.input[0]]
    name = node.input[_WEIGHT[node.op_type]]
    maker = producers.get(name)
    return maker.input[0] if maker is not None and maker.op_type == "DequantizeLinear" else name


def _check(restored: list[TensorEntry], told: list[TensorEntry], folder: Path) -> None:
    for ours, theirs in zip(restored, told, strict=True):
        if ours != theirs:
            fields = [key for key, value in ours.model_dump().items() if value != getattr(theirs, key)]
            raise _changed(folder, theirs.name, f"{', '.join(fields)} differ")


def _changed(folder: Path, name: str, how: str) -> InputError:
    return InputError(
        f"'{name}' is not what the manifest says: {how}", where=str(folder / MODEL),
        hint="the file was changed after it was built, or this checkout plans the model differently",
    )
