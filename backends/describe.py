"""The per-tensor table of the manifest: bits, levels, scale, zero point and a hash of every constant's codes."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import fx

from isobit.pipeline.artifact.manifest import TensorEntry
from isobit.pipeline.capture.sample_layout import samples_of
from isobit.pipeline.graph.calls import Call, Calls
from isobit.pipeline.graph.layers import Layers
from isobit.pipeline.quant.quantizer import Quantizer
from isobit.pipeline.target import Target


def tensor_table(graph: fx.GraphModule, target: Target) -> list[TensorEntry]:
    """One entry per quantized tensor of a frozen graph, in execution order."""
    entries, calls = [], Calls(graph)
    layers = Layers(calls)
    for call in calls:
        quantizer, bias = call.quantizer, call.bias_quantizer
        if quantizer is not None:
            entries.append(_entry(call, layers.name(call), quantizer, target))
        elif bias is not None:
            entries.append(TensorEntry(
                name=call.name, module=layers.name(call), kind="bias", bits=32, signed=True, symmetric=True,
                axis=0 if bias.scale.dim() else None, scale=bias.scale.tolist(),
                zero_point=torch.zeros_like(bias.scale, dtype=torch.int32).tolist(),
                container=target.containers["bias"], count=bias.decided.numel(),
                codes_sha256=_digest(bias.decided),
            ))
    return entries


def _entry(call: Call, module: str, quantizer: Quantizer, target: Target) -> TensorEntry:
    kind = "weight" if call.constant else "activation"
    spec = quantizer.spec
    channel_bits = None if quantizer.channel_bits is None else quantizer.channel_bits.tolist()
    return TensorEntry(
        name=call.name, module=module, kind=kind, bits=spec.grid.mean_bits(channel_bits),
        signed=spec.grid.signed, symmetric=spec.symmetric, axis=spec.axis, scale=quantizer.scale.tolist(),
        zero_point=quantizer.zero_point.tolist(), container=target.containers[kind],
        count=None if quantizer.codes is None else quantizer.codes.numel(),
        codes_sha256=None if quantizer.codes is None else _digest(quantizer.codes),
        levels=spec.grid.kind, channel_bits=channel_bits,
        elements=_elements(call) if kind == "activation" else None,
    )


def _elements(call: Call) -> int:
    """Elements of one sample."""
    samples = samples_of(call.node)
    return samples.outer * samples.inner * math.prod(size for size in call.shape if size is not None)


def _digest(codes: torch.Tensor) -> str:
    """SHA-256 of the codes as little-endian int32 in row-major order."""
    return hashlib.sha256(codes.to(torch.int32).contiguous().numpy().astype("<i4").tobytes()).hexdigest()
