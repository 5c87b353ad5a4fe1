"""Expressions of sizes in exported programs: which texts are arithmetic on symbols and whole numbers, nothing else.

Torch gives them to `sympy.sympify`, which evaluates its text as Python. Here they are parsed, never evaluated. There
are two spellings: `2*s0`, and sympy's own `Mul(Integer(2), Symbol('s0', positive=True, integer=True))`.
"""

from __future__ import annotations

import ast
import re

SYMBOL = re.compile(r"(?:s|u|zf|zuf)\d{1,4}", re.ASCII)
MAX_LENGTH = 1000
MAX_NUMBER = 2**63
MAX_EXPONENT = 8
_FLOAT = re.compile(r"-?\d{1,40}(?:\.\d{1,40})?(?:e[+-]?\d{1,2})?", re.ASCII)
# The functions of sympy and of torch.utils._sympy.functions that sizes are made of. None makes a number longer than
# its arguments together: powers of numbers and shifts are missing.
_FUNCTIONS = frozenset({
    "Add", "And", "CeilDiv", "CeilToInt", "CleanDiv", "Eq", "Equality", "FloatTrueDiv", "FloorDiv", "FloorToInt", "Ge",
    "GreaterThan", "Gt", "Identity", "IntTrueDiv", "Le", "LessThan", "Lt", "Max", "Min", "Mod", "ModularIndexing",
    "Mul", "Ne", "Not", "Or", "PythonMod", "RoundToInt", "StrictGreaterThan", "StrictLessThan", "ToFloat",
    "TruncToFloat", "TruncToInt", "Unequality", "Where", "ceiling", "floor",
})  # fmt: skip
_BINARY = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr)
_UNARY = (ast.UAdd, ast.USub, ast.Invert)
_GUARD = (
    ast.Constant, ast.Subscript, ast.Compare, ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.boolop, ast.operator, ast.unaryop,
    ast.cmpop, ast.expr_context,
)  # fmt: skip
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)


def is_expression(text: str) -> bool:
    """Whether `text` is arithmetic on whole numbers and symbols such as s0."""
    if len(text) > MAX_LENGTH or not text.isascii() or not text.isprintable():
        return False
    try:
        return _is_arithmetic(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def is_guard(text: str) -> bool:
    """Whether `text` is a condition on sizes of inputs: `L['x'].size()[0] >= 2`."""
    if len(text) > MAX_LENGTH:
        return False
    try:
        return all(_is_part_of_guard(node) for node in ast.walk(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_part_of_guard(node: ast.AST) -> bool:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return not name.startswith("_")
        case ast.Call(func=ast.Attribute(attr=method)):
            return method in ("size", "stride", "storage_offset")
    return isinstance(node, _GUARD)


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return abs(value) < MAX_NUMBER
        case ast.Name(id=symbol):
            return SYMBOL.fullmatch(symbol) is not None or symbol in ("true", "false")
        case ast.UnaryOp(op=op, operand=operand):
            return isinstance(op, _UNARY) and _is_arithmetic(operand)
        case ast.BinOp(left=base, op=ast.Pow(), right=exponent):
            return _is_power(base, exponent)
        case ast.BinOp(left=left, op=op, right=right):
            return isinstance(op, _BINARY) and _is_arithmetic(left) and _is_arithmetic(right)
        case ast.Compare(left=left, ops=ops, comparators=others):
            return all(isinstance(op, _COMPARISONS) for op in ops) and all(map(_is_arithmetic, [left, *others]))
        case ast.Call(func=ast.Name(id=function), args=arguments, keywords=keywords):
            return _is_call(function, arguments, keywords)
    return False


def _is_call(function: str, arguments: list[ast.expr], keywords: list[ast.keyword]) -> bool:
    match function, arguments:
        case "Symbol", [ast.Constant(value=str() as symbol)]:
            flags = all(
                isinstance(keyword.value, ast.Constant) and keyword.arg and keyword.value.value in (True, False)
                for keyword in keywords
            )
            return SYMBOL.fullmatch(symbol) is not None and flags
        case "Float", [ast.Constant(value=str() as number)]:
            match keywords:
                case [ast.keyword(arg="precision", value=ast.Constant(value=int() as bits))]:
                    return _FLOAT.fullmatch(number) is not None and 0 < bits <= 64
            return False
        case "Integer", [number]:
            return not keywords and _whole(number) is not None
        case "Rational", [top, bottom]:
            return not keywords and _whole(top) is not None and _whole(bottom) not in (None, 0)
        case "Pow", [base, exponent]:
            return not keywords and _is_power(base, exponent)
    return function in _FUNCTIONS and not keywords and all(map(_is_arithmetic, arguments))


def _is_power(base: ast.expr, exponent: ast.expr) -> bool:
    """A small power of a symbol: one of a number is a number of any length."""
    match exponent:
        case ast.Call(func=ast.Name(id="Integer"), args=[number], keywords=[]):
            exponent = number
    power = _whole(exponent)
    match base:
        case ast.Name(id=symbol) if SYMBOL.fullmatch(symbol):
            pass
        case ast.Call(func=ast.Name(id="Symbol"), args=arguments, keywords=keywords):
            if not _is_call("Symbol", arguments, keywords):
                return False
        case _:
            # The reciprocal of anything is as long as the thing itself.
            return power == -1 and _is_arithmetic(base)
    return power is not None and abs(power) <= MAX_EXPONENT


def _whole(node: ast.expr) -> int | None:
    match node:
        case ast.Constant(value=int() as value) if abs(value) < MAX_NUMBER:
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() as value)) if abs(value) < MAX_NUMBER:
            return -value
    return None
