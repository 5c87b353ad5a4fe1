"""A module with the interface of a real one and three small layers, for the tests of the device side.

Its layers are TVM's own tensor expressions, compiled in a second: 3 x 8 x 8 images, a 1 x 1 convolution to 16
channels, a linear layer to 4 classes. `expected` says in numpy what every function returns.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isobit.backends.fixed_point.program import Buffer, Program
from isobit.backends.tvm.kernels.kernel import Argument, Code, make_kernel

SCALE, ZERO = np.float32(0.05), 100
MULTIPLIER, SHIFT = 90_000_001, 34
_RNG = np.random.default_rng(0)
WEIGHT = _RNG.integers(-128, 128, (16, 3)).astype(np.int8)
# Unsigned, so that a loop over it is a dot product of one signedness: `udot` on processors that have it.
HEAD = _RNG.integers(0, 256, (4, 1024)).astype(np.uint8)
LOGIT_SCALE = np.float32(0.001)
PROGRAM = Program(
    (
        Buffer("input_q", (8, 8, 3), ZERO, float(SCALE), True, (3, 8, 8)),
        Buffer("layer_q", (8, 8, 16), 0, 1.0, True, (16, 8, 8)),
    ),
    (), (4,),
)


def images(count: int, seed: int = 1) -> np.ndarray:
    """float32 [count, 3, 8, 8]; some lie beyond the grid's ends."""
    return np.random.default_rng(seed).normal(0, 4, (count, 3, 8, 8)).astype(np.float32)


def expected(x: np.ndarray) -> dict[str, np.ndarray]:
    """Codes by name in the graph's shapes, and `logits`, of x float32 [N, 3, 8, 8]."""
    codes = np.clip(np.rint(x / SCALE) + np.float32(ZERO), 0, 255).astype(np.uint8)
    sums = np.einsum("nchw,kc->nkhw", codes.astype(np.int64) - ZERO, WEIGHT.astype(np.int64))
    layer = np.clip((sums * MULTIPLIER + (1 << SHIFT - 1)) >> SHIFT, 0, 255).astype(np.uint8)
    dot = layer.transpose(0, 2, 3, 1).reshape(len(x), -1).astype(np.int64) @ HEAD.T.astype(np.int64)
    return {"input_q": codes, "layer_q": layer, "logits": dot.astype(np.float32) * LOGIT_SCALE}


def build(path: Path, target: dict, compiler: str, head: np.ndarray = HEAD) -> None:
    """Write the module: `main`, `codes` and `trace`, as every `model.so` of the target has them."""
    import tvm
    from tvm import relax
    from tvm.support import cc

    made = tvm.target.Target(target)
    executable = relax.build(_module(head), made, relax_pipeline=relax.backend.cpu_generic.get_default_pipeline(made))
    executable.export_library(str(path), fcompile=cc.cross_compiler(compiler, options=["-s"]))


def _module(head):
    from tvm import relax

    builder = relax.BlockBuilder()
    arguments = [Argument("image", (1, 3, 8, 8), "float32"), Argument("codes", (1, 8, 8, 3), "uint8")]
    quantize = make_kernel(arguments, _quantize, foreign=True).with_attr("global_symbol", "quantize")
    kernel = builder.add_func(quantize, "quantize")
    codes = relax.TensorType((1, 8, 8, 3), "uint8")
    for name in ("main", "codes", "trace"):
        shape, dtype = ((1, 8, 8, 3), "uint8") if name == "codes" else ((1, 3, 8, 8), "float32")
        x = relax.Var("x", relax.TensorType(shape, dtype))
        with builder.function(name, [x]):
            q = x if name == "codes" else builder.emit(relax.call_tir(kernel, [x], codes))
            layer = builder.emit_te(_layer, q, relax.const(WEIGHT))
            logits = builder.emit_te(_head, layer, relax.const(head))
            builder.emit_func_output(relax.Tuple([q, layer, logits]) if name == "trace" else logits)
    return builder.get()


def _quantize(code: Code) -> None:
    T = code.T
    with code.loop("row", 8, shared=True) as h, code.loop("column", 8) as w, code.loop("channel", 3) as c:
        rounded = T.nearbyint(code["image"][0, c, h, w] / T.float32(float(SCALE))) + T.float32(ZERO)
        clipped = T.max(T.min(rounded, T.float32(255)), T.float32(0))
        code.store(code["codes"], (0, h, w, c), T.Cast("uint8", clipped))


def _layer(x, weight):
    from tvm import te, tirx

    c = te.reduce_axis((0, 3), name="c")
    sums = te.compute(
        (1, 8, 8, 16),
        lambda n, h, w, k: te.sum((x[n, h, w, c].astype("int32") - ZERO) * weight[k, c].astype("int32"), axis=c),
    )

    def code(*at):
        scaled = sums(*at).astype("int64") * tirx.const(MULTIPLIER, "int64") + tirx.const(1 << SHIFT - 1, "int64")
        shifted = scaled >> tirx.const(SHIFT, "int64")
        return tirx.max(tirx.min(shifted, tirx.const(255, "int64")), tirx.const(0, "int64")).astype("uint8")

    return te.compute((1, 8, 8, 16), code, name="layer")


def _head(x, weight):
    from tvm import te, tirx

    j = te.reduce_axis((0, 1024), name="j")
    sums = te.compute(
        (1, 4),
        lambda n, k: te.sum(
            x[n, j // 128, j % 128 // 16, j % 16].astype("int32") * weight[k, j].astype("int32"), axis=j
        ),
    )
    return te.compute((1, 4), lambda n, k: sums(n, k).astype("float32") * tirx.const(float(LOGIT_SCALE), "float32"))
