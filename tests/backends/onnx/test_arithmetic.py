"""Each formula against ONNX Runtime's own kernel, with random scales, round ones (ties), and both broadcasts."""

import numpy as np
import pytest
import torch

from isobit.backends.execution.codes import CodeGrid, Codes
from isobit.backends.onnx import arithmetic
from isobit.backends.onnx.arithmetic import IntegerArithmetic
from isobit.pipeline.errors import TargetError
from tests.examples.onnx_cases import frozen

pytestmark = pytest.mark.onnxruntime
ROUNDS = 12


def random_grid(rng, ties):
    scale = 2.0 ** rng.integers(-6, -3) if ties else rng.uniform(0.01, 0.1)
    return CodeGrid(torch.tensor(scale, dtype=torch.float32), int(rng.integers(0, 256)), 0, 255)


def codes_like(rng, shape, grid):
    return Codes(torch.from_numpy(rng.integers(0, 256, shape).astype(np.float32)), grid)


def kernel(op, inputs, attributes=None, domain="com.microsoft"):
    """One integer operator in a session of its own; array inputs of rank 4 are fed, the rest are initializers."""
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    names = [f"v{index}" for index in range(len(inputs))]
    fed = {name: value for name, value in zip(names, inputs, strict=True) if value.ndim == 4}
    constants = [numpy_helper.from_array(v, n) for n, v in zip(names, inputs, strict=True) if n not in fed]
    node = helper.make_node(op, names, ["y"], domain=domain, **(attributes or {}))
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, v.shape) for n, v in fed.items()],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)], constants,
    )
    opsets = [helper.make_opsetid("", 19), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, fed)[0]


def operands(*values):
    """code, scale, zero point of each; a bare grid gives scale and zero point."""
    found = []
    for value in values:
        grid = value.grid if isinstance(value, Codes) else value
        if isinstance(value, Codes):
            found.append(value.codes.numpy().astype(np.uint8))
        found += [np.asarray(float(grid.scale), np.float32), np.asarray(grid.zero_point, np.uint8)]
    return found


class Fresh:
    """Stands for an execution that remembers nothing."""

    def once(self, region, make):
        return make()


SHAPES = [((2, 5, 7, 9), (2, 5, 7, 9)), ((2, 5, 7, 9), (2, 5, 1, 1)), ((2, 5, 1, 1), (2, 5, 7, 9))]


