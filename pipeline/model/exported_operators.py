"""Which operators an exported program may name: what computes on tensors and sizes, and nothing else.

A list and no rule, because PyTorch's own namespace also holds what reads files, prints, pickles and seeds.
"""

from __future__ import annotations

import re

import torch

from isobit.pipeline.operators.moves import MOVES
from isobit.pipeline.operators.unary import UNARY

# Each stands for all of its overloads but those that write into a given tensor (`out=`), and for its in-place form.
_FUNCTIONS = """
    _assert_scalar _assert_tensor_metadata _adaptive_avg_pool2d _log_softmax _native_batch_norm_legit_no_training
    _safe_softmax _softmax _to_copy _unsafe_view _upsample_bicubic2d_aa _upsample_bilinear2d_aa
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv affine_grid_generator alias all
    alpha_dropout amax amin any arange argmax argmin argsort asin asinh atan atan2 atanh avg_pool1d avg_pool2d
    avg_pool3d baddbmm batch_norm bilinear bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors
    broadcast_to bucketize cat cdist ceil celu channel_shuffle chunk clamp clamp_max clamp_min clip clone col2im
    concat concatenate constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d convolution copy copysign cos cosh cosine_similarity cross cummax cummin cumprod cumsum deg2rad
    detach detach_copy diag diag_embed diagonal div divide dot dropout einsum elu embedding empty_like eq erf erfc
    exp exp2 expand expand_as expm1 eye feature_alpha_dropout feature_dropout fill flatten flip fliplr flipud
    float_power floor floor_divide fmax fmin fmod frac frobenius_norm full full_like gather ge gelu glu greater
    greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gt hardshrink hardsigmoid hardswish
    hardtanh hypot im2col index index_add index_copy index_fill index_put index_select inner instance_norm isfinite
    isinf isnan kthvalue layer_norm le leaky_relu lerp less less_equal lift lift_fresh lift_fresh_copy linalg_norm
    linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_softmax logaddexp logical_and logical_not
    logical_or logical_xor logit logsumexp lstm lt masked_fill masked_scatter matmul max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool2d maximum
    mean median meshgrid min minimum mish mm moveaxis movedim mul multiply mv nan_to_num narrow native_batch_norm
    native_channel_shuffle native_group_norm native_layer_norm ne neg negative new_empty new_full new_ones new_zeros
    norm not_equal numpy_T one_hot ones ones_like outer pad permute pixel_shuffle pixel_unshuffle pow prelu prod
    rad2deg ravel reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder repeat
    repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj
    resolve_neg rms_norm roll rot90 round rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scatter
    scatter_add scatter_reduce select select_scatter selu sgn sigmoid sign silu sin sinc sinh slice slice_scatter
    softmax softplus softshrink sort split split_with_sizes sqrt square squeeze stack std std_mean sub subtract sum
    swapaxes swapdims sym_constrain_range sym_constrain_range_for_size sym_numel sym_size sym_storage_offset
    sym_stride t take take_along_dim tan tanh tensor_split tensordot threshold tile to topk transpose tril triu
    true_divide trunc type_as unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d var var_mean view view_as where xlogy zero zeros zeros_like
"""
FUNCTIONS = frozenset(_FUNCTIONS.split()) | {
    overload.overloadpacket.__name__ for row in MOVES.values() for overload in row.overloads
} | {name for name in UNARY if hasattr(torch.ops.aten, name)}

# Arithmetic on sizes. No powers and no shifts: both make numbers of any length from two short ones.
SIZE_FUNCTIONS = frozenset({
    *(f"_operator.{name}" for name in ("add", "and_", "eq", "floordiv", "ge", "gt", "le", "lt", "mod", "mul", "ne",
                                       "neg", "or_", "pos", "sub", "truediv")),
    *(f"torch.sym_{name}" for name in ("float", "int", "ite", "max", "min", "not", "sqrt")),
    "math.trunc",
})  # fmt: skip
_ATEN = re.compile(r"torch\.ops\.aten\.([A-Za-z]\w*|_[a-z]\w*)\.([A-Za-z]\w*)", re.ASCII)


def is_known(target: str) -> bool:
    """Whether a program may call `target`, as an exported program spells it: `torch.ops.aten.conv2d.default`."""
    if target in SIZE_FUNCTIONS:
        return True
    found = _ATEN.fullmatch(target)
    if found is None:
        return False
    name, overload = found.groups()
    if name not in FUNCTIONS and name.removesuffix("_") not in FUNCTIONS:
        return False
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        return False
    schema = getattr(packet, overload)._schema
    tensors = bool(schema.returns) and all("Tensor" in str(result.type) for result in schema.returns)
    writes = any(argument.is_out for argument in schema.arguments)
    return (tensors or name.startswith(("sym_", "_assert_"))) and not writes
