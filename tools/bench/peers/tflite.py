"""LiteRT files of a network: what litert-torch exports, and what LiteRT's own quantizer makes of it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isobit.backends.device.replay import CannotCheck

CALIBRATION = 4


def export(module: torch.nn.Module, sample: torch.Tensor, path: Path) -> Path:
    """The float file of a network for inputs of one size."""
    _need("litert_torch").convert(module.eval(), (sample,)).export(str(path))
    return path


def quantize(source: Path, path: Path) -> Path:
    """int8 weights per channel, int8 activations (recipe `static_wi8_ai8`), float32 in and out, as of others.

    Ranges are of random inputs: codes cost no time.
    """
    quantizer, recipe = _need("ai_edge_quantizer.quantizer"), _need("ai_edge_quantizer.recipe")
    names_of, ways = _need("ai_edge_quantizer.qtyping"), _need("ai_edge_quantizer.algorithm_manager")
    interpreter = _need("ai_edge_litert.interpreter").Interpreter(str(source))
    ((signature, names),) = interpreter.get_signature_list().items()
    shape = interpreter.get_input_details()[0]["shape"]
    random = np.random.default_rng(0)
    samples = [{names["inputs"][0]: random.standard_normal(shape).astype(np.float32)} for _ in range(CALIBRATION)]
    work = quantizer.Quantizer(str(source))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    for end in (names_of.TFLOperationName.INPUT, names_of.TFLOperationName.OUTPUT):
        work.update_quantization_recipe(regex=".*", operation_name=end, algorithm_key=ways.AlgorithmName.NO_QUANTIZE)
    work.quantize(work.calibrate({signature: samples})).export_model(str(path), overwrite=True)
    return path


def _need(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise CannotCheck(f"not installed: {name.partition('.')[0].replace('_', '-')} ({error})") from None