@pytest.mark.parametrize("shapes", SHAPES, ids=["same", "right", "left"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_add_and_mul(op, ties, shapes):
    rng = np.random.default_rng(1)
    for _ in range(ROUNDS):
        left, right = (codes_like(rng, shape, random_grid(rng, ties)) for shape in shapes)
        grid = random_grid(rng, ties)
        if op == "QLinearMul":
            grid = CodeGrid(grid.scale * 8, grid.zero_point, 0, 255)
        expected = kernel(op, operands(left, right, grid))
        kernel_of = {"QLinearAdd": arithmetic.add, "QLinearMul": arithmetic.mul}[op]
        got = kernel_of(Fresh(), None, [left, right], grid)
        assert np.array_equal(got.numpy(), expected)


BROADCASTS = {
    "same": ((4, 16, 32, 32), (4, 16, 32, 32)), "map": ((4, 1, 32, 32), (4, 16, 32, 32)),
    "row": ((4, 16, 32, 32), (4, 16, 1, 32)), "column": ((4, 16, 32, 1), (4, 16, 32, 32)),
    "pixel": ((4, 16, 1, 1), (4, 16, 32, 32)), "both": ((4, 1, 32, 32), (4, 16, 1, 1)),
    "rows": ((4, 16, 1, 32), (4, 16, 32, 1)),
}


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("name", BROADCASTS)
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_every_broadcast_rounds_as_the_kernel_does_in_either_layout(op, name, last):
    """So many codes that a formula which rounds once more or less, or in another order, differs in some."""
    rng = np.random.default_rng(3)
    for _ in range(24):
        values = [codes_like(rng, shape, random_grid(rng, False)) for shape in BROADCASTS[name]]
        grid = random_grid(rng, False)
        add = op == "QLinearAdd"
        got = (arithmetic.add if add else arithmetic.mul)(Fresh(), None, values, grid)
        order, repeated = arithmetic.addends(*BROADCASTS[name]) if add else ((0, 1), False)
        first, second = (values[place] for place in order)
        if repeated:
            first = Codes(first.codes.expand(got.shape), first.grid)
        axes = (0, 2, 3, 1) if last else (0, 1, 2, 3)
        first, second = (Codes(value.codes.permute(axes).contiguous(), value.grid) for value in (first, second))
        found = kernel(op, operands(first, second, grid))
        assert np.array_equal(got.permute(axes).numpy(), found)


@pytest.mark.parametrize("ties", [False, True])
def test_global_average(ties):
    rng = np.random.default_rng(2)
    for size in [(7, 9), (1, 5), (8, 8), (4, 4)]:
        for _ in range(ROUNDS):
            x, grid = codes_like(rng, (2, 5, *size), random_grid(rng, ties)), random_grid(rng, ties)
            expected = kernel("QLinearGlobalAveragePool", operands(x, grid), {"channels_last": 0})
            assert np.array_equal(arithmetic.mean(None, None, [x], grid).clamp(0, 255).numpy(), expected)


def test_sigmoid():
    rng = np.random.default_rng(3)
    every_code = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16)
    for _ in range(4 * ROUNDS):
        x, grid = Codes(every_code, random_grid(rng, False)), CodeGrid(torch.tensor(1 / 255), 0, 0, 255)
        expected = kernel("QLinearSigmoid", operands(x, grid))
        assert np.array_equal(arithmetic.sigmoid(Fresh(), None, [x], grid).numpy(), expected)


@pytest.mark.parametrize(("scale", "zero", "out"), [
    (0.18330790102481842, 124, 1 / 255), (0.005793216172605753, 242, 0.002322013257071376),
    (0.0053075263276696205, 199, 0.002439855830743909), (1.0862628130325902e-08, 20, 1 / 255),
])
def test_sigmoid_is_the_runtimes_to_the_last_bit(scale, zero, out):
    """Tables of which one code lies so near the middle of two that another formula for the sigmoid gives the other."""
    grid = CodeGrid(torch.tensor(scale, dtype=torch.float32), zero, 0, 255)
    result = CodeGrid(torch.tensor(out, dtype=torch.float32), 0, 0, 255)
    x = Codes(torch.arange(256.0).reshape(1, 1, 16, 16), grid)
    expected = kernel("QLinearSigmoid", operands(x, result))
    assert np.array_equal(arithmetic.sigmoid(Fresh(), None, [x], result).numpy(), expected)
    plain = arithmetic.quantize_float(torch.sigmoid(arithmetic.dequantized(x)), result)
    assert not np.array_equal(plain.numpy(), expected)


def test_gate_codes_are_hardsigmoid_codes():
    """The codes of x + 3 on a grid six times as coarse are, in real numbers, those of hardsigmoid(x)."""
    every_code = torch.arange(256, dtype=torch.float32).reshape(1, 1, 16, 16)
    x = Codes(every_code, CodeGrid(torch.tensor(0.031), 120, 0, 255))
    grid = CodeGrid(torch.tensor(1 / 255), 0, 0, 255)
    exact = torch.nn.functional.hardsigmoid(x.centered.double() * 0.031) * 255
    codes = arithmetic.hardsigmoid(Fresh(), None, [x], grid)
    assert float((codes - exact).abs().max()) <= 0.5 + 1e-3


@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (3, 4, 1, 1), (3, 1, 1, 1), (1, 1, 1, 1), (2, 4, 5, 1), (2, 1, 1, 5)])
def test_the_constant_of_a_gate_is_added_in_one_order_whatever_the_shape(shape):
    """A constant in second place is added first where the last axis is 1, as it is between pooling and a gate."""
    rng = np.random.default_rng(5)
    for _ in range(40):
        fine = CodeGrid(torch.tensor(10 ** rng.uniform(-10, -6)).float(), int(rng.integers(256)), 0, 255)
        x = codes_like(rng, shape, fine)
        scale = torch.tensor(3 / (int(rng.integers(5, 200)) + 0.5) / 6).float()  # 3 lies in the middle of two codes
        grid = CodeGrid(scale, int(rng.integers(30)), 0, 255)
        three = [np.asarray(1, np.uint8), np.asarray(3, np.float32), np.asarray(0, np.uint8)]
        found = kernel("QLinearAdd", [*three, *operands(x, CodeGrid(scale * 6, grid.zero_point, 0, 255))])
        assert np.array_equal(arithmetic.hardsigmoid(Fresh(), None, [x], grid).numpy(), found)


