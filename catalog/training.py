"""What is known of training: frameworks as facts, layouts, and step times and memory that others published."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from annotated_types import Interval

from catalog.errors import InputError
from catalog.names import suggestion
from catalog.schema import Degree  # noqa: TC001  read at run time, by the checks of bounds

T = TypeVar("T")
DATA = Path(__file__).parent / "data" / "training"

Recomputation = Literal["none", "selective", "full"]
RECOMPUTATIONS: tuple[Recomputation, ...] = ("none", "selective", "full")
"""What of a layer's activations is computed again in the backward pass: nothing, the core of attention, or the whole layer
(Korthikanti et al. 2022, arXiv 2205.05198)."""
Schedule = Literal["gpipe", "1f1b"]
SCHEDULES: tuple[Schedule, ...] = ("gpipe", "1f1b")
"""GPipe (arXiv 1811.06965), and one forward, one backward (PipeDream-Flush, arXiv 2006.09503); interleaved with more than one
chunk of layers a stage (Narayanan et al. 2021, arXiv 2104.04473)."""
PRECISIONS = ("bf16", "fp8", "fp4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Framework:
    """How a training framework of one time works, as far as memory and time follow from it."""

    name: str
    aliases: tuple[str, ...] = ()
    fused_attention: bool
    """Whether attention never writes its scores (FlashAttention, arXiv 2205.14135)."""
    flash_2: bool = False
    """Whether its kernels are FlashAttention-2's (arXiv 2307.08691), which were made for Ampere; others have some of Hopper's own, too."""
    dropout: bool
    """Whether layers have dropout, whose masks are kept."""
    zero: Annotated[int, Interval(ge=0, le=3)]
    """Stage of ZeRO (arXiv 1910.02054) it takes without a word: what is divided among replicas: 1 optimizer states, 2 gradients
    too, 3 weights too (FSDP)."""
    stages: tuple[int, ...]
    """The stages that it can take beside pipelines and what else it has."""
    weight_bytes: float
    """Bytes of a weight as products read it, ..."""
    gradient_bytes: float
    """... of a gradient as it is kept, ..."""
    optimizer_bytes: float
    """... of Adam's states with the 32-bit weight, ..."""
    reduced_bytes: float
    """... and of a gradient as it is sent."""
    overlaps_gradients: bool
    """Whether gradients and weights travel among replicas beside the computation."""
    overlaps_tensor: bool
    """Whether tensor-parallel communication runs beside products (TransformerEngine's user buffers)."""
    overlaps_stages: bool
    """Whether stages hand activations over beside the computation."""
    interleaves: bool
    stops_recomputation: bool = False
    """Whether a layer is computed again only as far as something needs it, which its last product's output is not
    (``torch.utils.checkpoint.set_checkpoint_early_stop``, PyTorch 2.1)."""
    parallel: tuple[str, ...]
    """Of tp, pp, cp, ep: what it has beside data parallelism."""
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingLayout:
    """How training is laid out on GPUs."""

    tp: Degree = 1
    pp: Degree = 1
    dp: Degree = 1
    """Replicas, over which ``zero`` divides."""
    cp: Degree = 1
    """GPUs that share each sequence (context parallel)."""
    ep: Degree = 1
    """GPUs of a replica group that the routed experts are spread over."""
    micro_batch: Degree = 1
    """Sequences of one micro-batch."""
    interleave: Degree = 1
    """Chunks of layers a stage holds."""
    recompute: Recomputation = "none"
    sequence_parallel: bool = False
    zero: Annotated[int, Interval(ge=0, le=3)] = 0

    @property
    def num_gpus(self) -> int:
        return self.tp * self.pp * self.cp * self.dp

    @property
    def label(self) -> str:
        """Write it as people do: "TP8 PP8x3 DP4 ZeRO-1"."""
        stages = f"PP{self.pp}" + (f"x{self.interleave}" if self.interleave > 1 else "")
        more = [f"{name}{degree}" for name, degree in (("CP", self.cp), ("EP", self.ep)) if degree > 1]
        return " ".join([f"TP{self.tp}", stages, *more, f"DP{self.dp}", *([f"ZeRO-{self.zero}"] if self.zero else [])])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One step time that others published. An empty knob was not stated."""

    role: Literal["fit", "validate"] = "fit"
    publication: str
    """What is left out together when figures are judged."""
    source: str
    gpu: str
    gpus: int
    network_gbps: float
    model: str
    framework: str
    precision: str = "bf16"
    lora_rank: int = 0
    tp: int | None = None
    pp: int | None = None
    cp: int = 1
    zero: int | None = None
    interleave: int | None = None
    micro_batch: int | None = None
    batch: int
    sequence_length: int
    recompute: str = ""
    sequence_parallel: bool = False
    step_s: float
    """Seconds of one step, as stated or as the stated throughput implies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMemoryFigure:
    """Memory of one GPU in training that others published."""

    source: str
    model: str
    gpus: int
    tp: int
    pp: int
    interleave: int
    micro_batch: int
    batch: int
    sequence_length: int
    recompute: str
    sequence_parallel: bool
    quantity: str
    """"states_gib": weights, gradients and optimizer; "activations_gib"; "activations_percent": of those without recomputation
    and sequence parallelism."""
    value: float


@cache
def frameworks() -> dict[str, Framework]:
    """Every framework there are facts for, by name."""
    tables = tomllib.loads((DATA / "frameworks.toml").read_text(encoding="utf-8"))
    by_name = {}
    for name, table in tables.items():
        values: dict[str, Any] = {key: tuple(cell) if isinstance(cell, list) else cell for key, cell in table.items()}
        by_name[name] = Framework(name=name, **values)
    return by_name


def find_framework(name: str) -> Framework:
    """Return the framework of that name or alias.

    Raises:
        InputError: there is none of that name.

    """
    wanted = str(name).strip().casefold().replace("_", "-")
    for framework in frameworks().values():
        if wanted in (framework.name, *framework.aliases):
            return framework
    near = suggestion(wanted, frameworks(), otherwise=f"known: {', '.join(frameworks())}")
    raise InputError(f"unknown training framework {str(name)[:60]!r}; {near}")


@cache
def training_runs() -> tuple[TrainingRun, ...]:
    """Step times that others published, as ``data/training/step_times.csv`` has them."""
    return _rows(TrainingRun, "step_times.csv")


@cache
def training_memory_figures() -> tuple[TrainingMemoryFigure, ...]:
    """Memory of training that others published, as ``data/training/memory.csv`` has it."""
    return _rows(TrainingMemoryFigure, "memory.csv")


def _rows(kind: type[T], name: str) -> tuple[T, ...]:
    kinds = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return tuple(
            kind(**{key: _typed(text, kinds[key]) for key, text in row.items() if text}) for row in csv.DictReader(file)
        )


def _typed(text: str, kind: str) -> str | int | float | bool:
    if kind.startswith("int"):
        return int(text)
    if kind == "float":
        return float(text)
    return text == "True" if kind == "bool" else text
