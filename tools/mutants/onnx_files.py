"""Damage of ONNX artifacts: mutants of their one model file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from isobit.backends.onnx.device.device_runner import MODEL
from isobit.pipeline.stages import Reference
from tools.mutants.onnx_model import Mutant, mutants
from tools.mutants.variants import Variant


class OnnxDamage:
    """`Damage` of both forms."""

    own_process = False  # the runtime checks a model before it runs it

    def variants(self, reference: Reference, folder: Path) -> Iterator[Variant]:
        content = (folder / MODEL).read_bytes()

        def edited(mutant: Mutant) -> Mapping[str, bytes]:
            model = onnx.load_model_from_string(content)
            mutant.edit(model)
            return {MODEL: model.SerializeToString(deterministic=True)}

        for mutant in mutants(onnx.load_model_from_string(content)):
            yield Variant(mutant.kind, mutant.name, lambda mutant=mutant: edited(mutant), mutant.rule)

    def loaded(self, folder: Path) -> object:
        """Nodes and constants of the model as a session runs it once constants are folded, and all that it states."""
        import onnxruntime

        stated = onnx.load(folder / MODEL)
        del stated.graph.node[:], stated.graph.initializer[:], stated.functions[:]

        with tempfile.TemporaryDirectory() as name:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.optimized_model_filepath = str(Path(name) / "loaded.onnx")
            onnxruntime.InferenceSession(str(folder / MODEL), options, providers=["CPUExecutionProvider"])
            graph = onnx.load(options.optimized_model_filepath).graph
        return stated.SerializeToString(deterministic=True), [sorted(
            each.SerializeToString(deterministic=True) for each in kind) for kind in (graph.node, graph.initializer)]
