"""For which experts vLLM's Triton kernel has tile sizes that were tuned on a GPU; others run with default ones, slower.

``catalog/data/tuned_experts.csv`` lists the tables of the wheel of vLLM 0.33.0 (``model_executor/layers/fused_moe/configs``, one file for
each number of experts and width on a GPU, in a format). ``python -m catalog.engines.wheel_facts`` compares them with those of another
wheel, and with ``--tuned-experts`` reads them anew.
"""

from __future__ import annotations

import csv
from functools import cache
from typing import TYPE_CHECKING

from catalog.tables import DATA

if TYPE_CHECKING:
    from catalog.schema import Gpu

TUNED = DATA / "tuned_experts.csv"
COLUMNS = ("gpu", "experts", "width", "weights")

HALF, BLOCKS = "16 bits", "fp8 blocks"
WEIGHTS = {"": HALF, "fp8_w8a8": "fp8", "int8_w8a8": "int8"}
"""Our names of the formats in the names of vLLM's files; the others are not multiplied by this kernel."""

GPUS = {
    "NVIDIA_H200": "H200-SXM",
    "NVIDIA_H100_80GB_HBM3": "H100-SXM",
    "NVIDIA_H100_PCIe": "H100-PCIE",
    "NVIDIA_H20": "H20",
    "NVIDIA_H20-3e": "H20-141GB",
    "NVIDIA_A100-SXM4-40GB": "A100-SXM-40GB",
    "NVIDIA_A100-SXM4-80GB": "A100-SXM-80GB",
    "NVIDIA_A100_80GB_PCIe": "A100-PCIE-80GB",
    "NVIDIA_L40S": "L40S",
    "NVIDIA_L20": "L20",
    "NVIDIA_GeForce_RTX_4090": "RTX 4090",
    "AMD_Instinct_MI300X": "MI300X",
    "AMD_Instinct_MI325X": "MI325X",
    "AMD_Instinct_MI325_OAM": "MI325X",
    "AMD_Instinct_MI350X": "MI350X",
    "AMD_Instinct_MI350_OAM": "MI350X",
    "AMD_Instinct_MI355X": "MI355X",
    "AMD_Instinct_MI355_OAM": "MI355X",
}
"""Our names of the devices in the names of vLLM's files. Blackwell is left out: other kernels than Triton's are chosen there
(``fused_moe/oracle``)."""

FAMILY = "H200"
"""Of the GPUs that vLLM takes for one (``get_config_file_name``)."""


@cache
def tuned_experts() -> frozenset[tuple[str, int, int, str]]:
    """Return (GPU, experts, width of one, format of the weights) of every table."""
    with TUNED.open(encoding="utf-8", newline="") as file:
        return frozenset(
            (row["gpu"], int(row["experts"]), int(row["width"]), row["weights"]) for row in csv.DictReader(file)
        )


@cache
def has_untuned_experts(engine: str, gpu: Gpu, weights: str, num_experts: int, width: int) -> bool:
    """Return whether an engine multiplies experts with default tile sizes.

    Args:
        engine: as the catalog names it; other engines than vLLM bring other kernels.
        gpu: what it runs on.
        weights: "16 bits", "fp8", "fp8 blocks" or "int8"; others are multiplied by other kernels.
        num_experts: that a GPU holds of a layer.
        width: of an expert's inner layer, as far as a GPU holds it.

    """
    family = "H200-SXM" if gpu.name.startswith(FAMILY) else gpu.name
    if engine != "vllm" or family not in GPUS.values() or weights not in (*WEIGHTS.values(), BLOCKS):
        return False
    return (family, num_experts, width, weights) not in tuned_experts()
