"""What a function of an engine's source gives in a stated case, worked out from its syntax tree.

Nothing of the wheel is executed: assignments, branches, arithmetic and a few functions of sequences are followed, whatever
the caller states is taken as stated, and anything else ends in ``MissingFactError``.
"""

from __future__ import annotations

import ast
import operator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from catalog.engines.wheel_facts.wheel import MissingFactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_MOST_STEPS = 100_000
"""Nodes of a tree that are visited in one case."""
_MOST_NUMBERS = 100_000
"""Length of a range."""
_OPERATORS: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MOST_NUMBERS:
        raise MissingFactError(f"{numbers} is too long")
    return numbers


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "range": _range,
    "list": list,
    "set": set,
    "sorted": sorted,
    "min": min,
    "max": max,
    "len": len,
    "int": int,
    "round_up": _round_up,
}


class _ReturnedError(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


@dataclass(slots=True, kw_only=True)
class Case:
    """One run through a function.

    Names that are assigned join ``values``; those of attributes by their text ("self.scheduler_config.max_num_seqs").
    """

    values: dict[str, Any]
    """What expressions stand for, by their text; whole conditions and calls may be stated, too."""
    declaring: frozenset[str] = frozenset()
    """Functions whose keywords are taken as assignments, the first argument's fields."""
    steps: int = field(default=0)

    def run(self, body: list[ast.stmt]) -> Any:
        """Follow statements; return what they return, None where they end without."""
        try:
            self._run(body)
        except _ReturnedError as returned:
            return returned.value
        except (TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            raise MissingFactError(f"cannot be followed: {error}") from None
        return None

    def value(self, node: ast.expr) -> Any:
        """Return what an expression is."""
        self.steps += 1
        if self.steps > _MOST_STEPS:
            raise MissingFactError("cannot be followed: too long")
        text = ast.unparse(node)
        if text in self.values:
            return self.values[text]
        evaluate = getattr(self, f"_{type(node).__name__.lower()}", None)
        if evaluate is None:
            raise MissingFactError(f"nothing is known of {text[:60]!r}")
        return evaluate(node)

    def _run(self, body: list[ast.stmt]) -> None:
        for statement in body:
            match statement:
                case ast.Return(value=value):
                    raise _ReturnedError(None if value is None else self.value(value))
                case ast.If(test=test, body=yes, orelse=no):
                    self._run(yes if self.value(test) else no)
                case ast.Assign(targets=[target], value=value):
                    self.values[ast.unparse(target)] = self.value(value)
                case ast.AnnAssign(target=target, value=value) if value is not None:
                    self.values[ast.unparse(target)] = self.value(value)
                case ast.AugAssign(target=target, op=op, value=value):
                    name = ast.unparse(target)
                    self.values[name] = _OPERATORS[type(op)](self.values[name], self.value(value))
                case ast.Try(body=tried):
                    self._run(tried)
                case ast.Expr(value=ast.Call() as call):
                    self._call_for_effect(call)
                case ast.Raise():
                    raise MissingFactError(f"raises {ast.unparse(statement)[:60]}")
                case _:  # imports, assertions, functions that nothing calls, docstrings
                    pass

    def _call_for_effect(self, call: ast.Call) -> None:
        name = ast.unparse(call.func)
        if name in self.declaring:
            self.values |= {f"cfg.{word.arg}": self.value(word.value) for word in call.keywords if word.arg}
        elif name.endswith(".append") and name.removesuffix(".append") in self.values:
            self.values[name.removesuffix(".append")].append(self.value(call.args[0]))

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _list(self, node: ast.List) -> list[Any]:
        return [self.value(part) for part in node.elts]

    def _tuple(self, node: ast.Tuple) -> tuple[Any, ...]:
        return tuple(self.value(part) for part in node.elts)

    def _set(self, node: ast.Set) -> set[Any]:
        return {self.value(part) for part in node.elts}

    def _dict(self, node: ast.Dict) -> Mapping[str, Any]:
        return {ast.unparse(key): self.value(value) for key, value in zip(node.keys, node.values, strict=True) if key}

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _boolop(self, node: ast.BoolOp) -> Any:
        wanted = isinstance(node.op, ast.Or)
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) is wanted:
                break
        return result

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        value = self.value(node.operand)
        return not value if isinstance(node.op, ast.Not) else -value

    def _binop(self, node: ast.BinOp) -> Any:
        return _OPERATORS[type(node.op)](self.value(node.left), self.value(node.right))

    def _compare(self, node: ast.Compare) -> bool:
        left = self.value(node.left)
        for op, part in zip(node.ops, node.comparators, strict=True):
            right = self.value(part)
            if not _OPERATORS[type(op)](left, right):
                return False
            left = right
        return True

    def _subscript(self, node: ast.Subscript) -> Any:
        return self.value(node.value)[self.value(node.slice)]

    def _call(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name not in _FUNCTIONS or node.keywords:
            raise MissingFactError(f"nothing is known of {ast.unparse(node)[:60]!r}")
        return _FUNCTIONS[name](*(self.value(argument) for argument in node.args))

    def _listcomp(self, node: ast.ListComp) -> list[Any]:
        return list(self._comprehended(node))

    def _setcomp(self, node: ast.SetComp) -> set[Any]:
        return set(self._comprehended(node))

    def _comprehended(self, node: ast.ListComp | ast.SetComp) -> Iterator[Any]:
        if len(node.generators) > 1:
            raise MissingFactError(f"nothing is known of {ast.unparse(node)[:60]!r}")
        (generator,) = node.generators
        for item in self.value(generator.iter):
            self.values[ast.unparse(generator.target)] = item
            if all(self.value(condition) for condition in generator.ifs):
                yield self.value(node.elt)
