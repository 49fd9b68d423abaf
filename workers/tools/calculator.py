"""Arithmetic from text by Python's own parser, without `eval`: numbers, + - * / // % **, brackets. Knows no names."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

Number: TypeAlias = int | float

MAX_CHARACTERS: Final = 500
MAX_EXPONENT: Final = 1_000
MAX_DIGITS: Final = 4_000
"""2**1000**… must not eat the worker: bases and results are bounded."""

_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {ast.UAdd: operator.pos, ast.USub: operator.neg}


class NotArithmetic(ValueError):
    """The text is not an expression this calculator knows; the message is for the model."""


def calculate(expression: str) -> str:
    """The value of an expression as text. Raises NotArithmetic.

    >>> calculate("6*7")
    '42'
    """
    if len(expression) > MAX_CHARACTERS:
        raise NotArithmetic(f"an expression has at most {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
        value = _value(tree.body)
    except (SyntaxError, RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, NotArithmetic):
            raise
        raise NotArithmetic("that is not an arithmetic expression") from error
    except ZeroDivisionError as error:
        raise NotArithmetic("division by zero") from error
    except OverflowError as error:
        raise NotArithmetic("the result is too large") from error
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


def _value(node: ast.expr) -> Number:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            return _bounded(value)
        case ast.UnaryOp(op=sign, operand=operand) if type(sign) in _UNARY:
            result: Number = _UNARY[type(sign)](_value(operand))
            return result
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _power(_value(left), _value(right))
        case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _BINARY:
            return _bounded(_BINARY[type(sign)](_value(left), _value(right)))
    raise NotArithmetic("only numbers, + - * / // % ** and brackets")


def _power(base: Number, exponent: Number) -> Number:
    if abs(exponent) > MAX_EXPONENT or abs(base) > 10**12:
        raise NotArithmetic("the power is too large")
    result = base**exponent
    if isinstance(result, complex):
        raise NotArithmetic("the root of a negative number")
    return _bounded(result)


def _bounded(value: Number) -> Number:
    if isinstance(value, int) and value.bit_length() > MAX_DIGITS * 3:
        raise NotArithmetic("the result is too large")
    return value
