"""Normalisations."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, operator

_AFFINE = {1: "weight", 2: "bias"}


@operator("BatchNormalization", parameters={**_AFFINE, 3: "running_mean", 4: "running_var"})
def batch_norm(call: Call) -> Tensor:
    """By the statistics in the file."""
    call.only(training_mode=0, spatial=1)
    weight, bias, mean, variance = (call.tensor(position) for position in range(1, 5))
    return F.batch_norm(call.tensor(0), mean, variance, weight, bias, False, 0.1, call.get("epsilon", 1e-5))


@operator("InstanceNormalization", parameters=_AFFINE)
def instance_norm(call: Call) -> Tensor:
    """Every channel of every sample by itself."""
    x = call.tensor(0)
    return F.instance_norm(x, weight=call.tensor(1), bias=call.tensor(2), eps=call.get("epsilon", 1e-5))


@operator("LayerNormalization", parameters=_AFFINE)
def layer_norm(call: Call) -> Tensor:
    """Over all axes from `axis` on."""
    if any(call.node.outputs[1:]):
        raise call.refused("mean and deviation are asked for", "the normalised tensor alone")
    x = call.tensor(0)
    shape = list(x.shape[call.get("axis", -1) % x.ndim:])
    weight, bias = call.tensor(1), call.optional(2)
    bias = bias.reshape(shape) if bias is not None and list(bias.shape) != shape else bias
    weight = weight if list(weight.shape) == shape else weight.expand(shape)
    return F.layer_norm(x, shape, weight, bias, call.get("epsilon", 1e-5))


@operator("GroupNormalization", parameters=_AFFINE)
def group_norm(call: Call) -> Tensor:
    """Over groups of channels; before opset 21 a factor for each group."""
    x, groups = call.tensor(0), call.get("num_groups")
    weight, bias = call.tensor(1), call.tensor(2)
    if weight.numel() != x.shape[1]:
        weight, bias = (each.repeat_interleave(x.shape[1] // groups) for each in (weight, bias))
    return F.group_norm(x, groups, weight, bias, call.get("epsilon", 1e-5))


@operator("LRN")
def local_response_norm(call: Call) -> Tensor:
    """Over neighbouring channels."""
    alpha, beta, bias = call.get("alpha", 1e-4), call.get("beta", 0.75), call.get("bias", 1.0)
    if call.get("size") % 2 == 0:
        raise call.refused(f"the size is {call.get('size')}", "an odd number of channels")
    return F.local_response_norm(call.tensor(0), call.get("size"), alpha, beta, bias)


@operator("LpNormalization")
def lp_normalization(call: Call) -> Tensor:
    """Divided by the norm along one axis."""
    return F.normalize(call.tensor(0), p=float(call.get("p", 2)), dim=call.get("axis", -1))


@operator("MeanVarianceNormalization")
def mean_variance_norm(call: Call) -> Tensor:
    """Mean 0 and variance 1 over `axes`."""
    x, axes = call.tensor(0), call.get("axes", [0, 2, 3])
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.pow(2).mean(axes, keepdim=True).sqrt() + 1e-9)
