"""A deployment as text in one of the export formats."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from catalog.engines.defaults import resolve
from catalog.engines.launch.commands import processes
from catalog.engines.launch.compose import compose
from catalog.engines.launch.containers import engine_of
from catalog.engines.launch.kubernetes import kubernetes, kubernetes_pools, leader_worker_set
from catalog.engines.launch.platforms import dynamo, kserve, llm_d, production_stack, ray_serve, skypilot
from catalog.engines.launch.pools import NEEDS, ServingPool, check_pools, pool_processes
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import replica_group
from catalog.engines.launch.scripts import script
from catalog.engines.registry import engine_name, find_engine
from catalog.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from catalog.engines.launch.pools import PoolGroup
    from catalog.engines.launch.replica_group import ReplicaGroup
    from catalog.schema import Cluster, Deployment, Model


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPlatform:
    """How a replica is written for one platform, and what its user has to have."""

    write: Callable[[ReplicaGroup], list[dict[str, Any]]]
    write_pools: Callable[[PoolGroup, PoolGroup], list[dict[str, Any]]] | None = None
    """The same of a pool for prompts and one that decodes; None where the platform has none."""
    decode_port: int | None = None
    """Where servers of the latter answer; None: where the engine does."""
    needs: str = ""
    secret: str = "gated model: kubectl create secret generic hf-token --from-literal=token=..."  # noqa: S105  how one is made
    cluster: bool = True
    """Whether it runs on nodes of a Kubernetes cluster."""

    def comments(self, model: Model, cluster: Cluster) -> list[str]:
        """Return what has to be there before it starts."""
        gpu, nodes = cluster.gpu, f"nodes of {cluster.gpus_per_node} x {cluster.gpu.name}"
        vendor = "AMD" if gpu.vendor == "amd" else "NVIDIA"
        plugin = "" if gpu.vendor == "cpu" else f"the {vendor} device plugin and "
        needs = [self.needs] if self.needs else []
        needs += [f"needs {plugin}{nodes}"] if self.cluster else []
        return needs + ([self.secret] if model.gated else [])


FORMATS = (
    "vllm",
    "sglang",
    "tensorrt-llm",
    "compose",
    "kubernetes",
    "leaderworkerset",
    "kserve",
    "kserve-llm",
    "llm-d",
    "dynamo",
    "ray-serve",
    "skypilot",
    "production-stack",
)
"""What a deployment can be written as: commands of an engine, or what a platform takes."""
ALIASES = {
    "k8s": "kubernetes",
    "docker-compose": "compose",
    "trtllm": "tensorrt-llm",
    "trt-llm": "tensorrt-llm",
    "lws": "leaderworkerset",
    "inferenceservice": "kserve",
    "llminferenceservice": "kserve-llm",
    "llmd": "llm-d",
    "dgd": "dynamo",
    "dynamographdeployment": "dynamo",
    "ray": "ray-serve",
    "rayserve": "ray-serve",
    "sky": "skypilot",
    "helm": "production-stack",
}
_PLATFORMS: Mapping[str, ServingPlatform] = {
    "kubernetes": ServingPlatform(write=kubernetes, write_pools=kubernetes_pools),
    "leaderworkerset": ServingPlatform(
        write=leader_worker_set, needs="needs the LeaderWorkerSet controller in the cluster"
    ),
    "kserve": ServingPlatform(write=kserve.inference_service, needs="needs KServe; kubectl apply -f FILE"),
    "kserve-llm": ServingPlatform(
        write=kserve.llm_inference_service,
        write_pools=kserve.llm_inference_pools,
        needs="needs KServe 0.16 or later with its LLMInferenceService presets; kubectl apply -f FILE",
    ),
    "llm-d": ServingPlatform(
        write=llm_d.model_service,
        write_pools=llm_d.pool_services,
        decode_port=llm_d.DECODE_PORT,
        needs="values of llm-d's model service chart: helm install NAME llm-d-modelservice/llm-d-modelservice -f FILE",
    ),
    "dynamo": ServingPlatform(
        write=dynamo.graph_deployment,
        write_pools=dynamo.graph_pools,
        needs=f"needs the Dynamo operator; the images are Dynamo {dynamo.VERSION}'s, with its own release of the engine",
    ),
    "ray-serve": ServingPlatform(
        write=ray_serve.serve_config,
        needs="serve run FILE, or a RayService's serveConfigV2; the engine is the release that the cluster has installed",
        secret="gated model: accept its licence and set HF_TOKEN on the cluster's nodes",  # noqa: S106  says where one is needed
        cluster=False,
    ),
    "skypilot": ServingPlatform(
        write=skypilot.task,
        needs="sky launch FILE, or sky serve up FILE where there is a service section",
        secret="gated model: accept its licence and add --secret HF_TOKEN",  # noqa: S106  likewise
        cluster=False,
    ),
    "production-stack": ServingPlatform(
        write=production_stack.helm_values,
        needs="values of the chart of vLLM's production stack: helm install NAME vllm/vllm-stack -f FILE",
    ),
}


def export_format(name: str, further: Sequence[str] = ()) -> str:
    """Return the format of this name or alias; ``further`` are formats that somebody else writes.

    Raises:
        InputError: there is none.

    """
    wanted, known = ALIASES.get(name.lower(), name.lower()), (*FORMATS, *further)
    if wanted not in known:
        close = difflib.get_close_matches(wanted, [*known, *ALIASES], n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        raise InputError(f"unknown export format {name[:40]!r}; {hint}known: {', '.join(known)}")
    return wanted


def render(deployment: Deployment, model: Model, cluster: Cluster, format: str) -> str:  # noqa: A002  the word users know
    """Return the deployment as ``format``: commands of an engine, or a file for a platform.

    Platforms run ``deployment.engine``; an engine's name runs that engine with the same knobs. Raises ``InputError`` for
    what cannot start or a platform cannot say.
    """
    wanted = export_format(format)
    stated_engine = deployment.engine
    if wanted != "compose" and wanted not in _PLATFORMS:
        deployment = replace(deployment, engine=wanted)
    resolved = resolve(deployment, model, cluster)
    deployment = resolved.value
    engine = engine_of(deployment)
    comments = _comments(deployment, model, cluster)
    if engine.name != find_engine(stated_engine).name:
        comments.append(f"the knobs were chosen for {stated_engine}; another engine's speed and memory differ")
    if platform := _PLATFORMS.get(wanted):
        objects = platform.write(replica_group(deployment, model, cluster, engine))
        return as_yaml(objects, [*comments, *platform.comments(model, cluster)])
    started = processes(deployment, model, cluster)
    if wanted == "compose":
        if model.gated:
            comments.append("gated model: accept its licence and set HF_TOKEN")
        return as_yaml([compose(started, model, cluster.gpu, engine)], comments)
    if model.gated:
        comments.append("gated model: accept its licence and export HF_TOKEN")
    nodes = max(process.node for process in started) + 1
    if nodes > 1:
        comments.append(f"{nodes} nodes; put the address of node 0 for node0, and so on")
    if sum(process.port is not None for process in started) > 1:
        comments.append("several servers: spread requests over them with a router")
    return script(started, comments)


def render_pools(prefill: ServingPool, decode: ServingPool, model: Model, format: str) -> str:  # noqa: A002  likewise
    """Return a pool for prompts, another that decodes and the router before them as ``format``, as ``render`` does one deployment.

    Raises:
        InputError: what cannot start, or what a platform cannot say.

    """
    wanted = export_format(format)
    platform = _PLATFORMS.get(wanted)
    if wanted == "compose" or (platform is not None and platform.write_pools is None):
        able = ", ".join(name for name, other in _PLATFORMS.items() if other.write_pools is not None)
        raise InputError(
            f"{wanted} has no pools for prompts and outputs; export for {able}, or as the commands of an engine"
        )
    stated_engine = decode.deployment.engine
    if platform is None:
        prefill, decode = (
            replace(pool, deployment=replace(pool.deployment, engine=wanted)) for pool in (prefill, decode)
        )
    check_pools(prefill, decode, model)
    comments = [f"{pool.role}: {line}" for pool in (prefill, decode) for line in _pool_comments(pool, model)]
    engine = find_engine(decode.deployment.engine)
    if engine.name != find_engine(stated_engine).name:
        comments.append(f"the knobs were chosen for {stated_engine}; another engine's speed and memory differ")
    apart = prefill.cluster.gpu != decode.cluster.gpu
    if platform is not None and platform.write_pools is not None:
        groups = prefill.group(model, apart=apart), decode.group(model, port=platform.decode_port, apart=apart)
        objects = platform.write_pools(*groups)
        needs = [need for pool in (prefill, decode) for need in platform.comments(model, pool.cluster)]
        if apart and not all(group.node_labels for group in groups):
            needs.append("the nodes of both kinds of GPUs are not told apart here; add a nodeSelector to each pool")
        return as_yaml(objects, [*comments, *dict.fromkeys(needs)])
    started = pool_processes(prefill, decode, model)
    if model.gated:
        comments.append("gated model: accept its licence and export HF_TOKEN")
    nodes = max(process.node for process in started) + 1
    if nodes > 1:
        comments.append(f"{nodes} nodes; put the address of node 0 for node0, and so on")
    return script(
        started,
        [
            *comments,
            f"needs, beside the engine: {NEEDS[engine.name]}",
            "requests go to the router, the last command of node 0",
        ],
    )


def _pool_comments(pool: ServingPool, model: Model) -> list[str]:
    return _comments(resolve(pool.deployment, model, pool.cluster).value, model, pool.cluster)


def _comments(deployment: Deployment, model: Model, cluster: Cluster) -> list[str]:
    layout = f"{deployment.dp} x tp {deployment.tp} x pp {deployment.pp}"
    layout += f", experts over {deployment.ep}" if deployment.ep > 1 else ""
    layout += f", contexts over {deployment.dcp}" if deployment.dcp > 1 else ""
    return [f"{model_argument(model)} on {cluster}: {layout}; {engine_name(deployment)}"]


def as_yaml(objects: Sequence[dict[str, Any]], comments: Sequence[str]) -> str:
    """Write objects as YAML documents below comments, nothing by reference and text of several lines as a block."""
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
