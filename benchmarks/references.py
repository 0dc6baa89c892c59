"""The references of the documentation, generated from the code: commands by Click, Python names by ``inspect``."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
from typing import TYPE_CHECKING, Any

import typer

import advisor
from advisor.cli import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ACTIONS = "Functions"
ANSWERS = "Answers"
INPUTS = "Inputs and other types"
LONGEST_SIGNATURE = 100
_ADDRESS = re.compile(r"<function .*? at 0x[0-9a-f]+>")
"""A default that is a function: its address differs from run to run."""


def commands() -> str:
    """Write every command with its description, examples and options as Markdown."""
    program: Any = typer.main.get_command(app)
    context: Any = typer.Context(program, info_name="advisor")
    parts = [_command(program, context, level=2)]
    for name, command in program.commands.items():
        inner: Any = typer.Context(command, info_name=name, parent=context)
        parts.append(_command(command, inner, level=2))
        for sub_name, sub_command in getattr(command, "commands", {}).items():
            parts.append(_command(sub_command, typer.Context(sub_command, info_name=sub_name, parent=inner), level=3))
    return "\n\n".join(parts)


def _command(command: Any, context: Any, *, level: int) -> str:
    usage = " ".join(command.collect_usage_pieces(context))
    parts = [f"{'#' * level} {context.command_path}", f"```text\n{context.command_path} {usage}\n```"]
    parts += list(_prose(command.help or ""))
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            heading = getattr(parameter, "rich_help_panel", None) or "Options"
            sections.setdefault(heading, []).append(record)
    for heading, records in sections.items():
        rows = [f"| `{_cell(spelled)}` | {_cell(text)} |" for spelled, text in records]
        parts.append("\n".join([f"**{heading}**", "", "| option | meaning |", "| --- | --- |", *rows]))
    if command.epilog:
        parts += list(_prose(command.epilog))
    return "\n\n".join(parts)


def _prose(text: str) -> Iterator[str]:
    r"""Yield paragraphs; those that Click leaves as they are (after ``\b``) are examples, or prose broken into lines."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            yield _escaped(" ".join(paragraph.split()))
            continue
        lines = paragraph.removeprefix("\b").strip("\n")
        yield f"```text\n{lines}\n```" if lines.startswith("advisor ") else _escaped(" ".join(lines.split()))


def _cell(text: str) -> str:
    """Return a text as it can stand in a Markdown table."""
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    return text.replace("<", "&lt;").replace("*", "\\*")


def python() -> str:
    """Write every public name of ``advisor`` with its signature, description and fields as Markdown."""
    groups: dict[str, list[str]] = {ACTIONS: [], ANSWERS: [], INPUTS: []}
    answers = _answers()
    for name in advisor.__all__:
        value = getattr(advisor, name)
        if not inspect.isclass(value):
            groups[ACTIONS].append(_function(name, value))
        else:
            groups[ANSWERS if name in answers else INPUTS].append(_class(name, value))
    return "\n\n".join(f"## {title}\n\n" + "\n\n".join(parts) for title, parts in groups.items())


def _answers() -> set[str]:
    """Return the names of classes that public functions return."""
    returned = set()
    for name in advisor.__all__:
        value = inspect.unwrap(getattr(advisor, name))
        if inspect.isfunction(value):
            returned |= set(re.findall(r"\w+", str(inspect.signature(value).return_annotation)))
    return {
        name for name in advisor.__all__ if name in returned and dataclasses.is_dataclass(getattr(advisor, name))
    } - {"Model", "Gpu", "Measurement"}


def _function(name: str, value: Any) -> str:
    unwrapped = inspect.unwrap(value)
    return "\n\n".join(
        [f"### advisor.{name}", f"```text\nadvisor.{name}{_signature(unwrapped)}\n```", *_documented(unwrapped)]
    )


