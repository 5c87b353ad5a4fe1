"""Expressions of sizes: what torch writes is understood, and nothing that could compute something else."""

import pytest
import sympy
from torch.utils._sympy import functions

from isobit.pipeline.model.exported_expressions import MAX_LENGTH, is_expression, is_guard

S0, S77 = (sympy.Symbol(name, positive=True, integer=True) for name in ("s0", "s77"))


@pytest.mark.parametrize(
    "expression",
    [
        S77, 2 * S77 + 1, S0 * S77 - 3, S0**2, S0 / 2, sympy.Max(S0, 1), sympy.Eq(S0, 1), S0 > 3, sympy.Ne(S0, S77),
        functions.FloorDiv(S0, 2), functions.Mod(S0, 2), functions.ModularIndexing(S0, 1, 2), sympy.Float(0.5) * S0,
        sympy.And(S0 > 2, S77 < 5), sympy.true, sympy.floor(S0 / 3), functions.CeilToInt(S0 / 2),
        functions.IntTrueDiv(S0, S77), 1 / (S0 + 1),
    ],
)  # fmt: skip
def test_what_torch_writes_is_understood(expression):
    assert is_expression(sympy.srepr(expression))
    assert is_expression(str(expression)) or expression is sympy.true


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "__import__('os').system('true')", "().__class__", "s0.is_integer", "s0[0]", "lambda: 1", "[1]",
        "'s0'", "Symbol('x')", "Symbol('s0\\n')", "Symbol(s0)", "Symbol('s0', positive=print())", "Integer('1')",
        "Integer(Integer(1))", "Float('1e999')", "Float('0.5', precision=10**9)", "9**9**9", "(9**8)**8", "s0**9999",
        "Pow(Integer(9), Integer(9))", "Pow(Symbol('s0'), Symbol('s0'))", "LShift(1, 9999999999)",
        "10000000000000000000000", "Function('f')(s0)", "Max(*[1])", "Max(key=s0)", "s99999999", "eval('1')", "s0;s0",
        "S('1')", "(s0 for s0 in s0)", "f'{s0}'", "5j", "s0 if s0 else s0", "s0 := 1", "Rational(1, 0)",
        "(" * 400 + "s0" + ")" * 400, "s0+" * MAX_LENGTH + "s0", "s\u0660",
    ],
)  # fmt: skip
def test_everything_else_is_refused(text):
    assert not is_expression(text)


def test_guards():
    assert is_guard("L['x'].size()[0] >= 2 and L['args'][0].size()[1] % 2 == 0")
    for text in ("__import__('os')", "print(1)", "L['x'].__class__", "L['x'].size().append(1)", "(lambda: 1)()"):
        assert not is_guard(text), text
