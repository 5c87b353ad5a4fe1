"""Products of matrices."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from isobit.pipeline.model.onnx.call import Call, operator
from isobit.pipeline.model.onnx.graph import Node


def _prepare_gemm(node: Node, constants: dict[int, Tensor]) -> dict[int, Tensor]:
    """The weight [out, in] times alpha, the bias [out] times beta: as torch's Linear has them."""
    if 1 in constants and constants[1].ndim == 2:
        weight = constants[1] if node.attributes.get("transB", 0) else constants[1].t()
        constants[1] = (weight * node.attributes.get("alpha", 1.0)).contiguous()
        bias = constants.get(2)
        if bias is not None and bias.numel() in (1, weight.shape[0]):
            constants[2] = (bias.reshape(-1) * node.attributes.get("beta", 1.0)).expand(weight.shape[0]).contiguous()
    return constants


@operator("Gemm", parameters={1: "weight", 2: "bias"}, prepare=_prepare_gemm)
def gemm(call: Call) -> Tensor:
    """alpha * A @ B + beta * C; a linear layer where B is constant."""
    a = call.tensor(0).t() if call.get("transA", 0) else call.tensor(0)
    bias = call.optional(2)
    if 1 in call.constants:
        if bias is None or (2 in call.constants and bias.ndim == 1):
            return F.linear(a, call.tensor(1), bias)
        return F.linear(a, call.tensor(1)) + bias * call.get("beta", 1.0)
    b = call.tensor(1).t() if call.get("transB", 0) else call.tensor(1)
    result = torch.matmul(a, b)
    if call.get("alpha", 1.0) != 1.0:
        result = result * call.get("alpha")
    if bias is None:
        return result
    return result + (bias if call.get("beta", 1.0) == 1.0 else bias * call.get("beta"))


def _prepare_matmul(node: Node, constants: dict[int, Tensor]) -> dict[int, Tensor]:
    """A constant matrix [in, out] as the weight [out, in] of a linear layer."""
    if 1 in constants and constants[1].ndim == 2:
        constants[1] = constants[1].t().contiguous()
    return constants


@operator("MatMul", parameters={1: "weight"}, prepare=_prepare_matmul)
def matmul(call: Call) -> Tensor:
    """A linear layer where the second matrix is constant."""
    a, b = call.tensor(0), call.tensor(1)
    return F.linear(a, b) if 1 in call.constants and b.ndim == 2 else torch.matmul(a, b)


@operator("Einsum")
def einsum(call: Call) -> Tensor:
    """A sum over named axes."""
    return torch.einsum(call.get("equation"), *(call.tensor(position) for position in range(len(call.node.inputs))))
