"""What platforms' own schemas say of the objects that ``export`` writes, taken from the packages that bring them.

    pip download --no-deps -d WHEELS kubernetes-validate kserve skypilot
    python -m benchmarks.platform_schemas WHEELS        # writes tests/catalog/platform_schemas

Descriptions and what is never written are left out. Schemas that no package brings (LeaderWorkerSet, LLMInferenceService, Dynamo,
Ray Serve LLM, Helm values) are noted by hand in ``noted.json`` there, each with its source.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "tests" / "catalog" / "platform_schemas"
MINOR = "1.36"
"""Of Kubernetes."""
ROOTS = (
    "io.k8s.api.apps.v1.Deployment",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.PodSpec",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.Service",
)
PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}


def wheel(folder: Path, package: str) -> zipfile.ZipFile:
    """Open the newest wheel of a package."""
    found = sorted(folder.glob(f"{package}-*.whl"))
    if not found:
        sys.exit(f"no wheel of {package} in {folder}; pip download --no-deps -d {folder} {package.replace('_', '-')}")
    return zipfile.ZipFile(found[-1])


def version(opened: zipfile.ZipFile) -> str:
    """Return what a wheel's name says."""
    return Path(str(opened.filename)).name.split("-")[1]


def trimmed(schema: Any) -> Any:
    """Leave out what is for readers."""
    if isinstance(schema, dict):
        kept = {key: value for key, value in schema.items() if not (key == "description" and isinstance(value, str))}
        return {key: trimmed(value) for key, value in kept.items() if not key.startswith("x-kubernetes")}
    return [trimmed(item) for item in schema] if isinstance(schema, list) else schema


def references(schema: Any) -> Iterator[str]:
    """Yield the definitions that a schema names."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference.rpartition("/")[2]
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for item in schema:
            yield from references(item)


def kubernetes(folder: Path) -> dict[str, Any]:
    """Return the definitions of the objects in ``ROOTS``, which refuse fields that Kubernetes does not know."""
    opened = wheel(folder, "kubernetes_validate")
    path = next(name for name in opened.namelist() if f"v{MINOR}.0-local-strict/_definitions.json" in name)
    every = json.loads(opened.read(path))["$defs"]
    kept: dict[str, Any] = {}
    left = list(ROOTS)
    while left:
        name = left.pop()
        if name in kept:
            continue
        schema = trimmed(every[name])
        if name in ROOTS:
            schema["properties"].pop("status", None)  # what a cluster says, not a user
        kept[name] = schema
        left += references(schema)
    return {
        "source": f"Kubernetes {MINOR} (Apache-2.0), as kubernetes-validate {version(opened)} has it",
        "$defs": dict(sorted(kept.items())),
    }


def kserve(folder: Path) -> dict[str, Any]:
    """Return an InferenceService as KServe's own Python models describe it."""
    opened = wheel(folder, "kserve")

    def model(name: str) -> dict[str, Any]:
        snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
        text = opened.read(f"kserve/models/{snake}.py").decode()
        kinds, keys = (
            ast.literal_eval(re.search(rf"{part} = (\{{.*?\n    \}})", text, re.DOTALL)[1])  # type: ignore[index]
            for part in ("openapi_types", "attribute_map")
        )
        properties = {keys[field]: kind_schema(kind) for field, kind in kinds.items() if field != "status"}
        return {"type": "object", "additionalProperties": False, "properties": properties}

    def kind_schema(kind: str) -> dict[str, Any]:
        if kind in PLAIN:
            return {"type": PLAIN[kind]}
        if inner := re.fullmatch(r"list\[(.*)\]", kind):
            return {"type": "array", "items": kind_schema(inner[1])}
        if inner := re.fullmatch(r"dict\(str, (.*)\)", kind):
            return {"type": "object", "additionalProperties": kind_schema(inner[1])}
        core = {
            "V1ObjectMeta": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
            "ResourceQuantity": "io.k8s.apimachinery.pkg.api.resource.Quantity",
        }
        core |= {"K8sIoApiAppsV1DeploymentStrategy": "io.k8s.api.apps.v1.DeploymentStrategy"}
        if kind in core or re.fullmatch(r"V1[A-Z]\w*", kind):
            return {"$ref": f"kubernetes#/$defs/{core.get(kind, f'io.k8s.api.core.v1.{kind[2:]}')}"}
        return {"$ref": f"#/$defs/{kind}"} if kind in kept else {"type": "object"}

    kept = ("V1beta1InferenceService", "V1beta1InferenceServiceSpec", "V1beta1PredictorSpec")
    definitions = {name: model(name) for name in kept}
    definitions["V1beta1InferenceService"]["required"] = ["apiVersion", "kind", "metadata", "spec"]
    definitions["V1beta1InferenceServiceSpec"]["required"] = ["predictor"]
    return {"source": f"KServe {version(opened)} (Apache-2.0), kserve/models", "$defs": definitions}


def skypilot(folder: Path) -> dict[str, Any]:
    """Return the schema of a task, with its resources and its service."""
    opened = wheel(folder, "skypilot")
    text = opened.read("sky/utils/schemas.py").decode()

    class Anything(types.ModuleType):
        """Stands for modules that the schemas take names and lists from, none of which are kept."""

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return Anything(name)

        def __call__(self, *_: object, **__: object) -> Any:
            return Anything("called")

        def __iter__(self) -> Iterator[Any]:
            return iter(())

    stubs = {name: Anything(name) for name in set(re.findall(r"from (sky[\w.]*) import", text))}
    sys.modules.update(stubs)
    module = types.ModuleType("schemas")
    exec(compile(text, "schemas.py", "exec"), module.__dict__)
    # these ask the installation, for fields that are not kept
    module.__dict__.update(
        {
            "_get_infra_pattern": lambda: ".*",
            "_allow_additional_properties": lambda: False,
            "_task_config_schema": dict,
        }
    )
    named = ("get_task_schema", "_get_single_resources_schema", "get_service_schema")
    task, resources, service = (getattr(module, name)() for name in named)
    wanted = {
        "task": (task, ("name", "num_nodes", "secrets", "envs", "setup", "run")),
        "resources": (resources, ("accelerators", "image_id", "disk_size", "ports", "use_spot", "memory", "cpus")),
        "service": (service, ("readiness_probe", "replicas")),
    }
    found = {}
    for name, (schema, fields) in wanted.items():
        body = {key: value for key, value in schema.items() if key in {"type", "required", "additionalProperties"}}
        found[name] = body | {"properties": {field: schema["properties"][field] for field in fields}}
    found["task"]["properties"] |= {name: {"$ref": f"#/$defs/{name}"} for name in ("resources", "service")}
    plain = json.loads(json.dumps(found, default=lambda _: ".*"))
    return {"source": f"SkyPilot {version(opened)} (Apache-2.0), sky/utils/schemas.py", "$defs": plain}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheels", type=Path, help="folder with the three wheels")
    wheels = parser.parse_args().wheels
    for name, taken in (("kubernetes", kubernetes), ("kserve", kserve), ("skypilot", skypilot)):
        body = taken(wheels)
        lines = ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in body["$defs"].items())
        text = f'{{\n  "source": {json.dumps(body["source"])},\n  "$defs": {{\n{lines}\n  }}\n}}\n'
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"{name}: {len(body['$defs'])} definitions, {len(text) / 1024:.0f} kB")


if __name__ == "__main__":
    main()
