"""Conditions on the columns of rows, such as `clip_score >= 0.7 and not repeats`.

They have the syntax of Python, or of Arrow's expressions, `(field("clip_score") >= 0.7) & ~field("repeats")`;
Python's own parser reads them, and they become expressions of Arrow. Nothing is evaluated as Python code.
"""

import ast
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import and_, eq, ge, gt, le, lt, ne, or_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from glied.errors import UsageError

_COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], pc.Expression]] = {
    ast.Eq: eq, ast.NotEq: ne, ast.Lt: lt, ast.LtE: le, ast.Gt: gt, ast.GtE: ge,
}  # fmt: skip
_TEXT_TESTS: Mapping[str, Callable[[pc.Expression, str], pc.Expression]] = {
    "contains": lambda column, text: pc.match_substring(column, text, ignore_case=True),
    "starts_with": lambda column, text: pc.starts_with(column, text),
    "ends_with": lambda column, text: pc.ends_with(column, text),
}
_COUNTS: Mapping[str, Callable[[pc.Expression], pc.Expression]] = {
    "length": lambda column: pc.utf8_length(column),
    "words": lambda column: pc.list_value_length(pc.utf8_split_whitespace(pc.utf8_trim_whitespace(column))),
}
_COLUMN = ("column", "field", "pc.field")
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
GRAMMAR = (
    "comparisons of columns with values (== != < <= > >=, in [...], is null), and, or, not, parentheses, "
    "contains(column, 'text'), starts_with, ends_with, words(column), length(column), column('odd name')"
)
"""What a condition may hold, for messages."""
_LONGEST = 200
"""Characters of a condition that a message shows."""


class RowFilter:
    """A condition that rows fulfill or not; a row for which it is null does not.

    Attributes:
        text: the condition as it was given.
        columns: that it names.
    """

    def __init__(self, text: str) -> None:
        """Parse a condition.

        Raises:
            UsageError: it has another syntax.
        """
        self.text = text
        self.columns: list[str] = []
        try:
            self._expression = self._condition(ast.parse(text.strip(), mode="eval").body)
            if not self.columns:
                raise ValueError("it names no column")
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(f"where {text[:_LONGEST]!r}: {reason}; it may hold {GRAMMAR}") from error

    def check(self, schema: pa.Schema) -> None:
        """Refuse what does not fit the columns of rows.

        Raises:
            UsageError: a column is unknown, or has another type than the values it is compared with.
        """
        if unknown := [name for name in self.columns if name not in schema.names]:
            raise UsageError(
                f"where: the rows have no column {unknown[0]}; they have {', '.join(schema.names)}"
            )
        try:
            schema.empty_table().filter(self._expression)
        except pa.ArrowException as error:
            types = ", ".join(f"{name} is {schema.field(name).type}" for name in self.columns)
            reason = " ".join(str(error).split())
            raise UsageError(f"where {self.text!r}: the types do not fit ({types}): {reason}") from error

    def selected(self, table: pa.Table) -> pa.Table:
        """The rows that fulfill it."""
        return table.filter(self._expression)

    def positions(self, table: pa.Table) -> list[int]:
        """Positions of the rows that fulfill it, in order."""
        number = "".join(self.columns) + "#"  # no column of the condition has so long a name
        numbered = table.select(self.columns).append_column(
            number, pa.array(range(table.num_rows), pa.int64())
        )
        return self.selected(numbered)[number].to_numpy().tolist()

    def _condition(self, node: ast.expr) -> pc.Expression:
        if isinstance(node, ast.BoolOp):
            join = and_ if isinstance(node.op, ast.And) else or_
            return reduce(join, map(self._condition, node.values))
        if isinstance(node, ast.BinOp) and isinstance(
            node.op, ast.BitAnd | ast.BitOr
        ):  # as Arrow writes them
            join = and_ if isinstance(node.op, ast.BitAnd) else or_
            return join(self._condition(node.left), self._condition(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return ~self._condition(node.operand)
        if isinstance(node, ast.Compare):
            return self._comparison(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TEXT_TESTS:
            column, text = self._arguments(node, 2)
            return _TEXT_TESTS[node.func.id](self._operand(column), _text(text))
        return self._operand(node)

    def _comparison(self, node: ast.Compare) -> pc.Expression:
        """A comparison, or a chain of them: 0.2 < a < 0.5 is 0.2 < a and a < 0.5."""
        sides = [node.left, *node.comparators]
        pairs = zip(sides, node.ops, sides[1:], strict=False)
        return reduce(and_, (self._pair(left, op, right) for left, op, right in pairs))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(op, ast.In | ast.NotIn):
            values = [eq(self._operand(left), value) for value in _values(right)]
            found = reduce(or_, values) if values else pc.scalar(False)
            return found if isinstance(op, ast.In) else ~found
        if isinstance(op, ast.Is | ast.IsNot):
            if _constant(right) is not None:
                raise ValueError("`is` takes null, and == other values")
            found = self._operand(left).is_null()
            return found if isinstance(op, ast.Is) else ~found
        return _COMPARISONS[type(op)](self._operand(left), self._operand(right))

    def _operand(self, node: ast.expr) -> pc.Expression:
        """A column, a count of its text, or a value."""
        if isinstance(node, ast.Name) and node.id.lower() not in _CONSTANTS:
            return self._column(node.id)
        if not isinstance(node, ast.Call):
            return pc.scalar(_constant(node))
        name = ast.unparse(node.func)
        if name not in _COLUMN and name not in _COUNTS:
            raise ValueError(f"there is no function {name} for a comparison")
        (argument,) = self._arguments(node, 1)
        return self._column(_text(argument)) if name in _COLUMN else _COUNTS[name](self._operand(argument))

    def _column(self, name: str) -> pc.Expression:
        if name not in self.columns:
            self.columns.append(name)
        return pc.field(name)

    def _arguments(self, node: ast.Call, count: int) -> Sequence[ast.expr]:
        if node.keywords or len(node.args) != count:
            raise ValueError(f"{ast.unparse(node.func)} takes {count} argument{'s' if count > 1 else ''}")
        return node.args


def _constant(node: ast.expr) -> Any:
    """The value of a literal.

    Raises:
        ValueError: the node is something else.
    """
    if isinstance(node, ast.Name) and node.id.lower() in _CONSTANTS:
        return _CONSTANTS[node.id.lower()]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _constant(node.operand)
        if isinstance(number, int | float) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool | None):
        return node.value
    raise ValueError(f"{ast.unparse(node)} is neither a column nor a value")


def _text(node: ast.expr) -> str:
    value = _constant(node)
    if not isinstance(value, str):
        raise ValueError(f"{ast.unparse(node)} is no text in quotes")
    return value


def _values(node: ast.expr) -> list[Any]:
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        raise ValueError(f"{ast.unparse(node)} is no list of values")
    return [pc.scalar(_constant(one)) for one in node.elts]
