"""The reference evaluated exactly: the frozen graph in float64, with the integer code of every quantized tensor.

Float64 does not depend on the order of summation, so this is the mathematical truth of the frozen graph; what remains
between it and a runtime is the runtime's requantization rule.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from pipeline.graph import is_constant, quantizer_of
from pipeline.parity import LOGITS, Followed
from pipeline.samples import samples_of
from pipeline.stages import Reference


class _CodeRecorder(fx.Interpreter):
    """Runs a frozen graph and keeps the stored codes of every activation quantizer."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.codes: dict[str, Tensor] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        quantizer = quantizer_of(self.module, n)
        if quantizer is not None and not is_constant(n):
            codes = quantizer.quantize(self.fetch_args_kwargs_from_env(n)[0][0])
            self.codes[n.name] = samples_of(n).gather((codes - quantizer.spec.grid.qmin).to(torch.uint8))
        return value


class ExactArithmetic:
    """`Arithmetic` of the exact evaluation.

    Codes are reported as runtimes store them: shifted to uint8, `code - qmin`. No boundary of a float operator stands
    out: everything is float64, the runtime that is compared with it (PyTorch on the saved graph) included.
    """

    float_boundaries: tuple[str, ...] = ()
    float_output = False

    def __init__(self, reference: Reference) -> None:
        self.graph = copy.deepcopy(reference.graph).double()

    def run(self, x: Tensor) -> Mapping[str, np.ndarray]:
        """Codes uint8 by quantizer name in execution order, and float32 logits."""
        recorder = _CodeRecorder(self.graph)
        # What an interpreter no longer needs it drops; a quantizer's input is still needed for its codes.
        recorder.garbage_collect_values = False
        with torch.no_grad():
            logits = recorder.run(x.double())
        results = {name: codes.contiguous().numpy() for name, codes in recorder.codes.items()}
        return {**results, LOGITS: logits.float().numpy()}

    def follow(self, x: Tensor, codes: Mapping[str, np.ndarray]) -> Followed:
        """`run`: there is nothing to take over."""
        return Followed(self.run(x), {})
