"""What platforms call the GPUs, from ``data/exports/accelerators.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from typing import TYPE_CHECKING

from catalog.tables import DATA

if TYPE_CHECKING:
    from collections.abc import Mapping

    from catalog.schema import Gpu


def accelerator(platform: str, gpu: Gpu) -> str | None:
    """Return the platform's name of a GPU; None where it has none."""
    return _names()[platform].get(gpu.name)


@cache
def _names() -> Mapping[str, Mapping[str, str]]:
    names: dict[str, dict[str, str]] = tomllib.loads(
        (DATA / "exports" / "accelerators.toml").read_text(encoding="utf-8")
    )
    return names
