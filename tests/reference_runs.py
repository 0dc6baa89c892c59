"""The shipped runs of the releases that the catalog describes, which tests of one release's behaviour take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from catalog.engines import release_distance
from catalog.runs import shipped_runs

if TYPE_CHECKING:
    from catalog.schema import Measurement


def reference_runs() -> tuple[Measurement, ...]:
    """Return them in the order in which they ship."""
    return tuple(run for run in shipped_runs() if not release_distance(run.engine, run.engine_version))
