"""How well models, GPUs and engines are predicted that a fit has never seen, as of when the shipped fit was made.

Each is left out in turn and everything is fitted again, which takes minutes, so the errors ship:

    python -m advisor.validation.holdout

writes them, from the published benchmarks in ``benchmarks/published`` and the runs that ship; to be run again after every change of the shipped surrogate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.calibration.shipped_fit import PUBLISHED
from advisor.calibration.surrogate import SHIPPED as SURROGATE
from advisor.validation.closed_loops import judge
from advisor.validation.prediction_errors import ErrorSummary, summarised
from catalog.borders import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from advisor.validation.closed_loops import LoopJudgement

SHIPPED = SURROGATE.with_name("left_out.json")
HOLDOUT_COMMAND = "advisor validate --published DIR"
"""Shows the same, and every check behind it."""
KEYS = ("split", "engine", "metric")
TABLE_KEYS = ("split", "engine", "gpu", "experts", "format", "regime", "metric")
"""By what the table is: how far what is predicted is from what was fitted, and what it is."""
TABLE_METRICS = ("prefill_ms", "tpot_ms", "output_tok_s")
LEAST_IN_TABLE = 10
"""Predictions from which a row of the table says something."""


SPLITS = ("model left out", "GPU left out, kernels kept", "GPU left out", "engine left out")
"""The nearest to what was measured first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutErrors:
    """Errors and coverage of what was left out of a fit."""

    date: str
    surrogate: str
    """Digest of the surrogate that was judged."""
    rows: tuple[ErrorSummary, ...]
    """By split and metric, of all engines together ("all") and of each."""
    table: tuple[ErrorSummary, ...] = ()
    """By ``TABLE_KEYS``."""

    def to_json(self) -> str:
        """Return the file that ships, a row a line."""
        rows, table = (
            ",\n".join(json.dumps(row.to_dict(), allow_nan=False) for row in error) for error in (self.rows, self.table)
        )
        head = f'"date": "{self.date}", "surrogate": "{self.surrogate}"'
        return f'{{{head}, "rows": [\n{rows}\n], "table": [\n{table}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> HoldoutErrors:
        """Return what ``to_json`` wrote."""
        body = json.loads(text)
        rows, table = (
            tuple(ErrorSummary(group={key: row.pop(key) for key in keys}, **row) for row in body[name])
            for name, keys in (("rows", KEYS), ("table", TABLE_KEYS))
        )
        return cls(date=body["date"], surrogate=body["surrogate"], rows=rows, table=table)


def digest() -> str:
    """Return the digest of the surrogate that ships."""
    return hashlib.sha256(SURROGATE.read_bytes()).hexdigest()[:16]


def holdout_errors() -> HoldoutErrors | None:
    """Return what ships; None where it is about another surrogate than the one that ships."""
    errors = HoldoutErrors.from_json(SHIPPED.read_text(encoding="utf-8"))
    return errors if errors.surrogate == digest() else None


def main(arguments: Sequence[str] | None = None) -> None:
    from advisor.validation.validation import validate  # only this refits

    parser = argparse.ArgumentParser(prog="python -m advisor.validation.holdout", description=__doc__)
    parser.add_argument("--published", type=Path, default=PUBLISHED, help="folder of published benchmarks")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    judged = validate(published=chosen.published, compare=False, jobs=chosen.jobs)
    checks = [check for check in judged.checks if check.split in SPLITS]
    every = [
        replace(row, group={"split": row.group["split"], "engine": "all", "metric": row.group["metric"]})
        for row in summarised(checks, ("split", "metric"))
    ]
    rows = summarised((check for check in checks if check.metric in TABLE_METRICS), TABLE_KEYS)
    errors = HoldoutErrors(
        date=datetime.now(UTC).date().isoformat(),
        surrogate=digest(),
        rows=(*every, *summarised(checks, KEYS)),
        table=tuple(row for row in rows if row.checks >= LEAST_IN_TABLE),
    )
    write_whole(chosen.out, errors.to_json())
    for line in _lines(errors, judge(checks)):
        print(line)


def _lines(errors: HoldoutErrors, loops: LoopJudgement) -> Iterator[str]:
    """Yield the table, and what closed loops say of choosing by predictions of models, GPUs and engines left out."""
    for row in errors.table:
        yield (
            f"{' '.join(f'{part:12s}' for part in row.group.values())} {row.checks:5d}  {row.median_error:6.1%} {row.mean_error:6.1%}"
            f"  {row.bias:+5.0%}  held {row.coverage:4.0%}  +-{row.half_width:4.0%}"
        )
    for choice in loops.choices:
        yield (
            f"{choice.split:16s} {choice.engine:12s} {choice.gpu:9s} {choice.choices:4d} choices: within 5% of the best "
            f"{choice.within:3d}, limit missed {choice.missed:2d}, none {choice.empty:2d}, regret {choice.regret:.1%}"
        )
    for pair in loops.matched:
        yield (
            f"{pair.split:16s} {pair.one} or {pair.other}: {pair.cells} cells, right {pair.right}, too close {pair.close}, "
            f"wrong {pair.wrong}; ratio {pair.measured_ratio:.2f}, predicted {pair.predicted_ratio:.2f}"
        )


if __name__ == "__main__":
    main()