def _signature(function: Callable[..., Any], *, method: bool = False) -> str:
    signature = inspect.signature(function)
    shown = [parameter.replace(annotation=_plain(parameter.annotation)) for parameter in signature.parameters.values()]
    if method:
        shown = shown[1:]
    result = _plain(signature.return_annotation)
    whole = str(signature.replace(parameters=shown, return_annotation=result))
    if len(whole) <= LONGEST_SIGNATURE:
        return whole
    return "(\n" + "".join(f"    {piece},\n" for piece in _pieces(shown)) + f") -> {_text(result)}"


def _pieces(parameters: list[inspect.Parameter]) -> list[str]:
    pieces: list[str] = []
    for parameter in parameters:
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and "*" not in pieces:
            pieces.append("*")
        pieces.append(_ADDRESS.sub("...", str(parameter)))
    return pieces


class _Bare(str):
    """An annotation that is shown without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _plain(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _text(annotation: Any) -> str:
    return str(annotation) if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def _documented(value: Any) -> Iterator[str]:
    """Yield a docstring's paragraphs, with its sections of arguments as lists."""
    text = inspect.getdoc(value) or ""
    section = ""
    for paragraph in text.split("\n\n"):
        heading, _, rest = paragraph.partition("\n")
        if re.fullmatch(r"(Args|Raises|Returns|Yields|Notes?|Example|Examples):", heading):
            section = heading.rstrip(":")
            yield f"**{ {'Args': 'Parameters'}.get(section, section) }**"
            yield from _entries(textwrap.dedent(rest))
        elif paragraph.startswith("    "):
            yield f"```text\n{textwrap.dedent(paragraph)}\n```"
        else:
            yield " ".join(paragraph.split())


def _entries(text: str) -> Iterator[str]:
    entries: list[str] = []
    for line in text.splitlines():
        named = re.match(r"^(\*{0,2}[\w., ]+): (.*)", line)
        if named:
            entries.append(f"- `{named[1]}`: {named[2]}")
        elif entries:
            entries[-1] += f" {line.strip()}"
        else:
            entries.append(line.strip())
    yield "\n".join(entries)


def _class(name: str, value: type) -> str:
    parts = [f"### advisor.{name}", *_documented(value)]
    fields = _fields(value)
    if fields:
        parts.append("\n".join(["| field | type | meaning |", "| --- | --- | --- |", *fields]))
    methods = [f"- `{member}`: {_cell(text)}".removesuffix(": ") for member, text in _methods(value)]
    return "\n\n".join([*parts, "\n".join(methods)] if methods else parts)


def _fields(value: type) -> list[str]:
    if not dataclasses.is_dataclass(value):
        return []
    docstrings = _field_docstrings(value)
    rows = []
    for field in dataclasses.fields(value):
        if field.name.startswith("_"):
            continue
        default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
        rows.append(
            f"| `{field.name}` | `{_code_cell(field.type)}{_code_cell(default)}` | {_cell(docstrings.get(field.name, ''))} |"
        )
    return rows


def _code_cell(value: Any) -> str:
    plain = re.sub(r"Annotated\[(\w+), Interval\([^()]*\)\]", r"\1", _text(value))  # bounds are for the checks
    return re.sub(r"\s+", " ", plain).replace("|", "\\|")


def _field_docstrings(value: type) -> Mapping[str, str]:
    """Return the strings that stand under the fields of a class and of those it inherits from."""
    docstrings: dict[str, str] = {}
    for owner in reversed(value.__mro__[:-1]):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        except (OSError, TypeError):
            continue
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docstrings[field.target.id] = inspect.cleandoc(below.value.value)
    return docstrings


def _methods(value: type) -> Iterator[tuple[str, str]]:
    for name, member in inspect.getmembers(value):
        if name.startswith("_") or name not in {key for owner in value.__mro__[:-1] for key in vars(owner)}:
            continue
        if isinstance(member, property):
            yield name, (inspect.getdoc(member) or "").split("\n\n")[0]
        elif inspect.isfunction(member) or inspect.ismethod(member):
            function = inspect.unwrap(getattr(member, "__func__", member))
            yield f"{name}{_signature(function, method=True)}", (inspect.getdoc(member) or "").split("\n\n")[0]


GENERATORS: dict[str, Callable[[], str]] = {"commands": commands, "python": python}
"""What ``<!-- generated: NAME -->`` may name."""