def test_sums_of_one_number_whose_order_matters_are_refused():
    (region,) = [one for one in IntegerArithmetic(frozen("add")[0]).execution.regions if one.kind == "add"]
    rng, refused = np.random.default_rng(8), []
    for _ in range(60):
        a, b = (codes_like(rng, (1, 1, 1, 1), random_grid(rng, True)) for _ in range(2))
        grid = CodeGrid(random_grid(rng, True).scale * 0.7, 100, 0, 255)
        try:
            codes = arithmetic.add(Fresh(), region, [a, b], grid)
        except TargetError as error:
            refused.append(str(error))
        else:
            assert np.array_equal(codes.numpy(), kernel("QLinearAdd", operands(a, b, grid)))
    assert 0 < len(refused) < 60 and all("rounds a batch of one in another order" in each for each in refused)


@pytest.mark.parametrize("kernel", [arithmetic.add, arithmetic.mul, arithmetic.hardsigmoid])
def test_more_steps_than_int32_counts_are_refused(kernel):
    """ONNX Runtime's kernels give code 0 there, whichever end of the grid is meant."""
    (region,) = [region for region in IntegerArithmetic(frozen("add")[0]).execution.regions if region.kind == "add"]
    x = Codes(torch.zeros(1, 1, 2, 2), CodeGrid(torch.tensor(1e6), 0, 0, 255))
    inputs = [x] if kernel is arithmetic.hardsigmoid else [x, x]
    with pytest.raises(TargetError, match=r"add reads values up to .* steps of its result"):
        kernel(Fresh(), region, inputs, CodeGrid(torch.tensor(1e-3), 0, 0, 255))


def test_a_mean_that_the_kernel_does_not_compute_is_refused():
    (region,) = [one for one in IntegerArithmetic(frozen("add")[0]).execution.regions if one.kind == "mean"]
    x = Codes(torch.zeros(1, 1, 2, 2), CodeGrid(torch.tensor(1.0), 0, 0, 255))
    for scale in (0.9 / 256 / 4, 1.1 * 2.0**30):
        with pytest.raises(TargetError, match="adds up steps of"):
            arithmetic.mean(Fresh(), region, [x], CodeGrid(torch.tensor(scale), 0, 0, 255))
    assert arithmetic.mean(Fresh(), region, [x], CodeGrid(torch.tensor(1.1 / 256 / 4), 0, 0, 255)).shape == (1, 1, 1, 1)


def test_integer_arithmetic_is_near_the_exact_reference_and_not_the_same():
    """Two references differ by the requantization rule only: a few codes, by one step."""
    from isobit.backends.execution.exact import ExactArithmetic

    reference, images = frozen("add")
    exact, integer = ExactArithmetic(reference).run(images), IntegerArithmetic(reference).run(images)
    assert list(exact) == list(integer)
    steps = {name: np.abs(exact[name].astype(int) - integer[name].astype(int)) for name in exact if name != "logits"}
    assert max(int(value.max()) for value in steps.values()) <= 1
    assert sum(int((value > 0).sum()) for value in steps.values()) < 0.001 * sum(v.size for v in steps.values())
    assert np.allclose(exact["logits"], integer["logits"], atol=0.05)
