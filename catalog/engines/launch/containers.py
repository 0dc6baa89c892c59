"""What Docker Compose and Kubernetes say alike of a container: image, command, files, mounts."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from catalog.engines.launch.process import is_local, model_argument
from catalog.engines.registry import find_engine
from catalog.errors import InputError

if TYPE_CHECKING:
    from catalog.engines.launch.process import Process
    from catalog.engines.registry import Engine
    from catalog.schema import Deployment, Gpu, Model

FILES = "/etc/advisor"
"""Folder that a container finds the files of its process in."""
HUB_CACHE = "/cache/huggingface"
"""Folder in a container that the hub's library keeps models in, nobody's home: an image need not run as root."""


def image(engine: Engine, gpu: Gpu) -> str:
    """Return the engine's container image for the GPU's vendor."""
    if gpu.vendor not in engine.images:
        raise InputError(
            f"no container image of {engine.name} {engine.version} is known for {gpu.name}; export the commands of the engine itself"
        )
    return engine.images[gpu.vendor]


def engine_of(deployment: Deployment) -> Engine:
    """Return a deployment's engine with the images of its release: of another one than the catalog's those for NVIDIA's GPUs alone,
    whose tags name it.
    """
    engine, version = find_engine(deployment.engine), deployment.engine_version
    if not version or version == engine.version:
        return engine
    tagged = engine.images.get("nvidia", "")
    known = re.fullmatch(r"\d+\.\d+\.\d+\S*", version) and engine.version in tagged
    return replace(engine, version=version, images={"nvidia": tagged.replace(engine.version, version)} if known else {})


def argv(process: Process) -> list[str]:
    """Return the command, with files at their place in the container."""
    return [f"{FILES}/{word}" if word in process.files else word for word in process.argv]


def model_folder(model: Model) -> str:
    """Return the folder that has to be mounted for a local model; empty for one from the hub."""
    if not is_local(model):
        return ""
    folder = model_argument(model)
    if not folder.startswith("/") or ".." in folder.split("/"):
        raise InputError(f"a container needs the model's absolute path; {folder[:80]!r} is relative")
    return folder


def environment(model: Model) -> dict[str, str]:
    """Return variables that a container finds the model with."""
    return {} if is_local(model) else {"HF_HOME": HUB_CACHE}


def label(model: Model) -> str:
    """Return a DNS label that names the model."""
    tail = model_argument(model).rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9]+", "-", tail).strip("-")[:40].strip("-") or "model"
