"""How well models, GPUs and engines are predicted that a fit has never seen, as of when the shipped fit was made.

Each is left out in turn and everything is fitted again, which takes minutes, so the errors ship:

    python -m advisor.validation.holdout --published DIR

writes them, with DIR the published benchmarks in long form; to be run again after every change of the shipped surrogate.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from advisor.calibration.surrogate import SHIPPED as SURROGATE
from advisor.validation.prediction_errors import ErrorSummary, summarised
from catalog.borders import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

SHIPPED = SURROGATE.with_name("left_out.json")
HOLDOUT_COMMAND = "advisor validate --published DIR"
"""Shows the same, and every check behind it."""
KEYS = ("split", "engine", "metric")


SPLITS = ("model left out", "GPU left out", "engine left out")
"""The nearest to what was measured first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldoutErrors:
    """Errors and coverage of what was left out of a fit."""

    date: str
    surrogate: str
    """Digest of the surrogate that was judged."""
    rows: tuple[ErrorSummary, ...]
    """By split and metric, of all engines together ("all") and of each."""

    def to_json(self) -> str:
        """Return the file that ships, a row a line."""
        rows = ",\n".join(json.dumps(row.to_dict(), allow_nan=False) for row in self.rows)
        return f'{{"date": "{self.date}", "surrogate": "{self.surrogate}", "rows": [\n{rows}\n]}}\n'

    @classmethod
    def from_json(cls, text: str) -> HoldoutErrors:
        """Return what ``to_json`` wrote."""
        body = json.loads(text)
        rows = tuple(ErrorSummary(group={key: row.pop(key) for key in KEYS}, **row) for row in body["rows"])
        return cls(date=body["date"], surrogate=body["surrogate"], rows=rows)


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
    parser.add_argument("--published", type=Path, required=True, help="folder of published benchmarks in long form")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--jobs", type=int, default=2)
    chosen = parser.parse_args(arguments)
    judged = validate(published=chosen.published, compare=False, jobs=chosen.jobs)
    checks = [check for check in judged.checks if check.split in SPLITS]
    every = [
        replace(row, group={"split": row.group["split"], "engine": "all", "metric": row.group["metric"]})
        for row in summarised(checks, ("split", "metric"))
    ]
    errors = HoldoutErrors(
        date=datetime.now(UTC).date().isoformat(), surrogate=digest(), rows=(*every, *summarised(checks, KEYS))
    )
    write_whole(chosen.out, errors.to_json())


if __name__ == "__main__":
    main()
