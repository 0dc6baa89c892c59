"""Write the JSON Schema of every document that ``--format json`` writes, from the types of the answers.

    python -m benchmarks.json_schemas --write       # docs/reference/schemas
    python -m benchmarks.json_schemas --check       # exits with 1 where a file differs

A document's fields are those of its answer's dataclass; ``DOCUMENTS`` says what ``to_dict`` leaves out, writes otherwise and adds.
Numbers may be null: what is not finite has no JSON.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import dataclasses
import importlib
import inspect
import json
import sys
import textwrap
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

FOLDER = Path(__file__).parents[1] / "docs" / "reference" / "schemas"
TEXT, NUMBER, WHOLE, TRUTH = {"type": "string"}, {"type": ["number", "null"]}, {"type": "integer"}, {"type": "boolean"}
TEXTS = {"type": "array", "items": TEXT}
PAIR = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
PAIRS = {"type": "object", "additionalProperties": PAIR}
ROW = {"type": "object", "additionalProperties": {"type": ["string", "number", "boolean", "null"]}}
ROWS = {"type": "array", "items": ROW}
ANYTHING: dict[str, Any] = {}
CO2 = {
    "type": "object",
    "description": "Where --grid-intensity asks for it: kilograms a million output tokens, of the GPUs alone.",
    "properties": {
        "kg_co2_per_kwh": {"type": "number"},
        "where": TEXT,
        "year": {"type": ["integer", "null"]},
        "pue": {"type": "number"},
        "kg_co2_per_mtok": NUMBER,
    },
}
INTERVALS = {"interval_level": {"type": "number"}, "intervals": PAIRS}
NAMES = {"model": TEXT, "cluster": TEXT}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """How a document differs from the fields of its answer."""

    what: str
    answer: str = ""
    """``module:class``; empty: there is none, ``fields`` are all."""
    without: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Written otherwise than the answer has them, or added."""
    open: bool = False
    """Further fields may be there."""


def _reference(document: str) -> dict[str, Any]:
    return {"$ref": f"{document}.json"}


