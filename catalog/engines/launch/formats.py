"""A deployment as text in one of the export formats."""

from __future__ import annotations

import difflib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from catalog.engines.defaults import resolve
from catalog.engines.launch.commands import processes
from catalog.engines.launch.compose import compose
from catalog.engines.launch.kubernetes import kubernetes
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.scripts import script
from catalog.engines.registry import engine_name, find_engine
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalog.schema import Cluster, Deployment, Model

FORMATS = ("vllm", "sglang", "tensorrt-llm", "compose", "kubernetes")
_ALIASES = {"k8s": "kubernetes", "docker-compose": "compose", "trtllm": "tensorrt-llm", "trt-llm": "tensorrt-llm"}


def render(deployment: Deployment, model: Model, cluster: Cluster, format: str) -> str:  # noqa: A002  the word users know
    """Return the deployment as ``format``: commands of an engine, or a file for its containers.

    "compose" and "kubernetes" run ``deployment.engine``; an engine's name runs that engine with the same knobs. Raises
    ``InputError`` for what cannot start.
    """
    wanted = _ALIASES.get(format.lower(), format.lower())
    if wanted not in FORMATS:
        close = difflib.get_close_matches(wanted, [*FORMATS, *_ALIASES], n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"unknown export format {format[:40]!r}; {hint}known: {', '.join(FORMATS)}")
    stated_engine = deployment.engine
    if wanted not in {"compose", "kubernetes"}:
        deployment = replace(deployment, engine=wanted)
    resolved = resolve(deployment, model, cluster)
    deployment, engine = resolved.value, find_engine(resolved.value.engine)
    comments = _comments(deployment, model, cluster)
    if engine.name != find_engine(stated_engine).name:
        comments.append(f"the knobs were chosen for {stated_engine}; another engine's speed and memory differ")
    if wanted == "kubernetes":
        return _yaml(kubernetes(deployment, model, cluster, engine), [*comments, *_kubernetes_needs(model, cluster)])
    started = processes(deployment, model, cluster)
    if wanted == "compose":
        if model.gated:
            comments.append("gated model: accept its licence and set HF_TOKEN")
        return _yaml([compose(started, model, cluster.gpu, engine)], comments)
    if model.gated:
        comments.append("gated model: accept its licence and export HF_TOKEN")
    nodes = max(process.node for process in started) + 1
    if nodes > 1:
        comments.append(f"{nodes} nodes; put the address of node 0 for node0, and so on")
    if sum(process.port is not None for process in started) > 1:
        comments.append("several servers: spread requests over them with a router")
    return script(started, comments)


def _comments(deployment: Deployment, model: Model, cluster: Cluster) -> list[str]:
    layout = f"{deployment.dp} x tp {deployment.tp} x pp {deployment.pp}"
    layout += f", experts over {deployment.ep}" if deployment.ep > 1 else ""
    return [f"{model_argument(model)} on {cluster}: {layout}; {engine_name(deployment)}"]


def _kubernetes_needs(model: Model, cluster: Cluster) -> list[str]:
    if cluster.gpu.vendor == "cpu":
        needs = [f"needs nodes of {cluster.gpus_per_node} x {cluster.gpu.name}"]
    else:
        vendor = "AMD" if cluster.gpu.vendor == "amd" else "NVIDIA"
        needs = [f"needs the {vendor} device plugin and nodes of {cluster.gpus_per_node} x {cluster.gpu.name}"]
    if model.gated:
        needs.append("gated model: kubectl create secret generic hf-token --from-literal=token=...")
    return needs


def _yaml(objects: Sequence[dict[str, Any]], comments: Sequence[str]) -> str:
    import yaml  # slow to import and seldom needed

    class Plain(yaml.SafeDumper):
        """Writes what occurs twice twice."""

        def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Plain.add_representer(str, text)
    head = "".join(f"# {comment}\n" for comment in comments)
    return head + yaml.dump_all(objects, Dumper=Plain, sort_keys=False, width=100, allow_unicode=True)
