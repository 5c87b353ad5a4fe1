"""Operators of one tensor, written down a second time: all of them, and each computes its row's formula."""

import math

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from isobit.backends.onnx.readback.unary import UNARY
from isobit.backends.onnx.readback.vocabulary import OPSET
from isobit.pipeline.operators.unary import UNARY as ROWS

X = np.linspace(0.05, 3.0, 41, dtype=np.float32) * np.where(np.arange(41) % 3, 1, -1).astype(np.float32)
PARAMETERS = {
    "hardtanh": {"min_val": -0.3, "max_val": 0.7}, "threshold": {"threshold": 0.4, "value": -1.0},
    "leaky_relu": {"negative_slope": 0.07}, "prelu": {"weight": 0.3},
    "elu": {"alpha": 0.7, "scale": 1.3, "input_scale": 0.8}, "celu": {"alpha": 0.6}, "gelu": {"approximate": "none"},
    "softplus": {"beta": 2.0, "threshold": 3.0}, "hardshrink": {"lambd": 0.4}, "softshrink": {"lambd": 0.4},
    "pow": {"exponent": 2.0}, "pow_of_number": {"self": 1.7},
    **{name: {"other": 0.6} for name in ROWS if name.endswith("_constant")},
}
OTHERS = [("elu", {"alpha": 0.7, "scale": 1.0, "input_scale": 1.0}), ("celu", {"alpha": -0.6}),
          ("gelu", {"approximate": "tanh"}), ("softplus", {"beta": 1.0, "threshold": 20.0}),
          ("threshold", {"threshold": 0.4, "value": 0.4})]
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt"}


class Evaluated:
    """Computes what a form says, by the reference implementation of the standard."""

    rank = 4

    def __call__(self, op, *inputs, **attributes):
        arrays = [np.asarray(each, np.float32 if op != "Where" or place else bool) for place, each in enumerate(inputs)]
        names = [f"x{place}" for place in range(len(arrays))]
        node = helper.make_node(op, names, ["y"], **attributes)
        ports = [helper.make_value_info(name, helper.make_tensor_type_proto(
            helper.np_dtype_to_tensor_dtype(each.dtype), None)) for name, each in zip(names, arrays, strict=True)]
        result = helper.make_tensor_value_info("y", TensorProto.BOOL if op == "Greater" else TensorProto.FLOAT, None)
        model = helper.make_model(helper.make_graph([node], "g", ports, [result]),
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        return ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))[0]

    def column(self, weight, rank):
        return np.float32(weight)


def test_every_row_is_written_a_second_time():
    assert UNARY.keys() == ROWS.keys()


@pytest.mark.parametrize(("name", "parameters"), [*((name, PARAMETERS.get(name, {})) for name in UNARY), *OTHERS])
def test_a_form_computes_the_formula_of_its_row(name, parameters):
    x = np.abs(X) if name in POSITIVE else X
    wanted = ROWS[name].formula(x.astype(np.float64), **parameters)
    found = UNARY[name](Evaluated(), x, **parameters)
    assert np.isfinite(wanted).all() and not math.isclose(float(np.ptp(wanted)), 0)
    assert np.allclose(found, wanted, rtol=2e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["expm1", "log1p"])
def test_no_end_of_a_function_turns_into_no_number(name):
    ends = np.float32([[-1, -1 + 1e-7, -0.5, -1e-30, 0, 0.5, 90, 1e30, np.inf, -np.inf if name == "expm1" else 1]])
    assert np.allclose(UNARY[name](Evaluated(), ends), getattr(np, name)(ends), rtol=1e-5)
