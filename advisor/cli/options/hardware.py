"""Options that name the model and the GPUs."""

from __future__ import annotations

from typing import Annotated, Any

from advisor.cli.groups import flag, group
from advisor.cli.options.values import catalog_names, gpu_names, overrides
from catalog.quantities import USD_PER_HOUR

PANEL = "Model and hardware"


@group(PANEL)
class Hardware:
    """A model on some GPUs."""

    model: Annotated[str, flag("--model", metavar="NAME", completion=catalog_names("models"))]
    """Catalog name (llama-13b), Hugging Face id, or path to a config.json."""
    gpus: Annotated[str, flag("--gpus", metavar="GPUS", completion=gpu_names)]
    """4xA100, A100:4, 8xH100-80GB, or nodes x GPUs: 2x8xH100."""
    set_gpu: Annotated[list[str] | None, flag("--set-gpu", metavar="FIELD=VALUE")] = None
    """Change a field of the GPU, what-if: memory_bandwidth_gbps=6000. Can be repeated."""

    def keywords(self) -> dict[str, Any]:
        """Return what every question of the Python API takes."""
        return {"model": self.model, "gpus": self.gpus, "set_gpu": overrides(self.set_gpu)}


@group(PANEL)
class PlannedHardware(Hardware):
    """A model on kinds of GPUs, as many as it takes."""

    gpus: Annotated[str, flag("--gpus", metavar="GPUS", completion=gpu_names)]
    """Kinds of GPUs, as many of each as needed (H100,H200,A100), or at most a number (8xH100)."""


@group(PANEL)
class ComparedHardware:
    """Models and GPUs that are put side by side; what is not named is open."""

    model: Annotated[str | None, flag("--model", metavar="NAMES", completion=catalog_names("models"))] = None
    """Models, separated by commas.  [default: all of the catalog]"""
    gpus: Annotated[str | None, flag("--gpus", metavar="GPUS", completion=gpu_names)] = None
    """GPUs, separated by commas: 8xH100,4xB200, or a kind, as many as needed within a server: H100.  [default: all kinds]"""
    budget: Annotated[float | None, flag("--budget", metavar="USD", quantity=USD_PER_HOUR)] = None
    """Most dollars for all GPUs: 10/h or $5000/month."""


GPUS = flag("--gpus", metavar="GPUS")
DEVICE = flag("--device", metavar="DEVICE")


@group(PANEL)
class TunedHardware:
    """A model on GPUs of this machine, and the time there is."""

    model: Annotated[str, flag("--model", metavar="NAME", completion=catalog_names("models"))]
    """Catalog name (llama-13b), Hugging Face id, or path to a config.json."""
    gpus: Annotated[str, GPUS] = "local"
    """local, 2 (two of this machine's) or 0,3 (these); with --dry-run also 4xH200."""
    budget: Annotated[str, flag("--budget", metavar="TIME")] = "5m"
    """Longest time to measure, start-up included: 90s, 5m or 1h."""
    device: Annotated[str, DEVICE] = "cuda"
    """cuda; or cpu, to try the command with tiny models, one process per GPU."""


@group(PANEL)
class ProbedHardware:
    """A model on GPUs of this machine or behind a running server, and the time there is."""

    model: Annotated[str | None, flag("--model", metavar="NAME")] = None
    """Catalog name (llama-13b), Hugging Face id, or path to a config.json; if safetensors lie beside it, those weights are used."""
    gpus: Annotated[str, GPUS] = "local"
    """local, 2 (two of this machine's) or 0,3 (these); with --dry-run also 4xH200; with --endpoint the GPUs that it runs on: 4xH100."""
    budget: Annotated[str | None, flag("--budget", metavar="TIME")] = None
    """Longest time to measure, start-up included: 90s, 3m or 1h.  [default: 3m; none with --plan]"""
    device: Annotated[str, DEVICE] = "cuda"
    """cuda; or cpu, to try the command with tiny models, one process per GPU."""
    endpoint: Annotated[str | None, flag("--endpoint", metavar="URL")] = None
    """Measure this running server (OpenAI's interface) with GuideLLM, under rising load; its key is read from $OPENAI_API_KEY."""
