"""Conditions on records as people write them: ``quality < 0.5 and label in ("glass", "veil")``.

The text is parsed, never executed: column names, numbers, strings, comparisons, ``in``, ``and``, ``or``, ``not`` and
``is None`` are all there is.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TRANSIENT_CODES, ConfigurationError, ErrorCode
from pipeline.schema import RECORDS

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_LONGEST = 10_000  # characters
_BYTES = ("alpha", "prompt_mask")


def parse(text: str) -> pc.Expression:
    """Return a condition as an expression for Arrow's filters.

    Args:
        text: Such as ``error_code == "image_unavailable"`` or ``quality < 0.5 or quality is None``. Columns are those
            of :data:`pipeline.schema.RECORDS`. A comparison with a missing value is false, ``!=`` included;
            ``not`` and ``not in`` are the opposite of what they stand before, so they include missing values.

    Raises:
        ConfigurationError: It is no such condition, or names no column.
    """
    try:
        if len(text) > _LONGEST:
            raise _refused("it is too long")
        condition = _condition(ast.parse(text.strip(), mode="eval").body)
        RECORDS.empty_table().filter(condition)
    except (SyntaxError, RecursionError, MemoryError, UnicodeError) as error:
        raise _refused(f"it can't be parsed ({error})") from None
    except (ValueError, TypeError, OverflowError, pa.ArrowException) as error:
        raise _refused(f"the condition {text[:200]!r} compares what can't be compared ({error})") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"the condition {text[:200]!r}: {error}") from None
    return condition


def of_codes(codes: str) -> str:
    """Return the condition that selects error codes.

    Args:
        codes: Separated by commas; ``all`` stands for every error, ``transient`` for faults that may
            have gone away by themselves.

    Raises:
        ConfigurationError: One of them is unknown.
    """
    names = [name.strip() for name in codes.split(",") if name.strip()]
    if names == ["all"]:
        return 'status == "error"'
    if names == ["transient"]:
        names = sorted(TRANSIENT_CODES)
    known = [str(code) for code in ErrorCode]
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ConfigurationError(
            f"unknown error code {', '.join(unknown) or '(none given)'}; known are all, transient, {', '.join(known)}"
        )
    return f"error_code in {tuple(map(str, names))!r}"


def _condition(node: ast.expr) -> pc.Expression:
    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return reduce(operator.and_, map(_condition, values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return reduce(operator.or_, map(_condition, values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~_condition(operand)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return _comparison(left, op, right)
        case ast.Name(id=name) if name in RECORDS.names and RECORDS.field(name).type == "bool":
            return pc.coalesce(pc.field(name), pc.scalar(False))  # as `transparent == True`
    raise _refused(f"{ast.unparse(node)[:100]!r} is no comparison; join several by and, or")


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
    column = _column(left)
    match op, right:
        case ast.Is(), ast.Constant(value=None):
            return column.is_null()
        case ast.IsNot(), ast.Constant(value=None):
            return column.is_valid()
        case ast.In() | ast.NotIn(), ast.Tuple(elts=parts) | ast.List(elts=parts):
            found = column.isin([_value(part) for part in parts])
            return ~found if isinstance(op, ast.NotIn) else found
    if type(op) not in _COMPARE:
        raise _refused(
            f"{ast.unparse(right)[:100]!r} can't be compared like that; use ==, !=, <, <=, >, >=, in, is None"
        )
    # Null counts as false, not as unknown: `not (quality < 0.5)` then includes what has no quality.
    return pc.coalesce(_COMPARE[type(op)](column, _value(right)), pc.scalar(False))


def _column(node: ast.expr) -> pc.Expression:
    match node:
        case ast.Name(id=name) if name in RECORDS.names and name not in _BYTES:
            return pc.field(name)
    known = ", ".join(name for name in RECORDS.names if name not in _BYTES)
    raise _refused(f"{ast.unparse(node)[:100]!r} is no column; columns are {known}")


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() as value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise _refused(f"{ast.unparse(node)[:100]!r} is no number and no string")


def _refused(reason: str) -> ConfigurationError:
    return ConfigurationError(f"{reason}. Example: quality < 0.5 and label == 'cat'")
