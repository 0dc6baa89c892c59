"""Which vLLM is installed, and whether it can be measured here."""

from __future__ import annotations

import re
import sys
from importlib import metadata

from catalog.errors import InputError

OLDEST = (0, 20)
"""Older ones name their workers' memory and their engine's arguments otherwise."""

KNOWN = ("0.24.0", "0.33.0")
"""Releases that have been measured with these programs."""


def installed_version() -> str | None:
    """Return the version of the package that workers, which this Python runs, will import; None if there is none."""
    try:
        return metadata.version("vllm")
    except metadata.PackageNotFoundError:
        return None


def check_version(version: str | None) -> str:
    """Say what is to be said about a version before it is tried; empty if it is known to work.

    Raises:
        InputError: there is none, or it is too old.

    """
    if version is None:
        raise InputError(
            f"vllm is not installed for {sys.executable}; install it there, or measure with --engine torch"
        )
    numbers = re.match(r"(\d+)\.(\d+)", version)
    oldest = ".".join(map(str, OLDEST))
    if numbers and tuple(map(int, numbers.groups())) < OLDEST:
        raise InputError(f"vllm {version} is too old to be measured here; install {oldest} or later")
    if version.partition("+")[0] in KNOWN:
        return ""
    return f"vllm {version} was never measured with these programs ({' and '.join(KNOWN)} were); it is tried"
