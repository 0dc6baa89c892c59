"""Take the published benchmarks that the fit learns from into the repository: rows that are used, columns that are read.

    python -m benchmarks.take_published FOLDER

reads ``*_static.csv``, ``*_saturated.csv`` and tables of closed loops in FOLDER, and kernels in its folder ``kernels``, and writes them to
``benchmarks/published``, whose README names sources and licences; a part of the kernels that the fit does not learn from goes to its folder
``judged_kernels`` (``python -m benchmarks.kernels``).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ship_runs import read, write
from catalog.closed_loops import REQUIRED as OF_LOOPS
from catalog.closed_loops import read_loops
from catalog.kernels import PARTS
from catalog.published import REQUIRED as OF_LONG_FORM
from catalog.published import read_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

PUBLISHED = Path(__file__).with_name("published")
LONG_FORM = (*sorted(OF_LONG_FORM - {"row_id"}), "row_id", "throughput_scope")
LOOPS = (*sorted(OF_LOOPS), "regime", "measured", "kv_dtype", "pp", "dp", "ep", "step_tokens", "output_tok_s_per_gpu")


def take(path: Path) -> tuple[str, list[dict[str, str]], Sequence[str]]:
    """Return the name under which a file is kept, its rows that are used, and their columns."""
    rows = read(path)
    loops = set(rows[0]) >= OF_LOOPS
    reader, columns = (read_loops, LOOPS) if loops else (read_rows, LONG_FORM)
    used = [row for row in rows if reader([("", {name: cell for name, cell in row.items() if cell})]).runs]
    if not loops:  # texts are their authors'
        used = [
            row | {"notes": "", "throughput_scope": row.get("throughput_scope", "").partition(" = ")[0]} for row in used
        ]
    name = f"{path.stem}_loops.csv" if loops else path.name
    return name, used, [column for column in columns if column in OF_LONG_FORM or any(row.get(column) for row in used)]


NVSWITCH = ("A100-SXM-80GB", "H100-SXM", "B200-SXM", "B300-SXM", "GB200", "GB300")
"""GPUs whose sums were timed over NVSwitch; those of the others are of hosts without peer access."""
GPUS_OF_A_NODE = 8
OF_KERNELS = ("gpu", "op", "m", "k", "n", "group", "bytes", "impl", "dtype", "us", "source", "licence")


OWN = "h200-sxm"
"""This project's own times of that GPU ship (catalog/data/kernels)."""


def kernels_of(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return the kernels of one GPU that were timed as vLLM runs them: products of 16 bits whose weights no cache held, and sums."""
    chosen = []
    for row in rows:
        product = row["op"] == "gemm" and (row["backend"], row["dtype"], row["cache"], row["graph"]) == (
            "vllm",
            "bfloat16",
            "cold",
            "graph",
        )
        in_step = row["backend"] == "nccl" or (row["backend"] == "vllm" and row["graph"] == "graph")
        summed = row["op"] == "allreduce" and row["gpu"] in NVSWITCH and in_step and int(row["group"]) <= GPUS_OF_A_NODE
        if product or summed:
            impl = {"custom": "vllm-custom"}.get(row["impl"], row["impl"])
            kept = {name: row[name] for name in OF_KERNELS if row.get(name)}
            chosen.append(kept | {"us": row["time_us"]} | ({"impl": impl} if summed else {}))
    return [{name: cell for name, cell in row.items() if name != "dtype" or row["op"] == "gemm"} for row in chosen]


JUDGED = "judged_kernels"
EVERY = 3
"""Of the kernels that judge one in so many of a file is taken; their order is by shape."""


def judged_kernels(path: Path) -> list[dict[str, str]]:
    """Return a part of the kernels of one GPU that are predicted, were timed as they run, and of which the fit learns nothing."""
    rows = [row for row in read(path) if row["op"] not in PARTS]
    timed = [row for row in rows if row["graph"] != "eager" or row["backend"] == "nccl"]
    chosen = [row for row in timed if row["cache"] != "warm" and (path.stem == OWN or not kernels_of([row]))]
    return chosen[::EVERY]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.take_published", description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    loops = [
        path
        for path in sorted(folder.glob("*.csv"))
        if set(path.read_text("utf-8").split("\n", 1)[0].split(",")) >= OF_LOOPS
    ]
    PUBLISHED.mkdir(exist_ok=True)
    for path in (*sorted(folder.glob("*_static.csv")), *sorted(folder.glob("*_saturated.csv")), *loops):
        name, rows, columns = take(path)
        write(PUBLISHED / name, rows, columns)
        print(f"{name}: {len(rows)} rows")
    for name in ("kernels", JUDGED):
        (PUBLISHED / name).mkdir(exist_ok=True)
    for path in sorted((folder / "kernels").glob("*.csv")):
        kept = judged_kernels(path)
        write(PUBLISHED / JUDGED / path.name, kept, list(kept[0]))
        print(f"{JUDGED}/{path.name}: {len(kept)} rows")
        if path.stem == OWN:
            continue
        rows = kernels_of(read(path))
        write(PUBLISHED / "kernels" / path.name, [dict.fromkeys(OF_KERNELS, "") | row for row in rows])
        print(f"kernels/{path.name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
