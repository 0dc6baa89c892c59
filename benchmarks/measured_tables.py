"""Write what the programs of ``benchmarks.shared_gpu_loads`` measured as CSV, as it lies in ``benchmarks/measured``.

    python -m benchmarks.measured_tables OUT PREFIX

Of each store in the folder OUT (``runs.jsonl``, ``requests.jsonl``, ``sessions.jsonl``, ``counters.jsonl``,
``memory.jsonl``) a file PREFIX_runs.csv and so on is made. Columns that are empty in every row are left out.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

STORES = ("runs", "requests", "sessions", "counters", "memory")
DIGITS = 5
"""Decimals of the times that are written, seconds or milliseconds."""


def write_table(store: Path, path: Path) -> None:
    """Write a store, one JSON object a line, as CSV."""
    rows = [json.loads(line) for line in store.read_text(encoding="utf-8").splitlines()]
    columns = list(dict.fromkeys(name for row in rows for name in row if row[name] not in (None, "")))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in row.items()})


def _cell(value: object) -> object:
    if isinstance(value, bool):
        return str(value).lower()
    return round(value, DIGITS) if isinstance(value, float) else value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.measured_tables")
    parser.add_argument("out", type=Path)
    parser.add_argument("prefix", type=Path)
    args = parser.parse_args(argv)
    for name in STORES:
        store = args.out / f"{name}.jsonl"
        if store.exists():
            write_table(store, args.prefix.with_name(f"{args.prefix.name}_{name}.csv"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
