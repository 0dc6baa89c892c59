"""The engines that ``probe`` starts: what they can run, whether they are installed, and the programs that measure them."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import probes
from catalog.errors import InputError, Note
from probes.benchmark_plan import config_json
from probes.torch_engine import load_worker
from probes.torch_engine import static as torch_static
from probes.torch_engine.model_settings import check_runs, read_settings
from probes.vllm_engine import serving as vllm_serving
from probes.vllm_engine import static as vllm_static

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Deployment, Model

ENGINES = ("torch", "vllm")
START_S = {"torch": 15.0, "vllm": 90.0, "cpu": 8.0}
"""Seconds from a load's order to its first shape, before any has been seen: imports, weights, CUDA graphs, compiled
kernels. Rough; from the first load on, what loads really took counts."""


def check_engine(engine: str, device: str, *, serving: bool) -> None:
    """Raise ``InputError`` for an engine that is not measured, or not so."""
    if engine not in ENGINES:
        raise InputError(f"engine is {engine!r:.40}; {' and '.join(ENGINES)} can be measured")
    if engine == "vllm" and device == "cpu":
        raise InputError("vllm is measured on GPUs only; --engine torch --device cpu tries things out without one")
    if engine == "torch" and serving:
        raise InputError(
            "plain PyTorch is no server, it has no traffic to be measured under; --engine vllm has, or --endpoint URL"
        )


def check_deployment(engine: str, model: Model, deployment: Deployment, device: str) -> None:
    """Raise ``InputError`` for what the engine cannot run."""
    if engine == "vllm":
        config_json(model, max_model_len=deployment.max_model_len)
        return
    check_runs(model, deployment, device=device)
    read_settings(model)


def check_installed(engine: str) -> None:
    """Raise ``InputError`` for an engine that is not installed, or too old."""
    if engine == "vllm":
        vllm_static.check_installed()
    if find_spec("torch") is None or find_spec("safetensors") is None:
        raise InputError("measuring needs torch and safetensors: pip install 'advisor[probes]'")


def version_notes(engine: str) -> tuple[Note, ...]:
    """Warn of an installed version that is not known to work; one that is missing or too old is refused when it would
    be started.
    """
    with suppress(InputError):
        if engine == "vllm" and (warning := vllm_static.check_installed()):
            return (Note(warning, "warning"),)
    return ()


def worker(engine: str, device: str, *, serving: bool) -> list[str]:
    """Return the command that starts a process for one load."""
    if engine == "vllm":
        return vllm_serving.worker_command() if serving else vllm_static.worker_command()
    return torch_static.worker_command(device)


def environment(engine: str) -> Mapping[str, str]:
    """Return what workers need beside our own environment; they must find our packages wherever they are started."""
    shared = vllm_static.ENVIRONMENT if engine == "vllm" else load_worker.ENVIRONMENT
    root = str(Path(probes.__file__).parents[1])
    return {**shared, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
