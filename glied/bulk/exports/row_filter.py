"""Conditions on the columns of rows, such as `clip_score >= 0.7 and not repeats`.

They have the syntax of Python, or of Arrow's expressions, `(field("clip_score") >= 0.7) & ~field("repeats")`;
Python's own parser reads them, and they become expressions of Arrow. Nothing is evaluated as Python code.
"""

import ast
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
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
    "words": lambda column: _words(pc.utf8_trim_whitespace(column)),
}
_COLUMN = ("column", "field", "pc.field")
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
GRAMMAR = (
    "comparisons of columns with values (== != < <= > >=, in [...], is null), and, or, not, parentheses, "
    "contains(column, 'text'), starts_with, ends_with, words(column), length(column), column('odd name')"
)
"""What a condition may hold, for messages."""
_NULL = pc.scalar(None).cast(pa.bool_())  # type: ignore[arg-type]  # the stubs lack None
_LARGEST = 2**63 - 1
"""Largest integer of 64 bits."""
_LONGEST = 200
"""Characters of a condition that a message shows."""
MOST_PARTS = 1000
"""Comparisons and other conditions in one; Arrow ends the process where expressions are nested too deeply."""


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
        try:
            self._parsed = ast.parse(text.strip(), mode="eval").body
            translation = _Translation()
            translation.condition(self._parsed)
            if not translation.columns:
                raise ValueError("it names no column")
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise UsageError(f"where {text[:_LONGEST]!r}: {reason}; it may hold {GRAMMAR}") from error
        self.columns = translation.columns

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
            self.selected(schema.empty_table())
        except (pa.ArrowException, ValueError) as error:
            types = ", ".join(f"{name} is {schema.field(name).type}" for name in self.columns)
            reason = " ".join(str(error).split())
            raise UsageError(
                f"where {self.text[:_LONGEST]!r}: the types do not fit ({types}): {reason}"
            ) from error

    def selected(self, table: pa.Table) -> pa.Table:
        """The rows that fulfill it."""
        return table.filter(_Translation(table.schema).condition(self._parsed))

    def positions(self, table: pa.Table) -> list[int]:
        """Positions of the rows that fulfill it, in order."""
        number = "".join(self.columns) + "#"  # no column of the condition has so long a name
        numbered = table.select(self.columns).append_column(
            number, pa.array(range(table.num_rows), pa.int64())
        )
        return self.selected(numbered)[number].to_numpy().tolist()


