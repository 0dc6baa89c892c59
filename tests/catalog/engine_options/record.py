"""Records which command-line options an engine accepts, from its source and without importing it.

    python record.py vllm 0.33.0 SITE_PACKAGES > vllm-0.33.0.json
    python record.py sglang 0.5.23 SITE_PACKAGES > sglang-0.5.23.json

SITE_PACKAGES is a folder that the engine's wheel was unpacked in. The answer is a JSON object of options; each has
"value" (whether it takes one) and, where it is an enumeration, "choices". (tensorrt-llm-1.2.json was written by hand from
the click options of tensorrt_llm/commands/serve.py and the fields of llmapi/llm_args.py; its wheel cannot be unpacked
without its vendor's index.)
"""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

Table = dict[str, dict[str, object]]


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def literal(node):
    """The strings of a ``Literal[...]``, a list or a tuple of them; None for anything else."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal":
        node = node.slice
        node = node if isinstance(node, ast.Tuple) else ast.Tuple(elts=[node], ctx=ast.Load())
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        values = [e.value for e in node.elts if isinstance(e, ast.Constant)]
        return values if len(values) == len(node.elts) else None
    return None


def named_literals(trees):
    found = {}
    for tree in trees:
        for node in tree.body:
            target = node.targets[0] if isinstance(node, ast.Assign) else None
            if isinstance(target, ast.Name) and (values := literal(node.value)):
                found[target.id] = values
    return found


def class_fields(trees):
    return {
        node.name: {f.target.id: f.annotation for f in node.body if isinstance(f, ast.AnnAssign)}
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }


def describe(annotation, literals):
    """Whether an option of this type takes a value, and its choices where the type enumerates them."""
    alternatives = ast.unparse(annotation).split(" | ") if annotation else ["str"]
    entry: dict[str, object] = {"value": "bool" not in alternatives}
    closed = [a for a in alternatives if a not in {"None", "torch.dtype"}]
    choices = literals.get(closed[0]) or literal(annotation) if len(closed) == 1 else None
    return entry | ({"choices": choices} if choices else {})


def vllm(site):
    root = Path(site) / "vllm"
    config = [parse(p) for p in sorted((root / "config").glob("*.py"))]
    literals, fields = named_literals(config), class_fields(config)
    table: Table = {}
    arguments = parse(root / "engine" / "arg_utils.py")
    for node in ast.walk(arguments):
        if not (isinstance(node, ast.FunctionDef) and node.name == "add_cli_args"):
            continue
        sources = {  # model_kwargs = get_kwargs(ModelConfig)
            a.targets[0].id: ast.unparse(a.value.args[0])
            for a in ast.walk(node)
            if isinstance(a, ast.Assign) and isinstance(a.value, ast.Call) and ast.unparse(a.value.func) == "get_kwargs"
        }
        add_calls(node, table, {group: (fields[name], literals) for group, name in sources.items()})
    frontend = parse(root / "entrypoints" / "common" / "cli_args.py")
    add_calls(frontend, table, {})
    for name in ("BaseFrontendArgs", "FrontendArgs"):
        for field, annotation in class_fields([frontend])[name].items():
            table["--" + field.replace("_", "-")] = describe(annotation, literals)
    return table


def add_calls(tree, table, groups):
    """Every ``add_argument("--name", ...)`` under ``tree``; ``groups``: what ``**group["field"]`` spreads there."""
    for call in ast.walk(tree):
        if not (
            isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
        ):
            continue
        names = [a.value for a in call.args if isinstance(a, ast.Constant) and str(a.value).startswith("-")]
        keywords = {k.arg: k.value for k in call.keywords}
        action = ast.unparse(keywords["action"]) if "action" in keywords else ""
        entry: dict[str, object] = {"value": not ("store_" in action or "Boolean" in action or "StoreTrue" in action)}
        spread = keywords.get(None)  # **model_kwargs["dtype"]
        if isinstance(spread, ast.Subscript) and ast.unparse(spread.value) in groups:
            fields, literals = groups[ast.unparse(spread.value)]
            entry = describe(fields.get(ast.literal_eval(spread.slice)), literals)
        elif "choices" in keywords and (choices := literal(keywords["choices"])):
            entry["choices"] = choices
        table.update(dict.fromkeys(names, entry))


def sglang(site):
    root = Path(site) / "sglang" / "srt"
    literals = named_literals([parse(root / "arg_groups" / "choices.py")])
    table: Table = {}
    for path in sorted((root / "arg_groups" / "fields").glob("*.py")):
        for fields in class_fields([parse(path)]).values():
            for name, annotation in fields.items():
                if isinstance(annotation, ast.Subscript) and ast.unparse(annotation.value) == "A":
                    table.update(sglang_field(name, annotation.slice.elts, literals))
    add_calls(parse(root / "server_args.py"), table, {})
    return table


def sglang_field(name, parts, literals):
    metadata = next((p for p in parts[1:] if isinstance(p, ast.Call) and ast.unparse(p.func) == "Arg"), None)
    keywords = {k.arg: k.value for k in metadata.keywords} if metadata else {}
    if "no_cli" in keywords or ast.unparse(parts[1]).startswith("Derived"):
        return {}
    entry: dict[str, object] = {"value": ast.unparse(parts[0]) != "bool" and "action" not in keywords}
    if "choices" in keywords:
        choices = literal(keywords["choices"]) or literals.get(ast.unparse(keywords["choices"]))
        entry |= {"choices": choices} if choices else {}
    main = ast.literal_eval(keywords["cli_name"]) if "cli_name" in keywords else "--" + name.replace("_", "-")
    aliases = ast.literal_eval(keywords["aliases"]) if "aliases" in keywords else []
    return dict.fromkeys([main, *aliases], entry)


if __name__ == "__main__":
    engine, version, where = sys.argv[1:]
    recorded = {"vllm": vllm, "sglang": sglang}[engine](where)
    json.dump({"engine": engine, "version": version, "options": recorded}, sys.stdout, indent=0, sort_keys=True)
    print()
