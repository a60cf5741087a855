"""Numbers in texts: evaluate a formula, and compare the value with a number as it is written."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable
from decimal import Decimal

_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}


def evaluate_formula(formula: str) -> float:
    """The value of a formula of numbers, + - * / **, and parentheses.

    Raises:
        ValueError: the formula has anything else in it, or no finite value.
    """
    try:
        value = _value(ast.parse(formula, mode="eval").body)
    except (SyntaxError, ArithmeticError, RecursionError, TypeError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"'{formula}' is not a formula that can be computed")
    return value


def numbers_of_formula(formula: str) -> list[float]:
    """The numbers that a formula has, without their signs, in no particular order."""
    try:
        constants = [node.value for node in ast.walk(ast.parse(formula, mode="eval")) if isinstance(node, ast.Constant)]
    except (SyntaxError, RecursionError):
        return []
    return [float(value) for value in constants if isinstance(value, int | float)]


def agrees_with_written(computed: float, written: str) -> bool:
    """Whether a value, rounded to the decimals of `written`, equals `written` (a tie may be rounded either way)."""
    tolerance = 0.5 * 10.0 ** min(0, _exponent(written))
    return abs(computed - float(written)) <= tolerance * (1 + 1e-9)


def _exponent(written: str) -> int:
    exponent = Decimal(written).as_tuple().exponent
    return exponent if isinstance(exponent, int) else 0


def _value(node: ast.expr) -> float:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        result = _OPERATIONS[type(node.op)](_value(node.left), _value(node.right))
        return float(result)
    raise SyntaxError