DOCUMENTS: Mapping[str, Described] = {
    "estimate/1": Described(
        what="advisor estimate: one deployment",
        answer="advisor.prediction.deployment_estimate:Estimate",
        without=("sigmas", "scales", "floors"),
        optional=("co2",),
        fields={**NAMES, **INTERVALS, "gpus_used": WHOLE, "speculation": {"type": "object"}, "co2": CO2},
    ),
    "curve/1": Described(
        what="advisor.curve: one deployment over the batch",
        answer="advisor.prediction.batch_curve:Curve",
        without=("batches", "metrics", "low", "high", "running", "memory", "causes", "price"),
        fields={**NAMES, "interval_level": {"type": "number"}, "notes": TEXTS, "points": ROWS},
    ),
    "recommendation/1": Described(
        what="advisor recommend: the best deployment, and what else was close",
        answer="advisor.recommendation.recommendation:Recommendation",
        without=("exploration", "storage"),
        fields={
            **NAMES,
            **{name: {"anyOf": [_reference("estimate-1"), {"type": "null"}]} for name in ("best", "nearest")},
            **{
                name: {"type": "array", "items": {"anyOf": [ROW, _reference("estimate-1")]}}
                for name in ("candidates", "pareto", "alternatives")
            },
        },
    ),
    "comparison/1": Described(
        what="advisor which: models, GPUs and formats side by side",
        answer="advisor.recommendation.comparison:Comparison",
        fields={"rows": ROWS},
    ),
    "simulation/1": Described(
        what="advisor simulate: what requests meet",
        answer="advisor.simulator.simulation_answer:Simulation",
        without=("served", "sigmas", "scale", "prefill_cluster"),
        optional=("co2", "prefill_gpus"),
        fields={
            **NAMES,
            "co2": CO2,
            "prefill_gpus": TEXT,
            "requests": WHOLE,
            "gpus_used": WHOLE,
            "interval_level": {"type": "number"},
            "intervals": {"type": "object", "additionalProperties": {"anyOf": [PAIR, PAIRS]}},
            "timeline": {"type": "object", "additionalProperties": {"type": "array", "items": NUMBER}},
        },
    ),
    "simulations/1": Described(
        what="advisor simulate --compare: several deployments under the same requests",
        fields={"simulations": {"type": "array", "items": _reference("simulation-1")}},
    ),
    "capacity-plan/1": Described(
        what="advisor plan: GPUs for a rate",
        answer="advisor.capacity.capacity_plan:CapacityPlan",
        optional=("co2",),
        fields={"model": TEXT, "co2": CO2, "interval_level": {"type": "number"}},
    ),
    "fleet-plan/1": Described(
        what="advisor fleet: several models on several kinds of GPUs",
        answer="advisor.fleet.fleet_plan:FleetPlan",
        without=("question",),
        fields={"meets": TRUTH, "hours": WHOLE, "interval_level": {"type": "number"}, "out_of_reach": ROWS},
    ),
    "autoscaling/1": Described(
        what="advisor autoscale: the policies of a fleet's models",
        answer="advisor.fleet.autoscaling:Autoscaling",
        fields={"meets": TRUTH},
    ),
    "observation/1": Described(
        what="advisor observe: measured beside predicted times",
        answer="advisor.fleet.observation:Observation",
        without=("run",),
        fields={**NAMES, "drifted": TRUTH, "run_id": TEXT},
    ),
    "training/1": Described(
        what="advisor train with a stated layout",
        answer="advisor.training.training_estimate:TrainingEstimate",
        without=("sigma", "quantile", "memory_span"),
        fields={**NAMES, **INTERVALS, "gpus_used": WHOLE, "notes": TEXTS},
    ),
    "training-layouts/1": Described(
        what="advisor train: the fastest layout, and others",
        fields={
            "best": {"anyOf": [_reference("training-1"), {"type": "null"}]},
            "candidates": {"type": "array", "items": _reference("training-1")},
            "evaluated": WHOLE,
            "fitting": WHOLE,
            "relaxations": TEXTS,
            "notes": TEXTS,
        },
    ),
    "exploration/1": Described(
        what="advisor explore: other technology",
        answer="advisor.technology.exploration:Exploration",
        fields={**NAMES, "notes": TEXTS},
    ),
    "tuning/1": Described(
        what="advisor tune: measured until it is certain",
        answer="advisor.tuning.tuning_run:Tuning",
        without=("steps",),
        fields={**NAMES, "interval_level": {"type": "number"}, "runs": TEXTS},
    ),
    "probe-plan/1": Described(
        what="advisor probe --dry-run and tune --dry-run: what would run, which probes read again",
        fields={"loads": {"type": "array", "items": {"type": "object"}}},
        open=True,
    ),
    "endpoint-plan/1": Described(
        what="advisor probe --endpoint --dry-run",
        fields={
            "endpoint": TEXT,
            "served": TEXT,
            "tokenizer": {"type": ["string", "null"]},
            "input_len": WHOLE,
            "output_len": WHOLE,
            "budget_s": NUMBER,
            "loads": ROWS,
            "notes": TEXTS,
        },
        open=True,
    ),
    "runs/1": Described(
        what="advisor probe and import: measured runs",
        fields={"runs": {"type": "array", "items": {"type": "object"}}},
        open=True,
    ),
    "fit/1": Described(
        what="advisor fit: what runs teach",
        answer="advisor.calibration.fit_report:FitReport",
    ),
    "validation/1": Described(
        what="advisor validate: predictions beside measured runs",
        fields={
            **{name: {"type": "array", "items": {"type": "object"}} for name in ("summary", "rankings", "choices")},
            **{name: {"type": "array", "items": {"type": "object"}} for name in ("baselines", "ablation", "claims")},
            "checks": {"type": "array", "items": {"type": "object"}},
            "loops": {"type": "object"},
            "baseline_rankings": {"type": "object"},
            "left_out": {"type": "object", "additionalProperties": WHOLE},
        },
    ),
    "catalog/1": Described(
        what="advisor catalog: a list of models, GPUs, engines or prices",
        fields={"entries": {"type": "array", "items": {"type": "object"}}},
    ),
    "catalog-entry/1": Described(what="advisor catalog NAME: all facts of one entry", open=True),
}
"""Every document, by its name and version."""


class Names(dict[str, Any]):
    """What annotations may name: what a module has, what it imports for type checkers alone; anything else says nothing."""

    def __missing__(self, name: str) -> Any:
        return getattr(builtins, name, Any)


@cache
def names_of(module: str) -> Names:
    """Return the names that a module's annotations may use."""
    names = Names(vars(importlib.import_module(module)))
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    guarded = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    for node in (each for block in guarded for each in block.body if isinstance(each, ast.ImportFrom)):
        held = vars(importlib.import_module(str(node.module)))
        names |= {alias.asname or alias.name: held[alias.name] for alias in node.names if alias.name in held}
    return names


