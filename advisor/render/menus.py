"""What a user may choose from, for pages that offer it."""

from __future__ import annotations

from advisor.benchmarking.engines import ENGINES
from advisor.calibration.importing import SUFFIXES
from advisor.simulator.routers import POLICIES, ROUTERS
from advisor.validation.holdout import HOLDOUT_COMMAND, SPLITS
from catalog.speculation import METHODS

__all__ = [
    "DRAFT_METHODS",
    "HOLDOUT_COMMAND",
    "HOLDOUT_SPLITS",
    "IMPORTED_SUFFIXES",
    "POLICIES",
    "PROBED_ENGINES",
    "ROUTERS",
]

PROBED_ENGINES = ENGINES
"""Engines that are measured on a user's own GPUs."""

IMPORTED_SUFFIXES = SUFFIXES
"""Endings of files that hold benchmarks of other programs."""

HOLDOUT_SPLITS = SPLITS
"""What is left out of a fit in turn, the nearest to what was measured first."""

DRAFT_METHODS = METHODS
"""What drafts tokens, each without the model or checkpoint that it may name."""
