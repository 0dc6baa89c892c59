"""The tables of tuned tile sizes that a wheel of vLLM has for its Triton kernel of experts, and the file of them that the catalog keeps."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

from catalog.engines.expert_kernels import BLOCKS, COLUMNS, GPUS, TUNED, WEIGHTS
from catalog.engines.wheel_facts.wheel import MissingFactError

if TYPE_CHECKING:
    from catalog.engines.wheel_facts.wheel import Wheel

FOLDER = "model_executor/layers/fused_moe/configs"
_FILE = re.compile(r"/E=(\d+),N=(\d+),device_name=([^,]+?)(?:,dtype=(\w+))?(?:,block_shape=(\[128,128\]))?\.json$")


def tables_of(wheel: Wheel) -> frozenset[tuple[str, int, int, str]]:
    """Return (GPU, experts, width of one, format of the weights) of every table of the GPUs and formats that the catalog knows.

    Raises:
        MissingFactError: the wheel has none at all.

    """
    paths = wheel.paths(FOLDER, ".json")
    if not paths:
        raise MissingFactError(f"no tables in {FOLDER}")
    rows = set()
    for experts, width, device, dtype, blocks in (match.groups() for match in map(_FILE.search, paths) if match):
        weights = BLOCKS if blocks and dtype == "fp8_w8a8" else WEIGHTS.get(dtype or "") if not blocks else None
        if weights and device in GPUS:
            rows.add((GPUS[device], int(experts), int(width), weights))
    return frozenset(rows)


def write_tables(wheel: Wheel) -> int:
    """Keep the tables of a wheel in the catalog, and return how many there are."""
    rows = sorted(tables_of(wheel))
    with TUNED.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])
    return len(rows)