class Definitions:
    """Schemas of the dataclasses that a document holds."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def fields_of(self, kind: type, without: Collection[str] = ()) -> dict[str, Any]:
        """Return the schema of each field of a dataclass but those left out."""
        hints = typing.get_type_hints(kind, globalns={}, localns=names_of(kind.__module__))
        docs = _docstrings(kind)
        fields = {}
        for field in dataclasses.fields(kind):
            if field.name in without:
                continue
            schema = self.of(hints[field.name])
            fields[field.name] = schema | ({"description": docs[field.name]} if field.name in docs else {})
        return fields

    def of(self, hint: Any) -> dict[str, Any]:
        """Return the schema of what ``plain`` makes of a type."""
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is typing.Annotated:
            return self.of(arguments[0])
        if origin is Literal:
            return {"enum": list(arguments)}
        if origin in (Union, types.UnionType):
            return _either([self.of(each) for each in arguments])
        if hint is bool:
            return TRUTH
        if hint is int:
            return WHOLE
        if hint is float:
            return NUMBER
        if hint is str:
            return TEXT
        if hint is type(None):
            return {"type": "null"}
        if dataclasses.is_dataclass(hint):
            return self._named(hint)
        if origin in (tuple, list, Sequence) or hint in (tuple, list):
            return self._array(arguments)
        if origin in (dict, Mapping):
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
            return {"type": "array"}
        return ANYTHING

    def _array(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if len(arguments) == 2 and arguments[1] is not ... and arguments[0] == arguments[1]:
            return {"type": "array", "items": self.of(arguments[0]), "minItems": 2, "maxItems": 2}
        alike = arguments and (len(arguments) == 1 or arguments[1] is ...)
        return {"type": "array", "items": self.of(arguments[0])} if alike else {"type": "array"}

    def _named(self, kind: type) -> dict[str, Any]:
        if kind.__name__ not in self.held:
            self.held[kind.__name__] = {}  # it may hold itself
            fields = self.fields_of(kind)
            open_ = {f.name for f in dataclasses.fields(kind) if "if_stated" in f.metadata}
            self.held[kind.__name__] = {
                "type": "object",
                "properties": fields,
                "required": [name for name in fields if name not in open_],
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{kind.__name__}"}


def _either(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """Join alternatives: types in one list where nothing else is said of them."""
    if all(set(schema) == {"type"} for schema in schemas):
        kinds = [
            kind
            for schema in schemas
            for kind in ([schema["type"]] if isinstance(schema["type"], str) else schema["type"])
        ]
        return {"type": list(dict.fromkeys(kinds))}
    return {"anyOf": schemas}


def _docstrings(kind: type) -> dict[str, str]:
    """Return what stands below fields in the source of a class, on one line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for one, after in zip(tree.body, tree.body[1:], strict=False):
        text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name) and text:
            texts[one.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return texts


def schema(name: str) -> dict[str, Any]:
    """Return the schema of one document."""
    described, definitions = DOCUMENTS[name], Definitions()
    optional = set(described.optional)
    fields: dict[str, Any] = {"schema": {"const": f"advisor/{name}"}, "version": TEXT}
    if described.answer:
        module, _, kind = described.answer.partition(":")
        left_out = {*described.without, *described.fields}
        answer = getattr(importlib.import_module(module), kind)
        fields |= definitions.fields_of(answer, left_out)
        # what an answer need not state may be left out of its document
        missing = dataclasses.MISSING
        optional |= {f.name for f in dataclasses.fields(answer) if (f.default, f.default_factory) != (missing, missing)}
    fields |= described.fields
    body = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"{filename(name)}",
        "title": described.what,
        "type": "object",
        "properties": fields,
        "required": [key for key in fields if key not in optional],
        "additionalProperties": described.open,
    }
    return body | ({"$defs": dict(sorted(definitions.held.items()))} if definitions.held else {})


def filename(name: str) -> str:
    """Return the file of a document: ``estimate-1.json``."""
    return f"{name.replace('/', '-')}.json"


def written() -> dict[str, str]:
    """Return every file by its name: the schemas, and a page that lists them."""
    files = {filename(name): json.dumps(schema(name), indent=1) + "\n" for name in DOCUMENTS}
    rows = "\n".join(f"| [{filename(name)}]({filename(name)}) | {each.what} |" for name, each in DOCUMENTS.items())
    files["index.md"] = (
        "# JSON documents\n\nEvery document of `--format json`, `--format yaml`, `advisor serve` and `to_dict()` names its `schema` and the\n"
        "`version` of the program that wrote it. The number behind the name changes where a field is renamed, removed or means something\n"
        "else; fields may be added. Numbers have six significant digits; what is not finite is null.\n\n"
        f"| schema | document |\n| --- | --- |\n{rows}\n\n"
        "Written by `python -m benchmarks.json_schemas --write` from the types of the answers; recorded answers are checked against them.\n"
    )
    return files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true")
    what.add_argument("--check", action="store_true")
    writes = parser.parse_args().write
    files = written()
    held = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    if not writes:
        differ = sorted(name for name in files.keys() | held.keys() if files.get(name) != held.get(name))
        print("\n".join(f"{name} differs" for name in differ) or "as written")
        return 1 if differ else 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in held.keys() - files.keys():
        (FOLDER / name).unlink()
    for name, text in files.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(files)} files, {sum(map(len, files.values())) / 1024:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
