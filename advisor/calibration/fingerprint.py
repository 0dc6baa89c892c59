"""What a calibration stands on beside the GPU's name: the engine's version, the driver, the clocks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from catalog.schema import Measurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """Where runs were measured; "" and 0 where a run does not say it, which agrees with everything."""

    engine_version: str = ""
    """Major and minor: patch releases are taken for one."""
    driver: str = ""
    """The driver's branch: "580" of 580.159.04."""
    sm_mhz: int = 0
    """The clock that the GPU's cores may reach."""

    def differences(self, other: Platform) -> list[str]:
        """Say in what this one, the older, differs from the other, in words."""
        texts = []
        if self.engine_version and other.engine_version and self.engine_version != other.engine_version:
            texts.append(f"engine version {self.engine_version} and {other.engine_version}")
        if self.driver and other.driver and self.driver != other.driver:
            texts.append(f"driver {self.driver} and {other.driver}")
        if self.sm_mhz and other.sm_mhz and self.sm_mhz != other.sm_mhz:
            texts.append(f"GPU clock {self.sm_mhz} and {other.sm_mhz} MHz")
        return texts


@lru_cache(maxsize=1024)
def release(version: str) -> str:
    """Return major and minor of a version: "0.24" of "0.24.1+cu130"."""
    return ".".join(version.split("+", maxsplit=1)[0].split(".")[:2])


def platform_of(run: Measurement) -> Platform:
    """Return where one run was measured, from its version and its fingerprint."""
    try:
        body = json.loads(run.fingerprint) if run.fingerprint else {}
    except (ValueError, RecursionError):  # others' fingerprints may be any text
        body = {}
    body = body if isinstance(body, dict) else {}
    clock = body.get("sm_mhz")
    return Platform(
        engine_version=release(run.engine_version),
        driver=str(body.get("driver") or "").split(".", maxsplit=1)[0],
        sm_mhz=int(clock) if isinstance(clock, (int, float)) else 0,
    )


def platforms_of(runs: Iterable[Measurement]) -> tuple[Platform, ...]:
    """Return each once, in the order of the runs."""
    return tuple(dict.fromkeys(platform_of(run) for run in runs))


def disagreements(platforms: Iterable[Platform], *, engine: str, version: str = "") -> list[str]:
    """Return why a fit to runs from these platforms is less than its runs say, in words; empty where nothing is against it.

    ``version``: of the engine that is asked about.
    """
    known = list(platforms)
    texts = dict.fromkeys(
        text for i, one in enumerate(known) for other in known[i + 1 :] for text in one.differences(other)
    )
    differences = [f"own runs of {engine} differ in {text}" for text in texts]
    wanted = release(version)
    versions = {known_version.engine_version for known_version in known} - {""}
    if wanted and versions and not any(f"{known_version}.".startswith(f"{wanted}.") for known_version in versions):
        differences.append(f"own runs are of {engine} {', '.join(sorted(versions))}, and {wanted} is asked about")
    return differences
