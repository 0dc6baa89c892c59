"""Commands that are imported when they are used: ``advisor --help`` and each command bring nothing of the others."""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from advisor.cli.program import Command

if TYPE_CHECKING:
    from collections.abc import Iterator

HOME = "advisor.cli.commands"


class LazyCommands(Mapping[str, Any]):
    """Click's commands by name, each made when it is asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        """Take the place of each command's function, below ``HOME``: "fit_command.fit"."""
        self._places = places
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        """Import the module of a command and return what Click runs."""
        if name not in self._made:
            self._made[name] = self._command(name)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def _command(self, name: str) -> Any:
        from advisor.cli.groups import flattened

        stem, function = self._places[name].split(".")
        module = importlib.import_module(f"{HOME}.{stem}")
        app = getattr(module, "app", None)
        if isinstance(app, typer.Typer):
            command: Any = typer.main.get_group(app)
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(name, cls=Command)(flattened(getattr(module, function)))
            command = typer.main.get_command(app)
        command.name = name
        return command

    def summary(self, name: str) -> Any:
        """Return a command of the same name and help without its options; its docstring is read from the source."""
        stem, function = self._places[name].split(".")
        spec = importlib.util.find_spec(f"{HOME}.{stem}")
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        (node,) = (item for item in tree.body if isinstance(item, ast.FunctionDef) and item.name == function)
        return Command(name, help=ast.get_docstring(node))
