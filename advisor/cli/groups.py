"""Option groups: one frozen dataclass a help panel, whose fields are options and whose field docstrings are their help.

A command states the groups it takes as parameters; ``flattened`` turns them into the options that Typer shows, and what was
typed back into the dataclasses. Nothing is forwarded by hand.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import typing
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

import typer

from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from catalog.quantities import Quantity

C = TypeVar("C")


@dataclass(frozen=True, slots=True)
class Flag:
    """How an option is spelled, completed and checked; its type, default and help belong to the field."""

    names: tuple[str, ...]
    metavar: str = ""
    completion: Callable[[str], list[str]] | None = None
    callback: Callable[..., Any] | None = None
    eager: bool = False
    quantity: Quantity | None = None
    """What a number may be written in."""


def flag(
    *names: str,
    metavar: str = "",
    completion: Callable[[str], list[str]] | None = None,
    callback: Callable[..., Any] | None = None,
    eager: bool = False,
    quantity: Quantity | None = None,
) -> Flag:
    """Return the spelling of one option, as ``Annotated`` metadata of its field."""
    return Flag(names, metavar, completion, callback, eager, quantity)


def _parser(quantity: Quantity) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        try:
            return quantity.read(value)
        except InputError as error:
            raise typer.BadParameter(str(error)) from error

    return read


@dataclass_transform(frozen_default=True, kw_only_default=True)
def group(panel: str) -> Callable[[type[C]], type[C]]:
    """Make a class a group of options under the heading ``panel``; inherited fields come under it too."""

    def made(cls: type[C]) -> type[C]:
        built = dataclass(frozen=True, kw_only=True)(cls)  # no slots: groups inherit from several
        built.__panel__ = panel  # type: ignore[attr-defined]
        return built

    return made


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Return the docstring under every field, by class and field; read from the module's source."""
    tree = ast.parse(Path(sys.modules[module].__file__ or "").read_text(encoding="utf-8"))
    docstrings: dict[str, dict[str, str]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            texts = docstrings.setdefault(node.name, {})
            for field, below in zip(node.body, node.body[1:], strict=False):
                if (
                    isinstance(field, ast.AnnAssign)
                    and isinstance(field.target, ast.Name)
                    and isinstance(below, ast.Expr)
                ):
                    texts[field.target.id] = " ".join(str(ast.literal_eval(below.value)).split())
    return docstrings


def _help(cls: type, name: str) -> str:
    texts = (_docstrings(base.__module__).get(base.__name__, {}).get(name) for base in cls.__mro__[:-1])
    return next(text for text in texts if text)


@functools.cache
def parameters(cls: type) -> tuple[inspect.Parameter, ...]:
    """Return the options of a group as parameters that Typer reads."""
    made = []
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in fields(cls):
        kind, spelled = typing.get_args(hints[field.name])
        assert isinstance(spelled, Flag)
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        option = typer.Option(
            *spelled.names,
            metavar=spelled.metavar or None,
            help=_help(cls, field.name),
            rich_help_panel=cls.__panel__,  # type: ignore[attr-defined]
            show_default=default is not inspect.Parameter.empty and default is not None and kind is not bool,
            autocompletion=spelled.completion,
            callback=spelled.callback,
            is_eager=spelled.eager,
            parser=None if spelled.quantity is None else _parser(spelled.quantity),
        )
        annotation = Annotated[kind, option]  # type: ignore[valid-type]
        made.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return tuple(made)


def flattened(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` with the options of its groups in place of the groups, for Typer to read."""
    hints = typing.get_type_hints(function, include_extras=True)
    groups = {name: hints[name] for name in inspect.signature(function).parameters if hasattr(hints[name], "__panel__")}
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        flat += parameters(groups[name]) if name in groups else [parameter.replace(annotation=hints[name])]

    def run(**values: Any) -> Any:
        made = {
            name: cls(**{field.name: values.pop(field.name) for field in fields(cls)}) for name, cls in groups.items()
        }
        return function(**made, **values)

    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return run
