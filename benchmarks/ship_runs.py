"""Take the measured runs of vLLM 0.33 into those that ship, without what their session's host decided; and those of SGLang.

    python -m benchmarks.ship_runs

writes ``catalog/data/runs/vllm-0.33.0_h200_static.csv`` from ``measured/vllm_0.33_h200.csv``, ``..._more_runs.csv`` and ``..._sizes_runs.csv``, and ``sglang-0.5.15_h200.csv`` from the static
batches and closed loops of ``measured/sglang_0.5.15_h200_runs.csv``.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MEASURED = tuple(
    Path(__file__).with_name("measured") / f"vllm_0.33_h200{name}.csv" for name in ("", "_more_runs", "_sizes_runs")
)
SHIPPED = Path(__file__).parents[1] / "catalog" / "data" / "runs" / "vllm-0.33.0_h200_static.csv"

OF_SGLANG = (
    Path(__file__).with_name("measured") / "sglang_0.5.15_h200_runs.csv",
    SHIPPED.with_name("sglang-0.5.15_h200.csv"),
)

LONG_PROMPT = 8192
"""Prompts of so many tokens keep the GPU busy longer than the host takes to launch their kernels,"""
MANY_TOKENS, MANY_TOKENS_OF_EXPERTS = 16384, 65536
"""and so do batches of so many tokens in all, of dense models and of those with experts."""

LAUNCHES = 1.2
"""Prefills below so many times that of one prompt of 1,024 tokens, or 128 where that was not measured, are the launches of a pass,
whatever the tokens."""

SHORTEST = 1.05
"""Decode steps below so many times the shortest of a session after the first are the host's: models of 16 and 24 layers take the same
there."""

HOST_BOUND = ("prefill_ms", "ttft_ms", "e2e_ms", "output_tok_s")
SHARED = ("utilisation", "power_w", "energy_j", "peak_memory_gib", "kv_capacity_tokens")
"""Engines that were idle on the same GPU drew power and took memory, too (``measured/vllm_0.33_h200_memory.csv``)."""


def with_experts(name: str) -> bool:
    from catalog.models.find import find_model

    return find_model(name).value.moe_layers > 0


def load_of(row: dict[str, str]) -> str:
    return row["run_id"].rsplit("-b", 1)[0]


def shipped(row: dict[str, str], launches_ms: float) -> dict[str, str]:
    """Return a row without what the host, which takes ``launches_ms`` for a pass, or other engines decided."""
    tokens, prompt = int(row["batch"]) * int(row["input_len"]), int(row["input_len"])
    enough = MANY_TOKENS_OF_EXPERTS if with_experts(row["model"]) else MANY_TOKENS
    long = prompt >= LONG_PROMPT and float(row["prefill_ms"]) >= LAUNCHES * launches_ms
    gone = SHARED if long or tokens >= enough else (*SHARED, *HOST_BOUND)
    return row | dict.fromkeys(gone, "")


def without_shortest(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the rows of a session without the decode steps that are the host's."""
    shortest = SHORTEST * min(float(row["tpot_ms"]) for row in rows)
    return [row | {"tpot_ms": "" if float(row["tpot_ms"]) < shortest else row["tpot_ms"]} for row in rows]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str] = ()) -> None:
    """Write rows as CSV; without ``columns``, those that are not empty in every row."""
    columns = columns or [name for name in rows[0] if any(row[name] for row in rows)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    first, *later = (read(path) for path in MEASURED)
    measured = [*first, *(row for rows in later for row in without_shortest(rows))]
    launches: dict[str, float] = {}
    for prompt in ("128", "1024"):
        launches |= {
            load_of(row): float(row["prefill_ms"])
            for row in measured
            if (row["batch"], row["input_len"]) == ("1", prompt)
        }
    write(SHIPPED, [shipped(row, launches[load_of(row)]) for row in measured])
    write(OF_SGLANG[1], [row for row in read(OF_SGLANG[0]) if row["regime"] != "open"])


if __name__ == "__main__":
    main()
