"""The columns of kernel tables that others publish, turned into those of ``catalog.kernels``.

They are those of AIConfigurator's tables in long form: ``backend`` and ``version``, formats as its collectors name them, ``distribution`` of
tokens among experts, ``time_us``. How its rows are timed was read in its collectors (commit 095f58a).
"""

from __future__ import annotations

import re
from typing import Any

from catalog.engines.registry import all_engines
from catalog.errors import InputError

PUBLISHED_TIME = "time_us"
"""The column by which such a table is known."""

RENAMED = {PUBLISHED_TIME: "us", "backend": "engine", "version": "engine_version"}
FORMATS: dict[str, tuple[str, bool]] = {
    **{name: (name, False) for name in ("bfloat16", "float16", "fp8", "nvfp4")},
    "fp8_block": ("fp8", True),
    "int4_wo": ("int4", False),
    "int8_wo": ("int8", False),
    "sq": ("int8", False),
    "w4a16_mxfp4": ("mxfp4", False),
    "w4a8_mxfp4_mxfp8": ("mxfp4", False),
}
"""Our format of the weights, and whether a square block of them has one scale, by the source's name."""

CONVERTED = ("fp8", "nvfp4", "sq", "fp8_block")
"""Formats of products whose times have the conversion of the input in them, ..."""
CONVERTING = ("vllm", "tensorrt-llm")
"""...with these engines."""

MODULES = ("mla_module", "dsa_module", "msa_module")
"""Attention with its projections."""
WITH_FORMAT = ("gemm", "attention", "experts", "mla", *MODULES)
WITH_PHASE = ("gdn", "kda", "mamba2", "expert_exchange")
POWER_LAW = re.compile(r"power_law_(\d+(?:\.\d+)?)")


def of_published(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a row with our columns.

    Raises:
        InputError: naming ``where`` and the column whose value is not known.

    """
    op, engine = row.get("op", ""), row.get("backend", "")
    known = (*(one.name for one in all_engines()), "nccl")
    if engine not in known:
        raise InputError(f"{where}: backend is {engine!r:.40}; it must be one of {', '.join(known)}")
    time = row.get(PUBLISHED_TIME, "")
    if not _is_positive(time):
        raise InputError(f"{where}: {PUBLISHED_TIME} is {time!r:.40}; it must be a number above 0")
    ours = {
        RENAMED.get(name, name): cell for name, cell in row.items() if name not in ("distribution", "dtype", "phase")
    }
    ours.setdefault("graph", "unknown")
    if engine == "nccl":  # any engine's; nccl-tests queues calls one behind the other, so that launching is in none
        ours |= {"engine": "", "graph": "graph", "kernel": f"NCCL {ours.pop('engine_version', '')}".strip()}
    if op in WITH_PHASE:
        ours["phase"] = row.get("phase", "")
    if op in WITH_FORMAT and "dtype" in row:
        dtype = row["dtype"]
        if dtype not in FORMATS:
            raise InputError(f"{where}: dtype is {dtype!r:.40}; it must be one of {', '.join(FORMATS)}")
        ours["dtype"], blocks = FORMATS[dtype]
        if blocks:
            ours["block_scales"] = "true"
        if op == "gemm" and dtype in CONVERTED and engine in CONVERTING:
            ours["converts"] = "true"
    if op == "attention":
        ours["caches"] = "true"
    if op == "experts":
        ours |= {"sorts": "true", **_routing(row.get("distribution", ""), where)}
        ours |= {"gated": "false"} if "nongated" in row.get("kernel", "") else {}
    if row.get("impl") == "custom":
        ours["impl"] = f"{engine}-custom"
    if op not in (*MODULES, *WITH_PHASE):
        ours.pop("model", None)
    return ours


def _is_positive(text: str) -> bool:
    try:
        return 0.0 < float(text) < float("inf")
    except ValueError:
        return False


def _routing(distribution: str, where: str) -> dict[str, str]:
    if distribution in ("uniform", "balanced", ""):
        return {"routing": distribution or "uniform"}
    drawn = POWER_LAW.fullmatch(distribution)
    if not drawn:
        raise InputError(
            f"{where}: distribution is {distribution!r:.40}; it must be uniform, balanced, or power_law_ and an exponent"
        )
    return {"routing": "power_law", "exponent": drawn[1]}
