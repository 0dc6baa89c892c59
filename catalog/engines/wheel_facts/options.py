"""Command-line options that a release of an engine takes, with their choices, from the source in its wheel."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from catalog.engines.wheel_facts.wheel import MissingFactError, class_body

if TYPE_CHECKING:
    from collections.abc import Iterable

    from catalog.engines.wheel_facts.wheel import Wheel

Option = dict[str, Any]
"""``value``: whether it takes one; ``choices``, where its type enumerates them."""
Table = dict[str, Option]
FRONTEND = ("entrypoints/common/cli_args.py", "entrypoints/openai/cli_args.py")
"""Where vLLM has the options of its server: from 0.25 or later on, and before."""


def command_options(wheel: Wheel) -> Table:
    """Return the options of ``vllm serve`` or of SGLang's ``launch_server``, by name ("--dtype")."""
    return {"vllm": _vllm, "sglang": _sglang}[wheel.engine](wheel)


def frontend(wheel: Wheel) -> ast.Module:
    """Return the module of the options of vLLM's server."""
    for path in FRONTEND:
        try:
            return wheel.tree(path)
        except MissingFactError:
            continue
    raise MissingFactError(f"none of {', '.join(FRONTEND)}")


def choices_of(node: ast.expr) -> list[Any] | None:
    """Return the constants of a ``Literal[...]``, a list or a tuple; None for anything else."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        inside = node.slice
        node = inside if isinstance(inside, ast.Tuple) else ast.Tuple(elts=[inside], ctx=ast.Load())
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        values = [part.value for part in node.elts if isinstance(part, ast.Constant)]
        return values if len(values) == len(node.elts) else None
    return None


def _named_choices(trees: Iterable[ast.Module]) -> dict[str, list[Any]]:
    named = {}
    for tree in trees:
        for node in tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(node, ast.Assign) and isinstance(target, ast.Name) and (values := choices_of(node.value)):
                named[target.id] = values
    return named


def _annotations(body: list[ast.stmt]) -> dict[str, ast.expr]:
    return {
        node.target.id: node.annotation
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def _class_fields(trees: Iterable[ast.Module]) -> dict[str, dict[str, ast.expr]]:
    return {
        node.name: _annotations(node.body) for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)
    }


def _typed(annotation: ast.expr | None, named: dict[str, list[Any]]) -> Option:
    """Describe an option by the type of its field."""
    alternatives = ast.unparse(annotation).split(" | ") if annotation else ["str"]
    option: Option = {"value": "bool" not in alternatives}
    closed = [name for name in alternatives if name not in {"None", "torch.dtype"}]
    choices = named.get(closed[0]) or (choices_of(annotation) if annotation else None) if len(closed) == 1 else None
    return option | ({"choices": choices} if choices else {})


def _vllm(wheel: Wheel) -> Table:
    config = [wheel.tree(path) for path in wheel.paths("config")]
    named, fields = _named_choices(config), _class_fields(config)
    table: Table = {}
    for node in ast.walk(wheel.tree("engine/arg_utils.py")):
        if not (isinstance(node, ast.FunctionDef) and node.name == "add_cli_args"):
            continue
        sources = {  # model_kwargs = get_kwargs(ModelConfig)
            ast.unparse(given.targets[0]): ast.unparse(given.value.args[0])
            for given in ast.walk(node)
            if isinstance(given, ast.Assign)
            and isinstance(given.value, ast.Call)
            and ast.unparse(given.value.func) == "get_kwargs"
        }
        _add_arguments(node, table, {group: fields.get(name, {}) for group, name in sources.items()}, named)
    server = frontend(wheel)
    _add_arguments(server, table, {}, named)
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for option, annotation in _annotations(class_body(server, name)).items():
            table[_dashed(option)] = _typed(annotation, named)
    return table


def _add_arguments(
    tree: ast.AST, table: Table, groups: dict[str, dict[str, ast.expr]], named: dict[str, list[Any]]
) -> None:
    """Add every ``add_argument("--name", ...)`` under ``tree``; ``groups``: what ``**group["field"]`` spreads there."""
    for call in ast.walk(tree):
        if not (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        ):
            continue
        names = [str(a.value) for a in call.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        action = ast.unparse(keywords["action"]) if "action" in keywords else ""
        option: Option = {"value": not ("store_" in action or "Boolean" in action or "StoreTrue" in action)}
        spread = keywords.get(None)  # **model_kwargs["dtype"]
        if isinstance(spread, ast.Subscript) and ast.unparse(spread.value) in groups:
            fields = groups[ast.unparse(spread.value)]
            option = _typed(fields.get(ast.literal_eval(spread.slice)), named)
        elif "choices" in keywords and (choices := choices_of(keywords["choices"])):
            option["choices"] = choices
        table.update(dict.fromkeys(names, option))


def _sglang(wheel: Wheel) -> Table:
    named = _named_choices([wheel.tree("arg_groups/choices.py")])
    table: Table = {}
    for path in wheel.paths("arg_groups/fields"):
        for fields in _class_fields([wheel.tree(path)]).values():
            for name, annotation in fields.items():
                if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A":
                    parts = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
                    table.update(_sglang_field(name, parts, named))
    _add_arguments(wheel.tree("server_args.py"), table, {}, named)
    return table


def _sglang_field(name: str, parts: list[ast.expr], named: dict[str, list[Any]]) -> Table:
    """Return the options of one field, ``A[type, Arg(...)]``: its name and other names of it."""
    call = next((p for p in parts[1:] if isinstance(p, ast.Call) and ast.unparse(p.func) == "Arg"), None)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords} if call else {}
    if "no_cli" in keywords or any(ast.unparse(part).startswith("Derived") for part in parts[1:2]):
        return {}
    option: Option = {"value": ast.unparse(parts[0]) != "bool" and "action" not in keywords}
    if "choices" in keywords:
        choices = choices_of(keywords["choices"]) or named.get(ast.unparse(keywords["choices"]))
        option |= {"choices": choices} if choices else {}
    main = ast.literal_eval(keywords["cli_name"]) if "cli_name" in keywords else _dashed(name)
    aliases = ast.literal_eval(keywords["aliases"]) if "aliases" in keywords else []
    return dict.fromkeys([main, *aliases], option)


def _dashed(field: str) -> str:
    return "--" + field.replace("_", "-")
