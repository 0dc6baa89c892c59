"""Options from a file: ``--config FILE.yaml``, whose keys are the names of the options. What is typed wins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer  # noqa: TC002  Typer reads the annotations

from catalog.errors import InputError

MOST_BYTES = 1_000_000
NEVER = frozenset({"config", "help"})
FILE = "advisor.config"
"""Where the context keeps the file's name, for error messages."""


def use_config(ctx: typer.Context, path: str | None) -> str | None:
    """Make the values of the file at ``path`` the defaults of the command's options (Typer's callback of ``--config``).

    Raises:
        InputError: no readable YAML mapping, or a key or value that no option of the command takes.

    """
    if path is None or ctx.resilient_parsing:
        return path
    ctx.meta[FILE] = path
    ctx.default_map = dict(_defaults(ctx, _read(path), path))
    return path


def _defaults(ctx: typer.Context, values: dict[str, Any], path: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for parameter in ctx.command.params:
        if parameter.param_type_name == "option" and parameter.name not in NEVER:
            for spelled in (parameter.name or "", *parameter.opts, *parameter.secondary_opts):
                options[spelled.lstrip("-").replace("_", "-")] = parameter
    defaults: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).lstrip("-").replace("_", "-")
        if name not in options:
            from catalog.names import suggestion  # only for this message

            near = suggestion(name, options, otherwise=f"'{ctx.command_path} --help' lists the options")
            raise InputError(f"{path}: {ctx.info_name} has no option {str(key)[:60]!r}; {near}")
        option = options[name]
        if option.name in defaults:
            raise InputError(f"{path}: {name} is given twice, under two of its names")
        if value is not None:
            defaults[option.name] = _value(value, option, f"{path}: {name}")
    return defaults


def _value(value: Any, parameter: Any, where: str) -> Any:
    """Return ``value`` as it would have been typed; options that may be repeated take a list too."""
    if parameter.multiple:
        if isinstance(value, dict):  # set-gpu reads well as a mapping
            return [f"{key}={_scalar(item, where)}" for key, item in value.items()]
        return [_scalar(item, where) for item in (value if isinstance(value, list) else [value])]
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise InputError(f"{where} is {_shown(value)}; it must be true or false")
        return value
    return _scalar(value, where)


def _scalar(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise InputError(f"{where} is {_shown(value)}; it must be text or a number")
    return str(value)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):  # never printed: aliases make a small file into gigabytes
        return "a mapping" if isinstance(value, dict) else "a list"
    return str(value).lower() if isinstance(value, bool) else f"{value!r:.60}"


def _read(path: str) -> dict[str, Any]:
    import yaml  # only with --config

    try:
        with Path(path).open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > MOST_BYTES:
        raise InputError(
            f"{path} is larger than {MOST_BYTES // 1000} kB; a configuration names options and their values"
        )
    try:
        values = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path} is not valid YAML{line}: {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold option names and values, such as model: llama-13b")
    return values
