"""What every answer has for people: a line, a text, a table and a figure, made by ``advisor.render`` when they are asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any, ClassVar


class Presented:
    """An answer that a notebook shows as a table, and Python in one line."""

    __slots__ = ()

    SCHEMA: ClassVar[str] = ""
    """Name and version of what ``to_dict`` returns; the version changes where a name or meaning does."""

    def summary(self) -> str:
        """Return the answer as the terminal shows it: the choice, its limits, cost and the next command."""
        return str(_notebook().summary(self))

    def plot(self, name: str | None = None) -> Any:
        """Return a figure of the answer, which a notebook draws and ``save(path)`` writes as a PNG.

        Args:
            name: of the figure; None: the first.

        Raises:
            InputError: there is none, or none of that name.

        """
        return _notebook().plot(self, name)

    def _repr_html_(self) -> str:
        return str(_notebook().html(self))

    def __str__(self) -> str:
        return str(_notebook().line(self))

    def header(self) -> dict[str, str]:
        """Return what identifies ``to_dict``: its schema and the version of the program."""
        return header(self.SCHEMA)


def header(schema: str) -> dict[str, str]:
    """Return what identifies a document: name and version of its schema, such as "estimate/1", and the version of the program."""
    return {"schema": f"advisor/{schema}", "version": str(import_module("advisor").__version__)}


def _notebook() -> Any:
    """Return the module that presents answers: by name, for it stands above those that it presents."""
    return import_module("advisor.render.notebook")