class _Translation:
    """Makes an expression of Arrow from a parsed condition.

    Attributes:
        columns: that the condition names.
        schema: the types of the columns; None while they are not known.
    """

    def __init__(self, schema: pa.Schema | None = None) -> None:
        self.schema = schema
        self.columns: list[str] = []
        self._parts = 0

    def condition(self, node: ast.expr) -> pc.Expression:
        """The expression of a condition.

        Raises:
            ValueError: it has another syntax, or too many parts.
        """
        self._count()
        if isinstance(node, ast.BoolOp):
            join = and_ if isinstance(node.op, ast.And) else or_
            return _joined(join, map(self.condition, node.values))
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
            join = and_ if isinstance(node.op, ast.BitAnd) else or_  # as Arrow writes them
            return _joined(join, map(self.condition, _chained(node, type(node.op))))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            return ~self.condition(node.operand)
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
        return _joined(and_, (self._pair(left, op, right) for left, op, right in pairs))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        if isinstance(op, ast.In | ast.NotIn):
            found = self._membership(left, _values(right))
            return found if isinstance(op, ast.In) else ~found
        if isinstance(op, ast.Is | ast.IsNot):
            if _constant(right) is not None:
                raise ValueError("`is` takes null, and == other values")
            found = self._operand(left).is_null()
            return found if isinstance(op, ast.Is) else ~found
        return self._compared(left, op, right)

    def _compared(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> pc.Expression:
        self._count()
        decimal = any(
            kind is not None and pa.types.is_decimal(kind) for kind in map(self._type, (left, right))
        )
        return _COMPARISONS[type(op)](self._operand(left, decimal), self._operand(right, decimal))

    def _membership(self, left: ast.expr, values: list[ast.expr]) -> pc.Expression:
        """Whether a value is in a list; null where the value is null, or may be the null of the list."""
        operand = self._operand(left)
        constants = [_constant(one) for one in values]
        known = [one for one in constants if one is not None]
        if known and _is_set(known, self._type(left)):
            found = pc.if_else(operand.is_valid(), operand.isin(pa.array(known)), _NULL)
        else:
            found = _joined(or_, (self._compared(left, ast.Eq(), one) for one in values))
        return found | _NULL if None in constants else found

    def _operand(self, node: ast.expr, decimal: bool = False) -> pc.Expression:
        """A column, a count of its text, or a value; integers become decimals where `decimal` is true."""
        if (name := _column_name(node)) is not None:
            return self._column(name)
        if not isinstance(node, ast.Call):
            return _scalar(_constant(node), decimal)
        name = ast.unparse(node.func)
        if name not in _COLUMN and name not in _COUNTS:
            raise ValueError(f"there is no function {name} for a comparison")
        (argument,) = self._arguments(node, 1)
        return self._column(_text(argument)) if name in _COLUMN else _COUNTS[name](self._operand(argument))

    def _type(self, node: ast.expr) -> pa.DataType | None:
        """The type of a column or of a count; None for values, and while it is not known."""
        if self.schema is None:
            return None
        if (name := _column_name(node)) is not None:
            return self.schema.field(name).type
        return pa.int64() if isinstance(node, ast.Call) else None

    def _column(self, name: str) -> pc.Expression:
        if name not in self.columns:
            self.columns.append(name)
        return pc.field(name)

    def _arguments(self, node: ast.Call, count: int) -> Sequence[ast.expr]:
        if node.keywords or len(node.args) != count:
            raise ValueError(f"{ast.unparse(node.func)} takes {count} argument{'s' if count > 1 else ''}")
        return node.args

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise ValueError(f"it has more than {MOST_PARTS} parts")


def _joined(
    join: Callable[[pc.Expression, pc.Expression], pc.Expression], parts: Iterable[pc.Expression]
) -> pc.Expression:
    """All parts joined, nested as little as possible; false for none."""
    level = list(parts) or [pc.scalar(False)]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=False)
        level = [*(join(one, other) for one, other in pairs), *(level[-1:] if len(level) % 2 else ())]
    return level[0]


def _chained(node: ast.expr, kind: type[ast.operator]) -> list[ast.expr]:
    """The operands of a | b | c, which Python parses as (a | b) | c."""
    found = []
    while isinstance(node, ast.BinOp) and isinstance(node.op, kind):
        found.append(node.right)
        node = node.left
    return [node, *reversed(found)]


def _words(trimmed: pc.Expression) -> pc.Expression:
    """The number of words; Arrow splits an empty text into one empty word."""
    return pc.if_else(
        pc.utf8_length(trimmed) == 0, 0, pc.list_value_length(pc.utf8_split_whitespace(trimmed))
    )


def _is_set(values: Sequence[Any], kind: pa.DataType | None) -> bool:
    """Whether Arrow looks values up as `==` compares them: texts in texts, and integers in integers."""
    if all(type(one) is str for one in values):
        return kind is None or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    return all(type(one) is int for one in values) and (kind is None or pa.types.is_integer(kind))


def _column_name(node: ast.expr) -> str | None:
    """The column that a node names; None for other nodes."""
    if isinstance(node, ast.Name) and node.id.lower() not in _CONSTANTS:
        return node.id
    if isinstance(node, ast.Call) and len(node.args) == 1 and ast.unparse(node.func) in _COLUMN:
        return _text(node.args[0])
    return None


def _scalar(value: Any, decimal: bool) -> pc.Expression:
    if decimal and type(value) is int:
        value = Decimal(value)
    return pc.scalar(value)


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
        if isinstance(node.value, int) and node.value > _LARGEST:
            raise ValueError(f"a number is larger than {_LARGEST}")
        return node.value
    raise ValueError(f"{ast.unparse(node)} is neither a column nor a value")


def _text(node: ast.expr) -> str:
    value = _constant(node)
    if not isinstance(value, str):
        raise ValueError(f"{ast.unparse(node)} is no text in quotes")
    return value


def _values(node: ast.expr) -> list[ast.expr]:
    if not isinstance(node, ast.List | ast.Tuple | ast.Set):
        raise ValueError(f"{ast.unparse(node)} is no list of values")
    return node.elts
