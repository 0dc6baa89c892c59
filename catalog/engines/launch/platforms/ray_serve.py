"""Ray Serve LLM: the configuration of an OpenAI application (docs.ray.io, Serve > LLM > Configuration reference; Ray 2.5x)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from catalog.engines.launch import containers
from catalog.engines.launch.options import keywords
from catalog.engines.launch.platforms.accelerators import accelerator
from catalog.engines.launch.process import model_argument
from catalog.engines.launch.replica_group import NODE_OPTIONS, require_engine, require_gpus

if TYPE_CHECKING:
    from catalog.engines.launch.replica_group import ReplicaGroup

_SERVER = NODE_OPTIONS | {"--port"}
"""What Ray places and answers for itself."""


def serve_config(group: ReplicaGroup) -> list[dict[str, Any]]:
    """Return the configuration for ``serve run`` or a RayService's ``serveConfigV2``; Ray spreads a replica over nodes itself."""
    platform = "Ray Serve LLM"
    require_engine(group, platform, "vllm")
    require_gpus(group, platform)
    name = model_argument(group.model)
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": name, "model_source": name},
        "engine_kwargs": keywords(group.server.argv, _SERVER),
        "deployment_config": {"num_replicas": group.count},
    }
    if kind := accelerator("ray", group.cluster.gpu):
        config["accelerator_type"] = kind
    application = {
        "name": containers.label(group.model),
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [config]},
    }
    return [{"applications": [application]}]
